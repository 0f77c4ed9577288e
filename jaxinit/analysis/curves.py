"""The curves of a study as numbers, from its records, and no more of them than can be seen.

records -> share converged, time by rate, course of the metric -> thinned to a screen's columns
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from jaxinit.analysis.outcome import LOST, Outcome
from jaxinit.analysis.records import have_run, select
from jaxinit.analysis.survival import kaplan_meier
from jaxinit.analysis.table import times_reported

COLUMNS = 160  # of pixels, into which a course is put: twice as many would not be told apart


class Curve(NamedTuple):
    """Points in the order of x, with a band around y; NaN where there is none."""

    x: NDArray[np.floating]
    y: NDArray[np.floating]
    low: NDArray[np.floating]
    high: NDArray[np.floating]


class Trials(NamedTuple):
    """Trials one by one: rate, when each ended, how, and on which seed."""

    rate: NDArray[np.floating]
    epochs: NDArray[np.floating]
    outcome: list[Outcome]
    seed: list[int]


def line(x: ArrayLike, y: ArrayLike) -> Curve:
    """A curve without a band."""
    none = np.full(np.shape(y), np.nan)
    return Curve(np.asarray(x, float), np.asarray(y, float), none, none)


def share_converged(records: xr.Dataset, scheme: str) -> Curve:
    """The share of trials that have converged by each time, at the scheme's best rate, up to the
    budget, with its 95 % band (`survival.kaplan_meier`): steps."""
    time, share, low, high = kaplan_meier(times_reported(records, scheme))
    # The last step goes on to the budget.
    return Curve(
        np.append(time, records.attrs["budget"]),
        np.append(share, share[-1]),
        np.append(low, low[-1]),
        np.append(high, high[-1]),
    )


def time_by_rate(records: xr.Dataset, scheme: str) -> Curve:
    """Mean epochs to target, restricted to the budget, at each rate that was tried.

    Rates at which every trial was stopped are left out: of those only a bound is known.
    """
    trials = select(records, scheme)
    ended = ~np.isin(trials.outcome.values, (Outcome.STOPPED, Outcome.UNFINISHED))
    times = when_ended(trials)[ended]
    rates = trials.lr.values[ended]
    tried = np.unique(rates)
    return line(tried, [times[rates == rate].mean() for rate in tried])


def trials_of(records: xr.Dataset, scheme: str) -> Trials:
    """Every trial of a scheme that has begun."""
    trials = select(records, scheme)
    trials = trials.isel(trial=np.flatnonzero(have_run(trials)))
    outcomes = [Outcome(code) for code in trials.outcome.values.tolist()]
    return Trials(trials.lr.values, when_ended(trials), outcomes, trials.seed.values.tolist())


def when_ended(trials: xr.Dataset) -> NDArray[np.floating]:
    """When each trial ended, in epochs; one that is lost at the budget."""
    budget = trials.attrs["budget"]
    lost = np.isin(trials.outcome.values, LOST)
    return np.minimum(np.where(lost, budget, trials.last_epoch.values), budget)


def course(records: xr.Dataset, scheme: str, rate: float) -> Curve:
    """The median over seeds of a scheme's validation metric at a rate, with the range over seeds.

    A trial that has ended keeps its last number, and the course stops when the last of them ends;
    it has no point where no trial has run.
    """
    trials = select(records, scheme, "report", rate)
    metric = trials.metric.transpose("trial", "epoch").values.astype(float)
    # One that diverged keeps its last number.
    has_value = np.isfinite(metric)
    metric = metric[has_value.any(axis=1)]
    has_value = has_value[has_value.any(axis=1)]
    ends = metric.shape[1] - has_value[:, ::-1].argmax(axis=1)
    last = ends.max(initial=0)
    held = np.minimum(np.arange(last), ends[:, None] - 1)
    metric = np.take_along_axis(metric, held, axis=1)
    epoch = records.epoch.values[:last].astype(float)
    if not last:
        return line(epoch, [])
    return Curve(epoch, np.median(metric, axis=0), metric.min(axis=0), metric.max(axis=0))


def thinned(curve: Curve, *, logarithmic: bool = False, columns: int = COLUMNS) -> Curve:
    """A curve that looks the same in so many columns of pixels: of each column the first and the
    last point are kept, and those at which y is least and most and the band lowest and highest.

    Source: Jugel et al. (2014), "M4: a visualization-oriented time series data aggregation", to
    which the band is added.
    """
    if len(curve.x) <= columns:
        return curve
    place = np.log(curve.x) if logarithmic else curve.x
    span = place[-1] - place[0] or 1.0
    column = np.minimum((columns * (place - place[0]) / span).astype(int), columns - 1)
    edges = np.flatnonzero(np.diff(column)) + 1
    kept: set[int] = set()
    for points in np.split(np.arange(len(place)), edges):
        kept |= {int(points[0]), int(points[-1])}
        for values, extreme in (
            (curve.y, np.nanargmin),
            (curve.y, np.nanargmax),
            (curve.low, np.nanargmin),
            (curve.high, np.nanargmax),
        ):
            kept |= _at(values[points], points, extreme)
    chosen = sorted(kept)
    return Curve(*(values[chosen] for values in curve))


def _at(values: NDArray, points: NDArray, extreme: Callable[[NDArray], np.intp]) -> set[int]:
    """The point at which values are extreme; none where all of them are NaN."""
    if np.isnan(values).all():
        return set()
    return {int(points[extreme(values)])}
