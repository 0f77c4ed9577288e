"""From the question to the answer: a study is resolved, its parameters drawn, its trials swept, its
folder written.

    Study -> Resolved -> initial parameters -> tuning trials -> rates -> reporting trials
          -> records.nc, summary.json
"""

import datetime
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxinit.analysis import store, table
from jaxinit.analysis.folder import Folder, another, quoted, to_json
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.report import Terminal
from jaxinit.analysis.store import Result
from jaxinit.analysis.summary import summarize
from jaxinit.engine import sweep, training
from jaxinit.engine.identity import Identity, changed, combined, identify
from jaxinit.engine.initial import Initial, calibrate_parameters, draw_parameters, of_points
from jaxinit.engine.recorder import SignalRecorder
from jaxinit.engine.resolve import Point, Resolved, check_memory, resolve
from jaxinit.spec import Scheme
from jaxinit.study import BadStudy, Study
from jaxinit.tasks import Task

EPOCHS_PER_CHUNK = 2
# examples on one core: what stays in its cache is faster than all at once (docs/performance.md)
VALIDATED_AT_ONCE = 64
SIGNALS = "signals.nc"
SAVE_EVERY = 5.0  # seconds between saved states of a running study

Report = Callable[[str, int, str], None]  # phase, trials ended since the last report, best so far


@sweep.numerics()
def run(
    study: Study,
    *,
    out: str | Path | None = None,
    schemes: Mapping[str, Scheme] | None = None,
    progress: bool = True,
    mapping: sweep.Mapping | None = None,
    slots_per_device: int = 16,
    tasks: Mapping[str, Callable[..., Task]] | None = None,
    models: Mapping[str, Callable[..., Any]] | None = None,
    signals: int = 0,
    force_resume: bool = False,
) -> Result:
    """Run a study, or read it when its folder holds it complete, and write its folder.

    `schemes`, `tasks` and `models` add to the names that the study may use; a model is what builds
    a module of this package's kind, `(in_features, hidden, out_features, *, layers, readout,
    length, rngs)`. With `signals`, the signals of the first reporting seed of every scheme on that
    many validation examples are recorded after every chunk of epochs, in signals.nc (those of
    chunks before an interruption are lost). `mapping` says how a device runs its trials, one after
    another (`map`, the default on CPU) or together (`vmap`). Call `sweep.one_device_per_core()`
    first to use all cores. Ctrl-C or SIGTERM ends the run after the chunk under way and keeps what
    was computed: the result is then not `complete`, and running the same study on the same folder
    goes on from there, as it does after a kill, to the same records: bit for bit under `map`, and
    under `vmap` with the same slots, whose number shapes the program and its rounding.
    What the folder holds is returned or gone on with only if settings, data, task, model, schemes,
    calibrations and precision are the same by their digests (`identity`), and gone on with only on
    the same kind of device, under the same versions and commit; `force_resume` goes on under
    others, and the answer says so.
    Raises: BadStudy for anything wrong with the study or the folder, before any work is done.
    """
    began = time.time()
    resolved = resolve(study, schemes, tasks, models)
    options = Options(
        mapping or sweep.default_mapping(), slots_per_device, progress, signals, force_resume
    )
    folder = Folder(Path(out) if out is not None else resolved.study.folder)
    identity = identify(resolved)
    if _is_answered(folder, resolved.study, identity):
        return _read_back(folder, signals)
    program = _program(resolved, options.mapping)
    recorded = store.size_of_records(resolved.study, program.evaluations_per_epoch)
    check_memory(resolved, jax.device_count(), recorded=recorded)
    with folder.locked():
        if _is_answered(folder, resolved.study, identity):  # by another process, meanwhile
            return _read_back(folder, signals)
        _answer(resolved, program, folder, identity, began, options)
    return store.load(folder.path)


@dataclass(frozen=True)
class Options:
    """How a study is run: what is no part of its question."""

    mapping: sweep.Mapping
    slots_per_device: int
    progress: bool
    signals: int
    force_resume: bool


