"""Losses that see parameters, a key, the inputs and the model, in training and in validation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxinit
from jaxinit import task
from jaxinit.engine.training import OPTIMIZERS, Program, Records, State, Trial
from jaxinit.introspect import Functional, functional
from jaxinit.models import MLP
from jaxinit.schemes import SCHEMES
from jaxinit.spec import draw
from jaxinit.tasks import Task

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype(np.float32)
Y = RNG.normal(size=50).astype(np.float32)
SMALL = functional(lambda: MLP(4, 8, 1, rngs=nnx.Rngs(0)))


def trial(lr: float = 0.1, l2: float = 0.0) -> Trial:
    numbers = {"lr": lr, "clip": np.inf, "clip_value": np.inf, "l2": l2, "weight_decay": 0.0}
    floats: Any = {name: jnp.float32(value) for name, value in numbers.items()}
    return Trial(seed=jnp.int32(3), target=jnp.float32(0), budget=jnp.int32(10**6), **floats)


def trained(
    made: Task,
    model: Functional,
    settings: Trial,
    *,
    optimizer: str = "sgd",
    epochs: int = 1,
    **sizes: Any,
) -> tuple[State, Records]:
    given: dict[str, Any] = {"batch": made.examples, "evaluations": 1} | sizes
    program = Program(model, made, OPTIMIZERS[optimizer], epochs=epochs, **given)
    params = draw(SCHEMES["glorot_uniform"], jax.random.key(0), model.leaves)
    return jax.jit(program.advance)(made.data, program.initial_state(params, settings), settings)


def squared(outputs: Any, y: Any) -> Any:
    return jnp.mean((outputs[:, 0] - y) ** 2)


def program_of(loss: Any) -> str:
    made = task(X, Y, loss=loss, target=0.1)
    program = Program(SMALL, made, OPTIMIZERS["sgd"], batch=10, evaluations=2, epochs=1)
    params = draw(SCHEMES["glorot_uniform"], jax.random.key(0), SMALL.leaves)
    state = program.initial_state(params, trial())
    return str(jax.make_jaxpr(program.advance)(made.data, state, trial()))


def test_what_a_loss_does_not_see_costs_nothing_and_what_it_sees_no_draw_but_of_its_key() -> None:
    plain = program_of(squared)
    assert program_of(lambda outputs, y, strength=1.0: squared(outputs, y)) == plain
    assert program_of(lambda outputs, y, *, key: squared(outputs, y)) != plain
    for seen in (
        lambda outputs, y, *, x: squared(outputs, y),
        lambda outputs, y, *, params: squared(outputs, y),
        lambda outputs, y, *, apply: squared(outputs, y),
    ):
        assert program_of(seen).count("random_split") == plain.count("random_split")


def test_a_penalty_on_the_parameters_is_l2() -> None:
    def penalized(outputs: Any, y: Any, *, params: Any) -> Any:
        return squared(outputs, y) + 0.05 * sum(jnp.sum(w**2) for w in params.values())

    ours, _ = trained(task(X, Y, loss=squared, target=0.1), SMALL, trial(l2=0.1))
    seen, _ = trained(task(X, Y, loss=penalized, target=0.1), SMALL, trial())
    free, _ = trained(task(X, Y, loss=squared, target=0.1), SMALL, trial())
    for name, value in ours.params.items():
        np.testing.assert_allclose(seen.params[name], value, atol=1e-6)
    kernel = next(leaf.name for leaf in SMALL.leaves if leaf.is_kernel)
    assert not np.allclose(free.params[kernel], seen.params[kernel], atol=1e-4)


def noisy(outputs: Any, y: Any, *, key: Any) -> Any:
    return squared(outputs, y) + jax.random.uniform(key)


def test_a_key_is_new_at_every_step_and_in_validation_always_the_same() -> None:
    made = task(X, Y, loss=noisy, target=0.1)
    _, records = trained(made, SMALL, trial(lr=0.0), epochs=2, batch=10, evaluations=4)
    quiet = task(X, Y, loss=squared, target=0.1)
    _, silent = trained(quiet, SMALL, trial(lr=0.0), epochs=2, batch=10, evaluations=4)
    noise = np.asarray(records.train_loss - silent.train_loss)
    assert len(set(noise.tolist())) == 8
    assert ((noise > 0) & (noise < 1)).all()
    assert len(set(np.asarray(records.valid_loss).tolist())) == 1
    np.testing.assert_array_equal(records.metric, records.valid_loss)


def test_in_blocks_too_a_loss_sees_all_inputs_that_validate() -> None:
    def uncentred(outputs: Any, y: Any, *, x: Any, apply: Any) -> Any:
        return jnp.mean(outputs**2) + jnp.mean(apply(x + 1) ** 2) + jnp.mean(x) ** 2

    made = task(X, Y, loss=uncentred, target=0.1)
    whole = trained(made, SMALL, trial())[1]
    blocks = trained(made, SMALL, trial(), at_once=4)[1]
    np.testing.assert_allclose(blocks.valid_loss, whole.valid_loss, rtol=1e-5)


class Autoencoder(nnx.Module):
    """Gives mean and log-variance of a code; its decoder is what a loss finds among parameters."""

    def __init__(self, inputs: int, units: int, code: int, *, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(inputs, units, rngs=rngs)
        self.readout = nnx.Linear(units, 2 * code, rngs=rngs)
        self.decoder = nnx.Linear(code, inputs, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.readout(jnp.tanh(self.hidden(x[:, 0])))


def evidence(outputs: Any, y: Any, *, params: Any, key: Any) -> Any:
    """Of a Gaussian code and Gaussian data of variance 0.1, without its constant."""
    mean, log_variance = jnp.split(outputs, 2, axis=1)
    code = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
    again = code @ params["decoder.kernel"] + params["decoder.bias"][None]
    divergence = (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(1) / 2
    return jnp.mean(5 * ((again - y) ** 2).sum(1) + divergence)


def test_a_variational_autoencoder_learns_and_is_the_same_bit_for_bit() -> None:
    """Data of two dimensions in eight: the code need keep no more."""
    draws = np.random.default_rng(1)
    data = draws.normal(size=(200, 2)) @ draws.normal(size=(2, 8)) * 0.7
    made = task(data, loss=evidence, target=10.0, out_features=4)
    model = functional(
        lambda: jaxinit.declare(Autoencoder(8, 16, 2, rngs=nnx.Rngs(0)), n_layers=2, width=16)
    )
    runs = [
        trained(made, model, trial(lr=0.01), optimizer="adam", epochs=60, batch=20)[1]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0].train_loss, runs[1].train_loss)
    np.testing.assert_array_equal(runs[0].metric, runs[1].metric)
    cost = np.asarray(runs[0].metric)
    # No noise in the data is left to explain: what a code of two numbers costs is a few nats.
    assert cost[-1] < 0.3 * cost[0]
    assert cost[-1] < 12


def test_an_equation_is_learnt_by_derivatives_with_respect_to_the_inputs() -> None:
    """u' = -u with u(0) = 1, whose solution is exp(-t)."""
    t = np.linspace(0, 2, 32)[:, None]

    def residual(outputs: Any, y: Any, *, x: Any, apply: Any) -> Any:
        def u(t: Any) -> Any:
            return apply(t[None])[0, 0]

        slope = jax.vmap(jax.grad(u))(x)[:, 0, 0]
        return jnp.mean((slope + outputs[:, 0]) ** 2) + (u(jnp.zeros((1, 1))) - 1) ** 2

    made = task(t, loss=residual, target=1e-3, out_features=1, valid=(t, None))
    assert made.chance == pytest.approx(1), "the start alone is not met by u = 0"
    model = functional(lambda: MLP(1, 16, 1, layers=2, activation="tanh", rngs=nnx.Rngs(0)))
    state, records = trained(made, model, trial(lr=0.01), optimizer="adam", epochs=600)
    u = model.apply(state.params, made.data["valid_x"])
    assert float(records.metric[-1]) < 1e-3
    # The error e obeys e' = -e + r with the residual r, so that over a time of 2 |e| is at most
    # |e(0)| + rms(r), and that at most the root of twice the loss.
    np.testing.assert_allclose(u[:, 0], np.exp(-t[:, 0]), atol=2e-3**0.5)


