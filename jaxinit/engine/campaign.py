"""From the question to the answer: a study is checked, its starts drawn, its trials swept, its
folder written.

Study -> Resolved -> starts -> tuning trials -> rates -> reporting trials -> records.nc,
summary.json"""

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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxinit.analysis import stats, store
from jaxinit.analysis.folder import Folder, another, quoted, to_json
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.report import Terminal
from jaxinit.analysis.store import Result
from jaxinit.analysis.summary import summarize
from jaxinit.engine import sweep, training
from jaxinit.engine.identity import Identity, changed, combined, identify
from jaxinit.engine.resolve import (
    Resolved,
    Starts,
    calibrate_starts,
    check,
    check_memory,
    draw_starts,
    unsegmented,
)
from jaxinit.signals import probes
from jaxinit.spec import Scheme, rules
from jaxinit.study import BadStudy, Study
from jaxinit.tasks import Task

EPOCHS_PER_CHUNK = 2
# examples on one core: what stays in its cache is faster than all at once (docs/performance.md)
VALIDATED_AT_ONCE = 64
SIGNALS = "signals.nc"
SAVE_EVERY = 5.0  # seconds between saved states of a running study

Point = tuple[str, float, int]  # scheme, learning rate, seed: one trial
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
    resolved = check(study, schemes, tasks, models)
    mapping = mapping or sweep.default_mapping()
    folder = Folder(Path(out) if out is not None else resolved.study.folder)
    identity = identify(resolved)
    if _is_answered(folder, resolved.study, identity):
        return _read_back(folder, signals)
    per_epoch = training.nearest_divisor(
        resolved.task.examples // resolved.study.batch, resolved.study.evaluations
    )
    check_memory(
        resolved, jax.device_count(), recorded=store.size_of_records(resolved.study, per_epoch)
    )
    with folder.locked():
        if _is_answered(folder, resolved.study, identity):  # by another process, meanwhile
            return _read_back(folder, signals)
        _answer(
            resolved,
            folder,
            identity,
            began,
            mapping,
            slots_per_device,
            progress,
            signals,
            force_resume,
        )
    return store.load(folder.path)


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


def _answer(
    resolved: Resolved,
    folder: Folder,
    identity: Identity,
    began: float,
    mapping: sweep.Mapping,
    slots_per_device: int,
    progress: bool,
    signals: int,
    force_resume: bool,
) -> None:
    """Train what the folder does not hold yet, and write it; needs the folder's lock."""
    study, task = resolved.study, resolved.task
    digest = combined(identity, study.plain())
    saved, remark = store.read_state(folder.path, digest)
    past = saved["lives"] if saved is not None else _lost_lives(folder, study)
    if past and saved is None:
        remark += f"no saved state is left in {folder.path}: the study starts anew"
        if folder.holds(store.RECORDS):
            remark += f", and will write over {store.RECORDS}; to keep it, stop and copy it"
    if remark:
        print(f"jaxinit: {remark}", file=sys.stderr)
    forced = (
        [] if saved is None else _check_resume(folder, saved["lives"][-1], mapping, force_resume)
    )
    program = training.make_program(
        resolved.model,
        task,
        study.optimizer,
        batch=study.batch,
        evaluations=study.evaluations,
        epochs=min(EPOCHS_PER_CHUNK, study.epochs),
        at_once=VALIDATED_AT_ONCE if mapping == "map" else None,
    )
    per_epoch = program.evaluations_per_epoch
    records = store.empty_records(study, per_epoch, _task_attributes(resolved), digest)
    with (
        sweep.CompileCounter("training_program") as compiled,
        _stop_requests() as stop,
        _progress(study, progress) as report,
    ):
        starts, calibrated = calibrate_starts(resolved, draw_starts(resolved))
        about = _about(resolved, per_epoch, mapping) | {
            "identity": identity,
            "digest": digest,
            "calibrations": calibrated,
        }
        history = History(
            past, began, store.conditions() | {"device": about["device"]}, forced, compiled
        )
        store.write_study(folder, study, about | {"status": "running"} | history.about())
        devices = jax.devices()
        sweeper = sweep.Sweep(program, task.data, slots_per_device * len(devices), devices, mapping)
        campaign = Campaign(
            resolved,
            records,
            sweeper,
            starts,
            folder,
            digest,
            history,
            saved,
            report,
            stop,
            signals,
        )
        tuning = [
            (name, rate, seed)
            for name in resolved.schemes
            for rate in study.lrs
            for seed in study.tuning
        ]
        complete = campaign.fill(tuning)
        if complete:
            rates = {name: stats.best_rate(records, name) for name in resolved.schemes}
            complete = campaign.fill(
                [(name, rate, seed) for name, rate in rates.items() for seed in study.reporting]
            )
    about |= {"status": "complete" if complete else "interrupted"} | history.about()
    files = {
        store.RECORDS: store.netcdf(records),
        store.SUMMARY: to_json(summarize(records, study, about)),
    }
    if campaign.seen:
        files[SIGNALS] = store.netcdf(campaign.courses())
    store.write_study(folder, study, about, files)
    if complete:
        store.clear_state(folder.path)


