"""Mean-field theory of wide nets: phase diagrams, depth scales, what trains, and the spectrum of
the Jacobian.

The questions: do the maps of Poole et al. (2016) describe real nets (M1), does a net train as long
as it is no deeper than about six depth scales (M2, Schoenholz et al. 2017), and how does the spread
of a ReLU Jacobian's singular values grow with depth for Gaussian and orthogonal weights (M3,
Pennington et al. 2017)?

    python experiments/mean_field.py                  quick: width 100, depths to 80, 500 steps; minutes on 2 cores
    python experiments/mean_field.py --size smoke     seconds: checks that all of it works
    python experiments/mean_field.py --size paper     width 300, depths to 300, 5000 steps: for an accelerator

M2 is on handwritten digits, SGD at the best of a grid of rates, tanh, bias variance 0.05.
Expect at quick (2026-11-29, 185 s on 2 cores; all claims and intervals: docs/results.md):
- M1: critical weight variance of tanh: 1.76; at least 1.76: holds; at most 1.76: holds.
- M1: weight variance 1: relative error of chi, nets of width 1000: -0.00377 (-0.00999 to 0.00246);
  at least -0.03: holds; at most 0.03: holds.
- M1: weight variance 1.3: relative error of chi, nets of width 1000: -0.00396 (-0.0111 to 0.00315);
  at least -0.03: holds; at most 0.03: holds.
- M1: weight variance 1.5: relative error of chi, nets of width 1000: -0.00338 (-0.0108 to 0.00406);
  at least -0.03: holds; at most 0.03: holds.
- M1: weight variance 1.76: relative error of chi, nets of width 1000: -0.00282 (-0.0102 to
  0.00456); at least -0.03: holds; at most 0.03: holds.
- M1: weight variance 2: relative error of chi, nets of width 1000: -0.00353 (-0.0108 to 0.00377);
  at least -0.03: holds; at most 0.03: holds.
- M1: weight variance 2.5: relative error of chi, nets of width 1000: -0.00664 (-0.0144 to 0.00112);
  at least -0.03: holds; at most 0.03: holds.
- M1: weight variance 4: relative error of chi, nets of width 1000: -0.00823 (-0.0192 to 0.00271);
  at least -0.03: holds; at most 0.03: holds.
- and 5 more claims.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxinit.analysis.claims import Claim, make_claim, near
from jaxinit.analysis.drawn import ELSEWHERE
from jaxinit.analysis.figure import saved_figure
from jaxinit.reproduce import conclude, make_main, seeds_of_run

SIGMA_B2 = 0.05


@dataclass(frozen=True)
class Size:
    """Width and number of wide nets (M1); width, depths, variances, rates, steps and seeds of M2's
    map; M3's width."""

    wide: int
    nets: int
    width: int
    depths: tuple[int, ...]
    variances: tuple[float, ...]
    rates: tuple[float, ...]
    steps: int
    seeds: int
    jacobian: int


VARIANCES = (1.0, 1.3, 1.5, 1.76, 2.0, 2.5, 4.0)
SIZES = {
    "smoke": Size(200, 2, 20, (3, 5), (1.0, 1.76), (0.1,), 20, 1, 50),
    "quick": Size(1000, 30, 100, (10, 20, 40, 80), VARIANCES, (0.01, 0.1), 500, 2, 400),
    "paper": Size(
        1000, 20, 300, (10, 30, 60, 100, 150, 200, 300), VARIANCES, (0.001, 0.01, 0.1), 5000, 5, 400
    ),
}


def reproduce(size: Size, out: Path) -> int:
    growths = {w2: gradient_growths(size, w2) for w2 in VARIANCES}
    draw_phases(growths, out / "figures")
    accuracies = trained(size)
    draw_trainability(size, accuracies, out / "figures")
    rows = table(size, accuracies)
    claims = [*on_maps(size, growths), *on_trainability(size, rows), *on_jacobians(size)]
    return conclude(out, rows, claims, map(line, rows))


def log_chi(sigma_w2: float) -> float:
    """Theory's growth of the squared gradient per layer, as a logarithm."""
    from jaxinit import theory

    q = theory.fixed_point_q("tanh", sigma_w2, SIGMA_B2)
    return math.log(theory.chi("tanh", sigma_w2, q))


