"""New tokens in a trained model: rows of zeros, Gaussian rows, the mean of the old ones (claims B2,
B8, vocab_extension.B9).

The questions: how far does an initialization of the new rows move the predictions before the first
step, against the bound log(1 + n/V) that the mean has (B2: Hewitt, 2021); what becomes of it where
all old logits are shifted, which changes no function; and how many epochs does a model need that is
trained on characters here, and then reads the most frequent pairs of characters as new tokens (B8)?

    python experiments/vocab_extension.py                 quick: a model of width 32; minutes on 2 cores
    python experiments/vocab_extension.py --size smoke    seconds: checks that all of it works
    python experiments/vocab_extension.py --size paper    width 512, 512 new tokens: for an accelerator

Rows by the mean with a hundred-thousandth of the covariance are looked at before the first step
only. All seeds of the study begin at one trained model with one draw of the new rows: they differ
in the tenth of the text that validates, most of which that model has read as characters, and in the
order of the rest. Rates are searched for on a ladder; the target is the task's, 0.6 of the bits
that frequencies alone give. Size paper adds more models, and 512 tokens.

Expect at quick (2026-11-29, 122 s on 2 cores; all claims and intervals: docs/results.md):
- B2: n = 1, mean, logits as trained: KL before the first step over log(1 + n/V) = 0.015 nats:
  0.0129 (0.0111 to 0.0146); at least 0: holds; at most 1: holds.
- B2: n = 1, zero, logits shifted by -10: KL before the first step over log(1 + n/V) = 0.015 nats:
  136 (131 to 142); at least 1.05: holds.
- B2: n = 1, normal, logits shifted by -10: KL before the first step over log(1 + n/V) = 0.015 nats:
  136 (124 to 147); at least 1.05: holds.
- B2: n = 1, mean, logits shifted by -10: KL before the first step over log(1 + n/V) = 0.015 nats:
  0.0129 (0.0111 to 0.0146); at least 0: holds; at most 1: holds.
- B2: n = 8, mean, logits as trained: KL before the first step over log(1 + n/V) = 0.114 nats:
  0.0135 (0.0116 to 0.0153); at least 0: holds; at most 1: holds.
- B2: n = 8, zero, logits shifted by -10: KL before the first step over log(1 + n/V) = 0.114 nats:
  34 (33.1 to 34.9); at least 1.05: holds.
- B2: n = 8, normal, logits shifted by -10: KL before the first step over log(1 + n/V) = 0.114 nats:
  34 (33 to 34.9); at least 1.05: holds.
- B2: n = 8, mean, logits shifted by -10: KL before the first step over log(1 + n/V) = 0.114 nats:
  0.0135 (0.0116 to 0.0153); at least 0: holds; at most 1: holds.
- and 11 more claims.
"""

import math
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, make_claim
from jaxinit.analysis.figure import lines, saved_figure, tick_at
from jaxinit.reproduce import (
    Results,
    faster,
    finish,
    make_main,
    run_all,
    seeds_of_run,
    smoke,
    train_first,
)
from jaxinit.study import Study

if TYPE_CHECKING:
    from jaxinit.finetune.trained import Trained

WAYS = ("zero", "normal", "mean", "mean_cov")
# Those that are trained: rows of mean_cov are those of the mean but for a hundred-thousandth of the
# covariance of the old ones.
LEARNED = ("zero", "normal", "mean")
# By what all old logits are shifted, which changes no function.
LOGITS = {0.0: "logits as trained", -10.0: "logits shifted by -10"}
TRAINED = Study(
    model="transformer",
    hidden=32,
    layers=2,
    task="text",
    length=32,
    schemes=("xavier_transformer",),
    baseline="xavier_transformer",
    optimizer="adam",
    lrs=(0.003,),
    epochs=12,
    evaluations=2,
)


STUDY = replace(
    TRAINED,
    task="pairs",
    schemes=LEARNED,
    baseline="normal",
    search="ladder",
    lrs=(),
    seeds=5,
    epochs=4,
    evaluations=6,
)


@dataclass(frozen=True)
class Size:
    """What is trained, and how many such models; the numbers of new tokens looked at, how many are
    then learned, and the study of that."""

    trained: Study
    models: int
    counts: tuple[int, ...]
    learned: int
    study: Study


SIZES = {
    "smoke": Size(smoke(TRAINED, layers=1), 2, (1, 8), 8, smoke(STUDY, layers=1)),
    "quick": Size(TRAINED, 4, (1, 8, 64), 64, STUDY),
    "paper": Size(
        replace(TRAINED, hidden=512, layers=8, epochs=100),
        10,
        (1, 8, 64, 512),
        512,
        replace(STUDY, hidden=512, layers=8, seeds=8, epochs=20),
    ),
}


