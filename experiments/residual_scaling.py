"""Residual streams at the start: what dividing the kernels into the stream by sqrt(2 n_layers) does
(T1, B4).

The questions: how does the stream of a pre-norm Transformer grow with depth under a plain and under
a scaled start (T1), and does the scaling change the epochs to a target?

    python experiments/residual_scaling.py                 quick: 2 to 32 blocks of width 64; minutes on 2 cores
    python experiments/residual_scaling.py --size smoke    seconds: checks that all of it works
    python experiments/residual_scaling.py --size paper    width 512, training of 2 to 24 blocks: for an accelerator

Expect at quick: from 2 to 32 blocks the stream grows 4.9 times plain, 4.1 times under llama, 1.17
times with the kernels into it divided by sqrt(2 n_layers), and not at all under gpt2 (0.99). The
plain slope is 0.58 (0.575 to 0.591), a bit above the 0.5 of branches that are all of one size:
attention averages rows, and the deeper the more alike they are. Epochs to 2.9 bits (on the text
before 2026-11-25; 4 seeds): 1.20 times fewer with the scaling at 2 blocks (1.15 to 1.26), 1.11
times at 8 (1.03 to 1.19, too noisy to tell from 1.05); gpt2's own sizes are slower than both.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import make_claim
from jaxinit.initializers import lecun, scaled, vector
from jaxinit.reproduce import faster, finish, main_of, rows_of, run_all
from jaxinit.schemes.needs import INTO_STREAM
from jaxinit.schemes.transformer import gpt2, gpt2_blocks, llama
from jaxinit.spec import Initializer, Leaf, Scheme
from jaxinit.study import Study


def plain(leaf: Leaf) -> Initializer:
    """N(0, 1/fan_in) for every kernel, zero biases."""
    return vector(leaf) or lecun("normal")


def one_over_root(leaf: Leaf) -> Initializer:
    """`plain` with kernels into the stream divided by sqrt(2 n_layers)."""
    return (
        scaled(plain(leaf), (2 * leaf.n_layers) ** -0.5)
        if leaf.role in INTO_STREAM
        else plain(leaf)
    )


LOOKED_AT: dict[str, Scheme] = {
    "plain": plain,
    "one_over_root": one_over_root,
    "gpt2": gpt2,
    "gpt2_blocks": gpt2_blocks,
    "llama": llama,
}
TRAINED = Study(
    model="transformer",
    hidden=64,
    task="text",
    length=16,
    schemes=("plain", "one_over_root", "gpt2"),
    baseline="plain",
    optimizer="adam",
    lrs=(0.001, 0.003, 0.01),
    clip=1.0,
    seeds=4,
    tune_seeds=1,
    epochs=4,
    evaluations=6,
    target=2.6,
    batch=64,
)


@dataclass(frozen=True)
class Size:
    """Depths looked at, width, seeds, what is trained, and at which depths."""

    depths: tuple[int, ...]
    width: int
    seeds: int
    study: Study
    trained: tuple[int, ...]


SIZES = {
    "smoke": Size(
        (2, 4, 8),
        16,
        2,
        replace(TRAINED, hidden=16, lrs=(0.01,), seeds=2, epochs=1, evaluations=1),
        (2,),
    ),
    "quick": Size((2, 4, 8, 16, 32), 64, 4, TRAINED, (2, 8)),
    "paper": Size(
        (2, 4, 8, 16, 32, 64),
        512,
        8,
        replace(TRAINED, hidden=512, length=128, seeds=5, epochs=40),
        (2, 12, 24),
    ),
}


def measure(size: Size, out: Path) -> int:
    from jaxinit.engine import sweep

    sweep.one_device_per_core()
    sweep.keep_compilations()
    growth = {name: streams(size, scheme) for name, scheme in LOOKED_AT.items()}
    claims, note = (
        [],
        f"width {size.width}, {size.seeds} seeds, before training, {size.depths[-1]} blocks at most",
    )
    logs = np.log10(np.asarray(size.depths, float))
    for name, published, band in (
        ("plain", "about 0.5: grows as sqrt(1 + 2 L v)", (0.4, 0.6)),
        ("one_over_root", "stays of order 1", (-0.1, 0.1)),
    ):
        slope = np.polyfit(logs, np.log10(growth[name]["stream"]), 1)[0]
        what = f"slope of log size of the stream against log depth, {name}"
        claims.append(make_claim("T1", what, slope, published, band, note))
    for name in LOOKED_AT:
        stream, scaled_too = growth[name]["stream"], name not in ("plain", "llama")
        what = (
            f"{name}: size of the stream after {size.depths[-1]} blocks over that after "
            f"{size.depths[0]}"
        )
        band = (0.5, 1.5) if scaled_too else (1.5, np.inf)
        published = "keeps the stream from growing" if scaled_too else "grows"
        claims.append(make_claim("B4", what, stream[-1] / stream[0], published, band, note))
    draw(size, growth, out / "figures")
    studies = {f"{layers} blocks": replace(size.study, layers=layers) for layers in size.trained}
    results = run_all(studies, out, schemes=LOOKED_AT)
    for cell, result in results.items():
        what = f"{cell}: times fewer epochs, scaled by 1/sqrt(2 n_layers) against plain"
        pair = (result, "one_over_root"), (result, "plain")
        published = "no number; final losses of shallow models are said to differ within noise"
        claims.append(faster("B4", what, *pair, published, (1.05, np.inf)))
    title = f"Residual scaling: epochs to {size.study.target:g} bits per character"
    return finish(out, rows_of(results), claims, studies, title)


def streams(size: Size, scheme: Scheme) -> dict[str, Any]:
    """By depth and seed: the size of the stream after all blocks, and of what they added, over that
    at the start."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxinit.introspect import functional
    from jaxinit.models import Transformer
    from jaxinit.spec import draw as draw_all
    from jaxinit.spec import rules

    tokens = jax.random.randint(jax.random.key(0), (8, 32), 0, 64)
    found: dict[str, list[Any]] = {"stream": [], "branches": []}
    for depth in size.depths:
        model = functional(
            lambda depth=depth: Transformer(
                64, size.width, 64, layers=depth, length=32, positions=None, rngs=nnx.Rngs(0)
            )
        )
        factors = {name: rule.multiplier for name, rule in rules(scheme, model.leaves).items()}

        @jax.jit
        def of(params: Any, model: Any = model) -> Any:
            courses = model.filled(params).stream(tokens)
            size_of = lambda a: jnp.sqrt(jnp.mean(a**2))
            first, last = courses[0], courses[-2]
            return size_of(last) / size_of(first), size_of(last - first) / size_of(first)

        values = []
        for seed in range(size.seeds):
            drawn = draw_all(scheme, jax.random.key(seed), model.leaves)
            values.append(
                [
                    float(value)
                    for value in of({name: w * factors[name] for name, w in drawn.items()})
                ]
            )
        values = np.asarray(values)
        found["stream"].append(values[:, 0])
        found["branches"].append(values[:, 1])
    return {name: np.asarray(values) for name, values in found.items()}


