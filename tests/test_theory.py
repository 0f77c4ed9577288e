"""Theory against closed forms, against its own derivatives, and against wide networks."""

import math
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
from cases import every, quick
from scipy import integrate

from jaxinit import theory
from jaxinit.theory import (
    ACTIVATIONS,
    chi,
    critical_sigma_w2,
    depth_scales,
    fixed_point_c,
    fixed_point_q,
    gain,
)

WIDTH = 1000


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
def test_quadrature_against_an_adaptive_one_and_slopes_against_differences(activation: str) -> None:
    phi, slope, _ = ACTIVATIONS[activation]
    for direction, function in (("forward", phi), ("backward", slope)):

        def weighted(x: float, function=function) -> float:
            density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
            return float(function(np.asarray([x]))[0]) ** 2 * density

        mean_square = 0.0
        for low, high in ((-9, -1), (-1, 0), (0, 1), (1, 9)):
            mean_square += integrate.quad(weighted, low, high, epsabs=1e-12)[0]
        assert gain(activation, direction) ** -2 == pytest.approx(mean_square, rel=1e-8)
    x = np.asarray([-2.3, -0.4, 0.3, 1.7])
    difference = phi(x + 1e-6) - phi(x - 1e-6)
    np.testing.assert_allclose(slope(x), difference / 2e-6, atol=1e-6)


def test_the_tables_five_thirds_is_not_the_gain_of_tanh() -> None:
    assert gain("tanh") == pytest.approx(1.5925, abs=1e-4)


def arc_cosine(c: float) -> float:
    """E[relu(u1) relu(u2)] for unit variances (Cho & Saul 2009)."""
    return (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / (2 * math.pi)


@pytest.mark.parametrize("c", [-0.9, -0.3, 0.0, 0.5, 0.99])
@pytest.mark.parametrize("q", [0.1, 1.0, 7.0])
def test_correlation_maps_with_a_closed_form(c: float, q: float) -> None:
    got = theory.correlation_map("relu", c, q, 2.0, 0.0)
    assert got == pytest.approx(2 * arc_cosine(c), abs=1e-8)
    # Williams (1997): E[erf(u1) erf(u2)] = (2/pi) asin(2 q c / (1 + 2 q)).
    got = theory.correlation_map("erf", c, q, 1.5, 0.2) * q
    mean = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
    assert got == pytest.approx(1.5 * mean + 0.2, abs=1e-8)
    assert theory.correlation_map("linear", c, q, 1.0, 0.1 * q) == pytest.approx(c + 0.1)


@pytest.mark.parametrize("q", [0.01, 0.5, 3.0, 40.0])
def test_variance_maps_and_slopes_with_a_closed_form(q: float) -> None:
    assert theory.variance_map("relu", q, 2.0, 0.3) == pytest.approx(q + 0.3, rel=1e-9)
    mean_square = 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
    assert theory.variance_map("erf", q, 1.0) == pytest.approx(mean_square, rel=1e-8)
    assert chi("erf", 1.0, q) == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-8)
    assert chi("hard_tanh", 1.3, q) == pytest.approx(1.3 * math.erf(1 / math.sqrt(2 * q)), rel=1e-8)
    assert chi("relu", 1.3, q) == pytest.approx(0.65)


VARIANCES = [1e-6, 1e-3, 0.1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e6, 1e8, 1e10, 1e12]


def adaptive_mean(function, q: float) -> float:
    """E[f(u)], u of variance q, by adaptive quadrature over x with u = sinh(x), which gives every
    scale its share."""
    root = math.sqrt(q)

    def weighted(x: float) -> float:
        u = math.sinh(x)
        density = math.exp(-((u / root) ** 2) / 2) / (root * math.sqrt(2 * math.pi))
        return float(function(np.asarray([u]))[0]) * density * math.cosh(x)

    far, kink = math.asinh(9.5 * root), math.asinh(1.0)
    ends = {-far, far}
    for end in (-kink, 0.0, kink):
        if abs(end) < far:
            ends.add(end)
    parts = []
    for low, high in pairwise(sorted(ends)):
        part, _ = integrate.quad(weighted, low, high, epsabs=0, epsrel=1e-11, limit=400)
        parts.append(part)
    return math.fsum(parts)


