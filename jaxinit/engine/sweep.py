"""Trials over devices: one compiled program, a fixed number of slots, and trials that pass through
them.

The number of slots shapes the program, so it stays: a trial that ends, or is given up, gives its
slot to the next one. States stay on their devices from piece to piece, as which trials advance:
about a second of work, at most a chunk of epochs, so that whoever asks to stop is heard. Under
`map` an empty slot costs nothing. Under `vmap` it costs as much as a full one, so when nobody waits
any more the slots shrink to the next power of two, each of which is compiled once. Trials never
communicate.
"""

import contextvars
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import Point
from jaxinit.console import out_of_memory
from jaxinit.engine import progress
from jaxinit.engine.memory import free_memory
from jaxinit.engine.training import Program, Records, State, Trial
from jaxinit.study import DEFAULTS, BadStudy, Interrupted, Study, check_precision
from jaxinit.tasks.base import Data

# How trials are put on devices: on each one after another, or together, or one on all of them.
Mapping: TypeAlias = Literal["map", "vmap", "sharded"]
COMPILED = "/jax/core/compile/backend_compile_duration"
WORTH_A_LINE = 0.1  # seconds of compilation
FEWEST = 2  # devices of a CPU
PIECE = 1.5  # seconds of work between two looks at what is wanted
SHARE_OF_MEMORY = 0.8  # of what is free on a device: what a program may need


def one_device_per_core(count: int | None = None) -> None:
    """Give JAX one CPU device per core (or `count`), two or more, each on a thread of its own.

    XLA compiles a program for one device in another way than for several, and rounds otherwise
    (measured: an MLP with dropout); for two, three or eight it gives the same bits.

    What the command line and the experiments call before anything else; importing jaxinit never
    does. Accelerators, where there are any, are not affected.
    Raises: RuntimeError when JAX has been initialized already.
    """
    cores = max(count or available_cores(), FEWEST)
    os.environ["XLA_FLAGS"] = one_thread(os.environ.get("XLA_FLAGS", ""))
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError as error:
        raise RuntimeError(
            f"JAX was already initialized with {jax.device_count()} device(s), before jaxinit "
            f"could set up one per core ({cores}); call jaxinit.engine.sweep.one_device_per_core() "
            "before the first JAX operation"
        ) from error


def one_thread(flags: str) -> str:
    """XLA's flags with the one by which a CPU device computes on one thread."""
    single = "--xla_cpu_multi_thread_eigen=false"
    return flags if single in flags else f"{flags} {single}".strip()


@contextmanager
def numerics(study: Study) -> Iterator[None]:
    """The arithmetic of a study, whatever the environment sets: no float64, matrix products in the
    precision that it asks for, and no stop at numbers that are not finite.

    A study's arrays are float32 or narrower, so that its records do not depend on JAX_ENABLE_X64,
    and a trial that diverges is an outcome, where JAX_DEBUG_NANS and JAX_DEBUG_INFS would stop the
    program. The precision belongs to a product when it is traced, so whatever traces or compiles a
    program of the study has to do so in here.
    Raises: BadStudy for a precision that there is not.
    """
    check_precision(study)
    with (
        jax.enable_x64(False),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.default_matmul_precision(study.matmul_precision),
    ):
        yield


def keep_compilations(folder: Path | None = None) -> None:
    """Keep compiled programs in the user's cache folder (or `folder`), so that the next run need
    not compile them.

    What the command line and the experiments call; importing jaxinit never does.
    JAX_COMPILATION_CACHE_DIR, where it is set, chooses another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false none. Where the folder cannot be made, programs are not kept,
    which is said once.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX keeps what took a second or more. Initial weights are drawn by dozens of small
        # programs: 4.5 s of the main job's 17 to compile, 0.5 s to read.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        chosen = folder or home / "jaxinit"
        chosen.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=chosen):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows where home is
        _say_once(f"compiled programs are not kept: {error}")
        return
    jax.config.update("jax_compilation_cache_dir", str(chosen))


@cache
def _say_once(line: str) -> None:
    progress.say(line)


def available_cores() -> int:
    """The cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Row(NamedTuple):
    """A trial after a piece: its number in the queue, the records of the piece, and how it
    stands."""

    number: int
    first: int  # evaluations done before the piece
    last: int  # and after it
    records: Records
    outcome: Outcome

    @classmethod
    def failed(cls, number: int) -> "Row":
        """A trial that could not be run."""
        nothing: Any = np.zeros((len(Records._fields), 0), np.float32)
        return cls(number, 0, 0, Records(*nothing), Outcome.FAILED)


