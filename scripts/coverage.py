"""Do the intervals cover? Whole studies played through the project's own search and statistics.

A population is what every seed does at every rate, measured once (scripts/populations), or drawn
from a synthetic family: random optimum, width, cliff, noise and 0 to 30 % of seeds that are lost.
A study draws its seeds from it with replacement, finds its rates, makes its intervals, and is
compared with what it should have found: each scheme's restricted mean at its best rate; where no
trial of a study was lost at the rates that it reports, its sentence is on the time given
convergence, and so is what it is compared with. The old grid, five rates a half decade apart, three
tuning seeds, percentile bootstrap, is played beside it; a rate outside the file never converges.

    scripts/coverage --population FILE --baseline SCHEME --studies 1000 --seeds 8 --json OUT
    scripts/coverage                              # all populations here, and the synthetic family
    scripts/coverage --record FOLDER --out FILE   # a population of the study in FOLDER

Columns: share of studies whose interval covers, of ratios and of epochs; false: the larger share of
studies that settle a claim at the edge of its band, which is put at the true ratio, as proved, on
either side; width: median of the logarithm of the ratio's interval; epochs trained, and the grid's.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.progress import track

from jaxinit.analysis import store
from jaxinit.analysis.claims import WRONG_RATIO, verdict
from jaxinit.analysis.interval import Sample, best, bound, limits, log_ratio
from jaxinit.analysis.population import (
    Played,
    Population,
    Scheme,
    load_population,
    play,
    population_of,
    save_population,
)
from jaxinit.analysis.search import COARSE, REPORTED, Grid, Ladder
from jaxinit.console import exit_code
from jaxinit.study import BadStudy

HERE = Path(__file__).parent / "populations"
TUNE_SEEDS = 3  # of the old grid
RESAMPLES = 999
FAMILY_SEEDS = 400  # of a synthetic population
LOSSES = (0.0, 0.03, 0.1, 0.3)
AROUND = 3  # rungs recorded on each side of the rates that a study reports


@dataclass(frozen=True)
class Asked:
    """What is played, or recorded."""

    population: tuple[Path, ...] = ()
    """Population files. Default: those of this repository, and a synthetic family."""
    baseline: str | None = None
    """The scheme that ratios are against. Default: the slowest that converges."""
    studies: int = 1000
    """Studies to play on each population."""
    seeds: int = 8
    """Seeds at each rate that is finally reported."""
    json: Path | None = None
    """A file for the rows."""
    grid: bool = True
    """Play the old grid too."""
    record: Path | None = None
    """The folder of a finished study: train its schemes at all rates around the reported ones."""
    record_seeds: int = 30
    """Seeds of the population that is recorded."""
    out: Path | None = None
    """The population file to write."""


class Truth(NamedTuple):
    """What a study of a scheme should find, as logarithms: the restricted mean at the best rate,
    and the time given convergence there."""

    restricted: float
    given_convergence: float

    def of(self, samples: list[Sample]) -> float:
        """What the sentence that a study prints is on."""
        lost = sum(sample.lost for sample in samples if not sample.doubtful or _all(samples))
        return self.restricted if lost else self.given_convergence


def _all(samples: list[Sample]) -> bool:
    return all(sample.doubtful for sample in samples)


@dataclass
class Tally:
    """What studies of a scheme found, a study each."""

    epochs: list[float] = field(default_factory=list)
    grid_epochs: list[float] = field(default_factory=list)
    covered: dict[str, list[bool]] = field(default_factory=dict)
    widths: list[float] = field(default_factory=list)

    def note(self, name: str, value: bool) -> None:
        self.covered.setdefault(name, []).append(value)

    def share(self, name: str) -> float | None:
        values = self.covered.get(name)
        return float(np.mean(values)) if values else None


def main(asked: Asked) -> int:
    """Play studies, or record a population."""
    if asked.record is not None:
        return record(asked.record, asked.record_seeds, asked.out)
    if asked.seeds < 2:
        raise BadStudy(f"an interval needs 2 seeds or more, got --seeds {asked.seeds}")
    if asked.studies < 1:
        raise BadStudy(f"coverage needs 1 study or more, got --studies {asked.studies}")
    if asked.json is not None and not asked.json.parent.is_dir():
        raise BadStudy(f"--json {asked.json}: there is no folder {asked.json.parent}")
    rows = []
    print(f"{asked.studies} studies each, {asked.seeds} seeds at each of {REPORTED} rates")
    print(HEADER)
    for name, population, baseline in populations(asked):
        tallies = played(name, population, baseline, asked)
        for row in rows_of(name, tallies, baseline):
            rows.append(row)
            print(line(row))
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def populations(asked: Asked) -> Iterator[tuple[str, list[Population], str]]:
    """What is played on, each by its name with its baseline: a file, or a family of populations."""
    files = asked.population or tuple(sorted(HERE.glob("*.npz")))
    for file in files:
        population = load_population(file)
        if asked.baseline is not None and asked.baseline not in population.schemes:
            raise BadStudy(
                f"{file} has no scheme {asked.baseline!r}; it has {', '.join(population.schemes)}"
            )
        yield file.stem, [population], asked.baseline or slowest(population)
    if not asked.population:
        for lost in LOSSES:
            count = max(1, asked.studies // 10)
            family = [synthetic(np.random.default_rng(k), lost) for k in range(count)]
            yield f"synthetic, {lost:.0%} lost", family, "scheme0"


def slowest(population: Population) -> str:
    """The slowest scheme that converges at all."""
    means = {name: population.restricted_mean(name) for name in population.schemes}
    converging = {name: mean for name, mean in means.items() if mean < population.budget}
    return max(converging or means, key=lambda name: means[name])


def synthetic(
    rng: np.random.Generator, lost: float, schemes: int = 4, rates: int = 10
) -> Population:
    """Schemes whose time is a parabola of the log rate below a cliff, lognormal over seeds."""
    budget = 20.0
    rungs = np.arange(rates)
    made = {}
    for number in range(schemes):
        optimum = rng.uniform(3, rates - 3)
        width = rng.uniform(2, 6)
        fastest = np.exp(rng.uniform(np.log(1.5), np.log(8)))
        noise = rng.uniform(0.1, 0.3)
        cliff = optimum + rng.uniform(0.5, 4)
        mean = fastest * np.exp(((rungs - optimum) / width) ** 2)
        spread = noise * rng.normal(size=(rates, FAMILY_SEEDS)) - noise**2 / 2
        time = mean[:, None] * np.exp(spread)
        beyond = rungs > cliff
        losing = np.where(beyond, 1 - 0.5 * np.exp(cliff - rungs), 0.0)
        losing = np.maximum(losing, lost)
        converged = (rng.uniform(size=time.shape) > losing[:, None]) & (time < budget)
        time = np.ceil(np.where(converged, time, budget) * 8) / 8
        nothing = np.zeros_like(time)
        made[f"scheme{number}"] = Scheme(time, converged, nothing, converged.astype(np.int8))
    return Population(tuple(1.5**rung for rung in rungs.tolist()), made)


def played(name: str, family: list[Population], baseline: str, asked: Asked) -> dict[str, Tally]:
    """Studies on the populations of a family, in turn."""
    rng = np.random.default_rng(0)
    tallies: dict[str, Tally] = {}
    shown = sys.stderr.isatty()
    for number in track(range(asked.studies), name, disable=not shown):
        population = family[number % len(family)]
        chosen = rng.integers(0, population.seeds, asked.seeds + TUNE_SEEDS)
        plan = Ladder.of(population.rates, asked.seeds)
        found = {scheme: play(population, scheme, plan, chosen) for scheme in population.schemes}
        truths = {}
        for scheme in population.schemes:
            truths[scheme] = Truth(
                math.log(population.restricted_mean(scheme)), math.log(population.mean_time(scheme))
            )
        note(tallies, found, truths, population.budget, baseline)
        if asked.grid:
            _note_grid(tallies, population, chosen, truths, baseline, rng, asked.seeds)
    return tallies


def note(
    tallies: dict[str, Tally],
    found: dict[str, Played],
    truths: dict[str, Truth],
    horizon: float,
    baseline: str,
) -> None:
    """Add what one study found."""
    base = found[baseline].samples
    for name, (samples, epochs) in found.items():
        tally = tallies.setdefault(name, Tally())
        tally.epochs.append(epochs)
        truth = truths[name].of(samples)
        _, low, high = limits(samples, horizon)
        tally.note("epochs", low - 1e-9 <= truth <= high + 1e-9)
        tally.note("epochs, restricted", low - 1e-9 <= truths[name].restricted <= high + 1e-9)
        if name == baseline:
            continue
        truth = truths[baseline].of(base) - truth
        for level in (0.95, 1 - WRONG_RATIO):
            ratio = log_ratio(base, samples, horizon, level)
            if level == 0.95:
                tally.note("ratio", ratio.low - 1e-9 <= truth <= ratio.high + 1e-9)
                restricted = truths[baseline].restricted - truths[name].restricted
                within = ratio.low - 1e-9 <= restricted <= ratio.high + 1e-9
                tally.note("ratio, restricted", within)
                tally.widths.append(ratio.high - ratio.low)
                continue
            kind = bound(best(base, horizon), best(samples, horizon))
            at_least = verdict(ratio.low, ratio.high, (truth, math.inf), kind)
            at_most = verdict(ratio.low, ratio.high, (-math.inf, truth), kind)
            tally.note("false at least", at_least == "supported")
            tally.note("false at most", at_most == "supported")


def _note_grid(
    tallies: dict[str, Tally],
    population: Population,
    chosen: np.ndarray,
    truths: dict[str, Truth],
    baseline: str,
    rng: np.random.Generator,
    seeds: int,
) -> None:
    """Add what the old grid found: its best rate held fixed, percentile bootstrap, paired."""
    coarse = Ladder.of(population.rates, seeds).coarse()
    middle = coarse[len(coarse) // 2]
    grid = population.at([middle + COARSE * step for step in (-2, -1, 0, 1, 2)])
    plan = Grid(grid.rates, TUNE_SEEDS, seeds)
    found = {name: play(grid, name, plan, chosen) for name in grid.schemes}
    drawn = rng.integers(0, seeds, (RESAMPLES, seeds))
    means = {name: its.samples[0].times.time[drawn].mean(1) for name, its in found.items()}
    for name, its in found.items():
        tally = tallies[name]
        tally.grid_epochs.append(its.epochs)
        low, high = np.log(np.percentile(means[name], (2.5, 97.5)))
        tally.note("grid epochs", low <= truths[name].restricted <= high)
        if name != baseline:
            low, high = np.log(np.percentile(means[baseline] / means[name], (2.5, 97.5)))
            truth = truths[baseline].restricted - truths[name].restricted
            tally.note("grid ratio", low <= truth <= high)


def rows_of(name: str, tallies: dict[str, Tally], baseline: str) -> list[dict[str, Any]]:
    """A row for each scheme of a population."""
    rows = []
    for scheme, tally in tallies.items():
        sides = [tally.share("false at least"), tally.share("false at most")]
        wrong = None if None in sides else max(side for side in sides if side is not None)
        rows.append(
            {
                "population": name,
                "scheme": scheme,
                "baseline": baseline,
                "studies": len(tally.epochs),
                "ratio_coverage": tally.share("ratio"),
                "epochs_coverage": tally.share("epochs"),
                "ratio_coverage_restricted": tally.share("ratio, restricted"),
                "epochs_coverage_restricted": tally.share("epochs, restricted"),
                "log_width": float(np.median(tally.widths)) if tally.widths else None,
                "epochs_trained": float(np.mean(tally.epochs)),
                "epochs_trained_grid": float(np.mean(tally.grid_epochs))
                if tally.grid_epochs
                else None,
                "false_proved": wrong,
                "grid_ratio_coverage": tally.share("grid ratio"),
                "grid_epochs_coverage": tally.share("grid epochs"),
            }
        )
    return rows


HEADER = (
    f"{'population':28} {'scheme':16} {'ratio':>6} {'grid':>6} {'epochs':>6} {'grid':>6} "
    f"{'false':>6} {'width':>6} {'trained':>8} {'grid':>6}"
)


def line(row: dict[str, Any]) -> str:
    """A row as text."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    width = "-" if row["log_width"] is None else f"{row['log_width']:.2f}"
    grid = row["epochs_trained_grid"]
    return (
        f"{row['population']:28} {row['scheme']:16} {share(row['ratio_coverage']):>6} "
        f"{share(row['grid_ratio_coverage']):>6} {share(row['epochs_coverage']):>6} "
        f"{share(row['grid_epochs_coverage']):>6} {share(row['false_proved']):>6} {width:>6} "
        f"{row['epochs_trained']:8.0f} {'-' if grid is None else f'{grid:.0f}':>6}"
    )


