"""Initializers by their law: each a function of the law's parameters.

What it returns is a `spec.Sampler`, `(key, shape, dtype, out_sharding) -> Array`, whose arguments
are those of JAX's protocol.

Layout: kernels are `(*window, inputs, outputs)`, as `jax.nn.initializers` and Flax take them by
default; for any other layout, and for gates, heads, experts or stacked layers, wrap with
`jaxinit.spec.along(dims, init)`, as `jaxinit.draw` does by itself. All of them sample in float32
(float64 when asked for it) and cast last.

Numbers (standard deviations, gains, bounds, radii) may be traced; what they must satisfy is checked
where they are known.

The same key gives the same draw eager, under `jax.jit`, under `jax.vmap` and sharded. Constants,
identities and the like are equal bit for bit. Of random draws the bits behind them are equal; fused
arithmetic rounds the last places otherwise: at most 1.3e-7 of the largest entry in one run over all
of them on a CPU (orthogonal and uniform laws not at all); the tests allow 1e-5.
"""

import math
from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from jaxinit import theory
from jaxinit.initializers.memory import (
    decay_logit,
    log_decay,
    log_phase,
    log_rate,
    time_steps,
)
from jaxinit.initializers.sampling import (
    Number,
    check_std,
    known,
    one_by_one,
    polar,
    root,
    sampled_wide,
    within,
)
from jaxinit.initializers.truncated import truncated_normal
from jaxinit.spec import Initializer, Joint, Leaf, Sampler, sampling_dtype

Law = Literal["uniform", "truncated_normal", "normal"]
Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]


@one_by_one
def _qr(matrix: Array) -> tuple[Array, Array]:
    q, r = jnp.linalg.qr(matrix)
    return q, r


def constant(value: Number) -> Sampler:
    """Every entry is `value`."""

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        return jnp.full(shape, value, dtype)

    return Sampler(init, law=f"constant {value}", spread=lambda shape: 0.0)


