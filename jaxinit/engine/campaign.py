"""From the question to the answer: a study is resolved, its parameters drawn, its trials swept, its
folder written.

    Study -> Resolved -> initial parameters -> trials, as the search of each scheme wants them
          -> records.nc, summary.json
"""

import datetime
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxinit.analysis import store
from jaxinit.analysis.answer import Answer
from jaxinit.analysis.folder import Folder, another, quoted, to_json
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import Course, Courses, Point
from jaxinit.analysis.search import (
    REPORTED,
    End,
    Stage,
    Trial,
    plan_of,
    searches_of,
    trials_of_a_search,
)
from jaxinit.analysis.store import Result
from jaxinit.analysis.summary import summarize
from jaxinit.analysis.table import best_points
from jaxinit.console import handled
from jaxinit.engine import progress, sweep, training
from jaxinit.engine.cluster import (
    Away,
    Cluster,
    ClusterSweep,
    Question,
    clear_parts,
    take_parts,
)
from jaxinit.engine.identity import Identity, changed, combined, identify
from jaxinit.engine.initial import (
    Initial,
    Reports,
    calibrate_parameters,
    draw_parameters,
    of_points,
)
from jaxinit.engine.peers import Peers, led
from jaxinit.engine.progress import Best, Standing, allowed
from jaxinit.engine.recorder import SignalRecorder
from jaxinit.engine.resolve import Resolved, check_memory, resolve
from jaxinit.engine.sharded import One, ShardedSweep, check_sharded
from jaxinit.spec import Scheme
from jaxinit.study import BadStudy, Interrupted, Study
from jaxinit.tasks import Task

SIGNALS = "signals.nc"
SLOTS = 16  # of a device that runs its trials one after another, or more in a large study
FILLED = 64  # times that the slots of a large study are filled
MOST_SLOTS = 1024  # of one that runs them together
SAVE_EVERY = 5.0  # seconds between saved states of a running study
SAVED_IN = 0.1  # as long as one takes no longer than this to save, which is 2 %; else less often
RAREST = 60.0  # times as long between two, at most

Report = Callable[[Standing], None]


@dataclass(frozen=True)
class Options:
    """How a study is run: what is no part of its question."""

    mapping: sweep.Mapping
    slots_per_device: int
    signals: int
    force_resume: bool
    cluster: Cluster | None
    peers: Peers | None
    place: dict[str, Any]


def place(mapping: sweep.Mapping | None, cluster: Cluster | None) -> dict[str, Any]:
    """Where a study runs, and under what, as its lives have it: here, or on the workers of a
    cluster."""
    if cluster is None:
        return store.conditions() | {"device": sweep.described(mapping or sweep.default_mapping())}
    device = cluster.device | ({"mapping": mapping} if mapping else {})
    return cluster.conditions | {"device": device}


