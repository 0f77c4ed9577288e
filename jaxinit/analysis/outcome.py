"""How a trial ends; the codes that records on disk carry."""

from enum import IntEnum


class Outcome(IntEnum):
    """Every outcome counts: a trial that fails is a result, never a dropped row."""

    UNFINISHED = 0  # not run, or interrupted
    CONVERGED = 1  # the validation metric reached the target
    CENSORED = 2  # the budget ended first
    DIVERGED = 3  # the loss was not finite, or exceeded 10 times its first value
    STOPPED = 4  # another rate was better by then: this one could not be the best any more
    FAILED = 5  # it could not be run: the workers that tried died, or raised


LOST = (Outcome.DIVERGED, Outcome.FAILED)  # of which no target is ever reached
