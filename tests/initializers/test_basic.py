"""Every law against its formula: moments, support, distribution, orthogonality, Haar trace
moments."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxinit import initializers as I
from jaxinit.spec import along

KEY = jax.random.key(0)
SHAPE = (400, 300)
N = 400 * 300
CUT = 1 / I.truncated_std(-2, 2)  # where a corrected cut at 2 ends, in standard deviations
TRUNCATED = stats.truncnorm(-2, 2, scale=CUT)


def scaled(law: str, variance: float):
    std = math.sqrt(variance)
    return {
        "uniform": stats.uniform(-std * math.sqrt(3), 2 * std * math.sqrt(3)),
        "truncated_normal": stats.truncnorm(-2, 2, scale=CUT * std),
        "normal": stats.norm(scale=std),
    }[law]


LAWS = {
    "uniform": (I.uniform(-1.5, 0.5), stats.uniform(-1.5, 2.0)),
    "normal": (I.normal(0.3, mean=2.0), stats.norm(2.0, 0.3)),
    "truncated_normal": (I.truncated_normal(0.02), stats.truncnorm(-2, 2, scale=0.02 * CUT)),
    "truncated_normal, wide": (
        I.truncated_normal(2.0, -3, 3),
        stats.truncnorm(-3, 3, scale=2.0 / I.truncated_std(-3, 3)),
    ),
}
LAWS |= {
    f"glorot {law}": (I.glorot(law), scaled(law, 2 / (400 + 300)))
    for law in ("uniform", "truncated_normal", "normal")
}
LAWS |= {
    f"he {law}": (I.he(law), scaled(law, 2 / 400))
    for law in ("uniform", "truncated_normal", "normal")
}
LAWS |= {
    f"lecun {law}": (I.lecun(law), scaled(law, 1 / 400))
    for law in ("uniform", "truncated_normal", "normal")
}
LAWS |= {
    "he, leaky": (I.he("normal", negative_slope=0.5), scaled("normal", 2 / 1.25 / 400)),
    "geometric mean": (
        I.variance_scaling(1.0, "fan_geo_avg", "uniform"),
        scaled("uniform", 1 / math.sqrt(400 * 300)),
    ),
    "by_gain forward": (I.by_gain("relu"), scaled("normal", 2 / 400)),
    "by_gain backward": (I.by_gain("relu", "backward"), scaled("normal", 2 / 300)),
    "small_init": (I.small_init(), scaled("normal", 2 / (5 * 400))),
    "wang": (I.wang(6), scaled("normal", 4 / 36 / 300)),
}
LAWS |= {"fan_out": (I.variance_scaling(3.0, "fan_out", "normal"), scaled("normal", 3 / 300))}


@pytest.mark.parametrize("name", LAWS)
def test_first_two_moments(name: str) -> None:
    init, law = LAWS[name]
    w = np.asarray(init(KEY, SHAPE, jnp.float32), np.float64)
    mean, variance, kurtosis = law.mean(), law.var(), float(law.stats("k")) + 3
    assert w.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / N))
    assert w.var() == pytest.approx(variance, rel=4 * math.sqrt((kurtosis - 1) / N))


@pytest.mark.parametrize("name", LAWS)
def test_distribution_and_support(name: str) -> None:
    init, law = LAWS[name]
    w = np.asarray(init(KEY, SHAPE, jnp.float32), np.float64).ravel()
    assert stats.kstest(w, law.cdf).pvalue > 1e-3
    low, high = law.support()
    room = 1e-6 * law.std()
    assert low - room <= w.min()
    assert w.max() <= high + room
    if math.isfinite(
        high
    ):  # the ends are reached: the largest of N draws is within a few (high - low) / N of them
        assert w.max() > law.ppf(1 - 12 / N)
        assert w.min() < law.ppf(12 / N)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_float32_cast_last(name: str, dtype: jnp.dtype) -> None:
    init, law = LAWS[name]
    wide = init(KEY, (64, 32), jnp.float32)
    drawn, cast = init(KEY, (64, 32), dtype), wide.astype(dtype)
    if math.isfinite(
        law.support()[1]
    ):  # what the cast rounds over a bound is the next number inside
        inside = (cast != cast.max()) & (cast != cast.min())
        np.testing.assert_array_equal(drawn[inside], cast[inside])
        np.testing.assert_allclose(
            drawn.astype(jnp.float32), cast.astype(jnp.float32), rtol=float(jnp.finfo(dtype).eps)
        )
    else:
        np.testing.assert_array_equal(drawn, cast)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_distribution_in_other_dtypes(name: str, dtype: jnp.dtype) -> None:
    init, law = LAWS[name]
    draws = law.rvs(N, random_state=np.random.default_rng(1))
    with jax.enable_x64(True):
        w = init(KEY, SHAPE, dtype)
        rounded = jnp.asarray(draws).astype(
            dtype
        )  # the law as that dtype can hold it, so that ties fall alike
        assert w.dtype == dtype
        pair = np.ravel(w.astype(jnp.float64)), np.ravel(rounded.astype(jnp.float64))
    assert stats.ks_2samp(*pair).pvalue > 1e-3


def test_ks_catches_a_draw_in_bfloat16() -> None:
    draws = stats.norm.rvs(size=10 * N, random_state=np.random.default_rng(1))
    rounded = jnp.asarray(draws, jnp.float32).astype(jnp.bfloat16).astype(jnp.float32)
    faulty = jax.random.normal(KEY, (10 * N,), jnp.bfloat16).astype(jnp.float32)
    assert stats.ks_2samp(np.asarray(faulty), np.asarray(rounded)).pvalue < 1e-6


@pytest.mark.parametrize(
    "init",
    [
        I.normal(0.5),
        I.glorot("normal"),
        I.he("truncated_normal"),
        I.lecun("uniform"),
        I.orthogonal(),
    ],
)
def test_complex_numbers_have_the_variance_of_their_modulus(init) -> None:
    w = np.asarray(init(KEY, (200, 200), jnp.complex64))
    assert w.dtype == np.complex64
    expected = np.var(np.asarray(init(KEY, (200, 200), jnp.float32)))
    # Half of the variance is real, half imaginary (Var |z|^2 / 2 each), and the two do not
    # correlate.
    assert np.mean(np.abs(w) ** 2) == pytest.approx(expected, rel=0.03)
    assert w.real.var() == pytest.approx(w.imag.var(), rel=0.06)
    assert abs(np.corrcoef(w.real.ravel(), w.imag.ravel())[0, 1]) < 4 / 200


@pytest.mark.parametrize(
    ("ours", "jaxs"),
    [
        (I.glorot("uniform"), jax.nn.initializers.glorot_uniform()),
        (I.glorot("truncated_normal"), jax.nn.initializers.glorot_normal()),
        (I.he(), jax.nn.initializers.he_normal()),
        (I.lecun(), jax.nn.initializers.lecun_normal()),
    ],
)
def test_classic_names_follow_jax(ours, jaxs) -> None:
    for shape in (SHAPE, (3, 3, 16, 32)):
        one, other = ours(KEY, shape, jnp.float32), jaxs(KEY, shape, jnp.float32)
        rounding = float(
            jnp.finfo(jnp.float32).eps * jnp.abs(other).max()
        )  # of an entry near 0, which is a difference
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=rounding)


def test_truncated_std_agrees_with_quadrature() -> None:
    for low, high in ((-2, 2), (-1, 3), (0.5, 1), (-math.inf, 1)):
        assert I.truncated_std(low, high) == pytest.approx(
            stats.truncnorm(low, high).std(), rel=1e-6
        )
    assert I.truncated_std(-math.inf, math.inf) == pytest.approx(1.0, rel=1e-14)
    # Far in a tail z - a is exponential of rate a + O(1/a); of a narrow interval the law is
    # uniform.
    for low in (1e3, 1e5):
        assert I.truncated_std(low, math.inf) == pytest.approx(1 / low, rel=4 / low**2)
    for low in (-1e-7, 0.5, 5.0, 50.0):
        assert I.truncated_std(low, low + 1e-6) == pytest.approx(
            1e-6 / math.sqrt(12), rel=1e-6 + 1e-9
        )


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
TAILS += [
    (1, 1.3),
    (2, 3),
    (0.9, 3),
    (0.5, 0.501),
    (5, 5.001),
    (-5.001, -5),
    (-1e-3, 1e-3),
    (-0.3, 0.1),
]


def moments_of_cut_gaussian(low: float, high: float) -> tuple[float, float, float]:
    """Mean of z - nearest, standard deviation and fourth central moment over the squared variance,
    adaptively."""
    near = min(max(0.0, low), high)
    weight = lambda t: math.exp(-(near * t + t * t / 2))
    reach = 60 / max(abs(near), 6)
    a, b = max(low - near, -reach), min(high - near, reach)
    moment = lambda f: integrate.quad(
        lambda t: f(t) * weight(t), a, b, epsabs=0, epsrel=1e-11, limit=200
    )[0]
    mass = moment(lambda t: 1.0)
    mean = moment(lambda t: t) / mass if a != -b else 0.0
    variance = moment(lambda t: (t - mean) ** 2) / mass
    return mean, math.sqrt(variance), moment(lambda t: (t - mean) ** 4) / mass / variance**2


@pytest.mark.parametrize("bounds", TAILS)
@pytest.mark.parametrize("traced", [False, True])
def test_far_tails_and_narrow_cuts_have_their_law(
    bounds: tuple[float, float], traced: bool
) -> None:
    low, high = bounds
    if traced and 0 < high - low < 0.01:
        pytest.skip("the width of a traced interval has the rounding of float32")
    draw = lambda low, high: I.truncated_normal(1.0, low, high)(KEY, (200_000,), jnp.float32)
    x = np.asarray(jax.jit(draw)(low, high) if traced else draw(low, high), np.float64)
    mean, std, kurtosis = moments_of_cut_gaussian(low, high)
    near = min(max(0.0, low), high)
    assert I.truncated_std(low, high) == pytest.approx(std, rel=1e-8)
    rounding = 1.2e-7 * max(abs(near), 1.0) / std  # of z in float32, in standard deviations
    assert x.std() == pytest.approx(1.0, rel=4 * math.sqrt((kurtosis - 1) / 4 / len(x)) + rounding)
    t = x * std - near
    assert t.mean() == pytest.approx(mean, abs=std * (4 / math.sqrt(len(x)) + 3 * rounding))
    slack = 2e-7 * max(
        abs(low) if math.isfinite(low) else 0, abs(high) if math.isfinite(high) else 0, 1.0
    )
    assert x.min() * std >= low - slack
    assert x.max() * std <= high + slack
    if rounding < 1e-4:
        if abs(near) < 3:
            assert stats.kstest(x * std, stats.truncnorm(low, high).cdf).pvalue > 1e-3
        else:
            side, width = abs(near), high - low
            log_sf = lambda z: special.log_ndtr(-z)
            share = lambda t: -np.expm1(log_sf(side + t) - log_sf(side))
            whole = share(width) if math.isfinite(width) else 1.0
            assert (
                stats.kstest(
                    np.abs(x * std) - side, lambda t: share(np.maximum(t, 0)) / whole
                ).pvalue
                > 1e-3
            )


def test_far_tails_in_float64() -> None:
    with jax.enable_x64(True):
        for low, high in ((5, 6), (-9, -8), (10, 12), (0.5, 0.5 + 1e-9)):
            x = np.asarray(I.truncated_normal(1.0, low, high)(KEY, (200_000,), jnp.float64))
            kurtosis = moments_of_cut_gaussian(low, high)[2]
            assert x.std() == pytest.approx(
                1.0, rel=4 * math.sqrt((kurtosis - 1) / 4 / len(x)) + 1e-6
            )
            assert len(np.unique(x)) > 190_000 if high - low > 1e-6 else len(np.unique(x)) > 100_000


@pytest.mark.parametrize("cut", [2.0, 0.5, 1e-4])
@pytest.mark.parametrize("traced", [False, True])
def test_complex_gaussians_are_cut_at_a_modulus(cut: float, traced: bool) -> None:
    draw = lambda cut: I.truncated_normal(0.7, -cut, cut)(KEY, (100_000,), jnp.complex64)
    z = np.asarray(jax.jit(draw)(cut) if traced else draw(cut))
    assert np.mean(np.abs(z) ** 2) == pytest.approx(0.49, rel=0.01)
    assert abs(z.mean()) < 4 * 0.7 / math.sqrt(len(z))


TAIL_STD = I.truncated_std(2, 3)
BOUNDED = {
    "truncated_normal": (I.truncated_normal(0.3), (2,), -0.6 * CUT, 0.6 * CUT),
    "truncated_normal in a tail": (
        I.truncated_normal(0.3, 2, 3),
        (2,),
        0.6 / TAIL_STD,
        0.9 / TAIL_STD,
    ),
    "U[0, 1)": (I.uniform(0.0, 1.0), (2,), 0.0, 1.0),
    "U[5, 5.5)": (I.uniform(5.0, 5.5), (2,), 5.0, 5.5),
    "U[-0.1, 0.1)": (I.uniform(-0.1, 0.1), (2,), -0.1, 0.1),
    "U[0.0998, 0.3)": (I.uniform(0.0998, 0.3), (2,), 0.0998, 0.3),
    "glorot": (I.glorot("uniform"), (4, 4), -math.sqrt(6 / 8), math.sqrt(6 / 8)),
    "he": (I.he("uniform"), (4, 4), -math.sqrt(6 / 4), math.sqrt(6 / 4)),
    "lecun": (I.lecun("uniform"), (4, 4), -math.sqrt(3 / 4), math.sqrt(3 / 4)),
    "log_decay": (
        I.log_decay(0.9, 0.999),
        (2,),
        math.log(-math.log(0.999)),
        math.log(-math.log(0.9)),
    ),
    "log_phase": (I.log_phase(6.2), (2,), -math.inf, math.log(6.2)),
}


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64, jnp.float8_e4m3fn]
)
@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("through", ["init", "along"])
def test_bounds_hold_after_the_cast(name: str, dtype: jnp.dtype, through: str) -> None:
    init, shape, low, high = BOUNDED[name]
    init = init if through == "init" else along(".io" if len(shape) == 2 else ".o", init)
    copies = 40_000
    with jax.enable_x64(dtype == jnp.float64):
        if through == "init":
            keys = jax.random.split(KEY, copies)
            w = jax.jit(jax.vmap(lambda key: init(key, shape, dtype)))(keys)
        else:
            w = init(KEY, (copies, *shape), dtype)
        assert w.dtype == dtype
        w = np.asarray(w).astype(np.float64)
    assert low <= w.min()
    assert w.max() <= high if name.startswith(("log", "trunc")) else w.max() < high
    if name == "U[0, 1)" and dtype != jnp.float8_e4m3fn:
        assert w.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * w.size))


def test_a_dtype_without_a_number_between_the_bounds_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no bfloat16 number lies between 0\.0997 and 0\.0999; ask for a wider"
    ):
        I.uniform(0.0997, 0.0999)(KEY, (3,), jnp.bfloat16)


def test_the_uniform_law_of_complex_numbers_is_jaxs_disc() -> None:
    ours = I.variance_scaling(2.0, "fan_in", "uniform")(KEY, (50, 40), jnp.complex64)
    jaxs = jax.nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
    np.testing.assert_allclose(ours, jaxs(KEY, (50, 40), jnp.complex64), atol=2e-6)
    assert float(jnp.abs(ours).max()) <= math.sqrt(2 * 2.0 / 50) * (1 + 1e-6)
    with pytest.raises(ValueError, match="draws real numbers, got dtype complex64; for a disc"):
        I.uniform(0.0, 1.0)(KEY, (3,), jnp.complex64)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: I.constant(s),
        lambda s: I.uniform(-s, s),
        lambda s: I.uniform(0.0, s),
        lambda s: I.normal(s, mean=s),
        lambda s: I.truncated_normal(s),
        lambda s: I.truncated_normal(0.3, -s, 2 * s),
        lambda s: I.variance_scaling(s, "fan_avg", "uniform"),
        lambda s: I.variance_scaling(s, "fan_avg", "truncated_normal"),
        lambda s: I.he("normal", negative_slope=s),
        lambda s: I.orthogonal(s),
        lambda s: I.identity(s),
        lambda s: I.scaled(I.normal(1.0), s),
        lambda s: I.log_decay(s, 2 * s),
        lambda s: I.log_phase(s),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numbers_may_be_traced(make, dtype: jnp.dtype) -> None:
    known = make(0.3)(KEY, (6, 6), dtype)
    traced = jax.jit(lambda s: make(s)(KEY, (6, 6), dtype))(0.3)
    strong = jax.jit(lambda s: make(s)(KEY, (6, 6), dtype))(jnp.float32(0.3))
    assert traced.dtype == strong.dtype == dtype
    rounding = 4 * float(jnp.finfo(dtype).eps)
    for other in (traced, strong):
        np.testing.assert_allclose(
            np.asarray(other, np.float32), np.asarray(known, np.float32), rtol=rounding, atol=1e-6
        )


def test_empty_matrices_are_drawn_as_jax_draws_them() -> None:
    for shape in ((0, 3), (3, 0), (0, 0)):
        for init in (I.orthogonal(), I.glorot(), I.normal(1.0), I.he()):
            assert init(KEY, shape).shape == shape


def test_truncation_is_in_units_of_std_and_corrected() -> None:
    w = np.asarray(I.truncated_normal(0.02)(KEY, (1000, 1000), jnp.float32))
    assert np.abs(w).max() == pytest.approx(
        0.02 * CUT * 2, rel=1e-3
    )  # 2.27 std, not the 5 of an absolute bound
    uncorrected = jax.nn.initializers.truncated_normal(0.02)(KEY, (1000, 1000), jnp.float32)
    assert float(uncorrected.std()) == pytest.approx(0.02 * I.truncated_std(-2, 2), rel=3e-3)
    assert w.std() == pytest.approx(0.02, rel=3e-3)


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96), (3, 3, 8, 16)])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_orthogonal_and_semi_orthogonal(shape: tuple[int, ...], gain: float) -> None:
    w = np.asarray(I.orthogonal(gain)(KEY, shape, jnp.float32), np.float64).reshape(-1, shape[-1])
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=5e-6)


def haar_traces(draw, n: int = 8, count: int = 20_000) -> np.ndarray:
    return np.asarray(
        jax.vmap(lambda k: jnp.trace(draw(k, (n, n), jnp.float32)))(jax.random.split(KEY, count))
    )


def test_orthogonal_is_haar_by_its_trace_moments() -> None:
    # Haar on O(n): E tr Q = 0, E (tr Q)^2 = 1, E (tr Q)^4 = 3 for n >= 4 (Diaconis & Shahshahani
    # 1994).
    trace = haar_traces(I.orthogonal())
    count = len(trace)
    assert trace.mean() == pytest.approx(0, abs=4 / math.sqrt(count))
    assert (trace**2).mean() == pytest.approx(1, abs=4 * math.sqrt(2 / count))
    assert (trace**4).mean() == pytest.approx(3, abs=4 * math.sqrt(96 / count))


def test_the_trace_test_catches_qr_without_the_sign_fix() -> None:
    faulty = lambda key, shape, dtype: jnp.linalg.qr(jax.random.normal(key, shape, dtype))[0]
    assert abs(haar_traces(faulty).mean()) > 1  # about -1.56 at n = 8


def test_rectangular_orthogonal_is_uniform_on_the_sphere() -> None:
    # Each entry of a Haar frame has mean 0 and variance 1/n, n the longer side; x^2 ~ Beta(1/2,
    # (n-1)/2).
    keys = jax.random.split(KEY, 4000)
    for shape in ((12, 5), (5, 12)):
        w = np.asarray(jax.vmap(lambda k, s=shape: I.orthogonal()(k, s, jnp.float32))(keys))
        for entry in ((0, 0), (4, 2), (2, 4)):
            assert stats.kstest(w[:, *entry] ** 2, stats.beta(0.5, 5.5).cdf).pvalue > 1e-3
            assert abs(w[:, *entry].mean()) < 4 / math.sqrt(12 * 4000)


def test_many_batches_of_orthogonal_matrices_in_one_program_come_to_an_end() -> None:
    program = """
