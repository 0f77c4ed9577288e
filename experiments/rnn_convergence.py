"""Epochs to convergence of a vanilla RNN on handwritten digits, for each initialization scheme.

The question: does Xavier cut the epochs needed "by 2 to 10 times" (claim A10), against which start, and how sure
is that? Vanilla tanh RNN, digits row by row, SGD, each scheme at the best of five rates over two decades.

    python experiments/rnn_convergence.py                  quick: 128 units, 9 schemes, 207 trials; 70 s on 2 cores
    python experiments/rnn_convergence.py --size smoke     3 schemes, 16 units, seconds: checks that all of it works
    python experiments/rnn_convergence.py --size paper     512 units, 9 rates, 35 seeds, 100 epochs: for an accelerator

Expect at quick: Glorot, He, LeCun, orthogonal and Xavier within seed noise of each other at 2.3 to 2.5 epochs,
identity and the small normal at about 10, U[0, 1] never; Xavier 4.4 times (3.8 to 5.1) faster than the small normal.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from jaxinit.cli import carry_out, exit_code
from jaxinit.study import Study

QUICK = Study(
    model="rnn",
    hidden=128,
    activation="tanh",
    task="digits_rows",
    schemes=(
        "uniform01",
        "small_normal",
        "xavier_rnn",
        "glorot_uniform",
        "glorot_normal",
        "he_normal",
        "lecun_normal",
        "orthogonal",
        "identity",
    ),
    lrs=(0.01, 0.03, 0.1, 0.3, 1.0),
    optimizer="sgd",
    seeds=8,
    tune_seeds=3,
    epochs=20,
    baseline="small_normal",
)
SIZES = {
    "smoke": replace(
        QUICK,
        hidden=16,
        schemes=("small_normal", "xavier_rnn", "orthogonal"),
        lrs=(0.1, 0.3),
        seeds=2,
        tune_seeds=1,
        epochs=2,
        target=0.5,
    ),
    "quick": QUICK,
    "paper": replace(
        QUICK,
        hidden=512,
        lrs=(0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0),
        seeds=30,
        tune_seeds=5,
        epochs=100,
    ),
}


@dataclass(frozen=True)
class RnnConvergence:
    """Epochs to convergence of a vanilla RNN on handwritten digits, for each initialization scheme."""

    size: Literal["smoke", "quick", "paper"] = "quick"
    """smoke: seconds; quick: the main job, a minute on two cores; paper: for an accelerator."""
    out: Path | None = None
    """Folder of the results. Default: results/rnn_convergence-<size>."""


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; the exit code is that of `jaxinit run`."""
    settings = tyro.cli(RnnConvergence, args=argv)
    out = settings.out or Path("results") / f"rnn_convergence-{settings.size}"
    return exit_code(lambda: carry_out(SIZES[settings.size], out))


if __name__ == "__main__":
    sys.exit(main())
