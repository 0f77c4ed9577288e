"""What a model does on a batch before it is trained: its loss against chance, whether examples
depend on each other, which parameters no gradient reaches, what signals do through depth and time.

    module, (x, y), loss -> findings
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxinit import introspect
from jaxinit.analysis.health import judge, remedies
from jaxinit.auditing.findings import Finding
from jaxinit.introspect.parameters import variables_of
from jaxinit.signals.probes import probe
from jaxinit.study import BadStudy
from jaxinit.tasks.arrays import LOSSES, loss_named
from jaxinit.tasks.losses import caller_error

Loss = Callable[[Any, Any], jax.Array]

ADAM = 1e-3  # the rate whose first step is compared with the weights
ABOVE_CHANCE = 1.5  # times the loss of chance, at the start
APART = 1e-3  # of the size of the outputs: what rounding may make of another batch
PERTURBED = 1e-2  # standard deviation of what is added to zeros, to see past gates at 0


def behaviour(model: nnx.Module, batch: tuple[Any, Any], loss: str | Loss | None) -> list[Finding]:
    """The findings of a model on a batch. The model itself is not changed.

    `loss` is cross_entropy, squared_error or a function of (outputs, y); by default cross_entropy
    where y has whole numbers.
    Raises: BadStudy for a batch that the model or the loss fails on.
    """
    cost = _loss(loss, batch[1])
    x, y = (jnp.asarray(values) for values in batch)
    outputs = _called(model, x)
    if cost is LOSSES["cross_entropy"]:
        _check_labels(outputs, y)
    try:
        value = float(cost(outputs, y))
    except Exception as error:
        shape = getattr(outputs, "shape", type(outputs).__name__)
        raise BadStudy(
            f"the loss failed on outputs {shape} and y {np.shape(y)}: {caller_error(error)}"
        ) from error
    found = [*_of_loss(value, outputs, y, cost), *_of_batch(model, x, outputs)]
    found += _of_gradients(model, x, y, cost)
    found += _of_signals(model, x, y, cost)
    return found


def _loss(loss: str | Loss | None, y: Any) -> Loss:
    if callable(loss):
        return loss
    if loss is None:
        of_classes = np.issubdtype(np.asarray(y).dtype, np.integer)
        loss = "cross_entropy" if of_classes else "squared_error"
    try:
        return loss_named(loss)
    except ValueError as error:
        raise BadStudy(str(error)) from error


def _check_labels(outputs: Any, y: Any) -> None:
    """Raises: BadStudy for labels that are not among the outputs."""
    classes = outputs.shape[-1]
    if y.size and not (int(y.min()) >= 0 and int(y.max()) < classes):
        raise BadStudy(
            f"labels are {int(y.min())} to {int(y.max())} and the model has {classes} outputs; "
            f"labels are 0 to {classes - 1}"
        )


def _called(model: nnx.Module, x: Any) -> Any:
    """The outputs of a copy of a model: running statistics and random streams stay as they are."""
    try:
        outputs: Any = nnx.clone(model)(x)  # pyright: ignore[reportCallIssue]
    except Exception as error:
        raise BadStudy(
            f"{type(model).__name__} failed on a batch {np.shape(x)}: {caller_error(error)}"
        ) from error
    return outputs


def _of_loss(value: float, outputs: Any, y: Any, cost: Loss) -> Iterator[Finding]:
    if not math.isfinite(value):
        yield Finding(
            "serious",
            "the loss is not finite",
            "",
            f"{value} on the batch, before any step",
            "a kernel or an input that is too large",
            "jaxinit.probe names the first place that is not finite",
        )
        return
    if cost is not LOSSES["cross_entropy"]:
        yield _measured("loss at the start", f"{value:.4g}")
        return
    classes = outputs.shape[-1]
    chance = math.log(classes)
    if value > ABOVE_CHANCE * chance:
        yield Finding(
            "warning",
            "the loss at the start is above chance",
            "",
            f"{value:.3g} where {classes} classes have ln {classes} = {chance:.3g}",
            "a readout that is too large, so that the first guesses are sure and wrong",
            "a smaller or zero readout; the first steps only unlearn it",
        )
    else:
        yield _measured(
            "loss at the start", f"{value:.3g}; guessing has ln {classes} = {chance:.3g}"
        )


def _measured(what: str, evidence: str) -> Finding:
    return Finding("note", what, "", evidence, "", "")


def _of_batch(model: nnx.Module, x: Any, outputs: Any) -> Iterator[Finding]:
    """Whether an example's outputs depend on those beside it."""
    count = len(x)
    few = max(1, count // 8)
    if count < 4 or not hasattr(outputs, "shape") or outputs.shape[:1] != (count,):
        return
    alone = _called(model, x[:few])
    size = float(jnp.abs(outputs).max()) or 1.0
    off = float(jnp.abs(alone - outputs[:few]).max())
    if off <= APART * size:
        return
    normalized = [m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.BatchNorm)]
    noisy = [m for _, m in nnx.iter_modules(model) if isinstance(m, nnx.Dropout)]
    by_mode = bool(normalized or noisy)
    kinds = " and ".join(
        name for name, its in (("BatchNorm", normalized), ("Dropout", noisy)) if its
    )
    yield Finding(
        "warning" if by_mode else "serious",
        "examples depend on each other",
        "",
        f"outputs of {few} examples alone and among {count} are {off:.3g} apart, of {size:.3g}",
        f"{kinds} in training mode, where batches or noise count"
        if by_mode
        else "an axis of the batch that is summed or normalized over",
        "model.eval() before it is evaluated, model.train() before it is trained"
        if by_mode
        else "check the axes of reductions and reshapes in the model",
    )


