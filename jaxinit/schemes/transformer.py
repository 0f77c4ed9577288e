"""Schemes for Transformers and other residual networks, and scaling rules across width and depth (muP and its kin).

    leaf (role, layer, n_layers, width) -> rule: the law of the draw, forward multiplier, rate and decay scales

Where a paper adds structure, it is an option of the model (`gate` for ReZero and SkipInit, `skip_scale` for DeepNorm),
and the scheme here is the paper's draw.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from jaxinit import initializers
from jaxinit.initializers import structured
from jaxinit.initializers.basic import (
    glorot,
    glorot_scheme,
    lecun,
    normal,
    ones,
    scaled,
    truncated_normal,
    vector,
    zeros,
)
from jaxinit.spec import Initializer, Leaf, Rule, Scheme, as_scheme, under, unmatched

INTO_STREAM = ("attention_out", "ffn_out")  # the kernels whose products are added to the residual stream
SCALED_BRANCH = ("value", "attention_out", "ffn_in", "ffn_out")
TABLES = ("embedding", "position")
EDGES = ("input", *TABLES)  # kernels whose inputs do not grow with the width
T_FIXUP = (*SCALED_BRANCH, *TABLES)  # what T-Fixup's factor multiplies


def gpt2(leaf: Leaf) -> Initializer:
    """N(0, 0.02^2); kernels into the residual stream 0.02 / sqrt(2 n_layers); zero biases: GPT-2 as its ports read it.

    Two additions a block make 2 n_layers residual layers. Source: Radford et al. (2019), section 2.3, "1/sqrt(N), N the
    number of residual layers"; the reading of 2 n_layers is that of Hugging Face's and Karpathy's code.
    """
    return vector(leaf) or normal(0.02 / math.sqrt(2 * blocks(leaf, "gpt2")) if leaf.role in INTO_STREAM else 0.02)


def gpt2_blocks(leaf: Leaf) -> Initializer:
    """As gpt2 with N read as the number of blocks: 0.02 / sqrt(n_layers) into the residual stream."""
    return vector(leaf) or normal(0.02 / math.sqrt(blocks(leaf, "gpt2_blocks")) if leaf.role in INTO_STREAM else 0.02)


def llama(leaf: Leaf) -> Initializer:
    """N(0, 0.02^2) for every matrix, zero biases: LLaMA's and OLMo 2's start, without residual scaling."""
    return vector(leaf) or normal(0.02)


def bert(leaf: Leaf) -> Initializer:
    """N(0, 0.02^2) cut at two standard deviations, zero biases: BERT; the cut is corrected for, as in JAX."""
    return vector(leaf) or truncated_normal(0.02)


def t5(leaf: Leaf) -> Initializer:
    """N(0, 1/fan_in) for every kernel, N(0, 1) for the embedding, zero biases: T5.

    T5 divides its queries' variance by the width of a head and its scores by nothing; ours divides the scores.
    Source: Raffel et al. (2020) and mesh-tensorflow's code.
    """
    return vector(leaf) or (normal(1.0) if leaf.role == "embedding" else lecun("normal"))


def small_init_wang(leaf: Leaf) -> Initializer:
    """N(0, 2/(5 d)), and 2/(n_layers sqrt(d)) into the residual stream, zero biases: GPT-NeoX-20B.

    Source: Nguyen & Salazar (2019), section 3.2; Black et al. (2022), section 2.1, for the pair.
    """
    if leaf.role in INTO_STREAM:
        return initializers.wang(blocks(leaf, "small_init_wang"))
    width = leaf.fan_out if leaf.role in TABLES else leaf.fan_in
    return vector(leaf) or normal(math.sqrt(2 / (5 * width)))


def spike_no_more(leaf: Leaf) -> Initializer:
    """N(0, 2/(5 d)), / sqrt(2 n_layers) into the residual stream, embedding N(0, 1): Takase et al. (2023)."""
    if leaf.role in TABLES:
        return normal(1.0)
    std = math.sqrt(2 / (5 * leaf.fan_in))
    if leaf.role in INTO_STREAM:
        return normal(std / math.sqrt(2 * blocks(leaf, "spike_no_more")))
    return vector(leaf) or normal(std)


def xavier_transformer(leaf: Leaf) -> Initializer:
    """Glorot uniform kernels, embedding N(0, 1/d), zero biases: Vaswani et al. (2017) as their code has it."""
    return normal(1 / math.sqrt(leaf.fan_out)) if leaf.role in TABLES else glorot_scheme(leaf)


def t_fixup(leaf: Leaf) -> Initializer:
    """Glorot uniform; embedding N(0, 1/d); values, outputs and feed-forward times (9 n_layers)^(-1/4): T-Fixup.

    For a decoder; meant without normalization and without warm-up. Source: Huang et al. (2020), section 3.2.
    """
    return _t_fixup(leaf, (9 * blocks(leaf, "t_fixup")) ** -0.25 if leaf.role in T_FIXUP else 1.0)


def fixup(leaf: Leaf) -> Initializer:
    """Zero for the last kernel of each branch and for the readout, the others of a branch times (2 n_layers)^(-1/2).

    Meant for a model with norm=None, gate (the multipliers of branches, which start at 1 here), scalar_bias (before
    every kernel and activation function, from 0) and bias=False.
    Source: Zhang et al. (2019), Fixup, section 3, with m = 2 kernels a branch.
    """
    if leaf.role in (*INTO_STREAM, "readout"):
        return zeros
    if leaf.role == "residual_gate":
        return ones
    he = initializers.he("normal")
    return vector(leaf) or (scaled(he, (2 * blocks(leaf, "fixup")) ** -0.5) if leaf.role in SCALED_BRANCH else he)


def deepnorm(leaf: Leaf) -> Initializer:
    """Glorot normal; values, outputs and feed-forward times (8 n_layers)^(-1/4): DeepNorm for one stack.

    Meant for post-norm with `skip_scale` (2 n_layers)^(1/4). Source: Wang et al. (2022), figure 2.
    """
    return _deepnorm(leaf, (8 * blocks(leaf, "deepnorm")) ** -0.25 if leaf.role in SCALED_BRANCH else 1.0)


def _deepnorm(leaf: Leaf, factor: float) -> Initializer:
    return vector(leaf) or scaled(glorot("normal"), factor if leaf.role in SCALED_BRANCH else 1.0)


def mimetic(leaf: Leaf) -> Rule | Initializer:
    """Queries and keys whose product is near the identity, values and outputs near its negative: mimetic attention.

    W_Q W_K^T ~ 0.7 Z + 0.7 I of every head, W_V W_O = 0.4 Z - 0.4 I, Z ~ N(0, 1/d); elsewhere `xavier_transformer`.
    Meant for a Vision Transformer with sinusoidal positions, with as many key as query heads.
    Source: Trockman & Kolter (2023), section 3 and table 1.
    """
    attention = _attention(leaf)
    if leaf.role in ("query", "key"):
        side = "left" if leaf.role == "query" else "right"
        return Rule(structured.mimetic(side, 0.7, 0.7), key=f"{attention}.query_key")
    if leaf.role in ("value", "attention_out"):
        side = "left" if leaf.role == "value" else "right"
        return Rule(structured.mimetic_whole(side, 0.4, -0.4), key=f"{attention}.value_out")
    return xavier_transformer(leaf)


def _attention(leaf: Leaf) -> str:
    """The path of the attention of a kernel: `a` of `a.query`, of `a.query.kernel` and of `a.qkv.kernel.query`."""
    path = leaf.name.split(".")
    if "kernel" in path:
        path = path[: path.index("kernel")]
    return ".".join(path[:-1])


def rezero(leaf: Leaf) -> Initializer:
    """Glorot uniform; every branch times a gate that starts at 0: ReZero, for a model with `gate`.

    Meant without normalization: the stream starts as the identity, whatever the depth.
    Source: Bachlechner et al. (2020), eq. 2.
    """
    return xavier_transformer(leaf)


def skipinit(leaf: Leaf) -> Initializer:
    """He normal; every branch times a gate that starts at 0: SkipInit, for a model with `gate`.

    Meant without normalization. Source: De & Smith (2020), section 4. It differs from ReZero in the draw alone.
    """
    return normal(1 / math.sqrt(leaf.fan_out)) if leaf.role in TABLES else vector(leaf) or initializers.he("normal")


def t_fixup_encoder(leaf: Leaf) -> Initializer:
    """As t_fixup with the encoder's factor, 0.67 n_layers^(-1/4), for values, outputs and feed-forward kernels.

    The embedding takes it too. Source: Huang et al. (2020), section 3.2.
    """
    return _t_fixup(leaf, 0.67 * blocks(leaf, "t_fixup_encoder") ** -0.25 if leaf.role in T_FIXUP else 1.0)


def _t_fixup(leaf: Leaf, factor: float) -> Initializer:
    if leaf.role in TABLES:
        return normal(factor / math.sqrt(leaf.fan_out))
    return scaled(glorot("uniform"), factor) if leaf.role in SCALED_BRANCH else glorot_scheme(leaf)


def encoder_decoder(encoder: Scheme, decoder: Scheme) -> Scheme:
    """A scheme for two stacks: `encoder` answers the parameters of the first, `decoder` all others.

    `encoder_decoder(t_fixup_encoder, t_fixup)` is T-Fixup; `deepnorm_pair` makes DeepNorm's.
    """

    def of(leaf: Leaf) -> Rule | Initializer | None:
        return encoder(leaf) if leaf.name.startswith("encoder.") else decoder(leaf)

    def adapted(optimizer: str) -> Scheme:
        return encoder_decoder(under(encoder, optimizer), under(decoder, optimizer))

    name = f"{encoder.__name__}+{decoder.__name__}"
    both: Any = _named(name, of, encoder_decoder.__doc__, without_branches)
    both.under = adapted
    return both


class DeepNorm(NamedTuple):
    """DeepNorm for two stacks: its scheme, and the `skip_scale` of the encoder and of the decoder."""

    scheme: Scheme
    skip_scale: float
    decoder_skip_scale: float


def deepnorm_pair(encoder_layers: int, decoder_layers: int) -> DeepNorm:
    """DeepNorm for N encoder and M decoder blocks.

    Encoder: the stream times 0.81 (N^4 M)^(1/16), values, outputs and feed-forward times 0.87 (N^4 M)^(-1/16); decoder:
    (3 M)^(1/4) and (12 M)^(-1/4). Source: Wang et al. (2022), figure 2.
    """
    n, m = encoder_layers, decoder_layers
    beta = (0.87 * (n**4 * m) ** (-1 / 16), (12 * m) ** -0.25)

    def of(factor: float) -> Scheme:
        return _named("deepnorm", lambda leaf: _deepnorm(leaf, factor), deepnorm_pair.__doc__)

    return DeepNorm(encoder_decoder(of(beta[0]), of(beta[1])), 0.81 * (n**4 * m) ** (1 / 16), (3 * m) ** 0.25)


def mup(base_width: int = 64, optimizer: str | None = None, zero_readout: bool = False) -> Scheme:
    """Maximal update parametrization, base_width 64 unless given: a width's best rate is that of any other.

    N(0, 1/fan_in), rates and the readout scaled by the width over `base_width` (m).
    Readout: variance 1/(m fan_in), rate 1/m. Hidden kernels: rate 1/m under Adam, 1 under SGD. Inputs, tables, scales
    and biases, but for the readout's: rate 1 under Adam, m under SGD. Single numbers, as gates: rate 1, since their
    gradients sum over the width. Queries times m^(-1/2), kernel and bias, so that scores go as 1/d; where queries are
    normalized, the scale of their normalization has that factor instead, since a norm divides by any before it.
    Decoupled decay keeps its size: its scale is the inverse of the rate's. At the base width it is `xavier_rnn`.
    `optimizer` is adam, sgd or momentum; None: that of the study, and Adam where there is none.
    Assumes leaves that know the `width` of their model, and as many heads as at the base width. For a tied readout give
    the model `tied_scale` 1/m.
    Raises: ValueError for another optimizer or a base width below 1; and, when drawn, for a width below the base's or
    unknown.
    Source: Yang et al. (2021), Tensor Programs V, table 3; Adam's row holds for any optimizer of its kind.
    """
    _check_base(base_width)

    def made_for(optimizer: str) -> Scheme:
        made = _optimizers("mup", optimizer)
        adam = optimizer == "adam"

        def scheme(leaf: Leaf) -> Rule:
            m = _over(leaf, base_width)
            if leaf.role == "readout":
                draw = zeros if zero_readout else normal(1 / math.sqrt(m * leaf.fan_in))
                return Rule(draw, lr_scale=1 / m, wd_scale=m, optimizers=made)
            if leaf.role in EDGES or not leaf.is_kernel:
                rate = m if _grows_out(leaf) and not adam else 1.0
            else:
                rate = 1 / m if adam else 1.0
            draw = vector(leaf) or lecun("normal")
            return Rule(draw, _query_scale(leaf, m), rate, 1 / rate, optimizers=made)

        return _named("mup", scheme, mup.__doc__, without_edges)

    return _adapting(made_for, optimizer)


def u_mup(base_width: int = 64) -> Scheme:
    """Unit-scaled muP for Adam, base_width 64 unless given: kernels N(0, 1), sizes in multipliers, rates alone to tune.

    With m the width over `base_width`: hidden kernels have multiplier fan_in^(-1/2) and rate m^(-1/2), the input kernel
    likewise and rate 1, the readout multiplier 1/fan_in and rate 1, tables multiplier 1 and rate m^(-1/2), vectors
    rate 1. What makes queries has the factor m^(-1/2) beside, as in `mup`.
    Assumes and raises: as `mup`; a study with another optimizer than Adam refuses it.
    Source: Blake et al. (2024), u-muP, table 2. Departures: no scaling of gradients and of activation functions, and
    rates relative to those of the base width.
    """
    _check_base(base_width)
    made = ("adam",)

    def scheme(leaf: Leaf) -> Rule:
        m = _over(leaf, base_width)
        if leaf.role == "readout":
            return Rule(normal(1.0), multiplier=1 / leaf.fan_in, optimizers=made)
        if leaf.role in TABLES:
            return Rule(normal(1.0), lr_scale=m**-0.5, wd_scale=m**0.5, optimizers=made)
        if not leaf.is_kernel:
            return Rule(vector(leaf) or zeros, _query_scale(leaf, m), optimizers=made)
        multiplier = leaf.fan_in**-0.5 * _query_scale(leaf, m)
        rate = 1.0 if leaf.role in EDGES else m**-0.5
        return Rule(normal(1.0), multiplier, rate, 1 / rate, optimizers=made)

    return _named("u_mup", scheme, u_mup.__doc__, without_edges)


def spectral_mup(base_width: int = 64, optimizer: str | None = None) -> Scheme:
    """Spectral muP, base_width 64 unless given: kernels and updates of spectral norm about sqrt(fan_out / fan_in).

    N(0, s^2) with s = min(1, sqrt(fan_out / fan_in)) / sqrt(fan_in); rates fan_out / fan_in under SGD, 1 / fan_in under
    Adam, relative to those of the base width; vectors and tables count a fan_in of 1, since a one-hot input has. No
    roles are needed but those of queries, whose factor is that of `mup`.
    Assumes, `optimizer`, and raises: as `mup`.
    Source: Yang, Simon & Bernstein (2023), A spectral condition for feature learning, section 4, eq. 5 and 6.
    """
    _check_base(base_width)

    def made_for(optimizer: str) -> Scheme:
        made = _optimizers("spectral_mup", optimizer)
        adam = optimizer == "adam"

        def scheme(leaf: Leaf) -> Rule:
            m = _over(leaf, base_width)
            one_hot = leaf.role in TABLES or not leaf.is_kernel
            grows_in = leaf.role not in EDGES and leaf.is_kernel
            rate = (m if _grows_out(leaf) and not adam else 1.0) / (m if grows_in else 1.0)
            fan_in = 1 if one_hot else leaf.fan_in
            std = min(1.0, math.sqrt(leaf.fan_out / fan_in)) / math.sqrt(fan_in)
            draw = vector(leaf) or normal(std)
            return Rule(draw, _query_scale(leaf, m), rate, 1 / rate, optimizers=made)

        return _named("spectral_mup", scheme, spectral_mup.__doc__, without_edges)

    return _adapting(made_for, optimizer)


def depth_mup(base: Scheme | Initializer, base_depth: int, alpha: float = 0.5, optimizer: str | None = None) -> Scheme:
    """`base` with every branch of a residual network times (n_layers / base_depth)^-alpha, for transfer across depth.

    The factor is the forward multiplier of the kernels into the residual stream and of their biases. With r = n_layers
    / base_depth, the rates of all that is in the blocks (kernels, biases, scales, gates) go as r^(alpha - 1) under Adam
    and as r^(2 alpha - 1) under SGD, whose gradients have the factor too. alpha 1/2: depth-muP; 1: CompleteP. `draw`
    refuses a model without such kernels.
    `optimizer`: as `mup`, for the base too. Raises: ValueError for another optimizer or a base depth below 1.
    Source: Yang et al. (2023), Tensor Programs VI; Dey et al. (2025), CompleteP, table 1, for Adam; the rate under SGD
    is that for which the sum of the branches changes alike.
    """
    if base_depth < 1:
        raise ValueError(f"depth_mup: base_depth must be 1 or more, got {base_depth}")

    def made_for(optimizer: str) -> Scheme:
        made = _optimizers("depth_mup", optimizer)
        power = alpha - 1 if optimizer == "adam" else 2 * alpha - 1
        base_under = under(as_scheme(base), optimizer)

        def scheme(leaf: Leaf) -> Rule | None:
            rule = base_under(leaf)
            if rule is None or not _in_block(leaf):
                return rule if rule is None or isinstance(rule, Rule) else Rule(rule)
            rule = rule if isinstance(rule, Rule) else Rule(rule)
            ratio = blocks(leaf, "depth_mup") / base_depth
            into_stream = leaf.role in INTO_STREAM or leaf.partner in INTO_STREAM
            return replace(
                rule,
                multiplier=rule.multiplier * (ratio**-alpha if into_stream else 1.0),
                lr_scale=rule.lr_scale * ratio**power,
                wd_scale=rule.wd_scale / ratio**power,
                optimizers=rule.optimizers or made,
            )

        missing = lambda leaves: [*unmatched(base_under, leaves), *without_branches(leaves)]
        return _named("depth_mup", scheme, depth_mup.__doc__, missing)

    return _adapting(made_for, optimizer)


def _adapting(made_for: Callable[[str], Scheme], optimizer: str | None) -> Scheme:
    """The scheme that `made_for` makes for an optimizer; for None Adam's, which `spec.under` turns into another's."""
    scheme: Any = made_for(optimizer or "adam")
    if optimizer is None:
        scheme.under = made_for
    return scheme


def _in_block(leaf: Leaf) -> bool:
    """Whether a leaf is part of a residual branch, once in every block."""
    if leaf.is_kernel:
        return leaf.role in (*INTO_STREAM, *SCALED_BRANCH, "query", "key")
    at_an_end = 0 < leaf.n_layers <= leaf.layer or leaf.partner in (*EDGES, "readout")
    return leaf.role in ("bias", "scale", "residual_gate") and not at_an_end


def _query_scale(leaf: Leaf, m: float) -> float:
    """m^(-1/2) for what is last to set the size of queries: kernel and bias, or the scale of a norm after them."""
    makes_queries = leaf.role == "query" or leaf.partner == "query"
    return m**-0.5 if makes_queries and not leaf.normalized else 1.0


def _check_base(base_width: int) -> None:
    if base_width < 1:
        raise ValueError(f"mup: base_width must be a positive number of units, got {base_width}")


def blocks(leaf: Leaf, scheme: str) -> int:
    """The number of blocks of a leaf's model. Raises: ValueError where it is unknown."""
    if not leaf.n_layers:
        raise ValueError(
            f"scheme {scheme!r} needs the number of blocks, which parameter {leaf.name!r} does not know; say "
            "declare(model, n_layers=12), if there are 12"
        )
    return leaf.n_layers


