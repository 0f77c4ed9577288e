"""Do two studies agree? The same schemes in both, such as a study and its replication with other
seeds.

    records of both -> epochs of each scheme in each -> ratio of the two, and of their ratios
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxinit.analysis.interval import Limits, Sample, limits, ratio_limits
from jaxinit.analysis.store import Result
from jaxinit.analysis.survival import LEVEL, Times
from jaxinit.analysis.table import samples_of
from jaxinit.study import BadStudy


class Agreement(NamedTuple):
    """How one scheme compares between two studies.

    epochs: of the first over those of the second, with its interval; ratio: the same of how many
    times fewer epochs than the baseline, None for the baseline itself; each at 95 % over all
    schemes together. converged: how many trials did, in both together. agree: whether 1 lies in
    every one of them; None where nothing converged, which says nothing of the times.
    """

    scheme: str
    epochs: tuple[float, float, float]
    ratio: tuple[float, float, float] | None
    converged: int

    @property
    def agree(self) -> bool | None:
        if not self.converged:
            return None
        intervals = [self.epochs] if self.ratio is None else [self.epochs, self.ratio]
        return all(low <= 1 <= high for _, low, high in intervals)


def agreements(first: Result, second: Result) -> list[Agreement]:
    """How every scheme that both studies report compares.

    The limits of each study are joined as those of two schemes are (`interval.ratio_limits`), for
    the ratio against the baseline twice; each at 1 - 0.05 / m over all m intervals. Where one has
    the smaller budget, both are restricted to it.
    Assumes that the studies have no seed in common.
    Raises: BadStudy where their epochs are not to the same target, they share no scheme, or one of
    them has fewer than two seeds.
    """
    one, other = _target_of(first), _target_of(second)
    for setting in one:
        if one[setting] != other[setting]:
            raise BadStudy(
                f"{first.folder} and {second.folder} count epochs to different targets, and do not "
                f"compare: {setting} is {one[setting]!r} in the one, {other[setting]!r} in the "
                "other"
            )
    baseline = first.study.baseline
    shared = []
    horizon = min(result.records.attrs["budget"] for result in (first, second))
    for scheme in first.study.schemes:
        both = [samples_of(result.records, scheme) for result in (first, second)]
        if all(both):
            shared.append(scheme)
            seeds = min(sample.seeds for samples in both for sample in samples)
            if seeds < 2:
                raise BadStudy(f"{scheme!r} has {seeds} seed in one of the studies; 2 are needed")
    if not shared:
        raise BadStudy(
            f"{first.folder} and {second.folder} report no scheme in common: "
            f"{', '.join(first.study.schemes)} and {', '.join(second.study.schemes)}"
        )
    level = 1 - (1 - LEVEL) / (2 * len(shared) - 1)  # epochs of each, ratios of all but one
    within = [_samples_within(result, shared, horizon) for result in (first, second)]
    epochs = [_limits_of(samples, level, horizon) for samples in within]
    found = []
    for scheme in shared:
        own = [each[scheme] for each in epochs]
        ratio = None
        if scheme != baseline and baseline in shared:
            against = [ratio_limits(each[baseline], each[scheme]) for each in epochs]
            ratio = _exponential(ratio_limits(against[0], against[1]))
        converged = sum(s.seeds - s.lost for samples in within for s in samples[scheme])
        together = _exponential(ratio_limits(own[0], own[1]))
        found.append(Agreement(scheme, together, ratio, converged))
    return found


def _target_of(result: Result) -> dict[str, str | float]:
    """What the epochs of a study are counted to; a target that was not given is its task's own."""
    attrs = result.records.attrs
    return {
        "task": result.study.task,
        "metric": attrs["metric_name"],
        "target": float(attrs["target"]),
    }


def how_many_agree(found: Sequence[Agreement]) -> str:
    """How many schemes agree, and of how many nothing is known."""
    agreeing = sum(one.agree is True for one in found)
    unknown = sum(one.agree is None for one in found)
    rest = f"; of {unknown} no trial converged" if unknown else ""
    return f"{agreeing} of {len(found)} schemes agree (95 % over all of them){rest}."


def differences_of(first: Result, second: Result) -> list[str]:
    """The settings in which the studies differ, but for their seeds, and whether their data do, a
    line each."""
    there, here = first.study.plain(), second.study.plain()
    lines = []
    for setting in there:
        if setting != "first_seed" and there[setting] != here[setting]:
            lines.append(
                f"{setting} is {there[setting]} in the first, {here[setting]} in the second"
            )
    data = [result.about.get("identity", {}).get("data") for result in (first, second)]
    if all(data) and data[0] != data[1]:
        lines.append(f"the data of task {first.study.task!r} are not the same in both")
    return lines


def seeds_in_common(first: Result, second: Result) -> list[str]:
    """A line where the studies share seeds, which makes them agree by construction."""
    seeds = [{*result.study.tuning, *result.study.reporting} for result in (first, second)]
    common = len(seeds[0] & seeds[1])
    if not common:
        return []
    return [
        f"{common} seeds are the same in both, which makes them agree more than they should; give "
        "one of them another --first-seed"
    ]


def _samples_within(
    result: Result, schemes: list[str], horizon: float
) -> Mapping[str, list[Sample]]:
    """Those of every scheme, restricted to a budget that may be less than the study's own."""
    within = {}
    for scheme in schemes:
        samples = []
        for sample in samples_of(result.records, scheme):
            in_time = sample.times.event & (sample.times.time <= horizon)
            times = Times(np.minimum(sample.times.time, horizon), in_time)
            samples.append(replace(sample, times=times))
        within[scheme] = samples
    return within


def _limits_of(
    samples: Mapping[str, list[Sample]], level: float, horizon: float
) -> Mapping[str, Limits]:
    epochs = {}
    for scheme, its in samples.items():
        epochs[scheme] = limits(its, horizon, level, samples_compared=2)
    return epochs


def _exponential(ends: Limits) -> tuple[float, float, float]:
    return math.exp(ends.value), math.exp(ends.low), math.exp(ends.high)
