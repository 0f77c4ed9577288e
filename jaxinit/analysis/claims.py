"""Published claims beside what was measured of them.

    measured values, or times to target -> estimate and interval -> verdict on a band -> Claim

A band is what a publication's statement allows: `at_least(x)`, `at_most(x)`, `near(x, tolerance)`,
or any pair of ends. A band with two ends is two claims, at least the one and at most the other,
each supported, refuted or open. Intervals are printed at 95 % and claims are settled at 99 %,
ratios of epochs at 99.5 %, and of a family of claims each at its share of what is left: the choice
of a rate, and that of what to test, cost something. A larger budget can settle what is open, or
open it again where it shows that seeds were lost; it never turns a verdict into its opposite.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, NamedTuple, NotRequired, TypedDict

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from jaxinit.analysis.interval import (
    FEWEST,
    Bound,
    Sample,
    best,
    compare,
    share_interval,
)
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import select
from jaxinit.analysis.survival import LEVEL, Times
from jaxinit.analysis.table import samples_of

Verdict = Literal["supported", "refuted", "open"]
WRONG = 0.01  # of a family of claims that is settled though it is not so, at most
# Of ratios at a searched rate half of that: the search picks what looks best.
WRONG_RATIO = 0.005
IN_WORDS: dict[Verdict | None, str] = {
    "supported": "holds",
    "refuted": "does not hold",
    "open": "open",
    None: "not judged at smoke size",
}


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
    `interval.bound`); published: in words, None where no source was found; parts: the verdict on
    each end of the band, in words; verdict: on all of them, None where it is not to be judged
    (`no_verdicts`).
    """

    id: str
    statement: str
    measured: float  # read back, None where it was not finite, which JSON does not know
    measured_is: NotRequired[Bound]
    low: float | None
    high: float | None
    published: str | None
    band: list[float | None]
    parts: dict[str, Verdict | None]
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
    *,
    exact: bool = False,
) -> Claim:
    """A measured number against a band: its mean over seeds, its interval, and the verdict.

    `values` has one number a seed, and the interval is Student's; of outcomes, which are booleans,
    it is that of their share, exact (Clopper and Pearson). Of a single number, or fewer than four
    seeds, or of numbers that are not all finite, the verdict is open, unless it is `exact`: what
    has no sampling error at all. `band` is what `at_least`, `at_most` or `near` return, or any
    (low, high).
    """
    numbers = np.atleast_1d(np.asarray(values))
    n = len(numbers)
    measured = float(numbers.mean())
    interval: tuple[float | None, float | None] = (None, None)
    decisive = (-np.inf, np.inf)
    of_seeds = ""
    if exact:
        decisive = (float(numbers.min()), float(numbers.max()))
    elif not np.isfinite(numbers).all():
        of_seeds = f"{n} seeds, of which {np.isfinite(numbers).sum()} gave a finite number"
    elif n > 1:
        interval = _mean_interval(numbers, LEVEL)
        of_seeds = f"{n} seeds, 95 % interval"
        if n >= FEWEST:
            decisive = _mean_interval(numbers, 1 - WRONG)
    parts = verdicts(*decisive, band)
    return Claim(
        id=name,
        statement=statement,
        measured=measured,
        low=interval[0],
        high=interval[1],
        published=published,
        band=_ends(band),
        parts=parts,
        verdict=_together(parts),
        note=_joined(of_seeds, note),
    )


def _mean_interval(numbers: np.ndarray, level: float) -> tuple[float, float]:
    """Of a share where they are outcomes, else Student's."""
    n = len(numbers)
    if numbers.dtype == bool:
        return share_interval(int(numbers.sum()), n, level)
    half = float(scipy_stats.t.ppf((1 + level) / 2, n - 1) * numbers.std(ddof=1) / n**0.5)
    return float(numbers.mean() - half), float(numbers.mean() + half)


def ratio_claim(
    name: str,
    statement: str,
    baseline: Sequence[Sample],
    scheme: Sequence[Sample],
    horizon: float,
    published: str | None,
    band: tuple[float, float],
    note: str = "",
    *,
    family: int = 1,
) -> Claim:
    """The claim that `scheme` needs so many times fewer epochs than `baseline`, each at its own
    best rate: one of a `family` of claims that are read together."""
    ratio = compare(baseline, scheme, horizon)
    seeds = min(sample.seeds for sample in (*baseline, *scheme))
    decisive = ratio._replace(low=0.0, high=np.inf)
    if seeds >= FEWEST:
        decisive = compare(baseline, scheme, horizon, 1 - WRONG_RATIO / family)
    parts = verdicts(decisive.low, decisive.high, band, ratio.bound)
    remarks = [_converged(best(scheme, horizon), best(baseline, horizon)), note]
    if seeds < FEWEST:
        remarks.append(f"no verdict below {FEWEST} seeds")
    if family > 1:
        remarks.append(f"settled as one of {family}")
    return Claim(
        id=name,
        statement=statement,
        measured=ratio.value,
        measured_is=ratio.bound,
        low=ratio.low,
        high=ratio.high,
        published=published,
        band=_ends(band),
        parts=parts,
        verdict=_together(parts),
        note=_joined(*remarks),
    )


