"""A model that is a pair of functions, or a Flax Linen module, as a module of NNX.

(init, apply), example -> tree of parameters -> their axes and roles by name -> nnx.Module
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
from flax import nnx
from jaxtyping import Array

from jaxinit.introspect.declaration import declare, matches
from jaxinit.introspect.parameters import leaves_of, variables_of

Init: TypeAlias = Callable[..., Any]
Path: TypeAlias = tuple[str, ...]
# What the libraries call their parameters, where the name says what it is.
FEATURES_LAST = ("kernel", "w")  # Linen, Haiku: windows, inputs, outputs
FEATURES_FIRST = ("weight",)  # Equinox: outputs, inputs, windows
TABLES = ("embedding", "embeddings")
BIASES, SCALES = ("bias", "b", "offset"), ("scale", "gamma")
PROJECTIONS = ("query", "key", "value")  # of Linen's attention: inputs, heads, a head's outputs
# The dense layers of Linen's cells: i of the inputs, h of the state, and the letter of the gate.
CELLS = (
    {"i": "input", "f": "forget", "g": "cell", "o": "output"},
    {"r": "reset", "z": "update", "n": "new"},
)


class _Branch(nnx.Module):
    """A part of a tree of parameters."""


class Adapted(nnx.Module):
    """A model of functions: `apply(params, x)` of the parameters that it holds as `nnx.Param`."""

    def __init__(self, apply: Callable[[Any, Any], Array], params: Any):
        leaves, self._structure = jax.tree.flatten(params)
        self._apply = apply
        self._paths = tuple(names_on(path) for path, _ in jax.tree.leaves_with_path(params))
        for path, value in zip(self._paths, leaves, strict=True):
            branch: nnx.Module = self
            for name in path[:-1]:
                if not hasattr(branch, name):
                    setattr(branch, name, _Branch())
                branch = getattr(branch, name)
            setattr(branch, path[-1], nnx.Param(value))

    def paths(self) -> dict[Path, nnx.Param]:
        """The parameters by the names on their paths, in the order of the tree."""
        found = {}
        for path in self._paths:
            thing: Any = self
            for name in path:
                thing = getattr(thing, name)
            found[path] = thing
        return found

    def __call__(self, x: Any) -> Array:
        leaves = [variable.get_value() for variable in self.paths().values()]
        return self._apply(jax.tree.unflatten(self._structure, leaves), x)


def adapt(
    model: Any,
    example: Any,
    *,
    rngs: nnx.Rngs | None = None,
    dims: Mapping[str, str] | None = None,
    roles: Mapping[str, str] | None = None,
    **declared: Any,
) -> nnx.Module:
    """A Linen module, or a pair `(init, apply)`, as a module of NNX whose parameters say what they
    are.

    `init(key, x)` makes the parameters, any tree of arrays, and `apply(params, x)` the outputs; of
    a Linen module those of its `params`. Axes and roles are taken from the names that Linen, Haiku
    and Equinox give: kernel and w `[windows, in, out]`, weight `[out, in, windows]`, embedding,
    bias, b, offset, scale; in Linen's attention and cells also from those of its parts. `dims`,
    `roles` and what else `declare` takes say the rest, and go first.
    Shapes: `example` is a batch of inputs, an array or a tree of arrays, of which shapes and dtypes
    count.
    Assumes that the outputs depend on parameters and inputs alone: dropout, running statistics and
    other collections of Linen are not carried.
    Raises: TypeError for a model that is neither; ValueError for a Linen module with other
    collections than `params`, and as `declare`.
    """
    from flax import linen  # imported where used: few need it

    key = (rngs or nnx.Rngs(0)).params()
    if isinstance(model, linen.Module):
        init, apply = _of_linen(model)
    elif isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        init, apply = model
    else:
        raise TypeError(
            "a model is an nnx.Module, a Flax Linen module or a pair of functions (init, apply); "
            f"got {type(model).__name__}"
        )
    module = Adapted(apply, init(key, example))
    return declare_by_names(module, dims=dims, roles=roles, **declared)


def declare_by_names(
    module: Adapted,
    *,
    dims: Mapping[str, str] | None = None,
    roles: Mapping[str, str] | None = None,
    **declared: Any,
) -> Adapted:
    """Declare the parameters of a tree by the names on their paths, as `adapt` does."""
    own_dims, own_roles = dict(dims or {}), dict(roles or {})
    paths = module.paths()
    for path, variable in paths.items():
        name = ".".join(path)
        said = _of_names(path, variable.get_value().ndim, paths)
        if said.dims is not None and not any(matches(key, name, name) for key in dims or ()):
            own_dims[name] = said.dims
        if said.role is not None and not any(matches(key, name, name) for key in roles or ()):
            own_roles[name] = said.role
        if said.gate:
            variable.set_metadata(gate=said.gate)
    declare(module, dims=own_dims, roles=own_roles, **declared)
    _say_inputs_of_biases(module)
    return module


def _say_inputs_of_biases(module: Adapted) -> None:
    """Give biases the number of inputs of the kernel beside them, as Flax's layers do."""
    variables = variables_of(module)
    for name, variable in variables.items():
        metadata = variable.get_metadata()
        if metadata.get("role") != "bias" or metadata.get("inputs"):
            continue
        layer = name.rpartition(".")[0]
        for kernel in (*FEATURES_LAST, *FEATURES_FIRST):
            beside = variables.get(f"{layer}.{kernel}" if layer else kernel)
            if beside is not None and "dims" in beside.get_metadata():
                (leaf, *_) = leaves_of(kernel, beside)
                if leaf.is_kernel:
                    variable.set_metadata(inputs=leaf.fan_in)


