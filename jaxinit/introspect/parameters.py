"""What the parameters of a module are, and their values in the shapes of their leaves.

    module -> leaves -> draw -> module

Parameters say what they are in their own metadata (`param`, or `declare` for layers of Flax); a
parameter's name is its path in the module. A stored array that fuses several matrices is one leaf
with an axis of copies, or several leaves (`Split`): what is drawn, trained and saved has the shapes
of the leaves, and the module gets the array it stores.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from jaxinit import spec
from jaxinit.spec import Initializer, Leaf, Scheme

Module = TypeVar("Module", bound=nnx.Module)
Params = dict[str, Array]

LEAF_FIELDS = tuple(field.name for field in fields(Leaf) if field.name not in ("name", "shape"))
GATES = ("input", "forget", "cell", "output", "reset", "update", "new")
VECTOR_ROLES = ("bias", "scale", "slope")  # known by what they are called
ROLES = (
    "input",
    "recurrent",
    "hidden",
    "readout",
    "embedding",
    "position",
    "query",
    "key",
    "value",
    "attention_out",
    "ffn_in",
    "ffn_out",
    "lora_a",
    "lora_b",
)


class Place(TypedDict, total=False):
    """Where a parameter stands, as in `spec.Leaf`."""

    gate: tuple[str, ...]
    layer: int
    n_layers: int
    activation: str
    inputs: int
    kind: str
    width: int
    partner: str
    normalized: bool


def param(shape: tuple[int, ...], dims: str, role: str, **place: Unpack[Place]) -> nnx.Param:
    """A float32 parameter that declares its leaf, zero until it is drawn.

    Arguments as in `spec.Leaf`. Raises: ValueError for dims that do not fit the shape.
    """
    spec.check_dims(dims, shape, f"a {role} parameter")
    metadata: dict[str, Any] = {"dims": dims, "role": role, **place}
    return nnx.Param(jnp.zeros(shape, jnp.float32), **metadata)


class Part(NamedTuple):
    """One of several parameters that are stored as one array: its name, role, and size along the
    axis that is cut."""

    name: str
    role: str
    size: int
    role_assumed: bool = False
    partner: str = ""


class Split(NamedTuple):
    """How a stored array is cut along one of its axes.

    Into `copies` of equal size, which become the leading axis of one leaf (gates of a cell, groups
    of a convolution), or into `parts`, each a leaf of its own, whose name is the stored array's and
    the part's (queries, keys, values)."""

    axis: int
    copies: int = 0
    parts: tuple[Part, ...] = ()


def leaves(model: nnx.Module) -> tuple[Leaf, ...]:
    """The leaves of a module's parameters, in the order of their names.

    Works on a module of shapes as well (`nnx.eval_shape`), so that nothing need be allocated.
    Raises: ValueError for a parameter that declares no dims and role, with its name.
    """
    declared: list[Leaf] = []
    for name, variable in variables_of(model).items():
        declared += leaves_of(name, variable)
    return tuple(declared)


def initialize(model: Module, scheme: Scheme | Initializer, key: Key[Array, ""]) -> Module:
    """A copy of `model` whose parameters are drawn under `scheme`; `model` itself is not changed.

    Raises: ValueError as `spec.draw` does, and when the scheme has a multiplier other than 1: an
    array cannot carry it, `jaxinit.run` can.
    """
    rules = spec.rules(scheme, leaves(model))
    scaled = [name for name, rule in rules.items() if rule.multiplier != 1.0]
    if scaled:
        raise ValueError(
            f"scheme {spec.scheme_name(scheme)!r} multiplies {scaled} in the forward pass, which "
            "an initialized module cannot express; train it with jaxinit.run, or draw with "
            "jaxinit.draw and multiply yourself"
        )
    fresh = nnx.clone(model)
    fill(fresh, scheme, key)
    return fresh


