"""The recurrent networks with a recurrent matrix: vanilla RNN, LSTM, GRU, minimal gated unit.

Each says what one step of one layer does (`step`), and the first three have loops of their own,
faster and with back-propagation through time by hand (`bptt`). Gates are an axis of their own in
every parameter, so that each gate is drawn as a matrix of its own.
"""

from typing import Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxinit.introspect import Place, param
from jaxinit.models.bptt import (
    ACTIVATIONS,
    State,
    States,
    gru_states,
    lstm_states,
    rnn_states,
)
from jaxinit.models.recurrent import Carry, Layer, Recurrent
from jaxinit.options import GRUOptions, LSTMOptions, RNNOptions


class RNN(Recurrent):
    """The vanilla recurrent network with three matrices, Wxh, Whh and Why.

    h_t = phi(x_t Wxh + h_{t-1} Whh + b), h_0 = 0; y = h_T Why + c, or y_t = h_t Why + c with
    `readout="all"`. With a `leak` a: h_t = (1 - a) h_{t-1} + a phi(...).

    Shapes: x `[batch, time, in_features]`, or whole numbers `[batch, time]` below in_features that
    stand for one-hot vectors; y `[batch, out_features]` or `[batch, time, out_features]`. All is
    computed in the dtype of the parameters, float32 until they are cast; features are cast to it.
    Roles: `input` (Wxh), `recurrent` (Whh), `readout` (Why), `bias`; of options `embedding`,
    `scale`, `start`.
    Keywords: those of `RNNOptions`; `init`, a scheme, and `kernel_init`, `recurrent_init`,
    `readout_init`, `bias_init`, which override it.
    In training, entries of the inputs of every layer and of the readout, never of the states passed
    on in time, are dropped at the rate that `training` says; with `variational` the same entries at
    every step, and of the states passed on too.
    Raises: ValueError as `RNNOptions`, for sizes below 1, an unroll beyond T, an x of another
    shape, or parameters of different dtypes; TypeError for a keyword that it does not take.
    Source: Chen et al. (2016), section 4, for segments; Zaremba et al. (2014), section 3.1, and Gal
    & Ghahramani (2016), section 4, for dropout; Ba et al. (2016), eq. 4, for the norm; Jaeger
    (2002), section 2.1, for the leak.
    """

    configuration = RNNOptions
    options: RNNOptions  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def activation_name(self) -> str:
        return self.options.activation

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        (h,) = carry
        seen = masked(h, keep)
        z_bn = self.recur(layer, 0, z[0], seen)
        new = ACTIVATIONS[self.options.activation](z_bn)
        if self.options.leak is None:
            return (new,)
        return (h + self.options.leak * (new - h),)

    def loop(
        self, layer: Layer, z: tuple[States, ...], before: Carry
    ) -> tuple[States, Carry] | None:
        options = self.options
        # Slopes by hand are functions of phi(x), and with a leak the state is no longer that.
        if options.leak is not None:
            return None
        h_tbn = rnn_states(
            z[0],
            layer.recurrent[...],
            before[0],
            options.activation,
            options.unroll,
            options.backward,
        )
        return h_tbn, (h_tbn[-1],)


class LSTM(Recurrent):
    """Long short-term memory with a forget gate, with or without peepholes.

    (i, f, g, o)_t = x_t W + h_{t-1} U + b, one matrix and bias per gate; c_t = s(f) c_{t-1} + s(i)
    tanh(g); h_t = s(o) tanh(c_t); h_0 = c_0 = 0; s the logistic function. With `peepholes` p, one
    vector for each of i, f, o:
    i and f see + p c_{t-1}, and o sees + p c_t. y as in `RNN`.

    Shapes, roles and keywords as in `RNN`, with `LSTMOptions`; `input`, `recurrent` and
    `bias` have a leading axis over the gates (input, forget, cell, output); peepholes have the role
    `peephole`.
    Source: Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000) and the
    peepholes of Gers, Schraudolph & Schmidhuber (2002).
    """

    configuration = LSTMOptions
    options: LSTMOptions  # pyright: ignore[reportIncompatibleVariableOverride]
    gates = ("input", "forget", "cell", "output")
    kind = "lstm"
    kept = 15
    carries = 2

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        layer = super().make_layer(n_in, n, **place)
        if self.options.peepholes:
            peeping: Place = {**place, "gate": ("input", "forget", "output")}
            layer.peephole = param((3, n), ".o", "peephole", **peeping)
        return layer

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        h, c = carry
        h = masked(h, keep)
        i = jax.nn.sigmoid(self.recur(layer, 0, z[0], h, self._peep(layer, 0, c)))
        f = jax.nn.sigmoid(self.recur(layer, 1, z[1], h, self._peep(layer, 1, c)))
        c = f * c + i * jnp.tanh(self.recur(layer, 2, z[2], h))
        # The output gate sees the new cell, the other two saw the old one.
        o = jax.nn.sigmoid(self.recur(layer, 3, z[3], h, self._peep(layer, 2, c)))
        return o * jnp.tanh(c), c

    def _peep(self, layer: Layer, row: int, c: Array) -> Array | None:
        """What a gate sees of the cell."""
        if not self.options.peepholes:
            return None
        return jnp.broadcast_to(layer.peephole[...][row], c.shape) * c

    def loop(
        self, layer: Layer, z: tuple[States, ...], before: Carry
    ) -> tuple[States, Carry] | None:
        if self.options.peepholes:
            return None
        h_0, c_0 = before
        u = tuple(layer.recurrent[...])
        h_tbn, c = lstm_states(z, u, h_0, c_0, self.options.unroll, self.options.backward)
        return h_tbn, (h_tbn[-1], c)