def _lost_lives(folder: Folder, study: Study) -> list[dict[str, Any]]:
    """The lives of a study whose saved states are gone, marked so; none of a study that has not
    begun."""
    about = store.answered(folder, study)
    # What they were forced to do concerns no record any more.
    return [] if about is None else [life | {"forced": [], "lost": True} for life in about["lives"]]


def _check_resume(folder: Folder, last: dict[str, Any], mapping: str, force: bool) -> list[str]:
    """The conditions that have changed since the last life of a study, where the caller forces it
    to go on.

    Raises: BadStudy when they have and nobody forces it, and for another kind of device.
    """
    before, now = (
        f"{device['kind']} by {device['mapping']}" for device in (last["device"], _device(mapping))
    )
    if before != now:
        raise BadStudy(
            f"{folder.path} was begun on {before} and would go on on {now}, which rounds "
            "otherwise; go on there, or give --out a new folder"
        )
    changes = store.changed_conditions(last, store.conditions())
    if changes and not force:
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
    starts: Starts
    folder: Folder
    identity: str
    history: History
    saved: dict[str, Any] | None
    report: Report
    stop: list[int]
    signals: int = 0

    def __post_init__(self):
        self.last_save = time.monotonic()
        self.seen: dict[tuple[str, float], xr.Dataset] = {}  # by scheme and epoch
        resolved, data = unsegmented(self.resolved), self.resolved.task.data
        batch = data["valid_x"][: self.signals], data["valid_y"][: self.signals]

        def look(state: training.State, trial: training.Trial, factors: dict[str, Any]) -> Any:
            step = lambda grads: self.sweeper.program.descend(
                state.params, grads, state.opt, trial
            )[0]
            update = lambda grads: jax.tree.map(jnp.subtract, step(grads), state.params)
            apply = lambda p, x: resolved.as_trained(p, factors, x)
            return probes.signals(
                apply, resolved.task.loss, resolved.model.leaves, state.params, batch, update=update
            )

        self.look = jax.jit(look)
        if self.saved is not None:
            store.restore(self.records, self.saved)

    def fill(self, points: Sequence[Point]) -> bool:
        """Sweep the trials at `points` into the records, chunk by chunk; False when a signal asked
        to stop."""
        if not points:
            return True
        records, per_epoch = self.records, self.records.attrs["evaluations_per_epoch"]
        axes = [records[axis].values.tolist() for axis in ("scheme", "lr", "seed")]
        places = [
            tuple(axis.index(value) for axis, value in zip(axes, point, strict=True))
            for point in points
        ]
        phase = str(records.phase.values[places[0][2]])
        seats = self._seats(places)
        under_way = {seat.number for seat in seats}
        ended = [records.outcome.values[place] != Outcome.UNFINISHED for place in places]
        waiting = [
            number for number, done in enumerate(ended) if not done and number not in under_way
        ]
        best, best_point = math.inf, "none yet"
        self.report(phase, sum(ended), best_point)
        if not (waiting or seats):
            return True
        params, trials = queue(self.resolved, self.starts, points, per_epoch)
        for rows, going_on in self.sweeper.run(params, trials, waiting=waiting, seats=seats):
            for row in rows:
                place, scheme = places[row.number], points[row.number][0]
                for name, values in row.records._asdict().items():
                    records[name].values[place][row.first : row.last] = values
                records.outcome.values[place] = row.outcome
                records.last_epoch.values[place] = epochs = row.last / per_epoch
                if row.outcome is Outcome.CONVERGED and epochs < best:
                    best, best_point = epochs, f"{scheme} {epochs:.3g} epochs"
            if self.signals:
                self._probe(points, trials, going_on, per_epoch)
            self.report(
                phase, sum(row.outcome is not Outcome.UNFINISHED for row in rows), best_point
            )
            if self.stop or time.monotonic() - self.last_save > SAVE_EVERY:
                self._save(going_on, places)
            if self.stop:
                return False
        return True

    def _probe(
        self,
        points: Sequence[Point],
        trials: training.Trial,
        seats: Sequence[sweep.Seat],
        per_epoch: int,
    ) -> None:
        """Record the signals of the first reporting seed's trials, those at their start too."""
        first = self.resolved.study.reporting[0]
        for seat in seats:
            scheme, _, seed = points[seat.number]
            if seed != first:
                continue
            trial = jax.tree.map(lambda a, k=seat.number: a[k], trials)
            factors = jax.tree.map(np.float32, self.resolved.multipliers(scheme))
            states = {int(seat.state.evaluations) / per_epoch: seat.state}
            if (scheme, 0.0) not in self.seen:
                start = {name: jnp.asarray(a[seed]) for name, a in self.starts[scheme].items()}
                states[0.0] = self.sweeper.program.start(start)
            for epoch, state in states.items():
                found = self.look(state, trial, factors)
                seen, leaves = (
                    probes.to_dataset(found, self.resolved.model.leaves),
                    self.resolved.model.leaves,
                )
                host = jax.tree.map(np.asarray, state.params)
                self.seen[scheme, epoch] = seen.assign(
                    probes.spectra(leaves, host, seen.parameter.values.tolist())
                )

    def courses(self) -> xr.Dataset:
        """The signals recorded, over (scheme, epoch, parameter, step, copy)."""
        by_scheme = []
        for scheme in self.resolved.schemes:
            epochs = sorted(epoch for name, epoch in self.seen if name == scheme)
            if epochs:
                course = xr.concat(
                    [self.seen[scheme, epoch] for epoch in epochs], xr.Variable("epoch", epochs)
                )
                by_scheme.append(course.assign_coords(scheme=scheme))
        joined: Any = xr.concat(by_scheme, "scheme")
        return joined

    def _save(self, seats: Sequence[sweep.Seat], places: Sequence[tuple[int, ...]]) -> None:
        arrays = {name: self.records[name].values for name in (*store.TRACES, *store.ENDS)}
        arrays["seats"] = np.asarray([places[seat.number] for seat in seats], np.int64).reshape(
            -1, 3
        )
        for k, leaves in enumerate(
            zip(*(jax.tree.leaves(seat.state) for seat in seats), strict=True)
        ):
            arrays[f"state{k}"] = np.stack(leaves)
        store.write_state(self.folder.path, arrays, self.identity, self.history.lives())
        self.last_save = time.monotonic()

    def _seats(self, places: Sequence[tuple[int, ...]]) -> list[sweep.Seat]:
        """The saved trials under way that are among `places`, each in the state it was saved in."""
        if self.saved is None:
            return []
        first = {name: a[0] for name, a in next(iter(self.starts.values())).items()}
        form = jax.tree.structure(jax.eval_shape(self.sweeper.program.start, first))
        seats = []
        for row, place in enumerate(map(tuple, self.saved["seats"].tolist())):
            if place in places:
                leaves = [self.saved[f"state{k}"][row] for k in range(form.num_leaves)]
                seats.append(sweep.Seat(places.index(place), jax.tree.unflatten(form, leaves)))
        return seats


