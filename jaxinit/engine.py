"""From the question to the answer: a study is checked, its starts drawn, its trials swept, its folder written.

Study -> Cell -> starts -> tuning trials -> rates -> reporting trials -> records.nc, summary.json
"""

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
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxinit import probes, stats, store, sweep, train
from jaxinit.cell import Cell, Reports, Starts, calibrate_starts, check, draw_digest, draw_starts, parts, unsegmented
from jaxinit.outcome import Outcome
from jaxinit.spec import Scheme, rules
from jaxinit.store import Result
from jaxinit.study import RECURRENT, Study
from jaxinit.tasks import Task

EPOCHS_PER_CHUNK = 2
VALIDATED_AT_ONCE = 64  # examples on one core: what stays in its cache is faster than all at once (CONTRIBUTING.md)
SAVE_EVERY = 5.0  # seconds between saved states of a running study
ENDS = ("outcome", "last_epoch")
XAVIER_CLAIM = "Xavier cuts the epochs needed to converge by 2 to 10 times in deep and recurrent networks."

Point = tuple[str, float, int]  # scheme, learning rate, seed: one trial
Report = Callable[[str, int, str], None]  # phase, trials ended since the last report, best so far


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
) -> Result:
    """Run a study, or read it when its folder holds it complete, and write its folder.

    `schemes`, `tasks` and `models` add to the names that the study may use; a model is what builds a module of this
    package's kind, `(in_features, hidden, out_features, *, layers, readout, length, rngs)`. With `signals`, the signals
    of the first reporting seed of every scheme on that many validation examples are recorded after every chunk of
    epochs, in signals.nc (those of chunks before an interruption are lost). `mapping` says how a device runs its
    trials, one after another (`map`, the default on CPU) or together (`vmap`). Call `sweep.one_device_per_core()` first
    to use all cores. Ctrl-C or SIGTERM ends the run after the chunk under way and keeps what was computed: the result
    is then not `complete`, and running the same study on the same folder goes on from there, as it does after a kill,
    to the same records bit for bit.
    Raises: BadStudy for anything wrong with the study or the folder, before any work is done.
    """
    began = time.time()
    cell = check(study, schemes, tasks, models)
    study, task = cell.study, cell.task
    folder = Path(out) if out is not None else study.folder
    own = {name: draw_digest(cell, name) for name in study.schemes if parts(name, schemes or {})[0] in (schemes or {})}
    if store.holds(folder, study, own):
        return store.load(folder)
    epochs = min(EPOCHS_PER_CHUNK, study.epochs)
    mapping = mapping or sweep.default_mapping()
    program = train.make_program(
        cell.model,
        task,
        study.optimizer,
        batch=study.batch,
        evaluations=study.evaluations,
        epochs=epochs,
        at_once=VALIDATED_AT_ONCE if mapping == "map" else None,
    )
    per_epoch = program.evaluations_per_epoch
    about = _about(cell, per_epoch) | {"own_schemes": own}
    store.write_study(folder, study, "running", about)
    records = store.empty_records(study, per_epoch, _task_attributes(cell))
    saved, found = store.read_state(folder)
    if found:
        print(f"jaxinit: {found}", file=sys.stderr)
    with (
        sweep.CompileCounter("training_program") as compiled,
        _stop_requests() as stop,
        _progress(study, progress) as report,
    ):
        starts, calibrated = calibrate_starts(cell, draw_starts(cell))
        devices = jax.devices()
        sweeper = sweep.Sweep(program, task.data, slots_per_device * len(devices), devices, mapping)
        campaign = Campaign(cell, records, sweeper, starts, folder, saved, report, stop, signals)
        tuning = [(name, rate, seed) for name in cell.schemes for rate in study.lrs for seed in study.tuning]
        complete = campaign.fill(tuning)
        if complete:
            rates = {name: stats.best_rate(records, name) for name in cell.schemes}
            complete = campaign.fill([(name, rate, seed) for name, rate in rates.items() for seed in study.reporting])
    summary = summarize(records, study, calibrated)
    summary |= {"compilations": compiled.count, "compile_s": compiled.seconds, "wall_s": time.time() - began}
    store.write_records(folder, records)
    if campaign.seen:
        store.write_records(folder, campaign.courses(), "signals.nc")
    store.write_json(folder / "summary.json", summary)
    store.write_study(folder, study, "complete" if complete else "interrupted", about)
    if complete:
        store.clear_state(folder)
    return store.load(folder)


