"""The table of a study: every scheme's times to target at its own best rate, a row each, and every
pair of schemes.

records -> the rates that each scheme is reported at -> its times to target -> rows, pairs

Reads only the records (an xarray Dataset as `records` makes it); knows nothing of models, training
or JAX.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NotRequired, TypedDict

import numpy as np
import xarray as xr

from jaxinit.analysis.interval import (
    Bound,
    Sample,
    apart_p,
    best,
    by_speed,
    compare,
    limits,
    log_ratio,
    seeds_to_tell,
    share_interval,
)
from jaxinit.analysis.outcome import LOST, Outcome
from jaxinit.analysis.records import (
    by_value,
    ends_of,
    have_run,
    schemes_of,
    select,
    times_of,
    window,
)
from jaxinit.analysis.search import doubtful, fails, next_rate
from jaxinit.analysis.survival import Times, holm

# Parts of the way from chance to the target at which ratios are given too.
WAYPOINTS = (0.5, 0.75, 0.9, 1.0)
STEEP = 1.25  # a time that changes by more to the next rate leaves the best rate unresolved
DISTINCT = 0.05  # schemes whose adjusted p-value is below differ


class Row(TypedDict):
    """A scheme at its own best rate on the reporting seeds, as summary.json holds it.

    lr: the best of the rates reported, doubtful ones (`search.doubtful`) after all others; lrs: all
    of them, in that order; also: the value of the other setting that is searched at which lr is the
    best, None where none is, or in summaries of before; unresolved: why the best rate may lie
    elsewhere, empty where nothing says so; epochs: at lr, or the geometric mean with a doubtful
    rate that is faster, restricted to the budget where trials were lost, with an interval that
    contains the choice of the rate (`interval.limits`); time: at lr, of those trials that
    converged; share: of the seeds that converge, exact; ratio: how many times fewer epochs than the
    baseline, and `ratio_is` telling whether it is exact or a bound; p_holm: permutation of seeds
    against the baseline, the largest over the rates reported, Holm-corrected over the schemes;
    letters: schemes that share one are not told apart; converged, censored, diverged: counts of
    trials at lr. Intervals are None with fewer than 2 seeds, ratios also when the baseline has no
    reporting trials.
    """

    model: str
    task: str
    scheme: str
    baseline: str
    lr: float
    lrs: list[float]
    also: NotRequired[float | None]
    unresolved: str
    epochs: float
    epochs_low: float | None
    epochs_high: float | None
    time: float | None
    share_low: float
    share_high: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    ratio_is: Bound | None
    p_holm: float | None
    letters: str
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


class Pair(TypedDict):
    """Two schemes: how many times fewer epochs the second needs, Holm-corrected over all pairs, and
    the seeds that would tell them apart if they differ as they do here."""

    scheme: str
    other: str
    ratio: float
    low: float
    high: float
    ratio_is: Bound
    p_holm: float
    seeds_needed: int | None


class AtTarget(TypedDict):
    """The ratios against the baseline at another target, from the same records: the rates are those
    of the study's own."""

    target: float
    ratios: dict[str, tuple[float, float, float, Bound]]


def samples_of(records: xr.Dataset, scheme: str) -> list[Sample]:
    """The times of a scheme at each rate that is reported, of every value of the other setting that
    is searched, the best rate first; empty where none has run."""
    samples = []
    for also, trials in by_value(select(records, scheme)).items():
        samples += _samples_at(trials, scheme, also)
    return by_speed(samples, records.attrs["budget"])


def _samples_at(records: xr.Dataset, scheme: str, also: float | None) -> list[Sample]:
    """The samples of a scheme at one value of the other setting."""
    trials = select(records, scheme, "report")
    ends = ends_of(records, scheme)
    samples = []
    for rate in np.unique(trials.lr.values).tolist():
        at_rate = select(trials, scheme, lr=rate)
        # Of an interrupted study some trials have not ended, or wait to be trained again.
        open_ended = np.isin(at_rate.outcome.values, (Outcome.UNFINISHED, Outcome.STOPPED))
        at_rate = at_rate.isel(trial=np.flatnonzero(~open_ended))
        if not at_rate.sizes["trial"]:
            continue
        # Of a grid one rate is reported as if it had been given.
        doubt = records.attrs["search"] == "ladder" and doubtful(ends, rate)
        samples.append(Sample(rate, times_of(at_rate), doubt, also))
    return samples