def depth_limit(sigma_w2: float) -> float:
    """Six depth scales: how deep a net may be to train."""
    from jaxinit import theory

    return 6 * theory.depth_scales("tanh", sigma_w2, SIGMA_B2)[1]


def on_maps(size: Size, growths: dict[float, np.ndarray]) -> list[Claim]:
    """M1: the critical line, and the growth of gradients per layer in wide tanh nets."""
    from jaxinit import theory

    note = f"tanh, bias variance {SIGMA_B2}"
    line = theory.critical_sigma_w2("tanh", SIGMA_B2)
    statement = "critical weight variance of tanh"
    claims = [make_claim("M1", statement, line, "1.7610", (1.760, 1.762), note, exact=True)]
    for w2, growth in growths.items():
        errors = np.expm1(growth - log_chi(w2))  # of chi itself, in each net
        statement = f"weight variance {w2:g}: relative error of chi, nets of width {size.wide}"
        claims.append(make_claim("M1", statement, errors, "exact when wide", near(0.0, 0.03), note))
    return claims


def gradient_growths(size: Size, sigma_w2: float) -> np.ndarray:
    """The growth of gradients in every net of M1 of one weight variance: `[net]`."""
    return np.asarray(
        [gradient_growth(size.wide, sigma_w2, seed) for seed in seeds_of_run(size.nets)]
    )


def gradient_growth(n: int, sigma_w2: float, seed: int, depth: int = 12) -> float:
    """The growth of the logarithm of the squared gradient per layer, in a net whose input is at the
    fixed point."""
    from jaxinit import theory

    draws = np.random.default_rng(seed)
    q = theory.fixed_point_q("tanh", sigma_w2, SIGMA_B2)
    z = math.sqrt(q) * draws.normal(size=n)
    layers = []
    for _ in range(depth):
        slope = 1 - np.tanh(z) ** 2
        w = draws.normal(size=(n, n)).astype(np.float32) * np.float32(math.sqrt(sigma_w2 / n))
        layers.append((w, slope))
        bias = math.sqrt(SIGMA_B2) * draws.normal(size=n)
        z = np.tanh(z) @ w + bias
    gradient = draws.normal(size=n)
    sizes = []
    for w, slope in reversed(layers):
        gradient = (w @ gradient) * slope
        sizes.append(np.mean(gradient**2))
    return float(np.log(sizes[-1] / sizes[0]) / (depth - 1))


def trained(size: Size) -> np.ndarray:
    """The training accuracy at the best rate, a mean over seeds: `[depth, variance]`."""
    from jaxinit.engine import sweep

    accuracies = np.empty((len(size.depths), len(size.variances)))
    for row, depth in enumerate(size.depths):
        grid = np.meshgrid(size.variances, size.rates, seeds_of_run(size.seeds), indexing="ij")
        w2, rate, seed = (column.ravel() for column in grid)
        columns = w2.astype(np.float32), rate.astype(np.float32), seed
        reached = sweep.over_devices(trial(size, depth), *columns).reshape(grid[0].shape)
        # `[variance, rate, seed]`: a mean over seeds at each rate, then the best of the rates.
        accuracies[row] = np.nan_to_num(reached).mean(2).max(1)
    return accuracies


