"""A study's network, looked at instead of trained: its signals under every scheme and seed, and the
verdict on them.

Study -> resolve.check -> starts -> signals -> signals.nc, verdicts.json
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinit.analysis import health, store
from jaxinit.analysis.folder import Folder, to_json
from jaxinit.engine import sweep
from jaxinit.engine.identity import claim
from jaxinit.engine.resolve import (
    Resolved,
    calibrate_starts,
    check,
    check_memory,
    draw_starts,
    unsegmented,
)
from jaxinit.engine.training import OPTIMIZERS
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


@sweep.numerics()
def survey(
    study: Study,
    *,
    schemes: Mapping[str, Scheme] | None = None,
    examples: int = 300,
    only: str = "*",
    out: str | Path | None = None,
) -> xr.Dataset:
    """Signals at the start of training: a Dataset over (scheme, seed, parameter, step, copy), as
    `probes.to_dataset`.

    The update among them is the first step of the study's optimizer at a rate of 1.
    The network, the task, the schemes (calibrated ones too) and the seeds that report are those of
    `study`; the signals are those of `examples` examples of the validation set. With `out`,
    signals.nc and verdicts.json are written there. Raises: BadStudy as `resolve.check`, for more
    examples than the validation set has, or a filter that matches nothing.
    """
    resolved, batch = _resolved_and_batch(study, schemes, examples)
    question = {"study": study.plain(), "examples": examples, "only": only}
    if out is not None:
        question = claim(Folder(Path(out)), "probe", question, resolved)
    starts, _ = calibrate_starts(resolved, draw_starts(resolved))
    optimizer = OPTIMIZERS[study.optimizer]()

    def update(grads: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            return optimizer.update(grads, optimizer.init(grads))[0]

    @jax.jit
    def look(params: Any, factors: dict[str, Any], batch: tuple[Any, Any]) -> Any:
        apply = lambda p, x: resolved.as_trained(p, factors, x)
        of = lambda p: probes.signals(
            apply, resolved.task.loss, resolved.model.leaves, p, batch, only, update
        )
        return jax.lax.map(of, params)

    by_scheme = []
    try:
        for name in study.schemes:
            factors = jax.tree.map(np.float32, resolved.multipliers(name))
            found = jax.tree.map(
                np.asarray, look(jax.tree.map(jnp.asarray, starts[name]), factors, batch)
            )
            by_seed = []
            for seed in range(study.seeds):
                one, params = (
                    jax.tree.map(lambda a, k=seed: a[k], of) for of in (found, starts[name])
                )
                dataset = probes.to_dataset(one, resolved.model.leaves)
                by_seed.append(
                    dataset.assign(
                        probes.spectra(
                            resolved.model.leaves, params, dataset.parameter.values.tolist()
                        )
                    )
                )
            by_scheme.append(xr.concat(by_seed, "seed"))
    except ValueError as error:
        raise BadStudy(str(error)) from error
    signals: Any = xr.concat(by_scheme, xr.Variable("scheme", list(study.schemes)))
    signals.attrs = _about(study, resolved, examples)
    if out is not None:
        judged = {
            name: [one._asdict() for one in judgements]
            for name, judgements in verdicts(signals).items()
        }
        files = {
            "signals.nc": store.netcdf(signals),
            "verdicts.json": to_json({"study": study.plain(), "verdicts": judged}),
        }
        store.write_answer(Path(out), "probe", question, files)
    return signals


@sweep.numerics()
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
    starts, _ = calibrate_starts(resolved, draw_starts(resolved))
    multiplied = lambda p, factors: {name: w * factors[name] for name, w in p.items()}
    look = jax.jit(lambda p, b: states_and_gradients(resolved.model, resolved.task.loss, p, b))
    by_step = jax.jit(lambda p, x: step_jacobians(resolved.model, p, x))
    by_scheme = []
    for scheme in study.schemes:
        by_seed = []
        for seed in range(study.seeds):
            factors = jax.tree.map(np.float32, resolved.multipliers(scheme))
            params = multiplied(
                {name: jnp.asarray(a[seed]) for name, a in starts[scheme].items()}, factors
            )
            try:
                course = jax.tree.map(np.asarray, look(params, batch))
            except ValueError as error:
                raise BadStudy(str(error)) from error
            lags, jacobian = singular_values(np.asarray(by_step(params, batch[0][:1])))
            host = jax.tree.map(np.asarray, params)
            expected = expected_mean_square(
                resolved.model.leaves, host, np.asarray(batch[0]), study.activation or "tanh"
            )
            steps = course.gradient.shape[-1]
            axes = ("layer", "carry", "step")
            variables: Any = {what: (axes, values) for what, values in course._asdict().items()}
            variables["memory"] = ("layer", memory_length(np.linalg.norm(course.gradient, axis=1)))
            variables["jacobian"] = (("lag", "index"), jacobian)
            variables["expected"] = (
                "step",
                np.full(steps, np.nan) if expected is None else expected,
            )
            by_seed.append(xr.Dataset(variables, {"lag": lags, "step": np.arange(1, steps + 1)}))
        by_scheme.append(xr.concat(by_seed, "seed"))
    found: Any = xr.concat(by_scheme, xr.Variable("scheme", list(study.schemes)))
    found.attrs = _about(study, resolved, examples)
    if out is not None:
        store.write_answer(Path(out), "probe", question, {"through_time.nc": store.netcdf(found)})
    return found


def _resolved_and_batch(
    study: Study, schemes: Mapping[str, Scheme] | None, examples: int
) -> tuple[Resolved, tuple[Any, Any]]:
    check_numbers(study)  # also of what the signals do not depend on
    resolved = check(replace(study, lrs=(1.0,), baseline=next(iter(study.schemes), "")), schemes)
    data = resolved.task.data
    there = data["valid_x"].shape[0]
    if not 1 <= examples <= there:
        raise BadStudy(
            f"examples must be 1 to {there}, the validation set of {resolved.task.name!r}; got "
            f"{examples}"
        )
    resolved = unsegmented(resolved)
    check_memory(resolved, 1, batch=examples)
    return resolved, (data["valid_x"][:examples], data["valid_y"][:examples])


def _about(study: Study, resolved: Resolved, examples: int) -> dict[str, Any]:
    return {
        "model": study.model,
        "hidden": study.hidden,
        "layers": study.layers,
        "activation": study.activation
        or ("its gates" if any(leaf.gate for leaf in resolved.model.leaves) else "tanh"),
        "task": resolved.task.name,
        "examples": examples,
    }


def verdicts(signals: xr.Dataset) -> dict[str, list[health.Verdict]]:
    """The verdicts on every scheme, the worst first."""
    return {str(name): health.judge(signals.sel(scheme=name)) for name in signals.scheme.values}
