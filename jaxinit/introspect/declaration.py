"""Annotate the parameters of a module with axes and roles: what `leaves` reads.

what Flax's layers know, what the caller says -> metadata of every variable
"""

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from flax import nnx

from jaxinit import spec
from jaxinit.introspect.flax_layers import LayerParameter, flax_parameters
from jaxinit.introspect.parameters import (
    GATES,
    LEAF_FIELDS,
    ROLES,
    VECTOR_ROLES,
    Module,
    Part,
    Split,
    variables_of,
)

SplitInto = int | Sequence[str] | Mapping[str, int]
Metadata = dict[str, Any]


def declare(
    model: Module,
    *,
    roles: Mapping[str, str] | None = None,
    n_layers: int | Mapping[str, int] = 0,
    width: int | Mapping[str, int] = 0,
    dims: Mapping[str, str] | None = None,
    split: Mapping[str, SplitInto] | None = None,
    partners: Mapping[str, str] | None = None,
) -> Module:
    """Annotate every parameter of a module with its axes and its role, in place; returns the
    module.

    Flax's own layers are known: Linear, LinearGeneral (`batch_axis` are copies), Einsum (axes from
    its equation), MultiHeadAttention (heads are copies), Embed, Conv (groups are copies),
    ConvTranspose, the normalizations, PReLU, LoRA, LoRALinear, the recurrent cells (gates are
    copies, also where they are stored side by side), and what wraps them. An axis that `nnx.vmap`
    put first is one of copies. What is declared already stays; what is said here goes first.

    Keys are shell patterns on a parameter's path (`"blocks.*.out.kernel"`), or on its layer's,
    which stands for the kernel there (`"*.out"`).

    `roles`: those of `spec.Leaf`; a kernel of whose role nothing is known is `hidden`.
    `dims`: the axes of a stored array, for a bare `nnx.Param`.
    `split`: what a layer computes at once, cut along the first output axis, and the bias as the
    kernel: names of gates (input, forget, cell, output, reset, update, new), or a number, for
    copies of one parameter; other names for parameters of their own, `<path>.<name>`, which have
    that role if it is one, of equal sizes or those of a mapping.
    `n_layers`: the number of blocks; `width`: of units of a hidden layer; each one number, or one a
    pattern.
    `partners`: of a bias or a scale, the role of the kernel whose product it is added to or
    normalizes, which is known in Flax's layers and in what is split; a scale whose partner is the
    query says that the queries beside it are normalized.

    The layer of a parameter is the first number in its path (the place in a list); that of a
    readout, and of a norm or bias beside the blocks, is `n_layers`.
    Raises: ValueError for a pattern that matches no parameter, two of one argument that match the
    same, axes that do not fit, an output axis that cannot be cut so, and a layer that is stacked
    along another axis than the first.
    """
    variables = variables_of(model)
    known_to_flax = flax_parameters(model)
    own_names = {name: name for name in variables}
    chosen_dims = _choose("dims", dims or {}, own_names)
    kernels: set[str] = set()
    for name, variable in variables.items():
        known = known_to_flax.get(id(variable))
        if _is_kernel(variable, known, chosen_dims.get(name)):
            kernels.add(name)
    chosen_split = _choose("split", split or {}, own_names, kernels)
    _split_biases_as_kernels(chosen_split, kernels, variables)
    declared: dict[str, Metadata] = {}
    for name, variable in variables.items():
        known = known_to_flax.get(id(variable))
        declared[name] = _metadata(
            name, variable, known, chosen_dims.get(name), chosen_split.get(name)
        )

    # Only now are the leaves known, which the other arguments speak of.
    stored_in = _stored_in(declared)
    kernel_leaves = {leaf for leaf, name in stored_in.items() if name in kernels}
    chosen_roles = _choose("roles", roles or {}, stored_in, kernel_leaves)
    for leaf, role in chosen_roles.items():
        name = stored_in[leaf]
        part = leaf.removeprefix(f"{name}.")
        _set_role(declared[name], part, role)
    chosen_partners = _choose("partners", partners or {}, stored_in)
    for leaf, role in chosen_partners.items():
        name = stored_in[leaf]
        part = leaf.removeprefix(f"{name}.")
        _set_partner(declared, name, part, role)
    # The layer of a readout is the number of layers, so those come before the places.
    _set_numbers(declared, "n_layers", n_layers, stored_in)
    _set_numbers(declared, "width", width, stored_in)
    _place_layers(declared)

    for name, metadata in declared.items():
        if "dims" in metadata and ("role" in metadata or metadata.get("split")):
            metadata.setdefault("role", "")  # each part has one of its own
            variables[name].set_metadata(**metadata)
    return model


