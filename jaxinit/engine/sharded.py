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
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import Point
from jaxinit.engine import progress
from jaxinit.engine.initial import draw_seed
from jaxinit.engine.peers import Peers, broadcast
from jaxinit.engine.resolve import Resolved
from jaxinit.engine.sweep import Joining, Orders, Pace, Row, Seat, compiled
from jaxinit.engine.training import Program, Records, State, Trial
from jaxinit.introspect import Params
from jaxinit.study import BadStudy, NoDevice
from jaxinit.tasks.base import Data

AXIS = "model"


class One(NamedTuple):
    """The trial that goes on after a piece, if any, as `sweep.Running` has several."""

    slots: dict[int, int]
    at: dict[int, int]
    gather: Callable[[], State]

    def seats(self) -> list[Seat]:
        """Its state on the host, to be saved."""
        return [Seat(number, self.gather()) for number in self.slots]


def check_sharded(resolved: Resolved) -> None:
    """Raises: BadStudy for schemes that are calibrated."""
    if resolved.calibrations:
        names = ", ".join(resolved.calibrations)
        raise BadStudy(
            f"calibrations look at a whole model on one device: leave them out of {names}, or run "
            "without --sharded"
        )


class Split:
    """How the arrays of a study's model lie on devices, of this process or of several."""

    def __init__(self, resolved: Resolved, devices: Sequence[Any]):
        self.resolved = resolved
        self.mesh = Mesh(np.asarray(devices), (AXIS,))
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.of_params = self.of(resolved.shapes)

    def of(self, shapes: Any) -> Any:
        """How every array of a tree is split."""

        def along(shape: tuple[int, ...]) -> NamedSharding:
            count = self.mesh.size
            divided = [axis for axis, size in enumerate(shape) if size % count == 0]
            if not divided:
                return self.everywhere
            largest = max(divided, key=lambda axis: shape[axis])
            return NamedSharding(self.mesh, PartitionSpec(*[None] * largest, AXIS))

        return jax.tree.map(lambda a: along(a.shape), shapes)

    def put(self, tree: Any, shardings: Any) -> Any:
        """Arrays that every process has, in parts on the devices that these belong to."""

        def put_one(a: Any, sharding: NamedSharding) -> jax.Array:
            if sharding.is_fully_addressable:
                return jax.device_put(a, sharding)
            host = np.asarray(a)
            return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

        return jax.tree.map(put_one, tree, shardings)

    def params(self, scheme: str, seed: int) -> Params:
        """The initial parameters of a scheme and a seed."""
        dtype = jnp.dtype(self.resolved.study.param_dtype)

        def place(name: str, value: jax.Array) -> jax.Array:
            return self.put(value.astype(dtype), self.of_params[name])

        return draw_seed(self.resolved, scheme, seed, place)


