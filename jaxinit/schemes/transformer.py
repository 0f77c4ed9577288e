"""Schemes for Transformers and other residual networks.

Where a paper adds structure, it is an option of the model (`gate` for ReZero and SkipInit,
`skip_scale` for DeepNorm), and the scheme here is the paper's draw.
"""

import math
from functools import partial
from typing import NamedTuple

from jaxinit import initializers
from jaxinit.initializers import structured
from jaxinit.initializers.basic import (
    glorot,
    glorot_scheme,
    lecun,
    normal,
    ones,
    scaled,
    variance_scaling,
    vector,
    zeros,
)
from jaxinit.initializers.truncated import truncated_normal
from jaxinit.schemes.combine import named
from jaxinit.schemes.needs import (
    INTO_STREAM,
    SCALED_BRANCH,
    TABLES,
    block_index,
    blocks,
    branches,
    without_branches,
    without_gate,
    without_index,
    without_stream,
)
from jaxinit.spec import Initializer, Leaf, Rule, Scheme, under

T_FIXUP = (*SCALED_BRANCH, *TABLES)  # what T-Fixup's factor multiplies


def gpt2(leaf: Leaf) -> Initializer:
    """N(0, 0.02^2); kernels into the residual stream 0.02 / sqrt(2 n_layers); zero biases: GPT-2 as
    its ports read it.

    Two additions a block make 2 n_layers residual layers; a block of convolutions has one.
    Source: Radford et al. (2019), section 2.3, "1/sqrt(N), N the number of residual layers"; the
    reading of 2 n_layers is that of Hugging Face's and Karpathy's code.
    """
    if leaf.role in INTO_STREAM:
        return normal(0.02 / math.sqrt(branches(leaf, "gpt2")))
    return vector(leaf) or normal(0.02)


def gpt2_blocks(leaf: Leaf) -> Initializer:
    """As gpt2 with N read as the number of blocks: 0.02 / sqrt(n_layers) into the residual
    stream."""
    if leaf.role in INTO_STREAM:
        return normal(0.02 / math.sqrt(blocks(leaf, "gpt2_blocks")))
    return vector(leaf) or normal(0.02)


def layer_index(leaf: Leaf) -> Initializer:
    """N(0, 0.02^2); kernels into the residual stream 0.02 / sqrt(2 (l + 1)) in block l, from 0 on;
    zero biases.

    Unlike in `gpt2` the factor does not depend on how many blocks follow. Assumes blocks that are
    kept apart: those stacked in one array, or in no list, are refused.
    Raises: ValueError where the number of blocks, and with it the place among them, is unknown.
    Source: torchtitan's Llama 3, models/llama3/__init__.py, `_depth_init` (commit b5bcd76,
    2026-08-21); lingua's `current_depth` (commit 613018a). Departures from torchtitan: its
    embedding is N(0, 1), its readout N(0, 1/d) cut at 3 standard deviations, the second kernel into
    a gated feed-forward has the factor too, and its cut at +-2 is in absolute units, which cuts
    nothing.
    """
    if leaf.role in INTO_STREAM:
        return normal(0.02 / math.sqrt(2 * (block_index(leaf, "layer_index") + 1)))
    return vector(leaf) or normal(0.02)


def nanochat(leaf: Leaf) -> Initializer:
    """U(+-sqrt(3/fan_in)), zero into the residual stream, embedding N(0, 1), readout N(0, 0.001^2):
    nanochat.

    The standard deviation is 1/sqrt(fan_in), where fan_in is the model's width of queries, keys,
    values and the kernels into the feed-forward; uniform, so that there are no outliers.
    Source: Karpathy's nanochat, nanochat/gpt.py, `init_weights` (commit 48abd7d, 2026-01-01). Since
    March 2026 (commit 92d63d4, 2026-07-03, was read too) its embedding has 0.8 and the kernel into
    the feed-forward 0.4 times this size, found by automatic search together with gates and value
    embeddings that our models lack. Departures: it has neither biases nor a table of positions;
    here biases are 0 and positions as the embedding.
    """
    if leaf.role in INTO_STREAM:
        return zeros
    if leaf.role in TABLES:
        return normal(1.0)
    if leaf.role == "readout":
        return normal(0.001)
    return vector(leaf) or variance_scaling(1.0, "fan_in", "uniform")


