"""The vocabulary: what a parameter is, how a scheme draws it, and `draw`, where the two meet.

    leaf -> scheme -> rule -> array

A model lists its parameters as `Leaf`s, a `Scheme` answers each leaf with a `Rule`, and `draw`
turns the answers into arrays. Nothing here knows a model, a named scheme or a training program.
"""

import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Key

AXES = {
    "i": "input",
    "o": "output",
    "w": "window (receptive field of a convolution)",
    ".": "independent copy (gate, head, expert, group, stacked layer)",
}


@runtime_checkable
class Initializer(Protocol):
    """What is accepted as an initializer, ours, JAX's or a user's: `(key, shape, dtype) -> Array`,
    by position."""

    def __call__(
        self, key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = ..., /
    ) -> Array: ...


Sample = Callable[[Key[Array, ""], tuple[int, ...], Any], Array]
Spread = Callable[[tuple[int, ...]], Any]  # the standard deviation of a law, by shape
OutSharding = NamedSharding | PartitionSpec | None


class Sampler:
    """What this package returns as an initializer: JAX's whole protocol around a function that
    samples.

    `init(key, shape, dtype=None, out_sharding=None)`, each by position or by name, as
    `jax.nn.initializers.Initializer` has it. A dtype of None is JAX's default float, or complex
    where the law is complex.
    dtypes: `sample` answers in the dtype that it is asked for, narrow ones too: it samples wide and
    casts by itself. Shardings: drawn, then placed, so that the values are those of the draw without
    a sharding; under `jax.jit` XLA then draws each part where it belongs. A `PartitionSpec` needs a
    mesh from `jax.set_mesh`.
    `law` is the name of the law, and `spread` its standard deviation for a shape, where they are
    known without a draw: what a plan of a model shows.
    Raises: ValueError for a `PartitionSpec` and no mesh.
    Departure: `jax.nn.initializers.orthogonal` and `delta_orthogonal` refuse `out_sharding`.
    """

    def __init__(
        self,
        sample: Sample,
        default: type[float] | type[complex] = float,
        law: str = "",
        spread: Spread | None = None,
    ):
        self.sample = sample
        self.default = default
        self.law = law
        self.spread = spread
        # Errors and tables show what samples, and `help` its documentation.
        self.__name__ = getattr(sample, "__name__", type(self).__name__)
        self.__qualname__ = getattr(sample, "__qualname__", self.__name__)
        self.__doc__ = getattr(sample, "__doc__", None)

    def __call__(
        self,
        key: Key[Array, ""],
        shape: tuple[int, ...],
        dtype: DTypeLike | None = None,
        out_sharding: OutSharding = None,
    ) -> Array:
        if dtype is None:
            dtype = jnp.result_type(self.default)
        drawn = self.sample(key, tuple(shape), dtype)
        return placed(drawn, out_sharding)


def placed(x: Array, out_sharding: OutSharding) -> Array:
    """`x` with a sharding, eager or under `jax.jit`, on meshes with explicit or automatic axes."""
    if out_sharding is None:
        return x
    if isinstance(out_sharding, NamedSharding):
        mesh = out_sharding.mesh
    else:
        mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        raise ValueError(
            f"out_sharding is {out_sharding} and no mesh is set; draw under `with "
            "jax.set_mesh(mesh)`, or give a NamedSharding"
        )
    # On explicit axes a sharding is part of the type, and a constraint would be an error.
    if mesh.are_all_axes_explicit:
        return jax.sharding.reshard(x, out_sharding)
    return jax.lax.with_sharding_constraint(x, out_sharding)


