"""The hand-written backward passes against autodiff: any shape, any depth of unrolling, first and
second order."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit.models import bptt

KINDS = ("rnn tanh", "rnn relu", "rnn sigmoid", "lstm", "gru after", "gru before")
SMOOTH = tuple(kind for kind in KINDS if kind != "rnn relu")


def states(kind: str, backward: bptt.Backward, unroll: int, p: dict):
    """All that comes out of a loop, side by side: for the LSTM its last cell too."""
    if kind.startswith("rnn"):
        return bptt.rnn_states(p["z"], p["u"], p["h"], kind.split()[1], unroll, backward)
    if kind == "lstm":
        h_tbn, c = bptt.lstm_states(p["z"], p["u"], p["h"], p["c"], unroll, backward)
        return jnp.concatenate([h_tbn, c[None]])
    return bptt.gru_states(p["z"], p["u"], p.get("bias"), p["h"], unroll, backward)


def arguments(kind: str, t: int, b: int, n: int, seed: int) -> dict:
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind.split()[0]]
    draws = np.random.default_rng(seed)
    small = 0.5 / np.sqrt(n)  # stable: rounding must not grow over the steps

    def array(*shape: int, scale: float = 1.0):
        return jnp.asarray(draws.normal(size=shape) * scale, jnp.float32)

    if gates == 1:
        return {"z": array(t, b, n), "u": array(n, n, scale=small), "h": array(b, n)}
    p = {
        "z": tuple(array(t, b, n) for _ in range(gates)),
        "u": tuple(array(n, n, scale=small) for _ in range(gates)),
        "h": array(b, n),
    }
    if kind == "lstm":
        p["c"] = array(b, n)
    if kind == "gru after":
        p["bias"] = array(n)
    return p


def loss(kind: str, backward: bptt.Backward, unroll: int = 1):
    def weighted_squares(p: dict):
        h = states(kind, backward, unroll, p)
        # Weights of both signs, so that errors of the steps do not add up to a right sum.
        weight = jnp.cos(jnp.arange(h.size, dtype=h.dtype)).reshape(h.shape)
        return jnp.sum(weight * h * h)

    return weighted_squares


def close(got: dict, expected: dict, factor: float = 30) -> None:
    """Equal to float32 rounding, relative to the largest entry of each gradient."""
    named = jax.tree.leaves_with_path(expected)
    for (path, value), other in zip(named, jax.tree.leaves(got), strict=True):
        largest = max(float(jnp.abs(value).max()), 1e-3)
        room = factor * np.finfo(np.float32).eps * largest
        np.testing.assert_allclose(other, value, rtol=0, atol=room, err_msg=str(path))


def dot(one: dict, other: dict):
    products = jax.tree.map(jnp.vdot, one, other)
    return sum(jax.tree.leaves(products))


@pytest.mark.parametrize("kind", quick("rnn tanh", "lstm", "gru before", of=KINDS))
@settings(max_examples=2, deadline=None, derandomize=True)
@given(t=st.integers(1, 12), b=st.integers(1, 5), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_gradients_equal_autodiff_on_random_shapes(
    kind: str, t: int, b: int, n: int, seed: int
) -> None:
    p = arguments(kind, t, b, n, seed)
    unroll = 1 + seed % t
    np.testing.assert_array_equal(states(kind, "by_hand", 1, p), states(kind, "autodiff", 1, p))
    by_hand = jax.jit(jax.grad(loss(kind, "by_hand", unroll)))(p)
    by_autodiff = jax.jit(jax.grad(loss(kind, "autodiff")))(p)
    close(by_hand, by_autodiff)


@pytest.mark.parametrize(
    ("over", "kind"),
    quick(
        ("grad of grad", "rnn tanh"),
        ("grad of grad", "gru before"),
        ("jvp of grad", "lstm"),
        ("jvp of grad", "gru after"),
        of=product(["grad of grad", "jvp of grad"], SMOOTH),
    ),
)
def test_second_order(kind: str, over: str) -> None:
    p = arguments(kind, 6, 2, 4, 0)
    direction = arguments(kind, 6, 2, 4, 1)

    def curvature(backward: bptt.Backward):
        gradient = jax.grad(loss(kind, backward))

        def slope_along(q: dict):
            return dot(gradient(q), direction)

        def change_along(q: dict):
            _, change = jax.jvp(gradient, (q,), (direction,))
            return change

        if over == "jvp of grad":
            return jax.jit(change_along)(p)
        return jax.jit(jax.grad(slope_along))(p)

    close(curvature("by_hand"), curvature("autodiff"), factor=300)


def test_forward_mode_of_the_loop_is_refused_by_name_and_works_by_autodiff() -> None:
    p = arguments("lstm", 4, 2, 3, 0)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(loss("lstm", "by_hand"), (p,), (p,))
    value, slope = jax.jit(lambda p: jax.jvp(loss("lstm", "autodiff"), (p,), (p,)))(p)
    expected = dot(jax.jit(jax.grad(loss("lstm", "by_hand")))(p), p)
    assert float(slope) == pytest.approx(float(expected), rel=1e-4)
    assert float(value) == pytest.approx(float(loss("lstm", "by_hand")(p)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_recurrent_matrix_is_one_product_after_the_loop(kind: str) -> None:
    p = arguments(kind, 8, 2, 4, 0)
    program = jax.make_jaxpr(jax.grad(loss(kind, "by_hand")))(p)
    loops = [equation for equation in program.jaxpr.eqns if equation.primitive.name == "scan"]
    assert len(loops) == 2
    n = jax.tree.leaves(p["u"])[0].shape
    for loop in loops:  # no loop carries or adds up anything of the matrix's shape
        carried = [v.aval.shape for v in loop.outvars]
        assert n not in carried
