"""Starting from a trained model: adapters, new heads, new tokens, and what they do to it before the first step.

    values of a trained model -> a start: LoRA around it, `pretrained` with a new head, extended tables -> step-0 report

A start from a checkpoint is a `Scheme` like any other (`pretrained`), so that a study compares it at its own best rate.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key
from rich.console import Console
from rich.progress import track

from jaxinit import introspect, train
from jaxinit.cell import Cell, check, draw_starts
from jaxinit.engine import queue
from jaxinit.initializers import normal, variance_scaling, zeros
from jaxinit.introspect import Frozen, Params, name_of, param
from jaxinit.spec import (
    Initializer,
    Joint,
    Leaf,
    Rule,
    Scheme,
    axis_size,
    canonical_order,
    matches,
    named_key,
    rules,
    unmatched,
)
from jaxinit.study import BadStudy, Study

NewRows = Literal["zero", "normal", "mean", "mean_cov"]


def lora_kaiming(leaf: Leaf) -> Initializer | None:
    """Init[A] as LoRA's code has it: A ~ U(+-1/sqrt(fan_in)), variance 1/(3 fan_in), and B = 0.

    A table's A counts a fan_in of 1, since its input is one-hot. Source: Hu et al. (2021), section 4.1, and their code.
    """
    if leaf.role == "lora_a":
        return variance_scaling(1 / 3, "fan_in", "uniform") if leaf.kind != "embedding" else normal(3**-0.5)
    return zeros if leaf.role == "lora_b" else None


def lora_gaussian(leaf: Leaf) -> Initializer | None:
    """Init[A] as LoRA's text has it: A ~ N(0, 1/rank^2), which is how libraries read "a random Gaussian"; B = 0."""
    if leaf.role == "lora_a":
        return normal(1 / leaf.fan_out)
    return zeros if leaf.role == "lora_b" else None


def lora_init_b(leaf: Leaf) -> Initializer | None:
    """Init[B]: A = 0 and B ~ U(+-1/sqrt(rank)), variance 1/(3 rank). Source: Hayou et al. (2024), section 3."""
    if leaf.role == "lora_b":
        return variance_scaling(1 / 3, "fan_in", "uniform")
    return zeros if leaf.role == "lora_a" else None


