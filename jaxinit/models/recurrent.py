"""The recurrent networks: vanilla RNN, LSTM and GRU, each a stack of layers under one readout.

In every layer the input projection of all time steps is one matrix product outside the time loop, and
`jax.lax.scan` runs the loop (in `bptt`). Gates are an axis of their own in every parameter, so that each gate is
drawn as a matrix of its own; they are fused only in the arithmetic.
"""

from typing import ClassVar, Literal, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinit.introspect import Place, param
from jaxinit.models.bptt import Backward, gru_states, lstm_states, rnn_states
from jaxinit.models.common import Dense, Inits, activation_named, check_sizes, start


class Options(Inits, total=False):
    """What RNN, LSTM and GRU share: depth, where the output is read, and how far the time loop is unrolled."""

    layers: int
    readout: Literal["last", "all"]
    unroll: int
    backward: Backward


class Layer(nnx.Module):
    """The parameters of one recurrent layer; with gates, their first axis runs over them."""

    reset_bias: nnx.Param

    def __init__(self, n_in: int, n: int, **place: Unpack[Place]):
        gates = place.get("gate", ())
        copies, dot = ((len(gates),), ".") if gates else ((), "")
        self.input = param((*copies, n_in, n), dot + "io", "input", **place)
        self.recurrent = param((*copies, n, n), dot + "io", "recurrent", **place)
        self.bias = param((*copies, n), dot + "o", "bias", **place)


class Recurrent(nnx.Module):
    """What RNN, LSTM and GRU share. A subclass names its gates and runs one layer over time."""

    gates: ClassVar[tuple[str, ...]] = ()
    activation_name = "tanh"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        layers: int = 1,
        readout: Literal["last", "all"] = "last",
        unroll: int = 1,
        backward: Backward = "by_hand",
        rngs: nnx.Rngs,
        **inits: Unpack[Inits],
    ):
        check_sizes(
            in_features=in_features,
            hidden_features=hidden_features,
            out_features=out_features,
            layers=layers,
            unroll=unroll,
        )
        if readout not in ("last", "all"):
            raise ValueError(f"readout is 'last' or 'all' (every step), got {readout!r}")
        if backward not in ("by_hand", "autodiff"):
            raise ValueError(f"backward is 'by_hand' or 'autodiff', got {backward!r}")
        self.read_every_step = readout == "all"
        self.unroll = unroll
        self.backward: Backward = backward
        widths = [in_features] + [hidden_features] * layers
        self.layers = nnx.List(
            [
                self.make_layer(
                    n_in,
                    hidden_features,
                    gate=self.gates,
                    layer=k,
                    n_layers=layers,
                    activation=self.activation_name,
                )
                for k, n_in in enumerate(widths[:-1])
            ]
        )
        self.readout = Dense(hidden_features, out_features, "readout", layer=layers, n_layers=layers)
        start(self, rngs, {"input", "recurrent", "readout", "bias"}, inits)

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        return Layer(n_in, n, **place)

    def run_layer(self, layer: Layer, x_tbi: Float[Array, "t b i"]) -> Float[Array, "t b n"]:
        raise TypeError(f"{type(self).__name__} is the shared part; use RNN, LSTM or GRU")

    def __call__(self, x_bti: Float[Array, "b t i"]) -> Float[Array, "b o"] | Float[Array, "b t o"]:
        if self.unroll > x_bti.shape[1]:
            raise ValueError(f"unroll={self.unroll} is more than the {x_bti.shape[1]} time steps; give 1 to that")
        h_tbn = x_bti.swapaxes(0, 1)
        for layer in self.layers:
            h_tbn = self.run_layer(layer, h_tbn)
        if self.read_every_step:
            return self.readout(h_tbn).swapaxes(0, 1)
        return self.readout(h_tbn[-1])


def project(x_tbi: Float[Array, "t b i"], layer: Layer) -> Float[Array, "t b gn"]:
    """The input projection of every time step and gate in one matrix product, bias added, gates side by side."""
    z = x_tbi @ fuse(layer.input[...])
    return z + jnp.broadcast_to(layer.bias[...].reshape(-1), z.shape)


def fuse(w: Float[Array, "*gates i o"]) -> Float[Array, "i go"]:
    """Gates side by side: `[gate, i, o]` to `[i, gate * o]`; a matrix without gates as it is."""
    return w if w.ndim == 2 else w.swapaxes(0, 1).reshape(w.shape[1], -1)


