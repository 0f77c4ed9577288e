"""Populations: what every seed does at every rate, measured once, on which whole studies are played
without training.

    records of a grid on many seeds -> Population -> play -> samples of a study, epochs it trained

A study that is played draws its seeds from the population, with replacement, and goes through the
search and the statistics that a trained one goes through. What it should have found is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import xarray as xr

from jaxinit.analysis.interval import Sample
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import by_rate_and_seed, schemes_of
from jaxinit.analysis.search import End, Ladder, Plan, doubtful, next_stage
from jaxinit.analysis.survival import Times
from jaxinit.study import BadStudy

# Evaluations an epoch where a file does not tell: trials are stopped on this grid.
PER_EPOCH = 8


@dataclass(frozen=True)
class Scheme:
    """What the seeds of a scheme do: epochs to the target, whether it was reached, the best metric,
    each `[rates, seeds]`. The time is the budget where it was not reached."""

    time: np.ndarray
    converged: np.ndarray
    metric: np.ndarray
    outcome: np.ndarray


@dataclass(frozen=True)
class Population:
    """Schemes by name at the same rates `[rates]`; a rate outside counts as never converging."""

    rates: tuple[float, ...]
    schemes: dict[str, Scheme]
    per_epoch: int = PER_EPOCH

    @property
    def seeds(self) -> int:
        return next(iter(self.schemes.values())).time.shape[1]

    @property
    def budget(self) -> float:
        return float(max(scheme.time.max() for scheme in self.schemes.values()))

    def at(self, indices: Sequence[int]) -> "Population":
        """The population at some of its rates; one outside never converges."""
        inside = [0 <= index < len(self.rates) for index in indices]
        clipped = np.clip(indices, 0, len(self.rates) - 1)
        schemes = {}
        for name, scheme in self.schemes.items():
            here = np.asarray(inside)[:, None]
            schemes[name] = Scheme(
                np.where(here, scheme.time[clipped], self.budget),
                scheme.converged[clipped] & here,
                np.where(here, scheme.metric[clipped], -np.inf),
                np.where(here, scheme.outcome[clipped], Outcome.CENSORED),
            )
        return Population(tuple(map(float, indices)), schemes, self.per_epoch)

    def best(self, name: str) -> int:
        """The rate with the smallest restricted mean over all seeds, by its index."""
        return int(self.schemes[name].time.mean(1).argmin())

    def restricted_mean(self, name: str) -> float:
        """The smallest restricted mean over rates, in epochs."""
        return float(self.schemes[name].time[self.best(name)].mean())

    def mean_time(self, name: str) -> float:
        """The mean time of the seeds that converge at that rate; the budget where none does."""
        best = self.best(name)
        reached = self.schemes[name].converged[best]
        return (
            float(self.schemes[name].time[best][reached].mean()) if reached.any() else self.budget
        )


class Played(NamedTuple):
    """What a study finds of one scheme: its times at the reported rates, and the epochs trained."""

    samples: list[Sample]
    epochs: float


def load_population(path: str | Path) -> Population:
    """Read a population: `lr` `[rates]`, for each scheme `NAME_t` and `NAME_e`, and where there are
    `NAME_m` (best metric, larger is better) and `NAME_o` (`Outcome`), `[rates, seeds]`.

    Raises: BadStudy for a file that cannot be read, or whose arrays do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise BadStudy(f"{path} is no population: {error}; make one with --record") from error
    names = [key.removesuffix("_t") for key in arrays if key.endswith("_t")]
    if "lr" not in arrays or not names:
        raise BadStudy(
            f"{path} is no population: it needs lr and for each scheme NAME_t and NAME_e, and has "
            f"{', '.join(arrays) or 'nothing'}"
        )
    rates = _numbers(arrays["lr"])
    growing = rates.ndim == 1 and rates.size > 0 and (np.diff(rates, prepend=0.0) > 0).all()
    if not growing or not np.isfinite(rates).all():
        raise BadStudy(f"{path}: lr must be growing rates, got {rates.tolist()}")
    schemes = {}
    for name in names:
        schemes[name] = _scheme(path, name, arrays, len(rates))
    seeds = {scheme.time.shape[1] for scheme in schemes.values()}
    if len(seeds) > 1 or 0 in seeds:
        raise BadStudy(f"{path}: all schemes must have the same seeds, got {sorted(seeds)} of them")
    per_epoch = int(arrays.get("per_epoch", PER_EPOCH))
    return Population(tuple(rates.tolist()), schemes, per_epoch)


def _numbers(array: Any) -> np.ndarray:
    """Numbers as float64, none of what is no number."""
    array = np.asarray(array)
    return array.astype(float) if array.dtype.kind in "fiu" else np.empty(0)


