"""LSUV reaches its variances, and names the kernels that it cannot measure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibration_problems import shallow, variances, variances_in
from cases import quick
from flax import nnx
from jaxtyping import Array

from jaxinit import calibrate, spec
from jaxinit.calibrate import Problem, lsuv, unit_variance
from jaxinit.calibrate.problem import factors_of_one
from jaxinit.introspect import Functional, declare, functional
from jaxinit.models import MODELS, Transformer
from jaxinit.schemes import SCHEMES
from jaxinit.spec import Leaf, draw
from jaxinit.tasks.base import cross_entropy

WIDTH, DEPTH = 64, 20


BLOCKS = tuple(
    Leaf(f"{name}.{k}", (WIDTH, WIDTH), "io", "hidden")
    for k in range(DEPTH // 2)
    for name in ("first", "second")
)


PLAIN = tuple(Leaf(f"layer.{k}", (WIDTH, WIDTH), "io", "hidden") for k in range(DEPTH))


def plain(phi):
    def apply(p: dict[str, Array], x: Array) -> Array:
        for k in range(DEPTH):
            x = phi(x @ p[f"layer.{k}"])
        return x

    return apply


def residual(p: dict[str, Array], x: Array) -> Array:
    for k in range(DEPTH // 2):
        x = x + jax.nn.relu(x @ p[f"first.{k}"]) @ p[f"second.{k}"]
    return x


def batches(features: int, count: int = 4, batch: int = 64) -> tuple[Array, Array]:
    x = jax.random.normal(jax.random.key(5), (count, batch, features))
    return x, jax.random.randint(jax.random.key(6), (count, batch), 0, 10)


@pytest.mark.parametrize(
    ("leaves", "apply"),
    [
        pytest.param(PLAIN, plain(jnp.tanh), marks=pytest.mark.slow),
        (PLAIN, plain(jax.nn.relu)),
        pytest.param(BLOCKS, residual, marks=pytest.mark.slow),
    ],
)
def test_lsuv_gives_every_layer_of_twenty_unit_variance(leaves: tuple, apply) -> None:
    problem = Problem(leaves, apply, cross_entropy)
    x, y = batches(WIDTH)
    calibrated = jax.jit(lambda p: lsuv(problem, p, (x, y)))
    measure = variances_in(problem)
    for scheme in ("small_normal", "uniform01", "saxe_orthogonal"):
        params = spec.draw(SCHEMES[scheme], jax.random.key(0), leaves)
        check_unit_variance(scheme, params, calibrated(params), measure, x)


def check_unit_variance(
    scheme: str, params: dict, done: calibrate.Calibrated, measure, x: Array
) -> None:
    measured = measure(done.params, x.reshape(-1, WIDTH))
    assert len(measured) == DEPTH
    for name, variance in measured.items():
        np.testing.assert_allclose(variance, 1, atol=0.1, err_msg=f"{scheme}: {name}")
        np.testing.assert_allclose(
            done.params[name], params[name] * done.factors[name][:, None], rtol=1e-5
        )
    if scheme == "saxe_orthogonal":
        other_data = jax.random.normal(jax.random.key(9), (256, WIDTH))  # of the same law
        others = measure(done.params, other_data)
        np.testing.assert_allclose(np.concatenate(list(others.values())), 1, atol=0.35)
        assert 0 < done.report["spread"] < 0.2
    assert done.report["variance_low"] >= 0.9
    assert done.report["variance_high"] <= 1.1


@pytest.mark.parametrize("model", quick("gru", of=["rnn", "lstm", "gru"]))
def test_lsuv_reaches_recurrent_matrices_gate_by_gate(model: str) -> None:
    leaves, apply, *_ = functional(lambda: MODELS[model](8, 32, 10, layers=2, rngs=nnx.Rngs(0)))
    problem = Problem(leaves, apply, cross_entropy)
    params = spec.draw(SCHEMES["orthogonal"], jax.random.key(0), leaves)
    x = jax.random.normal(jax.random.key(1), (2, 32, 12, 8))
    done = jax.jit(lambda p: lsuv(problem, p, (x, x)))(params)
    measured = variances(problem, done.params, x.reshape(-1, 12, 8))
    assert {name.split(".")[-1] for name in measured} == {"input", "recurrent", "kernel"}
    gates = 1 if model == "rnn" else len(MODELS[model].gates)
    assert measured["layers.1.recurrent"].shape == (gates,)
    for name, variance in measured.items():
        np.testing.assert_allclose(variance, 1, atol=0.1, err_msg=name)


class Attention(nnx.Module):
    def __init__(self, fused: bool) -> None:
        rngs = nnx.Rngs(0)

        def linear(outputs: int) -> nnx.Linear:
            return nnx.Linear(8, outputs, use_bias=False, rngs=rngs)

        self.qkv = linear(32) if fused else nnx.data([linear(size) for size in (8, 8, 16)])
        self.out = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        if isinstance(self.qkv, nnx.Linear):
            q, k, v = jnp.split(self.qkv(x), (8, 16), -1)
        else:
            q, k, v = (layer(x) for layer in self.qkv)
        return self.out(jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v)


def test_lsuv_of_a_fused_layer_is_that_of_its_parts() -> None:
    split = {"qkv": {"query": 8, "key": 8, "value": 16}}
    fused = functional(lambda: declare(Attention(True), split=split))
    parts = functional(lambda: declare(Attention(False)))
    fused_params = draw(SCHEMES["glorot_uniform"], jax.random.key(0), fused.leaves)
    part_names = {f"qkv.kernel.{name}": f"qkv.{k}.kernel" for k, name in enumerate(split["qkv"])}
    part_params = {part_names.get(name, name): w for name, w in fused_params.items()}
    x = jax.random.normal(jax.random.key(1), (2, 32, 6, 8))

    def factors(model: Functional, params: dict[str, Array]) -> calibrate.Factors:
        problem = Problem(model.leaves, model.apply, cross_entropy)
        return jax.jit(lambda p: lsuv(problem, p, (x, x)))(params).factors

    fused_factors = factors(fused, fused_params)
    part_factors = factors(parts, part_params)
    assert set(fused_factors) == {*part_names, "out.kernel"}
    for name, factor in fused_factors.items():
        part = part_names.get(name, name)
        np.testing.assert_allclose(factor, part_factors[part], rtol=1e-4)


@pytest.mark.slow
def test_lsuv_of_a_net_unrolled_by_hand_is_that_of_its_loop() -> None:
    leaves, apply, *_ = functional(lambda: MODELS["rnn"](8, 32, 10, rngs=nnx.Rngs(0)))

    def unrolled(p: dict[str, Array], x: Array) -> Array:
        h = jnp.zeros((x.shape[0], 32))
        for t in range(x.shape[1]):
            h = jnp.tanh(x[:, t] @ p["layers.0.input"] + h @ p["layers.0.recurrent"])
        return h @ p["readout.kernel"]

    params = spec.draw(SCHEMES["orthogonal"], jax.random.key(0), leaves)
    x = jax.random.normal(jax.random.key(1), (2, 32, 6, 8))

    def factors(apply) -> calibrate.Factors:
        problem = Problem(leaves, apply, cross_entropy)
        return jax.jit(lambda p: lsuv(problem, p, (x, x)))(params).factors

    by_loop = factors(apply)
    for name, factor in factors(unrolled).items():
        np.testing.assert_allclose(factor, by_loop[name], rtol=1e-3)


def test_lsuv_scales_heads_and_tied_tables_and_names_what_it_cannot_see() -> None:
    leaves = (
        Leaf("table", (20, 16), "io", "embedding"),
        Leaf("query", (16, 4, 4), "i.o", "query"),
        Leaf("key", (16, 4, 4), "i.o", "key"),
        Leaf("value", (16, 4, 4), "i.o", "value"),
        Leaf("out", (4, 4, 16), "iio", "attention_out"),
    )

    def attend(p: dict[str, Array], words: Array) -> Array:
        x = p["table"][words]
        q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k) / 2)
        x = x + jnp.einsum("bhts,bshe,hed->btd", weights, v, p["out"])
        return x @ p["table"].T

    params = spec.draw(SCHEMES["xavier_rnn"], jax.random.key(0), leaves)
    words = jax.random.randint(jax.random.key(1), (3, 16, 10), 0, 20)
    problem = Problem(leaves, attend, cross_entropy)
    done = jax.jit(lambda p: lsuv(problem, p, (words, words)))(params)
    measured = variances(problem, done.params, words.reshape(-1, 10))
    assert measured["query"].shape == (4,)
    for name, variance in measured.items():
        np.testing.assert_allclose(variance, 1, atol=0.1, err_msg=name)
    unused = (*leaves, Leaf("idle", (16, 16), "io", "hidden"))
    with pytest.raises(ValueError, match=r"found no product with \['idle'\]"):
        lsuv(
            Problem(unused, attend, cross_entropy),
            params | {"idle": params["table"][:16]},
            (words, words),
        )


def test_a_correction_of_lsuv_is_of_one_kernel() -> None:
    problem, params, (x, _) = shallow(3.0, "sgd", "mlp")
    kernels = unit_variance._measured_kernels(problem, params, x[0])
    ones = factors_of_one(problem.kernels, params)
    corrected = kernels.correct_one(jnp.int32(1), ones)
    second = kernels.names[1]
    assert corrected[second] != 1
    assert all(corrected[name] == 1 for name in kernels.names if name != second)
    np.testing.assert_allclose(kernels.moments(corrected)[second].variance, 1, rtol=1e-4)


def test_a_product_that_is_constant_has_no_variance() -> None:
    """Rounding gives the variance of a constant some 1e-7 of its square, which is not to be scaled
    to 1."""
    leaves = (Leaf("first", (3, 4), "io", "hidden"),)
    problem = Problem(leaves, lambda p, x: x @ p["first"], cross_entropy)
    x = jnp.broadcast_to(jnp.asarray([0.1, 0.7, 0.3]), (2, 50, 3))
    with pytest.raises(ValueError, match="'first' has variance 0"):
        lsuv(problem, {"first": jnp.full((3, 4), 0.3)}, (x, x))


@pytest.mark.parametrize("positions", quick("learned", of=["learned", "rotary", None]))
def test_lsuv_of_transformers_leaves_positions_as_they_are(positions) -> None:
    options = {"heads": 2, "length": 6, "positions": positions, "scan": False}

    def make() -> Transformer:
        return Transformer(11, 16, 11, layers=1, **options, rngs=nnx.Rngs(0))

    leaves, apply, *_ = functional(make)
    params = spec.draw(SCHEMES["xavier_transformer"], jax.random.key(0), leaves)
    x = jax.random.randint(jax.random.key(1), (2, 16, 6), 0, 11)
    problem = Problem(leaves, apply, cross_entropy)
    done = jax.jit(lambda p: lsuv(problem, p, (x, x)))(params)
    calibrate.checked(done)
    measured = variances(problem, done.params, x.reshape(-1, 6))
    multiplied = {leaf.name for leaf in leaves if leaf.is_kernel and leaf.role != "position"}
    assert set(measured) == multiplied
    for name, variance in measured.items():
        np.testing.assert_allclose(variance, 1, atol=0.1, err_msg=name)
    assert ("skipped positions" in done.report) == (positions == "learned")
    if positions == "learned":
        np.testing.assert_array_equal(done.params["positions"], params["positions"])
