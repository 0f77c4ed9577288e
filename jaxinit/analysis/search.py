"""The search for a scheme's learning rate: which trials to train next, as a function of those that
have ended.

    ended trials -> next_stage -> Stage: trials wanted, and when they may be stopped
                 -> reported rates, none wanted any more

Every decision is a function of records at fixed evaluation counts. Trials are stopped *as if* all
of a stage had run side by side: what one of them did beyond the caps of its stages counts in no
decision, and is dropped when the study has ended. So neither slots, devices nor the order in which
trials end change an answer, and a study that is resumed decides again what it has decided before.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from jaxinit.study import RATES, Study

Purpose = Literal["coarse", "fine", "tune", "report"]

PER_DECADE = 6  # rungs of the ladder
COARSE = 3  # rungs from one coarse rate to the next: half a decade
NEAR = 2  # rungs on each side of the best that are compared
REPORTED = 2  # rates that are reported together
GROWTH = 2  # coarse steps that a ladder may grow beyond each of its ends
# A trial of the fine stage is stopped, and a rate dropped, when it is behind the second best rate
# by more than exp(LEAD / sqrt(seeds so far)): seeds of one rate spread by a fifth or so.
LEAD = 0.25
# Share of the reporting seeds that a third contender may take part in before it is dropped.
CONTENDED = 0.3


class End(NamedTuple):
    """How a trial stands that is no longer running.

    time: epochs trained; converged, stopped: at that time, neither where it diverged or exhausted
    the budget; metric: the best that it reached, with the sign that makes larger better.
    """

    time: float
    converged: bool
    stopped: bool = False
    metric: float = -math.inf


Rung: TypeAlias = int
Trial: TypeAlias = tuple[Rung, int]  # and seed, counted from 0
# By their rung or their rate, and seed.
Ends: TypeAlias = Mapping[tuple[int, int], End] | Mapping[tuple[float, int], End]


@dataclass(frozen=True)
class Ladder:
    """Learning rates to choose among: six a decade, as 0.1, 0.15, 0.22, 0.32, 0.46, 0.68, 1, or
    those `given`.

    rate of rung k = 10^(k/6), in two digits. The search begins on every third of the rungs from
    `low` to `high`, and goes beyond them where the best is at an end; a given ladder ends where it
    ends.
    """

    low: Rung
    high: Rung
    seeds: int
    given: tuple[float, ...] = ()

    @classmethod
    def between(cls, lowest: float, highest: float, seeds: int) -> "Ladder":
        """The ladder that begins on the rates nearest to these."""
        low, high = (round(PER_DECADE * math.log10(rate)) for rate in (lowest, highest))
        return cls(low, high, seeds)

    @classmethod
    def of(cls, rates: Sequence[float], seeds: int) -> "Ladder":
        """A ladder of given rates, which cannot grow."""
        return cls(0, len(rates) - 1, seeds, tuple(sorted(rates)))

    def rate(self, rung: Rung) -> float:
        if self.given:
            return self.given[rung]
        return float(f"{10 ** (rung / PER_DECADE):.2g}")

    def rung(self, rate: float) -> Rung:
        if self.given:
            return self.given.index(rate)
        return round(PER_DECADE * math.log10(rate))

    def coarse(self) -> list[Rung]:
        """The rungs to begin on, with as much of a given ladder below them as above."""
        margin = (self.high - self.low) % COARSE
        return list(range(self.low + margin // 2, self.high + 1, COARSE))

    def holds(self, rung: Rung) -> bool:
        reach = 0 if self.given else GROWTH * COARSE + NEAR
        return self.low - reach <= rung <= self.high + reach

    def around(self, rung: Rung, distance: int) -> list[Rung]:
        """The rungs of the ladder that are at most so far from one of them."""
        near = range(rung - distance, rung + distance + 1)
        return [neighbour for neighbour in near if self.holds(neighbour)]

    def stages(self, ends: Ends, budget: float) -> Iterator["Stage"]:
        """The stages of the search, one after another; each must have ended when the next is asked
        for. The last one has the trials that are reported."""
        number = 0
        rungs = self.coarse()
        while True:
            stage = Stage(number, "coarse", _product(rungs, 1), keep=1)
            yield stage
            number += 1
            best = stage.best(ends, budget)[0]
            beyond = {rungs[0]: best - COARSE, rungs[-1]: best + COARSE}.get(best)
            if beyond is None or len(rungs) == 1 or not self.holds(beyond):
                break
            rungs = sorted([*rungs, beyond])
        if not stage.converged(ends):
            # Nothing to time: one seed more to each side, before all seeds run at the best metric.
            stage = Stage(number, "fine", _product(self.around(best, 1), 1), keep=1)
            yield stage
            number += 1
            best = stage.best(ends, budget)[0]
        contenders = [best]
        dropped: dict[Rung, float] = {}  # mean times when they last were compared
        if stage.converged(ends):
            window = self.around(best, NEAR)
            order: list[Rung] = []
            while True:
                contenders = window
                for seeds in range(1, self._rounds() + 1):
                    stage = Stage(number, "fine", _product(contenders, seeds), keep=REPORTED)
                    yield stage
                    number += 1
                    dropped |= stage.means(ends, budget)
                    order = stage.best(ends, budget)
                    contenders = stage.contenders(ends, budget)
                    if seeds > 1 and len(contenders) <= REPORTED:
                        break
                wider = sorted({*window, *self.around(order[0], NEAR)})
                if order[0] not in (window[0], window[-1]) or wider == window:
                    break
                window = wider
            contenders = stage.winners(ends, budget)
        yield from self._report(number, contenders, dropped, ends, budget)

    def _report(
        self,
        number: int,
        reported: list[Rung],
        dropped: dict[Rung, float],
        ends: Ends,
        budget: float,
    ) -> Iterator["Stage"]:
        """All seeds at the rates to be reported, and at those that were dropped for others which a
        few seeds had shown in too good a light: whose mean was below the time that all seeds of the
        best of these need, of those that converge."""
        while True:
            stage = Stage(number, "report", _product(sorted(reported), self.seeds))
            yield stage
            number += 1
            best = stage.best(ends, budget)[0]
            time = stage.times(ends).get(best, 0.0)
            for rung in reported:
                dropped.pop(rung, None)
            if not dropped or min(dropped.values()) >= time:
                return
            challenger = min(dropped, key=lambda rung: (dropped[rung], rung))
            del dropped[challenger]
            rungs = sorted([*reported, challenger])
            stage = Stage(number, "fine", _product(rungs, self.seeds), keep=REPORTED)
            yield stage
            number += 1
            reported = stage.winners(ends, budget)

    def _rounds(self) -> int:
        return max(2, math.ceil(CONTENDED * self.seeds))


@dataclass(frozen=True)
class Grid:
    """Given rates, all of them trained on the tuning seeds, the best of them on all reporting
    seeds."""

    given: tuple[float, ...]
    tune_seeds: int
    seeds: int

    def rate(self, rung: Rung) -> float:
        return self.given[rung]

    def rung(self, rate: float) -> Rung:
        return self.given.index(rate)

    def stages(self, ends: Ends, budget: float) -> Iterator["Stage"]:
        """As `Ladder.stages`: two, or one where there is a single rate."""
        best = 0
        tuned = 0
        if len(self.given) > 1:
            tuned = self.tune_seeds
            stage = Stage(0, "tune", _product(range(len(self.given)), tuned))
            yield stage
            best = stage.best(ends, budget)[0]
        reporting = tuple((best, tuned + seed) for seed in range(self.seeds))
        yield Stage(1, "report", reporting)


Plan: TypeAlias = Ladder | Grid


@dataclass(frozen=True)
class Stage:
    """Trials that are compared with each other, and the rule that stops those that cannot win.

    `keep` rates are wanted: a trial is stopped once as many rates have all their seeds converged
    sooner. Without it all trials run to their ends.
    """

    number: int
    purpose: Purpose
    trials: tuple[Trial, ...]
    keep: int | None = None

    @property
    def rungs(self) -> list[Rung]:
        return sorted({rung for rung, _ in self.trials})

    @property
    def seeds(self) -> int:
        return len({seed for _, seed in self.trials})

    def cap(self, ends: Ends) -> float:
        """The epochs after which a trial cannot win any more, infinite while nobody knows.

        It only falls as trials end, so that it may be asked for while others still run.
        """
        if self.keep is None:
            return math.inf
        slowest = dict.fromkeys(self.rungs, 0.0)
        for rung, seed in self.trials:
            end = ends.get((rung, seed))
            time = end.time if end is not None and end.converged else math.inf
            slowest[rung] = max(slowest[rung], time)
        times = sorted(slowest.values())
        if len(times) < self.keep:
            return math.inf
        return times[self.keep - 1] * self._lead()

    def waiting(self, ends: Ends) -> list[Trial]:
        """The trials that have not ended, or were stopped sooner than this stage would."""
        cap = self.cap(ends)
        left = []
        for trial in self.trials:
            end = ends.get(trial)
            if end is None or (end.stopped and end.time < cap):
                left.append(trial)
        return left

    def converged(self, ends: Ends) -> bool:
        """Whether any of the trials converged."""
        return any(ends[trial].converged for trial in self.trials)

    def means(self, ends: Ends, budget: float) -> dict[Rung, float]:
        """The mean time to target of each rate, restricted to the stage's cap or the budget."""
        horizon = min(self.cap(ends), budget)
        totals = dict.fromkeys(self.rungs, 0.0)
        for rung, seed in self.trials:
            end = ends[rung, seed]
            totals[rung] += min(end.time, horizon) if end.converged else horizon
        return {rung: total / self.seeds for rung, total in totals.items()}

    def best(self, ends: Ends, budget: float) -> list[Rung]:
        """The rates by their mean times, the best first; where those tie, by how many seeds are
        lost, as all are when none converges, by the metric, and then the middle ones first."""
        means = self.means(ends, budget)
        # The rate whose time is the cap ties with those that were stopped there.
        lost = self._lost(ends, min(self.cap(ends), budget))
        middle = sum(self.rungs) / len(self.rungs)
        order = []
        for rung, mean in means.items():
            metric = 0.0
            if not self.converged(ends):  # of stopped trials it depends on when
                metric = sum(ends[trial].metric for trial in self.trials if trial[0] == rung)
            order.append((mean, lost[rung], -metric, abs(rung - middle), rung))
        return [rung for *_, rung in sorted(order)]

    def times(self, ends: Ends) -> dict[Rung, float]:
        """The mean time of the trials that converged, of the rates that have any."""
        by_rung: dict[Rung, list[float]] = {}
        for trial in self.trials:
            if ends[trial].converged:
                by_rung.setdefault(trial[0], []).append(ends[trial].time)
        return {rung: sum(times) / len(times) for rung, times in by_rung.items()}

    def _lost(self, ends: Ends, horizon: float) -> dict[Rung, int]:
        """How many seeds of each rate have not converged by the horizon."""
        lost = dict.fromkeys(self.rungs, 0)
        for rung, seed in self.trials:
            end = ends[rung, seed]
            lost[rung] += not (end.converged and end.time <= horizon)
        return lost

    def contenders(self, ends: Ends, budget: float) -> list[Rung]:
        """The rates that may still be among those kept."""
        means = self.means(ends, budget)
        kept = sorted(means.values())[: self.keep]
        bound = kept[-1] * self._lead()
        reached = self._reached(ends, budget)
        # Those that were stopped lie at the bound.
        return [rung for rung, mean in means.items() if mean < bound and rung in reached]

    def _reached(self, ends: Ends, budget: float) -> set[Rung]:
        """The rates at which some seed converged in time; all of them where none did."""
        lost = self._lost(ends, min(self.cap(ends), budget))
        return {rung for rung in self.rungs if lost[rung] < self.seeds} or set(self.rungs)

    def winners(self, ends: Ends, budget: float) -> list[Rung]:
        """The best rates, as many as are kept; of those at which no seed converged none."""
        reached = self._reached(ends, budget)
        return [rung for rung in self.best(ends, budget) if rung in reached][: self.keep]

    def _lead(self) -> float:
        if self.purpose != "fine":
            return 1.0
        return math.exp(LEAD / math.sqrt(self.seeds))


