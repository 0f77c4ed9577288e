"""Theory of initialization: gains, signal propagation in wide networks, Jacobians, linear learning,
how long memory lasts.

    activation, weight and bias variance -> fixed points -> chi -> depth scales, phases, spectra

Wide layers: z_l = W_l phi(z_{l-1}) + b_l with entries of W of variance sigma_w^2 / fan_in and of b
sigma_b^2.

Gaussian expectations are Gauss-Legendre sums over panels. The panels end at the kinks of the
activation and follow two scales, the Gaussian's and the activation's own: phi(sqrt(q) z) bends
where |z| is about 1 / sqrt(q), which a large q hides between two nodes of any fixed rule. So they
are accurate to 1e-9 of the value, in practice 1e-12, for every activation here at variances from
1e-6 to 1e12, single and in pairs of any correlation.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, special

Direction = Literal["forward", "backward"]
Numbers = NDArray[np.floating]
Function = Callable[[Numbers], Numbers]

REACH = 9.0  # standard deviations that a Gaussian is integrated over: beyond lies 2e-19 of it
PANELS = (-REACH, -6.0, -4.0, -2.5, -1.2, 0.0, 1.2, 2.5, 4.0, 6.0, REACH)
WIDTH = 0.6  # a panel of the Gaussian's own resolves what is no narrower than this
TINY = 1e-12  # a square root of a variance that stands for the limit of none
RATIO = 4.0  # panels towards a narrow feature shrink by this factor each
NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)  # on [-1, 1], of every panel
HUGE = 1e12  # a variance that stands for infinity, where an activation is asked for its slope


class Activation(NamedTuple):
    """phi, its derivative, and where either has a kink or a jump."""

    phi: Function
    slope: Function
    kinks: tuple[float, ...] = ()


OfActivation = Callable[[Activation, Numbers], Numbers]


def _density(x: Numbers) -> Numbers:
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _identity(x: Numbers) -> Numbers:
    return x


def _tanh_slope(x: Numbers) -> Numbers:
    """1 / cosh(x)^2, where 1 - tanh(x)^2 would cancel."""
    decayed = np.exp(-2 * np.abs(x))
    return 4 * decayed / (1 + decayed) ** 2


def _sigmoid_slope(x: Numbers) -> Numbers:
    """s(x) s(-x), where s(x) (1 - s(x)) would cancel."""
    return special.expit(x) * special.expit(-x)


def _softsign(x: Numbers) -> Numbers:
    return x / (1 + np.abs(x))


def _softsign_slope(x: Numbers) -> Numbers:
    return 1 / (1 + np.abs(x)) ** 2


def _erf_slope(x: Numbers) -> Numbers:
    return 2 / math.sqrt(math.pi) * np.exp(-x * x)


def _hard_tanh(x: Numbers) -> Numbers:
    return np.clip(x, -1, 1)


def _hard_tanh_slope(x: Numbers) -> Numbers:
    return (np.abs(x) < 1) * 1.0


def _relu(x: Numbers) -> Numbers:
    return np.maximum(x, 0)


def _relu_slope(x: Numbers) -> Numbers:
    return (x > 0) * 1.0


def _leaky_relu(x: Numbers) -> Numbers:
    return np.where(x > 0, x, 0.01 * x)


def _leaky_relu_slope(x: Numbers) -> Numbers:
    return np.where(x > 0, 1, 0.01)


def _elu(x: Numbers) -> Numbers:
    # `where` computes both branches: without the minimum the exponential overflows at large x.
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _elu_slope(x: Numbers) -> Numbers:
    return np.exp(np.minimum(x, 0))


def _gelu(x: Numbers) -> Numbers:
    return x * special.ndtr(x)


def _gelu_slope(x: Numbers) -> Numbers:
    return special.ndtr(x) + x * _density(x)


def _silu(x: Numbers) -> Numbers:
    return x * special.expit(x)


def _silu_slope(x: Numbers) -> Numbers:
    return special.expit(x) * (1 + x * special.expit(-x))


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(_identity, np.ones_like),
    "tanh": Activation(np.tanh, _tanh_slope),
    "sigmoid": Activation(special.expit, _sigmoid_slope),
    "softsign": Activation(_softsign, _softsign_slope, (0.0,)),
    "erf": Activation(special.erf, _erf_slope),
    "hard_tanh": Activation(_hard_tanh, _hard_tanh_slope, (-1.0, 1.0)),
    "relu": Activation(_relu, _relu_slope, (0.0,)),
    "leaky_relu": Activation(_leaky_relu, _leaky_relu_slope, (0.0,)),
    "elu": Activation(_elu, _elu_slope, (0.0,)),
    "gelu": Activation(_gelu, _gelu_slope),
    "silu": Activation(_silu, _silu_slope),
}


def activation(name: str) -> Activation:
    """The activation of a name. Raises: ValueError for an unknown one."""
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation is called {name!r}; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def gaussian_mean(
    function: Function, kinks: tuple[float, ...] = (), scale: float = math.inf
) -> float:
    """E[f(z)] for z ~ N(0, 1), with f smooth between its kinks; to about 1e-12 of E|f(z)|.

    `scale` is the width of what f does around 0, where that is narrower than the Gaussian: 1 /
    sqrt(q) for a function of sqrt(q) z that bends at 1. Raises: ValueError for a scale that is not
    positive.
    """
    z, w = nodes_of(kinks, scale)
    return float(function(z) @ w)


def nodes_of(kinks: tuple[float, ...] = (), scale: float = math.inf) -> tuple[Numbers, Numbers]:
    """Nodes and weights of E over N(0, 1), split at the kinks and refined towards 0 down to
    `scale`."""
    if not scale > 0:
        raise ValueError(
            f"scale is a width in standard deviations and must be positive, got {scale}"
        )
    return _panels(np.asarray([*PANELS, *kinks, *_towards(scale, WIDTH)]))


def _panels(points: Numbers) -> tuple[Numbers, Numbers]:
    """Nodes and weights of E over N(0, 1), split at the points."""
    # Points beyond the reach fall together at its end, and unique leaves no panel of width 0.
    ends = np.unique(np.clip(points, -REACH, REACH))
    middle = (ends[1:] + ends[:-1]) / 2
    half = (ends[1:] - ends[:-1]) / 2
    z = (middle[:, None] + half[:, None] * NODES).ravel()
    weights = (half[:, None] * WEIGHTS).ravel() * _density(z)
    return z, weights


def _towards(scale: float, widest: float) -> Numbers:
    """Ends of panels around a feature of width `scale` at 0: plus and minus scale, 4 scale, 16
    scale, to `widest`.

    Panels that grow by a factor hold any number of orders of magnitude in a few: 1 / sqrt(q) is
    1e-6 at a variance of 1e12."""
    if scale >= widest:
        return np.empty(0)
    steps = np.arange(math.ceil(math.log(widest / scale, RATIO)))
    ends = scale * RATIO**steps
    return np.concatenate([-ends[::-1], ends])


def _value(nonlinearity: Activation, u: Numbers) -> Numbers:
    return nonlinearity.phi(u)


def _slope(nonlinearity: Activation, u: Numbers) -> Numbers:
    return nonlinearity.slope(u)


def _squared_value(nonlinearity: Activation, u: Numbers) -> Numbers:
    return nonlinearity.phi(u) ** 2


def _squared_slope(nonlinearity: Activation, u: Numbers) -> Numbers:
    return nonlinearity.slope(u) ** 2


def _fourth_power_of_slope(nonlinearity: Activation, u: Numbers) -> Numbers:
    return nonlinearity.slope(u) ** 4


def _std(nonlinearity: Activation, q: float) -> float:
    """sqrt(q), or what stands for the limit from above where the slope jumps at 0.

    There a pre-activation of 0 has one of two slopes, each half of the time, and never the one that
    the derivative is said to have at 0: chi of ReLU is sigma_w^2 / 2 at every variance.
    """
    if q == 0 and 0 in nonlinearity.kinks:
        return TINY
    return math.sqrt(q)


def mean_at(name: str, q: float, function: OfActivation) -> float:
    """E[f(phi, sqrt(q) z)]: the mean of a function of an activation, at pre-activations of variance
    q; at 0 its limit from above."""
    nonlinearity = activation(name)
    root = _std(nonlinearity, q)

    def of_standard(z: Numbers) -> Numbers:
        return function(nonlinearity, root * z)

    if root == 0:
        # A constant: nothing bends.
        return gaussian_mean(of_standard)
    kinks = tuple(kink / root for kink in nonlinearity.kinks)
    return gaussian_mean(of_standard, kinks, scale=1 / root)


def pair_mean_at(name: str, q: float, c: float, function: OfActivation) -> float:
    """E[f(phi, u1) f(phi, u2)] for Gaussians of variance q and correlation c.

    u1 = r z1 and u2 = r (c z1 + s z2) with r^2 = q and s^2 = 1 - c^2. Given z1, the second factor
    bends where z2 is near -c z1 / s, within 1 / (r s). Its mean over z2 bends within the larger of
    1 / r and s around z1 = 0, and within s around a kink of f.
    """
    nonlinearity = activation(name)
    root = _std(nonlinearity, q)
    rest = math.sqrt((1 - c) * (1 + c))  # 1 - c^2 would lose the digits of a c near 1
    if rest == 0 or root == 0:
        # There is one variable: u2 is u1 or its negative.
        sign = 1.0 if c > 0 else -1.0

        def product(nonlinearity: Activation, u: Numbers) -> Numbers:
            return function(nonlinearity, u) * function(nonlinearity, sign * u)

        return mean_at(name, q, product)
    kinks = np.asarray([kink / root for kink in nonlinearity.kinks])
    around_kinks = (kinks[:, None] + _towards(rest, WIDTH)).ravel()
    # With every point its negative: a negative correlation mirrors what z2 sees of a kink.
    points = [PANELS, kinks, -kinks, _towards(1 / root, WIDTH), around_kinks, -around_kinks]
    z1, w1 = _panels(np.concatenate(points))
    z2, half = _nodes_given(z1, c, root, rest, kinks)
    u2 = root * (c * z1[:, None, None] + rest * z2)
    weighted = function(nonlinearity, u2) * _density(z2) * half[..., None] * WEIGHTS
    means_of_second = weighted.sum((1, 2))
    means_of_pair = function(nonlinearity, root * z1) * means_of_second
    return float(means_of_pair @ w1)


def _nodes_given(
    z1: Numbers, c: float, root: float, rest: float, kinks: Numbers
) -> tuple[Numbers, Numbers]:
    """Nodes for z2 given every z1, `[z1, panel, node]`, and half the widths of the panels.

    Each z1 has panels of its own, since the bend of u2 moves with it; all have as many, some of
    width 0, so that they are one array."""
    middle_of_bend = -c * z1[:, None] / rest
    points = [
        np.broadcast_to(PANELS, (len(z1), len(PANELS))),
        middle_of_bend + kinks / rest,
        middle_of_bend + _towards(1 / (root * rest), 2 * REACH),
    ]
    ends = np.sort(np.clip(np.concatenate(points, 1), -REACH, REACH), 1)
    middle = (ends[:, 1:] + ends[:, :-1]) / 2
    half = (ends[:, 1:] - ends[:, :-1]) / 2
    return middle[..., None] + half[..., None] * NODES, half


@cache
def gain(activation: str, direction: Direction = "forward") -> float:
    """The gain g at which weights of variance g^2 / fan keep a unit-variance signal through an
    activation.

    forward: g = E[phi(z)^2]^(-1/2); backward: g = E[phi'(z)^2]^(-1/2); z ~ N(0, 1).
    Units: dimensionless; `fan` is the fan in forward, the fan out backward.
    Assumes wide layers and pre-activations of variance 1. Tables differ: the 5/3 for tanh is
    empirical, not this. Raises: ValueError for an unknown activation or direction.
    Source: He et al. (2015), eq. 7 to 14, for ReLU; the same argument for any phi.
    """
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction is 'forward' or 'backward', got {direction!r}")
    square = _squared_value if direction == "forward" else _squared_slope
    return mean_at(activation, 1.0, square) ** -0.5


def variance_map(activation: str, q: float, sigma_w2: float, sigma_b2: float = 0.0) -> float:
    """q_{l+1} = sigma_w^2 E[phi(sqrt(q_l) z)^2] + sigma_b^2: the variance of pre-activations, layer
    by layer.

    Raises: ValueError for an unknown activation or a negative variance. Source: Poole et al.
    (2016), eq. 3.
    """
    _check(q=q, sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    return sigma_w2 * mean_at(activation, q, _squared_value) + sigma_b2


def correlation_map(
    activation: str, c: float, q: float, sigma_w2: float, sigma_b2: float = 0.0
) -> float:
    """c_{l+1} = (sigma_w^2 E[phi(u1) phi(u2)] + sigma_b^2) / q, u of variance q and correlation
    c_l; q stays.

    Raises: ValueError for |c| > 1 and as `variance_map`. Source: Poole et al. (2016), eq. 5.
    """
    _check(q=q, sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    if not -1 <= c <= 1:
        raise ValueError(f"a correlation lies in [-1, 1], got {c}")
    return (sigma_w2 * pair_mean_at(activation, q, c, _value) + sigma_b2) / q


def chi(activation: str, sigma_w2: float, q: float) -> float:
    """chi = sigma_w^2 E[phi'(sqrt(q) z)^2]: the factor on a small difference, and on the squared
    gradient, per layer.

    Below 1 the net is ordered (gradients vanish), above 1 chaotic (they explode). Source: Poole et
    al. (2016), eq. 6."""
    _check(q=q, sigma_w2=sigma_w2)
    return sigma_w2 * mean_at(activation, q, _squared_slope)


@cache
def fixed_point_q(activation: str, sigma_w2: float, sigma_b2: float = 0.0) -> float:
    """q*, the variance that a deep net settles at: the stable fixed point of `variance_map`.

    0 where signals die, inf where they grow without bound; 1 where every variance stays (ReLU at
    sigma_w^2 = 2). Assumes an input of variance near 1: among several stable points, the one on
    that side of the next unstable one.
    """

    def growth(log_q: float) -> float:
        """log(q_{l+1} / q_l)."""
        q_after = variance_map(activation, math.exp(log_q), sigma_w2, sigma_b2)
        return math.log(q_after or 1e-300) - log_q

    at_one = growth(0.0)
    if abs(at_one) < 1e-9:
        # The variance stays at 1, as it does where all of them stay.
        return 1.0
    # The variance moves from 1 in one direction, and stops where its growth first changes sign.
    steps = np.arange(0.0, 60.0, 0.25) * math.copysign(1, at_one)
    for near, far in pairwise(steps.tolist()):
        if growth(far) * at_one <= 0:
            return math.exp(_root(growth, near, far))
    return math.inf if at_one > 0 else 0.0


@cache
def fixed_point_c(activation: str, sigma_w2: float, sigma_b2: float = 0.0) -> float:
    """c*, the correlation that two inputs of a deep net settle at: 1 in the ordered phase, less in
    the chaotic one.

    To about 1e-12; 1 also where c* is within 1e-10 of it.
    """
    q = fixed_point_q(activation, sigma_w2, sigma_b2)
    if q in (0.0, math.inf) or chi(activation, sigma_w2, q) <= 1 + 1e-9:
        return 1.0

    def growth(c: float) -> float:
        return correlation_map(activation, c, q, sigma_w2, sigma_b2) - c

    # 1 is a fixed point too, an unstable one, so the root is bracketed short of it; a large bias
    # variance brings c* as near to 1 as the last of these.
    for short_of_one in (1e-4, 1e-6, 1e-8, 1e-10):
        if growth(1 - short_of_one) < -1e-13:
            return _root(growth, -1e-12, 1 - short_of_one)
    return 1.0


def depth_scales(activation: str, sigma_w2: float, sigma_b2: float = 0.0) -> tuple[float, float]:
    """(xi_q, xi_c): the number of layers over which a difference in variance, and in correlation,
    falls by 1/e.

    xi_q = -1 / ln(d q_{l+1} / d q_l) at q*; xi_c = -1 / ln(sigma_w^2 E[phi'(u1) phi'(u2)]) at (q*,
    c*). inf at criticality, where differences fall as a power of the depth; nan where the signal
    dies or grows without bound. Source: Schoenholz et al. (2017), eq. 9 and 11, with the derivative
    by q in place of phi''.
    """
    q = fixed_point_q(activation, sigma_w2, sigma_b2)
    if q in (0.0, math.inf):
        return math.nan, math.nan
    root = math.sqrt(q)

    def by_q(nonlinearity: Activation, u: Numbers) -> Numbers:
        """The derivative of phi(sqrt(q) z)^2 by q, but for a factor 1 / sqrt(q)."""
        return nonlinearity.phi(u) * nonlinearity.slope(u) * u / root

    q_slope = sigma_w2 * mean_at(activation, q, by_q) / root
    c = fixed_point_c(activation, sigma_w2, sigma_b2)
    c_slope = sigma_w2 * pair_mean_at(activation, q, c, _slope)
    return _depth_scale(q_slope), _depth_scale(c_slope)


def gradient_scale(activation: str, sigma_w2: float, sigma_b2: float = 0.0) -> float:
    """-1 / ln chi: layers over which the squared gradient falls by 1/e; negative where it grows,
    inf at criticality."""
    q = fixed_point_q(activation, sigma_w2, sigma_b2)
    if q == math.inf:
        return math.nan
    return _depth_scale(chi(activation, sigma_w2, q))


def _depth_scale(slope: float) -> float:
    """Layers over which a difference that a layer multiplies by `slope` falls by 1/e."""
    if slope <= 0:
        return 0.0
    if abs(slope - 1) < 1e-9:
        return math.inf
    return -1 / math.log(slope)


@cache
def critical_sigma_w2(activation: str, sigma_b2: float = 0.0) -> float:
    """The weight variance at which chi(q*) = 1, for a bias variance: the line between order and
    chaos.

    For the ReLU family it is 1 / E[phi'^2], whatever the bias; only at sigma_b^2 = 0 is q* finite
    there.
    Raises: ValueError where there is none in (1e-3, 1e3), as for activations whose chi has no such
    point.
    Source: Poole et al. (2016); tanh at sigma_b^2 = 0.05: 1.7610.
    """
    _check(sigma_b2=sigma_b2)
    homogeneous = activation in ("linear", "relu", "leaky_relu")
    if homogeneous:
        # The slope does not depend on the size of a pre-activation, so chi not on q.
        return 1 / chi(activation, 1.0, 1.0)

    def excess(log_w2: float) -> float:
        """chi(q*) - 1; below 0 where signals die, also where chi itself is 1 to rounding."""
        w2 = math.exp(log_w2)
        q = fixed_point_q(activation, w2, sigma_b2)
        below = 1e-12 if q == 0 else 0
        return chi(activation, w2, min(q, HUGE)) - 1 - below

    # chi(q*) need not grow with the variance: the first crossing upwards is the critical one.
    grid = np.linspace(math.log(1e-3), math.log(1e3), 57).tolist()
    values = [excess(log_w2) for log_w2 in grid]
    points = zip(grid, values, strict=True)
    for (low, before), (high, after) in pairwise(points):
        if before < 0 <= after:
            return math.exp(_root(excess, low, high))
    raise ValueError(
        f"{activation} has no critical weight variance between 1e-3 and 1e3 at sigma_b2 = "
        f"{sigma_b2}"
    )


def phase(
    activation: str, sigma_w2: float, sigma_b2: float = 0.0
) -> Literal["ordered", "critical", "chaotic"]:
    """Which side of the critical line: the sign of chi(q*) - 1, critical within 1e-6."""
    q = fixed_point_q(activation, sigma_w2, sigma_b2)
    excess = chi(activation, sigma_w2, min(q, HUGE)) - 1
    if abs(excess) < 1e-6:
        return "critical"
    return "ordered" if excess < 0 else "chaotic"


def jacobian_moments(
    activation: str,
    sigma_w2: float,
    sigma_b2: float = 0.0,
    depth: int = 1,
    weights: Literal["gaussian", "orthogonal"] = "gaussian",
) -> tuple[float, float]:
    """Mean and variance of the squared singular values of the input-output Jacobian of a deep, wide
    net.

    m1 = chi^L; variance = m1^2 L (mu2 / mu1^2 - 1 - s1), mu_k = E[phi'(sqrt(q*) z)^(2k)], s1 = -1
    for Gaussian, 0 for orthogonal weights (of variance sigma_w^2 / n each). The input is at q*.
    Raises: ValueError for other weights, or where q* is infinite. Source: Pennington et al. (2017),
    eq. 20 to 22.
    """
    if weights not in ("gaussian", "orthogonal"):
        raise ValueError(f"weights are 'gaussian' or 'orthogonal', got {weights!r}")
    q = fixed_point_q(activation, sigma_w2, sigma_b2)
    if q == math.inf:
        raise ValueError(
            f"{activation} at sigma_w2 = {sigma_w2}, sigma_b2 = {sigma_b2} has no finite variance"
        )
    mu1 = mean_at(activation, q, _squared_slope)
    mu2 = mean_at(activation, q, _fourth_power_of_slope)
    s1 = -1 if weights == "gaussian" else 0
    m1 = (sigma_w2 * mu1) ** depth
    variance = m1**2 * depth * (mu2 / mu1**2 - 1 - s1)
    return m1, variance


def mean_singular_value(n_times_variance: float) -> float:
    """8 / (3 pi) sqrt(n Var W): the mean singular value of a large square matrix of independent
    entries.

    The mean of the quarter-circle law on [0, 2 sqrt(n Var W)]: 0.8488 for Glorot's normalized,
    0.4901 for his standard initialization. Source: Marchenko & Pastur (1967), for ratio 1.
    """
    _check(n_times_variance=n_times_variance)
    return 8 / (3 * math.pi) * math.sqrt(n_times_variance)


def mode_strength(t: Numbers, s: float, u0: float, tau: float) -> Numbers:
    """u(t) = s e^{2 s t / tau} / (e^{2 s t / tau} - 1 + s / u0): a mode of a linear net of two
    matrices as it learns.

    `s` is the strength to learn, `u0` the initial one, tau = 1 / learning rate; t in steps.
    Assumes white inputs and decoupled, balanced initial weights.
    Source: Saxe et al. (2014), eq. 12.
    """
    # Divided by the growing exponential, which would overflow at a late t.
    decayed = np.exp(-2 * s * np.asarray(t) / tau)
    return s / (1 + (s / u0 - 1) * decayed)


def deep_mode_strength(t: Numbers, s: float, u0: float, tau: float, n_layers: int) -> Numbers:
    """u(t) with tau du/dt = (N - 1) u^(2 - 2 / (N - 1)) (s - u): the same for N layers of units, N
    - 1 matrices.

    Raises: ValueError for fewer than 3 layers. Source: Saxe et al. (2014), eq. 15, integrated
    numerically.
    """
    if n_layers < 3:
        raise ValueError(
            f"a linear net that learns modes has 3 layers of units or more, got {n_layers}"
        )
    m = n_layers - 1

    def slope(_: float, u: Numbers) -> Numbers:
        return m * u ** (2 - 2 / m) * (s - u) / tau

    times = np.asarray(t, float)
    solved = integrate.solve_ivp(
        slope, (0.0, float(times[-1])), [u0], t_eval=times, rtol=1e-9, atol=1e-12
    )
    return solved.y[0]


def learning_time(s: float, u0: float, u_final: float, tau: float, n_layers: int = 3) -> float:
    """Steps for a mode to grow from u0 to u_final: the integral of tau du / ((N - 1) u^(2 - 2/(N -
    1)) (s - u)).

    For N = 3: (tau / 2 s) ln(u_final (s - u0) / (u0 (s - u_final))). Source: Saxe et al. (2014),
    eq. 10 and 16.
    """
    if not 0 < u0 < u_final < s:
        raise ValueError(
            f"learning_time needs 0 < u0 < u_final < s, got u0={u0}, u_final={u_final}, s={s}"
        )
    m = n_layers - 1

    def time_per_log(log_u: float) -> float:
        """dt / d(ln u) over tau: over u, quad would miss what a small u0 does near 0."""
        u = math.exp(log_u)
        return u / (m * math.exp(log_u * (2 - 2 / m)) * (s - u))

    steps, _ = integrate.quad(time_per_log, math.log(u0), math.log(u_final), limit=200)
    return tau * steps


def half_life(retention: Numbers | float) -> Numbers:
    """ln 2 / -ln a: the steps in which half of a state is lost of which the share a is kept a step.

    Shapes: any. 0 where nothing is kept, infinite where everything is. Raises: ValueError for
    shares outside of [0, 1].
    """
    share = np.asarray(retention, float)
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(
            f"half_life needs shares of a state that are kept, 0 to 1, got {share.min():g} to "
            f"{share.max():g}"
        )
    with np.errstate(divide="ignore"):
        return np.asarray(math.log(2) / np.abs(np.log(share)))


def glr_half_life(step_bias: Numbers | float, log_rate: Numbers | float) -> Numbers:
    """ln 2 / (A dt), A = e^log_rate, dt = softplus(step_bias): the half-life in steps of the units
    of a `glr` that sees nothing, by its parameters.

    Shapes: any that broadcast. Inputs move dt around that. Source: Gu & Dao (2023), Mamba, eq. 4,
    for A_t = exp(-A dt).
    """
    dt = np.logaddexp(0, np.asarray(step_bias, float))
    return np.asarray(math.log(2) / (np.exp(np.asarray(log_rate, float)) * dt))


def rg_lru_half_life(
    decay_logit: Numbers | float, gate_bias: Numbers | float = 0.0, power: float = 8.0
) -> Numbers:
    """ln 2 / (c r softplus(-L)), r = sigmoid(gate_bias): the half-life in steps of the units of an
    `rg_lru` that sees nothing, by its parameters.

    -ln sigmoid(L) = softplus(-L); c, the `power`, is 8. Shapes: any that broadcast. Inputs move r
    around that. Source: De et al. (2024), Griffin, eq. 3.
    """
    rate = np.logaddexp(0, -np.asarray(decay_logit, float))
    gate = special.expit(np.asarray(gate_bias, float))
    return np.asarray(math.log(2) / (power * gate * rate))


def median_half_life(
    low: float = 1e-3, high: float = 0.1, slowest: float = 1.0, fastest: float = 16.0
) -> float:
    """ln 2 / (sqrt(low high) e^E[ln A]): the median half-life of units whose time steps are
    log-uniform on [low, high] and whose rates A are uniform on [slowest, fastest].

    E[ln A] = (f ln f - s ln s) / (f - s) - 1. P(dt A < m) is linear in ln m where every A leaves m
    / A within [low, high], and so is a half at m = sqrt(low high) e^E[ln A]. 9.79 steps as Mamba-2
    has it. Raises: ValueError unless low < high and slowest < fastest are positive, and where some
    m / A lies outside.
    """
    if not (0 < low < high and 0 < slowest < fastest):
        raise ValueError(
            f"median_half_life needs 0 < low < high and 0 < slowest < fastest, got {low}, {high}, "
            f"{slowest}, {fastest}"
        )
    weighted = fastest * math.log(fastest) - slowest * math.log(slowest)
    mean_log_rate = weighted / (fastest - slowest) - 1
    median = math.sqrt(low * high) * math.exp(mean_log_rate)
    if median / fastest < low or median / slowest > high:
        raise ValueError(
            f"the time steps [{low}, {high}] are too few beside the rates [{slowest}, {fastest}] "
            "for this formula; take the median of a sample"
        )
    return math.log(2) / median


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    root: Any = optimize.brentq(function, low, high, xtol=1e-13)
    return float(root)


def _check(**sizes: float) -> None:
    for name, value in sizes.items():
        if not value >= 0:
            raise ValueError(f"{name} is a variance and must not be negative, got {value}")
