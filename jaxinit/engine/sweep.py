"""Trials over devices: one compiled program, a fixed number of slots, and a queue of trials that
fills them.

The number of slots shapes the program, so it stays: a trial that ends gives its slot to the next
one, and the running trials are dealt out evenly over the devices before every chunk. Under `map` an
empty slot costs nothing. Under `vmap` it costs as much as a full one, so when the queue is empty
the slots shrink to the next power of two, each of which is compiled once. Trials never communicate.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit.analysis.outcome import Outcome
from jaxinit.engine.training import Program, Records, State, Trial
from jaxinit.study import BadStudy
from jaxinit.tasks.base import Data

Mapping: TypeAlias = Literal["map", "vmap"]
COMPILED = "/jax/core/compile/backend_compile_duration"
SHARE_OF_MEMORY = 0.8  # of what is free on a device: what a program may need


def one_device_per_core(count: int | None = None) -> None:
    """Give JAX one CPU device per core (or `count`), each computing on its own thread.

    What the command line and the experiments call before anything else; importing jaxinit never
    does. Accelerators, where there are any, are not affected.
    Raises: RuntimeError when JAX has been initialized already.
    """
    cores = count or available_cores()
    single = "--xla_cpu_multi_thread_eigen=false"
    if single not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {single}".strip()
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError as error:
        raise RuntimeError(
            f"JAX was already initialized with {jax.device_count()} device(s), before jaxinit "
            f"could set up one per core ({cores}); call jaxinit.engine.sweep.one_device_per_core() "
            "before the first JAX operation"
        ) from error


@contextmanager
def numerics() -> Iterator[None]:
    """The arithmetic of studies, whatever the environment sets: float32, and no stop at numbers
    that are not finite.

    A study's arrays are float32, so that its records do not depend on JAX_ENABLE_X64, and a trial
    that diverges is an outcome, where JAX_DEBUG_NANS and JAX_DEBUG_INFS would stop the program.
    Works as a decorator too.
    """
    with jax.enable_x64(False), jax.debug_nans(False), jax.debug_infs(False):
        yield


def keep_compilations(folder: Path | None = None) -> None:
    """Keep compiled programs in the user's cache folder (or `folder`), so that the next run need
    not compile them.

    What the command line and the experiments call; importing jaxinit never does.
    JAX_COMPILATION_CACHE_DIR, where it is set, chooses another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false none. Where the folder cannot be made, programs are not kept,
    which is said once.
    """
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
    print(f"jaxinit: {line}", file=sys.stderr)


def available_cores() -> int:
    """The cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Row(NamedTuple):
    """A trial after a chunk: its number in the queue, the records of the chunk, and how it
    stands."""

    number: int
    first: int  # evaluations done before the chunk
    last: int  # and after it
    records: Records
    outcome: Outcome


