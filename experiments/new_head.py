"""A new head on a trained model: zeros, a small, a scaled and a large Gaussian, a linear probe
(claims B7, new_head.B9).

The question: does it matter how the head is initialized when a Vision Transformer that was trained
here to tell the digits 0 to 4 learns to tell 5 to 9? Epochs to a target for each initialization of
the head, with all of the model trained or the head alone (a probe), against a new model; and before
the first step: the loss, and the gradient norms in head and body.

    python experiments/new_head.py                 quick: two blocks of width 64; minutes on 2 cores
    python experiments/new_head.py --size smoke    seconds: checks that all of it works
    python experiments/new_head.py --size paper    width 256, more seeds: for an accelerator

Expect at quick (2026-11-29, 131 s on 2 cores; all claims and intervals: docs/results.md):
- new_head.B9: gradient norm in the body at step 0, large head over scaled: 11.5 (11 to 11.9); at
  least 2: holds.
- new_head.B9: gradient norm in the body at step 0, zero head: 0; at most 1e-09: holds.
- B7: times fewer epochs, scaled against large: 1.34 (1.13 to 1.6); at least 1.1: open.
- B7: times fewer epochs, zero against large: 1.2 (0.994 to 1.46); at least 1.1: open.
- B7: times fewer epochs, zero against scaled: 0.895 (0.722 to 1.12); at least 1.1: open.
- B7: times fewer epochs, small against scaled: 0.962 (0.838 to 1.13); at least 1.1: open.
- B7: times fewer epochs, scaled_probe against scaled: at most 0.287; at least 1.1: does not hold.
- B7: times fewer epochs, large_probe against scaled_probe: no estimate; at least 1.1: open.
- and 1 more claims.
"""

import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, at_most, make_claim
from jaxinit.analysis.store import Result
from jaxinit.initializers import lecun, normal, zeros
from jaxinit.reproduce import faster, finish, make_main, run_all, smoke, train_first
from jaxinit.schemes import by_role
from jaxinit.schemes.transformer import xavier_transformer
from jaxinit.spec import Initializer, Scheme
from jaxinit.study import Study

if TYPE_CHECKING:
    from jaxinit.finetune.trained import Trained

DRAWS = 10  # of a head, before the first step
HEADS: dict[str, Initializer] = {
    "zero": zeros,
    "small": normal(0.02),
    "scaled": lecun("normal"),
    "large": normal(1.0),
}
TRAINED = Study(
    model="vit",
    hidden=64,
    layers=2,
    task="digits_0_to_4",
    schemes=("xavier_transformer",),
    baseline="xavier_transformer",
    optimizer="adam",
    lrs=(0.003,),
    epochs=20,
    evaluations=1,
)
STUDY = replace(
    TRAINED,
    task="digits_5_to_9",
    schemes=(*HEADS, "scaled_probe", "large_probe", "anew"),
    baseline="large",
    search="ladder",
    lrs=(),
    seeds=10,
    epochs=12,
    evaluations=5,
    target=0.93,
)


@dataclass(frozen=True)
class Size:
    """What is trained first, and the study of the heads."""

    trained: Study
    study: Study


SIZES = {
    "smoke": Size(smoke(TRAINED, layers=1), smoke(STUDY, layers=1)),
    "quick": Size(TRAINED, STUDY),
    "paper": Size(
        replace(TRAINED, hidden=256, layers=4, epochs=60),
        replace(STUDY, hidden=256, layers=4, seeds=20),
    ),
}


def measure(size: Size, out: Path) -> int:
    trained = train_first(size.trained, out, TASKS)
    own = schemes(trained)
    reports = step_zero(trained, own)
    studies = {"digits 5 to 9": size.study}
    results = run_all(studies, out, schemes=own, tasks=TASKS)
    claims = on_step_zero(reports) + on_training(results["digits 5 to 9"])
    title = f"A new head: epochs to {size.study.target:g} accuracy"
    means = {}
    for name, report in reports.items():
        means[name] = {quantity: float(values.mean()) for quantity, values in report.items()}
    return finish(out, studies, results, claims, title, step_zero=means)


def schemes(trained: "Trained") -> dict[str, Scheme]:
    """Every head on the trained body, the body alone kept still for probes, and a model anew."""
    from jaxinit.finetune import pretrained

    body = {name: value for name, value in trained.values.items() if not in_head(name)}
    own: dict[str, Scheme] = {}
    for name, init in HEADS.items():
        head = by_role({"readout": init, "bias": zeros})
        own[name] = pretrained(body, head)
        own[f"{name}_probe"] = pretrained(body, head, frozen=True)
    own["anew"] = xavier_transformer
    return own


