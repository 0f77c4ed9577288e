"""Trials over the workers of a Dask cluster: each runs a sweep of its own over those that it is
assigned.

    client, where the searches are: a study, and trials by number -> worker
    worker: draws their parameters, which are the same everywhere, trains for some seconds -> rows

A task is a slice of a worker's time and says all that the worker is to do from then on, so that a
new worker in a dead one's place begins where it can: with the trials, anew. Before a worker answers
it writes the courses of the trials that have ended into the study's folder, where it sees that
folder; the client takes up what it finds there after a death, a worker's or its own.
"""

import contextlib
import ctypes
import logging
import os
import shutil
import subprocess
import threading
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxinit.analysis import store
from jaxinit.analysis.folder import replacing, write_synced
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import Point
from jaxinit.engine import progress, sweep, training
from jaxinit.engine.devices import DETERMINISTIC, lacking
from jaxinit.engine.identity import combined, identify
from jaxinit.engine.initial import (
    Initial,
    Reports,
    calibrate_parameters,
    draw_parameters,
    of_points,
)
from jaxinit.engine.resolve import resolve
from jaxinit.study import BadStudy, NoDevice, Study

SLICE = 3.0  # seconds of work of a task, of which an empty one costs 4 to 10 ms
CONNECT = 10.0  # seconds in which a scheduler must answer
FIRST_WORKER = 60.0  # and a first worker must come
PATIENCE = 600.0  # and another where all are gone
IDLE = 60.0  # after which a worker forgets a study
LOOK = 0.5  # between two looks at what has come
DEATHS = 3  # of workers that a trial may see alone before it has failed
LATE = 0.2  # as what share of a death counts one after it had answered: by chance, most likely
FREED = 32 * 2**20  # bytes: the largest array that glibc keeps when it is freed, of its own accord
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
PARTS = ".parts"  # in a study's folder: what workers wrote that the client has not saved yet
LOCAL = "local"  # the address of workers that are started here
LOOPBACK = "127.0.0.1"


class Question(NamedTuple):
    """What a worker needs to know of a study, once and for all."""

    session: str
    study: dict[str, Any]
    digest: str
    path: str  # of the folder of the study
    home: str  # where the client runs, from which paths in the study are meant
    mapping: sweep.Mapping
    slots: int  # of a device

    @classmethod
    def of(
        cls, study: Study, identity: str, path: Path, mapping: sweep.Mapping, slots: int
    ) -> "Question":
        """A study as it is asked of workers, from here."""
        session = uuid.uuid4().hex[:12]
        where = str(path.resolve()), os.getcwd()
        return cls(session, study.plain(), identity, *where, mapping, slots)


class Work(NamedTuple):
    """What a worker is to do for a slice: its trials, after how many evaluations each ends, and
    which of them begin."""

    number: int
    points: dict[int, Point]
    budgets: dict[int, int]
    anew: tuple[int, ...] = ()  # trials that begin, also where the worker was in one before


class Done(NamedTuple):
    """What a worker has done in a slice."""

    rows: list[sweep.Row]
    compilations: int
    compile_s: float
    calibrated: Reports
    failures: dict[str, str]  # by scheme that a calibration has no answer for, why


# What a worker does.


def describe(cores: int | None = None) -> dict[str, Any]:
    """What a worker computes on and under; starts JAX, if nothing has, with a device per core."""
    with contextlib.suppress(RuntimeError):  # it has been started
        sweep.one_device_per_core(cores)
    sweep.keep_compilations()
    keep_freed_memory()
    mapping = sweep.default_mapping()
    return {"conditions": store.conditions(), "device": sweep.described(mapping)}


def keep_freed_memory() -> None:
    """Let glibc keep memory that is freed, as it does by itself where nobody says otherwise.

    Dask sets MALLOC_TRIM_THRESHOLD_ for its workers, so that what a piece of a program frees goes
    back to the system and is asked for anew by the next: trials then took twice as long (measured,
    an MLP of 256). Other C libraries know no such option.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, FREED)
        mallopt(M_TRIM_THRESHOLD, 2 * FREED)


def describe_worker() -> dict[str, Any]:
    """`describe` on one of Dask's workers."""
    from distributed import get_worker

    return describe(get_worker().state.nthreads)


