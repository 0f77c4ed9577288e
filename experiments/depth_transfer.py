"""Does the best learning rate carry over from shallow to deep networks (depth-muP and CompleteP:
claim U2)?

The questions: how does the sum of all branches of a residual MLP go with its depth before training,
when each branch is multiplied by depth^-alpha (U2: its square as depth^(1 - 2 alpha)), and by how
many octaves does the best learning rate move from the shallowest to the deepest network, without
such a factor (alpha = 0) and with it?

    python experiments/depth_transfer.py                 quick: 4 to 64 blocks of width 64; minutes on 2 cores
    python experiments/depth_transfer.py --size smoke    seconds: checks that all of it works
    python experiments/depth_transfer.py --size paper    width 512, 4 to 256 blocks, more seeds: for an accelerator

Expect at quick (2026-11-29, 168 s on 2 cores; all claims and intervals: docs/results.md):
- U2: slope of the squared sum of branches against depth before training, plain, alpha = 0: 0.989
  (0.97 to 1.01); at least 0.95: holds; at most 1.05: holds.
- U2: slope of the squared sum of branches against depth before training, depth_mup, alpha = 0.5:
  -0.00902 (-0.0251 to 0.00708); at least -0.05: holds; at most 0.05: holds.
- U2: slope of the squared sum of branches against depth before training, complete_p, alpha = 1:
  -1.01 (-1.03 to -0.991); at least -1.05: holds; at most -0.95: holds.
- U2: plain: octaves that the best rate moves from 4 to 64 blocks: -2.09 (-2.24 to -1.95); at most
  -1: holds.
- U2: depth_mup: octaves that the best rate moves from 4 to 64 blocks: 0.0922 (-0.0297 to 0.214); at
  least -1: holds; at most 1: holds.
- U2: complete_p: octaves that the best rate moves from 4 to 64 blocks: -0.355 (-0.478 to -0.231);
  at least -1: holds; at most 1: holds.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxinit.analysis.claims import Claim, at_most, make_claim, near
from jaxinit.analysis.store import Result
from jaxinit.introspect import Place, param
from jaxinit.models.common import Dense
from jaxinit.reproduce import (
    before_training,
    draw_transfer,
    finish,
    make_main,
    run_all,
    smoke,
    transfer_claims,
)
from jaxinit.schemes import xavier_rnn
from jaxinit.schemes.mup import depth_mup
from jaxinit.spec import Scheme
from jaxinit.study import Study

BASE = 4  # blocks
SCHEMES: dict[str, Scheme] = {
    "plain": xavier_rnn,
    "depth_mup": depth_mup(xavier_rnn, BASE, 0.5),
    "complete_p": depth_mup(xavier_rnn, BASE, 1.0),
}
STUDY = Study(
    model="residual_mlp",
    hidden=64,
    schemes=tuple(SCHEMES),
    baseline="plain",
    optimizer="adam",
    lrs=tuple(2.0**-k for k in range(13, 4, -1)),  # an octave apart: shifts are in octaves
    seeds=2,
    tune_seeds=16,  # the best rate is read off these
    epochs=2,
    evaluations=1,
    target=1.0,
)


class ResidualMLP(nnx.Module):
    """h <- h + relu(N(h) W) V in every block, N(h) = h / rms(h), on flattened inputs: a model of
    this experiment's own.

    Its blocks' kernels have the roles ffn_in and ffn_out of a Transformer's, so that its schemes
    know them.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        layers: int,
        length: int = 1,
        readout: str = "last",
        rngs: nnx.Rngs,
    ):
        del readout, rngs  # of every model of a study; this one has no use for them

        def place(layer: int, activation: str = "linear") -> Place:
            return Place(layer=layer, n_layers=layers, width=hidden, activation=activation)

        def kernel(role: str, **at: Any) -> nnx.Param:
            return param((hidden, hidden), "io", role, **at)

        self.input = Dense(in_features * length, hidden, "input", **place(0))
        self.inner, self.outer = nnx.List(), nnx.List()
        for k in range(layers):
            self.inner.append(kernel("ffn_in", **place(k, "relu")))
            self.outer.append(kernel("ffn_out", **place(k)))
        self.readout = Dense(hidden, out_features, "readout", **place(layers))

    def __call__(self, x: Any) -> Any:
        return self.readout(normalized(self.stream(x)[-1]))

    def stream(self, x: Any) -> Any:
        """The first and the last of the residual stream."""
        import jax
        import jax.numpy as jnp

        def block(h: Any, kernels: Any) -> tuple[Any, None]:
            inner, outer = kernels
            hidden = jax.nn.relu(normalized(h) @ inner)
            return h + hidden @ outer, None

        # Stacked, so that a scan compiles one block however deep the network is.
        inner = jnp.stack([kernel[...] for kernel in self.inner])
        outer = jnp.stack([kernel[...] for kernel in self.outer])
        first = self.input(x.reshape(x.shape[0], -1))
        last, _ = jax.lax.scan(block, first, (inner, outer))
        return [first, last]


