"""What a module holds beside its parameters, and what of it a training step can carry.

running statistics: carried from step to step      constants, plain arrays: as `make` built them
random streams: started from each step's key       anything else of Flax's: refused
"""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from jaxinit.introspect.parameters import Params, name_of

WITHOUT_VALUE = (Tracer, jax.ShapeDtypeStruct)  # what a plain array is in a module of shapes
REFUSED = {
    nnx.Cache: "build it with decode=False, or without what caches",
    nnx.Intermediate: "take it out with nnx.pop(model, nnx.Intermediate)",
    nnx.Perturbation: "take it out with nnx.pop(model, nnx.Perturbation)",
}
# In the mode where Flax is heading, modules are trees, in which arrays without a value are passed
# over.
AS_GRAPH: dict[str, Any] = (
    {"graph": True} if "graph" in inspect.signature(nnx.iter_graph).parameters else {}
)

FlatState = Sequence[tuple[tuple[Any, ...], Any]]


class Frozen(nnx.Variable):
    """A value that a module needs and that training leaves alone: the weights of a pre-trained
    base."""


class Held(NamedTuple):
    """What a module holds beside its parameters, by name.

    `streams` are the names of its random streams, whose keys are among the constants."""

    running: Params
    constants: Params
    plain: dict[str, Any]
    streams: tuple[str, ...]


def holds_more_than_parameters(module: nnx.Module, state: FlatState) -> bool:
    """Whether a module of shapes has anything whose value matters."""
    has_others = any(not isinstance(variable, nnx.Param) for _, variable in state)
    return has_others or bool(_attributes_with(module, WITHOUT_VALUE))


def held_by(state: FlatState) -> Held:
    """What the state of a module that was built holds beside its parameters."""
    running: Params = {}
    constants: Params = {}
    plain: dict[str, Any] = {}
    streams: list[str] = []
    for path, variable in state:
        name = name_of(path)
        if isinstance(variable, nnx.RngKey):
            streams.append(name)
        if not isinstance(variable, nnx.Variable):
            plain[name] = variable  # as it is: of NumPy's a trace knows the values
        elif isinstance(variable, Frozen | nnx.RngState):
            constants[name] = jnp.asarray(variable.get_value())
        elif not isinstance(variable, nnx.Param):
            running[name] = jnp.asarray(variable.get_value())
    return Held(running, constants, plain, tuple(streams))


def check_carried(state: FlatState) -> None:
    """Raises: ValueError for state of Flax's that no training step carries."""
    for kind, remedy in REFUSED.items():
        names = [name_of(path) for path, variable in state if isinstance(variable, kind)]
        if names:
            raise ValueError(
                f"the module also holds {names}, of nnx.{kind.__name__}, which no training step "
                f"carries; {remedy}"
            )


def check_values(built: nnx.Module) -> None:
    """Refuse a module with arrays that were cached while another like it was looked at by its
    shapes."""
    names = _attributes_with(built, Tracer)
    if names:
        raise ValueError(
            f"the module keeps {names}, of arrays without a value: they are left from an earlier "
            "trace, as by functools.cache; make them anew for each module, or with NumPy"
        )


def _attributes_with(model: nnx.Module, kinds: Any) -> list[str]:
    """The names of what is no variable and is, or keeps, an array without a value.

    No graph of the module says so: it takes what is no array of its own for a static attribute."""
    names: list[str] = []
    for path, value in nnx.iter_graph(model, **AS_GRAPH):
        if not isinstance(value, nnx.Variable | nnx.Pytree) and _keeps(value, kinds):
            names.append(name_of(path))
    return names


def _keeps(value: Any, kinds: Any, depth: int = 3) -> bool:
    """Whether an attribute is of one of these kinds, or keeps it in a container, a dataclass, a
    partial, a closure.

    `depth` bounds the search: an object may refer to itself."""
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, kinds):
            return True
        if depth and _keeps(_inside(leaf), kinds, depth - 1):
            return True
    return False


def _inside(value: Any) -> list[Any]:
    """What a value that is no container of JAX's keeps."""
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, FunctionType):
        contents: list[Any] = []
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # an empty cell
                contents.append(cell.cell_contents)
        return contents
    is_instance = is_dataclass(value) and not isinstance(value, type)
    if is_instance or isinstance(value, SimpleNamespace):
        return list(vars(value).values())
    return []
