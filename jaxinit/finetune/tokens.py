"""New rows in the tables and heads of a language model, for new tokens."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxinit.finetune.lora import LORA_ROLES
from jaxinit.spec import Leaf, axis_size, matches, named_key, sampling_dtype

NewRows = Literal["zero", "normal", "mean", "mean_cov"]

# Roles of kernels inside a model, whatever their sizes: none of their axes is one of tokens.
INNER = {
    "input",
    "recurrent",
    "position",
    "query",
    "key",
    "value",
    "attention_out",
    "ffn_in",
    "ffn_out",
    *LORA_ROLES,
}


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

    zero; normal: N(0, std^2); mean: the mean m of the used rows; mean_cov: N(m, share * their
    covariance).
    `used` (default: all) is the number of rows that stand for tokens: tables are padded to round
    sizes, and rows of padding are taken first, so that the table grows by less than `n` or not at
    all.
    dtypes: new rows are computed in float32 or wider and rounded once; old rows stay as they are.
    Raises: ValueError for n below 1, an unknown `how`, or more used rows than there are.
    Source: Hewitt (2021) for the mean and for `share`, which his code sets to 1e-5.
    """
    if used is None:
        used = rows.shape[0]
    if n < 1:
        raise ValueError(f"a vocabulary is extended by 1 row or more, got {n}")
    if not 1 <= used <= rows.shape[0]:
        raise ValueError(
            f"used rows must be 1 to {rows.shape[0]}, the rows of the table; got {used}"
        )
    old = rows[:used].astype(sampling_dtype(rows.dtype))
    mean = old.mean(0, keepdims=True)
    means = jnp.broadcast_to(mean, (n, rows.shape[1]))
    if how == "zero":
        fresh = jnp.zeros_like(means)
    elif how == "normal":
        fresh = std * jax.random.normal(key, means.shape, means.dtype)
    elif how == "mean":
        fresh = means
    elif how == "mean_cov":
        # Normal mixtures of the centered rows have the rows' covariance, which need not be formed
        # nor have a root taken.
        weights = jax.random.normal(key, (n, used), means.dtype)
        mixed = weights @ (old - mean)
        fresh = means + mixed * math.sqrt(share / used)
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
    """The values of a language model with `n` new tokens, in its input table and in its output
    table with its bias.

    Arguments as `extend_rows`, whose row is a token: a row of an `embedding`, an output of a head
    together with its entry of the bias (0 for zero and normal). A model without a head ties the
    two. New rows by the mean give each new token the mean of the old logits, so that KL(before ||
    after) <= log(1 + n / V), whatever the context, by Jensen's inequality.
    What has an axis of tokens: the table is the parameter with the role `embedding`, and its rows
    are the vocabulary, unless `vocabulary` says how many tokens there are (padding included); the
    head is the kernel with as many outputs and the role `readout`, or else the only other kernel
    that has an axis of this size. `parts` says it instead: patterns for names or roles of the
    tables and heads; a head's bias goes with it.
    Shapes, dtypes: any order and number of axes, one of them of tokens; each parameter keeps its
    dtype.
    Raises: ValueError as `extend_rows`; for a model without an embedding; where roles and sizes do
    not tell what has an axis of tokens, with the names, the sizes and what to give; for values of
    other shapes than the leaves'.
    Source: Hewitt (2021), Initializing new word embeddings for pretrained language models.
    """
    _check_values(values, leaves)
    if parts is None:
        size = _vocabulary_size(leaves, vocabulary)
        over_tokens = _recognized(leaves, size, vocabulary is not None)
    else:
        named = _named(leaves, parts)
        size = _vocabulary_size(named, vocabulary)
        over_tokens = _fitting(named, size)
    extended = dict(values)
    for group in _with_biases(over_tokens, values, size):
        by_token: list[Array] = []
        for leaf in group:
            token_axis = _token_axes(leaf, size)[0]
            by_token.append(jnp.moveaxis(jnp.asarray(values[leaf.name]), token_axis, 0))
        # A row is all that a token has in the group, so that a head and its bias share one draw.
        rows = _side_by_side(by_token)
        group_key = named_key(key, group[0].name)
        rows = extend_rows(rows, n, how, group_key, std=std, share=share, used=used)
        for leaf, new in zip(group, _apart(rows, by_token), strict=True):
            if leaf.role == "bias" and how == "normal":
                # N(0, std^2) is the law of a row; a bias is initialized to 0.
                tokens = size if used is None else used
                new = new.at[tokens : tokens + n].set(0)
            token_axis = _token_axes(leaf, size)[0]
            extended[leaf.name] = jnp.moveaxis(new, 0, token_axis)
    return extended


