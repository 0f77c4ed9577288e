"""Starting from a trained model: adapters, new heads, new tokens, and what they do to it before the first step.

    values of a trained model -> a start: LoRA around it, `pretrained` with a new head, extended tables -> step-0 report

A start from a checkpoint is a `Scheme` like any other (`pretrained`), so that a study compares it at its own best rate.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from jaxinit import introspect
from jaxinit.engine import training
from jaxinit.engine.campaign import queue
from jaxinit.engine.resolve import Cell, check, draw_starts
from jaxinit.initializers.basic import normal, variance_scaling, zeros
from jaxinit.introspect import Frozen, Params, name_of, param
from jaxinit.spec import (
    Initializer,
    Joint,
    Leaf,
    Rule,
    Scheme,
    as_scheme,
    axis_size,
    canonical_order,
    matches,
    named_key,
    rules,
    sampling_dtype,
    unmatched,
)
from jaxinit.study import BadStudy, Study

NewRows = Literal["zero", "normal", "mean", "mean_cov"]

LORA_ROLES = ("lora_a", "lora_b")
# Roles of kernels inside a model, whatever their sizes: none of their axes is one of tokens.
INNER = {"input", "recurrent", "position", "query", "key", "value", "attention_out", "ffn_in", "ffn_out", *LORA_ROLES}


def lora_kaiming(leaf: Leaf) -> Initializer | None:
    """Init[A] as LoRA's code has it: A ~ U(+-1/sqrt(fan_in)), variance 1/(3 fan_in), and B = 0.

    Of a table A = 0 and B ~ N(0, 1): A is on the side of the vocabulary, where the input picks rows.
    Source: Hu et al. (2021), section 4.1, and their code, layers `Linear` and `Embedding`, as PEFT has them too.
    """
    if leaf.role in LORA_ROLES and leaf.kind == "embedding":
        return zeros if leaf.role == "lora_a" else normal(1.0)
    if leaf.role == "lora_a":
        return variance_scaling(1 / 3, "fan_in", "uniform")
    return zeros if leaf.role == "lora_b" else None


def lora_gaussian(leaf: Leaf) -> Initializer | None:
    """Init[A] as LoRA's text has it: A ~ N(0, 1/rank^2), which is how libraries read "a random Gaussian"; B = 0.

    Of a table as `lora_kaiming`.
    """
    if leaf.role == "lora_a" and leaf.kind != "embedding":
        return normal(1 / leaf.fan_out)
    return lora_kaiming(leaf)


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
    outputs, where heads and gates count as outputs: one A serves them all. The sum is made in float32 or wider and
    rounded once to the dtype of W, so that where A B = 0 no bit of W changes.
    Roles: `lora_a`, `lora_b`; their `kind` is embedding for a table.
    Arguments: `adapt`, patterns for names or roles of kernels (default: every kernel); `alpha` (default: `rank`);
    `init`, a scheme for the two roles. Flax's own layers are understood as they are, other modules declare their
    parameters (`introspect.param`).
    Raises: ValueError for a pattern that matches no kernel, a rank above the smaller side of an adapted kernel, or a
    kernel of whole numbers.
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
        whole = {
            name: w.dtype for name, w in introspect.values(base).items() if not jnp.issubdtype(w.dtype, jnp.inexact)
        }
        for leaf in adapted:
            if leaf.name in whole:
                raise ValueError(
                    f"LoRA: {leaf.name!r} has dtype {whole[leaf.name]}, to which no small step can be added; convert "
                    "it to a float, or leave it out of `adapt`"
                )
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
        return self._with(lambda leaf, w: self._moved(leaf, w, 1))

    def unmerged(self, merged: nnx.Module) -> Any:
        """The base again from a merged module, which may have been trained on: its kernels less s A B."""
        values = introspect.values(merged)
        return self._with(lambda leaf, w: self._moved(leaf, values[leaf], -1))

    def _moved(self, name: str, w: Array, sign: int) -> Array:
        """An adapted kernel plus or minus s A B, in its own dtype."""
        delta = sign * self._delta(name, w.shape)
        wide = sampling_dtype(w.dtype)
        return (w.astype(wide) + delta.astype(wide)).astype(w.dtype)

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


def pretrained(values: Mapping[str, Array], new: Scheme | Initializer, *, frozen: bool = False) -> Scheme:
    """A start from a trained model: the values it has by name, and `new` for every parameter it has not.

    For another head leave its kernel and bias out of `values`. With `frozen`, what is trained already stands still
    (rates and decay times 0): a linear probe, if the head is all that is new.
    Raises, when drawn: ValueError for a value of another shape than the parameter's, or that no parameter is named as,
    and for rules of `new` that match nothing in the whole model.
    """

    def of(leaf: Leaf) -> Rule | Initializer | None:
        if leaf.name not in values:
            return as_scheme(new)(leaf)
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
    """A table with `n` new rows after its `used` first ones, of the same dtype.

    zero; normal: N(0, std^2); mean: the mean m of the used rows; mean_cov: N(m, share * their covariance).
    `used` (default: all) is the number of rows that stand for tokens: tables are padded to round sizes, and rows of
    padding are taken first, so that the table grows by less than `n` or not at all.
    dtypes: new rows are computed in float32 or wider and rounded once; old rows stay as they are.
    Raises: ValueError for n below 1, an unknown `how`, or more used rows than there are.
    Source: Hewitt (2021) for the mean and for `share`, which his code sets to 1e-5.
    """
    used = rows.shape[0] if used is None else used
    if n < 1:
        raise ValueError(f"a vocabulary is extended by 1 row or more, got {n}")
    if not 1 <= used <= rows.shape[0]:
        raise ValueError(f"used rows must be 1 to {rows.shape[0]}, the rows of the table; got {used}")
    old = rows[:used].astype(sampling_dtype(rows.dtype))
    mean = jnp.broadcast_to(old.mean(0, keepdims=True), (n, rows.shape[1]))
    if how == "zero":
        fresh = jnp.zeros_like(mean)
    elif how == "normal":
        fresh = std * jax.random.normal(key, mean.shape, mean.dtype)
    elif how == "mean":
        fresh = mean
    elif how == "mean_cov":
        # mixtures of the rows have the rows' covariance
        mixed = jax.random.normal(key, (n, used), mean.dtype) @ (old - old.mean(0, keepdims=True))
        fresh = mean + mixed * math.sqrt(share / used)
    else:
        raise ValueError(f"new rows are zero, normal, mean or mean_cov, got {how!r}")
    return jnp.concatenate([rows[:used], fresh.astype(rows.dtype), rows[used + n :]])


def extend_vocabulary(
    values: Mapping[str, Array],
    leaves: Sequence[Leaf],
    n: int,
    how: NewRows,
    key: Key[Array, ""],
    *,
    vocabulary: int | None = None,
    parts: Sequence[str] | None = None,
    std: float = 0.02,
    share: float = 1e-5,
    used: int | None = None,
) -> dict[str, Array]:
    """The values of a language model with `n` new tokens, in its input table and in its output table with its bias.

    Arguments as `extend_rows`, whose row is a token: a row of an `embedding`, an output of a head together with its
    entry of the bias (0 for zero and normal). A model without a head ties the two. New rows by the mean give each new
    token the mean of the old logits, so that KL(before || after) <= log(1 + n / V), whatever the context, by Jensen's
    inequality.
    What has an axis of tokens: the table is the parameter with the role `embedding`, and its rows are the vocabulary,
    unless `vocabulary` says how many tokens there are (padding included); the head is the kernel with as many outputs
    and the role `readout`, or else the only other kernel that has an axis of this size. `parts` says it instead:
    patterns for names or roles of the tables and heads; a head's bias goes with it.
    Shapes, dtypes: any order and number of axes, one of them of tokens; each parameter keeps its dtype.
    Raises: ValueError as `extend_rows`; for a model without an embedding; where roles and sizes do not tell what has an
    axis of tokens, with the names, the sizes and what to give; for values of other shapes than the leaves'.
    Source: Hewitt (2021), Initializing new word embeddings for pretrained language models.
    """
    wrong = [
        f"{leaf.name} {values[leaf.name].shape if leaf.name in values else 'is missing'}, the model has {leaf.shape}"
        for leaf in leaves
        if leaf.name not in values or tuple(values[leaf.name].shape) != leaf.shape
    ]
    if wrong:
        raise ValueError(f"extend_vocabulary: the values are not the model's: {'; '.join(wrong)}")
    named = None if parts is None else _named(leaves, parts)
    size = _vocabulary_size(leaves if named is None else named, vocabulary)
    having = _recognized(leaves, size, vocabulary is not None) if named is None else _fitting(named, size)
    found = dict(values)
    for group in _with_biases(having, values, size):
        axes = [_token_axes(leaf, size)[0] for leaf in group]
        by_token = [
            jnp.moveaxis(jnp.asarray(values[leaf.name]), axis, 0) for leaf, axis in zip(group, axes, strict=True)
        ]
        wide = max((sampling_dtype(of.dtype) for of in by_token), key=lambda dtype: jnp.dtype(dtype).itemsize)
        rows = jnp.concatenate([of.astype(wide).reshape(size, -1) for of in by_token], 1)
        rows = extend_rows(rows, n, how, named_key(key, group[0].name), std=std, share=share, used=used)
        first = 0
        for leaf, axis, old in zip(group, axes, by_token, strict=True):
            width = math.prod(old.shape[1:])
            new = rows[:, first : first + width].astype(old.dtype).reshape(-1, *old.shape[1:])
            first += width
            if leaf.role == "bias" and how == "normal":
                tokens = size if used is None else used
                new = new.at[tokens : tokens + n].set(0)
            found[leaf.name] = jnp.moveaxis(new, 0, axis)
    return found


def _vocabulary_size(leaves: Sequence[Leaf], vocabulary: int | None) -> int:
    """How many tokens there are: as told, or the rows of the tables."""
    if vocabulary is not None:
        return vocabulary
    tables = [leaf for leaf in leaves if leaf.role == "embedding"]
    rows = {axis_size(leaf.shape, leaf.dims, "i") for leaf in tables}
    if not rows:
        raise ValueError(
            "extend_vocabulary: no parameter has the role embedding, so this is no model on tokens; if it is, give "
            f"vocabulary=, how many there are, and parts=, what has an axis of them, of {_sized(leaves)}"
        )
    if len(rows) > 1:
        raise ValueError(
            f"extend_vocabulary: tables of several sizes, {_sized(tables)}; say how many tokens there are, "
            f"vocabulary=, one of {', '.join(map(str, sorted(rows)))}"
        )
    return rows.pop()


def _recognized(leaves: Sequence[Leaf], size: int, told: bool) -> list[Leaf]:
    """What has an axis of tokens, by role and by size. `told`: the size was given, so that other sizes are no doubt."""
    all_tables = [leaf for leaf in leaves if leaf.role == "embedding"]
    tables = [leaf for leaf in all_tables if len(_token_axes(leaf, size)) == 1]
    if len(tables) != 1:
        raise ValueError(
            f"extend_vocabulary: {len(tables)} tables have {size} rows, of {_sized(all_tables) or 'none'}; name all "
            f"that has an axis of tokens, parts=({', '.join(repr(leaf.name) for leaf in tables or all_tables)}, ...)"
        )
    readouts = [leaf for leaf in leaves if leaf.role == "readout"]
    heads = [leaf for leaf in readouts if len(_token_axes(leaf, size)) == 1]
    others = [leaf for leaf in readouts if leaf not in heads]
    if others and not told:
        raise ValueError(
            f"extend_vocabulary: {_sized(others)} has not the {size} outputs of a head over the tokens of "
            f"{_sized(tables)}; if it is none and stays as it is, say so with vocabulary={size}"
        )
    if heads:
        return [*tables, *heads]
    # no role says which kernel is the head, or whether there is one: Flax's layers have the role hidden
    in_doubt = [
        leaf
        for leaf in leaves
        if leaf not in tables and leaf.role not in INNER and leaf.kind != "norm" and size in leaf.shape
    ]
    kernels = [leaf for leaf in in_doubt if leaf.role != "bias"]
    biases = [leaf for leaf in in_doubt if leaf.role == "bias"]
    one_bias = not kernels and len(biases) == 1
    one_head = (
        len(kernels) == 1
        and _is_head(kernels[0], size)
        and kernels[0].shape.count(size) == 1
        and all(leaf.name == _bias_of(kernels[0]) for leaf in biases)
    )
    if in_doubt and not one_head and not one_bias:
        name = tables[0].name
        raise ValueError(
            f"extend_vocabulary: {_sized(in_doubt)} have an axis of {size} too, the tokens of {name}, and no role "
            f"readout says which is the head; name it beside the table, parts=({name!r}, ...), or the table alone"
        )
    return [*tables, *in_doubt]


def _named(leaves: Sequence[Leaf], parts: Sequence[str]) -> list[Leaf]:
    """What the caller says has an axis of tokens."""
    idle = [pattern for pattern in parts if not any(matches(pattern, leaf) for leaf in leaves)]
    if idle or not parts:
        raise ValueError(f"extend_vocabulary: parts {idle} match no parameter; there are {_sized(leaves)}")
    return [leaf for leaf in leaves if any(matches(pattern, leaf) for pattern in parts)]


def _fitting(named: list[Leaf], size: int) -> list[Leaf]:
    """The parameters that the caller named, each of which must have one axis of the size."""
    unfit = [leaf for leaf in named if len(_token_axes(leaf, size)) != 1]
    if unfit:
        raise ValueError(
            f"extend_vocabulary: {_sized(unfit)} has not one axis of {size} tokens; give vocabulary=, how many there "
            "are, or other parts="
        )
    return named


def _with_biases(having: Sequence[Leaf], values: Mapping[str, Array], size: int) -> list[list[Leaf]]:
    """Each table and head, with its bias: what is extended together, since their sum is a logit."""
    weights = [leaf for leaf in having if leaf.role != "bias"]
    heads = [leaf for leaf in weights if _is_head(leaf, size)] or weights  # a tied table is the head
    biases = {leaf.name: leaf for leaf in having if leaf.role == "bias"}
    groups = {leaf.name: [leaf] for leaf in weights}
    for head in heads:
        name = _bias_of(head)
        if name in values and size in values[name].shape:
            shape = tuple(values[name].shape)
            groups[head.name].append(biases.pop(name, Leaf(name, shape, "o" * len(shape), "bias")))
    if len(heads) == len(biases) == 1 and len(groups[heads[0].name]) == 1:
        groups[heads[0].name] += biases.values()
        biases = {}
    return [*groups.values(), *([leaf] for leaf in biases.values())]


def _token_axes(leaf: Leaf, size: int) -> list[int]:
    """The axes that can be one of `size` tokens: inputs of a table, else outputs where there are any, else inputs."""
    fitting = [axis for axis, letter in enumerate(leaf.dims) if letter in "io" and leaf.shape[axis] == size]
    outputs = [axis for axis in fitting if leaf.dims[axis] == "o"]
    inputs = [axis for axis in fitting if leaf.dims[axis] == "i"]
    return inputs if leaf.role in ("embedding", "input") else outputs or inputs


def _is_head(leaf: Leaf, size: int) -> bool:
    """Whether it is a kernel whose outputs are the tokens."""
    return leaf.is_kernel and [leaf.dims[axis] for axis in _token_axes(leaf, size)] == ["o"]


def _bias_of(head: Leaf) -> str:
    """The name of a kernel's bias, as Flax and the models here have it: beside the kernel."""
    return f"{head.name[: head.name.rfind('.') + 1]}bias"


