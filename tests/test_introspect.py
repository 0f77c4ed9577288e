"""Modules to leaves and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect, spec
from jaxinit.initializers import constant, glorot_scheme
from jaxinit.models import LSTM, MLP
from jaxinit.schemes import SCHEMES

KEY = jax.random.key(0)


def test_leaves_say_everything_a_scheme_may_know() -> None:
    leaves = {leaf.name: leaf for leaf in introspect.leaves(LSTM(3, 5, 2, layers=2, rngs=nnx.Rngs(0)))}
    assert set(leaves) == {
        *(f"layers.{k}.{name}" for k in (0, 1) for name in ("input", "recurrent", "bias")),
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
    doubled = lambda leaf: spec.Rule(glorot_scheme(leaf), multiplier=2.0)
    with pytest.raises(ValueError, match=r"multiplies .*readout.kernel.* in the forward pass"):
        introspect.initialize(MLP(4, 8, 2, rngs=nnx.Rngs(0)), doubled, KEY)


def test_functional_is_the_module() -> None:
    make = lambda: LSTM(3, 5, 2, rngs=nnx.Rngs(0))
    leaves, apply, *_ = introspect.functional(make)
    params = spec.draw(SCHEMES["he_normal"], KEY, leaves)
    x = jax.random.normal(KEY, (2, 7, 3))
    module = introspect.initialize(make(), SCHEMES["he_normal"], KEY)
    np.testing.assert_allclose(jax.jit(apply)(params, x), module(x), rtol=1e-6, atol=1e-6)


def test_a_parameter_without_dims_is_an_error_with_its_name() -> None:
    class Foreign(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.zeros((2, 3)))

    with pytest.raises(ValueError, match=r"parameter 'w' \(shape \(2, 3\)\) declares no dims and role"):
        introspect.leaves(Foreign())


def test_state_that_is_no_parameter_is_refused_by_name() -> None:
    class Counting(nnx.Module):
        def __init__(self):
            self.w = introspect.param((2, 3), "io", "input")
            self.count = nnx.Cache(jnp.zeros(()))

    with pytest.raises(ValueError, match=r"also holds \['count'\]"):
        introspect.functional(Counting)


def test_our_modules_live_inside_any_flax_module() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.inner = MLP(4, 8, 2, kernel_init=constant(0.5), rngs=rngs)

    names = [leaf.name for leaf in introspect.leaves(Net(nnx.Rngs(0)))]
    assert names == [f"inner.{name}" for name in ("layers.0.bias", "layers.0.kernel", "readout.bias", "readout.kernel")]


def test_flaxs_own_layers_are_declared_by_what_they_are() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.table = nnx.Embed(7, 8, rngs=rngs)
            self.conv = nnx.Conv(8, 6, (3, 3), rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(8, 4, rngs=rngs)])
            self.mine = introspect.param((3, 4, 5), ".io", "recurrent")

    net = Net(nnx.Rngs(0))
    introspect.declare(net)
    found = {leaf.name: (leaf.dims, leaf.role) for leaf in introspect.leaves(net)}
    assert found["table.embedding"] == ("io", "embedding")
    assert found["conv.kernel"] == ("wwio", "hidden")
    assert found["attention.query.kernel"] == ("i.o", "query")
    assert found["attention.out.kernel"] == ("iio", "attention_out")
    assert found["attention.out.bias"] == ("o", "bias")
    assert found["norm.scale"] == ("o", "scale")
    assert found["layers.0.kernel"] == ("io", "hidden")
    assert found["mine"] == (".io", "recurrent")  # what is declared already stays
    drawn = introspect.initialize(net, SCHEMES["he_normal"], jax.random.key(0))
    assert float(jnp.std(drawn.attention.query.kernel[...])) == pytest.approx((2 / 8) ** 0.5, rel=0.3)
