"""Checkpoints: the values of a model's parameters in a safetensors file, by name, and back.

file, leaves -> names and shapes compared, all of them -> values
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import jax.numpy as jnp
from jaxtyping import Array

from jaxinit.spec import Leaf


def save_checkpoint(path: str | Path, values: Mapping[str, Array]) -> None:
    """Write `{name: array}` as safetensors."""
    from safetensors.flax import save_file

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(values), path)


def load_checkpoint(
    path: str | Path,
    leaves: Sequence[Leaf],
    *,
    names: Mapping[str, str] | None = None,
    transposed: Sequence[str] = (),
    new: Sequence[str] = (),
) -> dict[str, Array]:
    """The values of a model's parameters from any safetensors file: `{name: array}`, float32.

    `names` maps the model's names to the file's where they differ; those whose name (in the model) matches a pattern in
    `transposed` are `[outputs, inputs]` in the file, as PyTorch's are; those that match `new` may be missing, or be of
    another shape, and are then left out.
    Raises: ValueError for a file that cannot be read, and one that lists every parameter that is missing, of another
    shape, or in the file and not in the model.
    """
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the checkpoint {path} cannot be read as safetensors: {error}") from error
    names = dict(names or {})
    found, problems = {}, []
    unknown = sorted(set(names) - {leaf.name for leaf in leaves})
    if unknown:
        problems.append(f"names for parameters that the model has not: {', '.join(unknown)}")
    for leaf in leaves:
        name = names.get(leaf.name, leaf.name)
        may_differ = any(fnmatchcase(leaf.name, pattern) for pattern in new)
        if name not in stored:
            if not may_differ:
                problems.append(f"missing: {name} {leaf.shape}")
            continue
        value = stored.pop(name)
        if any(fnmatchcase(leaf.name, pattern) for pattern in transposed):
            value = value.T
        if value.shape == leaf.shape:
            found[leaf.name] = value.astype(jnp.float32)
        elif not may_differ:
            hint = ", whose transpose fits: see `transposed`" if value.T.shape == leaf.shape else ""
            problems.append(f"of another shape: {name} {value.shape}{hint}, the model has {leaf.shape}")
    problems += [f"not in the model: {name} {value.shape}" for name, value in stored.items()]
    if problems:
        raise ValueError(f"the checkpoint {path} does not fit the model: {'; '.join(problems)}")
    return found
