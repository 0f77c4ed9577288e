"""Convolutional networks: He against Xavier where they are plain and deep, Fixup against batch
normalization where they are residual.

The questions: does a plain convolutional net of 14 layers reach its target in fewer epochs with
variance 2/n than with 1/n, and one of 4 layers not (convnets.A11, after He et al., 2015)? Does a
residual net without normalization reach it as soon with Fixup as with batch normalization, and
sooner than with He's law alone (convnets.F1 to F3, after Zhang, Dauphin & Ma, 2019)?

    python experiments/convnets.py                 quick: 16 channels on the 8 x 8 digits; minutes on 2 cores
    python experiments/convnets.py --size smoke    seconds: checks that all of it works
    python experiments/convnets.py --size paper    64 channels on CIFAR-10, where it is on disk: for an accelerator

Departures at quick: digits instead of CIFAR-10 and ImageNet, one resolution, 6 blocks, constant
rates, no augmentation, no weight decay. "Xavier" is 2/(fan_in + fan_out), which for a kernel of as
many outputs as inputs is the 1/n of He et al. (2015). Fixup's model has its scalar multipliers and
biases; that of He's law alone has biases and no multipliers.

Expect at quick (2026-11-29, 473 s on 2 cores; all claims and intervals: docs/results.md):
- convnets.A11: plain, 4 layers: times fewer epochs, He's variance against Xavier's: 1.29 (1.01 to
  1.52); at least 0.67: holds; at most 1.5: open.
- convnets.A11: plain, 14 layers: times fewer epochs, He's variance against Xavier's: at least 1.08;
  at least 1.1: open.
- convnets.F1: residual: times fewer epochs, Fixup against batch normalization: at most 0.586; at
  least 0.5: open; at most 2: holds.
- convnets.F2: residual: times fewer epochs, Fixup against He's law alone: at most 1.82; at least
  1.1: open.
- convnets.F3: residual: times fewer epochs, batch normalization against He's law alone: 2.91 (2.11
  to 4.03); at least 1.1: holds.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxinit.analysis.claims import Claim, at_least
from jaxinit.reproduce import (
    Results,
    as_one,
    faster,
    finish,
    make_main,
    rows_of,
    run_all,
    smoke,
)
from jaxinit.study import Study

PLAIN = Study(
    model="cnn",
    hidden=16,
    task="digits_rows",
    schemes=("he_normal", "glorot_normal"),
    baseline="glorot_normal",
    optimizer="momentum",
    seeds=6,
    epochs=30,
    evaluations=2,
    target=0.95,
)
RESIDUAL = replace(
    PLAIN, model="resnet", layers=6, schemes=("he_normal",), baseline="he_normal", epochs=20
)


@dataclass(frozen=True)
class Size:
    """The study of the plain nets, their layers (few, many), and that of the residual ones."""

    plain: Study
    depths: tuple[int, int]
    residual: Study


ON_CIFAR: dict[str, Any] = {
    "hidden": 64,
    "task": "cifar10",
    "channels": 3,
    "stages": 3,
    "seeds": 8,
    "epochs": 60,
    "batch": 128,
    "target": 0.75,
}
SIZES = {
    "smoke": Size(smoke(PLAIN), (1, 2), smoke(RESIDUAL)),
    "quick": Size(PLAIN, (4, 14), RESIDUAL),
    "paper": Size(
        replace(PLAIN, layers=14, **ON_CIFAR),
        (6, 30),
        replace(RESIDUAL, **ON_CIFAR | {"layers": 18}),
    ),
}


def measure(size: Size, out: Path) -> int:
    plain = {f"plain, {depth} layers": replace(size.plain, layers=depth) for depth in size.depths}
    residual = variants(size.residual)
    results = run_all(plain | residual, out)
    of_plain = {name: results[name] for name in plain}
    of_residual = {name: results[name] for name in residual}
    claims = [*of_depth(size, of_plain), *of_normalization(of_residual)]
    setting = f"residual, {size.residual.layers} blocks"
    rows = [*rows_of(of_plain), *as_one(of_residual, setting, "He's law alone")]
    title = f"Convolutional networks: epochs to an accuracy of {size.plain.target:g}"
    return finish(out, plain | residual, results, claims, title, rows=rows)


def variants(study: Study) -> dict[str, Study]:
    """The residual nets: with batch normalization, and without."""
    fixup: dict[str, Any] = {"schemes": ("fixup",), "baseline": "fixup"}
    return {
        "batch normalization": replace(study, norm="batch"),
        "Fixup": replace(study, norm="none", gate=True, scalar_bias=True, **fixup),
        "He's law alone": replace(study, norm="none"),
    }


def of_depth(size: Size, results: Results) -> list[Claim]:
    """A11: plain nets, few layers and many."""
    published = (
        ("no clear superiority", (0.67, 1.5)),
        ("starts reducing the error earlier (22 layers)", at_least(1.1)),
    )
    claims = []
    for depth, result, (said, band) in zip(size.depths, results.values(), published, strict=True):
        statement = f"plain, {depth} layers: times fewer epochs, He's variance against Xavier's"
        pair = (result, "he_normal"), (result, "glorot_normal")
        claims.append(faster("convnets.A11", statement, *pair, said, band, family=len(published)))
    return claims


def of_normalization(results: Results) -> list[Claim]:
    """F1 to F3: residual nets with and without normalization."""
    sides = {name: (result, result.study.schemes[0]) for name, result in results.items()}
    stable = "as stable as training with normalization"
    expected = (
        ("convnets.F1", "Fixup", "batch normalization", stable, (0.5, 2.0)),
        ("convnets.F2", "Fixup", "He's law alone", "no number", at_least(1.1)),
        ("convnets.F3", "batch normalization", "He's law alone", "no number", at_least(1.1)),
    )
    claims = []
    for name, sooner, later, published, band in expected:
        statement = f"residual: times fewer epochs, {sooner} against {later}"
        pair = sides[sooner], sides[later]
        claims.append(faster(name, statement, *pair, published, band, family=len(expected)))
    return claims


main = make_main("convnets", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
