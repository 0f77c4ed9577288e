"""The records of trials: one row each, whatever each scheme was searched on; what was stopped keeps
nothing of what came later."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ended_trials import ATTRS, Ended, records, two_schemes

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import (
    TRACES,
    WINDOW,
    Course,
    Courses,
    Point,
    asked_of,
    by_rate_and_seed,
    ends_of,
    schemes_of,
    select,
    times_of,
    window,
)
from jaxinit.analysis.search import End


def chunk(first: int, evaluations: int) -> dict[str, np.ndarray]:
    """Traces whose metric counts the evaluations."""
    values = np.arange(first, first + evaluations, dtype=np.float32)
    return dict.fromkeys(TRACES, values)


def fresh(evaluations: int = 8) -> Course:
    return Course(np.full((len(TRACES), evaluations), np.nan, np.float32), "fine")


def courses(**attrs: Any) -> Courses:
    about = ATTRS | {"schemes": ("slow", "fast"), "evaluations_per_epoch": 2} | attrs
    made = Courses(about, 8)
    for point in (Point("fast", 1.0, 5), Point("slow", 0.1, 5), Point("fast", 0.1, 6)):
        made.begin(point, "coarse")
    made.by_point[Point("fast", 1.0, 5)].add(0, chunk(0, 3), Outcome.CONVERGED)
    made.by_point[Point("fast", 0.1, 6)].add(0, chunk(0, 8), Outcome.CENSORED)
    made.by_point[Point("slow", 0.1, 5)].add(0, chunk(0, 5), Outcome.UNFINISHED)
    return made


def test_a_course_is_what_its_chunks_were() -> None:
    course = fresh()
    course.add(0, chunk(0, 3), Outcome.UNFINISHED)
    course.add(3, chunk(3, 2), Outcome.CONVERGED)
    assert (course.evaluations, course.outcome) == (5, Outcome.CONVERGED)
    np.testing.assert_array_equal(course.traces[0, :5], np.arange(5))
    assert np.isnan(course.traces[:, 5:]).all()


@pytest.mark.parametrize(
    ("outcome", "at", "left"),
    [
        (Outcome.CONVERGED, 4, (5, Outcome.STOPPED)),
        (Outcome.CONVERGED, 5, (5, Outcome.CONVERGED)),
        (Outcome.DIVERGED, 6, (5, Outcome.DIVERGED)),
        (Outcome.UNFINISHED, 6, (5, Outcome.STOPPED)),
        (Outcome.UNFINISHED, 3, (3, Outcome.STOPPED)),
    ],
)
def test_a_course_that_is_stopped_is_as_if_it_had_been_then(
    outcome: Outcome, at: int, left: tuple[int, Outcome]
) -> None:
    course = fresh()
    course.add(0, chunk(0, 5), outcome)
    course.stop(at)
    assert (course.evaluations, course.outcome) == (min(at, left[0]), left[1])
    assert np.isnan(course.traces[:, course.evaluations :]).all()
    assert not np.isnan(course.traces[:, : course.evaluations]).any()


def test_a_course_that_is_trained_again_is_as_far_as_it_was_until_it_is_farther() -> None:
    course = fresh()
    course.add(0, chunk(0, 5), Outcome.UNFINISHED)
    course.stop(4)
    course.add(0, chunk(0, 2), Outcome.UNFINISHED)
    assert course.evaluations == 4
    course.add(2, chunk(2, 4), Outcome.CONVERGED)
    assert (course.evaluations, course.outcome) == (6, Outcome.CONVERGED)


def test_records_are_a_row_a_trial_in_the_studys_order() -> None:
    data = courses().dataset()
    assert asked_of(data) == ["slow", "fast"]
    assert list(data.scheme.values) == ["slow", "fast", "fast"]
    assert list(data.lr.values) == [0.1, 0.1, 1.0]
    assert list(data.seed.values) == [5, 6, 5]
    assert list(data.last_epoch.values) == [2.5, 4.0, 1.5]
    assert list(data.epoch.values) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    names = data.outcome.attrs["flag_meanings"].split()
    assert [names[code].upper() for code in data.outcome.values] == [
        "UNFINISHED",
        "CENSORED",
        "CONVERGED",
    ]
    assert np.isnan(data.metric.values).sum(axis=1).tolist() == [3, 0, 5]
    assert courses().ended() == 2


def test_courses_are_taken_up_as_they_were_saved() -> None:
    saved = courses()
    other = Courses(saved.attrs, saved.evaluations)
    other.restore(saved.arrays())
    xr.testing.assert_identical(other.dataset(), saved.dataset())
    for point, course in saved.by_point.items():
        taken = other.by_point[point]
        same = replace(taken, traces=course.traces)
        assert same == course
    empty = Courses(saved.attrs, saved.evaluations)
    empty.restore(Courses(saved.attrs, saved.evaluations).arrays())
    assert empty.dataset().sizes["trial"] == 0


@pytest.mark.parametrize("higher_is_better", [0, 1])
def test_ends_are_the_same_of_courses_and_of_their_records(higher_is_better: int) -> None:
    made = courses(higher_is_better=higher_is_better)
    data = made.dataset()
    for scheme in ("slow", "fast"):
        assert ends_of(data, scheme) == made.ends(scheme)
    best = 2.0 if higher_is_better else 0.0  # the metric counts from 0; negated it is largest at 0
    assert made.ends("fast")[1.0, 5] == End(1.5, True, False, best)
    assert made.ends("slow")[0.1, 5].stopped, "it goes on, as if it had been stopped where it is"


def test_the_order_of_schemes_is_that_of_the_study_whatever_has_trials() -> None:
    names = ["mup(base_width=8, optimizer=adam)", "fast", "slow"]
    made = courses()
    data = Courses({**made.attrs, "schemes": names}, made.evaluations).dataset()
    assert (asked_of(data), schemes_of(data)) == (names, [])


def test_trials_are_selected_by_scheme_purpose_and_rate() -> None:
    data = two_schemes()
    assert schemes_of(data) == asked_of(data) == ["fast", "slow"]
    assert select(data, "fast").sizes["trial"] == 5
    assert list(select(data, "fast", "tune").lr.values) == [0.1, 1.0]
    assert list(select(data, "slow", "report", 0.1).seed.values) == [1, 2, 3]
    assert select(data, "slow", "report", 1.0).sizes["trial"] == 0


def test_the_trials_of_a_grid_are_an_array_over_rates_and_seeds() -> None:
    ended = [
        Ended("a", rate, seed, 1 + seed + 3 * (rate > 0.5), purpose="tune")
        for rate in (1.0, 0.1)
        for seed in (1, 0)
    ]
    grid = by_rate_and_seed(records(ended), "a", "tune")
    np.testing.assert_array_equal(grid.last_epoch.transpose("lr", "seed"), [[1, 2], [4, 5]])
    assert dict(grid.metric.sizes) == {"lr": 2, "seed": 2, "epoch": 10}
    with pytest.raises(ValueError, match="the tune trials of 'a' are no grid: 3 trials of 2 rates"):
        by_rate_and_seed(records(ended[1:]), "a", "tune")


def test_a_diverged_trial_counts_as_never_converging_not_as_a_short_one() -> None:
    times = times_of(select(two_schemes(), "slow", "report"))
    np.testing.assert_array_equal(times.time, [6, 10, 10])
    np.testing.assert_array_equal(times.event, [True, False, False])


def test_interrupted_trials_are_censored_there_and_those_that_never_ran_left_out() -> None:
    ended = [
        Ended("a", 0.1, 0, 0, Outcome.UNFINISHED),
        Ended("a", 0.1, 1, 4, Outcome.UNFINISHED),
        Ended("a", 0.1, 2, 3),
    ]
    times = times_of(records(ended))
    np.testing.assert_array_equal(times.time, [4, 3])
    np.testing.assert_array_equal(times.event, [False, True])
    assert set(ends_of(records(ended), "a")) == {(0.1, 1), (0.1, 2)}
    with pytest.raises(ValueError, match="one axis"):
        times_of(records(ended[:1]))


def test_the_window_is_of_epochs() -> None:
    assert [window(evaluations) for evaluations in (1, 4, 8)] == [WINDOW, 4 * WINDOW, 8 * WINDOW]
