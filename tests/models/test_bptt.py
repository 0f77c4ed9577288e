"""The hand-written backward passes against autodiff: any shape, any depth of unrolling, first and
second order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit.models import bptt

KINDS = ("rnn tanh", "rnn relu", "rnn sigmoid", "lstm", "gru after", "gru before")


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
    array = lambda *shape, scale=1.0: jnp.asarray(draws.normal(size=shape) * scale, jnp.float32)
    small = 0.5 / np.sqrt(n)  # stable: rounding must not grow over the steps
    if gates == 1:
        return {"z": array(t, b, n), "u": array(n, n, scale=small), "h": array(b, n)}
    p = {
        "z": tuple(array(t, b, n) for _ in range(gates)),
        "u": tuple(array(n, n, scale=small) for _ in range(gates)),
        "h": array(b, n),
    }
    more = {"lstm": {"c": array(b, n)}, "gru after": {"bias": array(n)}}
    return p | more.get(kind, {})


def loss(kind: str, backward: bptt.Backward, unroll: int = 1):
    def of(p: dict):
        h = states(kind, backward, unroll, p)
        weight = jnp.cos(jnp.arange(h.size, dtype=h.dtype)).reshape(h.shape)
        return jnp.sum(weight * h * h)

    return of


def close(got: dict, expected: dict, factor: float = 30) -> None:
    """Equal to float32 rounding, relative to the largest entry of each gradient."""
    for (path, value), other in zip(
        jax.tree.leaves_with_path(expected), jax.tree.leaves(got), strict=True
    ):
        room = factor * np.finfo(np.float32).eps * max(float(jnp.abs(value).max()), 1e-3)
        np.testing.assert_allclose(other, value, rtol=0, atol=room, err_msg=str(path))


def dot(one: dict, other: dict):
    return sum(
        jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(t=st.integers(1, 12), b=st.integers(1, 5), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_gradients_equal_autodiff_on_random_shapes(
    kind: str, t: int, b: int, n: int, seed: int
) -> None:
    p = arguments(kind, t, b, n, seed)
    unroll = 1 + seed % t
    np.testing.assert_array_equal(states(kind, "by_hand", 1, p), states(kind, "autodiff", 1, p))
    close(jax.grad(loss(kind, "by_hand", unroll))(p), jax.grad(loss(kind, "autodiff"))(p))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "relu" not in kind])
@pytest.mark.parametrize("over", ["grad of grad", "jvp of grad"])
def test_second_order(kind: str, over: str) -> None:
    p, direction = arguments(kind, 6, 2, 4, 0), arguments(kind, 6, 2, 4, 1)

    def curvature(backward: bptt.Backward):
        gradient = jax.grad(loss(kind, backward))
        if over == "jvp of grad":
            return jax.jit(lambda q: jax.jvp(gradient, (q,), (direction,))[1])(p)
        return jax.jit(jax.grad(lambda q: dot(gradient(q), direction)))(p)

    close(curvature("by_hand"), curvature("autodiff"), factor=300)


def test_forward_mode_of_the_loop_is_refused_by_name_and_works_by_autodiff() -> None:
    p = arguments("lstm", 4, 2, 3, 0)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(loss("lstm", "by_hand"), (p,), (p,))
    value, slope = jax.jvp(loss("lstm", "autodiff"), (p,), (p,))
    expected = dot(jax.grad(loss("lstm", "by_hand"))(p), p)
    assert float(slope) == pytest.approx(float(expected), rel=1e-4)
    assert float(value) == pytest.approx(float(loss("lstm", "by_hand")(p)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_recurrent_matrix_is_one_product_after_the_loop(kind: str) -> None:
    p = arguments(kind, 8, 2, 4, 0)
    loops = [
        equation
        for equation in jax.make_jaxpr(jax.grad(loss(kind, "by_hand")))(p).jaxpr.eqns
        if equation.primitive.name == "scan"
    ]
    assert len(loops) == 2
    n = jax.tree.leaves(p["u"])[0].shape
    for loop in loops:  # no loop carries or adds up anything of the matrix's shape
        carried = [v.aval.shape for v in loop.outvars]
        assert n not in carried
