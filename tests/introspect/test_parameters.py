"""Leaves of modules, their values, and draws from outside."""

import copy
import pickle
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every
from flax import nnx

from jaxinit import introspect, spec
from jaxinit.initializers import constant, glorot_scheme
from jaxinit.models import LSTM, MLP, MODELS
from jaxinit.schemes import SCHEMES

KEY = jax.random.key(0)


def test_leaves_say_everything_a_scheme_may_know() -> None:
    model = LSTM(3, 5, 2, layers=2, rngs=nnx.Rngs(0))
    leaves = {leaf.name: leaf for leaf in introspect.leaves(model)}
    assert set(leaves) == {
        "layers.0.input",
        "layers.0.recurrent",
        "layers.0.bias",
        "layers.1.input",
        "layers.1.recurrent",
        "layers.1.bias",
        "readout.kernel",
        "readout.bias",
    }
    u = leaves["layers.1.recurrent"]
    assert (u.shape, u.dims, u.role, u.layer, u.n_layers) == ((4, 5, 5), ".io", "recurrent", 1, 2)
    assert u.gate == ("input", "forget", "cell", "output")
    assert leaves["layers.0.input"].fan_in == 3


def test_initialize_returns_a_copy_and_leaves_the_model_alone() -> None:
    model = MLP(4, 8, 2, rngs=nnx.Rngs(0))
    x = jnp.ones((3, 4))
    before = model(x)
    fresh = introspect.initialize(model, SCHEMES["orthogonal"], KEY)
    np.testing.assert_array_equal(model(x), before)
    assert float(jnp.abs(fresh(x) - before).max()) > 1e-3
    again = introspect.initialize(model, SCHEMES["orthogonal"], KEY)
    np.testing.assert_array_equal(fresh(x), again(x))


def test_initialize_refuses_what_an_array_cannot_carry() -> None:
    def doubled(leaf: spec.Leaf) -> spec.Rule:
        return spec.Rule(glorot_scheme(leaf), multiplier=2.0)

    with pytest.raises(ValueError, match=r"multiplies .*readout.kernel.* in the forward pass"):
        introspect.initialize(MLP(4, 8, 2, rngs=nnx.Rngs(0)), doubled, KEY)


def test_a_parameter_without_dims_is_an_error_with_its_name() -> None:
    class Foreign(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.zeros((2, 3)))

    message = r"parameter 'w' \(shape \(2, 3\)\) declares no dims and role"
    with pytest.raises(ValueError, match=message):
        introspect.leaves(Foreign())


def test_our_modules_live_inside_any_flax_module() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.inner = MLP(4, 8, 2, kernel_init=constant(0.5), rngs=rngs)

    names = [leaf.name for leaf in introspect.leaves(Net(nnx.Rngs(0)))]
    assert names == [
        "inner.layers.0.bias",
        "inner.layers.0.kernel",
        "inner.readout.bias",
        "inner.readout.kernel",
    ]


@pytest.mark.parametrize("name", every(3, of=MODELS))
def test_every_model_can_be_pickled_copied_and_be_part_of_a_static_argument(name: str) -> None:
    model: Any = MODELS[name](4, 8, 3, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 5, 4)) if name != "mlp" else jnp.ones((2, 4))

    @partial(jax.jit, static_argnums=0)
    def outputs(graph: Any, state: Any) -> jax.Array:
        return nnx.merge(graph, state)(x)

    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(outputs(*nnx.split(twin)), outputs(*nnx.split(model)))
        assert introspect.leaves(twin) == introspect.leaves(model)
        assert hash(nnx.graphdef(twin)) == hash(nnx.graphdef(model))
    assert outputs._cache_size() == 1
