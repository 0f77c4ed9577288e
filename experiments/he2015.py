"""He et al. (2015), "Delving deep into rectifiers", as plain ReLU nets on Shapeset-3x2.

The questions: does a 22-layer net leave its plateau earlier with variance 2/n than with 1/n (H1),
does a 30-layer net stall with 1/n whatever the rate (H2), and do signals shrink by 2^(-1/2) a
layer, without harm at 10 layers (H3)?

    python experiments/he2015.py                 quick: width 96, 10, 22 and 30 layers, 2000 steps; minutes on 2 cores
    python experiments/he2015.py --size smoke    seconds: checks that all of it works
    python experiments/he2015.py --size paper    width 1024, 20,000 steps: for an accelerator

Departures from the paper: dense layers on Shapeset instead of convolutions on ImageNet, SGD with
momentum 0.9, batch 64, no weight decay, constant rates. "Xavier" is N(0, 1/n), as the paper uses
the name. Rates are a grid, since whether a net stalls is asked of every rate; where the best is
asked, that of each seed is chosen on the other seeds. Size paper adds a wider net, a lower rate and
ten times the steps, after which a net that seems to stall may yet move.

Expect at quick (2026-11-29, 357 s on 2 cores; all claims and intervals: docs/results.md):
- H1: 22 layers: steps on the plateau, Xavier less He: 725 (433 to 1.02e+03); at least 50: holds.
- H2: 30 layers: lowest loss of Xavier over rates, less the entropy of the priors: 0.0012 (-0.00146
  to 0.00386); at least -0.02: holds; at most 0.05: holds.
- H2: 30 layers: share of seeds whose Xavier net stays on the plateau at every rate: 0.875 (0.473 to
  0.997); at least 0.5: open.
- H2: 30 layers: share of seeds whose He net leaves the plateau: 1 (0.631 to 1); at least 0.5:
  holds.
- H2: 30 layers: loss of He less the entropy of the priors: -0.305 (-0.31 to -0.3); at most -0.2:
  holds.
- H3: 10 layers: loss of Xavier less that of He: 0.0211 (0.0123 to 0.0299); at least -0.1: holds; at
  most 0.1: holds.
- H3: slope of log2 of the first layer's gradient, Xavier over He, per layer: -0.507 (-0.527 to
  -0.487); at least -0.55: holds; at most -0.45: holds.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, at_most, make_claim, near
from jaxinit.analysis.figure import band, looks, saved_figure
from jaxinit.analysis.records import by_rate_and_seed
from jaxinit.analysis.store import Result
from jaxinit.initializers import variance_scaling, vector
from jaxinit.reproduce import conclude, make_main, run_all, seeds_of_run, smoke
from jaxinit.spec import Initializer, Leaf, Scheme
from jaxinit.study import Study

GAINS = {"xavier": 1.0, "he": 2.0}
EVERY = 50  # steps between two losses, which are means over them: an epoch of the study
LEARNT = 0.05  # nats below the entropy of the priors: a net that has left its plateau


def gaussian(gain: float) -> Scheme:
    """N(0, gain/n) for every kernel but the readout's, which is N(0, 1/n); zero biases."""

    def scheme(leaf: Leaf) -> Initializer:
        own = 1.0 if leaf.role == "readout" else gain
        return vector(leaf) or variance_scaling(own, "fan_in", "normal")

    return scheme


SCHEMES = {name: gaussian(gain) for name, gain in GAINS.items()}
STUDY = Study(
    model="mlp",
    activation="relu",
    task="shapeset_pool",
    schemes=tuple(SCHEMES),
    baseline="xavier",
    hidden=96,
    optimizer="momentum",
    batch=64,
    # A grid: whether a net stalls whatever the rate is asked of every rate, to the end of its run.
    lrs=(0.003, 0.01, 0.03),
    seeds=2,
    tune_seeds=8,  # which run at every rate: what is measured is theirs
    epochs=2000 // EVERY,
    evaluations=1,
    target=1.0,  # out of reach: every trial runs to its end
)


@dataclass(frozen=True)
class Size:
    """The study of every depth, the weight layers, and images in the pool."""

    study: Study
    depths: tuple[int, int, int]
    pool: int


