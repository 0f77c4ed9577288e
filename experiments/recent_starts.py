"""Two recent initializations that come with a number, here not at the published scale: sinusoidal
kernels, "20.9 % in convergence speed" (D1), and SCBI, a readout fitted to the labels, "87 times
faster" (D2).

D1 (Fernández-Hernández et al., 2025): do kernels of sine waves reach a target in fewer epochs than
PyTorch's default and, since their variance is Glorot's, than Glorot's law? D2 (Ashraf, 2026): does
a readout from ridge regressions reach it in fewer epochs than the draw of He that it replaces? What
was published counts epochs to twice the loss that SCBI itself starts with; here the target is
fixed, and the same for both.

    python experiments/recent_starts.py                 quick: digits by two models, a linear regression; minutes on 2 cores
    python experiments/recent_starts.py --size smoke    seconds: checks that all of it works
    python experiments/recent_starts.py --size paper    wider and more seeds, CIFAR-10 where it is on disk: for an accelerator

Not at the published scale: D1 was measured on ResNet-50, MobileNetV3, EfficientNetV2, ViT-B/16 and
BERT-mini. Every scheme has its own best rate. Sinusoidal kernels are not random: their seeds differ
in the batches and the split alone. PyTorch's default draws biases too, the others have none. SCBI
looks at eight batches, not at the whole training set, and a trial takes an epoch at least, over
which its metric is averaged.

Expect at quick (2026-11-30, 90 s on 2 cores; all claims and intervals: docs/results.md):
- D1: MLP, SGD: times fewer epochs, sinusoidal against PyTorch's default: 2.31 (2.02 to 2.68); at
  least 1.05: holds.
- D1: MLP, SGD: times fewer epochs, sinusoidal against Glorot's law: 1.16 (0.959 to 1.4); at least
  1.05: open.
- D1: MLP, Adam: times fewer epochs, sinusoidal against PyTorch's default: 1.53 (1.25 to 1.95); at
  least 1.05: open.
- D1: MLP, Adam: times fewer epochs, sinusoidal against Glorot's law: 1.03 (0.858 to 1.31); at least
  1.05: open.
- D1: CNN, momentum: times fewer epochs, sinusoidal against PyTorch's default: 1.48 (1.31 to 1.82);
  at least 1.05: holds.
- D1: CNN, momentum: times fewer epochs, sinusoidal against Glorot's law: 1.04 (0.899 to 1.22); at
  least 1.05: open.
- D2: linear regression: times fewer epochs to a fixed target, SCBI against He's law: 1.07 (0.725 to
  1.62); at least 1.05: open.
- D2: digits: times fewer epochs to a fixed target, SCBI against He's law: at most 0.921; at least
  1.05: open.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least
from jaxinit.reproduce import Results, faster, finish, make_main, run_all, smoke
from jaxinit.study import Study

if TYPE_CHECKING:
    from jaxinit.tasks import Task

BASE = Study(
    model="mlp",
    hidden=64,
    layers=4,
    activation="relu",
    task="digits_rows",
    schemes=("pytorch", "sinusoidal", "glorot_uniform"),
    baseline="pytorch",
    seeds=8,
    epochs=20,
    evaluations=4,
    target=0.93,
)
FITTED: dict[str, Any] = {
    "layers": 1,
    "schemes": ("he_normal", "he_normal+scbi"),
    "baseline": "he_normal",
    "evaluations": 8,
}
INPUTS, EXAMPLES, NOISE = 100, 2000, 0.1


def sines(base: Study, **pictures: Any) -> dict[str, Study]:
    """Three settings for sinusoidal kernels and two random laws."""
    convolutions: dict[str, Any] = {"model": "cnn", "hidden": 16, "optimizer": "momentum"}
    return {
        "MLP, SGD": base,
        "MLP, Adam": replace(base, optimizer="adam"),
        "CNN, momentum": replace(base, **convolutions | pictures),
    }


def fits(base: Study) -> dict[str, Study]:
    """A linear regression, and digits, with a fitted readout and without."""
    linear = replace(base, task="linear", target=0.1, epochs=2 * base.epochs, **FITTED)
    return {"linear regression": linear, "digits": replace(base, target=0.965, **FITTED)}


@dataclass(frozen=True)
class Size:
    """The studies of sinusoidal kernels, and those of fitted readouts."""

    sines: dict[str, Study]
    fits: dict[str, Study]


WIDE = replace(BASE, hidden=512, seeds=20, epochs=60)
SIZES = {
    "smoke": Size(
        {name: smoke(study) for name, study in sines(BASE).items()},
        {name: smoke(study) for name, study in fits(BASE).items()},
    ),
    "quick": Size(sines(BASE), fits(BASE)),
    "paper": Size(
        sines(WIDE, hidden=64, task="cifar10", channels=3, stages=3, layers=9, target=0.7),
        fits(WIDE),
    ),
}


def linear() -> "Task":
    """y = x w + noise of 0.1: 100 inputs N(0, 1), w of length 1, 2000 examples."""
    from jaxinit.tasks import arrays

    draws = np.random.default_rng(0)
    x = draws.normal(size=(EXAMPLES, INPUTS)).astype(np.float32)
    w = draws.normal(size=INPUTS)
    y = x @ (w / np.linalg.norm(w)) + NOISE * draws.normal(size=EXAMPLES)
    return arrays.task(x, y.astype(np.float32), name="linear")


def measure(size: Size, out: Path) -> int:
    studies = size.sines | size.fits
    results = run_all(studies, out, tasks={"linear": linear})
    claims = [
        *of_sines({name: results[name] for name in size.sines}),
        *of_fits({name: results[name] for name in size.fits}),
    ]
    return finish(out, studies, results, claims, "Recent initializations: epochs to target")


def of_sines(results: Results) -> list[Claim]:
    """D1: against the default that it was measured against, and against the law of its variance."""
    against = (
        ("PyTorch's default", "pytorch", "1.26 on average: 20.9 % fewer epochs"),
        ("Glorot's law", "glorot_uniform", "sooner, no average"),
    )
    claims = []
    for name, result in results.items():
        for law, scheme, published in against:
            statement = f"{name}: times fewer epochs, sinusoidal against {law}"
            pair = (result, "sinusoidal"), (result, scheme)
            family = len(results) * len(against)
            claims.append(faster("D1", statement, *pair, published, at_least(1.05), family=family))
    return claims


def of_fits(results: Results) -> list[Claim]:
    """D2: to a target that is the same for both."""
    claims = []
    published = "87 times faster, to twice the loss that it starts with itself"
    for name, result in results.items():
        fitted, drawn = result.study.schemes[1], result.study.baseline
        statement = f"{name}: times fewer epochs to a fixed target, SCBI against He's law"
        pair = (result, fitted), (result, drawn)
        band, family = at_least(1.05), len(results)
        claims.append(faster("D2", statement, *pair, published, band, family=family))
    return claims


main = make_main("recent_starts", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
