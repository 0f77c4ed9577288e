"""The tasks; `TASKS` is the table of names. A task of variable length takes `length=`."""

from collections.abc import Callable

from jaxinit.tasks.base import Task
from jaxinit.tasks.digits import digits_pixels, digits_rows
from jaxinit.tasks.shapeset import shapeset
from jaxinit.tasks.synthetic import adding, copy

TASKS: dict[str, Callable[..., Task]] = {
    "digits_rows": digits_rows,
    "digits_pixels": digits_pixels,
    "adding": adding,
    "copy": copy,
    "shapeset": shapeset,
}

__all__ = ["TASKS", "Task"]
