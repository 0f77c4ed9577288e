"""A recurrent network through time: how far back its gradient reaches, what its state keeps, and
what theory says.

    model, parameters, batch -> sizes of states and their gradients by layer and step,
                                Jacobians between steps

`states_and_gradients` and `step_jacobians` are pure, for one draw; `memory_length` and
`singular_values` take what they find.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinit import theory
from jaxinit.introspect import Functional, Params
from jaxinit.models.common import at_least_float32
from jaxinit.signals.probes import Loss
from jaxinit.spec import Leaf

LAGS = 16  # lags at which Jacobians are taken apart, at most, evenly on a log scale
FALL = math.exp(-1)  # what of the gradient is left at the memory length


class Course(NamedTuple):
    """Signals of the states of every layer at every step. Steps run forward; sizes are those of an
    example.

    Shapes: `[layers, carries, steps]`; `gradient` is the norm of dC/ds_t, where C is the loss of
    the last output and s_t a state (h, and for an LSTM c), root mean square over examples; `mean`
    and `mean_square` are of the states' entries.
    """

    gradient: Float[Array, "layers carries steps"]
    mean: Float[Array, "layers carries steps"]
    mean_square: Float[Array, "layers carries steps"]


def states_and_gradients(
    model: Functional, loss: Loss, params: Params, batch: tuple[Array, Array]
) -> Course:
    """The course of the states and of their gradients, by taps on every state of the time loop.

    A gradient goes back through everything that depends on the state, later steps and higher layers
    alike. Where the network answers at every step, C is the loss of its last answer, so that all of
    the gradient comes from there. Assumes a network with a time loop in one direction. Raises:
    ValueError for another, and for a batch without examples.
    """
    x, y = batch
    if not x.shape[0]:
        raise ValueError(
            f"a look through time needs one example or more, got a batch of shape {x.shape}"
        )
    module = model.filled(params)
    if not hasattr(module, "unrolled"):
        raise ValueError(
            f"{type(module).__name__} has no time loop to look through; probe rnn, lstm, gru, mgu "
            "or lru"
        )
    shapes = jax.eval_shape(lambda: module.unrolled(x)[1])
    taps = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), shapes)

    def cost(taps: Any) -> tuple[Array, Any]:
        outputs, states, _ = module.unrolled(x, taps)
        if module.read_every_step:
            return loss(outputs[:, -1:], y[:, -1:]), states
        return loss(outputs, y), states

    gradients, states = jax.grad(cost, has_aux=True)(taps)
    wide = lambda of: of.astype(at_least_float32(of.dtype))
    stacked = lambda of: wide(
        jnp.stack([jnp.stack(carry) for carry in of])
    )  # [layer, carry, t, b, n]
    g, s = stacked(gradients), stacked(states)
    size = float(x.shape[0])  # the loss is a mean over examples
    return Course(
        size * jnp.sqrt(jnp.mean(jnp.sum(g**2, -1), -1)), s.mean((-2, -1)), (s**2).mean((-2, -1))
    )


def step_jacobians(model: Functional, params: Params, x: Array) -> Float[Array, "t s s"]:
    """ds_t/ds_(t-1) of every step of the last layer for one example, its inputs held fixed; s is
    the whole state.

    Shapes: x `[1, time, ...]`; s has carries * n entries.
    """
    module: Any = model.filled(params)
    _, states, projections = module.unrolled(x)
    layer, starts = module.layers[-1], module.start(1)[-1]
    before = tuple(
        jnp.concatenate([first[None], of[:-1]])
        for first, of in zip(starts, states[-1], strict=True)
    )

    def one(at: tuple[Any, Any]) -> Array:
        carry, z = at
        parts = lambda flat: tuple(part[None] for part in jnp.split(flat, len(carry)))
        after = lambda flat: jnp.concatenate(
            [of[0] for of in module.step(layer, parts(flat), z, None)]
        )
        return jax.jacfwd(after)(jnp.concatenate([of[0] for of in carry]))

    return jax.lax.map(one, (before, projections[-1]))


def singular_values(by_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of ds_T/ds_t, largest first, at lags T - t evenly spaced on a log scale:
    (lags, values).

    The product of the steps' Jacobians, in float64. Shapes: by_step `[t, s, s]`; lags `[k]`; values
    `[k, s]`.
    """
    total = len(by_step)
    lags = np.unique(np.geomspace(1, max(total - 1, 1), LAGS).astype(int))
    product, found = np.eye(by_step.shape[1]), []
    for lag in range(1, lags[-1] + 1):
        product = product @ by_step[total - lag].astype(np.float64)  # ds_T/ds_(T-1) first
        if lag in lags:
            clean = np.nan_to_num(
                product, nan=0.0, posinf=np.finfo(float).max, neginf=np.finfo(float).min
            )
            found.append(np.linalg.svd(clean, compute_uv=False))
    return lags, np.stack(found)


def memory_length(gradient: np.ndarray) -> np.ndarray:
    """In how many steps back the gradient falls to 1/e: the first such lag, infinite where there is
    none.

    Counted from the last state but one, whose gradient has come back through one step: that of the
    last state has come straight from the readout. Shapes: `[..., steps]` -> `[...]`, in steps.
    """
    back = gradient[..., -2::-1]
    below = back <= FALL * back[..., :1]
    return np.where(below.any(-1), below.argmax(-1), np.inf)


def expected_mean_square(
    leaves: Sequence[Leaf], params: dict[str, np.ndarray], x: np.ndarray, activation: str
) -> np.ndarray | None:
    """Mean square of h_t by mean-field theory for a vanilla RNN of one layer; None for other
    networks.

    q_t = n Var[U] E[phi(sqrt(q_(t-1)) z)^2] + |x_t W + b|^2 / n of every example: as in a deep net,
    though the weights of all steps are the same ones. Shapes: x `[b, t, i]` -> `[t]`.
    Assumes wide layers and a recurrent matrix of mean 0. Source: Chen, Pennington & Schoenholz
    (2018), eq. 6.
    """
    kinds = {leaf.kind for leaf in leaves if leaf.role == "recurrent"}
    one_layer = sum(leaf.role == "recurrent" for leaf in leaves) == 1
    if kinds != {"rnn"} or not one_layer or activation not in theory.ACTIVATIONS or x.ndim != 3:
        return None
    if any(leaf.role in ("scale", "embedding") for leaf in leaves):
        return None
    phi = theory.activation(activation).phi
    u, w, b = (params[f"layers.0.{name}"] for name in ("recurrent", "input", "bias"))
    into = ((x @ w + b) ** 2).mean(2)  # of each example, whose sizes differ
    spread, square, found = u.shape[0] * float(u.var()), np.zeros(len(x)), []
    for given in into.T:
        root = np.sqrt(spread * square + given)
        nodes, weights = theory.nodes_of(
            scale=1 / max(float(root.max()), 1e-9)
        )  # fine enough for every example
        square = phi(root[:, None] * nodes) ** 2 @ weights
        found.append(float(square.mean()))
    return np.asarray(found)
