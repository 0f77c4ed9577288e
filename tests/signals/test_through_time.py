"""A network through time, where the truth is known: linear networks, constant gates, wide
layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx

from jaxinit import spec
from jaxinit.initializers import constant, normal, orthogonal
from jaxinit.introspect import functional
from jaxinit.models import LSTM, MLP, MODELS, RNN
from jaxinit.schemes import SCHEMES, with_bias
from jaxinit.signals import through_time
from jaxinit.tasks.base import cross_entropy

T, B, D, H, K = 12, 16, 3, 24, 4
X = jax.random.normal(jax.random.key(1), (B, T, D))
Y = jax.random.randint(jax.random.key(2), (B,), 0, K)


def make_rnn() -> RNN:
    return RNN(D, H, K, rngs=nnx.Rngs(0))


def make_lstm() -> LSTM:
    return LSTM(D, H, K, rngs=nnx.Rngs(0))


def looked(make, scheme):
    """A model, its drawn parameters and the course of its states."""
    model = functional(make)
    params = spec.draw(scheme, jax.random.key(0), model.leaves)

    @jax.jit
    def course(params):
        return through_time.states_and_gradients(model, cross_entropy, params, (X, Y))

    return model, params, course(params)


@pytest.mark.parametrize("gain", quick(0.8, of=[0.8, 1.0, 1.2]))
def test_a_linear_network_loses_its_gain_at_every_step(gain: float) -> None:
    def make() -> RNN:
        return RNN(D, H, K, activation="linear", rngs=nnx.Rngs(0))

    scheme = spec.Override(SCHEMES["xavier_rnn"], {"recurrent": orthogonal(gain)})
    model, params, course = looked(make, scheme)
    assert course.gradient.shape == (1, 1, T)
    gradient = course.gradient[0, 0]
    np.testing.assert_allclose(gradient[:-1] / gradient[1:], gain, rtol=1e-4)
    by_step = np.asarray(through_time.step_jacobians(model, params, X[:1]))
    lags, values = through_time.singular_values(by_step)
    np.testing.assert_allclose(values, (gain**lags)[:, None] * np.ones(H), rtol=1e-4)


def test_gradients_of_the_states_against_a_net_unrolled_by_hand() -> None:
    def make() -> RNN:
        return RNN(D, H, K, layers=2, rngs=nnx.Rngs(0))

    _, params, course = looked(make, SCHEMES["orthogonal"])

    def cost(taps):
        h = [jnp.zeros((B, H))] * 2
        for t in range(T):
            layer_input = X[:, t]
            for k in range(2):
                w = params[f"layers.{k}.input"]
                u = params[f"layers.{k}.recurrent"]
                b = params[f"layers.{k}.bias"]
                h[k] = jnp.tanh(layer_input @ w + h[k] @ u + b[None]) + taps[k, t]
                layer_input = h[k]
        return cross_entropy(h[1] @ params["readout.kernel"] + params["readout.bias"][None], Y)

    gradient = B * jax.grad(cost)(jnp.zeros((2, T, B, H)))
    of_example = jnp.sum(gradient**2, -1)
    expected = jnp.sqrt(jnp.mean(of_example, -1))
    np.testing.assert_allclose(course.gradient[:, 0], expected, rtol=1e-4)


def test_the_cell_of_an_lstm_forgets_by_its_forget_gate() -> None:
    """Without recurrent and input products dc_T/dc_t is the forget gate to the power of the lag."""
    no_products = {"recurrent": constant(0.0), "input": constant(0.0)}
    scheme = with_bias(spec.Override(SCHEMES["xavier_rnn"], no_products), forget=2.0)
    _, _, course = looked(make_lstm, scheme)
    keep = 1 / (1 + np.exp(-2.0))
    cells = np.asarray(course.gradient[0, 1, :-1])
    np.testing.assert_allclose(cells[:-1] / cells[1:], keep, rtol=1e-4)
    length = through_time.memory_length(cells[None])
    assert length[0] == np.ceil(-1 / np.log(keep))


def test_memory_lengths_of_known_courses() -> None:
    steps = np.arange(100)
    course = np.stack([np.exp((steps - 99) / 20), np.ones(100), np.where(steps == 99, 1.0, 0.0)])
    np.testing.assert_array_equal(through_time.memory_length(course), [20, np.inf, 0])


def test_sizes_of_states_follow_mean_field_theory() -> None:
    """Width 600: the variance of a state is within a few per cent of theory, though its weights are
    tied."""
    n, t = 600, 30

    def make() -> RNN:
        return RNN(D, n, K, rngs=nnx.Rngs(0))

    x = jax.random.normal(jax.random.key(5), (8, t, D))
    model = functional(make)
    for gain in (0.7, 1.5):
        scheme = spec.Override(SCHEMES["xavier_rnn"], {"recurrent": normal(gain / n**0.5)})
        params = spec.draw(scheme, jax.random.key(3), model.leaves)
        course = through_time.states_and_gradients(model, cross_entropy, params, (x, Y[:8]))
        host = jax.tree.map(np.asarray, params)
        expected = through_time.expected_mean_square(model.leaves, host, np.asarray(x), "tanh")
        assert expected is not None
        # 4 / sqrt(8 examples x 600 / few)
        np.testing.assert_allclose(course.mean_square[0, 0], expected, rtol=0.12)
    gated = functional(make_lstm)
    assert through_time.expected_mean_square(gated.leaves, {}, np.asarray(x), "tanh") is None


def test_a_network_without_a_time_loop_is_refused() -> None:
    def make_mlp() -> MLP:
        return MLP(T * D, H, K, rngs=nnx.Rngs(0))

    def make_bidirectional() -> RNN:
        return RNN(D, H, K, bidirectional=True, rngs=nnx.Rngs(0))

    with pytest.raises(ValueError, match="MLP has no time loop to look through"):
        looked(make_mlp, SCHEMES["orthogonal"])
    with pytest.raises(ValueError, match="two directions"):
        looked(make_bidirectional, SCHEMES["orthogonal"])


@pytest.mark.parametrize(
    "name", quick("lstm", "glr", of=["rnn", "lstm", "gru", "mgu", "lru", "glr", "rg_lru"])
)
def test_bfloat16_is_seen_through_time_as_float32_is(name: str) -> None:
    model = functional(lambda: MODELS[name](D, H, K, rngs=nnx.Rngs(0)))
    params = spec.draw(SCHEMES["orthogonal"], jax.random.key(0), model.leaves)
    narrow_params = {name: w.astype(jnp.bfloat16) for name, w in params.items()}

    @jax.jit
    def course(params):
        return through_time.states_and_gradients(model, cross_entropy, params, (X, Y))

    for wide, narrow in zip(course(params), course(narrow_params), strict=True):
        assert narrow.dtype == jnp.float32
        largest = float(jnp.abs(wide).max())
        np.testing.assert_allclose(narrow, wide, rtol=0.1, atol=0.02 * largest)
    by_step = through_time.step_jacobians(model, narrow_params, X[:1])
    assert by_step.shape == (T, by_step.shape[1], by_step.shape[1])


def test_a_batch_without_examples_is_refused() -> None:
    model = functional(make_rnn)
    params = spec.draw(SCHEMES["orthogonal"], jax.random.key(0), model.leaves)
    with pytest.raises(ValueError, match=r"one example or more, got a batch of shape \(0, 12, 3\)"):
        through_time.states_and_gradients(model, cross_entropy, params, (X[:0], Y[:0]))
