"""Every scheme by name: `SCHEMES`, and `SETTINGS` for those that are written as a call.

A scheme with settings is written as a call where a name stands, `'chrono(longest=784)'`, with
literal arguments or schemes: `scheme_named` reads such a name.
"""

import ast
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxinit.initializers.basic import glorot_scheme
from jaxinit.schemes import frameworks, mup, plain, transformer
from jaxinit.schemes.combine import scale, with_bias
from jaxinit.spec import Scheme
from jaxinit.study import BadStudy, check_name

# The functions that return a scheme, by the names that a call may have.
SETTINGS: dict[str, Callable[..., Scheme]] = {
    "zaremba": plain.zaremba,
    "chrono": plain.chrono,
    "forget_bias": plain.forget_bias,
    "mamba": plain.mamba,
    "min_gru": plain.min_gru,
    "griffin": plain.griffin,
    "mup": mup.mup,
    "u_mup": mup.u_mup,
    "spectral_mup": mup.spectral_mup,
    "depth_mup": mup.depth_mup,
    "encoder_decoder": transformer.encoder_decoder,
    "scale": scale,
    "with_bias": with_bias,
}


SCHEMES: dict[str, Scheme] = {
    "uniform01": plain.uniform01,
    "small_normal": plain.small_normal,
    "xavier_rnn": plain.xavier_rnn,
    "glorot_uniform": glorot_scheme,
    "glorot_normal": plain.glorot_normal,
    "he_normal": plain.he_normal,
    "lecun_normal": plain.lecun_normal,
    "orthogonal": plain.orthogonal,
    "identity": plain.identity,
    "irnn": plain.irnn,
    "np_rnn": plain.np_rnn,
    "smart_tanh": plain.smart_tanh,
    "saxe_orthogonal": plain.saxe_orthogonal,
    "delta_orthogonal": plain.delta_orthogonal,
    "sinusoidal": plain.sinusoidal,
    "glorot_standard": plain.glorot_standard,
    "glorot_normalized": glorot_scheme,
    "zaremba": plain.zaremba(),
    "chrono": plain.chrono(),
    "forget_bias": plain.forget_bias(),
    "mamba": plain.mamba(),
    "min_gru": plain.min_gru(),
    "griffin": plain.griffin(),
    "gpt2": transformer.gpt2,
    "gpt2_blocks": transformer.gpt2_blocks,
    "layer_index": transformer.layer_index,
    "nanochat": transformer.nanochat,
    "speedrun": transformer.speedrun,
    "llama": transformer.llama,
    "bert": transformer.bert,
    "t5": transformer.t5,
    "small_init_wang": transformer.small_init_wang,
    "spike_no_more": transformer.spike_no_more,
    "xavier_transformer": transformer.xavier_transformer,
    "t_fixup": transformer.t_fixup,
    "fixup": transformer.fixup,
    "deepnorm": transformer.deepnorm,
    "mimetic": transformer.mimetic,
    "t_fixup_encoder": transformer.t_fixup_encoder,
    "rezero": transformer.rezero,
    "skipinit": transformer.skipinit,
    "mup": mup.mup(),
    "u_mup": mup.u_mup(),
    "spectral_mup": mup.spectral_mup(),
    "pytorch": frameworks.pytorch,
    "keras": frameworks.keras,
    "flax_nnx": frameworks.flax_nnx,
    "flax_linen": frameworks.flax_linen,
    "haiku": frameworks.haiku,
    "equinox": frameworks.equinox,
}

TINIEST, LARGEST = 2.0**-126, 3.4e38  # normal numbers of float32
# The types that a setting may have, as they are called in errors.
KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
    Scheme: "a scheme",
}


def scheme_named(text: str, known: Mapping[str, Scheme] | None = None) -> Scheme:
    """The scheme of a name, or of a call with settings: `orthogonal`, `chrono(longest=784)`,
    `scale(orthogonal, 1.5)`.

    Arguments are Python literals; where `SETTINGS` asks for a scheme, a name or another call.
    Nothing is evaluated. `known` are the names, `SCHEMES` unless given.
    Raises: BadStudy for an unknown name with the nearest, for settings that the scheme does not
    take, lacks or cannot work with, and for what is no call.
    """
    table = SCHEMES if known is None else known
    if text in table:
        return table[text]
    if "(" not in text:
        check_name("scheme", text, table)
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadStudy(
            f"{text!r} is no name of a scheme, nor a call such as 'chrono(longest=784)'"
        ) from error
    return _scheme_of(call, text, table)