def value(nonlinearity, u):
    return nonlinearity.phi(u)


def slope(nonlinearity, u):
    return nonlinearity.slope(u)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("q", VARIANCES)
def test_quadrature_is_right_to_1e9_at_every_variance(activation: str, q: float) -> None:
    nonlinearity = ACTIVATIONS[activation]
    expected = adaptive_mean(lambda u: value(nonlinearity, u) ** 2, q)
    assert theory.variance_map(activation, q, 1.0) == pytest.approx(expected, rel=1e-9)
    for power in (2, 4):

        def power_of_slope(nonlinearity, u, power=power):
            return slope(nonlinearity, u) ** power

        expected = adaptive_mean(partial(power_of_slope, nonlinearity), q)
        measured = theory.mean_at(activation, q, power_of_slope)
        assert measured == pytest.approx(expected, rel=1e-9)


def test_at_no_variance_a_kink_at_0_has_its_limit() -> None:
    """Any pre-activation, however small, has one of the two slopes, each half of the time."""
    assert theory.fixed_point_q("relu", 0.5) == 0
    assert theory.chi("relu", 0.5, 0.0) == pytest.approx(0.25, abs=1e-12)
    assert theory.chi("leaky_relu", 1.0, 0.0) == pytest.approx((1 + 0.01**2) / 2, abs=1e-12)
    assert theory.chi("tanh", 1.0, 0.0) == pytest.approx(1.0, abs=1e-12)
    mean, variance = theory.jacobian_moments("relu", 0.5, depth=3)
    assert mean == pytest.approx(0.25**3)
    assert variance == pytest.approx(0.25**6 * 3 * 2)


def test_slopes_at_large_variances_follow_their_asymptotes() -> None:
    # E[f(sqrt(q) z)] -> (integral of f) / sqrt(2 pi q): of sech^4 that is 4/3, of the squared slope
    # of sigmoid 1/6.
    for q in (1e8, 1e10, 1e12):
        density_at_0 = 1 / math.sqrt(2 * math.pi * q)
        assert chi("tanh", 1.0, q) == pytest.approx(4 / 3 * density_at_0, rel=2 / q)
        assert chi("sigmoid", 1.0, q) == pytest.approx(1 / 6 * density_at_0, rel=10 / q)
        assert chi("erf", 1.0, q) == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-9)
    assert chi("tanh", 1.0, 1e4) == pytest.approx(0.005319, abs=5e-7)


@pytest.mark.parametrize("c", [-1.0, -0.999999, -0.7, 0.0, 0.3, 0.99, 1 - 1e-6, 1 - 1e-12, 1.0])
@pytest.mark.parametrize("q", VARIANCES)
def test_pairs_are_right_at_every_variance_and_correlation(q: float, c: float) -> None:
    erf = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
    assert theory.pair_mean_at("erf", q, c, value) == pytest.approx(erf, rel=1e-9, abs=1e-16)
    # E[erf'(u1) erf'(u2)] = (4/pi) / sqrt((1 + 2 q)^2 - (2 q c)^2), without the cancellation.
    erf_slopes = 4 / math.pi / math.sqrt(1 + 4 * q + 4 * q**2 * (1 - c) * (1 + c))
    assert theory.pair_mean_at("erf", q, c, slope) == pytest.approx(erf_slopes, rel=1e-9)
    relu = (math.sqrt((1 - c) * (1 + c)) + c * (math.pi - math.acos(c))) / (2 * math.pi)
    got = theory.pair_mean_at("relu", q, c, value)
    assert got == pytest.approx(q * relu, rel=1e-9, abs=1e-12 * q)
    relu_slopes = (math.pi - math.acos(c)) / (2 * math.pi)
    got = theory.pair_mean_at("relu", q, c, slope)
    assert got == pytest.approx(relu_slopes, rel=1e-9, abs=1e-9)


