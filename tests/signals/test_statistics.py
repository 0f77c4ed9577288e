"""Statistics of entries whose statistics are known."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit.signals import statistics
from jaxinit.signals.statistics import EDGES, stats


def test_statistics_of_known_entries() -> None:
    uniform = jnp.linspace(-1.0, 1.0, 10_001)
    two_values = jnp.where(jnp.arange(10_001) < 2500, 0.0, 3.0)
    got = stats(jnp.stack([uniform, two_values]))
    np.testing.assert_allclose(got.mean, [0, 2.25], atol=1e-3)
    np.testing.assert_allclose(got.mean_square, [1 / 3, 6.75], rtol=1e-3)
    np.testing.assert_allclose(got.high, [0.98, 3], rtol=1e-2)
    np.testing.assert_allclose(got.saturated, [0.02, 0.75], atol=1e-3)
    np.testing.assert_allclose(got.zero, [0, 0.25], atol=1e-3)  # one entry of the sample
    width = EDGES[1] - EDGES[0]
    np.testing.assert_allclose(got.histogram.sum(1) * width, [1, 1], atol=0.03)
    # uniform on +-sqrt(3) of its root mean square
    inside = np.abs((EDGES[1:] + EDGES[:-1]) / 2) < 1.6
    np.testing.assert_allclose(got.histogram[0][inside], 1 / (2 * np.sqrt(3)), rtol=0.15)


def test_entries_that_are_not_finite_are_counted_and_left_out() -> None:
    got = stats(jnp.asarray([[1.0, jnp.nan, -1.0, jnp.inf]]))
    assert got.not_finite.tolist() == [2]
    np.testing.assert_allclose(got.mean_square, [1.0])


@pytest.mark.parametrize("n", [1, 7, 1024, 40_000, 64 * 4096, 1_000_003])
def test_a_sample_passes_over_no_column(n: int) -> None:
    stride = statistics._stride(n)
    assert math.gcd(stride, n) == 1
    assert n <= 4096 or 1024 / 1.1 < n / stride <= 4096


def test_scaled_statistics_are_those_of_scaled_entries() -> None:
    entries = jnp.asarray([[1.0, 2.0, -3.0, 0.5]])
    got, expected = stats(entries).scaled(4.0), stats(4 * entries)
    for name in ("mean", "mean_square", "high", "not_finite", "histogram"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-5)


def test_groups_outside_a_mask_are_missing() -> None:
    got = stats(jnp.ones((3, 5))).where(jnp.asarray([True, False, True]))
    assert np.isnan(got.mean).tolist() == [False, True, False]
    assert np.isnan(got.histogram).all(1).tolist() == [False, True, False]
