"""A study's network, looked at instead of trained: its signals under every scheme and seed, and the
verdict on them.

    Study -> Resolved -> initial parameters -> signals -> signals.nc, verdicts.json
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinit.analysis import health, store
from jaxinit.analysis.folder import Folder, to_json
from jaxinit.engine import progress, sweep
from jaxinit.engine.identity import claim
from jaxinit.engine.initial import calibrate_parameters, draw_parameters
from jaxinit.engine.resolve import Resolved, check_memory, resolve
from jaxinit.engine.sharded import Split, check_sharded
from jaxinit.introspect import Params
from jaxinit.options import OPTIONS
from jaxinit.signals import probes
from jaxinit.signals.through_time import (
    expected_mean_square,
    memory_length,
    singular_values,
    states_and_gradients,
    step_jacobians,
)
from jaxinit.spec import Scheme
from jaxinit.study import BadStudy, Study, check_numbers

Batch: TypeAlias = tuple[jax.Array, jax.Array]


def survey(
    study: Study,
    *,
    schemes: Mapping[str, Scheme] | None = None,
    examples: int = 300,
    only: str = "*",
    out: str | Path | None = None,
    sharded: bool = False,
) -> xr.Dataset:
    """Signals before training: a Dataset over (scheme, seed, parameter, step, copy), as
    `probes.to_dataset`.

    The update among them is the first step of the study's optimizer at a rate of 1.
    The network, the task, the schemes (calibrated ones too) and the seeds that report are those of
    `study`; the signals are those of `examples` examples of the validation set. With `out`,
    signals.nc and verdicts.json are written there. A model that is `sharded` lies in parts on all
    devices, one seed at a time. Raises: BadStudy as `resolve.resolve`, for more examples than the
    validation set has, a filter that matches nothing, or calibrations of a sharded model.
    """
    resolved, batch = _resolved_and_batch(study, schemes, examples, sharded)
    question = {"study": study.plain(), "examples": examples, "only": only}
    if out is not None:
        question = claim(Folder(Path(out)), "probe", question, resolved)
    try:
        with sweep.numerics(study):
            signals = _signals(resolved, batch, only, sharded)
    except ValueError as error:
        raise BadStudy(str(error)) from error
    signals.attrs = _about(study, resolved, examples)
    if out is not None:
        _write_signals(Path(out), question, study, signals)
    return signals


def _params_by_seed(resolved: Resolved, sharded: bool) -> Callable[[str, int], Params]:
    """What gives the initial parameters of a scheme and a seed, the seed by its place."""
    if sharded:
        split, seeds = Split(resolved, jax.devices()), resolved.study.reporting
        return lambda scheme, row: split.params(scheme, seeds[row])
    initial, _ = calibrate_parameters(resolved, draw_parameters(resolved))
    return lambda scheme, row: {name: jnp.asarray(a[row]) for name, a in initial[scheme].items()}


def _signals(resolved: Resolved, batch: Batch, only: str, sharded: bool) -> xr.Dataset:
    """The signals of every scheme and seed, before the first step."""
    leaves, loss = resolved.model.leaves, resolved.loss_of_outputs(batch[0])
    params_of = _params_by_seed(resolved, sharded)
    optimizer = resolved.optimizer(1.0)

    @jax.jit
    def look(params: Params, multipliers: dict[str, Any], batch: Batch) -> Any:
        def apply(params: Params, x: jax.Array) -> jax.Array:
            return resolved.as_trained(params, multipliers, x)

        def update(grads: Params) -> Any:
            with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
                return optimizer.update(grads, optimizer.init(params), params)[0]

        return probes.signals(apply, loss, leaves, params, batch, only, update)

    by_scheme = []
    networks = len(resolved.schemes) * resolved.study.seeds
    with progress.work("measuring signals", networks, "networks") as measuring:
        for scheme in resolved.schemes:
            multipliers = jax.tree.map(np.float32, resolved.multipliers(scheme))
            by_seed = []
            # Not a loop that is compiled: in one, XLA's CPU takes back convolutions slowly.
            for row in measuring.each(range(resolved.study.seeds)):
                params = params_of(scheme, row)
                on_device = look(params, multipliers, batch)
                of_seed = jax.tree.map(np.asarray, on_device)
                signals = probes.to_dataset(of_seed, leaves)
                kernels = signals.parameter.values.tolist()
                on_host = {name: np.asarray(params[name]) for name in kernels}
                by_seed.append(signals.assign(probes.spectra(leaves, on_host, kernels)))
            by_scheme.append(xr.concat(by_seed, "seed"))
    joined: Any = xr.concat(by_scheme, xr.Variable("scheme", list(resolved.schemes)))
    return joined


def _write_signals(
    folder: Path, question: Mapping[str, Any], study: Study, signals: xr.Dataset
) -> None:
    judged = {}
    for scheme, judgements in verdicts(signals).items():
        judged[scheme] = [judgement._asdict() for judgement in judgements]
    files = {
        "signals.nc": store.netcdf(signals),
        "verdicts.json": to_json({"study": study.plain(), "verdicts": judged}),
    }
    store.write_answer(folder, "probe", question, files)


def through_time(
    study: Study,
    *,
    schemes: Mapping[str, Scheme] | None = None,
    examples: int = 300,
    out: str | Path | None = None,
) -> xr.Dataset:
    """A recurrent network's states and their gradients by step, before training: a Dataset, see
    `signals.through_time`.

    Variables: `gradient`, `mean`, `mean_square` over (scheme, seed, layer, carry, step); `memory`
    over (scheme, seed, layer), in steps, of the whole state; `jacobian` over (scheme, seed, lag,
    index), singular values of the last layer's ds_T/ds_t for one example; `expected` over (scheme,
    seed, step), the mean square of h by mean-field theory, NaN for networks that it says nothing
    of. With `out`, through_time.nc is written there.
    Raises: BadStudy as `survey`, and for a network without a time loop in one direction.
    """
    resolved, batch = _resolved_and_batch(study, schemes, examples)
    question = {"study": study.plain(), "examples": examples}
    if out is not None:
        question = claim(Folder(Path(out)), "probe", question, resolved)
    with sweep.numerics(study):
        courses = _courses(resolved, batch)
    courses.attrs = _about(study, resolved, examples)
    if out is not None:
        files = {"through_time.nc": store.netcdf(courses)}
        store.write_answer(Path(out), "probe", question, files)
    return courses


def _courses(resolved: Resolved, batch: Batch) -> xr.Dataset:
    """States and gradients by step, of every scheme and seed."""
    model, loss = resolved.whole, resolved.loss_of_outputs(batch[0])
    params_of = _params_by_seed(resolved, sharded=False)
    look = jax.jit(lambda params, batch: states_and_gradients(model, loss, params, batch))
    jacobians = jax.jit(lambda params, x: step_jacobians(model, params, x))
    activation = resolved.study.activation or "tanh"

    def of_seed(params: Params) -> xr.Dataset:
        try:
            course = jax.tree.map(np.asarray, look(params, batch))
        except ValueError as error:
            raise BadStudy(str(error)) from error
        lags, jacobian = singular_values(np.asarray(jacobians(params, batch[0][:1])))
        host = jax.tree.map(np.asarray, params)
        expected = expected_mean_square(model.leaves, host, np.asarray(batch[0]), activation)
        steps = course.gradient.shape[-1]
        if expected is None:
            expected = np.full(steps, np.nan)
        axes = ("layer", "carry", "step")
        variables: Any = {name: (axes, values) for name, values in course._asdict().items()}
        variables["memory"] = ("layer", memory_length(np.linalg.norm(course.gradient, axis=1)))
        variables["jacobian"] = (("lag", "index"), jacobian)
        variables["expected"] = ("step", expected)
        return xr.Dataset(variables, {"lag": lags, "step": np.arange(1, steps + 1)})

    by_scheme = []
    networks = len(resolved.schemes) * resolved.study.seeds
    with progress.work("measuring gradients by step", networks, "networks") as measuring:
        for scheme in resolved.schemes:
            multipliers = jax.tree.map(np.float32, resolved.multipliers(scheme))
            by_seed = []
            for row in measuring.each(range(resolved.study.seeds)):
                params = params_of(scheme, row)
                by_seed.append(of_seed(resolved.effective(params, multipliers)))
            by_scheme.append(xr.concat(by_seed, "seed"))
    joined: Any = xr.concat(by_scheme, xr.Variable("scheme", list(resolved.schemes)))
    return joined


def _resolved_and_batch(
    study: Study, schemes: Mapping[str, Scheme] | None, examples: int, sharded: bool = False
) -> tuple[Resolved, Batch]:
    check_numbers(study)  # also of what the signals do not depend on
    one_rate = study.at_one_rate(1.0)
    resolved = resolve(one_rate, schemes)
    data = resolved.task.data
    resolved.loss_of_outputs(data["valid_x"])  # refused here, before anything is written
    available = data["valid_x"].shape[0]
    if not 1 <= examples <= available:
        raise BadStudy(
            f"examples must be 1 to {available}, the validation set of {resolved.task.name!r}; "
            f"got {examples}"
        )
    if sharded:
        check_sharded(resolved)
    else:
        check_memory(resolved, 1, batch=examples, model=resolved.whole)
    return resolved, (data["valid_x"][:examples], data["valid_y"][:examples])


def _about(study: Study, resolved: Resolved, examples: int) -> dict[str, Any]:
    default = getattr(OPTIONS.get(study.model), "activation", "tanh")
    if any(leaf.gate for leaf in resolved.model.leaves):
        default = "its gates"
    gates = [leaf.gate for leaf in resolved.model.leaves if leaf.role == "recurrent"]
    return {
        "model": study.model,
        "hidden": study.hidden,
        "layers": study.layers,
        "activation": study.activation or default,
        "task": resolved.task.name,
        "examples": examples,
        "gates": " ".join(gates[0]) if gates else "",
        "device": sweep.devices_in_words(),
        "versions": store.versions_in_words(),
    }


def verdicts(signals: xr.Dataset) -> dict[str, list[health.Verdict]]:
    """The verdicts on every scheme, the worst first."""
    return {str(name): health.judge(signals.sel(scheme=name)) for name in signals.scheme.values}
