"""Does the best learning rate carry over from narrow to wide networks (muP: U1, claim B5)?

The coordinate check with its slopes, then the loss against the rate at every width: by how many
octaves (factors of 2) does the optimum move from the narrowest to the widest network, under muP and
under the standard parametrization?

    python experiments/mup_transfer.py                 quick: MLP of 64 to 1024 units, Adam; minutes on 2 cores
    python experiments/mup_transfer.py --size smoke    seconds: checks that all of it works
    python experiments/mup_transfer.py --size paper    64 to 4096 units, more seeds: for an accelerator

Expect at quick (2026-11-29, 172 s on 2 cores; all claims and intervals: docs/results.md):
- U1: mup: steepest slope of all signals against the width (forward of readout.kernel): 0.0716
  (0.0163 to 0.127); at least 0: open; at most 0.2: holds.
- U1: xavier_rnn: steepest slope of all signals against the width (update of readout.kernel): 0.925
  (0.821 to 1.03); at least 0.5: holds.
- B5: mup: octaves that the best rate moves from 64 to 1024 units: 0.254 (-0.231 to 0.74); at least
  -1: holds; at most 1: holds.
- B5: xavier_rnn: octaves that the best rate moves from 64 to 1024 units: -2.83 (-3.37 to -2.3); at
  most -2: holds.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, at_most, make_claim, near
from jaxinit.analysis.figure import save, style
from jaxinit.analysis.store import Result
from jaxinit.reproduce import draw_transfer, finish, make_main, run_all, smoke, transfer_claims
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
    lrs=tuple(2.0**-k for k in range(13, 4, -1)),  # an octave apart: shifts are in octaves
    seeds=2,
    tune_seeds=8,  # the best rate is read off these
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
    "smoke": Size(smoke(STUDY, lrs=STUDY.lrs[::4], tune_seeds=2), (64, 128), 2),
    "quick": Size(STUDY, (64, 256, 1024), 5),
    "paper": Size(
        replace(STUDY, tune_seeds=10, epochs=20), (64, 128, 256, 512, 1024, 2048, 4096), 10
    ),
}


def measure(size: Size, out: Path) -> int:
    studies = {f"{width} units": replace(size.study, hidden=width) for width in size.widths}
    results = run_all(studies, out, schemes=OWN)
    study = size.study
    title = (
        f"MLP of {study.layers} layers on digits, {study.epochs} epochs, n = {study.tune_seeds}; "
        f"base {BASE} units"
    )
    draw_transfer(results, title, out / "figures")
    claims = coordinates(size, out) + transfer(size, list(results.values()))
    return finish(out, studies, results, claims, rows=[])


def coordinates(size: Size, out: Path) -> list[Claim]:
    """U1: the coordinate check, by its steepest slope."""
    from jaxinit.analysis import signal_figures
    from jaxinit.engine import coordcheck

    study = replace(size.study, seeds=size.seeds)
    check = coordcheck.coordinate_check(study, size.widths, schemes=OWN, out=out / "coordinates")
    with style():
        save(signal_figures.coordinates(check), out / "figures", "coordinates")
    slopes = coordcheck.slopes(check)
    slopes_by_seed = []
    for seed in range(check.sizes["seed"]):
        slopes_by_seed.append(coordcheck.slopes(check.isel(seed=[seed])))
    claims = []
    for scheme, published, band in (
        ("mup", "flat", (0.0, coordcheck.STEEP)),
        ("xavier_rnn", "above 0.5", at_least(0.5)),
    ):
        own = [row for row in slopes if row.scheme == scheme]
        steepest = max(own, key=lambda row: abs(row.slope))
        by_seed = [of_seed[slopes.index(steepest)].slope for of_seed in slopes_by_seed]
        statement = (
            f"{scheme}: steepest slope of all signals against the width ({steepest.kind} of "
            f"{steepest.parameter})"
        )
        # The verdict is not of the steepest slope alone: some signals are judged for growth only.
        verdict = "passes" if coordcheck.passes(slopes, scheme) else "fails"
        note = f"10 Adam steps, {size.seeds} seeds; the check {verdict}"
        claims.append(make_claim("U1", statement, np.abs(by_seed), published, band, note))
    return claims


def transfer(size: Size, results: Sequence[Result]) -> list[Claim]:
    """B5: by how many octaves the best rate moves from the narrowest to the widest network."""
    expected = {
        "mup": ("carries over", near(0.0, 1.0)),
        "xavier_rnn": ("moves down", at_most(-2.0)),
    }
    between = f"from {size.widths[0]} to {size.widths[-1]} units"
    return transfer_claims("B5", results, between, expected)


main = make_main("mup_transfer", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
