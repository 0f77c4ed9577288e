"""From a Flax NNX module to leaves and back: the border between modules and plain dictionaries of
arrays.

    module -> leaves, apply (evaluation), learn (training: dropout, running statistics)

Parameters say what they are in their own metadata (`param`, or `declare` for layers of Flax); a
parameter's name is its path in the module. A stored array that fuses several matrices is one leaf
with an axis of copies, or several leaves (`Split`): what is drawn, trained and saved has the shapes
of the leaves, and the module gets the array it stores.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Key

from jaxinit import spec
from jaxinit.spec import Initializer, Leaf, Scheme

Module = TypeVar("Module", bound=nnx.Module)
Params = dict[str, Array]
Apply = Callable[[Params, Array], Array]


class Frozen(nnx.Variable):
    """A value that a module needs and that training leaves alone: the weights of a pre-trained
    base."""


class Training(NamedTuple):
    """What a module needs to know of a training step: its noise. None in its place means
    evaluation.

    `key` is the step's own, None for no noise; `dropout` the probability that a unit is dropped,
    which may be traced."""

    key: Key[Array, ""] | None = None
    dropout: float | Array | np.ndarray = 0.0


# (params, running statistics, x, training) -> (y, running statistics after)
Learn = Callable[[Params, Params, Array, Training], tuple[Array, Params]]


class Functional(NamedTuple):
    """A module as pure functions; `params` is `{name: array}` as `spec.draw` returns it.

    `apply(params, x)` evaluates, as after `module.eval()`: no noise, normalization by the running
    statistics `params` holds under their names, or by those of the start. `learn(params, running,
    x, training)` is a training step's forward pass, as after `module.train()`: normalization by the
    batch, and noise from the step's key alone; without one no noise. `running` holds the running
    statistics, and what else changes with training and is no parameter, at the start; most modules
    have none. `filled(params)` is the module itself with those parameters, in evaluation, for what
    only it can do. `noisy`: whether the module draws noise of its own (`nnx.Dropout`), and training
    needs a key."""

    leaves: tuple[Leaf, ...]
    apply: Apply
    learn: Learn
    running: Params
    filled: Callable[[Params], Any]
    noisy: bool = False

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
    partner: str
    normalized: bool


def param(shape: tuple[int, ...], dims: str, role: str, **place: Unpack[Place]) -> nnx.Param:
    """A float32 parameter that declares its leaf, zero until it is drawn. Arguments as in
    `spec.Leaf`."""
    spec.check_dims(dims, shape, f"a {role} parameter")
    meta: dict[str, Any] = {"dims": dims, "role": role, **place}
    return nnx.Param(jnp.zeros(shape, jnp.float32), **meta)


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


class _Known(NamedTuple):
    """What is known of one parameter of a layer: the axes and sizes that the layer gives it, and
    what it is there."""

    dims: str
    shape: tuple[int, ...]
    role: str
    place: Place
    gate: tuple[str, ...] = ()  # of fused gates, or the one gate whose parameter it is
    groups: int = 1
    role_assumed: bool = False


SplitInto = int | Sequence[str] | Mapping[str, int]


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
    """Say of every parameter of a module what it is, in place; returns the module.

    Flax's own layers are known: Linear, LinearGeneral (`batch_axis` are copies), Einsum (axes from
    its equation), MultiHeadAttention (heads are copies), Embed, Conv (groups are copies),
    ConvTranspose, the normalizations, PReLU, LoRA, LoRALinear, the recurrent cells (gates are
    copies, also where they are stored side by side), and what wraps them. An axis that `nnx.vmap`
    put first is one of copies. What is declared already stays; what is said here goes first.

    Keys are shell patterns on a parameter's path (`"blocks.*.out.kernel"`), or on its layer's,
    which stands for the kernel there (`"*.out"`). `roles`: those of `spec.Leaf`; a kernel of whose
    role nothing is known is `hidden`.
    `dims`: the axes of a stored array, for a bare `nnx.Param`. `split`: what a layer computes at
    once, cut along the first output axis, and the bias as the kernel: names of gates (input,
    forget, cell, output, reset, update, new), or a number, for copies of one parameter; other names
    for parameters of their own, `<path>.<name>`, which have that role if it is one, of equal sizes
    or those of a mapping. `n_layers`: the number of blocks; `width`: of units of a hidden layer;
    each one number, or one a pattern. `partners`: of a bias or a scale, the role of the kernel
    whose product it is added to or normalizes, which is known in Flax's layers and in what is
    split; a scale whose partner is the query says that the queries beside it are normalized. The
    layer of a parameter is the first number in its path (the place in a list); that of a readout,
    and of a norm or bias beside the blocks, is `n_layers`.
    Raises: ValueError for a pattern that matches no parameter, two of one argument that match the
    same, axes that do not fit, an output axis that cannot be cut so, and a layer that is stacked
    along another axis than the first.
    """
    variables = _params(model)
    layers = _flax_layers(model)
    names: dict[str, list[str]] = {}  # of the leaves of each variable, once they are known
    chosen_dims = _chosen("dims", dims or {}, variables, variables, kernels=None)
    kernels = {
        name
        for name, v in variables.items()
        if _is_kernel(v, layers.get(id(v)), chosen_dims.get(name))
    }
    chosen_split = _chosen("split", split or {}, variables, variables, kernels)
    for name, into in list(chosen_split.items()):  # the bias of a layer is cut as its kernel
        bias = ".".join([*name.split(".")[:-1], "bias"])
        if name in kernels and bias in variables:
            chosen_split.setdefault(bias, into)
    metas: dict[str, dict[str, Any]] = {}
    for name, variable in variables.items():
        meta = _meta(
            name, variable, layers.get(id(variable)), chosen_dims.get(name), chosen_split.get(name)
        )
        metas[name] = meta
        parts = meta["split"].parts if meta.get("split") else ()
        names[name] = [f"{name}.{part.name}" for part in parts] or [name]
    stored = {leaf: name for name, its in names.items() for leaf in its}
    all_kernels = {leaf for leaf, name in stored.items() if name in kernels}
    for leaf, role in _chosen("roles", roles or {}, stored, variables, all_kernels).items():
        _say_role(metas[stored[leaf]], leaf.removeprefix(f"{stored[leaf]}."), role)
    for leaf, role in _chosen("partners", partners or {}, stored, variables, kernels=None).items():
        _say_partner(metas, stored[leaf], leaf.removeprefix(f"{stored[leaf]}."), role)
    for field, values in (("n_layers", n_layers), ("width", width)):
        if isinstance(values, int):
            of_leaf = dict.fromkeys(stored, values)
        else:
            of_leaf = _chosen(field, values, stored, variables, kernels=None)
        for leaf, value in of_leaf.items():
            if value:
                metas[stored[leaf]][field] = value
    _place_layers(metas)
    for name, meta in metas.items():
        if "dims" in meta and ("role" in meta or meta.get("split")):
            meta.setdefault("role", "")  # each part has one of its own
            variables[name].set_metadata(**meta)
    return model


def _chosen(
    argument: str,
    patterns: Mapping[str, Any],
    stored: Mapping[str, Any],
    variables: Mapping[str, Any],
    kernels: set[str] | None,
) -> dict[str, Any]:
    """What the patterns of an argument say of every parameter: `{name: value}`.

    A pattern matches a name, or the path it is stored under, or the path of its layer; of these the
    kernels alone, where there are some among them and `kernels` is given. Raises: ValueError as
    `declare`.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        hits = [
            name
            for name in stored
            if _hits(pattern, name, stored[name] if name not in variables else name)
        ]
        if kernels is not None and any(name in kernels for name in hits):
            hits = [name for name in hits if name in kernels]
        if not hits:
            raise ValueError(
                f"declare: the pattern {pattern!r} of {argument} matches no parameter; they are "
                f"{', '.join(stored)}"
            )
        for name in hits:
            if name in found:
                raise ValueError(
                    f"declare: the patterns {found[name]!r} and {pattern!r} of {argument} both "
                    f"match parameter {name!r}; make them exclusive"
                )
            found[name] = pattern
    return {name: patterns[pattern] for name, pattern in found.items()}