def fill(model: nnx.Module, scheme: Scheme | Initializer, key: Key[Array, ""]) -> None:
    """Draw every parameter of `model` under `scheme`, in place: what a module's constructor ends
    with."""
    variables = variables_of(model)
    drawn = spec.draw(scheme, key, leaves(model))
    for name, variable in variables.items():
        stored = joined(name, variable, drawn)
        variable.set_value(stored.astype(variable.get_value().dtype))


def values(model: nnx.Module) -> dict[str, Array]:
    """The parameters of a module as they are: `{name: array}`, in the shapes of its leaves."""
    arrays: dict[str, Array] = {}
    for name, variable in variables_of(model).items():
        arrays |= cut(name, variable, jnp.asarray(variable.get_value()))
    return arrays


def cut(name: str, variable: nnx.Variable, stored: Array) -> dict[str, Array]:
    """What a variable stores, as the arrays of its leaves: `{name: array}`."""
    split: Split | None = variable.get_metadata().get("split")
    if split is None:
        return {name: stored}
    axis = split.axis
    if split.copies:
        # Fused gates lie side by side along one axis; schemes ask for copies in front.
        before, after = stored.shape[:axis], stored.shape[axis + 1 :]
        apart = stored.reshape(*before, split.copies, -1, *after)
        return {name: jnp.moveaxis(apart, axis, 0)}
    sizes = [part.size for part in split.parts]
    ends = np.cumsum(sizes)[:-1].tolist()
    pieces = jnp.split(stored, ends, axis)
    by_name: dict[str, Array] = {}
    for part, piece in zip(split.parts, pieces, strict=True):
        by_name[f"{name}.{part.name}"] = piece
    return by_name


def joined(name: str, variable: nnx.Variable, values: Mapping[str, Array]) -> Array:
    """The array that a variable stores, from those of its leaves: the inverse of `cut`."""
    split: Split | None = variable.get_metadata().get("split")
    if split is None:
        return values[name]
    if split.copies:
        apart = jnp.moveaxis(values[name], 0, split.axis)
        return apart.reshape(variable.get_value().shape)
    pieces = [values[f"{name}.{part.name}"] for part in split.parts]
    return jnp.concatenate(pieces, split.axis)


def variables_of(model: nnx.Module) -> dict[str, nnx.Param]:
    """The variables that store a module's parameters, by name."""
    # A flat state is sorted by path, and tied parameters are in it once.
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {name_of(path): variable for path, variable in flat}


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a parameter: its path in the module."""
    return ".".join(map(str, path))


def leaves_of(name: str, variable: nnx.Variable) -> list[Leaf]:
    """The leaves of what a variable stores: one, or one for each of its parts."""
    metadata = variable.get_metadata()
    shape = tuple(variable.get_value().shape)
    if "dims" not in metadata or "role" not in metadata:
        raise ValueError(
            f"parameter {name!r} (shape {shape}) declares no dims and role; create it with "
            "jaxinit.introspect.param(shape, dims, role), or say declare(model), which knows the "
            f"layers of Flax, and of others declare(model, dims={{{name!r}: ...}}, "
            f"roles={{{name!r}: ...}})"
        )
    declared = {field: metadata[field] for field in LEAF_FIELDS if field in metadata}
    split: Split | None = metadata.get("split")
    if split is None:
        return [Leaf(name, shape, **declared)]
    before, size, after = shape[: split.axis], shape[split.axis], shape[split.axis + 1 :]
    if split.copies:
        # The axes that are declared are those of the leaf, whose first is the one of copies.
        copy_shape = (*before, size // split.copies, *after)
        return [Leaf(name, (split.copies, *copy_shape), **declared)]
    parts: list[Leaf] = []
    for part in split.parts:
        part_name = f"{name}.{part.name}"
        if not part.role:
            raise ValueError(
                f"parameter '{part_name}' has no role; say declare(model, "
                f"roles={{'{part_name}': ...}}), one of {', '.join(ROLES)}, or bias"
            )
        own = declared | {"role": part.role, "role_assumed": part.role_assumed}
        if part.partner:
            own["partner"] = part.partner
        parts.append(Leaf(part_name, (*before, part.size, *after), **own))
    return parts
