"""The draws: each a function of its law's parameters that returns an initializer.

That is a `spec.Sampler`, `(key, shape, dtype, out_sharding) -> Array`, whose arguments are those of
JAX's protocol.

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
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Key, Num

from jaxinit import theory
from jaxinit.spec import Initializer, Joint, Leaf, Sample, Sampler, sampling_dtype

Number = float | np.number | Num[Array, ""]  # known, or traced
Law = Literal["uniform", "truncated_normal", "normal"]
Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]


def sampled_wide(sample: Sample) -> Sampler:
    """Sample in float32 or wider and cast last."""

    def wide(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return sample(key, shape, sampling_dtype(dtype)).astype(dtype)

    return Sampler(wide)


def known(*numbers: Number) -> bool:
    """Whether all of the numbers have values yet: only then can they be checked."""
    return not any(isinstance(number, Tracer) for number in numbers)


def one_by_one(decompose: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """A matrix decomposition that `vmap` on CPU runs matrix by matrix; elsewhere it is batched as
    usual.

    A batched LAPACK call waits for tasks of the thread pool that it runs on: a program with a dozen
    of them stops for ever on two cores (JAX 0.10). One by one costs about the same.
    """
    alone = jax.custom_batching.sequential_vmap(decompose)
    return lambda matrix: jax.lax.platform_dependent(matrix, cpu=alone, default=decompose)


QR = one_by_one(lambda matrix: tuple(jnp.linalg.qr(matrix)))


def constant(value: Number) -> Sampler:
    """Every entry is `value`."""
    return Sampler(lambda key, shape, dtype: jnp.full(shape, value, dtype))


@Sampler
def zeros(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Every entry is 0."""
    del key
    return jnp.zeros(shape, dtype)


@Sampler
def ones(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Every entry is 1: the start of a normalization's scale."""
    del key
    return jnp.ones(shape, dtype)


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

    return Sampler(init)


def within(x: Array, low: Number, high: Number, includes_high: bool = True) -> Array:
    """`x`, whose cast may have rounded it over a bound, on the numbers of its dtype in [low, high],
    or in [low, high).

    Raises: ValueError where that dtype has none, if the bounds are known.
    """
    if not known(low, high):
        least, most = jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype)
        return jnp.clip(x, least, most if includes_high else jnp.nextafter(most, least))
    dtype, limits = np.dtype(x.dtype), jnp.finfo(x.dtype)
    least, most = (
        np.clip(bound, float(limits.min), float(limits.max)).astype(dtype) for bound in (low, high)
    )
    if float(least) < low:
        least = np.nextafter(least, np.asarray(limits.max, dtype))
    if float(most) > high or (float(most) == high and not includes_high):
        most = np.nextafter(most, np.asarray(limits.min, dtype))
    if least > most:
        raise ValueError(
            f"no {dtype} number lies between {low} and {high}; ask for a wider dtype, or bounds "
            "further apart"
        )
    return jnp.clip(x, jnp.asarray(least), jnp.asarray(most))


def normal(std: Number, mean: Number = 0.0) -> Sampler:
    """N(mean, std^2), not truncated; complex dtypes: E|z - mean|^2 = std^2, half of it imaginary.

    Raises: ValueError when std is negative.
    """
    _check_std(std, "normal")
    return sampled_wide(
        lambda key, shape, dtype: (
            jnp.asarray(mean, dtype)
            + jnp.asarray(std, dtype) * jax.random.normal(key, shape, dtype)
        )
    )


