"""A study whose trials have all ended, without its training, for tests of what is made of it."""

from typing import Any

import xarray as xr
from ended_trials import Ended, courses

from jaxinit.analysis import store
from jaxinit.analysis.records import Courses
from jaxinit.study import Study

STUDY = Study(
    search="grid",
    lrs=(0.1, 0.3),
    target=0.97,
    schemes=("orthogonal", "small_normal"),
    seeds=2,
    tune_seeds=1,
    epochs=2,
)
ABOUT = {
    "task": "digits_rows",
    "metric_name": "validation accuracy",
    "higher_is_better": 1,
    "chance": 0.1,
    "target": 0.97,
}
TRIALS = 8


LIFE = {"forced": [], "compilations": 1, "compile_s": 0.5, "wall_s": 2.0}


def about(status: str, lives: int = 1) -> dict[str, Any]:
    device = {"platform": "cpu", "kind": "cpu", "count": 2, "mapping": "map"}
    when = {"written": "2026-11-25T12:00:00+00:00", "device": device, **store.conditions()}
    told = {
        "evaluations_per_epoch": 4,
        "task": ABOUT,
        "digest": "d",
        "identity": {},
        "calibrations": {},
    }
    return {"status": status, "lives": [LIFE] * lives, **when, **told}


def trials() -> list[Ended]:
    """All of the study's, the orthogonal ones a little sooner."""
    ended = []
    for scheme, tuned, first, second in (
        ("orthogonal", 1.0, 1.0, 1.25),
        ("small_normal", 1.5, 1.75, 2.0),
    ):
        for rate in STUDY.lrs:
            ended.append(Ended(scheme, rate, 0, tuned, purpose="tune"))
        ended += [Ended(scheme, 0.1, 1, first), Ended(scheme, 0.1, 2, second)]
    return ended


def ended_courses(evaluations_per_epoch: int = 4) -> Courses:
    """A study whose trials have all ended."""
    return courses(trials(), **store.attributes(STUDY, evaluations_per_epoch, ABOUT, "d"))


def ended(evaluations_per_epoch: int = 4) -> xr.Dataset:
    """Its records."""
    return ended_courses(evaluations_per_epoch).dataset()
