"""Does the best learning rate carry over from narrow to wide networks (muP: U1, claims B5, D7)?

The coordinate check with its slopes, then the loss against the rate at every width: by how many
octaves (factors of 2) does the optimum move from the narrowest to the widest network, under muP and
under the standard parametrization? Under Adam (B5), and under Muon (D7), whose updates of hidden
matrices have the same size at every width anyway.

    python experiments/mup_transfer.py                 quick: MLP of 64 to 1024 units, with Muon of 64 to 512; minutes on 2 cores
    python experiments/mup_transfer.py --size smoke    seconds: checks that all of it works
    python experiments/mup_transfer.py --size paper    64 to 4096 units, more seeds: for an accelerator

Expect at quick (2026-11-29, 405 s on 2 cores; all claims and intervals: docs/results.md):
- U1: mup under adam: steepest slope of all signals against the width (forward of readout.kernel):
  0.0896 (0.0456 to 0.134); at least 0: holds; at most 0.2: holds.
- U1: xavier_rnn under adam: steepest slope of all signals against the width (update of
  readout.kernel): 0.926 (0.871 to 0.981); at least 0.5: holds.
- B5: mup: octaves that the best rate moves from 64 to 1024 units under adam: 0.254 (-0.231 to
  0.74); at least -1: holds; at most 1: holds.
- B5: xavier_rnn: octaves that the best rate moves from 64 to 1024 units under adam: -2.83 (-3.37 to
  -2.3); at most -2: holds.
- D7: mup under muon: steepest slope of all signals against the width (forward of readout.kernel):
  0.107 (0.0459 to 0.167); at least 0: holds; at most 0.2: holds.
- D7: xavier_rnn under muon: steepest slope of all signals against the width (gradient of
  layers.0.kernel): 0.45 (0.407 to 0.492); at least 0.2: holds.
- D7: mup: octaves that the best rate moves from 64 to 512 units under muon: -0.232 (-0.387 to
  -0.0777); at least -1: holds; at most 1: holds.
- D7: xavier_rnn: octaves that the best rate moves from 64 to 512 units under muon: -0.931 (-1.01 to
  -0.858); at most -0.5: holds.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, at_most, make_claim, near
from jaxinit.analysis.coordinates import STEEP, passes, slopes
from jaxinit.analysis.figure import save, style
from jaxinit.reproduce import draw_transfer, finish, make_main, run_all, smoke, transfer_claims
from jaxinit.schemes.mup import mup
from jaxinit.spec import Scheme
from jaxinit.study import Study

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
# Muon's iterations are 15 products of n x n in every step and layer.
MUON = replace(
    STUDY, optimizer="muon", layers=2, lrs=tuple(2.0**-k for k in range(8, 1, -1)), tune_seeds=6
)


@dataclass(frozen=True)
class Part:
    """The study of one optimizer at every width, the first of which is muP's base; the learning
    rate of the coordinate check, and its bands."""

    study: Study
    widths: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class Size:
    """What is measured under each optimizer, and the seeds of the coordinate check."""

    adam: Part
    muon: Part
    seeds: int


def of_widths(adam: Study, muon: Study, widths: Sequence[int], narrow: Sequence[int]) -> Size:
    return Size(Part(adam, tuple(widths), 0.001), Part(muon, tuple(narrow), 0.01), adam.tune_seeds)


def small(study: Study) -> Study:
    return smoke(study, lrs=study.lrs[::3], tune_seeds=2)


def grown(study: Study) -> Study:
    return replace(study, tune_seeds=10, epochs=20)


WIDE = (64, 128, 256, 512, 1024, 2048, 4096)
SIZES = {
    "smoke": of_widths(small(STUDY), small(MUON), (64, 128), (64, 128)),
    "quick": of_widths(STUDY, MUON, (64, 256, 1024), (64, 128, 512)),
    "paper": of_widths(grown(STUDY), grown(MUON), WIDE, WIDE),
}
# Bands of the octaves that the best rate moves: of muP, and of the standard parametrization, whose
# best rate falls with the width under Adam; nobody published how it does under Muon.
EXPECTED = {
    "B5": {"mup": ("carries over", near(0.0, 1.0)), "xavier_rnn": ("moves down", at_most(-2.0))},
    "D7": {"mup": ("carries over", near(0.0, 1.0)), "xavier_rnn": ("no number", at_most(-0.5))},
}


def measure(size: Size, out: Path) -> int:
    studies, results, claims = {}, {}, []
    for name, part in (("B5", size.adam), ("D7", size.muon)):
        study, widths = part.study, part.widths
        own = {"mup": mup(widths[0])}
        of_part = {}
        for width in widths:
            of_part[f"{study.optimizer}, {width} units"] = replace(study, hidden=width)
        its_results = run_all(of_part, out, schemes=own)
        title = (
            f"MLP of {study.layers} layers on digits, {study.optimizer}, {study.epochs} epochs, "
            f"n = {study.tune_seeds}; base {widths[0]} units"
        )
        draw_transfer(its_results, title, out / "figures" / study.optimizer)
        claims += coordinates(part, size.seeds, own, out)
        ends = list(its_results.values())
        between = f"from {widths[0]} to {widths[-1]} units under {study.optimizer}"
        claims += transfer_claims(name, ends, between, EXPECTED[name])
        studies |= of_part
        results |= its_results
    return finish(out, studies, results, claims, rows=[])


def coordinates(part: Part, seeds: int, own: Mapping[str, Scheme], out: Path) -> list[Claim]:
    """The coordinate check, by its steepest slope: U1 under Adam, D7 under Muon."""
    from jaxinit.analysis import signal_figures
    from jaxinit.engine.coordcheck import coordinate_check

    optimizer = part.study.optimizer
    study = replace(part.study, seeds=seeds)
    folder = out / "coordinates" / optimizer
    check = coordinate_check(study, part.widths, rate=part.rate, schemes=own, out=folder)
    with style():
        save(signal_figures.coordinates(check), out / "figures" / optimizer, "coordinates")
    rows_of_all = slopes(check)
    slopes_by_seed = []
    for seed in range(check.sizes["seed"]):
        slopes_by_seed.append(slopes(check.isel(seed=[seed])))
    claims = []
    bands = {"mup": ("flat", (0.0, STEEP)), "xavier_rnn": ("above 0.5", at_least(0.5))}
    if optimizer == "muon":
        bands["xavier_rnn"] = ("no number", at_least(STEEP))
    for scheme, (published, band) in bands.items():
        rows = [row for row in rows_of_all if row.scheme == scheme]
        steepest = max(rows, key=lambda row: abs(row.slope))
        by_seed = [of_seed[rows_of_all.index(steepest)].slope for of_seed in slopes_by_seed]
        statement = (
            f"{scheme} under {optimizer}: steepest slope of all signals against the width "
            f"({steepest.kind} of {steepest.parameter})"
        )
        # The verdict is not of the steepest slope alone: some signals are judged for growth only.
        verdict = "passes" if passes(rows_of_all, scheme) else "fails"
        note = f"10 steps, {seeds} seeds; the check {verdict}"
        name = "U1" if optimizer == "adam" else "D7"
        claims.append(make_claim(name, statement, np.abs(by_seed), published, band, note))
    return claims


main = make_main("mup_transfer", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