def _hits(pattern: str, name: str, path: str) -> bool:
    layer = path.rpartition(".")[0]
    return any(fnmatchcase(text, pattern) for text in (name, path, layer) if text)


def _is_kernel(variable: nnx.Variable, known: _Known | None, dims: str | None) -> bool:
    own = variable.get_metadata().get("dims")
    return spec.is_kernel(dims or own or (known.dims if known else ""))


def _meta(
    name: str,
    variable: nnx.Variable,
    known: _Known | None,
    dims: str | None,
    into: SplitInto | None,
) -> dict[str, Any]:
    """The metadata of one parameter, from what it says itself, its layer, and what the caller says
    of it."""
    shape = tuple(variable.get_value().shape)
    own = {
        key: value
        for key, value in variable.get_metadata().items()
        if key in (*LEAF_FIELDS, "split")
    }
    if "dims" in own and dims is None and into is None:
        return own
    declared: Split | None = own.get("split")
    if "dims" in own and declared is not None and declared.copies:
        own["dims"] = own["dims"][1:]  # of what is stored
    meta: dict[str, Any] = {}
    if known is not None:
        meta = {**known.place, "role": known.role, "role_assumed": known.role_assumed}
        axes = dims or _stacked(name, shape, known)
    else:
        axes = dims or own.get("dims")
    if axes is None:
        return own
    spec.check_dims(axes, shape, f"declare: parameter {name!r}")
    meta |= {key: value for key, value in own.items() if key not in ("dims", "split")} | {
        "dims": axes
    }
    if "role" not in meta:
        last = name.rpartition(".")[2]
        if spec.is_kernel(axes):
            meta |= {"role": "hidden", "role_assumed": True}
        elif last in VECTOR_ROLES:
            meta["role"] = last
    if into is not None and known is not None and known.groups > 1:
        raise ValueError(
            f"declare: parameter {name!r} is of a convolution of {known.groups} groups, which are "
            "copies already; split= cannot cut it further"
        )
    if into is None and known is not None and dims is None:
        if known.gate:
            into = known.gate
        elif known.groups > 1:
            into = known.groups
    return meta if into is None else _cut(name, shape, meta, into)