def best_points(records: xr.Dataset) -> dict[str, tuple[float, float | None]]:
    """The schemes that have trials on the reporting seeds, each with the best rate of those, and
    the value of the other setting there."""
    points = {}
    for scheme in schemes_of(records):
        samples = samples_of(records, scheme)
        if samples:
            points[scheme] = samples[0].rate, samples[0].also
    return points


def at_best_value(records: xr.Dataset) -> xr.Dataset:
    """The records of every scheme at its best value of the other setting; all of them where none is
    searched."""
    if "also" not in records.coords:
        return records
    chosen = np.zeros(records.sizes["trial"], bool)
    best = best_points(records)
    for scheme in schemes_of(records):
        own = records.scheme.values == scheme
        # Of a scheme that nothing is reported of, all values are looked at.
        chosen |= own & (scheme not in best or records.also.values == best[scheme][1])
    return records.isel(trial=np.flatnonzero(chosen))


def reported(records: xr.Dataset) -> dict[str, float]:
    """The schemes that have trials on the reporting seeds, each with the best rate of those."""
    return {scheme: rate for scheme, (rate, _) in best_points(records).items()}


def times_reported(records: xr.Dataset, scheme: str) -> Times:
    """The times to target of a scheme at its best rate. Raises: ValueError where none has run."""
    samples = samples_of(records, scheme)
    if not samples:
        raise ValueError(f"no trial of scheme {scheme!r} has been reported")
    return samples[0].times


def make_table(records: xr.Dataset, baseline: str, pairs: Iterable[Pair]) -> list[Row]:
    """A row per scheme that has trials on the reporting seeds, the fastest first.

    `pairs` are those of `make_pairs`, for the letters.
    """
    rows = rows_without_tests(records, baseline)
    horizon = records.attrs["budget"]
    samples = _all_samples(records)
    times = {scheme: best(its, horizon) for scheme, its in samples.items()}
    p_values = _adjusted_p_values(samples, baseline, horizon)
    of_pairs = {(pair["scheme"], pair["other"]): pair["p_holm"] for pair in pairs}
    letters = _letters(times, of_pairs, horizon)
    for row in rows:
        row["p_holm"] = p_values.get(row["scheme"])
        row["letters"] = letters[row["scheme"]]
    return rows


def rows_without_tests(records: xr.Dataset, baseline: str) -> list[Row]:
    """The rows of `make_table`, without what permutations of seeds tell: p-values and letters."""
    samples = _all_samples(records)
    rows = [_row(records, baseline, scheme, samples) for scheme in samples]
    return sorted(rows, key=speed)


def speed(row: Row) -> tuple[float, str]:
    """The key that sorts rows, the fastest first; schemes that tie by their names."""
    return row["epochs"], row["scheme"]


def make_pairs(records: xr.Dataset) -> list[Pair]:
    """Every pair of schemes that can be compared, as the study names them."""
    samples = {scheme: its for scheme, its in _all_samples(records).items() if _seeds(its) >= 2}
    horizon = records.attrs["budget"]
    adjusted = _adjusted_pairs(samples, horizon)
    pairs = []
    for scheme, other in combinations(samples, 2):
        both = samples[scheme], samples[other]
        ratio = compare(*both, horizon)
        seeds = min(map(_seeds, both))
        pairs.append(
            Pair(
                scheme=scheme,
                other=other,
                ratio=ratio.value,
                low=ratio.low,
                high=ratio.high,
                ratio_is=ratio.bound,
                p_holm=adjusted[scheme, other],
                seeds_needed=seeds_to_tell(log_ratio(*both, horizon), seeds),
            )
        )
    return pairs


