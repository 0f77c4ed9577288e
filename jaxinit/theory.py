"""What theory says before anything is drawn: the gain that keeps a signal's size through an activation."""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import integrate, special

Direction = Literal["forward", "backward"]
Function = Callable[[float], float]

_PHI = lambda x: float(special.ndtr(x))  # the distribution function of N(0, 1)
_DENSITY = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
_LOGISTIC = lambda x: float(special.expit(x))

# phi and its derivative, by name; kinks at 0 and +-1 only, where the quadrature is split.
ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "linear": (lambda x: x, lambda x: 1.0),
    "tanh": (math.tanh, lambda x: 1 - math.tanh(x) ** 2),
    "sigmoid": (_LOGISTIC, lambda x: _LOGISTIC(x) * _LOGISTIC(-x)),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "erf": (math.erf, lambda x: 2 / math.sqrt(math.pi) * math.exp(-x * x)),
    "hard_tanh": (lambda x: max(-1.0, min(1.0, x)), lambda x: float(abs(x) < 1)),
    "relu": (lambda x: max(x, 0.0), lambda x: float(x > 0)),
    "leaky_relu": (lambda x: x if x > 0 else 0.01 * x, lambda x: 1.0 if x > 0 else 0.01),
    "elu": (lambda x: x if x > 0 else math.expm1(x), lambda x: 1.0 if x > 0 else math.exp(x)),
    "gelu": (lambda x: x * _PHI(x), lambda x: _PHI(x) + x * _DENSITY(x)),
    "silu": (lambda x: x * _LOGISTIC(x), lambda x: _LOGISTIC(x) * (1 + x * _LOGISTIC(-x))),
}


EDGES = (-np.inf, -1.0, 0.0, 1.0, np.inf)


@cache
def gain(activation: str, direction: Direction = "forward") -> float:
    """The gain g at which weights of variance g^2 / fan keep a unit-variance signal through an activation.

    forward: g = E[phi(z)^2]^(-1/2); backward: g = E[phi'(z)^2]^(-1/2); z ~ N(0, 1), by adaptive quadrature.
    Units: dimensionless; `fan` is the fan in forward, the fan out backward.
    Assumes wide layers and pre-activations of variance 1. Tables differ: the 5/3 for tanh is empirical, not this.
    Raises: ValueError for an unknown activation or direction.
    Source: He et al. (2015), eq. 7 to 14, for ReLU; the same argument for any phi.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"no activation is called {activation!r}; there are {', '.join(ACTIVATIONS)}")
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction is 'forward' or 'backward', got {direction!r}")
    return gaussian_mean(lambda x: ACTIVATIONS[activation][direction == "backward"](x) ** 2) ** -0.5


def gaussian_mean(function: Function) -> float:
    """E[f(z)] for z ~ N(0, 1), with f smooth but for kinks or jumps at 0 and +-1; to about 1e-10."""
    weighted = lambda x: function(x) * _DENSITY(x)
    parts = [integrate.quad(weighted, low, high, epsabs=1e-12)[0] for low, high in pairwise(EDGES)]
    return float(sum(parts))
