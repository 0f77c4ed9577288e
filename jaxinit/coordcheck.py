"""Coordinate check: do the sizes of signals and of their updates stay the same as a network grows wider?

    Study, widths -> a few steps of training at every width and seed -> sizes by width -> slopes, pass or fail

Under a parametrization that transfers, activations, their changes and gradients have a slope of 0 against the width.
Source: Yang et al. (2021), Tensor Programs V, appendix D.1; here with numbers, and for updates and gradients too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy import stats

from jaxinit import store, train, watch
from jaxinit.cell import Cell, check, draw_starts, unsegmented
from jaxinit.engine import queue
from jaxinit.spec import Scheme
from jaxinit.study import BadStudy, Study

SLOPE, STEEP = 0.1, 0.2  # of log10(size) against log10(width): flat, and too steep however wide the interval
MAY_SHRINK = (("query", "gradient"), ("key", "gradient"), ("readout", "forward"))  # what is said of them in `Slope`
KINDS = ("forward", "update", "gradient")


class Slope(NamedTuple):
    """How one signal grows with the width: its slope, a 95 % interval over seeds, and whether that allows for flat.

    `forward`: a product's size after the last step, without the rule's multiplier. `update`: the size of what the steps
    have changed in it. `gradient`: the size of dC/dW at the start, times the width but for the readout, since its
    entries go as 1/width elsewhere. The scores of attention and the answer at the start may shrink with the width, and
    so gradients of queries and keys, and the readout's product, are judged for growth only.
    """

    scheme: str
    parameter: str
    kind: str
    slope: float
    low: float
    high: float
    passed: bool


def coordinate_check(
    study: Study,
    widths: Sequence[int] = (64, 128, 256, 512, 1024),
    *,
    steps: int = 10,
    rate: float = 0.001,
    schemes: Mapping[str, Scheme] | None = None,
    models: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
) -> xr.Dataset:
    """Sizes of every product after training for `steps` steps on one batch, over (scheme, seed, width, parameter).

    Variables `forward`, `update`, `gradient`, and `start` (forward before the first step): root mean squares.
    Raises: BadStudy as `cell.check`, for fewer than two widths, or a scheme that cannot be drawn at one of them.
    """
    if len(set(widths)) < 2:
        raise BadStudy(f"a slope needs two or more different widths, got {' '.join(map(str, widths)) or 'none'}")
    one_rate = replace(study, lrs=(rate,), baseline=study.schemes[0])
    by_width = []
    for width in sorted(widths):
        cell = unsegmented(check(replace(one_rate, hidden=width), schemes, models=models))
        by_width.append(_at_width(cell, steps).expand_dims(width=[width]))
    found: Any = xr.concat(by_width, "width")
    found.attrs = {
        "model": study.model,
        "layers": study.layers,
        "task": study.task,
        "optimizer": study.optimizer,
        "steps": steps,
        "rate": rate,
    }
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        store.write_records(Path(out), found, "coordinates.nc")
        rows = [slope._asdict() for slope in slopes(found)]
        store.write_json(Path(out) / "slopes.json", {"study": study.plain(), "slopes": rows})
    return found


def slopes(found: xr.Dataset) -> list[Slope]:
    """The slope of every signal, over all widths, by least squares on each seed; in the order of the data."""
    logs = np.log10(found.width.values.astype(float))
    rows = []
    for scheme in found.scheme.values:
        for parameter in found.parameter.values:
            for kind in KINDS:
                size = found[kind].sel(scheme=scheme, parameter=parameter).transpose("width", "seed").values
                if kind == "gradient" and found.role.sel(parameter=parameter) != "readout":
                    size = size * found.width.values[:, None]
                of = np.polyfit(logs, np.log10(np.maximum(size, 1e-30)), 1)[0]
                middle, half = float(of.mean()), 0.0
                if len(of) > 1:
                    half = float(stats.t.ppf(0.975, len(of) - 1) * of.std(ddof=1) / np.sqrt(len(of)))
                low, high = (middle - half, middle + half) if len(of) > 1 else (middle, middle)
                flat = low <= SLOPE and high >= -SLOPE and abs(middle) < STEEP
                shrinks = middle < 0 and (found.role.sel(parameter=parameter).item(), kind) in MAY_SHRINK
                rows.append(Slope(str(scheme), str(parameter), kind, middle, low, high, flat or shrinks))
    return rows


def passes(rows: Sequence[Slope], scheme: str) -> bool:
    """Whether every signal of a scheme is flat."""
    return all(row.passed for row in rows if row.scheme == scheme)


def _at_width(cell: Cell, steps: int) -> xr.Dataset:
    """The sizes of one width, over (scheme, seed, parameter)."""
    study, task, leaves = cell.study, cell.task, cell.model.leaves
    starts = draw_starts(cell)
    program = train.make_program(
        cell.model, task, study.optimizer, batch=study.batch, evaluations=study.evaluations, epochs=1
    )
    data = task.data
    points = [(name, study.lrs[0], seed) for name in cell.schemes for seed in study.reporting]
    params, trials = queue(cell, starts, points, program.evaluations_per_epoch)
    kept = [leaf for leaf in leaves if leaf.is_kernel]

    @jax.jit
    def run(params: Any, trial: train.Trial, factors: dict[str, Any]) -> dict[str, Any]:
        x, y = data["valid_x"][: study.batch], data["valid_y"][: study.batch]
        cost = lambda p: task.loss(cell.as_trained(p, factors, x), y)
        look = lambda p: watch.watched(
            lambda p, x: cell.as_trained(p, factors, x), kept, lambda entries: entries, p, None, x
        )[1]

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            p, opt = carry
            p, opt, _norm = program.descend(p, jax.grad(cost)(p), opt, trial)
            return (p, opt), None

        state = program.start(params)
        (after, _), _ = jax.lax.scan(step, (state.params, state.opt), None, length=steps)
        before, later = look(params), look(after)
        found: dict[str, Any] = {}
        for first, last in zip(before, later, strict=True):
            name, change = first.name, last.product - first.product
            if name not in found:  # the first use of a parameter that is used twice
                found[name] = [size_of(of) / factors[name] for of in (last.product, change, first.product)]
        gradient = jax.grad(cost)(params)
        for name in found:
            found[name].append(size_of(gradient[name]))
        return found

    def size_of(a: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.mean(a**2))

    rows = []
    for k, (name, _, _) in enumerate(points):
        trial = jax.tree.map(lambda a, k=k: a[k], trials)
        factors = jax.tree.map(np.float32, cell.multipliers(name))
        rows.append(jax.tree.map(np.asarray, run(jax.tree.map(jnp.asarray, params[k]), trial, factors)))
    order = sorted(rows[0], key=lambda name: next(leaf.layer for leaf in leaves if leaf.name == name))
    shape = len(cell.schemes), len(study.reporting), len(order)
    block = np.asarray([[row[name] for name in order] for row in rows]).reshape(*shape, 4)
    axes = ("scheme", "seed", "parameter")
    variables: Any = {what: (axes, block[..., k]) for k, what in enumerate(("forward", "update", "start", "gradient"))}
    role = ("parameter", [next(leaf.role for leaf in leaves if leaf.name == name) for name in order])
    coords = {"scheme": list(cell.schemes), "seed": list(study.reporting), "parameter": order, "role": role}
    return xr.Dataset(variables, coords)
