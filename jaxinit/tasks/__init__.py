"""The tasks; `TASKS` is the table of names. A task of variable length takes `length=`, one on text
`file=`. `task` makes one from arrays of the caller's."""

from collections.abc import Callable

from jaxinit.tasks.arrays import is_file_of_arrays, task, task_from_file
from jaxinit.tasks.base import Task
from jaxinit.tasks.digits import digits_patches, digits_permuted, digits_pixels, digits_rows
from jaxinit.tasks.disk import cifar10, cifar10_patches, fashion_mnist, mnist, mnist_permuted
from jaxinit.tasks.shapeset import shapeset
from jaxinit.tasks.synthetic import (
    adding,
    copy,
    copy_variable,
    multiplication,
    parity,
    temporal_order,
    temporal_order_3,
)
from jaxinit.tasks.text import is_folder_of_text, penn_treebank, text, words

TASKS: dict[str, Callable[..., Task]] = {
    "digits_rows": digits_rows,
    "digits_pixels": digits_pixels,
    "digits_permuted": digits_permuted,
    "digits_patches": digits_patches,
    "adding": adding,
    "copy": copy,
    "copy_variable": copy_variable,
    "multiplication": multiplication,
    "temporal_order": temporal_order,
    "temporal_order_3": temporal_order_3,
    "parity": parity,
    "text": text,
    "words": words,
    "penn_treebank": penn_treebank,
    "shapeset": shapeset,
    "mnist": mnist,
    "mnist_permuted": mnist_permuted,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar10_patches": cifar10_patches,
}

__all__ = ["TASKS", "Task", "is_file_of_arrays", "is_folder_of_text", "task", "task_from_file"]
