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
Expect at quick: the critical weight variance of tanh at that bias variance 1.761; measured and
predicted slopes within a few per cent; the boundary of what trains within a factor of two of six
depth scales in the ordered phase.
"""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxinit.analysis.claims import Claim, make_claim
from jaxinit.reproduce import main_of, write_summary

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
    "quick": Size(1000, 5, 100, (10, 20, 40, 80), VARIANCES, (0.01, 0.1), 500, 2, 400),
    "paper": Size(
        1000, 20, 300, (10, 30, 60, 100, 150, 200, 300), VARIANCES, (0.001, 0.01, 0.1), 5000, 5, 400
    ),
}


def reproduce(size: Size, out: Path) -> int:
    """The three claims, two figures, and summary.json."""
    from jaxinit.analysis.report import print_claims
    from jaxinit.engine import sweep

    sweep.one_device_per_core()
    sweep.keep_compilations()
    slopes, m1 = maps(size)
    accuracy, rows, m2 = trainability(size)
    claims = [*m1, *m2, *jacobians(size)]
    write_summary(out, {"table": rows, "claims": claims})
    draw_phases(slopes, out / "figures")
    draw_trainability(size, accuracy, out / "figures")
    for row in rows:
        print(
            f"sigma_w2 {row['sigma_w2']:<5g} depth {row['depth']:3d}: training accuracy "
            f"{row['accuracy']:.2f}, 6 xi_c = {row['six_xi_c'] or math.inf:.0f}"
        )
    print_claims(claims)
    print(f"summary and figures: {out}")
    return 0


def maps(size: Size) -> tuple[dict[float, np.ndarray], list[Claim]]:
    """M1: the growth of gradients per layer in wide tanh nets, by weight variance, and the critical
    line."""
    from jaxinit import theory

    measured, off = {}, []
    for w2 in VARIANCES:
        expected = math.log(theory.chi("tanh", w2, theory.fixed_point_q("tanh", w2, SIGMA_B2)))
        measured[w2] = np.asarray(
            [gradient_growth(size.wide, w2, seed) for seed in range(size.nets)]
        )
        off.append(np.abs(np.expm1(measured[w2].mean() - expected)))
    line = theory.critical_sigma_w2("tanh", SIGMA_B2)
    what = (
        f"largest relative error of chi over {len(VARIANCES)} weight variances, nets of width "
        f"{size.wide}"
    )
    note = f"tanh, bias variance {SIGMA_B2}"
    return measured, [
        make_claim("M1", "critical weight variance of tanh", line, "1.7610", (1.760, 1.762), note),
        make_claim(
            "M1",
            what,
            max(off),
            "exact when wide",
            (0.0, 0.03),
            f"{note}; means over {size.nets} nets",
        ),
    ]


def gradient_growth(n: int, sigma_w2: float, seed: int, depth: int = 12) -> float:
    """The growth of the logarithm of the squared gradient per layer, in a net whose input is at the
    fixed point."""
    from jaxinit import theory

    draws = np.random.default_rng(seed)
    z = math.sqrt(theory.fixed_point_q("tanh", sigma_w2, SIGMA_B2)) * draws.normal(size=n)
    steps = []
    for _ in range(depth):
        slope = 1 - np.tanh(z) ** 2
        w = draws.normal(size=(n, n)).astype(np.float32) * np.float32(math.sqrt(sigma_w2 / n))
        steps.append((w, slope))
        z = np.tanh(z) @ w + math.sqrt(SIGMA_B2) * draws.normal(size=n)
    back, sizes = draws.normal(size=n), []
    for w, slope in reversed(steps):
        back = (w @ back) * slope
        sizes.append(np.mean(back**2))
    return float(np.log(sizes[-1] / sizes[0]) / (depth - 1))


def trainability(size: Size) -> tuple[np.ndarray, list[dict[str, Any]], list[Claim]]:
    """M2: the training accuracy that each (weight variance, depth) reaches at its best rate, and
    six depth scales."""
    import jax
    import jax.numpy as jnp

    from jaxinit import theory
    from jaxinit.engine import sweep
    from jaxinit.tasks import TASKS
    from jaxinit.tasks.base import accuracy as share_right
    from jaxinit.tasks.base import cross_entropy

    data = TASKS["digits_rows"]().data
    x, y = data["train_x"].reshape(-1, 64), data["train_y"]

    def one(depth: int, sigma_w2: Any, rate: Any, seed: Any) -> Any:
        of_in, of_w, of_b, of_out, order = jax.random.split(jax.random.key(seed), 5)
        n = size.width
        params = {
            "in": jax.random.normal(of_in, (64, n)) * jnp.sqrt(sigma_w2 / 64),
            "w": jax.random.normal(of_w, (depth, n, n)) * jnp.sqrt(sigma_w2 / n),
            "b": jax.random.normal(of_b, (depth, n)) * math.sqrt(SIGMA_B2),
            "out": jax.random.normal(of_out, (n, 10)) / math.sqrt(n),
        }

        def net(p: dict[str, Any], x: Any) -> Any:
            layer = lambda h, wb: (jnp.tanh(h @ wb[0] + wb[1][None]), None)
            h, _ = jax.lax.scan(layer, jnp.tanh(x @ p["in"]), (p["w"], p["b"]))
            return h @ p["out"]

        def step(p: dict[str, Any], key: Any) -> tuple[dict[str, Any], None]:
            rows = jax.random.randint(key, (64,), 0, y.shape[0])
            slopes = jax.grad(lambda p: cross_entropy(net(p, x[rows]), y[rows]))(p)
            return jax.tree.map(lambda w, g: w - rate * g, p, slopes), None

        params, _ = jax.lax.scan(step, params, jax.random.split(order, size.steps))
        return share_right(net(params, x), y)

    reached = np.empty((len(size.depths), len(size.variances)))
    for row, depth in enumerate(size.depths):
        grid = [
            (w2, rate, seed)
            for w2 in size.variances
            for rate in size.rates
            for seed in range(size.seeds)
        ]
        w2, rate, seed = (np.asarray(column) for column in zip(*grid, strict=True))
        columns = w2.astype(np.float32), rate.astype(np.float32), seed
        of = sweep.over_devices(lambda *a, depth=depth: one(depth, *a), *columns)
        of = of.reshape(len(size.variances), len(size.rates), size.seeds)
        reached[row] = np.nan_to_num(of).mean(2).max(1)
    rows, inside = [], []
    for column, w2 in enumerate(size.variances):
        six = 6 * theory.depth_scales("tanh", w2, SIGMA_B2)[1]
        for row, depth in enumerate(size.depths):
            rows.append(
                {
                    "sigma_w2": w2,
                    "depth": depth,
                    "accuracy": float(reached[row, column]),
                    "six_xi_c": six,
                    "steps": size.steps,
                    "seeds": size.seeds,
                }
            )
            if (
                not 0.5 < depth / six < 2
            ):  # nearer the boundary than a factor of two the theory says nothing
                inside.append((reached[row, column] > 0.5) == (depth < six))
    agreed = float(np.mean(inside)) if inside else float("nan")
    what = (
        "share of nets, a factor of two away from depth 6 xi_c, that train just when they are "
        "shallower"
    )
    note = (
        f"accuracy above 0.5 after {size.steps} steps at the best of {len(size.rates)} rates, "
        f"{size.seeds} seeds; {len(inside)} nets"
    )
    return (
        reached,
        rows,
        [make_claim("M2", what, agreed, "trainable depth about 6 xi_c", (0.9, 1.0), note)],
    )


def jacobians(size: Size) -> list[Claim]:
    """M3: the variance of the squared singular values of ReLU Jacobians over L, for Gaussian and
    orthogonal weights."""
    from jaxinit import theory

    claims, n = [], size.jacobian
    kinds: tuple[tuple[Literal["gaussian", "orthogonal"], str], ...] = (
        ("gaussian", "2 L"),
        ("orthogonal", "L"),
    )
    for weights, published in kinds:
        for depth in (2, 8):
            of_nets = []
            for seed in range(10):
                draws = np.random.default_rng(seed)
                jacobian, z = np.eye(n), draws.normal(size=n)
                for _ in range(depth):
                    w = draws.normal(size=(n, n))
                    w = math.sqrt(2) * (
                        np.linalg.qr(w)[0] if weights == "orthogonal" else w / math.sqrt(n)
                    )
                    jacobian, z = (jacobian * (z > 0)) @ w, np.maximum(z, 0) @ w
                squares = np.linalg.svd(jacobian, compute_uv=False) ** 2
                of_nets.append(np.mean((squares / squares.mean() - 1) ** 2) / depth)
            expected = theory.jacobian_moments("relu", 2.0, 0.0, depth, weights)[1] / depth
            what = (
                f"variance of squared singular values over L, {weights} weights, ReLU, L = {depth}"
            )
            note = f"width {n}, sigma_w2 = 2, relative to the mean square"
            band = (0.8 * expected, 1.2 * expected)
            claims.append(make_claim("M3", what, of_nets, published, band, note))
    return claims


def draw_phases(slopes: dict[float, np.ndarray], folder: Path) -> None:
    """chi over (weight variance, bias variance), and measured growth of gradients beside log
    chi."""
    import matplotlib.pyplot as plt

    from jaxinit import theory
    from jaxinit.analysis.figure import save, style

    w2, b2 = np.linspace(0.5, 4, 24), np.linspace(0.005, 0.5, 18)
    value = [
        [theory.chi("tanh", w, theory.fixed_point_q("tanh", float(w), float(b))) for w in w2]
        for b in b2
    ]
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
        shades = left.contourf(w2, b2, np.log(value), levels=11, cmap="gray")
        figure.colorbar(shades, ax=left, label="log chi")
        line = np.linspace(0.01, 0.5, 12)
        left.plot(
            [theory.critical_sigma_w2("tanh", float(b)) for b in line],
            line,
            color="white",
            linewidth=2,
        )
        left.plot(
            [theory.critical_sigma_w2("tanh", float(b)) for b in line],
            line,
            color="black",
            linestyle="--",
            linewidth=1,
        )
        left.set(
            xlabel="weight variance times fan in",
            ylabel="bias variance",
            xlim=(0.5, 4),
            title="tanh: ordered left, chaotic right of the dashed critical line",
        )
        exact = [
            math.log(theory.chi("tanh", w, theory.fixed_point_q("tanh", float(w), SIGMA_B2)))
            for w in w2
        ]
        right.plot(w2, exact, color="black", linewidth=0.9, linestyle=":", label="log chi, theory")
        for w, of in slopes.items():
            right.errorbar(
                w, of.mean(), yerr=of.std(), color="0.3", marker="o", markersize=4, capsize=2
            )
        right.axhline(0, color="0.7", linewidth=0.8)
        right.set(
            xlabel="weight variance times fan in",
            ylabel="growth of the squared gradient per layer (log)",
            title=f"bias variance {SIGMA_B2}; bars: s.d. over nets",
        )
        right.legend(frameon=False)
        save(figure, folder, "phases")


def draw_trainability(size: Size, reached: np.ndarray, folder: Path) -> None:
    """Training accuracy over (weight variance, depth), with the line of six depth scales."""
    import matplotlib.pyplot as plt

    from jaxinit import theory
    from jaxinit.analysis.figure import save, style

    with style():
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        mesh = axes.pcolormesh(
            range(len(size.variances) + 1),
            range(len(size.depths) + 1),
            reached,
            cmap="gray",
            vmin=0,
            vmax=1,
        )
        figure.colorbar(mesh, ax=axes, label="training accuracy")
        places = np.arange(len(size.variances)) + 0.5
        six = [6 * theory.depth_scales("tanh", w2, SIGMA_B2)[1] for w2 in size.variances]
        height = np.interp(
            np.log(np.clip(six, 1, 1e6)), np.log(size.depths), np.arange(len(size.depths)) + 0.5
        )
        axes.plot(places, height, color="white", linewidth=3)
        axes.plot(
            places,
            height,
            color="black",
            linestyle="--",
            linewidth=1.2,
            label="6 xi_c, where it is within the figure",
        )
        axes.set_xticks(places, [f"{w2:g}" for w2 in size.variances])
        axes.set_yticks(np.arange(len(size.depths)) + 0.5, [str(depth) for depth in size.depths])
        axes.set(
            xlabel="weight variance times fan in",
            ylabel="layers",
            title=f"What trains: tanh, width {size.width}, {size.steps} steps, best of {len(size.rates)} rates",
        )
        axes.legend(frameon=True, fontsize=7)
        save(figure, folder, "trainability")


main = main_of("mean_field", __doc__, SIZES, reproduce)

if __name__ == "__main__":
    sys.exit(main())