def _stacked(name: str, shape: tuple[int, ...], known: _Known) -> str:
    """The axes of a parameter of a layer, with those in front that `nnx.vmap` gave it."""
    more = len(shape) - len(known.dims)
    if more < 0 or (more and shape[more:] != known.shape):
        raise ValueError(
            f"declare: parameter {name!r} has the shape {shape} where its layer makes "
            f"{known.shape}; stack layers along the first axis (nnx.vmap with out_axes=0), or say "
            f"declare(model, dims={{{name!r}: ...}})"
        )
    return "." * more + known.dims


def _cut(
    name: str, shape: tuple[int, ...], meta: dict[str, Any], into: SplitInto
) -> dict[str, Any]:
    """The metadata of a parameter that is cut along its first output axis."""
    dims = meta["dims"]
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
    size = shape[axis]
    names = () if isinstance(into, int) else tuple(into)
    count = into if isinstance(into, int) else len(names)
    equal = [size // max(count, 1)] * count
    sizes = [int(of) for of in into.values()] if isinstance(into, Mapping) else equal
    if count < 1 or sum(sizes) != size or min(sizes) < 1:
        told = dict(into) if isinstance(into, Mapping) else into
        raise ValueError(
            f"declare: parameter {name!r} has {size} outputs, which split={told!r} does not "
            "divide; give a number of equal copies, names of equal parts, or the size of every "
            "part, {name: size}"
        )
    if isinstance(into, int) or (set(names) <= set(GATES) and not isinstance(into, Mapping)):
        return meta | {"dims": "." + dims, "gate": names, "split": Split(axis, copies=count)}
    kernel = spec.is_kernel(dims)
    parts = []
    for part, outputs in zip(names, sizes, strict=True):
        if kernel and part in ROLES:
            parts.append(Part(part, part, outputs))
        else:
            parts.append(Part(part, meta.get("role", ""), outputs, meta.get("role_assumed", False)))
    return meta | {"split": Split(axis, parts=tuple(parts))}


def _say_role(meta: dict[str, Any], part: str, role: str) -> None:
    """Give a parameter, or the part of it that is called so, its role."""
    known = (*ROLES, *VECTOR_ROLES)
    if role not in known and (near := get_close_matches(role, known, 1, cutoff=0.7)):
        raise ValueError(
            f"declare: no role is called {role!r}, and {near[0]!r} is near; the roles are "
            f"{', '.join(known)}; one of your own, for a scheme of your own, needs a name unlike "
            "these"
        )
    split: Split | None = meta.get("split")
    if split is not None and split.parts:
        said = [
            of._replace(role=role, role_assumed=False) if of.name == part else of
            for of in split.parts
        ]
        meta["split"] = split._replace(parts=tuple(said))
        meta.setdefault("role", role)
    else:
        meta |= {"role": role, "role_assumed": False}


def _say_partner(metas: dict[str, dict[str, Any]], name: str, part: str, role: str) -> None:
    """Give a bias or a scale, or the part of it that is called so, its partner."""
    meta = metas[name]
    if role not in ROLES or meta.get("role") not in VECTOR_ROLES:
        raise ValueError(
            f"declare: partners={{{name!r}: {role!r}}}: takes a bias or a scale and the role of a "
            f"kernel, one of {', '.join(ROLES)}; {name!r} has the role "
            f"{meta.get('role') or 'none'!r}"
        )
    split: Split | None = meta.get("split")
    if split is not None and split.parts:
        said = [of._replace(partner=role) if of.name == part else of for of in split.parts]
        meta["split"] = split._replace(parts=tuple(said))
    else:
        meta["partner"] = role
    if meta["role"] == "scale":
        layers = name.rpartition(".")[0].rpartition(".")[0]  # the module that the norm stands in
        for other, kernel in metas.items():
            if kernel.get("role") == role and other.startswith(f"{layers}." if layers else ""):
                kernel["normalized"] = True


def _place_layers(metas: dict[str, dict[str, Any]]) -> None:
    """Number the layers by the lists they stand in; the readout, with its bias, comes after all
    others."""
    in_lists = {name for name in metas if any(part.isdigit() for part in name.split("."))}
    stacked = {name for name, meta in metas.items() if meta.get("dims", "").startswith(".")}
    for name, meta in metas.items():
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        kernel = metas.get(".".join([*name.split(".")[:-1], "kernel"]), {})
        _pair_parts(meta, kernel)
        if meta.get("role") == "bias" and "role" in kernel:
            meta.setdefault("partner", kernel["role"])
        if "readout" in (meta.get("role"), meta.get("partner")) and meta["role"] in (
            "readout",
            "bias",
        ):
            meta["layer"] = meta.get("n_layers", 0)
            if meta["role"] == "bias":
                meta["kind"] = meta.get("kind") or "readout"
        elif numbers:
            meta.setdefault("layer", numbers[0])
        elif in_lists and name not in stacked and meta.get("role") in ("scale", "bias"):
            meta.setdefault(
                "layer", meta.get("n_layers", 0)
            )  # of no block: before the first or after the last


def _pair_parts(meta: dict[str, Any], kernel: dict[str, Any]) -> None:
    """Give the parts of a bias the roles of the kernel's parts of the same names as partners."""
    cut, cut_kernel = meta.get("split"), kernel.get("split")
    if meta.get("role") != "bias" or cut is None or cut_kernel is None:
        return
    roles = {part.name: part.role for part in cut_kernel.parts}
    paired = [part._replace(partner=part.partner or roles.get(part.name, "")) for part in cut.parts]
    meta["split"] = cut._replace(parts=tuple(paired))


def _flax_layers(model: nnx.Module) -> dict[int, _Known]:
    """What is known of the parameters of Flax's own layers, by the identity of the variable."""
    inside: dict[
        int, tuple[str, Place, tuple[str, ...]]
    ] = {}  # role, place and gates of the layers of larger ones
    for _, module in nnx.iter_modules(model):
        for layer, role, place, gate in _parts_of(module):
            inside[id(layer)] = role, place, gate
    found: dict[int, _Known] = {}
    for _, module in nnx.iter_modules(model):
        role, place, gate = inside.get(id(module), ("hidden", Place(), ()))
        for name, known in _own(module, role).items():
            variable = getattr(module, name, None)
            if not isinstance(variable, nnx.Param):
                continue
            inputs = known.place.get("inputs", 0)
            whole: Place = {**known.place, **place, "inputs": place.get("inputs") or inputs}
            assumed = known.role == "hidden" and id(module) not in inside
            found.setdefault(
                id(variable), known._replace(place=whole, gate=gate, role_assumed=assumed)
            )
        if isinstance(
            module, nnx.WeightNorm
        ):  # its scales, where it has any: parameters since Flax 0.12.10
            for variable in (module.scales or {}).values():
                if isinstance(variable, nnx.Param):
                    shape = tuple(variable.get_value().shape)
                    found[id(variable)] = _Known(
                        "o" * len(shape), shape, "scale", Place(kind="norm")
                    )
    return found


def _parts_of(module: nnx.Module) -> list[tuple[nnx.Module, str, Place, tuple[str, ...]]]:
    """The layers that a larger one is made of: each with its role, its place and its gates."""
    if isinstance(module, nnx.MultiHeadAttention):
        parts = (("query", "query"), ("key", "key"), ("value", "value"), ("out", "attention_out"))
        layers = []
        for name, role in parts:
            norm = getattr(module, f"{name}_ln", None)
            place = Place(kind="attention", normalized=norm is not None)
            layers.append((getattr(module, name), role, place, ()))
            if norm is not None:
                layers.append((norm, "scale", Place(kind="norm", partner=role), ()))
        return layers
    if isinstance(module, nnx.LSTMCell):
        place = Place(kind="lstm", inputs=module.in_features)
        gates = dict(zip("ifgo", GATES[:4], strict=True))
        made = []
        for letter, gate in gates.items():
            into: Any = getattr(module, "if_" if letter == "f" else f"i{letter}")
            made.append((into, "input", place, (gate,)))
            made.append((getattr(module, f"h{letter}"), "recurrent", place, (gate,)))
        return made
    for cell, kind, gate in (
        (nnx.OptimizedLSTMCell, "lstm", ("input", "forget", "cell", "output")),
        (nnx.GRUCell, "gru", ("reset", "update", "new")),
        (nnx.SimpleCell, "rnn", ()),
    ):
        if isinstance(module, cell):
            place = Place(kind=kind, inputs=module.in_features)
            return [
                (module.dense_i, "input", place, gate),
                (module.dense_h, "recurrent", place, gate),
            ]
    return []


def _own(module: nnx.Module, role: str) -> dict[str, _Known]:
    """The parameters that a layer of Flax holds itself, by attribute."""
    if isinstance(module, nnx.Linear):
        sizes = module.in_features, module.out_features
        return _layer("io", sizes, "o", sizes[1:], role, sizes[0])
    if isinstance(module, nnx.LinearGeneral):
        batch, inputs, outputs = (
            tuple(module.batch_axis.values()),
            module.in_features,
            module.out_features,
        )
        out = ".o" if role in ("query", "key", "value") else "o" * len(outputs)
        copies = "." * len(batch)
        dims = copies + "i" * len(inputs) + out
        return _layer(
            dims,
            (*batch, *inputs, *outputs),
            copies + out,
            (*batch, *outputs),
            role,
            math.prod(inputs),
        )
    if isinstance(module, nnx.Einsum) and module.einsum_str is not None:
        bias = None if module.bias_shape is None else tuple(module.bias_shape)
        return _einsum(module.einsum_str, tuple(module.kernel_shape), bias, role)
    if isinstance(module, nnx.Conv):
        return _convolution(module, "io", module.feature_group_count, role)
    if isinstance(module, nnx.ConvTranspose):
        return _convolution(module, "oi" if module.transpose_kernel else "io", 1, role)
    if isinstance(module, nnx.Embed):
        return {
            "embedding": _Known(
                "io", (module.num_embeddings, module.features), "embedding", Place()
            )
        }
    if isinstance(module, nnx.PReLU):
        return {"negative_slope": _Known("", (), "slope", Place())}
    if isinstance(module, nnx.LoRA):
        rank = module.lora_a.get_value().shape[-1]
        a, b = (module.in_features, rank), (rank, module.out_features)
        return {
            "lora_a": _Known("io", a, "lora_a", Place()),
            "lora_b": _Known("io", b, "lora_b", Place()),
        }
    if isinstance(module, NORMALIZATIONS):
        found: dict[str, _Known] = {}
        for name in ("scale", "bias"):
            variable = getattr(module, name, None)
            if isinstance(variable, nnx.Param):
                shape = variable.get_value().shape
                features = getattr(module, "num_features", shape[-1])
                own = (
                    1 if shape[-1:] == (features,) else len(shape)
                )  # more axes in front are stacked layers
                place = Place(kind="norm", inputs=features)
                found[name] = _Known("o" * own, shape[len(shape) - own :], name, place)
        return found
    return {}


NORMALIZATIONS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm)