def without_stream(leaves: Sequence[Leaf], also: Sequence[str] = ()) -> list[str]:
    """What a rule for residual branches misses in a model that has none, or some of whose roles nobody has said.

    `also`: roles that it rules on besides those of the kernels into the stream.
    """
    there = {leaf.role for leaf in leaves}
    if there & set(INTO_STREAM):
        return unsaid(leaves, *((role,) for role in (*INTO_STREAM, *also)))
    hint = unsaid(leaves, INTO_STREAM)
    return hint or [f"the roles {' and '.join(INTO_STREAM)}"]


def without_branches(leaves: Sequence[Leaf]) -> list[str]:
    """As `without_stream`, for a rule on every kernel of a branch but queries and keys."""
    return without_stream(leaves, ("value", "ffn_in"))


def without_edges(leaves: Sequence[Leaf]) -> list[str]:
    """What a rule on the first and the last kernels misses in a model whose roles nobody has said."""
    return unsaid(leaves, ("readout",), EDGES)


def unsaid(leaves: Sequence[Leaf], *groups: Sequence[str]) -> list[str]:
    """The groups of roles none of which is there, where a kernel's role is a guess that may hide it."""
    there = {leaf.role for leaf in leaves}
    guessed = next((leaf.name for leaf in leaves if leaf.role_assumed), None)
    absent = [group for group in groups if not there & set(group)]
    if guessed is None or not absent:
        return []
    roles = ", ".join(" or ".join(group) for group in absent)
    say = (
        f"say declare(model, roles={{{guessed!r}: {absent[0][0]!r}, ...}}), or 'hidden' of kernels without such a role"
    )
    return [f"the roles {roles}, where nobody has said the role of parameter {guessed!r}; {say}"]


