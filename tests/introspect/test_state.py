"""What modules hold beside their parameters."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect
from jaxinit.engine.campaign import run
from jaxinit.introspect import declare, functional
from jaxinit.signals import probes
from jaxinit.study import Study

KEY = jax.random.key(0)


def test_state_that_is_no_parameter_is_refused_by_name() -> None:
    class Counting(nnx.Module):
        def __init__(self):
            self.w = introspect.param((2, 3), "io", "input")
            self.count = nnx.Cache(jnp.zeros(()))

    with pytest.raises(ValueError, match=r"also holds \['count'\], of nnx.Cache.*decode=False"):
        introspect.functional(Counting)


KEPT: dict[str, tuple[Callable[[jax.Array], Any], Callable[[Any], Any]]] = {
    "attribute": (lambda a: a, lambda kept: kept),
    "marked": (nnx.data, lambda kept: kept),
    # a size that a trace must know
    "NumPy": (lambda a: a, lambda kept: kept[: int(kept[1])].sum() * kept),
    "dict": (lambda a: nnx.data({"table": a}), lambda kept: kept["table"]),
    "list": (lambda a: nnx.data([a]), lambda kept: kept[0]),
    "nnx.Dict": (lambda a: nnx.Dict(table=a), lambda kept: kept["table"]),
    "nnx.List": (lambda a: nnx.List([a]), lambda kept: kept[0]),
    "closure": (lambda a: lambda: a, lambda kept: kept()),
}


class Tabled(nnx.Module):
    """A layer whose outputs are multiplied by a plain array, kept in one of the ways of `KEPT`."""

    def __init__(self, inputs: int, outputs: int, way: str):
        self.layer = nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0))
        given = (np if way == "NumPy" else jnp).arange(1, outputs + 1, dtype=np.float32)
        self.table, self.way = KEPT[way][0](given), way

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.layer(x)
        return y * jnp.broadcast_to(KEPT[self.way][1](self.table), y.shape)


@pytest.mark.parametrize("way", KEPT)
def test_a_plain_array_of_a_module_is_a_constant(way: str) -> None:
    make, x = lambda: declare(Tabled(3, 2, way)), jnp.ones((4, 3))
    pure, params, own = functional(make), introspect.values(make()), Tabled(3, 2, way)(x)
    np.testing.assert_allclose(jax.jit(pure.apply)(params, x), own, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(pure.as_trained)(params, x), own, rtol=1e-6)
    assert pure.running == {}


def test_what_weight_normalization_keeps_is_a_constant() -> None:
    make = lambda: declare(nnx.WeightNorm(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)))
    net, x = make(), jnp.ones((4, 3))
    np.testing.assert_allclose(functional(make).apply(introspect.values(net), x), net(x), rtol=1e-6)


def test_a_study_and_a_probe_take_a_module_with_plain_arrays(tmp_path: Path) -> None:
    def make(
        inputs: int,
        units: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        way: str = "attribute",
        **unused: Any,
    ) -> Any:
        net = nnx.Sequential(Tabled(inputs, outputs, way), lambda y: y.mean(1))
        return declare(net, roles={"*.layer": "readout"}, n_layers=1, width=units)

    study = Study(
        model="own",
        task="digits_rows",
        schemes=("lecun_normal",),
        baseline="lecun_normal",
        hidden=8,
        lrs=(0.1,),
        seeds=2,
        epochs=1,
        evaluations=1,
    )
    result = run(study, models={"own": make}, out=tmp_path, progress=False)
    assert np.isfinite(result.records.valid_loss.values).all()
    net, x = make(3, 4, 2, rngs=nnx.Rngs(0), way="dict"), jnp.ones((4, 5, 3))
    found = probes.probe(net, (x, jnp.zeros((4, 2))), lambda out, y: jnp.mean((out - y) ** 2))
    assert found.gradient_norm.values > 0


def test_an_array_that_was_cached_in_a_trace_is_refused() -> None:
    table = functools.cache(lambda: jnp.ones(2))

    class Cached(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
            self.table = table()

    with pytest.raises(
        ValueError, match=r"keeps \['table'\], of arrays without a value: .* functools.cache"
    ):
        functional(lambda: declare(Cached()))
