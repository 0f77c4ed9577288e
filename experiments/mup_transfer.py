"""Does the best learning rate carry over from narrow to wide networks (muP: U1, claim B5)?

The coordinate check with its slopes, then the loss against the rate at every width: by how many
octaves (factors of 2) does the optimum move from the narrowest to the widest network, under muP and
under the standard parametrization?

    python experiments/mup_transfer.py                 quick: MLP of 64 to 1024 units, Adam; minutes on 2 cores
    python experiments/mup_transfer.py --size smoke    seconds: checks that all of it works
    python experiments/mup_transfer.py --size paper    64 to 4096 units, more seeds: for an accelerator

Expect at quick: the check passes under muP, its steepest slope 0.07 (64 to 1024 units, 10 Adam
steps, 5 seeds), and fails under the standard parametrization, 0.92 for the change of the readout's
product. The best rate moves by 0.2 octaves (-0.1 to 0.5; 8 seeds) from 64 to 1024 units under muP
and by -3.0 (-3.5 to -2.5) under the standard parametrization, whose best rate falls eightfold while
its lowest loss is the lower one: carrying over is not being best.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxinit.analysis.claims import make_claim
from jaxinit.reproduce import draw_transfer, finish, main_of, optimum, run_all
from jaxinit.schemes.mup import mup
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
    tune_seeds=8,
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
    "smoke": Size(
        replace(STUDY, lrs=(2.0**-9, 2.0**-7, 2.0**-5), tune_seeds=2, epochs=1), (64, 128), 2
    ),
    "quick": Size(STUDY, (64, 256, 1024), 5),
    "paper": Size(
        replace(STUDY, tune_seeds=10, epochs=20), (64, 128, 256, 512, 1024, 2048, 4096), 10
    ),
}


def measure(size: Size, out: Path) -> int:
    from jaxinit.analysis.figure import save, style
    from jaxinit.analysis.signal_figures import coordinates
    from jaxinit.engine import coordcheck

    studies = {f"{width} units": replace(size.study, hidden=width) for width in size.widths}
    results = run_all(studies, out, schemes=OWN)
    found = coordcheck.coordinate_check(
        replace(size.study, seeds=size.seeds), size.widths, schemes=OWN, out=out / "coordinates"
    )
    rows = coordcheck.slopes(found)
    claims = []
    for scheme in size.study.schemes:
        steepest = max(
            (row for row in rows if row.scheme == scheme), key=lambda row: abs(row.slope)
        )
        what = (
            f"{scheme}: steepest slope of all signals against the width ({steepest.kind} of "
            f"{steepest.parameter})"
        )
        band = (0.0, coordcheck.STEEP) if scheme == "mup" else (0.5, np.inf)
        note = (
            f"10 Adam steps, {size.seeds} seeds; the check "
            f"{'passes' if coordcheck.passes(rows, scheme) else 'fails'}"
        )
        published = "flat" if scheme == "mup" else "above 0.5"
        claims.append(make_claim("U1", what, abs(steepest.slope), published, band, note))
    optima = {
        scheme: [optimum(results[name], scheme) for name in studies]
        for scheme in size.study.schemes
    }
    for scheme, of in optima.items():
        shift = of[-1] - of[0]
        what = (
            f"{scheme}: octaves that the best rate moves from {size.widths[0]} to "
            f"{size.widths[-1]} units"
        )
        band = (-1.0, 1.0) if scheme == "mup" else (-np.inf, -2.0)
        published = "carries over" if scheme == "mup" else "moves down"
        claims.append(
            make_claim(
                "B5", what, shift, published, band, "training loss after a fixed number of epochs"
            )
        )
    study = size.study
    title = (
        f"MLP of {study.layers} layers on digits, {study.epochs} epochs, n = {study.tune_seeds}; "
        f"base {BASE} units"
    )
    draw_transfer(results, title, out / "figures")
    with style():
        save(coordinates(found), out / "figures", "coordinates")
    return finish(out, [], claims, studies)


main = main_of("mup_transfer", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
