"""Residual streams: what dividing the kernels into the stream by sqrt(2 n_layers) does before
training (T1, B4) and to the epochs to a target (B4), and what kernels of zero do (D4; not at the
published scale).

The questions: how does the stream of a pre-norm Transformer grow with depth under a plain and under
a scaled initialization (T1), and does the scaling change the epochs to a target? Are kernels of
zero, as speedruns have them, as good as scaled ones or better (D4; not at their scale)?

    python experiments/residual_scaling.py                 quick: 2 to 32 blocks of width 64, training of width 32; minutes on 2 cores
    python experiments/residual_scaling.py --size smoke    seconds: checks that all of it works
    python experiments/residual_scaling.py --size paper    width 512, training of 2 to 24 blocks: for an accelerator

Departures at quick: what trains is 2 and 8 blocks of width 32 in sequences of 16, in epochs of
12,288 characters, to a target of 3 bits per character, early in training. Size paper trains wider
and deeper ones for longer, and GPT-2's own sizes beside them, about which nothing is claimed.

Expect at quick (2026-11-30, 196 s on 2 cores; all claims and intervals: docs/results.md):
- T1: slope of log size of the stream against log depth, plain: 0.576 (0.568 to 0.585); at least
  0.4: holds; at most 0.6: holds.
- T1: slope of log size of the stream against log depth, one_over_root: 0.0556 (0.0438 to 0.0675);
  at least -0.1: holds; at most 0.1: holds.
- B4: plain: size of the stream after 32 blocks over that after 2: 4.89 (4.81 to 4.97); at least
  1.5: holds.
- B4: one_over_root: size of the stream after 32 blocks over that after 2: 1.16 (1.13 to 1.19); at
  least 0.5: holds; at most 1.5: holds.
- B4: gpt2: size of the stream after 32 blocks over that after 2: 0.995 (0.981 to 1.01); at least
  0.5: holds; at most 1.5: holds.
- B4: gpt2_blocks: size of the stream after 32 blocks over that after 2: 1 (0.984 to 1.02); at least
  0.5: holds; at most 1.5: holds.
- B4: llama: size of the stream after 32 blocks over that after 2: 4.14 (3.99 to 4.28); at least
  1.5: holds.
- B4: 2 blocks: times fewer epochs, scaled by 1/sqrt(2 n_layers) against plain: 1.26 (1.18 to 1.34);
  at least 1.05: holds.
- and 3 more claims.
"""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxinit.analysis.claims import Claim, at_least, make_claim, near
from jaxinit.analysis.figure import lines, saved_figure, tick_at
from jaxinit.initializers import lecun, scaled, vector, zeros
from jaxinit.reproduce import (
    before_training,
    faster,
    finish,
    make_main,
    run_all,
    short_text,
    smoke,
)
from jaxinit.schemes.needs import INTO_STREAM
from jaxinit.schemes.transformer import gpt2, gpt2_blocks, llama
from jaxinit.spec import Initializer, Leaf, Scheme
from jaxinit.study import Study


def plain(leaf: Leaf) -> Initializer:
    """N(0, 1/fan_in) for every kernel, zero biases."""
    return vector(leaf) or lecun("normal")


def one_over_root(leaf: Leaf) -> Initializer:
    """`plain` with kernels into the stream divided by sqrt(2 n_layers)."""
    if leaf.role not in INTO_STREAM:
        return plain(leaf)
    branches = 2 * leaf.n_layers  # attention and feed-forward of every block
    return scaled(plain(leaf), branches**-0.5)


def zero_into_stream(leaf: Leaf) -> Initializer:
    """`plain` with kernels of zero into the stream, so that every block begins as the identity."""
    return zeros if leaf.role in INTO_STREAM else plain(leaf)


LOOKED_AT: dict[str, Scheme] = {
    "plain": plain,
    "one_over_root": one_over_root,
    "gpt2": gpt2,
    "gpt2_blocks": gpt2_blocks,
    "llama": llama,
}
AS_GOOD = 0.95  # times fewer epochs, or more
TRAINED = Study(
    model="transformer",
    hidden=32,
    task="short_text",
    schemes=("plain", "one_over_root", "zero_into_stream"),
    baseline="plain",
    optimizer="adam",
    clip=1.0,
    seeds=8,
    epochs=15,
    evaluations=2,
    target=3.0,
    batch=16,
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
    "smoke": Size((2, 4), 16, 2, smoke(TRAINED), (2,)),
    "quick": Size((2, 4, 8, 16, 32), 64, 8, TRAINED, (2, 8)),
    "paper": Size(
        (2, 4, 8, 16, 32, 64),
        512,
        8,
        replace(
            TRAINED,
            schemes=("plain", "one_over_root", "zero_into_stream", "gpt2"),
            hidden=512,
            task="text",
            length=128,
            batch=64,
            epochs=40,
            evaluations=6,
            target=2.6,
        ),
        (2, 12, 24),
    ),
}


