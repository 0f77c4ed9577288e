"""The bias of the time steps of a linear recurrence: what three starts that libraries have had cost
(claim D6).

The questions: how long does a gated linear recurrence remember before training, from the right
start (time steps log-uniform on [0.001, 0.1] behind a softplus) and from faulty ones
(time_constants.half_life)? How many times fewer epochs does the right one need on adding, copy and
text (time_constants.epochs)? And does a wrong `dt_bias` reverse the ranking of two architectures,
here this one and an LSTM (D6)?

    python experiments/time_constants.py                 quick: 32 units, adding over 50, copy over 10, short text; minutes
    python experiments/time_constants.py --size smoke    seconds: checks that all of it works
    python experiments/time_constants.py --size paper    128 units, adding over 200, copy over 100: for an accelerator

The starts: `dt_bias_1` and `dt_bias_0` are constants (Mamba-2 as two libraries had it: Hugging
Face's issue 43717, flash-linear-attention's pull request 739); `squared_dt` is the inverse softplus
taken of log dt instead of dt, so that the softplus gives dt^2 (spyx's pull request 42). A bias of
log dt, without any inverse (TensorRT-LLM's pull request 17793), is an approximation, and only its
half-life is measured. All have the same rates A ~ U[1, 16] and the same kernels.

On copy the target is half of the cost without memory. Each start is at its own best rate.

Departures: one layer, one state a unit, an LSTM for the other architecture; not at the published
scale.

Expect at quick (2026-11-29, 148 s on 2 cores; all claims and intervals: docs/results.md):
- time_constants.half_life: mamba: half-life of a unit before training, in steps: 9.81 (9.77 to
  9.86); at least 9.3: holds; at most 10.3: holds.
- time_constants.half_life: dt_bias_1: half-life of a unit before training, in steps: 0.062 (0.0619
  to 0.0622); at least 0.059: holds; at most 0.0652: holds.
- time_constants.half_life: dt_bias_0: half-life of a unit before training, in steps: 0.118 (0.117
  to 0.118); at least 0.112: holds; at most 0.124: holds.
- time_constants.half_life: squared_dt: half-life of a unit before training, in steps: 987 (977 to
  997); at least 930: holds; at most 1.03e+03: holds.
- time_constants.half_life: log_dt: half-life of a unit before training, in steps: 9.88 (9.83 to
  9.92); at least 9.3: holds; at most 10.3: holds.
- time_constants.half_life: dt: half-life of a unit before training, in steps: 0.116 (0.116 to
  0.116); at least 0.112: holds; at most 0.124: holds.
- time_constants.epochs: glr, adding over 50: times fewer epochs, log-uniform time steps against
  dt_bias_1: 2.14 (1.68 to 2.6); at least 1: holds.
- time_constants.epochs: glr, adding over 50: times fewer epochs, log-uniform time steps against
  dt_bias_0: 1.77 (1.44 to 2.13); at least 1: holds.
- and 19 more claims.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Key

from jaxinit import theory
from jaxinit.analysis.claims import Claim, at_least, at_most, make_claim, near
from jaxinit.initializers import constant
from jaxinit.initializers.sampling import sampled_wide
from jaxinit.introspect import functional
from jaxinit.models import GLR
from jaxinit.reproduce import (
    Results,
    faster,
    finish,
    make_main,
    run_all,
    seeds_of_run,
    short_text,
    smoke,
)
from jaxinit.schemes import mamba
from jaxinit.spec import Initializer, Override, Sampler, Scheme, draw
from jaxinit.study import Study

LOW, HIGH = 1e-3, 0.1  # of the time steps of the right start
UNITS, DRAWS = 2**16, 8  # of which half-lives are measured


def of_log_dt(bias: Callable[[Array], Array]) -> Sampler:
    """A bias of the time steps that is a function of log dt, uniform as in the right start."""

    def sample(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        log_dt = jax.random.uniform(key, shape, dtype, math.log(LOW), math.log(HIGH))
        return bias(log_dt)

    return sampled_wide(sample)


def inverse_of_log(log_dt: Array) -> Array:
    """x + log(1 - e^-x), the inverse softplus of x = dt, but for its first term, which is log dt: so
    that the softplus gives dt^2."""
    return log_dt + jnp.log(-jnp.expm1(-jnp.exp(log_dt)))


def unconverted(log_dt: Array) -> Array:
    return log_dt


FAULTY: dict[str, Initializer] = {
    "dt_bias_1": constant(1.0),
    "dt_bias_0": constant(0.0),
    "squared_dt": of_log_dt(inverse_of_log),
}
# What is measured before training only.
APPROXIMATE: dict[str, Initializer] = {"log_dt": of_log_dt(unconverted), "dt": of_log_dt(jnp.exp)}


def with_steps(bias: Initializer) -> Scheme:
    """The right start but for the bias of its time steps."""
    return Override(mamba(LOW, HIGH), {"step_bias": bias})


STARTS: dict[str, Scheme] = {"mamba": mamba(LOW, HIGH)}
for name, bias in (FAULTY | APPROXIMATE).items():
    STARTS[name] = with_steps(bias)
TRAINED = ("mamba", *FAULTY)

ADDING = Study(
    model="glr",
    hidden=32,
    task="adding",
    length=50,
    schemes=TRAINED,
    baseline="mamba",
    optimizer="adam",
    clip=1.0,
    seeds=5,
    epochs=30,
    evaluations=4,
)


def copying(length: int) -> Study:
    """Copy, to half of what it costs who remembers nothing, 10 ln 8 / (length + 20)."""
    target = 5 * math.log(8) / (length + 20)
    return replace(
        ADDING,
        task="copy",
        length=length,
        target=target,
        epochs=40,
        evaluations=2,
    )


TEXT = replace(ADDING, task="short_text", length=None, epochs=20, evaluations=2)


def both(*tasks: Study) -> dict[str, Study]:
    """Every task with a gated linear recurrence and with an LSTM."""
    of_lstm = {"model": "lstm", "schemes": ("forget_bias",), "baseline": "forget_bias"}
    studies = {}
    for study in tasks:
        length = f" over {study.length}" if study.length else ""
        where = f"{study.task.replace('_', ' ')}{length}"
        studies[f"glr, {where}"] = study
        studies[f"lstm, {where}"] = replace(study, **of_lstm)
    return studies


SIZES = {
    "smoke": both(smoke(ADDING)),
    "quick": both(ADDING, copying(10), TEXT),
    "paper": both(
        replace(ADDING, hidden=128, length=200, seeds=20, epochs=400),
        replace(copying(100), hidden=128, seeds=20, epochs=1000),
        replace(TEXT, hidden=128, seeds=20, epochs=100),
    ),
}


def compare(studies: dict[str, Study], out: Path) -> int:
    claims = before_training()
    starts = {name: STARTS[name] for name in TRAINED}
    results = run_all(studies, out, schemes=starts, tasks={"short_text": short_text})
    claims += of_the_starts(results) + of_the_ranking(results)
    return finish(out, studies, results, claims, "Time constants: epochs to target")


def before_training() -> list[Claim]:
    """time_constants.half_life: in how many steps half of a state is lost, median over units."""
    known = {
        "mamba": (theory.median_half_life(LOW, HIGH), "9.9"),
        "dt_bias_1": (float(theory.glr_half_life(1.0, math.log(8.5))), "0.062"),
        "dt_bias_0": (float(theory.glr_half_life(0.0, math.log(8.5))), "0.12"),
        "squared_dt": (theory.median_half_life(LOW**2, HIGH**2), "999"),
        "log_dt": (theory.median_half_life(LOW, HIGH), "within 5 % of the inverse softplus"),
        "dt": (float(theory.glr_half_life(0.0, math.log(8.5))), "not said"),
    }
    claims = []
    for start, (expected, published) in known.items():
        statement = f"{start}: half-life of a unit before training, in steps"
        note = f"median of {UNITS} units; by theory {expected:.3g}"
        band = near(expected, 0.05 * expected)
        values = half_lives(STARTS[start])
        claims.append(
            make_claim("time_constants.half_life", statement, values, published, band, note)
        )
    return claims


def half_lives(scheme: Scheme) -> np.ndarray:
    """The median half-life of a layer's units, as a scheme draws them: `[seed]`."""
    model = functional(lambda: GLR(1, UNITS, 1, rngs=nnx.Rngs(0)))
    constants = [leaf for leaf in model.leaves if leaf.role in ("step_bias", "log_rate")]
    medians = []
    for seed in seeds_of_run(DRAWS):
        drawn = draw(scheme, jax.random.key(seed), constants)
        bias, rate = (np.asarray(drawn[f"layers.0.{name}"]) for name in ("step_bias", "log_rate"))
        medians.append(np.median(theory.glr_half_life(bias, rate)))
    return np.asarray(medians)


