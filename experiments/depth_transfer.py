"""Does the best learning rate carry over from shallow to deep networks (depth-muP and CompleteP:
claim U2)?

The questions: how does the sum of all branches of a residual MLP go with its depth before training,
when each branch is multiplied by depth^-alpha (U2: its square as depth^(1 - 2 alpha)), and by how
many octaves does the best learning rate move from the shallowest to the deepest network, without
such a factor (alpha = 0) and with it?

    python experiments/depth_transfer.py                 quick: 4 to 64 blocks of width 64; minutes on 2 cores
    python experiments/depth_transfer.py --size smoke    seconds: checks that all of it works
    python experiments/depth_transfer.py --size paper    width 512, 4 to 256 blocks, more seeds: for an accelerator

Expect at quick: the squared sum of the branches goes as depth to the 0.99 (0.97 to 1.01) plain,
-0.01 (-0.03 to 0.01) under depth-muP, -1.01 (-1.03 to -0.99) under CompleteP (20 draws). From 4 to
64 blocks the best rate moves by -2.1 octaves (-2.3 to -2.0; 16 seeds) plain, 0.0 (-0.2 to 0.2)
under depth-muP and -0.4 (-0.5 to -0.3) under CompleteP:
both carry it over to within an octave, depth-muP the better.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxinit.analysis.claims import make_claim
from jaxinit.introspect import Place, param
from jaxinit.models.common import Dense
from jaxinit.reproduce import draw_transfer, finish, main_of, optimum, run_all
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
    lrs=tuple(2.0**-k for k in range(13, 4, -1)),
    seeds=2,
    tune_seeds=16,
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

    def __init__(self, in_features: int, hidden: int, out_features: int, *, layers: int, length: int, readout: str,
                 rngs: nnx.Rngs):  # fmt: skip
        place = lambda k, phi="linear": Place(
            layer=k, n_layers=layers, width=hidden, activation=phi
        )
        self.input = Dense(in_features * length, hidden, "input", **place(0))
        blocks = range(layers)
        self.inner = nnx.List(
            [param((hidden, hidden), "io", "ffn_in", **place(k, "relu")) for k in blocks]
        )
        self.outer = nnx.List(
            [param((hidden, hidden), "io", "ffn_out", **place(k)) for k in blocks]
        )
        self.readout = Dense(hidden, out_features, "readout", **place(layers))

    def __call__(self, x: Any) -> Any:
        return self.readout(normalized(self.stream(x)[-1]))

    def stream(self, x: Any) -> Any:
        """The first and the last of the residual stream."""
        import jax
        import jax.numpy as jnp

        h = first = self.input(x.reshape(x.shape[0], -1))
        kernels = [jnp.stack([w[...] for w in of]) for of in (self.inner, self.outer)]
        step = lambda h, of: (h + jax.nn.relu(normalized(h) @ of[0]) @ of[1], None)
        return [first, jax.lax.scan(step, h, kernels)[0]]


def normalized(h: Any) -> Any:
    """h over its root mean square."""
    import jax.numpy as jnp

    return h / jnp.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)


@dataclass(frozen=True)
class Size:
    """The study at every depth, the depths, the depths trained, and the seeds of the sums."""

    study: Study
    depths: tuple[int, ...]
    trained: tuple[int, ...]
    seeds: int


SIZES = {
    "smoke": Size(
        replace(STUDY, hidden=16, lrs=(2.0**-9, 2.0**-7, 2.0**-5), tune_seeds=2, epochs=1),
        (4, 8),
        (4, 8),
        2,
    ),
    "quick": Size(STUDY, (4, 8, 16, 32, 64), (4, 16, 64), 20),
    "paper": Size(
        replace(STUDY, hidden=512, tune_seeds=20, epochs=20), (4, 16, 64, 256), (4, 16, 64, 256), 20
    ),
}


def measure(size: Size, out: Path) -> int:
    from jaxinit.engine import sweep

    sweep.one_device_per_core()
    sweep.keep_compilations()
    own: Any = {"residual_mlp": ResidualMLP}
    claims = []
    for name, alpha in (("plain", 0.0), ("depth_mup", 0.5), ("complete_p", 1.0)):
        expected, squares = 1 - 2 * alpha, sums(size, SCHEMES[name]) ** 2
        slope = np.polyfit(np.log10(size.depths), np.log10(squares), 1)[0]
        what = (
            f"slope of the squared sum of branches against depth before training, {name}, alpha = "
            f"{alpha:g}"
        )
        note = f"width {size.study.hidden}, {size.depths[0]} to {size.depths[-1]} blocks"
        band = (expected - 0.05, expected + 0.05)
        claims.append(make_claim("U2", what, slope, f"{expected:g} +- 0.05", band, note))
    studies = {f"{layers} blocks": replace(size.study, layers=layers) for layers in size.trained}
    results = run_all(studies, out, schemes=SCHEMES, models=own)
    for scheme in size.study.schemes:
        of = [optimum(results[name], scheme) for name in studies]
        what = (
            f"{scheme}: octaves that the best rate moves from {size.trained[0]} to "
            f"{size.trained[-1]} blocks"
        )
        band, published = (
            ((-np.inf, -1.0), "moves down") if scheme == "plain" else ((-1.0, 1.0), "carries over")
        )
        note = "training loss after a fixed number of epochs"
        claims.append(make_claim("U2", what, of[-1] - of[0], published, band, note))
    title = f"Residual MLP of {size.study.hidden} units on digits, {size.study.epochs} epochs, n = "
    draw_transfer(results, f"{title}{size.study.tune_seeds}; base {BASE} blocks", out / "figures")
    return finish(out, [], claims, studies)


def sums(size: Size, scheme: Scheme) -> np.ndarray:
    """The root mean square of the sum of all branches before training: `[depth, seed]`."""
    import jax
    import jax.numpy as jnp

    from jaxinit.introspect import functional
    from jaxinit.spec import draw, rules

    x, width, found = jax.random.normal(jax.random.key(0), (64, 64)), size.study.hidden, []
    for depth in size.depths:
        model = functional(
            lambda depth=depth: ResidualMLP(
                64, width, 10, layers=depth, length=1, readout="last", rngs=nnx.Rngs(0)
            )
        )
        factors = {name: rule.multiplier for name, rule in rules(scheme, model.leaves).items()}

        @jax.jit
        def of(params: Any, model: Any = model) -> Any:
            first, last = model.filled(params).stream(x)
            return jnp.sqrt(jnp.mean((last - first) ** 2))

        drawn = [draw(scheme, jax.random.key(seed), model.leaves) for seed in range(size.seeds)]
        found.append(
            [float(of({name: w * factors[name] for name, w in params.items()})) for params in drawn]
        )
    return np.asarray(found)


main = main_of("depth_transfer", __doc__, SIZES, measure)

if __name__ == "__main__":
    sys.exit(main())
