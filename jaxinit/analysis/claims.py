"""Published claims and what our measurements say of them: an estimate with an interval against a
band.

    measured values, or times to target -> estimate and interval -> verdict on a band -> Claim

A band is what a publication's statement allows: `at_least(x)`, `at_most(x)`, `near(x, tolerance)`,
or any pair of ends.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple, NotRequired, TypedDict

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from jaxinit.analysis.survival import LEVEL, Bound, Ratio, Times, compare
from jaxinit.analysis.table import reported, times_of

Verdict = Literal["supported", "supported with a condition", "refuted", "too noisy to tell"]


class Band(NamedTuple):
    """The numbers that a claim allows, ends included; an end may be infinite."""

    low: float
    high: float


def at_least(x: float) -> Band:
    """The band of a claim that a quantity is `x` or more."""
    return Band(float(x), np.inf)


def at_most(x: float) -> Band:
    """The band of a claim that a quantity is `x` or less."""
    return Band(-np.inf, float(x))


def near(x: float, tolerance: float) -> Band:
    """The band of a claim that a quantity is `x`, give or take `tolerance` in the same units.

    Raises: ValueError for a negative tolerance, with which nothing would be near.
    """
    if tolerance < 0:
        raise ValueError(f"a tolerance is 0 or more, got {tolerance:g}")
    return Band(float(x - tolerance), float(x + tolerance))


class Claim(TypedDict):
    """A published claim and what was measured of it, as summary.json holds it.

    low, high: the 95 % interval of `measured`, None for a single number; band: its ends, None for
    an infinite one; measured_is: only of ratios of epochs, whether they are exact or a bound (see
    `survival.bound`); published: in words, None where no source was found; verdict: None where it
    is not to be judged (`no_verdicts`).
    """

    id: str
    statement: str
    measured: float
    measured_is: NotRequired[Bound]
    low: float | None
    high: float | None
    published: str | None
    band: list[float | None]
    verdict: Verdict | None
    note: str


@dataclass(frozen=True)
class Comparison:
    """The claim that `scheme` needs between `band` times fewer epochs than `baseline`."""

    id: str
    statement: str
    scheme: str
    baseline: str
    band: tuple[float, float]
    published: str | None = None


def make_claim(
    name: str,
    statement: str,
    values: ArrayLike,
    published: str,
    band: tuple[float, float],
    note: str = "",
) -> Claim:
    """A measured number against a band: its mean over seeds, its interval, and the verdict.

    `values` has one number a seed, and the interval is Student's at 95 %; a single number, which
    has no sampling error of its own, is inside the band or not. `band` is what `at_least`,
    `at_most` or `near` return, or any (low, high).
    """
    numbers = np.atleast_1d(np.asarray(values, float))
    n = len(numbers)
    measured = float(numbers.mean())
    if n < 2:
        low = high = None
        judged = verdict(measured, measured, band)
    else:
        quantile = scipy_stats.t.ppf((1 + LEVEL) / 2, n - 1)
        half = float(quantile * numbers.std(ddof=1) / n**0.5)
        low = measured - half
        high = measured + half
        judged = verdict(low, high, band)
        note = f"{n} seeds, 95 % t interval; {note}"
    return Claim(
        id=name,
        statement=statement,
        measured=measured,
        low=low,
        high=high,
        published=published,
        band=_ends(band),
        verdict=judged,
        note=note,
    )


def ratio_claim(
    name: str,
    statement: str,
    baseline: Times,
    scheme: Times,
    horizon: float,
    published: str,
    band: tuple[float, float],
    note: str = "",
) -> Claim:
    """The claim that `scheme` needs so many times fewer epochs than `baseline`: see
    `survival.ratio_interval`."""
    ratio = compare(baseline, scheme, horizon)
    remarks = [
        f"{int(scheme.event.sum())} of {len(scheme.event)} converged, "
        f"{int(baseline.event.sum())} of the baseline"
    ]
    if ratio.bound != "=":
        remarks.append(f"the ratio is {ratio.bound} this")
    remarks.append(f"restricted means up to {horizon:g} epochs, paired bootstrap over seeds")
    if note:
        remarks.append(note)
    return _claim_of_ratio(name, statement, ratio, published, band, "; ".join(remarks))


def judge(records: xr.Dataset, comparisons: Iterable[Comparison]) -> list[Claim]:
    """The verdict on each comparison whose two schemes have reporting trials; the others are left
    out.

    supported: the interval of the ratio lies in the band. refuted: it lies outside. too noisy: it
    straddles an end. Where the ratio is only a bound (see `survival.bound`) it cannot leave the
    band on the open side: a lower bound within or below the band is "supported with a condition",
    the condition being that the baseline converges at all.
    """
    rates = reported(records)
    horizon = records.attrs["budget"]
    claims = []
    for comparison in comparisons:
        if not {comparison.scheme, comparison.baseline} <= set(rates):
            continue
        times = {}
        for name in (comparison.scheme, comparison.baseline):
            times[name] = times_of(records, name, rates[name], "report")
        scheme = times[comparison.scheme]
        baseline = times[comparison.baseline]
        if len(scheme.time) != len(baseline.time) or len(baseline.time) < 2:
            continue
        ratio = compare(baseline, scheme, horizon)
        note = _conditions(records, rates, times, ratio.bound)
        claims.append(
            _claim_of_ratio(
                comparison.id,
                comparison.statement,
                ratio,
                comparison.published,
                comparison.band,
                note,
            )
        )
    return claims


def _conditions(
    records: xr.Dataset, rates: dict[str, float], times: dict[str, Times], bound: Bound
) -> str:
    """Under what a ratio was measured: `times` are those of the scheme and of the baseline."""
    n = len(next(iter(times.values())).time)
    at = ", ".join(f"{name} {rates[name]:g}" for name in times)
    missed = []
    for name in reversed(times):  # the baseline first: it is what a claim expects to be slow
        count = int((~times[name].event).sum())
        if count:
            missed.append(f"{count} of {n} {name} trials did not converge")
    note = (
        f"{records.attrs['model']} on {records.attrs['task']}, {n} seeds, each scheme at its own "
        f"best rate ({at}), budget {records.attrs['budget']:g} epochs; "
        f"{' and '.join(missed) or 'all converged'}"
    )
    if bound == "=":
        return note
    if bound == ">=":
        return f"{note}; the ratio is a lower bound, since the baseline's clock stops at the budget"
    return (
        f"{note}; the ratio is no estimate, since the scheme itself missed the target within the "
        "budget"
    )


def _claim_of_ratio(
    name: str,
    statement: str,
    ratio: Ratio,
    published: str | None,
    band: tuple[float, float],
    note: str,
) -> Claim:
    return Claim(
        id=name,
        statement=statement,
        measured=ratio.value,
        measured_is=ratio.bound,
        low=ratio.low,
        high=ratio.high,
        published=published,
        band=_ends(band),
        verdict=verdict(ratio.low, ratio.high, band, ratio.bound),
        note=note,
    )


def _ends(band: tuple[float, float]) -> list[float | None]:
    """A band as JSON holds it, which has no infinity."""
    return [None if np.isinf(end) else float(end) for end in band]


_judging: ContextVar[bool] = ContextVar("judging", default=True)


@contextmanager
def no_verdicts() -> Iterator[None]:
    """Within it claims are measured and not judged: their verdict is None, as at an experiment's
    smoke size."""
    before = _judging.set(False)
    try:
        yield
    finally:
        _judging.reset(before)


def verdict(
    low: float, high: float, band: tuple[float, float], kind: Bound = "="
) -> Verdict | None:
    """What an interval says of a band: see `judge`. None within `no_verdicts`."""
    if not _judging.get():
        return None
    if kind == "?":
        return "too noisy to tell"
    if kind == "<=":  # the quantity may be anything below: only a miss on that side is certain
        return "refuted" if high < band[0] else "too noisy to tell"
    if low > band[1]:
        return "refuted"
    if kind == ">=":  # it may be anything above, and so above the band: never plainly supported
        return "supported with a condition" if low >= band[0] else "too noisy to tell"
    if high < band[0]:
        return "refuted"
    inside = band[0] <= low and high <= band[1]
    return "supported" if inside else "too noisy to tell"
