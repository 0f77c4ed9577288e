"""New tokens in a trained model: rows of zeros, Gaussian rows, the mean of the old ones (claims B2,
B8, B9).

The questions: how far does a start of the new rows move the predictions before the first step,
against the bound log(1 + n/V) that the mean has (B2: Hewitt, 2021); what becomes of it where all
old logits are shifted, which changes no function; and how many epochs does a model need that is
trained on characters here, and then reads the most frequent pairs of characters as new tokens (B8)?

    python experiments/vocab_extension.py                 quick: a model of width 64; minutes on 2 cores
    python experiments/vocab_extension.py --size smoke    seconds: checks that all of it works
    python experiments/vocab_extension.py --size paper    width 512, 512 new tokens: for an accelerator

Expect at quick (on the text before 2026-11-25): by the mean, KL before the first step is 0.05 to
0.06 of the bound for 1 to 64 new tokens beside 103, whatever the shift of the logits. Zeros and
N(0, 0.02^2) are below the bound too as the model was trained, and with all logits shifted by -10
they exceed it 270 times (1 token), 61 times (8) and 14 times (64). No old logit moves. Epochs to 4
bits per token with 64 pairs (8 seeds): 1.10 to 1.12 for all four starts, the mean 1.00 times (0.97
to 1.04) as fast as the Gaussian; a new model does not arrive in 3.
"""

import math
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import make_claim
from jaxinit.reproduce import faster, finish, main_of, rows_of, run_all
from jaxinit.study import Study

