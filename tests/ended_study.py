"""A study whose trials have all ended, without its training, for tests of what is made of it."""

from typing import Any

import xarray as xr

from jaxinit.analysis import store
from jaxinit.analysis.outcome import Outcome
from jaxinit.study import Study

STUDY = Study(
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


def ended() -> xr.Dataset:
    """Records of a study whose trials have all ended, the orthogonal ones a little sooner."""
    records = store.empty_records(STUDY, 4, ABOUT, "d")
    records.outcome.values[...] = Outcome.CONVERGED
    records.last_epoch.values[...] = [[[0.75, 1.0, 1.25]] * 2, [[1.5, 1.75, 2.0]] * 2]
    records.metric.values[..., 0] = 0.5
    return records