_sessions: dict[str, "Session"] = {}
_one_at_a_time = threading.Lock()  # of a worker's threads


def advance(question: Question, work: Work) -> Done:
    """A slice of a worker's time."""
    with _one_at_a_time:
        if question.session not in _sessions:
            now = time.monotonic()
            for name in [name for name, its in _sessions.items() if now - its.used > IDLE]:
                del _sessions[name]  # of studies that are over
            _sessions[question.session] = Session(question)
        return _sessions[question.session].advance(work)


class Session:
    """A study on a worker, from one slice to the next."""

    def __init__(self, question: Question):
        home = contextlib.nullcontext()
        if Path(question.home).is_dir():
            home = contextlib.chdir(question.home)
        with home:
            study = Study.from_plain(question.study)
            self.resolved = resolve(study)
        if combined(identify(self.resolved), study.plain()) != question.digest:
            raise BadStudy(
                "what the names of the study stand for is not what it is at the client (data, own "
                "files, or the precision of JAX); let both see the same files"
            )
        self.question = question
        self.initial: Initial = {}  # of the schemes that were asked for so far
        self.calibrated: Reports = {}
        self.failures: dict[str, str] = {}
        self.program = self.resolved.program(question.mapping)
        devices = jax.devices()
        slots = question.slots * len(devices)
        self.sweeper = sweep.Sweep(
            self.program, self.resolved.task.data, slots, devices, question.mapping
        )
        self.pieces: Iterator[tuple[list[sweep.Row], sweep.Running]] | None = None
        self.work = Work(0, {}, {})
        self.running: dict[int, int] = {}  # with the budgets that the sweep knows
        self.ended: set[int] = set()
        self.stale: set[int] = set()  # that are to begin anew at the next orders
        self.courses: dict[int, list[sweep.Row]] = {}
        self.points: dict[int, Point] = {}  # of all trials so far: one may end that is not wanted
        self.used = time.monotonic()

    def advance(self, work: Work) -> Done:
        """Train what is wanted for a slice, or until all of it has ended."""
        began = time.monotonic()
        self.work, self.ended, self.used = work, set(), began
        self.stale = {number for number in work.anew if number in self.running}
        self.points |= work.points
        rows: list[sweep.Row] = []
        counter = sweep.CompileCounter("training_program")
        with counter, sweep.numerics(self.resolved.study):
            for number, point in work.points.items():
                self._start(point.scheme)
                if point.scheme in self.failures:
                    rows.append(sweep.Row.failed(number))
                    self.ended.add(number)
            while set(work.budgets) - self.ended:
                if self.pieces is None:
                    like = self._joining(next(n for n in work.budgets if n not in self.ended))
                    self.pieces = self.sweeper.run(self._orders, like)
                try:
                    piece = next(self.pieces, None)
                    if piece is None:
                        self.pieces = None
                        continue
                    current = [row for row in piece[0] if row.number not in self.stale]
                    self._note(current)
                except BaseException:
                    self.pieces, self.running, self.courses = None, {}, {}  # to begin anew
                    raise
                rows += current
                if time.monotonic() - began > SLICE:
                    break
        return Done(rows, counter.count, counter.seconds, self.calibrated, self.failures)

    def _orders(self, room: int) -> sweep.Orders:
        wanted = {n: most for n, most in self.work.budgets.items() if n not in self.ended}
        given_up = [n for n in self.running if n not in wanted or n in self.stale]
        self.stale.clear()
        for number in given_up:
            del self.running[number], self.courses[number]
        waiting = [number for number in wanted if number not in self.running]
        joining = waiting[: room + len(given_up)]
        budgets = {}
        for number in (*self.running, *joining):
            if self.running.get(number) != wanted[number]:
                self.running[number] = budgets[number] = wanted[number]
        self.courses |= {number: [] for number in joining}
        return sweep.Orders([self._joining(number) for number in joining], given_up, budgets)

    def _start(self, scheme: str) -> None:
        """Draw and calibrate a scheme, once."""
        if scheme in self.initial or scheme in self.failures:
            return
        drawn = draw_parameters(self.resolved, [scheme], self.failures)
        initial, report = calibrate_parameters(self.resolved, drawn, self.failures)
        self.initial |= initial
        self.calibrated |= report

    def _joining(self, number: int) -> sweep.Joining:
        point = self.points[number]
        (params,) = of_points(self.initial, [point], self.resolved.study.first_seed)
        trial = self.resolved.trial(point, self.program.evaluations_per_epoch)
        return sweep.Joining(number, trial, params)

    def _note(self, rows: Sequence[sweep.Row]) -> None:
        """Keep what trials did, and write the courses of those that have ended."""
        ended = []
        for row in rows:
            if row.first == 0:  # also of one that begins anew
                self.courses[row.number] = []
            self.courses[row.number].append(row)
            if row.outcome is not Outcome.UNFINISHED:
                del self.running[row.number]
                ended.append((self.points[row.number], joined(self.courses.pop(row.number))))
                self.ended.add(row.number)
        folder = Path(self.question.path) / PARTS / self.question.session
        if ended and folder.is_dir():  # where there is one file system
            path = folder / f"{self.work.number}-{ended[0][1].number}.part"
            with contextlib.suppress(OSError):  # as on a full disk: the answer has them too
                write_part(path, self.question.digest, ended)


