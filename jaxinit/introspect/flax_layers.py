"""What Flax's own layers say of their parameters: axes, roles, fans and gates.

A layer inside a larger one (the dense layers of a cell, the projections of an attention) has the
role that it plays there.
"""

import math
from typing import Any, NamedTuple

from flax import nnx

from jaxinit import spec
from jaxinit.introspect.parameters import Place

NORMALIZATIONS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.GroupNorm, nnx.InstanceNorm)
# The cells that store the matrices of all gates as one, with their kind and the order of the gates.
FUSED_CELLS = (
    (nnx.OptimizedLSTMCell, "lstm", ("input", "forget", "cell", "output")),
    (nnx.GRUCell, "gru", ("reset", "update", "new")),
    (nnx.SimpleCell, "rnn", ()),
)


class LayerParameter(NamedTuple):
    """One parameter of a layer: the axes and sizes that the layer gives it, and its role there.

    `gate` are its fused gates, or the one gate whose parameter it is."""

    dims: str
    shape: tuple[int, ...]
    role: str
    place: Place
    gate: tuple[str, ...] = ()
    groups: int = 1
    role_assumed: bool = False


class _Inner(NamedTuple):
    """A layer that a larger one is made of, and what it is there."""

    layer: nnx.Module
    role: str
    place: Place
    gate: tuple[str, ...] = ()


def flax_parameters(model: nnx.Module) -> dict[int, LayerParameter]:
    """The parameters of Flax's own layers, by the identity of the variable."""
    # A larger layer may be met after those in it, so what is inside is gathered first.
    inner: dict[int, _Inner] = {}
    for _, module in nnx.iter_modules(model):
        for part in _inner_layers(module):
            inner[id(part.layer)] = part
    parameters: dict[int, LayerParameter] = {}
    for _, module in nnx.iter_modules(model):
        for variable, parameter in _parameters_in_place(module, inner.get(id(module))):
            # The first layer that holds a tied variable says what it is.
            parameters.setdefault(id(variable), parameter)
        if isinstance(module, nnx.WeightNorm):
            # Its scales, where it has any, are parameters since Flax 0.12.10.
            for variable in (module.scales or {}).values():
                if isinstance(variable, nnx.Param):
                    parameters[id(variable)] = _weight_scale(variable)
    return parameters


def _parameters_in_place(
    module: nnx.Module, part: _Inner | None
) -> list[tuple[nnx.Param, LayerParameter]]:
    """The parameters of a layer, with what it is in a larger one where it is `part` of that."""
    role, outer_place, gate = "hidden", Place(), ()
    if part is not None:
        role, outer_place, gate = part.role, part.place, part.gate
    parameters = []
    for attribute, parameter in _own_parameters(module, role).items():
        variable = getattr(module, attribute, None)
        if not isinstance(variable, nnx.Param):  # a layer without a bias, or a frozen one
            continue
        # A cell says how many inputs it has; the dense layers in it know but their own.
        inputs = outer_place.get("inputs") or parameter.place.get("inputs", 0)
        place: Place = {**parameter.place, **outer_place, "inputs": inputs}
        assumed = parameter.role == "hidden" and part is None
        in_place = parameter._replace(place=place, gate=gate, role_assumed=assumed)
        parameters.append((variable, in_place))
    return parameters


def _inner_layers(module: nnx.Module) -> list[_Inner]:
    """The layers that a layer of Flax is made of."""
    if isinstance(module, nnx.MultiHeadAttention):
        return _attention_layers(module)
    if isinstance(module, nnx.LSTMCell):
        return _lstm_layers(module)
    for cell, kind, gate in FUSED_CELLS:
        if isinstance(module, cell):
            place = Place(kind=kind, inputs=module.in_features)
            return [
                _Inner(module.dense_i, "input", place, gate),
                _Inner(module.dense_h, "recurrent", place, gate),
            ]
    return []


def _attention_layers(module: nnx.MultiHeadAttention) -> list[_Inner]:
    roles = {"query": "query", "key": "key", "value": "value", "out": "attention_out"}
    layers = []
    for attribute, role in roles.items():
        norm = getattr(module, f"{attribute}_ln", None)
        place = Place(kind="attention", normalized=norm is not None)
        layers.append(_Inner(getattr(module, attribute), role, place))
        if norm is not None:
            layers.append(_Inner(norm, "scale", Place(kind="norm", partner=role)))
    return layers


def _lstm_layers(module: nnx.LSTMCell) -> list[_Inner]:
    """The dense layers of a cell that has two for each gate: `ii` and `hi`, and so on."""
    place = Place(kind="lstm", inputs=module.in_features)
    layers = []
    for letter, gate in zip("ifgo", ("input", "forget", "cell", "output"), strict=True):
        of_input = "if_" if letter == "f" else f"i{letter}"  # `if` is a word of Python
        layers.append(_Inner(getattr(module, of_input), "input", place, (gate,)))
        layers.append(_Inner(getattr(module, f"h{letter}"), "recurrent", place, (gate,)))
    return layers