def _of_linen(model: Any) -> tuple[Init, Callable[[Any, Any], Array]]:
    def init(key: Any, x: Any) -> Any:
        variables = model.init(key, x)
        others = sorted(set(variables) - {"params"})
        if others:
            raise ValueError(
                f"the Linen module {type(model).__name__} has the collections {', '.join(others)}; "
                "only params are carried: write it in NNX (flax.nnx.bridge.ToNNX helps)"
            )
        return variables["params"]

    def apply(params: Any, x: Any) -> Array:
        return model.apply({"params": params}, x)

    return init, apply


class _Said(NamedTuple):
    """What the names on a parameter's path say of it."""

    dims: str | None = None
    role: str | None = None
    gate: tuple[str, ...] = ()


def _of_names(path: Path, axes: int, paths: Collection[Path]) -> _Said:
    name = path[-1]
    layer = path[-2] if len(path) > 1 else ""
    side, gate = _in_a_cell(path, paths)
    if name in BIASES:
        of_heads = axes == 2 and layer in PROJECTIONS
        return _Said(".o" if of_heads else "o" * axes, "bias", gate)
    if name in SCALES:
        return _Said("o" * axes, "scale")
    if name in TABLES and axes == 2:
        return _Said("io", "embedding")
    if name in FEATURES_FIRST and axes >= 2:
        return _Said("oi" + "w" * (axes - 2))
    if name not in FEATURES_LAST or axes < 2:
        return _Said()
    if axes == 3 and layer in PROJECTIONS:
        return _Said("i.o", layer)
    if axes == 3 and layer == "out":
        return _Said("iio", "attention_out")
    return _Said("w" * (axes - 2) + "io", side, gate)


def _in_a_cell(path: Path, paths: Collection[Path]) -> tuple[str | None, tuple[str, ...]]:
    """The role and the gate of a parameter of one of Linen's cells, which has all their layers."""
    layer = path[-2] if len(path) > 1 else ""
    beside = {other[-2] for other in paths if len(other) > 1 and other[:-2] == path[:-2]}
    for gates in CELLS:
        if {side + letter for side in "ih" for letter in gates} <= beside and layer[1:] in gates:
            role = "input" if layer[0] == "i" else "recurrent"
            return role, (gates[layer[1:]],)
    return None, ()


def names_on(path: tuple[Any, ...]) -> Path:
    """The names on a path in a tree."""
    names = []
    for entry in path:
        value = getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None)))
        names.append(str(value))
    return tuple(names)
