"""Tasks of pure memory, drawn on the device at any length: no two epochs see the same examples."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxinit.spec import named_key
from jaxinit.tasks.base import Data, Task, cross_entropy, squared_error

EXAMPLES = 1280  # an epoch, as long as that of the digits
VALID = 1024
SYMBOLS, COPIED = 8, 10
BLANK, DELIMITER = SYMBOLS, SYMBOLS + 1

# One example, (key, length) -> (x, y); mapped over the batch outside.
Example = Callable[[Key[Array, ""], int], tuple[Array, Array]]


def adding(length: int = 50) -> Task:
    """Add the two marked numbers of a sequence: MSE, chance 1/6 (always answering 1).

    x_t = (u_t, m_t) with u ~ U[0, 1] and m = 1 at one step in each half, else 0; y = sum of m_t u_t.
    Raises: ValueError for a length below 2.
    Source: Hochreiter & Schmidhuber (1997), exp. 4, in the form of Arjovsky, Shah & Bengio (2016).
    """
    if length < 2:
        raise ValueError(f"task 'adding' marks one step in each half, so it needs a length of 2 or more, got {length}")
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
        why="30 % of the error of always answering 1: out of reach without remembering both numbers",
    )


def copy(length: int = 20) -> Task:
    """Repeat ten symbols after a delay: cross-entropy in nats a step, chance 10 ln 8 / (length + 20).

    Input: 10 symbols of 8, length - 1 blanks, a delimiter, 10 blanks, one-hot over 10; the answer is length + 10
    blanks and then the 10 symbols. The sequence has length + 20 steps.
    Raises: ValueError for a length below 1.
    Source: Arjovsky, Shah & Bengio (2016), section 4.1, after Hochreiter & Schmidhuber (1997).
    """
    if length < 1:
        raise ValueError(f"task 'copy' needs a delay of 1 or more, got {length}")
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


def _adding_example(key: Key[Array, ""], length: int) -> tuple[Float[Array, "t 2"], Float[Array, ""]]:
    numbers, first, second = (named_key(key, name) for name in ("numbers", "first mark", "second mark"))
    u_t = jax.random.uniform(numbers, (length,))
    half = length // 2
    mark_1 = jax.random.randint(first, (), 0, half)
    mark_2 = jax.random.randint(second, (), half, length)
    m_t = jax.nn.one_hot(mark_1, length) + jax.nn.one_hot(mark_2, length)
    return jnp.stack([u_t, m_t], axis=-1), jnp.sum(u_t * m_t)


def _copy_example(key: Key[Array, ""], length: int) -> tuple[Float[Array, "t 10"], Int[Array, " t"]]:
    symbols = jax.random.randint(key, (COPIED,), 0, SYMBOLS)
    blanks = lambda count: jnp.full((count,), BLANK)
    x_t = jnp.concatenate([symbols, blanks(length - 1), jnp.array([DELIMITER]), blanks(COPIED)])
    y_t = jnp.concatenate([blanks(length + COPIED), symbols])
    return jax.nn.one_hot(x_t, SYMBOLS + 2), y_t


def _generated(name: str, example: Example, *, delay: int, **rest: Any) -> Task:
    """A task whose examples are drawn one by one: a fixed validation set, fresh training examples at every step."""

    def tickets(data: Data, key: Key[Array, ""], steps: int, batch: int) -> Array:
        del data
        return jax.random.key_data(jax.random.split(key, (steps, batch)))

    def batch(data: Data, ticket: Array) -> tuple[Array, Array]:
        del data
        return jax.vmap(lambda key: example(key, delay))(jax.random.wrap_key_data(ticket))

    valid_keys = jax.random.split(named_key(jax.random.key(0), f"{name} valid"), VALID)
    valid_x, valid_y = jax.jit(lambda keys: jax.vmap(lambda key: example(key, delay))(keys))(valid_keys)
    return Task(
        name=name,
        examples=EXAMPLES,
        data={"valid_x": valid_x, "valid_y": valid_y},
        tickets=tickets,
        batch=batch,
        metric=rest["loss"],
        higher_is_better=False,
        **rest,
    )
