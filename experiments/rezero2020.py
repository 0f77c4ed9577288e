"""Epochs to a target for gates that start at 0: Bachlechner et al. (2020), ReZero, section 5 (claim
T3).

The question: how much sooner does a character model of 12 blocks reach its target when every branch
is gated by a scalar that starts at 0, than with the gates at 1, with normalization before each
branch, and after each addition? The paper counts iterations to 1.2 bits per byte on enwiki8: ReZero
8,800; gates at 1 14,506; pre-norm 17,765; post-norm with warm-up 13,690, without it diverged.

    python experiments/rezero2020.py                 quick: width 64 on the embedded text; minutes on 2 cores
    python experiments/rezero2020.py --size smoke    seconds: checks that all of it works
    python experiments/rezero2020.py --size paper    width 512, sequences of 512: for an accelerator

Expect at quick (on the text before 2026-11-25): to 3.2 bits per character (4 seeds, each at its own
best rate) ReZero needs 0.94 epochs, pre-norm 1.44, gates at 1 1.66, and post-norm does not arrive
in 2 at any of four rates: ReZero is 1.77 times faster than with its gates at 1 (1.50 to 2.08;
published 1.65), 1.53 times faster than pre-norm (1.31 to 1.81; published 2.02). ReZero's best rate,
0.01, is the highest of the grid.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxinit.initializers import ones
from jaxinit.reproduce import as_one, faster, finish, main_of, run_all
from jaxinit.schemes.transformer import rezero
from jaxinit.spec import Initializer as Init
from jaxinit.spec import Leaf, Override, Rule
from jaxinit.study import Study

GATE_AT_ONE = Override(rezero, {"residual_gate": ones})
STUDY = Study(
    model="transformer",
    hidden=64,
    layers=12,
    task="text",
    length=16,
    batch=16,
    schemes=("rezero",),
    baseline="rezero",
    optimizer="adam",
    clip=1.0,
    lrs=(0.0003, 0.001, 0.003, 0.01),
    seeds=4,
    tune_seeds=1,
    epochs=2,
    evaluations=8,
    target=2.8,
)


@dataclass(frozen=True)
class Size:
    """The study of ReZero, which the others change."""

    study: Study


SIZES = {
    "smoke": Size(
        replace(STUDY, hidden=8, heads=2, layers=1, batch=64, lrs=(0.003,), seeds=2, epochs=1)
    ),
    "quick": Size(STUDY),
    "paper": Size(
        replace(
            STUDY, hidden=512, heads=8, length=512, batch=64, tune_seeds=3, epochs=100, target=1.9
        )
    ),
}


def gate_at_one(leaf: Leaf) -> Rule | Init | None:
    """`rezero` with every gate at 1."""
    return GATE_AT_ONE(leaf)


def measure(size: Size, out: Path) -> int:
    of = lambda scheme, **changes: replace(
        size.study, schemes=(scheme,), baseline=scheme, **changes
    )
    studies = {
        "ReZero": of("rezero", norm="none", gate=True),
        "gates at 1": of("gate_at_one", norm="none", gate=True),
        "pre-norm": of("xavier_transformer"),
        "post-norm": of("xavier_transformer", post_norm=True),
    }
    results = run_all(studies, out, schemes={"gate_at_one": gate_at_one})
    only = {name: (result, result.study.schemes[0]) for name, result in results.items()}
    published = {
        "gates at 1": ("1.65 (14,506 / 8,800 iterations)", (1.2, 2.2)),
        "pre-norm": ("2.02 (17,765 / 8,800 iterations)", (1.2, 3.0)),
        "post-norm": ("1.56 with warm-up; without it diverged", (1.2, np.inf)),
    }
    claims = [
        faster(
            "T3",
            f"ReZero: times fewer epochs than {name}",
            only["ReZero"],
            only[name],
            *published[name],
        )
        for name in published
    ]
    title = (
        f"ReZero: epochs to {size.study.target:g} bits per character, {size.study.layers} blocks"
    )
    rows = as_one(results, f"{size.study.layers} blocks", "post-norm")
    return finish(out, rows, claims, studies, title)


main = main_of("rezero2020", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