@dataclass(frozen=True)
class Leaf:
    """All that an initializer may know of one parameter: no values, no framework.

    `shape`, `dims`: one entry an axis; `dims` is made of `i` (input), `o` (output), `w` (window of
    a convolution) and `.` (independent copy).
    `role`: what the parameter does in its model (input, recurrent, query, bias, ...), by which
    schemes choose. `role_assumed`: nobody said the role, and `hidden` is a guess.
    `gate`: the names of the copies along the first `.` axis, if they are gates.
    `layer` counts from 0; `n_layers` is the number of the model's blocks (of a Transformer:
    attention and feed-forward together are one), or of its hidden layers where it has no blocks (0
    if unknown).
    `activation`: the nonlinearity that the layer applies.
    `inputs`: the number of inputs of the layer that the parameter belongs to, which a bias cannot
    tell from its shape (0 if unknown).
    `kind`: what its layer is, where a law may depend on that (rnn, lstm, gru, attention, norm,
    readout), empty elsewhere.
    `width`: the number of units of the model's hidden layers, which scaling rules compare with that
    of another model (0 if unknown).
    `partner`: the role of the kernel whose product a bias is added to or a scale multiplies (empty
    if unknown).
    `normalized`: what the parameter makes is normalized before it is used, so that its size does
    not matter, as of queries and keys under QK normalization.
    Raises: ValueError when `dims` does not fit `shape` or holds another letter, and for an axis of
    size 0.
    """

    name: str
    shape: tuple[int, ...]
    dims: str
    role: str
    gate: tuple[str, ...] = ()
    layer: int = 0
    n_layers: int = 0
    activation: str = "linear"
    inputs: int = 0
    kind: str = ""
    width: int = 0
    role_assumed: bool = False
    partner: str = ""
    normalized: bool = False

    def __post_init__(self):
        # Here and not in `draw`, since schemes read fans before anything is drawn.
        check_dims(self.dims, self.shape, f"parameter {self.name!r}")

    @property
    def is_kernel(self) -> bool:
        """Whether it maps inputs to outputs: a matrix or a convolution, of one copy or more."""
        return is_kernel(self.dims)

    @property
    def copies(self) -> int:
        """The number of independent copies: the sizes of the `.` axes."""
        return axis_size(self.shape, self.dims, ".")

    @property
    def copy_shape(self) -> tuple[int, ...]:
        """The shape in which a number for each copy broadcasts to the parameter."""
        shape = []
        for size, letter in zip(self.shape, self.dims, strict=True):
            if letter == ".":
                shape.append(size)
            else:
                shape.append(1)
        return tuple(shape)

    @property
    def fan_in(self) -> int:
        """Inputs that one output unit sums over: the sizes of the `i` and `w` axes, never of a `.`
        axis."""
        return axis_size(self.shape, self.dims, "iw")

    @property
    def fan_out(self) -> int:
        """Output units that one input feeds: the sizes of the `o` and `w` axes, never of a `.`
        axis."""
        return axis_size(self.shape, self.dims, "ow")


def check_dims(dims: str, shape: tuple[int, ...], subject: str) -> None:
    """Raises: ValueError for axes that do not fit a shape, naming the subject that has them."""
    unknown = sorted(set(dims) - set(AXES))
    if unknown:
        known = ", ".join(f"{letter!r} {meaning}" for letter, meaning in AXES.items())
        raise ValueError(f"{subject}: dims {dims!r} holds {unknown}; each axis is one of: {known}")
    if len(dims) != len(shape):
        raise ValueError(
            f"{subject}: dims {dims!r} names {len(dims)} axes, shape {shape} has {len(shape)}; "
            "give one letter an axis"
        )
    if any(size < 1 for size in shape):
        raise ValueError(
            f"{subject}: shape {shape} has an empty axis, so there is nothing to draw; give "
            "sizes of 1 or more"
        )


def is_kernel(dims: str) -> bool:
    """Whether axes map inputs to outputs."""
    return "i" in dims and "o" in dims


def axis_size(shape: tuple[int, ...], dims: str, letters: str) -> int:
    """The product of the sizes of the axes whose letter is in `letters` (1 if there are none)."""
    product = 1
    for size, letter in zip(shape, dims, strict=True):
        if letter in letters:
            product *= size
    return product