def _scheme_of(node: ast.expr, text: str, known: Mapping[str, Scheme]) -> Scheme:
    """The scheme that a name or a call in `text` stands for."""
    if isinstance(node, ast.Name):
        check_name("scheme", node.id, known)
        return known[node.id]
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise BadStudy(
            f"{text!r}: expected the name of a scheme or a call such as 'chrono(longest=784)', got "
            f"{ast.unparse(node)}"
        )
    name = node.func.id
    if name in known and name not in SETTINGS:
        raise BadStudy(
            f"{text!r}: {name} takes no settings; write {name} (those with settings: "
            f"{', '.join(SETTINGS)})"
        )
    check_name("scheme with settings", name, SETTINGS)
    settings = _settings(node, name, text, known)
    try:
        return SETTINGS[name](*settings.args, **settings.kwargs)
    except ValueError as error:
        raise BadStudy(f"{text!r}: {error}") from error


def _settings(
    call: ast.Call, name: str, text: str, known: Mapping[str, Scheme]
) -> inspect.BoundArguments:
    """The settings that a call gives to the scheme called `name`, each of its type."""
    factory = SETTINGS[name]
    written = f"{name} is {name}{signature_of(factory)}"
    positional = [_setting(argument, text, known) for argument in call.args]
    named: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in named:  # `**{...}`, or the same name again
            raise BadStudy(f"{text!r}: give each setting once, as name=value; {written}")
        named[keyword.arg] = _setting(keyword.value, text, known)
    signature = inspect.signature(factory)
    try:
        settings = signature.bind(*positional, **named)
    except TypeError as error:
        raise BadStudy(f"{text!r}: {error}; {written}") from error
    for setting, value in settings.arguments.items():
        parameter = signature.parameters[setting]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            for gate_value in value.values():
                _check_setting(text, setting, gate_value, parameter.annotation)
        else:
            _check_setting(text, setting, value, parameter.annotation)
    return settings


def _setting(node: ast.expr, text: str, known: Mapping[str, Scheme]) -> Any:
    """The value of one argument: a literal, or a scheme."""
    if isinstance(node, ast.Name | ast.Call):
        return _scheme_of(node, text, known)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadStudy(
            f"{text!r}: a setting is a literal or a scheme, got {ast.unparse(node)}"
        ) from error


def _check_setting(text: str, setting: str, value: Any, annotation: Any) -> None:
    """Raises: BadStudy for a value of another type than the setting's; whole numbers are numbers
    too."""
    choices = (annotation, *getattr(annotation, "__args__", ()))  # itself, and those of a union
    if not _fits(value, choices):
        wanted = [kind for kind in KINDS if kind in choices]
        expected = KINDS[Scheme if Scheme in choices else wanted[0]]
        raise BadStudy(f"{text!r}: {setting} must be {expected}, got {value!r}")
    # A bool passes: as a number it is 0 or 1.
    if isinstance(value, int | float) and value and not TINIEST <= abs(value) <= LARGEST:
        raise BadStudy(
            f"{text!r}: {setting} must be 0 or a number of a size from {TINIEST:.2g} to "
            f"{LARGEST:.2g}, which float32 holds; got {value!r}"
        )


def _fits(value: Any, choices: tuple[Any, ...]) -> bool:
    """Whether a setting's value is of one of the types that it may have."""
    if Scheme in choices:
        return callable(value)
    if bool in choices or isinstance(value, bool):  # a bool is an int to Python
        return bool in choices and isinstance(value, bool)
    if value is None:
        return type(None) in choices
    if float in choices:
        return isinstance(value, int | float)
    types = tuple(kind for kind in (int, str) if kind in choices)
    return isinstance(value, types)


def signature_of(factory: Callable[..., Scheme]) -> str:
    """The settings of a scheme as they are written in a call: `(longest=100)`."""
    settings: list[str] = []
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            settings.append("gate=value, ...")
        elif parameter.default is parameter.empty:
            settings.append(name)
        else:
            settings.append(f"{name}={parameter.default!r}")
    return f"({', '.join(settings)})"
