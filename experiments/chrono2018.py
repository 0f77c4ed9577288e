"""Tallec & Ollivier (2018), "Can recurrent neural networks warp time?": gate biases that spread
over the time scales.

The question: is the chrono start (forget biases log u, u ~ U[1, T - 1], input biases their
negatives) faster than a forget bias of 1 on long memory, and does it break the plateau of the copy
task (C1, C2)?

    python experiments/chrono2018.py                 quick: LSTM of 64 and 100 units; minutes on 2 cores
    python experiments/chrono2018.py --size smoke    seconds: checks that all of it works
    python experiments/chrono2018.py --size paper    128 units, adding over 200 and 750, copy over 500: accelerator

Departure: Adam for RMSprop. Both starts are trained at their own best of the same rates.

Expect at quick: adding over 50 steps 1.7 times (1.5 to 2.1) and over 150 steps 2.9 times (2.5 to
3.6) fewer epochs than a forget bias of 1: the ratio grows with the length; on copy chrono comes to
0.35 of the cost without memory, a forget bias of 1 to 0.48 with a wide spread, 0 to 0.78.
"""

import sys
from dataclasses import replace
from pathlib import Path

from jaxinit.analysis.claims import make_claim
from jaxinit.reproduce import best, faster, finish, main_of, rows_of, run_all
from jaxinit.schemes import chrono, forget_bias
from jaxinit.study import Study

ADDING = Study(
    model="lstm",
    hidden=64,
    task="adding",
    schemes=("forget_bias", "chrono"),
    baseline="forget_bias",
    optimizer="adam",
    lrs=(0.003,),
    clip=1.0,
    seeds=4,
    tune_seeds=1,
    epochs=120,
    evaluations=1,
)
COPY = replace(
    ADDING,
    hidden=100,
    task="copy",
    length=20,
    schemes=("glorot_uniform", "forget_bias", "chrono"),
    lrs=(0.002,),
    epochs=120,
    seeds=3,
    target=0.01,  # out of reach: what is asked is how far each gets
)
SIZES: dict[str, dict[int, Study]] = {
    "smoke": {
        6: replace(ADDING, hidden=8, length=6, seeds=2, epochs=2),
        4: replace(COPY, hidden=8, length=4, seeds=2, epochs=2),
    },
    "quick": {50: replace(ADDING, length=50), 150: replace(ADDING, length=150), 20: COPY},
    "paper": {
        200: replace(
            ADDING, hidden=128, length=200, lrs=(0.0003, 0.001, 0.003), seeds=10, epochs=400
        ),
        750: replace(
            ADDING, hidden=128, length=750, lrs=(0.0003, 0.001, 0.003), seeds=10, epochs=1000
        ),
        500: replace(
            COPY, hidden=128, length=500, lrs=(0.0003, 0.001, 0.003), seeds=5, epochs=1000
        ),
    },
}


def reproduce(of: dict[int, Study], out: Path) -> int:
    """Every length as a study of its own, its chrono start made for that length."""
    studies, results = {}, {}
    for length, study in of.items():
        name = f"lstm of {study.hidden}, {study.task}, T={length}"
        studies[name] = study
        longest = max(3 * length // 2 if study.task == "copy" else length, 3)
        schemes = {"chrono": chrono(longest), "forget_bias": forget_bias(1.0)}
        results |= run_all({name: study}, out, schemes=schemes)
    claims = []
    for name, result in results.items():
        if result.study.task == "adding":
            what = f"{name}: times fewer epochs, chrono against a forget bias of 1"
            band = (1.5, 3.0) if result.study.length == 150 else (1.0, float("inf"))
            pair = (result, "chrono"), (result, "forget_bias")
            claims.append(
                faster(
                    "C1",
                    what,
                    *pair,
                    "7 times at T = 750; at 150 the project's trial runs 1.5 to 3",
                    band,
                )
            )
        else:
            chance, task = (
                result.records.attrs["chance"],
                f"{name}: lowest loss over that without memory",
            )
            for scheme, band in (
                ("chrono", (0.0, 0.5)),
                ("forget_bias", (0.6, 1.1)),
                ("glorot_uniform", (0.6, 1.1)),
            ):
                published = "breaks the plateau" if scheme == "chrono" else "stays on the plateau"
                value = best(result, scheme) / chance
                note = "bands from the project's trial runs at T = 20"
                claims.append(make_claim("C2", f"{task}, {scheme}", value, published, band, note))
    return finish(out, rows_of(results), claims, studies, "Chrono biases: epochs to target")


main = main_of("chrono2018", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
