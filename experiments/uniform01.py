"""Uniform [0, 1] weights in a recurrent network: which sentence of the folklore is right (claims A4
to A7)?

A4: mean 0.5, variance 1/12, drift. A5: at 512 units the variance "is too small, so signals vanish
quickly". A6: at 1000 units the summed inputs overwhelm the next layer, in small layers they
underflow. A7: it may work on toys and fails at scale, with an exploding loss or NaN.

    python experiments/uniform01.py                 quick: 4 to 1000 units, 1 to 100 steps; minutes on 2 cores
    python experiments/uniform01.py --size smoke    seconds: checks that all of it works
    python experiments/uniform01.py --size paper    more seeds and a wider grid of rates: for an accelerator

Expect at quick: the sums of 1000 units are 500 and those of 4 units 1.9 (overwhelm: right;
underflow: wrong); the state saturates instead of vanishing, and its gradient is lost in one step
from 32 units on (A5:
wrong for states, right for gradients, by saturation, not by a small variance); U[0, 1] reaches 63 %
of accuracy with 4 units, 21 % with 64 or 256, and no trial explodes at any of eight rates:
saturated units stop learning, they do not blow up (A7).
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, make_claim
from jaxinit.analysis.outcome import Outcome
from jaxinit.reproduce import best, faster, finish, main_of, rows_of, run_all
from jaxinit.study import Study

START = Study(
    model="rnn",
    activation="tanh",
    task="adding",
    length=100,
    schemes=("uniform01",),
    baseline="uniform01",
    seeds=3,
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
    start: Study
    studies: dict[str, Study]


def trained(base: Study, units: tuple[int, ...], pixels: int) -> dict[str, Study]:
    found = {f"{n} units, T=8": replace(base, hidden=n) for n in units}
    return found | {
        f"{pixels} units, T=64": replace(base, hidden=pixels, task="digits_pixels", target=0.5)
    }


SIZES = {
    "smoke": Size(
        (4, 32),
        replace(START, length=10, seeds=2),
        trained(replace(TRAINED, lrs=(0.01, 0.1), seeds=2, epochs=1, target=0.3), (4,), 8),
    ),
    "quick": Size((4, 32, 128, 512, 1000), START, trained(TRAINED, (4, 16, 64, 256), 32)),
    "paper": Size(
        (4, 32, 128, 512, 1000, 4000),
        replace(START, seeds=10, length=1000),
        trained(replace(TRAINED, seeds=20, epochs=100), (4, 16, 64, 256, 1024), 256),
    ),
}


def answer(size: Size, out: Path) -> int:
    from jaxinit.engine import sweep

    sweep.one_device_per_core()
    sweep.keep_compilations()
    rows, claims = before_training(size, out)
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    results = run_all(size.studies, out)
    for name, result in results.items():
        records = result.records
        reached = best(result, "uniform01")
        scale = "toy" if result.study.hidden <= 16 and "T=8" in name else "scale"
        what = f"{name}: best accuracy under U[0, 1], chance 0.1"
        band = (0.5, 1.0) if scale == "toy" else (0.0, 0.3)
        published = "may work on toys" if scale == "toy" else "fails at scale"
        claims.append(
            make_claim("A7", what, reached, published, band, "each at its best of eight rates")
        )
        tuning = records.sel(scheme="uniform01").isel(
            seed=np.flatnonzero(records.phase.values == "tune")
        )
        share = (tuning.outcome.values == Outcome.DIVERGED).mean(1)
        what = (
            f"{name}: share of rates at which some trial of U[0, 1] diverges (exploding loss or "
            "NaN)"
        )
        claims.append(
            make_claim(
                "A7", what, float((share > 0).mean()), "exploding loss or NaN", (0.5, 1.0), ""
            )
        )
        pair = (result, "glorot_uniform"), (result, "uniform01")
        claims.append(
            faster("A10", f"{name}: times fewer epochs, Xavier", *pair, "2 to 10", (2.0, 10.0))
        )
    draw(rows, out / "figures")
    return finish(
        out,
        rows_of(results),
        claims,
        size.studies,
        "U[0, 1] against Xavier: epochs to target",
        before_training=rows,
    )


def before_training(size: Size, out: Path) -> tuple[list[dict[str, Any]], list[Claim]]:
    """What U[0, 1] does to signals and gradients at every width, and claims A4 to A6."""
    from jaxinit.engine.survey import survey

    rows, claims = [], []
    for n in size.units:
        found = survey(replace(size.start, hidden=n), out=out / f"start-{n}")
        recurrent = found.sel(scheme="uniform01", parameter="layers.0.recurrent")
        weight_mean = recurrent.weight_mean.isel(step=0, copy=0)
        weights = recurrent.weight_mean_square.isel(step=0, copy=0) - weight_mean**2
        sums = recurrent.product_mean.isel(copy=0).transpose("seed", "step")
        gradient = (
            np.sqrt(recurrent.gradient_mean_square.isel(copy=0))
            .transpose("seed", "step")
            .values[:, -1]
        )
        read = found.sel(scheme="uniform01", parameter="readout.kernel").gradient_mean_square.max(
            ("step", "copy")
        )
        lost = -np.log10(np.maximum(gradient, FLOOR) / np.sqrt(read.values))
        last = found.sel(
            scheme="uniform01", parameter="readout.kernel"
        ).activation_mean_square.mean(("step", "copy"))
        saturated = found.sel(
            scheme="uniform01", parameter="readout.kernel"
        ).activation_saturated.mean(("step", "copy"))
        rows.append(
            {
                "units": n,
                "weight_mean": float(weight_mean.mean()),
                "weight_variance": float(weights.mean()),
                "spectral_radius": float(recurrent.recurrent_radius.isel(copy=0).mean()),
                "summed_input_step_2": float(sums[:, min(1, sums.shape[1] - 1)].mean()),
                "summed_input_last": float(sums[:, -1].mean()),
                "state_rms_last": float(np.sqrt(last).mean()),
                "saturated_last": float(saturated.mean()),
                "gradient_decades_lost": float(lost.mean()),
            }
        )
        note = f"{size.start.length} steps, adding, before training"
        if n in (size.units[0], size.units[-1]):
            claims.append(
                make_claim(
                    "A4", f"{n} units: mean of the weights", weight_mean, "0.5", (0.45, 0.55), note
                )
            )
            claims.append(
                make_claim(
                    "A4",
                    f"{n} units: variance of the weights",
                    weights,
                    "1/12 = 0.0833",
                    (0.078, 0.089),
                    note,
                )
            )
            what = f"{n} units: mean summed recurrent input of a unit at the last step"
            published, band = (
                ("overwhelms", (10.0, np.inf)) if n > 100 else ("underflows", (0.0, 0.1))
            )
            claims.append(make_claim("A6", what, sums[:, -1], published, band, note))
        if n == 512 or n == size.units[-1]:
            what = f"{n} units: root mean square of the state after {size.start.length} steps"
            claims.append(make_claim("A5", what, np.sqrt(last), "signals vanish", (0.0, 0.1), note))
            what = (
                f"{n} units: decades that the gradient loses from the readout to the last state's "
                "sum (18: all)"
            )
            claims.append(
                make_claim("A5", what, lost, "vanish quickly", (1.0, np.inf), "by saturation")
            )
            what = f"{n} units: spectral radius over n/2"
            radius = recurrent.recurrent_radius.isel(copy=0) / (n / 2)
            claims.append(
                make_claim("A3", what, radius, "n times the mean, 0.5", (0.95, 1.05), note)
            )
    return rows, claims


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Summed inputs, states, and gradients against the number of units."""
    import matplotlib.pyplot as plt

    from jaxinit.analysis.figure import save, style

    units = [row["units"] for row in rows]
    panels_of = {
        "summed recurrent input, mean": ("summed_input_last", "log"),
        "state: root mean square": ("state_rms_last", "linear"),
        "share of states saturated": ("saturated_last", "linear"),
        "decades of gradient lost in one state": ("gradient_decades_lost", "linear"),
    }
    with style():
        figure, panels = plt.subplots(1, 4, figsize=(11, 2.8), layout="constrained")
        for axes, (label, (what, scale)) in zip(panels, panels_of.items(), strict=True):
            axes.plot(units, [row[what] for row in rows], "o-", color="black", markersize=4)
            axes.set(xscale="log", yscale=scale, xlabel="units", ylabel=label)
            axes.set_xticks(units, [str(n) for n in units], fontsize=7, rotation=45)
            axes.minorticks_off()
        panels[0].plot(
            units, [n / 2 for n in units], color="0.4", linestyle=":", label="n/2: all states at 1"
        )
        panels[0].legend(frameon=False, fontsize=7)
        figure.suptitle(
            "A vanilla tanh RNN under U[0, 1], last step of adding, before training",
            fontsize=9,
            x=0.01,
            ha="left",
        )
        save(figure, folder, "by_units")


main = main_of("uniform01", __doc__, SIZES, answer)

if __name__ == "__main__":
    sys.exit(main())