def trial(size: Size, depth: int) -> Callable[[Any, Any, Any], Any]:
    """One training of a net of a depth: `(weight variance, rate, seed) -> training accuracy`.

    A loop of its own, not the engine's: what is asked is the accuracy on the training set after a
    number of steps, and a scan over hundreds of layers compiles one layer, where the library's MLP
    writes all of them out.
    """
    import jax
    import jax.numpy as jnp

    from jaxinit.tasks import TASKS
    from jaxinit.tasks.base import accuracy, cross_entropy

    n = size.width
    data = TASKS["digits_rows"]().data
    x, y = data["train_x"].reshape(-1, 64), data["train_y"]

    def draw(sigma_w2: Any, keys: Any) -> dict[str, Any]:
        key_in, key_w, key_b, key_out = keys
        return {
            "in": jax.random.normal(key_in, (64, n)) * jnp.sqrt(sigma_w2 / 64),
            "w": jax.random.normal(key_w, (depth, n, n)) * jnp.sqrt(sigma_w2 / n),
            "b": jax.random.normal(key_b, (depth, n)) * math.sqrt(SIGMA_B2),
            "out": jax.random.normal(key_out, (n, 10)) / math.sqrt(n),
        }

    def net(p: dict[str, Any], x: Any) -> Any:
        def layer(h: Any, wb: Any) -> tuple[Any, None]:
            w, b = wb
            return jnp.tanh(h @ w + b[None]), None

        first = jnp.tanh(x @ p["in"])
        h, _ = jax.lax.scan(layer, first, (p["w"], p["b"]))
        return h @ p["out"]

    def run(sigma_w2: Any, rate: Any, seed: Any) -> Any:
        *keys, order = jax.random.split(jax.random.key(seed), 5)

        def step(p: dict[str, Any], key: Any) -> tuple[dict[str, Any], None]:
            rows = jax.random.randint(key, (64,), 0, y.shape[0])

            def loss(p: dict[str, Any]) -> Any:
                return cross_entropy(net(p, x[rows]), y[rows])

            slopes = jax.grad(loss)(p)
            return jax.tree.map(lambda w, g: w - rate * g, p, slopes), None

        params = draw(sigma_w2, keys)
        params, _ = jax.lax.scan(step, params, jax.random.split(order, size.steps))
        return accuracy(net(params, x), y)

    return run


def table(size: Size, accuracies: np.ndarray) -> list[dict[str, Any]]:
    """A row for every weight variance and depth of M2's map."""
    rows = []
    for column, w2 in enumerate(size.variances):
        limit = depth_limit(w2)
        for row, depth in enumerate(size.depths):
            rows.append(
                {
                    "sigma_w2": w2,
                    "depth": depth,
                    "accuracy": float(accuracies[row, column]),
                    "six_xi_c": limit,
                    "steps": size.steps,
                    "seeds": size.seeds,
                }
            )
    return rows


def line(row: dict[str, Any]) -> str:
    """A row in print."""
    return (
        f"sigma_w2 {row['sigma_w2']:<5g} depth {row['depth']:3d}: training accuracy "
        f"{row['accuracy']:.2f}, 6 xi_c = {row['six_xi_c'] or math.inf:.0f}"
    )


def on_trainability(size: Size, rows: list[dict[str, Any]]) -> list[Claim]:
    """M2: nets train just when they are no deeper than six depth scales."""
    as_predicted = []
    for row in rows:
        # Nearer the boundary than a factor of two the theory says nothing.
        if not 0.5 < row["depth"] / row["six_xi_c"] < 2:
            trains = row["accuracy"] > 0.5
            predicted = row["depth"] < row["six_xi_c"]
            as_predicted.append(trains == predicted)
    statement = (
        "share of nets, a factor of two away from depth 6 xi_c, that train just when they are "
        "shallower"
    )
    note = (
        f"accuracy above 0.5 after {size.steps} steps at the best of {len(size.rates)} rates, "
        f"{size.seeds} seeds; {len(as_predicted)} nets"
    )
    published = "trainable depth about 6 xi_c"
    if not as_predicted:  # at size smoke no net is far enough from the boundary
        return []
    return [make_claim("M2", statement, np.asarray(as_predicted), published, (0.9, 1.0), note)]


def on_jacobians(size: Size) -> list[Claim]:
    """M3: the variance of the squared singular values of ReLU Jacobians over L, for Gaussian and
    orthogonal weights."""
    from jaxinit import theory

    published: dict[Literal["gaussian", "orthogonal"], str] = {"gaussian": "2 L", "orthogonal": "L"}
    claims = []
    for weights, depth in product(published, (2, 8)):
        spreads = [
            spectral_spread(size.jacobian, depth, weights, seed) for seed in seeds_of_run(10)
        ]
        expected = theory.jacobian_moments("relu", 2.0, 0.0, depth, weights)[1] / depth
        statement = (
            f"variance of squared singular values over L, {weights} weights, ReLU, L = {depth}"
        )
        note = f"width {size.jacobian}, sigma_w2 = 2, relative to the mean square"
        band = 0.8 * expected, 1.2 * expected
        claims.append(make_claim("M3", statement, spreads, published[weights], band, note))
    return claims


