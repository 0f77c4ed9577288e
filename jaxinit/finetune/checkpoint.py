"""Checkpoints: the values of a model's parameters in a safetensors file, by name, and back.

file, leaves -> names and shapes compared, all of them -> values
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxinit.analysis.folder import sync_folder, write_synced
from jaxinit.spec import Leaf, axis_size, sizes_of

# The dtypes of the format that arrays have here, by the format's names.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
DIGEST = "sha256"  # the entry of the file's metadata that damage is found by
Contents = dict[str, tuple[str, tuple[int, ...], bytes]]  # dtype, shape and bytes of every array


def save_checkpoint(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write `{name: array}` as safetensors.

    Shapes, dtypes: any array of JAX or NumPy, in whatever layout it lies in memory, sharded or not;
    each keeps its shape and its dtype. The file appears under its name when it is complete, and
    holds a SHA-256 of its contents. Raises: ValueError for names that are not strings, or that the
    format keeps for itself, and for values that are no arrays of a dtype that it has; all of them
    are named.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name, value in values.items():
        try:
            arrays[name] = _storable(name, value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(
            f"the checkpoint {path} cannot be written: {'; '.join(problems)}; safetensors holds "
            f"arrays under names, of the dtypes {', '.join(DTYPES.values())}"
        )
    contents: Contents = {}
    for name, array in arrays.items():
        contents[name] = (array.dtype.name, array.shape, array.tobytes())
    try:
        written = save(arrays, {DIGEST: _digest(contents)})
    except SafetensorError as error:
        raise ValueError(
            f"the checkpoint {path} cannot be written as safetensors: {error}"
        ) from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is complete: what stops in between leaves no half of a file.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_synced(partial, written)
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _storable(name: Any, value: Any) -> np.ndarray:
    """A value as the format stores it. Raises: ValueError for what it cannot store."""
    if not isinstance(name, str) or name == "__metadata__":
        raise ValueError(f"{name!r} is no name of a parameter")
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name!r} is masked, and the format keeps no mask; fill it first")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} is no array: {error}") from error
    if array.dtype.name not in DTYPES.values():
        raise ValueError(f"{name!r} has dtype {array.dtype}")
    # The format is little-endian and row-major, and so must the memory be that is handed to it.
    return np.require(array, array.dtype.newbyteorder("<"), "C")


def load_checkpoint(
    path: str | Path,
    leaves: Sequence[Leaf],
    *,
    names: Mapping[str, str] | None = None,
    transposed: Sequence[str] = (),
    new: Sequence[str] = (),
    dtype: DTypeLike | None = None,
) -> dict[str, Array]:
    """The values of a model's parameters from any safetensors file: `{name: array}`.

    `names` maps the model's names to the file's where they differ, and several to one where the
    file ties them; those whose name (in the model) matches a pattern in `transposed` have their
    axes in PyTorch's order in the file; those that match `new` may be missing, or be of another
    shape, and are then left out.
    Shapes: PyTorch's order is outputs, inputs, window: `[o, i]` for a linear layer, `[o, i, h, w]`
    for a convolution, of any number of windows; `[i, o, h, w]` for a transposed one, of
    `nnx.ConvTranspose` by its kind, whose windows PyTorch slides the other way round unless
    `transpose_kernel` is set. Where the model has several axes of outputs or inputs (heads), the
    file may have them as one; gates are never split so, since libraries put them in different
    orders.
    dtypes: as in the file, or `dtype`; float64 needs `jax_enable_x64`, and is float32 without.
    Raises: ValueError for a file that cannot be read or is damaged, and one that lists every
    parameter that is missing, of another shape, or in the file and not in the model.
    """
    stored = arrays_of(Path(path))
    names = dict(names or {})
    loaded: dict[str, Array] = {}
    used: set[str] = set()
    problems: list[str] = []
    unknown = sorted(set(names) - {leaf.name for leaf in leaves})
    if unknown:
        problems.append(f"names for parameters that the model has not: {', '.join(unknown)}")
    for leaf in leaves:
        name = names.get(leaf.name, leaf.name)
        may_differ = _matches_any(leaf.name, new)
        if name not in stored:
            if not may_differ:
                problems.append(f"missing: {name} {leaf.shape}")
            continue
        used.add(name)
        value = stored[name]
        is_transposed = _matches_any(leaf.name, transposed)
        fitting = _from_pytorch(leaf, value) if is_transposed else value
        if fitting is not None and fitting.shape == leaf.shape:
            loaded[leaf.name] = jnp.asarray(fitting, dtype)
        elif not may_differ:
            hint = _hint(leaf, value, is_transposed)
            problems.append(
                f"of another shape: {name} {value.shape}{hint}, the model has {leaf.shape}"
            )
    # What nobody asks for is a problem too: a misspelt name would be initialized and not loaded.
    for name, value in stored.items():
        if name not in used:
            problems.append(f"not in the model: {name} {value.shape}")
    if problems:
        raise ValueError(f"the checkpoint {path} does not fit the model: {'; '.join(problems)}")
    return loaded


def _matches_any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _hint(leaf: Leaf, value: np.ndarray, is_transposed: bool) -> str:
    """What to do about a value that does not fit, where its axes in the other order do."""
    if is_transposed and value.shape == leaf.shape:
        return ", which fits as it is: see `transposed`"
    if not is_transposed and _from_pytorch(leaf, value) is not None:
        return ", whose transpose fits: see `transposed`"
    return ""


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, compared with its digest where it has one. Raises:
    ValueError for a file that cannot be read or is damaged."""
    import json

    from safetensors import SafetensorError, deserialize

    try:
        raw = path.read_bytes()
        entries = deserialize(raw)
        # The library gives no metadata of what it reads from memory. The file starts with the
        # length of its header, in 8 bytes, and the header.
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        digest = header.get("__metadata__", {}).get(DIGEST)
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"the checkpoint {path} cannot be read as safetensors: {error}") from error
    strange = sorted({entry["dtype"] for _, entry in entries} - set(DTYPES))
    if strange:
        raise ValueError(
            f"the checkpoint {path} has dtypes that JAX has not: {', '.join(strange)}; convert it"
        )
    contents: Contents = {}
    for name, entry in entries:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(entry["shape"])
        contents[name] = (dtype, shape, bytes(entry["data"]))
    if digest is not None and digest != _digest(contents):
        raise ValueError(
            f"the checkpoint {path} is damaged: its contents are not what was saved; fetch it again"
        )
    arrays: dict[str, np.ndarray] = {}
    for name, (dtype, shape, data) in contents.items():
        arrays[name] = np.frombuffer(data, jnp.dtype(dtype)).reshape(shape)
    return arrays


