"""Epochs to convergence for every scheme x (vanilla RNN, LSTM, GRU) x (short, long) x task: the
headline table.

The question: does Xavier cut the epochs needed "by 2 to 10 times" (claim A10), against which start,
in which networks, over which lengths, and how sure is that? Each scheme at its own best rate.

    python experiments/rnn_convergence.py                  quick: 13 cells; minutes on 2 cores
    python experiments/rnn_convergence.py --size smoke     two cells, 16 units, seconds: checks that all of it works
    python experiments/rnn_convergence.py --size paper     512 units, 9 rates, 35 seeds, longer: for an accelerator

The first cell is the main job (`jaxinit run`): 128 tanh units on digits read row by row, SGD, nine
schemes. Others have 32 or 64 units and six schemes: digits by rows (8 steps) and by pixels (64
steps) with SGD, adding over 20 and 60 steps with Adam.

Expect at quick: against a small Gaussian Xavier needs 4.4 times fewer epochs in the main job, at
least 1.6 to 7.7 times in the other vanilla cells but one (digits by rows with 64 units, where one
of five seeds does not arrive), 1.4 and 1.5 times in LSTMs on digits, 3.3 and 4.1 on adding, and 1.9
to 2.3 times in
GRUs: supported in 2 of 13 cells, with a condition in 2, refuted in 2, too noisy to tell in 7. U[0,
1] arrives in GRUs on adding only.
glorot_uniform, xavier_rnn and orthogonal are equally near the best (scores 0.90, 0.88, 0.87),
identity 0.60, the small Gaussian 0.36."""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from jaxinit.analysis import table
from jaxinit.analysis.claims import Claim
from jaxinit.analysis.report import NOT_JUDGED
from jaxinit.reproduce import finish, main_of, rows_of, run_all
from jaxinit.study import Study

MAIN_JOB = Study(
    model="rnn",
    hidden=128,
    activation="tanh",
    task="digits_rows",
    schemes=(
        "uniform01",
        "small_normal",
        "xavier_rnn",
        "glorot_uniform",
        "glorot_normal",
        "he_normal",
        "lecun_normal",
        "orthogonal",
        "identity",
    ),
    lrs=(0.01, 0.03, 0.1, 0.3, 1.0),
    optimizer="sgd",
    seeds=8,
    tune_seeds=3,
    epochs=20,
    baseline="small_normal",
)
OTHERS = replace(
    MAIN_JOB,
    activation=None,
    schemes=("uniform01", "small_normal", "xavier_rnn", "glorot_uniform", "orthogonal", "identity"),
    seeds=5,
    tune_seeds=2,
    evaluations=4,
)
ROWS = replace(OTHERS, hidden=64, epochs=25)
PIXELS = replace(OTHERS, hidden=32, task="digits_pixels", clip=1.0, epochs=40, target=0.7)
RATES = {  # of SGD and of Adam
    "rnn": ((0.03, 0.1, 0.3, 1.0), (0.001, 0.003, 0.01)),
    "lstm": ((0.3, 1.0, 3.0, 10.0), (0.003, 0.01, 0.03)),
    "gru": ((0.3, 1.0, 3.0), (0.003, 0.01, 0.03)),
}
ADDING = replace(
    OTHERS, hidden=32, task="adding", optimizer="adam", clip=1.0, evaluations=2, epochs=40
)
VANILLA_LONGER = (
    3  # times the budget of a vanilla RNN on the longer sums, where gated networks need less
)


def cells(rows: Study, pixels: Study, adding: Study, lengths: tuple[int, int]) -> dict[str, Study]:
    """Every network on every task, short and long."""
    found = {}
    for kind, (sgd, adam) in RATES.items():
        found[f"{kind}, digits by rows, T=8"] = replace(rows, model=kind, lrs=sgd)
        found[f"{kind}, digits by pixels, T=64"] = replace(pixels, model=kind, lrs=sgd)
        for length in lengths:
            longer = VANILLA_LONGER if kind == "rnn" and length == max(lengths) else 1
            found[f"{kind}, adding, T={length}"] = replace(
                adding, model=kind, length=length, lrs=adam, epochs=longer * adding.epochs
            )
    return found


def larger(study: Study) -> Study:
    """The same at full scale."""
    rates = tuple(sorted({rate * factor for rate in study.lrs for factor in (0.1, 0.3, 1.0)}))
    return replace(study, hidden=512, lrs=rates, seeds=30, tune_seeds=5, epochs=5 * study.epochs)


MAIN = "rnn of 128, digits by rows, T=8"
SMOKE = replace(
    OTHERS,
    hidden=16,
    schemes=("small_normal", "xavier_rnn", "orthogonal"),
    lrs=(0.1, 0.3),
    seeds=2,
    epochs=2,
    target=0.5,
)
SIZES: dict[str, dict[str, Study]] = {
    "smoke": {
        "rnn, digits by rows, T=8": SMOKE,
        "gru, digits by rows, T=8": replace(SMOKE, model="gru"),
    },
    "quick": {MAIN: MAIN_JOB} | cells(ROWS, PIXELS, ADDING, (20, 60)),
    "paper": {
        name: larger(study)
        for name, study in ({MAIN: MAIN_JOB} | cells(ROWS, PIXELS, ADDING, (100, 400))).items()
    },
}


def measure(studies: dict[str, Study], out: Path) -> int:
    """Every cell as a study, the claims of each, and how often each scheme is near the best."""
    results = run_all(studies, out)
    rows = rows_of(results)
    claims = []
    for name, result in results.items():
        claims += [
            claim | {"statement": f"{name}: {claim['statement']}"}
            for claim in result.summary["claims"]
        ]
    for baseline in ("small_normal", "uniform01"):
        print(answer(claims, baseline))
    scores = table.profile_scores(rows)
    for scheme, score in scores.items():
        print(
            f"score of {scheme:15} {score:.2f}: area under its performance profile over "
            f"{len(results)} cells, r_max 4"
        )
    return finish(
        out, rows, claims, studies, "Epochs to convergence, every scheme and network", scores=scores
    )


def answer(claims: list[Claim], baseline: str) -> str:
    """A10 in a line: in how many cells Xavier is how many times faster than a baseline, and how
    sure that is."""
    mine = [claim for claim in claims if claim["statement"].endswith(f"against {baseline})")]
    count = Counter(claim["verdict"] or NOT_JUDGED for claim in mine)
    exact = [claim["measured"] for claim in mine if claim.get("measured_is") == "="]
    spread = f"{min(exact):.2g} to {max(exact):.2g} times" if exact else "no ratio"
    verdicts = ", ".join(f"{verdict} in {n}" for verdict, n in count.most_common())
    return (
        f"A10 against {baseline}, {len(mine)} cells: {verdicts}; {spread} in the {len(exact)} "
        "where all seeds arrived"
    )


main = main_of("rnn_convergence", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