def _check_values(values: Mapping[str, Array], leaves: Sequence[Leaf]) -> None:
    """Raises: ValueError for values that are missing or have other shapes than the leaves."""
    problems: list[str] = []
    for leaf in leaves:
        if leaf.name not in values:
            problems.append(f"{leaf.name} is missing, the model has {leaf.shape}")
        elif tuple(values[leaf.name].shape) != leaf.shape:
            shape = values[leaf.name].shape
            problems.append(f"{leaf.name} {shape}, the model has {leaf.shape}")
    if problems:
        raise ValueError(
            f"extend_vocabulary: the values are not the model's: {'; '.join(problems)}"
        )


def _side_by_side(arrays: Sequence[Array]) -> Array:
    """Arrays whose first axis is the tokens as one matrix, in the widest of their dtypes."""
    dtypes = [jnp.dtype(sampling_dtype(array.dtype)) for array in arrays]
    widest = max(dtypes, key=_item_size)
    matrices: list[Array] = []
    for array in arrays:
        matrices.append(array.astype(widest).reshape(len(array), -1))
    return jnp.concatenate(matrices, 1)


def _apart(rows: Array, olds: Sequence[Array]) -> list[Array]:
    """The parts of a matrix of `_side_by_side`, in the shapes and dtypes of the old ones but for
    the number of tokens."""
    news: list[Array] = []
    first = 0
    for old in olds:
        row_shape = old.shape[1:]
        last = first + math.prod(row_shape)
        part = rows[:, first:last].astype(old.dtype)
        news.append(part.reshape(-1, *row_shape))
        first = last
    return news


def _item_size(dtype: np.dtype) -> int:
    return dtype.itemsize


def _vocabulary_size(leaves: Sequence[Leaf], vocabulary: int | None) -> int:
    """How many tokens there are: as told, or the rows of the tables."""
    if vocabulary is not None:
        return vocabulary
    tables = _of_role(leaves, "embedding")
    rows = {axis_size(leaf.shape, leaf.dims, "i") for leaf in tables}
    if not rows:
        raise ValueError(
            "extend_vocabulary: no parameter has the role embedding, so this is no model on "
            "tokens; if it is, give vocabulary=, how many there are, and parts=, what has an axis "
            f"of them, of {_sized(leaves)}"
        )
    if len(rows) > 1:
        raise ValueError(
            f"extend_vocabulary: tables of several sizes, {_sized(tables)}; say how many tokens "
            f"there are, vocabulary=, one of {', '.join(map(str, sorted(rows)))}"
        )
    return rows.pop()


def _recognized(leaves: Sequence[Leaf], size: int, told: bool) -> list[Leaf]:
    """What has an axis of tokens, by role and by size. `told`: the size was given, so that other
    sizes are no doubt."""
    all_tables = _of_role(leaves, "embedding")
    tables = [leaf for leaf in all_tables if _has_one_token_axis(leaf, size)]
    if len(tables) != 1:
        raise ValueError(
            f"extend_vocabulary: {len(tables)} tables have {size} rows, of "
            f"{_sized(all_tables) or 'none'}; name all that has an axis of tokens, "
            f"parts=({', '.join(repr(leaf.name) for leaf in tables or all_tables)}, ...)"
        )
    heads: list[Leaf] = []
    others: list[Leaf] = []
    for readout in _of_role(leaves, "readout"):
        if _has_one_token_axis(readout, size):
            heads.append(readout)
        else:
            others.append(readout)
    if others and not told:
        raise ValueError(
            f"extend_vocabulary: {_sized(others)} has not the {size} outputs of a head over the "
            f"tokens of {_sized(tables)}; if it is none and stays as it is, say so with "
            f"vocabulary={size}"
        )
    if heads:
        return [*tables, *heads]
    # No role says which kernel is the head, or whether there is one: Flax's layers have the role
    # hidden.
    in_doubt: list[Leaf] = []
    for leaf in leaves:
        may_be_head = leaf.role not in INNER and leaf.kind != "norm"
        if may_be_head and leaf not in tables and size in leaf.shape:
            in_doubt.append(leaf)
    if in_doubt and not _is_one_head(in_doubt, size):
        name = tables[0].name
        raise ValueError(
            f"extend_vocabulary: {_sized(in_doubt)} have an axis of {size} too, the tokens of "
            f"{name}, and no role readout says which is the head; name it beside the table, "
            f"parts=({name!r}, ...), or the table alone"
        )
    return [*tables, *in_doubt]


