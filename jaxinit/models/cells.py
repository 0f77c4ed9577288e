"""The recurrent networks: vanilla RNN, LSTM, GRU, minimal gated unit, linear recurrent unit.

Each says what one step of one layer does (`step`), and the first three have loops of their own,
faster and with back-propagation through time by hand (`bptt`). Gates are an axis of their own in
every parameter, so that each gate is drawn as a matrix of its own.
"""

from typing import ClassVar, Literal, SupportsIndex, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxinit.introspect import Place, param
from jaxinit.models.bptt import (
    ACTIVATIONS,
    SLOPES,
    State,
    States,
    gru_states,
    lstm_states,
    rnn_states,
)
from jaxinit.models.common import Dense, activation_named, at_least_float32, dtype_of
from jaxinit.models.recurrent import Carry, Layer, Options, Recurrent, projected


class RNN(Recurrent):
    """The vanilla recurrent network with three matrices, Wxh, Whh and Why.

    h_t = phi(x_t Wxh + h_{t-1} Whh + b), h_0 = 0; y = h_T Why + c, or y_t = h_t Why + c with
    `readout="all"`. With a `leak` a: h_t = (1 - a) h_{t-1} + a phi(...).

    Shapes: x `[batch, time, in_features]`, or whole numbers `[batch, time]` below in_features that
    stand for one-hot vectors; y `[batch, out_features]` or `[batch, time, out_features]`. All is
    computed in the dtype of the parameters, float32 until they are cast; features are cast to it.
    Roles: `input` (Wxh), `recurrent` (Whh), `readout` (Why), `bias`; of options `embedding`,
    `scale`, `start`. Further layers read the states below them.
    Options: `activation` tanh, sigmoid, softsign, relu, leaky_relu, hard_tanh or linear; `leak`;
    `layers`; `readout` last or all; `bidirectional` (a second network reads each layer's input from
    the end, and the states of both are handed on side by side); `norm` "layer" normalizes every
    pre-activation over the units; `learned_start` makes the states before the first step
    parameters; `embedding` units between input and first layer; `truncate` cuts the gradient every
    so many steps; `stateful` (a batch size) starts each training batch from the states that the
    last one ended with, without gradient; `unroll` 1 to T steps of the loop written out in the
    compiled program; `segment` steps between two states kept for the backward pass, which computes
    the steps in between again (default: all in one, or about sqrt(T) where one batch would keep
    more than 256 MiB); in training, entries of the inputs of every layer and of the readout, never
    of the states passed on in time, are dropped at the rate that `training` says, or,
    `variational`, the same entries at every step and of the states passed on too; `backward`
    by_hand or autodiff (see `bptt`); `init` and `kernel_init`, `recurrent_init`, `readout_init`,
    `bias_init`.
    Raises: ValueError for sizes below 1, unknown names, options that exclude each other, an unroll
    beyond T, an x of another shape, or parameters of different dtypes.
    Source: Chen et al. (2016), section 4, for segments; Zaremba et al. (2014), section 3.1, and Gal
    & Ghahramani (2016), section 4, for dropout; Ba et al. (2016), eq. 4, for the norm; Jaeger
    (2002), section 2.1, for the leak.
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
        *,
        activation: str = "tanh",
        leak: float | None = None,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        activation_named(activation)  # raises for an unknown name
        if activation not in SLOPES:
            raise ValueError(
                f"an RNN takes the activations {', '.join(SLOPES)}, got {activation!r}; an MLP "
                "takes it"
            )
        if leak is not None and not 0 < leak <= 1:
            raise ValueError(
                f"leak must be above 0 and at most 1, got {leak}; leave it out for none"
            )
        self.activation_name, self.leak = activation, leak
        super().__init__(in_features, hidden_features, out_features, rngs=rngs, **options)

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        (h,) = carry
        new = ACTIVATIONS[self.activation_name](
            self.recur(layer, 0, z[0], h if keep is None else h * keep)
        )
        return (new if self.leak is None else h + self.leak * (new - h),)

    def loop(
        self, layer: Layer, z: tuple[States, ...], before: Carry
    ) -> tuple[States, Carry] | None:
        if self.leak is not None:
            return None
        args = self.activation_name, self.unroll, self.backward
        h_tbn = rnn_states(z[0], layer.recurrent[...], before[0], *args)
        return h_tbn, (h_tbn[-1],)


class LSTM(Recurrent):
    """Long short-term memory with a forget gate, with or without peepholes.

    (i, f, g, o)_t = x_t W + h_{t-1} U + b, one matrix and bias per gate; c_t = s(f) c_{t-1} + s(i)
    tanh(g); h_t = s(o) tanh(c_t); h_0 = c_0 = 0; s the logistic function. With `peepholes` p, one
    vector for each of i, f, o:
    i and f see + p c_{t-1}, and o sees + p c_t. y as in `RNN`.

    Shapes, roles and options as in `RNN`, without `activation` and `leak`; `input`, `recurrent` and
    `bias` have a leading axis over the gates (input, forget, cell, output); peepholes have the role
    `peephole`.
    Source: Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000) and the
    peepholes of Gers, Schraudolph & Schmidhuber (2002).
    """

    gates = ("input", "forget", "cell", "output")
    kind = "lstm"
    kept = 15
    carries = 2

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
        *,
        peepholes: bool = False,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        self.peepholes = peepholes
        super().__init__(in_features, hidden_features, out_features, rngs=rngs, **options)

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        layer = super().make_layer(n_in, n, **place)
        if self.peepholes:
            layer.peephole = param(
                (3, n), ".o", "peephole", **(place | {"gate": ("input", "forget", "output")})
            )
        return layer

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        h, c = carry
        h = h if keep is None else h * keep
        look = lambda k, c: (
            jnp.broadcast_to(layer.peephole[...][k], c.shape) * c if self.peepholes else None
        )
        i = jax.nn.sigmoid(self.recur(layer, 0, z[0], h, look(0, c)))
        f = jax.nn.sigmoid(self.recur(layer, 1, z[1], h, look(1, c)))
        c = f * c + i * jnp.tanh(self.recur(layer, 2, z[2], h))
        o = jax.nn.sigmoid(self.recur(layer, 3, z[3], h, look(2, c)))
        return o * jnp.tanh(c), c

    def loop(
        self, layer: Layer, z: tuple[States, ...], before: Carry
    ) -> tuple[States, Carry] | None:
        if self.peepholes:
            return None
        h_0, c_0 = before
        h_tbn, c = lstm_states(z, tuple(layer.recurrent[...]), h_0, c_0, self.unroll, self.backward)
        return h_tbn, (h_tbn[-1], c)


class GRU(Recurrent):
    """Gated recurrent unit, in both conventions of the reset gate.

    (r, z)_t = s(x_t W + h_{t-1} U + b), one matrix and bias per gate; h_t = (1 - z) n + z h_{t-1};
    h_0 = 0, with reset="after":  n = tanh(x_t W_n + b_n + r (h_{t-1} U_n + b_hn)), as PyTorch and
    cuDNN; reset="before": n = tanh(x_t W_n + b_n + (r h_{t-1}) U_n), as the paper.

    Shapes, roles and options as in `RNN`, without `activation` and `leak`; `input`, `recurrent` and
    `bias` have a leading axis over the gates (reset, update, new).
    Raises: ValueError for another `reset`.
    Source: Cho et al. (2014), eq. 5 to 8. Departure: biases, which the paper leaves out. Other
    papers write z for 1 - z.
    """

    gates = ("reset", "update", "new")
    kind = "gru"
    kept = 11

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
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
            layer.reset_bias = param(
                (n,), "o", "bias", **(place | {"gate": (), "partner": "recurrent"})
            )
        return layer

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        (h,) = carry
        given = h if keep is None else h * keep
        reset, update = (jax.nn.sigmoid(self.recur(layer, k, z[k], given)) for k in (0, 1))
        if self.reset_after:
            inner = given @ layer.recurrent[...][2] + jnp.broadcast_to(
                layer.reset_bias[...], h.shape
            )
            new = jnp.tanh(self.normalized(layer, 2, z[2] + reset * inner))
        else:
            new = jnp.tanh(self.recur(layer, 2, z[2], reset * given))
        return (new + update * (h - new),)

    def loop(self, layer: Layer, z: tuple[States, ...], before: Carry) -> tuple[States, Carry]:
        bias = layer.reset_bias[...] if self.reset_after else None
        h_tbn = gru_states(
            z, tuple(layer.recurrent[...]), bias, before[0], self.unroll, self.backward
        )
        return h_tbn, (h_tbn[-1],)


class MGU(Recurrent):
    """The minimal gated unit: a GRU whose two gates are one.

    z_t = s(x_t W_z + h_{t-1} U_z + b_z); n = tanh(x_t W_n + ((1 - z) h_{t-1}) U_n + b_n); h_t = (1
    - z) n + z h_{t-1}; h_0 = 0. y as in `RNN`.

    Shapes, roles and options as in `RNN`, without `activation` and `leak`; `input`, `recurrent` and
    `bias` have a leading axis over the gates (update, new).
    Source: Zhou et al. (2016), eq. 4 to 6, whose f is our 1 - z, so that `update` keeps here as in
    `GRU`.
    """

    gates = ("update", "new")
    kind = "mgu"
    kept = 9

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        (h,) = carry
        given = h if keep is None else h * keep
        update = jax.nn.sigmoid(self.recur(layer, 0, z[0], given))
        new = jnp.tanh(self.recur(layer, 1, z[1], (1 - update) * given))
        return (new + update * (h - new),)


class RingLayer(Layer):
    """The parameters of a linear recurrent layer; the real and the imaginary part are the copies of
    a matrix."""

    def __init__(self, n_in: int, n: int, **place: Unpack[Place]):
        parts: Place = {**place, "gate": ("real", "imaginary")}
        self.log_decay = param((n,), "o", "log_decay", **place)
        self.log_phase = param((n,), "o", "log_phase", **place)
        self.input = param((2, n_in, n), ".io", "input", **parts)
        self.mix = param((2, n, n), ".io", "hidden", **parts)
        self.skip = Dense(n_in, n, "hidden", **place)


class LRU(Recurrent):
    """The linear recurrent unit: a diagonal complex recurrence, and a nonlinearity between layers
    only.

    s_t = l s_{t-1} + g (x_t B) with l = exp(-exp(log_decay) + i exp(log_phase)), g = sqrt(1 -
    |l|^2), s_0 = 0;
    h_t = gelu(Re(s_t C) + x_t D + b). y as in `RNN`. All steps are computed at once by an
    associative scan.

    Shapes, roles and options as in `RNN`, without `activation`, `leak`, `norm` and `variational`.
    Roles: `log_decay` and `log_phase`, which every scheme draws uniformly on the ring 0.9 <= |l| <=
    0.999; `input` (B) and `hidden` (C, D), B and C with a leading axis over their real and
    imaginary parts, each of which is divided by sqrt(2), so that a scheme of variance 1/fan_in
    gives the complex matrix that variance. States are float32 where the parameters are narrower,
    since |l| = 0.999 is 1 in bfloat16; matrix products keep the dtype of the parameters.
    Raises: ValueError as `RNN`, and for `norm` or `variational`.
    Source: Orvieto et al. (2023), sections 3.1 to 3.4. Departures: g follows l instead of being
    learned; D is a matrix; one nonlinearity between layers in place of a gated MLP with a residual
    connection.
    """

    kind = "lru"
    kept = 8
    carries = 2  # the real and the imaginary part
    roles: ClassVar[set[str]] = {"input", "hidden", "readout", "bias"}
    activation_name = "linear"

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
        *,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ):
        for name in ("norm", "variational"):
            if options.get(name):
                raise ValueError(
                    f"an LRU has no recurrent matrix; leave {name} out, or use RNN, LSTM, GRU or "
                    "MGU"
                )
        super().__init__(in_features, hidden_features, out_features, rngs=rngs, **options)

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        return RingLayer(n_in, n, **place)

    def project(self, layer: Layer, x_tbi: Array) -> tuple[States, ...]:
        assert isinstance(layer, RingLayer)
        size = jnp.sqrt((1 - jnp.exp(-2 * jnp.exp(wide(layer.log_decay[...])))) / 2)
        bias = jnp.zeros_like(layer.log_decay[...])
        into = (projected(x_tbi, w_in, bias, self.backward) for w_in in layer.input[...])
        past = projected(x_tbi, layer.skip.kernel[...], layer.skip.bias[...], self.backward)
        return (*(jnp.broadcast_to(size, z.shape) * wide(z) for z in into), past)

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        del keep
        assert isinstance(layer, RingLayer)
        (re, im), (a, b) = carry, (jnp.broadcast_to(of, carry[0].shape) for of in poles(layer))
        return a * re - b * im + z[0], a * im + b * re + z[1]

    def out(self, layer: Layer, carry: Carry, z: tuple[Array, ...]) -> Array:
        assert isinstance(layer, RingLayer)
        real, imaginary = layer.mix[...]
        re, im = (part.astype(real.dtype) for part in carry)
        return jax.nn.gelu((re @ real - im @ imaginary) / jnp.sqrt(2.0).astype(z[2].dtype) + z[2])

    def out_before(self, layer: Layer, carry: Carry) -> State:
        """That of a step whose input is 0."""
        assert isinstance(layer, RingLayer)
        return self.out(
            layer, carry, (*carry, jnp.broadcast_to(layer.skip.bias[...], carry[0].shape))
        )

    def state_dtype(self) -> np.dtype:
        return at_least_float32(dtype_of(self))

    def loop(self, layer: Layer, z: tuple[States, ...], before: Carry) -> tuple[States, Carry]:
        assert isinstance(layer, RingLayer)
        pole = jax.lax.complex(*poles(layer))
        first = jax.lax.complex(z[0], z[1]).at[0].add(pole[None] * jax.lax.complex(*before))

        def after(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
            return left[0] * right[0], right[0] * left[1] + right[1]

        states = jax.lax.associative_scan(after, (jnp.broadcast_to(pole, first.shape), first))[1]
        re, im = states.real, states.imag
        return self.out(layer, (re, im), z), (re[-1], im[-1])


def poles(layer: RingLayer) -> tuple[Array, Array]:
    """The real and the imaginary part of the diagonal of a linear recurrence, float32 or wider."""
    size, phase = jnp.exp(-jnp.exp(wide(layer.log_decay[...]))), jnp.exp(wide(layer.log_phase[...]))
    return size * jnp.cos(phase), size * jnp.sin(phase)


def wide(values: Array) -> Array:
    """The values in float32 where they are narrower."""
    return values.astype(at_least_float32(values.dtype))