def normalized(h: Any) -> Any:
    """h over its root mean square."""
    import jax.numpy as jnp

    mean_square = (h**2).mean(-1, keepdims=True)
    return h / jnp.sqrt(mean_square + 1e-6)  # 1e-6: a stream of zeros stays one


@dataclass(frozen=True)
class Size:
    """The study at every depth, the depths, the depths trained, and the seeds of the sums."""

    study: Study
    depths: tuple[int, ...]
    trained: tuple[int, ...]
    seeds: int


SIZES = {
    "smoke": Size(smoke(STUDY, lrs=STUDY.lrs[::4], tune_seeds=2), (4, 8), (4, 8), 2),
    "quick": Size(STUDY, (4, 8, 16, 32, 64), (4, 16, 64), 20),
    "paper": Size(
        replace(STUDY, hidden=512, tune_seeds=20, epochs=20), (4, 16, 64, 256), (4, 16, 64, 256), 20
    ),
}


def measure(size: Size, out: Path) -> int:
    studies = {f"{layers} blocks": replace(size.study, layers=layers) for layers in size.trained}
    claims = sums_of_branches(size)
    results = run_all(studies, out, schemes=SCHEMES, models={"residual_mlp": ResidualMLP})
    title = (
        f"Residual MLP of {size.study.hidden} units on digits, {size.study.epochs} epochs, n = "
        f"{size.study.tune_seeds}; base {BASE} blocks"
    )
    draw_transfer(results, title, out / "figures")
    claims += transfer(size, list(results.values()))
    return finish(out, studies, results, claims, rows=[])


def sums_of_branches(size: Size) -> list[Claim]:
    """U2: how the squared sum of all branches goes with depth, before training."""
    claims = []
    for scheme, alpha in (("plain", 0.0), ("depth_mup", 0.5), ("complete_p", 1.0)):
        by_depth = [sums(size, depth, SCHEMES[scheme]) for depth in size.depths]
        squares = np.stack(by_depth) ** 2
        slope = np.polyfit(np.log10(size.depths), np.log10(squares), 1)[0]
        expected = 1 - 2 * alpha
        statement = (
            f"slope of the squared sum of branches against depth before training, {scheme}, "
            f"alpha = {alpha:g}"
        )
        note = f"width {size.study.hidden}, {size.depths[0]} to {size.depths[-1]} blocks"
        band = near(expected, 0.05)
        claims.append(make_claim("U2", statement, slope, f"{expected:g} +- 0.05", band, note))
    return claims


def sums(size: Size, depth: int, scheme: Scheme) -> np.ndarray:
    """The root mean square of the sum of all branches before training: `[seed]`."""
    import jax
    import jax.numpy as jnp

    from jaxinit.introspect import functional

    x = jax.random.normal(jax.random.key(0), (64, 64))
    width = size.study.hidden
    model = functional(lambda: ResidualMLP(64, width, 10, layers=depth, rngs=nnx.Rngs(0)))

    def added(module: ResidualMLP) -> Any:
        first, last = module.stream(x)
        return jnp.sqrt(jnp.mean((last - first) ** 2))

    return before_training(model, scheme, size.seeds, added)


def transfer(size: Size, results: Sequence[Result]) -> list[Claim]:
    """U2: by how many octaves the best rate moves from the shallowest to the deepest network."""
    expected = {
        "plain": ("moves down", at_most(-1.0)),
        "depth_mup": ("carries over", near(0.0, 1.0)),
        "complete_p": ("carries over", near(0.0, 1.0)),
    }
    between = f"from {size.trained[0]} to {size.trained[-1]} blocks"
    return transfer_claims("U2", results, between, expected)


main = make_main("depth_transfer", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