def of_the_starts(results: Results) -> list[Claim]:
    """time_constants.epochs: how many times fewer epochs the right start needs than a faulty one."""
    of_glr = {name: result for name, result in results.items() if name.startswith("glr")}
    claims = []
    for name, result in of_glr.items():
        for fault in FAULTY:
            claims.append(
                faster(
                    "time_constants.epochs",
                    f"{name}: times fewer epochs, log-uniform time steps against {fault}",
                    (result, "mamba"),
                    (result, fault),
                    "the difference is significant (Mamba-2, 7B parameters)",
                    at_least(1.0),
                    family=len(of_glr) * len(FAULTY),
                )
            )
    return claims


def of_the_ranking(results: Results) -> list[Claim]:
    """D6: a linear recurrence before an LSTM from the right start, and behind it from a faulty one."""
    bands = {"mamba": at_least(1.0)} | dict.fromkeys(FAULTY, at_most(1.0))
    of_glr = {name: result for name, result in results.items() if name.startswith("glr")}
    claims = []
    for name, result in of_glr.items():
        against = results[name.replace("glr", "lstm")], "forget_bias"
        for start, band in bands.items():
            claims.append(
                faster(
                    "D6",
                    f"{name}: times fewer epochs, glr from {start} against an LSTM",
                    (result, start),
                    against,
                    "a wrong dt_bias reverses the ranking",
                    band,
                    family=len(of_glr) * len(bands),
                )
            )
    return claims


main = make_main("time_constants", __doc__, SIZES, compare)

if __name__ == "__main__":
    sys.exit(main())
