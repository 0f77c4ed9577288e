"""What there is to audit: the parameters of any model, each with what is known of its axes and
role.

    nnx.Module, tree of arrays, {name: array}, *.safetensors -> Entries

A module of Flax NNX is declared on a copy, and its layers are known; in all others, and where a
layer leaves the role open, rules on names say what a parameter is, and what no rule knows is an
entry without a leaf.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxinit import introspect, spec
from jaxinit.finetune.checkpoint import arrays_of
from jaxinit.introspect.adapters import Adapted, declare_by_names, names_on
from jaxinit.introspect.parameters import cut, leaves_of, variables_of
from jaxinit.spec import Leaf
from jaxinit.study import BadStudy

# Roles by what many codes call the layer: the last two names on a path.
TABLES = r"(^|\.)(wte|emb|tok_emb\w*|token_emb\w*|embed_tokens|embed|embedding|embeddings)$"
NAMED_ROLES = (
    (r"(^|\.)(lm_head|head|readout|classifier|logits|unembed\w*|fc_out)$", "readout"),
    (TABLES, "embedding"),
    (r"(^|\.)(wpe|pos_embed\w*|position_embed\w*)$", "position"),
    (r"(^|\.)(q|wq|q_proj|query|to_q|c_q)$", "query"),
    (r"(^|\.)(k|wk|k_proj|key|to_k|c_k)$", "key"),
    (r"(^|\.)(v|wv|v_proj|value|to_v|c_v)$", "value"),
    (r"(^|\.)(wo|o_proj|out_proj|to_out|attn_out|attention_out)$", "attention_out"),
    (r"att\w*\.(c_proj|proj|out|o|dense)$", "attention_out"),
    (r"(^|\.)(up_proj|gate_proj|c_fc|fc1|w1|w3|wi|wi_0|wi_1|linear1|ffn_in)$", "ffn_in"),
    (r"(mlp|ffn|feed_forward|ff)\.(up|gate|fc|fc_in|in|0)$", "ffn_in"),
    (r"(^|\.)(down_proj|fc2|w2|linear2|ffn_out)$", "ffn_out"),
    (r"(mlp|ffn|feed_forward|ff)\.(c_proj|proj|out|down|fc_out|2|3)$", "ffn_out"),
    (r"(^|\.)(weight_hh_l\d+|hidden_to_hidden|h2h|recurrent\w*)$", "recurrent"),
)
PACKED = r"(^|\.)(c_attn|qkv|qkv_proj|in_proj|Wqkv|query_key_value)$"
# Vectors of linear recurrences that many codes call so.
NAMED_VECTORS = {"dt_bias": "step_bias", "A_log": "log_rate"}
GATES_OF_TORCH = {4: ("input", "forget", "cell", "output"), 3: ("reset", "update", "new")}
KINDS_OF_TORCH = {4: "lstm", 3: "gru", 1: "rnn"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of PyTorch, no parameters


@dataclass(frozen=True)
class Entry:
    """One parameter: where it is, what is known of it, and its values, taken when asked for.

    `leaf` is None where its axes are not known; `stored` is the array as the model keeps it (or its
    shape), under the name `variable`, `layer` the class that it belongs to."""

    name: str
    stored: Any
    leaf: Leaf | None
    values: Callable[[], np.ndarray]
    layer: str = ""
    variable: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.leaf.shape if self.leaf is not None else tuple(self.stored.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.stored.dtype)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def entries_of(model: Any, **declared: Any) -> list[Entry]:
    """The parameters of a model, in the order of their names.

    `declared` as `jaxinit.declare` takes it: roles, dims, split, n_layers, ...
    Raises: BadStudy for what is no model, and one without parameters.
    """
    return entries_in(module_of(model, **declared))


def entries_in(module: nnx.Module) -> list[Entry]:
    """The parameters of a module of `module_of`. Raises: BadStudy for one without any."""
    found = [*_entries(module)]
    if not found:
        raise BadStudy(
            f"{type(module).__name__} has no parameters to audit; give a module whose parameters "
            "are nnx.Param, a tree of arrays, or a safetensors file"
        )
    return found


def module_of(model: Any, **declared: Any) -> nnx.Module:
    """A model as a module of NNX whose parameters say what they are, as far as it is known; the
    model itself is not changed.

    Kernels of whose role nobody has said anything have that of their names, and the number of
    blocks is that of the longest list.
    Raises: BadStudy for patterns of `declared` that match nothing.
    """
    if isinstance(model, str | Path):
        model = arrays_in_file(model)
    fresh, declare = _undeclared(model)
    try:
        module = declare(fresh(), **declared)
        variables = variables_of(module)
        roles: dict[str, str] = {}
        for name, variable in variables.items():
            role = role_named(name)
            if variable.get_metadata().get("role_assumed") and role is not None:
                roles[name] = role
        dims = {
            name: "o"
            for name, variable in variables.items()
            if _vector_named(name) and variable.get_value().ndim == 1
        }
        roles |= {name: _vector_named(name) for name in dims}
        dims |= declared.get("dims") or {}
        roles |= declared.get("roles") or {}
        blocks = declared.get("n_layers") or _blocks(variables)
        # Once more, since the layer of a readout is the number of blocks.
        said = {"roles": roles, "dims": dims, "n_layers": blocks}
        return declare(fresh(), **declared | said)
    except ValueError as error:
        raise BadStudy(str(error)) from error


def _undeclared(model: Any) -> tuple[Callable[[], Any], Callable[..., nnx.Module]]:
    """What makes a copy of a model as a module, and what declares it."""
    if isinstance(model, nnx.Module):
        return lambda: nnx.clone(model), introspect.declare
    arrays = _arrays(model)

    def declare(module: Adapted, **declared: Any) -> nnx.Module:
        said = _said_of_torch(module)
        for argument, patterns in said.items():
            declared[argument] = patterns | dict(declared.get(argument) or {})
        return declare_by_names(module, **declared)

    return lambda: Adapted(_never_called, arrays), declare


def arrays_in_file(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises: BadStudy for one that cannot be read."""
    try:
        return arrays_of(Path(path))
    except ValueError as error:
        raise BadStudy(str(error)) from error