SIZES = {
    "smoke": Size(smoke(STUDY, lrs=(0.01, 0.03), tune_seeds=2, epochs=4), (3, 5, 6), 500),
    "quick": Size(STUDY, (10, 22, 30), 40_000),
    "paper": Size(
        replace(STUDY, hidden=1024, lrs=(0.001, 0.003, 0.01, 0.03), epochs=20_000 // EVERY),
        (10, 22, 30),
        400_000,
    ),
}
Courses = dict[tuple[int, str, float], np.ndarray]  # (layers, scheme, rate): `[seed, interval]`


def reproduce(size: Size, out: Path) -> int:
    from jaxinit.tasks.shapeset import PRIORS, from_pool

    pool = from_pool(size.pool, EVERY * size.study.batch)
    entropy = float(-np.sum(np.asarray(PRIORS) * np.log(PRIORS)))
    studies = {f"{depth} layers": replace(size.study, layers=depth - 1) for depth in size.depths}
    results = run_all(studies, out, schemes=SCHEMES, tasks={"shapeset_pool": lambda: pool})
    courses: Courses = {}
    for depth, result in zip(size.depths, results.values(), strict=True):
        courses |= losses(depth, result)
    draw(size, courses, entropy, out / "figures")
    rows = [row(key, course, entropy) for key, course in courses.items()]
    claims = [*plateaus(size, courses, entropy), first_gradients(size)]
    return conclude(out, rows, claims, map(line, rows), entropy_of_priors=entropy)


def losses(depth: int, result: Result) -> Courses:
    """The training losses of a depth; where a trial diverged, infinite."""
    courses: Courses = {}
    for scheme in result.study.schemes:
        tuning = by_rate_and_seed(result.records, scheme, "tune").train_loss
        for rate in tuning.lr.values.tolist():
            course = tuning.sel(lr=rate).transpose("seed", "epoch").values
            courses[depth, scheme, rate] = np.where(np.isfinite(course), course, np.inf)
    return courses


def last(course: np.ndarray) -> np.ndarray:
    """The loss at the end, a mean over the last 200 steps: `[seed]`."""
    return course[:, -4:].mean(1)  # 4 intervals of EVERY steps


def left(course: np.ndarray, entropy: float) -> np.ndarray:
    """Whether each seed's loss ever is LEARNT below the priors' entropy: `[seed]`."""
    return np.any(course < entropy - LEARNT, axis=1)


def leaving(course: np.ndarray, entropy: float) -> np.ndarray:
    """The step after which each seed's loss is LEARNT below the priors' entropy; the last for one
    that never is."""
    below = course < entropy - LEARNT
    first_below = below.argmax(1) + 1
    intervals = np.where(below.any(1), first_below, course.shape[1])
    return intervals * EVERY


def at_rates(courses: Courses, depth: int, name: str) -> np.ndarray:
    """The losses of an initialization at every rate: `[rate, seed, interval]`."""
    own = [course for key, course in courses.items() if key[:2] == (depth, name)]
    return np.stack(own)


def at_best_rate(courses: Courses, depth: int, name: str) -> np.ndarray:
    """The losses `[seed, interval]` of an initialization, each seed at the rate whose last losses
    are lowest on the others: the best of one's own is a lucky one."""
    own = at_rates(courses, depth, name)
    ends = np.stack([last(course) for course in own])
    chosen = []
    for seed in range(ends.shape[1]):
        others = np.delete(ends, seed, axis=1)
        chosen.append(own[others.mean(1).argmin(), seed])
    return np.stack(chosen)


def row(key: tuple[int, str, float], course: np.ndarray, entropy: float) -> dict[str, Any]:
    """What is kept of the trainings of one depth, initialization and rate."""
    depth, name, rate = key
    steps = leaving(course, entropy)
    return {
        "layers": depth,
        "initialization": name,
        "lr": rate,
        "loss": float(last(course).mean()),
        "steps_to_leave": float(steps.mean()),
        "left": int(left(course, entropy).sum()),
        "seeds": len(course),
    }


def line(row: dict[str, Any]) -> str:
    """A row in print."""
    return (
        f"{row['layers']:2d} layers, {row['initialization']:6} rate {row['lr']:<6g} loss "
        f"{row['loss']:.3f} "
        f"left the plateau after {row['steps_to_leave']:.0f} steps ({row['left']} of "
        f"{row['seeds']})"
    )


def plateaus(size: Size, courses: Courses, entropy: float) -> list[Claim]:
    """H1, H2, and H3 at 10 layers: who leaves the plateau, and when."""
    shallow, middle, deep = size.depths
    study = size.study
    note = (
        f"ReLU, width {study.hidden}, {study.epochs * EVERY} steps, {len(study.lrs)} rates, the "
        "best chosen on the other seeds, Shapeset"
    )

    def best(depth: int, name: str) -> np.ndarray:
        return at_best_rate(courses, depth, name)

    statement = f"{middle} layers: steps on the plateau, Xavier less He"
    later = leaving(best(middle, "xavier"), entropy) - leaving(best(middle, "he"), entropy)
    published = "He starts reducing the error earlier"
    claims = [make_claim("H1", statement, later, published, at_least(EVERY), note)]

    statement = f"{deep} layers: lowest loss of Xavier over rates, less the entropy of the priors"
    every_rate = at_rates(courses, deep, "xavier")
    lowest = np.min([last(course) for course in every_rate], axis=0)
    stalled = lowest - entropy
    claims.append(make_claim("H2", statement, stalled, "completely stalls", (-0.02, 0.05), note))

    statement = f"{deep} layers: share of seeds whose Xavier net stays on the plateau at every rate"
    stay = ~np.any([left(course, entropy) for course in every_rate], axis=0)
    claims.append(make_claim("H2", statement, stay, "completely stalls", at_least(0.5), note))

    statement = f"{deep} layers: share of seeds whose He net leaves the plateau"
    leave = left(best(deep, "he"), entropy)
    claims.append(make_claim("H2", statement, leave, "converges", at_least(0.5), note))

    statement = f"{deep} layers: loss of He less the entropy of the priors"
    learns = last(best(deep, "he")) - entropy
    claims.append(make_claim("H2", statement, learns, "converges", at_most(-0.2), note))

    statement = f"{shallow} layers: loss of Xavier less that of He"
    gap = last(best(shallow, "xavier")) - last(best(shallow, "he"))
    claims.append(make_claim("H3", statement, gap, "no clear superiority", near(0.0, 0.1), note))
    return claims


def first_gradients(size: Size) -> Claim:
    """H3: how the first layer's gradient under Xavier falls behind He's with depth, before
    training."""
    from jaxinit.engine.survey import survey

    # On Shapeset's validation set, which its pools have too: `survey` takes no task of one's own.
    by_depth = []
    for depth in size.depths:
        seeds = seeds_of_run(size.study.tune_seeds)
        study = replace(
            size.study,
            task="shapeset",
            layers=depth - 1,
            seeds=len(seeds),
            first_seed=seeds.start,
        )
        signals = survey(study, schemes=SCHEMES, only="layers.0.kernel")
        squares = signals.weight_gradient_mean_square.mean(("parameter", "step", "copy"))
        ratio = (squares.sel(scheme="xavier") / squares.sel(scheme="he")).values
        by_depth.append(np.log2(ratio) / 2)  # halved: the ratio is one of squares
    slopes = np.polyfit(np.asarray(size.depths, float), np.stack(by_depth), 1)[0]
    statement = "slope of log2 of the first layer's gradient, Xavier over He, per layer"
    note = f"before training; ReLU, width {size.study.hidden}, Shapeset"
    return make_claim("H3", statement, slopes, "-1/2", near(-0.5, 0.05), note)


def draw(size: Size, courses: Courses, entropy: float, folder: Path) -> None:
    """Loss against steps, a panel for each depth, each initialization at its best rate."""
    title = (
        f"ReLU nets of width {size.study.hidden} on Shapeset, each at its best rate; band: range "
        f"over {size.study.tune_seeds} seeds"
    )
    labels = {"he": "2/n (He)", "xavier": "1/n"}
    with saved_figure(
        folder, "plateau", title, size=(10.4, 3.6), columns=len(size.depths), sharey=True
    ) as panels:
        for axes, depth in zip(panels, size.depths, strict=True):
            for name, look in looks(labels).items():
                course = at_best_rate(courses, depth, name)
                steps = (np.arange(course.shape[1]) + 1) * EVERY
                apart = max(len(steps) // 8, 1)
                axes.plot(steps, course.mean(0), label=labels[name], markevery=apart, **look)
                band(axes, steps, course.min(0), course.max(0), look["color"])
            axes.axhline(entropy, color="0.35", linestyle=":", linewidth=1)
            axes.set(xlabel="steps", title=f"{depth} layers")
        panels[0].set_ylabel("training loss (nats)")
        title = "dotted: entropy of the priors"
        panels[0].legend(frameon=False, fontsize=7, title=title, title_fontsize=7)


main = make_main("he2015", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
