"""LSUV reaches its variances, MetaInit and GradInit lower what they promise to, and all rescale only."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jaxtyping import Array

from jaxinit import calibrate, spec, watch
from jaxinit.calibrate import Problem, gradient_quotient, gradinit, lsuv, metainit
from jaxinit.initializers import glorot_scheme
from jaxinit.introspect import functional
from jaxinit.models import MODELS, Transformer
from jaxinit.schemes import SCHEMES
from jaxinit.spec import Leaf, draw
from jaxinit.tasks import TASKS
from jaxinit.tasks.base import cross_entropy

WIDTH, DEPTH = 64, 20
BLOCKS = tuple(
    Leaf(f"{name}.{k}", (WIDTH, WIDTH), "io", "hidden") for k in range(DEPTH // 2) for name in ("first", "second")
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


def variances(problem: Problem, params: dict[str, Array], x: Array) -> dict[str, np.ndarray]:
    found = watch.products(problem.apply, problem.leaves, params, x)[1]
    return {name: np.asarray(of.variance) for name, of in found.items()}


@pytest.mark.parametrize("scheme", ["small_normal", "uniform01", "saxe_orthogonal"])
@pytest.mark.parametrize(
    ("leaves", "apply"), [(PLAIN, plain(jnp.tanh)), (PLAIN, plain(jax.nn.relu)), (BLOCKS, residual)]
)
def test_lsuv_gives_every_layer_of_twenty_unit_variance(scheme: str, leaves: tuple, apply) -> None:
    problem = Problem(leaves, apply, cross_entropy)
    start = spec.draw(SCHEMES[scheme], jax.random.key(0), leaves)
    x, y = batches(WIDTH)
    done = jax.jit(lambda p: lsuv(problem, p, (x, y)))(start)
    measured = variances(problem, done.params, x.reshape(-1, WIDTH))
    assert len(measured) == DEPTH
    for name, variance in measured.items():
        np.testing.assert_allclose(variance, 1, atol=0.1, err_msg=name)
        np.testing.assert_allclose(done.params[name], start[name] * done.factors[name][:, None], rtol=1e-5)
    if scheme == "saxe_orthogonal":  # other data of the same law
        other = variances(problem, done.params, jax.random.normal(jax.random.key(9), (256, WIDTH)))
        np.testing.assert_allclose(np.concatenate(list(other.values())), 1, atol=0.35)
        assert 0 < done.report["spread"] < 0.2
    assert done.report["variance_low"] >= 0.9
    assert done.report["variance_high"] <= 1.1


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_lsuv_reaches_recurrent_matrices_gate_by_gate(model: str) -> None:
    leaves, apply, *_ = functional(lambda: MODELS[model](8, 32, 10, layers=2, rngs=nnx.Rngs(0)))
    problem = Problem(leaves, apply, cross_entropy)
    start = spec.draw(SCHEMES["orthogonal"], jax.random.key(0), leaves)
    x = jax.random.normal(jax.random.key(1), (2, 32, 12, 8))
    done = jax.jit(lambda p: lsuv(problem, p, (x, x)))(start)
    measured = variances(problem, done.params, x.reshape(-1, 12, 8))
    assert {name.split(".")[-1] for name in measured} == {"input", "recurrent", "kernel"}
    gates = 1 if model == "rnn" else len(MODELS[model].gates)
    assert measured["layers.1.recurrent"].shape == (gates,)
    for name, variance in measured.items():
        np.testing.assert_allclose(variance, 1, atol=0.1, err_msg=name)


def test_lsuv_of_a_net_unrolled_by_hand_is_that_of_its_loop() -> None:
    leaves, apply, *_ = functional(lambda: MODELS["rnn"](8, 32, 10, rngs=nnx.Rngs(0)))

    def unrolled(p: dict[str, Array], x: Array) -> Array:
        h = jnp.zeros((x.shape[0], 32))
        for t in range(x.shape[1]):
            h = jnp.tanh(x[:, t] @ p["layers.0.input"] + h @ p["layers.0.recurrent"])
        return h @ p["readout.kernel"]

    start = spec.draw(SCHEMES["orthogonal"], jax.random.key(0), leaves)
    x = jax.random.normal(jax.random.key(1), (2, 32, 6, 8))
    by_loop, by_hand = (
        jax.jit(lambda p, of=of: lsuv(Problem(leaves, of, cross_entropy), p, (x, x)))(start).factors
        for of in (apply, unrolled)
    )
    for name, of in by_hand.items():
        np.testing.assert_allclose(of, by_loop[name], rtol=1e-3)


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

    start = spec.draw(SCHEMES["xavier_rnn"], jax.random.key(0), leaves)
    words = jax.random.randint(jax.random.key(1), (3, 16, 10), 0, 20)
    problem = Problem(leaves, attend, cross_entropy)
    done = jax.jit(lambda p: lsuv(problem, p, (words, words)))(start)
    measured = variances(problem, done.params, words.reshape(-1, 10))
    assert measured["query"].shape == (4,)
    for name, variance in measured.items():
        np.testing.assert_allclose(variance, 1, atol=0.1, err_msg=name)
    unused = (*leaves, Leaf("idle", (16, 16), "io", "hidden"))
    with pytest.raises(ValueError, match=r"found no product with \['idle'\]"):
        lsuv(Problem(unused, attend, cross_entropy), start | {"idle": start["table"][:16]}, (words, words))


def test_gradient_quotient_against_its_formula() -> None:
    matrix = jnp.asarray([[2.0, 0.5], [0.5, 3.0]])
    w = jnp.asarray([1.0, -2.0])
    got = gradient_quotient(lambda p: p["w"] @ matrix @ p["w"] / 2, {"w": w})
    g = np.asarray(matrix @ w)
    hg = np.asarray(matrix) @ g
    np.testing.assert_allclose(got, np.abs((g - hg) / (g + 1e-5 * np.sign(g)) - 1).mean(), rtol=1e-5)


DIGITS = TASKS["digits_rows"]()


def deep(std: float) -> tuple[Problem, dict[str, Array], tuple[Array, Array]]:
    """A 20-layer tanh net on digits, started at N(0, std^2)."""
    leaves, apply, *_ = functional(lambda: MODELS["mlp"](64, WIDTH, 10, layers=DEPTH, rngs=nnx.Rngs(0)))
    law = lambda leaf: SCHEMES["small_normal"](leaf)
    params = {name: w * (std / 0.01) for name, w in spec.draw(law, jax.random.key(0), leaves).items()}
    order = jax.random.permutation(jax.random.key(3), 1280)[:512].reshape(8, 64)
    x, y = DIGITS.data["train_x"][order], DIGITS.data["train_y"][order]
    return Problem(leaves, apply, cross_entropy), params, (x, y)


def loss_after(problem: Problem, params: dict[str, Array], steps: int, rate: float) -> float:
    tx = optax.sgd(rate)

    def step(state, key):
        params, opt = state
        rows = jax.random.randint(key, (64,), 0, 1280)
        batch = DIGITS.data["train_x"][rows], DIGITS.data["train_y"][rows]
        updates, opt = tx.update(jax.grad(problem.loss_of)(params, batch), opt)
        return (optax.apply_updates(params, updates), opt), None

    keys = jax.random.split(jax.random.key(7), steps)
    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), keys))(params)
    everything = DIGITS.data["train_x"], DIGITS.data["train_y"]
    return float(problem.loss_of(params, everything))


@pytest.mark.slow
@pytest.mark.parametrize("std", [0.1, 0.01])  # both readings of N(0, 0.01)
@pytest.mark.parametrize("calibration", [metainit, gradinit])
def test_metainit_and_gradinit_lower_the_loss_after_500_steps(calibration, std: float) -> None:
    problem, params, data = deep(std)
    done = jax.jit(lambda p: calibration(problem, p, data))(params)
    before, after = (loss_after(problem, p, 500, 0.1) for p in (params, done.params))
    print(calibration.__name__, before, after, {k: float(v) for k, v in done.report.items()})
    assert after < 0.9 * before
    if std == 0.01:
        assert before > 2.2, "the start as it is does not learn"
        assert after < 1
    if calibration is metainit:
        assert done.report["quotient_after"] < 0.5 * done.report["quotient_before"]


def test_gradinit_keeps_the_gradient_bounded() -> None:
    problem, params, data = deep(std=0.3)  # chaotic: its gradient is large
    report = jax.jit(lambda p: gradinit(problem, p, data))(params).report
    assert report["norm_before"] > 50
    assert report["norm_after"] < 1.2


@pytest.mark.parametrize("name", ["lsuv", "metainit", "gradinit"])
def test_calibrations_only_rescale_and_map_over_seeds(name: str) -> None:
    leaves, apply, *_ = functional(lambda: MODELS["gru"](8, 8, 10, rngs=nnx.Rngs(0)))
    problem = Problem(leaves, apply, cross_entropy, "adam")
    x = jax.random.normal(jax.random.key(1), (3, 16, 4, 8))
    y = jax.random.randint(jax.random.key(2), (3, 16), 0, 10)
    options = {} if name == "lsuv" else {"steps": 5}
    of = lambda seed: spec.draw(SCHEMES["glorot_uniform"], jax.random.key(seed), leaves)
    run = lambda seed: calibrate.CALIBRATIONS[name](problem, of(seed), (x, y), **options)
    together = jax.jit(jax.vmap(run))(jnp.arange(3))
    alone = jax.jit(run)(1)
    for leaf in leaves:
        np.testing.assert_allclose(together.params[leaf.name][1], alone.params[leaf.name], rtol=1e-4, atol=1e-6)
        start = np.asarray(of(1)[leaf.name])
        if leaf.name in alone.factors:
            sizes = [size if letter == "." else 1 for size, letter in zip(leaf.shape, leaf.dims, strict=True)]
            start = start * np.asarray(alone.factors[leaf.name]).reshape(sizes)
        np.testing.assert_allclose(alone.params[leaf.name], start, rtol=1e-5)


def test_admin_profiles_the_branches() -> None:
    """omega^2 grows by the variance of each branch, measured by hand in a pass at omega = 1."""
    model = functional(
        lambda: Transformer(
            7, 16, 7, layers=3, heads=2, length=8, placed="post", learned_skip=True, scan=False, rngs=nnx.Rngs(0)
        )
    )
    params = draw(glorot_scheme, jax.random.key(0), model.leaves)
    x = jax.random.randint(jax.random.key(1), (4, 8, 8), 0, 7)
    problem = calibrate.Problem(model.leaves, model.apply, lambda outputs, y: jnp.mean(outputs))
    done = calibrate.admin(problem, params, (x, x))
    omegas = [float(done.params[f"blocks.{k}.{of}.skip"][0]) for k in range(3) for of in ("attended", "fed")]
    assert omegas[0] == 1
    assert omegas == sorted(omegas)
    filled = model.filled(params)
    s = filled.embedding[...][x.reshape(-1, 8)] + filled.positions[...][None, :8]
    total, expected = 1.0, []
    for block in filled.blocks:
        attended = block.attention(s, s, filled.shape, True)
        expected.append(total**0.5)
        total += float(jnp.var(attended))
        s = block.attended.norm(s + attended)
        fed = block.feed(s, filled.shape)
        expected.append(total**0.5)
        total += float(jnp.var(fed))
        s = block.fed.norm(s + fed)
    np.testing.assert_allclose(omegas, expected, rtol=1e-3)
    with pytest.raises(ValueError, match="learned_skip"):
        calibrate.admin(calibrate.Problem((), model.apply, lambda outputs, y: jnp.mean(outputs)), params, (x, x))