class ShardedSweep:
    """A sweep as `sweep.Sweep`, whose only slot is all devices.

    With `peers` the devices are those of several processes: the leader runs the sweep, the others
    `follow`, and all do the same one after another.
    """

    mapping = "sharded"

    def __init__(
        self,
        resolved: Resolved,
        program: Program,
        devices: Sequence[Any],
        stopped: Callable[[], bool] = lambda: False,
        peers: Peers | None = None,
    ):
        self.resolved, self.program, self.stopped = resolved, program, stopped
        self.peers = peers
        self.split = Split(resolved, devices)
        everywhere = self.split.everywhere
        data = resolved.task.data
        self.data: Data = self.split.put(data, jax.tree.map(lambda _: everywhere, data))
        self.shapes = jax.eval_shape(
            program.initial_state, resolved.shapes, self._trial(self._first())
        )
        self.of_state = self.split.of(self.shapes)
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
        return {} if self.peers is None else {"processes": self.peers.count}

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
                self._tell("begin", point=joined.point, saved=joined.state is not None)
                state = self._begun(joined.point, trial, joined.state)
                evaluations = int(state.evaluations)
            if state is None:
                if not orders.given_up:
                    return
                continue
            assert trial is not None
            budgets = orders.budgets or {}
            if number in budgets:
                trial = trial._replace(budget=np.int32(budgets[number]))
            if self._compiled is None:
                self._tell("compile")
                self._compile(state, trial)
            row, after = self._piece(number, evaluations, state, trial)
            evaluations = row.last
            state = after if row.outcome is Outcome.UNFINISHED else None
            goes_on = {number: 0} if state is not None else {}
            at = {n: int(after.at) for n in goes_on}
            yield [row], One(goes_on, at, lambda after=after: self._gathered(after))

    def follow(self, digest: str) -> bool:
        """Do as the leader does; whether the study was completed.

        Raises: BadStudy where its study is of another digest or was refused, NoDevice where it has
        failed, Interrupted where it ends while a program compiles.
        """
        assert self.peers is not None
        state: Any = None
        trial: Any = None
        for command in self.peers.commands():
            match command["do"]:
                case "study" if command["digest"] != digest:
                    raise BadStudy(
                        "this process was given another study than process 0 (settings, data or "
                        "own files); give all the same"
                    )
                case "begin":
                    point = Point(*command["point"])
                    trial = self._trial(point)
                    state = self._begun(point, trial, self._nothing() if command["saved"] else None)
                case "compile":
                    self._compile(state, trial)
                case "piece":
                    trial = trial._replace(budget=np.int32(command["budget"]))
                    state, _ = self._compiled(self.data, state, trial, np.int32(command["steps"]))
                case "gather":
                    self._on_host(state)
                case "end" if "error" in command:
                    kind = BadStudy if command["refused"] else NoDevice
                    raise kind(f"process 0 has ended: {command['error']}")
                case "end":
                    return command["complete"]
        raise AssertionError("a session ends by its last command")

    def _piece(self, number: int, first: int, state: State, trial: Trial) -> tuple[Row, State]:
        """Advance the trial by as many steps as take about as long as a piece should."""
        steps = np.int32(self.pace.steps(1))
        began, before = time.monotonic(), {number: int(state.at)}
        self._tell("piece", steps=int(steps), budget=int(trial.budget))
        state, records = self._compiled(self.data, state, trial, steps)
        last, outcome = int(state.evaluations), Outcome(int(state.outcome))
        ran = jax.tree.map(lambda a: np.asarray(a)[: last - first], records)
        row = Row(number, first, last, ran, outcome)
        after = {number: int(state.at)} if outcome is Outcome.UNFINISHED else {}
        self.pace.took(time.monotonic() - began, [row], before, after)
        return row, state

    def _compile(self, state: State, trial: Trial) -> None:
        with progress.work("compiling the training program over all devices"):
            lowered = self._advance.lower(self.data, state, trial, np.int32(0))
            self._compiled = compiled(lowered, self.stopped)

    def _begun(self, point: Point, trial: Trial, saved: State | None) -> State:
        """The state in which a trial begins, or in which the leader has saved it."""
        if saved is None:
            return self._initial(self.split.params(point.scheme, point.seed), trial)
        if self.peers is not None:
            saved = jax.tree.map(broadcast, saved)
        return self.split.put(saved, self.of_state)

    def _gathered(self, state: State) -> State:
        """A whole state on the host of the leader, array by array."""
        self._tell("gather")
        return self._on_host(state)

    def _on_host(self, state: State) -> State:
        def whole(a: jax.Array) -> np.ndarray:
            if a.is_fully_addressable or a.is_fully_replicated:
                return np.asarray(a)
            return np.asarray(multihost_utils.process_allgather(a, tiled=True))

        return jax.tree.map(whole, state)

    def _nothing(self) -> State:
        """What a follower gives where the leader has a state."""
        return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), self.shapes)

    def _tell(self, do: str, **what: Any) -> None:
        if self.peers is not None:
            self.peers.tell(do, **what)

    def _first(self) -> Point:
        study = self.resolved.study
        also = study.also[1][0] if study.also else None
        return Point(study.schemes[0], 1.0, study.first_seed, also)

    def _trial(self, point: Point) -> Trial:
        return self.resolved.trial(point, self.program.evaluations_per_epoch)
