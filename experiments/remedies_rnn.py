"""Which remedy helps a recurrent network against vanishing gradients, and which against exploding
ones?

Every remedy under every initialization of a vanilla RNN whose recurrent matrix is N(0, g^2/n), by
the size of g: 0.5 (vanishing), 1 (Xavier), 3 (exploding), and an orthogonal one. Claims A9,
remedies_rnn.C4, C5 and C6.

    python experiments/remedies_rnn.py                 quick: 32 units, digits by pixels (64 steps); minutes on 2 cores
    python experiments/remedies_rnn.py --size smoke    seconds: checks that all of it works
    python experiments/remedies_rnn.py --size paper    128 units, 10 seeds, longer: for an accelerator

A remedy is a setting of the same study, each initialization at its own best rate; a lower rate is a
remedy by itself, a study of its own at all rates of a grid.

Expect at quick (2026-11-29, 217 s on 2 cores; all claims and intervals: docs/results.md):
- A9: times fewer epochs, Xavier against vanishing: 2.75 (2.01 to 3.77); at least 1.05: holds.
- remedies_rnn.C4: times fewer epochs, orthogonal against vanishing: 4.02 (1.09 to 5.05); at least
  1.05: open.
- remedies_rnn.C5: times fewer epochs, Xavier against exploding: at least 2.44; at least 1.05:
  holds.
- remedies_rnn.C4: times fewer epochs, relu on the vanishing initialization: at most 1.11; at least
  1.05: open.
- remedies_rnn.C4: times fewer epochs, lstm on the vanishing initialization: 2.17 (1.68 to 2.78); at
  least 1.05: holds.
- remedies_rnn.C4: times fewer epochs, gru on the vanishing initialization: 2.2 (1.79 to 2.73); at
  least 1.05: holds.
- remedies_rnn.C4: times fewer epochs, layer norm on the vanishing initialization: 1.96 (1.53 to
  2.56); at least 1.05: holds.
- remedies_rnn.C5: times fewer epochs, clip by norm 1 on the exploding initialization: no estimate;
  at least 1.05: open.
- and 6 more claims.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least
from jaxinit.analysis.figure import looks, saved_figure
from jaxinit.analysis.store import Result
from jaxinit.initializers import glorot_scheme, normal, orthogonal
from jaxinit.reproduce import (
    Results,
    at_all_rates,
    faster,
    finish,
    lower_rate,
    make_main,
    run_all,
    smoke,
)
from jaxinit.spec import Initializer, Leaf, Scheme
from jaxinit.study import Study

GAINS = {"vanishing": 0.5, "xavier": 1.0, "exploding": 3.0}
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {},
    "relu": {"activation": "relu"},
    "lstm": {"model": "lstm", "activation": None},
    "gru": {"model": "gru", "activation": None},
    "layer norm": {"norm": "layer"},
    "clip by norm 1": {"clip": 1.0},
    "clip by value 0.01": {"clip_value": 0.01},
    "L2 0.001": {"l2": 0.001},
}
# What is claimed to help against what, by claim.
AGAINST = {
    "remedies_rnn.C4": ("vanishing", ("relu", "lstm", "gru", "layer norm")),
    "remedies_rnn.C5": ("exploding", ("clip by norm 1", "clip by value 0.01", "L2 0.001")),
    "remedies_rnn.C6": ("exploding", ("lstm", "gru", "layer norm")),
}


def recurrent_gain(gain: float) -> Scheme:
    """N(0, gain^2/n) recurrent, Glorot elsewhere, zero biases."""

    def scheme(leaf: Leaf) -> Initializer:
        if leaf.role == "recurrent":
            return normal(gain / leaf.fan_in**0.5)
        return glorot_scheme(leaf)

    return scheme


def orthogonal_recurrent(leaf: Leaf) -> Initializer:
    """Orthogonal recurrent, Glorot elsewhere, zero biases."""
    return orthogonal() if leaf.role == "recurrent" else glorot_scheme(leaf)


SCHEMES = {name: recurrent_gain(gain) for name, gain in GAINS.items()}
SCHEMES["orthogonal"] = orthogonal_recurrent
BASE = Study(
    model="rnn",
    hidden=32,
    activation="tanh",
    task="digits_pixels",
    schemes=tuple(SCHEMES),
    baseline="vanishing",
    seeds=5,
    epochs=25,
    evaluations=2,
    target=0.6,
)


@dataclass(frozen=True)
class Size:
    """The study without its remedy, and the remedies tried."""

    study: Study
    remedies: tuple[str, ...] = tuple(REMEDIES)


SIZES = {
    "smoke": Size(smoke(BASE, lrs=(0.1, 1.0), target=0.2), ("none", "gru", "clip by norm 1")),
    "quick": Size(BASE),
    "paper": Size(replace(BASE, hidden=128, seeds=10, epochs=200)),
}


def compare(size: Size, out: Path) -> int:
    studies = {remedy: replace(size.study, **REMEDIES[remedy]) for remedy in size.remedies}
    rates = {"every rate": at_all_rates(size.study, "exploding")}
    results = run_all(studies | rates, out, schemes=SCHEMES)
    every_rate = results.pop("every rate")
    draw(size, results, out / "figures")
    claims = initializations(results["none"]) + remedies(results)
    units = f"{size.study.hidden} units"
    claims.append(lower_rate("remedies_rnn.C5", every_rate, units))
    return finish(out, studies, results, claims, "Remedies: epochs to target by initialization")


def initializations(plain: Result) -> list[Claim]:
    """A9, remedies_rnn.C4 and C5: what another initialization does for the plain network."""
    claims = []
    for name, statement, scheme, against, published in (
        ("A9", "Xavier against vanishing", "xavier", "vanishing", "softens it"),
        ("remedies_rnn.C4", "orthogonal against vanishing", "orthogonal", "vanishing", "helps"),
        ("remedies_rnn.C5", "Xavier against exploding", "xavier", "exploding", "helps"),
    ):
        pair = (plain, scheme), (plain, against)
        statement = f"times fewer epochs, {statement}"
        claims.append(faster(name, statement, *pair, published, at_least(1.05), family=3))
    return claims


def remedies(results: Results) -> list[Claim]:
    """remedies_rnn.C4 to C6: what each remedy does for the initialization that it is said to
    help."""
    claims, band = [], at_least(1.05)
    family = sum(len(names) for _, names in AGAINST.values())
    for name, (case, names) in AGAINST.items():
        for remedy in names:
            if remedy in results:  # size smoke tries a few
                statement = f"times fewer epochs, {remedy} on the {case} initialization"
                pair = (results[remedy], case), (results["none"], case)
                claims.append(faster(name, statement, *pair, "helps", band, family=family))
    return claims


def draw(size: Size, results: Results, folder: Path) -> None:
    """The interaction: epochs to the target against the initialization, a line for each remedy."""
    study = size.study
    title = (
        f"{study.hidden} units, {study.task}, SGD, each at its best rate, n = {study.seeds} "
        f"seeds; mean up to {study.epochs} epochs\nopen: some seeds did not converge"
    )
    with saved_figure(folder, "interaction", title, size=(7, 4)) as (axes,):
        look_of = looks(results)
        for k, (remedy, result) in enumerate(results.items()):
            rows = {row["scheme"]: row for row in result.summary["table"]}
            in_order = [rows[name] for name in SCHEMES]
            epochs = np.asarray([row["epochs"] for row in in_order])
            some_lost = np.asarray([row["converged"] < row["seeds"] for row in in_order])
            # Side by side, since many lines pass through the same points.
            place = np.arange(len(SCHEMES)) + 0.04 * (k - len(results) / 2)
            look: Any = look_of[remedy] | {"markersize": 5}
            axes.plot(place, epochs, linewidth=1, label=remedy, **look)
            axes.plot(place[some_lost], epochs[some_lost], linestyle="", mfc="white", **look)
        labels = []
        for name in SCHEMES:
            size_of_kernel = f"\ng = {GAINS[name]:g}" if name in GAINS else ""
            labels.append(f"{name}{size_of_kernel}")
        axes.set_xticks(range(len(SCHEMES)), labels)
        axes.set(ylabel=f"epochs to {study.target:.0%} accuracy", ylim=(0, 1.05 * study.epochs))
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


main = make_main("remedies_rnn", __doc__, SIZES, compare)

if __name__ == "__main__":
    sys.exit(main())
