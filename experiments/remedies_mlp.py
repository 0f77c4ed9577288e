"""Which remedy helps against vanishing gradients, and which against exploding ones? Every remedy x
initialization x depth.

The claims: gradients vanish layer by layer (C1) or explode, and then the loss does not converge
(C2); vanishing shows in the early layers, exploding in the deep ones (C3); ReLU, normalization and
Xavier or He initialization cures the first (C4); clipping, L2 and a lower rate the second (C5).
MLPs on handwritten digits, SGD, each at its own best rate.

    python experiments/remedies_mlp.py                 quick: 4 and 16 layers of 64 units, 5 seeds; minutes on 2 cores
    python experiments/remedies_mlp.py --size smoke    seconds: checks that all of it works
    python experiments/remedies_mlp.py --size paper    4 to 64 layers of 256 units, 10 seeds: for an accelerator

Three initializations: `vanishing`, N(0, 1/(3 n)), the variance of Glorot & Bengio's standard
initialization; `healthy`, N(0, 1/n), as Xavier is often written; `exploding`, N(0, 9/n). The
remedies are settings of `jaxinit run`; each is compared, seed by seed, with the plain tanh net of
the same initialization. A lower rate is a comparison of its own: the best rate of a grid against
one ten times as high.

Expect at quick (2026-11-29, 106 s on 2 cores; all claims and intervals: docs/results.md):
- C1: decades that the gradient changes by per layer going back, tanh, N(0, 1/(3 n)): -0.246 (-0.255
  to -0.237); at most -0.1: holds.
- C1: decades that the gradient changes by per layer going back, sigmoid, N(0, 1/n): -0.633 (-0.642
  to -0.624); at most -0.1: holds.
- C2: decades that the gradient changes by per layer going back, tanh, N(0, 9/n): 0.125 (0.121 to
  0.13); at least 0.03: holds.
- C3: where the gradient is smallest under N(0, 1/(3 n)), tanh: 0 the input, 1 the output: 0 (0 to
  0); at least 0: holds; at most 0.25: holds.
- C3: where the gradient is largest under N(0, 9/n), tanh: 0 the input, 1 the output: 0 (0 to 0); at
  least 0.75: does not hold; at most 1: holds.
- C2: 4 layers: times fewer epochs, N(0, 1/n) against N(0, 9/n): 1.82 (1.39 to 2.32); at least 1.05:
  open.
- C4: 4 layers: times fewer epochs, N(0, 1/n) (Xavier) against N(0, 1/(3 n)): 1.89 (1.54 to 2.38);
  at least 1.05: holds.
- C4: 4 layers: times fewer epochs, relu on the vanishing initialization: 0.515 (0.455 to 0.608); at
  least 1.05: does not hold.
- and 17 more claims.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, at_most, make_claim
from jaxinit.analysis.figure import saved_figure
from jaxinit.analysis.store import Result
from jaxinit.initializers import variance_scaling, vector
from jaxinit.reproduce import (
    at_all_rates,
    conclude,
    faster,
    lower_rate,
    make_main,
    run_all,
    smoke,
)
from jaxinit.spec import Initializer, Leaf, Scheme
from jaxinit.study import Study


def gaussian(variance: float) -> Scheme:
    """N(0, variance/n), zero biases."""
    kernels = variance_scaling(variance, "fan_in", "normal")

    def scheme(leaf: Leaf) -> Initializer:
        return vector(leaf) or kernels

    return scheme


SCHEMES = {"vanishing": gaussian(1 / 3), "healthy": gaussian(1.0), "exploding": gaussian(9.0)}
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "sigmoid": {"activation": "sigmoid"},
    "relu": {"activation": "relu"},
    "batch norm": {"norm": "batch"},
    "layer norm": {"norm": "layer"},
    "residual": {"residual": True},
    "clip by norm 1": {"clip": 1.0},
    "clip by value 0.01": {"clip_value": 0.01},
    "L2 0.001": {"l2": 0.001},
    "decay 0.001": {"weight_decay": 0.001},
    "dropout 0.1": {"dropout": 0.1},
}
# What is claimed to help against what, by claim.
AGAINST = {
    "C4": ("vanishing", ("relu", "batch norm", "layer norm", "residual")),
    "C5": ("exploding", ("clip by norm 1", "clip by value 0.01", "L2 0.001")),
}
BASE = Study(
    model="mlp",
    hidden=64,
    activation="tanh",
    task="digits_rows",
    schemes=tuple(SCHEMES),
    baseline="vanishing",
    seeds=5,
    epochs=10,
    evaluations=4,
    target=0.9,
)


LOST = {"censored": "cens", "diverged": "div"}
# Of a study's row: its ratios are against another initialization, where ours are against no remedy.
KEPT = (
    "lr",
    "unresolved",
    "epochs",
    "epochs_low",
    "epochs_high",
    "seeds",
    "converged",
    "censored",
    "diverged",
)


@dataclass(frozen=True)
class Size:
    """The study without its depth and remedy, the depths, and the remedies tried."""

    study: Study
    depths: tuple[int, ...]
    remedies: tuple[str, ...] = tuple(REMEDIES)


SIZES = {
    "smoke": Size(
        smoke(BASE, lrs=(0.03, 0.3), target=0.3),
        (3,),
        ("none", "relu", "batch norm", "clip by norm 1"),
    ),
    "quick": Size(BASE, (4, 16)),
    "paper": Size(replace(BASE, hidden=256, seeds=10, epochs=50), (4, 16, 64)),
}


def compare(size: Size, out: Path) -> int:
    """Every remedy at every depth as a study of its own."""
    settings = list(product(size.depths, size.remedies))
    studies = {}
    for depth, remedy in settings:
        study = replace(size.study, layers=depth, **REMEDIES[remedy])
        studies[f"{depth} layers, {remedy}"] = study
    rates = {}
    for depth in size.depths:
        deep = replace(size.study, layers=depth)
        rates[f"{depth} layers, every rate"] = at_all_rates(deep, "exploding")
    by_name = run_all(studies | rates, out, schemes=SCHEMES)
    every_rate = {depth: by_name.pop(f"{depth} layers, every rate") for depth in size.depths}
    results = dict(zip(settings, by_name.values(), strict=True))
    rows = table(results)
    draw(size, rows, out / "figures")
    claims = gradients(size) + helped(size, results)
    for depth, result in every_rate.items():
        claims.append(lower_rate("C5", result, f"{depth} layers"))
    return conclude(out, rows, claims, map(line, rows), study=size.study.plain())


def table(results: Mapping[tuple[int, str], Result]) -> list[dict[str, Any]]:
    """A row for every depth, remedy and initialization."""
    rows = []
    for (depth, remedy), result in results.items():
        by_scheme = {row["scheme"]: row for row in result.summary["table"]}
        for name in SCHEMES:
            setting = {"layers": depth, "remedy": remedy, "initialization": name}
            kept = {key: by_scheme[name][key] for key in KEPT}
            rows.append(setting | kept)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row in print."""
    return (
        f"{row['layers']:2d} x {row['initialization']:9} {row['remedy']:18} rate {row['lr']:<5g} "
        f"{shown(row):>6} epochs; {row['converged']} converged, {row['censored']} censored, "
        f"{row['diverged']} diverged"
    )