SMOOTH = ["tanh", "sigmoid", "softsign", "hard_tanh", "gelu", "silu", "elu"]


@pytest.mark.parametrize(
    ("activation", "q"), every(3, of=product(SMOOTH, [1e-2, 1.0, 1e3, 1e6, 1e12]))
)
def test_pairs_of_slopes_are_the_derivative_of_pairs_of_values(activation: str, q: float) -> None:
    # d E[phi(u1) phi(u2)] / dc = q E[phi'(u1) phi'(u2)] (Price 1958), so the integral over c is
    # what the first grows by.
    nodes, weights = np.polynomial.legendre.leggauss(14)
    for low, high in ((-0.8, 0.0), (0.0, 0.8)):
        integral = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            c = (low + high + (high - low) * node) / 2
            integral += weight * theory.pair_mean_at(activation, q, c, slope)
        at_low = theory.pair_mean_at(activation, q, low, value)
        at_high = theory.pair_mean_at(activation, q, high, value)
        assert at_high - at_low == pytest.approx(q * integral * (high - low) / 2, rel=1e-9)


def test_deep_nets_of_large_variance() -> None:
    # N(0, 1) kernels of 512 units: sigma_w^2 = 512. q solves q = 512 E[tanh^2], by another
    # quadrature.
    q = fixed_point_q("tanh", 512.0)
    mean_square = adaptive_mean(lambda u: np.tanh(u) ** 2, q)
    assert q == pytest.approx(512 * mean_square, rel=1e-9)
    by_q = 512 * adaptive_mean(lambda u: np.tanh(u) / np.cosh(u) ** 2 * u, q) / q
    assert depth_scales("tanh", 512.0)[0] == pytest.approx(-1 / math.log(by_q), rel=1e-8)
    fourth = adaptive_mean(lambda u: np.cosh(u) ** -8.0, q)
    second = adaptive_mean(lambda u: np.cosh(u) ** -4.0, q)
    m1, variance = theory.jacobian_moments("tanh", 512.0, depth=2)
    assert m1 == pytest.approx((512 * second) ** 2, rel=1e-8)
    assert variance == pytest.approx(m1**2 * 2 * fourth / second**2, rel=1e-8)
    # erf has closed forms for all of it, with a bias so large that c* is within 1e-7 of 1.
    q = fixed_point_q("erf", 3e4, 1e8)
    c = fixed_point_c("erf", 3e4, 1e8)
    variance = 3e4 * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) + 1e8
    assert q == pytest.approx(variance, rel=1e-12)
    covariance = 3e4 * 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q)) + 1e8
    mapped = covariance / q
    assert 1e-9 < 1 - c < 1e-6
    assert mapped - c == pytest.approx(0, abs=1e-13)


def test_fixed_points_with_a_closed_form() -> None:
    assert fixed_point_q("relu", 1.5, 0.3) == pytest.approx(0.3 / (1 - 0.75), rel=1e-9)
    assert fixed_point_q("relu", 2.0) == 1.0, "every variance stays"
    assert fixed_point_q("relu", 2.1) == math.inf
    assert fixed_point_q("relu", 1.9) == 0.0
    assert fixed_point_q("tanh", 0.9) == 0.0
    assert fixed_point_q("linear", 0.5, 1.0) == pytest.approx(2.0)
    assert fixed_point_c("tanh", 1.2, 0.1) == 1.0
    assert 0 < fixed_point_c("tanh", 3.0, 0.1) < 1
    assert fixed_point_c("tanh", 3.0, 0.0) == pytest.approx(0.0, abs=1e-9)
    # erf: q* solves q = sw2 (2/pi) asin(2q/(1+2q)) + sb2.
    q = fixed_point_q("erf", 2.0, 0.1)
    assert q == pytest.approx(2.0 * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) + 0.1, rel=1e-9)