def _scheme(path: str | Path, name: str, arrays: Mapping[str, Any], rates: int) -> Scheme:
    time = _numbers(arrays[f"{name}_t"])
    if f"{name}_e" not in arrays:
        raise BadStudy(f"{path} has {name}_t and no {name}_e, whether the target was reached")
    converged = np.asarray(arrays[f"{name}_e"], bool)
    if time.ndim != 2 or time.shape[0] != rates or converged.shape != time.shape:
        raise BadStudy(
            f"{path}: {name}_t and {name}_e must have {rates} rates and the same seeds, got "
            f"{list(time.shape)} and {list(converged.shape)}"
        )
    if not np.isfinite(time).all() or (time <= 0).any():
        raise BadStudy(f"{path}: {name}_t has rates that are missing: times must be positive")
    outcome = np.where(converged, Outcome.CONVERGED, Outcome.CENSORED)
    metric = np.asarray(arrays.get(f"{name}_m", np.zeros_like(time)))
    outcome = np.asarray(arrays.get(f"{name}_o", outcome))
    if metric.shape != time.shape or outcome.shape != time.shape:
        raise BadStudy(f"{path}: {name}_m and {name}_o must have the shape of {name}_t")
    return Scheme(time, converged, metric.astype(float), outcome)


def save_population(path: str | Path, population: Population) -> None:
    """Write a population as `load_population` reads it."""
    arrays: dict[str, Any] = {
        "lr": np.asarray(population.rates),
        "per_epoch": np.asarray(population.per_epoch),
    }
    for name, scheme in population.schemes.items():
        arrays[f"{name}_t"] = scheme.time
        arrays[f"{name}_e"] = scheme.converged
        arrays[f"{name}_m"] = scheme.metric
        arrays[f"{name}_o"] = scheme.outcome
    np.savez_compressed(path, **arrays)


def population_of(records: xr.Dataset) -> Population:
    """The population of a grid's tuning trials, all of which ran to their ends."""
    sign = 1.0 if records.attrs["higher_is_better"] else -1.0
    schemes = {}
    rates: tuple[float, ...] = ()
    for name in schemes_of(records):
        trials = by_rate_and_seed(records, name, "tune").transpose("lr", "seed", "epoch")
        outcome = trials.outcome.values.astype(np.int8)
        converged = outcome == Outcome.CONVERGED
        metric = sign * trials.metric.values
        best = np.where(np.isfinite(metric), metric, -np.inf).max(-1)
        time = np.where(converged, trials.last_epoch.values, records.attrs["budget"])
        schemes[name] = Scheme(time, converged, best, outcome)
        rates = tuple(trials.lr.values.tolist())
    return Population(rates, schemes, int(records.attrs["evaluations_per_epoch"]))


def play(population: Population, name: str, plan: Plan, chosen: np.ndarray) -> Played:
    """A scheme's part of a study on the chosen seeds `[seeds]` of a population, whose rates are the
    rungs of the plan."""
    scheme = population.schemes[name]
    budget = population.budget
    ends: dict[tuple[int, int], End] = {}
    epochs = 0.0
    while (stage := next_stage(plan, ends, budget)) is not None:
        finished = dict(ends)
        waiting = stage.waiting(ends)
        for trial in waiting:
            finished[trial] = _end(scheme, trial, chosen, budget)
        cap = np.ceil(min(stage.cap(finished), budget) * population.per_epoch - 1e-9)
        cap /= population.per_epoch
        for trial in waiting:
            end = finished[trial]
            if end.time > cap:
                end = End(float(cap), converged=False, stopped=True, metric=end.metric)
            ends[trial] = end
            # One that is trained again is trained from its first step.
            epochs += end.time
    *_, last = plan.stages(ends, budget)
    samples = []
    for rung in last.rungs:
        its = [ends[trial] for trial in last.trials if trial[0] == rung]
        converged = np.asarray([end.converged for end in its])
        time = np.asarray([end.time if end.converged else budget for end in its])
        doubt = isinstance(plan, Ladder) and doubtful(ends, rung)
        samples.append(Sample(plan.rate(rung), Times(time, converged), doubt))
    return Played(samples, epochs)


def _end(scheme: Scheme, trial: tuple[int, int], chosen: np.ndarray, budget: float) -> End:
    """How a trial ends that nobody stops."""
    rung, seed = trial
    place = rung, chosen[seed]
    if not scheme.converged[place]:
        return End(budget, converged=False, metric=float(scheme.metric[place]))
    return End(float(scheme.time[place]), converged=True, metric=float(scheme.metric[place]))