class LoRA(nnx.Module):
    """Low-rank adapters around a frozen module: a linear layer, an embedding, or a whole model.

    The module computes with W + s A B in place of every adapted kernel W, s = alpha / rank, or alpha / sqrt(rank) with
    `rank_stabilized`. W and all else that the base holds is `Frozen`: training sees A and B only, and statistics and
    noise of the base stand still.

    Shapes: A `[inputs, rank]`, B `[rank, outputs]`, float32; all axes of inputs are flattened, and so are those of
    outputs, where heads and gates count as outputs: one A serves them all.
    Roles: `lora_a`, `lora_b`; their `kind` is embedding for a table.
    Arguments: `adapt`, patterns for names or roles of kernels (default: every kernel); `alpha` (default: `rank`);
    `init`, a scheme for the two roles. Flax's own layers are understood as they are, other modules declare their
    parameters (`introspect.param`).
    Raises: ValueError for a pattern that matches no kernel, or a rank above the smaller side of an adapted kernel.
    Source: Hu et al. (2021), eq. 3; Kalajdzievski (2023) for rank stabilization. Departure: A and B meet in the weights
    and not in the activations, x (W + s A B) for x W + s (x A) B, so that one mechanism serves every kind of layer.
    """

    def __init__(
        self,
        base: nnx.Module,
        rank: int,
        *,
        adapt: Sequence[str] = ("*",),
        alpha: float | None = None,
        rank_stabilized: bool = False,
        init: Scheme = lora_kaiming,
        rngs: nnx.Rngs,
    ):
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"the rank of an adapter must be a positive integer, got {rank!r}")
        base = nnx.clone(base)
        introspect.declare(base).eval()  # its statistics and noise stand still
        kernels = [leaf for leaf in introspect.leaves(base) if leaf.is_kernel]
        adapted = [leaf for leaf in kernels if any(matches(pattern, leaf) for pattern in adapt)]
        idle = [pattern for pattern in adapt if not any(matches(pattern, leaf) for leaf in kernels)]
        if idle or not adapted:
            there = ", ".join(f"{leaf.name} ({leaf.role})" for leaf in kernels)
            raise ValueError(f"LoRA: {idle or 'nothing'} matches no kernel to adapt; the kernels are {there or 'none'}")
        sides = {leaf.name: _sides(leaf) for leaf in adapted}
        for name, of in sides.items():
            if rank > min(of):
                raise ValueError(
                    f"LoRA: a rank of {rank} is above the smaller side of {name!r}, which is {of[0]} x {of[1]}; choose "
                    "a smaller rank, or leave it out of `adapt`"
                )
        self.scale = (rank if alpha is None else alpha) / (math.sqrt(rank) if rank_stabilized else rank)
        self.dims = tuple((leaf.name, leaf.dims) for leaf in adapted)  # no dictionary, so that its graph has a hash
        place = lambda leaf: introspect.Place(
            layer=leaf.layer,
            n_layers=leaf.n_layers,
            width=leaf.width,
            kind="embedding" if leaf.role in ("embedding", "position") else "",
        )
        self.lora_a = nnx.Dict(
            {leaf.name: param((sides[leaf.name][0], rank), "io", "lora_a", **place(leaf)) for leaf in adapted}
        )
        self.lora_b = nnx.Dict(
            {leaf.name: param((rank, sides[leaf.name][1]), "io", "lora_b", **place(leaf)) for leaf in adapted}
        )
        graph, state = nnx.split(base)
        flat = nnx.to_flat_state(state)
        self.base = nnx.Dict({name_of(path): Frozen(_value(of)) for path, of in flat})
        self.graph = graph
        # What each value is in the base: its place, its type, and what it says of itself.
        self.kinds = tuple((path, *_kind(of)) for path, of in flat)
        introspect.fill(self, init, rngs.params())

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.merged()(*inputs, **options)

    def merged(self) -> Any:
        """The base with W + s A B as its kernels: an ordinary module, as fast as the base."""
        return self._with(lambda leaf, w: w + self._delta(leaf, w.shape))

    def unmerged(self, merged: nnx.Module) -> Any:
        """The base again from a merged module, which may have been trained on: its kernels less s A B."""
        values = introspect.values(merged)
        return self._with(lambda leaf, w: values[leaf] - self._delta(leaf, w.shape))

    def _with(self, adapt: Callable[[str, Array], Array]) -> Any:
        """The base, with what `adapt` makes of every adapted kernel."""
        flat, adapted = [], dict(self.dims)
        for path, kind, meta in self.kinds:
            name = name_of(path)
            value = self.base[name][...]
            if kind is None:
                flat.append((path, value))
                continue
            variable = kind(value, **dict(meta))
            if isinstance(variable, nnx.Param):
                pieces = introspect.cut(name, variable, value)
                pieces = {leaf: adapt(leaf, w) if leaf in adapted else w for leaf, w in pieces.items()}
                variable = variable.replace(introspect.joined(name, variable, pieces))
            flat.append((path, variable))
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def _delta(self, name: str, shape: tuple[int, ...]) -> Array:
        """s A B, in the layout of the kernel."""
        dims = dict(self.dims)[name]
        order = [axis for letters in ("iw", "o.") for axis, letter in enumerate(dims) if letter in letters]
        product = self.scale * (self.lora_a[name][...] @ self.lora_b[name][...])
        back = sorted(range(len(order)), key=order.__getitem__)
        return product.reshape([shape[axis] for axis in order]).transpose(back)


def _value(variable: Any) -> Any:
    return variable.get_value() if isinstance(variable, nnx.Variable) else variable


def _kind(variable: Any) -> tuple[type | None, tuple[tuple[str, Any], ...]]:
    """The type and the metadata of a variable; None and nothing for a plain array."""
    if not isinstance(variable, nnx.Variable):
        return None, ()
    return type(variable), tuple(variable.get_metadata().items())