def speedrun(leaf: Leaf) -> Initializer:
    """U(+-sqrt(3)/(2 sqrt(fan_in))), zero into the residual stream and for the readout, embedding
    N(0, 1): modded-nanogpt.

    The standard deviation is 0.5/sqrt(fan_in), of which its code says that it is a bit better than
    PyTorch's own 1/sqrt(3 fan_in).
    Source: Jordan et al., modded-nanogpt, train_gpt.py (commit 6fd94ed, 2025-01-24). Later (commit
    f411b3d, 2026-08-01, was read too) its readout is N(0, 0.005^2), the embedding begins as the
    readout's transpose, and the kernels out of attention have the uniform law.
    Departures: it has neither biases nor a table of positions; here biases are 0 and positions as
    the embedding. Its value embeddings and skips between blocks are structure that our models lack.
    """
    if leaf.role in (*INTO_STREAM, "readout"):
        return zeros
    if leaf.role in TABLES:
        return normal(1.0)
    return vector(leaf) or variance_scaling(0.25, "fan_in", "uniform")


def llama(leaf: Leaf) -> Initializer:
    """N(0, 0.02^2) for every matrix, zero biases, no residual scaling: LLaMA and OLMo 2."""
    return vector(leaf) or normal(0.02)


def bert(leaf: Leaf) -> Initializer:
    """N(0, 0.02^2) cut at two standard deviations, zero biases: BERT; the cut is corrected for, as
    in JAX."""
    return vector(leaf) or truncated_normal(0.02)


def t5(leaf: Leaf) -> Initializer:
    """N(0, 1/fan_in) for every kernel, N(0, 1) for the embedding, zero biases: T5.

    T5 divides its queries' variance by the width of a head and its scores by nothing; ours divides
    the scores.
    Source: Raffel et al. (2020) and mesh-tensorflow's code.
    """
    if leaf.role == "embedding":
        return normal(1.0)
    return vector(leaf) or lecun("normal")


def small_init_wang(leaf: Leaf) -> Initializer:
    """N(0, 2/(5 d)), and 2/(n_layers sqrt(d)) into the residual stream, zero biases: GPT-NeoX-20B.

    Source: Nguyen & Salazar (2019), section 3.2; Black et al. (2022), section 2.1, for the pair.
    """
    if leaf.role in INTO_STREAM:
        return initializers.wang(blocks(leaf, "small_init_wang"))
    # d, the width of the stream: what a table puts out, and what a kernel takes in.
    width = leaf.fan_out if leaf.role in TABLES else leaf.fan_in
    return vector(leaf) or normal(math.sqrt(2 / (5 * width)))


def spike_no_more(leaf: Leaf) -> Initializer:
    """N(0, 2/(5 d)), / sqrt(2 n_layers) into the residual stream, embedding N(0, 1): Takase et al.
    (2023)."""
    if leaf.role in TABLES:
        return normal(1.0)
    std = math.sqrt(2 / (5 * leaf.fan_in))
    if leaf.role in INTO_STREAM:
        return normal(std / math.sqrt(branches(leaf, "spike_no_more")))
    return vector(leaf) or normal(std)


def xavier_transformer(leaf: Leaf) -> Initializer:
    """Glorot uniform kernels, embedding N(0, 1/d), zero biases: Vaswani et al. (2017) as their code
    has it."""
    if leaf.role in TABLES:
        return normal(1 / math.sqrt(leaf.fan_out))
    return glorot_scheme(leaf)


def t_fixup(leaf: Leaf) -> Initializer:
    """Glorot uniform; embedding N(0, 1/d); values, outputs and feed-forward times (9
    n_layers)^(-1/4): T-Fixup.

    For a decoder; meant without normalization and without warm-up. Source: Huang et al. (2020),
    section 3.2.
    """
    # Only what the factor multiplies needs the depth: the readout of a model need not know it.
    if leaf.role not in T_FIXUP:
        return glorot_scheme(leaf)
    n_layers = blocks(leaf, "t_fixup")
    return _t_fixup(leaf, (9 * n_layers) ** -0.25)


