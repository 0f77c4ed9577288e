"""Random command lines, most of them senseless: carried out, or refused in one line, and nothing is
left behind (scripts/hostile.py)."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
hostile: Any = importlib.import_module("hostile")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with hostile.prepared(tmp_path):
        yield tmp_path


def test_twenty_five_command_lines(place: Path) -> None:
    ends, faults = hostile.try_many(25, 0, place)
    assert not faults, "\n".join(faults)
    assert ends.get(2, 0) > 5, ends


@pytest.mark.slow
def test_two_thousand_command_lines(place: Path) -> None:
    ends, faults = hostile.try_many(2000, 1, place)
    assert not faults, "\n".join(faults)
    assert ends.get(2, 0) > 1000, ends
    assert ends.get(None, 0) > 50, ends
