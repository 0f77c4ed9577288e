"""He et al. (2015), "Delving deep into rectifiers", as plain ReLU nets on Shapeset-3x2.

The questions: does a 22-layer net leave its plateau earlier with variance 2/n than with 1/n (H1),
does a 30-layer net stall with 1/n whatever the rate (H2), and do signals shrink by 2^(-1/2) a
layer, without harm at 10 layers (H3)?

    python experiments/he2015.py                 quick: width 128, 10, 22 and 30 layers, 2000 steps; minutes on 2 cores
    python experiments/he2015.py --size smoke    seconds: checks that all of it works
    python experiments/he2015.py --size paper    width 1024, 20,000 steps, 5 seeds: for an accelerator

Departures from the paper: dense layers on Shapeset instead of convolutions on ImageNet, SGD with
momentum 0.9, batch 64, no weight decay. "Xavier" is N(0, 1/n), as the paper uses the name.

Expect at quick: at 30 layers Xavier stays at the entropy of the class priors at every rate and He
learns; at 22 layers both learn, He sooner; at 10 layers no difference beyond noise.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, make_claim
from jaxinit.reproduce import main_of, write_summary

GAINS = {"xavier": 1.0, "he": 2.0}
MOMENTUM, BATCH, EVERY = 0.9, 64, 50
LEARNT = 0.05  # nats below the entropy of the priors: a net that has left its plateau


@dataclass(frozen=True)
class Size:
    """Width, weight layers, steps, rates, seeds, and images in the pool."""

    width: int
    depths: tuple[int, ...]
    steps: int
    rates: tuple[float, ...]
    seeds: int
    pool: int


SIZES = {
    "smoke": Size(16, (3, 5, 6), 100, (0.01,), 2, 500),
    "quick": Size(128, (10, 22, 30), 2000, (0.003, 0.01, 0.03), 3, 40_000),
    "paper": Size(1024, (10, 22, 30), 20_000, (0.001, 0.003, 0.01, 0.03), 5, 400_000),
}


def reproduce(size: Size, out: Path) -> int:
    """The three claims, a figure, and summary.json."""
    from jaxinit.analysis.report import print_claims
    from jaxinit.engine import sweep
    from jaxinit.tasks.shapeset import PRIORS

    sweep.one_device_per_core()
    sweep.keep_compilations()
    entropy = float(-np.sum(np.asarray(PRIORS) * np.log(PRIORS)))
    courses, slopes = train(size)
    rows = [
        {
            "layers": depth,
            "start": name,
            "lr": rate,
            "loss": float(of[:, -4:].mean()),
            "steps_to_leave": float(np.mean(leaving(of, entropy, size.steps))),
            "left": int((leaving(of, entropy, size.steps) < size.steps).sum()),
            "seeds": size.seeds,
        }
        for (depth, name, rate), of in courses.items()
    ]
    claims = judge(size, courses, slopes, entropy)
    write_summary(out, {"table": rows, "claims": claims, "entropy_of_priors": entropy})
    draw(size, courses, entropy, out / "figures")
    for row in rows:
        print(
            f"{row['layers']:2d} layers, {row['start']:6} rate {row['lr']:<6g} loss "
            f"{row['loss']:.3f} left the plateau after {row['steps_to_leave']:.0f} steps "
            f"({row['left']} of {row['seeds']})"
        )
    print_claims(claims)
    print(f"summary and figures: {out}")
    return 0


def train(
    size: Size,
) -> tuple[dict[tuple[int, str, float], np.ndarray], dict[tuple[int, str], np.ndarray]]:
    """Losses of every (depth, start, rate) `[seed, interval]`; first-layer gradients (rms) at the
    start `[seed]`."""
    import jax
    import jax.numpy as jnp

    from jaxinit.engine import sweep
    from jaxinit.tasks.base import cross_entropy
    from jaxinit.tasks.shapeset import from_pool

    task = from_pool(size.pool)

    def one(depth: int, gain: Any, rate: Any, seed: Any) -> tuple[Any, Any]:
        of_in, of_w, of_out, order = jax.random.split(jax.random.key(seed), 4)
        n = size.width
        params = {
            "in": jax.random.normal(of_in, (1024, n)) * jnp.sqrt(gain / 1024),
            "w": jax.random.normal(of_w, (depth - 2, n, n)) * jnp.sqrt(gain / n),
            "out": jax.random.normal(of_out, (n, 9)) / n**0.5,
            "b": jnp.zeros((depth - 1, n)),
            "c": jnp.zeros(9),
        }

        def loss(p: dict[str, Any], batch: tuple[Any, Any]) -> Any:
            x, y = batch
            h = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["in"] + p["b"][0][None])
            h, _ = jax.lax.scan(
                lambda h, wb: (jax.nn.relu(h @ wb[0] + wb[1][None]), None), h, (p["w"], p["b"][1:])
            )
            return cross_entropy(h @ p["out"] + p["c"][None], y)

        drawn = lambda key: task.batch(task.data, task.tickets(task.data, key, 1, BATCH)[0])

        def step(state: tuple[Any, Any], key: Any) -> tuple[tuple[Any, Any], Any]:
            p, speed = state
            value, slope = jax.value_and_grad(loss)(p, drawn(key))
            speed = jax.tree.map(lambda v, g: MOMENTUM * v + g, speed, slope)
            return (jax.tree.map(lambda w, v: w - rate * v, p, speed), speed), value

        first = jax.grad(loss)(params, drawn(jax.random.fold_in(order, 1)))["in"]
        start = (params, jax.tree.map(jnp.zeros_like, params))
        _, losses = jax.lax.scan(step, start, jax.random.split(order, size.steps))
        return losses.reshape(-1, EVERY).mean(1), jnp.sqrt(jnp.mean(first**2))

    courses, slopes = {}, {}
    for depth in size.depths:
        grid = [
            (name, rate, seed)
            for name in GAINS
            for rate in size.rates
            for seed in range(size.seeds)
        ]
        gain = np.asarray([GAINS[name] for name, _, _ in grid], np.float32)
        rate = np.asarray([rate for _, rate, _ in grid], np.float32)
        seed = np.asarray([seed for _, _, seed in grid])
        print(f"{depth} layers: {len(grid)} nets", file=sys.stderr)
        losses, first = sweep.over_devices(lambda *a, depth=depth: one(depth, *a), gain, rate, seed)
        for k in range(0, len(grid), size.seeds):
            courses[depth, *grid[k][:2]] = losses[k : k + size.seeds]
            slopes[depth, grid[k][0]] = first[k : k + size.seeds]
    return courses, slopes


def leaving(of: np.ndarray, entropy: float, steps: int) -> np.ndarray:
    """The step after which each seed's loss is LEARNT below the priors' entropy; `steps` for one
    that never is."""
    below = of < entropy - LEARNT
    return np.where(below.any(1), (below.argmax(1) + 1) * EVERY, steps)


def at_best_rate(size: Size, courses: dict, depth: int, name: str) -> np.ndarray:
    """The losses `[seed, interval]` of a start at the rate whose last losses are lowest."""
    return min(
        (courses[depth, name, rate] for rate in size.rates), key=lambda of: of[:, -4:].mean()
    )


def judge(size: Size, courses: dict, slopes: dict, entropy: float) -> list[Claim]:
    """H1, H2 and H3."""

    shallow, middle, deep = size.depths
    note = (
        f"ReLU, width {size.width}, {size.steps} steps, best of {len(size.rates)} rates, Shapeset"
    )
    best = lambda depth, name: at_best_rate(size, courses, depth, name)
    left = {name: leaving(best(middle, name), entropy, size.steps).astype(float) for name in GAINS}
    never = (
        min(float(np.mean(courses[deep, "xavier", rate][:, -4:])) for rate in size.rates) - entropy
    )
    learns = best(deep, "he")[:, -4:].mean(1) - entropy
    depths = np.asarray(size.depths, float)
    logs = np.stack(
        [np.log2(slopes[depth, "xavier"] / slopes[depth, "he"]) for depth in size.depths], 1
    )
    gap = best(shallow, "xavier")[:, -4:].mean(1) - best(shallow, "he")[:, -4:].mean(1)
    return [
        make_claim(
            "H1",
            f"{middle} layers: steps on the plateau, Xavier less He",
            left["xavier"] - left["he"],
            "He starts reducing the error earlier",
            (EVERY, np.inf),
            note,
        ),
        make_claim(
            "H2",
            f"{deep} layers: lowest loss of Xavier over rates, less the entropy of the priors",
            never,
            "completely stalls",
            (-0.02, 0.05),
            note,
        ),
        make_claim(
            "H2",
            f"{deep} layers: loss of He less the entropy of the priors",
            learns,
            "converges",
            (-np.inf, -0.2),
            note,
        ),
        make_claim(
            "H3",
            "slope of log2 of the first layer's gradient, Xavier over He, per layer",
            [np.polyfit(depths, of, 1)[0] for of in logs],
            "-1/2",
            (-0.55, -0.45),
            "at the start; " + note,
        ),
        make_claim(
            "H3",
            f"{shallow} layers: loss of Xavier less that of He",
            gap,
            "no clear superiority",
            (-0.1, 0.1),
            note,
        ),
    ]


def draw(size: Size, courses: dict, entropy: float, folder: Path) -> None:
    """Loss against steps, a panel for each depth, each start at its best rate."""
    import matplotlib.pyplot as plt

    from jaxinit.analysis.figure import save, style

    with style():
        figure, panels = plt.subplots(
            1, len(size.depths), figsize=(10.4, 3.6), layout="constrained", sharey=True
        )
        for axes, depth in zip(panels, size.depths, strict=True):
            for name, grey, dash in (("he", "0", "-"), ("xavier", "0.5", "--")):
                of = at_best_rate(size, courses, depth, name)
                steps = (np.arange(of.shape[1]) + 1) * EVERY
                axes.plot(
                    steps,
                    of.mean(0),
                    color=grey,
                    linestyle=dash,
                    label={"he": "2/n (He)", "xavier": "1/n"}[name],
                )
                axes.fill_between(steps, of.min(0), of.max(0), color=grey, alpha=0.15, linewidth=0)
            axes.axhline(entropy, color="0.35", linestyle=":", linewidth=1)
            axes.set(xlabel="steps", title=f"{depth} layers")
        panels[0].set_ylabel("training loss (nats)")
        panels[0].legend(
            frameon=False, fontsize=7, title="dotted: entropy of the priors", title_fontsize=7
        )
        note = (
            f"ReLU nets of width {size.width} on Shapeset, each at its best rate; band: range over "
            f"{size.seeds} seeds"
        )
        figure.suptitle(note, fontsize=9, x=0.01, ha="left")
        save(figure, folder, "plateau")


main = main_of("he2015", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
