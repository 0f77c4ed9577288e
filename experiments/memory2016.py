"""Arjovsky, Shah & Bengio (2016) and Henaff, Szlam & LeCun (2016): pure memory, orthogonal against
identity.

The questions: what does a network that remembers nothing cost on copy and adding, and do tanh
networks and LSTMs stay there (claims memory2016.A1, memory2016.A2)? Does an orthogonal
initialization solve copy and an identity adding, and not the other way round?

    python experiments/memory2016.py                 quick: copy over 20 and 50, adding over 50, 64 units; minutes
    python experiments/memory2016.py --size smoke    seconds: checks that all of it works
    python experiments/memory2016.py --size paper    copy over 500, adding over 400, 128 units: for an accelerator

Departures: Adam for RMSprop; linear transitions are a linear and a ReLU network here, the latter
since no linear network can multiply a number by its mark.

Expect at quick (2026-11-29, 471 s on 2 cores; all claims and intervals: docs/results.md):
- memory2016.A1: copy over 20: cost without memory less 10 ln 8 / (T + 20): 6.1e-08; at least
  -1e-05: holds; at most 1e-05: holds.
- memory2016.A1: copy over 50: cost without memory less 10 ln 8 / (T + 20): -2.47e-08; at least
  -1e-05: holds; at most 1e-05: holds.
- memory2016.A1: copy over 200: cost without memory less 10 ln 8 / (T + 20): -4.18e-10; at least
  -1e-05: holds; at most 1e-05: holds.
- memory2016.A1: adding: error of always answering 1: 0.166 (0.164 to 0.168); at least 0.163: holds;
  at most 0.17: holds.
- memory2016.A2: tanh, copy over 50, glorot_uniform: 0.999 (0.997 to 1); at least 0.98: holds; at
  most 1.05: holds.
- memory2016.A2: tanh, copy over 50, orthogonal: 0.979 (0.973 to 0.986); at least 0.98: open; at
  most 1.05: holds.
- memory2016.A2: lstm, copy over 50, forget_bias: 0.78 (0.503 to 1.06); at least 0.98: open; at most
  1.05: open.
- memory2016.A2: linear, copy over 20, orthogonal: 0.232 (0.175 to 0.288); at least 0: holds; at
  most 0.3: open.
- and 5 more claims.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxinit.analysis.claims import Claim, make_claim, near
from jaxinit.reproduce import best, finish, make_main, run_all, smoke
from jaxinit.study import Study

COPY = Study(
    model="rnn",
    hidden=64,
    activation="tanh",
    task="copy",
    length=50,
    schemes=("glorot_uniform", "orthogonal"),
    baseline="glorot_uniform",
    optimizer="adam",
    clip=1.0,
    seeds=4,
    epochs=150,
    evaluations=1,
)
PAIR = replace(COPY, schemes=("orthogonal", "identity"), baseline="identity", length=20, epochs=100)


def grown(study: Study) -> Study:
    """The same at full scale."""
    length = 400 if study.task == "adding" else 500
    return replace(study, hidden=128, length=length, seeds=5, epochs=1000)


QUICK = {
    "tanh, copy": COPY,
    "lstm, copy": replace(
        COPY,
        model="lstm",
        activation=None,
        schemes=("forget_bias",),
        baseline="forget_bias",
    ),
    "linear, copy": replace(PAIR, activation="linear"),
    "relu, copy": replace(PAIR, activation="relu"),
    "relu, adding": replace(PAIR, activation="relu", task="adding", length=50),
}
SIZES = {
    "smoke": {name: smoke(study) for name, study in QUICK.items()},
    "quick": QUICK,
    "paper": {name: grown(study) for name, study in QUICK.items()},
}


def reproduce(studies: dict[str, Study], out: Path) -> int:
    results = run_all(studies, out)
    claims = without_memory()
    for setting, scheme, published, band in (
        ("tanh, copy", "glorot_uniform", "stays at the baseline", (0.98, 1.05)),
        ("tanh, copy", "orthogonal", "stays at the baseline", (0.98, 1.05)),
        ("lstm, copy", "forget_bias", "stays at the baseline", (0.98, 1.05)),
        ("linear, copy", "orthogonal", "solves it", (0.0, 0.3)),
        ("linear, copy", "identity", "does not", (0.9, 1.1)),
        ("relu, copy", "orthogonal", "solves it", (0.0, 0.3)),
        ("relu, copy", "identity", "does not", (0.9, 1.1)),
        ("relu, adding", "orthogonal", "does not", (0.9, 1.1)),
        ("relu, adding", "identity", "solves it", (0.0, 0.3)),
    ):
        result = results[setting]
        statement = f"{setting} over {result.study.length}, {scheme}"
        cost = best(result, scheme) / result.records.attrs["chance"]
        note = "lowest validation cost over that without memory"
        claims.append(make_claim("memory2016.A2", statement, cost, published, band, note))
    title = "Pure memory: epochs to 30 % of the cost without memory"
    return finish(out, studies, results, claims, title)


def without_memory() -> list[Claim]:
    """memory2016.A1: the chance levels of the tasks against the printed formulas, of predictors
    that remember nothing."""
    import jax
    import jax.numpy as jnp

    from jaxinit.tasks import TASKS

    claims = []
    for length, printed in ((20, 0.5199), (50, 0.2971), (200, 0.0945)):
        task = TASKS["copy"](length)
        y = task.data["valid_y"]
        # Blanks, the ninth symbol, until the answer is due, then the other eight alike.
        logits = np.full((*y.shape, 9), -1e4, np.float32)
        logits[:, : length + 10, 8] = 0
        logits[:, length + 10 :, :8] = 0
        # Ten symbols of eight are to be guessed, in a sequence of T + 20.
        expected = 10 * math.log(8) / (length + 20)
        error = float(task.loss(jnp.asarray(logits), y)) - expected
        statement = f"copy over {length}: cost without memory less 10 ln 8 / (T + 20)"
        claims.append(
            make_claim(
                "memory2016.A1",
                statement,
                error,
                f"{printed}",
                near(0.0, 1e-5),
                "a float32 mean",
                exact=True,
            )
        )
    task = TASKS["adding"](50)
    tickets = task.tickets(task.data, jax.random.key(0), 40, 1024)
    answers = []
    for ticket in tickets:
        _, sums = task.batch(task.data, ticket)
        answers.append(np.asarray(sums, np.float64))
    error = (np.concatenate(answers) - 1) ** 2
    statement, published = "adding: error of always answering 1", "1/6 = 0.1667 (0.1767 is a slip)"
    claims.append(
        make_claim("memory2016.A1", statement, error, published, (0.163, 0.17), "40,960 examples")
    )
    return claims


main = make_main("memory2016", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
