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
Pointwise = Callable[[Array], Array]


def _identity(x: Array) -> Array:
    return x


def _gelu(x: Array) -> Array:
    """The exact one. JAX's own takes erfc, which is slower on CPU."""
    return x * (1 + jax.lax.erf(x / math.sqrt(2))) / 2


ACTIVATIONS: dict[str, Pointwise] = {
    "linear": _identity,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softsign": jax.nn.soft_sign,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "hard_tanh": jax.nn.hard_tanh,
    "erf": jax.lax.erf,
    "elu": jax.nn.elu,
    "gelu": _gelu,
    "silu": jax.nn.silu,
}


def _tanh_slope(y: Array) -> Array:
    return 1 - y * y


def _sigmoid_slope(y: Array) -> Array:
    return y * (1 - y)


def _softsign_slope(y: Array) -> Array:
    return (1 - jnp.abs(y)) ** 2


def _relu_slope(y: Array) -> Array:
    return (y > 0).astype(y.dtype)


def _leaky_relu_slope(y: Array) -> Array:
    return jnp.where(y > 0, 1.0, 0.01).astype(y.dtype)


def _hard_tanh_slope(y: Array) -> Array:
    return (jnp.abs(y) < 1).astype(y.dtype)


# phi'(x) as a function of phi(x): what lets the states be the only residual. Activations without
# such a function are for feed-forward layers only.
SLOPES: dict[str, Pointwise] = {
    "linear": jnp.ones_like,
    "tanh": _tanh_slope,
    "sigmoid": _sigmoid_slope,
    "softsign": _softsign_slope,
    "relu": _relu_slope,
    "leaky_relu": _leaky_relu_slope,
    "hard_tanh": _hard_tanh_slope,
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
    project = _projection if backward == "by_hand" else _projection_plain
    return project(x_tbi, w_in, bias_n)


def _projection_plain(x_tbi: Array, w_in: Array, bias_n: Array) -> Array:
    z_tbn = x_tbi @ w_in
    return z_tbn + jnp.broadcast_to(bias_n, z_tbn.shape)


def _projection_forward(x_tbi: Array, w_in: Array, bias_n: Array):
    z_tbn = _projection_plain(x_tbi, w_in, bias_n)
    # The bias itself is not kept: its gradient does not depend on it.
    return z_tbn, (x_tbi, w_in)


def _projection_backward(kept: tuple[Array, Array], dz_tbn: Array):
    x_tbi, w_in = kept
    dx_tbi = dz_tbn @ w_in.T
    dw_in = _outer(x_tbi, dz_tbn)
    rows = dz_tbn.reshape(-1, dz_tbn.shape[-1])
    return dx_tbi, dw_in, jnp.sum(rows, axis=0)


_projection = jax.custom_vjp(_projection_plain)
_projection.defvjp(_projection_forward, _projection_backward)


def _shifted(h_tbn: States, h_0: State) -> States:
    """The state before each step."""
    return jnp.concatenate([h_0[None], h_tbn[:-1]])


def _outer(left_tbn: Array, right_tbm: Array) -> Float[Array, "n m"]:
    """The sum over steps and batch of outer products: one matrix product."""
    columns = left_tbn.reshape(-1, left_tbn.shape[-1]).T
    rows = right_tbm.reshape(-1, right_tbm.shape[-1])
    return columns @ rows


def _transposed(u: Arrays) -> list[Array]:
    """The matrices of a backward loop: turned round once, before it, and not at every step."""
    return [w.T for w in u]


def _through(dz: Arrays, back: list[Array]) -> Array:
    """The gradient that reaches the state before through each gate's matrix, given transposed."""
    total = dz[0] @ back[0]
    for gradient, w_back in zip(dz[1:], back[1:], strict=True):
        total = total + gradient @ w_back
    return total


def _rnn_plain(activation: str, unroll: int, z_tbn: Array, w_nn: Array, h_0: Array) -> Array:
    def step(h: Array, z: Array) -> tuple[Array, Array]:
        h = ACTIVATIONS[activation](z + h @ w_nn)
        return h, h

    return jax.lax.scan(step, h_0, z_tbn, unroll=unroll)[1]


def _rnn_forward(activation: str, unroll: int, z_tbn: Array, w_nn: Array, h_0: Array):
    # The projections are not kept: the slope is a function of the states.
    h_tbn = _rnn_plain(activation, unroll, z_tbn, w_nn, h_0)
    return h_tbn, (h_tbn, w_nn, h_0)


def _rnn_backward(activation: str, unroll: int, kept: tuple, into_tbn: Array):
    h_tbn, w_nn, h_0 = kept
    w_back = w_nn.T
    slope = SLOPES[activation]

    def step(dh: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        h, into = at
        dz = (dh + into) * slope(h)
        return dz @ w_back, dz

    steps = (h_tbn, into_tbn)
    dh_last = jnp.zeros_like(h_0)
    dh_0, dz_tbn = jax.lax.scan(step, dh_last, steps, reverse=True, unroll=unroll)
    dw_nn = _outer(_shifted(h_tbn, h_0), dz_tbn)
    return dz_tbn, dw_nn, dh_0


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
        i, f, g, o = (z_bn + h @ u_nn for z_bn, u_nn in zip(z, u, strict=True))
        i = jax.nn.sigmoid(i)
        f = jax.nn.sigmoid(f)
        g = jnp.tanh(g)
        o = jax.nn.sigmoid(o)
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
    u_back = _transposed(u)

    def step(carry: tuple[Array, Array], at: tuple) -> tuple[tuple[Array, Array], Arrays]:
        dh, dc = carry
        before, squashed, (i, f, g, o), into = at
        dh = dh + into
        dc = dc + dh * o * (1 - squashed * squashed)
        di = dc * g * i * (1 - i)
        df = dc * before * f * (1 - f)
        dg = dc * i * (1 - g * g)
        do = dh * squashed * o * (1 - o)
        dz = (di, df, dg, do)
        return (_through(dz, u_back), dc * f), dz

    steps = (_shifted(c_tbn, c_0), squashed_tbn, gates, into_tbn)
    # The last cell goes out of the loop too, so a gradient may come in there.
    last = (jnp.zeros_like(h_0), into_c)
    (dh_0, dc_0), dz = jax.lax.scan(step, last, steps, reverse=True, unroll=unroll)
    h_before = _shifted(h_tbn, h_0)
    du = tuple(_outer(h_before, dz_tbn) for dz_tbn in dz)
    return dz, du, dh_0, dc_0


_lstm = jax.custom_vjp(_lstm_plain, nondiff_argnums=(0,))
_lstm.defvjp(_lstm_forward, _lstm_backward)


def _gru_after_scan(
    unroll: int, z: Arrays, u: Arrays, bias: Array, h_0: Array
) -> tuple[Array, Arrays]:
    """States, and (reset, update, new, recurrent part of new) of every step."""
    bias_bn = jnp.broadcast_to(bias, h_0.shape)

    def step(h: Array, z: Arrays) -> tuple[Array, tuple[Array, Arrays]]:
        reset = jax.nn.sigmoid(z[0] + h @ u[0])
        update = jax.nn.sigmoid(z[1] + h @ u[1])
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
    u_back = _transposed(u)
    before_tbn = _shifted(h_tbn, h_0)

    def step(dh: Array, at: tuple) -> tuple[Array, Arrays]:
        before, (reset, update, new, inner), into = at
        dh = dh + into
        dn = dh * (1 - update) * (1 - new * new)
        dr = dn * inner * reset * (1 - reset)
        du = dh * (before - new) * update * (1 - update)
        # The reset gate stands between the new state and its recurrent product, so the matrix of
        # the new state sees another gradient than its projection.
        d_inner = dn * reset
        dh = dh * update + _through((dr, du, d_inner), u_back)
        return dh, (dr, du, dn, d_inner)

    steps = (before_tbn, gates, into_tbn)
    dh_last = jnp.zeros_like(h_0)
    dh_0, dz = jax.lax.scan(step, dh_last, steps, reverse=True, unroll=unroll)
    dr, du, dn, d_inner = dz
    d_matrices = tuple(_outer(before_tbn, into_u) for into_u in (dr, du, d_inner))
    d_bias = jnp.sum(d_inner, axis=(0, 1))
    return (dr, du, dn), d_matrices, d_bias, dh_0


_gru_after = jax.custom_vjp(_gru_after_plain, nondiff_argnums=(0,))
_gru_after.defvjp(_gru_after_forward, _gru_after_backward)


def _gru_before_scan(unroll: int, z: Arrays, u: Arrays, h_0: Array) -> tuple[Array, Arrays]:
    """States, and (reset, update, new) of every step."""

    def step(h: Array, z: Arrays) -> tuple[Array, tuple[Array, Arrays]]:
        reset = jax.nn.sigmoid(z[0] + h @ u[0])
        update = jax.nn.sigmoid(z[1] + h @ u[1])
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
    *gates_back, new_back = _transposed(u)
    before_tbn = _shifted(h_tbn, h_0)

    def step(dh: Array, at: tuple) -> tuple[Array, Arrays]:
        before, (reset, update, new), into = at
        dh = dh + into
        dn = dh * (1 - update) * (1 - new * new)
        du = dh * (before - new) * update * (1 - update)
        through_new = dn @ new_back
        dr = through_new * before * reset * (1 - reset)
        dh = dh * update + through_new * reset + _through((dr, du), gates_back)
        return dh, (dr, du, dn)

    steps = (before_tbn, gates, into_tbn)
    dh_last = jnp.zeros_like(h_0)
    dh_0, (dr, du, dn) = jax.lax.scan(step, dh_last, steps, reverse=True, unroll=unroll)
    reset_tbn = gates[0]
    d_matrices = (
        _outer(before_tbn, dr),
        _outer(before_tbn, du),
        # The matrix of the new state is applied to the state that the reset gate lets through.
        _outer(reset_tbn * before_tbn, dn),
    )
    return (dr, du, dn), d_matrices, dh_0


_gru_before = jax.custom_vjp(_gru_before_plain, nondiff_argnums=(0,))
_gru_before.defvjp(_gru_before_forward, _gru_before_backward)
