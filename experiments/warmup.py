"""Does an initialization replace warm-up in deep Transformers (claim D5)?

The question: T-Fixup, Admin and ReZero are said to make warm-up unnecessary, and normalization
before each branch (pre-norm) to need none, where a Transformer that is normalized after the
addition (post-norm) does. How many epochs does each need to a target without warm-up and with it,
at its own best learning rate? Three statements: post-norm gains by warm-up; a remedy without it is
no slower than post-norm with it; a remedy itself gains nothing by it.

    python experiments/warmup.py                 quick: 12 blocks of width 32; minutes on 2 cores
    python experiments/warmup.py --size smoke    seconds: checks that all of it works
    python experiments/warmup.py --size paper    48 blocks of width 256, more epochs: for an accelerator

Departures at quick: 12 narrow blocks without biases, sequences of 16, epochs of 12,288 characters,
a target of 3.6 bits per character, early in training, and Adam with a constant rate after a warm-up
over a tenth of the budget, as long as an epoch. A warm-up of n steps costs about n / 2 of them where
it helps nothing, which counts as time. T-Fixup and ReZero have no normalization, as published.

Expect at quick (2026-11-29, 361 s on 2 cores; all claims and intervals: docs/results.md):
- D5: post-norm, 12 blocks: times fewer epochs with warm-up than without: no estimate; at least
  1.05: open.
- D5: pre-norm, 12 blocks: times fewer epochs with warm-up than without: 0.965 (0.883 to 1.05); at
  most 1.05: open.
- D5: pre-norm without warm-up: times fewer epochs than post-norm with it: at least 2.22; at least
  1: holds.
- D5: T-Fixup, 12 blocks: times fewer epochs with warm-up than without: 0.8 (0.674 to 0.914); at
  most 1.05: open.
- D5: T-Fixup without warm-up: times fewer epochs than post-norm with it: at least 3.81; at least 1:
  holds.
- D5: Admin, 12 blocks: times fewer epochs with warm-up than without: 0.95 (0.858 to 1.05); at most
  1.05: open.
- D5: Admin without warm-up: times fewer epochs than post-norm with it: at least 2.14; at least 1:
  open.
- D5: ReZero, 12 blocks: times fewer epochs with warm-up than without: 0.756 (0.625 to 0.816); at
  most 1.05: holds.
- and 1 more claims.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from jaxinit.analysis.claims import at_least, at_most
from jaxinit.models import Transformer
from jaxinit.reproduce import alone, as_one, faster, finish, make_main, run_all, short_text, smoke
from jaxinit.study import Study

PLAIN = "post-norm"
WARM = 0.1  # share of the budget
STUDY = Study(
    model="transformer",
    hidden=32,
    layers=12,
    task="short_text",
    batch=16,
    schemes=("xavier_transformer",),
    baseline="xavier_transformer",
    optimizer="adam",
    clip=1.0,
    seeds=5,
    epochs=10,
    evaluations=4,
    target=3.6,
)
SIZES = {
    "smoke": smoke(STUDY, layers=1),
    "quick": STUDY,
    "paper": replace(
        STUDY,
        hidden=256,
        layers=48,
        task="text",
        length=128,
        batch=64,
        epochs=20,
        target=3.4,
    ),
}


def remedies(study: Study) -> dict[str, Study]:
    """The studies without warm-up: what each remedy changes in the post-norm Transformer."""

    return {
        PLAIN: alone(study, "xavier_transformer", post_norm=True),
        "pre-norm": alone(study, "xavier_transformer"),
        "T-Fixup": alone(study, "t_fixup", norm="none"),
        "Admin": alone(study, "xavier_transformer+admin", post_norm=True, learned_skip=True),
        "ReZero": alone(study, "rezero", norm="none", gate=True),
    }


def with_warmup(name: str) -> str:
    return f"{name}, warm-up"


def measure(study: Study, out: Path) -> int:
    without = remedies(study)
    studies = dict(without)
    for name, cold in without.items():
        studies[with_warmup(name)] = replace(cold, warmup=WARM)
    # Without biases and with narrow branches it trains in less time, and is as deep.
    models = {"transformer": partial(Transformer, bias=False, ffn=2)}
    results = run_all(studies, out, tasks={"short_text": short_text}, models=models)
    sides = {name: (result, result.study.schemes[0]) for name, result in results.items()}
    family = 2 * len(without) - 1
    claims = []
    for name in without:
        cold, warm = sides[name], sides[with_warmup(name)]
        published, band = "gains nothing by warm-up", at_most(1.05)
        if name == PLAIN:
            published, band = "needs warm-up", at_least(1.05)
        statement = f"{name}, {study.layers} blocks: times fewer epochs with warm-up than without"
        claims.append(faster("D5", statement, warm, cold, published, band, family=family))
        if name == PLAIN:
            continue
        statement = f"{name} without warm-up: times fewer epochs than post-norm with it"
        published, against = "no slower", sides[with_warmup(PLAIN)]
        claims.append(
            faster("D5", statement, cold, against, published, at_least(1.0), family=family)
        )
    title = f"{study.layers} blocks, with and without warm-up: epochs to {study.target:g} bits"
    rows = as_one(results, f"{study.layers} blocks", PLAIN)
    return finish(out, studies, results, claims, title, rows=rows)


main = make_main("warmup", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
