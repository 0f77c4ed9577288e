"""Truncated Gaussians: the standard deviation after the cut, and draws that are exact in far tails.

bounds -> method (the usual one, a tail, a narrow interval) -> z -> scaled by its own deviation
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from jaxinit import theory
from jaxinit.initializers.sampling import Number, check_std, known, polar, root, within
from jaxinit.spec import Sampler, sampling_dtype

TAIL = 1.0  # standard deviations from which an interval on one side of 0 is drawn as a tail
NARROW = 0.5  # the logarithm by which the density changes over an interval that is drawn as narrow
PANELS = 12  # that a cut Gaussian is integrated over
FAR = 80.0  # a Gaussian is integrated to where it has fallen by exp(-FAR / 2), 4e-18


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
    check_std(std, "truncated_normal")
    if known(lower, upper) and not lower < upper:
        raise ValueError(
            f"truncated_normal needs lower < upper, in units of std, got {lower} and {upper}"
        )
    std, lower, upper = _as_float(std), _as_float(lower), _as_float(upper)

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = sampling_dtype(dtype)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            return _truncated_complex(key, std, lower, upper, shape, dtype)
        scale = std / truncated_std(lower, upper)
        z = _truncated(key, lower, upper, shape, wide)
        x = (jnp.asarray(scale, wide) * z).astype(dtype)
        if known(std, lower, upper) and std > 0:  # 0 times an infinite bound is no number
            return within(x, scale * lower, scale * upper)
        return x

    return Sampler(init, law="truncated normal", spread=lambda shape: std)


def _truncated_complex(
    key: Key[Array, ""],
    std: Number,
    lower: Number,
    upper: Number,
    shape: tuple[int, ...],
    dtype: DTypeLike,
) -> Array:
    """A complex Gaussian cut at |z| = upper, rescaled to E|z|^2 = std^2.

    |z|^2 is exponential, cut at the bound's square, and drawn by the inverse of its distribution.
    """
    if known(lower, upper) and lower != -upper:
        raise ValueError(
            "a complex truncated_normal is cut at one modulus: give lower = -upper, got "
            f"{lower}, {upper}"
        )
    most = upper**2
    real = jnp.finfo(dtype).dtype
    xp = math if known(upper) else jnp  # the same functions of a number, known or traced
    share = -xp.expm1(-most)  # of the exponential below the cut
    modulus_key, angle_key = jax.random.split(key)
    u = jax.random.uniform(modulus_key, shape, real)
    square = -jnp.log1p(-jnp.asarray(share, real) * u)
    scale = std / root(_mean_of_cut_exponential(most))
    modulus = jnp.asarray(scale, real) * jnp.sqrt(square)
    angle = 2 * math.pi * jax.random.uniform(angle_key, shape, real)
    return polar(modulus, angle)


def _as_float(number: Number) -> Any:
    """A number that is traced as a float, not as an integer; a known one as it is."""
    return number if known(number) else jnp.asarray(number, jnp.result_type(float))


def _mean_of_cut_exponential(most: Number) -> Number:
    """E[y] for y of density e^-y on [0, most]: 1 - most / (e^most - 1)."""
    if not known(most):
        # Both sides are computed, so each is kept where it is finite; from 80 on, infinity
        # included, e^-most is no part of 1.
        small = jnp.where(most < 0.1, most, 0.1)
        series = small / 2 - small**2 / 12 + small**4 / 720
        large = jnp.clip(most, 0.1, 80.0)
        return jnp.where(most < 0.1, series, 1 - large / jnp.expm1(large))
    if most < 0.1:
        # The series: the closed form would subtract two numbers near 1.
        return most / 2 - most**2 / 12 + most**4 / 720 - most**6 / 30240
    most = min(most, 700.0)  # e^-700 is no part of 1, and infinity times 0 is no number
    return 1 - most * math.exp(-most) / -math.expm1(-most)


def truncated_std(lower: Number, upper: Number) -> Any:
    """The standard deviation of z ~ N(0, 1) given lower <= z <= upper; a float where the bounds are
    known.

    With m the point of [lower, upper] next to 0, z = m + t has density exp(-(m t + t^2 / 2)), which
    is integrated as it stands, by Gauss-Legendre: no difference of probabilities, so that far tails
    and narrow intervals keep their digits."""
    xp = np if known(lower, upper) else jnp
    nearest = xp.clip(0.0, lower, upper)
    # Where m t + t^2 / 2 reaches FAR / 2; the usual form of the root would cancel far in a tail.
    far = FAR / (abs(nearest) + xp.sqrt(nearest**2 + FAR))
    first = xp.maximum(lower - nearest, -far)
    last = xp.minimum(upper - nearest, far)
    half = (last - first) / (2 * PANELS)
    # Panels of equal widths, in units of half a panel.
    middles = np.arange(1, 2 * PANELS, 2)[:, None]
    nodes = middles + theory.NODES[None]
    weights = np.broadcast_to(theory.WEIGHTS, (PANELS, len(theory.WEIGHTS)))
    t = first + half * xp.asarray(nodes, half.dtype)
    density = xp.exp(-(nearest * t + t**2 / 2))
    weight = density * xp.asarray(weights, half.dtype)
    mean = (weight * t).sum() / weight.sum()
    variance = (weight * (t - mean) ** 2).sum() / weight.sum()
    std = xp.sqrt(variance)
    return float(std) if xp is np else std


def _truncated(
    key: Key[Array, ""], lower: Number, upper: Number, shape: tuple[int, ...], dtype: DTypeLike
) -> Array:
    """z ~ N(0, 1) given lower <= z <= upper, by the method that is exact for the bounds."""

    def usual(key: Key[Array, ""]) -> Array:
        return jax.random.truncated_normal(key, lower, upper, shape, dtype)

    def tail(key: Key[Array, ""]) -> Array:
        return _tail(key, lower, upper, shape, dtype)

    def narrow(key: Key[Array, ""]) -> Array:
        return _narrow(key, lower, upper, shape, dtype)

    draws = [usual, tail, narrow]
    xp = np if known(lower, upper) else jnp
    nearest = xp.clip(0.0, lower, upper)
    width = upper - lower
    change = xp.maximum(abs(lower), abs(upper)) * width  # bounds that of the log density
    is_tail = abs(nearest) >= TAIL
    is_narrow = change < NARROW
    method = xp.where(is_narrow, 2, xp.where(is_tail, 1, 0))
    if known(lower, upper):
        return draws[int(method)](key)
    return jax.lax.switch(method, draws, key)


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

    def fallen(t: Array) -> Array:
        """g(t)."""
        return near * t + t * t / 2 - jnp.log(_mills(near + t)) + log_mills

    share = -jnp.expm1(-fallen(width))  # of the tail, up to the other bound
    goal = -jnp.log1p(-jax.random.uniform(key, shape, dtype) * share)
    # The root of m t + t^2 / 2 = goal, in the form that subtracts nothing.
    t = 2 * goal / (near + jnp.sqrt(near**2 + 2 * goal))
    for _ in range(5):  # quadratic convergence: to the rounding of t
        t = t - (fallen(t) - goal) * _mills(near + t)
    z = near + jnp.clip(t, 0, width)
    return jnp.where(negative, -z, z)


def _mills(x: Array) -> Array:
    """P(z > x) / density(x) for x >= TAIL: Laplace's continued fraction, 1 / (x + 1 / (x + 2 / (x +
    ...)))."""
    denominator = x
    for k in range(60, 0, -1):  # from the innermost fraction out
        denominator = x + k / denominator
    return 1 / denominator


def _narrow(
    key: Key[Array, ""], lower: Number, upper: Number, shape: tuple[int, ...], dtype: DTypeLike
) -> Array:
    """z in an interval over which the density changes by less than e^NARROW: z = lower + t, P(t)
    inverted by Newton."""
    low = jnp.asarray(lower, dtype)
    width = jnp.asarray(upper - lower, dtype)
    nodes, weights = np.polynomial.legendre.leggauss(8)

    def density(t: Array) -> Array:
        return jnp.exp(-(low * t + t * t / 2))

    def probability(t: Array) -> Array:
        """The integral of the density from 0 to t."""
        total = jnp.zeros_like(t)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            share = (node + 1) / 2  # of the way to t, where nodes go from -1 to 1
            total = total + weight / 2 * t * density(t * share)
        return total

    u = jax.random.uniform(key, shape, dtype)
    goal = u * probability(width)
    t = u * width  # right where the density is the same everywhere
    for _ in range(3):
        t = t - (probability(t) - goal) / density(t)
    return low + jnp.clip(t, 0, width)
