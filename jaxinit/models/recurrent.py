"""The recurrent networks: vanilla RNN, LSTM and GRU, each a stack of layers under one readout.

In every layer the input projection of all time steps is one matrix product outside the time loop, and
`jax.lax.scan` runs the loop (in `bptt`). Gates are an axis of their own in every parameter, so that each gate is
drawn as a matrix of its own.
"""

import math
from typing import ClassVar, Literal, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinit.introspect import Place, Training, param
from jaxinit.models.bptt import SLOPES, Backward, States, gru_states, lstm_states, projection, rnn_states
from jaxinit.models.common import Dense, Inits, activation_named, check_sizes, dropped, start

KEPT_WHOLE = 2**28  # bytes that the time loop of one batch may keep for its backward pass before it is segmented

Carry = tuple[Array, ...]  # the states of one layer between two steps


class Options(Inits, total=False):
    """What RNN, LSTM and GRU share: depth, where the output is read, and how the time loop is run."""

    layers: int
    readout: Literal["last", "all"]
    unroll: int
    segment: int | None
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
    """What RNN, LSTM and GRU share. A subclass names its gates and runs one layer over time.

    `kept` is the number of arrays `[t, b, n]` that the backward pass of a layer needs, projections and their gradients
    included; `carries` the number of arrays `[b, n]` that pass from one step to the next.
    """

    gates: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str] = "rnn"
    kept: ClassVar[int] = 3
    carries: ClassVar[int] = 1
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
        segment: int | None = None,
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
            **({} if segment is None else {"segment": segment}),
        )
        if readout not in ("last", "all"):
            raise ValueError(f"readout is 'last' or 'all' (every step), got {readout!r}")
        if backward not in ("by_hand", "autodiff"):
            raise ValueError(f"backward is 'by_hand' or 'autodiff', got {backward!r}")
        self.read_every_step = readout == "all"
        self.unroll = unroll
        self.segment = segment
        self.hidden_features = hidden_features
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
                    inputs=n_in,
                    kind=self.kind,
                )
                for k, n_in in enumerate(widths[:-1])
            ]
        )
        self.readout = Dense(hidden_features, out_features, "readout", layer=layers, n_layers=layers)
        start(self, rngs, {"input", "recurrent", "readout", "bias"}, inits)

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        return Layer(n_in, n, **place)

    def run_layer(self, layer: Layer, x_tbi: Float[Array, "t b i"], before: Carry) -> tuple[States, Carry]:
        raise TypeError(f"{type(self).__name__} is the shared part; use RNN, LSTM or GRU")

    def __call__(
        self, x_bti: Float[Array, "b t i"], training: Training | None = None
    ) -> Float[Array, "b o"] | Float[Array, "b t o"]:
        b, t, _ = x_bti.shape
        if self.unroll > t:
            raise ValueError(f"unroll={self.unroll} is more than the {t} time steps; give 1 to that")
        x_tbi = x_bti.swapaxes(0, 1)
        zero = jnp.zeros((b, self.hidden_features), x_bti.dtype)
        before = ((zero,) * self.carries,) * len(self.layers)
        size = min(self.segment or self._segment(t, b), t)
        first = t % size or size  # the first segment takes what is left over
        noise = None if training is None or training.key is None else jax.random.split(training.key, -(-t // size))
        run = lambda before, at: self._run(before, at[0], training and training._replace(key=at[1]))
        after, y_tbo = run(before, (x_tbi[:first], None if noise is None else noise[0]))
        if first < t:
            segments = x_tbi[first:].reshape(-1, size, *x_tbi.shape[1:]), None if noise is None else noise[1:]
            after, more = jax.lax.scan(jax.checkpoint(run, prevent_cse=False), after, segments)
            y_tbo = jnp.concatenate([y_tbo, more.reshape(-1, *more.shape[2:])])
        if self.read_every_step:
            return y_tbo.swapaxes(0, 1)
        return self.readout(dropped(after[-1][0], training, len(self.layers)))

    def _run(
        self, before: tuple[Carry, ...], x_tbi: Float[Array, "t b i"], training: Training | None
    ) -> tuple[tuple[Carry, ...], Array]:
        """All layers over some steps: the states after them, and the outputs of those steps that are read."""
        h_tbn, after = x_tbi, []
        for k, (layer, carry) in enumerate(zip(self.layers, before, strict=True)):
            h_tbn, carry = self.run_layer(layer, dropped(h_tbn, training, k), carry)
            after.append(carry)
        read = dropped(h_tbn, training, len(self.layers)) if self.read_every_step else h_tbn[:0]
        return tuple(after), self.readout(read)

    def _segment(self, t: int, b: int) -> int:
        """The whole length where its residuals are few, else the square root: memory grows as sqrt(t) from there."""
        whole = 4 * self.kept * len(self.layers) * t * b * self.hidden_features
        return t if whole <= KEPT_WHOLE else math.isqrt(t - 1) + 1


def by_gate(
    x_tbi: Float[Array, "t b i"], layer: Layer, backward: Backward
) -> tuple[tuple[States, ...], tuple[Array, ...]]:
    """What a gated loop takes: the projections and the recurrent matrix of each gate."""
    w_gin, u_gnn, b_gn = layer.input[...], layer.recurrent[...], layer.bias[...]
    return tuple(projection(x_tbi, w, b, backward) for w, b in zip(w_gin, b_gn, strict=True)), tuple(u_gnn)


class RNN(Recurrent):
    """The vanilla recurrent network with three matrices, Wxh, Whh and Why.

    h_t = phi(x_t Wxh + h_{t-1} Whh + b), h_0 = 0; y = h_T Why + c, or y_t = h_t Why + c with `readout="all"`.

    Shapes: x `[batch, time, in_features]`; y `[batch, out_features]` or `[batch, time, out_features]`. float32.
    Roles: `input` (Wxh), `recurrent` (Whh), `readout` (Why), `bias`. Further layers read the states below them.
    Options: `activation` tanh, sigmoid, softsign, relu, leaky_relu, hard_tanh or linear; `layers`; `readout` last or
    all; `unroll` 1 to T steps of the loop written out in the compiled program; `segment` steps between two states kept
    for the backward pass, which computes the steps in between again (default: all in one, or about sqrt(T) where one
    batch would keep more than 256 MiB); in training, entries of the inputs of every layer and of the readout, never of
    the states passed on in time, are dropped at the rate that `training` says; `backward` by_hand or autodiff (see
    `bptt`); `init` and `kernel_init`, `recurrent_init`, `readout_init`, `bias_init`.
    Raises: ValueError for sizes below 1, unknown names, or an unroll beyond T.
    Source: Chen et al. (2016), section 4, for the segments; Zaremba et al. (2014), section 3.1, for the dropout.
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
        if activation not in SLOPES:
            raise ValueError(f"an RNN takes the activations {', '.join(SLOPES)}, got {activation!r}; an MLP takes it")
        self.activation_name = activation
        super().__init__(in_features, hidden_features, out_features, rngs=rngs, **options)

    def run_layer(self, layer: Layer, x_tbi: Float[Array, "t b i"], before: Carry) -> tuple[States, Carry]:
        z_tbn = projection(x_tbi, layer.input[...], layer.bias[...], self.backward)
        u_nn, (h_0,) = layer.recurrent[...], before
        h_tbn = rnn_states(z_tbn, u_nn, h_0, self.activation_name, self.unroll, self.backward)
        return h_tbn, (h_tbn[-1],)


class LSTM(Recurrent):
    """Long short-term memory with a forget gate and no peepholes.

    (i, f, g, o)_t = x_t W + h_{t-1} U + b, one matrix and bias per gate; c_t = s(f) c_{t-1} + s(i) tanh(g);
    h_t = s(o) tanh(c_t); h_0 = c_0 = 0; s the logistic function. y as in `RNN`.

    Shapes, roles and options as in `RNN`, without `activation`; `input`, `recurrent` and `bias` have a leading
    axis over the gates (input, forget, cell, output).
    Source: Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    """

    gates = ("input", "forget", "cell", "output")
    kind = "lstm"
    kept = 15
    carries = 2

    def run_layer(self, layer: Layer, x_tbi: Float[Array, "t b i"], before: Carry) -> tuple[States, Carry]:
        (z, u), (h_0, c_0) = by_gate(x_tbi, layer, self.backward), before
        h_tbn, c = lstm_states(z, u, h_0, c_0, self.unroll, self.backward)
        return h_tbn, (h_tbn[-1], c)


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
    kind = "gru"
    kept = 11

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

    def run_layer(self, layer: Layer, x_tbi: Float[Array, "t b i"], before: Carry) -> tuple[States, Carry]:
        bias = layer.reset_bias[...] if self.reset_after else None
        (z, u), (h_0,) = by_gate(x_tbi, layer, self.backward), before
        h_tbn = gru_states(z, u, bias, h_0, self.unroll, self.backward)
        return h_tbn, (h_tbn[-1],)
