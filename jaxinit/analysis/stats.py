"""From records to an answer: times to target with censoring, intervals, tests, the table and the
claims.

Reads only the records (an xarray Dataset as `study` writes it); knows nothing of models, training
or JAX.

A time to target is an event where the trial converged and a lower bound where it did not. A
censored trial was followed to the budget; a diverged one will never arrive however long one waits,
so it is followed to the budget too: stopping its clock when it diverged would make a scheme look
better the sooner it fails.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats as scipy_stats

from jaxinit.analysis.outcome import Outcome

LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Times:
    """Times to target of the trials of one scheme: `time` in epochs, `event` true where the target
    was reached."""

    time: np.ndarray
    event: np.ndarray

    def __post_init__(self):
        if self.time.shape != self.event.shape or self.time.ndim != 1 or not self.time.size:
            raise ValueError(
                f"times and events pair up in one axis, got {self.time.shape} and "
                f"{self.event.shape}"
            )

    @property
    def censored_data(self) -> scipy_stats.CensoredData:
        return scipy_stats.CensoredData(
            uncensored=self.time[self.event], right=self.time[~self.event]
        )


def kaplan_meier(times: Times) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The share converged by each time, with a pointwise 95 % band: (time, share, low, high), all
    from time 0.

    Share = 1 - S(t), S(t) = prod over t_i <= t of (1 - d_i / n_i), d_i events among n_i trials
    still running; the band is Greenwood's on the log(-log) scale (exponential Greenwood), which
    stays within 0 and 1.
    Where it is undefined (no event yet, or nobody left), the band is Clopper and Pearson's for that
    share of n.
    Source: Kaplan & Meier (1958) eq. 2a; `scipy.stats.ecdf` on censored data.
    """
    survival = scipy_stats.ecdf(times.censored_data).sf
    with (
        warnings.catch_warnings()
    ):  # SciPy warns where the band is undefined; those points are filled below
        warnings.simplefilter("ignore", RuntimeWarning)
        band = survival.confidence_interval(LEVEL, method="log-log")
    n = len(times.time)
    share, low, high = (
        np.concatenate([[0.0], 1 - p])
        for p in (survival.probabilities, band.high.probabilities, band.low.probabilities)
    )
    low[0], high[0] = np.nan, np.nan
    for k in np.flatnonzero(np.isnan(low) | np.isnan(high)):
        exact = scipy_stats.binomtest(round(share[k] * n), n).proportion_ci(LEVEL, method="exact")
        low[k], high[k] = exact.low, exact.high
    return np.concatenate([[0.0], survival.quantiles]), share, low, high


def restricted_mean(times: Times, horizon: float) -> float:
    """Restricted mean time to target: the area under S(t) from 0 to `horizon`, in epochs.

    Where every unconverged trial was followed to the horizon this is the mean of min(t, horizon).
    Source: Irwin (1949); Royston & Parmar (2013).
    """
    return float(_restricted_means(times.time[None], times.event[None], horizon)[0])


def _restricted_means(time: np.ndarray, event: np.ndarray, horizon: float) -> np.ndarray:
    """`restricted_mean` along the last axis."""
    if np.all(event | (time >= horizon)):
        return np.minimum(time, horizon).mean(-1)
    # S falls by the factor 1 - 1/n at each event, n trials being still there; at a tie events come
    # before censorings.
    order = np.lexsort((~event, time), axis=-1)
    time, event = np.take_along_axis(time, order, -1), np.take_along_axis(event, order, -1)
    at_risk = np.arange(time.shape[-1], 0, -1)
    survival = np.cumprod(np.where(event, 1 - 1 / at_risk, 1.0), axis=-1)
    edges = np.minimum(np.concatenate([np.zeros_like(time[..., :1]), time], axis=-1), horizon)
    before = np.concatenate([np.ones_like(survival[..., :1]), survival[..., :-1]], axis=-1)
    area = np.sum(before * np.diff(edges, axis=-1), axis=-1)
    return area + survival[..., -1] * (horizon - edges[..., -1])