def plan_of(study: Study) -> Plan:
    """The search of a study whose defaults are filled in."""
    if study.search == "grid":
        return Grid(study.lrs, len(study.tuning), study.seeds)
    if study.lrs:
        return Ladder.of(study.lrs, study.seeds)
    # It grows beyond these where a caller's optimizer learns at others.
    rates = RATES.get(study.optimizer, RATES["adam"])
    return Ladder.between(rates[0], rates[-1], study.seeds)


def searches_of(study: Study) -> int:
    """How many searches for a rate a study has: one for each scheme, at each value of the other
    setting that is searched."""
    return len(study.schemes) * (len(study.also[1]) if study.also else 1)


def trials_of_a_search(study: Study) -> int:
    """How many trials a search has: of a ladder, about so many."""
    plan = plan_of(study)
    if isinstance(plan, Grid):
        return plan.tune_seeds * len(plan.given) + plan.seeds
    refined = min(2 * NEAR + 1, plan.high - plan.low + 1)
    return len(plan.coarse()) + 2 * refined + REPORTED * (plan.seeds - 1)


def next_stage(plan: Plan, ends: Ends, budget: float) -> Stage | None:
    """The stage that is under way, the first with trials that wait; None when all have ended."""
    for stage in plan.stages(ends, budget):
        if stage.waiting(ends):
            return stage
    return None


def fails(ends: Ends, rate: float) -> bool:
    """Whether most trials at a rate did not converge in the time that they were given; False where
    none ran."""
    converged = [end.converged for (at, _), end in ends.items() if at == rate]
    return bool(converged) and 2 * sum(converged) < len(converged)


def next_rate(ends: Ends, rate: float, sign: int = 1) -> float | None:
    """The nearest rate above (or below) one that trials ran at, None where there is none."""
    beyond = {at for at, _ in ends if sign * at > sign * rate}
    return min(beyond, key=lambda at: abs(at - rate), default=None)


def doubtful(ends: Ends, rate: float) -> bool:
    """Whether most trials fail at a rate or at the next larger one that was tried: the seeds that
    are lost there may be lost here in another study."""
    above = next_rate(ends, rate)
    return fails(ends, rate) or (above is not None and fails(ends, above))


def _product(rungs: Sequence[Rung], seeds: int) -> tuple[Trial, ...]:
    return tuple((rung, seed) for rung in rungs for seed in range(seeds))
