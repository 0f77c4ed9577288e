"""Which initializations train a deep Transformer without warm-up (claim T2)?

The question: Transformers normalized after the addition (post-norm) are said to need warm-up, or an
initialization that scales with depth. How many epochs do deep stacks of blocks on characters need
to a target, at each remedy's own best learning rate: DeepNorm (a larger stream, smaller branches),
Admin (stream scaled by a profile), ReZero (gates from 0, no normalization), normalization before
each branch (pre-norm), and none? Kernels have no biases, and feed-forward branches are twice as
wide as the stream, to save time.

    python experiments/deep_transformers.py                 quick: 16 blocks of width 32; minutes on 2 cores
    python experiments/deep_transformers.py --size smoke    seconds: checks that all of it works
    python experiments/deep_transformers.py --size paper    48 blocks of width 256, more epochs: for an accelerator

Departures at quick: 16 narrow blocks, sequences of 16, epochs of 12,288 characters, and a target of
3.6 bits per character, early in training: which remedy begins to learn, and how soon, not how well
it ends. ReZero is there within the first epoch, the shortest time that is counted, so that its lead
is at least what is measured. What a remedy gains over the frequencies is counted up to the target,
where a trial stops. Size paper has 48 blocks, wider ones, and trains for longer.

Expect at quick (2026-11-29, 189 s on 2 cores; all claims and intervals: docs/results.md):
- T2: pre-norm: times fewer epochs than plain post-norm, 16 blocks, no warm-up: at least 2.06; at
  least 1.05: holds.
- T2: DeepNorm: times fewer epochs than plain post-norm, 16 blocks, no warm-up: at least 3.71; at
  least 1.05: holds.
- T2: Admin: times fewer epochs than plain post-norm, 16 blocks, no warm-up: at least 1.89; at least
  1.05: open.
- T2: ReZero: times fewer epochs than plain post-norm, 16 blocks, no warm-up: at least 6.21; at
  least 1.05: holds.
- T2: post-norm: bits per character better than knowing the frequencies only, at its best rate:
  -0.0131 (-0.0373 to 0.0112); at most 0.5: holds.
- T2: pre-norm: bits per character better than knowing the frequencies only, at its best rate: 0.863
  (0.81 to 0.917); at least 0.5: holds.
- T2: DeepNorm: bits per character better than knowing the frequencies only, at its best rate: 0.91
  (0.843 to 0.976); at least 0.5: holds.
- T2: Admin: bits per character better than knowing the frequencies only, at its best rate: 0.879
  (0.814 to 0.945); at least 0.5: holds.
- and 1 more claims.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from jaxinit.analysis.claims import at_least, at_most, make_claim
from jaxinit.models import Transformer
from jaxinit.reproduce import (
    alone,
    as_one,
    best,
    faster,
    finish,
    make_main,
    run_all,
    short_text,
    smoke,
)
from jaxinit.study import Study

PLAIN = "post-norm"
STUDY = Study(
    model="transformer",
    hidden=32,
    layers=16,
    task="short_text",
    batch=16,
    schemes=("xavier_transformer",),
    baseline="xavier_transformer",
    optimizer="adam",
    clip=1.0,
    seeds=5,
    epochs=10,
    evaluations=2,
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
        evaluations=6,
        target=3.4,
    ),
}


def remedies(study: Study) -> dict[str, Study]:
    """The studies: what each remedy changes in the plain post-norm Transformer."""

    # DeepNorm's alpha for a decoder of N blocks, (2 N)^(1/4); the scheme draws with its beta.
    deep = (2 * study.layers) ** 0.25
    return {
        PLAIN: alone(study, "xavier_transformer", post_norm=True),
        "pre-norm": alone(study, "xavier_transformer"),
        "DeepNorm": alone(study, "deepnorm", post_norm=True, skip_scale=deep),
        "Admin": alone(study, "xavier_transformer+admin", post_norm=True, learned_skip=True),
        "ReZero": alone(study, "rezero", norm="none", gate=True),
    }


def measure(study: Study, out: Path) -> int:
    studies = remedies(study)
    # Without biases and with narrow branches it trains in less time, and is as deep.
    models = {"transformer": partial(Transformer, bias=False, ffn=2)}
    results = run_all(studies, out, tasks={"short_text": short_text}, models=models)
    sides = {name: (result, result.study.schemes[0]) for name, result in results.items()}
    claims = []
    helped = [name for name in studies if name != PLAIN]
    for name in helped:
        statement = (
            f"{name}: times fewer epochs than plain post-norm, {study.layers} blocks, no warm-up"
        )
        published = "plain post-norm fails or is the slowest"
        pair = sides[name], sides[PLAIN]
        band = at_least(1.05)
        claims.append(faster("T2", statement, *pair, published, band, family=len(helped)))
    # Here the chance level is the entropy of the characters' frequencies.
    chance = results[PLAIN].records.attrs["chance"]
    for name in studies:
        statement = (
            f"{name}: bits per character better than knowing the frequencies only, at its best rate"
        )
        gain = chance - best(*sides[name])
        published, band = "trains", at_least(0.5)
        if name == PLAIN:
            published, band = "does not train", at_most(0.5)
        note = f"the best of what a trial reached until it stopped; chance is {chance:.3g} bits"
        claims.append(make_claim("T2", statement, gain, published, band, note))
    title = f"{study.layers} blocks without warm-up: epochs to {study.target:g} bits per character"
    rows = as_one(results, f"{study.layers} blocks", PLAIN)
    return finish(out, studies, results, claims, title, rows=rows)


main = make_main("deep_transformers", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
