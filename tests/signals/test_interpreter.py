"""Each kind of equation: what it does to origins, and which entries are measured together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from jaxinit.signals import interpreter, jaxprs, origins
from jaxinit.signals.interpreter import Evaluated, Interpreter
from jaxinit.spec import Leaf

GATES = Leaf("gates", (2, 3, 4), ".io", "hidden")
COPIES, WHOLE = origins.numbered([GATES])
W = jax.random.normal(jax.random.key(0), GATES.shape)
X = jax.random.normal(jax.random.key(1), (5, 3))


def entries(values: Array) -> Array:
    return values


def evaluated(function, *others: Array) -> Evaluated:
    """A function of the gates and of other arrays, run with measures that keep all entries."""
    traced = jaxprs.traced(function, W, *others)
    of_arguments = [WHOLE["gates"], *[None for _ in others]]
    looking = Interpreter(entries, COPIES, frozenset())
    return looking.run(traced.program, traced.arguments, of_arguments)


@pytest.mark.parametrize(
    ("function", "moved"),
    [
        (lambda w: w.swapaxes(0, 2), lambda n: n.swapaxes(0, 2)),
        (lambda w: w.reshape(6, 4), lambda n: n.reshape(6, 4)),
        (lambda w: w[1], lambda n: n[1]),
        (lambda w: jnp.concatenate([w[1], w[0]], 1), lambda n: np.concatenate([n[1], n[0]], 1)),
        (lambda w: w.astype(jnp.bfloat16), lambda n: n),
        (lambda w: 3.0 * w / 2.0, lambda n: n),
        (lambda w: jax.jit(lambda w: w[0])(w), lambda n: n[0]),
    ],
    ids=["transpose", "reshape", "slice", "concatenate", "cast", "multiplier", "jit"],
)
def test_origins_move_with_the_entries(function, moved) -> None:
    (origin,) = evaluated(function).origins
    assert origin is not None
    np.testing.assert_array_equal(origin.numbers, moved(WHOLE["gates"].numbers))


@pytest.mark.parametrize(
    "function",
    [jnp.tanh, lambda w: w + 1, lambda w: w * w, lambda w: w.sum(), lambda w: jnp.pad(w, 1)],
    ids=["nonlinear", "sum", "square", "reduction", "pad"],
)
def test_what_is_computed_has_no_origin(function) -> None:
    assert evaluated(function).origins == [None]


def test_a_loop_returns_parameters_that_it_hands_on() -> None:
    def looped(w: Array, x: Array) -> tuple[Array, Array]:
        (h, w), _ = jax.lax.scan(
            lambda carry, _: ((jnp.tanh(carry[0] @ carry[1][0, :, :3]), carry[1]), None),
            (x, w),
            length=4,
        )
        return h, w

    done = evaluated(looped, X)
    assert done.origins[0] is None
    np.testing.assert_array_equal(done.origins[1].numbers, WHOLE["gates"].numbers)
    (site,) = done.sites
    assert site.copies.tolist() == [[0]] * 4


def test_slices_of_a_stack_are_their_own_copies_turn_by_turn() -> None:
    reverse = lambda w, x: jax.lax.scan(lambda h, w: (h, x @ w), 0.0, w[::-1])[1]
    (site,) = evaluated(reverse, X).sites
    assert site.copies.tolist() == [[1], [0]]
    np.testing.assert_allclose(site.product[0, 0], (X @ W[1]).ravel(), rtol=1e-5)


def test_a_look_has_shapes_and_no_values() -> None:
    traced = jaxprs.traced(lambda w, x: (w[0], x @ w[1]), W, X)
    looking = Interpreter(entries, COPIES, frozenset())
    seen = looking.look(traced.program, traced.arguments, [WHOLE["gates"], None])
    assert [site.copies.tolist() for site in seen.sites] == [[1]]
    assert [tuple(shape.shape for shape in one) for one in seen.shapes] == [((1, 20), (1, 15))]
    assert seen.origins[1] is None


def test_branches_share_the_sites_that_are_alike() -> None:
    one = lambda w, x: x @ w[0]
    two = lambda w, x: 2 * (x @ w[0]) + x @ w[1]
    chosen = lambda w, x: jax.lax.cond(x.sum() > 1e9, one, two, w, x)
    sites = evaluated(chosen, X).sites
    assert sorted(site.copies.tolist() for site in sites) == [[0], [1]]
    np.testing.assert_allclose(sites[0].product[0], (X @ W[0]).ravel(), rtol=1e-5)
    taken = lambda w, x: jax.lax.cond(x.sum() < 1e9, one, two, w, x)
    missing = [site for site in evaluated(taken, X).sites if np.isnan(site.product).all()]
    assert [site.copies.tolist() for site in missing] == [[1]]


def measured(copies: list[int], axes: tuple[int, ...], y: Array) -> Array:
    array = np.asarray(copies, np.int32)
    return interpreter._ByCopy(entries, axes, array.tobytes(), str(array.dtype))(y)


def test_entries_are_measured_by_copy() -> None:
    y = jnp.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(measured([0, 0, 0, 0], (1,), y), y.reshape(1, -1))
    by_column = measured([1, 0, 1, 0], (1,), y)
    assert by_column.tolist() == [[1, 5, 9, 3, 7, 11], [0, 4, 8, 2, 6, 10]]


def test_a_copy_among_other_parameters_has_the_order_of_its_own_product() -> None:
    y = jnp.arange(12.0).reshape(3, 4)
    own = measured([-1, 0, 0, -1], (1,), y)
    np.testing.assert_array_equal(own, measured([0, 0], (1,), y[:, 1:3]))
