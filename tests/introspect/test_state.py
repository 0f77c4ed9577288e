"""What modules hold beside their parameters."""

import functools
from collections.abc import Callable
from operator import itemgetter
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


def as_it_is(array: Any) -> Any:
    return array


def times_a_sum(array: np.ndarray) -> np.ndarray:
    """Uses an entry as a size, which a trace must know."""
    return array[: int(array[1])].sum() * array


# Ways to keep an array, and to get it back.
KEPT: dict[str, tuple[Callable[[jax.Array], Any], Callable[[Any], Any]]] = {
    "attribute": (as_it_is, as_it_is),
    "marked": (nnx.data, as_it_is),
    "NumPy": (as_it_is, times_a_sum),
    "dict": (lambda a: nnx.data({"table": a}), itemgetter("table")),
    "list": (lambda a: nnx.data([a]), itemgetter(0)),
    "nnx.Dict": (lambda a: nnx.Dict(table=a), itemgetter("table")),
    "nnx.List": (lambda a: nnx.List([a]), itemgetter(0)),
    "closure": (lambda a: lambda: a, lambda kept: kept()),
}


class Tabled(nnx.Module):
    """A layer whose outputs are multiplied by a plain array, kept in one of the ways of `KEPT`."""

    def __init__(self, inputs: int, outputs: int, way: str):
        self.layer = nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0))
        numbers = np.arange(1, outputs + 1, dtype=np.float32)
        keep, _ = KEPT[way]
        self.table = keep(numbers if way == "NumPy" else jnp.asarray(numbers))
        self.way = way

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.layer(x)
        _, get = KEPT[self.way]
        return y * jnp.broadcast_to(get(self.table), y.shape)


@pytest.mark.parametrize("way", KEPT)
def test_a_plain_array_of_a_module_is_a_constant(way: str) -> None:
    def make() -> nnx.Module:
        return declare(Tabled(3, 2, way))

    x = jnp.ones((4, 3))
    pure, params, own = functional(make), introspect.values(make()), Tabled(3, 2, way)(x)
    np.testing.assert_allclose(jax.jit(pure.apply)(params, x), own, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(pure.as_trained)(params, x), own, rtol=1e-6)
    assert pure.running == {}


def test_what_weight_normalization_keeps_is_a_constant() -> None:
    def make() -> Any:
        rngs = nnx.Rngs(0)
        return declare(nnx.WeightNorm(nnx.Linear(3, 2, rngs=rngs), rngs=rngs))

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

    def mean_square_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.mean((outputs - targets) ** 2)

    data = probes.probe(net, (x, jnp.zeros((4, 2))), mean_square_error)
    assert data.gradient_norm.values > 0


def test_an_array_that_was_cached_in_a_trace_is_refused() -> None:
    @functools.cache
    def table() -> jax.Array:
        return jnp.ones(2)

    class Cached(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
            self.table = table()

    message = r"keeps \['table'\], of arrays without a value: .* functools.cache"
    with pytest.raises(ValueError, match=message):
        functional(lambda: declare(Cached()))