def queue(
    resolved: Resolved, starts: Starts, points: Sequence[Point], per_epoch: int
) -> tuple[list[dict[str, np.ndarray]], training.Trial]:
    """The parameters of each trial at `points` (views, not copies), and the traced settings of all
    of them."""
    study = resolved.study
    full = lambda value, dtype: np.full(len(points), value, dtype)
    stack = lambda trees: jax.tree.map(lambda *arrays: np.stack(arrays), *trees)
    by_scheme = {
        name: rules(scheme, resolved.model.leaves) for name, scheme in resolved.schemes.items()
    }
    every_rule = [rule for of in by_scheme.values() for rule in of.values()]
    plain = all((rule.multiplier, rule.lr_scale, rule.wd_scale) == (1, 1, 1) for rule in every_rule)
    trials = training.Trial(
        seed=np.asarray([seed for _, _, seed in points], np.int32),
        lr=np.asarray([rate for _, rate, _ in points], np.float32),
        clip=full(math.inf if study.clip is None else study.clip, np.float32),
        clip_value=full(math.inf if study.clip_value is None else study.clip_value, np.float32),
        l2=full(study.l2, np.float32),
        weight_decay=full(study.weight_decay, np.float32),
        target=full(study.target, np.float32),
        budget=full(study.epochs * per_epoch, np.int32),
        scales=None
        if plain
        else stack([training.Scales.of(by_scheme[scheme]) for scheme, _, _ in points]),
        dropout=full(study.dropout, np.float32) if study.dropout else None,
    )
    return [
        {name: a[seed, ...] for name, a in starts[scheme].items()} for scheme, _, seed in points
    ], trials


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

    if (
        threading.current_thread() is not threading.main_thread()
    ):  # signals reach the main thread only
        yield received
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