def _layer(
    dims: str,
    shape: tuple[int, ...],
    bias_dims: str,
    bias_shape: tuple[int, ...],
    role: str,
    inputs: int,
) -> dict[str, _Known]:
    place = Place(inputs=inputs)
    return {
        "kernel": _Known(dims, shape, role, place),
        "bias": _Known(bias_dims, bias_shape, "bias", place),
    }


def _convolution(
    module: nnx.Conv | nnx.ConvTranspose, ends: str, groups: int, role: str
) -> dict[str, _Known]:
    shape, window = tuple(module.kernel_shape), len(module.kernel_size)
    dims = "w" * window + ends
    found = _layer(
        dims, shape, "o", (module.out_features,), role, spec.axis_size(shape, dims, "iw")
    )
    kernel = found["kernel"]._replace(groups=groups)
    if isinstance(module, nnx.ConvTranspose):
        kernel = kernel._replace(place={**kernel.place, "kind": "conv_transpose"})
    return found | {"kernel": kernel}


def _einsum(
    equation: str, shape: tuple[int, ...], bias: tuple[int, ...] | None, role: str
) -> dict[str, _Known]:
    """The axes of a kernel from its equation: summed over is input, met on both sides of the
    arrow's data is a copy."""
    operands, result = equation.replace(" ", "").split("->")
    data, kernel = operands.split(",")
    if "." in kernel:
        return {}
    letters = {
        letter: "i" if letter not in result else "." if letter in data else "o" for letter in kernel
    }
    dims = "".join(letters[letter] for letter in kernel)
    outputs = "".join(letters[letter] for letter in result if letter in letters)
    found = _layer(dims, shape, outputs, bias or (), role, spec.axis_size(shape, dims, "i"))
    if bias is not None and len(bias) != len(outputs):
        found["bias"] = found["bias"]._replace(dims="o" * len(bias))
    return found