def summarize(records: xr.Dataset, study: Study, calibrated: Reports | None = None) -> dict[str, Any]:
    """The answer: the table, the claims, the counts, and what a reader must know to read them."""
    outcome = records.outcome.values
    claims = [
        stats.Claim("A10", f"{XAVIER_CLAIM} (xavier_rnn against {baseline})", "xavier_rnn", baseline, (2.0, 10.0))
        for baseline in ("small_normal", "uniform01")
        if study.model in RECURRENT
    ]
    rows = stats.table(records, study.baseline)
    per_epoch = records.attrs["evaluations_per_epoch"]
    chosen = f"the rate that was best on {len(study.tuning)} other seeds" if study.tuning else "the one rate given"
    notes = [
        f"epochs: restricted mean up to the budget of {study.epochs} epochs, {study.seeds} seeds, at {chosen}",
        f"resolution: one evaluation every 1/{per_epoch} epoch",
        "intervals: 95 %, percentile bootstrap over seeds, paired for the ratios; with few seeds they are too narrow",
    ]
    if per_epoch != study.evaluations:
        notes.append(f"{study.evaluations} evaluations an epoch do not divide its batches; {per_epoch} were made")
    edge = [f"{row['scheme']} ({row['lr']:g})" for row in rows if row["lr_at_edge"] and row["converged"]]
    if edge:
        notes.append(f"*best rate at the edge of the grid, a wider grid might do better: {', '.join(edge)}")
    never = [row["scheme"] for row in rows if not row["converged"]]
    if never:
        notes.append(f"never reached the target, so their rate means little and ratios are bounds: {', '.join(never)}")
    unfinished = int(((records.last_epoch.values > 0) & (outcome == Outcome.UNFINISHED)).sum())
    if unfinished:
        notes.append(f"interrupted: {unfinished} trials are censored where they stopped")
    for name, report in (calibrated or {}).items():
        numbers = ", ".join(f"{what} {of['median']:.3g}" for what, of in report.items())
        notes.append(
            f"{name}: {numbers} (medians over seeds; `jaxinit list calibrations --verbose` says what they are)"
        )
    return {
        "calibrations": calibrated or {},
        "baseline": study.baseline,
        "target": records.attrs["target"],
        "metric": records.attrs["metric_name"],
        "budget": records.attrs["budget"],
        "trials": int((outcome != Outcome.UNFINISHED).sum()),
        "table": rows,
        "claims": stats.judge(records, claims),
        "notes": notes,
    }


