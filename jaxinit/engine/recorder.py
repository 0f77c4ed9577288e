"""The signals of a study under way: those of one seed of every scheme, after every chunk."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinit.engine.initial import Initial
from jaxinit.engine.resolve import Point, Resolved
from jaxinit.engine.sweep import Running
from jaxinit.engine.training import Program, State, Trial
from jaxinit.introspect import Params
from jaxinit.signals import probes


@dataclass
class SignalRecorder:
    """Signals on `examples` validation examples (0: none), of the trials of the first reporting
    seed.

    `recorded` has them by scheme and epoch, those before the first step at epoch 0.
    """

    resolved: Resolved
    program: Program
    initial: Initial
    examples: int
    recorded: dict[tuple[str, float], xr.Dataset] = field(default_factory=dict)

    def __post_init__(self):
        self._look = jax.jit(self._signals)

    def record(self, points: Sequence[Point], trials: Trial, running: Running) -> None:
        """Record the signals of the trials of that seed among those that go on."""
        chosen = self.resolved.study.reporting[0]
        wanted = any(points[number].seed == chosen for number in running.slots)
        if not self.examples or not wanted:
            return  # nothing need come to the host
        for number, state in running.seats():
            scheme, _, seed = points[number]
            if seed != chosen:
                continue
            trial = jax.tree.map(lambda a, number=number: a[number], trials)
            if (scheme, 0.0) not in self.recorded:
                drawn = self.initial[scheme]
                params = {name: jnp.asarray(a[seed]) for name, a in drawn.items()}
                self._add(scheme, 0.0, self.program.initial_state(params), trial)
            epoch = running.evaluations[number] / self.program.evaluations_per_epoch
            self._add(scheme, epoch, state, trial)

    def courses(self) -> xr.Dataset:
        """The signals recorded, over (scheme, epoch, parameter, step, copy)."""
        by_scheme = []
        for scheme in self.resolved.schemes:
            epochs = sorted(epoch for name, epoch in self.recorded if name == scheme)
            if epochs:
                course = xr.concat(
                    [self.recorded[scheme, epoch] for epoch in epochs],
                    xr.Variable("epoch", epochs),
                )
                by_scheme.append(course.assign_coords(scheme=scheme))
        joined: Any = xr.concat(by_scheme, "scheme")
        return joined

    def _add(self, scheme: str, epoch: float, state: State, trial: Trial) -> None:
        leaves = self.resolved.model.leaves
        multipliers = jax.tree.map(np.float32, self.resolved.multipliers(scheme))
        signals = probes.to_dataset(self._look(state, trial, multipliers), leaves)
        params = jax.tree.map(np.asarray, state.params)
        spectra = probes.spectra(leaves, params, signals.parameter.values.tolist())
        self.recorded[scheme, epoch] = signals.assign(spectra)

    def _signals(self, state: State, trial: Trial, multipliers: dict[str, Any]) -> Any:
        """The signals of a trial in one state; their update is the optimizer's next step."""
        data, loss = self.resolved.task.data, self.resolved.task.loss
        batch = data["valid_x"][: self.examples], data["valid_y"][: self.examples]

        def update(grads: Params) -> Params:
            params, _, _ = self.program.descend(state.params, grads, state.opt, trial)
            return jax.tree.map(jnp.subtract, params, state.params)

        def apply(params: Params, x: jax.Array) -> jax.Array:
            return self.resolved.as_trained(params, multipliers, x)

        return probes.signals(
            apply, loss, self.resolved.model.leaves, state.params, batch, update=update
        )
