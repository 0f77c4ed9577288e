"""Which copy of which parameter the entries of a value come from.

    leaves -> numbers of their copies -> the same numbers, moved as the entries are
           -> the copy that each output of a product belongs to

The copies (gates, heads, layers) of all parameters are numbered one after another. A value that
holds nothing but entries of parameters has an `Origin`: an array of its shape with the number of
each entry's copy. All of this is known while a function is traced, and is NumPy's.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxinit.spec import Leaf


class Origin(NamedTuple):
    """The numbers of the copies that a value's entries come from: integers, of its shape."""

    numbers: np.ndarray


# Of each of some values; None for one that is computed, or that no parameter has a part in.
Origins: TypeAlias = list[Origin | None]


class Outputs(NamedTuple):
    """The copies that a product's outputs belong to.

    Shapes: `numbers` has one number for each entry along `axes` of the result, flat, in the order
    of the axes.
    """

    numbers: np.ndarray
    axes: tuple[int, ...]


class Copies(NamedTuple):
    """The numbering of all copies: `owners` has the place of each number's parameter in `names`."""

    names: tuple[str, ...]
    firsts: tuple[int, ...]
    owners: np.ndarray

    def first(self, name: str) -> int:
        """The number of a parameter's first copy."""
        return self.firsts[self.names.index(name)]

    def parameters(self, origin: Origin) -> set[str]:
        """The parameters that entries come from."""
        owners = np.unique(self.owners[without_repeats(origin.numbers)])
        return {self.names[owner] for owner in owners}

    def by_parameter(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The copies of each parameter among numbers, counted from its first, and -1 where they are
        another's; parameters in the order in which they first stand."""
        owners = self.owners[numbers]
        copies = {}
        for owner in dict.fromkeys(owners.reshape(-1).tolist()):
            own = numbers - self.firsts[owner]
            copies[self.names[owner]] = np.where(owners == owner, own, -1)
        return copies

    def same_in_every_turn(self, origin: Origin) -> bool:
        """Whether slices along the first axis are of the same parameters, entry by entry."""
        owners = self.owners[without_repeats(origin.numbers)]
        return bool((owners == owners[:1]).all())


def numbered(leaves: Iterable[Leaf]) -> tuple[Copies, dict[str, Origin]]:
    """The numbering of the copies of all leaves, and the origin of each whole parameter."""
    leaves = tuple(leaves)
    counts = [leaf.copies for leaf in leaves]
    firsts = np.cumsum([0, *counts]).tolist()[:-1]
    origins = {}
    for leaf, first in zip(leaves, firsts, strict=True):
        origins[leaf.name] = Origin(_numbers_of(leaf, first))
    names = tuple(leaf.name for leaf in leaves)
    owners = np.repeat(np.arange(len(leaves)), counts)
    return Copies(names, tuple(firsts), owners), origins


def _numbers_of(leaf: Leaf, first: int) -> np.ndarray:
    """The number of each entry's copy. A broadcast: in memory there is one number for each copy."""
    numbers = np.arange(first, first + leaf.copies, dtype=np.int32)
    return np.broadcast_to(numbers.reshape(leaf.copy_shape), leaf.shape)


def without_repeats(numbers: np.ndarray) -> np.ndarray:
    """An array without what a broadcast repeats: of a large parameter that nothing has moved, a few
    entries."""
    ends = [None if stride else 1 for stride in numbers.strides]  # a broadcast axis has stride 0
    return numbers[tuple(slice(end) for end in ends)]


def of_product(
    ndim: int, origins: Sequence[Origin | None], dimension_numbers: Any
) -> Outputs | None:
    """The outputs of a matrix product with `ndim` axes whose one side comes from parameters; None
    where it sums over copies, as it is then no copy's product.

    `dimension_numbers` are those of `lax.dot_general`: axes that are summed over and axes of the
    batch, of either side.
    """
    (left_sum, right_sum), (left_batch, right_batch) = dimension_numbers
    left, right = origins
    if right is not None:
        numbers, summed, batch = right.numbers, right_sum, right_batch
    else:
        assert left is not None
        numbers, summed, batch = left.numbers, left_sum, left_batch
    free = [axis for axis in range(numbers.ndim) if axis not in (*summed, *batch)]
    numbers = numbers.transpose([*batch, *free, *summed])
    kept = numbers.shape[: len(batch) + len(free)]
    by_output = _same_along_last(numbers.reshape(*kept, -1))
    if by_output is None:
        return None
    # Axes of the result: batch, then the free axes of the left side, then those of the right.
    first_free = len(batch) if right is None else ndim - len(free)
    axes = (*range(len(batch)), *range(first_free, first_free + len(free)))
    return Outputs(by_output.reshape(-1), axes)


def of_convolution(kernel: Origin, dimension_numbers: Any) -> Outputs | None:
    """The channels of a convolution with a kernel that comes from parameters; None where it sums
    over copies. `dimension_numbers` are those of `lax.conv_general_dilated`."""
    channels_first = np.moveaxis(kernel.numbers, dimension_numbers.rhs_spec[0], 0)
    by_channel = _same_along_last(channels_first.reshape(channels_first.shape[0], -1))
    if by_channel is None:
        return None
    return Outputs(by_channel, (dimension_numbers.out_spec[1],))


def _same_along_last(numbers: np.ndarray) -> np.ndarray | None:
    """The numbers without their last axis, along which they have to be the same; else None."""
    if (numbers != numbers[..., :1]).any():
        return None
    return numbers[..., 0]


def agreed(origins: Sequence[Origin | None]) -> Origin | None:
    """Where a result comes from whichever branch is taken; None where that depends on it."""
    first, *others = origins
    for other in others:
        if first is None or other is None:
            return None
        if not np.array_equal(first.numbers, other.numbers):
            return None
    return first