class Seat(NamedTuple):
    """A running trial: its number in the queue, and its state on the host."""

    number: int
    state: State


class Joining(NamedTuple):
    """A trial that is to run: its number, its settings, and the parameters it begins with, or the
    state in which it was saved; where these are elsewhere, the point that says which they are."""

    number: int
    trial: Trial
    params: dict[str, np.ndarray] | None = None
    state: State | None = None
    point: Point | None = None


class Orders(NamedTuple):
    """What is to happen before the next piece: which trials join, and by number which are given up,
    and after how many evaluations those that go on are to end."""

    joining: Sequence[Joining] = ()
    given_up: Collection[int] = ()
    budgets: dict[int, int] | None = None


class Running(NamedTuple):
    """The trials that go on after a piece, their states still on the devices.

    `slots`, `evaluations` and `at` have, by a trial's number, where it is, how far it has come, and
    how many steps it is into its chunk of epochs. Slots of no trial are at rest.
    """

    slots: dict[int, int]
    evaluations: dict[int, int]
    at: dict[int, int]
    states: State
    settings: Trial

    def without(self, numbers: Collection[int]) -> "Running":
        """Those that go on when some are given up, whose slots are at rest from then on."""
        if not set(numbers) & set(self.slots):
            return self
        slots = {number: slot for number, slot in self.slots.items() if number not in numbers}
        outcome = np.full(len(self.states.outcome), Outcome.CENSORED, np.int32)
        outcome[list(slots.values())] = Outcome.UNFINISHED
        placed = jax.device_put(outcome, self.states.outcome.sharding)
        at = {number: self.at[number] for number in slots}
        return self._replace(slots=slots, at=at, states=self.states._replace(outcome=placed))

    def seats(self) -> list[Seat]:
        """All of them with their states on the host, to be saved."""
        states = jax.tree.map(np.asarray, self.states)
        return [Seat(number, _entry(states, slot)) for number, slot in self.slots.items()]


