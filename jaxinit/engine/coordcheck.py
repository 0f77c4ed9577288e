"""Coordinate check: do the sizes of signals and of their updates stay the same as a network grows
wider, or deeper?

    Study, widths or depths -> a few steps of training at each, for every seed -> sizes
          -> slopes, pass or fail

Under a parametrization that transfers, activations, attention scores, their changes and gradients
have a slope of 0 against the width.
Source: Yang et al. (2021), Tensor Programs V, appendix D.1; here with numbers, and for updates and
gradients too. Against depth: Dey et al. (2025), CompleteP, section 3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy import stats

from jaxinit.analysis import store
from jaxinit.analysis.folder import Folder, to_json
from jaxinit.analysis.records import Point
from jaxinit.engine import progress, sweep, training
from jaxinit.engine.identity import claim
from jaxinit.engine.initial import draw_parameters, kept, of_points
from jaxinit.engine.resolve import Resolved, check_memory, check_one_input, resolve
from jaxinit.introspect import Params, widened
from jaxinit.schemes.needs import EDGES
from jaxinit.signals import trace
from jaxinit.spec import Leaf, Scheme
from jaxinit.study import BadStudy, Study, check_numbers

MOST_STEPS = 1_000_000
# Of log10(size) against log10(width). A slope is flat if its interval reaches down to SLOPE, and
# none is above STEEP; none is below -STEEP: what is random in a change falls as 1/sqrt(width) and
# lifts the sizes of narrow networks.
SLOPE, STEEP = 0.1, 0.2
KINDS = ("forward", "update", "gradient")
NAMED = ("scores", "branch")  # endings of the values that a model names by `checkpoint_name`
# of signals that no one parameter makes, which have no gradient; the others have all kinds
KINDS_OF = {
    **dict.fromkeys((*NAMED, "logits"), ("forward", "update")),
    "part": ("update",),
}
# Of a product's size: a change below it is the dtype's error as much as training.
ROUNDING = {"float32": 1e-5, "bfloat16": 2.0**-8}
# What is said of them in `Slope`.
MAY_SHRINK = (
    *(("query", kind) for kind in KINDS),
    ("key", "gradient"),
    *(("scores", kind) for kind in KINDS),
    ("part", "update"),
    ("readout", "forward"),
    ("logits", "forward"),
    ("branches", "forward"),
)


Multipliers: TypeAlias = dict[str, Any]
Look: TypeAlias = Callable[[Params, Multipliers, jax.Array], dict[str, jax.Array]]


class Slope(NamedTuple):
    """How one signal grows with width or depth: its slope, a 95 % interval over seeds, whether that
    allows for flat.

    `forward`: the size after the last step. `update`: the size of what the steps have changed in
    it. `gradient`: the size of dC/dW at initialization, W with its multiplier, times the width
    but for the readout, since its entries go as 1/width elsewhere.
    Against width, the signals are the product of every kernel, with the rule's multiplier; the
    scores of every attention before the softmax and what every branch adds to the stream, biases
    included (values that the model names `....scores` and `....branch`, as the Transformer does);
    and the network's output (`logits`). Of scores also what the change of one kind of parameter
    alone does to them (`....scores by query bias`): a part that grows is hidden in the sum for as
    long as it is small.
    Scores and the answer at initialization may shrink with the width, since queries and keys, or
    the readout's rows, do not point the same way before they are trained; what training adds to
    scores goes from 1/sqrt(width) to flat as they come to. So scores and their parts, the answer's
    size, the readout's product, queries and gradients of keys are judged for growth only.
    Against depth: of the sum of all branches ("branches", with the gradient of the embedding) and
    of the answer ("readout"), as they are; the sum at initialization may shrink, as it does under
    CompleteP.

    `note` says why a signal fails: not flat, not finite, or nothing to judge (it is zero, or has
    not moved). A gradient that is zero at initialization at every size, as below a zero readout, is
    left to the signal's update, and noted.
    """

    scheme: str
    parameter: str
    kind: str
    slope: float
    low: float
    high: float
    passed: bool
    note: str = ""


class Signal(NamedTuple):
    """What is looked at: its role, and the parameter whose gradient belongs to it ("" for none)."""

    role: str
    parameter: str = ""


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
    """Sizes of every signal after training for `steps` steps on one batch, over (width, scheme,
    seed, parameter).

    Variables `forward`, `update`, `gradient`: root mean squares; see `Slope` for the signals, and
    for which have no gradient (NaN).
    Raises: BadStudy as `resolve.resolve`, for fewer than two widths, fewer than one step, or a
    scheme that cannot be drawn at one of them.
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
    """As `coordinate_check` over (depth, scheme, seed, parameter), for what a residual stream
    gathers; see `Slope`.

    Raises: BadStudy as `coordinate_check`, and for a model without a residual stream.
    """
    return _against("depth", study, depths, steps, rate, schemes, models, out)


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
    """Resolve the study at every size, before any is trained; then measure, and write."""
    _check_question(axis, sizes, steps)
    check_numbers(study)
    one_rate = study.at_one_rate(rate)
    setting = "hidden" if axis == "width" else "layers"
    by_size: dict[int, Resolved] = {}
    for size in sorted(set(sizes)):
        by_size[size] = resolve(replace(one_rate, **{setting: size}), schemes, models=models)
        check_memory(by_size[size], 1)
    question = {"study": study.plain(), axis: list(by_size), "steps": steps, "rate": rate}
    if out is not None:
        smallest = next(iter(by_size.values()))
        question = claim(Folder(Path(out)), "coordinate check", question, smallest)
    measure = _products if axis == "width" else _stream
    at_sizes = []
    with sweep.numerics(study):
        for size, resolved in by_size.items():
            with progress.part(f"{axis} {size}, {len(at_sizes) + 1} of {len(by_size)}"):
                at_sizes.append(measure(resolved, steps).expand_dims({axis: [size]}))
    coordinates: Any = xr.concat(at_sizes, axis)
    fixed = {"layers": study.layers} if axis == "width" else {"units": study.hidden}
    coordinates.attrs = {
        "model": study.model,
        **fixed,
        "axis": axis,
        "task": study.task,
        "optimizer": study.optimizer,
        "steps": steps,
        "rate": rate,
        "rounding": ROUNDING[study.dtype],
    }
    if out is not None:
        _write(Path(out), question, study, coordinates)
    return coordinates


