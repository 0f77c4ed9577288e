"""Jozefowicz, Zaremba & Sutskever (2015), "An empirical exploration of recurrent network
architectures": forget bias.

The question: is an LSTM whose forget bias starts at 1 faster than one at 0 (F1), what does 2 do,
and how does it compare with the GRU, whose gap to the LSTM it is said to close?

    python experiments/forget_bias2015.py                 quick: copy over 20, adding over 50, 64 units; minutes
    python experiments/forget_bias2015.py --size smoke    seconds: checks that all of it works
    python experiments/forget_bias2015.py --size paper    copy over 100, adding over 200, 256 units: for an accelerator

Departure: the paper's tasks (arithmetic, XML, language) are replaced by two of pure memory.

Expect at quick (2026-11-29, 430 s on 2 cores; all claims and intervals: docs/results.md):
- F1: lstm, adding over 50: times fewer epochs, forget bias 1 against 0: at least 1.11; at least 1:
  open.
- F1: lstm, adding over 50: times fewer epochs, forget bias 2 against 0: at least 0.678; at least 1:
  open.
- F1: lstm, copy over 20: times fewer epochs, forget bias 1 against 0: no estimate; at least 1:
  open.
- F1: lstm, copy over 20: times fewer epochs, forget bias 2 against 0: at least 1.72; at least 1:
  holds.
- F1: adding over 50: times fewer epochs, LSTM with bias 1 against a GRU: 0.222 (0.199 to 0.295); at
  least 0.8: does not hold; at most 1.25: holds.
"""

import sys
from dataclasses import replace
from pathlib import Path

from jaxinit.analysis.claims import at_least
from jaxinit.reproduce import faster, finish, make_main, run_all, smoke
from jaxinit.schemes import forget_bias
from jaxinit.study import Study

RATIOS = 5  # claims that are read together
BIASES = {f"bias_{value}": forget_bias(float(value)) for value in (0, 1, 2)}
ADDING = Study(
    model="lstm",
    hidden=64,
    task="adding",
    length=50,
    schemes=tuple(BIASES),
    baseline="bias_0",
    optimizer="adam",
    clip=1.0,
    seeds=6,
    epochs=60,
    evaluations=1,
)
QUICK = {
    "lstm, adding": ADDING,
    "gru, adding": replace(
        ADDING, model="gru", schemes=("glorot_uniform",), baseline="glorot_uniform"
    ),
    "lstm, copy": replace(ADDING, task="copy", length=20, epochs=100, target=0.35),
}


def grown(study: Study) -> Study:
    """The same at full scale, with the target of the task."""
    large = replace(study, hidden=256, seeds=10, epochs=400)
    length = 100 if study.task == "copy" else 200
    return replace(large, length=length, target=None)


SIZES = {
    "smoke": {name: smoke(study) for name, study in QUICK.items()},
    "quick": QUICK,
    "paper": {name: grown(study) for name, study in QUICK.items()},
}


def reproduce(studies: dict[str, Study], out: Path) -> int:
    results = run_all(studies, out, schemes=BIASES)
    claims = []
    for setting in ("lstm, adding", "lstm, copy"):
        result = results[setting]
        over = f"{setting} over {result.study.length}"
        for bias in ("bias_1", "bias_2"):
            statement = f"{over}: times fewer epochs, forget bias {bias[-1]} against 0"
            pair = (result, bias), (result, "bias_0")
            published, band = "1 is better than 0", at_least(1.0)
            claims.append(faster("F1", statement, *pair, published, band, family=RATIOS))
    lstm, gru = results["lstm, adding"], results["gru, adding"]
    statement = (
        f"adding over {lstm.study.length}: times fewer epochs, LSTM with bias 1 against a GRU"
    )
    pair = (lstm, "bias_1"), (gru, "glorot_uniform")
    published, band = "the bias closes the gap to the GRU", (0.8, 1.25)
    claims.append(faster("F1", statement, *pair, published, band, family=RATIOS))
    return finish(out, studies, results, claims, "Forget bias: epochs to target")


main = make_main("forget_bias2015", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
