"""Structured draws against the structure that they promise."""

import math
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every, quick
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from jaxinit import initializers as I
from jaxinit.initializers import CATALOGUE, orthogonal
from jaxinit.initializers import structured as S
from jaxinit.spec import along

KEY = jax.random.key(0)
NAMES = ("input", "forget", "cell", "output")
GRU_NAMES = ("reset", "update", "new")


def eigenvalues(w) -> np.ndarray:
    return np.abs(np.linalg.eigvals(np.asarray(w, np.float64)))


def convolved(x: jax.Array, w: jax.Array) -> jax.Array:
    """`x` convolved with `w` at stride 1 with SAME padding, as Flax does."""
    window = "HWD"[: w.ndim - 2]
    layout = (f"N{window}C", f"{window}IO", f"N{window}C")
    return jax.lax.conv_general_dilated(x, w, (1,) * len(window), "SAME", dimension_numbers=layout)


@pytest.mark.parametrize(("size", "axes"), every(3, of=product([1, 2, 3, 4, 5], [1, 2])))
def test_same_padding_loses_no_pixel(size: int, axes: int) -> None:
    image, window = (7,) * axes, (size,) * axes
    x = jax.random.normal(KEY, (2, *image, 4))
    y = convolved(x, S.delta_orthogonal()(KEY, (*window, 4, 6), jnp.float32))
    # 0.797 with the later tap
    assert float(jnp.linalg.norm(y)) == pytest.approx(float(jnp.linalg.norm(x)), rel=1e-5)
    same = convolved(x, S.dirac()(KEY, (*window, 4, 4), jnp.float32))
    np.testing.assert_array_equal(same, x)


