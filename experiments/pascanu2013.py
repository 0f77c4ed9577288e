"""Pascanu, Mikolov & Bengio (2013), "On the difficulty of training recurrent neural networks":
clipping and initialization.

The question: how does the share of runs that solve the temporal order task fall with its length,
and do clipping of the gradient's norm and the `smart_tanh` initialization (15 non-zeros a unit,
spectral radius 0.95) keep it up (P1)?

    python experiments/pascanu2013.py                 quick: 50 units, lengths 20 and 40, 8 seeds; minutes on 2 cores
    python experiments/pascanu2013.py --size smoke    seconds: checks that all of it works
    python experiments/pascanu2013.py --size paper    lengths 20 to 200, 5 million updates: for an accelerator

Each initialization is at its own best rate with clipping and without. Whether one keeps up more
than another is told by the seeds that only one of the two solves; without any there is no claim.

Departures: at quick 100 epochs, 6,400 updates, in place of 5 million, so that the lengths at which
success ends are far shorter than those of the paper; size paper has its updates, and lengths up to
200. The gradient regularizer of the paper (SGD-CR) is not here: it is another method of training,
and only at full length did the paper need it.

Expect at quick (2026-11-29, 255 s on 2 cores; all claims and intervals: docs/results.md):
- P1: T=20, basic_tanh, clipped: share of seeds that solve it: 1 (0.631 to 1); at least 0.5: holds.
- P1: T=20, smart_tanh, clipped: share of seeds that solve it: 1 (0.631 to 1); at least 0.5: holds.
- P1: T=20, orthogonal, clipped: share of seeds that solve it: 1 (0.631 to 1); at least 0.5: holds.
- P1: T=20, basic_tanh: of the seeds solved either with clipping or without, not both, share with
  clipping: 1; at least 0.5: open.
- P1: T=20, smart_tanh: of the seeds solved either with clipping or without, not both, share with
  clipping: 1 (0.292 to 1); at least 0.5: open.
- P1: T=40, basic_tanh, clipped: share of seeds that solve it: 0.5 (0.157 to 0.843); at least 0.5:
  open.
- P1: T=40, smart_tanh, clipped: share of seeds that solve it: 1 (0.631 to 1); at least 0.5: holds.
- P1: T=40, orthogonal, clipped: share of seeds that solve it: 1 (0.631 to 1); at least 0.5: holds.
- and 4 more claims.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, make_claim
from jaxinit.analysis.figure import lines, saved_figure
from jaxinit.initializers import normal, vector
from jaxinit.reproduce import Results, finish, make_main, run_all, smoke, times
from jaxinit.spec import Initializer, Leaf
from jaxinit.study import Study


def basic_tanh(leaf: Leaf) -> Initializer:
    """N(0, 0.1^2) for every matrix, zero biases: the authors' plain initialization for tanh."""
    return vector(leaf) or normal(0.1)


CLIPPED = {"SGD": None, "clipped at 1": 1.0}
BASE = Study(
    model="rnn",
    hidden=50,
    activation="tanh",
    task="temporal_order",
    schemes=("basic_tanh", "smart_tanh", "orthogonal"),
    baseline="basic_tanh",
    optimizer="sgd",
    seeds=8,  # as many as a share of one half needs for a verdict where all seeds solve it
    epochs=100,
    evaluations=1,
    batch=20,
)
SIZES: dict[str, tuple[Study, tuple[int, ...]]] = {
    "smoke": (smoke(BASE), (10,)),
    "quick": (BASE, (20, 40)),
    "paper": (
        # 78,000 epochs of 64 updates are the paper's 5 million.
        replace(BASE, epochs=78_000),
        (20, 50, 100, 150, 200),
    ),
}


def reproduce(size: tuple[Study, tuple[int, ...]], out: Path) -> int:
    base, lengths = size
    studies = {}
    for length in lengths:
        for how, clip in CLIPPED.items():
            studies[f"{how}, T={length}"] = replace(base, length=length, clip=clip)
    results = run_all(studies, out, schemes={"basic_tanh": basic_tanh})
    claims = []
    for length in lengths:
        plain = {scheme: solved(results, f"SGD, T={length}", scheme) for scheme in base.schemes}
        clipped = {
            scheme: solved(results, f"clipped at 1, T={length}", scheme) for scheme in base.schemes
        }
        for scheme in base.schemes:
            statement = f"T={length}, {scheme}, clipped: share of seeds that solve it"
            published = "success lasts longer with clipping"
            claims.append(make_claim("P1", statement, clipped[scheme], published, at_least(0.5)))
        for scheme in base.schemes:
            pair = f"T={length}, {scheme}", "with clipping", "without"
            published = "no lower with clipping"
            claims += one_of_two(*pair, clipped[scheme], plain[scheme], published)
        pair = f"T={length}, clipped", "by smart_tanh", "by basic_tanh"
        published = "no lower with smart_tanh"
        claims += one_of_two(*pair, clipped["smart_tanh"], clipped["basic_tanh"], published)
    draw(base, lengths, results, out / "figures")
    return finish(out, studies, results, claims, "Temporal order: epochs to 95 % accuracy")


def one_of_two(
    where: str, how: str, other: str, first: np.ndarray, second: np.ndarray, published: str
) -> list[Claim]:
    """P1: of the seeds that are solved in only one of two ways, the share that is in the first.

    Seeds that both ways solve, or neither, say nothing of which is better. Source: McNemar (1947).
    """
    one = first != second
    if not one.any():
        return []
    statement = f"{where}: of the seeds solved either {how} or {other}, not both, share {how}"
    note = f"{first.sum()} of {len(first)} solved {how}, {second.sum()} {other}"
    return [make_claim("P1", statement, first[one], published, at_least(0.5), note)]


def solved(results: Results, setting: str, scheme: str) -> np.ndarray:
    """Which reporting seeds reached the target, in the order of the seeds."""
    return times(results[setting], scheme).event


def draw(base: Study, lengths: tuple[int, ...], results: Results, folder: Path) -> None:
    """Share of seeds that solve the task against its length (figure 7 of the paper)."""
    title = (
        f"Temporal order, {base.hidden} tanh units, {base.epochs} epochs, each initialization at "
        "its own "
        "best rate"
    )
    with saved_figure(
        folder, "figure_7_success", title, size=(7, 3), columns=len(CLIPPED), sharey=True
    ) as panels:
        for axes, how in zip(panels, CLIPPED, strict=True):
            shares = {}
            for scheme in base.schemes:
                by_length = [solved(results, f"{how}, T={length}", scheme) for length in lengths]
                shares[scheme] = np.mean(by_length, axis=1)
            lines(axes, lengths, shares, markersize=5)
            axes.set(title=how, xlabel="length of the sequence", ylim=(-0.05, 1.05), xticks=lengths)
        panels[0].set_ylabel(f"share of {base.seeds} seeds that solve it")
        panels[0].legend(frameon=False, fontsize=7)


main = make_main("pascanu2013", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