@dataclass
class Campaign:
    """A study under way: what its trials need, its records so far, and the state saved by an earlier run, if any."""

    cell: Cell
    records: xr.Dataset
    sweeper: sweep.Sweep
    starts: Starts
    folder: Path
    saved: dict[str, np.ndarray] | None
    report: Report
    stop: list[int]
    signals: int = 0

    def __post_init__(self):
        self.last_save = time.monotonic()
        self.seen: dict[tuple[str, float], xr.Dataset] = {}  # by scheme and epoch
        cell, data = unsegmented(self.cell), self.cell.task.data
        batch = data["valid_x"][: self.signals], data["valid_y"][: self.signals]

        def look(state: train.State, trial: train.Trial, factors: dict[str, Any]) -> Any:
            step = lambda grads: self.sweeper.program.descend(state.params, grads, state.opt, trial)[0]
            update = lambda grads: jax.tree.map(jnp.subtract, step(grads), state.params)
            apply = lambda p, x: cell.as_trained(p, factors, x)
            return probes.signals(apply, cell.task.loss, cell.model.leaves, state.params, batch, update=update)

        self.look = jax.jit(look)
        for name in (*store.TRACES, *ENDS):
            if self.saved is not None:
                self.records[name].values[...] = self.saved[name]

    def fill(self, points: Sequence[Point]) -> bool:
        """Sweep the trials at `points` into the records, chunk by chunk; False when a signal asked to stop."""
        if not points:
            return True
        records, per_epoch = self.records, self.records.attrs["evaluations_per_epoch"]
        axes = [records[axis].values.tolist() for axis in ("scheme", "lr", "seed")]
        places = [tuple(axis.index(value) for axis, value in zip(axes, point, strict=True)) for point in points]
        phase = str(records.phase.values[places[0][2]])
        seats = self._seats(places)
        under_way = {seat.number for seat in seats}
        ended = [records.outcome.values[place] != Outcome.UNFINISHED for place in places]
        waiting = [number for number, done in enumerate(ended) if not done and number not in under_way]
        best, best_point = math.inf, "none yet"
        self.report(phase, sum(ended), best_point)
        if not (waiting or seats):
            return True
        params, trials = queue(self.cell, self.starts, points, per_epoch)
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
            self.report(phase, sum(row.outcome is not Outcome.UNFINISHED for row in rows), best_point)
            if self.stop or time.monotonic() - self.last_save > SAVE_EVERY:
                self._save(going_on, places)
            if self.stop:
                return False
        return True

    def _probe(self, points: Sequence[Point], trials: train.Trial, seats: Sequence[sweep.Seat], per_epoch: int) -> None:
        """Record the signals of the first reporting seed's trials, those at their start too."""
        first = self.cell.study.reporting[0]
        for seat in seats:
            scheme, _, seed = points[seat.number]
            if seed != first:
                continue
            trial = jax.tree.map(lambda a, k=seat.number: a[k], trials)
            factors = jax.tree.map(np.float32, self.cell.multipliers(scheme))
            states = {int(seat.state.evaluations) / per_epoch: seat.state}
            if (scheme, 0.0) not in self.seen:
                start = {name: jnp.asarray(a[seed]) for name, a in self.starts[scheme].items()}
                states[0.0] = self.sweeper.program.start(start)
            for epoch, state in states.items():
                found = self.look(state, trial, factors)
                seen, leaves = probes.to_dataset(found, self.cell.model.leaves), self.cell.model.leaves
                host = jax.tree.map(np.asarray, state.params)
                self.seen[scheme, epoch] = seen.assign(probes.spectra(leaves, host, seen.parameter.values.tolist()))

    def courses(self) -> xr.Dataset:
        """The signals recorded, over (scheme, epoch, parameter, step, copy)."""
        by_scheme = []
        for scheme in self.cell.schemes:
            epochs = sorted(epoch for name, epoch in self.seen if name == scheme)
            if epochs:
                course = xr.concat([self.seen[scheme, epoch] for epoch in epochs], xr.Variable("epoch", epochs))
                by_scheme.append(course.assign_coords(scheme=scheme))
        joined: Any = xr.concat(by_scheme, "scheme")
        return joined

    def _save(self, seats: Sequence[sweep.Seat], places: Sequence[tuple[int, ...]]) -> None:
        arrays = {name: self.records[name].values for name in (*store.TRACES, *ENDS)}
        arrays["seats"] = np.asarray([places[seat.number] for seat in seats], np.int64).reshape(-1, 3)
        for k, leaves in enumerate(zip(*(jax.tree.leaves(seat.state) for seat in seats), strict=True)):
            arrays[f"state{k}"] = np.stack(leaves)
        store.write_state(self.folder, arrays)
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
    cell: Cell, starts: Starts, points: Sequence[Point], per_epoch: int
) -> tuple[list[dict[str, np.ndarray]], train.Trial]:
    """The parameters of each trial at `points` (views, not copies), and the traced settings of all of them."""
    study = cell.study
    full = lambda value, dtype: np.full(len(points), value, dtype)
    stack = lambda trees: jax.tree.map(lambda *arrays: np.stack(arrays), *trees)
    by_scheme = {name: rules(scheme, cell.model.leaves) for name, scheme in cell.schemes.items()}
    every_rule = [rule for of in by_scheme.values() for rule in of.values()]
    plain = all((rule.multiplier, rule.lr_scale, rule.wd_scale) == (1, 1, 1) for rule in every_rule)
    trials = train.Trial(
        seed=np.asarray([seed for _, _, seed in points], np.int32),
        lr=np.asarray([rate for _, rate, _ in points], np.float32),
        clip=full(math.inf if study.clip is None else study.clip, np.float32),
        clip_value=full(math.inf if study.clip_value is None else study.clip_value, np.float32),
        l2=full(study.l2, np.float32),
        weight_decay=full(study.weight_decay, np.float32),
        target=full(study.target, np.float32),
        budget=full(study.epochs * per_epoch, np.int32),
        scales=None if plain else stack([train.Scales.of(by_scheme[scheme]) for scheme, _, _ in points]),
        dropout=full(study.dropout, np.float32) if study.dropout else None,
    )
    return [{name: a[seed] for name, a in starts[scheme].items()} for scheme, _, seed in points], trials


def _task_attributes(cell: Cell) -> dict[str, Any]:
    task = cell.task
    return {
        "task": task.name,
        "examples": task.examples,
        "metric_name": task.metric_name,
        "higher_is_better": int(task.higher_is_better),
        "chance": task.chance,
        "target": cell.study.target,
    }


def _about(cell: Cell, per_epoch: int) -> dict[str, Any]:
    """What study.json says beside the study itself."""
    device = jax.devices()[0]
    return {
        "evaluations_per_epoch": per_epoch,
        "target_because": cell.task.why if cell.study.target == cell.task.target else "given by the user",
        "data_sha256": cell.task.fingerprint(),
        "parameters": sum(math.prod(leaf.shape) for leaf in cell.model.leaves),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that holds the signals received: the first Ctrl-C or SIGTERM asks to stop, a second one interrupts."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("\njaxinit: finishing the chunk under way (again to stop at once) ...", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
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
        TextColumn("best {task.fields[best]},"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    doing = {"tune": "choosing rates", "report": "reporting"}
    with Progress(*columns, console=Console(file=sys.stderr), disable=not shown) as bar:
        task = bar.add_task("compiling", total=total, best="none yet")
        yield lambda phase, ended, best: bar.update(task, advance=ended, best=best, description=doing[phase])
