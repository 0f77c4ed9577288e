"""Which remedy helps against vanishing gradients, and which against exploding ones? Every remedy x
start x depth.

The claims: gradients vanish layer by layer (C1) or explode, and then the loss does not converge
(C2); vanishing shows in the early layers, exploding in the deep ones (C3); ReLU, normalization and
Xavier or He starts cure the first (C4); clipping, L2 and a lower rate the second (C5). MLPs on
handwritten digits, SGD, each at its own best rate of a grid.

    python experiments/remedies_mlp.py                 quick: 4 and 16 layers of 64 units, 4 seeds; minutes on 2 cores
    python experiments/remedies_mlp.py --size smoke    seconds: checks that all of it works
    python experiments/remedies_mlp.py --size paper    4 to 64 layers of 256 units, 10 seeds: for an accelerator

Three starts: `vanishing`, N(0, 1/(3 n)), the variance of Glorot & Bengio's standard start;
`healthy`, N(0, 1/n), as Xavier is often written; `exploding`, N(0, 9/n). The remedies are settings
of `jaxinit run`; each is compared, seed by seed, with the plain tanh net of the same start. A lower
rate is a comparison of its own: the best rate of the grid against one ten times as high.

Expect at quick (a minute and a half): at 16 layers the healthy start needs 2.8 epochs and neither
other arrives within 10; batch and layer normalization and residual connections rescue both (0.7 to
5.9 epochs), ReLU at the same variance, clipping, L2, decay and dropout neither; the gradient is
largest at the input in exploding nets too, since it grows going back, so C3 is half wrong; ten
times the best rate costs exploding nets 0.4 to 0.8 of accuracy.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, make_claim, ratio_claim
from jaxinit.analysis.survival import Times
from jaxinit.analysis.table import best_rate, times_of
from jaxinit.reproduce import lower_rate, main_of, run_all, write_summary
from jaxinit.study import Study

STARTS = {"vanishing": 1 / 3, "healthy": 1.0, "exploding": 9.0}  # n Var[W]
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
AGAINST = {  # what is claimed to help against what
    "C4": ("vanishing", ("relu", "batch norm", "layer norm", "residual")),
    "C5": ("exploding", ("clip by norm 1", "clip by value 0.01", "L2 0.001")),
}
BASE = Study(
    model="mlp",
    hidden=64,
    activation="tanh",
    task="digits_rows",
    schemes=tuple(STARTS),
    baseline="vanishing",
    lrs=(0.01, 0.03, 0.1, 0.3, 1.0),
    seeds=4,
    tune_seeds=1,
    epochs=10,
    evaluations=4,
    target=0.9,
)


LOST = {"censored": "cens", "diverged": "div"}
KEPT = (
    "lr",
    "lr_at_edge",
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
        replace(BASE, hidden=8, lrs=(0.03, 0.3), seeds=2, epochs=1, target=0.3),
        (3,),
        ("none", "relu", "batch norm", "clip by norm 1"),
    ),
    "quick": Size(BASE, (4, 16)),
    "paper": Size(replace(BASE, hidden=256, seeds=10, tune_seeds=3, epochs=50), (4, 16, 64)),
}


def compare(size: Size, out: Path) -> int:
    """Every remedy at every depth as a study of its own, the claims, a figure, and summary.json."""
    from jaxinit.analysis.report import print_claims

    cells = {
        f"{depth} layers, {remedy}": (depth, remedy)
        for depth in size.depths
        for remedy in size.remedies
    }
    studies = {
        name: replace(size.study, layers=depth, **REMEDIES[remedy])
        for name, (depth, remedy) in cells.items()
    }
    found = run_all(studies, out, schemes={name: start(name) for name in STARTS})
    results = {cells[name]: result for name, result in found.items()}
    rows = table(results)
    claims = [*gradients(size), *helped(size, results)]
    write_summary(out, {"table": rows, "claims": claims, "study": size.study.plain()})
    draw(size, rows, out / "figures")
    for row in rows:
        print(
            f"{row['layers']:2d} x {row['start']:9} {row['remedy']:18} rate {row['lr']:<5g} "
            f"{shown(row):>6} epochs; {row['converged']} converged, {row['censored']} censored, "
            f"{row['diverged']} diverged"
        )
    print_claims(claims)
    print(f"summary and figures: {out}")
    return 0


def start(name: str) -> Any:
    """The scheme N(0, v/n), zero biases, with v of `STARTS`."""
    from jaxinit.initializers import variance_scaling, vector

    return lambda leaf: vector(leaf) or variance_scaling(STARTS[name], "fan_in", "normal")


def table(results: dict[tuple[int, str], Any]) -> list[dict[str, Any]]:
    """A row for every depth, remedy and start."""
    rows = []
    for (depth, remedy), result in results.items():
        for row in sorted(
            result.summary["table"], key=lambda row: list(STARTS).index(row["scheme"])
        ):
            rows.append(
                {"layers": depth, "remedy": remedy, "start": row["scheme"]}
                | {key: row[key] for key in KEPT}
            )
    return rows


def gradients(size: Size) -> list[Claim]:
    """C1 to C3: what gradients do at the start, going back through the deepest plain nets."""
    from jaxinit.engine.survey import survey

    depth = size.depths[-1]
    slopes, smallest, largest = {}, {}, {}
    for activation in ("tanh", "sigmoid"):
        study = replace(size.study, layers=depth, activation=activation, lrs=(1.0,))
        signals = survey(study, schemes={name: start(name) for name in STARTS})
        for name in STARTS:
            of = (
                signals.sel(scheme=name).gradient_mean_square.mean(("step", "copy"), skipna=True)
                ** 0.5
            )
            logs = np.log10(of.transpose("seed", "parameter").values[:, ::-1])  # going back
            slopes[name, activation] = [
                np.polyfit(np.arange(depth + 1), seed, 1)[0] for seed in logs
            ]
            smallest[name, activation] = (
                1 - logs.argmin(1) / depth
            )  # 0: at the input, 1: at the output
            largest[name, activation] = 1 - logs.argmax(1) / depth
    note = f"{depth} layers of {size.study.hidden} units, {size.study.seeds} seeds, before training"
    row = lambda key, what, which, band, published: make_claim(
        key, what, slopes[which], published, band, note
    )
    decades = "decades that the gradient changes by per layer going back"
    return [
        row(
            "C1",
            f"{decades}, tanh, N(0, 1/(3 n))",
            ("vanishing", "tanh"),
            (-np.inf, -0.1),
            "shrinks",
        ),
        row(
            "C1",
            f"{decades}, sigmoid, N(0, 1/n)",
            ("healthy", "sigmoid"),
            (-np.inf, -0.1),
            "shrinks",
        ),
        row("C2", f"{decades}, tanh, N(0, 9/n)", ("exploding", "tanh"), (0.03, np.inf), "grows"),
        make_claim(
            "C3",
            "where the gradient is smallest under N(0, 1/(3 n)), tanh: 0 the input, 1 the output",
            smallest["vanishing", "tanh"],
            "the early layers",
            (0.0, 0.25),
            note,
        ),
        make_claim(
            "C3",
            "where the gradient is largest under N(0, 9/n), tanh: 0 the input, 1 the output",
            largest["exploding", "tanh"],
            "the deep layers",
            (0.75, 1.0),
            note,
        ),
    ]


def helped(size: Size, results: dict[tuple[int, str], Any]) -> list[Claim]:
    """C2, C4 and C5: how many times fewer epochs a remedy needs than the plain net of the same
    start."""
    horizon, claims = float(size.study.epochs), []

    def times(depth: int, remedy: str, name: str) -> Times:
        records = results[depth, remedy].records
        return times_of(records, name, best_rate(records, name), "report")

    def claim(key: str, depth: int, what: str, before: Times, after: Times) -> None:
        what = f"{depth} layers: times fewer epochs, {what}"
        claims.append(ratio_claim(key, what, before, after, horizon, "helps", (1.05, np.inf)))

    for depth in size.depths:
        plain = {name: times(depth, "none", name) for name in STARTS}
        claim("C2", depth, "N(0, 1/n) against N(0, 9/n)", plain["exploding"], plain["healthy"])
        claim(
            "C4",
            depth,
            "N(0, 1/n) (Xavier) against N(0, 1/(3 n))",
            plain["vanishing"],
            plain["healthy"],
        )
        for key, (name, remedies) in AGAINST.items():
            for remedy in remedies:
                if remedy in size.remedies:
                    claim(
                        key,
                        depth,
                        f"{remedy} on the {name} start",
                        plain[name],
                        times(depth, remedy, name),
                    )
        claims.append(lower_rate(results[depth, "none"], "exploding", f"{depth} layers"))
    return claims


def shown(row: dict[str, Any]) -> str:
    return f"{'' if row['converged'] == row['seeds'] else '>'}{row['epochs']:.1f}"


def draw(size: Size, rows: list[dict[str, Any]], folder: Path) -> None:
    """Epochs to the target as a table in grey: a row for each remedy, a column for each depth and
    start."""
    import matplotlib.pyplot as plt

    from jaxinit.analysis.figure import save, style

    columns = [(depth, name) for depth in size.depths for name in STARTS]
    of = {(row["layers"], row["start"], row["remedy"]): row for row in rows}
    values = np.asarray(
        [[of[*column, remedy]["epochs"] for column in columns] for remedy in size.remedies]
    )
    with style():
        figure, axes = plt.subplots(
            figsize=(2.6 + 0.85 * len(columns), 1.7 + 0.3 * len(size.remedies)),
            layout="constrained",
        )
        axes.imshow(values, cmap="Greys", vmin=0, vmax=2 * size.study.epochs, aspect="auto")
        for y, remedy in enumerate(size.remedies):
            for x, column in enumerate(columns):
                row = of[*column, remedy]
                lost = " ".join(f"{row[what]} {short}" for what, short in LOST.items() if row[what])
                axes.text(
                    x, y, f"{shown(row)}\n{lost}".strip(), ha="center", va="center", fontsize=6
                )
        axes.set_xticks(
            range(len(columns)), [f"{depth} layers\n{name}" for depth, name in columns], fontsize=7
        )
        axes.set_yticks(range(len(size.remedies)), size.remedies)
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        study = size.study
        figure.suptitle(
            f"Epochs to {study.target:.0%} accuracy (mean up to {study.epochs}) at the best rate; "
            f"n = {study.seeds} seeds\nMLP, {study.hidden} tanh units a layer, digits, SGD; cens: "
            "censored, div: diverged",
            fontsize=8,
            x=0.01,
            ha="left",
        )
        save(figure, folder, "remedies")


main = main_of("remedies_mlp", __doc__, SIZES, compare)

if __name__ == "__main__":
    sys.exit(main())