class GRU(Recurrent):
    """Gated recurrent unit, in both conventions of the reset gate.

    (r, z)_t = s(x_t W + h_{t-1} U + b), one matrix and bias per gate; h_t = (1 - z) n + z h_{t-1};
    h_0 = 0, with reset="after":  n = tanh(x_t W_n + b_n + r (h_{t-1} U_n + b_hn)), as PyTorch and
    cuDNN; reset="before": n = tanh(x_t W_n + b_n + (r h_{t-1}) U_n), as the paper.

    Shapes, roles and keywords as in `RNN`, with `GRUOptions`; `input`, `recurrent` and
    `bias` have a leading axis over the gates (reset, update, new).
    Source: Cho et al. (2014), eq. 5 to 8. Departure: biases, which the paper leaves out. Other
    papers write z for 1 - z.
    """

    configuration = GRUOptions
    options: GRUOptions  # pyright: ignore[reportIncompatibleVariableOverride]
    gates = ("reset", "update", "new")
    kind = "gru"
    kept = 11

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        layer = super().make_layer(n_in, n, **place)
        if self.options.reset == "after":
            # The gate multiplies this bias too, so it does not add up with the one outside.
            one_vector: Place = {**place, "gate": (), "partner": "recurrent"}
            layer.reset_bias = param((n,), "o", "bias", **one_vector)
        return layer

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        (h,) = carry
        seen = masked(h, keep)
        reset = jax.nn.sigmoid(self.recur(layer, 0, z[0], seen))
        update = jax.nn.sigmoid(self.recur(layer, 1, z[1], seen))
        if self.options.reset == "after":
            product = seen @ layer.recurrent[...][2]
            inner = product + jnp.broadcast_to(layer.reset_bias[...], h.shape)
            new = jnp.tanh(self.normalized(layer, 2, z[2] + reset * inner))
        else:
            new = jnp.tanh(self.recur(layer, 2, z[2], reset * seen))
        # (1 - z) n + z h with one product instead of two.
        return (new + update * (h - new),)

    def loop(self, layer: Layer, z: tuple[States, ...], before: Carry) -> tuple[States, Carry]:
        (h_0,) = before
        bias = layer.reset_bias[...] if self.options.reset == "after" else None
        u = tuple(layer.recurrent[...])
        h_tbn = gru_states(z, u, bias, h_0, self.options.unroll, self.options.backward)
        return h_tbn, (h_tbn[-1],)


class MGU(Recurrent):
    """The minimal gated unit: a GRU whose two gates are one.

    z_t = s(x_t W_z + h_{t-1} U_z + b_z); n = tanh(x_t W_n + ((1 - z) h_{t-1}) U_n + b_n); h_t = (1
    - z) n + z h_{t-1}; h_0 = 0. y as in `RNN`.

    Shapes, roles and keywords as in `RNN`, with `RecurrentOptions`; `input`, `recurrent` and
    `bias` have a leading axis over the gates (update, new).
    Source: Zhou et al. (2016), eq. 4 to 6, whose f is our 1 - z, so that `update` keeps here as in
    `GRU`.
    """

    gates = ("update", "new")
    kind = "mgu"
    kept = 9

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        (h,) = carry
        seen = masked(h, keep)
        update = jax.nn.sigmoid(self.recur(layer, 0, z[0], seen))
        new = jnp.tanh(self.recur(layer, 1, z[1], (1 - update) * seen))
        return (new + update * (h - new),)


def masked(h: State, keep: Array | None) -> State:
    """The state as its recurrent product sees it."""
    if keep is None:
        return h
    return h * keep