@dataclass
class Sweep:
    """A program compiled once for `slots` trials on the given devices.

    `mapping` is `map` (trials one after another on each device: CPU) or `vmap` (all at once:
    accelerators). `memory` is what each device may use, in bytes (default: most of what is free);
    where the slots would need more there are fewer."""

    program: Program
    data: Data
    slots: int
    devices: Sequence[Any]  # jax.Device, which is no type to a checker
    mapping: Mapping
    memory: int | None = None
    stopped: Callable[[], bool] = lambda: False  # whether somebody has asked to stop

    def __post_init__(self):
        n = len(self.devices)
        self.slots = -(-self.slots // n) * n
        mesh = jax.sharding.Mesh(np.asarray(self.devices), ("trial",))
        self._split = NamedSharding(mesh, PartitionSpec("trial"))
        self.data = jax.device_put(self.data, NamedSharding(mesh, PartitionSpec()))
        advance = self.program.advance

        def on_device(
            data: Data, states: State, trials: Trial, steps: Array, at: Array
        ) -> tuple[State, Records]:
            def advance_one(state_and_trial: tuple[State, Trial]) -> tuple[State, Records]:
                return advance(data, *state_and_trial, steps, together)

            together = None if self.mapping == "map" else at
            if self.mapping == "map":
                return jax.lax.map(advance_one, (states, trials))
            return jax.vmap(advance_one)((states, trials))

        def training_program(
            data: Data, states: State, trials: Trial, steps: Array, at: Array
        ) -> tuple[State, Records]:
            everywhere, split = PartitionSpec(), PartitionSpec("trial")
            mapped = jax.shard_map(
                on_device,
                mesh=mesh,
                in_specs=(everywhere, split, split, everywhere, everywhere),
                out_specs=split,
                check_vma=False,
            )
            return mapped(data, states, trials, steps, at)

        def arrange(pools: Sequence[State], source: Array, live: Array) -> State:
            return jax.shard_map(
                _arrange_on_device,
                mesh=mesh,
                in_specs=PartitionSpec("trial"),
                out_specs=PartitionSpec("trial"),
            )(pools, source, live)

        self._advance = jax.jit(training_program)
        self._arrange = jax.jit(arrange)
        self._initial = jax.jit(jax.vmap(self.program.initial_state))
        self._compiled: dict[int, Any] = {}  # by number of slots
        self.pace = Pace(self.program, self.mapping, n)

    def about(self) -> dict[str, Any]:
        """What study.json says of it beside the device."""
        return {}

    def run(
        self, order: Callable[[int], Orders], like: Joining
    ) -> Iterator[tuple[list[Row], Running]]:
        """Train trials to their ends; after each piece, yield a row for each that ran in it, and
        those that go on.

        Before each piece `order(room)` says what is to happen, where `room` is how many more trials
        there is room for, beside those that it gives up; the sweep ends when nothing runs and
        nobody joins. Under `vmap` trials join at the start of a chunk of epochs alone, which all of
        them begin together. `like` is any trial, for the shapes. States stay on the devices from
        piece to piece; only records and how each trial stands come to the host. Where a device runs
        out of memory all the same, half as many trials go on and the others wait.
        """
        running: Running | None = None
        trials: dict[int, Trial] = {}
        began: dict[int, Joining] = {}
        waiting: list[Joining] = []
        trial = jax.tree.map(np.asarray, like.trial)
        self._fit(jax.eval_shape(self.program.initial_state, like.params, trial), trial)
        while True:
            orders = Orders()
            joining: list[Joining] = []
            if running is None or self.mapping == "map" or not any(running.at.values()):
                held = len(waiting) + (0 if running is None else len(running.slots))
                orders = order(max(self.pace.trials(self.slots) - held, 0))
                if running is not None:
                    running = running.without(orders.given_up)
                for joined in orders.joining:
                    began[joined.number] = joined
                    trials[joined.number] = jax.tree.map(np.asarray, joined.trial)
                waiting = [joined for joined in waiting if joined.number not in orders.given_up]
                waiting += orders.joining  # one that is given up may join anew
                room = self.slots - (0 if running is None else len(running.slots))
                joining, waiting = waiting[:room], waiting[room:]
            if not (joining or (running is not None and running.slots)):
                return
            budgets = orders.budgets or {}
            for number, budget in budgets.items():
                trials[number] = trials[number]._replace(budget=np.int32(budget))
            last = running
            try:
                running = self._seat(running, joining, trials)
                if budgets:
                    running = self._with_budgets(running, trials)
                rows, running = self._timed(running)
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error) or not self._fewer():
                    raise
                seats = [] if last is None else last.seats()
                back = [began[number]._replace(state=state) for number, state in seats]
                waiting = [self._rested(joined) for joined in (*back, *joining)] + waiting
                running = None
                continue
            yield rows, running

    def _timed(self, running: Running) -> tuple[list[Row], Running]:
        """A piece of about the length that pieces should have."""
        program = self._program(len(running.states.outcome), running.states, running.settings)
        began = time.monotonic()
        rows, after = self._piece(program, running, self.pace.steps(len(running.slots)))
        self.pace.took(time.monotonic() - began, rows, running.at, after.at)
        return rows, after

    def _fewer(self) -> bool:
        """Halve the slots, and say so; False where every device has one."""
        n = len(self.devices)
        if self.slots <= n:
            return False
        self.slots = max(self.slots // n // 2, 1) * n
        self._compiled.clear()
        progress.say(f"out of memory: from here on {self.slots} trials at a time")
        return True

    def _rested(self, joined: Joining) -> Joining:
        """A trial that waits: in its state or, in the midst of a chunk that others are in together,
        anew."""
        midway = joined.state is not None and self.mapping == "vmap" and int(joined.state.at)
        return joined._replace(state=None) if midway else joined

    def _with_budgets(self, running: Running, trials: dict[int, Trial]) -> Running:
        """The running trials with the budgets that they have now."""
        budgets = np.zeros(len(running.states.outcome), np.int32)
        for number, slot in running.slots.items():
            budgets[slot] = trials[number].budget
        placed = jax.device_put(budgets, self._split)
        return running._replace(settings=running.settings._replace(budget=placed))

    def _seat(
        self, running: Running | None, joining: Sequence[Joining], trials: dict[int, Trial]
    ) -> Running:
        """The running trials and those that join them, spread evenly over the devices.

        A trial stays on its device, so that devices need not talk to each other. Where that would
        leave one of them more trials than its share, as when nobody waits any more and the trials
        of another have ended, all are dealt out anew by way of the host.
        """
        n = len(self.devices)
        places: list[list[tuple[int, int]]] = [[] for _ in range(n)]  # of trials, by device
        held = 0  # slots of a device until now
        if running is not None:
            held = len(running.states.outcome) // n
            for number, slot in running.slots.items():
                places[slot // held].append((number, slot % held))
        share = -(-(sum(map(len, places)) + len(joining)) // n)
        width = self._width(share)
        if running is not None and max(map(len, places)) > share:
            back = [
                Joining(number, trials[number], None, state) for number, state in running.seats()
            ]
            return self._seat(None, [*back, *joining], trials)
        if running is not None and not joining and width == held:
            return running  # trials that have ended rest in their slots

        # New trials are pooled behind the slots of their device, then all are put in order.
        pooled: list[list[int]] = [[] for _ in range(n)]  # indices of those who join, by device
        for index, joined in enumerate(joining):
            device = min(range(n), key=lambda device: len(places[device]))
            places[device].append((joined.number, held + len(pooled[device])))
            pooled[device].append(index)
        pools = [] if running is None else [running.states]
        if joining:
            pools.append(self._pool(pooled, joining))

        slots: dict[int, int] = {}
        source = np.zeros(n * width, np.int32)
        live = np.zeros(n * width, bool)
        anyone = next(number for its in places for number, _ in its)
        numbers = [anyone] * (n * width)  # whose settings a slot at rest has does not matter
        for device, its in enumerate(places):
            for slot, (number, place) in enumerate(its, start=device * width):
                slots[number] = slot
                source[slot], live[slot], numbers[slot] = place, True, number
        evaluations = {} if running is None else dict(running.evaluations)
        at = {} if running is None else dict(running.at)
        for joined in joining:
            state = joined.state
            evaluations[joined.number] = 0 if state is None else int(state.evaluations)
            at[joined.number] = 0 if state is None else int(state.at)
        settings = _stacked([trials[number] for number in numbers])
        source, live, settings = jax.device_put((source, live, settings), self._split)
        return Running(slots, evaluations, at, self._arrange(pools, source, live), settings)

    def _pool(self, pooled: Sequence[Sequence[int]], joining: Sequence[Joining]) -> State:
        """The states of trials that join, on their devices; every device has as many, of whatever
        trial, so that one compilation serves all."""
        width = self.slots // len(self.devices)
        indices = np.concatenate([np.resize(its or [0], width) for its in pooled])
        fresh = [(joined.params, joined.trial) for joined in joining if joined.state is None]
        if len(fresh) == len(joining):
            initial = [fresh[index] for index in indices]
            return self._initial(*jax.device_put(_stacked(initial), self._split))
        drawn = iter(())
        if fresh:
            padded = [fresh[index % len(fresh)] for index in range(self.slots)]
            begun = jax.tree.map(np.asarray, self._initial(*_stacked(padded)))
            drawn = iter([_entry(begun, k) for k in range(len(fresh))])
        states = [next(drawn) if joined.state is None else joined.state for joined in joining]
        return jax.device_put(_stacked([states[index] for index in indices]), self._split)

    def _width(self, share: int) -> int:
        """The slots of a device for its share of trials. Under `vmap` an empty slot costs as much
        as a full one."""
        width = self.slots // len(self.devices)
        if self.mapping == "map":
            return width
        return min(width, 2 ** (share - 1).bit_length())

    def _piece(
        self, program: Callable[..., Any], running: Running, steps: int
    ) -> tuple[list[Row], Running]:
        """Advance every trial by so many steps, at most to the end of its chunk: a row for each,
        and those that go on."""
        states, settings = running.states, running.settings
        at = next(iter(running.at.values()))  # under vmap that of all
        states, records = program(self.data, states, settings, np.int32(steps), np.int32(at))
        records = jax.tree.map(np.asarray, records)
        outcomes, evaluations, places = (
            np.asarray(a) for a in (states.outcome, states.evaluations, states.at)
        )
        rows = []
        slots, done, at = {}, {}, {}
        for number, slot in running.slots.items():
            first, last = running.evaluations[number], int(evaluations[slot])
            outcome = Outcome(int(outcomes[slot]))
            ran = jax.tree.map(lambda a, slot=slot, n=last - first: a[slot, :n], records)
            rows.append(Row(number, first, last, ran, outcome))
            if outcome is Outcome.UNFINISHED:
                slots[number], done[number], at[number] = slot, last, int(places[slot])
        return rows, Running(slots, done, at, states, settings)

    def _program(self, slots: int, states: Any, trials: Any) -> Any:
        """The training program compiled for a number of slots; the leading axis of what is given
        does not matter."""
        if slots not in self._compiled:
            shapes = self._shapes(slots, (states, trials))
            steps = np.int32(0)
            with progress.work(f"compiling the training program for {slots} trials"):
                lowered = self._advance.lower(self.data, *shapes, steps, steps)
                self._compiled[slots] = compiled(lowered, self.stopped)
        return self._compiled[slots]

    def _shapes(self, slots: int, tree: Any) -> Any:
        def shape(a: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((slots, *a.shape[1:]), a.dtype, sharding=self._split)

        return jax.tree.map(shape, tree)

    def _fit(self, state: Any, trial: Any) -> None:
        """Halve the slots until the program fits into the memory of a device, and say so."""
        one_slot = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), (state, trial)
        )
        memory = self.memory
        if memory is None:
            memory = int(SHARE_OF_MEMORY * free_memory(self.devices))
        wanted, n = self.slots, len(self.devices)
        while (needed := self._needs(one_slot)) > memory and self.slots > n:
            self.slots = max(self.slots // n // 2, 1) * n
        if self.memory is None and needed > (free := free_memory(self.devices)):
            raise BadStudy(
                f"a trial needs {needed / 2**20:,.0f} MiB on each device and {free / 2**20:,.0f} "
                "MiB are free; make batch, hidden or length smaller"
            )
        if self.slots < wanted or needed > memory:
            line = (
                f"{wanted} trials at a time need more than the {memory / 2**20:,.0f} MiB "
                f"a device may use; there are {self.slots} at a time, which need "
                f"{needed / 2**20:,.0f} MiB"
            )
            if needed > memory:
                line += ", and may not fit: make batch, hidden or length smaller"
            progress.say(line)
        turns = "one after another" if self.mapping == "map" else "together"
        progress.detail(
            f"{self.slots} slots on {devices_in_words()}, the trials of a device {turns}; each "
            f"needs {needed / 2**20:,.0f} MiB of the {memory / 2**20:,.0f} MiB that it may use"
        )

    def _needs(self, one_slot: tuple[Any, Any]) -> int:
        """Bytes on each device: of the program or, where that is more, of arranging states."""
        width = self.slots // len(self.devices)
        state_bytes = sum(
            math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(one_slot[0])
        )
        data_bytes = sum(a.nbytes for a in jax.tree.leaves(self.data))
        arranging = data_bytes + 3 * width * state_bytes  # those there, those who join, and both
        try:
            sizes = self._program(self.slots, *one_slot).memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            # A TPU says so when it compiles; with one trial each there is nothing to halve.
            if not out_of_memory(error) or width == 1:
                raise
            return sys.maxsize
        if sizes is None:  # a backend that does not tell
            return arranging
        inputs_and_outputs = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
        return max(arranging, inputs_and_outputs + sizes.temp_size_in_bytes)


class Pace:
    """How much is done in a piece, so that it takes about `PIECE` seconds.

    At first a step, and under `map` of one trial a device, where empty slots cost nothing; at most
    all slots, and a chunk of epochs.
    """

    def __init__(self, program: Program, mapping: Mapping, devices: int):
        self.program, self.devices = program, devices
        self.in_turn = mapping == "map"
        self.seconds = math.inf  # of a step: of one trial under `map`, else of all of a device

    def trials(self, slots: int) -> int:
        """How many trials may run, of which a step each is not too long."""
        if not self.in_turn:
            return slots
        return min(max(int(PIECE / self.seconds), 1) * self.devices, slots)

    def steps(self, trials: int) -> int:
        """How many steps each of so many trials is to make."""
        turns = -(-trials // self.devices) if self.in_turn else 1
        return min(max(int(PIECE / (self.seconds * turns)), 1), self.program.chunk)

    def took(
        self, seconds: float, rows: Sequence[Row], before: dict[int, int], after: dict[int, int]
    ) -> None:
        """Take note of how long a piece took, of trials that were so many steps into their chunks
        `before`, and `after` it those that go on."""
        interval = self.program.interval
        made = []
        for row in rows:
            rest = after.get(row.number, 0) % interval - before[row.number] % interval
            made.append((row.last - row.first) * interval + rest)
        steps = sum(made) / self.devices if self.in_turn else max(made)
        self.seconds = max(seconds / max(steps, 1), 1e-6)


def _arrange_on_device(pools: Sequence[State], source: Array, live: Array) -> State:
    """The entries `source` of pools of states laid end to end, at rest where no trial is live."""
    states: State = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[source], *pools)
    outcome = jnp.where(live, states.outcome, jnp.int32(Outcome.CENSORED))
    return states._replace(outcome=outcome)


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _entry(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda a: a[index], tree)


def over_devices(function: Callable[..., Any], *columns: np.ndarray) -> Any:
    """`function` of every row of `columns`: rows dealt over all devices, one after another on each,
    compiled once.

    For experiments whose trainings are not a study's; their matrix products have all digits, as
    those of studies do by default. Shapes: columns `[rows, ...]`; results likewise, on the host.
    """
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.asarray(devices), ("row",))
    spec = PartitionSpec("row")
    count = len(columns[0])
    whole = -(-count // len(devices)) * len(devices)
    padded = [np.resize(column, (whole, *column.shape[1:])) for column in columns]

    def on_device(*rows: jax.Array) -> Any:
        return jax.lax.map(lambda row: function(*row), rows)

    mapped = jax.shard_map(on_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    with jax.default_matmul_precision(DEFAULTS["matmul_precision"]):
        out = jax.jit(mapped)(*jax.device_put(padded, NamedSharding(mesh, spec)))
    return jax.tree.map(lambda a: np.asarray(a)[:count], out)


_compilations: list[threading.Thread] = []


def compiled(lowered: Any, stopped: Callable[[], bool]) -> Any:
    """A lowered program, compiled `apart`."""
    return apart(lowered.compile, stopped)


def apart(work: Callable[[], Any], stopped: Callable[[], bool]) -> Any:
    """What work returns, done on a thread of its own: one that compiles hears of no signal.

    Raises: Interrupted where somebody asks to stop meanwhile; a compilation cannot be stopped, and
    ends by itself or with the process (`compiling`).
    """
    done: list[Any] = []
    failed: list[Exception] = []

    def do() -> None:
        try:
            done.append(work())
        except Exception as error:
            failed.append(error)

    here = contextvars.copy_context()  # of how progress is shown
    thread = threading.Thread(target=lambda: here.run(do), daemon=True)
    _compilations[:] = [other for other in _compilations if other.is_alive()] + [thread]
    thread.start()
    while thread.is_alive():
        if stopped():
            raise Interrupted
        thread.join(0.1)
    if failed:
        raise failed[0]
    return done[0]


def compiling() -> bool:
    """Whether a program still compiles that nobody waits for."""
    return any(thread.is_alive() for thread in _compilations)


def devices_in_words() -> str:
    """What this process computes on: `2 cpu devices`, `1 NVIDIA H200 device`."""
    devices = jax.devices()
    ending = "" if len(devices) == 1 else "s"
    return f"{len(devices)} {devices[0].device_kind} device{ending}"


def described(mapping: Mapping) -> dict[str, Any]:
    """What this process computes on, as study.json says it."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "mapping": mapping,
    }


def default_mapping() -> Mapping:
    return "map" if jax.default_backend() == "cpu" else "vmap"


@contextmanager
def compilations_told() -> Iterator[None]:
    """Name every program that takes long to compile, for those who asked for details."""

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILED and duration_secs >= WORTH_A_LINE:
            name = kwargs.get("fun_name", "a program")
            progress.detail(f"compiled {name} in {duration_secs:.1f} s")

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


class CompileCounter:
    """Counts the compilations of a named program through JAX's own monitoring, as a context
    manager.

    One that JAX reads back from the persistent cache counts too: what is counted is how often a
    program was asked for that was not in memory.
    """

    def __init__(self, name: str):
        self.name, self.count, self.seconds = name, 0, 0.0

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILED and self.name in str(kwargs.get("fun_name", "")):
            self.count, self.seconds = self.count + 1, self.seconds + duration_secs

    def __enter__(self) -> "CompileCounter":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exc: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)