def fixup(leaf: Leaf) -> Initializer:
    """Zero for the last kernel of each branch and for the readout, the others of a branch times
    branches^(-1/2): Fixup.

    He normal elsewhere. Branches: 2 n_layers of a Transformer, n_layers of a residual network of
    convolutions. Meant for a model with norm=None, gate (the multipliers of branches, which are
    initially 1 here), scalar_bias (before every kernel and activation function, initially 0) and
    no other biases.
    Source: Zhang et al. (2019), Fixup, section 3, with m = 2 kernels a branch.
    """
    if leaf.role in (*INTO_STREAM, "readout"):
        return zeros
    if leaf.role == "residual_gate":
        return ones
    he = initializers.he("normal")
    if leaf.role in SCALED_BRANCH:
        # L^(-1 / (2 m - 2)) with L branches of m = 2 kernels
        return scaled(he, branches(leaf, "fixup") ** -0.5)
    return vector(leaf) or he


def deepnorm(leaf: Leaf) -> Initializer:
    """Glorot normal; values, outputs and feed-forward times (8 n_layers)^(-1/4): DeepNorm for one
    stack.

    Meant for post-norm with `skip_scale` (2 n_layers)^(1/4). Source: Wang et al. (2022), figure 2.
    """
    # Only what the factor multiplies needs the depth: the readout of a model need not know it.
    factor = 1.0
    if leaf.role in SCALED_BRANCH:
        factor = (8 * blocks(leaf, "deepnorm")) ** -0.25
    return _deepnorm(leaf, factor)


def _deepnorm(leaf: Leaf, factor: float) -> Initializer:
    """Glorot normal, the kernels of branches but queries and keys times the factor."""
    own_factor = factor if leaf.role in SCALED_BRANCH else 1.0
    return vector(leaf) or scaled(glorot("normal"), own_factor)


def mimetic(leaf: Leaf) -> Rule | Initializer:
    """Queries and keys whose product is near the identity, values and outputs near its negative:
    mimetic attention.

    W_Q W_K^T ~ 0.7 Z + 0.7 I of every head, W_V W_O = 0.4 Z - 0.4 I, Z ~ N(0, 1/d); elsewhere
    `xavier_transformer`. Meant for a Vision Transformer with sinusoidal positions, with as many key
    as query heads.
    Source: Trockman & Kolter (2023), section 3 and table 1.
    """
    # Two kernels are drawn from one key, so that their product is the matrix that it draws.
    attention = _attention(leaf)
    if leaf.role in ("query", "key"):
        side = "left" if leaf.role == "query" else "right"
        return Rule(structured.mimetic(side, 0.7, 0.7), key=f"{attention}.query_key")
    if leaf.role in ("value", "attention_out"):
        side = "left" if leaf.role == "value" else "right"
        return Rule(structured.mimetic_whole(side, 0.4, -0.4), key=f"{attention}.value_out")
    return xavier_transformer(leaf)


def _attention(leaf: Leaf) -> str:
    """The path of the attention of a kernel: `a` of `a.query`, of `a.query.kernel` and of
    `a.qkv.kernel.query`."""
    path = leaf.name.split(".")
    if "kernel" in path:  # as Flax's layers store it; our own hold the array by its role's name
        path = path[: path.index("kernel")]
    return ".".join(path[:-1])


def rezero(leaf: Leaf) -> Initializer:
    """Glorot uniform; every branch times a gate, initially 0: ReZero, for a model with `gate`.

    Meant without normalization: the network is initially the identity, whatever the depth.
    Source: Bachlechner et al. (2020), eq. 2.
    """
    return xavier_transformer(leaf)