def _digest(contents: Contents) -> str:
    """The SHA-256 of names, dtypes, shapes and bytes, whatever their order in the file."""
    digest = hashlib.sha256()
    # Lengths go before what they are of, so that no two contents write the same bytes.
    for name, (dtype, shape, data) in sorted(contents.items()):
        digest.update(f"{len(name)} {name} {dtype} {shape} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


def _from_pytorch(leaf: Leaf, value: np.ndarray) -> np.ndarray | None:
    """A value whose axes are outputs, inputs, window, in the order of the leaf's; None if it does
    not fit."""
    is_backwards = leaf.kind == "conv_transpose"
    order = ("i", "o", "w") if is_backwards else (".o", "i", "w")
    axes: list[int] = []  # the leaf's, in PyTorch's order
    for letters in order:
        for axis, letter in enumerate(leaf.dims):
            if letter in letters:
                axes.append(axis)
    apart = tuple(leaf.shape[axis] for axis in axes)
    window = sizes_of(leaf.shape, leaf.dims, "w")
    first = axis_size(leaf.shape, leaf.dims, order[0])
    second = axis_size(leaf.shape, leaf.dims, order[1])
    is_flat = value.shape == (first, second, *window)
    may_be_flat = leaf.is_kernel and not leaf.gate  # libraries order gates each in its own way
    if value.shape != apart and not (is_flat and may_be_flat):
        return None
    if is_backwards and leaf.dims.endswith("io"):
        # Flax slides the window over the spread input as it stands, PyTorch reversed.
        window_axes = range(value.ndim - len(window), value.ndim)
        value = np.flip(value, tuple(window_axes))
    return value.reshape(apart).transpose(np.argsort(axes))
