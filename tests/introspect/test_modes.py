"""Modules that are switched by arguments, and layers that would not be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit.introspect import Training, declare, functional

KEY = jax.random.key(0)


class ByHand(nnx.Module):
    """Switched into training by an argument of its call, which `train()` knows nothing of."""

    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def switched(self, x: jax.Array, on: bool) -> jax.Array:
        assert isinstance(on, bool)
        return self.dropout(self.norm(x, use_running_average=not on), deterministic=not on)


class Train(ByHand):
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.switched(x, train)


class IsTraining(ByHand):
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        return self.switched(x, is_training)


class InTraining(ByHand):
    def __call__(self, x: jax.Array, training: bool = True) -> jax.Array:
        return self.switched(x, training)


class Deterministic(ByHand):
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.switched(x, not deterministic)


class UsesRunningAverage(ByHand):
    def __call__(self, x: jax.Array, use_running_average: bool = True) -> jax.Array:
        return self.switched(x, not use_running_average)


@pytest.mark.parametrize("kind", [Train, IsTraining, InTraining, Deterministic, UsesRunningAverage])
def test_a_module_that_is_switched_by_an_argument_trains(kind: Any) -> None:
    pure, x = functional(lambda: declare(kind())), jax.random.normal(KEY, (64, 3)) + 1
    params = {"norm.scale": jnp.ones(3), "norm.bias": jnp.zeros(3)}
    np.testing.assert_allclose(pure.apply(params, x), x, rtol=1e-3)  # the initial statistics
    y, running = pure.learn(params, pure.running, x, Training(KEY))
    assert 0.3 < float(jnp.mean(y == 0)) < 0.7
    np.testing.assert_allclose(running["norm.mean"], 0.01 * x.mean(0), rtol=1e-3)
    # normalized by the batch, and no unit dropped
    quiet, own = pure.as_trained(params, x), np.asarray(x)
    np.testing.assert_allclose(quiet, (own - own.mean(0)) / own.std(0), atol=1e-3)


def not_lifted(function: Any) -> Any:
    return function


class Passes(nnx.Module):
    """Its own call takes no argument that says whether it trains, and its block's call does."""

    def __init__(self, block: nnx.Module, lifted: Any = not_lifted, **flags: bool):
        self.block, self.lifted, self.flags = block, lifted, flags

    def __call__(self, x: jax.Array) -> jax.Array:
        @self.lifted
        def call(block: Any, x: jax.Array) -> jax.Array:
            return block(x, **self.flags)

        return call(self.block, x)


class TrainsUnlessTold(ByHand):
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        return self.switched(x, train)


@pytest.mark.parametrize("kind", [TrainsUnlessTold, Deterministic])
def test_a_layer_that_trains_while_the_module_is_evaluated_is_refused(kind: Any) -> None:
    flags = {"deterministic": False} if kind is Deterministic else {}
    pure = functional(lambda: declare(Passes(kind(), **flags)))
    params = {"block.norm.scale": jnp.ones(3), "block.norm.bias": jnp.zeros(3)}
    message = r"'block.norm' is told to train while the module is evaluated, .*pass it on"
    with pytest.raises(ValueError, match=message):
        pure.apply(params, jnp.ones((4, 3)))


class Switched(ByHand):
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.norm(x))


@pytest.mark.parametrize("lifted", [not_lifted, nnx.remat, nnx.jit])
def test_a_layer_that_is_evaluated_inside_a_transform_is_not_refused(lifted: Any) -> None:
    pure = functional(lambda: declare(Passes(Switched(), lifted)))
    params, x = {"block.norm.scale": jnp.ones(3), "block.norm.bias": jnp.zeros(3)}, jnp.ones((4, 3))
    np.testing.assert_allclose(pure.apply(params, x), x, rtol=1e-3)
    _, running = pure.learn(params, pure.running, x, Training(KEY))
    assert float(running["block.norm.mean"][0]) == pytest.approx(0.01)


def test_dropout_without_random_state_is_refused() -> None:
    def make() -> nnx.Module:
        layers = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Dropout(0.5)
        return declare(nnx.Sequential(*layers))

    message = r"'layers.1' drops units at a rate of 0.5 and has no random state"
    with pytest.raises(ValueError, match=message):
        functional(make)