def at_targets(records: xr.Dataset, baseline: str) -> list[AtTarget]:
    """The ratios against the baseline at easier targets, from the same records.

    Targets lie at parts of the way from chance to the target, on a logarithmic scale where lower is
    better: no scheme has a say in them.
    """
    samples = _all_samples(records)
    if baseline not in samples or any(_seeds(its) < 2 for its in samples.values()):
        return []
    horizon = records.attrs["budget"]
    rows = []
    for part in WAYPOINTS:
        target = _waypoint(records.attrs, part)
        moved = {}
        for scheme, its in samples.items():
            moved[scheme] = [_sample_at(records, scheme, sample, target) for sample in its]
        ratios = {}
        for scheme in samples:
            if scheme != baseline:
                ratio = compare(moved[baseline], moved[scheme], horizon)
                ratios[scheme] = tuple(ratio)
        rows.append(AtTarget(target=target, ratios=ratios))
    return rows


def times_to(trials: xr.Dataset, target: float) -> Times:
    """The times at which the metric of trials `[trial, epoch]` first was at a target on average
    over an epoch (`records.WINDOW`); those that never were are censored where they ended."""
    per_epoch = int(trials.attrs["evaluations_per_epoch"])  # NumPy's own, of a file
    width = window(per_epoch)
    metric = trials.metric.transpose("trial", "epoch").values
    windows = np.lib.stride_tricks.sliding_window_view(metric, width, axis=1)
    means = windows.mean(axis=-1, dtype=np.float32)  # NaN where the trial has ended
    at = np.float32(target)  # as training compares
    reached = means >= at if trials.attrs["higher_is_better"] else means <= at
    event = reached.any(axis=1)
    time = (reached.argmax(axis=1) + width) / per_epoch
    lost = np.where(
        np.isin(trials.outcome.values, LOST), trials.attrs["budget"], trials.last_epoch.values
    )
    return Times(np.where(event, time, lost), event)


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


def unresolved(records: xr.Dataset, scheme: str, rate: float) -> str:
    """Why the best rate of a scheme may lie elsewhere, in words; empty where nothing says so.

    At an end of the rates tried; beside a rate at which most trials fail; or where the mean time
    changes by more than a quarter to the next rate.
    """
    ends = ends_of(records, scheme)
    tried = {at for at, _ in ends}
    if len(tried) == 1:
        return ""
    if rate in (min(tried), max(tried)):
        return "at an end of the rates tried"
    for sign in (1, -1):
        beside = next_rate(ends, rate, sign)
        assert beside is not None
        if fails(ends, beside):
            return f"most trials fail, or are much slower, at {beside:g}"
        common = {seed for at, seed in ends if at == rate} & {
            seed for at, seed in ends if at == beside
        }
        if common:
            own, other = (sum(ends[at, seed].time for seed in common) for at in (rate, beside))
            if other > STEEP * own:
                return f"the time changes by more than a quarter to {beside:g}"
    return ""


def _all_samples(records: xr.Dataset) -> dict[str, list[Sample]]:
    samples = {scheme: samples_of(records, scheme) for scheme in schemes_of(records)}
    return {scheme: its for scheme, its in samples.items() if its}


def _seeds(samples: Sequence[Sample]) -> int:
    return min(sample.seeds for sample in samples)


def _sample_at(records: xr.Dataset, scheme: str, sample: Sample, target: float) -> Sample:
    """A sample at another target."""
    trials = by_value(select(records, scheme, "report", sample.rate))[sample.also]
    trials = trials.isel(trial=np.flatnonzero(have_run(trials)))
    return replace(sample, times=times_to(trials, target))


def _waypoint(attrs: Mapping, part: float) -> float:
    """The target at a part of the way from chance."""
    chance, target = attrs["chance"], attrs["target"]
    if attrs["higher_is_better"] or chance <= 0 or target <= 0:
        return float(chance + part * (target - chance))
    return float(chance * (target / chance) ** part)


