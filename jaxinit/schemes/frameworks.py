"""The default initialization of other libraries, so that a ported model begins where the original
did.

Each is a scheme for dense, convolution, recurrent (RNN, LSTM, GRU), embedding, attention,
normalization and bias parameters, from the library's source (versions in the docstrings). Where a
library draws several kernels as one matrix, or counts copies in a fan, so does its scheme here: the
fault is part of the default. Where it has two biases that are added, ours is drawn as their sum.

Layout: dense `io`; convolution `w..io` (with groups `w...io`, a `.` axis); embedding `io`, the
vocabulary as inputs; attention `i.o` (model, heads, features of a head) for query, key and value,
and `iio` for attention_out.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from jaxinit import initializers
from jaxinit.initializers.basic import normal, uniform, vector, zeros
from jaxinit.initializers.sampling import sampled_wide
from jaxinit.initializers.structured import gate_biases
from jaxinit.initializers.truncated import truncated_normal, truncated_std
from jaxinit.spec import Initializer, Joint, Leaf, axis_size

RECURRENT = ("rnn", "lstm", "gru")
# Scales are initially 1 in all libraries; the other roles here no library has.
NOT_THEIRS = (
    "scale",
    "peephole",
    "start",
    "log_decay",
    "log_phase",
    "step_bias",
    "log_rate",
    "decay_logit",
    "slope",
)
QKV = ("query", "key", "value")


def pytorch(leaf: Leaf) -> Initializer | None:
    """PyTorch: U(+-1/sqrt(fan_in)) for dense and convolution layers and their biases;
    U(+-1/sqrt(units)) for recurrent.

    Its recurrent layers have two biases that are added, so ours is the sum of two draws; the new
    gate of a GRU keeps them apart. Embeddings N(0, 1). Query, key and value are one Glorot matrix
    of 3 E outputs, attention biases 0. Source: torch.nn.Linear, _ConvNd, RNNBase, Embedding,
    MultiheadAttention, LayerNorm (2.13).
    """
    if leaf.role in NOT_THEIRS:
        return vector(leaf)
    if leaf.role == "embedding":
        return normal(1.0)
    if leaf.role in QKV:
        # One matrix in the library: its fan out counts the outputs of all three.
        outputs = math.prod(leaf.shape) // leaf.fan_in
        return _glorot(leaf.fan_in, 3 * outputs)
    if leaf.role == "bias" and leaf.kind in ("attention", "norm"):
        return zeros
    if leaf.kind not in RECURRENT:
        return _plus_minus(_inputs_of_layer(leaf))
    by_units = _plus_minus(axis_size(leaf.shape, leaf.dims, "o"))
    # The reset bias of a GRU is the second bias of the new gate.
    if leaf.role != "bias" or leaf.name.endswith("reset_bias"):
        return by_units
    alone = "new" if leaf.kind == "gru" else None
    return _two_biases(by_units, alone, leaf.gate)


def equinox(leaf: Leaf) -> Initializer | None:
    """Equinox: U(+-1/sqrt(fan_in)) for dense and convolution layers and their biases;
    U(+-1/sqrt(units)) for recurrent.

    It has no vanilla RNN cell; ours gets the law of LSTM and GRU. Embeddings N(0, 1); attention is
    of dense layers. Source: equinox.nn.Linear, Conv, LSTMCell, GRUCell, Embedding,
    MultiheadAttention, LayerNorm (0.13).
    """
    if leaf.role in NOT_THEIRS:
        return vector(leaf)
    if leaf.role == "embedding":
        return normal(1.0)
    if leaf.role == "bias" and leaf.kind == "norm":
        return zeros
    if leaf.kind in RECURRENT:
        return _plus_minus(leaf.shape[-1])
    return _plus_minus(_inputs_of_layer(leaf))


def keras(leaf: Leaf) -> Initializer | None:
    """Keras: Glorot uniform kernels, orthogonal recurrent kernels, each one matrix for all gates;
    forget bias 1.

    With g gates the fan out of an input kernel is g times the units, and the recurrent kernel is
    orthogonal as a whole only. The heads of an attention kernel and the groups of a convolution
    count in the fan out. Embeddings U(+-0.05). Source: keras.layers.LSTM, GRU, SimpleRNN, Dense,
    Conv2D, Embedding, MultiHeadAttention, LayerNormalization (3.15)."""
    if leaf.role in NOT_THEIRS:
        return vector(leaf)
    if leaf.role == "bias":
        return _forget_one(leaf.gate) if leaf.kind == "lstm" else zeros
    if leaf.role == "embedding":
        return uniform(-0.05, 0.05)
    if leaf.role == "recurrent":
        orthogonal = initializers.orthogonal()
        return _fused(orthogonal) if leaf.gate else orthogonal
    if leaf.gate:
        return _fused(initializers.glorot("uniform"))
    # Heads and groups are among the last axes of the library's array, so its fan out has them.
    inputs = axis_size(leaf.shape, leaf.dims, "i")
    return _glorot(leaf.fan_in, math.prod(leaf.shape) // inputs)


def flax_nnx(leaf: Leaf) -> Initializer | None:
    """Flax NNX: LeCun normal kernels, orthogonal recurrent ones, in LSTM and GRU one matrix for all
    gates; zero biases.

    Its plain LSTMCell draws per gate: that is `flax_linen`. Embeddings N(0, 1/features).
    Source: flax.nnx.Linear, Conv, SimpleCell, OptimizedLSTMCell, GRUCell, Embed,
    MultiHeadAttention, LayerNorm (0.12)."""
    init = flax_linen(leaf)
    if init and leaf.role == "recurrent" and leaf.gate:
        return _fused(init)
    return init


def flax_linen(leaf: Leaf) -> Initializer | None:
    """Flax Linen: LeCun normal kernels, orthogonal recurrent kernels per gate, zero biases.

    Embeddings N(0, 1/features).
    Source: flax.linen.Dense, Conv, SimpleCell, LSTMCell, GRUCell, Embed,
    MultiHeadDotProductAttention (0.12).
    """
    if leaf.role in NOT_THEIRS:
        return vector(leaf)
    if leaf.role == "bias":
        return zeros
    if leaf.role == "embedding":
        return normal(1 / math.sqrt(leaf.fan_out))
    if leaf.role == "recurrent":
        return initializers.orthogonal()
    return initializers.lecun("truncated_normal")


def haiku(leaf: Leaf) -> Initializer | None:
    """Haiku: Gaussians cut at 2 of variance near 1/fan_in; the LSTM's fan counts inputs and units;
    forget bias 1.

    Dense layers, convolutions, RNN and LSTM do not correct the cut, so that their standard
    deviation is 0.880 of 1/sqrt(fan_in); the GRU does. Embeddings: the same cut at a scale of 1.
    Attention has no default; ours is that of its dense layers. Source: hk.Linear, ConvND,
    VanillaRNN, LSTM, GRU, Embed, LayerNorm (0.0.17), whose LSTM adds 1 to the forget gate instead
    of a bias.
    """
    if leaf.role in NOT_THEIRS:
        return vector(leaf)
    if leaf.role == "bias":
        return _forget_one(leaf.gate) if leaf.kind == "lstm" else zeros
    if leaf.kind == "gru":  # the one layer whose cut is corrected
        return initializers.lecun("truncated_normal")
    if leaf.kind == "lstm":
        fan = leaf.inputs + leaf.shape[-1]
    elif leaf.role == "embedding":
        fan = 1
    else:
        fan = leaf.fan_in
    # Ours has the standard deviation asked for after the cut, Haiku's before it.
    return truncated_normal(truncated_std(-2, 2) / math.sqrt(fan))


def _inputs_of_layer(leaf: Leaf) -> int:
    """The fan in of a layer, from its kernel or from its bias, which has none of its own."""
    if leaf.role == "bias":
        return leaf.inputs
    return leaf.fan_in


def _glorot(fan_in: int, fan_out: int) -> Initializer:
    bound = math.sqrt(6 / (fan_in + fan_out))
    return uniform(-bound, bound)


def _plus_minus(fan: int) -> Initializer:
    bound = 1 / math.sqrt(max(fan, 1))
    return uniform(-bound, bound)


def _forget_one(gates: tuple[str, ...]) -> Initializer:
    """1 for the forget gate, 0 for the others; a cell may hold each gate in a parameter of its
    own."""
    if "forget" not in gates:
        return zeros
    return gate_biases(gates, forget=1.0)


def _fused(init: Initializer) -> Joint:
    """One matrix `(inputs, gates * units)` drawn for all gates, and cut into theirs."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        gates, inputs, units = shape
        whole = init(key, (inputs, gates * units), dtype)
        return whole.reshape(inputs, gates, units).swapaxes(0, 1)

    return Joint(draw)


def _two_biases(init: Initializer, alone: str | None, gates: tuple[str, ...]) -> Joint:
    """The sum of two draws of a bias; of the gate called `alone`, one."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        first_key, second_key = jax.random.split(key)
        first = init(first_key, shape, dtype)
        second = init(second_key, shape, dtype)
        if alone is None:
            return first + second
        has_second = jnp.asarray([gate != alone for gate in gates], dtype)
        return first + second * has_second[:, None]

    return Joint(sampled_wide(draw))