# What a worker writes before it answers.


def joined(rows: Sequence[sweep.Row]) -> sweep.Row:
    """The rows of a trial as one, from its first evaluation on."""
    records = jax.tree.map(lambda *parts: np.concatenate(parts), *[row.records for row in rows])
    return rows[-1]._replace(first=rows[0].first, records=records)


def write_part(path: Path, identity: str, ended: Sequence[tuple[Point, sweep.Row]]) -> None:
    """Write whole courses of trials of the study of this identity."""
    courses = [(*point, row.first, row.last, int(row.outcome)) for point, row in ended]
    records = np.concatenate([np.stack(row.records) for _, row in ended], axis=1)
    header = {"identity": identity, "courses": courses}
    with replacing(path) as fresh:
        write_synced(fresh, store.sealed(header, {"records": records}))


def read_part(path: Path, identity: str) -> list[tuple[Point, sweep.Row]]:
    """What `write_part` wrote; nothing of a file that is torn, or of another study."""
    part = store.opened(path.read_bytes())
    if part is None or part[0]["identity"] != identity:
        return []
    header, arrays = part
    ended, start = [], 0
    for *point, first, last, outcome in header["courses"]:
        ran = traces(arrays["records"][:, start : start + last - first])
        ended.append((Point(*point), sweep.Row(-1, first, last, ran, Outcome(outcome))))
        start += last - first
    return ended


def traces(columns: Any) -> training.Records:
    """The records of a trial on the host, from an array of a row each."""
    return training.Records(*columns)


def take_parts(folder: Path, identity: str) -> list[tuple[Point, sweep.Row]]:
    """All that workers have written of a study into its folder."""
    paths = sorted(folder.glob(f"{PARTS}/*/*.part"))
    return [one for path in paths for one in read_part(path, identity)]