def pretrained(values: Mapping[str, Array], new: Scheme, *, frozen: bool = False) -> Scheme:
    """A start from a trained model: the values it has by name, and `new` for every parameter it has not.

    For another head leave its kernel and bias out of `values`. With `frozen`, what is trained already stands still
    (rates and decay times 0): a linear probe, if the head is all that is new.
    Raises, when drawn: ValueError for a value of another shape than the parameter's, or that no parameter is named as,
    and for rules of `new` that match nothing in the whole model.
    """

    def of(leaf: Leaf) -> Rule | Initializer | None:
        if leaf.name not in values:
            return new(leaf)
        value = jnp.asarray(values[leaf.name])
        if value.shape != leaf.shape:
            raise ValueError(
                f"the trained value of {leaf.name!r} has shape {value.shape}, the parameter {leaf.shape}; leave it out "
                "to draw it anew, or extend it (extend_vocabulary)"
            )
        order = canonical_order(leaf.dims)

        def stored(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
            return value.transpose(order).reshape(shape).astype(dtype)

        draw = Joint(stored)
        return Rule(draw, lr_scale=0.0, wd_scale=0.0) if frozen else Rule(draw)

    scheme: Any = of
    scheme.__name__, scheme.__doc__ = "pretrained", pretrained.__doc__
    strangers = lambda leaves: sorted(set(values) - {leaf.name for leaf in leaves})
    scheme.unmatched = lambda leaves: [*strangers(leaves), *unmatched(new, leaves)]
    return scheme


def extend_rows(
    rows: Float[Array, "v d"],
    n: int,
    how: NewRows,
    key: Key[Array, ""],
    *,
    std: float = 0.02,
    share: float = 1e-5,
    used: int | None = None,
) -> Float[Array, "w d"]:
    """A table with `n` new rows after its `used` first ones.

    zero; normal: N(0, std^2); mean: the mean m of the used rows; mean_cov: N(m, share * their covariance).
    `used` (default: all) is the number of rows that stand for tokens: tables are padded to round sizes, and rows of
    padding are taken first, so that the table grows by less than `n` or not at all.
    Raises: ValueError for n below 1, an unknown `how`, or more used rows than there are.
    Source: Hewitt (2021) for the mean and for `share`, which his code sets to 1e-5.
    """
    used = rows.shape[0] if used is None else used
    if n < 1:
        raise ValueError(f"a vocabulary is extended by 1 row or more, got {n}")
    if not 1 <= used <= rows.shape[0]:
        raise ValueError(f"used rows must be 1 to {rows.shape[0]}, the rows of the table; got {used}")
    old = rows[:used]
    mean = jnp.broadcast_to(old.mean(0, keepdims=True), (n, rows.shape[1]))
    if how == "zero":
        fresh = jnp.zeros_like(mean)
    elif how == "normal":
        fresh = std * jax.random.normal(key, mean.shape)
    elif how == "mean":
        fresh = mean
    elif how == "mean_cov":
        mixed = jax.random.normal(key, (n, used)) @ (old - old.mean(0, keepdims=True))  # has the rows' covariance
        fresh = mean + mixed * math.sqrt(share / used)
    else:
        raise ValueError(f"new rows are zero, normal, mean or mean_cov, got {how!r}")
    return jnp.concatenate([old, fresh, rows[used + n :]])


def extend_vocabulary(
    values: Mapping[str, Array],
    leaves: Sequence[Leaf],
    n: int,
    how: NewRows,
    key: Key[Array, ""],
    *,
    std: float = 0.02,
    share: float = 1e-5,
    used: int | None = None,
) -> dict[str, Array]:
    """The values of a language model with `n` new tokens, in its input table and in its output table with its bias.

    Arguments as `extend_rows`, whose row is a token: a row of an `embedding`, a column of a `readout` kernel together
    with its entry of the bias (0 for zero and normal). A model without a readout ties the two. New rows by the mean
    give each new token the mean of the old logits, so that KL(before || after) <= log(1 + n / V), whatever the context,
    by Jensen's inequality.
    Raises: ValueError as `extend_rows`, and for a model without an embedding.
    Source: Hewitt (2021), Initializing new word embeddings for pretrained language models.
    """
    found = dict(values)
    tables = [leaf for leaf in leaves if leaf.role == "embedding"]
    if not tables:
        raise ValueError("extend_vocabulary: no parameter has the role embedding; this is no model on tokens")
    extend = lambda name, rows: extend_rows(rows, n, how, named_key(key, name), std=std, share=share, used=used)
    for leaf in tables:
        found[leaf.name] = extend(leaf.name, values[leaf.name])
    for leaf in leaves:
        if leaf.role != "readout":
            continue
        rows, bias = values[leaf.name].T, leaf.name.removesuffix("kernel") + "bias"
        joined = jnp.concatenate([rows, values[bias][:, None]], 1) if bias in values else rows
        joined = extend(leaf.name, joined)
        found[leaf.name] = joined[:, : rows.shape[1]].T
        if bias in values:
            first = rows.shape[0] if used is None else used
            found[bias] = joined[:, -1] if how != "normal" else joined[:, -1].at[first : first + n].set(0.0)
    return found


class StepZero(NamedTuple):
    """What a start does to a trained model before the first step.

    `shift`: the largest change of an output that both have, over the standard deviation of the outputs before; `kl`:
    the mean of KL(before || after) in nats, of softmax over all classes of each; `gradient`: the norm of the loss's
    gradient in every new part, 0 where a part cannot learn.
    """

    shift: float
    kl: float
    gradient: dict[str, float]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {norm:.3g}" for name, norm in self.gradient.items())
        return f"shift {self.shift:.2g} of the outputs' spread, KL {self.kl:.3g} nats; gradient norms: {parts}"


def step_zero(
    before: Float[Array, "*batch c"],
    after: Callable[[Params, Array], Array],
    params: Params,
    batch: tuple[Array, Array],
    loss: Callable[[Array, Array], Array],
    new: Sequence[str],
    rows: slice | None = None,
) -> StepZero:
    """The report on a start: `before` the outputs of the trained model, `after(params, x)` those of the new one.

    `new` are patterns for the names of the new parts; `rows` takes those rows of their gradients (of a table) alone.
    Units: see `StepZero`. Assumes that classes which both have come first.
    Raises: ValueError for a pattern that matches no parameter.
    """
    x, y = batch
    leaves = [Leaf(name, w.shape, "o" * w.ndim, "") for name, w in params.items()]
    for pattern in new:
        if not any(matches(pattern, leaf) for leaf in leaves):
            raise ValueError(f"step_zero: {pattern!r} matches no parameter; they are {', '.join(params)}")
    outputs, slopes = _outputs_and_slopes(after, loss, params, x, y)
    both = min(before.shape[-1], outputs.shape[-1])
    shift = jnp.max(jnp.abs(outputs[..., :both] - before[..., :both])) / jnp.std(before)
    kl = divergence(before, outputs)
    parts = [leaf.name for leaf in leaves if any(matches(pattern, leaf) for pattern in new)]
    norms = {name: float(jnp.linalg.norm(slopes[name] if rows is None else slopes[name][rows])) for name in parts}
    return StepZero(float(shift), float(kl), norms)


@partial(jax.jit, static_argnums=(0, 1))
def _outputs_and_slopes(after: Any, loss: Any, params: Params, x: Array, y: Array) -> tuple[Array, Params]:
    """The outputs of a start and the gradient of the loss; one compilation for all starts of a model."""
    return after(params, x), jax.grad(lambda p: loss(after(p, x), y))(params)


def divergence(before: Float[Array, "*batch c"], after: Float[Array, "*batch k"]) -> Float[Array, ""]:
    """KL(before || after) of the softmax over all classes of each, in nats, mean over the batch.

    Assumes that the classes that both have come first, and that `before` has no others.
    """
    p, q = jax.nn.log_softmax(before), jax.nn.log_softmax(after)
    both = min(before.shape[-1], after.shape[-1])
    return jnp.mean(jnp.sum(jnp.exp(p[..., :both]) * (p[..., :both] - q[..., :both]), -1))


class Trained(NamedTuple):
    """A model trained here: its cell, the values of its parameters, and the validation metric that they reach."""

    cell: Cell
    values: Params
    metric: float


def pretrain(
    study: Study,
    *,
    schemes: Mapping[str, Scheme] | None = None,
    tasks: Mapping[str, Callable[..., Any]] | None = None,
    models: Mapping[str, Callable[..., nnx.Module]] | None = None,
    progress: bool = True,
) -> Trained:
    """Train one model: the first scheme of a study, at the first rate of its grid, on its first reporting seed.

    It trains for all its epochs, whatever the target.
    Raises: BadStudy as `cell.check`, for a scheme with forward multipliers (values alone cannot carry them), and for a
    run that diverges.
    """
    study = replace(study, lrs=study.lrs[:1], schemes=study.schemes[:1], baseline=study.schemes[0])
    cell = check(study, schemes, tasks, models)
    scheme = cell.study.schemes[0]
    if any(rule.multiplier != 1 for rule in rules(cell.schemes[scheme], cell.model.leaves).values()):
        raise BadStudy(f"{scheme} multiplies parameters in the forward pass, which values alone cannot carry on")
    program = train.make_program(
        cell.model, cell.task, study.optimizer, batch=study.batch, evaluations=study.evaluations, epochs=1
    )
    points = [(scheme, cell.study.lrs[0], cell.study.reporting[0])]
    params, trials = queue(cell, draw_starts(cell), points, program.evaluations_per_epoch)
    trial = jax.tree.map(lambda a: a[0], trials)._replace(target=jnp.inf if cell.task.higher_is_better else -jnp.inf)
    state = program.start(jax.tree.map(jnp.asarray, params[0]))
    advance, metric = jax.jit(program.advance), math.nan
    for _ in track(range(study.epochs), "pre-training", console=Console(file=sys.stderr), disable=not progress):
        state, records = advance(cell.task.data, state, trial)
        metric = float(records.metric[-1])
    if not math.isfinite(metric):
        raise BadStudy(f"pre-training diverged at a rate of {cell.study.lrs[0]:g}; choose a lower one")
    return Trained(cell, state.params, metric)


def _sides(leaf: Leaf) -> tuple[int, int]:
    """Inputs and outputs of a kernel as one matrix: copies count as outputs."""
    return axis_size(leaf.shape, leaf.dims, "iw"), axis_size(leaf.shape, leaf.dims, "o.")