def leaves(model: nnx.Module) -> tuple[Leaf, ...]:
    """The leaves of a module's parameters, in the order of their names.

    Works on a module of shapes as well (`nnx.eval_shape`), so that nothing need be allocated.
    Raises: ValueError for a parameter that declares no dims and role, with its name.
    """
    found: list[Leaf] = []
    for name, variable in _params(model).items():
        found += _leaves(name, variable)
    return tuple(found)


def initialize(model: Module, scheme: Scheme | Initializer, key: Key[Array, ""]) -> Module:
    """A copy of `model` whose parameters are drawn under `scheme`; `model` itself is not changed.

    Raises: ValueError as `spec.draw` does, and when the scheme has a multiplier other than 1: an
    array cannot carry it, `jaxinit.run` can.
    """
    declared = leaves(model)
    scaled = [name for name, rule in spec.rules(scheme, declared).items() if rule.multiplier != 1.0]
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
    variables = _params(model)
    drawn = spec.draw(scheme, key, leaves(model))
    for name, variable in variables.items():
        variable.set_value(joined(name, variable, drawn).astype(variable.get_value().dtype))


def values(model: nnx.Module) -> dict[str, Array]:
    """The parameters of a module as they are: `{name: array}`, in the shapes of its leaves."""
    found: dict[str, Array] = {}
    for name, variable in _params(model).items():
        found |= cut(name, variable, jnp.asarray(variable.get_value()))
    return found