def clear_parts(folder: Path) -> None:
    """Remove all that workers have written."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


# What the client does.


@dataclass
class Post:
    """A worker as the client sees it."""

    address: str
    slots: int
    resources: dict[str, int]  # that a slice takes of it
    trials: dict[int, Point] = field(default_factory=dict)
    anew: set[int] = field(default_factory=set)  # of these, which it has not been told of yet
    future: Any = None
    alone: bool = False  # with a trial that was there when a worker died
    number: int = 0  # of its last slice
    answered: bool = False  # since it is alone with its trial


class Away(NamedTuple):
    """The trials that run elsewhere, as `sweep.Running` has them; their states stay there."""

    slots: dict[int, int]
    at: dict[int, int]

    def seats(self) -> list[sweep.Seat]:
        return []


class Cluster:
    """Workers of jaxinit under a Dask scheduler, for as many studies as are run with it; a context
    manager.

    `address` is that of a scheduler, `tcp://HOST:PORT` or `tls://HOST:PORT`, whose certificates
    Dask's own configuration names, or `local` for one of this machine, with a worker a core, or a
    GPU, that listens on the loopback alone: on `platform`, if that is given, and of GPUs with
    `deterministic` operations.
    Raises: NoDevice, in a line, where nobody answers, no worker comes, or one of them is of another
    version; BadStudy for an address that is none, and where a platform or determinism is asked of
    workers that were started elsewhere.
    """

    def __init__(
        self, address: str = LOCAL, platform: str | None = None, deterministic: bool = False
    ):
        try:
            import distributed
        except ImportError as error:
            raise NoDevice(
                f"a cluster needs Dask ({error}); install it with: pip install 'jaxinit[cluster]'"
            ) from error
        self.distributed = distributed
        _silence()
        self.here: Any = None
        self.address = address
        if address == LOCAL:
            try:
                self.here = _local_cluster(distributed, platform, deterministic)
            except (RuntimeError, OSError) as error:  # a worker died, or there is no port
                raise NoDevice(
                    f"no workers could be started here ({_first_line(error)}); run without "
                    "--cluster, or try again"
                ) from error
            address = self.here.scheduler_address
        elif not address.startswith(("tcp://", "tls://")):
            raise BadStudy(
                f"a cluster's address is tcp://HOST:PORT or tls://HOST:PORT, got {address!r}"
            )
        elif platform or deterministic:
            raise BadStudy(
                f"workers of {address} were started elsewhere, on what they were told there; leave "
                "out --platform and --deterministic, and start them with JAX_PLATFORMS or "
                f"XLA_FLAGS={DETERMINISTIC}"
            )
        _check_certificates()
        security = distributed.Security(require_encryption=True) if "tls:" in address else None
        try:
            self.client = distributed.Client(
                address, timeout=CONNECT, security=security, set_as_default=False
            )
        except Exception as error:  # of sockets, of TLS, of the protocol
            self.close()
            raise NoDevice(
                f"no scheduler answers at {address} ({_first_line(error)}); start one with: dask "
                "scheduler, and look at host, port and certificates"
            ) from error
        self._compare_dask()
        self.known: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, Any] = {}  # what workers are to say of themselves
        self.unfit: set[str] = set()  # workers that came later and round otherwise
        try:
            self._await_first()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the scheduler, and end what was started here."""
        with contextlib.suppress(Exception):
            self.client.close()
        if self.here is not None:
            self.here.close()

    def _compare_dask(self) -> None:
        """Say where the scheduler has another Dask than is here: what is sent may not be read."""
        with contextlib.suppress(Exception):  # a scheduler that does not say it
            versions: Any = self.client.get_versions()
            there = versions["scheduler"]["packages"]["distributed"]
            here = version("distributed")
            if there != here:
                progress.say(
                    f"the scheduler at {self.address} has Dask {there}, and here is {here}; "
                    "install the same there"
                )

    def _await_first(self) -> None:
        deadline = time.monotonic() + FIRST_WORKER
        while not self.workers():
            if time.monotonic() > deadline:
                raise NoDevice(
                    f"the scheduler at {self.address} has no workers; start some with: dask worker "
                    f"{self.address}"
                )
            time.sleep(LOOK)

    @property
    def device(self) -> dict[str, Any]:
        """What the workers compute on."""
        first, *_ = self.known.values()
        count = sum(about["device"]["count"] for about in self.known.values())
        return first["device"] | {"count": count}

    @property
    def conditions(self) -> dict[str, Any]:
        """Under what the workers run."""
        first, *_ = self.known.values()
        return first["conditions"]

    def workers(self) -> dict[str, int]:
        """The devices of every worker that is there, by its address. Raises: NoDevice where the
        scheduler is gone, or the first worker is of another version; a later one gets no work."""
        if self.client.status == "connecting":  # the scheduler is gone, perhaps for a moment
            return {}
        if self.client.status != "running":
            raise NoDevice(f"the scheduler at {self.address} answers no more")
        addresses = self.client.scheduler_info(n_workers=-1)["workers"]
        if self.here is not None and len(addresses) < len(self.here.worker_spec):
            self.here.sync(_start_again, self.here)
        for address in addresses:
            if address not in self.known and address not in self.unfit:
                try:
                    about = self._described(address)
                    if about is None:
                        continue
                    self._check(address, about)
                except NoDevice as error:
                    if not self.known:
                        raise
                    self.unfit.add(address)
                    progress.say(f"{error}; it gets no work")
                else:
                    self.known[address] = about
        return {
            address: self.known[address]["device"]["count"]
            for address in addresses
            if address in self.known
        }

    def resources(self, address: str) -> dict[str, int]:
        """What a slice takes of a worker: a GPU, where it was started with such a resource."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return {"GPU": 1} if workers.get(address, {}).get("resources", {}).get("GPU") else {}

    def _described(self, address: str) -> dict[str, Any] | None:
        """What a worker says of itself; None of one that has not said it yet, or is gone.

        Raises: NoDevice for one that cannot say it."""
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        if address not in self.asked:
            self.asked[address] = self.client.submit(
                describe_worker, workers=[address], allow_other_workers=False, pure=False, retries=0
            )
        if not self.asked[address].done():
            return None
        try:
            return self.asked.pop(address).result(timeout=CONNECT)
        except ImportError as error:
            raise NoDevice(
                f"worker {address} has no jaxinit ({error}); install the version that is here, "
                f"{store.conditions()['versions']['jaxinit']}, with the extra `cluster`"
            ) from error
        except (self.distributed.TimeoutError, self.distributed.CancelledError):
            return None
        except (KilledWorker, CommClosedError):  # its death, or the scheduler's
            return None
        except RuntimeError as error:
            if "task graph" not in str(error):
                raise NoDevice(f"worker {address}: {_first_line(error)}") from error
            raise NoDevice(
                f"the scheduler at {self.address} cannot read what is sent to it; install jaxinit "
                f"{store.conditions()['versions']['jaxinit']} beside it, with the extra `cluster`"
            ) from error
        except Exception as error:  # as an older version would
            raise NoDevice(
                f"worker {address} does not say what it is ({_first_line(error)}); install the "
                "version that is here"
            ) from error

    def _check(self, address: str, about: Mapping[str, Any]) -> None:
        """Raises: NoDevice for a worker that would not compute what is computed here."""
        here = {**store.conditions(), "arithmetic": about["conditions"]["arithmetic"]}
        changes = store.changed_conditions(about["conditions"], here)
        if changes:
            raise NoDevice(
                f"worker {address} is not as it is here ({'; '.join(changes)}); install the same "
                "there"
            )
        for other, known in self.known.items():
            changes = store.changed_conditions(known["conditions"], about["conditions"])
            if changes:
                raise NoDevice(
                    f"workers {other} and {address} round otherwise ({'; '.join(changes)}); start "
                    "workers that are alike"
                )
            kinds = known["device"]["kind"], about["device"]["kind"]
            if kinds[0] != kinds[1]:
                raise NoDevice(
                    f"worker {other} computes on {kinds[0]} and {address} on {kinds[1]}, which "
                    "round otherwise; start workers of one kind"
                )


async def _start_again(here: Any) -> None:
    """Start workers of this machine again that Dask has given up, as one that was killed while it
    started."""
    for name, nanny in list(here.workers.items()):
        if nanny.status.name in ("closed", "failed"):
            del here.workers[name]
    if len(here.workers) < len(here.worker_spec):
        here.scale(len(here.worker_spec))


def _silence() -> None:
    """What happens is said by us, in a line, and not by Dask's loggers, each of which has a level
    of its own."""
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "Mismatched versions found")  # a table; ours is a line


def _check_certificates() -> None:
    """Raises: NoDevice for a file of Dask's configuration of TLS that is not there."""
    import dask

    for which in ("ca-file", "client.cert", "client.key"):
        name = f"distributed.comm.tls.{which}"
        path = dask.config.get(name, None)  # pyright: ignore[reportPrivateImportUsage]
        if path and not os.path.isfile(path) and "-----BEGIN" not in str(path):
            raise NoDevice(f"{path}, Dask's {name}, is not there; give the path of a file")