def _adjusted_p_values(
    samples: Mapping[str, Sequence[Sample]], baseline: str, horizon: float
) -> dict[str, float]:
    """Permutation tests of every scheme against the baseline, Holm-corrected over the schemes."""
    if baseline not in samples:
        return {}
    others = [scheme for scheme in samples if scheme != baseline]
    p_values = [apart_p(samples[scheme], samples[baseline], horizon) for scheme in others]
    return dict(zip(others, holm(p_values).tolist(), strict=True))


def _adjusted_pairs(
    samples: Mapping[str, Sequence[Sample]], horizon: float
) -> dict[tuple[str, str], float]:
    """The p-value of every pair, Holm-corrected over all of them."""
    pairs = list(combinations(samples, 2))
    p_values = [apart_p(samples[a], samples[b], horizon) for a, b in pairs]
    return dict(zip(pairs, holm(p_values).tolist(), strict=True))


def _letters(
    times: Mapping[str, Times], p_values: Mapping[tuple[str, str], float], horizon: float
) -> dict[str, str]:
    """Letters such that two schemes share one exactly where they are not told apart, the fastest
    having a.

    Source: Piepho (2004), insert and absorb.
    """
    order = sorted(times, key=lambda name: np.minimum(times[name].time, horizon).mean())
    groups: list[set[str]] = [set(order)]
    for (a, b), p in p_values.items():
        if p >= DISTINCT:
            continue
        apart = []
        for group in groups:
            if a in group and b in group:
                apart += [group - {a}, group - {b}]
            else:
                apart.append(group)
        groups = []
        for group in sorted(apart, key=len, reverse=True):
            if not any(group <= kept for kept in groups):
                groups.append(group)
    groups.sort(key=lambda group: [name not in group for name in order])
    letters = dict.fromkeys(times, "")
    for index, group in enumerate(groups):
        for name in group:
            letters[name] += _letter(index)
    return letters


def _letter(index: int) -> str:
    """a, b, ..., z, and then by their numbers."""
    return chr(ord("a") + index) if index < 26 else f"({index})"


def _row(
    records: xr.Dataset, baseline: str, scheme: str, samples: Mapping[str, Sequence[Sample]]
) -> Row:
    """The row of a scheme, but for what needs all of them."""
    horizon = records.attrs["budget"]
    its = samples[scheme]
    rate, own = its[0].rate, its[0].times
    records = by_value(select(records, scheme))[its[0].also]
    outcome = select(records, scheme, "report", rate).outcome.values
    converged = int(own.event.sum())
    share_low, share_high = share_interval(converged, len(own.event))
    row = Row(
        model=records.attrs["model"],
        task=records.attrs["task"],
        scheme=scheme,
        baseline=baseline,
        lr=rate,
        lrs=[sample.rate for sample in its],
        also=its[0].also,
        unresolved=unresolved(records, scheme, rate),
        epochs=float(np.minimum(own.time, horizon).mean()),
        epochs_low=None,
        epochs_high=None,
        time=float(own.time[own.event].mean()) if converged else None,
        share_low=share_low,
        share_high=share_high,
        ratio=None,
        ratio_low=None,
        ratio_high=None,
        ratio_is=None,
        p_holm=None,
        letters="",
        seeds=len(own.time),
        converged=converged,
        censored=int((outcome == Outcome.CENSORED).sum()),
        diverged=int(np.isin(outcome, LOST).sum()),
    )
    if _seeds(its) < 2:  # too few for an interval
        return row
    epochs = limits(its, horizon)
    row["epochs"] = math.exp(epochs.value)
    row["epochs_low"] = math.exp(epochs.low)
    row["epochs_high"] = math.exp(epochs.high)
    if baseline in samples and _seeds(samples[baseline]) >= 2:
        ratio = compare(samples[baseline], its, horizon)
        if scheme == baseline:  # against itself exactly 1, whether its trials converged or not
            ratio = ratio._replace(value=1.0, low=1.0, high=1.0, bound="=")
        row["ratio"] = ratio.value
        row["ratio_low"] = ratio.low
        row["ratio_high"] = ratio.high
        row["ratio_is"] = ratio.bound
    return row
