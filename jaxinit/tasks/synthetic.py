"""Tasks of pure memory, drawn on the device at any length: no two epochs see the same examples, and
no two seeds of a study validate on the same.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxinit.spec import named_key
from jaxinit.tasks.base import Data, Task, accuracy, check_length, cross_entropy, squared_error

EXAMPLES = 1280  # an epoch, as long as that of the digits
VALID = 1024
SYMBOLS, COPIED, DISTRACTORS = 8, 10, 4
BLANK, DELIMITER = SYMBOLS, SYMBOLS + 1

# One example, (key, length) -> (x, y); mapped over the batch outside.
Example = Callable[[Key[Array, ""], int], tuple[Array, Array]]


def adding(length: int = 50) -> Task:
    """Add the two marked numbers of a sequence: MSE, chance 1/6 (always answering 1).

    x_t = (u_t, m_t) with u ~ U[0, 1] and m = 1 at one step in each half, else 0; y = sum of m_t
    u_t.
    Raises: ValueError for a length below 2.
    Source: Hochreiter & Schmidhuber (1997), exp. 4, in the form of Arjovsky, Shah & Bengio (2016).
    """
    check_length("adding", length, 2, "marks one step in each half, so it ")
    chance = 1 / 6
    return _generated(
        "adding",
        _adding_example,
        delay=length,
        length=length,
        in_features=2,
        out_features=1,
        readout="last",
        loss=squared_error,
        metric_name="validation MSE",
        chance=chance,
        target=0.3 * chance,
        why="30 % of the error of always answering 1: out of reach without remembering both "
        "numbers",
    )


def copy(length: int = 20) -> Task:
    """Repeat ten symbols after a delay: cross-entropy in nats a step, chance 10 ln 8 / (length +
    20).

    Input: 10 symbols of 8, length - 1 blanks, a delimiter, 10 blanks, one-hot over 10; the answer
    is length + 10 blanks and then the 10 symbols. The sequence has length + 20 steps.
    Raises: ValueError for a length below 1.
    Source: Arjovsky, Shah & Bengio (2016), section 4.1, after Hochreiter & Schmidhuber (1997).
    """
    check_length("copy", length, 1)
    chance = COPIED * math.log(SYMBOLS) / (length + 2 * COPIED)
    return _generated(
        "copy",
        _copy_example,
        delay=length,
        length=length + 2 * COPIED,
        in_features=SYMBOLS + 2,
        out_features=SYMBOLS + 1,
        readout="all",
        loss=cross_entropy,
        metric_name="validation cross-entropy",
        chance=chance,
        target=0.3 * chance,
        why="30 % of the cost of knowing when to answer but not what: out of reach without memory",
    )


def copy_variable(length: int = 20) -> Task:
    """`copy` after 1 to `length` blanks, a number drawn anew for each sequence: the delay cannot be
    counted.

    Blanks follow the answer up to length + 20 steps. Chance, cost and shapes as in `copy`.
    Raises: ValueError for a length below 1.
    Source: Henaff, Szlam & LeCun (2016), section 3.1, as restated by Tallec & Ollivier (2018),
    section 3.
    """
    check_length("copy_variable", length, 1)
    return replace(
        copy(length),
        name="copy_variable",
        **_drawn("copy_variable", _copy_variable_example, length),
    )


def multiplication(length: int = 50) -> Task:
    """Multiply the two marked numbers of a sequence: MSE, chance 7/144 (always answering 1/4).

    Inputs as in `adding`; y = the product of the two. Var(u v) = 1/9 - 1/16 for u, v ~ U[0, 1].
    Raises: ValueError for a length below 2.
    Source: Hochreiter & Schmidhuber (1997), exp. 5.
    """
    check_length("multiplication", length, 2, "marks one step in each half, so it ")
    return replace(
        adding(length),
        name="multiplication",
        chance=7 / 144,
        target=0.3 * 7 / 144,
        why="30 % of the error of always answering 1/4, as for adding",
        **_drawn("multiplication", _multiplication_example, length),
    )


def temporal_order(length: int = 50) -> Task:
    """In which order were two of X and Y seen: four classes, validation accuracy, chance 1/4.

    X or Y stands at one step of the second tenth of the sequence and at one of its sixth tenth,
    among four other symbols at random; inputs one-hot over 6.
    Raises: ValueError for a length below 10.
    Source: Hochreiter & Schmidhuber (1997), exp. 6a, in the form of Pascanu et al. (2013) and their
    code.
    """
    return _temporal("temporal_order", length, ((1, 2), (5, 6)))


def temporal_order_3(length: int = 50) -> Task:
    """In which order were three of X and Y seen: eight classes, validation accuracy, chance 1/8.

    As `temporal_order`, with the symbols in the second, the fourth and the seventh tenth.
    Raises: ValueError for a length below 10.
    Source: Hochreiter & Schmidhuber (1997), exp. 6b, whose positions 10-20, 33-43 and 66-76 of 100
    these are, rounded."""
    return _temporal("temporal_order_3", length, ((1, 2), (3, 4), (6, 7)))


def parity(length: int = 10) -> Task:
    """Is the number of ones even or odd: two classes, validation accuracy, chance 1/2.

    x_t is -1 or 1 at random; y = 1 where the number of ones is odd. One bit must be kept through
    all steps, and every step may turn it over: no gradient points the way.
    Raises: ValueError for a length below 1.
    Source: Hochreiter & Schmidhuber (1997), section 5, who solve it by guessing weights.
    """
    check_length("parity", length, 1)
    return _generated(
        "parity",
        _parity_example,
        delay=length,
        length=length,
        in_features=1,
        out_features=2,
        readout="last",
        loss=cross_entropy,
        metric=accuracy,
        metric_name="validation accuracy",
        higher_is_better=True,
        chance=0.5,
        target=0.95,
        why="far above one half: there is little between guessing and solving it",
    )


@cache
def _temporal_by(tenths: tuple[tuple[int, int], ...]) -> Example:
    return partial(_temporal_example, tenths)


def _temporal(name: str, length: int, tenths: tuple[tuple[int, int], ...]) -> Task:
    check_length(name, length, 10, "has symbols in tenths of the sequence, so it ")
    return _generated(
        name,
        _temporal_by(tenths),
        delay=length,
        length=length,
        in_features=2 + DISTRACTORS,
        out_features=2 ** len(tenths),
        readout="last",
        loss=cross_entropy,
        metric=accuracy,
        metric_name="validation accuracy",
        higher_is_better=True,
        chance=0.5 ** len(tenths),
        target=0.95,
        why="both symbols must be remembered: one alone gives at most half of it",
    )


def _adding_example(
    key: Key[Array, ""], length: int
) -> tuple[Float[Array, "t 2"], Float[Array, ""]]:
    u_t = jax.random.uniform(named_key(key, "numbers"), (length,))
    half = length // 2
    # The marks lie in different halves, so they never meet at one step.
    mark_1 = jax.random.randint(named_key(key, "first mark"), (), 0, half)
    mark_2 = jax.random.randint(named_key(key, "second mark"), (), half, length)
    m_t = jax.nn.one_hot(mark_1, length) + jax.nn.one_hot(mark_2, length)
    return jnp.stack([u_t, m_t], axis=-1), jnp.sum(u_t * m_t)


def _copy_example(
    key: Key[Array, ""], length: int
) -> tuple[Float[Array, "t 10"], Int[Array, " t"]]:
    symbols = jax.random.randint(key, (COPIED,), 0, SYMBOLS)
    delay = jnp.full((length - 1,), BLANK)
    answer = jnp.full((COPIED,), BLANK)
    x_t = jnp.concatenate([symbols, delay, jnp.array([DELIMITER]), answer])
    y_t = jnp.concatenate([jnp.full((length + COPIED,), BLANK), symbols])
    return jax.nn.one_hot(x_t, SYMBOLS + 2), y_t


def _copy_variable_example(
    key: Key[Array, ""], length: int
) -> tuple[Float[Array, "t 10"], Int[Array, " t"]]:
    symbols = jax.random.randint(named_key(key, "symbols"), (COPIED,), 0, SYMBOLS)
    blanks = jax.random.randint(named_key(key, "delay"), (), 0, length)
    delimiter = COPIED + blanks
    t = jnp.arange(length + 2 * COPIED)
    # The delimiter's place is a random number, so x and y are chosen step by step, with indices
    # that are kept within the symbols where another branch is chosen.
    after = jnp.where(t == delimiter, DELIMITER, BLANK)
    x_t = jnp.where(t < COPIED, symbols[jnp.minimum(t, COPIED - 1)], after)
    past = t - delimiter - 1  # steps of the answer
    answering = (past >= 0) & (past < COPIED)
    y_t = jnp.where(answering, symbols[jnp.clip(past, 0, COPIED - 1)], BLANK)
    return jax.nn.one_hot(x_t, SYMBOLS + 2), y_t


def _multiplication_example(
    key: Key[Array, ""], length: int
) -> tuple[Float[Array, "t 2"], Float[Array, ""]]:
    x, _ = _adding_example(key, length)
    return x, jnp.prod(jnp.where(x[:, 1] > 0, x[:, 0], 1))


def _temporal_example(
    tenths: tuple[tuple[int, int], ...], key: Key[Array, ""], length: int
) -> tuple[Float[Array, "t 6"], Int[Array, ""]]:
    x_t = 2 + jax.random.randint(named_key(key, "others"), (length,), 0, DISTRACTORS)
    kinds = jax.random.randint(named_key(key, "kinds"), (len(tenths),), 0, 2)
    low = jnp.asarray([length * first // 10 for first, _ in tenths])
    high = jnp.asarray([length * last // 10 for _, last in tenths])
    places = jax.random.randint(named_key(key, "places"), low.shape, low, high)
    x_t = x_t.at[places].set(kinds)
    # The kinds, 0 or 1 each, are the digits of the class as a binary number.
    order = jnp.sum(kinds * 2 ** jnp.arange(len(tenths)))
    return jax.nn.one_hot(x_t, 2 + DISTRACTORS), order


def _parity_example(key: Key[Array, ""], length: int) -> tuple[Float[Array, "t 1"], Int[Array, ""]]:
    ones = jax.random.bernoulli(key, shape=(length,)).astype(jnp.int32)
    signs = (2 * ones - 1).astype(jnp.float32)
    return signs[:, None], jnp.sum(ones) % 2


def _generated(name: str, example: Example, *, delay: int, **rest: Any) -> Task:
    """A task whose examples are drawn one by one: a validation set of each seed, fresh training
    examples at every step."""
    defaults = {"metric": rest["loss"], "higher_is_better": False, "examples": EXAMPLES}
    return Task(name=name, **defaults | rest, **_drawn(name, example, delay))


def _validation(example: Example, delay: int, key: Key[Array, ""]) -> Data:
    x, y = jax.vmap(lambda key: example(key, delay))(jax.random.split(key, VALID))
    return {"valid_x": x, "valid_y": y}


# One program for all tasks of an example and a delay that a process makes.
_validation_by = jax.jit(_validation, static_argnums=(0, 1))


def _drawn(name: str, example: Example, delay: int) -> dict[str, Any]:
    """The part of such a task that draws: its data, batches and splits."""

    def examples(keys: Array) -> tuple[Array, Array]:
        return jax.vmap(lambda key: example(key, delay))(keys)

    # A ticket is the bits of a key for each example: keys themselves cannot be indexed as numbers.
    def tickets(data: Data, key: Key[Array, ""], steps: int, batch: int) -> Array:
        del data
        return jax.random.key_data(jax.random.split(key, (steps, batch)))

    def batch(data: Data, ticket: Array) -> tuple[Array, Array]:
        del data
        return examples(jax.random.wrap_key_data(ticket))

    def split(data: Data, key: Key[Array, ""]) -> Data:
        return data | _validation(example, delay, key)

    data = _validation_by(example, delay, named_key(jax.random.key(0), f"{name} valid"))
    return {"data": data, "tickets": tickets, "batch": batch, "split": split}
