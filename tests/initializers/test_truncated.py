"""Truncated Gaussians by their moments and distributions."""

import math
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every
from scipy import integrate, special, stats

from jaxinit import initializers as I

Number = int | float | jax.Array
KEY = jax.random.key(0)
CUT = 1 / I.truncated_std(-2, 2)  # where a corrected cut at 2 ends, in standard deviations
TRUNCATED = stats.truncnorm(-2, 2, scale=CUT)


def test_truncated_std_agrees_with_quadrature() -> None:
    for low, high in ((-2, 2), (-1, 3), (0.5, 1), (-math.inf, 1)):
        expected = stats.truncnorm(low, high).std()
        assert I.truncated_std(low, high) == pytest.approx(expected, rel=1e-6)
    assert I.truncated_std(-math.inf, math.inf) == pytest.approx(1.0, rel=1e-14)
    # Far in a tail z - a is exponential of rate a + O(1/a); of a narrow interval the law is
    # uniform.
    for low in (1e3, 1e5):
        assert I.truncated_std(low, math.inf) == pytest.approx(1 / low, rel=4 / low**2)
    uniform_std = 1e-6 / math.sqrt(12)
    for low in (-1e-7, 0.5, 5.0, 50.0):
        assert I.truncated_std(low, low + 1e-6) == pytest.approx(uniform_std, rel=1e-6 + 1e-9)


TAILS = [
    (5, 6),
    (-6, -5),
    (8, 9),
    (10, 12),
    (-12, -10),
    (40, 41),
    (3, math.inf),
    (-math.inf, -7),
    (100, math.inf),
]


def moments_of_cut_gaussian(low: float, high: float) -> tuple[float, float, float]:
    """Mean of z - nearest, standard deviation and fourth central moment over the squared variance,
    adaptively."""
    near = min(max(0.0, low), high)
    reach = 60 / max(abs(near), 6)
    a, b = max(low - near, -reach), min(high - near, reach)

    def moment(power: int, centre: float) -> float:
        """The integral of (t - centre)^power times the density, but for its factor."""

        def integrand(t: float) -> float:
            return (t - centre) ** power * math.exp(-(near * t + t * t / 2))

        return integrate.quad(integrand, a, b, epsabs=0, epsrel=1e-11, limit=200)[0]

    mass = moment(0, 0.0)
    mean = 0.0
    if a != -b:
        mean = moment(1, 0.0) / mass
    variance = moment(2, mean) / mass
    kurtosis = moment(4, mean) / mass / variance**2
    return mean, math.sqrt(variance), kurtosis


def distance_in_tail(low: float, high: float):
    """The distribution function of |z| - nearest in an interval on one side of 0, by logarithms."""
    nearest, width = min(abs(low), abs(high)), high - low

    def log_survival(z):
        return special.log_ndtr(-z)

    def share(t):  # of the tail, up to the distance t
        return -np.expm1(log_survival(nearest + t) - log_survival(nearest))

    whole = share(width) if math.isfinite(width) else 1.0

    def cdf(t):
        return share(np.maximum(t, 0)) / whole

    return cdf


@pytest.mark.parametrize(("traced", "bounds"), every(2, of=product([False, True], TAILS)))
def test_far_tails_and_narrow_cuts_have_their_law(
    bounds: tuple[float, float], traced: bool
) -> None:
    low, high = bounds
    if traced and 0 < high - low < 0.01:
        pytest.skip("the width of a traced interval has the rounding of float32")

    def draw(low: Number, high: Number) -> jax.Array:
        return I.truncated_normal(1.0, low, high)(KEY, (200_000,), jnp.float32)

    if traced:
        draw = jax.jit(draw)
    x = np.asarray(draw(low, high), np.float64)
    mean, std, kurtosis = moments_of_cut_gaussian(low, high)
    near = min(max(0.0, low), high)
    assert I.truncated_std(low, high) == pytest.approx(std, rel=1e-8)
    rounding = 1.2e-7 * max(abs(near), 1.0) / std  # of z in float32, in standard deviations
    assert x.std() == pytest.approx(1.0, rel=4 * math.sqrt((kurtosis - 1) / 4 / len(x)) + rounding)
    t = x * std - near
    assert t.mean() == pytest.approx(mean, abs=std * (4 / math.sqrt(len(x)) + 3 * rounding))
    finite_bounds = [abs(bound) for bound in bounds if math.isfinite(bound)]
    slack = 2e-7 * max(*finite_bounds, 1.0)
    assert x.min() * std >= low - slack
    assert x.max() * std <= high + slack
    if rounding < 1e-4:
        if abs(near) < 3:
            assert stats.kstest(x * std, stats.truncnorm(low, high).cdf).pvalue > 1e-3
        else:
            distance = np.abs(x * std) - abs(near)
            assert stats.kstest(distance, distance_in_tail(low, high)).pvalue > 1e-3


@pytest.mark.slow
def test_far_tails_in_float64() -> None:
    with jax.enable_x64(True):
        for low, high in ((5, 6), (-9, -8), (10, 12), (0.5, 0.5 + 1e-9)):
            x = np.asarray(I.truncated_normal(1.0, low, high)(KEY, (200_000,), jnp.float64))
            _, _, kurtosis = moments_of_cut_gaussian(low, high)
            sampling_error = math.sqrt((kurtosis - 1) / 4 / len(x))
            assert x.std() == pytest.approx(1.0, rel=4 * sampling_error + 1e-6)
            fewest = 190_000 if high - low > 1e-6 else 100_000
            assert len(np.unique(x)) > fewest


@pytest.mark.parametrize("cut", [2.0, 0.5, 1e-4])
@pytest.mark.parametrize("traced", [False, True])
def test_complex_gaussians_are_cut_at_a_modulus(cut: float, traced: bool) -> None:
    def draw(cut: Number) -> jax.Array:
        return I.truncated_normal(0.7, -cut, cut)(KEY, (100_000,), jnp.complex64)

    if traced:
        draw = jax.jit(draw)
    z = np.asarray(draw(cut))
    assert np.mean(np.abs(z) ** 2) == pytest.approx(0.49, rel=0.01)
    assert abs(z.mean()) < 4 * 0.7 / math.sqrt(len(z))


def test_truncation_is_in_units_of_std_and_corrected() -> None:
    w = np.asarray(I.truncated_normal(0.02)(KEY, (1000, 1000), jnp.float32))
    # 2.27 std, not the 5 of an absolute bound
    assert np.abs(w).max() == pytest.approx(0.02 * CUT * 2, rel=1e-3)
    uncorrected = jax.nn.initializers.truncated_normal(0.02)(KEY, (1000, 1000), jnp.float32)
    assert float(uncorrected.std()) == pytest.approx(0.02 * I.truncated_std(-2, 2), rel=3e-3)
    assert w.std() == pytest.approx(0.02, rel=3e-3)


def test_a_complex_gaussian_that_is_cut_nowhere() -> None:
    """E|z|^2 = 1 for bounds that are infinite, far, or traced."""

    def draw(cut: Number) -> jax.Array:
        return I.truncated_normal(1.0, -cut, cut)(KEY, (20_000,), jnp.complex64)

    for z in (draw(jnp.inf), draw(40.0), jax.jit(draw)(jnp.inf)):
        assert float(jnp.mean(jnp.abs(z) ** 2)) == pytest.approx(1, abs=4 / 20_000**0.5)