def measure(size: Size, out: Path) -> int:
    growth = {name: streams(size, scheme) for name, scheme in LOOKED_AT.items()}
    draw(size, growth, out / "figures")
    studies = {f"{layers} blocks": replace(size.study, layers=layers) for layers in size.trained}
    schemes = LOOKED_AT | {"zero_into_stream": zero_into_stream}
    results = run_all(studies, out, schemes=schemes, tasks={"short_text": short_text})
    claims = before(size, growth)
    for setting, result in results.items():
        statement = f"{setting}: times fewer epochs, scaled by 1/sqrt(2 n_layers) against plain"
        pair = (result, "one_over_root"), (result, "plain")
        published = "no number; final losses of shallow models are said to differ within noise"
        band, depths = at_least(1.05), len(results)
        claims.append(faster("B4", statement, *pair, published, band, family=depths))
        statement = (
            f"{setting}: times fewer epochs, zero into the stream against 1/sqrt(2 n_layers)"
        )
        pair = (result, "zero_into_stream"), (result, "one_over_root")
        published, band = "as good or better (speedruns)", at_least(AS_GOOD)
        claims.append(faster("D4", statement, *pair, published, band, family=depths))
    title = f"Residual scaling: epochs to {size.study.target:g} bits per character"
    return finish(out, studies, results, claims, title)


def streams(size: Size, scheme: Scheme) -> dict[str, np.ndarray]:
    """The size of the stream after all blocks, and of what they added, over that before the first:
    `[depth, seed]` each."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxinit.introspect import functional
    from jaxinit.models import Transformer

    tokens = jax.random.randint(jax.random.key(0), (8, 32), 0, 64)

    def rms(a: Any) -> Any:
        return jnp.sqrt(jnp.mean(a**2))

    def growth(module: Any) -> Any:
        course = module.stream(tokens)
        first, last = course[0], course[-2]  # the very last is what the readout sees
        return rms(last) / rms(first), rms(last - first) / rms(first)

    by_depth = []
    for depth in size.depths:
        # Without positions, which would add to the stream before the first block.
        make = partial(Transformer, 64, size.width, 64, layers=depth, length=32, positions=None)
        model = functional(lambda make=make: make(rngs=nnx.Rngs(0)))
        by_depth.append(before_training(model, scheme, size.seeds, growth))
    values = np.stack(by_depth)
    return {"stream": values[..., 0], "branches": values[..., 1]}


def before(size: Size, growth: dict[str, dict[str, np.ndarray]]) -> list[Claim]:
    """T1 and B4: how the stream grows with depth before training."""
    note = (
        f"width {size.width}, {size.seeds} seeds, before training, {size.depths[-1]} blocks at most"
    )
    claims = []
    logs = np.log10(np.asarray(size.depths, float))
    for name, published, band in (
        ("plain", "about 0.5: grows as sqrt(1 + 2 L v)", (0.4, 0.6)),
        ("one_over_root", "stays of order 1", near(0.0, 0.1)),
    ):
        slope = np.polyfit(logs, np.log10(growth[name]["stream"]), 1)[0]
        statement = f"slope of log size of the stream against log depth, {name}"
        claims.append(make_claim("T1", statement, slope, published, band, note))
    for name in LOOKED_AT:
        published, band = "keeps the stream from growing", (0.5, 1.5)
        if name in ("plain", "llama"):  # whose kernels into the stream are as large as any
            published, band = "grows", at_least(1.5)
        stream = growth[name]["stream"]
        statement = (
            f"{name}: size of the stream after {size.depths[-1]} blocks over that after "
            f"{size.depths[0]}"
        )
        claims.append(make_claim("B4", statement, stream[-1] / stream[0], published, band, note))
    return claims


def draw(size: Size, growth: dict[str, dict[str, np.ndarray]], folder: Path) -> None:
    """The size of the stream against depth, with theory's line through the plain initialization."""
    title = f"Pre-norm Transformer of width {size.width} before training, n = {size.seeds} seeds"
    with saved_figure(folder, "streams", title, size=(6, 3.6)) as (axes,):
        of_stream = {name: sizes["stream"] for name, sizes in growth.items()}
        lines(axes, size.depths, of_stream, size.study.schemes)
        # v: what a branch adds to the stream's mean square, measured on the shallowest model.
        added = growth["plain"]["branches"][0].mean() ** 2
        v = added / (2 * size.depths[0])
        theory = np.sqrt(1 + 2 * np.asarray(size.depths) * v)
        axes.plot(size.depths, theory, color="0.2", ls=":", lw=1, label="sqrt(1 + 2 L v)")
        axes.set(xscale="log", yscale="log", xlabel="blocks")
        axes.set_ylabel("size of the stream over that before the first block")
        tick_at(axes, size.depths)
        low, high = axes.get_ylim()
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if low <= tick <= high]
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7)


main = make_main("residual_scaling", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
