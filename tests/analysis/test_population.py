"""Studies that are played: what they train, and how often their intervals cover."""

import runpy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from jaxinit.analysis.interval import limits
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.population import (
    Population,
    Scheme,
    load_population,
    play,
    save_population,
)
from jaxinit.analysis.search import Grid, Ladder
from jaxinit.study import BadStudy

SCRIPTS = Path(__file__).parents[2] / "scripts"
RATES = (0.1, 0.15, 0.22, 0.32, 0.46, 0.68, 1.0)
BUDGET = 20.0


def scheme(means: tuple[float, ...], spread: float = 0.0, seeds: int = 30) -> Scheme:
    """A scheme whose times at each rate are these, times lognormal noise; 20 and more are lost."""
    noise = np.exp(spread * np.random.default_rng(0).normal(size=(len(means), seeds)))
    time = np.ceil(np.asarray(means)[:, None] * noise * 8) / 8
    converged = time < BUDGET
    time = np.minimum(time, BUDGET)
    outcome = np.where(converged, Outcome.CONVERGED, Outcome.CENSORED)
    return Scheme(time, converged, np.zeros_like(time), outcome)


FAST = scheme((8.0, 4.0, 3.0, 2.0, 2.5, 9.0, 20.0))
NEVER = scheme((20.0,) * 7)


def test_a_study_finds_the_best_rates_and_stops_what_cannot_win() -> None:
    population = Population(RATES, {"fast": FAST})
    plan = Ladder.of(RATES, seeds=8)
    found = play(population, "fast", plan, np.arange(8))
    assert [sample.rate for sample in found.samples] == [0.32, 0.46]
    assert all((sample.times.event).all() and sample.seeds == 8 for sample in found.samples)
    # Three coarse rates side by side until the best has converged, at 2 epochs; five rates around
    # it with one seed, of which three are stopped a little after the second best; the two best.
    assert 6 + 10 + 36 <= found.epochs < 6 + 5 * 3.3 + 4 * 3 + 36


def test_a_grid_trains_everything_to_its_end() -> None:
    population = Population(RATES, {"fast": FAST})
    grid = population.at([0, 3, 6])
    found = play(grid, "fast", Grid(grid.rates, 3, 8), np.arange(11))
    assert [sample.rate for sample in found.samples] == [3.0]
    assert found.epochs == 3 * (8 + 2 + 20) + 8 * 2


def test_a_scheme_that_never_converges_takes_few_trials() -> None:
    population = Population(RATES, {"never": NEVER})
    found = play(population, "never", Ladder.of(RATES, seeds=8), np.arange(8))
    assert len(found.samples) == 1
    assert found.epochs == BUDGET * (3 + 2 + 7)
    low = limits(found.samples, BUDGET).low
    assert np.exp(low) < BUDGET, "eight lost seeds do not say that all are"


def test_a_rate_outside_never_converges() -> None:
    outside = Population(RATES, {"fast": FAST}).at([-3, 0, 9])
    assert outside.schemes["fast"].converged.any(1).tolist() == [False, True, False]


def test_a_population_is_read_as_it_was_written(tmp_path: Path) -> None:
    population = Population(RATES, {"fast": FAST, "never": NEVER}, per_epoch=4)
    save_population(tmp_path / "p.npz", population)
    read = load_population(tmp_path / "p.npz")
    assert read.rates == RATES
    assert read.per_epoch == 4
    assert (read.schemes["fast"].time == FAST.time).all()
    assert (read.schemes["never"].outcome == NEVER.outcome).all()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a_t": np.ones((2, 3))}, "it needs lr"),
        ({"lr": np.asarray([0.1, 0.1]), "a_t": np.ones((2, 3))}, "growing rates"),
        ({"lr": np.asarray([0.1, 0.2]), "a_t": np.ones((2, 3))}, "no a_e"),
        (
            {"lr": np.asarray([0.1, 0.2]), "a_t": np.ones((3, 3)), "a_e": np.ones((3, 3), bool)},
            "must have 2 rates",
        ),
        (
            {
                "lr": np.asarray([0.1, 0.2]),
                "a_t": np.asarray([[1.0], [np.nan]]),
                "a_e": np.ones((2, 1), bool),
            },
            "rates that are missing",
        ),
    ],
)
def test_bad_files_are_refused_in_one_line(
    arrays: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(BadStudy, match=words) as refused:
        load_population(tmp_path / "bad.npz")
    assert "\n" not in str(refused.value)


def coverage(
    monkeypatch: pytest.MonkeyPatch, families: int | None = None, **options: object
) -> list[dict]:
    """The rows of scripts/coverage, of the first so many families."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = runpy.run_path(str(SCRIPTS / "coverage.py"))
    asked = script["Asked"](grid=False, **options)
    rows = []
    for name, family, baseline in islice(script["populations"](asked), families):
        tallies = script["played"](name, family, baseline, asked)
        rows += script["rows_of"](name, tallies, baseline)
    return rows


@pytest.mark.slow
def test_intervals_cover_on_synthetic_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    """240 studies of four schemes: 99 % limits of a share of 0.93 to 0.985 are 0.90 and 1."""
    monkeypatch.setattr("pathlib.Path.glob", lambda self, pattern: iter(()))  # no files
    without_losses = coverage(monkeypatch, families=1, studies=240)
    assert [row["population"] for row in without_losses] == ["synthetic, 0% lost"] * 4
    covered = np.mean([row["epochs_coverage"] for row in without_losses])
    ratios = np.mean([row["ratio_coverage"] for row in without_losses[1:]])
    assert 0.93 < covered < 0.99
    assert 0.93 < ratios < 0.99
    assert all(row["false_proved"] <= 0.025 for row in without_losses[1:])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 8, 20])
def test_intervals_cover_on_measured_schemes(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 studies each on every population here."""
    files = tuple(sorted((SCRIPTS / "populations").glob("*.npz")))
    assert len(files) >= 4
    ratios, epochs = [], []
    for row in coverage(monkeypatch, population=files, studies=1000, seeds=seeds):
        epochs.append(row["epochs_coverage"])
        if row["ratio_coverage"] is not None:
            ratios.append(row["ratio_coverage"])
            assert row["false_proved"] <= 0.025, row
    assert min(ratios) > 0.92
    assert min(epochs) > 0.92
    assert 0.93 < np.mean(ratios) < 0.99
    assert 0.93 < np.mean(epochs) < 0.99
