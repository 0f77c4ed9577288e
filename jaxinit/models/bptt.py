"""The time loops of RNN, LSTM and GRU with back-propagation through time written by hand.

Each takes the input projections of all steps, and returns the states of all steps. Against autodiff of the same
`lax.scan`, the backward pass here keeps only what the derivatives are functions of (states and activated gates), and
adds up the gradient of the recurrent matrix in one large product after the loop instead of one small one a step.

`jax.grad`, and `jax.jvp` or `jax.grad` of it, work; `jax.jvp` of a loop itself does not, as JAX says by name when it is
tried. For forward mode build the model with `backward="autodiff"`, which runs the same loops without these rules.

Shapes: t time, b batch, n units, g gates side by side. `z` are projections with their biases, `h_0` and `c_0` states
before the first step.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Backward = Literal["by_hand", "autodiff"]
States = Float[Array, "t b n"]
State = Float[Array, "b n"]
Gates = Float[Array, "t b gn"]

# phi'(x) as a function of phi(x): what lets the states be the only residual.
SLOPES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
    "relu": lambda y: (y > 0).astype(y.dtype),
}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
}


def rnn_states(z_tbn: States, w_nn: Array, h_0: State, activation: str, unroll: int, backward: Backward) -> States:
    """h_t = phi(z_t + h_{t-1} W) for every t."""
    loop = _rnn if backward == "by_hand" else _rnn_plain
    return loop(activation, unroll, z_tbn, w_nn, h_0)


def lstm_states(z_tbg: Gates, u_ng: Array, h_0: State, c_0: State, unroll: int, backward: Backward) -> States:
    """h_t of an LSTM whose gates are, side by side, (input, forget, cell, output)."""
    loop = _lstm if backward == "by_hand" else _lstm_plain
    return loop(unroll, z_tbg, u_ng, h_0, c_0)


def gru_states(
    z_tbg: Gates, u_ng: Array, reset_bias: Array | None, h_0: State, unroll: int, backward: Backward
) -> States:
    """h_t of a GRU whose gates are, side by side, (reset, update, new).

    With `reset_bias` the reset gate multiplies the recurrent product, without it the state before the product.
    """
    if reset_bias is None:
        before = _gru_before if backward == "by_hand" else _gru_before_plain
        return before(unroll, z_tbg, u_ng, h_0)
    after = _gru_after if backward == "by_hand" else _gru_after_plain
    return after(unroll, z_tbg, u_ng, reset_bias, h_0)


def _shifted(h_tbn: States, h_0: State) -> States:
    """The state before each step."""
    return jnp.concatenate([h_0[None], h_tbn[:-1]])


def _outer(left_tbn: Array, right_tbm: Array) -> Float[Array, "n m"]:
    """The sum over steps and batch of outer products: one matrix product."""
    return left_tbn.reshape(-1, left_tbn.shape[-1]).T @ right_tbm.reshape(-1, right_tbm.shape[-1])


def _split(x: Array, parts: int) -> list[Array]:
    return jnp.split(x, parts, axis=-1)


def _rnn_plain(activation: str, unroll: int, z_tbn: Array, w_nn: Array, h_0: Array) -> Array:
    def step(h: Array, z: Array) -> tuple[Array, Array]:
        h = ACTIVATIONS[activation](z + h @ w_nn)
        return h, h

    return jax.lax.scan(step, h_0, z_tbn, unroll=unroll)[1]


def _rnn_forward(activation: str, unroll: int, z_tbn: Array, w_nn: Array, h_0: Array):
    h_tbn = _rnn_plain(activation, unroll, z_tbn, w_nn, h_0)
    return h_tbn, (h_tbn, w_nn, h_0)


def _rnn_backward(activation: str, unroll: int, kept: tuple[Array, ...], into_tbn: Array):
    h_tbn, w_nn, h_0 = kept
    w_back = w_nn.T

    def step(dh: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        h, into = at
        dz = (dh + into) * SLOPES[activation](h)
        return dz @ w_back, dz

    dh_0, dz_tbn = jax.lax.scan(step, jnp.zeros_like(h_0), (h_tbn, into_tbn), reverse=True, unroll=unroll)
    return dz_tbn, _outer(_shifted(h_tbn, h_0), dz_tbn), dh_0


_rnn = jax.custom_vjp(_rnn_plain, nondiff_argnums=(0, 1))
_rnn.defvjp(_rnn_forward, _rnn_backward)


def _lstm_scan(unroll: int, z_tbg: Array, u_ng: Array, h_0: Array, c_0: Array) -> tuple[Array, Array, Array]:
    """States, cells and activated gates of every step."""

    def step(carry: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        h, c = carry
        i, f, g, o = _split(z + h @ u_ng, 4)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (h, c), (h, c, jnp.concatenate([i, f, g, o], axis=-1))

    return jax.lax.scan(step, (h_0, c_0), z_tbg, unroll=unroll)[1]


def _lstm_plain(unroll: int, z_tbg: Array, u_ng: Array, h_0: Array, c_0: Array) -> Array:
    return _lstm_scan(unroll, z_tbg, u_ng, h_0, c_0)[0]


def _lstm_forward(unroll: int, z_tbg: Array, u_ng: Array, h_0: Array, c_0: Array):
    h_tbn, c_tbn, gates_tbg = _lstm_scan(unroll, z_tbg, u_ng, h_0, c_0)
    return h_tbn, (h_tbn, c_tbn, gates_tbg, u_ng, h_0, c_0)


def _lstm_backward(unroll: int, kept: tuple[Array, ...], into_tbn: Array):
    h_tbn, c_tbn, gates_tbg, u_ng, h_0, c_0 = kept
    u_back = u_ng.T

    def step(carry: tuple[Array, Array], at: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        dh, dc = carry
        before, c, gates, into = at
        i, f, g, o = _split(gates, 4)
        squashed = jnp.tanh(c)
        dh = dh + into
        dc = dc + dh * o * (1 - squashed * squashed)
        di, df, dg = dc * g * i * (1 - i), dc * before * f * (1 - f), dc * i * (1 - g * g)
        dz = jnp.concatenate([di, df, dg, dh * squashed * o * (1 - o)], axis=-1)
        return (dz @ u_back, dc * f), dz

    at = (_shifted(c_tbn, c_0), c_tbn, gates_tbg, into_tbn)
    zero = (jnp.zeros_like(h_0), jnp.zeros_like(c_0))
    (dh_0, dc_0), dz_tbg = jax.lax.scan(step, zero, at, reverse=True, unroll=unroll)
    return dz_tbg, _outer(_shifted(h_tbn, h_0), dz_tbg), dh_0, dc_0


_lstm = jax.custom_vjp(_lstm_plain, nondiff_argnums=(0,))
_lstm.defvjp(_lstm_forward, _lstm_backward)


def _gru_after_scan(unroll: int, z_tbg: Array, u_ng: Array, bias: Array, h_0: Array) -> tuple[Array, Array]:
    """States, and (reset, update, new, recurrent part of new) of every step."""
    bias_bn = jnp.broadcast_to(bias, h_0.shape)

    def step(h: Array, z: Array) -> tuple[Array, tuple[Array, Array]]:
        zr, zu, zn = _split(z, 3)
        ur, uu, un = _split(h @ u_ng, 3)
        reset, update, inner = jax.nn.sigmoid(zr + ur), jax.nn.sigmoid(zu + uu), un + bias_bn
        new = jnp.tanh(zn + reset * inner)
        h = new + update * (h - new)
        return h, (h, jnp.concatenate([reset, update, new, inner], axis=-1))

    return jax.lax.scan(step, h_0, z_tbg, unroll=unroll)[1]


def _gru_after_plain(unroll: int, z_tbg: Array, u_ng: Array, bias: Array, h_0: Array) -> Array:
    return _gru_after_scan(unroll, z_tbg, u_ng, bias, h_0)[0]


def _gru_after_forward(unroll: int, z_tbg: Array, u_ng: Array, bias: Array, h_0: Array):
    h_tbn, gates = _gru_after_scan(unroll, z_tbg, u_ng, bias, h_0)
    return h_tbn, (h_tbn, gates, u_ng, h_0)


def _gru_after_backward(unroll: int, kept: tuple[Array, ...], into_tbn: Array):
    h_tbn, gates, u_ng, h_0 = kept
    u_back = u_ng.T
    before_tbn = _shifted(h_tbn, h_0)

    def step(dh: Array, at: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        before, gates, into = at
        reset, update, new, inner = _split(gates, 4)
        dh = dh + into
        dn = dh * (1 - update) * (1 - new * new)
        dr = dn * inner * reset * (1 - reset)
        du = dh * (before - new) * update * (1 - update)
        recurrent = jnp.concatenate([dr, du, dn * reset], axis=-1)
        return dh * update + recurrent @ u_back, (recurrent, dn)

    zero = jnp.zeros_like(h_0)
    dh_0, (recurrent, dn) = jax.lax.scan(step, zero, (before_tbn, gates, into_tbn), reverse=True, unroll=unroll)
    n = h_0.shape[-1]
    dz = jnp.concatenate([recurrent[..., : 2 * n], dn], axis=-1)
    return dz, _outer(before_tbn, recurrent), jnp.sum(recurrent[..., 2 * n :], axis=(0, 1)), dh_0


_gru_after = jax.custom_vjp(_gru_after_plain, nondiff_argnums=(0,))
_gru_after.defvjp(_gru_after_forward, _gru_after_backward)


def _gru_before_scan(unroll: int, z_tbg: Array, u_ng: Array, h_0: Array) -> tuple[Array, Array]:
    """States, and (reset, update, new) of every step."""
    n = h_0.shape[-1]
    u_gates, u_new = u_ng[:, : 2 * n], u_ng[:, 2 * n :]

    def step(h: Array, z: Array) -> tuple[Array, tuple[Array, Array]]:
        zr, zu, zn = _split(z, 3)
        ur, uu = _split(h @ u_gates, 2)
        reset, update = jax.nn.sigmoid(zr + ur), jax.nn.sigmoid(zu + uu)
        new = jnp.tanh(zn + (reset * h) @ u_new)
        h = new + update * (h - new)
        return h, (h, jnp.concatenate([reset, update, new], axis=-1))

    return jax.lax.scan(step, h_0, z_tbg, unroll=unroll)[1]


def _gru_before_plain(unroll: int, z_tbg: Array, u_ng: Array, h_0: Array) -> Array:
    return _gru_before_scan(unroll, z_tbg, u_ng, h_0)[0]


def _gru_before_forward(unroll: int, z_tbg: Array, u_ng: Array, h_0: Array):
    h_tbn, gates = _gru_before_scan(unroll, z_tbg, u_ng, h_0)
    return h_tbn, (h_tbn, gates, u_ng, h_0)


def _gru_before_backward(unroll: int, kept: tuple[Array, ...], into_tbn: Array):
    h_tbn, gates, u_ng, h_0 = kept
    n = h_0.shape[-1]
    gates_back, new_back = u_ng[:, : 2 * n].T, u_ng[:, 2 * n :].T
    before_tbn = _shifted(h_tbn, h_0)

    def step(dh: Array, at: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        before, gates, into = at
        reset, update, new = _split(gates, 3)
        dh = dh + into
        dn = dh * (1 - update) * (1 - new * new)
        du = dh * (before - new) * update * (1 - update)
        through = dn @ new_back
        dr = through * before * reset * (1 - reset)
        past = dh * update + through * reset + jnp.concatenate([dr, du], axis=-1) @ gates_back
        return past, jnp.concatenate([dr, du, dn], axis=-1)

    zero = jnp.zeros_like(h_0)
    dh_0, dz = jax.lax.scan(step, zero, (before_tbn, gates, into_tbn), reverse=True, unroll=unroll)
    into_gates, into_new = dz[..., : 2 * n], dz[..., 2 * n :]
    du = jnp.concatenate([_outer(before_tbn, into_gates), _outer(gates[..., :n] * before_tbn, into_new)], axis=-1)
    return dz, du, dh_0


_gru_before = jax.custom_vjp(_gru_before_plain, nondiff_argnums=(0,))
_gru_before.defvjp(_gru_before_forward, _gru_before_backward)
