"""A recurrent network through time: how far back its gradient reaches, what its state keeps, and
what theory says.

    model, parameters, batch -> sizes of states and their gradients by layer and step,
                                Jacobians between steps

`states_and_gradients` and `step_jacobians` are pure, for one draw; `memory_length` and
`singular_values` take what they give.
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

LAGS = 16  # at most so many lags at which Jacobians are decomposed, evenly on a log scale
REMAINDER = math.exp(-1)  # the share of the gradient that is left at the memory length


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
            f"{type(module).__name__} has no time loop to look through; probe rnn, lstm, gru, mgu, "
            "lru, glr or rg_lru"
        )

    def states_of_module() -> Any:
        _, states, _ = module.unrolled(x)
        return states

    def zeros(state: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros(state.shape, state.dtype)

    # Taps are added to the states: the gradient with respect to them is that with respect to the
    # states, through everything that depends on them.
    taps = jax.tree.map(zeros, jax.eval_shape(states_of_module))

    def cost(taps: Any) -> tuple[Array, Any]:
        outputs, states, _ = module.unrolled(x, taps)
        outputs = outputs.astype(at_least_float32(outputs.dtype))  # as losses are
        if module.read_every_step:
            return loss(outputs[:, -1:], y[:, -1:]), states
        return loss(outputs, y), states

    gradients, states = jax.grad(cost, has_aux=True)(taps)
    gradients_lctbn = _stacked(gradients)
    states_lctbn = _stacked(states)
    # The loss is a mean over examples: its gradient times their number is that of an example.
    norms = jnp.sqrt(jnp.mean(jnp.sum(gradients_lctbn**2, -1), -1))
    return Course(
        gradient=float(x.shape[0]) * norms,
        mean=states_lctbn.mean((-2, -1)),
        mean_square=(states_lctbn**2).mean((-2, -1)),
    )


def _stacked(layers: Sequence[tuple[Array, ...]]) -> Float[Array, "layers carries t b n"]:
    """The states of all layers, or their gradients, as one array, in float32 or wider: sums over
    units would lose bfloat16's few digits."""
    by_layer = [jnp.stack(carries) for carries in layers]
    stacked = jnp.stack(by_layer)
    return stacked.astype(at_least_float32(stacked.dtype))


def step_jacobians(model: Functional, params: Params, x: Array) -> Float[Array, "t s s"]:
    """ds_t/ds_(t-1) of every step of the last layer for one example, its inputs held fixed; s is
    the whole state.

    Shapes: x `[1, time, ...]`; s has carries * n entries.
    """
    module: Any = model.filled(params)
    _, states, projections = module.unrolled(x)
    layer = module.layers[-1]
    initial_state = module.start(1)[-1]
    before = []  # each carry at the step before: the initial one, then all but the last
    for first, after in zip(initial_state, states[-1], strict=True):
        before.append(jnp.concatenate([first[None], after[:-1]]))

    def jacobian(step: tuple[tuple[Array, ...], Any]) -> Array:
        carry, projection = step

        def state_after(flat: Array) -> Array:
            parts = [part[None] for part in jnp.split(flat, len(carry))]
            return _flat(module.step(layer, tuple(parts), projection, None))

        return jax.jacfwd(state_after)(_flat(carry))

    # One step after another: vmap would hold the tangents of all steps at once.
    return jax.lax.map(jacobian, (tuple(before), projections[-1]))


def _flat(carry: Sequence[Array]) -> Float[Array, " s"]:
    """The whole state of one example as one vector."""
    return jnp.concatenate([state[0] for state in carry])


def singular_values(by_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of ds_T/ds_t, largest first, at lags T - t evenly spaced on a log scale:
    (lags, values).

    The product of the steps' Jacobians, in float64. Shapes: by_step `[t, s, s]`; lags `[k]`; values
    `[k, s]`.
    """
    steps = len(by_step)
    log_spaced = np.geomspace(1, max(steps - 1, 1), LAGS)
    lags = np.unique(log_spaced.astype(int))  # the shortest lags round to the same ones
    largest = np.finfo(float).max
    product = np.eye(by_step.shape[1])
    values = []
    for lag in range(1, lags[-1] + 1):
        product = product @ by_step[steps - lag].astype(np.float64)  # ds_T/ds_(T-1) first
        if lag in lags:
            # Of a product that has overflowed LAPACK raises.
            finite = np.nan_to_num(product, nan=0.0, posinf=largest, neginf=-largest)
            values.append(np.linalg.svd(finite, compute_uv=False))
    return lags, np.stack(values)


def memory_length(gradient: np.ndarray) -> np.ndarray:
    """In how many steps back the gradient falls to 1/e: the first such lag, infinite where there is
    none.

    Counted from the last state but one, whose gradient has come back through one step: that of the
    last state has come straight from the readout. Shapes: `[..., steps]` -> `[...]`, in steps.
    """
    back = gradient[..., -2::-1]
    is_below = back <= REMAINDER * back[..., :1]
    first_below = is_below.argmax(-1)  # 0 where there is none too
    return np.where(is_below.any(-1), first_below, np.inf)


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
    recurrent_kinds = [leaf.kind for leaf in leaves if leaf.role == "recurrent"]
    if recurrent_kinds != ["rnn"] or activation not in theory.ACTIVATIONS or x.ndim != 3:
        return None
    # A normalization sets the sizes of what it puts out, and of rows that are picked x tells none.
    if any(leaf.role in ("scale", "embedding") for leaf in leaves):
        return None
    phi = theory.activation(activation).phi
    recurrent = params["layers.0.recurrent"]
    projections = x @ params["layers.0.input"] + params["layers.0.bias"]
    from_input = (projections**2).mean(2)  # of each example, whose sizes differ
    gain = recurrent.shape[0] * float(recurrent.var())
    mean_square = np.zeros(len(x))
    by_step = []
    for from_input_at_step in from_input.T:
        std = np.sqrt(gain * mean_square + from_input_at_step)
        # Fine enough for the example whose states are the largest.
        nodes, weights = theory.nodes_of(scale=1 / max(float(std.max()), 1e-9))
        mean_square = phi(std[:, None] * nodes) ** 2 @ weights
        by_step.append(float(mean_square.mean()))
    return np.asarray(by_step)
