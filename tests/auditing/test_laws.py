"""The law that fits best is the one that was drawn, and its p-value is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxinit import initializers
from jaxinit.auditing import laws
from jaxinit.auditing.laws import is_orthogonal, measure

SHAPE = (96, 128)
LAWS = {
    "normal": initializers.normal(0.02),
    "truncated normal": initializers.he(),
    "uniform": initializers.glorot(),
    "orthogonal": initializers.orthogonal(),
    "identity": initializers.identity(),
    "zero": initializers.zeros,
    "constant": initializers.constant(0.3),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("law", LAWS)
def test_the_law_that_was_drawn(law: str, dtype: jnp.dtype) -> None:
    values = np.asarray(LAWS[law](jax.random.key(0), SHAPE, dtype))
    assert measure(values, values[None]).law == law


def test_a_logarithm_that_is_uniform() -> None:
    steps = np.exp(np.random.default_rng(0).uniform(np.log(1e-3), np.log(0.1), 500))
    assert measure(steps).law == "log-uniform"


@pytest.mark.parametrize("law", ["normal", "truncated normal", "uniform"])
def test_p_values_are_uniform_under_their_law(law: str) -> None:
    """Of 300 draws whose scale is measured, which p-values of a known scale would not allow for."""
    p_values = []
    for seed in range(300):
        drawn = np.asarray(LAWS[law](jax.random.key(seed), (20, 30), jnp.float32), np.float64)
        scaled = drawn.reshape(-1) / np.sqrt(np.mean(drawn**2))
        p_values.append(laws.p_value(laws.distance(scaled, law), law))
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_moments_and_their_errors() -> None:
    """The standard error of a standard deviation, by repetition: one in 500 is 3 % off."""
    stds, errors = [], []
    for seed in range(500):
        own = measure(np.random.default_rng(seed).uniform(-1, 1, 400))
        stds.append(own.std)
        errors.append(own.error)
    assert np.mean(errors) == pytest.approx(np.std(stds), rel=0.12)
    assert np.mean(stds) == pytest.approx(3**-0.5, rel=0.01)


def test_what_is_not_finite_is_counted() -> None:
    values = np.ones((4, 5), np.float32)
    values[0, 0], values[1, 1] = np.nan, np.inf
    own = measure(values)
    assert (own.nans, own.infs, own.finite, own.law) == (1, 1, False, "not finite")


def test_few_equal_vectors_are_not_orthogonal() -> None:
    assert not is_orthogonal(np.ones((64, 64), np.float32))
    assert not is_orthogonal(np.zeros((64, 64), np.float32))
    assert is_orthogonal(3 * np.eye(64, 100, dtype=np.float32))
