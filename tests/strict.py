"""The run-time type checker of the suite: beartype, with int accepted for float as Python does (PEP
484)."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
made: dict[tuple[Any, ...], Callable[..., Any]] = {}


def checked(function: Any) -> Any:
    """The function with its types checked.

    jaxtyping passes a stand-in that holds nothing but types and is given every argument, so what a
    nested function is checked by is made once, not at each call of the function around it. Its
    types are made anew each time: they are compared as they print.
    """
    if not hasattr(function, "__code__"):  # a class
        return check(function)
    types = tuple((name, repr(kind)) for name, kind in function.__annotations__.items())
    key = (function.__module__, function.__qualname__, function.__code__, types)
    if key not in made:
        made[key] = check(function)
    return made[key]
