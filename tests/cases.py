"""Which cases of a test are quick: the rest are marked slow, and run with --slow."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(*kept: Any, of: Iterable[Any]) -> list[Any]:
    """Those that stand for the others; a case of several values is a tuple."""
    cases = list(of)
    assert all(case in cases for case in kept), f"{kept} are not all among {cases}"
    return [marked(case, case in kept) for case in cases]


def every(step: int, of: Iterable[Any]) -> list[Any]:
    """The first of every `step`. Of a product, `step` has no factor in common with the length of
    the last: then every value of each of them is in a quick case."""
    return [marked(case, k % step == 0) for k, case in enumerate(of)]


def marked(case: Any, is_quick: bool) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=[] if is_quick else [pytest.mark.slow])
