"""Zaremba, Sutskever & Vinyals (2014), "Recurrent neural network regularization": range of the
initialization, dropout.

The questions: how does the range r of U(-r, r) for all parameters rank in an LSTM language model
(the paper uses 0.1, 0.05, 0.04), and does dropout on the non-recurrent connections only help (Z1,
claim A14)?

    python experiments/zaremba2014.py                 quick: two layers of 64 on the embedded text; minutes on 2 cores
    python experiments/zaremba2014.py --size smoke    seconds: checks that all of it works
    python experiments/zaremba2014.py --size paper    two layers of 200 on the Penn Treebank, which you must supply

States are carried from batch to batch, the gradient is cut every 20 steps and clipped at norm 5,
SGD, as in the paper. Departures: one-hot inputs in place of an embedding at quick, whole rates in
place of its schedule, characters in place of words at quick: the number 114.5 (test perplexity,
small network) can only be approached at paper.

Expect at quick (2026-11-29, 223 s on 2 cores; all claims and intervals: docs/results.md):
- Z1: times fewer epochs, r=0.1 against r=0.01: at least 1.63; at least 1.05: holds.
- Z1: times fewer epochs, r=0.1 against r=0.04: 1.28 (1.06 to 1.9); at least 1.05: open.
- Z1: times fewer epochs, r=0.1 against r=0.3: 0.843 (0.744 to 1.26); at least 1.05: open.
- Z1: times fewer epochs, r=0.1 against r=1: at least 1.52; at least 1.05: holds.
- Z1: times fewer epochs, r=0.1 against glorot_uniform: 0.886 (0.642 to 1.3); at least 1.05: open.
- A14: r=0.1: times fewer epochs, dropout of 0.2 on non-recurrent connections: 1.09 (0.741 to 1.19);
  at least 1: open.
"""

import sys
from dataclasses import replace
from pathlib import Path

from jaxinit.analysis.claims import at_least
from jaxinit.reproduce import faster, finish, make_main, run_all, smoke
from jaxinit.schemes import zaremba
from jaxinit.study import Study

RANGES = {f"r={limit:g}": zaremba(limit) for limit in (0.01, 0.04, 0.1, 0.3, 1.0)}
PLAIN = Study(
    model="lstm",
    layers=2,
    hidden=64,
    task="text",
    length=20,
    schemes=(*RANGES, "glorot_uniform"),
    baseline="r=0.1",
    optimizer="sgd",
    clip=5.0,
    stateful=True,
    seeds=5,
    epochs=8,
    evaluations=4,
    batch=20,
    target=2.6,
)
SMALL = replace(
    PLAIN,
    hidden=200,
    task="penn_treebank",
    embedding=200,
    epochs=40,
    target=125.0,
)
QUICK = {"no dropout": PLAIN, "dropout 0.2": replace(PLAIN, schemes=("r=0.1",), dropout=0.2)}
SIZES = {
    "smoke": {name: smoke(study) for name, study in QUICK.items()},
    "quick": QUICK,
    "paper": {"no dropout": SMALL, "dropout 0.2": replace(SMALL, dropout=0.2)},
}


def reproduce(studies: dict[str, Study], out: Path) -> int:
    results = run_all(studies, out, schemes=RANGES)
    plain, dropped = results["no dropout"], results["dropout 0.2"]
    claims, others = [], len(plain.study.schemes) - 1
    for scheme in plain.study.schemes:
        if scheme == "r=0.1":
            continue
        statement = f"times fewer epochs, r=0.1 against {scheme}"
        pair = (plain, "r=0.1"), (plain, scheme)
        published = "not compared"
        if scheme in RANGES:
            published = "0.1 for the small network"
        claims.append(faster("Z1", statement, *pair, published, at_least(1.05), family=others))
    metric = plain.records.attrs["metric_name"]
    # Trials stop at the target, long before they overfit at quick: what dropout does to the speed.
    statement = "r=0.1: times fewer epochs, dropout of 0.2 on non-recurrent connections"
    pair = (dropped, "r=0.1"), (plain, "r=0.1")
    published = "helps medium and large networks"
    claims.append(faster("A14", statement, *pair, published, at_least(1.0)))
    title = f"Range of the initialization: epochs to {metric} {plain.records.attrs['target']:g}"
    return finish(out, studies, results, claims, title)


main = make_main("zaremba2014", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
