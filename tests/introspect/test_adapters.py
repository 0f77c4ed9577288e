"""Linen modules and pairs of functions as modules of NNX."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxinit
from jaxinit.engine.campaign import run
from jaxinit.engine.resolve import resolve
from jaxinit.introspect import adapt, functional, leaves
from jaxinit.schemes import SCHEMES
from jaxinit.study import BadStudy, Study

X = jnp.ones((2, 8, 6))


class Everything(linen.Module):
    """A layer of each kind."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Conv(4, (3,))(x)
        x = linen.LayerNorm()(x)
        x = linen.MultiHeadDotProductAttention(num_heads=2)(x, x)
        x = linen.RNN(linen.LSTMCell(8))(x)
        x = linen.RNN(linen.GRUCell(8))(x)
        return linen.Dense(10, name="head")(x[:, -1])


def by_name(model: nnx.Module) -> dict[str, Any]:
    return {leaf.name: leaf for leaf in leaves(model)}


def test_names_of_linen_say_axes_roles_and_gates() -> None:
    found = by_name(adapt(Everything(), X, roles={"head": "readout"}))
    expected = {
        "Conv_0.kernel": ("wio", "hidden", 18),  # 3 steps of 6 features
        "LayerNorm_0.scale": ("o", "scale", 1),
        "MultiHeadDotProductAttention_0.query.kernel": ("i.o", "query", 4),
        "MultiHeadDotProductAttention_0.out.kernel": ("iio", "attention_out", 4),
        "LSTMCell_0.if.kernel": ("io", "input", 4),
        "LSTMCell_0.hf.kernel": ("io", "recurrent", 8),
        "GRUCell_0.hn.kernel": ("io", "recurrent", 8),
        "head.kernel": ("io", "readout", 8),
        "head.bias": ("o", "bias", 1),
    }
    for name, (dims, role, fan_in) in expected.items():
        leaf = found[name]
        assert (leaf.dims, leaf.role, leaf.fan_in) == (dims, role, fan_in), name
    assert found["LSTMCell_0.hf.bias"].gate == ("forget",)
    assert found["GRUCell_0.ir.kernel"].gate == ("reset",)
    assert found["head.kernel"].gate == ()


def test_a_forget_bias_reaches_the_forget_gate_of_linen_alone() -> None:
    model = jaxinit.initialize(adapt(Everything(), X), SCHEMES["forget_bias"], jax.random.key(0))
    values = jaxinit.introspect.values(model)
    assert np.all(values["LSTMCell_0.hf.bias"] == 1)
    for gate in "igo":
        assert not np.any(values[f"LSTMCell_0.h{gate}.bias"])


def test_the_outputs_are_those_of_linen() -> None:
    model = Everything()
    adapted: Any = adapt(model, X, rngs=nnx.Rngs(3))
    params = model.init(nnx.Rngs(3).params(), X)["params"]
    x = jax.random.normal(jax.random.key(1), X.shape)
    expected: Any = model.apply({"params": params}, x)
    np.testing.assert_allclose(adapted(x), expected, rtol=1e-5, atol=1e-6)


def test_a_pair_of_functions_on_any_tree() -> None:
    def init(key: Any, x: Any) -> Any:
        first = {"w": jax.random.normal(key, (x.shape[-1], 4)), "b": jnp.zeros(4)}
        return [first, {"weight": jnp.ones((3, 4))}]

    def apply(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params[0]["w"] + params[0]["b"][None]) @ params[1]["weight"].T

    x = X[:, 0]
    found = by_name(adapt((init, apply), x, roles={"1": "readout"}))
    assert (found["0.w"].dims, found["0.w"].fan_in, found["0.b"].role) == ("io", 6, "bias")
    # As Equinox stores it: outputs first.
    assert (found["1.weight"].dims, found["1.weight"].fan_in) == ("oi", 4)
    assert found["1.weight"].role == "readout"
    pure = functional(lambda: adapt((init, apply), x))
    params = {"0.w": jnp.ones((6, 4)), "0.b": jnp.zeros(4), "1.weight": jnp.ones((3, 4))}
    expected = 4 * np.tanh(6) * np.ones((2, 3))
    np.testing.assert_allclose(pure.apply(params, x), expected, rtol=1e-6)


def test_what_no_name_says_the_caller_says() -> None:
    def init(key: Any, x: Any) -> Any:
        del key
        return {"mixing": jnp.ones((x.shape[-1], 4))}

    def apply(params: Any, x: Any) -> Any:
        return x @ params["mixing"]

    with pytest.raises(ValueError, match=r"parameter 'mixing' .* declares no dims and role"):
        leaves(adapt((init, apply), X[:, 0]))
    found = by_name(adapt((init, apply), X[:, 0], dims={"mixing": "io"}))
    assert found["mixing"].fan_in == 6


def test_a_layer_called_in_is_no_gate() -> None:
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(3, name="in")(x)

    leaf = by_name(adapt(Net(), X))["in.kernel"]
    assert (leaf.role, leaf.gate) == ("hidden", ())


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (linen.BatchNorm(use_running_average=False), ValueError, "has the collections batch_stats"),
        (object(), TypeError, r"a pair of functions \(init, apply\); got object"),
        ((1, 2), TypeError, "got tuple"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        adapt(model, X)


class Classifier(linen.Module):
    units: int
    outputs: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = x.reshape(len(x), -1)
        return linen.Dense(self.outputs)(linen.relu(linen.Dense(self.units)(x)))


def test_a_study_of_a_linen_module_compiles_once(tmp_path: Path) -> None:
    def build(inputs: int, units: int, outputs: int, **unused: Any) -> Any:
        return Classifier(units, outputs)

    study = Study(
        model=build,
        hidden=8,
        schemes=("he_normal", "small_normal"),
        search="grid",
        lrs=(0.3,),
        seeds=2,
        epochs=2,
        target=0.4,
    )
    result = run(study, out=tmp_path / "study", progress=False)
    assert result.complete
    assert result.summary["compilations"] == 1
    rows = {row["scheme"]: row for row in result.summary["table"]}
    assert rows["he_normal"]["converged"] == 2


def test_a_model_that_is_none_costs_a_line() -> None:
    with pytest.raises(BadStudy, match=r"could not be built: TypeError: a model is an nnx\.Module"):
        resolve(Study(model=lambda *sizes, **options: 3))