def record(folder: Path, seeds: int, out: Path | None) -> int:
    """Train the schemes of a study at all rates around the reported ones, on many seeds."""
    from jaxinit.engine import sweep
    from jaxinit.engine.campaign import run

    result = store.load(folder)
    study = result.study
    rates = [rate for row in result.summary["table"] for rate in row["lrs"] if row["converged"]]
    if not rates:
        raise BadStudy(f"no scheme of the study in {folder} converges; there is nothing to record")
    ladder = Ladder.between(min(rates), max(rates), study.seeds)
    rungs = range(ladder.low - AROUND, ladder.high + AROUND + 1)
    converging = [row["scheme"] for row in result.summary["table"] if row["converged"]]
    schemes = tuple(scheme for scheme in study.schemes if scheme in converging)
    asked = replace(
        study,
        search="grid",
        lrs=tuple(ladder.rate(rung) for rung in rungs),
        schemes=schemes,
        baseline=study.baseline if study.baseline in schemes else schemes[0],
        seeds=2,
        tune_seeds=seeds,
    )
    sweep.one_device_per_core()
    sweep.keep_compilations()
    trained = run(asked, out=folder.with_name(f"{folder.name}-population"))
    if not trained.complete:
        return 130
    path = out or HERE / f"{folder.name}.npz"
    save_population(path, population_of(trained.records))
    print(f"population: {path}")
    return 0


if __name__ == "__main__":
    asked = tyro.cli(Asked, description=__doc__, prog="scripts/coverage")
    sys.exit(exit_code(lambda: main(asked)))
