"""The initial parameters of every scheme and seed: drawn, and corrected by calibrations.

Resolved -> draw_parameters -> calibrate_parameters -> arrays [seeds, ...] by scheme and name
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import calibrate
from jaxinit.analysis.records import Point
from jaxinit.engine import progress
from jaxinit.engine.resolve import Resolved
from jaxinit.introspect import Params
from jaxinit.spec import draw, named_key
from jaxinit.study import BadStudy

CALIBRATION_BATCHES = 8  # what a calibration looks at, as many as fit into the training set

# Of every scheme, by parameter: the seeds are the leading axis, from the study's first on.
Initial: TypeAlias = dict[str, dict[str, np.ndarray]]
# Of every calibrated scheme: median, low and high over the seeds of each number that it reports.
Reports: TypeAlias = dict[str, dict[str, dict[str, float]]]


def draw_parameters(
    resolved: Resolved,
    schemes: Collection[str] | None = None,
    failures: dict[str, str] | None = None,
) -> Initial:
    """The initial parameters of every scheme (or of some) and seed, drawn by one program, in
    float32.

    The base key of a seed does not depend on the scheme, so that draws are paired.
    With `failures`, a scheme of which a draw fails is left out, and its reason put there.
    """
    by_scheme = {}
    drawn = [name for name in resolved.schemes if schemes is None or name in schemes]
    with progress.work("drawing", len(drawn), "schemes") as drawing:
        for k, name in enumerate(drawn):
            try:
                its = jax.vmap(partial(draw_seed, resolved, name))(_seeds(resolved))
                by_scheme[name] = jax.tree.map(np.asarray, its)
            except jax.errors.JaxRuntimeError as error:  # of memory, or of a callback to Python
                if failures is None:
                    raise
                failures[name] = str(error).strip().rpartition("\n")[2]  # below a traceback
            drawing.at(k + 1)
        return by_scheme


def draw_seed(
    resolved: Resolved,
    scheme: str,
    seed: int | jax.Array,
    place: Callable[[str, jax.Array], jax.Array] = lambda name, value: value,
) -> Params:
    """The initial parameters of a scheme and a seed, in float32, each put in its `place` before the
    next is drawn."""
    key = named_key(jax.random.key(seed), "parameters")
    return draw(resolved.schemes[scheme], key, resolved.model.leaves, place=place)


def calibrate_parameters(
    resolved: Resolved, initial: Initial, failures: dict[str, str] | None = None
) -> tuple[Initial, Reports]:
    """Initial parameters after the calibrations that the study asks for of their schemes, in the
    dtype that it keeps them in, and what the calibrations report.

    Each seed is calibrated on batches of its own training set that depend on the seed alone.
    A calibration has no answer for some starts. With `failures`, such a scheme is left out, and its
    reason put there.
    Raises: BadStudy for a start that a calibration has no answer for, without `failures`.
    """
    initial, reports = dict(initial), {}
    for name in resolved.calibrations:
        if name not in initial:
            continue
        try:
            with progress.work(
                f"calibrating {name} ({len(reports) + 1} of {len(resolved.calibrations)})"
            ):
                calibrated = calibrate.checked(_calibrated(resolved, name, initial[name]))
        except ValueError as error:
            if failures is None:
                raise BadStudy(f"{name}: {error}") from error
            failures[name] = str(error)
            del initial[name]
            continue
        initial[name] = {leaf: np.asarray(w) for leaf, w in calibrated.params.items()}
        reports[name] = {
            number: {
                "median": float(np.median(values)),
                "low": float(values.min()),
                "high": float(values.max()),
            }
            for number, values in calibrated.report.items()
        }
    return kept(resolved, initial), reports


def kept(resolved: Resolved, initial: Initial) -> Initial:
    """Initial parameters in the dtype that the study keeps them in: cast last, after all that is
    computed of them."""
    dtype = jnp.dtype(resolved.study.param_dtype)
    return jax.tree.map(lambda w: w.astype(dtype, copy=False), initial)


def of_points(
    initial: Initial, points: Sequence[Point], first_seed: int
) -> list[dict[str, np.ndarray]]:
    """The initial parameters of every trial: views, not copies."""
    params = []
    for point in points:
        row = point.seed - first_seed
        params.append({name: a[row, ...] for name, a in initial[point.scheme].items()})
    return params


def _calibrated(resolved: Resolved, name: str, drawn: dict[str, np.ndarray]) -> Any:
    """All seeds of one scheme calibrated, one after another, by one program."""
    task, study = resolved.task, resolved.study
    multipliers = resolved.multipliers(name)
    calibration = resolved.calibrations[name]
    count = min(CALIBRATION_BATCHES, task.examples // study.batch)

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return resolved.as_trained(params, multipliers, x)

    def cost(params: Params, batch: calibrate.Batch) -> jax.Array:
        return resolved.cost(params, multipliers, *batch)

    problem = calibrate.Problem(
        resolved.model.leaves,
        apply,
        task.loss,
        study.optimizer,
        cost if task.loss_sees else None,
    )

    def calibrate_seed(data: Any, seed: jax.Array, params: Params) -> calibrate.Calibrated:
        seed_key = jax.random.key(seed)
        data = task.of_seed(data, named_key(seed_key, "split"))
        tickets = task.tickets(data, named_key(seed_key, "calibration"), count, study.batch)
        batches = jax.vmap(lambda ticket: task.batch(data, ticket))(tickets)
        return calibration(problem, params, batches)

    def calibrate_seeds(data: Any, seeds: jax.Array, params: Params) -> calibrate.Calibrated:
        return jax.lax.map(lambda row: calibrate_seed(data, *row), (seeds, params))

    calibrated = jax.jit(calibrate_seeds)(task.data, _seeds(resolved), drawn)
    return jax.tree.map(np.asarray, calibrated)


def _seeds(resolved: Resolved) -> jax.Array:
    return jnp.asarray([*resolved.study.tuning, *resolved.study.reporting])
