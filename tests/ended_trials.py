"""Trials that ended in known ways, for the tests of what is said of them."""

import numpy as np
import xarray as xr

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.survival import Times


def times(*values: float, censored: tuple[float, ...] = ()) -> Times:
    return Times(
        np.array([*values, *censored], float),
        np.array([True] * len(values) + [False] * len(censored)),
    )


C, S, D, U = Outcome.CONVERGED, Outcome.CENSORED, Outcome.DIVERGED, Outcome.UNFINISHED


def records() -> xr.Dataset:
    """Two schemes, two rates, one tuning and three reporting seeds; 10 epochs of budget."""
    outcome = np.array([[[S, U, U, U], [C, C, C, C]], [[C, C, D, S], [D, U, U, U]]], np.int8)
    last = np.array([[[10, 0, 0, 0], [2, 2, 3, 4]], [[6, 6, 1, 10], [1, 0, 0, 0]]], float)
    metric = np.where(last[..., None] > 0, 0.5, np.nan) * np.ones(10)
    trial = ("scheme", "lr", "seed")
    return xr.Dataset(
        {
            "outcome": (trial, outcome),
            "last_epoch": (trial, last),
            "metric": ((*trial, "epoch"), metric),
            "phase": (("seed",), ["tune", "report", "report", "report"]),
        },
        {"scheme": ["fast", "slow"], "lr": [0.1, 1.0], "seed": range(4), "epoch": range(1, 11)},
        {"budget": 10.0, "higher_is_better": 1, "model": "rnn", "task": "t"},
    )