def _bootstrap(
    statistic: Any, samples: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[float, float]:
    if len(samples[0]) < 2:
        raise ValueError(f"an interval needs at least 2 seeds, got {len(samples[0])}")
    result = scipy_stats.bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=rng,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mean_interval(times: Times, horizon: float, rng: np.random.Generator) -> tuple[float, float]:
    """A 95 % percentile bootstrap interval over seeds of the restricted mean, in epochs.

    Assumes independent seeds. With 8 of them it covers about 90 % rather than 95 %: read it as a
    sketch.
    """
    statistic = lambda time, event, axis: _restricted_means(time, event, horizon)
    return _bootstrap(statistic, (times.time, times.event), rng)


def ratio_interval(
    baseline: Times, scheme: Times, horizon: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """How many times fewer epochs `scheme` needs than `baseline`: (ratio, low, high).

    ratio = restricted mean of the baseline / restricted mean of the scheme, with a paired
    bootstrap: both schemes are resampled with the same seeds, since a seed shares its key and data
    order across schemes.
    Where trials did not converge the restricted mean is a lower bound, and so the ratio is a bound
    as well: see `bound`.
    Raises: ValueError when the two do not hold the same number of seeds.
    """
    if len(baseline.time) != len(scheme.time):
        raise ValueError(
            f"a paired ratio needs the same seeds, got {len(baseline.time)} and {len(scheme.time)}"
        )

    def statistic(
        t0: np.ndarray, e0: np.ndarray, t1: np.ndarray, e1: np.ndarray, axis: int
    ) -> np.ndarray:
        del axis
        return _restricted_means(t0, e0, horizon) / _restricted_means(t1, e1, horizon)

    samples = (baseline.time, baseline.event, scheme.time, scheme.event)
    ratio = restricted_mean(baseline, horizon) / restricted_mean(scheme, horizon)
    return ratio, *_bootstrap(statistic, samples, rng)


def bound(baseline: Times, scheme: Times) -> str:
    """What the ratio of restricted means says of the ratio of means: `=`, `>=`, `<=` or `?`.

    A trial that did not arrive makes its scheme's mean a lower bound: of the numerator (`>=`), of
    the denominator (`<=`), or of both (`?`).
    """
    above, below = not baseline.event.all(), not scheme.event.all()
    return {(False, False): "=", (True, False): ">=", (False, True): "<=", (True, True): "?"}[
        above, below
    ]


def log_rank(a: Times, b: Times) -> float:
    """Two-sided p-value of the log-rank test that `a` and `b` have the same survival curve; 1
    without any event.

    Treats the samples as independent, which is conservative for paired seeds.
    Source: Mantel (1966); `scipy.stats.logrank`.
    """
    if not (a.event.any() or b.event.any()):
        return 1.0
    with np.errstate(invalid="ignore"):  # 0/0 where all events are at one time
        p = float(scipy_stats.logrank(a.censored_data, b.censored_data).pvalue)
    return 1.0 if np.isnan(p) else p


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given: max over j <= k of min(1, (m - j + 1)
    p_(j)).

    Controls the family-wise error rate under any dependence. Source: Holm (1979), section 3.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted


def times_of(records: xr.Dataset, scheme: str, lr: float, phase: str) -> Times:
    """The times to target of the trials of `scheme` at rate `lr` on the seeds of a phase, `tune` or
    `report`.

    Trials that never ran are left out; an interrupted one is censored where it stopped, a diverged
    one at the budget. Raises: ValueError when no trial of that kind has run.
    """
    chosen = records.sel(scheme=scheme, lr=lr).isel(
        seed=np.flatnonzero(records.phase.values == phase)
    )
    outcome, last = chosen.outcome.values, chosen.last_epoch.values
    ran = last > 0
    if not ran.any():
        raise ValueError(f"no {phase} trial of scheme {scheme!r} at rate {lr:g} has run")
    time = np.where(outcome == Outcome.DIVERGED, records.attrs["budget"], last)
    return Times(time[ran], (outcome == Outcome.CONVERGED)[ran])


def best_rate(records: xr.Dataset, scheme: str) -> float:
    """The learning rate of `scheme` that reaches the target soonest on the tuning seeds, by
    restricted mean.

    Where rates tie, as they do when none arrives, the one with the better mean of each trial's best
    metric is taken. With a single rate in the grid there is nothing to choose.
    """
    rates = records.lr.values
    if len(rates) == 1:
        return float(rates[0])
    tuning = records.sel(scheme=scheme).isel(seed=np.flatnonzero(records.phase.values == "tune"))
    sign = 1.0 if records.attrs["higher_is_better"] else -1.0
    metric = sign * tuning.metric.transpose("lr", "seed", "epoch").values
    best_metric = np.where(np.isnan(metric), -np.inf, metric).max(-1).mean(-1)
    horizon = records.attrs["budget"]
    effort = [restricted_mean(times_of(records, scheme, lr, "tune"), horizon) for lr in rates]
    return float(rates[min(range(len(rates)), key=lambda k: (effort[k], -best_metric[k]))])


def tuned(records: xr.Dataset) -> bool:
    """Whether every tuning trial has ended, so that rates can be chosen."""
    tuning = records.outcome.isel(seed=np.flatnonzero(records.phase.values == "tune"))
    return bool((tuning != Outcome.UNFINISHED).all())


def reported(records: xr.Dataset) -> dict[str, float]:
    """The schemes that have trials on the reporting seeds, each with the rate it ran at."""
    reporting = records.last_epoch.isel(seed=np.flatnonzero(records.phase.values == "report"))
    ran = (reporting > 0).any("seed")
    return {
        str(s): float(records.lr.values[ran.sel(scheme=s).values][0])
        for s in records.scheme.values
        if ran.sel(scheme=s).any()
    }


def table(records: xr.Dataset, baseline: str) -> list[dict[str, Any]]:
    """A row per scheme, at its own best rate on the reporting seeds, the fastest first.

    epochs: restricted mean up to the budget, with its interval; ratio: how many times fewer epochs
    than the baseline, with a paired interval, and `ratio_is` telling whether it is exact or a
    bound; p_holm:
    log-rank against the baseline, Holm-corrected over the schemes; lr_at_edge: the best rate is the
    grid's smallest or largest, so a wider grid might do better. Ratios are None when the baseline
    has no reporting trials.
    """
    rates = reported(records)
    horizon = records.attrs["budget"]
    times = {scheme: times_of(records, scheme, lr, "report") for scheme, lr in rates.items()}
    others = [scheme for scheme in times if scheme != baseline] if baseline in times else []
    p_values = [log_rank(times[scheme], times[baseline]) for scheme in others]
    adjusted = dict(zip(others, holm(p_values).tolist(), strict=True))
    grid = records.lr.values
    rows = []
    for scheme, of in times.items():
        enough = len(of.time) >= 2
        low, high = mean_interval(of, horizon, np.random.default_rng(0)) if enough else (None, None)
        ratio = ratio_low = ratio_high = kind = None
        if baseline in times and len(times[baseline].time) == len(of.time) and enough:
            kind = bound(times[baseline], of) if scheme != baseline else "="
            ratio, ratio_low, ratio_high = ratio_interval(
                times[baseline], of, horizon, np.random.default_rng(0)
            )
        outcome = records.outcome.sel(scheme=scheme, lr=rates[scheme]).values[
            records.phase.values == "report"
        ]
        rows.append(
            {
                "model": records.attrs["model"],
                "task": records.attrs["task"],
                "scheme": scheme,
                "baseline": baseline,
                "lr": rates[scheme],
                "lr_at_edge": len(grid) > 1 and rates[scheme] in (grid.min(), grid.max()),
                "epochs": restricted_mean(of, horizon),
                "epochs_low": low,
                "epochs_high": high,
                "ratio": ratio,
                "ratio_low": ratio_low,
                "ratio_high": ratio_high,
                "ratio_is": kind,
                "p_holm": adjusted.get(scheme),
                "seeds": len(of.time),
                "converged": int((outcome == Outcome.CONVERGED).sum()),
                "censored": int((outcome == Outcome.CENSORED).sum()),
                "diverged": int((outcome == Outcome.DIVERGED).sum()),
            }
        )
    return sorted(rows, key=lambda row: (row["epochs"], row["scheme"]))


def profile_scores(rows: Iterable[dict[str, Any]], most: float = 4.0) -> dict[str, float]:
    """How near each scheme is to the best over many cells: the area under its performance profile,
    best first.

    rho(tau) = share of cells in which the scheme's epochs are at most tau times those of the cell's
    best scheme; score = 1 / (most - 1) * integral of rho from 1 to `most`, so 1 is "always the
    best" and 0 "never within `most`".
    A scheme that fewer than half of the seeds brought to the target misses the cell (infinite
    ratio).
    Shapes: rows of `table`, each with its `cell`. Only schemes that every cell has are scored.
    Source: Dahl et al. (2023), AlgoPerf, section 4.2; Dolan & More (2002).
    """
    by_cell: dict[str, dict[str, float]] = {}
    for row in rows:
        arrived = 2 * row["converged"] >= row["seeds"]
        by_cell.setdefault(row["cell"], {})[row["scheme"]] = row["epochs"] if arrived else np.inf
    everywhere = set.intersection(*(set(of) for of in by_cell.values()))
    areas: dict[str, list[float]] = {scheme: [] for scheme in sorted(everywhere)}
    for of in by_cell.values():
        fastest = min(of.values())
        for scheme, areas_of in areas.items():
            ratio = of[scheme] / fastest if np.isfinite(of[scheme]) else np.inf
            areas_of.append(max(most - ratio, 0) / (most - 1))
    scores = {scheme: float(np.mean(of)) for scheme, of in areas.items()}
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Claim:
    """A statement of the form "`scheme` needs between `band` times fewer epochs than
    `baseline`"."""

    id: str
    statement: str
    scheme: str
    baseline: str
    band: tuple[float, float]
    published: str | None = None


def judge(records: xr.Dataset, claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """The verdict on each claim whose two schemes have reporting trials; the others are left out.

    supported: the interval of the ratio lies in the band. refuted: it lies outside. too noisy: it
    straddles an end. Where the ratio is only a bound (see `bound`) it cannot leave the band on the
    open side: a lower bound within or below the band is "supported with a condition", the condition
    being that the baseline arrives at all.
    """
    rates, horizon = reported(records), records.attrs["budget"]
    rows = []
    for claim in claims:
        if not {claim.scheme, claim.baseline} <= set(rates):
            continue
        times, base = (
            times_of(records, name, rates[name], "report")
            for name in (claim.scheme, claim.baseline)
        )
        if len(times.time) != len(base.time) or len(base.time) < 2:
            continue
        ratio, low, high = ratio_interval(base, times, horizon, np.random.default_rng(0))
        kind = bound(base, times)
        late = {claim.baseline: int((~base.event).sum()), claim.scheme: int((~times.event).sum())}
        missed = " and ".join(
            f"{n} of {len(base.event)} {name} trials did not arrive"
            for name, n in late.items()
            if n
        )
        at = ", ".join(f"{name} {rates[name]:g}" for name in (claim.scheme, claim.baseline))
        note = (
            f"{records.attrs['model']} on {records.attrs['task']}, {len(base.time)} seeds, each "
            "scheme at its own "
        )
        note += f"best rate ({at}), budget {horizon:g} epochs; {missed or 'all arrived'}"
        if kind == ">=":
            note += "; the ratio is a lower bound, since the baseline's clock stops at the budget"
        elif kind in ("<=", "?"):
            note += (
                "; the ratio is no estimate, since the scheme itself missed the target within the "
                "budget"
            )
        rows.append(
            {
                "id": claim.id,
                "statement": claim.statement,
                "measured": ratio,
                "measured_is": kind,
                "low": low,
                "high": high,
                "published": claim.published,
                "band": list(claim.band),
                "verdict": verdict(low, high, claim.band, kind),
                "note": note,
            }
        )
    return rows


def claim_of(
    name: str, statement: str, values: Any, published: str, band: tuple[float, float], note: str
) -> dict[str, Any]:
    """A row of summary.json for a measured number: its mean over seeds, its interval, and what that
    says of a band.

    `values` has one number a seed, and the interval is Student's at 95 %; a single number, which
    has no sampling error of its own, is inside the band or not. An end of the band may be infinite.
    """
    numbers = np.atleast_1d(np.asarray(values, float))
    measured = float(numbers.mean())
    low = high = measured
    if len(numbers) > 1:
        half = float(
            scipy_stats.t.ppf((1 + LEVEL) / 2, len(numbers) - 1)
            * numbers.std(ddof=1)
            / len(numbers) ** 0.5
        )
        low, high = measured - half, measured + half
        note = f"{len(numbers)} seeds, 95 % t interval; {note}"
    return {
        "id": name,
        "statement": statement,
        "measured": measured,
        "low": low if len(numbers) > 1 else None,
        "high": high if len(numbers) > 1 else None,
        "published": published,
        "band": [None if np.isinf(end) else float(end) for end in band],
        "verdict": verdict(low, high, band),
        "note": note,
    }


def ratio_claim(
    name: str,
    statement: str,
    baseline: Times,
    scheme: Times,
    horizon: float,
    published: str,
    band: tuple[float, float],
    note: str = "",
) -> dict[str, Any]:
    """A row of summary.json for "`scheme` needs so many times fewer epochs than `baseline`": see
    `ratio_interval`."""
    ratio, low, high = ratio_interval(baseline, scheme, horizon, np.random.default_rng(0))
    kind = bound(baseline, scheme)
    counts = (
        f"{int(scheme.event.sum())} of {len(scheme.event)} arrived, {int(baseline.event.sum())} of "
        "the baseline"
    )
    meaning = "" if kind == "=" else f"; the ratio is {kind} this"
    return {
        "id": name,
        "statement": statement,
        "measured": ratio,
        "measured_is": kind,
        "low": low,
        "high": high,
        "published": published,
        "band": [None if np.isinf(end) else float(end) for end in band],
        "verdict": verdict(low, high, band, kind),
        "note": f"{counts}{meaning}; restricted means up to {horizon:g} epochs, "
        "paired bootstrap over seeds" + (f"; {note}" if note else ""),
    }


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


def verdict(low: float, high: float, band: tuple[float, float], kind: str = "=") -> str | None:
    """What an interval says of a band: see `judge`. None within `no_verdicts`."""
    if not _judging.get():
        return None
    if kind in ("<=", "?"):
        return "refuted" if kind == "<=" and high < band[0] else "too noisy to tell"
    if low > band[1]:
        return "refuted"
    if kind == ">=":
        return "supported with a condition" if low >= band[0] else "too noisy to tell"
    if high < band[0]:
        return "refuted"
    return "supported" if band[0] <= low and high <= band[1] else "too noisy to tell"