def shown(row: dict[str, Any]) -> str:
    """The epochs of a row, as a lower bound where a seed did not reach the target."""
    bound = "" if row["converged"] == row["seeds"] else ">"
    return f"{bound}{row['epochs']:.1f}"


def in_cell(row: dict[str, Any]) -> str:
    """A row in a cell of the figure: its epochs and, below them, how many seeds were lost, and
    how."""
    lost = [f"{row[outcome]} {short}" for outcome, short in LOST.items() if row[outcome]]
    return "\n".join([shown(row), " ".join(lost)]).strip()


def gradients(size: Size) -> list[Claim]:
    """C1 to C3: what gradients do before training, going back through the deepest plain nets."""
    depth = size.depths[-1]
    tanh = gradient_sizes(size.study, depth, "tanh")
    sigmoid = gradient_sizes(size.study, depth, "sigmoid")
    note = f"{depth} layers of {size.study.hidden} units, {size.study.seeds} seeds, before training"
    claims = []
    for name, net, courses, published, band in (
        ("C1", "tanh, N(0, 1/(3 n))", tanh["vanishing"], "shrinks", at_most(-0.1)),
        ("C1", "sigmoid, N(0, 1/n)", sigmoid["healthy"], "shrinks", at_most(-0.1)),
        ("C2", "tanh, N(0, 9/n)", tanh["exploding"], "grows", at_least(0.03)),
    ):
        statement = f"decades that the gradient changes by per layer going back, {net}"
        # The products of all hidden layers and of the readout, the last first.
        slopes = [np.polyfit(np.arange(depth + 1), course, 1)[0] for course in courses]
        claims.append(make_claim(name, statement, slopes, published, band, note))
    # Courses go back from the output, places from the input on.
    smallest = 1 - tanh["vanishing"].argmin(1) / depth
    largest = 1 - tanh["exploding"].argmax(1) / depth
    statement = (
        "where the gradient is smallest under N(0, 1/(3 n)), tanh: 0 the input, 1 the output"
    )
    claims.append(make_claim("C3", statement, smallest, "the early layers", (0.0, 0.25), note))
    statement = "where the gradient is largest under N(0, 9/n), tanh: 0 the input, 1 the output"
    claims.append(make_claim("C3", statement, largest, "the deep layers", (0.75, 1.0), note))
    return claims