def _is_answered(folder: Folder, study: Study, identity: Identity) -> bool:
    """Whether a folder holds this very study, complete. Raises: BadStudy when it holds anything but
    this study."""
    about = store.answered(folder, study)
    if about is None:
        return False
    changes = changed(about["identity"], identity, study)
    if changes:
        raise another(
            folder.path,
            "study",
            changes,
            look=f", or look at it with: jaxinit plot {quoted(folder.path)}",
        )
    return about["status"] == "complete"


def _read_back(folder: Folder, signals: int) -> Result:
    """A complete study as its folder holds it."""
    result = store.load(folder.path)._replace(read_back=True)
    if signals and not folder.holds(SIGNALS):
        remark = (
            f"no signals were recorded when {folder.path} was computed; to have them, give out= a "
            "new folder"
        )
        print(f"jaxinit: {remark}", file=sys.stderr)
        return result._replace(remark=remark)
    return result


def _program(resolved: Resolved, mapping: sweep.Mapping) -> training.Program:
    study = resolved.study
    return training.Program(
        resolved.model,
        resolved.task,
        study.optimizer,
        batch=study.batch,
        evaluations=study.evaluations,
        epochs=min(EPOCHS_PER_CHUNK, study.epochs),
        at_once=VALIDATED_AT_ONCE if mapping == "map" else None,
    )


def _answer(
    resolved: Resolved,
    program: training.Program,
    folder: Folder,
    identity: Identity,
    began: float,
    options: Options,
) -> None:
    """Train what the folder does not hold yet, and write it; needs the folder's lock."""
    study = resolved.study
    digest = combined(identity, study.plain())
    saved, past = _saved(folder, study, digest)
    forced = []
    if saved is not None:
        forced = _check_resume(folder, past[-1], options)
    records = store.empty_records(
        study, program.evaluations_per_epoch, _task_attributes(resolved), digest
    )
    with (
        sweep.CompileCounter("training_program") as compiled,
        _stop_requests() as stop,
        _progress(study, options.progress) as report,
    ):
        initial, calibrated = calibrate_parameters(resolved, draw_parameters(resolved))
        about = _about(resolved, program.evaluations_per_epoch, options.mapping)
        about |= {"identity": identity, "digest": digest, "calibrations": calibrated}
        conditions = store.conditions() | {"device": about["device"]}
        history = History(past, began, conditions, forced, compiled)
        store.write_study(folder, study, about | {"status": "running"} | history.about())
        devices = jax.devices()
        slots = options.slots_per_device * len(devices)
        campaign = Campaign(
            resolved,
            records,
            sweep.Sweep(program, resolved.task.data, slots, devices, options.mapping),
            initial,
            folder,
            digest,
            history,
            saved,
            report,
            stop,
            SignalRecorder(resolved, program, initial, options.signals),
        )
        complete = campaign.fill(_tuning_points(resolved))
        if complete:
            complete = campaign.fill(_reporting_points(resolved, records))
    about |= {"status": "complete" if complete else "interrupted"} | history.about()
    files = {
        store.RECORDS: store.netcdf(records),
        store.SUMMARY: to_json(summarize(records, study, about)),
    }
    if campaign.recorder.recorded:
        files[SIGNALS] = store.netcdf(campaign.recorder.courses())
    store.write_study(folder, study, about, files)
    if complete:
        store.clear_state(folder.path)