def _choose(
    argument: str,
    patterns: Mapping[str, Any],
    stored_in: Mapping[str, str],
    kernels: Collection[str] = (),
) -> dict[str, Any]:
    """What the patterns of an argument say of every parameter: `{name: value}`.

    `stored_in` has the names of the parameters, each with that of its variable. A pattern matches
    a name, or the path it is stored under, or the path of its layer; of these the kernels alone,
    where `kernels` has some of them. Raises: ValueError as `declare`.
    """
    pattern_of: dict[str, str] = {}
    for pattern in patterns:
        matched = [name for name, path in stored_in.items() if matches(pattern, name, path)]
        if any(name in kernels for name in matched):
            # A layer's name stands for its kernel: the bias has a role of its own.
            matched = [name for name in matched if name in kernels]
        if not matched:
            raise ValueError(
                f"declare: the pattern {pattern!r} of {argument} matches no parameter; they are "
                f"{', '.join(stored_in)}"
            )
        for name in matched:
            if name in pattern_of:
                raise ValueError(
                    f"declare: the patterns {pattern_of[name]!r} and {pattern!r} of {argument} "
                    f"both match parameter {name!r}; make them exclusive"
                )
            pattern_of[name] = pattern
    return {name: patterns[pattern] for name, pattern in pattern_of.items()}


def matches(pattern: str, name: str, path: str) -> bool:
    layer = path.rpartition(".")[0]
    names = [text for text in (name, path, layer) if text]  # the outermost module has none
    return any(fnmatchcase(text, pattern) for text in names)


def _is_kernel(variable: nnx.Variable, known: LayerParameter | None, dims: str | None) -> bool:
    own_dims = variable.get_metadata().get("dims")
    layer_dims = known.dims if known else ""
    return spec.is_kernel(dims or own_dims or layer_dims)


def _split_biases_as_kernels(
    chosen: dict[str, SplitInto], kernels: Collection[str], variables: Collection[str]
) -> None:
    """The bias of a layer is cut as its kernel, unless it has been said how."""
    for name, into in list(chosen.items()):
        bias = _beside(name, "bias")
        if name in kernels and bias in variables:
            chosen.setdefault(bias, into)


def _beside(name: str, attribute: str) -> str:
    """The name of another parameter of the same layer."""
    *layer, _ = name.split(".")
    return ".".join([*layer, attribute])


def _stored_in(declared: Mapping[str, Metadata]) -> dict[str, str]:
    """The name of every leaf, with that of the variable that stores it."""
    stored_in: dict[str, str] = {}
    for name, metadata in declared.items():
        split: Split | None = metadata.get("split")
        if split is not None and split.parts:
            for part in split.parts:
                stored_in[f"{name}.{part.name}"] = name
        else:
            stored_in[name] = name
    return stored_in


def _metadata(
    name: str,
    variable: nnx.Variable,
    known: LayerParameter | None,
    dims: str | None,
    into: SplitInto | None,
) -> Metadata:
    """The metadata of one parameter, from what it says itself, its layer, and what the caller says
    of it."""
    shape = tuple(variable.get_value().shape)
    own: Metadata = {}
    for key, value in variable.get_metadata().items():
        if key in (*LEAF_FIELDS, "split"):
            own[key] = value
    if "dims" in own and dims is None and into is None:
        return own
    declared_split: Split | None = own.get("split")
    if "dims" in own and declared_split is not None and declared_split.copies:
        # The leaf's first axis is one of copies, which what is stored does not have.
        own["dims"] = own["dims"][1:]
    metadata: Metadata = {}
    if known is not None:
        metadata = {**known.place, "role": known.role, "role_assumed": known.role_assumed}
        axes = dims or _stacked_dims(name, shape, known)
    else:
        axes = dims or own.get("dims")
    if axes is None:
        return own
    spec.check_dims(axes, shape, f"declare: parameter {name!r}")
    for key, value in own.items():  # what the variable says of itself goes before its layer
        if key not in ("dims", "split"):
            metadata[key] = value
    metadata["dims"] = axes
    if "role" not in metadata:
        attribute = name.rpartition(".")[2]
        if spec.is_kernel(axes):
            metadata |= {"role": "hidden", "role_assumed": True}
        elif attribute in VECTOR_ROLES:
            metadata["role"] = attribute
    if into is None and dims is None:
        into = _own_split(known)
    elif into is not None and known is not None and known.groups > 1:
        raise ValueError(
            f"declare: parameter {name!r} is of a convolution of {known.groups} groups, which are "
            "copies already; split= cannot cut it further"
        )
    if into is None:
        return metadata
    return _split(name, shape, metadata, into)