class RNN(Recurrent):
    """The vanilla recurrent network with three matrices, Wxh, Whh and Why.

    h_t = phi(x_t Wxh + h_{t-1} Whh + b), h_0 = 0; y = h_T Why + c, or y_t = h_t Why + c with `readout="all"`.

    Shapes: x `[batch, time, in_features]`; y `[batch, out_features]` or `[batch, time, out_features]`. float32.
    Roles: `input` (Wxh), `recurrent` (Whh), `readout` (Why), `bias`. Further layers read the states below them.
    Options: `activation` tanh, relu or sigmoid; `layers`; `readout` last or all; `unroll` 1 to T steps of the
    loop written out in the compiled program; `backward` by_hand or autodiff (see `bptt`); `init` and `kernel_init`,
    `recurrent_init`, `readout_init`, `bias_init`.
    Raises: ValueError for sizes below 1, unknown names, or an unroll beyond T.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        activation: str = "tanh",
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        activation_named(activation)  # raises for an unknown name
        self.activation_name = activation
        super().__init__(in_features, hidden_features, out_features, rngs=rngs, **options)

    def run_layer(self, layer: Layer, x_tbi: Float[Array, "t b i"]) -> Float[Array, "t b n"]:
        z_tbn = project(x_tbi, layer)
        h_0 = jnp.zeros_like(z_tbn[0])
        return rnn_states(z_tbn, layer.recurrent[...], h_0, self.activation_name, self.unroll, self.backward)


class LSTM(Recurrent):
    """Long short-term memory with a forget gate and no peepholes.

    (i, f, g, o)_t = x_t W + h_{t-1} U + b, one matrix and bias per gate; c_t = s(f) c_{t-1} + s(i) tanh(g);
    h_t = s(o) tanh(c_t); h_0 = c_0 = 0; s the logistic function. y as in `RNN`.

    Shapes, roles and options as in `RNN`, without `activation`; `input`, `recurrent` and `bias` have a leading
    axis over the gates (input, forget, cell, output).
    Source: Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    """

    gates = ("input", "forget", "cell", "output")

    def run_layer(self, layer: Layer, x_tbi: Float[Array, "t b i"]) -> Float[Array, "t b n"]:
        u_ng, z_tbg = fuse(layer.recurrent[...]), project(x_tbi, layer)
        zero = jnp.zeros((x_tbi.shape[1], u_ng.shape[0]), z_tbg.dtype)
        return lstm_states(z_tbg, u_ng, zero, zero, self.unroll, self.backward)


class GRU(Recurrent):
    """Gated recurrent unit, in both conventions of the reset gate.

    (r, z)_t = s(x_t W + h_{t-1} U + b), one matrix and bias per gate; h_t = (1 - z) n + z h_{t-1}; h_0 = 0, with
    reset="after":  n = tanh(x_t W_n + b_n + r (h_{t-1} U_n + b_hn)), as PyTorch and cuDNN;
    reset="before": n = tanh(x_t W_n + b_n + (r h_{t-1}) U_n), as the paper.

    Shapes, roles and options as in `RNN`, without `activation`; `input`, `recurrent` and `bias` have a leading
    axis over the gates (reset, update, new).
    Raises: ValueError for another `reset`.
    Source: Cho et al. (2014), eq. 5 to 8. Departure: biases, which the paper leaves out. Other papers write z for
    1 - z.
    """

    gates = ("reset", "update", "new")

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        reset: Literal["after", "before"] = "after",
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        if reset not in ("after", "before"):
            raise ValueError(f"reset is 'after' or 'before' the recurrent product, got {reset!r}")
        self.reset_after = reset == "after"
        super().__init__(in_features, hidden_features, out_features, rngs=rngs, **options)

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        layer = super().make_layer(n_in, n, **place)
        if self.reset_after:  # the bias inside the reset product, which only this convention has
            layer.reset_bias = param((n,), "o", "bias", **(place | {"gate": ()}))
        return layer

    def run_layer(self, layer: Layer, x_tbi: Float[Array, "t b i"]) -> Float[Array, "t b n"]:
        u_ng, z_tbg = fuse(layer.recurrent[...]), project(x_tbi, layer)
        zero = jnp.zeros((x_tbi.shape[1], u_ng.shape[0]), z_tbg.dtype)
        bias = layer.reset_bias[...] if self.reset_after else None
        return gru_states(z_tbg, u_ng, bias, zero, self.unroll, self.backward)
