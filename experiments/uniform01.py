"""Uniform [0, 1] weights in a recurrent network: which sentence of the folklore is right (claims A4
to A7)?

A4: mean 0.5, variance 1/12, drift. A5: at 512 units the variance "is too small, so signals vanish
quickly". A6: at 1000 units the summed inputs overwhelm the next layer, in small layers they
underflow. A7: it may work on toys and fails at scale, with an exploding loss or NaN.
uniform01.A3: the spectral radius is n times the mean. uniform01.A10: Xavier is 2 to 10 times
faster.

    python experiments/uniform01.py                 quick: 4 to 1000 units, 1 to 100 steps; minutes on 2 cores
    python experiments/uniform01.py --size smoke    seconds: checks that all of it works
    python experiments/uniform01.py --size paper    more seeds and a wider grid of rates: for an accelerator

Expect at quick (2026-11-29, 98 s on 2 cores; all claims and intervals: docs/results.md):
- A4: 4 units: mean of the weights: 0.509 (0.476 to 0.542); at least 0.45: holds; at most 0.55:
  open.
- A4: 4 units: variance of the weights: 0.0746 (0.0623 to 0.0868); at least 0.078: open; at most
  0.089: open.
- A6: 4 units: mean summed recurrent input of a unit at the last step: 1.89 (1.72 to 2.07); at least
  0: holds; at most 0.1: does not hold.
- A5: 512 units: root mean square of the state after 100 steps: 1 (1 to 1); at least 0: holds; at
  most 0.1: does not hold.
- A5: 512 units: decades that the gradient loses from the readout to the last state's sum (18: all):
  20.7 (20.7 to 20.7); at least 1: holds.
- uniform01.A3: 512 units: spectral radius over n/2: 1 (1 to 1); at least 0.95: holds; at most 1.05:
  holds.
- A4: 1000 units: mean of the weights: 0.5 (0.5 to 0.5); at least 0.45: holds; at most 0.55: holds.
- A4: 1000 units: variance of the weights: 0.0834 (0.0833 to 0.0834); at least 0.078: holds; at most
  0.089: holds.
- and 19 more claims.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, make_claim, near
from jaxinit.analysis.figure import saved_figure, tick_at
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import by_rate_and_seed
from jaxinit.analysis.store import Result
from jaxinit.reproduce import best, faster, finish, make_main, run_all, smoke
from jaxinit.study import Study

BEFORE = Study(
    model="rnn",
    activation="tanh",
    task="adding",
    length=100,
    schemes=("uniform01",),
    baseline="uniform01",
    seeds=8,
)
TRAINED = Study(
    model="rnn",
    activation="tanh",
    schemes=("uniform01", "glorot_uniform"),
    baseline="uniform01",
    lrs=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    seeds=5,
    tune_seeds=2,
    epochs=20,
    evaluations=2,
    target=0.8,
)
FLOOR = 1e-18  # below it float32 squares are 0


@dataclass(frozen=True)
class Size:
    """Units that are looked at before training, the network looked at, and the studies trained."""

    units: tuple[int, ...]
    before: Study
    studies: dict[str, Study]


def trained(base: Study, units: tuple[int, ...], pixels: int) -> dict[str, Study]:
    studies = {f"{n} units, T=8": replace(base, hidden=n) for n in units}
    by_pixels = replace(base, hidden=pixels, task="digits_pixels", target=0.5)
    return studies | {f"{pixels} units, T=64": by_pixels}


SIZES = {
    "smoke": Size(
        (4, 32), smoke(BEFORE), trained(smoke(TRAINED, lrs=(0.01, 0.1), target=0.3), (4,), 8)
    ),
    "quick": Size((4, 32, 128, 512, 1000), BEFORE, trained(TRAINED, (4, 16, 64, 256), 32)),
    "paper": Size(
        (4, 32, 128, 512, 1000, 4000),
        replace(BEFORE, seeds=10, length=1000),
        trained(replace(TRAINED, seeds=20, epochs=100), (4, 16, 64, 256, 1024), 256),
    ),
}


def answer(size: Size, out: Path) -> int:
    rows, claims = [], []
    for n in size.units:
        signals = before_training(replace(size.before, hidden=n), out / f"before_training-{n}")
        means = {name: float(np.mean(by_seed)) for name, by_seed in signals.items()}
        rows.append({"units": n} | means)
        claims += on_signals(size, n, signals)
    for row in rows:
        numbers = [f"{name} {value:.4g}" for name, value in row.items()]
        print("  ".join(numbers))
    draw(rows, out / "figures")
    results = run_all(size.studies, out)
    for name, result in results.items():
        claims += on_training(name, result, len(results))
    title = "U[0, 1] against Xavier: epochs to target"
    return finish(out, size.studies, results, claims, title, before_training=rows)


def before_training(study: Study, out: Path) -> dict[str, np.ndarray]:
    """What U[0, 1] does to signals and gradients at one width: numbers by seed."""
    from jaxinit.engine.survey import survey

    signals = survey(study, out=out).sel(scheme="uniform01")
    recurrent = signals.sel(parameter="layers.0.recurrent").isel(copy=0)
    readout = signals.sel(parameter="readout.kernel")
    mean = recurrent.weight_mean.isel(step=0)
    variance = recurrent.weight_mean_square.isel(step=0) - mean**2
    sums = recurrent.product_mean.transpose("seed", "step").values
    gradients = np.sqrt(recurrent.gradient_mean_square).transpose("seed", "step").values
    into_readout = np.sqrt(readout.gradient_mean_square.max(("step", "copy")).values)
    last_state = readout.activation_mean_square.mean(("step", "copy"))
    return {
        "weight_mean": mean.values,
        "weight_variance": variance.values,
        "spectral_radius": recurrent.recurrent_radius.values,
        # The first sum is of the states before the first step, which are 0.
        "summed_input_step_2": sums[:, min(1, sums.shape[1] - 1)],
        "summed_input_last": sums[:, -1],
        "state_rms_last": np.sqrt(last_state.values),
        "saturated_last": readout.activation_saturated.mean(("step", "copy")).values,
        "gradient_decades_lost": -np.log10(np.maximum(gradients[:, -1], FLOOR) / into_readout),
    }


def on_signals(size: Size, n: int, signals: dict[str, np.ndarray]) -> list[Claim]:
    """A4 to A6 and uniform01.A3, at the widths that they speak of."""
    steps = size.before.length
    note = f"{steps} steps, adding, before training"
    claims = []
    if n in (size.units[0], size.units[-1]):
        statement, values = f"{n} units: mean of the weights", signals["weight_mean"]
        claims.append(make_claim("A4", statement, values, "0.5", (0.45, 0.55), note))
        statement, values = f"{n} units: variance of the weights", signals["weight_variance"]
        claims.append(make_claim("A4", statement, values, "1/12 = 0.0833", (0.078, 0.089), note))
        statement = f"{n} units: mean summed recurrent input of a unit at the last step"
        published, band = "underflows", (0.0, 0.1)
        if n > 100:
            published, band = "overwhelms", at_least(10.0)
        claims.append(
            make_claim("A6", statement, signals["summed_input_last"], published, band, note)
        )
    if n in (512, size.units[-1]):  # A5 speaks of 512 units
        statement = f"{n} units: root mean square of the state after {steps} steps"
        state = signals["state_rms_last"]
        claims.append(make_claim("A5", statement, state, "signals vanish", (0.0, 0.1), note))
        statement = (
            f"{n} units: decades that the gradient loses from the readout to the last state's "
            "sum (18: all)"
        )
        lost = signals["gradient_decades_lost"]
        claims.append(
            make_claim("A5", statement, lost, "vanish quickly", at_least(1.0), "by saturation")
        )
        statement = f"{n} units: spectral radius over n/2"
        radius = signals["spectral_radius"] / (n / 2)
        claims.append(
            make_claim(
                "uniform01.A3", statement, radius, "n times the mean, 0.5", near(1.0, 0.05), note
            )
        )
    return claims


def on_training(name: str, result: Result, family: int) -> list[Claim]:
    """A7 and uniform01.A10: what U[0, 1] reaches, whether it diverges, and how much sooner Xavier
    is there, one of a `family` of such networks."""
    toy = result.study.hidden <= 16 and "T=8" in name
    published, band = "fails at scale", (0.0, 0.3)
    if toy:
        published, band = "may work on toys", (0.5, 1.0)
    statement = f"{name}: best accuracy under U[0, 1], chance 0.1"
    accuracy = best(result, "uniform01")
    note = "each at its best of eight rates"
    reached = make_claim("A7", statement, accuracy, published, band, note)
    tuning = by_rate_and_seed(result.records, "uniform01", "tune")
    diverges = (tuning.outcome == Outcome.DIVERGED).values.ravel()
    statement = f"{name}: share of trials of U[0, 1], at eight rates, that diverge"
    diverged = make_claim("A7", statement, diverges, "exploding loss or NaN", (0.5, 1.0))
    pair = (result, "glorot_uniform"), (result, "uniform01")
    statement = f"{name}: times fewer epochs, Xavier"
    faster_by = faster("uniform01.A10", statement, *pair, "2 to 10", (2.0, 10.0), family=family)
    return [reached, diverged, faster_by]


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Summed inputs, states, and gradients against the number of units."""
    units = [row["units"] for row in rows]
    quantities = (
        ("summed_input_last", "summed recurrent input, mean", "log"),
        ("state_rms_last", "state: root mean square", "linear"),
        ("saturated_last", "share of states saturated", "linear"),
        ("gradient_decades_lost", "decades of gradient lost in one state", "linear"),
    )
    title = "A vanilla tanh RNN under U[0, 1], last step of adding, before training"
    with saved_figure(folder, "by_units", title, size=(11, 2.8), columns=4) as panels:
        for axes, (quantity, label, scale) in zip(panels, quantities, strict=True):
            axes.plot(units, [row[quantity] for row in rows], "o-", color="black", markersize=4)
            axes.set(xscale="log", yscale=scale, xlabel="units", ylabel=label)
            tick_at(axes, units)
            axes.tick_params("x", labelsize=7, rotation=45)
        sums = panels[0]
        # States of 1 and weights of mean 0.5.
        saturated = [n / 2 for n in units]
        sums.plot(units, saturated, color="0.4", ls=":", label="n/2: all states at 1")
        sums.legend(frameon=False, fontsize=7)


main = make_main("uniform01", __doc__, SIZES, answer)

if __name__ == "__main__":
    sys.exit(main())
