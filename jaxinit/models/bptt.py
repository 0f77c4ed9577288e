"""The time loops of RNN, LSTM and GRU with back-propagation through time written by hand.

Each takes the input projections of all steps, and returns the states of all steps. Against autodiff
of the same `lax.scan`, the backward pass here keeps only what the derivatives are functions of
(states and activated gates), and adds up the gradient of the recurrent matrix in one large product
after the loop instead of one small one a step.
Gates stay apart in the arithmetic too: on CPU, products of `[b, n]` with `[n, n]` run nearer to the
peak than one with `[n, 4 n]`, and nothing has to be concatenated and split again at every step
(measured: docs/performance.md).

`jax.grad`, and `jax.jvp` or `jax.grad` of it, work; `jax.jvp` of a loop itself does not, as JAX
says by name when it is tried. For forward mode build the model with `backward="autodiff"`, which
runs the same loops without these rules.

Shapes: t time, b batch, n units. `z` are the projections of one gate with their bias, `h_0` and
`c_0` the states before the first step.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinit.options import Backward

States = Float[Array, "t b n"]
State = Float[Array, "b n"]
Matrix = Float[Array, "n n"]
Arrays = tuple[Array, ...]

# phi'(x) as a function of phi(x): what lets the states be the only residual. Activations without
# such a function are for feed-forward layers only.
SLOPES: dict[str, Callable[[Array], Array]] = {
    "linear": jnp.ones_like,
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
    "softsign": lambda y: (1 - jnp.abs(y)) ** 2,
    "relu": lambda y: (y > 0).astype(y.dtype),
    "leaky_relu": lambda y: jnp.where(y > 0, 1.0, 0.01).astype(y.dtype),
    "hard_tanh": lambda y: (jnp.abs(y) < 1).astype(y.dtype),
}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softsign": jax.nn.soft_sign,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "hard_tanh": jax.nn.hard_tanh,
    "erf": jax.lax.erf,
    "elu": jax.nn.elu,
    # exact; JAX's own takes erfc, slower on CPU
    "gelu": lambda x: x * (1 + jax.lax.erf(x / math.sqrt(2))) / 2,
    "silu": jax.nn.silu,
}


def rnn_states(
    z_tbn: States, w_nn: Matrix, h_0: State, activation: str, unroll: int, backward: Backward
) -> States:
    """h_t = phi(z_t + h_{t-1} W) for every t."""
    loop = _rnn if backward == "by_hand" else _rnn_plain
    return loop(activation, unroll, z_tbn, w_nn, h_0)


def lstm_states(
    z: tuple[States, ...],
    u: tuple[Matrix, ...],
    h_0: State,
    c_0: State,
    unroll: int,
    backward: Backward,
) -> tuple[States, State]:
    """h_t of an LSTM whose gates are (input, forget, cell, output), and c after the last step."""
    loop = _lstm if backward == "by_hand" else _lstm_plain
    return loop(unroll, z, u, h_0, c_0)


def gru_states(
    z: tuple[States, ...],
    u: tuple[Matrix, ...],
    reset_bias: Float[Array, " n"] | None,
    h_0: State,
    unroll: int,
    backward: Backward,
) -> States:
    """h_t of a GRU whose gates are (reset, update, new).

    With `reset_bias` the reset gate multiplies the recurrent product, without it the state before
    the product.
    """
    if reset_bias is None:
        before = _gru_before if backward == "by_hand" else _gru_before_plain
        return before(unroll, z, u, h_0)
    after = _gru_after if backward == "by_hand" else _gru_after_plain
    return after(unroll, z, u, reset_bias, h_0)


def projection(x_tbi: Array, w_in: Array, bias_n: Array, backward: Backward) -> States:
    """x_t W + b of every t in one matrix product.

    By hand, the gradients of W and b are one product and one sum over all steps and examples as
    rows of a matrix, which XLA runs faster on CPU than autodiff's contraction over two axes
    (measured: docs/performance.md).
    """
    return (_projection if backward == "by_hand" else _projection_plain)(x_tbi, w_in, bias_n)


def _projection_plain(x_tbi: Array, w_in: Array, bias_n: Array) -> Array:
    z_tbn = x_tbi @ w_in
    return z_tbn + jnp.broadcast_to(bias_n, z_tbn.shape)


def _projection_backward(kept: tuple[Array, Array], dz_tbn: Array):
    x_tbi, w_in = kept
    return (
        dz_tbn @ w_in.T,
        _outer(x_tbi, dz_tbn),
        jnp.sum(dz_tbn.reshape(-1, dz_tbn.shape[-1]), axis=0),
    )


_projection = jax.custom_vjp(_projection_plain)
_projection.defvjp(lambda x, w, b: (_projection_plain(x, w, b), (x, w)), _projection_backward)


def _shifted(h_tbn: States, h_0: State) -> States:
    """The state before each step."""
    return jnp.concatenate([h_0[None], h_tbn[:-1]])


def _outer(left_tbn: Array, right_tbm: Array) -> Float[Array, "n m"]:
    """The sum over steps and batch of outer products: one matrix product."""
    return left_tbn.reshape(-1, left_tbn.shape[-1]).T @ right_tbm.reshape(-1, right_tbm.shape[-1])


def _through(dz: Arrays, back: list[Array]) -> Array:
    """The gradient that reaches the state before through each gate's matrix, given transposed."""
    return sum((of @ w for of, w in zip(dz[1:], back[1:], strict=True)), dz[0] @ back[0])


