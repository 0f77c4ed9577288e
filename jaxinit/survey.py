"""A study's network, looked at instead of trained: its signals under every scheme and seed, and the verdict on them.

Study -> cell.check -> starts -> signals -> signals.nc, verdicts.json
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinit import probes, store, verdict
from jaxinit.cell import calibrate_starts, check, draw_starts
from jaxinit.spec import Scheme
from jaxinit.study import BadStudy, Study
from jaxinit.train import OPTIMIZERS


def survey(
    study: Study,
    *,
    schemes: Mapping[str, Scheme] | None = None,
    examples: int = 300,
    only: str = "*",
    out: str | Path | None = None,
) -> xr.Dataset:
    """Signals at the start of training: a Dataset over (scheme, seed, parameter, step, copy), as `probes.to_dataset`.

    The update among them is the first step of the study's optimizer at a rate of 1.
    The network, the task, the schemes (calibrated ones too) and the seeds that report are those of `study`; the signals
    are those of `examples` examples of the validation set. With `out`, signals.nc and verdicts.json are written there.
    Raises: BadStudy as `cell.check`, for more examples than the validation set has, or a filter that matches nothing.
    """
    cell = check(replace(study, lrs=(1.0,), baseline=study.schemes[0]), schemes)
    data = cell.task.data
    there = data["valid_x"].shape[0]
    if not 1 <= examples <= there:
        raise BadStudy(f"examples must be 1 to {there}, the validation set of {cell.task.name!r}; got {examples}")
    batch = data["valid_x"][:examples], data["valid_y"][:examples]
    starts, _ = calibrate_starts(cell, draw_starts(cell))
    optimizer = OPTIMIZERS[study.optimizer]()

    def update(grads: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            return optimizer.update(grads, optimizer.init(grads))[0]

    @jax.jit
    def look(params: Any, factors: dict[str, Any], batch: tuple[Any, Any]) -> Any:
        apply = lambda p, x: cell.as_trained(p, factors, x)
        of = lambda p: probes.signals(apply, cell.task.loss, cell.model.leaves, p, batch, only, update)
        return jax.lax.map(of, params)

    by_scheme = []
    try:
        for name in study.schemes:
            factors = jax.tree.map(np.float32, cell.multipliers(name))
            found = jax.tree.map(np.asarray, look(jax.tree.map(jnp.asarray, starts[name]), factors, batch))
            seeds = [jax.tree.map(lambda a, k=k: a[k], found) for k in range(study.seeds)]
            by_scheme.append(xr.concat([probes.to_dataset(one, cell.model.leaves) for one in seeds], "seed"))
    except ValueError as error:
        raise BadStudy(str(error)) from error
    signals: Any = xr.concat(by_scheme, xr.Variable("scheme", list(study.schemes)))
    signals.attrs = {
        "model": study.model,
        "hidden": study.hidden,
        "layers": study.layers,
        "activation": study.activation or ("its gates" if cell.model.leaves[0].gate else "tanh"),
        "task": cell.task.name,
        "examples": examples,
    }
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        store.write_records(folder, signals, "signals.nc")
        judged = {name: [one._asdict() for one in of] for name, of in verdicts(signals).items()}
        store.write_json(folder / "verdicts.json", {"study": study.plain(), "verdicts": judged})
    return signals


def verdicts(signals: xr.Dataset) -> dict[str, list[verdict.Verdict]]:
    """The verdicts on every scheme, the worst first."""
    return {str(name): verdict.judge(signals.sel(scheme=name)) for name in signals.scheme.values}
