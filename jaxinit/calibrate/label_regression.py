"""SCBI: a readout that regressions of the labels on random halves of the data average to."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxinit.calibrate.problem import (
    Batch,
    Calibrated,
    Params,
    Problem,
    check_count,
    checked,
    not_finite,
)
from jaxinit.spec import Leaf, named_key, sampling_dtype
from jaxinit.tasks.base import cross_entropy, squared_error

RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)  # penalties that cross-validation chooses from
SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)  # and sizes of the logits that stand for a class
# A share of the outputs beyond which a deviation from a linear readout is no rounding.
LINEAR = 0.05

Measure: TypeAlias = Callable[[Array, Array], Array]


def scbi(
    problem: Problem,
    params: Params,
    batches: Batch,
    *,
    subsets: int = 10,
    share: float = 0.5,
    folds: int = 5,
) -> Calibrated:
    """SCBI: the readout is the mean of ridge regressions of the labels on random subsets of the
    data.

    W = mean over subsets of (Hc' Hc + ridge I)^-1 Hc' Tc, b = mean of t - h W: H [rows, units] is
    what the readout multiplies, T [rows, outputs] its targets, each less its mean t, h over the
    subset (Hc, Tc). T is y, or for classes +scale at the label and -scale elsewhere. Ridge (0.01 to
    100 by tens) and scale (1 to 6) are those of the smallest loss over `folds` of cross-validation:
    cross-entropy, or the squared error.
    Shapes: `batches` is (x, y), `[count, batch, ...]`: all of it together calibrates, a row for
    each label. A subset has the `share` of the rows, drawn without replacement.
    Report: `ridge`; of classes `scale`; `loss_before` and `loss_after`, means over the batches.
    Factors: none, since this is no scaling of a draw: what the scheme drew for the readout is lost.
    Assumes a readout (role `readout`) in which the outputs are linear, and labels that are one
    class or as many numbers as outputs.
    Raises: ValueError for a model without, for other labels, for fewer rows than folds, for a share
    outside of (0, 1], and for what is not finite.
    Source: Ashraf (2026), code SCBI 3.0.0 (fares3010/SCBI, commit a04d1c6, 2026-03-08), `scbi.py`;
    there is no paper. Departures: the other kernels stay as they were drawn, where the code
    regresses each on its own products, which gives it back along all directions in which the data
    varies; rows are put together alike for every seed, whose batches differ.
    """
    check_count("scbi", "subsets", subsets)
    if not 0 < share <= 1:
        raise ValueError(f"scbi: share must be above 0 and at most 1, got {share:g}; try 0.5")
    x, y = batches
    readout = _readout(problem.leaves)
    inputs = _inputs(problem, params, readout, x)
    outputs = (*inputs.shape[:-1], params[readout.kernel].shape[-1])
    labels = _labels(y, outputs, inputs.dtype)
    inputs = inputs.reshape(-1, inputs.shape[-1])
    if len(inputs) < folds or folds < 2:
        raise ValueError(
            f"scbi: {folds} folds of cross-validation need 2 folds and as many labels, got "
            f"{len(inputs)} labels; give larger batches"
        )

    ridge, scale = _choice(inputs, labels, folds)
    size = max(1, int(len(inputs) * share))

    def on_subset(rows: Int[Array, " rows"]) -> Line:
        return regression(inputs[rows], scale * labels.targets[rows], ridge)

    lines = jax.lax.map(on_subset, random_rows(len(inputs), subsets)[:, :size])
    line = jax.tree.map(_mean, lines)

    solved = _with_readout(params, readout, line)
    losses = {
        "loss_before": _loss(problem, params, batches),
        "loss_after": _loss(problem, solved, batches),
    }
    report = {"ridge": ridge} | losses
    if len(labels.scales) > 1:
        report["scale"] = scale
    failures = not_finite("scbi", losses)
    expected = line(inputs) if readout.bias else inputs @ line.kernel
    deviation = jnp.abs(_outputs(problem, solved, x).reshape(expected.shape) - expected)
    failures[
        f"scbi: the outputs are not what {readout.kernel!r} and its bias make of its inputs, so "
        "that no regression gives them; calibrate a model whose readout comes last"
    ] = jnp.max(deviation) > LINEAR * jnp.max(jnp.abs(expected))
    return checked(Calibrated(solved, {}, report, failures))


class Line(NamedTuple):
    """h -> h kernel + bias."""

    kernel: Float[Array, "units outputs"]
    bias: Float[Array, " outputs"]

    def __call__(self, h: Float[Array, "rows units"]) -> Float[Array, "rows outputs"]:
        product = h @ self.kernel
        return product + jnp.broadcast_to(self.bias, product.shape)


def regression(
    inputs: Float[Array, "rows units"],
    targets: Float[Array, "rows outputs"],
    ridge: float | Float[Array, ""],
) -> Line:
    """The line of the smallest sum of squared errors + ridge |kernel|^2, whose bias costs nothing.

    Shapes: as annotated; dtypes: float32 or wider. Assumes a ridge that is positive.
    """
    mean_input, mean_target = jnp.mean(inputs, 0), jnp.mean(targets, 0)
    centred = inputs - jnp.broadcast_to(mean_input, inputs.shape)
    penalty = ridge * jnp.eye(inputs.shape[1], dtype=inputs.dtype)
    products = centred.T @ (targets - jnp.broadcast_to(mean_target, targets.shape))
    kernel = jax.scipy.linalg.solve(centred.T @ centred + penalty, products, assume_a="pos")
    return Line(kernel, mean_target - mean_input @ kernel)


def random_rows(rows: int, count: int) -> Int[Array, "count rows"]:
    """Orders of the rows, the same whenever asked: the data that stands in them is random."""

    def order(key: Array) -> Array:
        return jax.random.permutation(key, rows)

    return jax.vmap(order)(jax.random.split(named_key(jax.random.key(0), "scbi"), count))


class _Readout(NamedTuple):
    """Names of the kernel and, where there is one, of the bias."""

    kernel: str
    bias: str | None


def _readout(leaves: tuple[Leaf, ...]) -> _Readout:
    kernels = [leaf.name for leaf in leaves if leaf.role == "readout" and leaf.dims == "io"]
    if len(kernels) != 1:
        raise ValueError(
            f"scbi regresses labels on what one matrix of the role readout multiplies, got "
            f"{len(kernels)}; give the model one, or leave scbi out"
        )
    biases = [leaf.name for leaf in leaves if leaf.role == "bias" and leaf.partner == "readout"]
    return _Readout(kernels[0], biases[0] if biases else None)


def _inputs(
    problem: Problem, params: Params, readout: _Readout, x: Array
) -> Float[Array, "count batch *steps units"]:
    """What the readout multiplies, as the forward pass has it, multipliers on the kernel included.

    Outputs under a kernel of unit vectors, without a bias, are entries of that, whatever network is
    before it.
    """
    kernel = params[readout.kernel]
    units, outputs = kernel.shape
    kernels = -(-units // outputs)  # so many have a unit vector for every unit
    unit_vectors = jnp.eye(units, kernels * outputs, dtype=kernel.dtype)
    by_kernel = jnp.moveaxis(unit_vectors.reshape(units, kernels, outputs), 1, 0)
    without_bias = dict(params)
    if readout.bias is not None:
        without_bias[readout.bias] = jnp.zeros_like(params[readout.bias])

    def seen_by(kernel: Array) -> Array:
        return _outputs(problem, without_bias | {readout.kernel: kernel}, x)

    # Only the readout sees the mapped axis: the network before it runs once.
    seen = jnp.moveaxis(jax.vmap(seen_by)(by_kernel), 0, -2)
    return seen.reshape(*seen.shape[:-2], kernels * outputs)[..., :units]


def _outputs(problem: Problem, params: Params, x: Array) -> Array:
    def of_batch(examples: Array) -> Array:
        outputs = problem.apply(params, examples)
        return outputs.astype(sampling_dtype(outputs.dtype))

    return jax.lax.map(of_batch, x)


class _Labels(NamedTuple):
    """The targets of a regression at a scale of 1, the scales to choose from, and the loss that
    chooses, of predictions and y."""

    targets: Float[Array, "rows outputs"]
    scales: tuple[float, ...]
    y: Array
    loss: Measure


def _labels(y: Array, outputs: tuple[int, ...], dtype: DTypeLike) -> _Labels:
    classes = outputs[-1]
    if jnp.issubdtype(y.dtype, jnp.integer) and y.shape == outputs[:-1] and classes > 1:
        y = y.reshape(-1)
        signs = 2 * jax.nn.one_hot(y, classes, dtype=dtype) - 1
        return _Labels(signs, SCALES, y, cross_entropy)
    if jnp.issubdtype(y.dtype, jnp.floating) and y.size == math.prod(outputs):
        targets = y.reshape(-1, classes).astype(dtype)
        return _Labels(targets, (1.0,), targets, squared_error)
    raise ValueError(
        f"scbi regresses on one class, or as many numbers as there are outputs, got y "
        f"{list(y.shape)} of {y.dtype} for outputs {list(outputs)}; leave scbi out"
    )


def _choice(
    inputs: Float[Array, "rows units"], labels: _Labels, folds: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The ridge and the scale of the smallest loss on the folds that a regression leaves out."""
    order = random_rows(len(inputs), 1)[0]
    ridges = jnp.asarray(RIDGES, inputs.dtype)
    scales = jnp.asarray(labels.scales, inputs.dtype)
    fold = len(inputs) // folds
    losses = jnp.zeros((len(ridges), len(scales)), inputs.dtype)
    for k in range(folds):
        end = (k + 1) * fold if k < folds - 1 else len(inputs)
        kept = jnp.concatenate([order[: k * fold], order[end:]])
        left_out = order[k * fold : end]
        losses += _losses(inputs, labels, kept, left_out, ridges, scales)
    # What is not finite was singular to rounding, and loses.
    smallest = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
    return ridges[smallest // len(scales)], scales[smallest % len(scales)]


def _losses(
    inputs: Float[Array, "rows units"],
    labels: _Labels,
    kept: Int[Array, " kept"],
    left_out: Int[Array, " rest"],
    ridges: Float[Array, " ridges"],
    scales: Float[Array, " scales"],
) -> Float[Array, "ridges scales"]:
    """What regressions of the rows `kept` cost on those `left_out`, at every ridge and scale."""

    def of_ridge(ridge: Array) -> Array:
        line = regression(inputs[kept], labels.targets[kept], ridge)
        predicted = line(inputs[left_out])

        def of_scale(scale: Array) -> Array:
            # Targets `scale` times as large have a line `scale` times as steep.
            return labels.loss(scale * predicted, labels.y[left_out])

        return jax.vmap(of_scale)(scales)

    # One by one: batched decompositions may wait for each other for ever (docs/decisions).
    return jax.lax.map(of_ridge, ridges)


def _with_readout(params: Params, readout: _Readout, line: Line) -> Params:
    """The parameters with a line as their readout, in their dtypes."""
    solved = dict(params)
    solved[readout.kernel] = line.kernel.astype(params[readout.kernel].dtype)
    if readout.bias is not None:
        solved[readout.bias] = line.bias.astype(params[readout.bias].dtype)
    return solved


def _loss(problem: Problem, params: Params, batches: Batch) -> Float[Array, ""]:
    """The mean over the batches of the loss that will be trained on."""

    def of_batch(batch: Batch) -> Array:
        return problem.loss_of(params, batch)

    return jnp.mean(jax.lax.map(of_batch, batches))


def _mean(of_subsets: Float[Array, "subsets *shape"]) -> Float[Array, "*shape"]:
    return jnp.mean(of_subsets, 0)