def gradient_sizes(study: Study, depth: int, activation: str) -> dict[str, np.ndarray]:
    """log10 of the size of the back-propagated gradient, going back, by initialization: `[seed,
    layer]`."""
    from jaxinit.engine.survey import survey

    # Nothing is trained, so the rates are not asked for.
    plain = replace(study, layers=depth, activation=activation, lrs=(1.0,))
    signals = survey(plain, schemes=SCHEMES)
    squares = signals.gradient_mean_square.mean(("step", "copy"), skipna=True)
    going_back = squares.transpose("scheme", "seed", "parameter").values[..., ::-1]
    logs = np.log10(going_back**0.5)
    return dict(zip(signals.scheme.values.tolist(), logs, strict=True))


def helped(size: Size, results: Mapping[tuple[int, str], Result]) -> list[Claim]:
    """C2, C4 and C5: how many times fewer epochs a remedy needs than the plain net of the same
    initialization."""
    comparisons = []
    for depth in size.depths:
        plain = results[depth, "none"]
        where = f"{depth} layers: times fewer epochs"
        healthy, vanishing = (plain, "healthy"), (plain, "vanishing")
        exploding = plain, "exploding"
        comparisons += [
            ("C2", f"{where}, N(0, 1/n) against N(0, 9/n)", healthy, exploding),
            ("C4", f"{where}, N(0, 1/n) (Xavier) against N(0, 1/(3 n))", healthy, vanishing),
        ]
        for name, (case, remedies) in AGAINST.items():
            for remedy in remedies:
                if remedy not in size.remedies:
                    continue
                pair = (results[depth, remedy], case), (plain, case)
                statement = f"{where}, {remedy} on the {case} initialization"
                comparisons.append((name, statement, *pair))
    claims, band, family = [], at_least(1.05), len(comparisons)
    for name, statement, side, against in comparisons:
        claims.append(faster(name, statement, side, against, "helps", band, family=family))
    return claims


def draw(size: Size, rows: list[dict[str, Any]], folder: Path) -> None:
    """Epochs to the target as a table in grey: a row for each remedy, a column for each depth and
    initialization."""
    study = size.study
    columns = list(product(size.depths, SCHEMES))
    by_place = {(row["layers"], row["initialization"], row["remedy"]): row for row in rows}
    epochs = np.empty((len(size.remedies), len(columns)))
    title = (
        f"Epochs to {study.target:.0%} accuracy (mean up to {study.epochs}) at the best rate; "
        f"n = {study.seeds} seeds\nMLP, {study.hidden} tanh units a layer, digits, SGD; cens: "
        "censored, div: diverged"
    )
    area = 2.6 + 0.85 * len(columns), 1.7 + 0.3 * len(size.remedies)
    with saved_figure(folder, "remedies", title, size=area) as (axes,):
        for y, remedy in enumerate(size.remedies):
            for x, (depth, name) in enumerate(columns):
                row = by_place[depth, name, remedy]
                epochs[y, x] = row["epochs"]
                axes.text(x, y, in_cell(row), ha="center", va="center", fontsize=6)
        # Twice the budget is black, so that the numbers stay readable on the darkest cells.
        axes.imshow(epochs, cmap="Greys", vmin=0, vmax=2 * study.epochs, aspect="auto")
        labels = [f"{depth} layers\n{name}" for depth, name in columns]
        axes.set_xticks(range(len(columns)), labels, fontsize=7)
        axes.set_yticks(range(len(size.remedies)), size.remedies)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()


main = make_main("remedies_mlp", __doc__, SIZES, compare)

if __name__ == "__main__":
    sys.exit(main())