def spectral_spread(n: int, depth: int, weights: str, seed: int) -> float:
    """The variance of the squared singular values of one net's Jacobian, relative to their mean and
    over the depth."""
    draws = np.random.default_rng(seed)
    jacobian, z = np.eye(n), draws.normal(size=n)
    for _ in range(depth):
        w = draws.normal(size=(n, n))
        if weights == "orthogonal":
            w, _ = np.linalg.qr(w)
        else:
            w = w / math.sqrt(n)
        w = math.sqrt(2) * w  # the critical variance of ReLU
        jacobian = (jacobian * (z > 0)) @ w
        z = np.maximum(z, 0) @ w
    squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
    return np.mean((squares / squares.mean() - 1) ** 2) / depth


def draw_phases(growths: dict[float, np.ndarray], folder: Path) -> None:
    """chi over (weight variance, bias variance), and measured growth of gradients beside log
    chi."""
    from jaxinit import theory

    w2, b2 = np.linspace(0.5, 4, 24), np.linspace(0.005, 0.5, 18)
    chi = np.empty((len(b2), len(w2)))
    for row, b in enumerate(b2.tolist()):
        for column, w in enumerate(w2.tolist()):
            chi[row, column] = theory.chi("tanh", w, theory.fixed_point_q("tanh", w, b))
    biases = np.linspace(0.01, 0.5, 12)
    critical = [theory.critical_sigma_w2("tanh", b) for b in biases.tolist()]
    title = "Wide tanh nets by mean-field theory, and measured; bars: s.d. over nets"
    with saved_figure(folder, "phases", title, size=(9, 3.8), columns=2) as (left, right):
        shades = left.contourf(w2, b2, np.log(chi), levels=11, cmap="gray")
        left.figure.colorbar(shades, ax=left, label="log chi")
        left.plot(critical, biases, color="white", linewidth=2, label=ELSEWHERE)
        left.plot(critical, biases, color="black", ls="--", linewidth=1, label="critical line")
        left.set(xlabel="weight variance times fan in", ylabel="bias variance", xlim=(0.5, 4))
        left.set_title("ordered left, chaotic right of the dashed critical line")
        theory_line = [log_chi(w) for w in w2.tolist()]
        right.plot(w2, theory_line, color="black", lw=0.9, ls=":", label="log chi, theory")
        means = [growth.mean() for growth in growths.values()]
        spreads = [growth.std() for growth in growths.values()]
        bar: Any = {"color": "0.3", "marker": "o", "markersize": 4, "capsize": 2, "ls": "none"}
        right.errorbar([*growths], means, yerr=spreads, label="measured", **bar)
        right.axhline(0, color="0.7", linewidth=0.8)
        right.set(xlabel="weight variance times fan in", title=f"bias variance {SIGMA_B2}")
        right.set_ylabel("growth of the squared gradient per layer (log)")
        right.legend(frameon=False)


def draw_trainability(size: Size, accuracies: np.ndarray, folder: Path) -> None:
    """Training accuracy over (weight variance, depth), with the line of six depth scales."""
    across = np.arange(len(size.variances)) + 0.5
    up = np.arange(len(size.depths)) + 0.5
    limits = [depth_limit(w2) for w2 in size.variances]
    # The map has a row for each depth, so the line goes through rows, on the depths' logarithms;
    # at the critical point the limit is infinite.
    height = np.interp(np.log(np.clip(limits, 1, 1e6)), np.log(size.depths), up)
    title = (
        f"What trains: tanh, width {size.width}, {size.steps} steps, best of {len(size.rates)} "
        "rates"
    )
    with saved_figure(folder, "trainability", title, size=(6, 4)) as (axes,):
        edges = range(len(size.variances) + 1), range(len(size.depths) + 1)
        mesh = axes.pcolormesh(*edges, accuracies, cmap="gray", vmin=0, vmax=1)
        axes.figure.colorbar(mesh, ax=axes, label="training accuracy")
        label = "6 xi_c, where it is within the figure"
        axes.plot(across, height, color="white", linewidth=3, label=ELSEWHERE)
        dashed: Any = {"color": "black", "linestyle": "--", "linewidth": 1.2}
        (limit,) = axes.plot(across, height, **dashed, label=ELSEWHERE)
        axes.set_xticks(across, [f"{w2:g}" for w2 in size.variances])
        axes.set_yticks(up, [str(depth) for depth in size.depths])
        axes.set(xlabel="weight variance times fan in", ylabel="layers")
        axes.legend([limit], [label], frameon=True, fontsize=7)


main = make_main("mean_field", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
