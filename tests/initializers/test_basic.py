"""Every law against its formula: moments, support, distribution, orthogonality, Haar trace
moments."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxinit import initializers as I

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
    # the ends are reached: the largest of N draws is within a few (high - low) / N of them
    if math.isfinite(high):
        assert w.max() > law.ppf(1 - 12 / N)
        assert w.min() < law.ppf(12 / N)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_float32_cast_last(name: str, dtype: jnp.dtype) -> None:
    init, law = LAWS[name]
    wide = init(KEY, (64, 32), jnp.float32)
    drawn, cast = init(KEY, (64, 32), dtype), wide.astype(dtype)
    # what the cast rounds over a bound is the next number inside
    if math.isfinite(law.support()[1]):
        inside = (cast != cast.max()) & (cast != cast.min())
        np.testing.assert_array_equal(drawn[inside], cast[inside])
        rounding = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            drawn.astype(jnp.float32), cast.astype(jnp.float32), rtol=rounding
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
        # the law as that dtype can hold it, so that ties fall alike
        rounded = jnp.asarray(draws).astype(dtype)
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
        # of an entry near 0, which is a difference
        rounding = float(jnp.finfo(jnp.float32).eps * jnp.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=rounding)


def test_the_uniform_law_of_complex_numbers_is_jaxs_disc() -> None:
    ours = I.variance_scaling(2.0, "fan_in", "uniform")(KEY, (50, 40), jnp.complex64)
    jaxs = jax.nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
    np.testing.assert_allclose(ours, jaxs(KEY, (50, 40), jnp.complex64), atol=2e-6)
    assert float(jnp.abs(ours).max()) <= math.sqrt(2 * 2.0 / 50) * (1 + 1e-6)
    with pytest.raises(ValueError, match="draws real numbers, got dtype complex64; for a disc"):
        I.uniform(0.0, 1.0)(KEY, (3,), jnp.complex64)


def test_empty_matrices_are_drawn_as_jax_draws_them() -> None:
    for shape in ((0, 3), (3, 0), (0, 0)):
        for init in (I.orthogonal(), I.glorot(), I.normal(1.0), I.he()):
            assert init(KEY, shape).shape == shape


@pytest.mark.parametrize("shape", [(64, 64), (96, 32), (32, 96), (3, 3, 8, 16)])
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_orthogonal_and_semi_orthogonal(shape: tuple[int, ...], gain: float) -> None:
    kernel = np.asarray(I.orthogonal(gain)(KEY, shape, jnp.float32), np.float64)
    w = kernel.reshape(-1, shape[-1])
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=5e-6)


def haar_traces(draw, n: int = 8, count: int = 20_000) -> np.ndarray:
    def trace(key: jax.Array) -> jax.Array:
        return jnp.trace(draw(key, (n, n), jnp.float32))

    return np.asarray(jax.vmap(trace)(jax.random.split(KEY, count)))


def test_orthogonal_is_haar_by_its_trace_moments() -> None:
    # Haar on O(n): E tr Q = 0, E (tr Q)^2 = 1, E (tr Q)^4 = 3 for n >= 4 (Diaconis & Shahshahani
    # 1994).
    trace = haar_traces(I.orthogonal())
    count = len(trace)
    assert trace.mean() == pytest.approx(0, abs=4 / math.sqrt(count))
    assert (trace**2).mean() == pytest.approx(1, abs=4 * math.sqrt(2 / count))
    assert (trace**4).mean() == pytest.approx(3, abs=4 * math.sqrt(96 / count))


def test_the_trace_test_catches_qr_without_the_sign_fix() -> None:
    def faulty(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        q, _ = jnp.linalg.qr(jax.random.normal(key, shape, dtype))
        return q

    assert abs(haar_traces(faulty).mean()) > 1  # about -1.56 at n = 8


def test_rectangular_orthogonal_is_uniform_on_the_sphere() -> None:
    # Each entry of a Haar frame has mean 0 and variance 1/n, n the longer side; x^2 ~ Beta(1/2,
    # (n-1)/2).
    keys = jax.random.split(KEY, 4000)
    draw = partial(I.orthogonal(), dtype=jnp.float32)
    for shape in ((12, 5), (5, 12)):
        w = np.asarray(jax.vmap(partial(draw, shape=shape))(keys))
        for entry in ((0, 0), (4, 2), (2, 4)):
            x = w[:, *entry]
            assert stats.kstest(x**2, stats.beta(0.5, 5.5).cdf).pvalue > 1e-3
            assert abs(x.mean()) < 4 / math.sqrt(12 * 4000)


def test_identity_zeros_constant() -> None:
    np.testing.assert_array_equal(I.identity(2.0)(KEY, (3, 5), jnp.float32), 2 * np.eye(3, 5))
    np.testing.assert_array_equal(I.constant(3.0)(KEY, (2, 2), jnp.bfloat16), np.full((2, 2), 3.0))
    np.testing.assert_array_equal(I.zeros(KEY, (2, 2), jnp.float16), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("law", "settings", "message"),
    [
        (I.uniform, (1.0, 1.0), "low < high, got low=1.0, high=1.0"),
        (I.normal, (-1.0,), "must not be negative, got -1.0"),
        (I.truncated_normal, (1.0, 2, -2), "lower < upper"),
        (I.variance_scaling, (0.0, "fan_in", "normal"), "scale must be positive"),
        (I.wang, (0,), "1 or more, got 0"),
        (I.by_gain, ("swish",), "no activation is called 'swish'"),
    ],
)
def test_settings_that_are_refused(law, settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        law(*settings)


@pytest.mark.parametrize(
    ("init", "shape", "message"),
    [
        (I.variance_scaling(1.0, "fan_in", "normal"), (3,), "for a bias use zeros"),
        (I.orthogonal(), (3,), "needs a matrix"),
        (I.identity(), (3, 3, 3), "needs a matrix"),
    ],
)
def test_shapes_that_are_refused(init, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        init(KEY, shape, jnp.float32)


def test_unknown_modes_and_laws_are_refused() -> None:
    for mode, law in (("fan_sum", "normal"), ("fan_in", "cauchy")):
        # ours, or the suite's type checker before it
        with pytest.raises(Exception, match=r"fan_sum|cauchy"):
            I.variance_scaling(1.0, mode, law)
