"""Saxe, McClelland & Ganguli (2013), "Exact solutions to the nonlinear dynamics of learning in deep
linear networks".

The questions: does a mode of a linear net learn along the exact curve (S1), does an orthogonal
initialization make learning time independent of depth where a Gaussian one does not (S2), and is
the delay of a deep net finite (S3)?

    python experiments/saxe2013.py                  quick: 3 to 41 matrices of 32 units, 5 seeds; minutes on 2 cores
    python experiments/saxe2013.py --size smoke     seconds: checks that all of it works
    python experiments/saxe2013.py --size paper     up to 99 matrices of 256 units, 10 seeds: for an accelerator

The condition of S2: the map to learn has few modes (rank 10 of 32), all of strength 1, and the
inputs are white; the rate of each depth and initialization is the best of a grid. Learning time:
steps until the loss is a twentieth of what it was.

Expect at quick (2026-11-29, 36 s on 2 cores; all claims and intervals: docs/results.md):
- S1: largest error of eq. 12 against gradient descent, strengths 0.5 to 1.5: 0.00148; at most
  0.005: holds.
- S2: longest over shortest learning time, orthogonal initialization, over all depths: 1.64 (1.48 to
  1.79); at most 1.5: open.
- S2: longest over shortest learning time, orthogonal initialization, 9 matrices or more: 1.14 (1.08
  to 1.2); at most 1.5: holds.
- S2: learning time of a Gaussian over an orthogonal initialization, 41 matrices: 254 (120 to 388);
  at least 10: holds.
- S3: steps of 1000 layers over those of 3 from an initial strength of 0.9: 1.08; at least 0.9:
  holds; at most 1.2: holds.
- S3: the same from an initial strength of 0.001: finite, but far from depth-free: 101; at least 50:
  holds; at most 200: holds.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, at_most, make_claim
from jaxinit.analysis.figure import lines, saved_figure, tick_at
from jaxinit.reproduce import conclude, make_main, seeds_of_run

RANK, KINDS = 10, ("orthogonal", "gaussian")
DEEP = 9  # matrices from which on a net counts as deep
LEARNT = 0.05  # the share of its first value that the loss must fall to


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
    curves = exact_curves()
    times = {kind: learning_times(kind, size) for kind in KINDS}
    draw(size, curves, times, out / "figures")
    rows = []
    for kind in KINDS:
        for depth, (rate, steps) in zip(size.depths, times[kind], strict=True):
            rows.append(
                {
                    "initialization": kind,
                    "matrices": depth,
                    "lr": rate,
                    "steps": float(np.mean(steps)),
                    "converged": int((steps < size.steps).sum()),
                    "seeds": size.seeds,
                }
            )
    claims = [on_curves(curves), *depth_claims(size, times), *delay_claims()]
    return conclude(out, rows, claims, map(line, rows))


def line(row: dict[str, Any]) -> str:
    """A row in print."""
    bound = ""
    if row["converged"] < row["seeds"]:
        bound = f" or more ({row['converged']} of {row['seeds']} converged)"
    return (
        f"{row['initialization']:10} {row['matrices']:3d} matrices, rate {row['lr']:g}: "
        f"{row['steps']:.0f} steps{bound}"
    )


# By strength of the mode: gradient descent, and eq. 12, both by step.
Curves = dict[float, tuple[np.ndarray, np.ndarray]]
# By depth: the best rate, and the steps of every seed.
Times = list[tuple[float, np.ndarray]]


def exact_curves() -> Curves:
    """Gradient descent on a decoupled two-matrix net beside eq. 12, for several strengths."""
    from jaxinit import theory

    rate, initial, steps = 1e-3, 1e-3, 12_000
    curves = {}
    for s in (0.5, 0.75, 1.0, 1.5):
        # Balanced: both matrices have the same share of the mode's strength, and keep it.
        a = b = initial**0.5
        course = np.empty(steps)
        for t in range(steps):
            course[t] = a * b
            error = s - a * b
            a, b = a + rate * b * error, b + rate * a * error
        exact = theory.mode_strength(np.arange(steps, dtype=float), s, initial, 1 / rate)
        curves[s] = course, exact
    return curves


def on_curves(curves: Curves) -> Claim:
    """S1: a mode is learnt along the exact curve."""
    errors = [np.abs(course - exact).max() for course, exact in curves.values()]
    worst = float(max(errors))
    statement = "largest error of eq. 12 against gradient descent, strengths 0.5 to 1.5"
    note = "decoupled, balanced initial strength 0.001, rate 0.001"
    return make_claim("S1", statement, worst, "exact", at_most(0.005), note, exact=True)


def learning_times(kind: str, size: Size) -> Times:
    """For each depth, the best rate and the steps of every seed until the loss is a twentieth of
    what it was.

    A loop of its own, not the engine's: the inputs are white, so that the loss is a function of the
    product of the matrices and there are no examples; and a net is looked at after every step.
    """
    import jax
    import jax.numpy as jnp

    from jaxinit.initializers import normal, orthogonal

    n = size.units
    law = orthogonal() if kind == "orthogonal" else normal(n**-0.5)

    def trial(depth: int, rate: Any, seed: Any) -> Any:
        key = jax.random.key(seed)
        keys = jax.random.split(jax.random.fold_in(key, 1), depth)
        w = jax.vmap(lambda k: law(k, (n, n)))(keys)
        # The first RANK singular values of the map to learn are 1, the others 0.
        left = orthogonal()(jax.random.fold_in(key, 2), (n, n))
        right = orthogonal()(jax.random.fold_in(key, 3), (n, n))
        target = left[:, :RANK] @ right[:RANK]

        def loss(w: Any) -> Any:
            return jnp.sum((product_of(w) - target) ** 2) / 2

        first = loss(w)

        def step(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            w, steps, _ = state
            value, slope = jax.value_and_grad(loss)(w)
            return w - rate / depth * slope, steps + 1, value

        def learning(state: tuple[Any, Any, Any]) -> Any:
            _, steps, value = state
            within_budget = steps < size.steps
            return within_budget & (value > LEARNT * first) & jnp.isfinite(value)

        _, steps, value = jax.lax.while_loop(learning, step, (w, 0, first))
        # A net that diverged, or ran out of steps, counts as the whole budget.
        return jnp.where(value <= LEARNT * first, steps, size.steps)

    @partial(jax.jit, static_argnums=2)
    def over_grid(rates: Any, seeds: Any, depth: int) -> Any:
        # One net after another: side by side all would go on until the slowest has learnt.
        def over_seeds(rate: Any) -> Any:
            return jax.lax.map(lambda seed: trial(depth, rate, seed), seeds)

        return jax.lax.map(over_seeds, rates)

    asked = jnp.asarray(seeds_of_run(size.seeds))
    times = []
    for depth in size.depths:
        steps = np.asarray(over_grid(jnp.asarray(size.rates), asked, depth))
        best = int(steps.mean(1).argmin())
        times.append((size.rates[best], steps[best].astype(float)))
    return times


def product_of(matrices: Any) -> Any:
    """The product of stacked matrices `[depth, n, n]`, in a scan: one is compiled, not `depth`."""
    import jax
    import jax.numpy as jnp

    def times_next(product: Any, matrix: Any) -> tuple[Any, None]:
        return product @ matrix, None

    product, _ = jax.lax.scan(times_next, jnp.eye(matrices.shape[-1]), matrices)
    return product


def of_seeds(times: Times) -> np.ndarray:
    """The learning times alone: `[depth, seed]`."""
    return np.stack([steps for _, steps in times])


def depth_claims(size: Size, times: dict[str, Times]) -> list[Claim]:
    """S2: how learning time grows with depth under each initialization."""
    by_kind = {kind: of_seeds(times[kind]) for kind in KINDS}
    orthogonal, gaussian = by_kind["orthogonal"], by_kind["gaussian"]
    note = (
        f"rank {RANK} of {size.units}, white inputs, strengths 1, best of {len(size.rates)} rates, "
        f"{size.seeds} seeds"
    )
    deep = np.asarray(size.depths) >= DEEP
    parts = {"over all depths": orthogonal}
    if deep.any():
        parts[f"{DEEP} matrices or more"] = orthogonal[deep]
    claims = []
    for part, steps in parts.items():
        statement = f"longest over shortest learning time, orthogonal initialization, {part}"
        spread = steps.max(0) / steps.min(0)
        claims.append(make_claim("S2", statement, spread, "flat", at_most(1.5), note))
    statement = (
        f"learning time of a Gaussian over an orthogonal initialization, {size.depths[-1]} matrices"
    )
    ratio = gaussian[-1] / orthogonal[-1]
    _, deepest = times["gaussian"][-1]
    if deepest.max() >= size.steps:
        note += "; a lower bound: not all Gaussian nets converged"
    return [*claims, make_claim("S2", statement, ratio, "grows with depth", at_least(10.0), note)]


def delay_claims() -> list[Claim]:
    """S3: at a rate of 1 / (N - 1) the steps to learn tend to a finite number as depth grows."""
    from jaxinit.theory import learning_time

    def delay(initial: float) -> float:
        """The steps of 1000 layers over those of 3."""
        deep = learning_time(1.0, initial, 0.95, 999.0, 1000)
        shallow = learning_time(1.0, initial, 0.95, 2.0, 3)
        return deep / shallow

    statement, note = (
        "steps of 1000 layers over those of 3 from an initial strength of 0.9",
        "eq. 16 by quadrature",
    )
    late = make_claim("S3", statement, delay(0.9), "about 1", (0.9, 1.2), note, exact=True)
    statement = "the same from an initial strength of 0.001: finite, but far from depth-free"
    note = "eq. 16 by quadrature; the band is from an independent computation"
    band = (50.0, 200.0)
    return [late, make_claim("S3", statement, delay(1e-3), "finite", band, note, exact=True)]


def draw(size: Size, curves: Curves, times: dict[str, Times], folder: Path) -> None:
    """Exact curves beside gradient descent, and learning time against depth."""
    title = f"Deep linear nets; learning time at the best of {len(size.rates)} rates"
    with saved_figure(folder, "learning", title, size=(9, 3.8), columns=2) as (left, right):
        for k, (s, (course, exact)) in enumerate(curves.items()):
            label = f"gradient descent, s = {s:g}"
            left.plot(course, color=str(0.2 * k), linewidth=2.2, alpha=0.6, label=label)
            left.plot(exact, color="black", linewidth=0.8, linestyle=":")
        left.set(xlabel="steps", ylabel="strength of the mode")
        left.set_title("Two matrices: eq. 12 (dotted) and gradient descent")
        left.legend(frameon=False, fontsize=7)
        by_depth = {kind: of_seeds(times[kind]) for kind in KINDS}
        lines(right, size.depths, by_depth)
        right.axhline(size.steps, color="0.35", linewidth=0.8, linestyle=":")
        right.set(xscale="log", yscale="log", xlabel="matrices")
        right.set_ylabel("steps until the loss is 1/20 of its first value")
        right.set_title(f"Learning time, n = {size.seeds} seeds")
        tick_at(right, size.depths)
        title = "band: range over seeds; dotted: budget"
        right.legend(frameon=False, fontsize=7, loc="center left", title=title, title_fontsize=7)


main = make_main("saxe2013", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
