"""Trials that ended in known ways, for the tests of what is said of them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from jaxinit.analysis.interval import Sample
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import TRACES, Course, Courses, Point, window
from jaxinit.analysis.search import Purpose
from jaxinit.analysis.survival import Times

ATTRS = {
    "model": "rnn",
    "hidden": 8,
    "layers": 1,
    "optimizer": "sgd",
    "batch": 32,
    "baseline": "slow",
    "search": "grid",
    "seeds": 3,
    "budget": 10.0,
    "evaluations_per_epoch": 1,
    "task": "t",
    "metric_name": "accuracy",
    "higher_is_better": 1,
    "chance": 0.1,
    "target": 0.5,
}


def times(*values: float, censored: tuple[float, ...] = ()) -> Times:
    return Times(
        np.array([*values, *censored], float),
        np.array([True] * len(values) + [False] * len(censored)),
    )


def sample(*values: float, censored: tuple[float, ...] = (), rate: float = 0.1) -> Sample:
    return Sample(rate, times(*values, censored=censored))


class Ended(NamedTuple):
    """How a trial ended."""

    scheme: str
    rate: float
    seed: int
    epochs: float
    outcome: Outcome = Outcome.CONVERGED
    purpose: Purpose = "report"


def courses(trials: Iterable[Ended], **attrs: Any) -> Courses:
    """Trials whose metric is that of chance until it is at the target for as long as counts, where
    they converged."""
    trials = list(trials)
    about = ATTRS | attrs
    about.setdefault("schemes", tuple(dict.fromkeys(trial.scheme for trial in trials)))
    per_epoch = about["evaluations_per_epoch"]
    made = Courses(about, round(about["budget"] * per_epoch))
    for trial in trials:
        point = Point(trial.scheme, trial.rate, trial.seed)
        made.begin(point, trial.purpose)
        _add(made.by_point[point], trial, about)
    return made


def records(trials: Iterable[Ended], **attrs: Any) -> xr.Dataset:
    """The records of such trials."""
    return courses(trials, **attrs).dataset()


def _add(course: Course, trial: Ended, about: dict[str, Any]) -> None:
    per_epoch = about["evaluations_per_epoch"]
    evaluations = round(trial.epochs * per_epoch)
    metric = np.full(evaluations, about["chance"], np.float32)
    if trial.outcome == Outcome.CONVERGED:
        metric[-window(per_epoch) :] = about["target"]
    values = {name: np.zeros(evaluations, np.float32) for name in TRACES} | {"metric": metric}
    course.add(0, values, trial.outcome)


def two_schemes(**attrs: Any) -> xr.Dataset:
    """Two schemes, two rates, one tuning and three reporting seeds; 10 epochs of budget."""
    return records(
        [
            Ended("fast", 0.1, 0, 10, Outcome.CENSORED, "tune"),
            Ended("fast", 1.0, 0, 2, purpose="tune"),
            Ended("fast", 1.0, 1, 2),
            Ended("fast", 1.0, 2, 3),
            Ended("fast", 1.0, 3, 4),
            Ended("slow", 0.1, 0, 6, purpose="tune"),
            Ended("slow", 1.0, 0, 1, Outcome.DIVERGED, "tune"),
            Ended("slow", 0.1, 1, 6),
            Ended("slow", 0.1, 2, 1, Outcome.DIVERGED),
            Ended("slow", 0.1, 3, 10, Outcome.CENSORED),
        ],
        **attrs,
    )
