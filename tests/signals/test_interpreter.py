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
    argument_origins = [WHOLE["gates"], *[None] * len(others)]
    looking = Interpreter(entries, COPIES, frozenset())
    return looking.run(traced.program, traced.arguments, argument_origins)


def swapped(array):
    return array.swapaxes(0, 2)


def flattened(array):
    return array.reshape(6, 4)


def sliced(array):
    return array[1]


def concatenated(array):
    both = jnp.concatenate if isinstance(array, jax.Array) else np.concatenate
    return both([array[1], array[0]], 1)


def first(array):
    return array[0]


def unmoved(array):
    return array


def cast(w: Array) -> Array:
    return w.astype(jnp.bfloat16)


def multiplied(w: Array) -> Array:
    return 3.0 * w / 2.0


@pytest.mark.parametrize(
    ("function", "moved"),
    [
        (swapped, swapped),
        (flattened, flattened),
        (sliced, sliced),
        (concatenated, concatenated),
        (cast, unmoved),
        (multiplied, unmoved),
        (jax.jit(first), first),
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
    def turn(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        h, w = carry
        return (jnp.tanh(h @ w[0, :, :3]), w), None

    def looped(w: Array, x: Array) -> tuple[Array, Array]:
        (h, w), _ = jax.lax.scan(turn, (x, w), length=4)
        return h, w

    done = evaluated(looped, X)
    assert done.origins[0] is None
    np.testing.assert_array_equal(done.origins[1].numbers, WHOLE["gates"].numbers)
    (site,) = done.sites
    assert site.copies.tolist() == [[0]] * 4


def test_slices_of_a_stack_are_their_own_copies_turn_by_turn() -> None:
    def backwards(w: Array, x: Array) -> Array:
        _, products = jax.lax.scan(lambda h, w: (h, x @ w), 0.0, w[::-1])
        return products

    (site,) = evaluated(backwards, X).sites
    assert site.copies.tolist() == [[1], [0]]
    np.testing.assert_allclose(site.product[0, 0], (X @ W[1]).ravel(), rtol=1e-5)


def test_a_look_has_shapes_and_no_values() -> None:
    traced = jaxprs.traced(lambda w, x: (w[0], x @ w[1]), W, X)
    looking = Interpreter(entries, COPIES, frozenset())
    seen = looking.look(traced.program, traced.arguments, [WHOLE["gates"], None])
    (site,) = seen.sites
    assert site.copies.tolist() == [1]
    ((product, given),) = seen.shapes
    assert (product.shape, given.shape) == ((1, 20), (1, 15))
    assert seen.origins[1] is None


def test_branches_share_the_sites_that_are_alike() -> None:
    def one(w: Array, x: Array) -> Array:
        return x @ w[0]

    def two(w: Array, x: Array) -> Array:
        return 2 * (x @ w[0]) + x @ w[1]

    def takes_two(w: Array, x: Array) -> Array:
        return jax.lax.cond(x.sum() > 1e9, one, two, w, x)

    def takes_one(w: Array, x: Array) -> Array:
        return jax.lax.cond(x.sum() < 1e9, one, two, w, x)

    sites = evaluated(takes_two, X).sites
    assert sorted(site.copies.tolist() for site in sites) == [[0], [1]]
    np.testing.assert_allclose(sites[0].product[0], (X @ W[0]).ravel(), rtol=1e-5)
    (missing,) = [site for site in evaluated(takes_one, X).sites if np.isnan(site.product).all()]
    assert missing.copies.tolist() == [1]


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
