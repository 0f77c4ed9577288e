"""The curves of a study as numbers, from its records, and no more of them than can be seen.

records -> share converged, time by rate, course of the metric -> thinned to a screen's columns
states by step -> gradients back through time, variances, singular values
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

ROUNDING = 1e-16  # a size below that part of the largest on its way is none
DECOMPOSED = 1e-14  # nor is a singular value below that part of its matrix's largest
OVER_SEEDS = "geometric mean over seeds; band: their range"  # what `over_seeds` gives, in words
CUT = f"a curve ends where a seed has fallen below {ROUNDING:g} of its largest"
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
    """Every trial of a scheme that has ended."""
    trials = select(records, scheme)
    ended = have_run(trials) & (trials.outcome.values != Outcome.UNFINISHED)
    trials = trials.isel(trial=np.flatnonzero(ended))
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


def over_seeds(x: NDArray, sizes: NDArray, backwards: bool = False) -> Curve:
    """Sizes `[seed, x]`: their geometric mean and range over seeds, where no seed has fallen below
    rounding on its way from the left, or from the right (`backwards`)."""
    way = sizes[:, ::-1] if backwards else sizes
    finite = np.where(np.isfinite(way), way, np.nan)
    largest = np.fmax.accumulate(finite, axis=1)
    above = np.all(finite > ROUNDING * largest, axis=0)
    if backwards:
        above = above[::-1]
    kept = np.where(above, sizes, np.nan)
    return Curve(x.astype(float), np.exp(np.log(kept).mean(0)), kept.min(0), kept.max(0))


def back_through_time(course: xr.Dataset, layer: int) -> tuple[Curve, Curve]:
    """Of one scheme's states in a layer: the norm of the gradient against the steps back from the
    last, and the variance of h against the step. `course` as `survey.through_time` returns it."""
    steps = course.step.values
    of_layer = course.isel(layer=layer)
    norms = xr.ufuncs.sqrt((of_layer.gradient**2).sum("carry")).transpose("seed", "step")
    # Of a constant state the difference may be rounded to below 0.
    variance = (of_layer.mean_square - of_layer["mean"] ** 2).clip(0).isel(carry=0)
    return (
        over_seeds(steps[-1] - steps, norms.values, backwards=True),
        over_seeds(steps, variance.transpose("seed", "step").values),
    )


def jacobians(course: xr.Dataset) -> tuple[Curve, Curve]:
    """Singular values of one scheme's Jacobians against the lag: the largest, and the median as far
    as rounding of the largest does not hide it."""
    values = course.jacobian.transpose("seed", "lag", "index").values
    largest = values[..., 0]
    median = np.median(values, axis=-1)
    median = np.where(median > DECOMPOSED * largest, median, 0)
    lags = course.lag.values
    return over_seeds(lags, largest), over_seeds(lags, median)


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