def _check_question(axis: str, sizes: Sequence[int], steps: int) -> None:
    if len(set(sizes)) < 2:
        given = " ".join(map(str, sizes)) or "none"
        raise BadStudy(f"a slope needs two or more different {axis}s, got {given}")
    if steps < 1:
        raise BadStudy(
            f"steps must be 1 or more, got {steps}: without a step there is no change to judge"
        )
    if steps > MOST_STEPS:
        raise BadStudy(f"steps must be at most {MOST_STEPS}, got {steps}; a check needs few")


def _write(
    folder: Path, question: Mapping[str, Any], study: Study, coordinates: xr.Dataset
) -> None:
    rows = [slope._asdict() for slope in slopes(coordinates)]
    files = {
        "coordinates.nc": store.netcdf(coordinates),
        "slopes.json": to_json({"study": study.plain(), "slopes": rows}),
    }
    store.write_answer(folder, "coordinate check", question, files)


def slopes(found: xr.Dataset) -> list[Slope]:
    """The slope of every signal, over all widths or depths, by least squares on each seed; in the
    order of the data."""
    axis = found.attrs["axis"]
    rows = []
    for scheme in found.scheme.values:
        for parameter in found.parameter.values:
            signal = found.sel(scheme=scheme, parameter=parameter).transpose(axis, "seed")
            role = signal.role.item()
            for kind in KINDS_OF.get(role, KINDS):
                rows.append(_judged(signal, str(scheme), str(parameter), kind, axis))
    return rows


def _judged(signal: xr.Dataset, scheme: str, parameter: str, kind: str, axis: str) -> Slope:
    """The slope of one kind of size of one signal; `signal` is over (axis, seed)."""
    role, sizes = signal.role.item(), signal[kind].values
    refused = _nothing_to_judge(signal, kind, axis)
    if refused:
        left_to_update = (
            kind == "gradient" and not sizes.any() and bool(signal["update"].values.any())
        )
        note = "zero at initialization: judged by its update" if left_to_update else refused
        return Slope(scheme, parameter, kind, np.nan, np.nan, np.nan, left_to_update, note)
    if axis == "width" and kind == "gradient" and role != "readout":
        sizes = sizes * signal.width.values[:, None]
    logs = np.log10(signal[axis].values.astype(float))
    by_seed = np.polyfit(logs, np.log10(sizes.astype(float)), 1)[0]
    middle, half = float(by_seed.mean()), 0.0
    if len(by_seed) > 1:
        half = float(
            stats.t.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed))
        )
    low, high = middle - half, middle + half
    flat = low <= SLOPE and abs(middle) < STEEP
    passed = flat or (middle < 0 and (role, kind) in MAY_SHRINK)
    return Slope(scheme, parameter, kind, middle, low, high, passed, "" if passed else "not flat")