def measure(size: Size, out: Path) -> int:
    from jaxinit import finetune

    models = []
    for number in range(size.models):
        study = replace(size.trained, first_seed=number)
        models.append(train_first(study, out / f"model_{number}"))
    kl = {count: divergences(models, count) for count in size.counts}
    trained = models[0]
    draw(size, kl, trained.resolved.task.out_features, out / "figures")
    extended = extensions(trained, size.learned)
    reports = step_zero(size, trained, extended)
    schemes = {}
    for way in size.study.schemes:
        values = extended[way]
        # All parameters have values, so nothing is left for the second scheme to draw.
        schemes[way] = finetune.pretrained(values, finetune.lora_kaiming)
    new = replace(size.study, schemes=("xavier_transformer",), baseline="xavier_transformer")
    studies = {"extended": size.study, "a new model": new}
    tasks = {"pairs": pairs(size.learned)}
    results = run_all(studies, out, schemes=schemes, tasks=tasks)
    claims = on_divergences(size, trained, kl) + on_step_zero(size, reports) + on_training(results)
    target = results["extended"].records.attrs["target"]
    title = f"{size.learned} new tokens: epochs to {target:g} bits per token"
    return finish(out, studies, results, claims, title, step_zero=reports, kl=kl)


def divergences(models: list["Trained"], count: int) -> dict[str, list[float]]:
    """KL(before || after) on validation windows, for logits as trained and shifted: `{way and
    logits: [model]}`."""
    import jax
    import jax.numpy as jnp

    from jaxinit import finetune

    model = models[0].resolved.model
    before = jax.jit(model.apply)
    after = jax.jit(wider(models[0], count).apply)
    kl: dict[str, list[float]] = {}
    for trained, seed in zip(models, seeds_of_run(len(models)), strict=True):
        x = trained.resolved.task.data["valid_x"][:64]
        for shift, logits in LOGITS.items():
            bias = trained.values["readout.bias"] + jnp.float32(shift)
            values = trained.values | {"readout.bias": bias}
            old = before(values, x)
            for way in WAYS:
                key = jax.random.key(seed)
                params = finetune.extend_vocabulary(values, model.leaves, count, way, key)
                moved = float(finetune.divergence(old, after(params, x)))
                kl.setdefault(f"{way}, {logits}", []).append(moved)
    return kl


def on_divergences(
    size: Size, trained: "Trained", kl: dict[int, dict[str, list[float]]]
) -> list[Claim]:
    """B2: the divergence before the first step, over the bound that the mean has."""
    old = trained.resolved.task.out_features
    note = f"{size.models} trained models, new rows drawn once for each; V = {old}"
    claims = []
    for count, by_way in kl.items():
        bound = math.log(1 + count / old)
        for name, values in by_way.items():
            way, _, logits = name.partition(", ")  # as `divergences` joins them
            if way == "mean":
                published, band = "at most 1", (0.0, 1.0)
            elif way != "mean_cov" and logits != LOGITS[0.0]:
                published = "the new tokens take most of the probability"
                band = at_least(1.05)
            else:
                continue  # nothing was said of these
            statement = (
                f"n = {count}, {name}: KL before the first step over log(1 + n/V) = {bound:.3g} "
                "nats"
            )
            claims.append(
                make_claim("B2", statement, np.asarray(values) / bound, published, band, note)
            )
    return claims


def extensions(trained: "Trained", count: int) -> dict[str, Any]:
    """The trained values with `count` new rows, by the way in which these are drawn."""
    import jax

    from jaxinit import finetune

    leaves, key = trained.resolved.model.leaves, jax.random.key(seeds_of_run(1).start)
    extended = {}
    for way in WAYS:
        extended[way] = finetune.extend_vocabulary(trained.values, leaves, count, way, key)
    return extended


def wider(trained: "Trained", count: int) -> Any:
    """The model of the trained one with `count` more tokens."""
    from flax import nnx

    from jaxinit.introspect import functional
    from jaxinit.models import Transformer

    study, tokens = trained.resolved.study, trained.resolved.task.out_features + count
    options: Any = {"layers": study.layers, "readout": "all", "length": study.length}
    return functional(
        lambda: Transformer(tokens, study.hidden, tokens, rngs=nnx.Rngs(0), **options)
    )


