"""Which starts train a deep Transformer without warm-up (claim T2)?

The question: Transformers normalized after the addition (post-norm) are said to need warm-up, or a
start that scales with depth. How many epochs do 24 blocks on characters need to a target, at each
remedy's own best learning rate: DeepNorm (a larger stream, smaller branches), Admin (stream scaled
by a profile), ReZero (gates from 0, no normalization), normalization before each branch (pre-norm),
and none? Kernels have no biases, and feed-forward branches are twice as wide as the stream, to save
time.

    python experiments/deep_transformers.py                 quick: 24 blocks of width 64; minutes on 2 cores
    python experiments/deep_transformers.py --size smoke    seconds: checks that all of it works
    python experiments/deep_transformers.py --size paper    48 blocks of width 256, more epochs: for an accelerator

Expect at quick (on the text before 2026-11-25): to 3.6 bits per character (3 seeds, each at its own
best rate) DeepNorm needs 0.39 epochs, ReZero 0.44, pre-norm 0.78, Admin 0.89, and plain post-norm
does not arrive in 1: it ends 0.12 bits (-0.23 to 0.48) below what the frequencies alone give, where
the others gain 1.08 to 1.18. DeepNorm is at least 2.6 times faster (2.0 to 3.0), ReZero 2.3 (2.0 to
3.0), pre-norm 1.3 (1.2 to 1.5); Admin's lead, at least 1.1 times (1.0 to 1.2), is too small to tell
in one epoch, though it trains.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from jaxinit.analysis.claims import make_claim
from jaxinit.models import Transformer
from jaxinit.reproduce import as_one, best, faster, finish, main_of, run_all
from jaxinit.study import Study

PLAIN = "post-norm"
STUDY = Study(
    model="transformer",
    hidden=64,
    layers=24,
    task="text",
    length=16,
    batch=16,
    schemes=("xavier_transformer",),
    baseline="xavier_transformer",
    optimizer="adam",
    clip=1.0,
    lrs=(0.0003, 0.001, 0.003),
    seeds=3,
    tune_seeds=1,
    epochs=1,
    evaluations=6,
    target=3.4,
)


@dataclass(frozen=True)
class Size:
    """The study that every remedy changes."""

    study: Study


SIZES = {
    "smoke": Size(replace(STUDY, hidden=8, heads=2, layers=1, batch=64, lrs=(0.003,), seeds=2)),
    "quick": Size(STUDY),
    "paper": Size(
        replace(
            STUDY, hidden=256, layers=48, length=128, batch=64, seeds=5, tune_seeds=3, epochs=20
        )
    ),
}


def remedies(study: Study) -> dict[str, Study]:
    """The studies: what each remedy changes in the plain post-norm Transformer."""
    of = lambda scheme, **changes: replace(study, schemes=(scheme,), baseline=scheme, **changes)
    return {
        PLAIN: of("xavier_transformer", post_norm=True),
        "pre-norm": of("xavier_transformer"),
        "DeepNorm": of("deepnorm", post_norm=True, skip_scale=(2 * study.layers) ** 0.25),
        "Admin": of("xavier_transformer+admin", post_norm=True, learned_skip=True),
        "ReZero": of("rezero", norm="none", gate=True),
    }


def measure(size: Size, out: Path) -> int:
    studies = remedies(size.study)
    results = run_all(studies, out, models={"transformer": partial(Transformer, bias=False, ffn=2)})
    only = {name: (result, result.study.schemes[0]) for name, result in results.items()}
    claims = [
        faster(
            "T2",
            f"{name}: times fewer epochs than plain post-norm, {size.study.layers} blocks, no "
            "warm-up",
            only[name],
            only[PLAIN],
            "plain post-norm fails or is the slowest",
            (1.05, np.inf),
        )
        for name in studies
        if name != PLAIN
    ]
    chance = results[PLAIN].records.attrs["chance"]
    for name in studies:
        reached = chance - best(*only[name])
        what = (
            f"{name}: bits per character better than knowing the frequencies only, at its best rate"
        )
        band = (-np.inf, 0.5) if name == PLAIN else (0.5, np.inf)
        published = "does not train" if name == PLAIN else "trains"
        claims.append(
            make_claim("T2", what, reached, published, band, f"chance is {chance:.3g} bits")
        )
    title = (
        f"{size.study.layers} blocks without warm-up: epochs to {size.study.target:g} bits per "
        "character"
    )
    rows = as_one(results, f"{size.study.layers} blocks", PLAIN)
    return finish(out, rows, claims, studies, title)


main = main_of("deep_transformers", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