def _rnn_plain(activation: str, unroll: int, z_tbn: Array, w_nn: Array, h_0: Array) -> Array:
    def step(h: Array, z: Array) -> tuple[Array, Array]:
        h = ACTIVATIONS[activation](z + h @ w_nn)
        return h, h

    return jax.lax.scan(step, h_0, z_tbn, unroll=unroll)[1]


def _rnn_forward(activation: str, unroll: int, z_tbn: Array, w_nn: Array, h_0: Array):
    h_tbn = _rnn_plain(activation, unroll, z_tbn, w_nn, h_0)
    return h_tbn, (h_tbn, w_nn, h_0)


def _rnn_backward(activation: str, unroll: int, kept: tuple, into_tbn: Array):
    h_tbn, w_nn, h_0 = kept
    w_back = w_nn.T

    def step(dh: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        h, into = at
        dz = (dh + into) * SLOPES[activation](h)
        return dz @ w_back, dz

    dh_0, dz_tbn = jax.lax.scan(
        step, jnp.zeros_like(h_0), (h_tbn, into_tbn), reverse=True, unroll=unroll
    )
    return dz_tbn, _outer(_shifted(h_tbn, h_0), dz_tbn), dh_0


_rnn = jax.custom_vjp(_rnn_plain, nondiff_argnums=(0, 1))
_rnn.defvjp(_rnn_forward, _rnn_backward)


def _lstm_scan(
    unroll: int, z: Arrays, u: Arrays, h_0: Array, c_0: Array
) -> tuple[Array, Array, Array, Arrays]:
    """States, cells, tanh of the cells, and activated gates of every step."""

    def step(
        carry: tuple[Array, Array], z: Arrays
    ) -> tuple[tuple[Array, Array], tuple[Array, Array, Array, Arrays]]:
        h, c = carry
        i, f, g, o = (of + h @ w for of, w in zip(z, u, strict=True))
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * c + i * g
        squashed = jnp.tanh(c)
        h = o * squashed
        return (h, c), (h, c, squashed, (i, f, g, o))

    return jax.lax.scan(step, (h_0, c_0), z, unroll=unroll)[1]


def _lstm_plain(unroll: int, z: Arrays, u: Arrays, h_0: Array, c_0: Array) -> tuple[Array, Array]:
    h_tbn, c_tbn, _, _ = _lstm_scan(unroll, z, u, h_0, c_0)
    return h_tbn, c_tbn[-1]


def _lstm_forward(unroll: int, z: Arrays, u: Arrays, h_0: Array, c_0: Array):
    h_tbn, c_tbn, squashed, gates = _lstm_scan(unroll, z, u, h_0, c_0)
    return (h_tbn, c_tbn[-1]), (h_tbn, c_tbn, squashed, gates, u, h_0, c_0)


def _lstm_backward(unroll: int, kept: tuple, into: tuple[Array, Array]):
    h_tbn, c_tbn, squashed_tbn, gates, u, h_0, c_0 = kept
    into_tbn, into_c = into
    u_back = [w.T for w in u]

    def step(carry: tuple[Array, Array], at: tuple) -> tuple[tuple[Array, Array], Arrays]:
        dh, dc = carry
        before, squashed, (i, f, g, o), into = at
        dh = dh + into
        dc = dc + dh * o * (1 - squashed * squashed)
        dz = (
            dc * g * i * (1 - i),
            dc * before * f * (1 - f),
            dc * i * (1 - g * g),
            dh * squashed * o * (1 - o),
        )
        return (_through(dz, u_back), dc * f), dz

    at = (_shifted(c_tbn, c_0), squashed_tbn, gates, into_tbn)
    (dh_0, dc_0), dz = jax.lax.scan(
        step, (jnp.zeros_like(h_0), into_c), at, reverse=True, unroll=unroll
    )
    before = _shifted(h_tbn, h_0)
    return dz, tuple(_outer(before, of) for of in dz), dh_0, dc_0


_lstm = jax.custom_vjp(_lstm_plain, nondiff_argnums=(0,))
_lstm.defvjp(_lstm_forward, _lstm_backward)


def _gru_after_scan(
    unroll: int, z: Arrays, u: Arrays, bias: Array, h_0: Array
) -> tuple[Array, Arrays]:
    """States, and (reset, update, new, recurrent part of new) of every step."""
    bias_bn = jnp.broadcast_to(bias, h_0.shape)

    def step(h: Array, z: Arrays) -> tuple[Array, tuple[Array, Arrays]]:
        reset, update = (jax.nn.sigmoid(of + h @ w) for of, w in zip(z[:2], u[:2], strict=True))
        inner = h @ u[2] + bias_bn
        new = jnp.tanh(z[2] + reset * inner)
        h = new + update * (h - new)
        return h, (h, (reset, update, new, inner))

    return jax.lax.scan(step, h_0, z, unroll=unroll)[1]


def _gru_after_plain(unroll: int, z: Arrays, u: Arrays, bias: Array, h_0: Array) -> Array:
    return _gru_after_scan(unroll, z, u, bias, h_0)[0]


def _gru_after_forward(unroll: int, z: Arrays, u: Arrays, bias: Array, h_0: Array):
    h_tbn, gates = _gru_after_scan(unroll, z, u, bias, h_0)
    return h_tbn, (h_tbn, gates, u, h_0)


def _gru_after_backward(unroll: int, kept: tuple, into_tbn: Array):
    h_tbn, gates, u, h_0 = kept
    u_back = [w.T for w in u]
    before_tbn = _shifted(h_tbn, h_0)

    def step(dh: Array, at: tuple) -> tuple[Array, Arrays]:
        before, (reset, update, new, inner), into = at
        dh = dh + into
        dn = dh * (1 - update) * (1 - new * new)
        dr = dn * inner * reset * (1 - reset)
        du = dh * (before - new) * update * (1 - update)
        d_inner = dn * reset
        return dh * update + _through((dr, du, d_inner), u_back), (dr, du, dn, d_inner)

    at = (before_tbn, gates, into_tbn)
    dh_0, (dr, du, dn, d_inner) = jax.lax.scan(
        step, jnp.zeros_like(h_0), at, reverse=True, unroll=unroll
    )
    d_u = tuple(_outer(before_tbn, of) for of in (dr, du, d_inner))
    return (dr, du, dn), d_u, jnp.sum(d_inner, axis=(0, 1)), dh_0


_gru_after = jax.custom_vjp(_gru_after_plain, nondiff_argnums=(0,))
_gru_after.defvjp(_gru_after_forward, _gru_after_backward)


def _gru_before_scan(unroll: int, z: Arrays, u: Arrays, h_0: Array) -> tuple[Array, Arrays]:
    """States, and (reset, update, new) of every step."""

    def step(h: Array, z: Arrays) -> tuple[Array, tuple[Array, Arrays]]:
        reset, update = (jax.nn.sigmoid(of + h @ w) for of, w in zip(z[:2], u[:2], strict=True))
        new = jnp.tanh(z[2] + (reset * h) @ u[2])
        h = new + update * (h - new)
        return h, (h, (reset, update, new))

    return jax.lax.scan(step, h_0, z, unroll=unroll)[1]


def _gru_before_plain(unroll: int, z: Arrays, u: Arrays, h_0: Array) -> Array:
    return _gru_before_scan(unroll, z, u, h_0)[0]


def _gru_before_forward(unroll: int, z: Arrays, u: Arrays, h_0: Array):
    h_tbn, gates = _gru_before_scan(unroll, z, u, h_0)
    return h_tbn, (h_tbn, gates, u, h_0)


def _gru_before_backward(unroll: int, kept: tuple, into_tbn: Array):
    h_tbn, gates, u, h_0 = kept
    *gates_back, new_back = (w.T for w in u)
    before_tbn = _shifted(h_tbn, h_0)

    def step(dh: Array, at: tuple) -> tuple[Array, Arrays]:
        before, (reset, update, new), into = at
        dh = dh + into
        dn = dh * (1 - update) * (1 - new * new)
        du = dh * (before - new) * update * (1 - update)
        through_new = dn @ new_back
        dr = through_new * before * reset * (1 - reset)
        return dh * update + through_new * reset + _through((dr, du), gates_back), (dr, du, dn)

    at = (before_tbn, gates, into_tbn)
    dh_0, (dr, du, dn) = jax.lax.scan(step, jnp.zeros_like(h_0), at, reverse=True, unroll=unroll)
    d_u = (_outer(before_tbn, dr), _outer(before_tbn, du), _outer(gates[0] * before_tbn, dn))
    return (dr, du, dn), d_u, dh_0


_gru_before = jax.custom_vjp(_gru_before_plain, nondiff_argnums=(0,))
_gru_before.defvjp(_gru_before_forward, _gru_before_backward)