def _never_called(params: Any, x: Any) -> Any:
    raise AssertionError("an audit of arrays calls nothing")


def _arrays(model: Any) -> Any:
    """The arrays of a tree (of Linen, Haiku, Equinox, PyTorch), as nested dictionaries."""
    is_array = (jax.Array, np.ndarray, jax.ShapeDtypeStruct)
    nested: dict[str, Any] = {}
    for path, value in jax.tree.leaves_with_path(model):
        if isinstance(value, nnx.Variable):
            value = value.get_value()
        if not isinstance(value, is_array):
            continue
        words = name_in_tree(path).split(".")
        if words[-1] in STATISTICS:
            continue
        branch = nested
        for word in words[:-1]:
            branch = branch.setdefault(word, {})
        branch[words[-1]] = value
    if not nested:
        raise BadStudy(
            f"{type(model).__name__} holds no arrays; give an nnx.Module, a tree of parameters "
            "(Linen, Haiku, Equinox), {name: array}, or a safetensors file"
        )
    return nested


def name_in_tree(path: tuple[Any, ...]) -> str:
    """The name of an array in a tree of parameters, without the `params` that Linen puts first;
    PyTorch's names are paths already."""
    names = names_on(path)
    if len(names) > 1 and names[0] == "params":
        names = names[1:]
    return ".".join(names) or "array"