def _local_cluster(distributed: Any, platform: str | None, deterministic: bool) -> Any:
    """A scheduler on the loopback, and a worker a core, or a GPU.

    Raises: NoDevice for a platform that is not here, BadStudy for one of which each worker would
    want all devices."""
    import dask

    # Workers read this when they start, also in a dead one's place.
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    # After 15 s Dask would give up one that starts again, which takes longer on a busy machine.
    dask.config.set({"distributed.deploy.lost-worker-timeout": PATIENCE})  # pyright: ignore[reportPrivateImportUsage]
    flags = sweep.one_thread(os.environ.get("XLA_FLAGS", ""))
    if platform not in (None, "cpu", "gpu"):
        raise BadStudy(f"workers that are started here are on cpu or gpu, got {platform!r}")
    gpus = [] if platform == "cpu" else gpus_of_this_machine()
    if platform == "gpu" and not gpus:
        raise NoDevice(lacking("gpu"))
    if deterministic and gpus:
        flags = f"{flags} {DETERMINISTIC}"
    workers: dict[int, Any] = {}
    own: list[dict[str, str]] = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    own = own or [{"JAX_PLATFORMS": "cpu"}] * sweep.available_cores()
    for number, its in enumerate(own):
        options = {
            "host": LOOPBACK,  # a worker runs whatever it is sent, and by itself listens to all
            "nthreads": 1,
            "env": {"XLA_FLAGS": flags} | its,
            "memory_limit": 0,
        }
        if "CUDA_VISIBLE_DEVICES" in its:
            options["resources"] = {"GPU": 1}
        workers[number] = {"cls": distributed.Nanny, "options": options}
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {
            "host": LOOPBACK,
            "port": 0,
            "dashboard": False,
            "dashboard_address": f"{LOOPBACK}:0",  # else a port that another study may have
        },
    }
    return distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50)


