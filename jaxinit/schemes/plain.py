"""The schemes: each answers a leaf with the law that its source gives to that role, on one screen.

`SCHEMES` is the table of names; the first line of each docstring is its description. Unless its description says so, a
scheme starts every bias at 0, the forget gate's too, and the scale of every normalization at 1. `by_role`, `scale` and
`with_bias` make schemes of schemes, as `spec.Override` does; the defaults of other libraries are in `frameworks`.

A scheme with settings is written as a call where a name stands, `'chrono(longest=784)'`, with literal arguments or
schemes: `SETTINGS` has what can be called, and `scheme_named` reads such a name.
"""

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jaxtyping import Array, Float

from jaxinit import initializers, spec
from jaxinit.initializers import structured
from jaxinit.initializers.basic import glorot_scheme, normal, vector
from jaxinit.schemes import frameworks, transformer
from jaxinit.spec import Initializer, Leaf, Rule, Scheme, under
from jaxinit.study import BadStudy, check_name

LEARNED = ("bias", "peephole", "start")  # vectors that are weights like others to Zaremba et al.
Unmatched = Callable[[Sequence[Leaf]], list[str]]


def uniform01(leaf: Leaf) -> Initializer:
    """U[0, 1] for every matrix, zero biases: the naive start (mean 0.5, variance 1/12, whatever the size)."""
    return vector(leaf) or initializers.uniform(0.0, 1.0)


def small_normal(leaf: Leaf) -> Initializer:
    """N(0, 0.01^2) for every matrix, zero biases: small at any size."""
    return vector(leaf) or initializers.normal(0.01)


def xavier_rnn(leaf: Leaf) -> Initializer:
    """N(0, 1/fan_in) for Wxh, Whh and Why, zero biases: "Xavier" as the notes on character RNNs write it."""
    return vector(leaf) or initializers.lecun("normal")


def glorot_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 2/(fan_in + fan_out), zero biases: Glorot & Bengio (2010), JAX's law."""
    return vector(leaf) or initializers.glorot("truncated_normal")


def he_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 2/fan_in, zero biases: He et al. (2015), meant for ReLU."""
    return vector(leaf) or initializers.he("truncated_normal")


def lecun_normal(leaf: Leaf) -> Initializer:
    """Truncated Gaussian of variance 1/fan_in, zero biases: LeCun et al. (1998), Flax's own default."""
    return vector(leaf) or initializers.lecun("truncated_normal")


def orthogonal(leaf: Leaf) -> Initializer:
    """Haar-orthogonal recurrent and hidden matrices (one per gate), Glorot uniform elsewhere, zero biases."""
    return initializers.orthogonal() if leaf.role in ("recurrent", "hidden") else glorot_scheme(leaf)


def identity(leaf: Leaf) -> Initializer:
    """Identity recurrent and hidden matrices (one per gate), Glorot uniform elsewhere, zero biases."""
    return initializers.identity() if leaf.role in ("recurrent", "hidden") else glorot_scheme(leaf)


def irnn(leaf: Leaf) -> Initializer:
    """Identity recurrent matrix, N(0, 0.001^2) elsewhere, zero biases: Le et al. (2015), meant for a ReLU RNN."""
    return vector(leaf) or (initializers.identity() if leaf.role == "recurrent" else normal(0.001))


def np_rnn(leaf: Leaf) -> Initializer:
    """Normalized positive definite Whh, He normal elsewhere, zero biases: Talathi & Vartak (2016)."""
    # Departure: the paper's own factor on the input matrix is quoted in two forms by others; this is He's.
    if leaf.role == "recurrent":
        return structured.positive_definite_identity()
    return vector(leaf) or initializers.he("normal")


def smart_tanh(leaf: Leaf) -> Initializer:
    """15 non-zeros a unit at spectral radius 0.95 for Whh, N(0, 0.01^2) elsewhere: Pascanu et al. (2013)."""
    if leaf.role != "recurrent":
        return vector(leaf) or normal(0.01)
    return structured.sparse(min(15, leaf.fan_in), 0.01, spectral_radius=0.95)


def saxe_orthogonal(leaf: Leaf) -> Initializer:
    """(Semi-)orthogonal kernels in every role, zero biases: Saxe et al. (2014), for gain 1."""
    return vector(leaf) or initializers.orthogonal()


def glorot_standard(leaf: Leaf) -> Initializer:
    """U(+-1/sqrt(fan_in)), variance 1/(3 fan_in), zero biases: the baseline of Glorot & Bengio (2010), eq. 1."""
    return vector(leaf) or initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def zaremba(limit: float = 0.1) -> Scheme:
    """U(+-limit) for every parameter, biases included: Zaremba et al. (2014), 0.1 small, 0.05 medium, 0.04 large."""
    if not 0 < limit < math.inf:
        raise ValueError(f"zaremba: limit must be positive and finite, got {limit}")
    of = lambda leaf: (leaf.role not in LEARNED and vector(leaf)) or initializers.uniform(-limit, limit)
    return _named("zaremba", of, zaremba.__doc__)