def _own_split(known: LayerParameter | None) -> SplitInto | None:
    """The copies that a layer of Flax stores as one array: gates, or groups."""
    if known is None:
        return None
    if known.gate:
        return known.gate
    if known.groups > 1:
        return known.groups
    return None


def _stacked_dims(name: str, shape: tuple[int, ...], known: LayerParameter) -> str:
    """The axes of a parameter of a layer, with those in front that `nnx.vmap` gave it."""
    added = len(shape) - len(known.dims)
    if added < 0 or (added and shape[added:] != known.shape):
        raise ValueError(
            f"declare: parameter {name!r} has the shape {shape} where its layer makes "
            f"{known.shape}; stack layers along the first axis (nnx.vmap with out_axes=0), or say "
            f"declare(model, dims={{{name!r}: ...}})"
        )
    return "." * added + known.dims


def _split(name: str, shape: tuple[int, ...], metadata: Metadata, into: SplitInto) -> Metadata:
    """The metadata of a parameter that is cut along its first output axis."""
    dims = metadata["dims"]
    if isinstance(into, str):
        raise ValueError(
            f"declare: split takes a number, or the names of the parts, as ({into!r}, ...); got "
            f"{into!r}"
        )
    if "o" not in dims:
        raise ValueError(
            f"declare: parameter {name!r} has no output axis to split, its axes are {dims!r}"
        )
    axis = dims.index("o")
    sizes = _sizes(name, shape[axis], into)
    parts = () if isinstance(into, int) else tuple(into)
    names_gates = set(parts) <= set(GATES) and not isinstance(into, Mapping)
    if isinstance(into, int) or names_gates:
        split = Split(axis, copies=len(sizes))
        return metadata | {"dims": "." + dims, "gate": parts, "split": split}
    is_kernel = spec.is_kernel(dims)
    role, role_assumed = metadata.get("role", ""), metadata.get("role_assumed", False)
    declared: list[Part] = []
    for part, size in zip(parts, sizes, strict=True):
        if is_kernel and part in ROLES:  # a part that is called as a role has said it
            declared.append(Part(part, part, size))
        else:
            declared.append(Part(part, role, size, role_assumed))
    return metadata | {"split": Split(axis, parts=tuple(declared))}


