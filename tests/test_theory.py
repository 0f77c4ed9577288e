"""Gains against closed forms and against wide layers."""

import math

import numpy as np
import pytest

from jaxinit.theory import ACTIVATIONS, gain, gaussian_mean


@pytest.mark.parametrize(
    ("activation", "direction", "square"),
    [
        ("linear", "forward", 1.0),
        ("relu", "forward", 2.0),
        ("relu", "backward", 2.0),
        ("leaky_relu", "forward", 2 / (1 + 0.01**2)),
        ("leaky_relu", "backward", 2 / (1 + 0.01**2)),
        ("hard_tanh", "backward", 1 / math.erf(1 / math.sqrt(2))),
        # E[erf(z)^2] = (2/pi) asin(2/3), E[erf'(z)^2] = (4/pi) / sqrt(5): Williams (1997).
        ("erf", "forward", 1 / (2 / math.pi * math.asin(2 / 3))),
        ("erf", "backward", math.sqrt(5) * math.pi / 4),
    ],
)
def test_gains_with_a_closed_form(activation: str, direction: str, square: float) -> None:
    assert gain(activation, direction) ** 2 == pytest.approx(square, rel=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gains_against_samples_and_slopes_against_differences(activation: str) -> None:
    phi, slope = ACTIVATIONS[activation]
    z = np.random.default_rng(0).normal(size=40_000)
    for direction, function in (("forward", phi), ("backward", slope)):
        squares = np.asarray([function(x) ** 2 for x in z])
        expected = gain(activation, direction) ** -2
        assert squares.mean() == pytest.approx(expected, abs=4 * squares.std() / math.sqrt(len(z)) + 1e-12)
    for x in (-2.3, -0.4, 0.3, 1.7):
        assert slope(x) == pytest.approx((phi(x + 1e-6) - phi(x - 1e-6)) / 2e-6, abs=1e-6)


def test_the_tables_five_thirds_is_not_the_gain_of_tanh() -> None:
    assert gain("tanh") == pytest.approx(1.5925, abs=1e-4)
    assert gain("tanh", "backward") == pytest.approx(gaussian_mean(lambda x: (1 - math.tanh(x) ** 2) ** 2) ** -0.5)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no activation is called 'swish'"):
        gain("swish")
    with pytest.raises(Exception, match="sideways"):  # ours, or the suite's type checker before it
        gain("relu", "sideways")