def chrono(longest: int = 100) -> Scheme:
    """Glorot kernels; gate biases that spread memory over 1 to `longest` steps: Tallec & Ollivier (2018), eq. 16."""
    if longest < 3:
        raise ValueError(f"chrono: longest must be 3 steps or more, got {longest}")

    def of(leaf: Leaf) -> Initializer:
        return structured.chrono(leaf.gate, longest) if leaf.role == "bias" and leaf.gate else glorot_scheme(leaf)

    unmatched = lambda leaves: [] if any(leaf.gate for leaf in leaves) else ["the biases of gates"]
    return _named("chrono", of, chrono.__doc__, unmatched)


def forget_bias(value: float = 1.0) -> Scheme:
    """Glorot uniform kernels; the forget bias of an LSTM at `value`, other biases 0: Jozefowicz et al. (2015)."""
    if not math.isfinite(value):
        raise ValueError(f"forget_bias: value must be finite, got {value}")
    scheme: Any = with_bias(glorot_scheme, forget=value)
    return _named("forget_bias", scheme, forget_bias.__doc__, scheme.unmatched)


def by_role(rules: dict[str, Rule | Initializer], name: str = "by_role") -> Scheme:
    """A scheme that answers each role by table; `draw` refuses a role that is missing, and one that no leaf has."""
    unmatched = lambda leaves: sorted(set(rules) - {leaf.role for leaf in leaves})
    return _named(name, lambda leaf: rules.get(leaf.role), by_role.__doc__, unmatched)


def scale(base: Scheme | Initializer, gain: float | Float[Array, ""]) -> Scheme:
    """`base` with every kernel multiplied by `gain`, which may be traced and so swept; biases stay.

    Raises: ValueError for a negative gain, where it is known.
    """
    if isinstance(gain, int | float) and gain < 0:
        raise ValueError(f"scale: a gain must not be negative, got {gain}; it multiplies a standard deviation")

    def of(leaf: Leaf) -> Rule | Initializer | None:
        rule = spec.as_scheme(base)(leaf)
        if rule is None or not leaf.is_kernel:
            return rule
        rule = rule if isinstance(rule, Rule) else Rule(rule)
        return replace(rule, draw=initializers.scaled(rule.draw, gain))

    adapted = lambda optimizer: scale(under(base, optimizer), gain)
    return _named("scale", of, scale.__doc__, partial(spec.unmatched, base), adapted)


def with_bias(base: Scheme | Initializer, **values: float) -> Scheme:
    """`base` with the biases of the gates named set to constants: `with_bias(orthogonal, forget=1.0)`.

    A leaf none of whose gates is named keeps what `base` says; the other gates of one that is start at 0. `draw`
    refuses a gate that no leaf has.
    """

    def of(leaf: Leaf) -> Rule | Initializer | None:
        mine = {gate: value for gate, value in values.items() if gate in leaf.gate}
        rule = spec.as_scheme(base)(leaf)
        if leaf.role != "bias" or not mine:
            return rule
        constants = structured.gate_biases(leaf.gate, **mine)
        return replace(rule, draw=constants) if isinstance(rule, Rule) else constants

    def unmatched(leaves: Sequence[Leaf]) -> list[str]:
        there = {gate for leaf in leaves for gate in leaf.gate}
        return [*spec.unmatched(base, leaves), *(f"gate {gate}" for gate in values if gate not in there)]

    adapted = lambda optimizer: with_bias(under(base, optimizer), **values)
    return _named("with_bias", of, with_bias.__doc__, unmatched, adapted)


def _named(
    name: str,
    scheme: Callable[[Leaf], Rule | Initializer | None],
    doc: str | None,
    unmatched: Unmatched | None = None,
    adapted: Callable[[str], Scheme] | None = None,
) -> Scheme:
    """Give a scheme that a function made its name, its description, its rules that match nothing, and `spec.under`."""
    named: Any = scheme
    named.__name__, named.__doc__ = name, doc
    named.unmatched = unmatched or (lambda leaves: [])
    if adapted is not None:
        named.under = adapted
    return named


def scheme_named(text: str, known: Mapping[str, Scheme] | None = None) -> Scheme:
    """The scheme of a name, or of a call with settings: `orthogonal`, `chrono(longest=784)`, `scale(orthogonal, 1.5)`.

    Arguments are Python literals; where `SETTINGS` asks for a scheme, a name or another call. Nothing is evaluated.
    `known` are the names, `SCHEMES` unless given.
    Raises: BadStudy for an unknown name with the nearest, for settings that the scheme does not take, lacks or cannot
    work with, and for what is no call.
    """
    table = SCHEMES if known is None else known
    if text in table:
        return table[text]
    if "(" not in text:
        check_name("scheme", text, table)
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadStudy(f"{text!r} is no name of a scheme, nor a call such as 'chrono(longest=784)'") from error
    return _scheme_of(call, text, table)


