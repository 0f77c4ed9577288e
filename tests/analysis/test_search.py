"""The search for a rate, played through on trials whose times are known: its answer is that of the
times alone, and the trials that cannot win are not trained to their ends."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from cases import every

from jaxinit.analysis.search import (
    COARSE,
    CONTENDED,
    GROWTH,
    LEAD,
    NEAR,
    PER_DECADE,
    REPORTED,
    End,
    Grid,
    Ladder,
    Plan,
    Rung,
    Stage,
    Trial,
    doubtful,
    fails,
    next_rate,
    next_stage,
    plan_of,
    trials_of_a_search,
)
from jaxinit.study import Study

PER_EPOCH = 4
BUDGET = 20.0
EVALUATIONS = round(BUDGET * PER_EPOCH)
NEVER = 10 * EVALUATIONS
SEEDS = 6

Time = Callable[[Rung, int], int]  # after how many evaluations the trial of a seed converges


@dataclass
class Course:
    """A trial under way, as the engine keeps it."""

    stage: int
    evaluations: int = 0
    trained: int = 0  # in this life: one that is trained again begins anew
    running: bool = False
    converged: bool = False


@dataclass
class Player:
    """Trains trials in a random order, in random chunks, a few or many side by side."""

    plan: Plan
    time: Time
    draws: np.random.Generator
    courses: dict[Trial, Course] = field(default_factory=dict)
    decisions: dict[int, list[Rung]] = field(default_factory=dict)
    trained: int = 0  # evaluations, of all trials together

    def play(self) -> dict[Trial, End]:
        """Train until nothing is wanted any more; how all trials ended."""
        at_once = int(self.draws.integers(1, 12))
        for _ in range(100_000):
            stage, ends = self._settled()
            if stage is None:
                return ends
            most = _evaluations(stage.cap(ends))
            waiting = stage.waiting(ends)
            for trial, course in self.courses.items():
                course.running = course.running and trial in waiting
            for index in self.draws.permutation(len(waiting))[:at_once]:
                self._train(waiting[index], stage, most)
        raise AssertionError("the search does not end")

    def _train(self, trial: Trial, stage: Stage, most: int) -> None:
        course = self.courses.setdefault(trial, Course(stage.number))
        if not course.running:
            course.trained = 0
        course.stage = stage.number
        end = min(course.trained + int(self.draws.integers(1, 30)), most)
        time = self.time(*trial)
        course.converged = time <= end
        end = min(end, time)
        self.trained += end - course.trained
        course.trained = end
        course.evaluations = max(course.evaluations, end)
        course.running = not course.converged and end < most

    def _settled(self) -> tuple[Stage | None, dict[Trial, End]]:
        ends = {
            trial: self._end(trial) for trial in self.courses if self.courses[trial].evaluations
        }
        for stage in self.plan.stages(ends, BUDGET):
            if stage.waiting(ends):
                return stage, ends
            most = _evaluations(stage.cap(ends))
            for trial in stage.trials:
                course = self.courses[trial]
                if course.stage == stage.number and course.evaluations > most:
                    course.evaluations = most
                    course.converged = False
                ends[trial] = self._end(trial)
            best = stage.best(ends, BUDGET)
            assert self.decisions.setdefault(stage.number, best) == best, "decided again otherwise"
        return None, ends

    def _end(self, trial: Trial) -> End:
        course = self.courses[trial]
        # A trial is better at first, the sooner it would converge.
        metric = course.evaluations / (course.evaluations + self.time(*trial))
        stopped = not course.converged and course.evaluations < EVALUATIONS
        return End(course.evaluations / PER_EPOCH, course.converged, stopped, metric)


def _evaluations(cap: float) -> int:
    return EVALUATIONS if math.isinf(cap) else min(EVALUATIONS, math.ceil(cap * PER_EPOCH - 1e-9))


def times_around(best: float, fastest: float, width: float, noise: float, seed: int) -> Time:
    """Times of a scheme whose best rung is `best`: log-parabolic, and steeper above it."""

    def time(rung: Rung, trial: int) -> int:
        draws = np.random.default_rng([seed, rung + 100, trial])
        away = rung - best
        steeper = 2.0 if away > 0 else 1.0
        log = np.log(fastest) + steeper * (away / width) ** 2 + noise * draws.normal()
        evaluations = max(1, round(math.exp(min(log, 20))))
        return evaluations if evaluations <= EVALUATIONS else NEVER

    return time


def any_times(seed: int) -> Time:
    """Times without any order, half of them for ever."""

    def time(rung: Rung, trial: int) -> int:
        draws = np.random.default_rng([seed, rung + 100, trial])
        return int(draws.integers(1, EVALUATIONS)) if draws.random() < 0.5 else NEVER

    return time


def never(rung: Rung, trial: int) -> int:
    return NEVER


def some_times(case: int) -> Time:
    """A scheme to search for, of one kind or another."""
    draws = np.random.default_rng([7, case])
    if case % 4 == 0:
        return any_times(case)
    best, width = float(draws.uniform(-16, 4)), float(draws.uniform(1.5, 8))
    noise = float(draws.uniform(0, 0.5))
    return times_around(best, float(draws.uniform(3, EVALUATIONS)), width, noise, case)


PLANS: list[Plan] = [
    Ladder.between(0.01, 1.0, SEEDS),
    Ladder.of((0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), SEEDS),
    Ladder.of((0.1, 0.3), SEEDS),
    Grid((0.01, 0.03, 0.1, 0.3), 2, SEEDS),
]


def reported(plan: Plan, ends: dict[Trial, End]) -> list[Rung]:
    *_, last = plan.stages(ends, BUDGET)
    return last.rungs


@pytest.mark.parametrize("plan", PLANS, ids=["ladder", "given", "two", "grid"])
@pytest.mark.parametrize("case", every(3, of=range(12)))
def test_the_order_in_which_trials_end_changes_nothing(plan: Plan, case: int) -> None:
    time = some_times(case)
    first = Player(plan, time, np.random.default_rng(0)).play()
    for order in range(1, 8):
        assert Player(plan, time, np.random.default_rng(order)).play() == first
    assert next_stage(plan, first, BUDGET) is None


@pytest.mark.parametrize("case", range(12))
def test_every_rate_that_is_reported_has_all_of_its_seeds_to_their_ends(case: int) -> None:
    plan = PLANS[0]
    ends = Player(plan, some_times(case), np.random.default_rng(case)).play()
    for rung in reported(plan, ends):
        for seed in range(SEEDS):
            time = some_times(case)(rung, seed)
            assert ends[rung, seed].converged == (time <= EVALUATIONS)
            assert not ends[rung, seed].stopped
            assert ends[rung, seed].time == min(time, EVALUATIONS) / PER_EPOCH


@pytest.mark.parametrize("purpose", ["coarse", "fine"])
def test_a_cap_only_falls_as_trials_end(purpose) -> None:
    trials = tuple((rung, seed) for rung in range(6) for seed in range(3))
    stage = Stage(0, purpose, trials, keep=2)
    draws = np.random.default_rng(0)
    for _ in range(50):
        ends: dict[Trial, End] = {}
        caps = [stage.cap(ends)]
        for index in draws.permutation(len(trials)):
            ends[trials[index]] = End(float(draws.integers(1, 30)), bool(draws.random() < 0.8))
            caps.append(stage.cap(ends))
        assert caps[0] == math.inf
        assert all(later <= before for before, later in pairwise(caps))


def test_a_fine_cap_leaves_the_lead_that_noise_may_have() -> None:
    ends = {(rung, seed): End(10.0 + rung, True) for rung in range(3) for seed in range(4)}
    for seeds, purpose, lead in ((1, "fine", LEAD), (4, "fine", LEAD / 2), (4, "coarse", 0.0)):
        stage = Stage(
            0, purpose, tuple((rung, seed) for rung in range(3) for seed in range(seeds)), keep=2
        )
        assert stage.cap(ends) == pytest.approx(11.0 * math.exp(lead))


def test_what_was_stopped_sooner_than_a_stage_would_is_trained_again() -> None:
    stage = Stage(0, "coarse", ((0, 0), (1, 0)), keep=1)
    assert stage.waiting({}) == [(0, 0), (1, 0)]
    ends = {(0, 0): End(5.0, True), (1, 0): End(4.0, False, stopped=True)}
    assert stage.waiting(ends) == [(1, 0)]
    ends[1, 0] = End(5.0, False, stopped=True)
    assert stage.waiting(ends) == []
    lost = {(0, 0): End(3.0, False), (1, 0): End(4.0, False)}  # diverged: no more to be known
    assert stage.waiting(lost) == []


def test_rates_are_round_and_six_a_decade() -> None:
    ladder = Ladder.between(0.01, 1.0, SEEDS)
    decade = [0.1, 0.15, 0.22, 0.32, 0.46, 0.68, 1.0]
    assert [ladder.rate(rung) for rung in range(-PER_DECADE, 1)] == decade
    for rung in range(-40, 40):
        assert ladder.rung(ladder.rate(rung)) == rung
        assert ladder.rate(rung) == pytest.approx(10 ** (rung / PER_DECADE), rel=0.05)
    given = Ladder.of((1.0, 0.01, 0.1), SEEDS)
    assert [given.rate(rung) for rung in range(3)] == [0.01, 0.1, 1.0]
    assert given.rung(0.1) == 1


@pytest.mark.parametrize("only", [-12, -9, -6, -3, 0])
def test_the_one_coarse_rate_that_converges_is_the_best(only: int) -> None:
    """Though its time is the cap, at which all the others are stopped."""
    stage = Stage(0, "coarse", tuple((rung, 0) for rung in (-12, -9, -6, -3, 0)), keep=1)
    ends: dict[Trial, End] = {trial: End(2.0, False, stopped=True) for trial in stage.trials}
    ends[only, 0] = End(2.0, True)
    assert stage.best(ends, BUDGET)[0] == only


@pytest.mark.parametrize("best", range(-17, 6))
def test_a_ladder_grows_to_a_best_rate_beyond_its_ends(best: int) -> None:
    """As far as it may: to two coarse steps, and what is near to these, beyond each end."""
    ladder = Ladder.between(0.01, 1.0, SEEDS)
    assert (ladder.low, ladder.high) == (-12, 0)
    ends = Player(ladder, times_around(best, 8, 6, 0.0, 0), np.random.default_rng(0)).play()
    reach = GROWTH * COARSE + NEAR
    nearest = min(max(best, ladder.low - reach), ladder.high + reach)
    assert nearest in reported(ladder, ends)
    assert all(ladder.holds(rung) for rung, _ in ends)


def test_a_ladder_does_not_grow_where_its_best_is_inside() -> None:
    ladder = Ladder.between(0.01, 1.0, SEEDS)
    ends = Player(ladder, times_around(-6, 8, 3, 0.0, 0), np.random.default_rng(0)).play()
    tried = {rung for rung, _ in ends}
    assert tried == {-12, -9, -8, -7, -6, -5, -4, -3, 0}


def test_given_rates_end_where_they_end() -> None:
    rates = (0.01, 0.03, 0.1, 0.3)
    ladder = Ladder.of(rates, SEEDS)
    ends = Player(ladder, times_around(9, 8, 6, 0.0, 0), np.random.default_rng(0)).play()
    assert {rung for rung, _ in ends} <= set(range(len(rates)))
    assert reported(ladder, ends) == [2, 3]


def test_the_two_best_rates_are_reported() -> None:
    # Without noise the two with the smallest times, which the tie of none disturbs.
    for best in np.linspace(-11.3, -1.3, 21):
        time = times_around(float(best), 20, 5, 0.0, 0)
        ladder = Ladder.between(0.01, 1.0, SEEDS)
        ends = Player(ladder, time, np.random.default_rng(0)).play()
        order = sorted(range(-14, 3), key=lambda rung: time(rung, 0))
        second = time(order[REPORTED - 1], 0)
        chosen = reported(ladder, ends)
        assert len(chosen) == REPORTED
        assert all(time(rung, 0) <= second for rung in chosen), best


def test_a_rate_that_few_seeds_had_shown_in_too_good_a_light_is_not_kept_for_a_better_one() -> None:
    """At two rates the first two seeds are soon there and the others hardly ever; at the one below
    all are in time, a little later than those two."""

    def time(rung: Rung, seed: int) -> int:
        if rung in (-4, -3):
            return 8 if seed < 2 else 70
        return 14 if rung == -5 else 40

    ladder = Ladder.between(0.01, 1.0, SEEDS)
    ends = Player(ladder, time, np.random.default_rng(0)).play()
    assert -5 in reported(ladder, ends)
    assert all(ends[-5, seed].converged for seed in range(SEEDS))
    # Where all seeds agree with the first nobody is asked again.
    plain = Player(ladder, lambda rung, seed: 8 + abs(rung + 4), np.random.default_rng(0)).play()
    assert sum(rung == -6 for rung, _ in plain) < SEEDS


def test_a_scheme_that_never_converges_takes_few_trials() -> None:
    ladder = Ladder.between(0.01, 1.0, SEEDS)
    ends = Player(ladder, never, np.random.default_rng(0)).play()
    (rung,) = reported(ladder, ends)  # nothing to choose between
    assert len(ends) <= len(ladder.coarse()) + 2 * GROWTH + 2 + SEEDS - 1
    # By the metric, which all trials share: the middle of the ladder.
    assert rung == -6


def test_of_rates_that_never_converge_the_best_metric_is_reported() -> None:
    def time(rung: Rung, seed: int) -> int:
        return NEVER + 10 * abs(rung + 4)  # and of an earlier one the metric is better

    ladder = Ladder.between(0.01, 1.0, SEEDS)
    ends = Player(ladder, time, np.random.default_rng(0)).play()
    assert reported(ladder, ends) == [-4]


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_a_search_costs_about_what_is_said_and_a_fraction_of_a_full_one(noise: float) -> None:
    study = Study(search="ladder", optimizer="sgd", seeds=SEEDS)
    plan = plan_of(study)
    trials, cost = [], []
    for case in range(30):
        time = times_around(-7 + case % 5, 20, 5, noise, case)
        player = Player(plan, time, np.random.default_rng(case))
        trials.append(len(player.play()))
        cost.append(player.trained)
    assert np.mean(trials) == pytest.approx(trials_of_a_search(study), rel=0.35)
    full = (2 * PER_DECADE + 1) * SEEDS * EVALUATIONS
    assert np.mean(cost) < 0.2 * full


def test_a_grid_trains_all_rates_and_then_the_best_on_other_seeds() -> None:
    grid = Grid((0.01, 0.1, 1.0), 2, 3)

    def time(rung: Rung, seed: int) -> int:
        return [30, 10, 20][rung] if seed < 2 else NEVER

    ends = Player(grid, time, np.random.default_rng(0)).play()
    tuned = {(rung, seed) for rung in range(3) for seed in range(2)}
    assert set(ends) == tuned | {(1, 2), (1, 3), (1, 4)}
    # None is stopped: grids are for questions on whole courses.
    assert not any(end.stopped for end in ends.values())
    single = Grid((0.1,), 2, 3)
    assert set(Player(single, time, np.random.default_rng(0)).play()) == {(0, 0), (0, 1), (0, 2)}


def test_the_plan_is_the_studys() -> None:
    assert plan_of(Study(search="grid", lrs=(0.1, 0.3))) == Grid((0.1, 0.3), 3, 8)
    assert plan_of(Study(search="ladder", lrs=(0.3, 0.1))) == Ladder(0, 1, 8, (0.1, 0.3))
    assert plan_of(Study(search="ladder", seeds=5)) == Ladder(-12, 0, 5)
    assert plan_of(Study(search="ladder", optimizer="adam")) == Ladder(-24, -12, 8)
    assert trials_of_a_search(Study(search="grid", lrs=(0.1, 0.3))) == 2 * 3 + 8


def test_the_seeds_of_a_third_contender_are_few() -> None:
    """Where three rates are equally good, two of them are reported all the same."""

    def time(rung: Rung, seed: int) -> int:
        return 20 if abs(rung + 6) < NEAR else 40

    ladder = Ladder.between(0.01, 1.0, 20)
    ends = Player(ladder, time, np.random.default_rng(0)).play()
    seeds = [max(s for rung, s in ends if rung == r) + 1 for r in (-7, -6, -5)]
    assert sorted(seeds) == [math.ceil(CONTENDED * 20), 20, 20]


def test_where_most_seeds_fail_or_at_the_next_larger_rate_a_rate_is_doubtful() -> None:
    ends = {(0.1, seed): End(3.0, True) for seed in range(4)}
    ends |= {(0.2, seed): End(3.0, seed < 2) for seed in range(4)}
    ends |= {(0.4, 0): End(1.0, False)}
    assert [fails(ends, rate) for rate in (0.1, 0.2, 0.4, 0.8)] == [False, False, True, False]
    assert [doubtful(ends, rate) for rate in (0.1, 0.2, 0.4)] == [False, True, True]
    assert next_rate(ends, 0.1) == 0.2
    assert next_rate(ends, 0.4) is None
    assert next_rate(ends, 0.4, -1) == 0.2
