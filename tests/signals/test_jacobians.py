"""Singular values of Jacobians against those of Jacobians by automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx
from jaxtyping import Array

from jaxinit import spec
from jaxinit.introspect import functional, values
from jaxinit.models import MLP, RNN
from jaxinit.models.bptt import ACTIVATIONS, SLOPES
from jaxinit.schemes import SCHEMES
from jaxinit.signals import jacobians

X = jax.random.normal(jax.random.key(1), (5, 6, 3))


@pytest.mark.slow
def test_jacobians_are_exact_where_they_are_small() -> None:
    leaves, apply, *_ = functional(lambda: RNN(3, 16, 4, rngs=nnx.Rngs(0)))
    params = spec.draw(SCHEMES["xavier_rnn"], jax.random.key(0), leaves)
    got = jacobians.jacobian_singular_values(apply, params, X[:3])

    def answer(x: Array) -> Array:
        return apply(params, x[None])[0]

    whole = jax.vmap(jax.jacrev(answer))(X[:3])
    exact = np.linalg.svd(np.asarray(whole).reshape(3, 4, 18), compute_uv=False)
    np.testing.assert_allclose(got, exact, rtol=1e-4)


def test_lanczos_iteration_finds_the_largest() -> None:
    wide = MLP(400, 300, 280, rngs=nnx.Rngs(0))
    _, apply, *_ = functional(lambda: wide)
    x = jax.random.normal(jax.random.key(0), (2, 400))
    largest = jacobians.jacobian_singular_values(apply, values(wide), x, 3)
    exact = jacobians.jacobian_singular_values(apply, values(wide), x)
    np.testing.assert_allclose(largest, exact[:, :3], rtol=1e-3)
    with pytest.raises(ValueError, match="one example or more"):
        jacobians.jacobian_singular_values(apply, values(wide), x[:0])
    with pytest.raises(ValueError, match="count must be 1 or more singular values, got 0"):
        jacobians.jacobian_singular_values(apply, values(wide), x, 0)


@pytest.mark.parametrize("activation", quick("relu", of=["tanh", "softsign", "relu"]))
def test_jacobians_of_layers_are_those_of_one_step(activation: str) -> None:
    leaves, apply, *_ = functional(
        lambda: MLP(18, 16, 4, layers=3, activation=activation, rngs=nnx.Rngs(0))
    )
    params = spec.draw(SCHEMES["he_normal"], jax.random.key(0), leaves)
    got = jacobians.layer_jacobian_singular_values(apply, leaves, params, X, SLOPES[activation])
    phi = ACTIVATIONS[activation]

    def next_layer(z: Array) -> Array:
        return phi(z) @ params["layers.1.kernel"]

    z = X.reshape(5, -1) @ params["layers.0.kernel"]
    jacobians_by_example = np.asarray(jax.vmap(jax.jacrev(next_layer))(z))
    exact = np.linalg.svd(jacobians_by_example, compute_uv=False)
    np.testing.assert_allclose(got["layers.1.kernel"], exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("activation", SLOPES)
def test_slopes_by_output_are_the_derivatives(activation: str) -> None:
    x = jnp.asarray([-2.0, -0.7, 0.3, 0.9, 1.7])
    exact = jax.vmap(jax.grad(ACTIVATIONS[activation]))(x)
    np.testing.assert_allclose(SLOPES[activation](ACTIVATIONS[activation](x)), exact, atol=1e-6)
