"""A loss of the caller's: what it sees beside outputs and labels, and whether it is one.

function -> names of what it sees; task -> the cost of outputs of 0, or an error of one line
"""

import functools
import inspect
import math
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxinit.tasks.base import Seen, Task, count_of

# Where no line of a caller's code is: this package, Python's library, what is installed.
NOT_THE_CALLERS = (str(Path(__file__).parents[1]), *set(sysconfig.get_paths().values()))


def names_seen(loss: Callable[..., Any]) -> tuple[str, ...]:
    """What a loss sees beside outputs and y: its arguments by the names of `Seen`.

    An argument of another name is its own affair if it has a default.
    Raises: ValueError, one line, for another name without a default, and for a function that does
    not take (outputs, y).
    """
    try:
        signature = inspect.signature(loss)
    except ValueError:  # of a function in C nothing is known
        return ()
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    seen, strange = [], []
    for name, argument in list(signature.parameters.items())[2:]:
        if name in Seen._fields and name not in bound:
            seen.append(name)
        elif argument.default is argument.empty and argument.kind not in (
            argument.VAR_POSITIONAL,
            argument.VAR_KEYWORD,
        ):
            strange.append(name)
    can_see = f"beside outputs and y a loss sees {', '.join(Seen._fields)}, each by its name"
    if strange:
        raise ValueError(
            f"the loss wants {', '.join(map(repr, strange))}, which there is not: {can_see}; "
            "rename it, or give it a default"
        )
    try:
        signature.bind(None, None, **dict.fromkeys(seen))
    except TypeError as error:
        raise ValueError(
            f"a loss is a function of (outputs, y), got {signature}: {can_see}"
        ) from error
    return tuple(seen)


def cost_of_zeros(task: Task, params: Mapping[str, Any]) -> float:
    """What a model costs whose outputs are 0, on the validation set: the chance level of a loss
    that is the metric too.

    A loss that sees parameters sees zeros in the shapes of `params`, one that sees a key a fixed
    one, one that sees `apply` a function that gives zeros.
    Raises: ValueError, one line, for a loss that fails, that is no real number, not finite, or not
    above 0 there.
    """
    x, y = task.data["valid_x"], task.data["valid_y"]
    steps = (task.length,) if task.readout == "all" else ()

    def zeros(inputs: Any) -> Array:
        return jnp.zeros((count_of(inputs), *steps, task.out_features))

    nothing = {name: jnp.zeros(w.shape, w.dtype) for name, w in params.items()}
    seen = Seen(nothing, jax.random.key(0), x, zeros)
    outputs = zeros(x)
    on = f"outputs of 0 {list(outputs.shape)} and y {list(y.shape)}"

    def loss_at(outputs: Array) -> Any:
        return task.loss_of(outputs, y, seen)

    check_pairing(loss_at, outputs, y, on)
    check_number(loss_at, outputs, on)
    cost = float(loss_at(outputs))
    if not math.isfinite(cost):
        raise ValueError(
            f"the loss is {cost} on {on}: it must be finite there; a small number added to what "
            "divides, or to what a logarithm or a root is taken of, makes it so"
        )
    if cost <= 0:
        raise ValueError(
            f"the loss is {cost:.4g} on {on}, and must be above 0 there, since targets lie between "
            "0 and what guessing costs; add a constant to it, or let outputs of 0 be no solution"
        )
    return cost


def check_number(loss_at: Callable[..., Any], at: Any, on: str) -> None:
    """Raises: ValueError, one line, for a loss that fails, traced as it is when it is trained, or
    that is no real number; `on` says what it was given."""
    try:
        cost = jax.eval_shape(loss_at, at)
        wrong = _unlike_a_number(cost)
        if not wrong:
            jax.eval_shape(jax.grad(loss_at), at)
    except Exception as error:
        raise ValueError(f"the loss failed on {on}: {caller_error(error)}") from error
    if wrong:
        raise ValueError(
            f"the loss of a batch must be one real number, got {wrong} on {on}; take the mean over "
            "the batch, jnp.mean(...)"
        )


def check_pairing(loss_at: Callable[..., Any], outputs: Array, y: Array, on: str) -> None:
    """Raises: ValueError, one line, for a loss that pairs the outputs `[n, 1]` of each example with
    the labels `[n]` of all: their difference is `[n, n]`, whose mean looks like a loss."""
    if outputs.shape != (len(y), 1) or y.ndim != 1:
        return
    try:
        with jax.numpy_rank_promotion("raise"):
            jax.eval_shape(loss_at, outputs)
    except ValueError as error:
        said = str(error)
        if str(outputs.shape) in said and str(y.shape) in said:
            raise ValueError(
                f"the loss makes {[len(y), len(y)]} of {on}, every output with every label: "
                f"{caller_error(error)}; take outputs[:, 0], or give y as [n, 1]"
            ) from error
    except Exception:
        return  # as without the option, which is another check's affair


def _unlike_a_number(cost: Any) -> str:
    """What the shape of a cost is, where it is no real number."""
    if not isinstance(cost, jax.ShapeDtypeStruct):
        return type(cost).__name__
    if cost.shape == () and jnp.issubdtype(cost.dtype, jnp.floating):
        return ""
    return f"{cost.dtype} {list(cost.shape)}"


def caller_error(error: BaseException) -> str:
    """An error of the caller's code: its kind, the first line of what it says, and the innermost
    line of code that is the caller's."""
    said = str(error).strip().split("\n")[0]
    said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(NOT_THE_CALLERS):
            return f"{said} ({Path(frame.filename).name}, line {frame.lineno})"
    return said