def truncated_normal(std: Number, lower: Number = -2.0, upper: Number = 2.0) -> Sampler:
    """A Gaussian cut at `lower` and `upper`, rescaled so that its standard deviation is `std` after
    the cut.

    x = std * z / s, with z ~ N(0, 1) given lower <= z <= upper and s the standard deviation of z.
    Units: the bounds are in standard deviations of the *uncut* Gaussian, never absolute, so that a
    small `std` still truncates; the support of x is [std * lower / s, std * upper / s], +-2.274 std
    for the default cut.
    Bounds may be infinite, far in a tail or close together: s and the draw are right there to the
    rounding of z, and, where they are traced, of their difference. The mean is 0 only for symmetric
    bounds. Casts stay within the support. Complex dtypes: a complex Gaussian of E|z|^2 = 1 cut at
    |z| = upper.
    Raises: ValueError unless lower < upper and std >= 0, or for a complex dtype and bounds that are
    not symmetric. Departure: `jax.nn.initializers.truncated_normal(std)` does not correct, and so
    has 0.880 std; its draw is `jax.random.truncated_normal`, which loses the far tails in float32.
    """
    _check_std(std, "truncated_normal")
    if known(lower, upper) and not lower < upper:
        raise ValueError(
            f"truncated_normal needs lower < upper, in units of std, got {lower} and {upper}"
        )
    std, lower, upper = _as_float(std), _as_float(lower), _as_float(upper)

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = sampling_dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            scale = std / truncated_std(lower, upper)
            drawn = jnp.asarray(scale, wide) * _truncated(key, lower, upper, shape, wide)
            cuttable = known(std, lower, upper) and std > 0
            return (
                within(drawn.astype(dtype), scale * lower, scale * upper)
                if cuttable
                else drawn.astype(dtype)
            )
        if known(lower, upper) and lower != -upper:
            raise ValueError(
                "a complex truncated_normal is cut at one modulus: give lower = -upper, got "
                f"{lower}, {upper}"
            )
        square = upper**2  # |z|^2 is exponential, cut at this
        real = jnp.finfo(dtype).dtype
        share = -(math if known(upper) else jnp).expm1(-square)
        of_modulus, of_angle = jax.random.split(key)
        drawn = -jnp.log1p(-jnp.asarray(share, real) * jax.random.uniform(of_modulus, shape, real))
        scale = std / _root(_mean_of_cut_exponential(square))
        return polar(
            jnp.asarray(scale, real) * jnp.sqrt(drawn),
            2 * math.pi * jax.random.uniform(of_angle, shape, real),
        )

    return Sampler(init)


def _as_float(number: Number) -> Any:
    """A number that is traced as a float, not as an integer; a known one as it is."""
    return number if known(number) else jnp.asarray(number, jnp.result_type(float))


def polar(modulus: Array, angle: Array) -> Array:
    return jax.lax.complex(modulus * jnp.cos(angle), modulus * jnp.sin(angle))


def _root(x: Number) -> Number:
    return math.sqrt(x) if known(x) else jnp.sqrt(x)


def _mean_of_cut_exponential(most: Number) -> Number:
    """E[y] for y of density e^-y on [0, most]: 1 - most / (e^most - 1)."""
    if not known(most):
        small = jnp.where(most < 0.1, most, 0.1)
        series = small / 2 - small**2 / 12 + small**4 / 720
        large = jnp.clip(
            most, 0.1, 80.0
        )  # from where on e^-most is no part of 1, infinity among them
        return jnp.where(most < 0.1, series, 1 - large / jnp.expm1(large))
    if most < 0.1:
        return most / 2 - most**2 / 12 + most**4 / 720 - most**6 / 30240  # without the cancellation
    most = min(most, 700.0)  # e^-700 is no part of 1, and infinity times 0 is no number
    return 1 - most * math.exp(-most) / -math.expm1(-most)


TAIL = 1.0  # standard deviations from which an interval on one side of 0 is drawn as a tail
NARROW = 0.5  # the logarithm by which the density changes over an interval that is drawn as narrow
PANELS = 12  # that a cut Gaussian is integrated over
FAR = 80.0  # a Gaussian is integrated to where it has fallen by exp(-FAR / 2), 4e-18


def truncated_std(lower: Number, upper: Number) -> Any:
    """The standard deviation of z ~ N(0, 1) given lower <= z <= upper; a float where the bounds are
    known.

    With m the point of [lower, upper] next to 0, z = m + t has density exp(-(m t + t^2 / 2)), which
    is integrated as it stands, by Gauss-Legendre: no difference of probabilities, so that far tails
    and narrow intervals keep their digits."""
    xp = np if known(lower, upper) else jnp
    nearest = xp.clip(0.0, lower, upper)
    far = FAR / (abs(nearest) + xp.sqrt(nearest**2 + FAR))
    first, last = xp.maximum(lower - nearest, -far), xp.minimum(upper - nearest, far)
    half = (last - first) / (2 * PANELS)
    middles = np.arange(1, 2 * PANELS, 2)[:, None]
    nodes, weights = (
        middles + theory.NODES[None],
        np.broadcast_to(theory.WEIGHTS, (PANELS, len(theory.WEIGHTS))),
    )
    t = first + half * xp.asarray(nodes, half.dtype)
    weight = xp.exp(-(nearest * t + t**2 / 2)) * xp.asarray(weights, half.dtype)
    mean = (weight * t).sum() / weight.sum()
    std = xp.sqrt((weight * (t - mean) ** 2).sum() / weight.sum())
    return float(std) if xp is np else std


