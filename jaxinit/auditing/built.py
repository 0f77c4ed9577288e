"""The model that a command line names, and the batch.

FILE.py:build, FILE.safetensors -> model; FILE.npz -> (x, y)
"""

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxinit import auditing
from jaxinit.auditing.findings import Finding
from jaxinit.auditing.inventory import entries_of
from jaxinit.engine.resolve import arguments_of
from jaxinit.names import find
from jaxinit.study import BadStudy
from jaxinit.tasks.arrays import arrays_of_file
from jaxinit.tasks.losses import caller_error

MOST_EXAMPLES = 256  # of a batch
MOST_BUILT_TWICE = 50_000_000  # parameters


class Batch(NamedTuple):
    """Examples: `[n, ...]` and their targets."""

    x: np.ndarray
    y: np.ndarray


def batch_of(name: str) -> Batch:
    """The first examples of a file of arrays. Raises: BadStudy for a file that has none."""
    try:
        arrays = arrays_of_file(name)
    except ValueError as error:
        raise BadStudy(str(error)) from error
    x, y = arrays["x"][:MOST_EXAMPLES], arrays["y"][:MOST_EXAMPLES]
    if len(x) != len(y) or not len(x):
        raise BadStudy(f"{name}: x has {len(arrays['x'])} examples and y {len(arrays['y'])}")
    for label, values in (("x", arrays["x"]), ("y", arrays["y"])):
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise BadStudy(f"{name}: {bad} of {values.size} entries of {label} are not finite")
    return Batch(x, y)


def built(place: str, batch: Batch | None = None, seed: int = 0) -> Any:
    """The model of a name: a safetensors file by its path, or what `FILE.py:NAME` is or builds.

    A function is called with what it names of `rngs`, and, where there is a batch, `in_features`
    and `out_features`.
    Raises: BadStudy, one line, for a place without it, a function that asks for more, or that
    fails.
    """
    if place.endswith(".safetensors"):
        if not Path(place).is_file():
            raise BadStudy(f"there is no file {place}; give its path")
        return place
    if ":" not in place:
        raise BadStudy(f"{place!r} is no FILE.py:NAME, nor a file of *.safetensors")
    try:
        make = find(place)
    except LookupError as error:
        raise BadStudy(str(error.args[0])) from error
    is_model = isinstance(make, nnx.Module) or (hasattr(make, "init") and hasattr(make, "apply"))
    if not callable(make) or (is_model and not inspect.isclass(make)):
        return make
    named, _ = arguments_of(make)
    given: dict[str, Any] = {"rngs": nnx.Rngs(seed), "key": jax.random.key(seed)}
    if batch is not None:
        is_classes = np.issubdtype(batch.y.dtype, np.integer)
        given["in_features"] = batch.x.shape[-1]
        given["out_features"] = int(batch.y.max()) + 1 if is_classes else batch.y.shape[-1]
    missing = [
        name
        for name, argument in named.items()
        if argument.default is argument.empty
        and argument.kind is not argument.VAR_POSITIONAL
        and name not in given
    ]
    if missing:
        help_of_batch = "; --batch says in_features and out_features" if batch is None else ""
        raise BadStudy(
            f"{place!r} asks for {', '.join(missing)}, which an audit does not know; give defaults"
            f"{help_of_batch}, or a function that takes rngs alone"
        )
    try:
        return make(**{name: given[name] for name in named if name in given})
    except Exception as error:
        raise BadStudy(f"{place!r} failed to build: {caller_error(error)}") from error


def drawn_twice(place: str, model: Any, batch: Batch | None) -> list[Finding]:
    """Whether another build of the same seed has the same parameters, where they are few enough."""
    first = entries_of(model)
    if sum(entry.size for entry in first) > MOST_BUILT_TWICE or isinstance(model, str):
        return []
    again = auditing.adapted(built(place, batch), batch)
    second = {entry.name: entry for entry in entries_of(again)}
    differing = [
        entry.name
        for entry in first
        if entry.name not in second
        or not np.array_equal(entry.values(), second[entry.name].values(), equal_nan=True)
    ]
    if not differing:
        return []
    return [
        Finding(
            "warning",
            "two builds of one seed differ",
            differing[0],
            f"{len(differing)} of {len(first)} parameters hold other values",
            "a draw from NumPy's or Python's own state, the time, or the order of a set",
            "draw with the rngs that the model is built with",
        )
    ]