def _sizes(name: str, size: int, into: SplitInto) -> list[int]:
    """The sizes of the copies or parts that `size` outputs are cut into.

    Raises: ValueError where they do not add up."""
    if isinstance(into, Mapping):
        sizes = [int(part_size) for part_size in into.values()]
    else:
        count = into if isinstance(into, int) else len(into)
        sizes = [size // max(count, 1)] * count
    if not sizes or sum(sizes) != size or min(sizes) < 1:
        given = dict(into) if isinstance(into, Mapping) else into
        raise ValueError(
            f"declare: parameter {name!r} has {size} outputs, which split={given!r} does not "
            "divide; give a number of equal copies, names of equal parts, or the size of every "
            "part, {name: size}"
        )
    return sizes


def _set_role(metadata: Metadata, part: str, role: str) -> None:
    """Give a parameter, or the part of it that is called so, its role."""
    known = (*ROLES, *VECTOR_ROLES)
    near = get_close_matches(role, known, 1, cutoff=0.7)
    if role not in known and near:
        raise ValueError(
            f"declare: no role is called {role!r}, and {near[0]!r} is near; the roles are "
            f"{', '.join(known)}; one of your own, for a scheme of your own, needs a name unlike "
            "these"
        )
    if _has_parts(metadata):
        _replace_part(metadata, part, role=role, role_assumed=False)
        metadata.setdefault("role", role)
    else:
        metadata |= {"role": role, "role_assumed": False}


def _set_partner(declared: dict[str, Metadata], name: str, part: str, role: str) -> None:
    """Give a bias or a scale, or the part of it that is called so, its partner."""
    metadata = declared[name]
    if role not in ROLES or metadata.get("role") not in VECTOR_ROLES:
        raise ValueError(
            f"declare: partners={{{name!r}: {role!r}}}: takes a bias or a scale and the role of a "
            f"kernel, one of {', '.join(ROLES)}; {name!r} has the role "
            f"{metadata.get('role') or 'none'!r}"
        )
    if _has_parts(metadata):
        _replace_part(metadata, part, partner=role)
    else:
        metadata["partner"] = role
    if metadata["role"] == "scale":
        norm = name.rpartition(".")[0]
        parent = norm.rpartition(".")[0]  # the module that the norm stands in
        prefix = f"{parent}." if parent else ""
        for other_name, other in declared.items():
            if other.get("role") == role and other_name.startswith(prefix):
                other["normalized"] = True


def _has_parts(metadata: Metadata) -> bool:
    split: Split | None = metadata.get("split")
    return split is not None and bool(split.parts)


def _replace_part(metadata: Metadata, name: str, **fields: Any) -> None:
    """Replace these fields of one part of what is stored as one array."""
    split: Split = metadata["split"]
    parts: list[Part] = []
    for part in split.parts:
        if part.name == name:
            part = part._replace(**fields)
        parts.append(part)
    metadata["split"] = split._replace(parts=tuple(parts))


def _set_numbers(
    declared: dict[str, Metadata],
    field: str,
    numbers: int | Mapping[str, int],
    stored_in: Mapping[str, str],
) -> None:
    """Give parameters a number: one for all of them, or one a pattern; 0 says nothing."""
    if isinstance(numbers, int):
        chosen = dict.fromkeys(stored_in, numbers)
    else:
        chosen = _choose(field, numbers, stored_in)
    for leaf, number in chosen.items():
        if number:
            declared[stored_in[leaf]][field] = number


def _place_layers(declared: dict[str, Metadata]) -> None:
    """Number the layers by the lists they stand in; the readout, with its bias, comes after all
    others."""
    has_lists = any(_numbers(name) for name in declared)
    for name, metadata in declared.items():
        kernel = declared.get(_beside(name, "kernel"), {})
        _pair_parts(metadata, kernel)
        role = metadata.get("role")
        if role == "bias" and "role" in kernel:
            metadata.setdefault("partner", kernel["role"])
        is_readouts_bias = role == "bias" and metadata.get("partner") == "readout"
        numbers = _numbers(name)
        if role == "readout" or is_readouts_bias:
            # Layers count from 0, so that their number is one that none of the blocks has.
            metadata["layer"] = metadata.get("n_layers", 0)
            if is_readouts_bias:
                metadata["kind"] = metadata.get("kind") or "readout"
        elif numbers:
            # The first, of lists in lists: it is the outer one whose places are blocks.
            metadata.setdefault("layer", numbers[0])
        elif has_lists and role in ("scale", "bias") and not _is_stacked(metadata):
            # Of no block: before the first or after the last.
            metadata.setdefault("layer", metadata.get("n_layers", 0))


def _numbers(name: str) -> list[int]:
    return [int(part) for part in name.split(".") if part.isdigit()]


def _is_stacked(metadata: Metadata) -> bool:
    return metadata.get("dims", "").startswith(".")


def _pair_parts(metadata: Metadata, kernel: Metadata) -> None:
    """Give the parts of a bias the roles of the kernel's parts of the same names as partners."""
    split: Split | None = metadata.get("split")
    kernel_split: Split | None = kernel.get("split")
    if metadata.get("role") != "bias" or split is None or kernel_split is None:
        return
    roles = {part.name: part.role for part in kernel_split.parts}
    parts: list[Part] = []
    for part in split.parts:
        partner = part.partner or roles.get(part.name, "")
        parts.append(part._replace(partner=partner))
    metadata["split"] = split._replace(parts=tuple(parts))