def _nothing_to_judge(signal: xr.Dataset, kind: str, axis: str) -> str:
    """Why the sizes of a signal have no slope; empty where they have one."""
    sizes, role = signal[kind].values, signal.role.item()
    if not np.isfinite(sizes).all():
        return f"not finite at {axis} {_first(signal, ~np.isfinite(sizes), axis)}"
    if not sizes.any():
        return (
            "nothing to judge: it has not moved"
            if kind == "update"
            else "nothing to judge: it is zero"
        )
    if not sizes.all():
        return f"zero at {axis} {_first(signal, sizes == 0, axis)}, not at others"
    within_rounding = sizes < signal.attrs["rounding"] * signal["forward"].values
    if kind == "update" and role != "part" and within_rounding.any():
        where = _first(signal, within_rounding, axis)
        return (
            f"nothing to judge: at {axis} {where} it moved by no more than rounding; raise the "
            "rate or the steps"
        )
    return ""


def _first(signal: xr.Dataset, where: np.ndarray, axis: str) -> int:
    """The first width or depth at which `where`, `[axis, seed]`, holds for a seed."""
    return int(signal[axis].values[where.any(1)][0])


def _role(name: str) -> str:
    """The role of a signal that no parameter is named as."""
    return "part" if ".scores by " in name else name.rpartition(".")[2]


def passes(rows: Sequence[Slope], scheme: str) -> bool:
    """Whether every signal of a scheme is flat. Raises: ValueError for a scheme that has no
    rows."""
    mine = [row for row in rows if row.scheme == scheme]
    if not mine:
        there = ", ".join(dict.fromkeys(row.scheme for row in rows)) or "none"
        raise ValueError(
            f"no slopes of a scheme {scheme!r}, so nothing to judge; there are those of {there}"
        )
    return all(row.passed for row in mine)


def _products(resolved: Resolved, steps: int) -> xr.Dataset:
    """The sizes of every kernel's product, of what the model names, and of its output: (scheme,
    seed, parameter)."""
    kernels = [leaf for leaf in resolved.model.leaves if leaf.is_kernel]

    def look(params: Params, multipliers: Multipliers, x: jax.Array) -> dict[str, jax.Array]:
        def apply(params: Params, x: jax.Array) -> jax.Array:
            return resolved.as_trained(params, multipliers, x)

        uses = trace.watched(apply, kernels, lambda entries: entries, params, None, x)[1]
        signals: dict[str, Any] = {}
        for use in uses:  # of a parameter that is used twice, the first
            signals.setdefault(use.name, use.product)
        logits, named = trace.named(apply, params, x)
        for name, value in named.items():
            if name.rpartition(".")[2] in NAMED:
                signals[name] = value
        return {**signals, "logits": logits}

    def scores(params: Params, multipliers: Multipliers, x: jax.Array) -> dict[str, jax.Array]:
        def apply(params: Params) -> jax.Array:
            return resolved.as_trained(params, multipliers, x)

        named = trace.named(apply, params)[1]
        return {name: value for name, value in named.items() if name.endswith(".scores")}

    by_layer = sorted(kernels, key=lambda leaf: leaf.layer)
    known = {leaf.name: Signal(leaf.role, leaf.name) for leaf in by_layer}
    return _sizes(resolved, steps, look, known, scores)


def _parts_of_scores(leaves: Sequence[Leaf]) -> dict[str, set[str]]:
    """The parameters of each kind that scores are made of, by the kind's name, such as "query
    bias"."""
    parts: dict[str, set[str]] = {}
    for leaf in leaves:
        partner = leaf.role if leaf.is_kernel else leaf.partner
        # a bias of keys adds the same to all scores of a query, so the softmax takes it out and
        # nothing trains it
        without_effect = leaf.role == "bias" and partner == "key" and not leaf.normalized
        if partner in ("query", "key") and not without_effect:
            kind = partner if leaf.is_kernel else f"{partner} {leaf.role}"
            parts.setdefault(kind, set()).add(leaf.name)
    return parts


def _stream(resolved: Resolved, steps: int) -> xr.Dataset:
    """The sizes of what a residual stream gathers and of the answer, over (scheme, seed,
    parameter)."""

    def look(params: Params, multipliers: Multipliers, x: jax.Array) -> dict[str, jax.Array]:
        model = resolved.model.filled(resolved.effective(params, multipliers))
        if not hasattr(model, "stream"):
            raise BadStudy(
                "a check against depth needs a residual stream, as transformer has; got "
                f"{resolved.study.model!r}"
            )
        stream = model.stream(x)
        if stream[-2].shape != stream[0].shape:
            raise BadStudy(
                f"a check against depth needs a stream of one size, got {resolved.study.stages} "
                "stages; leave --stages out"
            )
        return {"branches": stream[-2] - stream[0], "readout": model.answer(stream[-1])}

    def last(leaf: Leaf) -> tuple[bool, bool]:  # a tied readout is the embedding
        return leaf.role == "readout", leaf.role == "embedding"

    if resolved.model.running:
        raise BadStudy(
            "a check against depth looks at the network in evaluation, where batch normalization "
            "goes by statistics of no data yet; give --norm layer or none"
        )
    readout = max(resolved.model.leaves, key=last).name
    first = next((leaf.name for leaf in resolved.model.leaves if leaf.role in EDGES), "")
    known = {
        "branches": Signal("branches", first),
        "readout": Signal("readout", readout),
    }
    return _sizes(resolved, steps, look, known)


