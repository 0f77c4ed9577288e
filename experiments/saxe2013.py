"""Saxe, McClelland & Ganguli (2013), "Exact solutions to the nonlinear dynamics of learning in deep
linear networks".

The questions: does a mode of a linear net learn along the exact curve (S1), does an orthogonal
start make learning time independent of depth where a Gaussian one does not (S2), and is the delay
of a deep net finite (S3)?

    python experiments/saxe2013.py                  quick: 3 to 41 matrices of 32 units, 5 seeds; minutes on 2 cores
    python experiments/saxe2013.py --size smoke     seconds: checks that all of it works
    python experiments/saxe2013.py --size paper     up to 99 matrices of 256 units, 10 seeds: for an accelerator

The condition of S2: the map to learn has few modes (rank 10 of 32), all of strength 1, and the
inputs are white; the rate of each depth and start is the best of a grid. Learning time: steps until
the loss is a twentieth of its start.

Expect at quick: S1 within 0.005 of the exact curve. Orthogonal times grow from 3 to 9 matrices and
are flat from there on (1.6 times from 3 to 41 matrices, where a flat curve was published); Gaussian
times are over a hundred times longer than orthogonal ones at 41 matrices, and most Gaussian nets
never arrive.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, make_claim
from jaxinit.reproduce import main_of, write_summary

RANK, STARTS = 10, ("orthogonal", "gaussian")
DEEP = 9  # matrices from which on a net counts as deep
LEARNT = 0.05  # the share of its start that the loss must fall to


@dataclass(frozen=True)
class Size:
    """Numbers of matrices, units, seeds, steps that a net may take, and learning rates per
    matrix."""

    depths: tuple[int, ...]
    units: int
    seeds: int
    steps: int
    rates: tuple[float, ...]


SIZES = {
    "smoke": Size((3, 5), 16, 2, 200, (0.1, 0.3)),
    "quick": Size(
        (3, 5, 9, 17, 41), 32, 5, 4000, (0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    ),
    "paper": Size((3, 5, 9, 17, 41, 65, 99), 256, 10, 20_000, (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)),
}


def reproduce(size: Size, out: Path) -> int:
    """The three claims, two figures, and summary.json."""
    from jaxinit.analysis.report import print_claims
    from jaxinit.engine import sweep

    sweep.one_device_per_core()
    sweep.keep_compilations()
    curves, s1 = exact_curves()
    times = {start: learning_times(start, size) for start in STARTS}
    table = [
        {
            "start": start,
            "matrices": depth,
            "lr": rate,
            "steps": float(np.mean(of)),
            "arrived": int((of < size.steps).sum()),
            "seeds": size.seeds,
        }
        for start in STARTS
        for depth, (rate, of) in zip(size.depths, times[start], strict=True)
    ]
    claims = [s1, *depth_claims(size, times), *delay_claims()]
    write_summary(out, {"table": table, "claims": claims})
    draw(size, curves, times, out / "figures")
    for row in table:
        bound = (
            ""
            if row["arrived"] == row["seeds"]
            else f" or more ({row['arrived']} of {row['seeds']} arrived)"
        )
        print(
            f"{row['start']:10} {row['matrices']:3d} matrices, rate {row['lr']:g}: "
            f"{row['steps']:.0f} steps{bound}"
        )
    print_claims(claims)
    print(f"summary and figures: {out}")
    return 0


def exact_curves() -> tuple[dict[float, tuple[np.ndarray, np.ndarray, np.ndarray]], Claim]:
    """Gradient descent on a decoupled two-matrix net beside eq. 12, for several strengths; claim
    S1."""
    from jaxinit import theory

    rate, start, steps = 1e-3, 1e-3, 12_000
    curves, worst = {}, 0.0
    for s in (0.5, 0.75, 1.0, 1.5):
        a = b = start**0.5
        course = np.empty(steps)
        for t in range(steps):
            course[t] = a * b
            a, b = a + rate * b * (s - a * b), b + rate * a * (s - a * b)
        exact = theory.mode_strength(np.arange(steps, dtype=float), s, start, 1 / rate)
        curves[s] = np.arange(steps), course, exact
        worst = max(worst, float(np.abs(course - exact).max()))
    return curves, make_claim(
        "S1",
        "largest error of eq. 12 against gradient descent, strengths 0.5 to 1.5",
        worst,
        "exact",
        (0.0, 0.005),
        "decoupled, balanced start at 0.001, rate 0.001",
    )


def learning_times(start: str, size: Size) -> list[tuple[float, np.ndarray]]:
    """For each depth, the best rate and the steps of every seed until the loss is a twentieth of
    its start."""
    import jax
    import jax.numpy as jnp

    from jaxinit.initializers import normal, orthogonal

    n = size.units

    def one(depth: int, rate: Any, seed: Any) -> Any:
        key = jax.random.key(seed)
        law = orthogonal() if start == "orthogonal" else normal(n**-0.5)
        w = jax.vmap(lambda k: law(k, (n, n)))(jax.random.split(jax.random.fold_in(key, 1), depth))
        left, right = (orthogonal()(jax.random.fold_in(key, k), (n, n)) for k in (2, 3))
        target = left[:, :RANK] @ right[:RANK]

        def loss(w: Any) -> Any:
            whole, _ = jax.lax.scan(lambda product, m: (product @ m, None), jnp.eye(n), w)
            return jnp.sum((whole - target) ** 2) / 2

        first = loss(w)

        def step(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            w, taken, now = state
            now, slope = jax.value_and_grad(loss)(w)
            return w - rate / depth * slope, taken + 1, now

        going_on = lambda state: (
            (state[1] < size.steps) & (state[2] > LEARNT * first) & jnp.isfinite(state[2])
        )
        _, taken, last = jax.lax.while_loop(going_on, step, (w, 0, first))
        return jnp.where(last <= LEARNT * first, taken, size.steps)

    found = []
    for depth in size.depths:
        run = jax.jit(
            lambda rates, seeds, depth=depth: jax.lax.map(
                lambda rate: jax.lax.map(lambda seed: one(depth, rate, seed), seeds), rates
            )
        )
        taken = np.asarray(run(jnp.asarray(size.rates), jnp.arange(size.seeds)))
        best = int(taken.mean(1).argmin())
        found.append((size.rates[best], taken[best].astype(float)))
    return found


def depth_claims(size: Size, times: dict[str, list[tuple[float, np.ndarray]]]) -> list[Claim]:
    """S2: how learning time grows with depth under each start."""

    mean = {start: np.asarray([of.mean() for _, of in times[start]]) for start in STARTS}
    deepest = size.depths[-1]
    spread = lambda times: float(times.max() / times.min())
    deep = np.asarray(size.depths) >= DEEP
    ratio = float(mean["gaussian"][-1] / mean["orthogonal"][-1])
    note = (
        f"rank {RANK} of {size.units}, white inputs, strengths 1, best of {len(size.rates)} rates, "
        f"{size.seeds} seeds"
    )
    bound = (
        "; a lower bound: not all Gaussian nets arrived"
        if times["gaussian"][-1][1].max() >= size.steps
        else ""
    )
    what = "longest over shortest learning time, orthogonal start"
    of = {f"{what}, over all depths": mean["orthogonal"]}
    if deep.any():
        of[f"{what}, {DEEP} matrices or more"] = mean["orthogonal"][deep]
    return [
        *[
            make_claim("S2", name, spread(times), "flat", (1.0, 1.5), note)
            for name, times in of.items()
        ],
        make_claim(
            "S2",
            f"learning time of a Gaussian over an orthogonal start, {deepest} matrices",
            ratio,
            "grows with depth",
            (10.0, np.inf),
            note + bound,
        ),
    ]


def delay_claims() -> list[Claim]:
    """S3: at a rate of 1 / (N - 1) the steps to learn tend to a finite number as depth grows."""
    from jaxinit import theory

    steps = {n: theory.learning_time(1.0, 0.9, 0.95, n - 1.0, n) for n in (3, 1000)}
    late = {n: theory.learning_time(1.0, 1e-3, 0.95, n - 1.0, n) for n in (3, 1000)}
    return [
        make_claim(
            "S3",
            "steps of 1000 layers over those of 3 from a start at 0.9",
            steps[1000] / steps[3],
            "about 1",
            (0.9, 1.2),
            "eq. 16 by quadrature",
        ),
        make_claim(
            "S3",
            "the same from a start at 0.001: finite, but far from depth-free",
            late[1000] / late[3],
            "finite",
            (50.0, 200.0),
            "eq. 16 by quadrature; the band is from an independent computation",
        ),
    ]


def draw(
    size: Size, curves: dict, times: dict[str, list[tuple[float, np.ndarray]]], folder: Path
) -> None:
    """Exact curves beside gradient descent, and learning time against depth."""
    import matplotlib.pyplot as plt

    from jaxinit.analysis.figure import save, style

    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
        for k, (s, (steps, course, exact)) in enumerate(curves.items()):
            left.plot(
                steps,
                course,
                color=str(0.2 * k),
                linewidth=2.2,
                alpha=0.6,
                label=f"gradient descent, s = {s:g}",
            )
            left.plot(steps, exact, color="black", linewidth=0.8, linestyle=":")
        left.set(
            xlabel="steps",
            ylabel="strength of the mode",
            title="Two matrices: eq. 12 (dotted) and gradient descent",
        )
        left.legend(frameon=False, fontsize=7)
        for start, marker, grey in zip(STARTS, ("o", "s"), ("0", "0.5"), strict=True):
            mean = [of.mean() for _, of in times[start]]
            low, high = ([end(of) for _, of in times[start]] for end in (np.min, np.max))
            right.plot(size.depths, mean, color=grey, marker=marker, label=f"{start} start")
            right.fill_between(size.depths, low, high, color=grey, alpha=0.15, linewidth=0)
        right.axhline(size.steps, color="0.35", linewidth=0.8, linestyle=":")
        right.set(
            xscale="log",
            yscale="log",
            xlabel="matrices",
            ylabel="steps until the loss is 1/20 of its start",
            title=f"Learning time, best of {len(size.rates)} rates, n = {size.seeds} seeds",
        )
        right.set_xticks(size.depths, [str(depth) for depth in size.depths])
        right.minorticks_off()
        right.legend(
            frameon=False,
            fontsize=7,
            loc="center left",
            title="band: range over seeds; dotted: budget",
            title_fontsize=7,
        )
        save(figure, folder, "learning")


main = main_of("saxe2013", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
