"""The same LSTM and GRU, initialized as PyTorch, Keras, Flax Linen, Flax NNX, Haiku and Equinox
initialize them.

The questions: how far does the gradient reach back in time under each default, how many epochs does
each need, and what does the fused-gate fault cost (Flax NNX draws the recurrent kernels of all
gates as one matrix, so that no gate is orthogonal; Flax Linen draws them gate by gate, and is
otherwise the same)?

    python experiments/framework_defaults.py                 quick: digits by rows, adding over 60; minutes on 2 cores
    python experiments/framework_defaults.py --size smoke    seconds: checks that all of it works
    python experiments/framework_defaults.py --size paper    256 units, adding over 200: for an accelerator

Expect at quick (2026-11-29, 264 s on 2 cores; all claims and intervals: docs/results.md):
- framework_defaults.C6: lstm: decades that the gradient loses per step back, pytorch (falls to 1/e
  in 2 steps): 0.202 (0.191 to 0.212); at least 0: holds.
- framework_defaults.C6: lstm: decades that the gradient loses per step back, keras (falls to 1/e in
  4 (3 to 5) steps): 0.078 (0.0717 to 0.0844); at least 0: holds.
- framework_defaults.C6: lstm: decades that the gradient loses per step back, flax_linen (falls to
  1/e in 3 (2 to 3) steps): 0.138 (0.122 to 0.154); at least 0: holds.
- framework_defaults.C6: lstm: decades that the gradient loses per step back, flax_nnx (falls to 1/e
  in 2 steps): 0.178 (0.163 to 0.193); at least 0: holds.
- framework_defaults.C6: lstm: decades that the gradient loses per step back, haiku (falls to 1/e in
  6 (4 to 13) steps): 0.0453 (0.0352 to 0.0554); at least 0: holds.
- framework_defaults.C6: lstm: decades that the gradient loses per step back, equinox (falls to 1/e
  in 2 steps): 0.202 (0.192 to 0.212); at least 0: holds.
- framework_defaults.C6: gru: decades that the gradient loses per step back, pytorch (falls to 1/e
  in 2 (2 to 3) steps): 0.201 (0.192 to 0.211); at least 0: holds.
- framework_defaults.C6: gru: decades that the gradient loses per step back, keras (falls to 1/e in
  2 steps): 0.197 (0.192 to 0.202); at least 0: holds.
- and 8 more claims.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, make_claim
from jaxinit.analysis.figure import save, style
from jaxinit.reproduce import faster, finish, make_main, run_all, smoke
from jaxinit.study import Study

DEFAULTS = ("pytorch", "keras", "flax_linen", "flax_nnx", "haiku", "equinox")
DIGITS = Study(
    model="lstm",
    hidden=64,
    schemes=DEFAULTS,
    baseline="pytorch",
    seeds=8,
    epochs=25,
    evaluations=4,
)
ADDING = replace(
    DIGITS,
    hidden=32,
    task="adding",
    length=60,
    optimizer="adam",
    clip=1.0,
    evaluations=2,
    epochs=80,
)


def both(digits: Study, adding: Study) -> dict[str, Study]:
    """Either task with an LSTM and with a GRU."""
    studies = {}
    for kind in ("lstm", "gru"):
        studies[f"{kind}, digits by rows"] = replace(digits, model=kind)
        studies[f"{kind}, adding over {adding.length}"] = replace(adding, model=kind)
    return studies


SIZES = {
    "smoke": both(smoke(DIGITS), smoke(ADDING)),
    "quick": both(DIGITS, ADDING),
    "paper": both(
        replace(DIGITS, hidden=256, seeds=20, epochs=100),
        replace(ADDING, hidden=256, length=200, seeds=20, epochs=400),
    ),
}


def compare(studies: dict[str, Study], out: Path) -> int:
    results = run_all(studies, out)
    claims = []
    for name, study in studies.items():
        if study.task == "adding":
            claims += reach(study, out, name)
    for name, result in results.items():
        statement = f"{name}: times fewer epochs, gate by gate (Linen) against fused (NNX)"
        pair = (result, "flax_linen"), (result, "flax_nnx")
        published = "an open question"
        if result.study.task == "adding":
            published = "1.4 (GRU), 0.8 (LSTM) in a trial of 4 seeds over 100 steps"
        claims.append(
            faster(
                "framework_defaults.fused_gates",
                statement,
                *pair,
                published,
                at_least(1.05),
                family=len(results),
            )
        )
    return finish(out, studies, results, claims, "Framework defaults: epochs to target")


def reach(study: Study, out: Path, name: str) -> list[Claim]:
    """framework_defaults.C6: how far back in time the gradient reaches before training, with its
    figure."""
    from jaxinit.analysis.signal_figures import lens, memory
    from jaxinit.engine.survey import through_time

    courses = through_time(study, out=out / name.replace(" ", "_"))
    with style():
        save(lens(courses), out / "figures", f"lens_{study.model}")
    squares = (courses.gradient.isel(layer=0) ** 2).sum("carry")
    sizes = np.sqrt(squares).transpose("scheme", "seed", "step")
    published = "vanishes with a forget bias of 0" if study.model == "lstm" else "not compared"
    claims = []
    for scheme in DEFAULTS:
        size = sizes.sel(scheme=scheme).values
        lost = np.log10(size[:, -2]) - np.log10(np.maximum(size[:, 0], 1e-18))
        statement = (
            f"{study.model}: decades that the gradient loses per step back, {scheme} "
            f"(falls to 1/e in {memory(courses, scheme)} steps)"
        )
        per_step = lost / (size.shape[1] - 2)
        note = f"{study.length} steps"
        claims.append(
            make_claim("framework_defaults.C6", statement, per_step, published, at_least(0.0), note)
        )
    return claims


main = make_main("framework_defaults", __doc__, SIZES, compare)

if __name__ == "__main__":
    sys.exit(main())