def _sized(leaves: Iterable[Leaf]) -> str:
    return ", ".join(f"{leaf.name} {leaf.shape}" for leaf in leaves)


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
    Units: see `StepZero`; dtypes: any, compared in float32 or wider. Assumes that shared classes come first.
    Raises: ValueError for a pattern that matches no parameter.
    """
    x, y = batch
    leaves = [Leaf(name, w.shape, "o" * w.ndim, "") for name, w in params.items()]
    for pattern in new:
        if not any(matches(pattern, leaf) for leaf in leaves):
            raise ValueError(f"step_zero: {pattern!r} matches no parameter; they are {', '.join(params)}")
    outputs, slopes = _outputs_and_slopes(after, loss, params, x, y)
    both = min(before.shape[-1], outputs.shape[-1])
    before, outputs = (of.astype(sampling_dtype(of.dtype)) for of in (before, outputs))
    moved, spread = jnp.max(jnp.abs(outputs[..., :both] - before[..., :both])), jnp.std(before)
    shift = jnp.where(moved == 0, 0, moved / spread)
    kl = divergence(before, outputs)
    parts = [leaf.name for leaf in leaves if any(matches(pattern, leaf) for pattern in new)]
    norms = {}
    for name in parts:
        slope = slopes[name] if rows is None else slopes[name][rows]
        norms[name] = float(jnp.linalg.norm(slope.astype(sampling_dtype(slope.dtype))))
    return StepZero(float(shift), float(kl), norms)


@partial(jax.jit, static_argnums=(0, 1))
def _outputs_and_slopes(after: Any, loss: Any, params: Params, x: Array, y: Array) -> tuple[Array, Params]:
    """The outputs of a start and the gradient of the loss; one compilation for all starts of a model."""
    return after(params, x), jax.grad(lambda p: loss(after(p, x), y))(params)


def divergence(before: Float[Array, "*batch c"], after: Float[Array, "*batch k"]) -> Float[Array, ""]:
    """KL(before || after) of the softmax over all classes of each, in nats, mean over the batch.

    dtypes: computed in float32 or wider. Assumes that the classes that both have come first, and that `before` has no
    others.
    """
    p, q = (jax.nn.log_softmax(of.astype(sampling_dtype(of.dtype))) for of in (before, after))
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
    program = training.make_program(
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
