"""The starts that other libraries give by default, so that a ported model can begin where the original did.

Each is a scheme for dense, recurrent (RNN, LSTM, GRU) and bias parameters, from the library's source (versions in the
docstrings). Where a library draws the kernels of all gates as one matrix, so does its scheme here: the fault is part of
the default. Where it has two biases that are added, ours, which has one, is their sum.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from jaxinit import initializers
from jaxinit.initializers import uniform, zeros
from jaxinit.spec import Initializer, Joint, Leaf
from jaxinit.structured import gate_biases

KERNELS = ("input", "recurrent", "hidden", "readout")


def pytorch(leaf: Leaf) -> Initializer:
    """PyTorch: U(+-1/sqrt(fan_in)) for dense layers and their biases; U(+-1/sqrt(units)) for all of RNN, LSTM and GRU.

    Source: torch.nn.Linear and RNNBase.reset_parameters (2.13). Its recurrent layers have two biases that are added,
    so ours is the sum of two draws; the new gate of a GRU keeps them apart.
    """
    if not leaf.cell:
        return _plus_minus(leaf.inputs if leaf.role == "bias" else leaf.fan_in)
    one = _plus_minus(leaf.shape[-1])
    if leaf.role != "bias" or leaf.name.endswith("reset_bias"):
        return one
    return _two_biases(one, alone="new" if leaf.cell == "gru" else None, gates=leaf.gate)


def equinox(leaf: Leaf) -> Initializer:
    """Equinox: U(+-1/sqrt(inputs)) for dense layers and their biases; U(+-1/sqrt(units)) for LSTM and GRU, one bias.

    Source: equinox.nn.Linear, LSTMCell, GRUCell (0.13). It has no vanilla RNN cell; ours gets the law of the others.
    """
    if leaf.cell:
        return _plus_minus(leaf.shape[-1])
    return _plus_minus(leaf.inputs if leaf.role == "bias" else leaf.fan_in)


def keras(leaf: Leaf) -> Initializer:
    """Keras: Glorot uniform kernels, orthogonal recurrent kernels, each one matrix for all gates; forget bias 1.

    With g gates the fan out of an input kernel is g times the units, and the recurrent kernel is orthogonal as a whole
    only. Source: keras.layers.LSTM, GRU, SimpleRNN, Dense (3.15).
    """
    if leaf.role == "bias":
        return gate_biases(leaf.gate, forget=1.0) if leaf.cell == "lstm" else zeros
    of_role = initializers.orthogonal() if leaf.role == "recurrent" else initializers.glorot("uniform")
    return _fused(of_role) if leaf.gate else of_role


def flax_nnx(leaf: Leaf) -> Initializer:
    """Flax NNX: LeCun normal kernels, orthogonal recurrent ones, in LSTM and GRU one matrix for all gates; zero biases.

    Source: flax.nnx.Linear, SimpleCell, OptimizedLSTMCell, GRUCell (0.12). Its plain LSTMCell draws per gate: that is
    `flax_linen`.
    """
    of_role = flax_linen(leaf)
    return _fused(of_role) if leaf.role == "recurrent" and leaf.gate else of_role


def flax_linen(leaf: Leaf) -> Initializer:
    """Flax Linen: LeCun normal kernels, orthogonal recurrent kernels per gate, zero biases.

    Source: flax.linen.Dense, SimpleCell, LSTMCell, GRUCell (0.12).
    """
    if leaf.role == "bias":
        return zeros
    return initializers.orthogonal() if leaf.role == "recurrent" else initializers.lecun("truncated_normal")


def haiku(leaf: Leaf) -> Initializer:
    """Haiku: Gaussians cut at 2 of variance near 1/fan_in; the LSTM's fan counts inputs and units; forget bias 1.

    Dense layers, RNN and LSTM do not correct the cut, so that their standard deviation is 0.880 of 1/sqrt(fan_in); the
    GRU does. Source: hk.Linear, VanillaRNN, LSTM, GRU (0.0.17), whose LSTM adds 1 to the forget gate instead of a bias.
    """
    if leaf.role == "bias":
        return gate_biases(leaf.gate, forget=1.0) if leaf.cell == "lstm" else zeros
    if leaf.cell == "gru":
        return initializers.lecun("truncated_normal")
    fan = leaf.inputs + leaf.shape[-1] if leaf.cell == "lstm" else leaf.fan_in
    return initializers.truncated_normal(initializers.truncated_std(-2, 2) / math.sqrt(fan))


def _plus_minus(fan: int) -> Initializer:
    bound = 1 / math.sqrt(max(fan, 1))
    return uniform(-bound, bound)


def _fused(init: Initializer) -> Joint:
    """One matrix `(inputs, gates * units)` drawn for all gates, and cut into theirs."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
        gates, inputs, units = shape
        whole = init(key, (inputs, gates * units), dtype)
        return whole.reshape(inputs, gates, units).swapaxes(0, 1)

    return Joint(draw)


def _two_biases(init: Initializer, alone: str | None, gates: tuple[str, ...]) -> Joint:
    """The sum of two draws of a bias; of the gate called `alone`, one."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, /) -> Array:
        first, second = (init(k, shape, dtype) for k in jax.random.split(key))
        if alone is None:
            return first + second
        doubled = jnp.asarray([gate != alone for gate in gates], dtype)
        return first + second * doubled[:, None]

    return Joint(draw)
