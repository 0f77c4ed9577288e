"""Which remedy helps a recurrent network against vanishing gradients, and which against exploding
ones?

Every remedy under every start of a vanilla RNN whose recurrent matrix is N(0, g^2/n), by the size
of g: 0.5 (vanishing), 1 (Xavier), 3 (exploding), and an orthogonal one. Claims A9, C4, C5, C6.

    python experiments/remedies_rnn.py                 quick: 32 units, digits by pixels (64 steps); minutes on 2 cores
    python experiments/remedies_rnn.py --size smoke    seconds: checks that all of it works
    python experiments/remedies_rnn.py --size paper    128 units, 10 seeds, longer: for an accelerator

A remedy is a setting of the same study, each start at its own best rate; a lower rate is a remedy
by itself, read off the curve of rates.

Expect at quick: a vanishing start never arrives and is rescued by LSTM, GRU, layer normalization
and, since they allow a higher rate, clipping by norm and by value (6 to 9 epochs); an exploding one
is rescued by the GRU (5 epochs), mostly by the LSTM, and neither by clipping nor by L2. Xavier and
orthogonal starts need 4 epochs, clipped 2 to 3.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.initializers import glorot_scheme, normal, orthogonal
from jaxinit.reproduce import Results, faster, finish, lower_rate, main_of, rows_of, run_all
from jaxinit.spec import Initializer, Leaf
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
AGAINST = {  # what is claimed to help against what
    "C4": ("vanishing", ("relu", "lstm", "gru", "layer norm")),
    "C5": ("exploding", ("clip by norm 1", "clip by value 0.01", "L2 0.001")),
    "C6": ("exploding", ("lstm", "gru", "layer norm")),
}


def start(gain: float) -> Any:
    """N(0, gain^2/n) recurrent, Glorot elsewhere, zero biases."""

    def scheme(leaf: Leaf) -> Initializer:
        return normal(gain / leaf.fan_in**0.5) if leaf.role == "recurrent" else glorot_scheme(leaf)

    return scheme


def orthogonal_start(leaf: Leaf) -> Initializer:
    """Orthogonal recurrent, Glorot elsewhere, zero biases."""
    return orthogonal() if leaf.role == "recurrent" else glorot_scheme(leaf)


STARTS = {name: start(gain) for name, gain in GAINS.items()} | {"orthogonal": orthogonal_start}
BASE = Study(
    model="rnn",
    hidden=32,
    activation="tanh",
    task="digits_pixels",
    schemes=tuple(STARTS),
    baseline="vanishing",
    lrs=(0.01, 0.03, 0.1, 0.3, 1.0),
    seeds=4,
    tune_seeds=1,
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
    "smoke": Size(
        replace(BASE, hidden=8, lrs=(0.1, 1.0), seeds=2, epochs=1, target=0.2),
        ("none", "gru", "clip by norm 1"),
    ),
    "quick": Size(BASE),
    "paper": Size(
        replace(BASE, hidden=128, lrs=(0.003, *BASE.lrs), seeds=10, tune_seeds=3, epochs=200)
    ),
}


def compare(size: Size, out: Path) -> int:
    studies = {remedy: replace(size.study, **REMEDIES[remedy]) for remedy in size.remedies}
    results = run_all(studies, out, schemes=STARTS)
    plain = results["none"]
    ahead = (1.05, np.inf)
    claims = [
        faster(
            "A9",
            "times fewer epochs, Xavier against vanishing",
            (plain, "xavier"),
            (plain, "vanishing"),
            "softens it",
            ahead,
        ),
        faster(
            "C4",
            "times fewer epochs, orthogonal against vanishing",
            (plain, "orthogonal"),
            (plain, "vanishing"),
            "helps",
            ahead,
        ),
        faster(
            "C5",
            "times fewer epochs, Xavier against exploding",
            (plain, "xavier"),
            (plain, "exploding"),
            "helps",
            ahead,
        ),
    ]
    for name, (case, remedies) in AGAINST.items():
        for remedy in remedies:
            if remedy in results:
                what = f"times fewer epochs, {remedy} on the {case} start"
                claims.append(
                    faster(name, what, (results[remedy], case), (plain, case), "helps", ahead)
                )
    claims.append(lower_rate(plain, "exploding", f"{size.study.hidden} units"))
    draw(size, results, out / "figures")
    return finish(out, rows_of(results), claims, studies, "Remedies: epochs to target by start")


def draw(size: Size, results: Results, folder: Path) -> None:
    """The interaction: epochs to the target against the start, a line for each remedy."""
    import matplotlib.pyplot as plt

    from jaxinit.analysis.figure import save, style
    from jaxinit.analysis.signal_figures import MARKS

    with style():
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for k, (remedy, result) in enumerate(results.items()):
            rows = {row["scheme"]: row for row in result.summary["table"]}
            epochs = [rows[name]["epochs"] for name in STARTS]
            whole = [rows[name]["converged"] == rows[name]["seeds"] for name in STARTS]
            grey = str(0.65 * k / max(len(results) - 1, 1))
            place = np.arange(len(STARTS)) + 0.04 * (k - len(results) / 2)
            axes.plot(
                place,
                epochs,
                color=grey,
                linewidth=1,
                marker=MARKS[k % len(MARKS)],
                markersize=5,
                label=remedy,
            )
            lost = [x for x, arrived in zip(place, whole, strict=True) if not arrived]
            below = [e for e, arrived in zip(epochs, whole, strict=True) if not arrived]
            axes.plot(
                lost,
                below,
                marker=MARKS[k % len(MARKS)],
                markersize=5,
                mfc="white",
                color=grey,
                linestyle="",
            )
        labels = [f"{name}\ng = {GAINS[name]:g}" if name in GAINS else name for name in STARTS]
        axes.set_xticks(range(len(STARTS)), labels)
        study = size.study
        axes.set(ylabel=f"epochs to {study.target:.0%} accuracy", ylim=(0, 1.05 * study.epochs))
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle(
            f"{study.hidden} units, {study.task}, SGD, each at its best rate, n = {study.seeds} "
            f"seeds; mean up to {study.epochs} epochs\nopen: some seeds did not arrive",
            fontsize=8,
            x=0.01,
            ha="left",
        )
        save(figure, folder, "interaction")


main = main_of("remedies_rnn", __doc__, SIZES, compare)

if __name__ == "__main__":
    sys.exit(main())