def run(
    study: Study,
    *,
    out: str | Path | None = None,
    schemes: Mapping[str, Scheme] | None = None,
    progress: bool = True,
    mapping: sweep.Mapping | None = None,
    slots_per_device: int | None = None,
    tasks: Mapping[str, Callable[..., Task]] | None = None,
    models: Mapping[str, Callable[..., Any]] | None = None,
    signals: int = 0,
    force_resume: bool = False,
    cluster: Cluster | None = None,
    peers: Peers | None = None,
) -> Answer:
    """Run a study, or read it when its folder holds it complete, and write its folder.

    `schemes`, `tasks` and `models` add to the names that the study may use; a model is what builds
    a module of this package's kind, `(in_features, hidden, out_features, *, layers, readout,
    length, rngs)`. With `signals`, the signals of the first reporting seed of every scheme, at its
    best rate, on that many validation examples are recorded after every chunk of epochs, in
    signals.nc (those of chunks before an interruption are lost). `mapping` says how a device runs
    its trials, one after another (`map`, the default on CPU) or together (`vmap`), or that all
    devices run one trial, whose parameters are split over them (`sharded`), and
    `slots_per_device` how many of them it holds (default: `default_slots`). Call
    `sweep.one_device_per_core()` first to use all cores. Ctrl-C or SIGTERM ends the run after the
    steps under way and keeps what was computed: the result is then not `complete`, and running the
    same study on the same folder goes on from there, as it does after a kill, to the same records:
    bit for bit under `map`, and under `vmap` with the same slots, whose number shapes the program
    and its rounding; on a GPU only where `devices.start(deterministic=True)` came first.
    What the folder holds is returned or gone on with only if settings, data, task, model, schemes,
    calibrations and precision are the same by their digests (`identity`), and gone on with only on
    the same kind of device, under the same versions and commit; `force_resume` goes on under
    others, and the answer says so. On a `cluster` (`jaxinit.Cluster`) its workers train, and
    trials under way begin anew where theirs dies; the records are the same, to the bit on the same
    kind of device. With `peers` (`peers.join`), of which this process is the first, one trial is
    split over the devices of several processes, and the others `follow`.
    Raises: BadStudy for anything wrong with the study or the folder, before any work is done.
    """
    began = time.time()
    with led(peers):
        check_slots(slots_per_device)
        resolved = resolve(study, schemes, tasks, models)
        if signals:
            resolved.loss_of_outputs(resolved.task.data["valid_x"])  # refused before any work
        if signals and mapping == "sharded":
            raise BadStudy("signals are not recorded of a model in parts; run without one of them")
        if cluster is not None:
            _check_for_cluster(schemes, tasks, models, signals, mapping)
        if peers is not None:
            _check_for_peers(schemes, tasks, models, mapping)
        here = place(mapping, cluster)
        device = here["device"]
        folder = Folder(Path(out) if out is not None else resolved.study.folder)
        slots = (
            slots_per_device
            or _slots_before(folder, resolved.study, device)
            or default_slots(resolved.study, device["mapping"], device["count"])
        )
        options = Options(device["mapping"], slots, signals, force_resume, cluster, peers, here)
        if device["mapping"] == "sharded":
            check_sharded(resolved)
        with allowed(progress), sweep.numerics(study):
            result = _run(resolved, folder, began, options)
    if peers is not None:
        peers.end(complete=result.complete)
    return Answer(*result)


def follow(study: Study, peers: Peers) -> bool:
    """Train with the first of several processes, which runs the study; whether it was completed.

    Raises: BadStudy as `run`, and where the first was given another study; Interrupted where it
    ends while a program compiles.
    """
    resolved = resolve(study)
    check_sharded(resolved)
    with allowed(False), sweep.numerics(study), peers.following():
        digest = combined(identify(resolved), resolved.study.plain())
        program = resolved.program("sharded")
        follower = ShardedSweep(resolved, program, jax.devices(), lambda: peers.over, peers)
        return follower.follow(digest)


def check_slots(slots: int | None) -> None:
    """Raises: BadStudy for a number of slots that no device can have."""
    if slots is not None and not 1 <= slots <= MOST_SLOTS:
        raise BadStudy(f"slots must be 1 to {MOST_SLOTS}, got {slots}")


def _check_named(schemes: Any, tasks: Any, models: Any, others: str) -> None:
    """Raises: BadStudy for objects of this process that `others` would need."""
    if schemes or tasks or models:
        raise BadStudy(
            f"{others} do not see objects of this program; write them into a file that they can "
            "read and name them FILE.py:NAME"
        )


def _check_for_peers(schemes: Any, tasks: Any, models: Any, mapping: sweep.Mapping | None) -> None:
    """Raises: BadStudy for what processes that share a model cannot do, or do not all have."""
    if mapping != "sharded":
        raise BadStudy(f"several processes share one model: mapping='sharded', got {mapping!r}")
    _check_named(schemes, tasks, models, "the other processes")


def _check_for_cluster(
    schemes: Any, tasks: Any, models: Any, signals: int, mapping: sweep.Mapping | None
) -> None:
    """Raises: BadStudy for what only this process has, or can do."""
    if mapping == "sharded":
        raise BadStudy(
            "workers of a cluster train whole trials; give a cluster, or mapping=sharded"
        )
    _check_named(schemes, tasks, models, "workers of a cluster")
    if signals:
        raise BadStudy("signals are not recorded on a cluster; run without signals, or without it")


