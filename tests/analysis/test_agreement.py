"""Whether two studies agree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxinit.analysis.agreement import agreements, differences_of, seeds_in_common
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import TRACES, Courses, Point
from jaxinit.analysis.store import Result, attributes
from jaxinit.study import BadStudy, Study

STUDY = Study(
    schemes=("fast", "slow"), baseline="slow", search="grid", lrs=(0.1,), seeds=8, target=0.97
)
TASK = {
    "task": "digits_rows",
    "metric_name": "validation accuracy",
    "higher_is_better": 1,
    "chance": 0.1,
    "target": 0.97,
}


def ran(study: Study, means: dict[str, float], seed: int) -> Result:
    """A study whose schemes converge at about these epochs."""
    rng = np.random.default_rng(seed)
    courses = Courses(attributes(study, 8, TASK), 160)
    for scheme, mean in means.items():
        for number in study.reporting:
            point = Point(scheme, 0.1, number)
            courses.begin(point, "report")
            evaluations = round(8 * mean * float(np.exp(0.1 * rng.normal())))
            values = dict.fromkeys(TRACES, np.zeros(evaluations, np.float32))
            courses.by_point[point].add(0, values, Outcome.CONVERGED)
    summary: Any = {}
    return Result(study, courses.dataset(), summary, Path(f"results/{seed}"), True)


def test_a_replication_agrees_and_a_change_does_not() -> None:
    first = ran(STUDY, {"fast": 3.0, "slow": 9.0}, 2)
    again = ran(replace(STUDY, first_seed=100), {"fast": 3.0, "slow": 9.0}, 3)
    changed = ran(replace(STUDY, first_seed=100), {"fast": 6.0, "slow": 9.0}, 4)
    assert [found.agree for found in agreements(first, again)] == [True, True]
    fast, slow = agreements(first, changed)
    assert not fast.agree
    assert slow.agree
    assert fast.epochs[0] == pytest.approx(0.5, rel=0.1)
    assert fast.ratio is not None
    assert fast.ratio[0] == pytest.approx(2.0, rel=0.15)
    assert slow.ratio is None, "the baseline against itself"


def test_studies_with_different_budgets_are_compared_on_the_smaller_one() -> None:
    first = ran(STUDY, {"fast": 3.0, "slow": 9.0}, 2)
    shorter = ran(replace(STUDY, epochs=5, first_seed=100), {"fast": 3.0, "slow": 4.0}, 3)
    _, slow = agreements(first, shorter)
    # In the first no seed of the slow scheme converges within 5 epochs; its own budget says 9.
    assert slow.epochs[0] == pytest.approx(5 / 4, rel=0.1)


def test_where_nothing_converges_nothing_agrees() -> None:
    first, again = (
        ran(replace(STUDY, first_seed=start), {"fast": 3.0, "slow": 9.0}, start)
        for start in (0, 100)
    )
    for result in (first, again):
        never = result.records.outcome.where(result.records.scheme != "slow", Outcome.CENSORED)
        result.records["outcome"] = never.astype(np.int8)
    fast, slow = agreements(first, again)
    assert fast.agree
    assert slow.agree is None


@pytest.mark.slow
def test_studies_agree_at_the_level_that_is_said() -> None:
    """200 pairs of like studies: both schemes agree in 95 % or more, since limits are joined."""
    agreeing = []
    for k in range(200):
        first = ran(STUDY, {"fast": 3.0, "slow": 9.0}, 2 * k)
        again = ran(replace(STUDY, first_seed=100), {"fast": 3.0, "slow": 9.0}, 2 * k + 1)
        agreeing.append(all(found.agree for found in agreements(first, again)))
    assert 0.92 < np.mean(agreeing) <= 1


def test_what_was_asked_otherwise_is_said() -> None:
    first = ran(STUDY, {"fast": 3.0, "slow": 9.0}, 0)
    wider = ran(replace(STUDY, hidden=256, first_seed=100), {"fast": 3.0, "slow": 9.0}, 1)
    assert differences_of(first, wider) == ["hidden is 128 in the first, 256 in the second"]
    assert not seeds_in_common(first, wider)
    assert seeds_in_common(first, first)[0].startswith("8 seeds are the same in both")


def test_other_contents_under_one_name_are_seen() -> None:
    """A target that is not given is the task's own, which for another text is another one."""
    study = replace(STUDY, target=None)
    first, again = (
        ran(replace(study, first_seed=start), {"fast": 3.0, "slow": 9.0}, start)
        for start in (0, 100)
    )
    other = again._replace(about={"identity": {"data": "b"}})
    assert differences_of(first._replace(about={"identity": {"data": "a"}}), other) == [
        "the data of task 'digits_rows' are not the same in both"
    ]
    assert differences_of(first, other) == [], "a study of before has no identity"
    again.records.attrs["target"] = 0.9
    with pytest.raises(BadStudy, match=r"target is 0\.97 in the one, 0\.9 in the other"):
        agreements(first, again)


def test_studies_without_a_scheme_in_common_are_refused() -> None:
    first = ran(STUDY, {"fast": 3.0, "slow": 9.0}, 0)
    other = replace(STUDY, schemes=("a", "b"), baseline="a")
    with pytest.raises(BadStudy, match="no scheme in common"):
        agreements(first, ran(other, {"a": 3.0, "b": 4.0}, 1))
