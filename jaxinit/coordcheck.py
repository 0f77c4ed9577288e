"""Coordinate check: do the sizes of signals and of their updates stay the same as a network grows wider, or deeper?

    Study, widths or depths -> a few steps of training at each, for every seed -> sizes -> slopes, pass or fail

Under a parametrization that transfers, activations, their changes and gradients have a slope of 0 against the width.
Source: Yang et al. (2021), Tensor Programs V, appendix D.1; here with numbers, and for updates and gradients too.
Against depth: Dey et al. (2025), CompleteP, section 3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy import stats

from jaxinit import store, sweep, train, watch
from jaxinit.cell import Cell, check, check_memory, draw_starts, unsegmented
from jaxinit.engine import queue
from jaxinit.folder import Folder, to_json
from jaxinit.spec import Scheme
from jaxinit.study import BadStudy, Study, check_numbers

MOST_STEPS = 1_000_000
SLOPE, STEEP = 0.1, 0.2  # of log10(size) against log10(width): flat, and too steep however wide the interval
KINDS = ("forward", "update", "gradient")
# What is said of them in `Slope`.
MAY_SHRINK = (
    *(("query", kind) for kind in KINDS),
    ("key", "gradient"),
    ("readout", "forward"),
    ("branches", "forward"),
)


class Slope(NamedTuple):
    """How one signal grows with width or depth: its slope, a 95 % interval over seeds, whether that allows for flat.

    `forward`: a product's size after the last step, with the rule's multiplier. `update`: the size of what the steps
    have changed in it. `gradient`: the size of dC/dW at the start, W with its multiplier, times the width but for the
    readout, since its entries go as 1/width elsewhere. The scores of attention and the answer at the start may shrink
    with the width, and so queries, gradients of keys, and the readout's product are judged for growth only.
    Against depth: of the sum of all branches ("branches", with the gradient of the embedding) and of the answer
    ("readout"), as they are; the sum at the start may shrink, as it does under CompleteP.
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
    """Sizes of every product after training for `steps` steps on one batch, over (width, scheme, seed, parameter).

    Variables `forward`, `update`, `gradient`: root mean squares.
    Raises: BadStudy as `cell.check`, for fewer than two widths, or a scheme that cannot be drawn at one of them.
    """
    return _against("width", study, widths, steps, rate, schemes, models, out)


def depth_check(
    study: Study,
    depths: Sequence[int] = (2, 4, 8, 16, 32),
    *,
    steps: int = 10,
    rate: float = 0.001,
    schemes: Mapping[str, Scheme] | None = None,
    models: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
) -> xr.Dataset:
    """As `coordinate_check` over (depth, scheme, seed, parameter), for what a residual stream gathers; see `Slope`.

    Raises: BadStudy as `coordinate_check`, and for a model without a residual stream.
    """
    return _against("depth", study, depths, steps, rate, schemes, models, out)


@sweep.numerics()
def _against(
    axis: str,
    study: Study,
    sizes: Sequence[int],
    steps: int,
    rate: float,
    schemes: Mapping[str, Scheme] | None,
    models: Mapping[str, Any] | None,
    out: str | Path | None,
) -> xr.Dataset:
    if len(set(sizes)) < 2:
        raise BadStudy(f"a slope needs two or more different {axis}s, got {' '.join(map(str, sizes)) or 'none'}")
    if not 1 <= steps <= MOST_STEPS:
        raise BadStudy(f"steps must be 1 to {MOST_STEPS}, got {steps}; a check needs what training changes")
    check_numbers(study)
    one_rate = replace(study, lrs=(rate,), baseline=next(iter(study.schemes), ""))
    cells = {}
    for size in sorted(set(sizes)):  # all of them, before any is trained
        sized = replace(one_rate, hidden=size) if axis == "width" else replace(one_rate, layers=size)
        cells[size] = check(sized, schemes, models=models)
        check_memory(cells[size], 1)
    question = {"study": study.plain(), axis: list(cells), "steps": steps, "rate": rate}
    if out is not None:
        Folder(Path(out)).claim("coordinate check", question)
    found_at = []
    for size, cell in cells.items():
        found_at.append((_products if axis == "width" else _stream)(cell, steps).expand_dims({axis: [size]}))
    found: Any = xr.concat(found_at, axis)
    fixed = {"layers": study.layers} if axis == "width" else {"units": study.hidden}
    found.attrs = {
        "model": study.model,
        **fixed,
        "axis": axis,
        "task": study.task,
        "optimizer": study.optimizer,
        "steps": steps,
        "rate": rate,
    }
    if out is not None:
        rows = [slope._asdict() for slope in slopes(found)]
        files = {
            "coordinates.nc": store.netcdf(found),
            "slopes.json": to_json({"study": study.plain(), "slopes": rows}),
        }
        store.write_answer(Path(out), "coordinate check", question, files)
    return found