class Seat(NamedTuple):
    """A running trial: its number in the queue and its state on the host."""

    number: int
    state: State


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

    def __post_init__(self):
        n = len(self.devices)
        self.slots = -(-self.slots // n) * n
        mesh = jax.sharding.Mesh(np.asarray(self.devices), ("trial",))
        self._split, self._whole = (
            NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("trial",), ())
        )
        self.data = jax.device_put(self.data, self._whole)
        advance = self.program.advance

        def on_device(data: Data, states: State, trials: Trial) -> tuple[State, Records]:
            one = lambda state_and_trial: advance(data, *state_and_trial)
            if self.mapping == "map":
                return jax.lax.map(one, (states, trials))
            return jax.vmap(one)((states, trials))

        def training_program(data: Data, states: State, trials: Trial) -> tuple[State, Records]:
            specs = (PartitionSpec(), PartitionSpec("trial"), PartitionSpec("trial"))
            mapped = jax.shard_map(
                on_device,
                mesh=mesh,
                in_specs=specs,
                out_specs=PartitionSpec("trial"),
                check_vma=False,
            )
            return mapped(data, states, trials)

        self._jitted = jax.jit(training_program)
        self._start = jax.jit(jax.vmap(self.program.start))
        self._programs: dict[int, Any] = {}  # by number of slots

    def run(
        self,
        params: Sequence[dict[str, np.ndarray]],
        trials: Trial,
        waiting: Sequence[int] | None = None,
        seats: Sequence[Seat] = (),
    ) -> Iterator[tuple[list[Row], list[Seat]]]:
        """Train trials to their ends; after each chunk, yield a row for each that ran in it, and
        those that go on.

        `params` are the starting parameters of each trial, `seats` trials already under way,
        `waiting` the numbers of those that have not begun (default: all).
        Shapes: every leaf of `trials` has the trial as its leading axis.
        """
        trials = jax.tree.map(np.asarray, trials)
        waiting, seats = list(range(len(trials.seed)) if waiting is None else waiting), list(seats)
        self._fit(
            jax.eval_shape(self.program.start, params[0]), jax.tree.map(lambda a: a[0], trials)
        )
        while waiting or seats:
            free = max(self.slots - len(seats), 0)
            fresh, waiting = waiting[:free], waiting[free:]
            if fresh:
                padded = np.resize(fresh, self.slots)  # one shape, one compilation of `start`
                stacked = jax.tree.map(
                    lambda *leaves: np.stack(leaves), *[params[number] for number in padded]
                )
                started = jax.tree.map(np.asarray, self._start(stacked))
                seats += [
                    Seat(number, jax.tree.map(lambda a, k=k: a[k], started))
                    for k, number in enumerate(fresh)
                ]
            rows, going_on = self._chunk(seats[: self.slots], trials)
            seats = going_on + seats[self.slots :]
            yield rows, seats

    def _chunk(self, seats: list[Seat], trials: Trial) -> tuple[list[Row], list[Seat]]:
        """Advance every seat by one chunk: a row for each, and the seats of the trials that go
        on."""
        n, width = len(self.devices), self.slots // len(self.devices)
        if self.mapping == "vmap":
            width = min(width, 2 ** (-(-len(seats) // n) - 1).bit_length())
        slot_of = [
            k % n * width + k // n for k in range(len(seats))
        ]  # dealt to the devices in turn
        resting = Seat(seats[0].number, seats[0].state._replace(outcome=np.int32(Outcome.CENSORED)))
        by_slot = [resting] * (n * width)
        for seat, slot in zip(seats, slot_of, strict=True):
            by_slot[slot] = seat
        states = jax.tree.map(lambda *leaves: np.stack(leaves), *[seat.state for seat in by_slot])
        picked = jax.tree.map(lambda a: a[[seat.number for seat in by_slot]], trials)
        states, records = self._program(n * width, states, picked)(
            self.data, *jax.device_put((states, picked), self._split)
        )
        states, records = jax.tree.map(np.asarray, (states, records))

        rows, going_on = [], []
        for seat, slot in zip(seats, slot_of, strict=True):
            after: State = jax.tree.map(lambda a, slot=slot: a[slot], states)
            first, last, outcome = (
                int(seat.state.evaluations),
                int(after.evaluations),
                Outcome(int(after.outcome)),
            )
            ran: Records = jax.tree.map(lambda a, slot=slot, n=last - first: a[slot, :n], records)
            rows.append(Row(seat.number, first, last, ran, outcome))
            if outcome is Outcome.UNFINISHED:
                going_on.append(Seat(seat.number, after))
        return rows, going_on

    def _program(self, slots: int, states: Any, trials: Any) -> Any:
        """The training program compiled for a number of slots; the leading axis of what is given
        does not matter."""
        if slots not in self._programs:
            shapes = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(
                    (slots, *a.shape[1:]), a.dtype, sharding=self._split
                ),
                (states, trials),
            )
            self._programs[slots] = self._jitted.lower(self.data, *shapes).compile()
        return self._programs[slots]

    def _fit(self, state: Any, trial: Any) -> None:
        """Halve the slots until the program fits into the memory of a device, and say so."""
        one_slot = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), (state, trial)
        )
        memory = (
            int(SHARE_OF_MEMORY * free_memory(self.devices)) if self.memory is None else self.memory
        )
        wanted, n = self.slots, len(self.devices)
        while (needed := self._needs(one_slot)) > memory and self.slots > n:
            self.slots = max(self.slots // n // 2, 1) * n
        if self.memory is None and needed > (free := free_memory(self.devices)):
            raise BadStudy(
                f"a trial needs {needed / 2**20:,.0f} MiB on each device and {free / 2**20:,.0f} "
                "MiB are free; make batch, hidden or length smaller"
            )
        if self.slots < wanted or needed > memory:
            amount = lambda size: f"{size / 2**20:,.0f} MiB"
            print(
                f"jaxinit: {wanted} trials at a time need more than the {amount(memory)} a device "
                f"may use; there are {self.slots} at a time, which need {amount(needed)}"
                + (
                    ", and may not fit: make batch, hidden or length smaller"
                    if needed > memory
                    else ""
                ),
                file=sys.stderr,
            )

    def _needs(self, one_slot: tuple[Any, Any]) -> int:
        """Bytes on each device: what goes in, what comes out, and the program's own."""
        sizes = self._program(self.slots, *one_slot).memory_analysis()
        if sizes is None:  # a backend that does not tell
            return 0
        return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes


def over_devices(function: Callable[..., Any], *columns: np.ndarray) -> Any:
    """`function` of every row of `columns`: rows dealt over all devices, one after another on each,
    compiled once.

    For experiments whose trainings are not a study's. Shapes: columns `[rows, ...]`; results
    likewise, on the host.
    """
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.asarray(devices), ("row",))
    spec = PartitionSpec("row")
    count = len(columns[0])
    whole = -(-count // len(devices)) * len(devices)
    padded = [np.resize(column, (whole, *column.shape[1:])) for column in columns]
    on_device = lambda *rows: jax.lax.map(lambda row: function(*row), rows)
    run = jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )
    out = run(*jax.device_put(padded, NamedSharding(mesh, spec)))
    return jax.tree.map(lambda a: np.asarray(a)[:count], out)


