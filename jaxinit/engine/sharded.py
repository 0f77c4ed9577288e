"""One trial at a time over all devices, for models that are larger than one.

Every parameter is split along its largest axis that the number of devices divides, and its gradient
and the optimizer's state with it; what has no such axis, and the data, are on every device.
Parameters are drawn one after another, each split before the next is drawn, operation by operation
as in any other sweep, and so are the same to the bit; training rounds otherwise, since sums are
made in parts.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import Point
from jaxinit.engine import progress
from jaxinit.engine.initial import draw_seed
from jaxinit.engine.resolve import Resolved
from jaxinit.engine.sweep import Joining, Orders, Pace, Row, Seat, compiled
from jaxinit.engine.training import Program, Records, State, Trial
from jaxinit.introspect import Params
from jaxinit.study import BadStudy
from jaxinit.tasks.base import Data

AXIS = "model"


class One(NamedTuple):
    """The trial that goes on after a piece, if any, as `sweep.Running` has several."""

    slots: dict[int, int]
    at: dict[int, int]
    state: State | None

    def seats(self) -> list[Seat]:
        """Its state on the host, to be saved."""
        return [Seat(number, jax.tree.map(np.asarray, self.state)) for number in self.slots]


def check_sharded(resolved: Resolved) -> None:
    """Raises: BadStudy for schemes that are calibrated."""
    if resolved.calibrations:
        names = ", ".join(resolved.calibrations)
        raise BadStudy(
            f"calibrations look at a whole model on one device: leave them out of {names}, or run "
            "without --sharded"
        )


class ShardedSweep:
    """A sweep as `sweep.Sweep`, whose only slot is all devices."""

    mapping = "sharded"

    def __init__(
        self,
        resolved: Resolved,
        program: Program,
        devices: Sequence[Any],
        stopped: Callable[[], bool] = lambda: False,
    ):
        self.resolved, self.program, self.stopped = resolved, program, stopped
        self.mesh = Mesh(np.asarray(devices), (AXIS,))
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.data: Data = jax.device_put(resolved.task.data, everywhere)
        trial = self._trial(self._first())
        params = resolved.shapes
        state = jax.eval_shape(program.initial_state, params, trial)
        self.of_params, self.of_state = self._shardings(params), self._shardings(state)
        self._initial = jax.jit(program.initial_state, out_shardings=self.of_state)

        def training_program(
            data: Data, state: State, trial: Trial, steps: jax.Array
        ) -> tuple[State, Records]:
            return program.advance(data, state, trial, steps)

        self._advance = jax.jit(training_program, out_shardings=(self.of_state, everywhere))
        self._compiled: Any = None
        self.pace = Pace(program, "vmap", 1)

    def about(self) -> dict[str, Any]:
        """What study.json says of it beside the device."""
        return {}

    def params(self, point: Point) -> Params:
        """The initial parameters of a trial, on the devices that they belong to."""
        dtype = jnp.dtype(self.resolved.study.param_dtype)

        def place(name: str, value: jax.Array) -> jax.Array:
            return jax.device_put(value.astype(dtype), self.of_params[name])

        return draw_seed(self.resolved, point.scheme, point.seed, place)

    def run(self, order: Callable[[int], Orders], like: Joining) -> Iterator[tuple[list[Row], One]]:
        """As `sweep.Sweep.run`."""
        del like
        number, evaluations = -1, 0
        state: State | None = None
        trial: Trial | None = None
        while True:
            orders = order(int(state is None))
            if number in orders.given_up:
                state = None
            for joined in orders.joining:
                assert joined.point is not None
                number, trial = joined.number, joined.trial
                state = self._begun(joined, joined.point)
                evaluations = int(state.evaluations)
            if state is None:
                if not orders.given_up:
                    return
                continue
            assert trial is not None
            budgets = orders.budgets or {}
            if number in budgets:
                trial = trial._replace(budget=np.int32(budgets[number]))
            row, after = self._piece(number, evaluations, state, trial)
            evaluations = row.last
            state = after if row.outcome is Outcome.UNFINISHED else None
            goes_on = {number: 0} if state is not None else {}
            yield [row], One(goes_on, {n: int(after.at) for n in goes_on}, state)

    def _piece(self, number: int, first: int, state: State, trial: Trial) -> tuple[Row, State]:
        """Advance the trial by as many steps as take about as long as a piece should."""
        steps = np.int32(self.pace.steps(1))
        if self._compiled is None:
            with progress.work("compiling the training program over all devices"):
                lowered = self._advance.lower(self.data, state, trial, steps)
                self._compiled = compiled(lowered, self.stopped)
        began, before = time.monotonic(), {number: int(state.at)}
        state, records = self._compiled(self.data, state, trial, steps)
        last, outcome = int(state.evaluations), Outcome(int(state.outcome))
        ran = jax.tree.map(lambda a: np.asarray(a)[: last - first], records)
        row = Row(number, first, last, ran, outcome)
        after = {number: int(state.at)} if outcome is Outcome.UNFINISHED else {}
        self.pace.took(time.monotonic() - began, [row], before, after)
        return row, state

    def _begun(self, joined: Joining, point: Point) -> State:
        """The state in which a trial begins, or in which it was saved."""
        if joined.state is not None:
            return jax.device_put(joined.state, self.of_state)
        return self._initial(self.params(point), joined.trial)

    def _first(self) -> Point:
        study = self.resolved.study
        also = study.also[1][0] if study.also else None
        return Point(study.schemes[0], 1.0, study.first_seed, also)

    def _trial(self, point: Point) -> Trial:
        return self.resolved.trial(point, self.program.evaluations_per_epoch)

    def _shardings(self, shapes: Any) -> Any:
        """How every array of a tree is split."""

        def of(shape: tuple[int, ...]) -> NamedSharding:
            count = self.mesh.size
            divided = [axis for axis, size in enumerate(shape) if size % count == 0]
            if not divided:
                return NamedSharding(self.mesh, PartitionSpec())
            largest = max(divided, key=lambda axis: shape[axis])
            return NamedSharding(self.mesh, PartitionSpec(*[None] * largest, AXIS))

        return jax.tree.map(lambda a: of(a.shape), shapes)
