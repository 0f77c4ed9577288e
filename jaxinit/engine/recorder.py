"""The signals of a study under way: those of one seed of every scheme, after every chunk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxinit.analysis.records import Point
from jaxinit.engine.initial import Initial, of_points
from jaxinit.engine.resolve import Resolved
from jaxinit.engine.sweep import Running
from jaxinit.engine.training import Program, State, Trial
from jaxinit.introspect import Params
from jaxinit.signals import probes


@dataclass
class SignalRecorder:
    """Signals on `examples` validation examples (0: none), of the trials of the first reporting
    seed.

    `recorded` has them by trial and epoch, those before the first step at epoch 0. A ladder trains
    that seed at many rates, and which of them is the best is known at the end only.
    """

    resolved: Resolved
    program: Program
    initial: Initial
    examples: int
    recorded: dict[tuple[Point, float], xr.Dataset] = field(default_factory=dict)

    def __post_init__(self):
        self._look = jax.jit(self._signals)

    def record(self, points: Sequence[Point], running: Running) -> None:
        """Record the signals of the trials of that seed among those that go on."""
        chosen = self.resolved.study.reporting[0]
        between = [number for number, at in running.at.items() if at == 0]  # two chunks
        wanted = {number for number in between if points[number].seed == chosen}
        if not self.examples or not wanted:
            return  # nothing need come to the host
        for number, state in running.seats():
            if number not in wanted:
                continue
            point = points[number]
            trial = self.resolved.trial(point, self.program.evaluations_per_epoch)
            if (point, 0.0) not in self.recorded:
                (drawn,) = of_points(self.initial, [point], self.resolved.study.first_seed)
                first = self.program.initial_state(jax.tree.map(jnp.asarray, drawn), trial)
                self._add(point, 0.0, first, trial)
            epoch = running.evaluations[number] / self.program.evaluations_per_epoch
            self._add(point, epoch, state, trial)

    def courses(self, best: Mapping[str, tuple[float, float | None]]) -> xr.Dataset | None:
        """The signals of every scheme at its best (`table.best_points`), over (scheme, epoch,
        parameter, step, copy); None where none of them was recorded."""
        by_scheme = []
        for scheme, (rate, also) in best.items():
            chosen = Point(scheme, rate, self.resolved.study.reporting[0], also)
            epochs = sorted(epoch for point, epoch in self.recorded if point == chosen)
            if epochs:
                course = xr.concat(
                    [self.recorded[chosen, epoch] for epoch in epochs],
                    xr.Variable("epoch", epochs),
                )
                by_scheme.append(course.assign_coords(scheme=scheme))
        if not by_scheme:
            return None
        joined: Any = xr.concat(by_scheme, "scheme")
        return joined

    def _add(self, point: Point, epoch: float, state: State, trial: Trial) -> None:
        leaves = self.resolved.model.leaves
        multipliers = jax.tree.map(np.float32, self.resolved.multipliers(point.scheme))
        signals = probes.to_dataset(self._look(state, trial, multipliers), leaves)
        params = jax.tree.map(np.asarray, state.params)
        spectra = probes.spectra(leaves, params, signals.parameter.values.tolist())
        self.recorded[point, epoch] = signals.assign(spectra)

    def _signals(self, state: State, trial: Trial, multipliers: dict[str, Any]) -> Any:
        """The signals of a trial in one state; their update is the optimizer's next step."""
        data = self.resolved.task.data
        batch = data["valid_x"][: self.examples], data["valid_y"][: self.examples]
        loss = self.resolved.loss_of_outputs(batch[0])

        def update(grads: Params) -> Params:
            params, _, _ = self.program.descend(state.params, grads, state.opt, trial)
            return jax.tree.map(jnp.subtract, params, state.params)

        def apply(params: Params, x: jax.Array) -> jax.Array:
            return self.resolved.as_trained(params, multipliers, x)

        return probes.signals(
            apply, loss, self.resolved.model.leaves, state.params, batch, update=update
        )
