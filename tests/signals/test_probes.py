"""Probes against statistics computed apart, layer by layer, step by step and gate by gate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx
from jaxtyping import Array

from jaxinit import introspect, spec
from jaxinit.introspect import functional
from jaxinit.models import LSTM, MLP, MODELS, RNN
from jaxinit.schemes import SCHEMES
from jaxinit.signals import probes
from jaxinit.tasks.base import cross_entropy

X = jax.random.normal(jax.random.key(1), (40, 6, 3))
Y = jax.random.randint(jax.random.key(2), (40,), 0, 4)


def parts(model: str, **options) -> tuple:
    inputs = 18 if model == "mlp" else 3

    def make() -> nnx.Module:
        return MODELS[model](inputs, 16, 4, rngs=nnx.Rngs(0), **options)

    leaves, apply, *_ = functional(make)
    return leaves, apply, spec.draw(SCHEMES["xavier_rnn"], jax.random.key(0), leaves)


def compiled_signals(apply, leaves, params: dict[str, Array]) -> dict[str, dict]:
    @jax.jit
    def look(params: dict[str, Array]) -> dict[str, dict]:
        return probes.signals(apply, cross_entropy, leaves, params, (X, Y))

    return look(params)


def test_every_signal_of_a_net() -> None:
    leaves, apply, params = parts("mlp", layers=3)
    signals = compiled_signals(apply, leaves, params)
    shift = {f"layers.{k}": jnp.zeros((40, 16)) for k in range(3)}

    def cost(p: dict[str, Array], shift: dict[str, Array]) -> Array:
        h = X.reshape(40, -1)
        for k in range(3):
            h = jnp.tanh(h @ p[f"layers.{k}.kernel"] + shift[f"layers.{k}"])
        return cross_entropy(h @ p["readout.kernel"], Y)

    slopes, gradients = jax.jit(jax.grad(cost, argnums=(0, 1)))(params, shift)
    h = X.reshape(40, -1)
    for k in range(3):
        name = f"layers.{k}.kernel"
        z = h @ params[name]
        expected = {
            "product": z,
            "gradient": 40 * gradients[f"layers.{k}"],
            "weight_gradient": slopes[name],
            "weight": params[name],
        }
        activation = signals[name]["activation"]
        np.testing.assert_allclose(activation.mean_square, (h**2).mean(), rtol=1e-4)
        for signal, values in expected.items():
            rtol = 1e-3 if "gradient" in signal else 1e-4
            got = signals[name][signal].mean_square
            np.testing.assert_allclose(got, [(values**2).mean()], rtol=rtol, err_msg=signal)
        h = jnp.tanh(z)


def test_gradients_of_a_loop_are_seen_step_by_step() -> None:
    leaves, apply, params = parts("rnn")
    kernel, recurrent = params["layers.0.input"], params["layers.0.recurrent"]

    signals = compiled_signals(apply, leaves, params)["layers.0.recurrent"]
    assert signals["product"].mean.shape == (6, 1)

    def cost(shift: Array) -> Array:
        h = jnp.zeros((40, 16))
        for t in range(6):
            h = jnp.tanh(X[:, t] @ kernel + h @ recurrent + shift[t])
        return cross_entropy(h @ params["readout.kernel"], Y)

    gradients = 40 * jax.jit(jax.grad(cost))(jnp.zeros((6, 40, 16)))
    by_step = signals["gradient"].mean_square[:, 0]
    np.testing.assert_allclose(by_step, (gradients**2).mean((1, 2)), rtol=1e-3)
    assert float(signals["product"].mean_square[0, 0]) == 0, "the state before the first step is 0"


@pytest.mark.parametrize("model", quick("gru", of=["lstm", "gru"]))
def test_gates_have_signals_of_their_own(model: str) -> None:
    module = MODELS[model](3, 16, 4, init=SCHEMES["orthogonal"], rngs=nnx.Rngs(0))
    data = probes.probe(module, (X, Y), "cross_entropy")
    gates = len(MODELS[model].gates)
    assert dict(data.sizes) == {"parameter": 3, "step": 6, "copy": gates, "bin": 81}
    recurrent = data.sel(parameter="layers.0.recurrent")
    assert (recurrent.gradient_mean_square[1:] > 0).all(), (
        "the first step's states are 0, so some gates have none"
    )
    readout = data.sel(parameter="readout.kernel")
    assert np.isnan(readout.gradient_mean_square[:, 1:]).all()
    apply = functional(lambda: module).apply

    def cost(params: dict[str, Array]) -> Array:
        return cross_entropy(apply(params, X), Y)

    slopes = jax.jit(jax.grad(cost))(introspect.values(module))
    expected = jnp.linalg.norm(slopes["layers.0.recurrent"])
    np.testing.assert_allclose(recurrent.gradient_norm, expected, rtol=1e-3)


def test_a_filter_that_matches_nothing_names_what_there_is() -> None:
    leaves, apply, params = parts("mlp", layers=2)

    def named(only: str) -> list[str]:
        def look(params):
            return probes.signals(apply, cross_entropy, leaves, params, (X, Y), only)

        return sorted(jax.eval_shape(look, params))

    assert named("layers.*") == ["layers.0.kernel", "layers.1.kernel"]
    message = r"'conv\*' matches no kernel; there are .*layers.0.kernel"
    with pytest.raises(ValueError, match=message):
        named("conv*")


@pytest.mark.parametrize("activation", ["tanh", "softsign", "relu"])
def test_correlations_are_cosines_of_products(activation: str) -> None:
    leaves, apply, params = parts("mlp", layers=3, activation=activation)
    cosines = probes.correlations(apply, leaves, params, X[:5])
    z = np.asarray(X[:5].reshape(5, -1) @ params["layers.0.kernel"])
    norms = np.linalg.norm(z, axis=1)
    expected = (z @ z.T) / norms / norms[:, None]
    np.testing.assert_allclose(cosines["layers.0.kernel"], expected, atol=1e-5)


@pytest.mark.slow
def test_uses_of_different_copies_are_joined_in_their_order_and_second_uses_left_out() -> None:
    def use(copies: list[int]) -> probes._Use:
        stats = probes.stats(jnp.asarray(copies, jnp.float32)[:, None])
        return probes._Use("gates", copies, 0, stats, stats, probes.stats(jnp.ones((1, 1))))

    uses = [use([2, 0]), use([1]), use([0, 1])]
    joined = probes._by_kernel(uses)["gates"]
    assert joined.copies == [0, 1, 2]
    assert joined.product.mean.tolist() == [0, 1, 2]
    assert joined.gradient.mean.tolist() == [0, 1, 2]


def test_recurrent_nets_are_told_which_activations_they_take() -> None:
    message = r"an RNN takes the activations linear, tanh.*got 'gelu'; an MLP takes it"
    with pytest.raises(ValueError, match=message):
        RNN(3, 4, 2, activation="gelu", rngs=nnx.Rngs(0))
    assert LSTM.gates[1] == "forget"


def test_updates_are_what_the_optimizer_makes_of_the_gradients() -> None:
    leaves, apply, params = parts("mlp", layers=2)

    def twice_downhill(gradients: dict[str, Array]) -> dict[str, Array]:
        return {name: -2 * gradient for name, gradient in gradients.items()}

    signals = probes.signals(apply, cross_entropy, leaves, params, (X, Y), update=twice_downhill)
    data = probes.to_dataset(signals, leaves)
    np.testing.assert_allclose(
        data.update_mean_square, 4 * data.weight_gradient_mean_square, rtol=1e-5
    )
    without_update = probes.signals(apply, cross_entropy, leaves, params, (X, Y))
    assert "update_mean" not in probes.to_dataset(without_update, leaves)


def chosen(p: dict[str, Array], x: Array) -> Array:
    def taken(h: Array) -> Array:
        return h @ p["v"]

    def left_out(h: Array) -> Array:
        return h @ p["u"]

    h = jnp.tanh(x.reshape(len(x), -1) @ p["w"])
    return jax.lax.cond(h.sum() < 1e9, taken, left_out, h)


def always_taken(p: dict[str, Array], x: Array) -> Array:
    return jnp.tanh(x.reshape(len(x), -1) @ p["w"]) @ p["v"]


CHOSEN = (
    spec.Leaf("w", (18, 8), "io", "input"),
    spec.Leaf("v", (8, 4), "io", "readout"),
    spec.Leaf("u", (8, 4), "io", "readout"),
)


def test_signals_of_a_branch_are_seen_where_it_is_taken_and_missing_where_it_is_not() -> None:
    params = spec.draw(SCHEMES["xavier_rnn"], jax.random.key(0), CHOSEN)
    signals = compiled_signals(chosen, CHOSEN, params)
    params_taken = {"v": params["v"], "w": params["w"]}
    expected = compiled_signals(always_taken, CHOSEN[:2], params_taken)
    for name, kernel_signals in expected.items():
        for signal, stats in kernel_signals.items():
            if signal == "place":
                continue
            for field, statistic in stats._asdict().items():
                got = getattr(signals[name][signal], field)
                np.testing.assert_allclose(
                    got, statistic, rtol=1e-4, atol=1e-6, err_msg=f"{name} {signal} {field}"
                )
    for signal in ("product", "activation", "gradient"):
        assert np.isnan(signals["u"][signal].mean_square).all()
    assert signals["u"]["weight_gradient"].mean_square.tolist() == [0]


def test_kernels_that_are_not_seen_are_named() -> None:
    def turns(p: dict[str, Array], x: Array) -> Array:
        h = jnp.tanh(x.reshape(len(x), -1) @ p["w"])
        v = jax.lax.stop_gradient(p["v"])

        def goes_on(carry: tuple[Array, Array]) -> Array:
            return carry[0] < 2

        def turn(carry: tuple[Array, Array]) -> tuple[Array, Array]:
            count, h = carry
            return count + 1, h @ v

        _, h = jax.lax.while_loop(goes_on, turn, (0, jax.lax.stop_gradient(h)))
        return h

    leaves = (spec.Leaf("w", (18, 4), "io", "input"), spec.Leaf("v", (4, 4), "io", "readout"))
    params = spec.draw(SCHEMES["xavier_rnn"], jax.random.key(0), leaves)
    with pytest.warns(UserWarning, match=r"no product with v is seen: .*\(while\)"):
        signals = probes.signals(turns, cross_entropy, leaves, params, (X, Y))
    assert list(signals) == ["w"]
    with pytest.raises(ValueError, match="no product with v is seen") as caught:
        probes.signals(turns, cross_entropy, leaves, params, (X, Y), "v")
    assert "\n" not in str(caught.value)


def test_a_batch_without_examples_is_refused() -> None:
    model = MLP(18, 8, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"one example or more, got a batch of shape \(0, 6, 3\)"):
        probes.probe(model, (X[:0], Y[:0]), cross_entropy)