def _converged(scheme: Times, baseline: Times) -> str:
    return (
        f"{int(scheme.event.sum())} of {len(scheme.event)} converged, "
        f"{int(baseline.event.sum())} of {len(baseline.event)} of the baseline"
    )


def judge(
    records: xr.Dataset, comparisons: Iterable[Comparison], *, family: int = 1
) -> list[Claim]:
    """The verdict on each comparison whose two schemes have reporting trials; the others are left
    out. See `verdicts`."""
    horizon = records.attrs["budget"]
    claims = []
    for comparison in comparisons:
        scheme = samples_of(records, comparison.scheme)
        baseline = samples_of(records, comparison.baseline)
        if not (scheme and baseline) or min(s.seeds for s in (*scheme, *baseline)) < 2:
            continue
        rates = []
        for name, samples in ((comparison.scheme, scheme), (comparison.baseline, baseline)):
            rates.append(f"{name} {' or '.join(f'{sample.rate:g}' for sample in samples)}")
        note = (
            f"{records.attrs['model']} on {records.attrs['task']}, each scheme at its own best "
            f"rate ({', '.join(rates)}), budget {horizon:g} epochs"
        )
        claim = ratio_claim(
            comparison.id,
            comparison.statement,
            baseline,
            scheme,
            horizon,
            comparison.published,
            comparison.band,
            note,
            family=family,
        )
        sides = (records, comparison.scheme), (records, comparison.baseline)
        claims.append(open_where_failed(claim, sides))
    return claims


def open_where_failed(claim: Claim, sides: Iterable[tuple[xr.Dataset, str]]) -> Claim:
    """The claim, open where all trials of one of its schemes, each in its records, have failed:
    nothing was seen of it."""
    for records, scheme in sides:
        if (select(records, scheme).outcome.values != Outcome.FAILED).any():
            continue
        claim["measured_is"], claim["low"], claim["high"] = "?", None, None
        claim["note"] = f"no trial of {scheme} could be run"
        for part, verdict in claim["parts"].items():
            claim["parts"][part] = verdict and "open"
        claim["verdict"] = claim["verdict"] and "open"
    return claim


def sentence(claim: Claim) -> str:
    """A claim in words: what was claimed, what was measured, and whether it holds."""
    verdicts = judged(claim)
    published = claim["published"] or "no source found"
    return (
        f"{claim['statement']}. Published: {published}. Measured: {measured_of(claim)}. "
        f"{verdicts[:1].upper()}{verdicts[1:]}."
    )


def measured_of(claim: Claim) -> str:
    """What was measured, with its interval; of a bound the end that is sure."""
    kind = claim.get("measured_is", "=")
    low, high = claim["low"], claim["high"]
    if kind == "?":
        return "no estimate"
    if kind == ">=" and low is not None:
        return f"at least {low:.3g}"
    if kind == "<=" and high is not None:
        return f"at most {high:.3g}"
    measured = claim["measured"]
    if measured is None or not math.isfinite(measured):
        return "no finite number"
    if low is None or high is None:
        return f"{measured:.3g}"
    return f"{measured:.3g} ({low:.3g} to {high:.3g})"


def judged(claim: Claim) -> str:
    """The verdict on each end of a claim's band, in words."""
    ends = [f"{part}: {IN_WORDS[verdict]}" for part, verdict in claim["parts"].items()]
    return "; ".join(ends)


def counted(claims: Sequence[Claim]) -> str:
    """How many claims there are, and how many of each verdict."""
    counts = Counter(claim["verdict"] for claim in claims)
    said = [f"{words}: {counts[verdict]}" for verdict, words in IN_WORDS.items() if counts[verdict]]
    return f"{len(claims)} claim{'s' * (len(claims) != 1)} ({', '.join(said)})."


def _joined(*remarks: str) -> str:
    return "; ".join(filter(None, remarks))


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


def verdicts(
    low: float, high: float, band: tuple[float, float], kind: Bound = "="
) -> dict[str, Verdict | None]:
    """What an interval says of each finite end of a band, in words: see `verdict`."""
    parts = {}
    if np.isfinite(band[0]):
        parts[f"at least {band[0]:.3g}"] = verdict(low, high, (band[0], np.inf), kind)
    if np.isfinite(band[1]):
        parts[f"at most {band[1]:.3g}"] = verdict(low, high, (-np.inf, band[1]), kind)
    return parts


def verdict(
    low: float, high: float, band: tuple[float, float], kind: Bound = "="
) -> Verdict | None:
    """What an interval says of a band with one end. None within `no_verdicts`.

    supported: the interval lies in the band; refuted: beside it; open: it straddles the end. What
    is only a bound (`interval.bound`) may lie anywhere beyond it, so that it supports or refutes on
    its own side alone.
    """
    if not _judging.get():
        return None
    if kind in ("<=", "?"):  # the quantity may be anything below
        low = -np.inf
    if kind in (">=", "?"):
        high = np.inf
    if band[0] <= low and high <= band[1]:
        return "supported"
    if high < band[0] or low > band[1]:
        return "refuted"
    return "open"


def _together(parts: Mapping[str, Verdict | None]) -> Verdict | None:
    """The verdict on all ends of a band: it holds where all do, and fails where one does."""
    verdicts = set(parts.values())
    if None in verdicts or not verdicts:
        return None
    if "refuted" in verdicts:
        return "refuted"
    return "open" if "open" in verdicts else "supported"
