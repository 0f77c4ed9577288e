"""A new head on a trained model: zeros, a small, a scaled and a large Gaussian, a linear probe
(claims B7, B9).

The question: does it matter how the head starts when a Vision Transformer that was trained here to
tell the digits 0 to 4 learns to tell 5 to 9? Epochs to a target for each start of the head, with
all of the model trained or the head alone (a probe), against a model that starts anew; and before
the first step: the loss, and the gradient norms in head and body.

    python experiments/new_head.py                 quick: two blocks of width 64; minutes on 2 cores
    python experiments/new_head.py --size smoke    seconds: checks that all of it works
    python experiments/new_head.py --size paper    width 256, more seeds: for an accelerator

Expect at quick: to 93 % (10 seeds, each at its own best rate) a scaled head N(0, 1/fan_in) needs
1.54 epochs, N(0, 0.02^2) 1.86, a model that starts anew 1.98, zeros 2.04, N(0, 1) 3.26: the scaled
head is 2.12 times (1.69 to 2.60) faster than the large one and faster than zeros (whose ratio is
0.75, 0.63 to 0.90). Before the first step the large head sends 10.7 times the gradient of the
scaled one into the body, zeros send none. A probe, the head alone, does not arrive in 12 epochs,
and is best at the highest rate of the grid, whatever its start.
"""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import make_claim
from jaxinit.initializers import lecun, normal, zeros
from jaxinit.reproduce import faster, finish, main_of, rows_of, run_all
from jaxinit.spec import Initializer, Scheme
from jaxinit.study import Study

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
    lrs=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1),
    seeds=10,
    tune_seeds=6,
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
    "smoke": Size(
        replace(TRAINED, hidden=16, layers=1, epochs=1),
        replace(STUDY, hidden=16, layers=1, lrs=(0.01,), seeds=2, epochs=1),
    ),
    "quick": Size(TRAINED, STUDY),
    "paper": Size(
        replace(TRAINED, hidden=256, layers=4, epochs=60),
        replace(STUDY, hidden=256, layers=4, seeds=20),
    ),
}


def measure(size: Size, out: Path) -> int:
    import jax
    import jax.numpy as jnp

    from jaxinit import finetune
    from jaxinit.engine import sweep
    from jaxinit.finetune import checkpoint
    from jaxinit.schemes import by_role
    from jaxinit.spec import draw

    sweep.one_device_per_core()
    sweep.keep_compilations()
    trained = finetune.pretrain(size.trained, tasks=TASKS)
    checkpoint.save_checkpoint(out / "trained.safetensors", trained.values)
    print(f"trained to an accuracy of {trained.metric:.3g} on the digits 0 to 4")
    body = {name: value for name, value in trained.values.items() if not name.startswith("readout")}
    of_head = lambda init, frozen=False: finetune.pretrained(
        body, by_role({"readout": init, "bias": zeros}), frozen=frozen
    )
    own: dict[str, Scheme] = {name: of_head(init) for name, init in HEADS.items()}
    own |= {f"{name}_probe": of_head(HEADS[name], frozen=True) for name in ("scaled", "large")}
    own["anew"] = xavier
    model, task = trained.resolved.model, TASKS["digits_5_to_9"]()
    x, y = task.data["train_x"][:256], task.data["train_y"][:256]
    claims, reports = [], {}
    for name in HEADS:
        start = draw(own[name], jax.random.key(0), model.leaves)
        norms = jax.grad(lambda p: task.loss(model.as_trained(p, x), y))(start)
        size_of = lambda names, norms=norms: float(
            jnp.sqrt(sum(jnp.sum(norms[name] ** 2) for name in names))
        )
        reports[name] = {
            "loss": float(task.loss(model.as_trained(start, x), y)),
            "gradient_in_head": size_of([name for name in start if name.startswith("readout")]),
            "gradient_in_body": size_of(body),
        }
        numbers = ", ".join(
            f"{what.replace('_', ' ')} {value:.3g}" for what, value in reports[name].items()
        )
        print(f"step 0, {name} head: {numbers} (log 5 = {math.log(5):.3g})")
    ratio = reports["large"]["gradient_in_body"] / reports["scaled"]["gradient_in_body"]
    what, note = (
        "gradient norm in the body at step 0, large head over scaled",
        "256 examples, one draw",
    )
    claims.append(
        make_claim("B9", what, ratio, "a good start does not disturb the body", (2.0, np.inf), note)
    )
    what = "gradient norm in the body at step 0, zero head"
    claims.append(
        make_claim("B9", what, reports["zero"]["gradient_in_body"], "0", (0.0, 1e-9), note)
    )
    studies = {"digits 5 to 9": size.study}
    results = run_all(studies, out, schemes=own, tasks=TASKS)
    result = results["digits 5 to 9"]
    for scheme, against, published in (
        ("scaled", "large", "a head needs a proper start"),
        ("zero", "large", "a head needs a proper start"),
        ("zero", "scaled", "no number"),
        ("small", "scaled", "no number"),
        ("scaled_probe", "scaled", "no number"),
        ("large_probe", "scaled_probe", "a head needs a proper start"),
        ("scaled", "anew", "no number"),
    ):
        what = f"times fewer epochs, {scheme} against {against}"
        claims.append(
            faster("B7", what, (result, scheme), (result, against), published, (1.1, np.inf))
        )
    title = f"A new head: epochs to {size.study.target:g} accuracy"
    return finish(out, rows_of(results), claims, studies, title, step_zero=reports)


def xavier(leaf: Any) -> Initializer:
    """All of the model anew, under `xavier_transformer`."""
    from jaxinit.schemes.transformer import xavier_transformer

    return xavier_transformer(leaf)


def of_digits(first: int) -> Any:
    """`digits_patches` with five of its ten classes, from `first` on."""

    def make() -> Any:
        from jaxinit.tasks import TASKS as EMBEDDED

        whole = EMBEDDED["digits_patches"]()
        data: dict[str, Any] = {}
        for part in ("train", "valid"):
            y = np.asarray(whole.data[f"{part}_y"])
            chosen = np.flatnonzero((y >= first) & (y < first + 5))
            data |= {
                f"{part}_x": whole.data[f"{part}_x"][chosen],
                f"{part}_y": whole.data[f"{part}_y"][chosen] - first,
            }
        name = f"digits_{first}_to_{first + 4}"
        examples = len(data["train_y"])
        return replace(whole, name=name, data=data, examples=examples, out_features=5, chance=0.2)

    return make


TASKS = {"digits_0_to_4": of_digits(0), "digits_5_to_9": of_digits(5)}
main = main_of("new_head", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