@dataclass(frozen=True)
class Rule:
    """How one parameter is initialized and trained: effective weight = `multiplier` * parameter.

    `lr_scale` and `wd_scale` multiply the learning rate and the decoupled weight decay of this
    parameter. All three are 1 unless the scheme is of the muP kind.
    `key`: a name that the draw's key belongs to in place of the parameter's own, so that parameters
    can be factors of one random matrix.
    `optimizers`: those that `lr_scale` is right for; empty where it does not depend on the
    optimizer.
    """

    draw: Initializer
    multiplier: float = 1.0
    lr_scale: float = 1.0
    wd_scale: float = 1.0
    key: str = ""
    optimizers: tuple[str, ...] = ()


def as_rule(answer: Rule | Initializer) -> Rule:
    """A rule as it is; an initializer as the rule without multiplier and scales."""
    if isinstance(answer, Rule):
        return answer
    return Rule(answer)


# A scheme answers every leaf: a Rule, or a plain initializer, or None for "no rule of mine covers
# it".
Scheme = Callable[[Leaf], "Rule | Initializer | None"]


@dataclass(frozen=True)
class Everywhere:
    """The scheme of a bare initializer: it draws every parameter, vectors too."""

    init: Initializer

    @property
    def __name__(self) -> str:
        # JAX's `normal(0.1)` is a closure, `normal.<locals>.init`: it goes by what made it.
        qualified = getattr(self.init, "__qualname__", type(self.init).__name__)
        return qualified.split(".")[0]

    def __call__(self, leaf: Leaf) -> Initializer:
        return self.init


def is_initializer(function: Callable) -> bool:
    """Whether a callable is an initializer and no scheme, by its signature.

    A scheme can be called with one argument, a leaf; an initializer cannot, but with three, key,
    shape and dtype.
    """
    if isinstance(function, Sampler):
        return True
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in callables have none
        return False
    return not _takes(signature, 1) and _takes(signature, 3)


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def as_scheme(scheme: "Scheme | Initializer") -> Scheme:
    """A scheme as it is; an initializer, ours or JAX's `normal(0.1)`, as the scheme that draws
    every leaf with it.

    Told apart as `is_initializer` says. Raises: ValueError for what cannot be called.
    """
    if not callable(scheme):
        raise ValueError(
            "a scheme is a function of a leaf, or an initializer (key, shape, dtype), got "
            f"{scheme!r}; a scheme's name is looked up in jaxinit.SCHEMES"
        )
    plain: Any = scheme
    if is_initializer(scheme):
        return Everywhere(plain)
    return plain


@dataclass(frozen=True)
class Override:
    """A scheme that answers by pattern first and asks `base` for the rest.

    Patterns are shell-style and match a leaf's name or its role: `{"recurrent": orthogonal()}`,
    `{"layers.0.*": zeros}`. A pattern that matches no leaf makes `draw` raise, and so does a leaf
    that two patterns match: to let one go before another, nest, `Override(Override(base, general),
    special)`.
    `base` may be an initializer, which draws all other leaves.
    """

    base: Scheme | Initializer
    rules: Mapping[str, Rule | Initializer] = field(default_factory=dict)

    @property
    def __name__(self) -> str:
        return f"{scheme_name(self.base)}+override"

    def __call__(self, leaf: Leaf) -> Rule | Initializer | None:
        # Two are an error, and the first does not win: the order of a dictionary is easily missed.
        matching = [pattern for pattern in self.rules if matches(pattern, leaf)]
        if len(matching) > 1:
            raise ValueError(
                f"scheme {self.__name__!r}: the rules for {matching} all match parameter "
                f"{leaf.name!r} (role {leaf.role!r}); make the patterns exclusive, or nest: "
                "Override(Override(base, general), special)"
            )
        if matching:
            return self.rules[matching[0]]
        return as_scheme(self.base)(leaf)

    def under(self, optimizer: str) -> "Override":
        """The same rules around the base as it is under an optimizer."""
        return Override(under(self.base, optimizer), self.rules)

    def unmatched(self, leaves: Iterable[Leaf]) -> list[str]:
        """The patterns that match no leaf, of the base too."""
        leaves = tuple(leaves)  # an iterator could be read once only
        idle = list(unmatched(self.base, leaves))
        for pattern in self.rules:
            if not any(matches(pattern, leaf) for leaf in leaves):
                idle.append(pattern)
        return idle


