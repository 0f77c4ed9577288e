"""Copies are numbered one parameter after another, and found again in the outputs of a product."""

import jax
import numpy as np
import pytest

from jaxinit.signals import origins
from jaxinit.signals.origins import Origin
from jaxinit.spec import Leaf

LEAVES = (
    Leaf("first", (2, 3), "io", "hidden"),
    Leaf("heads", (3, 4, 2), "i.o", "query"),
    Leaf("stack", (5, 2, 2), ".io", "hidden"),
)
COPIES, WHOLE = origins.numbered(LEAVES)


def test_every_copy_has_a_number_of_its_own() -> None:
    assert [COPIES.first(leaf.name) for leaf in LEAVES] == [0, 1, 5]
    assert WHOLE["first"].numbers.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert WHOLE["heads"].numbers[0, :, 0].tolist() == [1, 2, 3, 4]
    assert WHOLE["stack"].numbers[:, 1, 1].tolist() == [5, 6, 7, 8, 9]
    assert COPIES.parameters(WHOLE["heads"]) == {"heads"}


def test_whole_parameters_take_the_memory_of_their_copies() -> None:
    numbers = origins.without_repeats(WHOLE["heads"].numbers)
    assert numbers.shape == (1, 4, 1)
    assert origins.without_repeats(np.array(WHOLE["heads"].numbers)).shape == (3, 4, 2)


def test_joined_numbers_are_told_apart_in_their_order() -> None:
    numbers = np.asarray([[6, 0], [9, 0]])
    copies = COPIES.by_parameter(numbers)
    assert list(copies) == ["stack", "first"]
    assert copies["stack"].tolist() == [[1, -1], [4, -1]]
    assert copies["first"].tolist() == [[-1, 0], [-1, 0]]


def test_turns_with_different_parameters_are_told_apart() -> None:
    assert COPIES.same_in_every_turn(WHOLE["stack"])
    assert not COPIES.same_in_every_turn(Origin(np.asarray([[0, 0], [1, 1]])))


NONE = ((), ())  # no axes of the batch
BY_HEAD = [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("sides", "dimension_numbers", "axes"),
    [
        ((None, WHOLE["heads"]), (((1,), (0,)), NONE), (1, 2)),
        ((WHOLE["heads"], None), (((0,), (1,)), NONE), (0, 1)),
        ((None, WHOLE["heads"]), (((2,), (0,)), ((0,), (1,))), (0, 2)),
    ],
    ids=["right", "left", "batch"],
)
def test_outputs_of_a_product_belong_to_the_copies_of_its_parameter(
    sides: tuple, dimension_numbers: tuple, axes: tuple[int, ...]
) -> None:
    outputs = origins.of_product(3, sides, dimension_numbers)
    assert outputs is not None
    assert outputs.numbers.tolist() == BY_HEAD
    assert outputs.axes == axes


def test_a_sum_over_copies_is_no_copys_product() -> None:
    assert origins.of_product(2, (None, WHOLE["heads"]), (((1, 2), (0, 1)), NONE)) is None


def test_channels_of_a_convolution_belong_to_copies() -> None:
    spec = jax.lax.conv_dimension_numbers((1, 8, 3), (2, 3, 4), ("NWC", "WIO", "NWC"))
    by_channel = Origin(np.broadcast_to(np.asarray([1, 1, 2, 2]), (2, 3, 4)))
    outputs = origins.of_convolution(by_channel, spec)
    assert outputs is not None
    assert outputs.numbers.tolist() == [1, 1, 2, 2]
    assert outputs.axes == (2,)
    by_input = Origin(np.broadcast_to(np.asarray([1, 1, 2])[:, None], (2, 3, 4)))
    assert origins.of_convolution(by_input, spec) is None


def test_an_origin_is_agreed_where_all_branches_have_it() -> None:
    one, same, other = (Origin(np.asarray([number])) for number in (1, 1, 2))
    assert origins.agreed([one, same]) is one
    assert origins.agreed([one, other]) is None
    assert origins.agreed([one, None]) is None
    assert origins.agreed([None, None]) is None
