"""Does the best learning rate carry over from narrow to wide networks (muP: U1, claim B5)?

The coordinate check with its slopes, then the loss against the rate at every width: by how many octaves (factors of 2)
does the optimum move from the narrowest to the widest network, under muP and under the standard parametrization?

    python experiments/mup_transfer.py                 quick: MLP of 64 to 1024 units, Adam; minutes on 2 cores
    python experiments/mup_transfer.py --size smoke    seconds: checks that all of it works
    python experiments/mup_transfer.py --size paper    64 to 4096 units, more seeds: for an accelerator

Expect at quick: not measured on the final settings yet.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit import stats
from jaxinit.experiment import Results, finish, main_of, rows_of, run_all
from jaxinit.residual import mup
from jaxinit.study import Study

BASE = 64
OWN = {"mup": mup(BASE)}
STUDY = Study(
    model="mlp",
    layers=3,
    activation="relu",
    schemes=("mup", "xavier_rnn"),
    baseline="xavier_rnn",
    optimizer="adam",
    lrs=tuple(2.0**-k for k in range(13, 4, -1)),
    seeds=2,
    tune_seeds=4,
    epochs=2,
    evaluations=1,
    target=1.0,
)


@dataclass(frozen=True)
class Size:
    """The study at every width, the widths, and the seeds of the coordinate check."""

    study: Study
    widths: tuple[int, ...]
    seeds: int


SIZES = {
    "smoke": Size(replace(STUDY, lrs=(2.0**-9, 2.0**-7, 2.0**-5), tune_seeds=2, epochs=1), (64, 128), 2),
    "quick": Size(STUDY, (64, 256, 1024), 5),
    "paper": Size(replace(STUDY, tune_seeds=10, epochs=20), (64, 128, 256, 512, 1024, 2048, 4096), 10),
}


def measure(size: Size, out: Path) -> int:
    from jaxinit import coordcheck
    from jaxinit.figure import save, style
    from jaxinit.portrait import coordinates

    studies = {f"{width} units": replace(size.study, hidden=width) for width in size.widths}
    results = run_all(studies, out, schemes=OWN)
    found = coordcheck.coordinate_check(
        replace(size.study, seeds=size.seeds), size.widths, schemes=OWN, out=out / "coordinates"
    )
    rows = coordcheck.slopes(found)
    claims = []
    for scheme in size.study.schemes:
        steepest = max((row for row in rows if row.scheme == scheme), key=lambda row: abs(row.slope))
        what = f"{scheme}: steepest slope of all signals against the width ({steepest.kind} of {steepest.parameter})"
        band = (0.0, coordcheck.STEEP) if scheme == "mup" else (0.5, np.inf)
        note = (
            f"10 Adam steps, {size.seeds} seeds; the check {'passes' if coordcheck.passes(rows, scheme) else 'fails'}"
        )
        published = "flat" if scheme == "mup" else "above 0.5"
        claims.append(stats.claim_of("U1", what, abs(steepest.slope), published, band, note))
    optima = {scheme: [optimum(results[name], scheme) for name in studies] for scheme in size.study.schemes}
    for scheme, of in optima.items():
        shift = of[-1] - of[0]
        what = f"{scheme}: octaves that the best rate moves from {size.widths[0]} to {size.widths[-1]} units"
        band = (-1.0, 1.0) if scheme == "mup" else (-np.inf, -2.0)
        published = "carries over" if scheme == "mup" else "moves down"
        claims.append(
            stats.claim_of("B5", what, shift, published, band, "training loss after a fixed number of epochs")
        )
    draw(size, results, out / "figures")
    with style():
        save(coordinates(found), out / "figures", "coordinates")
    return finish(out, rows_of(results), claims, studies, "Transfer: epochs to a target that is out of reach")


def losses(result: Any, scheme: str) -> np.ndarray:
    """The training loss of the last evaluation by rate and tuning seed; where a trial diverged, the worst of all."""
    records = result.records.sel(scheme=scheme)
    of = records.train_loss.isel(seed=np.flatnonzero(records.phase.values == "tune"), epoch=-1)
    values = of.transpose("lr", "seed").values
    return np.where(np.isfinite(values), values, np.nanmax(values))


def optimum(result: Any, scheme: str) -> np.ndarray:
    """log2 of the best rate of every seed, by a parabola through the best rate and its neighbours."""
    rates = np.log2(result.records.lr.values)
    found = []
    for course in np.log(losses(result, scheme)).T:
        k = int(np.clip(course.argmin(), 1, len(rates) - 2))
        a, b, _ = np.polyfit(rates[k - 1 : k + 2], course[k - 1 : k + 2], 2)
        best = -b / (2 * a) if a > 0 else rates[course.argmin()]
        found.append(float(np.clip(best, rates[0], rates[-1])))
    return np.asarray(found)


def draw(size: Size, results: Results, folder: Path) -> None:
    """Loss against the rate at every width, a panel for each parametrization."""
    import matplotlib.pyplot as plt

    from jaxinit.figure import save, style
    from jaxinit.portrait import MARKS

    with style():
        figure, panels = plt.subplots(1, len(size.study.schemes), figsize=(8, 3.4), layout="constrained", sharey=True)
        for axes, scheme in zip(panels, size.study.schemes, strict=True):
            for k, (width, result) in enumerate(zip(size.widths, results.values(), strict=True)):
                of, grey = losses(result, scheme), str(0.6 * k / max(len(size.widths) - 1, 1))
                rates = result.records.lr.values
                axes.plot(
                    rates, of.mean(1), color=grey, marker=MARKS[k], markersize=4, linewidth=1, label=f"{width} units"
                )
                axes.fill_between(rates, of.min(1), of.max(1), color=grey, alpha=0.2, linewidth=0)
            axes.set(xscale="log", yscale="log", xlabel="learning rate (Adam)", title=scheme)
        panels[0].set_ylabel("training loss")
        panels[0].legend(frameon=False, fontsize=7)
        study = size.study
        figure.suptitle(
            f"MLP of {study.layers} layers on digits, {study.epochs} epochs, n = {study.tune_seeds}; base {BASE} units",
            fontsize=9,
            x=0.01,
            ha="left",
        )
        save(figure, folder, "transfer")


main = main_of("mup_transfer", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