def _scheme_of(node: ast.expr, text: str, known: Mapping[str, Scheme]) -> Scheme:
    """The scheme that a name or a call in `text` stands for."""
    if isinstance(node, ast.Name):
        check_name("scheme", node.id, known)
        return known[node.id]
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        part = ast.unparse(node)
        raise BadStudy(f"{text!r}: expected the name of a scheme or a call such as 'chrono(longest=784)', got {part}")
    name = node.func.id
    if name in known and name not in SETTINGS:
        raise BadStudy(f"{text!r}: {name} takes no settings; write {name} (those with settings: {', '.join(SETTINGS)})")
    check_name("scheme with settings", name, SETTINGS)
    factory = SETTINGS[name]
    signature = inspect.signature(factory)
    values: list[Any] = []
    for argument in node.args:
        values.append(_setting(argument, text, known))
    named: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in named:
            raise BadStudy(f"{text!r}: give each setting once, as name=value; {name} is {name}{signature_of(factory)}")
        named[keyword.arg] = _setting(keyword.value, text, known)
    try:
        given = signature.bind(*values, **named)
    except TypeError as error:
        raise BadStudy(f"{text!r}: {error}; {name} is {name}{signature_of(factory)}") from error
    for setting, value in given.arguments.items():
        parameter = signature.parameters[setting]
        several = parameter.kind is inspect.Parameter.VAR_KEYWORD
        for one in value.values() if several else (value,):
            _check_setting(text, setting, one, parameter.annotation)
    try:
        return factory(*given.args, **given.kwargs)
    except ValueError as error:
        raise BadStudy(f"{text!r}: {error}") from error


def _setting(node: ast.expr, text: str, known: Mapping[str, Scheme]) -> Any:
    """The value of one argument: a literal, or a scheme."""
    if isinstance(node, ast.Name | ast.Call):
        return _scheme_of(node, text, known)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadStudy(f"{text!r}: a setting is a literal or a scheme, got {ast.unparse(node)}") from error


def _check_setting(text: str, setting: str, value: Any, annotation: Any) -> None:
    """Raises: BadStudy for a value of another type than the setting's; whole numbers are numbers too."""
    kinds = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a text",
        Scheme: "a scheme",
    }
    choices = (annotation, *getattr(annotation, "__args__", ()))
    takes_scheme = Scheme in choices
    wanted = [kind for kind in kinds if kind in choices]
    if takes_scheme:
        fits = callable(value)
    elif bool in wanted or isinstance(value, bool):
        fits = bool in wanted and isinstance(value, bool)
    elif value is None:
        fits = type(None) in choices
    elif float in wanted:
        fits = isinstance(value, int | float)
    else:
        fits = isinstance(value, tuple(kind for kind in wanted if isinstance(kind, type)))
    if not fits:
        meant = kinds[Scheme if takes_scheme else wanted[0]]
        raise BadStudy(f"{text!r}: {setting} must be {meant}, got {value!r}")


def signature_of(factory: Callable[..., Scheme]) -> str:
    """The settings of a scheme as they are written in a call: `(longest=100)`."""
    shown = []
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            shown.append("gate=value, ...")
        elif parameter.default is parameter.empty:
            shown.append(name)
        else:
            shown.append(f"{name}={parameter.default!r}")
    return f"({', '.join(shown)})"


# What can be written as a call, where a study names a scheme.
SETTINGS: dict[str, Callable[..., Scheme]] = {
    "zaremba": zaremba,
    "chrono": chrono,
    "forget_bias": forget_bias,
    "mup": transformer.mup,
    "u_mup": transformer.u_mup,
    "spectral_mup": transformer.spectral_mup,
    "depth_mup": transformer.depth_mup,
    "encoder_decoder": transformer.encoder_decoder,
    "scale": scale,
    "with_bias": with_bias,
}


SCHEMES: dict[str, Scheme] = {
    "uniform01": uniform01,
    "small_normal": small_normal,
    "xavier_rnn": xavier_rnn,
    "glorot_uniform": glorot_scheme,
    "glorot_normal": glorot_normal,
    "he_normal": he_normal,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
    "identity": identity,
    "irnn": irnn,
    "np_rnn": np_rnn,
    "smart_tanh": smart_tanh,
    "saxe_orthogonal": saxe_orthogonal,
    "glorot_standard": glorot_standard,
    "glorot_normalized": glorot_scheme,
    "zaremba": zaremba(),
    "chrono": chrono(),
    "forget_bias": forget_bias(),
    "gpt2": transformer.gpt2,
    "gpt2_blocks": transformer.gpt2_blocks,
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
    "mup": transformer.mup(),
    "u_mup": transformer.u_mup(),
    "spectral_mup": transformer.spectral_mup(),
    "pytorch": frameworks.pytorch,
    "keras": frameworks.keras,
    "flax_nnx": frameworks.flax_nnx,
    "flax_linen": frameworks.flax_linen,
    "haiku": frameworks.haiku,
    "equinox": frameworks.equinox,
}
