"""Hochreiter & Schmidhuber (1997), "Long short-term memory": how many sequences until the long-lag
tasks are solved.

The question: with the paper's initialization (uniform in +-0.1, input gates biased shut) does a
small LSTM solve temporal order (experiment 6a) within the number of sequences that the paper
printed (L1), and what does another initialization change?

    python experiments/hochreiter1997.py                 quick: 6a over 100 steps, 8 units; minutes on 2 cores
    python experiments/hochreiter1997.py --size smoke    seconds: checks that all of it works
    python experiments/hochreiter1997.py --size paper    6a, 6b, adding, multiplication over 100: hours on a CPU

Departures: an LSTM with a forget gate, biased open at 5; batches of 8 where the paper updated after
every sequence; solved means 95 % of a validation set. A sequence is one training example.

Expect at quick: with the paper's biases about 28,000 sequences (published 31,390; 5,000 to 51,000
over six seeds, all solve it); with the input gates open one of six seeds solves it within 96,000.
"""

import sys
from dataclasses import replace
from pathlib import Path

from jaxinit.analysis.claims import at_least, make_claim
from jaxinit.initializers import uniform
from jaxinit.reproduce import faster, finish, make_main, run_all, smoke, times
from jaxinit.schemes import with_bias
from jaxinit.spec import Initializer, Leaf
from jaxinit.study import Study


def plus_minus(leaf: Leaf) -> Initializer:
    """U(+-0.1) for every parameter."""
    del leaf
    return uniform(-0.1, 0.1)


SCHEMES = {
    "paper": with_bias(plus_minus, input=-2.0, forget=5.0),
    "open_gates": with_bias(plus_minus, forget=5.0),  # the input gate too
}
# Sequences until solved, of the paper's tables.
PRINTED = {
    "temporal_order": 31_390,
    "temporal_order_3": 571_100,
    "adding": 74_000,
    "multiplication": 482_000,
}
ORDER = Study(
    model="lstm",
    hidden=8,
    task="temporal_order",
    length=100,
    schemes=tuple(SCHEMES),
    baseline="open_gates",
    optimizer="sgd",
    lrs=(0.1, 0.3, 1.0),
    clip=1.0,
    seeds=6,
    tune_seeds=1,
    epochs=75,
    evaluations=1,
    batch=8,
)


def whole(task: str, printed: int) -> Study:
    """A task as the paper has it, for at most three times the printed number of sequences."""
    epochs = 3 * printed // 1280  # of 1280 sequences
    return replace(ORDER, task=task, lrs=(0.1, 0.3, 1.0), seeds=10, epochs=epochs, batch=1)


SIZES: dict[str, dict[str, Study]] = {
    "smoke": {"temporal_order": smoke(ORDER)},
    "quick": {"temporal_order": ORDER},
    "paper": {task: whole(task, printed) for task, printed in PRINTED.items()},
}


def reproduce(studies: dict[str, Study], out: Path) -> int:
    results = run_all(studies, out, schemes=SCHEMES)
    claims = []
    for task, result in results.items():
        printed = PRINTED[task]
        for scheme in SCHEMES:
            solved = times(result, scheme)
            sequences = solved.time * result.records.attrs["examples"]  # times are in epochs
            statement = f"{task} over {result.study.length}: sequences until solved, {scheme}"
            note = (
                f"{int(solved.event.sum())} of {len(solved.event)} converged; the clock of others "
                "stops at the budget"
            )
            band = printed / 3, 3 * printed
            claims.append(make_claim("L1", statement, sequences, f"{printed:,}", band, note))
        statement = f"{task}: times fewer sequences, input gates biased shut against open"
        pair = (result, "paper"), (result, "open_gates")
        claims.append(faster("L1", statement, *pair, "not compared", at_least(1.0)))
    title = "LSTM of 1997: epochs of 1280 sequences until solved"
    return finish(out, studies, results, claims, title)


main = make_main("hochreiter1997", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
