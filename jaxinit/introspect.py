"""From a Flax NNX module to leaves and back: the border between modules and plain dictionaries of arrays.

    module -> leaves, apply (evaluation), learn (training: dropout, running statistics)

Parameters say what they are in their own metadata (`param`); a parameter's name is its path in the module.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from jaxinit import spec
from jaxinit.spec import Leaf, Scheme

Module = TypeVar("Module", bound=nnx.Module)
Params = dict[str, Array]
Apply = Callable[[Params, Array], Array]


class Frozen(nnx.Variable):
    """A value that a module needs and that training leaves alone: the weights of a pre-trained base."""


class Training(NamedTuple):
    """What a module needs to know of a training step: its noise. None in its place means evaluation.

    `key` is the step's own, None for no noise; `dropout` the probability that a unit is dropped, which may be traced.
    """

    key: Key[Array, ""] | None = None
    dropout: float | Array | np.ndarray = 0.0


# (params, running statistics, x, training) -> (y, running statistics after)
Learn = Callable[[Params, Params, Array, Training], tuple[Array, Params]]


class Functional(NamedTuple):
    """A module as pure functions; `params` is `{name: array}` as `spec.draw` returns it.

    `apply(params, x)` evaluates: no noise, normalization by the running statistics `params` holds under their names, or
    by those of the start. `learn(params, running, x, training)` is a training step's forward pass, normalization by the
    batch. `running` holds the running statistics at the start; most modules have none. `filled(params)` is the module
    itself with those parameters, for what only it can do.
    """

    leaves: tuple[Leaf, ...]
    apply: Apply
    learn: Learn
    running: Params
    filled: Callable[[Params], Any]

    def as_trained(self, params: Params, x: Array) -> Array:
        """What a training step computes, without its noise: what to probe and to calibrate."""
        return self.learn(params, self.running, x, Training())[0]


class Place(TypedDict, total=False):
    """Where a parameter stands, as in `spec.Leaf`."""

    gate: tuple[str, ...]
    layer: int
    n_layers: int
    activation: str
    inputs: int
    kind: str
    width: int


def param(shape: tuple[int, ...], dims: str, role: str, **place: Unpack[Place]) -> nnx.Param:
    """A float32 parameter that declares its leaf, zero until it is drawn. Arguments as in `spec.Leaf`."""
    spec.check_dims(dims, shape, f"a {role} parameter")
    meta: dict[str, Any] = {"dims": dims, "role": role, **place}
    return nnx.Param(jnp.zeros(shape, jnp.float32), **meta)


def declare(model: nnx.Module) -> None:
    """Say of every parameter of Flax's own layers what it is, in place: dims and role, where none are declared yet.

    Linear, LinearGeneral, MultiHeadAttention (heads are copies), Embed, Conv, and the scales and biases of
    normalizations. Kernels have the roles query, key, value and attention_out in an attention, else `hidden`.
    """
    heads: dict[int, str] = {}  # of the parts of an attention, by identity: the role of each
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.MultiHeadAttention):
            parts = {"query": "query", "key": "key", "value": "value", "out": "attention_out"}
            heads |= {id(getattr(module, name)): role for name, role in parts.items()}
    for _, module in nnx.iter_modules(model):
        kernel, role = None, heads.get(id(module), "hidden")
        outputs = ".o" if role in ("query", "key", "value") else ""
        if isinstance(module, nnx.Linear):
            kernel = "io"
        elif isinstance(module, nnx.LinearGeneral):
            outputs = outputs or "o" * len(module.out_features)
            kernel = "i" * len(module.in_features) + outputs
        elif isinstance(module, nnx.Conv):
            kernel = "w" * len(module.kernel_size) + "io"
        for name, dims, role_of in (("kernel", kernel, role), ("embedding", "io", "embedding")):
            variable = getattr(module, name, None)
            if isinstance(variable, nnx.Param) and dims and "dims" not in variable.get_metadata():
                variable.set_metadata(dims=dims, role=role_of)
        for name in ("bias", "scale"):
            variable = getattr(module, name, None)
            if isinstance(variable, nnx.Param) and "dims" not in variable.get_metadata():
                variable.set_metadata(dims=outputs or "o" * variable.get_value().ndim, role=name)


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


def functional(make: Callable[[], nnx.Module]) -> Functional:
    """The module that `make` builds, as leaves and pure functions; its parameters are not allocated.

    A module that holds running statistics (`nnx.BatchStat`) or takes noise has a second argument, `training`; what is
    `Frozen` is a constant.
    Raises: ValueError for a module with state of another kind.
    """
    abstract = nnx.eval_shape(make)
    graph, params, rest = nnx.split(abstract, nnx.Param, ...)
    kept = nnx.to_flat_state(rest)
    others = [name_of(path) for path, variable in kept if not isinstance(variable, nnx.BatchStat | Frozen)]
    if others:
        raise ValueError(
            f"only parameters (nnx.Param), running statistics (nnx.BatchStat) and frozen values are carried, but the "
            f"module also holds {others}"
        )
    running, frozen = {}, {}
    if kept:  # their start is a value, not a shape
        for path, variable in nnx.to_flat_state(nnx.state(make(), (nnx.BatchStat, Frozen))):
            of = frozen if isinstance(variable, Frozen) else running
            of[name_of(path)] = jnp.asarray(variable.get_value())

    def module(values: Params) -> Any:
        flat, values = [*nnx.to_flat_state(params), *kept], frozen | values
        filled = [(path, variable.replace(values[name_of(path)])) for path, variable in flat]
        return nnx.merge(graph, nnx.from_flat_state(filled))

    def filled(values: Params) -> Any:
        return module(running | values)

    def apply(values: Params, x: Array) -> Array:
        return filled(values)(x)

    def learn(values: Params, before: Params, x: Array, training: Training) -> tuple[Array, Params]:
        one = module(before | values)
        takes_training = "training" in inspect.signature(type(one).__call__).parameters
        y = one(x, training=training) if takes_training else one(x)
        after = nnx.to_flat_state(nnx.state(one, nnx.BatchStat))
        return y, {name_of(path): variable.get_value() for path, variable in after}

    return Functional(leaves(abstract), apply, learn, running, filled)


def _params(model: nnx.Module) -> dict[str, nnx.Param]:
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {name_of(path): variable for path, variable in flat}


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a parameter: its path in the module."""
    return ".".join(map(str, path))


def _leaf(name: str, variable: nnx.Variable) -> Leaf:
    meta = variable.get_metadata()
    if "dims" not in meta or "role" not in meta:
        raise ValueError(
            f"parameter {name!r} (shape {variable.get_value().shape}) declares no dims and role; "
            "create it with jaxinit.introspect.param(shape, dims, role); jaxinit.introspect.declare does it for the "
            "layers of Flax"
        )
    known = ("dims", "role", "gate", "layer", "n_layers", "activation", "inputs", "kind", "width")
    return Leaf(name, tuple(variable.get_value().shape), **{key: meta[key] for key in known if key in meta})