def slopes(found: xr.Dataset) -> list[Slope]:
    """The slope of every signal, over all widths or depths, by least squares on each seed; in the order of the data."""
    axis = found.attrs["axis"]
    logs = np.log10(found[axis].values.astype(float))
    rows = []
    for scheme in found.scheme.values:
        for parameter in found.parameter.values:
            for kind in KINDS:
                size = found[kind].sel(scheme=scheme, parameter=parameter).transpose(axis, "seed").values
                if axis == "width" and kind == "gradient" and found.role.sel(parameter=parameter) != "readout":
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


def _products(cell: Cell, steps: int) -> xr.Dataset:
    """The sizes of every kernel's product, with its multiplier, over (scheme, seed, parameter)."""
    cell = unsegmented(cell)
    kept = [leaf for leaf in cell.model.leaves if leaf.is_kernel]

    def look(params: Any, factors: dict[str, Any], x: jax.Array) -> dict[str, jax.Array]:
        apply = lambda p, x: cell.as_trained(p, factors, x)
        uses = watch.watched(apply, kept, lambda entries: entries, params, None, x)[1]
        first: dict[str, Any] = {}  # the first use of a parameter that is used twice
        for use in uses:
            first.setdefault(use.name, use.product)
        return first

    roles = {leaf.name: leaf.role for leaf in sorted(kept, key=lambda leaf: leaf.layer)}
    return _sizes(cell, steps, look, {name: (name, role) for name, role in roles.items()})


def _stream(cell: Cell, steps: int) -> xr.Dataset:
    """The sizes of what a residual stream gathers and of the answer, over (scheme, seed, parameter)."""

    def look(params: Any, factors: dict[str, Any], x: jax.Array) -> dict[str, jax.Array]:
        filled = cell.model.filled({name: w * factors[name] for name, w in params.items()})
        if not hasattr(filled, "stream"):
            raise BadStudy(
                f"a check against depth needs a residual stream, as transformer has; got {cell.study.model!r}"
            )
        courses = filled.stream(x)
        return {"branches": courses[-2] - courses[0], "readout": filled.answer(courses[-1])}

    last = max(cell.model.leaves, key=lambda leaf: (leaf.role == "readout", leaf.role == "embedding")).name
    return _sizes(cell, steps, look, {"branches": ("embedding", "branches"), "readout": (last, "readout")})


def _sizes(
    cell: Cell,
    steps: int,
    look: Callable[[Any, dict[str, Any], jax.Array], dict[str, jax.Array]],
    names: Mapping[str, tuple[str, str]],
) -> xr.Dataset:
    """The sizes of what `look` gives, over (scheme, seed, parameter).

    `names` has the parameter whose gradient belongs to each, and its role.
    """
    study, task = cell.study, cell.task
    starts = draw_starts(cell)
    program = train.make_program(
        cell.model, task, study.optimizer, batch=study.batch, evaluations=study.evaluations, epochs=1
    )
    data = task.data
    points = [(name, study.lrs[0], seed) for name in cell.schemes for seed in study.reporting]
    params, trials = queue(cell, starts, points, program.evaluations_per_epoch)

    @jax.jit
    def run(params: Any, trial: train.Trial, factors: dict[str, Any]) -> dict[str, Any]:
        x, y = data["valid_x"][: study.batch], data["valid_y"][: study.batch]
        gradient = jax.grad(lambda p: task.loss(cell.as_trained(p, factors, x), y))

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            p, opt = carry
            p, opt, _norm = program.descend(p, gradient(p), opt, trial)
            return (p, opt), None

        state = program.start(params)
        (after, _), _ = jax.lax.scan(step, (state.params, state.opt), None, length=steps)
        before, later, slope = look(params, factors, x), look(after, factors, x), gradient(params)
        of = lambda name: slope[name] / factors[name]  # by the kernel with its multiplier
        sizes = lambda name: (later[name], later[name] - before[name], of(names[name][0]))
        return {name: [jnp.sqrt(jnp.mean(a**2)) for a in sizes(name)] for name in names if name in before}

    rows = []
    for k, (name, _, _) in enumerate(points):
        trial = jax.tree.map(lambda a, k=k: a[k], trials)
        factors = jax.tree.map(np.float32, cell.multipliers(name))
        rows.append(jax.tree.map(np.asarray, run(jax.tree.map(jnp.asarray, params[k]), trial, factors)))
    order = [name for name in names if name in rows[0]]
    shape = len(cell.schemes), len(study.reporting), len(order)
    block = np.asarray([[row[name] for name in order] for row in rows]).reshape(*shape, len(KINDS))
    axes = ("scheme", "seed", "parameter")
    variables: Any = {what: (axes, block[..., k]) for k, what in enumerate(KINDS)}
    role = ("parameter", [names[name][1] for name in order])
    coords = {"scheme": list(cell.schemes), "seed": list(study.reporting), "parameter": order, "role": role}
    return xr.Dataset(variables, coords)
