"""Epochs to convergence for every scheme x (vanilla RNN, LSTM, GRU) x (short, long) x task: the
headline table.

The question: does Xavier cut the epochs needed "by 2 to 10 times" (claim A10), against which
initialization, in which networks, over which lengths, and how sure is that? Each scheme at its own
best rate.

    python experiments/rnn_convergence.py                  quick: 13 settings; minutes on 2 cores
    python experiments/rnn_convergence.py --size smoke     two settings, 16 units, seconds: checks that all of it works
    python experiments/rnn_convergence.py --size paper     512 units, 30 seeds, longer: for an accelerator

The first setting is the main job (`jaxinit run`): 128 tanh units on digits read row by row, SGD,
nine schemes. Others have 32 or 64 units and six schemes: digits by rows (8 steps) and by pixels (64
steps) with SGD, adding over 20 and 40 steps with Adam.

Expect at quick (2026-11-29, 457 s on 2 cores; all claims and intervals: docs/results.md):
- A10.small_normal: rnn of 128, digits by rows, T=8: Xavier cuts the epochs needed to converge by 2
  to 10 times in deep and recurrent networks (xavier_rnn against small_normal): 3.96 (3.4 to 4.53);
  at least 2: holds; at most 10: holds.
- A10.uniform01: rnn of 128, digits by rows, T=8: Xavier cuts the epochs needed to converge by 2 to
  10 times in deep and recurrent networks (xavier_rnn against uniform01): at least 6.73; at least 2:
  holds; at most 10: open.
- A10.small_normal: rnn, digits by rows, T=8: Xavier cuts the epochs needed to converge by 2 to 10
  times in deep and recurrent networks (xavier_rnn against small_normal): 2.84 (2.04 to 3.42); at
  least 2: open; at most 10: holds.
- A10.uniform01: rnn, digits by rows, T=8: Xavier cuts the epochs needed to converge by 2 to 10
  times in deep and recurrent networks (xavier_rnn against uniform01): at least 4.55; at least 2:
  open; at most 10: open.
- A10.small_normal: rnn, digits by pixels, T=64: Xavier cuts the epochs needed to converge by 2 to
  10 times in deep and recurrent networks (xavier_rnn against small_normal): no estimate; at least
  2: open; at most 10: open.
- A10.uniform01: rnn, digits by pixels, T=64: Xavier cuts the epochs needed to converge by 2 to 10
  times in deep and recurrent networks (xavier_rnn against uniform01): no estimate; at least 2:
  open; at most 10: open.
- A10.small_normal: rnn, adding, T=20: Xavier cuts the epochs needed to converge by 2 to 10 times in
  deep and recurrent networks (xavier_rnn against small_normal): at least 5.78; at least 2: holds;
  at most 10: open.
- A10.uniform01: rnn, adding, T=20: Xavier cuts the epochs needed to converge by 2 to 10 times in
  deep and recurrent networks (xavier_rnn against uniform01): at least 4.55; at least 2: open; at
  most 10: open.
- and 18 more claims.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from jaxinit.analysis.claims import IN_WORDS, Claim, judge
from jaxinit.analysis.summary import comparisons_of
from jaxinit.analysis.table import profile_scores
from jaxinit.reproduce import finish, make_main, rows_of, run_all, smoke
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
    optimizer="sgd",
    seeds=8,
    epochs=20,
    baseline="small_normal",
)
OTHERS = replace(
    MAIN_JOB,
    activation=None,
    schemes=("uniform01", "small_normal", "xavier_rnn", "glorot_uniform", "orthogonal", "identity"),
    seeds=5,
)
ROWS = replace(OTHERS, hidden=64, epochs=25)
PIXELS = replace(OTHERS, hidden=32, task="digits_pixels", clip=1.0, epochs=40, target=0.7)
NETWORKS = ("rnn", "lstm", "gru")
ADDING = replace(
    OTHERS, hidden=32, task="adding", optimizer="adam", clip=1.0, evaluations=2, epochs=40
)
# Times the budget of a vanilla RNN on the longer sums, where gated networks need less.
VANILLA_LONGER = 3


def settings(
    rows: Study, pixels: Study, adding: Study, lengths: tuple[int, int]
) -> dict[str, Study]:
    """Every network on every task, short and long."""
    studies = {}
    for kind in NETWORKS:
        studies[f"{kind}, digits by rows, T=8"] = replace(rows, model=kind)
        studies[f"{kind}, digits by pixels, T=64"] = replace(pixels, model=kind)
        for length in lengths:
            sums = replace(adding, model=kind, length=length)
            if kind == "rnn" and length == max(lengths):
                sums = replace(sums, epochs=VANILLA_LONGER * sums.epochs)
            studies[f"{kind}, adding, T={length}"] = sums
    return studies


def larger(study: Study) -> Study:
    """The same at full scale."""
    return replace(study, hidden=512, seeds=30, epochs=5 * study.epochs)


MAIN = "rnn of 128, digits by rows, T=8"
LONGER = {MAIN: MAIN_JOB} | settings(ROWS, PIXELS, ADDING, (100, 400))
SMOKE = smoke(OTHERS, lrs=(0.1, 0.3), target=0.5)
SIZES: dict[str, dict[str, Study]] = {
    "smoke": {
        "rnn, digits by rows, T=8": SMOKE,
        "gru, digits by rows, T=8": replace(SMOKE, model="gru"),
    },
    "quick": {MAIN: MAIN_JOB} | settings(ROWS, PIXELS, ADDING, (20, 40)),
    "paper": {name: larger(study) for name, study in LONGER.items()},
}


def measure(studies: dict[str, Study], out: Path) -> int:
    """Every setting as a study, the claims of each, and how often each scheme is near the best."""
    results = run_all(studies, out)
    claims = []
    # Read together, they are settled together.
    family = sum(len(comparisons_of(result.study)) for result in results.values())
    for name, result in results.items():
        for own in judge(result.records, comparisons_of(result.study), family=family):
            claims.append(own | {"statement": f"{name}: {own['statement']}"})
    for baseline in ("small_normal", "uniform01"):
        print(answer(claims, baseline))
    rows = rows_of(results)
    scores = profile_scores(rows)
    for scheme, score in scores.items():
        print(
            f"score of {scheme:15} {score:.2f}: area under its performance profile over "
            f"{len(results)} settings, r_max 4"
        )
    title = "Epochs to convergence, every scheme and network"
    return finish(out, studies, results, claims, title, scores=scores)


def answer(claims: list[Claim], baseline: str) -> str:
    """A10 in a line: in how many settings Xavier is how many times faster than a baseline, and how
    sure that is."""
    # The claims are the studies' own, whose statements end with what they compare.
    own = [claim for claim in claims if claim["statement"].endswith(f"against {baseline})")]
    verdicts = []
    for part in own[0]["parts"] if own else ():
        counts = Counter(IN_WORDS[claim["parts"][part]] for claim in own)
        verdicts.append(f"{part} {', '.join(f'{words} in {n}' for words, n in counts.items())}")
    exact = [claim["measured"] for claim in own if claim.get("measured_is") == "="]
    spread = "no ratio"
    if exact:
        spread = f"{min(exact):.2g} to {max(exact):.2g} times"
    return (
        f"A10 against {baseline}, {len(own)} settings: {'; '.join(verdicts)}; {spread} in the {len(exact)} "
        "where all seeds converged"
    )


main = make_main("rnn_convergence", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