def _saved(
    folder: Folder, study: Study, digest: str
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The state that an earlier run has saved, if any, and the lives of the study until now. What
    is lost is said."""
    saved, remark = store.read_state(folder.path, digest)
    past = saved["lives"] if saved is not None else _lost_lives(folder, study)
    if past and saved is None:
        remark += f"no saved state is left in {folder.path}: the study starts anew"
        if folder.holds(store.RECORDS):
            remark += f", and will write over {store.RECORDS}; to keep it, stop and copy it"
    if remark:
        print(f"jaxinit: {remark}", file=sys.stderr)
    return saved, past


def _tuning_points(resolved: Resolved) -> list[Point]:
    """The trials that choose a rate for every scheme."""
    study = resolved.study
    return [
        Point(scheme, rate, seed)
        for scheme in resolved.schemes
        for rate in study.lrs
        for seed in study.tuning
    ]


def _reporting_points(resolved: Resolved, records: xr.Dataset) -> list[Point]:
    """The trials that are reported: those of every scheme at its best rate."""
    points = []
    for scheme in resolved.schemes:
        rate = table.best_rate(records, scheme)
        points += [Point(scheme, rate, seed) for seed in resolved.study.reporting]
    return points


def _lost_lives(folder: Folder, study: Study) -> list[dict[str, Any]]:
    """The lives of a study whose saved states are gone, marked so; none of a study that has not
    begun."""
    about = store.answered(folder, study)
    if about is None:
        return []
    # What they were forced to do concerns no record any more.
    return [life | {"forced": [], "lost": True} for life in about["lives"]]


def _check_resume(folder: Folder, last: dict[str, Any], options: Options) -> list[str]:
    """The conditions that have changed since the last life of a study, where the caller forces it
    to go on.

    Raises: BadStudy when they have and nobody forces it, and for another kind of device.
    """
    before, now = (
        f"{device['kind']} by {device['mapping']}"
        for device in (last["device"], _device(options.mapping))
    )
    if before != now:
        raise BadStudy(
            f"{folder.path} was begun on {before} and would go on on {now}, which rounds "
            "otherwise; go on there, or give --out a new folder"
        )
    changes = store.changed_conditions(last, store.conditions())
    if changes and not options.force_resume:
        raise BadStudy(
            f"{folder.path} was begun under other conditions ({'; '.join(changes)}); go on under "
            "them, with --force-resume all the same, or give --out a new folder"
        )
    return changes


@dataclass(frozen=True)
class History:
    """The lives of a study: each run of it, from its start to its end or death."""

    past: list[dict[str, Any]]
    began: float
    conditions: dict[str, Any]
    forced: list[str]
    compiled: sweep.CompileCounter

    def lives(self) -> list[dict[str, Any]]:
        """Those before and this one, with what it has spent so far."""
        spent = {
            "compilations": self.compiled.count,
            "compile_s": self.compiled.seconds,
            "wall_s": time.time() - self.began,
        }
        return [
            *self.past,
            {"began": _date(self.began), **self.conditions, "forced": self.forced, **spent},
        ]

    def about(self) -> dict[str, Any]:
        """What study.json says of them, and of the conditions of this one."""
        return {"written": _date(time.time()), **self.conditions, "lives": self.lives()}


def _date(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


@dataclass
class Campaign:
    """A study under way: what its trials need, its records so far, and the state saved by an
    earlier run, if any."""

    resolved: Resolved
    records: xr.Dataset
    sweeper: sweep.Sweep
    initial: Initial
    folder: Folder
    identity: str
    history: History
    saved: dict[str, Any] | None
    report: Report
    stop: list[int]
    recorder: SignalRecorder

    def __post_init__(self):
        self.last_save = time.monotonic()
        if self.saved is not None:
            store.restore(self.records, self.saved)

    def fill(self, points: Sequence[Point]) -> bool:
        """Sweep the trials at `points` into the records, chunk by chunk; False when a signal asked
        to stop."""
        if not points:
            return True
        places = self._places(points)
        seats = self._seats(places)
        under_way = {seat.number for seat in seats}
        waiting, ended = [], 0
        for number, place in enumerate(places):
            if self.records.outcome.values[place] != Outcome.UNFINISHED:
                ended += 1
            elif number not in under_way:
                waiting.append(number)
        phase = str(self.records.phase.values[places[0][2]])
        best = Best()
        self.report(phase, ended, str(best))
        if not (waiting or seats):
            return True
        params = of_points(self.initial, points)
        trials = self.resolved.trials(points, self.per_epoch)
        for rows, running in self.sweeper.run(params, trials, waiting=waiting, seats=seats):
            ended = 0
            for row in rows:
                epochs = self._record(row, places[row.number])
                if row.outcome is Outcome.CONVERGED:
                    best = best.after(points[row.number].scheme, epochs)
                if row.outcome is not Outcome.UNFINISHED:
                    ended += 1
            self.recorder.record(points, trials, running)
            self.report(phase, ended, str(best))
            if self.stop or time.monotonic() - self.last_save > SAVE_EVERY:
                self._save(running.seats(), places)
            if self.stop:
                return False
        return True

    @property
    def per_epoch(self) -> int:
        return self.records.attrs["evaluations_per_epoch"]

    def _places(self, points: Sequence[Point]) -> list[tuple[int, ...]]:
        """Where the records of each trial lie, along (scheme, lr, seed)."""
        index = []
        for axis in ("scheme", "lr", "seed"):
            values = self.records[axis].values.tolist()
            index.append({value: position for position, value in enumerate(values)})
        return [
            tuple(positions[value] for positions, value in zip(index, point, strict=True))
            for point in points
        ]

    def _record(self, row: sweep.Row, place: tuple[int, ...]) -> float:
        """Put what a trial did in a chunk into the records; returns the epochs it has trained."""
        for name, values in row.records._asdict().items():
            self.records[name].values[place][row.first : row.last] = values
        self.records.outcome.values[place] = row.outcome
        epochs = row.last / self.per_epoch
        self.records.last_epoch.values[place] = epochs
        return epochs

    def _save(self, seats: Sequence[sweep.Seat], places: Sequence[tuple[int, ...]]) -> None:
        arrays = {name: self.records[name].values for name in (*store.TRACES, *store.ENDS)}
        under_way = np.asarray([places[seat.number] for seat in seats], np.int64)
        arrays["seats"] = under_way.reshape(-1, 3)
        states = [jax.tree.leaves(seat.state) for seat in seats]
        for k, leaves in enumerate(zip(*states, strict=True)):
            arrays[f"state{k}"] = np.stack(leaves)
        store.write_state(self.folder.path, arrays, self.identity, self.history.lives())
        self.last_save = time.monotonic()

    def _seats(self, places: Sequence[tuple[int, ...]]) -> list[sweep.Seat]:
        """The saved trials under way that are among `places`, each in the state it was saved in."""
        if self.saved is None:
            return []
        first_seed = {name: a[0] for name, a in next(iter(self.initial.values())).items()}
        form = jax.tree.structure(jax.eval_shape(self.sweeper.program.initial_state, first_seed))
        seats = []
        for row, place in enumerate(map(tuple, self.saved["seats"].tolist())):
            if place in places:
                leaves = [self.saved[f"state{k}"][row] for k in range(form.num_leaves)]
                seats.append(sweep.Seat(places.index(place), jax.tree.unflatten(form, leaves)))
        return seats


class Best(NamedTuple):
    """The trial that converged first so far, as the progress bar names it."""

    scheme: str = ""
    epochs: float = math.inf

    def after(self, scheme: str, epochs: float) -> "Best":
        return Best(scheme, epochs) if epochs < self.epochs else self

    def __str__(self) -> str:
        return f"{self.scheme} {self.epochs:.3g} epochs" if self.scheme else "none yet"


def _task_attributes(resolved: Resolved) -> dict[str, Any]:
    task = resolved.task
    return {
        "task": task.name,
        "examples": task.examples,
        "metric_name": task.metric_name,
        "higher_is_better": int(task.higher_is_better),
        "chance": task.chance,
        "target": resolved.study.target,
    }


def _about(resolved: Resolved, per_epoch: int, mapping: str) -> dict[str, Any]:
    """What study.json says beside the study itself."""
    return {
        "evaluations_per_epoch": per_epoch,
        "task": _task_attributes(resolved),
        "target_because": resolved.task.why
        if resolved.study.target == resolved.task.target
        else "given by the user",
        "parameters": sum(math.prod(leaf.shape) for leaf in resolved.model.leaves),
        "device": _device(mapping),
    }


def _device(mapping: str) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "mapping": mapping,
    }


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that holds the signals received: the first Ctrl-C or SIGTERM asks to stop, a second
    one interrupts."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print(
            "\njaxinit: finishing the chunk under way (again to stop at once) ...", file=sys.stderr
        )

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(study: Study, shown: bool) -> Iterator[Report]:
    """A progress bar over all trials of a study, on the error stream."""
    total = len(study.schemes) * (len(study.tuning) * len(study.lrs) + len(study.reporting))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TextColumn("best {task.fields[best]},", markup=False),  # a scheme's name may hold brackets
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    doing = {"tune": "choosing rates", "report": "reporting"}
    with Progress(*columns, console=Terminal(file=sys.stderr), disable=not shown) as bar:
        task = bar.add_task("compiling", total=total, best="none yet")
        yield lambda phase, ended, best: bar.update(
            task, advance=ended, best=best, description=doing[phase]
        )