def step_zero(
    size: Size, trained: "Trained", extended: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """What the new rows do to the old logits, and the gradients that they get, before the first
    step."""
    import jax.numpy as jnp

    from jaxinit import finetune

    task, model = trained.resolved.task, wider(trained, size.learned)
    old = task.out_features
    data = pairs(size.learned)(size.study.length).data
    x, y = data["valid_x"][:64], data["valid_y"][:64]
    readable = jnp.where(x < old, x, 0)  # contexts that the trained model can read
    before = trained.resolved.model.apply(trained.values, readable)
    new = ("embedding", "readout.bias")
    reports = {}
    for way, values in extended.items():

        def report(x: Any, parts: tuple[str, ...], rows: Any = None, values: Any = values) -> Any:
            batch = x, y
            return finetune.step_zero(before, model.apply, values, batch, task.loss, parts, rows)

        # Old logits where no new token is read, and gradients where they are.
        silent = report(readable, ("embedding",))
        gradient = report(x, new, slice(old, None)).gradient
        reports[way] = {"shift": silent.shift, "kl": silent.kl, "gradient": gradient}
        print(
            f"step 0, {way}: {silent.shift:.2g} of the old logits, KL {silent.kl:.3g}; into new "
            f"rows {gradient}"
        )
    return reports


def on_step_zero(size: Size, reports: dict[str, dict[str, Any]]) -> list[Claim]:
    """vocab_extension.B9: no old logit moves before the first step."""
    note = f"{size.learned} new tokens"
    claims = []
    for way, report in reports.items():
        statement = f"{way}: shift of the old logits at step 0, over their spread"
        # No seed has a say in it: old rows stay as they are.
        band, shift = (0.0, 1e-5), report["shift"]
        claim = make_claim("vocab_extension.B9", statement, shift, "0", band, note, exact=True)
        claims.append(claim)
    return claims


def on_training(results: Results) -> list[Claim]:
    """B8: epochs to the target by the way in which the new rows are drawn."""
    extended = results["extended"]
    anew = results["a new model"], "xavier_transformer"
    claims = []
    ways = ("mean", "zero")
    for way in ways:
        statement = f"times fewer epochs, {way} against N(0, 0.02^2)"
        pair = (extended, way), (extended, "normal")
        band, family = at_least(1.05), len(ways)
        claims.append(faster("B8", statement, *pair, "no number", band, family=family))
    statement = "times fewer epochs, mean against a new model"
    pair = (extended, "mean"), anew
    claims.append(faster("B8", statement, *pair, "no number", at_least(1.05)))
    return claims


def pairs(count: int) -> Any:
    """The embedded text with its `count` most frequent pairs of characters as tokens, numbered
    after the old ones."""
    from jaxinit.tasks.text import bits, encode, next_token, read

    def make(length: int = 32) -> Any:
        content = read(None)
        vocabulary = sorted(set(content))
        pairs_of_text = map("".join, pairwise(content))
        numbers_of_pairs = {}
        for pair, _ in Counter(pairs_of_text).most_common(count):
            numbers_of_pairs[pair] = len(vocabulary) + len(numbers_of_pairs)
        characters = encode(content, vocabulary)
        tokens, k = [], 0
        while k < len(content):  # from left to right, a pair wherever there is one
            pair = content[k : k + 2]
            if pair in numbers_of_pairs:
                tokens.append(numbers_of_pairs[pair])
                k += 2
            else:
                tokens.append(characters[k])
                k += 1
        numbers = np.asarray(tokens, np.int32)
        return next_token(
            "pairs", numbers, len(vocabulary) + count, length, bits, "validation bits per token"
        )

    return make


def draw(size: Size, kl: dict[int, dict[str, list[float]]], old: int, folder: Path) -> None:
    """The divergence before the first step against the number of new tokens, with the bound."""
    counts = list(kl)
    bound = [math.log(1 + count / old) for count in counts]
    title = (
        f"Character model of V = {old} tokens, before the first step, mean of {size.models} models"
    )
    with saved_figure(folder, "divergence", title, size=(8, 3.4), columns=2, sharey=True) as panels:
        for axes, logits in zip(panels, LOGITS.values(), strict=True):
            means = {}
            for way in WAYS:
                by_count = [kl[count][f"{way}, {logits}"] for count in counts]
                means[way] = np.mean(by_count, axis=1)
            lines(axes, counts, means)
            axes.plot(counts, bound, color="0.2", ls=":", lw=1, label="log(1 + n/V)")
            axes.set(xscale="log", yscale="log", xlabel="new tokens n", title=logits)
            tick_at(axes, counts)
        panels[0].set_ylabel("KL(before || after), nats")
        panels[0].legend(frameon=False, fontsize=7)


main = make_main("vocab_extension", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