import jax, jax.numpy as jnp
from jaxinit.initializers import orthogonal
from jaxinit.initializers.structured import positive_definite_identity, spectral
draws = [orthogonal()] * 12 + [positive_definite_identity()] * 4 + [spectral()] * 4
of = lambda key: [init(jax.random.fold_in(key, i), (64, 64)) for i, init in enumerate(draws)]
run = jax.jit(jax.vmap(of))
for seed in range(20):
    jax.block_until_ready(run(jax.random.split(jax.random.key(seed), 11)))
"""
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=120
    )  # batched, it never ends on two cores


def test_identity_zeros_constant() -> None:
    np.testing.assert_array_equal(I.identity(2.0)(KEY, (3, 5), jnp.float32), 2 * np.eye(3, 5))
    np.testing.assert_array_equal(I.constant(3.0)(KEY, (2, 2), jnp.bfloat16), np.full((2, 2), 3.0))
    np.testing.assert_array_equal(I.zeros(KEY, (2, 2), jnp.float16), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: I.uniform(1.0, 1.0), "low < high, got low=1.0, high=1.0"),
        (lambda: I.normal(-1.0), "must not be negative, got -1.0"),
        (lambda: I.truncated_normal(1.0, 2, -2), "lower < upper"),
        (lambda: I.variance_scaling(0.0, "fan_in", "normal"), "scale must be positive"),
        (
            lambda: I.variance_scaling(1.0, "fan_in", "normal")(KEY, (3,), jnp.float32),
            "for a bias use zeros",
        ),
        (lambda: I.orthogonal()(KEY, (3,), jnp.float32), "needs a matrix"),
        (lambda: I.identity()(KEY, (3, 3, 3), jnp.float32), "needs a matrix"),
        (lambda: I.wang(0), "1 or more, got 0"),
        (lambda: I.by_gain("swish"), "no activation is called 'swish'"),
    ],
)
def test_errors_say_got_expected_remedy(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_modes_and_laws_are_refused() -> None:
    for mode, law in (("fan_sum", "normal"), ("fan_in", "cauchy")):
        with pytest.raises(
            Exception, match=r"fan_sum|cauchy"
        ):  # ours, or the suite's type checker before it
            I.variance_scaling(1.0, mode, law)


def test_a_complex_gaussian_that_is_cut_nowhere() -> None:
    """E|z|^2 = 1 for bounds that are infinite, far, or traced."""
    draw = lambda cut: I.truncated_normal(1.0, -cut, cut)(
        jax.random.key(0), (20_000,), jnp.complex64
    )
    for z in (draw(jnp.inf), draw(40.0), jax.jit(draw)(jnp.inf)):
        assert float(jnp.mean(jnp.abs(z) ** 2)) == pytest.approx(1, abs=4 / 20_000**0.5)
