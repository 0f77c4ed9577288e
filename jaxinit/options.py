"""The options of the models: one configuration for each family, a frozen dataclass.

    OPTIONS[model] -> the names, types, defaults, docstrings and checks of what a model can be asked

Constructors gather their keywords into a configuration, a study derives from its fields which
models take which settings, and the command line shows their docstrings. An option is added here,
read by the model, and, where a study is to have it, named as a field of `Study`.

Importing this module imports nothing but the standard library.
"""

import ast
import inspect
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from types import UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

# The functions are in `models.bptt`. Of the first seven, the slope is a function of the value,
# which is all that a recurrent network keeps of a step.
ACTIVATIONS = (
    "linear",
    "tanh",
    "sigmoid",
    "softsign",
    "relu",
    "leaky_relu",
    "hard_tanh",
    "erf",
    "elu",
    "gelu",
    "silu",
)
RECURRENT_ACTIVATIONS = ACTIVATIONS[:7]
LEAST = 2.0**-126  # the least positive float32 that has all its digits

Backward = Literal["by_hand", "autodiff"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all configurations have in common: values are checked, and become Python's own.

    Sizes may be of any integral type. Raises: ValueError for a size that is not a whole number of 1
    or more, for a number that is not one, and for a value that is not among those that the type of
    its field names.
    """

    unused: ClassVar[tuple[str, ...]] = ()
    """Options of the family that have no meaning in this model."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            self._set(field.name, checked_value(field.name, field.type, value))

    def _set(self, name: str, value: Any) -> None:
        """Change a field during construction, which a frozen dataclass does in no other way."""
        object.__setattr__(self, name, value)

    @classmethod
    def names(cls) -> set[str]:
        """The options that the model takes."""
        return {field.name for field in fields(cls)} - set(cls.unused)


@dataclass(frozen=True, kw_only=True)
class MLPOptions(Options):
    """The options of `models.MLP`.

    Raises: ValueError as `Options`, and for an unknown activation.
    """

    layers: int = 1
    """Hidden layers."""
    activation: str = "tanh"
    """linear, tanh, sigmoid, softsign, relu, leaky_relu, hard_tanh, erf, elu, gelu or silu."""
    norm: Literal["layer", "batch"] | None = None
    """Normalization of pre-activations: layer (over units) or batch."""
    residual: bool = False
    """Add the input of every hidden layer but the first to its output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_activation(self.activation)


@dataclass(frozen=True, kw_only=True)
class ConvolutionalOptions(Options):
    """The options that all convolutional networks share.

    Raises: ValueError as `Options`, for an unknown activation, and for more stages than layers.
    """

    layers: int = 2
    """Convolutions, or blocks of two."""
    activation: str = "relu"
    """linear, tanh, sigmoid, softsign, relu, leaky_relu, hard_tanh, erf, elu, gelu or silu."""
    channels: int = 1
    """Numbers a pixel, side by side in a row of the input: 3 for cifar10."""
    stages: int = 1
    """Parts of equal depth; each but the first halves rows and columns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_activation(self.activation)
        if self.stages > self.layers:
            raise ValueError(
                f"stages are parts of the layers, at most {self.layers}; got {self.stages}"
            )

    def check_row(self, features: int) -> None:
        """Raises: ValueError unless the channels divide the numbers of a row."""
        if features % self.channels:
            raise ValueError(
                f"channels must divide the numbers of a row, got {self.channels} channels and rows "
                f"of {features}"
            )


@dataclass(frozen=True, kw_only=True)
class CNNOptions(ConvolutionalOptions):
    """The options of `models.CNN`. Raises: ValueError as `ConvolutionalOptions`."""

    norm: Literal["layer", "batch"] | None = None
    """Normalization of pre-activations: layer (over the channels of a pixel) or batch."""


@dataclass(frozen=True, kw_only=True)
class ResNetOptions(ConvolutionalOptions):
    """The options of `models.ResNet`. Raises: ValueError as `ConvolutionalOptions`."""

    norm: Literal["layer", "batch", "none"] | None = "batch"
    """Normalization before every activation: layer (over the channels of a pixel), batch or none
    (in Python also None)."""
    gate: bool = False
    """Multiply every branch by a learned scalar, from 0 (ReZero), under fixup from 1."""
    scalar_bias: bool = False
    """Add a learned scalar before every activation and every kernel but the first, in place of
    biases (Fixup)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "none":
            self._set("norm", None)

    @property
    def with_biases(self) -> bool:
        """Whether convolutions have biases: where nothing else has them."""
        return self.norm is None and not self.scalar_bias


@dataclass(frozen=True, kw_only=True)
class RecurrentOptions(Options):
    """The options that all recurrent networks share.

    Raises: ValueError as `Options`, and for options that exclude each other.
    """

    layers: int = 1
    """Layers; further ones read the states below them."""
    readout: Literal["last", "all"] = "last"
    """Outputs of the last step, or of every step."""
    bidirectional: bool = False
    """Read every layer's input from both ends: a second network starts at the end, and the states
    of both are handed on side by side."""
    norm: Literal["layer"] | None = None
    """Normalization of pre-activations: layer (over units)."""
    learned_start: bool = False
    """Train the states before the first step too."""
    variational: bool = False
    """Drop the same units at every step, and of the states passed on too; with dropout."""
    embedding: int | None = None
    """Units of an embedding between the input and the first layer. Default: no embedding."""
    truncate: int | None = None
    """Time steps after which the gradient is cut. Default: the whole sequence."""
    stateful: int | None = None
    """A batch size: each training batch of that size starts from the states that the last one ended
    with, without gradient."""
    unroll: int = 1
    """Time steps written out in each turn of the compiled time loop; 1 is the fastest where it was
    measured."""
    segment: int | None = None
    """Time steps between two states kept for the backward pass, which computes those in between
    again. Default: all, or about sqrt(length) where one batch would keep more than 256 MiB."""
    backward: Backward = "by_hand"
    """Backpropagation through time by hand, or by automatic differentiation; see `models.bptt`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_parts = [
            name for name in ("segment", "truncate", "stateful") if getattr(self, name) is not None
        ]
        if self.bidirectional and in_parts:
            raise ValueError(
                "a bidirectional network reads the whole sequence at once; leave "
                f"{', '.join(in_parts)} out"
            )
        if self.truncate is not None and self.segment is not None:
            raise ValueError("truncate cuts the sequence into segments already; leave segment out")


@dataclass(frozen=True, kw_only=True)
class RNNOptions(RecurrentOptions):
    """The options of `models.RNN`. Raises: ValueError as `RecurrentOptions`."""

    activation: str = "tanh"
    """tanh, sigmoid, softsign, relu, leaky_relu, hard_tanh or linear."""
    leak: float | None = None
    """Leak rate: the share of the new state in each state, above 0 and at most 1. Default: all of
    it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_activation(self.activation)
        if self.activation not in RECURRENT_ACTIVATIONS:
            raise ValueError(
                f"an RNN takes the activations {', '.join(RECURRENT_ACTIVATIONS)}, got "
                f"{self.activation!r}; an MLP takes it"
            )
        if self.leak is not None and not LEAST <= self.leak <= 1:
            raise ValueError(
                f"leak must be above 0 and at most 1, got {self.leak:g}; leave it out for none"
            )


@dataclass(frozen=True, kw_only=True)
class LSTMOptions(RecurrentOptions):
    """The options of `models.LSTM`."""

    peepholes: bool = False
    """Let the gates see the cell."""


@dataclass(frozen=True, kw_only=True)
class GRUOptions(RecurrentOptions):
    """The options of `models.GRU`."""

    reset: Literal["after", "before"] = "after"
    """The reset gate multiplies the recurrent product, or the state before it."""


@dataclass(frozen=True, kw_only=True)
class LinearRecurrentOptions(RecurrentOptions):
    """The options of `models.LRU`, `GLR` and `RGLRU`, whose recurrence is diagonal and computed by
    a scan over all steps at once.

    Raises: ValueError as `RecurrentOptions`, and for `norm` and `variational`.
    """

    unused: ClassVar[tuple[str, ...]] = ("norm", "variational", "unroll")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("norm", "variational"):
            if getattr(self, name):
                raise ValueError(
                    f"a linear recurrence has no recurrent matrix; leave {name} out, or use RNN, "
                    "LSTM, GRU or MGU"
                )


@dataclass(frozen=True, kw_only=True)
class TransformerOptions(Options):
    """The options of a Transformer's blocks, and of what stands before and after them.

    Raises: ValueError as `Options`, for an unknown activation, and for key-value heads that do not
    divide the heads.
    """

    layers: int = 2
    """Blocks, each of attention and a feed-forward layer."""
    heads: int = 4
    """Heads of attention, which divide the width."""
    kv_heads: int | None = None
    """Heads of keys and values, each shared by as many query heads (grouped queries). Default: as
    many as heads."""
    ffn: int = 4
    """Width of the feed-forward layers, as a multiple of the width of the residual stream."""
    causal: bool = True
    """Each step sees those before it only."""
    norm: Literal["layer", "rms", "none"] | None = "layer"
    """Normalization: layer, rms or none (in Python also None)."""
    placed: Literal["pre", "post"] = "pre"
    """Normalize each branch's input, or the sum of each branch and the residual stream."""
    qk_norm: bool = False
    """Normalize queries and keys."""
    positions: Literal["learned", "sinusoidal", "rotary"] | None = "learned"
    """How steps are told apart."""
    length: int = 512
    """The most steps of a sequence."""
    activation: str = "gelu"
    """That of the feed-forward layers: one of an MLP's, or swiglu."""
    tied: bool = False
    """Use the embedding as the readout."""
    bias: bool = True
    """Give every kernel of the blocks a bias."""
    scalar_bias: bool = False
    """Add a learned scalar before every kernel and activation function of a branch, and before the
    readout (Fixup)."""
    gate: bool = False
    """Multiply every branch by a learned scalar, from 0 (ReZero)."""
    skip_scale: float = 1.0
    """Multiply the residual stream by it where a branch is added (DeepNorm)."""
    learned_skip: bool = False
    """Learn such a factor for each branch and unit, from 1 (Admin)."""
    cross: bool = False
    """Blocks attend to another stream too; see `models.EncoderDecoder`."""
    tied_scale: float = 1.0
    """Factor of a tied readout: 1/m under muP at m times the base width."""
    readout: Literal["all", "last", "mean"] | None = "all"
    """Outputs of every step, of the last or of the mean over steps; None for the stream itself."""
    scan: bool = True
    """Scan over the blocks; without it they run one by one, which probes need."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "none":
            self._set("norm", None)
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"kv_heads must divide the heads, got {self.kv_heads} and {self.heads}"
            )
        if self.activation != "swiglu":
            check_activation(self.activation)

    @property
    def key_value_heads(self) -> int:
        """`kv_heads`, with its default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads

    def check_width(self, width: int) -> None:
        """Raises: ValueError unless the heads divide the width, and rotary positions find pairs."""
        if width % self.heads:
            raise ValueError(
                f"heads must divide the width, got {self.heads} heads and a width of {width}"
            )
        head = width // self.heads
        if self.positions == "rotary" and head % 2:
            raise ValueError(
                f"rotary positions turn pairs: the width of a head must be even, got {head}"
            )


OPTIONS: dict[str, type[Options]] = {
    "rnn": RNNOptions,
    "lstm": LSTMOptions,
    "gru": GRUOptions,
    "mgu": RecurrentOptions,
    "lru": LinearRecurrentOptions,
    "glr": LinearRecurrentOptions,
    "rg_lru": LinearRecurrentOptions,
    "mlp": MLPOptions,
    "cnn": CNNOptions,
    "resnet": ResNetOptions,
    "transformer": TransformerOptions,
    "vit": TransformerOptions,
}


Configuration = TypeVar("Configuration", bound=Options)


def gather(
    configuration: type[Configuration], keywords: Mapping[str, Any]
) -> tuple[Configuration, dict[str, Any]]:
    """The configuration that a constructor's keywords describe, and the other keywords."""
    kinds = {field.name: field.type for field in fields(configuration)}
    options, others = {}, {}
    for name, value in keywords.items():
        if name in kinds:
            options[name] = checked_value(name, kinds[name], value)
        else:
            others[name] = value
    return configuration(**options), others


def checked_value(name: str, annotation: Any, value: Any) -> Any:
    """The value of an option as Python's own, by the type of the option.

    Raises: ValueError as `Options`.
    """
    kinds = alternatives(annotation)
    known = literals(annotation)
    if value is None and type(None) in kinds:
        return None
    if int in kinds:
        return positive_integer(name, value)
    if float in kinds:
        return number(name, value)
    if known and value not in known:
        listed = ", ".join(map(repr, known))
        raise ValueError(f"{name} is one of {listed}, got {value!r}")
    return value


def models_of(family: type[Options]) -> tuple[str, ...]:
    """The models of a family."""
    return tuple(model for model, options in OPTIONS.items() if issubclass(options, family))


def models_taking(option: str) -> tuple[str, ...]:
    """The models that take an option."""
    return tuple(model for model, options in OPTIONS.items() if option in options.names())


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    is_union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if is_union else (annotation,)


def literals(annotation: Any) -> tuple[str | None, ...]:
    """The values that a type names; none where it names none."""
    named: list[str | None] = []
    for kind in alternatives(annotation):
        if get_origin(kind) is Literal:
            named += get_args(kind)
        elif kind is type(None) and named:
            named.append(None)
    return tuple(named)


def choices(options: type[Options], name: str) -> tuple[str | None, ...]:
    """The values that an option can have, where its type names them."""
    (annotation,) = (field.type for field in fields(options) if field.name == name)
    return literals(annotation)


def positive_integer(name: str, value: Any) -> int:
    """A size as Python's own integer.

    Raises: ValueError for what is not a whole number of 1 or more, truth values among it.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number


def number(name: str, value: Any) -> float:
    """A number as Python's own. Raises: ValueError for what is not one."""
    try:
        return float(value)
    except TypeError:
        raise ValueError(f"{name} must be a number, got {value!r}") from None


def check_activation(name: str) -> None:
    """Raises: ValueError for an unknown name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation is called {name!r}; there are {', '.join(ACTIVATIONS)}")


def docstrings(configuration: type) -> dict[str, str]:
    """What stands under each field of a dataclass, on one line, the fields of its bases among them.

    Python keeps no docstrings of fields, so they are read from the source.
    """
    texts = {}
    for kind in reversed(configuration.__mro__):
        if not is_dataclass(kind):
            continue
        (definition,) = ast.parse(inspect.getsource(kind)).body
        assert isinstance(definition, ast.ClassDef)
        for statement, text in pairwise(definition.body):
            match statement, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(words))),
                ):
                    texts[name] = " ".join(words.split())
    return texts
