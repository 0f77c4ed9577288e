"""Laws of memory: their distributions, and how long a unit remembers that is drawn by them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxinit import initializers as I
from jaxinit import theory
from jaxinit.spec import Sampler, along

KEY = jax.random.key(0)
N = 20_000
GATES = ("input", "forget", "cell", "output")


def drawn(init: Sampler, units: int = N, key: int = 0) -> np.ndarray:
    return np.asarray(init(jax.random.key(key), (units,), jnp.float32), np.float64)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def is_median(values: np.ndarray, expected: float) -> bool:
    """Whether so many values lie below a median as chance allows: 4 standard errors of a half."""
    return bool(abs(np.mean(values < expected) - 0.5) < 2 / math.sqrt(len(values)))


def test_time_steps_are_log_uniform_behind_a_softplus() -> None:
    dt = softplus(drawn(I.time_steps(1e-3, 0.1)))
    law = stats.uniform(math.log(1e-3), math.log(100))
    assert stats.kstest(np.log(dt), law.cdf).pvalue > 1e-3
    assert stats.kstest(dt, law.cdf).pvalue < 1e-9


def test_time_steps_have_a_floor() -> None:
    dt = softplus(drawn(I.time_steps(1e-5, 0.1, floor=1e-4)))
    assert dt.min() == pytest.approx(1e-4, rel=1e-4)
    at_floor = np.isclose(dt, 1e-4, rtol=1e-4).mean()
    assert at_floor == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / N))


def test_the_inverse_of_the_softplus() -> None:
    x = jnp.geomspace(1e-6, 50, 100)
    np.testing.assert_allclose(jax.nn.softplus(I.inverse_softplus(x)), x, rtol=1e-5)


def test_rates_are_uniform() -> None:
    rates = np.exp(drawn(I.log_rate(1.0, 16.0)))
    assert stats.kstest(rates, stats.uniform(1, 15).cdf).pvalue > 1e-3


@pytest.mark.parametrize("power", [1.0, 8.0])
def test_powers_of_decays_lie_uniformly_on_their_ring(power: float) -> None:
    a = special.expit(drawn(I.decay_logit(0.9, 0.999, power)))
    low, high = 0.9**2, 0.999**2
    assert stats.kstest(a ** (2 * power), stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_the_poles_of_s4d() -> None:
    shape = (2, 4)
    n = np.arange(4)
    real = np.asarray(I.s4d_real()(KEY, shape))
    np.testing.assert_allclose(np.exp(real), np.tile(n + 1.0, (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(I.s4d_lin()(KEY, shape)[1], math.pi * n, rtol=1e-6)
    # A state of 8, of whose conjugate pairs one pole is kept: (8 / pi) (8 / (2 n + 1) - 1).
    expected = 8 / math.pi * np.asarray([7, 5 / 3, 3 / 5, 1 / 7])
    np.testing.assert_allclose(I.s4d_inv()(KEY, shape)[1], expected, rtol=1e-6)


def test_s4d_inv_has_the_frequencies_of_hippo() -> None:
    """Of HiPPO-LegS the normal part: its poles are about -1/2 + i (M / pi) (M / (2 n + 1) - 1)."""
    m = 128
    root = np.sqrt(2 * np.arange(m) + 1)
    a = np.asarray(I.hippo_legs()(KEY, (m, m), jnp.float32), np.float64).T
    normal = a + np.outer(root, root) / 2
    poles = np.linalg.eigvals(normal)
    np.testing.assert_allclose(poles.real, -0.5, atol=1e-3)
    frequencies = np.sort(poles.imag[poles.imag > 0])[::-1]
    ours = np.asarray(I.s4d_inv()(KEY, (m // 2,)))
    np.testing.assert_allclose(frequencies[:2], ours[:2], rtol=0.03)


def test_xlstm_biases() -> None:
    b = np.asarray(along(".o", I.xlstm_biases(GATES))(KEY, (4, N), jnp.float32))
    np.testing.assert_allclose(b[1], np.linspace(3, 6, N), rtol=1e-6)
    assert stats.kstest(b[0], stats.norm(scale=0.1).cdf).pvalue > 1e-3
    assert not b[2:].any()
    for gates in (("reset", "update", "new"), ()):
        with pytest.raises(ValueError, match="needs a forget and an input gate, got"):
            I.xlstm_biases(gates)


def step_by_step(bias: np.ndarray, log_rate: np.ndarray) -> np.ndarray:
    return np.log(2) / (softplus(bias) * np.exp(log_rate))


LOG_DT = stats.uniform(math.log(1e-3), math.log(100))
# The bias of a time step from u = log dt, and the median of how many steps half of a state lasts.
STARTS = {
    "inverse softplus of dt": (lambda u: np.log(np.expm1(np.exp(u))), 9.79),
    "1": (lambda u: np.ones_like(u), 0.0621),
    "0": (lambda u: np.zeros_like(u), 0.1176),
    "dt itself": (lambda u: np.exp(u), 0.1165),
    "log dt": (lambda u: u, 9.83),
    "inverse softplus of log dt": (lambda u: u + np.log(-np.expm1(-np.exp(u))), 982.0),
}


@pytest.mark.parametrize("name", STARTS)
def test_the_half_life_of_memory_from_each_start(name: str) -> None:
    """What a wrong bias of the time steps costs: the right one remembers about ten steps."""
    bias, expected = STARTS[name]
    log_rate = drawn(I.log_rate(), key=1)
    u = LOG_DT.ppf((np.arange(N) + 0.5) / N)
    half_lives = theory.glr_half_life(bias(u), log_rate)
    np.testing.assert_allclose(half_lives, step_by_step(bias(u), log_rate))
    assert is_median(half_lives, expected)


def test_the_half_life_of_the_right_start_by_the_closed_form() -> None:
    expected = theory.median_half_life()
    assert expected == pytest.approx(9.789, abs=1e-3)
    bias, log_rate = drawn(I.time_steps()), drawn(I.log_rate(), key=1)
    assert is_median(theory.glr_half_life(bias, log_rate), expected)
    # The ring of Griffin: with both gates open by half, a^(8 / 2) of a step.
    logits = drawn(I.decay_logit())
    middle = ((0.9**2 + 0.999**2) / 2) ** 0.5
    assert is_median(theory.rg_lru_half_life(logits), float(theory.half_life(middle**0.5)))


@pytest.mark.parametrize(
    ("law", "settings", "message"),
    [
        (I.time_steps, (0.1, 0.01), "0 < low < high, got low=0.1, high=0.01"),
        (I.time_steps, (0.01, 0.1, 0.2), "0 <= floor < high, got floor=0.2"),
        (I.log_rate, (0.0, 1.0), "0 < low < high, got low=0.0"),
        (I.decay_logit, (0.9, 1.0), "0 < low < high < 1, got low=0.9, high=1.0"),
        (I.decay_logit, (0.9, 0.99, 0.0), "a positive power, got 0.0"),
        (I.log_decay, (0.9, 1.0), "0 <= low < high < 1"),
        (I.log_phase, (0.0,), "a positive angle, got 0.0"),
    ],
)
def test_settings_that_are_refused(law, settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        law(*settings)
