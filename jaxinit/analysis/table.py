"""The table of a study: every scheme's times to target at its own best rate, a row each.

records -> the rate that each scheme is reported at -> its times to target -> rows

Reads only the records (an xarray Dataset as `store` makes it); knows nothing of models, training or
JAX.
"""

from collections.abc import Iterable, Mapping
from typing import NotRequired, TypedDict

import numpy as np
import xarray as xr

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.survival import (
    Bound,
    Times,
    compare,
    holm,
    log_rank,
    mean_interval,
    restricted_mean,
)


class Row(TypedDict):
    """A scheme at its own best rate on the reporting seeds, as summary.json holds it.

    epochs: restricted mean up to the budget, with its interval; ratio: how many times fewer epochs
    than the baseline, with a paired interval, and `ratio_is` telling whether it is exact or a
    bound; p_holm: log-rank against the baseline, Holm-corrected over the schemes; lr_at_edge: the
    best rate is the grid's smallest or largest, so a wider grid might do better; converged,
    censored, diverged: counts of trials. Intervals are None with fewer than 2 seeds, ratios also
    when the baseline has no reporting trials.
    """

    model: str
    task: str
    scheme: str
    baseline: str
    lr: float
    lr_at_edge: bool
    epochs: float
    epochs_low: float | None
    epochs_high: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    ratio_is: Bound | None
    p_holm: float | None
    seeds: int
    converged: int
    censored: int
    diverged: int


class SettingRow(Row):
    """A row among those of several studies: `setting` names that of its study.

    `drawn_by` is the scheme where rows of one setting are named by something else.
    """

    setting: str
    drawn_by: NotRequired[str]


def times_of(records: xr.Dataset, scheme: str, lr: float, phase: str) -> Times:
    """The times to target of the trials of `scheme` at rate `lr` on the seeds of a phase, `tune` or
    `report`.

    Trials that never ran are left out; an interrupted one is censored where it stopped, a diverged
    one at the budget. Raises: ValueError when no trial of that kind has run.
    """
    trials = _seeds(records, phase).sel(scheme=scheme, lr=lr)
    outcome = trials.outcome.values
    last_epoch = trials.last_epoch.values
    ran = last_epoch > 0
    if not ran.any():
        raise ValueError(f"no {phase} trial of scheme {scheme!r} at rate {lr:g} has run")
    time = np.where(outcome == Outcome.DIVERGED, records.attrs["budget"], last_epoch)
    event = outcome == Outcome.CONVERGED
    return Times(time[ran], event[ran])


def best_rate(records: xr.Dataset, scheme: str) -> float:
    """The learning rate of `scheme` that reaches the target soonest on the tuning seeds, by
    restricted mean.

    Where rates tie, as they do when none reaches it, the one with the better mean of each trial's
    best metric is taken. With a single rate in the grid there is nothing to choose.
    """
    rates = records.lr.values
    if len(rates) == 1:
        return float(rates[0])
    sign = 1.0 if records.attrs["higher_is_better"] else -1.0
    tuning = _seeds(records, "tune").sel(scheme=scheme)
    metric = sign * tuning.metric.transpose("lr", "seed", "epoch").values
    best_metric = np.where(np.isnan(metric), -np.inf, metric).max(-1).mean(-1)

    horizon = records.attrs["budget"]
    order = []
    for k, rate in enumerate(rates):
        epochs = restricted_mean(times_of(records, scheme, rate, "tune"), horizon)
        order.append((epochs, -best_metric[k], k))
    _, _, best = min(order)
    return float(rates[best])


def tuned(records: xr.Dataset) -> bool:
    """Whether every tuning trial has ended, so that rates can be chosen."""
    outcome = _seeds(records, "tune").outcome
    return bool((outcome != Outcome.UNFINISHED).all())


def reported(records: xr.Dataset) -> dict[str, float]:
    """The schemes that have trials on the reporting seeds, each with the rate it ran at."""
    last_epoch = _seeds(records, "report").last_epoch
    rates = {}
    for scheme in records.scheme.values:
        ran = (last_epoch.sel(scheme=scheme) > 0).any("seed").values
        if ran.any():
            rates[str(scheme)] = float(records.lr.values[ran][0])
    return rates