@pytest.mark.slow
def test_the_critical_line() -> None:
    # by 200-node Gauss-Hermite, independently
    assert critical_sigma_w2("tanh", 0.05) == pytest.approx(1.7610, abs=1e-3)
    assert critical_sigma_w2("relu") == pytest.approx(2.0)
    assert critical_sigma_w2("linear") == pytest.approx(1.0)
    # phi'(0) = 1 at no bias, where q* goes to 0
    assert critical_sigma_w2("tanh") == pytest.approx(1.0, abs=0.02)
    assert critical_sigma_w2("erf") == pytest.approx(math.pi / 4, rel=0.02)
    bias_variances = (0.01, 0.1, 1.0)
    line = [critical_sigma_w2("tanh", sigma_b2) for sigma_b2 in bias_variances]
    assert (np.diff(line) > 0).all()
    for sigma_b2, w2 in zip(bias_variances, line, strict=True):
        assert chi("tanh", w2, fixed_point_q("tanh", w2, sigma_b2)) == pytest.approx(1, abs=1e-6)
        assert theory.phase("tanh", w2, sigma_b2) == "critical"
        assert theory.phase("tanh", 0.9 * w2, sigma_b2) == "ordered"
        assert theory.phase("tanh", 1.1 * w2, sigma_b2) == "chaotic"


@pytest.mark.parametrize("sigma_w2", [1.2, 1.5, 2.5, 4.0])
def test_depth_scales_are_the_slopes_of_the_maps(sigma_w2: float) -> None:
    xi_q, xi_c = depth_scales("tanh", sigma_w2, 0.05)
    q, c = fixed_point_q("tanh", sigma_w2, 0.05), fixed_point_c("tanh", sigma_w2, 0.05)
    by_q = (theory.variance_map("tanh", q * 1.0001, sigma_w2, 0.05) - q) / (q * 0.0001)
    assert xi_q == pytest.approx(-1 / math.log(by_q), rel=1e-3)
    near = c - 1e-5
    by_c = (c - theory.correlation_map("tanh", near, q, sigma_w2, 0.05)) / (c - near)
    assert xi_c == pytest.approx(-1 / math.log(by_c), rel=1e-2)
    xi_gradient = theory.gradient_scale("tanh", sigma_w2, 0.05)
    if c == 1.0:
        assert xi_c == pytest.approx(xi_gradient, rel=1e-6)
    else:
        assert xi_gradient < 0, "gradients grow in the chaotic phase"


