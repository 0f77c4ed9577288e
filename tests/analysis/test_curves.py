"""The curves of a study: what they say, and that what is left of them looks the same."""

import numpy as np
import pytest
from ended_trials import Ended, records, two_schemes

from jaxinit.analysis import curves
from jaxinit.analysis.curves import Curve
from jaxinit.analysis.outcome import Outcome


def test_shares_are_steps_up_to_the_budget() -> None:
    fast = curves.share_converged(two_schemes(), "fast")
    assert fast.x.tolist() == [0, 2, 3, 4, 10]
    assert fast.y == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    slow = curves.share_converged(two_schemes(), "slow")
    assert slow.y[-1] == pytest.approx(1 / 3)
    assert np.all(slow.low <= slow.y)
    assert np.all(slow.y <= slow.high)


def test_a_rate_whose_trials_were_all_stopped_has_no_point() -> None:
    trials = records(
        [
            Ended("s", 0.1, 0, 4),
            Ended("s", 0.1, 1, 1, Outcome.DIVERGED),
            Ended("s", 0.3, 0, 2, Outcome.STOPPED),
            Ended("s", 1.0, 0, 3),
            Ended("s", 1.0, 1, 2, Outcome.STOPPED),
            Ended("s", 3.0, 0, 2, Outcome.UNFINISHED),
        ]
    )
    curve = curves.time_by_rate(trials, "s")
    assert curve.x.tolist() == [0.1, 1.0]
    assert curve.y.tolist() == [(4 + 10) / 2, 3]
    assert np.isnan(curve.low).all()
    each = curves.trials_of(trials, "s")
    assert each.epochs.tolist() == [4, 10, 2, 3, 2]
    assert [outcome.name for outcome in each.outcome].count("STOPPED") == 2


def test_a_course_holds_what_has_ended_and_stops_with_the_last() -> None:
    trials = two_schemes()
    course = curves.course(trials, "fast", 1.0)
    assert course.x.tolist() == [1, 2, 3, 4]
    assert course.y == pytest.approx([0.1, 0.1, 0.5, 0.5])
    assert course.low == pytest.approx([0.1, 0.1, 0.1, 0.5])
    assert course.high == pytest.approx([0.1, 0.5, 0.5, 0.5])


def test_a_course_that_diverged_keeps_its_last_number() -> None:
    trials = records([Ended("s", 0.1, 0, 4), Ended("s", 0.1, 1, 3, Outcome.DIVERGED)])
    trials.metric.values[1, 2] = np.nan
    assert np.isfinite(curves.course(trials, "s", 0.1).low).all()
    trials.metric.values[:] = np.nan
    assert not curves.course(trials, "s", 0.1).x.size


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_thinned_curve_keeps_ends_extremes_and_order(logarithmic: bool) -> None:
    rng = np.random.default_rng(0)
    x = np.arange(1, 20_001) / 16
    y = np.cumsum(rng.normal(size=x.size))
    whole = Curve(x, y, y - 1, y + rng.exponential(size=x.size))
    thin = curves.thinned(whole, logarithmic=logarithmic, columns=100)
    assert 100 < thin.x.size <= 600
    assert np.all(np.diff(thin.x) > 0)
    assert (thin.x[0], thin.x[-1]) == (x[0], x[-1])
    assert (thin.y.min(), thin.y.max()) == (y.min(), y.max())
    assert (thin.low.min(), thin.high.max()) == (whole.low.min(), whole.high.max())


def test_a_short_curve_is_whole_and_gaps_are_no_extremes() -> None:
    short = curves.line([1.0, 2.0], [3.0, np.nan])
    assert curves.thinned(short) is short
    gaps = curves.line(np.arange(1000.0), np.where(np.arange(1000) % 7, np.nan, 1.0))
    assert np.nanmax(curves.thinned(gaps, columns=10).y) == 1.0