def free_memory(devices: Sequence[Any]) -> int:
    """Bytes that each device may still use; devices that are cores of one machine share what it
    has."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free_on_host() // len(devices)


def free_on_host() -> int:
    """Bytes that this process may still use: what the machine has, within the limits of its groups
    and its own."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(min(free, *free_in_groups(), *_free_in_process()), 0)


def free_in_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Bytes free in each control group that bounds this process's memory, of the first version or
    the second.

    File caches that can be dropped count as free. In a container its own group is the root.
    """
    found = []
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = (
                root / "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                found += _free_in_group(folder, *names)
    return found


def _free_in_group(folder: Path, limit: str, used: str, cache: str) -> list[int]:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return []
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return [int(most) - int((folder / used).read_text()) + int(counts.get(cache, 0))]
    except OSError:  # the root has no limit, and a group outside of a container is not to be seen
        return []


def _free_in_process() -> list[int]:
    """What `ulimit` leaves this process, where it sets a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return []
    pages = [int(word) for word in statm.read_text().split()]
    used = {resource.RLIMIT_AS: pages[0], resource.RLIMIT_DATA: pages[5]}
    limits = {kind: resource.getrlimit(kind)[0] for kind in used}
    page = resource.getpagesize()
    return [
        limit - used[kind] * page
        for kind, limit in limits.items()
        if limit != resource.RLIM_INFINITY
    ]


def default_mapping() -> Mapping:
    return "map" if jax.default_backend() == "cpu" else "vmap"


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