def test_a_contrastive_loss_compares_outputs_as_the_inputs_are() -> None:
    """Neighbours among the inputs become neighbours among the outputs."""

    def neighbours(a: Any) -> Any:
        squares = ((a[:, None] - a[None]) ** 2).sum(-1) + 1e9 * jnp.eye(len(a))
        return jax.nn.log_softmax(-squares)

    def contrast(outputs: Any, y: Any, *, x: Any) -> Any:
        wanted = jnp.exp(neighbours(x[:, 0]))
        return -jnp.mean((wanted * neighbours(outputs)).sum(1))

    clusters = np.repeat(4 * np.eye(4), 25, axis=0) + 0.3 * RNG.normal(size=(100, 4))
    made = task(clusters, loss=contrast, target=2.0, out_features=2)
    # Outputs that are all alike: each of the others is as near.
    assert made.chance == pytest.approx(np.log(19), rel=1e-4)
    model = functional(lambda: MLP(4, 16, 2, rngs=nnx.Rngs(0)))
    _, records = trained(made, model, trial(lr=0.02), optimizer="adam", epochs=40, batch=40)
    assert float(records.metric[-1]) < 0.75 * made.chance


class OfTwo(nnx.Module):
    """A linear map of the product of two inputs."""

    def __init__(self, rngs: nnx.Rngs):
        self.readout = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.readout(x["a"] * x["sign"][:, None])


def test_several_inputs_are_trained_on_and_validated_in_blocks() -> None:
    sign = np.where(RNG.random(50) < 0.5, -1.0, 1.0)
    made = task({"a": X, "sign": sign}, X @ np.array([1.0, -2.0, 0.5, 1.0]) * sign)
    model = functional(lambda: jaxinit.declare(OfTwo(nnx.Rngs(0)), n_layers=1, width=4))
    state, records = trained(made, model, trial(lr=0.2), epochs=60, at_once=4)
    assert float(records.metric[-1]) < 1e-3 * made.chance
    np.testing.assert_allclose(
        state.params["readout.kernel"][:, 0], [1.0, -2.0, 0.5, 1.0], atol=0.1
    )