def skipinit(leaf: Leaf) -> Initializer:
    """He normal; every branch times a gate, initially 0: SkipInit, for a model with `gate`.

    Meant without normalization. Source: De & Smith (2020), section 4. It differs from ReZero in the
    draw alone.
    """
    if leaf.role in TABLES:
        return normal(1 / math.sqrt(leaf.fan_out))
    return vector(leaf) or initializers.he("normal")


def t_fixup_encoder(leaf: Leaf) -> Initializer:
    """As t_fixup with the encoder's factor, 0.67 n_layers^(-1/4), for values, outputs and
    feed-forward kernels.

    The embedding takes it too. Source: Huang et al. (2020), section 3.2.
    """
    if leaf.role not in T_FIXUP:
        return glorot_scheme(leaf)
    n_layers = blocks(leaf, "t_fixup_encoder")
    return _t_fixup(leaf, 0.67 * n_layers**-0.25)


def _t_fixup(leaf: Leaf, factor: float) -> Initializer:
    """The law of a role that T-Fixup multiplies by a factor of the depth."""
    if leaf.role in TABLES:
        return normal(factor / math.sqrt(leaf.fan_out))
    return scaled(glorot("uniform"), factor)


def encoder_decoder(encoder: Scheme, decoder: Scheme) -> Scheme:
    """A scheme for two stacks: `encoder` answers the parameters of the first, `decoder` all others.

    `encoder_decoder(t_fixup_encoder, t_fixup)` is T-Fixup; `deepnorm_pair` makes DeepNorm's.
    """

    def scheme(leaf: Leaf) -> Rule | Initializer | None:
        if leaf.name.startswith("encoder."):
            return encoder(leaf)
        return decoder(leaf)

    def adapted(optimizer: str) -> Scheme:
        return encoder_decoder(under(encoder, optimizer), under(decoder, optimizer))

    name = f"{encoder.__name__}+{decoder.__name__}"
    return named(name, scheme, encoder_decoder.__doc__, without_branches, adapted)


class DeepNorm(NamedTuple):
    """DeepNorm for two stacks: its scheme, and the skip scales of the model it is meant for."""

    scheme: Scheme
    skip_scale: float
    decoder_skip_scale: float


def deepnorm_pair(encoder_layers: int, decoder_layers: int) -> DeepNorm:
    """DeepNorm for N encoder and M decoder blocks.

    Encoder: the stream times 0.81 (N^4 M)^(1/16), values, outputs and feed-forward times 0.87 (N^4
    M)^(-1/16); decoder: (3 M)^(1/4) and (12 M)^(-1/4). Source: Wang et al. (2022), figure 2.
    """
    n, m = encoder_layers, decoder_layers

    def stack(factor: float) -> Scheme:
        def scheme(leaf: Leaf) -> Initializer:
            return _deepnorm(leaf, factor)

        return named("deepnorm", scheme, deepnorm_pair.__doc__)

    encoder = stack(0.87 * (n**4 * m) ** (-1 / 16))
    decoder = stack((12 * m) ** -0.25)
    return DeepNorm(
        encoder_decoder(encoder, decoder),
        skip_scale=0.81 * (n**4 * m) ** (1 / 16),
        decoder_skip_scale=(3 * m) ** 0.25,
    )


# What each of the schemes above needs a model to have, so that a study of another refuses it.
for _scheme in (gpt2, gpt2_blocks, small_init_wang, spike_no_more):
    named(_scheme.__name__, _scheme, _scheme.__doc__, without_stream)

named("layer_index", layer_index, layer_index.__doc__, without_index)

for _scheme in (t_fixup, t_fixup_encoder, deepnorm):
    named(_scheme.__name__, _scheme, _scheme.__doc__, without_branches)

for _scheme, _roles in (
    (fixup, ("value", "ffn_in", "readout")),
    (mimetic, ("query", "key", "value")),
    (nanochat, ("readout",)),
    (speedrun, ("readout",)),
):
    named(_scheme.__name__, _scheme, _scheme.__doc__, partial(without_stream, also=_roles))

for _scheme in (rezero, skipinit):
    named(_scheme.__name__, _scheme, _scheme.__doc__, without_gate)
