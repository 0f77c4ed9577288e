"""Low-rank adapters around any module, and schemes for their two matrices."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from jaxinit import introspect
from jaxinit.initializers.basic import normal, orthogonal, variance_scaling, zeros
from jaxinit.initializers.sampling import sampled_wide
from jaxinit.introspect import Frozen, name_of, param
from jaxinit.spec import Initializer, Leaf, Rule, Scheme, axis_size, matches, sampling_dtype

LORA_ROLES = ("lora_a", "lora_b")
# (W [inputs, outputs], rank, s) -> A [inputs, rank], B [rank, outputs]
Factors = Callable[[Array, int, float], tuple[Array, Array]]


def lora_kaiming(leaf: Leaf) -> Initializer | None:
    """Init[A] as LoRA's code has it: A ~ U(+-1/sqrt(fan_in)), variance 1/(3 fan_in), and B = 0.

    Of a table A = 0 and B ~ N(0, 1): A is on the side of the vocabulary, where the input picks
    rows.
    Source: Hu et al. (2021), section 4.1, and their code, layers `Linear` and `Embedding`, as PEFT
    has them too.
    """
    if leaf.role in LORA_ROLES and leaf.kind == "embedding":
        return zeros if leaf.role == "lora_a" else normal(1.0)
    if leaf.role == "lora_a":
        # The bound of U(-c, c) is sqrt(3) standard deviations.
        return variance_scaling(1 / 3, "fan_in", "uniform")
    return zeros if leaf.role == "lora_b" else None


def lora_gaussian(leaf: Leaf) -> Initializer | None:
    """Init[A] as LoRA's text has it: A ~ N(0, 1/rank^2), which is how libraries read "a random
    Gaussian"; B = 0.

    Of a table as `lora_kaiming`.
    """
    if leaf.role == "lora_a" and leaf.kind != "embedding":
        return normal(1 / leaf.fan_out)  # of A [inputs, rank], the rank
    return lora_kaiming(leaf)


def lora_init_b(leaf: Leaf) -> Initializer | None:
    """Init[B]: A = 0 and B ~ U(+-1/sqrt(rank)), variance 1/(3 rank). Source: Hayou et al. (2024),
    section 3."""
    if leaf.role == "lora_b":
        return variance_scaling(1 / 3, "fan_in", "uniform")
    return zeros if leaf.role == "lora_a" else None


def lora_orthogonal(leaf: Leaf) -> Rule | None:
    """A = X Q_1 / 10 and B = Q_2^T Y / 10: both random, and A B = 0 to rounding.

    Q_1 and Q_2 are the even and the odd rows of one orthogonal matrix of the rank's size, X and Y
    Gaussian: entries have a variance of 1/200. Nothing of the adapted kernel is changed, and both
    factors have a gradient at step 0.
    Shapes: those of `LoRA`, tables too; the rank must be even. Both factors of a kernel are drawn
    from one key (`spec.Rule.key`), which their names share but for the role.
    Raises: ValueError for an odd rank.
    Source: PEFT, tuners/lora/layer.py, `orthogonal_init` (commit 5d602fd, 2026-08-21), after Datta,
    "Rethinking LoRA initialisation".
    """
    if leaf.role not in LORA_ROLES:
        return None
    is_a = leaf.role == "lora_a"
    rank = leaf.fan_out if is_a else leaf.fan_in
    if rank % 2:
        raise ValueError(
            f"lora_orthogonal needs an even rank, half of it for A and half for B; got {rank} in "
            f"{leaf.name!r}"
        )

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        shared, of_a, of_b = jax.random.split(key, 3)
        q = orthogonal()(shared, (rank, rank), dtype)
        if is_a:
            return jax.random.normal(of_a, (shape[0], rank // 2), dtype) @ q[0::2] / 10
        return q[1::2].T @ jax.random.normal(of_b, (rank // 2, shape[1]), dtype) / 10

    return Rule(sampled_wide(draw), key=leaf.name.replace(leaf.role, "lora", 1))


def pissa(w: Array, rank: int, scale: float) -> tuple[Array, Array]:
    """The principal part of a kernel: A = U_r (S_r / s)^(1/2), B = (S_r / s)^(1/2) V_r^T of W = U S
    V^T.

    s A B is then the best approximation of W of the rank, and what stays frozen has the other
    singular values. Shapes: W `[inputs, outputs]`, A `[inputs, rank]`, B `[rank, outputs]`; s is
    `LoRA`'s scale. Assumes a rank that is no more than either side of W.
    Source: Meng et al. (2024), PiSSA, as PEFT has it (tuners/lora/layer.py, `pissa_init`, commit
    5d602fd, 2026-08-21); the division by s is PEFT's.
    """
    u, s, vt = jnp.linalg.svd(w, full_matrices=False)
    root = jnp.sqrt(s[:rank] / scale)
    return u[:, :rank] * root[None], root[:, None] * vt[:rank]


def olora(w: Array, rank: int, scale: float) -> tuple[Array, Array]:
    """The first directions of a QR decomposition: A = R_r^T, B = Q_r^T of W^T = Q R.

    The rows of B are orthonormal, and A B agrees with the first r rows of W. Shapes and assumptions
    as `pissa`.
    Source: Büyükakyüz (2024), OLoRA, as PEFT has it (tuners/lora/layer.py, `olora_init`, commit
    5d602fd, 2026-08-21), which divides neither factor by s, so that s A B leaves the frozen kernel.
    """
    del scale
    q, r = jnp.linalg.qr(w.T)
    return r[:rank].T, q[:, :rank].T


class LoRA(nnx.Module):
    """Low-rank adapters around a frozen module: a linear layer, an embedding, or a whole model.

    The module computes with W + s A B in place of every adapted kernel W, s = alpha / rank, or
    alpha / sqrt(rank) with `rank_stabilized`. W and all else that the base holds is `Frozen`:
    training sees A and B only, and statistics and noise of the base stand still.

    Shapes: A `[inputs, rank]`, B `[rank, outputs]`, float32; all axes of inputs are flattened, and
    so are those of outputs, where heads and gates count as outputs: one A serves them all. The sum
    is made in float32 or wider and rounded once to the dtype of W, so that where A B = 0 no bit of
    W changes.
    Roles: `lora_a`, `lora_b`; their `kind` is embedding for a table.
    Arguments: `adapt`, patterns for names or roles of kernels (default: every kernel); `alpha`
    (default: `rank`); `init`, a scheme for the two roles (default: `lora_kaiming`). Flax's own
    layers are understood as they are, other modules declare their parameters (`introspect.param`).
    With `factors`, `pissa` or `olora`, A and B are made of W, and what is frozen is W - s A B,
    rounded once to the dtype of W: the model starts as itself to rounding, and `unmerged` gives the
    frozen rest. A study draws A and B by its scheme, which is then
    `finetune.pretrained(introspect.values(adapted), lora_kaiming)`.
    Raises: ValueError for a pattern that matches no kernel, a rank above the smaller side of an
    adapted kernel, a kernel of whole numbers, `init` and `factors` together, or `factors` with an
    alpha that is not positive.
    Source: Hu et al. (2021), eq. 3; Kalajdzievski (2023) for rank stabilization. Departure: A and B
    meet in the weights and not in the activations, x (W + s A B) for x W + s (x A) B, so that one
    mechanism serves every kind of layer.
    """

    def __init__(
        self,
        base: nnx.Module,
        rank: int,
        *,
        adapt: Sequence[str] = ("*",),
        alpha: float | None = None,
        rank_stabilized: bool = False,
        init: Scheme | None = None,
        factors: Factors | None = None,
        rngs: nnx.Rngs,
    ):
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"the rank of an adapter must be a positive integer, got {rank!r}")
        base = nnx.clone(base)  # whose mode is set below, and the caller's must not be
        introspect.declare(base).eval()  # its statistics and noise stand still
        adapted = _matching_kernels(introspect.leaves(base), adapt)
        _check_adaptable(adapted, introspect.values(base), rank)
        if alpha is None:
            alpha = rank
        if rank_stabilized:
            self.scale = alpha / math.sqrt(rank)
        else:
            self.scale = alpha / rank
        if factors is not None and (init is not None or not self.scale > 0):
            raise ValueError(
                f"LoRA: factors make A and B of the kernels, with alpha above 0; got alpha={alpha} "
                f"and {'a scheme' if init else 'no scheme'} for them; leave out init, or factors"
            )
        # Pairs and no dictionary, so that the graph of this module has a hash.
        self.dims = tuple((leaf.name, leaf.dims) for leaf in adapted)
        lora_a: dict[str, nnx.Param] = {}
        lora_b: dict[str, nnx.Param] = {}
        for leaf in adapted:
            inputs, outputs = _sides(leaf)
            place = _place(leaf)
            lora_a[leaf.name] = param((inputs, rank), "io", "lora_a", **place)
            lora_b[leaf.name] = param((rank, outputs), "io", "lora_b", **place)
        self.lora_a = nnx.Dict(lora_a)
        self.lora_b = nnx.Dict(lora_b)
        self._freeze(base)
        if factors is None:
            introspect.fill(self, init or lora_kaiming, rngs.params())
        else:
            self._split(base, rank, factors)

    def _split(self, base: nnx.Module, rank: int, factors: Factors) -> None:
        """A and B made of every adapted kernel, which then stays frozen less s A B."""
        values = introspect.values(base)
        for name, dims in self.dims:
            w = values[name].transpose(_rows_first(dims))
            inputs = self.lora_a[name].shape[0]
            matrix = w.reshape(inputs, -1).astype(sampling_dtype(w.dtype))
            a, b = factors(matrix, rank, self.scale)
            self.lora_a[name].set_value(a.astype(jnp.float32))
            self.lora_b[name].set_value(b.astype(jnp.float32))
        self._freeze(self.unmerged(base))

    def _freeze(self, base: nnx.Module) -> None:
        """Keep all that the base holds, by name, under a type that no training step changes."""
        # The base is kept in parts and not as a module: a module inside this one would show its
        # parameters to whatever filters for `nnx.Param`.
        self.graph, state = nnx.split(base)
        values: dict[str, Frozen] = {}
        kinds: list[tuple[Any, ...]] = []
        for path, variable in nnx.to_flat_state(state):
            values[name_of(path)] = Frozen(_value(variable))
            kinds.append((path, *_kind(variable)))
        self.base = nnx.Dict(values)
        # What each value is in the base: its place, its type, and its metadata.
        self.kinds = tuple(kinds)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.merged()(*inputs, **options)

    def merged(self) -> Any:
        """The base with W + s A B as its kernels: an ordinary module, as fast as the base."""

        def plus_delta(name: str, w: Array) -> Array:
            return self._moved(name, w, 1)

        return self._with(plus_delta)

    def unmerged(self, merged: nnx.Module) -> Any:
        """The base again from a merged module, which may have been trained on: its kernels less s A
        B."""
        values = introspect.values(merged)

        def less_delta(name: str, w: Array) -> Array:
            return self._moved(name, values[name], -1)

        return self._with(less_delta)

    def _moved(self, name: str, w: Array, sign: int) -> Array:
        """An adapted kernel plus or minus s A B, in its own dtype."""
        # Rounded once: a kernel in bfloat16 would lose a small adapter before the sum.
        delta = sign * self._delta(name, w.shape)
        wide = sampling_dtype(w.dtype)
        return (w.astype(wide) + delta.astype(wide)).astype(w.dtype)

    def _with(self, adapt: Callable[[str, Array], Array]) -> Any:
        """The base, with what `adapt` makes of every adapted kernel."""
        adapted = dict(self.dims)
        flat: list[tuple[Any, Any]] = []
        for path, kind, metadata in self.kinds:
            name = name_of(path)
            value = self.base[name][...]
            if kind is None:
                flat.append((path, value))
                continue
            variable = kind(value, **dict(metadata))
            if isinstance(variable, nnx.Param):
                # What is stored as one array may fuse kernels that are adapted with others.
                pieces = introspect.cut(name, variable, value)
                for piece_name, w in pieces.items():
                    if piece_name in adapted:
                        pieces[piece_name] = adapt(piece_name, w)
                variable = variable.replace(introspect.joined(name, variable, pieces))
            flat.append((path, variable))
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def _delta(self, name: str, shape: tuple[int, ...]) -> Array:
        """s A B, in the layout of the kernel."""
        # A B is a matrix [inputs, outputs]: its axes are those of the kernel in this order.
        order = _rows_first(dict(self.dims)[name])
        product = self.scale * (self.lora_a[name][...] @ self.lora_b[name][...])
        unflattened = product.reshape([shape[axis] for axis in order])
        back = np.argsort(order).tolist()
        return unflattened.transpose(back)


def _matching_kernels(leaves: Sequence[Leaf], adapt: Sequence[str]) -> list[Leaf]:
    """The kernels that a pattern matches. Raises: ValueError for a pattern that matches none."""
    kernels = [leaf for leaf in leaves if leaf.is_kernel]
    adapted: set[str] = set()
    idle: list[str] = []
    for pattern in adapt:
        matching = [leaf.name for leaf in kernels if matches(pattern, leaf)]
        adapted.update(matching)
        if not matching:
            idle.append(pattern)
    if idle or not adapted:
        names = ", ".join(f"{leaf.name} ({leaf.role})" for leaf in kernels)
        raise ValueError(
            f"LoRA: {idle or 'nothing'} matches no kernel to adapt; the kernels are "
            f"{names or 'none'}"
        )
    return [leaf for leaf in kernels if leaf.name in adapted]


def _check_adaptable(adapted: Sequence[Leaf], values: Mapping[str, Array], rank: int) -> None:
    """Raises: ValueError for a kernel of whole numbers, or one with fewer rows or columns than the
    rank."""
    for leaf in adapted:
        dtype = values[leaf.name].dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(
                f"LoRA: {leaf.name!r} has dtype {dtype}, to which no small step can be added; "
                "convert it to a float, or leave it out of `adapt`"
            )
    for leaf in adapted:
        inputs, outputs = _sides(leaf)
        if rank > min(inputs, outputs):
            raise ValueError(
                f"LoRA: a rank of {rank} is above the smaller side of {leaf.name!r}, which is "
                f"{inputs} x {outputs}; choose a smaller rank, or leave it out of `adapt`"
            )


def _place(leaf: Leaf) -> introspect.Place:
    """Where the matrices of an adapted kernel stand: where the kernel does."""
    is_table = leaf.role in ("embedding", "position")
    return introspect.Place(
        layer=leaf.layer,
        n_layers=leaf.n_layers,
        width=leaf.width,
        kind="embedding" if is_table else "",
    )


def _value(variable: Any) -> Any:
    """What a variable holds; a plain array as it is."""
    if isinstance(variable, nnx.Variable):
        return variable.get_value()
    return variable


def _kind(variable: Any) -> tuple[type | None, tuple[tuple[str, Any], ...]]:
    """The type and the metadata of a variable; None and nothing for a plain array."""
    if not isinstance(variable, nnx.Variable):
        return None, ()
    return type(variable), tuple(variable.get_metadata().items())


def _rows_first(dims: str) -> list[int]:
    """The axes of a kernel, those of inputs in front, as one matrix has them."""
    rows: list[int] = []
    columns: list[int] = []
    for axis, letter in enumerate(dims):
        side = rows if letter in "iw" else columns
        side.append(axis)
    return [*rows, *columns]


def _sides(leaf: Leaf) -> tuple[int, int]:
    """Inputs and outputs of a kernel as one matrix: copies count as outputs."""
    inputs = axis_size(leaf.shape, leaf.dims, "iw")
    outputs = axis_size(leaf.shape, leaf.dims, "o.")
    return inputs, outputs