def cut(name: str, variable: nnx.Variable, stored: Array) -> dict[str, Array]:
    """What a variable stores, as the arrays of its leaves: `{name: array}`."""
    split: Split | None = variable.get_metadata().get("split")
    if split is None:
        return {name: stored}
    axis = split.axis
    if split.copies:
        apart = stored.reshape(*stored.shape[:axis], split.copies, -1, *stored.shape[axis + 1 :])
        return {name: jnp.moveaxis(apart, axis, 0)}
    ends = np.cumsum([part.size for part in split.parts])[:-1].tolist()
    pieces = jnp.split(stored, ends, axis)
    return {f"{name}.{part.name}": piece for part, piece in zip(split.parts, pieces, strict=True)}


def joined(name: str, variable: nnx.Variable, values: Mapping[str, Array]) -> Array:
    """The array that a variable stores, from those of its leaves: the inverse of `cut`."""
    split: Split | None = variable.get_metadata().get("split")
    if split is None:
        return values[name]
    if split.copies:
        return jnp.moveaxis(values[name], 0, split.axis).reshape(variable.get_value().shape)
    return jnp.concatenate([values[f"{name}.{part.name}"] for part in split.parts], split.axis)


# Arguments by which a module is told its mode at every call, and what they are in training.
FLAGS = {
    "training": True,
    "train": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
WITHOUT_VALUE = (Tracer, jax.ShapeDtypeStruct)  # what a plain array is in a module of shapes


def functional(make: Callable[[], nnx.Module]) -> Functional:
    """The module that `make` builds, as leaves and pure functions; its parameters are not
    allocated.

    A module of ours has a second argument, `training`, if it takes noise; any other is put into
    evaluation or training by `eval()` and `train()`, on a copy, and by an argument of its call that
    says so: `train`, `is_training` or a bool `training` (True in training), `deterministic` or
    `use_running_average` (False in training). Running statistics (`nnx.BatchStat`) and variables of
    a type of the caller's are carried from step to step. Random state (`nnx.RngState`) is none: in
    training each stream starts from the step's key and the stream's name, else from where `make`
    put it. What is `Frozen`, or a plain array, is a constant; a module that has some is built once.
    dtypes: a parameter that the module keeps in another type than float32 is cast to that type when
    it is used.
    Raises: ValueError for a module with state of Flax's that cannot be carried (`nnx.Cache`,
    `nnx.Intermediate`, `nnx.Perturbation`), with dropout that has no random state, or with an array
    that an earlier trace left behind; when evaluated, for a `BatchNorm` or a `Dropout` that an
    argument inside the module puts into training all the same.
    """
    one: Any = nnx.eval_shape(make)
    declared, state = leaves(one), nnx.to_flat_state(nnx.state(one))
    _check_state(state)
    running, constants, plain, streams = {}, {}, {}, []
    if any(not isinstance(variable, nnx.Param) for _, variable in state) or _traced(
        one, WITHOUT_VALUE
    ):
        one = nnx.merge(
            *nnx.split(make())
        )  # a start is a value, not a shape; eval() leaves the caller's module alone
        _check_constants(one)
        built = nnx.state(one)
        state = nnx.to_flat_state(jax.eval_shape(lambda: built))
        for path, variable in nnx.to_flat_state(built):
            name = name_of(path)
            if isinstance(variable, nnx.RngKey):
                streams.append(name)
            if not isinstance(variable, nnx.Variable):
                plain[name] = variable  # as it is: of NumPy's a trace knows the values
            elif not isinstance(variable, nnx.Param):
                kind = constants if isinstance(variable, Frozen | nnx.RngState) else running
                kind[name] = jnp.asarray(variable.get_value())
    _check_dropout(one, bool(streams))
    one.eval()
    with _held_in_evaluation(one):
        evaluating = nnx.graphdef(one)
    one.train()
    noisy = nnx.graphdef(one)
    one.set_attributes(deterministic=True, raise_if_not_found=False)
    # A call that says deterministic=False, as a flag in training makes it, goes before the
    # attribute.
    one.set_attributes(
        nnx.Dropout, nnx.MultiHeadAttention, rate=0.0, dropout_rate=0.0, raise_if_not_found=False
    )
    quiet = nnx.graphdef(one)
    arguments = inspect.signature(type(one).__call__).parameters
    flags = {name: training for name, training in FLAGS.items() if name in arguments}
    takes_training = "training" in arguments and not isinstance(arguments["training"].default, bool)
    if takes_training:
        del flags["training"]

    def module(graph: Any, values: Params) -> Any:
        flat = []
        for path, variable in state:
            name = name_of(path)
            if isinstance(variable, nnx.Param):
                flat.append(
                    (path, variable.replace(_kept(joined(name, variable, values), variable)))
                )
            elif isinstance(variable, nnx.Variable):
                flat.append((path, variable.replace(values[name])))
            else:
                flat.append((path, plain[name]))
        return nnx.merge(graph, nnx.from_flat_state(flat))

    def filled(values: Params) -> Any:
        return module(evaluating, constants | running | values)

    def apply(values: Params, x: Array) -> Array:
        return filled(values)(x, **{name: not training for name, training in flags.items()})

    def learn(values: Params, before: Params, x: Array, training: Training) -> tuple[Array, Params]:
        key = training.key
        fresh = (
            {} if key is None else {name: _reseeded(constants[name], key, name) for name in streams}
        )
        one = module(quiet if key is None else noisy, constants | fresh | before | values)
        y = one(x, **flags, **({"training": training} if takes_training else {}))
        after = {name_of(path): variable for path, variable in nnx.to_flat_state(nnx.state(one))}
        return y, {name: after[name].get_value() for name in before}

    return Functional(declared, apply, learn, running, filled, bool(streams))


class _BatchNorm(nnx.BatchNorm):
    """Refuses to normalize as in training."""

    def __call__(self, x: Array, use_running_average: bool | None = None, **options: Any) -> Array:
        _check_evaluated(self, use_running_average is False)
        return super().__call__(x, use_running_average, **options)


class _Dropout(nnx.Dropout):
    """Refuses to drop units."""

    def __call__(
        self, inputs: Array, *, deterministic: bool | None = None, **options: Any
    ) -> Array:
        _check_evaluated(self, deterministic is False and self.rate > 0)
        return super().__call__(inputs, deterministic=deterministic, **options)


EVALUATED = {nnx.BatchNorm: _BatchNorm, nnx.Dropout: _Dropout}


@contextmanager
def _held_in_evaluation(model: nnx.Module) -> Iterator[None]:
    """Layers that an argument of their call, before any attribute, can put into training refuse it
    in here."""
    held: list[tuple[Any, Any]] = [
        (path, part) for path, part in nnx.iter_modules(model) if type(part) in EVALUATED
    ]
    for path, part in held:
        part.__class__ = EVALUATED[type(part)]
        part.place = name_of(path)
    yield
    for _, part in held:
        part.__class__ = type(part).__base__
        del part.place


def _check_evaluated(part: Any, trains: bool) -> None:
    if trains:
        raise ValueError(
            f"{part.place!r} is told to train while the module is evaluated, by an argument inside "
            f"the module; let the module's own __call__ take one of {', '.join(FLAGS)}, and pass "
            "it on"
        )


# In the mode where Flax is heading, modules are trees, in which arrays without a value are passed
# over.
AS_GRAPH: dict[str, Any] = (
    {"graph": True} if "graph" in inspect.signature(nnx.iter_graph).parameters else {}
)


def _traced(model: nnx.Module, kinds: Any = Tracer) -> list[str]:
    """The names of what is no variable and is, or keeps, an array without a value: no graph of the
    module says so."""
    nodes = [
        node
        for node in nnx.iter_graph(model, **AS_GRAPH)
        if not isinstance(node[1], nnx.Variable | nnx.Pytree)
    ]
    return [name_of(path) for path, value in nodes if _keeps(value, kinds)]


def _keeps(value: Any, kinds: Any, depth: int = 3) -> bool:
    """Whether an attribute is of one of these kinds, or keeps it in a container, a dataclass, a
    partial, a closure."""
    for leaf in jax.tree.leaves(value):
        inside: list[Any] = []
        if isinstance(leaf, partial):
            inside = [leaf.func, leaf.args, leaf.keywords]
        elif isinstance(leaf, FunctionType):
            for cell in leaf.__closure__ or ():
                with suppress(ValueError):  # an empty cell
                    inside.append(cell.cell_contents)
        elif isinstance(leaf, SimpleNamespace) or (
            is_dataclass(leaf) and not isinstance(leaf, type)
        ):
            inside = list(vars(leaf).values())
        if isinstance(leaf, kinds) or (depth and _keeps(inside, kinds, depth - 1)):
            return True
    return False


def _kept(value: Array, variable: nnx.Variable) -> Array:
    """A parameter's value in the type that its module keeps it in; float32 is what any may be
    computed in."""
    own = variable.get_value().dtype
    return value if own == jnp.float32 else value.astype(own)


def _reseeded(start: Array, key: Key[Array, ""], name: str) -> Array:
    """The key, or the keys of stacked layers, that a random stream starts a training step from."""
    own = spec.named_key(key, name)
    if jax.random.key_impl(start) != jax.random.key_impl(key):
        own = jax.random.key(jax.random.bits(own), impl=jax.random.key_impl(start))
    return jax.random.split(own, start.shape) if start.shape else own


REFUSED = {
    nnx.Cache: "build it with decode=False, or without what caches",
    nnx.Intermediate: "take it out with nnx.pop(model, nnx.Intermediate)",
    nnx.Perturbation: "take it out with nnx.pop(model, nnx.Perturbation)",
}


def _check_state(state: Sequence[tuple[tuple[Any, ...], Any]]) -> None:
    for kind, remedy in REFUSED.items():
        names = [name_of(path) for path, variable in state if isinstance(variable, kind)]
        if names:
            raise ValueError(
                f"the module also holds {names}, of nnx.{kind.__name__}, which no training step "
                f"carries; {remedy}"
            )


def _check_constants(built: nnx.Module) -> None:
    """Refuse a module with arrays that were cached while another like it was looked at by its
    shapes."""
    if names := _traced(built):
        raise ValueError(
            f"the module keeps {names}, of arrays without a value: they are left from an earlier "
            "trace, as by functools.cache; make them anew for each module, or with NumPy"
        )


def _check_dropout(model: nnx.Module, seeded: bool) -> None:
    """Refuse dropout without random state, which would be left out in silence."""
    for path, module in nnx.iter_modules(model):
        if (
            isinstance(module, nnx.Dropout)
            and module.rate > 0
            and module.rngs is None
            and not seeded
        ):
            raise ValueError(
                f"module {name_of(path)!r} drops units at a rate of {module.rate} and has no "
                "random state to do so; build it with nnx.Dropout(rate, rngs=rngs)"
            )


def _params(model: nnx.Module) -> dict[str, nnx.Param]:
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {name_of(path): variable for path, variable in flat}


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a parameter: its path in the module."""
    return ".".join(map(str, path))


def _leaves(name: str, variable: nnx.Variable) -> list[Leaf]:
    meta, shape = variable.get_metadata(), tuple(variable.get_value().shape)
    if "dims" not in meta or "role" not in meta:
        raise ValueError(
            f"parameter {name!r} (shape {shape}) declares no dims and role; create it with "
            "jaxinit.introspect.param(shape, dims, role), or say declare(model), which knows the "
            f"layers of Flax, and of others declare(model, dims={{{name!r}: ...}}, "
            f"roles={{{name!r}: ...}})"
        )
    known = {key: meta[key] for key in LEAF_FIELDS if key in meta}
    split: Split | None = meta.get("split")
    if split is None:
        return [Leaf(name, shape, **known)]
    before, after = shape[: split.axis], shape[split.axis + 1 :]
    if split.copies:
        return [
            Leaf(name, (split.copies, *before, shape[split.axis] // split.copies, *after), **known)
        ]
    found = []
    for part in split.parts:
        if not part.role:
            raise ValueError(
                f"parameter '{name}.{part.name}' has no role; say declare(model, "
                f"roles={{'{name}.{part.name}': ...}}), one of {', '.join(ROLES)}, or bias"
            )
        of_part = known | {"role": part.role, "role_assumed": part.role_assumed}
        if part.partner:
            of_part["partner"] = part.partner
        found.append(Leaf(f"{name}.{part.name}", (*before, part.size, *after), **of_part))
    return found