def make_table(records: xr.Dataset, baseline: str) -> list[Row]:
    """A row per scheme that has trials on the reporting seeds, the fastest first."""
    rates = reported(records)
    times = {}
    for scheme, rate in rates.items():
        times[scheme] = times_of(records, scheme, rate, "report")
    p_values = _adjusted_p_values(times, baseline)
    rows = []
    for scheme, rate in rates.items():
        row = _row(records, baseline, scheme, rate, times)
        row["p_holm"] = p_values.get(scheme)
        rows.append(row)
    return sorted(rows, key=by_speed)


def by_speed(row: Row) -> tuple[float, str]:
    """The key that sorts rows, the fastest first; schemes that tie by their names."""
    return row["epochs"], row["scheme"]


def profile_scores(rows: Iterable[SettingRow], most: float = 4.0) -> dict[str, float]:
    """How near each scheme is to the best over many settings: the area under its performance
    profile, best first.

    rho(tau) = share of settings in which the scheme's epochs are at most tau times those of the
    setting's best scheme; score = 1 / (most - 1) * integral of rho from 1 to `most`, so 1 is
    "always the best" and 0 "never within `most`".
    A scheme that fewer than half of the seeds brought to the target misses the setting (infinite
    ratio). Only schemes that every setting has are scored.
    Source: Dahl et al. (2023), AlgoPerf, section 4.2; Dolan & More (2002).
    """
    settings: dict[str, dict[str, float]] = {}
    for row in rows:
        most_converged = 2 * row["converged"] >= row["seeds"]
        epochs = settings.setdefault(row["setting"], {})
        epochs[row["scheme"]] = row["epochs"] if most_converged else np.inf
    everywhere = set.intersection(*(set(epochs) for epochs in settings.values()))
    scores = {}
    for scheme in sorted(everywhere):
        areas = []
        for epochs in settings.values():
            # inf / inf, where no scheme converged, would not be a miss but nan.
            missed = np.isinf(epochs[scheme])
            ratio = np.inf if missed else epochs[scheme] / min(epochs.values())
            # In this setting rho steps from 0 to 1 at the ratio.
            areas.append(max(most - ratio, 0) / (most - 1))
        scores[scheme] = float(np.mean(areas))
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def _seeds(records: xr.Dataset, phase: str) -> xr.Dataset:
    """The records on the seeds of a phase, `tune` or `report`."""
    return records.isel(seed=np.flatnonzero(records.phase.values == phase))


def _adjusted_p_values(times: Mapping[str, Times], baseline: str) -> dict[str, float]:
    """Log-rank tests of every scheme against the baseline, Holm-corrected over the schemes."""
    if baseline not in times:
        return {}
    others = [scheme for scheme in times if scheme != baseline]
    p_values = [log_rank(times[scheme], times[baseline]) for scheme in others]
    return dict(zip(others, holm(p_values).tolist(), strict=True))


def _row(
    records: xr.Dataset, baseline: str, scheme: str, rate: float, times: Mapping[str, Times]
) -> Row:
    """The row of a scheme, but for its p-value, which needs all of them."""
    horizon = records.attrs["budget"]
    grid = records.lr.values
    own = times[scheme]
    n = len(own.time)
    outcome = _seeds(records, "report").outcome.sel(scheme=scheme, lr=rate).values
    row = Row(
        model=records.attrs["model"],
        task=records.attrs["task"],
        scheme=scheme,
        baseline=baseline,
        lr=rate,
        lr_at_edge=len(grid) > 1 and rate in (grid.min(), grid.max()),
        epochs=restricted_mean(own, horizon),
        epochs_low=None,
        epochs_high=None,
        ratio=None,
        ratio_low=None,
        ratio_high=None,
        ratio_is=None,
        p_holm=None,
        seeds=n,
        converged=int((outcome == Outcome.CONVERGED).sum()),
        censored=int((outcome == Outcome.CENSORED).sum()),
        diverged=int((outcome == Outcome.DIVERGED).sum()),
    )
    if n < 2:  # too few for an interval
        return row
    row["epochs_low"], row["epochs_high"] = mean_interval(own, horizon, np.random.default_rng(0))
    # Of an interrupted study schemes may have run on different numbers of seeds, which do not pair.
    if baseline in times and len(times[baseline].time) == n:
        ratio = compare(times[baseline], own, horizon)
        row["ratio"] = ratio.value
        row["ratio_low"] = ratio.low
        row["ratio_high"] = ratio.high
        # The baseline against itself is exactly 1, whether its trials converged or not.
        row["ratio_is"] = "=" if scheme == baseline else ratio.bound
    return row
