"""What a study orders of its sweep, by one that trains nothing: the time of every trial is drawn,
and the answer is the same whatever ends first, and wherever a signal arrives."""

import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from cases import quick

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.store import Result
from jaxinit.engine import campaign, sweep
from jaxinit.engine.training import Records, State, Trial
from jaxinit.study import Study

STUDY = Study(
    model="mlp",
    hidden=2,
    schemes=("orthogonal",),
    baseline="orthogonal",
    search="ladder",
    seeds=8,
    epochs=30,
    evaluations=4,
    batch=320,
)
NOISE = 0.9  # of the logarithm of a time: a rate that wins on some seeds loses on others
FAILING = 0.03  # share of trials that diverge


@dataclass
class Drawn:
    """A sweep whose trials end after evaluations that are drawn, `slots` at a time."""

    case: int
    slots: int
    interrupted: int = 0  # after every so many chunks
    chunks: int = 0
    reached: dict[tuple[float, int], int] = field(default_factory=dict)
    trained_again: int = 0

    def end(self, rate: float, seed: int) -> tuple[int, Outcome]:
        """After how many evaluations a trial ends that nobody stops, and how."""
        centre, epochs = np.random.default_rng(self.case).uniform([-2, 2], [0.3, 15])
        draws = np.random.default_rng([self.case, seed, round(rate * 1e6)])
        away = math.log10(rate) - centre
        if away > 0.7 or draws.random() < FAILING:
            return int(draws.integers(1, 10)), Outcome.DIVERGED
        epochs *= math.exp(away**2 / 3 + NOISE * draws.normal())
        return max(4, round(4 * epochs)), Outcome.CONVERGED

    def run(
        self, sweeper: sweep.Sweep, order: Callable[[int], sweep.Orders], like: sweep.Joining
    ) -> Iterator[tuple[list[sweep.Row], sweep.Running]]:
        """As `Sweep.run`."""
        params = jax.tree.map(jnp.asarray, like.params)
        first = jax.tree.map(np.asarray, sweeper.program.initial_state(params, like.trial))
        trials: dict[int, Trial] = {}
        states: dict[int, State] = {}
        while True:
            orders = order(self.slots - len(states))
            for number in orders.given_up:
                del states[number]
            for joined in orders.joining:
                trials[joined.number] = joined.trial
                states[joined.number] = first if joined.state is None else joined.state
            for number, budget in (orders.budgets or {}).items():
                trials[number] = trials[number]._replace(budget=budget)
            assert len(states) <= self.slots
            if not states:
                return
            rows = []
            for number, state in list(states.items()):
                row = self.advance(number, state, trials[number], sweeper.program.rows)
                rows.append(row)
                states[number] = state._replace(evaluations=np.int32(row.last))
                if row.outcome is not Outcome.UNFINISHED:
                    del states[number]
            self.chunks += 1
            if self.interrupted and self.chunks % self.interrupted == 0:
                signal.raise_signal(signal.SIGTERM)
            slots = {number: slot for slot, number in enumerate(states)}
            # The last is nobody's: a sweep has slots at rest too.
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states.values(), first)
            yield rows, sweep.Running(slots, {}, dict.fromkeys(slots, 0), stacked, like.trial)

    def advance(self, number: int, state: State, trial: Trial, rows: int) -> sweep.Row:
        """A chunk of a trial, whose traces say whose they are."""
        rate, seed = float(trial.lr), int(trial.seed)
        end, outcome = self.end(rate, seed)
        before, budget = int(state.evaluations), int(trial.budget)
        after = min(before + rows, budget, end)
        reached = self.reached.get((rate, seed), 0)
        self.trained_again += before == 0 < reached
        self.reached[rate, seed] = max(after, reached)
        if after < end:
            outcome = Outcome.CENSORED if after == budget else Outcome.UNFINISHED
        trace = np.arange(before, after, dtype=np.float32) + np.float32(rate)
        return sweep.Row(number, before, after, Records(*[trace] * 4), outcome)


RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MOST_LIVES = 80


def answer(drawn: Drawn, folder: Path, patch: pytest.MonkeyPatch, study: Study = STUDY) -> Result:
    """The study under a sweep, run again until it is complete."""
    with patch.context() as patched:
        patched.setattr(sweep.Sweep, "run", lambda *words: drawn.run(*words))
        for _ in range(MOST_LIVES):
            result = campaign.run(study, out=folder, progress=False)
            if result.complete:
                return result
    raise AssertionError(f"no end after {MOST_LIVES} lives")


# In which some trial is stopped and trained again.
@pytest.mark.parametrize("case", quick(9, 10, of=[3, 4, 9, 10]))
def test_the_order_in_which_trials_end_changes_no_decision(
    case: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side_by_side = Drawn(case, slots=1000)
    expected = answer(side_by_side, tmp_path / "all", monkeypatch)
    for slots in (1, 3):
        drawn = Drawn(case, slots)
        result = answer(drawn, tmp_path / str(slots), monkeypatch)
        xr.testing.assert_identical(result.records, expected.records)
    assert drawn.trained_again
    assert expected.records.outcome.values.tolist().count(Outcome.STOPPED) >= 2


@pytest.mark.parametrize(
    ("case", "rates", "every"),
    [
        pytest.param(0, RATES, 3, marks=pytest.mark.slow),
        (10, (), 4),
        pytest.param(10, (), 1, marks=pytest.mark.slow),
        pytest.param(0, RATES, 1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_between_chunks_changes_no_decision(
    case: int,
    rates: tuple[float, ...],
    every: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = replace(STUDY, lrs=rates)
    expected = answer(Drawn(case, slots=3), tmp_path / "whole", monkeypatch, study)
    interrupted = Drawn(case, slots=3, interrupted=every)
    result = answer(interrupted, tmp_path / "s", monkeypatch, study)
    xr.testing.assert_identical(result.records, expected.records)
    assert len(result.about["lives"]) > (2 if every > 1 else 5)
