"""Coordinate check: the sizes of signals and of their updates as a network grows wider, or deeper.

    Study, widths or depths -> a few steps of training at each, for every seed -> sizes

`analysis.coordinates` has their slopes, and says what passes. Under a parametrization that
transfers, activations, attention scores, their changes and gradients have a slope of 0 against the
width.
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

from jaxinit.analysis import store
from jaxinit.analysis.coordinates import KIND, KINDS, NAMED, SIZES, slopes
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
# Of a product's size: a change below it is the dtype's error as much as training.
ROUNDING = {"float32": 1e-5, "bfloat16": 2.0**-8}

Multipliers: TypeAlias = dict[str, Any]
Look: TypeAlias = Callable[[Params, Multipliers, jax.Array], dict[str, jax.Array]]


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

    Variables `forward`, `update`, `gradient`: root mean squares; see `analysis.coordinates.Slope`
    for the signals, and for which have no gradient (NaN).
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
    gathers; see `analysis.coordinates.Slope`.

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
        question = claim(Folder(Path(out)), KIND, question, smallest)
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
        "device": sweep.devices_in_words(),
        "versions": store.versions_in_words(),
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
        SIZES: store.netcdf(coordinates),
        "slopes.json": to_json({"study": study.plain(), "slopes": rows}),
    }
    store.write_answer(folder, KIND, question, files)


def _role(name: str) -> str:
    """The role of a signal that no parameter is named as."""
    return "part" if ".scores by " in name else name.rpartition(".")[2]


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