def _of_gradients(model: nnx.Module, x: Any, y: Any, cost: Loss) -> Iterator[Finding]:
    """Parameters that no gradient reaches, and how large a first step is beside its weights."""
    graph, params, rest = nnx.split(nnx.clone(model), nnx.Param, ...)

    def value(params: Any, rest: Any) -> jax.Array:
        # A clone, since what is merged may not change in here, as running statistics do.
        outputs: Any = nnx.clone(nnx.merge(graph, params, rest))(x)
        return cost(outputs, y)

    # Past a gate, a readout or a LoRA's B at 0 nothing comes back before the first step.
    shaken = jax.tree.map(_shaken, params)
    grads = jax.jit(jax.grad(value))(shaken, rest)
    by_name = {name: variable.get_value() for name, variable in _by_name(grads).items()}
    weights = {name: variable.get_value() for name, variable in variables_of(model).items()}
    cut_off = [name for name, grad in by_name.items() if not np.asarray(grad).any()]
    for name in cut_off:
        yield Finding(
            "warning",
            "no gradient reaches it",
            name,
            "its gradient is 0 on the batch, with gates and zeros moved away from 0",
            "a branch that is not used, a stop_gradient, or units that are all dead",
            "use it, or make it another kind of variable than nnx.Param",
        )
    worst, ratio = "", 0.0
    for name, weight in weights.items():
        size = float(np.sqrt(np.mean(np.asarray(weight, np.float32) ** 2)))
        if size and name not in cut_off and np.ndim(weight) > 1 and ADAM / size > ratio:
            worst, ratio = name, ADAM / size
    if worst:
        yield Finding(
            "note",
            "largest first step",
            worst,
            f"Adam's first step at {ADAM:g} moves each entry by {ratio:.2g} of the weights' size",
            "",
            "",
        )


def _by_name(state: Any) -> dict[str, Any]:
    return {introspect.name_of(path): variable for path, variable in nnx.to_flat_state(state)}


def _shaken(value: jax.Array) -> jax.Array:
    """Values with small numbers in the place of zeros, where there are no others."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    noise = PERTURBED * jax.random.normal(jax.random.key(0), value.shape)
    return jnp.where(jnp.any(value != 0), value, noise.astype(value.dtype))


def _of_signals(model: nnx.Module, x: Any, y: Any, cost: Loss) -> Iterator[Finding]:
    """The verdicts on signals through depth and time."""
    undeclared = [
        name
        for name, variable in variables_of(model).items()
        if "dims" not in variable.get_metadata()
    ]
    if undeclared:
        yield Finding(
            "note",
            "signals are not looked at",
            undeclared[0],
            f"{len(undeclared)} parameters have axes that are not known",
            "a probe needs to know which parameters are kernels",
            "audit with dims= and roles= of these",
        )
        return
    with warnings.catch_warnings(record=True) as unseen:
        warnings.simplefilter("always")
        try:
            verdicts = judge(probe(model, (x, y), cost))
        except ValueError as error:
            yield Finding(
                "note", "signals are not looked at", "", str(error).split("\n")[0], "", ""
            )
            return
    for warning in unseen:
        if "is seen" in str(warning.message):
            yield _measured("signals left out", str(warning.message))
    for verdict in verdicts:
        if verdict.kind == "healthy":
            yield _measured("signals", str(verdict))
        else:
            yield Finding(
                "serious" if verdict.kind == "not finite" else "warning",
                f"signals: {verdict.kind}",
                verdict.where,
                str(verdict),
                "the size of the kernels does not fit their activations",
                remedies(verdict.kind, verdict.along),
            )