def in_head(name: str) -> bool:
    """Whether a parameter, by its name, is of the head."""
    return name.startswith("readout")


def step_zero(trained: "Trained", own: dict[str, Scheme]) -> dict[str, dict[str, np.ndarray]]:
    """The loss, and the norms of its gradient in head and body, before the first step: `[draw]`."""
    import jax
    import optax

    from jaxinit.spec import draw

    model, task = trained.resolved.model, TASKS["digits_5_to_9"]()
    x, y = task.data["train_x"][:256], task.data["train_y"][:256]

    def loss(params: Any) -> Any:
        return task.loss(model.as_trained(params, x), y)

    def look(scheme: Scheme, key: Any) -> dict[str, Any]:
        params = draw(scheme, key, model.leaves)
        value, slopes = jax.value_and_grad(loss)(params)
        head = {leaf: slope for leaf, slope in slopes.items() if in_head(leaf)}
        body = {leaf: slope for leaf, slope in slopes.items() if not in_head(leaf)}
        return {
            "loss": value,
            "gradient_in_head": optax.tree.norm(head),
            "gradient_in_body": optax.tree.norm(body),
        }

    reports = {}
    keys = jax.random.split(jax.random.key(0), DRAWS)
    for name in HEADS:
        report = jax.lax.map(partial(look, own[name]), keys)
        reports[name] = {quantity: np.asarray(values) for quantity, values in report.items()}
        means = {quantity: values.mean() for quantity, values in reports[name].items()}
        # log 5 is the loss of a head that gives all five digits the same probability.
        print(
            f"step 0, {name} head: loss {means['loss']:.3g}, gradient in head "
            f"{means['gradient_in_head']:.3g}, gradient in body {means['gradient_in_body']:.3g} "
            f"(log 5 = {math.log(5):.3g}; means of {DRAWS} draws)"
        )
    return reports


def on_step_zero(reports: dict[str, dict[str, np.ndarray]]) -> list[Claim]:
    """new_head.B9: a head's first gradient disturbs the trained body, or does not."""
    body = {name: report["gradient_in_body"] for name, report in reports.items()}
    note = "256 examples"
    statement = "gradient norm in the body at step 0, large head over scaled"
    published = "a good initialization does not disturb the body"
    ratio = body["large"] / body["scaled"]
    large = make_claim("new_head.B9", statement, ratio, published, at_least(2.0), note)
    statement = "gradient norm in the body at step 0, zero head"
    # No draw has a say in it: the gradient passes through the head.
    band, zero = at_most(1e-9), body["zero"]
    return [large, make_claim("new_head.B9", statement, zero, "0", band, note, exact=True)]


def on_training(result: Result) -> list[Claim]:
    """B7: epochs to the target under each head."""
    claims = []
    pairs = (
        ("scaled", "large", "a head needs a proper initialization"),
        ("zero", "large", "a head needs a proper initialization"),
        ("zero", "scaled", "no number"),
        ("small", "scaled", "no number"),
        ("scaled_probe", "scaled", "no number"),
        ("large_probe", "scaled_probe", "a head needs a proper initialization"),
        ("scaled", "anew", "no number"),
    )
    band, family = at_least(1.1), len(pairs)
    for scheme, against, published in pairs:
        statement = f"times fewer epochs, {scheme} against {against}"
        pair = (result, scheme), (result, against)
        claims.append(faster("B7", statement, *pair, published, band, family=family))
    return claims


def of_digits(first: int) -> Any:
    """`digits_patches` with five of its ten classes, from `first` on."""

    def make() -> Any:
        from jaxinit.tasks import TASKS as EMBEDDED

        whole = EMBEDDED["digits_patches"]()
        data: dict[str, Any] = {}
        for part in ("train", "valid"):
            y = np.asarray(whole.data[f"{part}_y"])
            chosen = np.flatnonzero((y >= first) & (y < first + 5))
            data[f"{part}_x"] = whole.data[f"{part}_x"][chosen]
            data[f"{part}_y"] = whole.data[f"{part}_y"][chosen] - first
        name = f"digits_{first}_to_{first + 4}"
        examples = len(data["train_y"])
        return replace(whole, name=name, data=data, examples=examples, out_features=5, chance=0.2)

    return make


TASKS = {"digits_0_to_4": of_digits(0), "digits_5_to_9": of_digits(5)}
main = make_main("new_head", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