def _said_of_torch(module: nnx.Module) -> dict[str, dict[str, Any]]:
    """The axes and gates of what PyTorch's layers keep under other names than `weight`."""
    dims: dict[str, str] = {}
    split: dict[str, Any] = {}
    roles: dict[str, str] = {}
    packed_by_inputs = set()
    names = {name: tuple(v.get_value().shape) for name, v in variables_of(module).items()}
    for name, variable in variables_of(module).items():
        last, layer = name.rpartition(".")[2], name.rpartition(".")[0]
        shape = variable.get_value().shape
        gates = re.fullmatch(r"(weight|bias)_(ih|hh)_l\d+(_reverse)?", last)
        if gates and shape[0]:
            dims[name] = "oi" if len(shape) == 2 else "o"
            roles[name] = "bias"
            if len(shape) == 2:
                roles[name] = "input" if gates[2] == "ih" else "recurrent"
            hidden = re.sub(r"(weight|bias)_(ih|hh)_", "weight_hh_", last)
            recurrent = variables_of(module).get(f"{layer}.{hidden}" if layer else hidden)
            count = shape[0] // recurrent.get_value().shape[1] if recurrent is not None else 0
            if count in GATES_OF_TORCH:
                split[name] = GATES_OF_TORCH[count]
            if len(shape) == 2:
                variable.set_metadata(kind=KINDS_OF_TORCH.get(count, ""))
            else:  # two that are added, each drawn by the number of units
                variable.set_metadata(inputs=shape[0] // max(count, 1))
        elif last == "in_proj_weight" and len(shape) == 2:
            dims[name] = "oi"
            split[name] = ("query", "key", "value")
        elif last == "in_proj_bias" and len(shape) == 1:
            dims[name], roles[name] = "o", "bias"
            variable.set_metadata(kind="attention")
        elif last == "bias" and f"{layer.rpartition('.')[0]}.in_proj_weight".lstrip(".") in names:
            variable.set_metadata(kind="attention")
        elif last == "bias" and len(names.get(f"{layer}.weight".lstrip("."), (0, 0))) == 1:
            variable.set_metadata(kind="norm")
        elif last == "weight" and len(shape) == 1:
            dims[name], roles[name] = "o", "scale"
            variable.set_metadata(kind="norm")
        elif last == "weight" and re.search(TABLES, layer):
            dims[name] = "io"
        elif last == "weight" and re.search(PACKED, layer) and len(shape) == 2:
            # transformers' Conv1D keeps inputs first, as GPT-2 was published; Linear does not.
            inputs_first = shape[1] == 3 * shape[0]
            if inputs_first:
                packed_by_inputs.add(layer.rpartition(".")[0].rpartition(".")[0])
            dims[name] = "io" if inputs_first else "oi"
            if shape[0] == 3 * shape[1] or inputs_first:
                split[name] = ("query", "key", "value")
    for name in variables_of(module):
        of_block = any(name.startswith(f"{block}.") for block in packed_by_inputs)
        if of_block and name.endswith(".weight") and name not in dims:
            dims[name] = "io"
    return {"dims": dims, "split": split, "roles": roles}


def _vector_named(name: str) -> str:
    """The role of a vector that is called as those of linear recurrences are; empty for others."""
    return NAMED_VECTORS.get(name.rpartition(".")[2], "")


def role_named(name: str) -> str | None:
    """The role that the name of a kernel says, None where it says none."""
    layer = re.sub(r"\.(kernel|weight|w|value|embedding)$", "", name)
    for pattern, role in NAMED_ROLES:
        if re.search(pattern, layer):
            return role
    return None


def _blocks(variables: Mapping[str, nnx.Variable]) -> int:
    """How many blocks a model has: the longest of its lists, where there is one."""
    places: dict[str, set[int]] = {}
    for name in variables:
        match = re.match(r"(?P<list>[^0-9]*?[._]?)(?P<place>\d+)\.", name)
        if match:
            places.setdefault(match["list"], set()).add(int(match["place"]))
    return max((len(its) for its in places.values()), default=0)


def _entries(module: nnx.Module) -> Iterator[Entry]:
    layers = _layers(module)
    for name, variable in variables_of(module).items():
        stored = variable.get_value()
        layer = layers.get(name.rpartition(".")[0], "")
        metadata = variable.get_metadata()
        if "dims" not in metadata or ("role" not in metadata and not metadata.get("split")):
            yield Entry(name, stored, None, lambda stored=stored: np.asarray(stored), layer, name)
            continue
        for leaf in leaves_of(name, variable):
            leaf = replace(leaf, layer=leaf.layer or _place(name))

            def values(name=name, variable=variable, leaf=leaf) -> np.ndarray:
                stored = variable.get_value()
                if "split" not in variable.get_metadata():
                    return np.asarray(stored)
                return np.asarray(cut(name, variable, jnp.asarray(stored))[leaf.name])

            yield Entry(leaf.name, stored, leaf, values, layer, name)


def _place(name: str) -> int:
    numbers = re.findall(r"\d+", name)
    return int(numbers[0]) if numbers else 0


def _layers(module: nnx.Module) -> dict[str, str]:
    """The class of every layer, by its path."""
    found = {}
    by_depth = sorted(nnx.iter_modules(module), key=lambda pair: len(pair[0]))
    for path, part in by_depth:
        name = ".".join(map(str, path))
        kind = type(part)
        if kind.__name__.startswith("_"):
            continue
        is_flax = kind.__module__.startswith("flax.nnx")
        outer = found.get(name.rpartition(".")[0], "")
        # A layer of Flax goes by the larger one of Flax that it is a part of, as of a cell.
        own = outer if is_flax and outer.startswith("nnx.") else kind.__name__
        found[name] = f"nnx.{own.removeprefix('nnx.')}" if is_flax else own
    return found


def matrices(entry: Entry, values: np.ndarray) -> np.ndarray | None:
    """The values of a kernel as `[copies, inputs, outputs]`, windows among the inputs; None of what
    is no kernel."""
    leaf = entry.leaf
    if leaf is None or not leaf.is_kernel:
        return None
    order = spec.canonical_order(leaf.dims)
    return values.transpose(order).reshape(leaf.copies, leaf.fan_in, -1)