@Sampler
def zeros(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Every entry is 0."""
    del key
    return jnp.zeros(shape, dtype)


zeros.law = "zeros"


@Sampler
def ones(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Every entry is 1: the initial scale of a normalization."""
    del key
    return jnp.ones(shape, dtype)


ones.law = "ones"


def uniform(low: Number, high: Number) -> Sampler:
    """U[low, high): mean (low + high) / 2, variance (high - low)^2 / 12.

    Both bounds are required: JAX's own `uniform()` is one-sided, [0, 0.01).
    dtypes: real, narrow ones within the bounds too: what the cast rounds to `high` becomes the
    number below, which lowers the mean by d^2 / (2 (high - low)), d the spacing of the dtype there
    (8e-6 for U[0, 1) in bfloat16).
    Raises: ValueError unless low < high, for a complex dtype, or for a dtype with no number in
    [low, high).
    """
    if known(low, high) and not low < high:
        raise ValueError(f"uniform needs low < high, got low={low}, high={high}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(
                f"uniform on [low, high) draws real numbers, got dtype {jnp.dtype(dtype)}; for a "
                "disc of complex numbers use variance_scaling or ring"
            )
        drawn = jax.random.uniform(key, shape, sampling_dtype(dtype), low, high)
        return within(drawn.astype(dtype), low, high, includes_high=False)

    return Sampler(init, law="uniform", spread=lambda shape: (high - low) / math.sqrt(12))


def normal(std: Number, mean: Number = 0.0) -> Sampler:
    """N(mean, std^2), not truncated; complex dtypes: E|z - mean|^2 = std^2, half of it imaginary.

    Raises: ValueError when std is negative.
    """
    check_std(std, "normal")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        scale = jnp.asarray(std, dtype)
        return jnp.asarray(mean, dtype) + scale * jax.random.normal(key, shape, dtype)

    return sampled_wide(init, "normal", lambda shape: std)


def variance_scaling(scale: Number, mode: Mode, law: Law) -> Sampler:
    """Mean 0 and variance scale / n, with n the fan in, the fan out, or their arithmetic or
    geometric mean.

    law: `uniform` on [-b, b), b = sqrt(3 scale / n); `truncated_normal` cut at 2, corrected;
    `normal`, not truncated. Complex dtypes: E|z|^2 = scale / n, as in JAX; `uniform` is then the
    disc |z| <= sqrt(2 scale / n).
    Shapes: `(*window, inputs, outputs)`; the fans are inputs and outputs times the window.
    Raises: ValueError for another mode or law, scale <= 0, or a shape of fewer than two axes.
    Source: the family of Glorot & Bengio (2010) eq. 16, He et al. (2015) eq. 10 and 14, LeCun et
    al. (1998).
    """
    if mode not in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"):
        raise ValueError(
            f"variance_scaling: mode {mode!r} is none of fan_in, fan_out, fan_avg, fan_geo_avg"
        )
    if law not in ("uniform", "truncated_normal", "normal"):
        raise ValueError(
            f"variance_scaling: law {law!r} is none of uniform, truncated_normal, normal"
        )
    if known(scale) and not scale > 0:
        raise ValueError(
            f"variance_scaling: scale must be positive, got {scale}; for all zeros use zeros"
        )

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        if len(shape) < 2:
            raise ValueError(
                "variance scaling needs inputs and outputs, the last two axes of a kernel, got "
                f"shape {shape}; for a bias use zeros, constant or uniform"
            )
        fan = max(fan_of(shape, mode), 1)  # of an empty matrix 0, which no scale can be divided by
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        draw = _of_std(root(scale / fan), law, is_complex)
        return draw(key, shape, dtype)

    def spread(shape: tuple[int, ...]) -> Number:
        return root(scale / max(fan_of(shape, mode), 1))

    return Sampler(init, law=law.replace("_", " "), spread=spread)


def fan_of(shape: tuple[int, ...], mode: Mode) -> int | float:
    """The fan of a kernel `(*window, inputs, outputs)`, or a mean of its two."""
    window = math.prod(shape[:-2])
    fan_in = shape[-2] * window
    fan_out = shape[-1] * window
    if mode == "fan_in":
        return fan_in
    if mode == "fan_out":
        return fan_out
    if mode == "fan_avg":
        return (fan_in + fan_out) / 2
    return math.sqrt(fan_in * fan_out)


def _of_std(std: Number, law: Law, is_complex: bool) -> Sampler:
    """A law of mean 0 and this standard deviation."""
    if law == "normal":
        return normal(std)
    if law == "truncated_normal":
        return truncated_normal(std)
    if is_complex:
        return disc(std * math.sqrt(2))
    bound = std * math.sqrt(3)
    return uniform(-bound, bound)


def disc(radius: Number) -> Sampler:
    """Complex numbers uniform on |z| <= radius, E|z|^2 = radius^2 / 2."""

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        modulus_key, angle_key = jax.random.split(key)
        real = jnp.finfo(dtype).dtype
        # The share of the disc's area within the modulus is uniform, hence the root.
        share = jax.random.uniform(modulus_key, shape, real)
        modulus = jnp.asarray(radius, real) * jnp.sqrt(share)
        angle = 2 * math.pi * jax.random.uniform(angle_key, shape, real)
        return polar(modulus, angle).astype(dtype)

    return Sampler(init, complex)


@cache
def glorot(law: Law = "uniform") -> Sampler:
    """Glorot, also called Xavier: variance 2 / (fan_in + fan_out).

    Source: Glorot & Bengio (2010) eq. 16, where the law is uniform.
    """
    return variance_scaling(1.0, "fan_avg", law)


def he(law: Law = "truncated_normal", negative_slope: Number = 0.0) -> Sampler:
    """He, also called Kaiming: variance 2 / ((1 + a^2) fan_in), for ReLU (a = 0) or a leaky ReLU of
    slope a.

    Source: He et al. (2015) eq. 10 and 15.
    """
    if not known(negative_slope):  # a traced number is no key of a cache
        return variance_scaling(2 / (1 + negative_slope**2), "fan_in", law)
    return _he(law, float(negative_slope))


@cache
def _he(law: Law, negative_slope: float) -> Sampler:
    return variance_scaling(2 / (1 + negative_slope**2), "fan_in", law)


@cache
def lecun(law: Law = "truncated_normal") -> Sampler:
    """LeCun: variance 1 / fan_in.

    Source: LeCun et al. (1998), Efficient BackProp, eq. 16.
    """
    return variance_scaling(1.0, "fan_in", law)


def by_gain(
    activation: str, direction: theory.Direction = "forward", law: Law = "normal"
) -> Sampler:
    """Variance g^2 / fan, with g the gain of the activation before: fan_in forward, fan_out
    backward.

    Raises: ValueError for an unknown activation. Source: `theory.gain`, by quadrature; no table.
    """
    mode = "fan_in" if direction == "forward" else "fan_out"
    gain = theory.gain(activation, direction)
    return variance_scaling(gain**2, mode, law)


def small_init() -> Sampler:
    """Gaussian of variance 2 / (5 fan_in).

    Source: Nguyen & Salazar (2019), Transformers without Tears, section 3.2, where fan_in is the
    model's width d.
    """
    return variance_scaling(2 / 5, "fan_in", "normal")


def wang(n_layers: int) -> Sampler:
    """Gaussian of standard deviation 2 / (n_layers sqrt(fan_out)), for the projection back into the
    residual stream.

    Raises: ValueError for n_layers < 1. Source: Wang & Komatsuzaki (2021), GPT-J; fan_out is the
    model's width d.
    """
    if known(n_layers) and n_layers < 1:
        raise ValueError(f"wang needs the number of layers, 1 or more, got {n_layers}")
    return variance_scaling(4 / n_layers**2, "fan_out", "normal")


def orthogonal(gain: Number = 1.0) -> Sampler:
    """A Haar-distributed (semi-)orthogonal kernel: W W^T = gain^2 I or W^T W = gain^2 I, whichever
    is smaller.

    Q of the QR decomposition of a Gaussian, each column multiplied by the sign (in complex dtypes:
    the phase) of R's diagonal; without that Q is not Haar distributed. Complex dtypes give unitary
    matrices.
    Shapes: `(*window, inputs, outputs)`, orthogonal as a matrix of window x inputs rows and
    `outputs` columns.
    Assumes one matrix: for gates, heads or stacked layers wrap with `spec.along`, which draws one
    for each.
    Raises: ValueError for a shape of fewer than two axes.
    Source: Saxe et al. (2014); the sign: Mezzadri (2007), How to generate random matrices, section
    5.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        if len(shape) < 2:
            raise ValueError(f"orthogonal needs a matrix, got shape {shape}; for a bias use zeros")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        if rows * columns == 0:
            return jnp.zeros(shape, dtype)
        is_tall = rows >= columns
        longer, shorter = max(rows, columns), min(rows, columns)
        tall = jax.random.normal(key, (longer, shorter), dtype)
        q, r = _qr(tall)
        q = q * _phases(jnp.diagonal(r)).astype(q.dtype)[None]
        w = q if is_tall else q.T
        return jnp.asarray(gain, dtype) * w.reshape(shape)

    def spread(shape: tuple[int, ...]) -> Number:
        return gain / math.sqrt(max(math.prod(shape[:-1]), shape[-1]))

    return sampled_wide(init, "orthogonal", spread)


def _phases(diagonal: Array) -> Array:
    """The signs of numbers, in complex dtypes their phases; 1 for zeros."""
    size = jnp.abs(diagonal)
    # The inner where keeps 0 / 0 out of gradients.
    divisor = jnp.where(size > 0, size, 1).astype(diagonal.dtype)
    return jnp.where(size > 0, diagonal / divisor, 1)


def identity(gain: Number = 1.0) -> Sampler:
    """gain * I; a rectangular kernel has ones on its main diagonal.

    Raises: ValueError for a shape that is not two-dimensional.
    Source: Le, Jaitly & Hinton (2015), section 2, for gain 1; section 4 scales it.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        if len(shape) != 2:
            raise ValueError(f"identity needs a matrix (inputs, outputs), got shape {shape}")
        return jnp.asarray(gain, dtype) * jnp.eye(*shape, dtype=dtype)

    return sampled_wide(init, "identity")


def scaled(init: Initializer, factor: Number) -> Sampler:
    """`init` times a factor, which may be traced."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return init(key, shape, dtype) * jnp.asarray(factor, dtype)

    law, own = getattr(init, "law", ""), getattr(init, "spread", None)
    spread = None if own is None else lambda shape: own(shape) * factor
    wide = sampled_wide(draw, law, spread)
    if isinstance(init, Joint):
        return Joint(wide)
    return wide


def glorot_scheme(leaf: Leaf) -> Sampler:
    """Glorot uniform kernels, zero biases: the default of a module that is given no scheme.

    The one scheme that lives here, since models import initializers and never schemes.
    Source: Glorot & Bengio (2010) eq. 16.
    """
    return vector(leaf) or glorot("uniform")


def vector(leaf: Leaf) -> Sampler | None:
    """Default initializers for parameters that are not matrices; None for a matrix.

    Biases, peepholes, residual gates and initial states are 0, the scales of normalizations and of
    residual streams 1, learned slopes of rectifiers 0.01. The time constants of a linear recurrence
    have the laws of their sources (`memory`): poles lie on the ring 0.9 <= |l| <= 0.999, time steps
    are log-uniform on [0.001, 0.1] and rates uniform on [1, 16].
    """
    return VECTORS.get(leaf.role)


VECTORS: dict[str, Sampler] = {
    "bias": zeros,
    "peephole": zeros,
    "start": zeros,
    "residual_gate": zeros,
    "scale": ones,
    "skip": ones,
    "slope": constant(0.01),
    "log_decay": log_decay(0.9, 0.999),
    "log_phase": log_phase(),
    "step_bias": time_steps(),
    "log_rate": log_rate(),
    "decay_logit": decay_logit(),
}