WAYS = ("zero", "normal", "mean", "mean_cov")
SHIFT = -10.0  # of all old logits
TRAINED = Study(
    model="transformer",
    hidden=64,
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


@dataclass(frozen=True)
class Size:
    """What is trained, the numbers of new tokens looked at, how many are then learned, and the
    study of that."""

    trained: Study
    counts: tuple[int, ...]
    learned: int
    study: Study
    seeds: int


STUDY = replace(
    TRAINED, task="pairs", schemes=WAYS, baseline="normal", lrs=(0.001, 0.003, 0.01, 0.03), seeds=8, tune_seeds=3,
    epochs=3, evaluations=13, target=4.0,
)  # fmt: skip
SIZES = {
    "smoke": Size(
        replace(TRAINED, hidden=16, layers=1, epochs=1), (1, 8), 8,
        replace(STUDY, hidden=16, layers=1, lrs=(0.01,), seeds=2, epochs=1), 2,
    ),
    "quick": Size(TRAINED, (1, 8, 64), 64, STUDY, 5),
    "paper": Size(
        replace(TRAINED, hidden=512, layers=8, epochs=100), (1, 8, 64, 512), 512,
        replace(STUDY, hidden=512, layers=8, seeds=8, epochs=20), 10,
    ),
}  # fmt: skip


def measure(size: Size, out: Path) -> int:
    import jax

    from jaxinit import finetune
    from jaxinit.engine import sweep
    from jaxinit.finetune import checkpoint

    sweep.one_device_per_core()
    sweep.keep_compilations()
    trained = finetune.pretrain(size.trained)
    checkpoint.save_checkpoint(out / "trained.safetensors", trained.values)
    print(f"trained to {trained.metric:.3g} bits per character")
    old, leaves = trained.resolved.task.out_features, trained.resolved.model.leaves
    kl = {count: divergences(size, trained, count) for count in size.counts}
    draw(size, kl, old, out / "figures")
    claims = []
    for count, of in kl.items():
        bound, note = (
            math.log(1 + count / old),
            f"{size.seeds} draws; V = {old}; mean over contexts",
        )
        for name, values in of.items():
            way, _, logits = name.partition(", ")
            if way == "mean" or (way != "mean_cov" and logits != "logits as trained"):
                band = (0.0, 1.0) if way == "mean" else (1.05, np.inf)
                what = (
                    f"n = {count}, {name}: KL before the first step over log(1 + n/V) = "
                    f"{bound:.3g} nats"
                )
                published = (
                    "at most 1" if way == "mean" else "the new tokens take most of the probability"
                )
                claims.append(make_claim("B2", what, values / bound, published, band, note))
    task = pairs(size.learned)
    extended = {
        way: finetune.extend_vocabulary(
            trained.values, leaves, size.learned, way, jax.random.key(1)
        )
        for way in WAYS
    }
    own = {
        way: finetune.pretrained(values, finetune.lora_kaiming) for way, values in extended.items()
    }
    data = task(size.study.length).data
    batch = data["valid_x"][:64], data["valid_y"][:64]
    reports = {}
    model = wider(trained, size.learned)
    past = jax.numpy.where(batch[0] < old, batch[0], 0)  # contexts that the trained model can read
    for way, values in extended.items():
        before = trained.resolved.model.apply(trained.values, past)
        silent = finetune.step_zero(
            before,
            model.apply,
            values,
            (past, batch[1]),
            trained.resolved.task.loss,
            ("embedding",),
        )
        report = finetune.step_zero(
            before,
            model.apply,
            values,
            batch,
            trained.resolved.task.loss,
            ("embedding", "readout.bias"),
            slice(old, None),
        )
        reports[way] = {"shift": silent.shift, "kl": silent.kl, "gradient": report.gradient}
        print(
            f"step 0, {way}: {silent.shift:.2g} of the old logits, KL {silent.kl:.3g}; into new "
            f"rows {report.gradient}"
        )
        what = f"{way}: shift of the old logits at step 0, over their spread"
        claims.append(
            make_claim("B9", what, silent.shift, "0", (0.0, 1e-5), f"{size.learned} new tokens")
        )
    new = replace(size.study, schemes=("xavier_transformer",), baseline="xavier_transformer")
    studies = {"extended": size.study, "a new model": new}
    results = run_all(studies, out, schemes=own, tasks={"pairs": task})
    for way in ("mean", "mean_cov", "zero"):
        pair = (results["extended"], way), (results["extended"], "normal")
        claims.append(
            faster(
                "B8",
                f"times fewer epochs, {way} against N(0, 0.02^2)",
                *pair,
                "no number",
                (1.05, np.inf),
            )
        )
    pair = (results["extended"], "mean"), (results["a new model"], "xavier_transformer")
    claims.append(
        faster(
            "B8", "times fewer epochs, mean against a new model", *pair, "no number", (1.05, np.inf)
        )
    )
    plain = {
        count: {name: values.tolist() for name, values in of.items()} for count, of in kl.items()
    }
    title = f"{size.learned} new tokens: epochs to {size.study.target:g} bits per token"
    return finish(out, rows_of(results), claims, studies, title, step_zero=reports, kl=plain)


def wider(trained: Any, count: int) -> Any:
    """The model of the trained one with `count` more tokens."""
    from flax import nnx

    from jaxinit.introspect import functional

    study, tokens = trained.resolved.study, trained.resolved.task.out_features + count
    options = {"layers": study.layers, "readout": "all", "length": study.length}
    return functional(
        lambda: trained.resolved.make(tokens, study.hidden, tokens, rngs=nnx.Rngs(0), **options)
    )


def divergences(size: Size, trained: Any, count: int) -> dict[str, np.ndarray]:
    """KL(before || after) on validation windows, for logits as trained and shifted: `{way and
    logits: [draw]}`."""
    import jax
    import jax.numpy as jnp

    from jaxinit import finetune

    x, after = trained.resolved.task.data["valid_x"][:64], jax.jit(wider(trained, count).apply)
    found: dict[str, Any] = {}
    for shift in (0.0, SHIFT):
        values = trained.values | {
            "readout.bias": trained.values["readout.bias"] + jnp.float32(shift)
        }
        before = trained.resolved.model.apply(values, x)
        for way in WAYS:
            draws = []
            for seed in range(size.seeds):
                key = jax.random.key(seed)
                start = finetune.extend_vocabulary(
                    values, trained.resolved.model.leaves, count, way, key
                )
                draws.append(float(finetune.divergence(before, after(start, x))))
            found[f"{way}, logits {f'shifted by {shift:g}' if shift else 'as trained'}"] = (
                np.asarray(draws)
            )
    return found


def pairs(count: int) -> Any:
    """The embedded text with its `count` most frequent pairs of characters as tokens, numbered
    after the old ones."""
    from jaxinit.tasks.text import bits, encode, next_token, read

    def make(length: int = 32) -> Any:
        content = read(None)
        vocabulary = sorted(set(content))
        frequent = Counter(map("".join, pairwise(content))).most_common(count)
        number = {pair: len(vocabulary) + k for k, (pair, _) in enumerate(frequent)}
        single, found, k = encode(content, vocabulary), [], 0
        while k < len(content):
            token = number.get(content[k : k + 2])
            found.append(single[k] if token is None else token)
            k += 1 if token is None else 2
        numbers = np.asarray(found, np.int32)
        return next_token(
            "pairs", numbers, len(vocabulary) + count, length, bits, "validation bits per token"
        )

    return make


def draw(size: Size, kl: dict[int, dict[str, np.ndarray]], old: int, folder: Path) -> None:
    """The divergence before the first step against the number of new tokens, with the bound."""
    import matplotlib.pyplot as plt

    from jaxinit.analysis.figure import save, style
    from jaxinit.analysis.signal_figures import MARKS

    counts = list(kl)
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
        for axes, of in zip(panels, ("as trained", f"shifted by {SHIFT:g}"), strict=True):
            for k, way in enumerate(WAYS):
                values = np.stack([kl[count][f"{way}, logits {of}"] for count in counts])
                grey = str(0.2 * k)
                axes.plot(
                    counts,
                    values.mean(1),
                    color=grey,
                    marker=MARKS[k],
                    markersize=4,
                    linewidth=1,
                    label=way,
                )
            bound = [math.log(1 + count / old) for count in counts]
            axes.plot(counts, bound, color="0.2", linestyle=":", linewidth=1, label="log(1 + n/V)")
            axes.set(xscale="log", yscale="log", xlabel="new tokens n", title=f"logits {of}")
            axes.set_xticks(counts, [str(count) for count in counts])
            axes.minorticks_off()
        panels[0].set_ylabel("KL(before || after), nats")
        panels[0].legend(frameon=False, fontsize=7)
        note = (
            f"Character model of V = {old} tokens, before the first step, mean of {size.seeds} "
            "draws"
        )
        figure.suptitle(note, fontsize=9, x=0.01, ha="left")
        save(figure, folder, "divergence")


main = main_of("vocab_extension", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