def deep_net(
    activation: str, sigma_w2: float, sigma_b2: float, depth: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Variances and correlations of the pre-activations of two inputs, and variances of
    back-propagated gradients."""
    draws = np.random.default_rng(seed)
    nonlinearity = ACTIVATIONS[activation]
    x = draws.normal(size=(2, WIDTH))
    x[1] = 0.6 * x[0] + 0.8 * x[1]
    q = fixed_point_q(activation, sigma_w2, sigma_b2)
    z = math.sqrt(q) * x
    moments, slopes, matrices = [], [], []
    for _ in range(depth):
        variances = np.mean(z**2, axis=1)
        correlation = np.mean(z[0] * z[1]) / math.sqrt(variances[0] * variances[1])
        moments.append((variances[0], correlation))
        slopes.append(nonlinearity.slope(z[0]))
        w = draws.normal(size=(WIDTH, WIDTH)) * math.sqrt(sigma_w2 / WIDTH)
        matrices.append(w)
        z = nonlinearity.phi(z) @ w + math.sqrt(sigma_b2) * draws.normal(size=WIDTH)
    back = draws.normal(size=WIDTH)
    sizes = []
    for w, slope_here in zip(reversed(matrices), reversed(slopes), strict=True):
        back = (w @ back) * slope_here
        sizes.append(np.mean(back**2))
    return np.asarray(moments), np.asarray(sizes)


@pytest.mark.parametrize(
    ("activation", "sigma_w2", "sigma_b2"),
    every(
        3,
        of=[
            ("tanh", 1.3, 0.05),
            ("tanh", 2.5, 0.05),
            ("erf", 2.0, 0.1),
            ("relu", 1.8, 0.2),
            ("hard_tanh", 1.5, 0.1),
        ],
    ),
)
def test_maps_against_wide_nets(activation: str, sigma_w2: float, sigma_b2: float) -> None:
    depth = 6
    nets = [deep_net(activation, sigma_w2, sigma_b2, depth, seed) for seed in range(6)]
    variances, correlations = np.mean([moments for moments, _ in nets], 0).T
    q = fixed_point_q(activation, sigma_w2, sigma_b2)
    c = 0.6
    expected = []
    for _ in range(depth):
        expected.append(c)
        c = theory.correlation_map(activation, c, q, sigma_w2, sigma_b2)
    np.testing.assert_allclose(variances, [q] * depth, rtol=0.05)
    np.testing.assert_allclose(correlations, expected, atol=0.04)
    grown = np.mean([np.log(sizes[-1] / sizes[0]) / (depth - 1) for _, sizes in nets])
    assert grown == pytest.approx(math.log(chi(activation, sigma_w2, q)), abs=0.05)


def relu_jacobians(weights: str) -> dict[int, np.ndarray]:
    """Of 8 wide ReLU nets, by depth: the mean of their squared singular values and of their fourth
    powers, `[8, 2]`."""
    n, draws = 400, np.random.default_rng(1)
    by_depth: dict[int, list[tuple[float, float]]] = {depth: [] for depth in (1, 3, 6)}
    for _ in range(8):
        jacobian = np.eye(n)
        z = draws.normal(size=n)
        for depth in range(1, 7):
            w = draws.normal(size=(n, n))
            if weights == "orthogonal":
                w, _ = np.linalg.qr(w)
            else:
                w = w / math.sqrt(n)
            w = math.sqrt(2) * w
            active = (z > 0) * 1.0
            jacobian = (jacobian * active) @ w  # rows: inputs
            z = np.maximum(z, 0) @ w
            if depth in by_depth:
                fourth = ((jacobian @ jacobian.T) ** 2).sum() / n
                by_depth[depth].append(((jacobian**2).sum() / n, fourth))
    return {depth: np.asarray(moments) for depth, moments in by_depth.items()}


@pytest.mark.parametrize("weights", quick("gaussian", of=["gaussian", "orthogonal"]))
def test_the_spread_of_a_relu_jacobian_grows_with_depth(weights: str) -> None:
    def error(of_nets: np.ndarray) -> float:
        return np.std(of_nets, ddof=1) / math.sqrt(len(of_nets))

    for depth, moments in relu_jacobians(weights).items():
        squares, fourths = moments.T
        m1, variance = theory.jacobian_moments("relu", 2.0, 0.0, depth, weights)
        assert m1 == pytest.approx(1)
        assert variance == pytest.approx(depth * (2 if weights == "gaussian" else 1))
        assert squares.mean() == pytest.approx(m1, abs=4 * error(squares)), depth
        spreads = fourths - 2 * m1 * squares + m1**2  # finite width adds a few per cent
        room = 4 * error(spreads) + 0.05 * variance
        assert spreads.mean() == pytest.approx(variance, abs=room), depth


def test_the_quarter_circle() -> None:
    assert theory.mean_singular_value(1.0) == pytest.approx(0.8488, abs=1e-4)
    assert theory.mean_singular_value(1 / 3) == pytest.approx(0.4901, abs=1e-4)
    w = np.random.default_rng(0).normal(size=(600, 600)) / math.sqrt(600)
    drawn = np.linalg.svd(w, compute_uv=False).mean()
    assert drawn == pytest.approx(theory.mean_singular_value(1.0), rel=3e-3)


@pytest.mark.parametrize("s", [0.5, 1.0, 1.5])
def test_a_linear_mode_learns_as_saxe_says(s: float) -> None:
    rate, u0, steps = 1e-3, 1e-3, 12_000
    a = b = math.sqrt(u0)
    course = []
    for _ in range(steps):
        course.append(a * b)
        a, b = a + rate * b * (s - a * b), b + rate * a * (s - a * b)
    expected = theory.mode_strength(np.arange(steps, dtype=float), s, u0, 1 / rate)
    assert np.abs(np.asarray(course) - expected).max() < 0.005
    deep = theory.deep_mode_strength(np.arange(steps, dtype=float), s, u0, 1 / rate, 3)
    assert np.abs(deep - expected).max() < 1e-5
    time = theory.learning_time(s, u0, 0.95 * s, 1 / rate)
    first_step_above = int(np.argmax(expected > 0.95 * s))
    assert time == pytest.approx(first_step_above, rel=2e-3)
    closed = 1 / (2 * s * rate) * math.log(0.95 * s * (s - u0) / (u0 * (s - 0.95 * s)))
    assert time == pytest.approx(closed, rel=1e-6)


def test_depth_delays_learning_by_a_finite_time() -> None:
    # At rate 1 / (N - 1), from u0 = 1e-3 to 0.95 at s = 1: computed with an independent program.
    for n_layers, expected in ((3, 9.85), (5, 65), (10, 282), (100, 896), (1000, 997)):
        got = theory.learning_time(1.0, 1e-3, 0.95, n_layers - 1.0, n_layers)
        assert got == pytest.approx(expected, rel=0.01)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no activation is called 'swish'"):
        gain("swish")
    with pytest.raises(Exception, match="sideways"):  # ours, or the suite's type checker before it
        gain("relu", "sideways")
    with pytest.raises(ValueError, match="sigma_w2 is a variance and must not be negative, got -1"):
        theory.variance_map("tanh", 1.0, -1.0)
    with pytest.raises(ValueError, match=r"a correlation lies in \[-1, 1\], got 2"):
        theory.correlation_map("tanh", 2.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="has no finite variance"):
        theory.jacobian_moments("relu", 2.5)
    with pytest.raises(ValueError, match="0 < u0 < u_final < s"):
        theory.learning_time(1.0, 0.5, 1.5, 1.0)


def test_half_lives_are_those_of_a_state_that_decays() -> None:
    step_bias, log_rate = np.asarray([-4.6, -1.0]), np.asarray([0.0, 2.0])
    kept = np.exp(-np.exp(log_rate) * np.logaddexp(0, step_bias))
    half_lives = theory.glr_half_life(step_bias, log_rate)
    np.testing.assert_allclose(kept**half_lives, 0.5)
    np.testing.assert_allclose(half_lives, theory.half_life(kept))
    # a = sigmoid(L), and the gate half open where it has no bias
    logits = np.asarray([2.0, 6.9])
    a = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(theory.rg_lru_half_life(logits), theory.half_life(a**4))
    opened = theory.rg_lru_half_life(logits, gate_bias=50.0)
    np.testing.assert_allclose(opened, theory.half_life(a**8))
    np.testing.assert_array_equal(theory.half_life(np.asarray([0.0, 0.5, 1.0])), [0, 1, np.inf])


def test_half_lives_refuse_what_they_cannot_say() -> None:
    with pytest.raises(ValueError, match=r"0 to 1, got 0\.5 to 1\.5"):
        theory.half_life(np.asarray([0.5, 1.5]))
    with pytest.raises(ValueError, match="needs 0 < low < high and 0 < slowest < fastest, got "):
        theory.median_half_life(0.1, 0.01)
    with pytest.raises(ValueError, match="take the median of a sample"):
        theory.median_half_life(0.01, 0.011)
