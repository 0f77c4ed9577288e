"""Modules as pure functions, in evaluation and in training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx

from jaxinit import introspect, spec
from jaxinit.engine import training
from jaxinit.introspect import Training, declare, functional
from jaxinit.models import LSTM, MLP
from jaxinit.schemes import SCHEMES
from jaxinit.signals import probes, trace
from jaxinit.tasks import TASKS

KEY = jax.random.key(0)


def test_functional_is_the_module() -> None:
    def make() -> LSTM:
        return LSTM(3, 5, 2, rngs=nnx.Rngs(0))

    leaves, apply, *_ = introspect.functional(make)
    params = spec.draw(SCHEMES["he_normal"], KEY, leaves)
    x = jax.random.normal(KEY, (2, 7, 3))
    module = introspect.initialize(make(), SCHEMES["he_normal"], KEY)
    np.testing.assert_allclose(jax.jit(apply)(params, x), module(x), rtol=1e-6, atol=1e-6)


class Noisy(nnx.Module):
    """What changes between training and evaluation: batch statistics, dropout, a carry that is
    drawn at the call."""

    def __init__(self, rngs: nnx.Rngs, cell: Any = nnx.GRUCell):
        self.rnn = nnx.RNN(cell(8, 12, rngs=rngs), rngs=rngs)
        self.norm = nnx.BatchNorm(12, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dropout(self.norm(self.rnn(x))[:, -1]))


def noisy(cell: Any = nnx.GRUCell, **said: Any) -> nnx.Module:
    return declare(Noisy(nnx.Rngs(0), cell), **said)


def test_a_module_is_evaluated_in_evaluation_and_trained_in_training() -> None:
    """The same 8 examples alone and among 64; noise from the step's key alone, and none without a
    key."""
    net: Any = noisy()
    pure, params = functional(lambda: net), introspect.values(net)
    x = jax.random.normal(KEY, (64, 5, 8))
    apply, learn = jax.jit(pure.apply), jax.jit(pure.learn)
    among = apply(params, x)
    np.testing.assert_allclose(among[:8], apply(params, x[:8]), atol=1e-6)
    assert sorted(pure.running) == ["norm.mean", "norm.var"]
    assert pure.noisy
    assert not functional(lambda: MLP(4, 8, 2, rngs=nnx.Rngs(0))).noisy
    one, running = learn(params, pure.running, x, Training(jax.random.key(1)))
    same, _ = learn(params, pure.running, x, Training(jax.random.key(1)))
    other, _ = learn(params, pure.running, x, Training(jax.random.key(2)))
    np.testing.assert_array_equal(one, same)
    assert float(jnp.abs(one - other).max()) > 0.1
    gathered = 0.01 * net.rnn(x).mean((0, 1))
    np.testing.assert_allclose(running["norm.mean"], gathered, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(pure.as_trained(params, x), pure.as_trained(params, x))
    net.eval()
    np.testing.assert_allclose(among, net(x), atol=1e-6)
    # evaluation uses what training gathered
    assert float(jnp.abs(apply(params | running, x) - among).max()) > 1e-4


@pytest.mark.parametrize(
    "cell",
    quick(
        nnx.SimpleCell,
        nnx.GRUCell,
        of=[nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell],
    ),
)
def test_products_in_the_loops_of_flax_are_found(cell: Any) -> None:
    net = noisy(cell)
    pure, x = functional(lambda: net), jax.random.normal(KEY, (4, 5, 8))
    _, products = trace.products(pure.as_trained, pure.leaves, introspect.values(net), x)
    assert set(products) == {leaf.name for leaf in pure.leaves if leaf.is_kernel}


def mean_square_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.mean((outputs - targets) ** 2)


def test_a_module_with_noise_and_statistics_is_probed_as_in_training() -> None:
    net: Any = noisy()
    x, y = jax.random.normal(KEY, (16, 5, 8)), jnp.zeros((16, 10))
    data = probes.probe(net, (x, y), mean_square_error)
    assert data.product_mean.sel(parameter="rnn.cell.dense_h.kernel").values.shape == (5, 3)
    at_head = data.activation_mean_square.sel(parameter="head.kernel").values[0, 0]
    net.train()
    normalized = net.norm(net.rnn(x))[:, -1]  # by the batch, and no unit dropped
    assert at_head == pytest.approx(float(jnp.mean(normalized**2)), rel=1e-4)


def test_a_trial_of_a_module_with_noise_and_statistics() -> None:
    """Epochs train with fresh noise from the trial's seed, the same each time; blocks of examples
    change nothing."""
    task = TASKS["digits_rows"]()
    model = functional(noisy)
    params = spec.draw(SCHEMES["glorot_uniform"], KEY, model.leaves)
    trial = training.Trial(
        seed=jnp.int32(0),
        lr=jnp.float32(0.1),
        clip=jnp.float32(jnp.inf),
        clip_value=jnp.float32(jnp.inf),
        l2=jnp.float32(0),
        weight_decay=jnp.float32(0),
        target=jnp.float32(2),
        budget=jnp.int32(9),
    )
    another_seed = trial._replace(seed=jnp.int32(1))
    records = []
    for at_once in (None, 64):
        sizes = {"batch": 320, "evaluations": 1, "epochs": 1, "at_once": at_once}
        program = training.Program(model, task, training.OPTIMIZERS["sgd"], **sizes)
        advance = jax.jit(program.advance)
        state, first = advance(task.data, program.initial_state(params, trial), trial)
        _, again = advance(task.data, program.initial_state(params, trial), trial)
        np.testing.assert_array_equal(first.train_loss, again.train_loss)
        _, other = advance(task.data, program.initial_state(params, trial), another_seed)
        assert float(first.train_loss[0]) != float(other.train_loss[0])
        records.append(first)
        assert float(jnp.abs(state.running["norm.mean"]).max()) > 1e-3
    np.testing.assert_allclose(records[0].valid_loss, records[1].valid_loss, rtol=1e-5)


def test_state_of_the_callers_own_type_is_carried_and_its_dtype_kept() -> None:
    class Seen(nnx.Variable):
        pass

    class Net(nnx.Module):
        def __init__(self):
            dtypes = {"param_dtype": jnp.bfloat16, "dtype": jnp.bfloat16}
            self.layer = nnx.Linear(3, 2, **dtypes, rngs=nnx.Rngs(0))
            self.steps = Seen(jnp.zeros((), jnp.int32))

        def __call__(self, x: jax.Array) -> jax.Array:
            self.steps[...] = self.steps[...] + 1
            return self.layer(x)

    pure, x = functional(lambda: declare(Net())), jnp.ones((4, 3))

    def total(params: dict[str, jax.Array]) -> jax.Array:
        return pure.apply(params, x).sum()

    params = spec.draw(SCHEMES["he_normal"], KEY, pure.leaves)
    y, after = pure.learn(params, pure.running, x, Training())
    assert y.dtype == jnp.bfloat16
    assert int(after["steps"]) == 1
    assert list(pure.running) == ["steps"]
    slopes = jax.grad(total)(params)
    # a float32 master copy stays one
    assert slopes["layer.kernel"].dtype == params["layer.kernel"].dtype
