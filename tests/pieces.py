"""Pieces of work that do not depend on the machine's speed."""

import pytest

from jaxinit.engine import sweep


def in_pieces(patch: pytest.MonkeyPatch, steps: int = 2**30) -> None:
    """Let every piece of a sweep have so many steps, at most a chunk of epochs, and trials in all
    slots."""
    patch.setattr(sweep.Pace, "steps", lambda self, trials: steps)
    patch.setattr(sweep.Pace, "trials", lambda self, slots: slots)