def _run(resolved: Resolved, folder: Folder, began: float, options: Options) -> Result:
    """The answer that a folder holds or is given, in the arithmetic of the study."""
    identity = identify(resolved)
    if _is_answered(folder, resolved.study, identity):
        return _read_back(folder, options.signals)
    program = resolved.program(options.mapping)
    recorded = store.size_of_records(resolved.study, program.evaluations_per_epoch)
    if options.mapping != "sharded":  # which draws and trains one trial, on all devices
        check_memory(resolved, jax.device_count(), recorded=recorded)
    with folder.locked():
        if _is_answered(folder, resolved.study, identity):  # by another process, meanwhile
            return _read_back(folder, options.signals)
        _answer(resolved, program, folder, identity, began, options)
    return store.load(folder.path)


def default_slots(study: Study, mapping: sweep.Mapping, devices: int) -> int:
    """How many trials each of so many devices holds.

    One after another, enough that a chunk is worth its start, and in a study of thousands of trials
    that they are filled not too often, since the searches then look at all trials. Together, all
    that the largest stage of a study has, every scheme's seeds at each rate that is reported, or
    that it looks for first: one that runs alone leaves most of a GPU idle. Where memory does not
    hold them there are fewer (`sweep.Sweep`). It depends on the study and the machine alone, since
    under `vmap` it shapes the program.
    """
    if mapping == "map":
        trials = searches_of(study) * trials_of_a_search(study)
        return min(max(trials // (FILLED * devices), SLOTS), MOST_SLOTS)
    if mapping == "sharded":
        return 1
    if study.search == "grid":
        of_search = max(len(study.lrs) * study.tune_seeds, study.seeds)
    else:
        of_search = REPORTED * study.seeds
    return min(-(-searches_of(study) * of_search // devices), MOST_SLOTS)


def _slots_before(folder: Folder, study: Study, device: Mapping[str, Any]) -> int | None:
    """With how many slots a device has begun this study, where their number shapes the program."""
    about = store.answered(folder, study)
    if about is None or not device["mapping"] == about["device"]["mapping"] == "vmap":
        return None
    return about.get("slots_per_device")


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
        progress.say(remark)
        return result._replace(remark=remark)
    return result


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
    written = take_parts(folder.path, digest)
    if saved is not None or (past and written):
        forced = check_resume(folder.path, past[-1], options.place, options.force_resume)
    courses = Courses(
        store.attributes(study, program.evaluations_per_epoch, task_attributes(resolved), digest),
        study.epochs * program.evaluations_per_epoch,
    )
    with (
        sweep.CompileCounter("training_program") as compiled,
        sweep.compilations_told(),
        _stop_requests() as stop,
        progress.work("preparing", at_once=True) as shown,
    ):
        state = folder.path / store.STATE
        progress.detail(f"states are saved in {state} every {SAVE_EVERY:g} s, or as costs 2 %")
        initial, calibrated = None, {}
        failures: dict[str, str] = {}
        if options.cluster is None and options.mapping != "sharded":
            drawn = draw_parameters(resolved, failures=failures)

            def calibrate() -> tuple[Initial, Reports]:
                with sweep.numerics(study):  # which JAX keeps by thread
                    return calibrate_parameters(resolved, drawn, failures)

            initial, calibrated = sweep.apart(calibrate, lambda: bool(stop))
        if failures and not initial:
            name, reason = next(iter(failures.items()))
            raise BadStudy(f"{name}: {reason}")
        for name, reason in failures.items():
            progress.say(f"{name} has failed, and the others go on: {reason}")
        about = _about(resolved, program.evaluations_per_epoch, options.place["device"])
        earlier = store.answered(folder, study) or {}
        if saved is not None or written:  # else all of it begins anew
            about |= {n: earlier[n] for n in ("calibrations", "failures") if n in earlier}
        about |= {"identity": identity, "digest": digest}
        about["calibrations"] = about.get("calibrations", {}) | calibrated
        about["failures"] = about.get("failures", {}) | failures
        about["slots_per_device"] = options.slots_per_device
        history = History(past, began, options.place, forced, compiled)
        store.write_study(folder, study, about | {"status": "running"} | history.about())
        campaign = Campaign(
            resolved,
            courses,
            _sweeper(resolved, program, folder, digest, options, compiled, stop),
            initial,
            folder,
            digest,
            history,
            saved,
            written,
            shown.stands,
            stop,
            SignalRecorder(resolved, program, initial or {}, options.signals),
        )
        try:
            complete = campaign.train()
        except Interrupted:  # while a program compiled: the last saved state stands
            complete = False
    for name, its in campaign.sweeper.about().items():
        about[name] = {**about.get(name, {}), **its} if isinstance(its, dict) else its
    records = courses.dataset()
    about |= {"status": "complete" if complete else "interrupted"} | history.about()
    folder.check_there()
    with progress.work("comparing schemes"):
        summary = summarize(records, study, about)
    files = {store.RECORDS: store.netcdf(records), store.SUMMARY: to_json(summary)}
    signals = campaign.recorder.courses(best_points(records))
    if signals is not None:
        files[SIGNALS] = store.netcdf(signals)
    store.write_study(folder, study, about, files)
    if complete:
        store.clear_state(folder.path)
        clear_parts(folder.path)


def _sweeper(
    resolved: Resolved,
    program: training.Program,
    folder: Folder,
    digest: str,
    options: Options,
    compiled: sweep.CompileCounter,
    stop: list[int],
) -> sweep.Sweep | ClusterSweep | ShardedSweep:
    """What trains: the devices of this process, or the workers of a cluster."""
    if options.cluster is not None:
        question = Question.of(
            resolved.study, digest, folder.path, options.mapping, options.slots_per_device
        )
        return ClusterSweep(options.cluster, question, program, compiled)
    devices = jax.devices()
    if options.mapping == "sharded":
        peers = options.peers
        if peers is not None:
            stop += peers.stop  # of the others too
            peers.stop = stop
            peers.tell("study", digest=digest)
        return ShardedSweep(resolved, program, devices, lambda: bool(stop), peers)
    slots = options.slots_per_device * len(devices)
    return sweep.Sweep(
        program,
        resolved.task.data,
        slots,
        devices,
        options.mapping,
        stopped=lambda: bool(stop),
    )


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
        progress.say(remark)
    return saved, past


def _lost_lives(folder: Folder, study: Study) -> list[dict[str, Any]]:
    """The lives of a study whose saved states are gone, marked so; none of a study that has not
    begun."""
    about = store.answered(folder, study)
    if about is None:
        return []
    # What they were forced to do concerns no record any more.
    return [life | {"forced": [], "lost": True} for life in about["lives"]]


def check_resume(
    path: Path, last: Mapping[str, Any], here: Mapping[str, Any], force: bool
) -> list[str]:
    """The conditions that have changed since the last life of a study, where the caller forces it
    to go on; `here` are those of now (`place`).

    Raises: BadStudy when they have and nobody forces it, and for another kind of device.
    """
    before, now = (
        f"{life['device']['kind']} by {life['device']['mapping']}" for life in (last, here)
    )
    if before != now:
        raise BadStudy(
            f"{path} was begun on {before} and would go on on {now}, which rounds otherwise; go on "
            "there, or give --out a new folder"
        )
    changes = store.changed_conditions(last, here)
    if changes and not force:
        raise BadStudy(
            f"{path} was begun under other conditions ({'; '.join(changes)}); go on under them, "
            "with --force-resume all the same, or give --out a new folder"
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


class Line(NamedTuple):
    """A search of its own: for the rate of a scheme, at a value of the other setting that is
    searched, if any."""

    scheme: str
    also: float | None


@dataclass
class Campaign:
    """A study under way: what its trials need, what they have left so far, and the state saved by
    an earlier run, if any.

    Trials have numbers in the order in which they are wanted; what is decided on them never depends
    on these.
    """

    resolved: Resolved
    courses: Courses
    sweeper: sweep.Sweep | ClusterSweep | ShardedSweep
    initial: Initial | None  # None where others draw
    folder: Folder
    identity: str
    history: History
    saved: dict[str, Any] | None
    written: list[tuple[Point, sweep.Row]]  # by workers, and not in what is saved
    report: Report
    stop: list[int]
    recorder: SignalRecorder

    def __post_init__(self):
        self.last_save, self.saving = time.monotonic(), 0.0
        study = self.resolved.study
        self.plan = plan_of(study)
        self.budget = float(study.epochs)
        self.first_seed = study.first_seed
        values = study.also[1] if study.also else (None,)
        self.lines = [Line(scheme, value) for scheme in self.resolved.schemes for value in values]
        self.known: dict[tuple[Line, Trial], Point] = {}
        self.numbers: dict[Point, int] = {}
        self.points: list[Point] = []
        self.queue: list[Point] = []
        self.running: dict[Point, int] = {}  # and after how many evaluations each may be stopped
        self.states: dict[Point, training.State] = {}  # in which saved trials go on
        self.settled: set[Line] = set()  # whose searches want no more trials
        if self.saved is not None:
            self.courses.restore(self.saved)
            self._take_up(self.saved)
        for point, row in self.written:
            course = self.courses.by_point.get(point)
            if course is None or course.outcome is Outcome.UNFINISHED:
                self._take(point, row)

    @property
    def per_epoch(self) -> int:
        return self.courses.attrs["evaluations_per_epoch"]

    def train(self) -> bool:
        """Train what the search of every scheme wants, piece by piece; False when a signal asked to
        stop."""
        for line in self.lines:
            if self.initial is not None and line.scheme not in self.initial:
                self._fail(line)
        best = self._best()
        self.report(self._standing(best))
        well = next(line for line in self.lines if line not in self.settled)
        like = self._joining(self._point(well, (0, 0)))
        for rows, running in self.sweeper.run(self._orders, like):
            for row in rows:
                point = self.points[row.number]
                self._take(point, row)
                if row.outcome is not Outcome.UNFINISHED:
                    self.running.pop(point, None)
                if row.outcome is Outcome.CONVERGED:
                    best = best.after(point.scheme, row.last / self.per_epoch)
            if isinstance(running, sweep.Running):
                self.recorder.record(self.points, running)
            self.report(self._standing(best, running))
            since = time.monotonic() - self.last_save
            rarer = min(max(self.saving / SAVED_IN, 1.0), RAREST)
            if self.stop or since > SAVE_EVERY * rarer:
                self._save(running)
            if self.stop:
                return False
        self.report(self._standing(best))
        self._trim()
        return True

    def _take(self, point: Point, row: sweep.Row) -> None:
        """Put in what a trial did."""
        if point not in self.courses.by_point:
            self.courses.begin(point, "coarse")  # until a stage says what it is wanted for
        course = self.courses.by_point[point]
        course.add(row.first, row.records._asdict(), self._outcome(row))

    def _fail(self, line: Line) -> None:
        """Let all trials of a scheme fail that cannot be initialized."""
        while wanted := self._wanted(line):
            for point in wanted:
                self._take(point, sweep.Row.failed(-1))
        self.settled.add(line)

    def _best(self) -> Best:
        """The best of the trials that an earlier run has ended."""
        best = Best()
        for point, course in self.courses.by_point.items():
            if course.outcome is Outcome.CONVERGED:
                best = best.after(point.scheme, course.evaluations / self.per_epoch)
        return best

    def _standing(self, best: Best, running: sweep.Running | Away | One | None = None) -> Standing:
        """How far the study has come, in evaluations, and how many it is likely to make."""
        known = Counter(Line(point.scheme, point.also) for point in self.courses.by_point)
        a_search = trials_of_a_search(self.resolved.study)
        trials = 0
        for line in self.lines:
            trials += known[line] if line in self.settled else max(known[line], a_search)
        courses = [
            (course.evaluations, course.outcome is not Outcome.UNFINISHED)
            for course in self.courses.by_point.values()
            if course.evaluations or course.outcome is not Outcome.FAILED
        ]
        done = float(sum(evaluations for evaluations, _ in courses))
        total = progress.likely_total(courses, trials, self.courses.evaluations)
        if running is not None:  # an evaluation may take longer than a piece
            interval = self.sweeper.program.interval
            done += sum(at % interval for at in running.at.values()) / interval
        ended = progress.Trials(self.courses.ended(), trials, best)
        return Standing("training", done, max(total, done), "evaluations", ended)

    def _outcome(self, row: sweep.Row) -> Outcome:
        """How a trial stands; at a cap sooner than the budget it is stopped and not censored."""
        if row.outcome is Outcome.CENSORED and row.last < self.courses.evaluations:
            return Outcome.STOPPED
        return row.outcome

    def _orders(self, room: int) -> sweep.Orders:
        """What the searches want now: which trials join, which are given up, and when those that
        run are to end."""
        wanted: dict[Point, int] = {}
        for line in self.lines:
            of_line = self._wanted(line)
            wanted |= of_line
            if not of_line:
                self.settled.add(line)
        given_up = []
        for point, course in self.courses.by_point.items():
            if course.outcome is Outcome.UNFINISHED and point not in wanted:
                course.outcome = Outcome.STOPPED
                if self.running.pop(point, None) is not None:
                    given_up.append(self.numbers[point])
        self.states = {point: state for point, state in self.states.items() if point in wanted}
        joining = self._next_of_queue(self._first(wanted), room + len(given_up))
        changed = {}
        for point in (*self.running, *joining):
            if self.running.get(point) != wanted[point]:
                self.running[point] = wanted[point]
                changed[point] = wanted[point]
        joined = []
        for point in joining:
            # One that was stopped sooner is trained again.
            self.courses.by_point[point].outcome = Outcome.UNFINISHED
            joined.append(self._joining(point)._replace(state=self.states.pop(point, None)))
        if self._midway():
            self.states.clear()  # of those for which there is no room, which begin anew
        budgets = {self.numbers[point]: budget for point, budget in changed.items()}
        return sweep.Orders(joined, given_up, budgets)

    def _midway(self) -> bool:
        """Whether saved trials are to go on in the midst of a chunk that they are in together."""
        together = self.sweeper.mapping == "vmap"
        return together and any(int(state.at) for state in self.states.values())

    def _first(self, wanted: Mapping[Point, int]) -> Mapping[Point, int]:
        """Those wanted that may join now: the others wait until a chunk has ended that saved trials
        are in."""
        if not self._midway():
            return wanted
        return {point: most for point, most in wanted.items() if point in self.states}

    def _next_of_queue(self, wanted: Mapping[Point, int], room: int) -> list[Point]:
        """The trials that join, as many as there is room for: who has waited longest comes first,
        and nobody whom the searches have ceased to want meanwhile."""
        waiting = [point for point in self.queue if point in wanted]
        present = {*waiting, *self.running}
        waiting += [point for point in wanted if point not in present]
        self.queue = waiting[room:]
        return waiting[:room]

    def _wanted(self, line: Line) -> dict[Point, int]:
        """The trials that the search of a scheme waits for, and after how many evaluations each may
        be stopped; empty when all have ended."""
        ends = self._ends(line)
        reported: frozenset[Trial] = frozenset()
        for stage in self.plan.stages(ends, self.budget):
            if stage.purpose == "report":
                for trial in reported:  # until now
                    self._course(line, trial, stage).purpose = "fine"
                reported = frozenset(stage.trials)
            for trial in stage.trials:
                course = self._course(line, trial, stage)
                if trial not in reported or stage.purpose == "report":
                    course.purpose = stage.purpose
            waiting = stage.waiting(ends)
            if waiting:
                most = self._evaluations(stage.cap(ends))
                return {self._point(line, trial): most for trial in waiting}
        return {}

    def _ends(self, line: Line) -> dict[Trial, End]:
        """How the trials of a search stand."""
        ends = {}
        for (rate, seed), end in self.courses.ends(*line).items():
            ends[self.plan.rung(rate), seed - self.first_seed] = end
        return ends

    def _trim(self) -> None:
        """Drop what trials did beyond the caps of all stages that wanted them, as if those of a
        stage had run side by side, and trials of a smaller study that no stage of this one wants.

        Not before the study has ended: what a trial has left is never taken back while the searches
        go on, so that a stage that has ended stays ended.
        """
        wanted: set[Point] = set()
        for line in self.lines:
            ends = self._ends(line)
            caps: dict[Trial, int] = {}
            for stage in self.plan.stages(ends, self.budget):
                cap = self._evaluations(stage.cap(ends))
                for trial in stage.trials:
                    caps[trial] = max(cap, caps.get(trial, 0))
            for trial, cap in caps.items():
                point = self._point(line, trial)
                self.courses.by_point[point].stop(cap)
                wanted.add(point)
        for point in self.courses.by_point.keys() - wanted:
            del self.courses.by_point[point]

    def _course(self, line: Line, trial: Trial, stage: Stage) -> Course:
        point = self._point(line, trial)
        if point not in self.courses.by_point:
            self.courses.begin(point, stage.purpose)
        return self.courses.by_point[point]

    def _point(self, line: Line, trial: Trial) -> Point:
        known = self.known.get((line, trial))
        if known is None:
            rung, seed = trial
            known = Point(line.scheme, self.plan.rate(rung), self.first_seed + seed, line.also)
            self.known[line, trial] = known
        return known

    def _evaluations(self, cap: float) -> int:
        """The evaluations after which a trial is past a number of epochs, at most the budget's."""
        budget = self.courses.evaluations
        if math.isinf(cap):
            return budget
        evaluations = math.floor(cap * self.per_epoch)
        # As `Stage.waiting` compares times: a product that was rounded might wait for ever.
        if evaluations / self.per_epoch < cap:
            evaluations += 1
        return min(budget, evaluations)

    def _joining(self, point: Point) -> sweep.Joining:
        """A trial as the sweep takes it."""
        if point not in self.numbers:
            self.numbers[point] = len(self.points)
            self.points.append(point)
        params = None
        if self.initial is not None:
            (params,) = of_points(self.initial, [point], self.first_seed)
        trial = self.resolved.trial(point, self.per_epoch)
        return sweep.Joining(self.numbers[point], trial, params, point=point)

    def _save(self, running: sweep.Running | Away | One) -> None:
        began = time.monotonic()
        seats = running.seats()  # which come from the devices
        arrays = self.courses.arrays()
        places = {point: place for place, point in enumerate(self.courses.by_point)}
        under_way = {self.points[seat.number]: seat.state for seat in seats}
        under_way |= self.states  # saved before, and waiting to go on
        arrays["seats"] = np.asarray([places[point] for point in under_way], np.int64)
        states = [jax.tree.leaves(state) for state in under_way.values()]
        for k, leaves in enumerate(zip(*states, strict=True)):
            arrays[f"state{k}"] = np.stack(leaves)
        self.folder.check_there()
        store.write_state(self.folder.path, arrays, self.identity, self.history.lives())
        if isinstance(self.sweeper, ClusterSweep):
            self.sweeper.saved()
        self.last_save = time.monotonic()
        self.saving = self.last_save - began

    def _take_up(self, saved: Mapping[str, np.ndarray]) -> None:
        """The saved trials under way, each in the state it was saved in."""
        points = list(self.courses.by_point)
        seats = saved["seats"].tolist()
        if not seats or isinstance(self.sweeper, ClusterSweep):  # states are not sent to others
            return
        trial = self.resolved.trial(points[0], self.per_epoch)
        shapes = self.resolved.shapes
        first = jax.eval_shape(self.sweeper.program.initial_state, shapes, trial)
        form = jax.tree.structure(first)
        for row, place in enumerate(seats):
            # Files know no bfloat16: its bytes come back as such, and are what they were.
            leaves = [
                saved[f"state{k}"].view(like.dtype)[row]
                for k, like in enumerate(jax.tree.leaves(first))
            ]
            self.states[points[place]] = jax.tree.unflatten(form, leaves)


def task_attributes(resolved: Resolved) -> dict[str, Any]:
    task = resolved.task
    return {
        "task": task.name,
        "examples": task.examples,
        "metric_name": task.metric_name,
        "higher_is_better": int(task.higher_is_better),
        "chance": task.chance,
        "target": resolved.study.target,
    }


def _about(resolved: Resolved, per_epoch: int, device: Mapping[str, Any]) -> dict[str, Any]:
    """What study.json says beside the study itself."""
    return {
        "evaluations_per_epoch": per_epoch,
        "task": task_attributes(resolved),
        "target_because": resolved.task.why
        if resolved.study.target == resolved.task.target
        else "given by the user",
        "parameters": sum(math.prod(leaf.shape) for leaf in resolved.model.leaves),
        "device": dict(device),
    }


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that holds the signals received: the first Ctrl-C or SIGTERM asks to stop, a second
    one interrupts."""
    received: list[int] = []
    own: list[int] = []  # and not of another process that shares the model

    def note(number: int, frame: object) -> None:
        if own:
            raise KeyboardInterrupt
        own.append(number)
        received.append(number)
        progress.say("finishing the steps under way (again to stop at once) ...")

    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread only
        return
    with handled(note):
        yield received