def _is_one_head(leaves: Sequence[Leaf], size: int) -> bool:
    """Whether these can only be one head, with its bias or without, or the bias of a tied table."""
    biases = _of_role(leaves, "bias")
    kernels = [leaf for leaf in leaves if leaf.role != "bias"]
    if not kernels:
        return len(biases) == 1  # of a tied table
    kernel = kernels[0]
    is_only_kernel = len(kernels) == 1
    # A square kernel has the size twice, and may as well stand between two hidden layers.
    has_size_once = kernel.shape.count(size) == 1
    if not (is_only_kernel and has_size_once and _is_head(kernel, size)):
        return False
    return all(bias.name == _bias_of(kernel) for bias in biases)


def _named(leaves: Sequence[Leaf], parts: Sequence[str]) -> list[Leaf]:
    """What the caller says has an axis of tokens."""
    idle: list[str] = []
    for pattern in parts:
        if not any(matches(pattern, leaf) for leaf in leaves):
            idle.append(pattern)
    if idle or not parts:
        raise ValueError(
            f"extend_vocabulary: parts {idle} match no parameter; there are {_sized(leaves)}"
        )
    named: list[Leaf] = []
    for leaf in leaves:
        if any(matches(pattern, leaf) for pattern in parts):
            named.append(leaf)
    return named


def _fitting(named: list[Leaf], size: int) -> list[Leaf]:
    """The parameters that the caller named, each of which must have one axis of the size."""
    unfit = [leaf for leaf in named if not _has_one_token_axis(leaf, size)]
    if unfit:
        raise ValueError(
            f"extend_vocabulary: {_sized(unfit)} has not one axis of {size} tokens; give "
            "vocabulary=, how many there are, or other parts="
        )
    return named


def _with_biases(
    over_tokens: Sequence[Leaf], values: Mapping[str, Array], size: int
) -> list[list[Leaf]]:
    """Each table and head, with its bias: what is extended together, since their sum is a logit."""
    groups: dict[str, list[Leaf]] = {}
    biases: dict[str, Leaf] = {}
    heads: list[Leaf] = []
    for leaf in over_tokens:
        if leaf.role == "bias":
            biases[leaf.name] = leaf
            continue
        groups[leaf.name] = [leaf]
        if _is_head(leaf, size):
            heads.append(leaf)
    if not heads:  # a tied table is the head
        heads = [group[0] for group in groups.values()]

    for head in heads:
        name = _bias_of(head)
        if name in values and size in values[name].shape:
            # Nobody need have said that the bias has an axis of tokens: its head has.
            shape = tuple(values[name].shape)
            bias = Leaf(name, shape, "o" * len(shape), "bias")
            groups[head.name].append(biases.pop(name, bias))

    # A bias of another name can only be that of the only head, if that has none yet.
    if len(heads) == len(biases) == 1 and len(groups[heads[0].name]) == 1:
        groups[heads[0].name] += biases.values()
        biases = {}
    alone = [[bias] for bias in biases.values()]
    return [*groups.values(), *alone]


def _of_role(leaves: Sequence[Leaf], role: str) -> list[Leaf]:
    return [leaf for leaf in leaves if leaf.role == role]


def _token_axes(leaf: Leaf, size: int) -> list[int]:
    """The axes that can be one of `size` tokens: inputs of a table, else outputs where there are
    any, else inputs."""
    inputs: list[int] = []
    outputs: list[int] = []
    for axis, (length, letter) in enumerate(zip(leaf.shape, leaf.dims, strict=True)):
        if length == size and letter == "i":
            inputs.append(axis)
        elif length == size and letter == "o":
            outputs.append(axis)
    if leaf.role in ("embedding", "input"):
        return inputs
    return outputs or inputs


def _has_one_token_axis(leaf: Leaf, size: int) -> bool:
    return len(_token_axes(leaf, size)) == 1


def _is_head(leaf: Leaf, size: int) -> bool:
    """Whether it is a kernel whose outputs are the tokens."""
    axes = _token_axes(leaf, size)
    return leaf.is_kernel and len(axes) == 1 and leaf.dims[axes[0]] == "o"


def _bias_of(head: Leaf) -> str:
    """The name of a kernel's bias, as Flax and the models here have it: beside the kernel."""
    parent, dot, _ = head.name.rpartition(".")
    return f"{parent}{dot}bias"


def _sized(leaves: Iterable[Leaf]) -> str:
    return ", ".join(f"{leaf.name} {leaf.shape}" for leaf in leaves)