def _own_parameters(module: nnx.Module, role: str) -> dict[str, LayerParameter]:
    """The parameters that a layer of Flax holds itself, by attribute; none for any other module."""
    if isinstance(module, nnx.Linear):
        inputs, outputs = module.in_features, module.out_features
        return _kernel_and_bias("io", (inputs, outputs), "o", (outputs,), role, inputs)
    if isinstance(module, nnx.LinearGeneral):
        return _linear_general(module, role)
    if isinstance(module, nnx.Einsum) and module.einsum_str is not None:
        bias = None if module.bias_shape is None else tuple(module.bias_shape)
        return _einsum(module.einsum_str, tuple(module.kernel_shape), bias, role)
    if isinstance(module, nnx.Conv):
        return _convolution(module, "io", module.feature_group_count, role)
    if isinstance(module, nnx.ConvTranspose):
        return _convolution(module, "oi" if module.transpose_kernel else "io", 1, role)
    if isinstance(module, nnx.Embed):
        shape = (module.num_embeddings, module.features)
        return {"embedding": LayerParameter("io", shape, "embedding", Place())}
    if isinstance(module, nnx.PReLU):
        return {"negative_slope": LayerParameter("", (), "slope", Place())}
    if isinstance(module, nnx.LoRA):
        rank = module.lora_a.get_value().shape[-1]  # the layer does not keep it otherwise
        into_rank = (module.in_features, rank)
        out_of_rank = (rank, module.out_features)
        return {
            "lora_a": LayerParameter("io", into_rank, "lora_a", Place()),
            "lora_b": LayerParameter("io", out_of_rank, "lora_b", Place()),
        }
    if isinstance(module, NORMALIZATIONS):
        return _normalization(module)
    return {}


def _kernel_and_bias(
    dims: str,
    shape: tuple[int, ...],
    bias_dims: str,
    bias_shape: tuple[int, ...],
    role: str,
    inputs: int,
) -> dict[str, LayerParameter]:
    place = Place(inputs=inputs)
    return {
        "kernel": LayerParameter(dims, shape, role, place),
        "bias": LayerParameter(bias_dims, bias_shape, "bias", place),
    }


def _linear_general(module: nnx.LinearGeneral, role: str) -> dict[str, LayerParameter]:
    """A dense layer over several axes; heads, the first output axis of a projection, are copies."""
    batch = tuple(module.batch_axis.values())
    inputs, outputs = module.in_features, module.out_features
    copies = "." * len(batch)
    output_dims = "o" * len(outputs)
    if role in ("query", "key", "value"):  # of an attention, whose heads have matrices of their own
        output_dims = ".o"
    return _kernel_and_bias(
        copies + "i" * len(inputs) + output_dims,
        (*batch, *inputs, *outputs),
        copies + output_dims,
        (*batch, *outputs),
        role,
        math.prod(inputs),
    )


def _convolution(
    module: nnx.Conv | nnx.ConvTranspose, ends: str, groups: int, role: str
) -> dict[str, LayerParameter]:
    """A kernel over windows, whose last two axes are `ends`."""
    shape = tuple(module.kernel_shape)
    dims = "w" * len(module.kernel_size) + ends
    inputs = spec.axis_size(shape, dims, "iw")
    layer = _kernel_and_bias(dims, shape, "o", (module.out_features,), role, inputs)
    kernel = layer["kernel"]._replace(groups=groups)
    if isinstance(module, nnx.ConvTranspose):
        kernel = kernel._replace(place={**kernel.place, "kind": "conv_transpose"})
    return layer | {"kernel": kernel}


def _einsum(
    equation: str, shape: tuple[int, ...], bias: tuple[int, ...] | None, role: str
) -> dict[str, LayerParameter]:
    """The axes of a kernel from its equation.

    An axis that is summed over is an input; one that the data and the result have too is a copy;
    one that the result alone has is an output.
    """
    operands, result = equation.replace(" ", "").split("->")
    data, kernel = operands.split(",")
    if "." in kernel:  # an ellipsis: nothing says how many axes it stands for
        return {}
    letters: dict[str, str] = {}
    for letter in kernel:
        if letter not in result:
            letters[letter] = "i"
        elif letter in data:
            letters[letter] = "."
        else:
            letters[letter] = "o"
    dims = "".join(letters[letter] for letter in kernel)
    outputs = "".join(letters.get(letter, "") for letter in result)  # without the data's own axes
    inputs = spec.axis_size(shape, dims, "i")
    layer = _kernel_and_bias(dims, shape, outputs, bias or (), role, inputs)
    # A bias of another rank than the kernel's outputs is broadcast: its axes are taken as outputs.
    if bias is not None and len(bias) != len(outputs):
        layer["bias"] = layer["bias"]._replace(dims="o" * len(bias))
    return layer


def _normalization(module: Any) -> dict[str, LayerParameter]:
    """The scale and the bias of a normalization, where it has them."""
    parameters: dict[str, LayerParameter] = {}
    for name in ("scale", "bias"):
        variable = getattr(module, name, None)
        if not isinstance(variable, nnx.Param):
            continue
        shape = variable.get_value().shape
        features = getattr(module, "num_features", shape[-1])
        # A vector of features; more axes in front of it are those of stacked layers.
        own_axes = 1 if shape[-1:] == (features,) else len(shape)
        own_shape = shape[len(shape) - own_axes :]
        place = Place(kind="norm", inputs=features)
        parameters[name] = LayerParameter("o" * own_axes, own_shape, name, place)
    return parameters


def _weight_scale(variable: nnx.Param) -> LayerParameter:
    shape = tuple(variable.get_value().shape)
    return LayerParameter("o" * len(shape), shape, "scale", Place(kind="norm"))