def _truncated(
    key: Key[Array, ""], lower: Number, upper: Number, shape: tuple[int, ...], dtype: DTypeLike
) -> Array:
    """z ~ N(0, 1) given lower <= z <= upper, by the method that is exact for the bounds."""
    xp = np if known(lower, upper) else jnp
    nearest = xp.clip(0.0, lower, upper)
    width = upper - lower
    change = xp.maximum(abs(lower), abs(upper)) * width
    method = xp.where(change < NARROW, 2, xp.where(abs(nearest) >= TAIL, 1, 0))
    draws: list[Callable[[Key[Array, ""]], Array]] = [
        lambda key: jax.random.truncated_normal(key, lower, upper, shape, dtype),
        lambda key: _tail(key, lower, upper, shape, dtype),
        lambda key: _narrow(key, lower, upper, shape, dtype),
    ]
    return draws[int(method)](key) if known(lower, upper) else jax.lax.switch(method, draws, key)


def _tail(
    key: Key[Array, ""], lower: Number, upper: Number, shape: tuple[int, ...], dtype: DTypeLike
) -> Array:
    """z in an interval on one side of 0, at least TAIL from it, by the inverse of the survival
    function S.

    With m the nearer bound and z = m + t, g(t) = log(S(m) / S(m + t)) = m t + t^2 / 2 - log(R(m +
    t) / R(m)), with Mills' ratio R, grows from 0 without cancellation, and is convex with slope 1 /
    R. g(t) is exponential, cut at the other bound. Newton's method starts at the root of m t + t^2
    / 2, which lies above, and so descends to it.
    """
    negative = upper < 0
    xp = np if known(lower, upper) else jnp
    near = jnp.asarray(xp.where(negative, -upper, lower), dtype)
    width = jnp.asarray(upper - lower, dtype)
    log_mills = jnp.log(_mills(near))
    fallen = lambda t: near * t + t * t / 2 - jnp.log(_mills(near + t)) + log_mills
    all_of_it = -jnp.expm1(-fallen(width))
    goal = -jnp.log1p(-jax.random.uniform(key, shape, dtype) * all_of_it)
    t = 2 * goal / (near + jnp.sqrt(near**2 + 2 * goal))
    for _ in range(5):
        t = t - (fallen(t) - goal) * _mills(near + t)
    z = near + jnp.clip(t, 0, width)
    return jnp.where(negative, -z, z)


def _mills(x: Array) -> Array:
    """P(z > x) / density(x) for x >= TAIL: Laplace's continued fraction, 1 / (x + 1 / (x + 2 / (x +
    ...)))."""
    below = x
    for k in range(60, 0, -1):
        below = x + k / below
    return 1 / below


def _narrow(
    key: Key[Array, ""], lower: Number, upper: Number, shape: tuple[int, ...], dtype: DTypeLike
) -> Array:
    """z in an interval over which the density changes by less than e^NARROW: z = lower + t, P(t)
    inverted by Newton."""
    low, width = jnp.asarray(lower, dtype), jnp.asarray(upper - lower, dtype)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    density = lambda t: jnp.exp(-(low * t + t * t / 2))

    def probability(t: Array) -> Array:
        total = jnp.zeros_like(t)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            total = total + weight / 2 * t * density(t * ((node + 1) / 2))
        return total

    u = jax.random.uniform(key, shape, dtype)
    goal = u * probability(width)
    t = u * width
    for _ in range(3):
        t = t - (probability(t) - goal) / density(t)
    return low + jnp.clip(t, 0, width)


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
        window = math.prod(shape[:-2])
        fan_in, fan_out = shape[-2] * window, shape[-1] * window
        n = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
            "fan_geo_avg": math.sqrt(fan_in * fan_out),
        }[mode]
        std = _root(scale / max(n, 1))
        bound = std * math.sqrt(3)
        law_of = {
            "uniform": uniform(-bound, bound),
            "truncated_normal": truncated_normal(std),
            "normal": normal(std),
        }
        if jnp.issubdtype(dtype, jnp.complexfloating):
            law_of["uniform"] = disc(std * math.sqrt(2))
        return law_of[law](key, shape, dtype)

    return Sampler(init)