def without_gate(leaves: Sequence[Leaf]) -> list[str]:
    """What a rule for gated branches misses in a model that has none."""
    return [] if any(leaf.role == "residual_gate" for leaf in leaves) else ["the role residual_gate (option gate)"]


def _optimizers(scheme: str, optimizer: str) -> tuple[str, ...]:
    """The optimizers that share the rates of `optimizer`: those of gradient descent, or Adam."""
    for alike in (("adam",), ("sgd", "momentum")):
        if optimizer in alike:
            return alike
    raise ValueError(f"{scheme} knows adam, sgd and momentum, got {optimizer!r}")


def _grows_out(leaf: Leaf) -> bool:
    """Whether a leaf has an entry for every unit of the stream or of a layer: not the readout, nor a single number."""
    last = leaf.kind == "readout" or (0 < leaf.n_layers == leaf.layer and leaf.kind != "norm")
    of_readout = leaf.partner == "readout" if leaf.partner else leaf.role == "bias" and last
    return leaf.role != "readout" and not of_readout and bool(leaf.dims)


def _over(leaf: Leaf, base_width: int) -> float:
    """How many times the base width a leaf's model has."""
    if not leaf.width:
        raise ValueError(f"mup needs the width of the model, which parameter {leaf.name!r} does not know")
    if leaf.width < base_width:
        raise ValueError(
            f"mup: the base width is at most that of the model, got a base of {base_width} and a model of {leaf.width};"
            f" say which width's rates are meant, as in 'mup(base_width={leaf.width})'"
        )
    return leaf.width / base_width


def _named(
    name: str, scheme: Any, doc: str | None, missing: Callable[[Sequence[Leaf]], list[str]] | None = None
) -> Scheme:
    scheme.__name__, scheme.__doc__ = name, doc
    if missing:
        scheme.unmatched = missing
    return scheme


for _scheme in (gpt2, gpt2_blocks, small_init_wang, spike_no_more):
    _named(_scheme.__name__, _scheme, _scheme.__doc__, without_stream)
for _scheme in (t_fixup, t_fixup_encoder, deepnorm):
    _named(_scheme.__name__, _scheme, _scheme.__doc__, without_branches)
for _scheme, _roles in ((fixup, ("value", "ffn_in", "readout")), (mimetic, ("query", "key", "value"))):
    _named(_scheme.__name__, _scheme, _scheme.__doc__, partial(without_stream, also=_roles))
for _scheme in (rezero, skipinit):
    _named(_scheme.__name__, _scheme, _scheme.__doc__, without_gate)