def gpus_of_this_machine() -> list[str]:
    """The NVIDIA GPUs that processes may use, by what CUDA_VISIBLE_DEVICES calls them, found
    without starting JAX, which would take their memory."""
    if "cuda" not in os.environ.get("JAX_PLATFORMS", "cuda"):
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except OSError:
        return []
    there = [str(number) for number, _ in enumerate(listed.stdout.splitlines())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if visible is None else [gpu for gpu in visible.split(",") if gpu]


class ClusterSweep:
    """A sweep as `sweep.Sweep`, of whoever is there of a cluster's workers."""

    def __init__(
        self,
        cluster: Cluster,
        question: Question,
        program: training.Program,
        counter: sweep.CompileCounter,
    ):
        self.cluster, self.question, self.program, self.counter = (
            cluster,
            question,
            program,
            counter,
        )
        self.mapping = question.mapping
        self.folder = Path(question.path) / PARTS
        self.posts: dict[str, Post] = {}
        self.suspects: dict[int, Point] = {}  # who were there when a worker died
        self.again: dict[int, Point] = {}  # who begin anew, and nobody is to blame
        self.deaths: defaultdict[int, float] = defaultdict(float)
        self.blamed: set[tuple[int, str]] = set()  # trials, and workers that raised with them alone
        self.said: dict[Point, str] = {}  # by trial, the last error of a worker that had it
        self.failures: dict[Point, str] = {}  # by trial that has failed, why
        self.budgets: dict[int, int] = {}
        self.slices = 0
        self.lost: list[sweep.Row] = []  # what those who died had written
        self.taken = {*self.folder.glob("*/*.part")}  # parts that the client need not read again
        self.calibrated: Reports = {}
        self.not_calibrated: dict[str, str] = {}  # by scheme, why
        (self.folder / question.session).mkdir(parents=True, exist_ok=True)

    def run(
        self, order: Callable[[int], sweep.Orders], like: sweep.Joining
    ) -> Iterator[tuple[list[sweep.Row], Away]]:
        """As `sweep.Sweep.run`; rows come as workers answer, and none while nobody does."""
        del like
        seen = time.monotonic()
        try:
            while True:
                orders = order(self._room())
                self._follow(orders)
                if not self.budgets:
                    return
                rows = self._failed() + self.lost
                self.lost = []
                self._send()
                rows += self._receive(patient=not rows)
                if self.posts:
                    seen = time.monotonic()
                elif time.monotonic() - seen > PATIENCE:
                    raise NoDevice(
                        f"all workers of {self.cluster.address} are gone; what was computed is "
                        "kept: start workers, and the same command goes on from there"
                    )
                rows = [row for row in rows if row.number in self.budgets]  # nobody gave them up
                for row in rows:
                    if row.outcome is not Outcome.UNFINISHED:
                        del self.budgets[row.number]
                yield rows, Away(dict.fromkeys(self.budgets, 0), {})
        finally:
            for post in self.posts.values():
                if post.future is not None:
                    post.future.cancel()

    def saved(self) -> None:
        """The client has saved all that it was told: what workers wrote of it is not needed."""
        for path in self.taken:
            path.unlink(missing_ok=True)
        self.taken.clear()

    def about(self) -> dict[str, Any]:
        """What study.json says of it: what calibrations report, and which trials have failed."""
        failures = {
            f"{point.scheme} at {point.rate:g}, seed {point.seed}": reason
            for point, reason in self.failures.items()
        }
        return {"calibrations": self.calibrated, "failures": failures | self.not_calibrated}

    def _room(self) -> int:
        """How many more trials the workers have room for: one where nothing is under way, since who
        has no workers for a moment still has to hear whether anything is wanted."""
        self._look()
        slots = sum(post.slots for post in self.posts.values())
        return max(slots - len(self.budgets), 0 if self.budgets else 1)

    def _look(self) -> None:
        """Who is there; the trials of those who are gone are to be tried alone."""
        present = self.cluster.workers()
        for address, devices in present.items():
            if address not in self.posts:
                slots = self.question.slots * devices
                self.posts[address] = Post(address, slots, self.cluster.resources(address))
        for address in [address for address in self.posts if address not in present]:
            self._mourn(self.posts.pop(address))

    def _mourn(self, post: Post) -> None:
        """What is left of a worker: what it has written, and trials that are to begin anew."""
        self._keep_written(post)
        self.suspects |= post.trials
        if post.alone:
            for number in post.trials:
                self.deaths[number] += LATE if post.answered else 1

    def _keep_written(self, post: Post) -> None:
        """Take up what a worker has written and not answered."""
        if post.future is not None:
            post.future.cancel()
        numbers = {point: number for number, point in post.trials.items()}
        self.taken.update(self._parts(post))
        for path in self._parts(post):
            for point, row in read_part(path, self.question.digest):
                if point in numbers:
                    self.lost.append(row._replace(number=numbers[point]))
                    post.trials.pop(numbers[point], None)

    def _parts(self, post: Post) -> list[Path]:
        """What a worker has written in its last slice."""
        return sorted((self.folder / self.question.session).glob(f"{post.number}-*.part"))

    def _follow(self, orders: sweep.Orders) -> None:
        """Do as the searches want."""
        for number in orders.given_up:
            self.budgets.pop(number, None)
            self.suspects.pop(number, None)
            self.again.pop(number, None)
            for post in self.posts.values():
                post.trials.pop(number, None)
        self.budgets |= orders.budgets or {}
        for joining in orders.joining:
            assert joining.point is not None
            self.again[joining.number] = joining.point
        free = [post for post in self.posts.values() if not post.alone]
        while free and self.again:
            number = next(iter(self.again))
            post = min(free, key=lambda post: len(post.trials))
            post.trials[number] = self.again.pop(number)
            post.anew.add(number)

    def _send(self) -> None:
        """Give every idle worker a slice of work."""
        for post in self.posts.values():
            if post.future is not None:
                continue
            if not post.trials:
                post.alone = False
                if self.suspects:
                    number = next(iter(self.suspects))
                    post.trials = {number: self.suspects.pop(number)}
                    post.anew = {number}
                    post.alone, post.answered = True, False
            if not post.trials:
                continue
            self.slices += 1
            post.number = self.slices
            budgets = {number: self.budgets[number] for number in post.trials}
            post.future = self.cluster.client.submit(
                advance,
                self.question,
                Work(self.slices, dict(post.trials), budgets, tuple(sorted(post.anew))),
                workers=[post.address],
                resources=post.resources,
                allow_other_workers=False,
                pure=False,
                retries=0,
            )
            post.anew = set()

    def _receive(self, patient: bool) -> list[sweep.Row]:
        """The rows of the workers that have answered; where we are patient, after a moment if none
        has."""
        rows: list[sweep.Row] = []
        busy = [post for post in self.posts.values() if post.future is not None]
        if busy and patient:
            futures = [post.future for post in busy]
            dask = self.cluster.distributed
            silent = (dask.TimeoutError, dask.CancelledError)
            with self.cluster.client.as_current(), contextlib.suppress(*silent):
                dask.wait(futures, LOOK, return_when="FIRST_COMPLETED")
        elif patient:
            time.sleep(LOOK)
        if any(post.future.status == "cancelled" for post in busy):
            self._begin_anew()
            return rows
        for post in busy:
            status = post.future.status
            if status == "pending":
                continue
            future, post.future = post.future, None
            if status == "lost":  # its worker died when it had answered, and nobody had asked
                self._blame(post, RuntimeError("the worker died with its answer"))
                continue
            self.taken.update(self._parts(post))
            if status == "finished":
                post.answered = True
                try:
                    done: Done = future.result(timeout=CONNECT)
                except Exception as error:  # it died before it could be asked
                    self._blame(post, error)
                    continue
                self.counter.count += done.compilations
                self.counter.seconds += done.compile_s
                self.calibrated |= done.calibrated
                self.not_calibrated |= done.failures
                for row in done.rows:
                    if row.number in post.trials:  # nobody gave it up meanwhile
                        rows.append(row)
                        if row.outcome is not Outcome.UNFINISHED:
                            del post.trials[row.number]
            else:
                self._blame(post, future.exception(timeout=CONNECT))
        return rows

    def _begin_anew(self) -> None:
        """The connection to the scheduler was lost, and what was sent with it: all trials under way
        begin anew, in a new session, since workers that are still there have gone on with them."""
        for post in self.posts.values():
            self._keep_written(post)
            self.again |= post.trials
        self.posts = {}
        self.question = self.question._replace(session=uuid.uuid4().hex[:12])
        (self.folder / self.question.session).mkdir(parents=True, exist_ok=True)

    def _blame(self, post: Post, error: Any) -> None:
        """A slice has ended in an error: of the study, of a worker's death, or of a trial."""
        if isinstance(error, BadStudy):
            raise BadStudy(f"worker {post.address}: {error}") from error
        self._keep_written(post)
        for number, point in post.trials.items():
            self.said[point] = _first_line(error)
            if post.alone:
                # One that is broken itself fails with every trial: others are asked first.
                everybody = all((number, address) in self.blamed for address in self.posts)
                if everybody or (number, post.address) not in self.blamed:
                    self.deaths[number] += 1
                self.blamed.add((number, post.address))
        self.suspects |= post.trials
        post.trials, post.alone = {}, False

    def _failed(self) -> list[sweep.Row]:
        """A row for each trial that has cost too many workers."""
        rows = []
        for number in [number for number in self.suspects if self.deaths[number] >= DEATHS]:
            point = self.suspects.pop(number)
            said = self.said.get(point, "the worker died")
            self.failures[point] = f"{DEATHS} workers or more failed with it alone: {said}"
            rows.append(sweep.Row.failed(number))
        return rows


def _first_line(error: Any) -> str:
    """What an error says, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