def unmatched(scheme: Scheme | Initializer, leaves: Iterable[Leaf]) -> list[str]:
    """The rules of a scheme that match none of the leaves; a scheme that is a plain function cannot
    have any."""
    ask = getattr(scheme, "unmatched", None)
    if ask is None:
        return []
    return ask(tuple(leaves))


def under(scheme: Scheme | Initializer, optimizer: str) -> Scheme:
    """The scheme with its rates for an optimizer; one without a method `under` is the same under
    all of them."""
    named = as_scheme(scheme)
    adapt = getattr(named, "under", None)
    if adapt is None:
        return named
    return adapt(optimizer)


def matches(pattern: str, leaf: Leaf) -> bool:
    """Whether a shell pattern matches the name of a leaf or its role."""
    return fnmatchcase(leaf.name, pattern) or fnmatchcase(leaf.role, pattern)


def scheme_name(scheme: Scheme | Initializer) -> str:
    """The name of a scheme in errors and tables."""
    named = as_scheme(scheme)
    return getattr(named, "__name__", type(named).__name__)


def named_key(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The key that belongs to `name`: `key` folded with the 64-bit BLAKE2 hash of the name.

    Independent of every other name, so that inserting a layer moves no other draw.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    # fold_in takes 32 bits at a time.
    for half in (digest[:4], digest[4:]):
        key = jax.random.fold_in(key, int.from_bytes(half, "little"))
    return key


class Joint(Sampler):
    """An initializer that draws all copies at once, where they are not alike.

    For biases that differ by gate, and for kernels that a library draws as one matrix for all
    gates. `spec.along` hands it the whole shape, copies first: `(*copies, *window, inputs,
    outputs)`.
    """


def canonical_order(dims: str) -> list[int]:
    """The axes in the layout that an initializer is asked for: copies, windows, inputs, outputs."""
    order = []
    for letter in ".wio":
        for axis, axis_letter in enumerate(dims):
            if axis_letter == letter:
                order.append(axis)
    return order


def along(dims: str, init: Initializer) -> Sampler:
    """`init`, drawn once for each independent copy, for an array whose axes are `dims`.

    For each index of the `.` axes, `init` is asked for one array in the layout `(*window, inputs,
    outputs)` that `jax.nn.initializers` takes by default, with all `i` axes flattened into one and
    all `o` axes likewise; a parameter without an `i` or without an `o` axis keeps its own shape. So
    a fan never counts a copy, and any initializer of JAX, of Flax or of a user's is right for
    gates, heads, experts and groups.
    dtypes: sampled in float32 (wider when the target is), cast last; low-precision sampling is
    biased. A `Sampler` does so itself, since its cast may have to keep a bound.
    Assumes that `init` can be mapped by `jax.vmap` when there are copies; a `Joint` is given all of
    them at once. Raises: ValueError when `dims` does not fit the shape.
    """

    def init_along(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        check_dims(dims, shape, "along")
        wide = sampling_dtype(dtype)  # refuses integers, whoever samples
        sampled = wide
        if isinstance(init, Sampler):
            sampled = dtype
        order = canonical_order(dims)
        copies = sizes_of(shape, dims, ".")
        core = tuple(shape[axis] for axis in order[len(copies) :])
        asked = asked_of(shape, dims)

        def draw_copy(copy_key: Key[Array, ""]) -> Array:
            return init(copy_key, asked, sampled)

        if isinstance(init, Joint):
            drawn = init(key, copies + asked, sampled)
        elif copies:
            keys = jax.random.split(key, math.prod(copies))
            drawn = jax.vmap(draw_copy)(keys)
        else:
            # The key itself, so that one matrix is what the initializer draws from it elsewhere.
            drawn = draw_copy(key)
        in_order = drawn.reshape(copies + core)
        back = tuple(np.argsort(order).tolist())
        return in_order.transpose(back).astype(dtype)

    return Sampler(init_along)


def asked_of(shape: tuple[int, ...], dims: str) -> tuple[int, ...]:
    """The shape that an initializer is asked for of one copy: of a kernel windows, inputs and
    outputs, since several axes of inputs, or of outputs, are one to it."""
    if is_kernel(dims):
        window = sizes_of(shape, dims, "w")
        return (*window, axis_size(shape, dims, "i"), axis_size(shape, dims, "o"))
    order = canonical_order(dims)
    return tuple(shape[axis] for axis in order if dims[axis] != ".")


def per_part(init: Initializer, parts: int, axis: int = -1) -> Sampler:
    """`init`, drawn once for each of the kernels that lie side by side along one axis.

    Entry k of the axis is entry k mod n of kernel k // n, n = size / parts. Along the last axis lie
    the gates of a fused cell, packed queries, keys and values, the heads that a layer asks for as
    one axis of outputs, and the groups of a convolution; along the one before it, `axis=-2`, the
    batch axes that Flax's `LinearGeneral` and `DenseGeneral` count as inputs. Copies that have an
    axis of their own need none of this: `along(".io", init)`.
    Shapes: `(*window, inputs, outputs)` or a vector; each kernel has its own key, and no fan counts
    the other ones. A `Joint` such as `gate_biases` is asked for all of them, parts first.
    dtypes: as `along`, sampled in float32 and cast last.
    Raises: ValueError for `parts` below 1, for what is no initializer, such as `orthogonal` for
    `orthogonal()`, and, when drawn, for an axis that the shape lacks or that the parts do not
    divide.
    """
    if not isinstance(parts, int) or parts < 1:
        raise ValueError(
            f"the number of kernels that share an axis must be a positive integer, got {parts!r}"
        )
    if not callable(init) or not is_initializer(init):
        name = getattr(init, "__name__", repr(init))
        raise ValueError(
            f"expected an initializer, called with (key, shape, dtype), got {name}; if that makes "
            f"one, call it first: {name}()"
        )

    def init_parts(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"shape {shape} has no axis {axis} to share; give one that it has")
        at = axis % len(shape)
        size = shape[at]
        if size % parts:
            raise ValueError(
                f"axis {axis} of shape {shape} has {size} entries, which {parts} kernels cannot "
                "share alike; give the number of gates, heads or groups that it holds"
            )
        dims = "w" * (len(shape) - 2) + "io"
        if len(shape) == 1:
            dims = "o"
        # Kernel by kernel: the axis becomes two, the copies and what is left of it.
        apart = (*shape[:at], parts, size // parts, *shape[at + 1 :])
        drawn = along(f"{dims[:at]}.{dims[at:]}", init)(key, apart, dtype)
        return drawn.reshape(shape)

    return Sampler(init_parts)


def per_gate(init: Initializer, gates: int) -> Sampler:
    """`init`, drawn once for each gate of a fused kernel `(inputs, gates * units)`:
    `nnx.GRUCell(..., recurrent_kernel_init=per_gate(orthogonal(), gates=3))`.

    `nnx.GRUCell` fuses 3 gates and `nnx.OptimizedLSTMCell` 4 (input, forget, cell, output); what is
    orthogonal as a whole is not so gate by gate, and a fan out of the whole counts every gate.
    As `per_part` along the last axis, where shapes, dtypes and errors are told; biases `(gates *
    units,)` too: `per_gate(gate_biases(("input", "forget", "cell", "output"), forget=1.0), 4)`.
    """
    return per_part(init, gates)


def sizes_of(shape: tuple[int, ...], dims: str, letter: str) -> tuple[int, ...]:
    """The sizes of the axes of a letter, in their order."""
    return tuple(size for size, axis in zip(shape, dims, strict=True) if axis == letter)


def sampling_dtype(dtype: DTypeLike) -> DTypeLike:
    """float32 for any narrower float, which `jax.random` samples with a biased mean; else `dtype`
    itself.

    Raises: ValueError for an integer or a boolean dtype.
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"parameters are real or complex numbers, got dtype {jnp.dtype(dtype)}; ask for float32"
        )
    # `finfo` of a complex dtype is that of its parts.
    if jnp.finfo(dtype).bits < 32:
        return jnp.float32
    return dtype


def rules(scheme: Scheme | Initializer, leaves: Iterable[Leaf]) -> dict[str, Rule]:
    """The rule of every leaf by name, plain initializers wrapped.

    `scheme` may be an initializer, which then draws every leaf.
    Raises: ValueError when `scheme` is neither (`as_scheme`), when two leaves share a name, when
    `scheme` covers a leaf with no rule, or when a rule of the scheme matches no leaf; both sides
    are named.
    """
    leaves = tuple(leaves)
    scheme = as_scheme(scheme)
    counts = Counter(leaf.name for leaf in leaves)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(f"leaves share a name: {twice}; every parameter needs a name of its own")
    idle = unmatched(scheme, leaves)
    if idle:
        parameters = [f"{leaf.name} ({leaf.role})" for leaf in leaves]
        raise ValueError(
            f"scheme {scheme_name(scheme)!r}: the rules for {idle} match no parameter; "
            f"the parameters are {parameters}"
        )
    by_name: dict[str, Rule] = {}
    for leaf in leaves:
        answer = scheme(leaf)
        if answer is None:
            raise ValueError(
                f"scheme {scheme_name(scheme)!r} has no rule for parameter {leaf.name!r} (role "
                f"{leaf.role!r}, shape {leaf.shape}); add one, for instance Override(scheme, "
                f"{{{leaf.role!r}: zeros}})"
            )
        by_name[leaf.name] = as_rule(answer)
    return by_name


def draw(
    scheme: Scheme | Initializer,
    key: Key[Array, ""],
    leaves: Iterable[Leaf],
    dtype: DTypeLike = jnp.float32,
    place: Callable[[str, Array], Array] = lambda name, value: value,
) -> dict[str, Array]:
    """Draw every parameter under a scheme: `{name: array}`, the one place where a scheme meets a
    model; each is put in its `place` before the next is drawn.

    The key of a leaf is `key` folded with the leaf's name (or its rule's): the same key gives
    paired draws across schemes. `scheme` may be an initializer, ours or JAX's: it then draws every
    leaf, biases and scales too.
    Shapes: `leaf.shape`; dtype: `dtype`, sampled in float32 and cast last.
    Raises: ValueError as `rules` does, and when a rule cannot draw a leaf (naming scheme, leaf,
    reason and remedy).
    """
    leaves = tuple(leaves)
    scheme = as_scheme(scheme)
    by_name = rules(scheme, leaves)
    drawn: dict[str, Array] = {}
    for leaf in leaves:
        rule = by_name[leaf.name]
        init = along(leaf.dims, rule.draw)
        try:
            own_key = named_key(key, rule.key or leaf.name)
            drawn[leaf.name] = place(leaf.name, init(own_key, leaf.shape, dtype))
        # What initializers raise knows no names: they are added here, the one place that has them.
        except (ValueError, TypeError) as error:
            remedy = ""
            if isinstance(scheme, Everywhere):
                remedy = (
                    "; an initializer given as a scheme draws every parameter: give this one a law "
                    f"of its own, Override(initializer, {{{leaf.role!r}: zeros}})"
                )
            raise ValueError(
                f"scheme {scheme_name(scheme)!r} cannot draw parameter {leaf.name!r} (role "
                f"{leaf.role!r}, shape {leaf.shape}, dims {leaf.dims!r}): {error}{remedy}"
            ) from error
    return drawn