def draw(size: Size, growth: dict[str, dict[str, np.ndarray]], folder: Path) -> None:
    """The size of the stream against depth, with theory's line through the plain start."""
    import matplotlib.pyplot as plt

    from jaxinit.analysis.figure import save, style
    from jaxinit.analysis.signal_figures import MARKS

    with style():
        figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
        for k, (name, of) in enumerate(growth.items()):
            grey, values = str(0.16 * k), of["stream"]
            axes.plot(
                size.depths,
                values.mean(1),
                color=grey,
                marker=MARKS[k],
                markersize=4,
                linewidth=1,
                label=name,
            )
            axes.fill_between(
                size.depths, values.min(1), values.max(1), color=grey, alpha=0.2, linewidth=0
            )
        added = (growth["plain"]["branches"][0].mean() ** 2) / (2 * size.depths[0])
        theory = np.sqrt(1 + 2 * np.asarray(size.depths) * added)
        axes.plot(
            size.depths, theory, color="0.2", linestyle=":", linewidth=1, label="sqrt(1 + 2 L v)"
        )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="blocks",
            ylabel="size of the stream over that at the start",
        )
        axes.set_xticks(size.depths, [str(depth) for depth in size.depths])
        ticks = [
            of
            for of in (1, 2, 5, 10, 20, 50, 100, 200)
            if axes.get_ylim()[0] <= of <= axes.get_ylim()[1]
        ]
        axes.set_yticks(ticks, [str(of) for of in ticks])
        axes.minorticks_off()
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
        figure.suptitle(
            f"Pre-norm Transformer of width {size.width} before training, n = {size.seeds} seeds",
            fontsize=9,
            x=0.01,
            ha="left",
        )
        save(figure, folder, "streams")


main = main_of("residual_scaling", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