def disc(radius: Number) -> Sampler:
    """Complex numbers uniform on |z| <= radius, E|z|^2 = radius^2 / 2."""

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        of_modulus, of_angle = jax.random.split(key)
        real = jnp.finfo(dtype).dtype
        modulus = jnp.asarray(radius, real) * jnp.sqrt(jax.random.uniform(of_modulus, shape, real))
        return polar(modulus, 2 * math.pi * jax.random.uniform(of_angle, shape, real)).astype(dtype)

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
    if not known(negative_slope):
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
    return variance_scaling(theory.gain(activation, direction) ** 2, mode, law)


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
        tall = jax.random.normal(key, (max(rows, columns), min(rows, columns)), dtype)
        q, r = QR(tall)
        size = jnp.abs(diagonal := jnp.diagonal(r))
        phase = jnp.where(size > 0, diagonal / jnp.where(size > 0, size, 1).astype(q.dtype), 1)
        q = q * phase.astype(q.dtype)[None]
        return jnp.asarray(gain, dtype) * (q if rows >= columns else q.T).reshape(shape)

    return sampled_wide(init)


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

    return sampled_wide(init)


def scaled(init: Initializer, factor: Number) -> Sampler:
    """`init` times a factor, which may be traced."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return init(key, shape, dtype) * jnp.asarray(factor, dtype)

    wide = sampled_wide(draw)
    return Joint(wide) if isinstance(init, Joint) else wide


def glorot_scheme(leaf: Leaf) -> Sampler:
    """Glorot uniform kernels, zero biases: the start of a module that is given no scheme.

    The one scheme that lives here, since models import initializers and never schemes.
    Source: Glorot & Bengio (2010) eq. 16.
    """
    return vector(leaf) or glorot("uniform")


def vector(leaf: Leaf) -> Sampler | None:
    """How schemes start what is no matrix, None for a matrix.

    Biases, peepholes, residual gates and states before the first step start at 0, the scales of
    normalizations and of streams at 1, learned slopes of rectifiers at 0.01, and the poles of a
    diagonal recurrence on the ring 0.9 <= |l| <= 0.999.
    """
    return VECTORS.get(leaf.role)


def log_decay(low: Number, high: Number) -> Sampler:
    """log(-log |l|) for |l|^2 uniform on [low^2, high^2]: the radii of the poles of a diagonal
    recurrence.

    Shapes: any; dtypes: real, kept in [log(-log high), log(-log low)] by the cast.
    Raises: ValueError unless 0 <= low < high < 1. Source: Orvieto et al. (2023), lemma 3.2.
    """
    if known(low, high) and not 0 <= low < high < 1:
        raise ValueError(f"log_decay needs radii 0 <= low < high < 1, got low={low}, high={high}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "log_decay")
        least, most = jnp.asarray(low**2, wide), jnp.asarray(high**2 - low**2, wide)
        square = jax.random.uniform(key, shape, wide) * most + least
        drawn = jnp.log(-0.5 * jnp.log(jnp.maximum(square, 1e-12)))
        if not known(low, high):
            return drawn.astype(dtype)
        slowest, fastest = math.log(-math.log(high)), math.log(-math.log(max(low, 1e-6)))
        return within(drawn.astype(dtype), slowest, fastest)

    return Sampler(init)


def log_phase(most: Number = 2 * math.pi) -> Sampler:
    """log(t) for t uniform on (0, most]: the angles of the poles of a diagonal recurrence.

    Shapes: any; dtypes: real, kept at or below log(most) by the cast.
    Raises: ValueError for a `most` that is not positive. Source: Orvieto et al. (2023), lemma 3.2.
    """
    if known(most) and not most > 0:
        raise ValueError(f"log_phase needs a positive angle, got {most}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "log_phase")
        drawn = jnp.log(
            jnp.asarray(most, wide) * (1 - jax.random.uniform(key, shape, wide))
        ).astype(dtype)
        return within(drawn, -math.inf, math.log(most)) if known(most) else drawn

    return Sampler(init)


def real_dtype(dtype: DTypeLike, what: str) -> DTypeLike:
    """The dtype to sample a real law in. Raises: ValueError for a complex dtype, and as
    `sampling_dtype`."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"{what} draws real numbers, got dtype {jnp.dtype(dtype)}; ask for "
            f"{jnp.finfo(dtype).dtype}"
        )
    return sampling_dtype(dtype)


def _check_std(std: Number, what: str) -> None:
    if known(std) and not std >= 0:
        raise ValueError(f"{what}: the standard deviation must not be negative, got {std}")


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
}