def _sizes(
    resolved: Resolved,
    steps: int,
    look: Look,
    known: Mapping[str, Signal],
    scores: Look | None = None,
) -> xr.Dataset:
    """The sizes of what `look` gives, over (scheme, seed, parameter).

    `known` describes signals in the order to list them; what `look` gives beside them has the end
    of its name as role. `scores` gives those of attentions alone, for what single kinds of
    parameters do to them.
    """
    study = resolved.study
    check_one_input(resolved.task, "a coordinate check is")
    program = training.Program(
        resolved.model,
        resolved.task,
        resolved.optimizer,
        batch=study.batch,
        evaluations=study.evaluations,
        epochs=1,
    )
    points = []
    for scheme in resolved.schemes:
        points += [Point(scheme, study.lrs[0], seed) for seed in study.reporting]
    params = of_points(kept(resolved, draw_parameters(resolved)), points, study.first_seed)
    trials = resolved.trials(points, program.evaluations_per_epoch)
    measure = jax.jit(partial(_measured, resolved, program, steps, look, known, scores))
    rows = []
    with progress.work("training and measuring", len(points), "networks") as measuring:
        for k, point in measuring.each(enumerate(points)):
            trial = jax.tree.map(lambda a, k=k: a[k], trials)
            multipliers = jax.tree.map(np.float32, resolved.multipliers(point.scheme))
            measured = measure(jax.tree.map(jnp.asarray, params[k]), trial, multipliers)
            rows.append(jax.tree.map(np.asarray, measured))
    return _to_dataset(resolved, rows, known)


def _measured(
    resolved: Resolved,
    program: training.Program,
    steps: int,
    look: Look,
    known: Mapping[str, Signal],
    scores: Look | None,
    params: Params,
    trial: training.Trial,
    multipliers: Multipliers,
) -> dict[str, list[jax.Array]]:
    """Train one trial on one batch; of every signal the size of it, of its change, of its
    gradient."""
    task, batch = resolved.task, resolved.study.batch
    x, y = task.data["valid_x"][:batch], task.data["valid_y"][:batch]

    def loss(params: Params) -> jax.Array:
        return resolved.cost(params, multipliers, x, y)

    def step(carry: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], None]:
        params, opt = carry
        params, opt, _norm = program.descend(params, jax.grad(loss)(params), opt, trial)
        return (params, opt), None

    state = program.initial_state(params, trial)
    (after, _), _ = jax.lax.scan(step, (state.params, state.opt), None, length=steps)
    signals, later, gradients = widened(
        (look(params, multipliers, x), look(after, multipliers, x), jax.grad(loss)(params))
    )
    missing = jnp.float32(jnp.nan)
    sizes = {}
    for name, signal in signals.items():
        gradient = missing
        parameter = known[name].parameter if name in known else ""
        if parameter:  # by the parameter with its multiplier
            gradient = _size(gradients[parameter] / multipliers[parameter])
        sizes[name] = [_size(later[name]), _size(later[name] - signal), gradient]
    if scores is None:
        return sizes
    for kind, names in _parts_of_scores(resolved.model.leaves).items():
        # one kind of parameter as trained, all others as they were
        mixed = {name: after[name] if name in names else w for name, w in params.items()}
        for name, value in widened(scores(mixed, multipliers, x)).items():
            sizes[f"{name} by {kind}"] = [_size(value), _size(value - signals[name]), missing]
    return sizes


def _size(a: jax.Array) -> jax.Array:
    """The root mean square of all entries."""
    return jnp.sqrt(jnp.mean(jnp.abs(a) ** 2))


def _to_dataset(
    resolved: Resolved, rows: Sequence[dict[str, Any]], known: Mapping[str, Signal]
) -> xr.Dataset:
    """The sizes of every trial, over (scheme, seed, parameter)."""
    schemes, seeds = list(resolved.schemes), list(resolved.study.reporting)
    order = [name for name in known if name in rows[0]]
    order += [name for name in rows[0] if name not in known]
    roles = [known[name].role if name in known else _role(name) for name in order]
    by_trial = np.asarray([[row[name] for name in order] for row in rows])
    sizes = by_trial.reshape(len(schemes), len(seeds), len(order), len(KINDS))
    axes = ("scheme", "seed", "parameter")
    variables: Any = {kind: (axes, sizes[..., k]) for k, kind in enumerate(KINDS)}
    coords = {"scheme": schemes, "seed": seeds, "parameter": order, "role": ("parameter", roles)}
    return xr.Dataset(variables, coords)
