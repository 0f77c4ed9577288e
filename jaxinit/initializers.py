"""The draws: each a function of its law's parameters that returns an `Initializer` `(key, shape, dtype) -> Array`.

Layout: kernels are `(*window, inputs, outputs)`, as `jax.nn.initializers` and Flax take them by default; for any
other layout, and for gates, heads, experts or stacked layers, wrap with `jaxinit.spec.along(dims, init)`, as
`jaxinit.draw` does by itself. All of them sample in float32 (float64 when asked for it) and cast last.
"""

import math
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxinit import theory
from jaxinit.spec import Initializer, Joint, Leaf, sampling_dtype

Law = Literal["uniform", "truncated_normal", "normal"]
Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]


def sampled_wide(init: Callable[..., Array]) -> Initializer:
    """Sample in float32 or wider and cast last."""

    @wraps(init)
    def wide(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
        return init(key, shape, sampling_dtype(dtype)).astype(dtype)

    return wide


def one_by_one(decompose: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """A matrix decomposition that `vmap` on CPU runs matrix by matrix; elsewhere it is batched as usual.

    A batched LAPACK call waits for tasks of the thread pool that it runs on: a program with a dozen of them stops for
    ever on two cores (JAX 0.10). One by one costs about the same.
    """
    alone = jax.custom_batching.sequential_vmap(decompose)
    return lambda matrix: jax.lax.platform_dependent(matrix, cpu=alone, default=decompose)


QR = one_by_one(lambda matrix: tuple(jnp.linalg.qr(matrix)))


def constant(value: float) -> Initializer:
    """Every entry is `value`."""
    return lambda key, shape, dtype=jnp.float32, /: jnp.full(shape, value, dtype)


def zeros(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
    """Every entry is 0."""
    del key
    return jnp.zeros(shape, dtype)


def ones(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
    """Every entry is 1: the start of a normalization's scale."""
    del key
    return jnp.ones(shape, dtype)


def uniform(low: float, high: float) -> Initializer:
    """U[low, high): mean (low + high) / 2, variance (high - low)^2 / 12.

    Both bounds are required: JAX's own `uniform()` is one-sided, [0, 0.01).
    Raises: ValueError unless low < high.
    """
    if not low < high:
        raise ValueError(f"uniform needs low < high, got low={low}, high={high}")
    return sampled_wide(lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, low, high))


def normal(std: float, mean: float = 0.0) -> Initializer:
    """N(mean, std^2), not truncated. Raises: ValueError when std is negative."""
    _check_std(std, "normal")
    return sampled_wide(lambda key, shape, dtype: mean + std * jax.random.normal(key, shape, dtype))


def truncated_normal(std: float, lower: float = -2.0, upper: float = 2.0) -> Initializer:
    """A Gaussian cut at `lower` and `upper`, rescaled so that its standard deviation is `std` after the cut.

    x = std * z / s, with z ~ N(0, 1) given lower <= z <= upper and s the standard deviation of z.
    Units: the bounds are in standard deviations of the *uncut* Gaussian, never absolute, so that a small `std`
    still truncates; the support of x is [std * lower / s, std * upper / s], +-2.274 std for the default cut.
    The mean is 0 only for symmetric bounds. Complex dtypes: a complex Gaussian of E|z|^2 = 1 cut at |z| = upper.
    Raises: ValueError unless lower < upper and std >= 0, or for a complex dtype and bounds that are not symmetric.
    Departure: `jax.nn.initializers.truncated_normal(std)` does not correct, and so has 0.880 std.
    """
    _check_std(std, "truncated_normal")
    if not lower < upper:
        raise ValueError(f"truncated_normal needs lower < upper, in units of std, got {lower} and {upper}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            scale = std / truncated_std(lower, upper)
            return scale * jax.random.truncated_normal(key, lower, upper, shape, dtype)
        if lower != -upper:
            raise ValueError(
                f"a complex truncated_normal is cut at one modulus: give lower = -upper, got {lower}, {upper}"
            )
        left = math.exp(-(upper**2))  # |z|^2 is exponential
        scale = std / math.sqrt(1 - upper**2 * left / (1 - left))
        of_modulus, of_angle = jax.random.split(key)
        real = jnp.finfo(dtype).dtype
        modulus = scale * jnp.sqrt(-jnp.log1p(-(1 - left) * jax.random.uniform(of_modulus, shape, real)))
        angle = 2 * math.pi * jax.random.uniform(of_angle, shape, real)
        return jax.lax.complex(modulus * jnp.cos(angle), modulus * jnp.sin(angle))

    return sampled_wide(init)


def truncated_std(lower: float, upper: float) -> float:
    """The standard deviation of z ~ N(0, 1) given lower <= z <= upper.

    Var = 1 + (a p(a) - b p(b)) / Z - ((p(a) - p(b)) / Z)^2, with p the density and Z = P(a <= z <= b).
    """
    density = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    times_density = lambda x: x * density(x) if math.isfinite(x) else 0.0
    mass = (math.erf(upper / math.sqrt(2)) - math.erf(lower / math.sqrt(2))) / 2
    mean = (density(lower) - density(upper)) / mass
    return math.sqrt(1 + (times_density(lower) - times_density(upper)) / mass - mean**2)


def variance_scaling(scale: float, mode: Mode, law: Law) -> Initializer:
    """Mean 0 and variance scale / n, with n the fan in, the fan out, or their arithmetic or geometric mean.

    law: `uniform` on +-sqrt(3 scale / n); `truncated_normal` cut at 2 and corrected; `normal`, not truncated.
    Shapes: `(*window, inputs, outputs)`; the fans are inputs and outputs times the window.
    Raises: ValueError for another mode or law, scale <= 0, or a shape of fewer than two axes.
    Source: the family of Glorot & Bengio (2010) eq. 16, He et al. (2015) eq. 10 and 14, LeCun et al. (1998).
    """
    if mode not in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"):
        raise ValueError(f"variance_scaling: mode {mode!r} is none of fan_in, fan_out, fan_avg, fan_geo_avg")
    if law not in ("uniform", "truncated_normal", "normal"):
        raise ValueError(f"variance_scaling: law {law!r} is none of uniform, truncated_normal, normal")
    if not scale > 0:
        raise ValueError(f"variance_scaling: scale must be positive, got {scale}; for all zeros use zeros")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
        if len(shape) < 2:
            raise ValueError(
                f"variance scaling needs inputs and outputs, the last two axes of a kernel, got shape {shape}; "
                "for a bias use zeros, constant or uniform"
            )
        window = math.prod(shape[:-2])
        fan_in, fan_out = shape[-2] * window, shape[-1] * window
        n = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": math.sqrt(fan_in * fan_out),
        }[mode]
        std = math.sqrt(scale / max(n, 1))
        law_of = {
            "uniform": uniform(-std * math.sqrt(3), std * math.sqrt(3)),
            "truncated_normal": truncated_normal(std),
            "normal": normal(std),
        }
        return law_of[law](key, shape, dtype)

    return init


@cache
def glorot(law: Law = "uniform") -> Initializer:
    """Glorot, also called Xavier: variance 2 / (fan_in + fan_out).

    Source: Glorot & Bengio (2010) eq. 16, where the law is uniform.
    """
    return variance_scaling(1.0, "fan_avg", law)


@cache
def he(law: Law = "truncated_normal", negative_slope: float = 0.0) -> Initializer:
    """He, also called Kaiming: variance 2 / ((1 + a^2) fan_in), for ReLU (a = 0) or a leaky ReLU of slope a.

    Source: He et al. (2015) eq. 10 and 15.
    """
    return variance_scaling(2 / (1 + negative_slope**2), "fan_in", law)


@cache
def lecun(law: Law = "truncated_normal") -> Initializer:
    """LeCun: variance 1 / fan_in.

    Source: LeCun et al. (1998), Efficient BackProp, eq. 16.
    """
    return variance_scaling(1.0, "fan_in", law)


def by_gain(activation: str, direction: theory.Direction = "forward", law: Law = "normal") -> Initializer:
    """Variance g^2 / fan, with g the gain of the activation before: fan_in forward, fan_out backward.

    Raises: ValueError for an unknown activation. Source: `theory.gain`, by quadrature; no table.
    """
    mode = "fan_in" if direction == "forward" else "fan_out"
    return variance_scaling(theory.gain(activation, direction) ** 2, mode, law)


def small_init() -> Initializer:
    """Gaussian of variance 2 / (5 fan_in).

    Source: Nguyen & Salazar (2019), Transformers without Tears, section 3.2, where fan_in is the model's width d.
    """
    return variance_scaling(2 / 5, "fan_in", "normal")


def wang(n_layers: int) -> Initializer:
    """Gaussian of standard deviation 2 / (n_layers sqrt(fan_out)), for the projection back into the residual stream.

    Raises: ValueError for n_layers < 1. Source: Wang & Komatsuzaki (2021), GPT-J; fan_out is the model's width d.
    """
    if n_layers < 1:
        raise ValueError(f"wang needs the number of layers, 1 or more, got {n_layers}")
    return variance_scaling(4 / n_layers**2, "fan_out", "normal")


def orthogonal(gain: float = 1.0) -> Initializer:
    """A Haar-distributed (semi-)orthogonal kernel: W W^T = gain^2 I or W^T W = gain^2 I, whichever is smaller.

    Q of the QR decomposition of a Gaussian, each column multiplied by the sign (in complex dtypes: the phase) of R's
    diagonal; without that Q is not Haar distributed. Complex dtypes give unitary matrices.
    Shapes: `(*window, inputs, outputs)`, orthogonal as a matrix of window x inputs rows and `outputs` columns.
    Assumes one matrix: for gates, heads or stacked layers wrap with `spec.along`, which draws one for each.
    Raises: ValueError for a shape of fewer than two axes.
    Source: Saxe et al. (2014); the sign: Mezzadri (2007), How to generate random matrices, section 5.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
        if len(shape) < 2:
            raise ValueError(f"orthogonal needs a matrix, got shape {shape}; for a bias use zeros")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = jax.random.normal(key, (max(rows, columns), min(rows, columns)), dtype)
        q, r = QR(tall)
        size = jnp.abs(diagonal := jnp.diagonal(r))
        phase = jnp.where(size > 0, diagonal / jnp.where(size > 0, size, 1).astype(q.dtype), 1)
        q = q * phase.astype(q.dtype)[None]
        return (gain * (q if rows >= columns else q.T)).reshape(shape)

    return sampled_wide(init)


def identity(gain: float = 1.0) -> Initializer:
    """gain * I; a rectangular kernel has ones on its main diagonal.

    Raises: ValueError for a shape that is not two-dimensional.
    Source: Le, Jaitly & Hinton (2015), section 2, for gain 1; section 4 scales it.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        if len(shape) != 2:
            raise ValueError(f"identity needs a matrix (inputs, outputs), got shape {shape}")
        return gain * jnp.eye(*shape, dtype=dtype)

    return sampled_wide(init)


def scaled(init: Initializer, factor: float | Float[Array, ""]) -> Initializer:
    """`init` times a factor, which may be traced."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
        return init(key, shape, dtype) * jnp.asarray(factor, dtype)

    return Joint(draw) if isinstance(init, Joint) else draw


def glorot_scheme(leaf: Leaf) -> Initializer:
    """Glorot uniform kernels, zero biases: the start of a module that is given no scheme.

    The one scheme that lives here, since models import initializers and never schemes.
    Source: Glorot & Bengio (2010) eq. 16.
    """
    return vector(leaf) or glorot("uniform")


def vector(leaf: Leaf) -> Initializer | None:
    """How schemes start what is no matrix, None for a matrix.

    Biases, peepholes, residual gates and states before the first step start at 0, the scales of normalizations and
    of streams at 1, learned slopes of rectifiers at 0.01, and the poles of a diagonal recurrence on the ring
    0.9 <= |l| <= 0.999.
    """
    return VECTORS.get(leaf.role)


def log_decay(low: float, high: float) -> Initializer:
    """log(-log |l|) for |l|^2 uniform on [low^2, high^2]: the radii of the poles of a diagonal recurrence.

    Shapes: any. Raises: ValueError unless 0 <= low < high < 1. Source: Orvieto et al. (2023), lemma 3.2.
    """
    if not 0 <= low < high < 1:
        raise ValueError(f"log_decay needs radii 0 <= low < high < 1, got low={low}, high={high}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        square = jax.random.uniform(key, shape, dtype) * (high**2 - low**2) + low**2
        return jnp.log(-0.5 * jnp.log(jnp.maximum(square, 1e-12)))

    return sampled_wide(init)


def log_phase(most: float = 2 * math.pi) -> Initializer:
    """log(t) for t uniform on (0, most]: the angles of the poles of a diagonal recurrence.

    Shapes: any. Raises: ValueError for a `most` that is not positive. Source: Orvieto et al. (2023), lemma 3.2.
    """
    if not most > 0:
        raise ValueError(f"log_phase needs a positive angle, got {most}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return jnp.log(most * (1 - jax.random.uniform(key, shape, dtype)))

    return sampled_wide(init)


def _check_std(std: float, what: str) -> None:
    if not std >= 0:
        raise ValueError(f"{what}: the standard deviation must not be negative, got {std}")


VECTORS: dict[str, Initializer] = {
    "bias": zeros,
    "peephole": zeros,
    "start": zeros,
    "residual_gate": zeros,
    "scale": ones,
    "skip": ones,
    "slope": constant(0.01),
    "log_decay": log_decay(0.9, 0.999),
    "log_phase": log_phase(),
}
