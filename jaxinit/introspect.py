"""From a Flax NNX module to leaves and back: the border between modules and plain dictionaries of arrays.

Parameters say what they are in their own metadata (`param`); a parameter's name is its path in the module.
"""

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from jaxinit import spec
from jaxinit.spec import Leaf, Scheme

Module = TypeVar("Module", bound=nnx.Module)
Apply = Callable[[dict[str, Array], Array], Array]


class Place(TypedDict, total=False):
    """Where a parameter stands, as in `spec.Leaf`."""

    gate: tuple[str, ...]
    layer: int
    n_layers: int
    activation: str
    inputs: int
    kind: str


def param(shape: tuple[int, ...], dims: str, role: str, **place: Unpack[Place]) -> nnx.Param:
    """A float32 parameter that declares its leaf, zero until it is drawn. Arguments as in `spec.Leaf`."""
    spec.check_dims(dims, shape, f"a {role} parameter")
    meta: dict[str, Any] = {"dims": dims, "role": role, **place}
    return nnx.Param(jnp.zeros(shape), **meta)


def leaves(model: nnx.Module) -> tuple[Leaf, ...]:
    """The leaves of a module's parameters, in the order of their names.

    Works on a module of shapes as well (`nnx.eval_shape`), so that nothing need be allocated.
    Raises: ValueError for a parameter that declares no dims and role, with its name.
    """
    return tuple(_leaf(name, variable) for name, variable in _params(model).items())


def initialize(model: Module, scheme: Scheme, key: Key[Array, ""]) -> Module:
    """A copy of `model` whose parameters are drawn under `scheme`; `model` itself is not changed.

    Raises: ValueError as `spec.draw` does, and when the scheme has a multiplier other than 1: an array cannot
    carry it, `jaxinit.run` can.
    """
    declared = leaves(model)
    scaled = [name for name, rule in spec.rules(scheme, declared).items() if rule.multiplier != 1.0]
    if scaled:
        raise ValueError(
            f"scheme {spec.scheme_name(scheme)!r} multiplies {scaled} in the forward pass, which an initialized "
            "module cannot express; train it with jaxinit.run, or draw with jaxinit.draw and multiply yourself"
        )
    fresh = nnx.clone(model)
    fill(fresh, scheme, key)
    return fresh


def fill(model: nnx.Module, scheme: Scheme, key: Key[Array, ""]) -> None:
    """Draw every parameter of `model` under `scheme`, in place: what a module's constructor ends with."""
    variables = _params(model)
    drawn = spec.draw(scheme, key, leaves(model))
    for name, variable in variables.items():
        variable.set_value(drawn[name].astype(variable.get_value().dtype))


def values(model: nnx.Module) -> dict[str, Array]:
    """The parameters of a module as they are: `{name: array}`."""
    return {name: jnp.asarray(variable.get_value()) for name, variable in _params(model).items()}


def functional(make: Callable[[], nnx.Module]) -> tuple[tuple[Leaf, ...], Apply]:
    """The leaves of the module that `make` builds, and a pure `apply(params, x)`; nothing is allocated.

    `params` is `{name: array}` as `spec.draw` returns it.
    """
    abstract = nnx.eval_shape(make)
    graph, params, rest = nnx.split(abstract, nnx.Param, ...)
    others = [_name(path) for path, _ in nnx.to_flat_state(rest)]
    if others:
        raise ValueError(f"only parameters (nnx.Param) are carried, but the module also holds {others}")

    def apply(values: dict[str, Array], x: Array) -> Array:
        flat = [(path, variable.replace(values[_name(path)])) for path, variable in nnx.to_flat_state(params)]
        module: Any = nnx.merge(graph, nnx.from_flat_state(flat))
        return module(x)

    return leaves(abstract), apply


def _params(model: nnx.Module) -> dict[str, nnx.Param]:
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {_name(path): variable for path, variable in flat}


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _leaf(name: str, variable: nnx.Variable) -> Leaf:
    meta = variable.get_metadata()
    if "dims" not in meta or "role" not in meta:
        raise ValueError(
            f"parameter {name!r} (shape {variable.get_value().shape}) declares no dims and role; "
            "create it with jaxinit.introspect.param(shape, dims, role)"
        )
    known = ("dims", "role", "gate", "layer", "n_layers", "activation", "inputs", "kind")
    return Leaf(name, tuple(variable.get_value().shape), **{key: meta[key] for key in known if key in meta})