@pytest.mark.parametrize("shape", [(3, 8, 16), (3, 3, 8, 8), (4, 4, 2, 6)])
def test_delta_orthogonal_is_an_isometry_of_every_pixel(shape: tuple[int, ...]) -> None:
    w = np.array(S.delta_orthogonal(2.0)(KEY, shape, jnp.float32))
    centre = tuple((size - 1) // 2 for size in shape[:-2])
    tap = w[centre]
    np.testing.assert_allclose(tap @ tap.T, 4 * np.eye(shape[-2]), atol=1e-5)
    w[centre] = 0
    assert not w.any()


def test_dirac_repeats_its_input() -> None:
    w = S.dirac()(KEY, (3, 3, 2, 2), jnp.float32)
    x = jax.random.normal(KEY, (1, 5, 5, 2))
    np.testing.assert_array_equal(convolved(x, w), x)


def test_sparse_has_exactly_k_weights_a_unit_and_their_law() -> None:
    w = np.asarray(S.sparse(15, 0.3)(KEY, (200, 400), jnp.float32))
    assert ((w != 0).sum(0) == 15).all()
    assert stats.kstest(w[w != 0], stats.norm(scale=0.3).cdf).pvalue > 1e-3
    rows = (w != 0).sum(1)  # every input is as likely: hypergeometric, mean 400 * 15 / 200
    assert rows.mean() == 30
    assert rows.std() == pytest.approx(math.sqrt(400 * 0.075 * 0.925), rel=0.2)


@pytest.mark.parametrize(
    "init", [S.sparse(15, 0.01, 0.95), S.sparse(2, 1.0, 0.95), S.gaussian_at_radius(0.95)]
)
def test_spectral_radius_is_the_one_asked_for(init) -> None:
    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        return along(".io", init)(key, (4, 64, 64), jnp.float32)

    for gate in draw(KEY):
        assert eigenvalues(gate).max() == pytest.approx(0.95, rel=2e-3)


def test_spectral_radius_by_squaring_agrees_with_eigenvalues() -> None:
    for size in (1, 5, 40):
        w = jax.random.normal(jax.random.key(size), (size, size)) * 3
        assert float(S.spectral_radius(w)) == pytest.approx(eigenvalues(w).max(), rel=2e-3)


def test_positive_definite_identity() -> None:
    w = np.asarray(S.positive_definite_identity()(KEY, (50, 50), jnp.float32), np.float64)
    np.testing.assert_allclose(w, w.T, atol=1e-6)
    values = np.linalg.eigvalsh(w)
    assert values[-1] == pytest.approx(1, abs=1e-5)
    assert values[0] > 0


@pytest.mark.parametrize("dtype", quick(jnp.complex64, of=[jnp.complex64, jnp.complex128]))
def test_structure_in_complex_dtypes(dtype: jnp.dtype) -> None:

    def draw(init: Any, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(init(KEY, shape, dtype)).astype(np.complex128)

    with jax.enable_x64(dtype == jnp.complex128):
        rounding = 40 * float(jnp.finfo(dtype).eps)
        w = draw(S.positive_definite_identity(), (40, 40))
        np.testing.assert_array_equal(w, w.conj().T)
        values = np.linalg.eigvalsh(w)
        assert values[-1] == pytest.approx(1, abs=rounding)
        assert values[0] > 0
        assert np.abs(w.imag).max() > 0.01
        w = draw(I.orthogonal(0.5), (30, 20))
        np.testing.assert_allclose(w.conj().T @ w, 0.25 * np.eye(20), atol=rounding)
        w = draw(S.delta_orthogonal(), (3, 3, 4, 6))[1, 1]
        np.testing.assert_allclose(w @ w.conj().T, np.eye(4), atol=rounding)
        for init in (S.gaussian_at_radius(0.9), S.sparse(4, 1.0, 0.9)):
            radii = np.abs(np.linalg.eigvals(draw(init, (32, 32))))
            assert radii.max() == pytest.approx(0.9, rel=2e-3)
        norm = np.linalg.norm(draw(S.spectral(3.0), (16, 32)), 2)
        assert norm == pytest.approx(3.0, rel=rounding)
        w = draw(S.sparse(8, 0.3), (300, 300))
        assert np.mean(np.abs(w[w != 0]) ** 2) == pytest.approx(0.09, rel=0.1)
        assert ((w != 0).sum(0) == 8).all()
        z = draw(S.ring(0.5, 0.9), (1000,))
        assert 0.5 - rounding <= np.abs(z).min()
        assert np.abs(z).max() <= 0.9 + rounding
        assert not draw(S.dirac(), (3, 8, 8)).imag.any()
        for init in (I.identity(), S.hippo_legs(), S.zero_hadamard()):
            assert not draw(init, (8, 8)).imag.any()


@pytest.mark.parametrize("dtype", quick(jnp.bfloat16, of=[jnp.bfloat16, jnp.float16, jnp.float64]))
def test_structure_in_other_real_dtypes(dtype: jnp.dtype) -> None:

    def draw(init: Any, shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(init(KEY, shape, dtype)).astype(np.float64)

    with jax.enable_x64(dtype == jnp.float64):
        rounding = 4 * float(jnp.finfo(dtype).eps) if dtype != jnp.float64 else 1e-13
        w = draw(S.positive_definite_identity(), (32, 32))
        np.testing.assert_array_equal(w, w.T)
        assert np.linalg.eigvalsh(w)[-1] == pytest.approx(1, abs=rounding)
        w = draw(I.orthogonal(), (32, 32))
        np.testing.assert_allclose(w.T @ w, np.eye(32), atol=rounding)
        radius = eigenvalues(draw(S.gaussian_at_radius(0.9), (32, 32))).max()
        assert radius == pytest.approx(0.9, rel=2e-3 + rounding)
        norm = np.linalg.norm(draw(S.spectral(3.0), (16, 32)), 2)
        assert norm == pytest.approx(3.0, rel=rounding)
        span = draw(S.chrono(NAMES, 50), (4, 4000))
        assert span[1].min() >= 0
        assert span[1].max() <= math.log(49)
        left = draw(S.mimetic_whole("left", 0.7, 0.7), (2, 16, 8))
        right = draw(S.mimetic_whole("right", 0.7, 0.7), (16, 16))
        product = left.transpose(1, 0, 2).reshape(16, 16) @ right
        assert np.trace(product) / 16 == pytest.approx(0.7, abs=0.3)


@pytest.mark.parametrize(
    ("make", "shape"),
    every(
        3,
        of=[
            (S.delta_orthogonal, (3, 4, 4)),
            (S.dirac, (3, 4, 4)),
            (partial(S.sparse, 2), (6, 6)),
            (partial(S.sparse, 2, 1.0), (6, 6)),
            (S.gaussian_at_radius, (6, 6)),
            (S.spectral, (6, 4)),
            (S.hippo_legs, (6, 6)),
            (lambda s: S.gate_biases(NAMES, forget=s), (4, 6)),
            (lambda s: S.chrono(NAMES, 100 * s), (4, 6)),
            (lambda s: S.mimetic("left", s, s), (2, 8, 4)),
        ],
    ),
)
def test_numbers_may_be_traced(make, shape: tuple[int, ...]) -> None:
    def draw(number: float | jax.Array) -> jax.Array:
        return make(number)(KEY, shape, jnp.float32)

    known = draw(0.3)
    for value in (0.3, jnp.float32(0.3)):
        traced = jax.jit(draw)(value)
        np.testing.assert_allclose(traced, known, rtol=1e-4, atol=1e-5)


def test_the_radii_of_a_ring_may_be_traced() -> None:
    def draw(low: float, high: float, phase: float) -> jax.Array:
        return S.ring(low, high, phase)(KEY, (50,))

    known = draw(0.5, 0.9, 1.0)
    np.testing.assert_allclose(jax.jit(draw)(0.5, 0.9, 1.0), known, atol=1e-6)


def test_ring_is_uniform_in_area_and_angle() -> None:
    z = np.asarray(S.ring(0.5, 0.9, math.pi / 2)(KEY, (4000,), jnp.complex64))
    assert stats.kstest(np.abs(z) ** 2, stats.uniform(0.25, 0.81 - 0.25).cdf).pvalue > 1e-3
    assert stats.kstest(np.angle(z), stats.uniform(0, math.pi / 2).cdf).pvalue > 1e-3


def test_hippo_legs_is_the_published_matrix_transposed() -> None:
    a = -np.asarray([[1, 0, 0], [math.sqrt(3), 2, 0], [math.sqrt(5), math.sqrt(15), 3]])
    np.testing.assert_allclose(S.hippo_legs()(KEY, (3, 3), jnp.float32), a.T, rtol=1e-6)


def test_zero_hadamard() -> None:
    init = S.zero_hadamard()
    np.testing.assert_array_equal(init(KEY, (5, 3), jnp.float32), np.eye(5, 3))
    w = np.asarray(init(KEY, (3, 8), jnp.float32))
    # c^2 2^m with m = 3: rows of norm sqrt(2)
    np.testing.assert_allclose(w @ w.T, 2 * np.eye(3), atol=1e-6)
    assert len(np.unique(np.abs(w))) == 1


@pytest.mark.parametrize(
    "shape",
    [
        (100, 40),
        pytest.param((40, 100), marks=pytest.mark.slow),
        pytest.param((64, 64), marks=pytest.mark.slow),
        (3, 3, 8, 16),
    ],
)
def test_sinusoidal_is_the_published_formula(shape: tuple[int, ...]) -> None:
    w = np.asarray(S.sinusoidal()(KEY, shape, jnp.float32), np.float64)
    window, (inputs, m) = math.prod(shape[:-2]), shape[-2:]
    n = window * inputs
    waves = np.empty((n, m))
    for j in range(n):
        for i in range(1, m + 1):
            waves[j, i - 1] = math.sin(2 * math.pi * i * (j / n + 1 / m))
    variance = 2 / (window * (inputs + m))
    assert w.var(ddof=1) == pytest.approx(variance, rel=1e-5)
    expected = waves * math.sqrt(variance / waves.var(ddof=1))
    np.testing.assert_allclose(w.reshape(n, m), expected, atol=1e-5 * math.sqrt(variance))


@pytest.mark.parametrize(
    ("shape", "rank"),
    every(3, of=[((64, 64), 31), ((65, 65), 32), ((64, 128), 32), ((65, 64), 64)]),
)
def test_sinusoidal_has_half_its_rank_where_the_sizes_agree(
    shape: tuple[int, int], rank: int
) -> None:
    w = np.asarray(S.sinusoidal(2.0, "fan_in")(KEY, shape, jnp.float32), np.float64)
    assert w.var(ddof=1) == pytest.approx(2 / shape[0], rel=1e-5)
    assert np.linalg.matrix_rank(w, tol=1e-5 * np.linalg.norm(w, 2)) == rank
    if shape[0] == shape[1]:
        assert np.abs(w[-1]).max() < 1e-5
        assert np.abs(w[:, -1]).max() < 1e-5


def test_copies_of_sine_waves_are_counted_on() -> None:
    joint = S.sinusoidal(copy_axes=1)
    gates = np.asarray(joint(KEY, (4, 32, 32), jnp.float32))
    whole = np.asarray(S.sinusoidal()(KEY, (32, 128), jnp.float32))
    ratio = math.sqrt((32 + 128) / (32 + 32))  # the fan out is that of one copy
    np.testing.assert_allclose(np.concatenate([*gates], axis=1), ratio * whole, atol=1e-5)


@pytest.mark.parametrize(("shape", "norm"), [((40, 10), None), ((10, 40), None), ((32, 32), 3.0)])
def test_spectral_norm(shape: tuple[int, int], norm: float | None) -> None:
    w = np.asarray(S.spectral(norm)(KEY, shape, jnp.float32))
    expected = math.sqrt(shape[1] / shape[0]) if norm is None else norm
    assert np.linalg.norm(w, 2) == pytest.approx(expected, rel=1e-5)


def test_unitary_in_complex_dtypes_is_haar() -> None:
    # Haar on U(n): E tr = 0, E |tr|^2 = 1, E tr^2 = 0 (Diaconis & Shahshahani 1994).
    def draw(key: jax.Array) -> jax.Array:
        return orthogonal()(key, (6, 6), jnp.complex64)

    @jax.jit
    @jax.vmap
    def drawn_trace(key: jax.Array) -> jax.Array:
        return jnp.trace(draw(key))

    w = draw(KEY)
    np.testing.assert_allclose(w @ w.conj().T, np.eye(6), atol=5e-6)
    trace = np.asarray(drawn_trace(jax.random.split(KEY, 10_000)))
    for values, expected in ((trace, 0), (np.abs(trace) ** 2, 1), (trace**2, 0)):
        assert abs(values.mean() - expected) < 5 / math.sqrt(len(trace))


def test_gate_biases_and_chrono() -> None:
    b = along(".o", S.gate_biases(NAMES, forget=1.0, output=-2.0))(KEY, (4, 5), jnp.float32)
    np.testing.assert_array_equal(b, np.asarray([[0] * 5, [1] * 5, [0] * 5, [-2] * 5]))
    b = np.asarray(along(".o", S.chrono(NAMES, 50))(KEY, (4, 4000), jnp.float32))
    np.testing.assert_array_equal(b[0], -b[1])
    assert not b[2:].any()
    assert stats.kstest(np.exp(b[1]), stats.uniform(1, 48).cdf).pvalue > 1e-3
    # Eq. 16 and its meaning: a unit forgets a share sigma(-b) = 1 / (1 + u) a step, so it remembers
    # about u steps.
    of_gru = along(".o", S.chrono(GRU_NAMES, 50))(KEY, (3, 7), jnp.float32)
    update = np.asarray(of_gru)
    assert update[1].all()
    assert not update[[0, 2]].any()


@pytest.mark.parametrize(
    ("law", "settings", "message"),
    [
        (S.sparse, (0,), "1 or more, got 0"),
        (S.ring, (0.9, 0.5), "0 <= low < high"),
        (S.spectral, (-1.0,), "positive operator norm"),
        (S.chrono, (NAMES, 2), "3 steps or more, got 2"),
        (S.chrono, ((), 10), "needs a forget or an update gate, got none"),
        (partial(S.gate_biases, forget=1.0), (GRU_NAMES,), "no gates are called"),
    ],
)
def test_settings_that_are_refused(law, settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        law(*settings)


@pytest.mark.parametrize(
    ("init", "shape", "message"),
    [
        (S.delta_orthogonal(), (3, 8, 4), "needs inputs <= outputs, got 8 inputs and 4"),
        (S.delta_orthogonal(), (8, 4), "use orthogonal"),
        (S.sparse(15), (10, 10), "k=15 non-zero weights of 10 inputs; give k of at most 10"),
        (S.sparse(1, 1.0, 0.9), (4, 5), "needs a square matrix"),
        (S.ring(), (4,), "ask for complex64"),
        (S.sinusoidal(), (4,), "for a bias use zeros"),
        (S.sinusoidal(), (2, 2), "with 2 inputs and 2 outputs every entry is 0"),
    ],
)
def test_shapes_and_dtypes_that_are_refused(init, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        init(KEY, shape, jnp.float32)


def test_a_nilpotent_matrix_has_no_radius_to_scale() -> None:
    nilpotent = jnp.triu(jnp.ones((4, 4)), 1)
    assert float(S.spectral_radius(nilpotent)) == 0
    with pytest.raises(ValueError, match="nilpotent"):
        S._at_radius(nilpotent, 0.9, "sparse")


# One of each in the catalogue, and a shape that it takes.
EXAMPLES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "constant": (I.constant(0.3), (8, 16)),
    "zeros": (I.zeros, (8, 16)),
    "ones": (I.ones, (8, 16)),
    "uniform": (I.uniform(-1.0, 2.0), (8, 16)),
    "normal": (I.normal(0.02), (8, 16)),
    "truncated_normal": (I.truncated_normal(0.02), (8, 16)),
    "variance_scaling": (I.variance_scaling(1.0, "fan_geo_avg", "normal"), (8, 16)),
    "glorot": (I.glorot(), (8, 16)),
    "he": (I.he(), (8, 16)),
    "lecun": (I.lecun(), (8, 16)),
    "by_gain": (I.by_gain("tanh"), (8, 16)),
    "small_init": (I.small_init(), (8, 16)),
    "wang": (I.wang(4), (8, 16)),
    "orthogonal": (I.orthogonal(), (16, 16)),
    "identity": (I.identity(), (16, 16)),
    "delta_orthogonal": (S.delta_orthogonal(), (3, 3, 8, 8)),
    "dirac": (S.dirac(), (3, 3, 8, 8)),
    "sparse": (S.sparse(4), (16, 16)),
    "gaussian_at_radius": (S.gaussian_at_radius(0.9), (16, 16)),
    "positive_definite_identity": (S.positive_definite_identity(), (16, 16)),
    "ring": (S.ring(0.5, 0.9), (16,)),
    "hippo_legs": (S.hippo_legs(), (8, 8)),
    "zero_hadamard": (S.zero_hadamard(), (8, 16)),
    "sinusoidal": (S.sinusoidal(), (8, 16)),
    "spectral": (S.spectral(), (8, 16)),
    "gate_biases": (S.gate_biases(NAMES, forget=1.0), (4, 16)),
    "chrono": (S.chrono(NAMES, 50), (4, 16)),
    "time_steps": (I.time_steps(), (16,)),
    "log_rate": (I.log_rate(), (16,)),
    "decay_logit": (I.decay_logit(), (16,)),
    "s4d_real": (I.s4d_real(), (3, 16)),
    "s4d_lin": (I.s4d_lin(), (3, 16)),
    "s4d_inv": (I.s4d_inv(), (3, 16)),
    "xlstm_biases": (I.xlstm_biases(NAMES), (4, 16)),
}
# The last places move where a program is fused otherwise, or a QR, an SVD or eigenvalues are
# computed in a batch.
ROUNDED = {
    "delta_orthogonal",
    "sinusoidal",
    "orthogonal",
    "spectral",
    "positive_definite_identity",
    "gaussian_at_radius",
    "chrono",
    "truncated_normal",
    "lecun",
    "he",
    "glorot",
    "uniform",
    "ring",
    "small_init",
    "variance_scaling",
    "wang",
    "by_gain",
    "normal",
    "sparse",
    "time_steps",
    "log_rate",
    "decay_logit",
    "xlstm_biases",
}
WITHOUT_RANDOMNESS = {
    "sinusoidal",
    "constant",
    "zeros",
    "ones",
    "identity",
    "dirac",
    "hippo_legs",
    "zero_hadamard",
    "gate_biases",
    "s4d_real",
    "s4d_lin",
    "s4d_inv",
}


# Of each kind of draw one: by JAX, by a decomposition, by a loop, by equal numbers.
QUICK = (
    "constant",
    "normal",
    "truncated_normal",
    "variance_scaling",
    "orthogonal",
    "sparse",
    "ring",
    "sinusoidal",
    "gate_biases",
    "xlstm_biases",
)


@pytest.mark.parametrize("name", quick(*QUICK, of=CATALOGUE))
def test_same_key_same_values_eager_jit_vmap_and_sharded(name: str) -> None:
    init, shape = EXAMPLES[name]
    dtype = jnp.complex64 if name == "ring" else jnp.float32

    def draw(key: jax.Array) -> jax.Array:
        return init(key, shape, dtype)

    keys = jax.random.split(jax.random.key(3), 8)
    eager = np.stack([np.asarray(draw(key)) for key in keys])
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("copy",))
    split = NamedSharding(mesh, PartitionSpec("copy"))
    mapped = jax.jit(jax.vmap(draw))(keys)
    sharded = jax.jit(jax.vmap(draw), out_shardings=split)(keys)
    assert len(sharded.sharding.device_set) == 8
    compiled = jax.jit(draw)
    jitted = np.stack([np.asarray(compiled(key)) for key in keys[:2]])
    tolerance = 1e-5 * np.abs(eager).max() if name in ROUNDED else 0
    for other in (jitted, mapped[:2], sharded[:2]):
        np.testing.assert_allclose(other, eager[:2], rtol=0, atol=tolerance)
    np.testing.assert_allclose(sharded, eager, rtol=0, atol=tolerance)
    if name not in WITHOUT_RANDOMNESS:
        assert len(np.unique(eager.reshape(8, -1), axis=0)) == 8


# Axes that are explicit are a part of a draw's type, over which any law may stumble; of automatic
# ones no law knows.
PLACED = []
for _name in CATALOGUE:
    PLACED += [(_name, True), (_name, False)]


@pytest.mark.parametrize(
    ("name", "explicit"),
    quick(*((name, True) for name in QUICK), ("normal", False), ("ring", False), of=PLACED),
)
def test_jaxs_whole_protocol_by_name_and_placed(name: str, explicit: bool) -> None:
    init, shape = EXAMPLES[name]
    dtype = jnp.complex64 if name == "ring" else jnp.float32
    plain = init(KEY, shape, dtype)
    np.testing.assert_array_equal(init(key=KEY, shape=shape, dtype=dtype, out_sharding=None), plain)
    np.testing.assert_array_equal(init(KEY, shape), plain)  # the default dtype
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(kind, kind))
    spec = PartitionSpec(*[None] * (len(shape) - 1), "y")
    placed = init(key=KEY, shape=shape, dtype=dtype, out_sharding=NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        in_context = init(key=KEY, shape=shape, dtype=dtype, out_sharding=spec)
        draw = partial(init, shape=shape, dtype=dtype, out_sharding=spec)
        under_jit = jax.jit(draw)(KEY)
    sharding = NamedSharding(mesh, spec)
    for other in (placed, in_context, under_jit):
        assert other.sharding.is_equivalent_to(sharding, len(shape))
        tolerance = 1e-5 * np.abs(plain).max() if other is under_jit and name in ROUNDED else 0
        np.testing.assert_allclose(other, plain, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CATALOGUE)
def test_integer_dtypes_are_refused_where_numbers_are_drawn(name: str) -> None:
    init, shape = EXAMPLES[name]
    if name in ("constant", "zeros", "ones", "gate_biases"):  # integers hold these
        assert init(jax.random.key(0), shape, jnp.int32).dtype == jnp.int32
        return
    with pytest.raises(ValueError, match=r"got dtype int32; ask for"):
        init(jax.random.key(0), shape, jnp.int32)
