"""Studies on workers: the same records whoever dies, and a line for what cannot be.

Most tests have workers in this process, whose deaths they choose; one starts Dask's own.
"""

import gc
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import jax
import numpy as np
import pytest
import xarray as xr
from cases import quick
from pieces import in_pieces
from short_study import STUDY

from jaxinit.analysis import store
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import Point
from jaxinit.analysis.store import Result
from jaxinit.analysis.study_figures import draw_all
from jaxinit.engine import campaign, cluster, initial, sweep
from jaxinit.engine.cluster import Cluster, Question, Session, Work
from jaxinit.engine.identity import combined, identify
from jaxinit.engine.resolve import resolve
from jaxinit.study import BadStudy, NoDevice

store_conditions = store.conditions
LONG = replace(STUDY, target=0.99, lrs=(0.1,), seeds=4)


class Workers(Cluster):
    """Stands for `Cluster`, and for Dask's client: workers in this process.

    `dies(address, work)` says whether a worker is to die in a slice: None for no, `before` it
    does anything, `after` it has written what it did, but before it answers, or when it has
    `answered` and nobody has asked. One that dies is replaced at once.
    """

    def __init__(self, dies: Callable[[str, Work], str | None] = lambda address, work: None):
        self.dies = dies
        self.address = "here"
        self.client = self
        self.distributed = SimpleNamespace(
            wait=lambda *a, **k: None, TimeoutError=TimeoutError, CancelledError=CancelledError
        )
        self.sessions: dict[str, Session | None] = {"worker 0": None, "worker 1": None}
        self.sent: list[tuple[Question, Work]] = []
        self.died = 0

    @property
    def device(self) -> dict[str, Any]:
        return sweep.described("map")

    @property
    def conditions(self) -> dict[str, Any]:
        return store.conditions()

    def workers(self) -> dict[str, int]:
        return dict.fromkeys(self.sessions, jax.device_count())

    def resources(self, address: str) -> dict[str, int]:
        return {}

    def as_current(self) -> Any:
        return jax.named_scope("nothing")

    def submit(self, function: Any, question: Question, work: Work, workers: list[str], **_: Any):
        (address,) = workers
        self.sent.append((question, work))
        death = self.dies(address, work)
        future = SimpleNamespace(status="pending", cancel=lambda: None)
        if death != "before":
            try:
                session = self.sessions[address]
                if session is None or session.question.session != question.session:
                    session = Session(question)
                self.sessions[address] = session
                done = session.advance(work)
            except Exception as error:
                future.status, future.exception = "error", lambda timeout, error=error: error
                return future
            future.result = lambda timeout: done
        if death is None:
            future.status = "finished"
        elif death == "answered":
            future.status = "lost"
        if death is not None:
            del self.sessions[address]
            self.died += 1
            self.sessions[f"worker {len(self.sent) + 1}"] = None
        return future


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return campaign.run(LONG, out=tmp_path_factory.mktemp("whole") / "s", progress=False)


def run(out: Path, workers: Any, **options: Any) -> Result:
    return campaign.run(
        LONG, out=out, progress=False, cluster=workers, slots_per_device=1, **options
    )


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of epochs in a slice, so that every trial takes several."""
    in_pieces(monkeypatch)
    monkeypatch.setattr(cluster, "SLICE", 1e-9)


def test_workers_leave_the_records_of_one_process(
    whole: Result, tmp_path: Path, short_slices: None
) -> None:
    workers = Workers()
    done = run(tmp_path / "s", workers)
    xr.testing.assert_identical(done.records, whole.records)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "manifest.json",
        "records.nc",
        "study.json",
        "summary.json",
    ]
    # What is sent is a study and trials by number and point, and no array.
    assert len(workers.sent) > 3
    assert max(len(pickle.dumps(sent)) for sent in workers.sent) < 6000


@pytest.mark.parametrize("when", quick("before", of=["before", "after", "answered"]))
def test_a_death_costs_nothing_that_was_finished(
    when: str, whole: Result, tmp_path: Path, short_slices: None
) -> None:
    """The third and the fifth slice end a worker, of which the latter ends trials."""
    workers = Workers(lambda address, work: when if work.number in (3, 4) else None)
    done = run(tmp_path / "s", workers)
    assert workers.died == 2
    xr.testing.assert_identical(done.records, whole.records)
    if when != "before":  # what had ended was written, and is not done again
        again = [work for _, work in workers.sent if work.number > 4]
        assert not any(set(range(8)) & set(work.budgets) for work in again)


def test_a_trial_that_kills_its_workers_has_failed_and_costs_no_other(
    whole: Result, tmp_path: Path, short_slices: None
) -> None:
    poison = Point("orthogonal", 0.1, LONG.first_seed + 1)
    workers = Workers(lambda address, work: "before" if poison in work.points.values() else None)
    done = run(tmp_path / "s", workers)
    assert workers.died == 1 + cluster.DEATHS  # with others first, then alone
    records = done.records
    failed = records.outcome.values == Outcome.FAILED
    assert failed.sum() == 1
    assert records.scheme.values[failed] == poison.scheme
    assert records.seed.values[failed] == poison.seed
    for name in records.data_vars:
        xr.testing.assert_equal(
            records[name].isel(trial=~failed), whole.records[name].isel(trial=~failed)
        )
    (row,) = [row for row in done.summary["table"] if row["scheme"] == poison.scheme]
    assert row["diverged"] + row["censored"] + row["converged"] == LONG.seeds
    assert any(
        note.startswith(f"failed, and counted with those that diverged: {poison.scheme} at 0.1")
        for note in done.summary["notes"]
    )


def test_a_trial_that_raises_has_failed_and_costs_no_other(
    whole: Result, tmp_path: Path, short_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker lives on, and what else it was training begins anew."""
    poison = Point("orthogonal", 0.1, LONG.first_seed + 1)
    note = Session._note

    def raises(self: Session, rows: Any) -> None:
        if poison in [self.work.points[row.number] for row in rows]:
            raise ValueError("no such number")
        note(self, rows)

    monkeypatch.setattr(Session, "_note", raises)
    done = run(tmp_path / "s", Workers())
    failed = done.records.outcome.values == Outcome.FAILED
    assert failed.sum() == 1
    xr.testing.assert_equal(
        done.records.metric.isel(trial=~failed), whole.records.metric.isel(trial=~failed)
    )
    assert any("ValueError: no such number" in note for note in done.summary["notes"])


def test_a_worker_that_cannot_write_answers_all_the_same(
    whole: Result, tmp_path: Path, short_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cluster, "write_part", full)
    xr.testing.assert_identical(run(tmp_path / "s", Workers()).records, whole.records)


@pytest.mark.slow
def test_a_trial_whose_workers_die_by_chance_has_not_failed(
    whole: Result, tmp_path: Path, short_slices: None
) -> None:
    """Four die with it, each after it has answered, as where workers are lent for a while."""
    unlucky = Point("orthogonal", 0.1, LONG.first_seed + 1)
    answered: dict[str, int] = {}
    died = []

    def dies(address: str, work: Work) -> str | None:
        if unlucky not in work.points.values() or len(died) > cluster.DEATHS:
            return None
        answered[address] = answered.get(address, 0) + 1
        if answered[address] < 2:
            return None
        died.append(address)
        return "before"

    done = run(tmp_path / "s", Workers(dies))
    assert len(died) == cluster.DEATHS + 1
    xr.testing.assert_identical(done.records, whole.records)


@pytest.mark.slow
def test_a_scheme_that_no_worker_survives_is_a_row_of_the_answer(
    whole: Result, tmp_path: Path, short_slices: None
) -> None:
    def dies(address: str, work: Work) -> str | None:
        poisoned = any(point.scheme == "orthogonal" for point in work.points.values())
        return "before" if poisoned else None

    done = run(tmp_path / "s", Workers(dies))
    (row,) = [row for row in done.summary["table"] if row["scheme"] == "orthogonal"]
    assert row["diverged"] == LONG.seeds
    others = done.records.scheme.values != "orthogonal"
    assert (done.records.outcome.values[~others] == Outcome.FAILED).all()
    xr.testing.assert_equal(
        done.records.isel(trial=others).valid_loss, whole.records.isel(trial=others).valid_loss
    )
    assert draw_all(done.records, tmp_path / "figures")


@pytest.mark.slow  # test_campaign has it without workers
def test_a_scheme_that_cannot_be_calibrated_has_failed_on_workers_as_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(*args: Any) -> Any:
        raise ValueError("no answer")

    monkeypatch.setattr(initial, "_calibrated", no_answer)
    study = replace(LONG, schemes=("small_normal", "orthogonal+lsuv"))
    options = {"progress": False, "slots_per_device": 1}
    here = campaign.run(study, out=tmp_path / "here", **options)
    there = campaign.run(study, out=tmp_path / "there", cluster=Workers(), **options)
    xr.testing.assert_identical(there.records, here.records)
    assert there.about["failures"] == here.about["failures"] == {"orthogonal+lsuv": "no answer"}
    again = campaign.run(replace(study, seeds=5), out=tmp_path / "baseline", **options)
    failed = again.records.scheme.values == "orthogonal+lsuv"
    assert (again.records.outcome.values[failed] == Outcome.FAILED).all()


def test_a_moment_without_workers_does_not_end_a_study(
    whole: Result, tmp_path: Path, short_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its start, and whenever nothing is under way."""
    monkeypatch.setattr(cluster, "LOOK", 0.0)
    looks, looked = iter(range(10**9)), cluster.ClusterSweep._look

    def look(self: Any) -> None:
        if self.budgets or next(looks) % 3 == 2:
            looked(self)
        else:
            self.posts.clear()

    monkeypatch.setattr(cluster.ClusterSweep, "_look", look)
    workers = Workers()
    done = run(tmp_path / "s", workers)
    xr.testing.assert_identical(done.records, whole.records)


@pytest.mark.slow
def test_a_scheduler_that_comes_back_costs_what_was_under_way(
    whole: Result, tmp_path: Path, short_slices: None
) -> None:
    """What was sent is cancelled, though the workers did it."""
    workers = Workers()
    submit = workers.submit

    def lost(function: Any, question: Question, work: Work, **options: Any) -> Any:
        future = submit(function, question, work, **options)
        if work.number in (1, 3):
            future.status = "cancelled"
        return future

    workers.submit = lost  # pyright: ignore[reportAttributeAccessIssue]
    done = run(tmp_path / "s", workers)
    xr.testing.assert_identical(done.records, whole.records)
    assert len({question.session for question, _ in workers.sent}) > 1


def test_trials_of_a_slice_that_failed_begin_anew(
    whole: Result, tmp_path: Path, short_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a worker had no memory for a moment; it goes on as it was."""
    pieces, failed = sweep.Sweep._piece, []

    def short_of_memory(self: Any, *args: Any) -> Any:
        if not failed:
            failed.append(True)
            raise MemoryError("no more")
        return pieces(self, *args)

    monkeypatch.setattr(sweep.Sweep, "_piece", short_of_memory)
    done = run(tmp_path / "s", Workers())
    xr.testing.assert_identical(done.records, whole.records)


def test_a_client_that_was_stopped_goes_on_from_what_workers_wrote(
    whole: Result, tmp_path: Path, short_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client dies between two answers, and has saved nothing of the last."""
    monkeypatch.setattr(campaign, "SAVE_EVERY", 1e9)
    receive = cluster.ClusterSweep._receive

    def killed(self: Any, patient: bool) -> Any:
        rows = receive(self, patient)
        if any(row.outcome is not Outcome.UNFINISHED for row in rows):
            raise RuntimeError("killed")
        return rows

    with monkeypatch.context() as patched:
        patched.setattr(cluster.ClusterSweep, "_receive", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(tmp_path / "s", Workers())
    written = cluster.take_parts(tmp_path / "s", str(whole.about["digest"]))
    assert written
    # What is left was computed under these versions, and goes on under no others.
    with monkeypatch.context() as patched:
        versions = store.conditions()["versions"] | {"jax": "0.0"}
        patched.setattr(store, "conditions", lambda: {**store_conditions(), "versions": versions})
        with pytest.raises(BadStudy, match=r"begun under other conditions .* 0\.0 here"):
            run(tmp_path / "s", Workers())
    workers = Workers()
    done = run(tmp_path / "s", workers)
    xr.testing.assert_identical(done.records, whole.records)
    points = {point for _, work in workers.sent for point in work.points.values()}
    assert not points & {point for point, _ in written}


def test_a_torn_part_is_no_answer(tmp_path: Path) -> None:
    rows = cluster.traces([[1.0], [2.0], [3.0], [4.0]])
    row = sweep.Row(0, 0, 1, rows, Outcome.DIVERGED)
    point = Point("orthogonal", 0.1, 3)
    cluster.write_part(tmp_path / "a.part", "this", [(point, row)])
    ((read, its),) = cluster.read_part(tmp_path / "a.part", "this")
    assert read == point
    assert its.outcome is Outcome.DIVERGED
    assert [float(trace[0]) for trace in its.records] == [1.0, 2.0, 3.0, 4.0]
    content = (tmp_path / "a.part").read_bytes()
    assert cluster.read_part(tmp_path / "a.part", "another") == []
    for torn in (content[:-1], b"", content[:70] + b"x" + content[71:]):
        (tmp_path / "a.part").write_bytes(torn)
        assert cluster.read_part(tmp_path / "a.part", "this") == []


@pytest.mark.slow  # test_campaign has it without workers
def test_a_signal_stops_a_study_on_workers_and_it_goes_on_here(
    whole: Result, tmp_path: Path, short_slices: None
) -> None:
    def stop(address: str, work: Work) -> None:
        if work.number == 3:
            signal.raise_signal(signal.SIGTERM)

    partial = run(tmp_path / "s", Workers(stop))
    assert not partial.complete
    done = campaign.run(LONG, out=tmp_path / "s", progress=False)
    xr.testing.assert_identical(done.records, whole.records)


def test_a_worker_that_sees_other_data_is_refused(tmp_path: Path, short_slices: None) -> None:
    workers = Workers()
    submit = workers.submit

    def elsewhere(function: Any, question: Question, work: Work, **options: Any) -> Any:
        return submit(function, question._replace(digest="another"), work, **options)

    workers.submit = elsewhere  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(BadStudy, match=r"worker worker 0: what the names of the study stand for"):
        run(tmp_path / "s", workers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schemes": {"mine": None}}, "do not see objects of this program"),
        ({"signals": 10}, "signals are not recorded on a cluster"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadStudy, match=message):
        run(tmp_path / "s", Workers(), **options)
    assert not (tmp_path / "s").exists()


def test_addresses_that_are_none_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadStudy, match=r"tcp://HOST:PORT or tls://HOST:PORT, got 'example'"):
        Cluster("example")
    monkeypatch.setattr(cluster, "CONNECT", 0.2)
    with pytest.raises(NoDevice, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 "):
        Cluster("tcp://127.0.0.1:9")


FREED_MEMORY = """
import resource
import sys
import numpy as np
from jaxinit.engine.cluster import keep_freed_memory

if "keeps" in sys.argv:
    keep_freed_memory()
for _ in range(50):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**21, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc, which macOS has not")
def test_a_worker_keeps_the_memory_that_dask_would_give_back() -> None:
    """Which would come back page by page: 8 MiB have 2,048 of 4 KiB, or fewer larger ones."""
    given = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}

    def pages(*words: str) -> int:
        command = [sys.executable, "-c", FREED_MEMORY, *words]
        return int(subprocess.run(command, env=given, capture_output=True, check=True).stdout)

    assert pages() > 0
    assert pages("keeps") == 0


def test_gpus_are_found_without_starting_jax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker for each, told which by CUDA_VISIBLE_DEVICES."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster.gpus_of_this_machine() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA'\necho 'GPU 1: NVIDIA'\n")
    tool.chmod(0o755)
    assert cluster.gpus_of_this_machine() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert cluster.gpus_of_this_machine() == ["3", "5"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert cluster.gpus_of_this_machine() == []


@pytest.mark.slow  # processes that start JAX and compile
def test_dasks_own_workers_and_a_kill(whole: Result, tmp_path: Path) -> None:
    with Cluster() as workers:
        started = {
            address: workers.client.run(os.getpid, workers=[address])[address]  # pyright: ignore
            for address in workers.workers()
        }
        # One would round otherwise than several.
        assert min(workers.workers().values()) > 1
        assert workers.client.scheduler_info()["address"].startswith("tcp://127.0.0.1")
        heard = workers.client.run(
            lambda dask_worker: [at.listen_address for at in dask_worker.listeners]
        )
        for where in heard.values():
            assert [at.rpartition(":")[0] for at in where] == ["tcp://127.0.0.1"]
        done = run(tmp_path / "s", workers)
        xr.testing.assert_identical(done.records, whole.records)
        os.kill(next(iter(started.values())), signal.SIGKILL)
        again = run(tmp_path / "t", workers)
        xr.testing.assert_identical(again.records, whole.records)


def test_a_trial_that_is_wanted_again_begins_anew(tmp_path: Path, short_slices: None) -> None:
    """It was given up while its slice was under way, so that what it did then is not known."""
    resolved = resolve(LONG)
    digest = combined(identify(resolved), LONG.plain())
    session = Session(Question.of(LONG, digest, tmp_path, "map", 1))
    points = {0: Point(LONG.schemes[0], 0.1, LONG.first_seed)}
    first = session.advance(Work(1, points, {0: 100}, (0,))).rows
    then = session.advance(Work(2, points, {0: 100})).rows
    anew = session.advance(Work(3, points, {0: 100}, (0,))).rows
    assert [row.first for row in (first[0], then[0], anew[0])] == [0, first[-1].last, 0]
    jax.tree.map(np.testing.assert_array_equal, anew[0].records, first[0].records)


def test_a_worker_that_comes_late_and_is_another_gets_no_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    workers = {"one": {"conditions": store.conditions(), "device": sweep.described("map")}}
    workers["two"] = workers["one"] | {
        "conditions": store.conditions() | {"versions": {"jax": "0"}}
    }
    there = Cluster.__new__(Cluster)
    there.address, there.here, there.known, there.unfit = "tcp://x:1", None, {}, set()
    there.client = SimpleNamespace(
        status="running",
        scheduler_info=lambda n_workers: {
            "workers": {"one": {}, "two": {"resources": {"GPU": 1.0}}}
        },
    )
    monkeypatch.setattr(there, "_described", workers.get)
    assert list(there.workers()) == list(there.workers()) == ["one"]
    said = capsys.readouterr().err
    assert said.count("worker two is not as it is here") == 1
    assert "it gets no work" in said
    assert (there.resources("one"), there.resources("two")) == ({}, {"GPU": 1})


@pytest.mark.parametrize(("ended_by", "is_asked_again"), [("CommClosedError", True), ("", False)])
def test_a_worker_that_is_cut_off_is_not_called_an_older_one(
    ended_by: str, is_asked_again: bool
) -> None:
    """A scheduler that dies while a worker says what it is cuts the connection: that says nothing
    of the worker, unlike an error of its own."""
    import distributed

    def answer(timeout: float) -> NoReturn:
        raise getattr(distributed.comm, ended_by)("closed") if ended_by else KeyError("conditions")

    there = Cluster.__new__(Cluster)
    there.distributed = distributed
    there.asked = {"one": SimpleNamespace(done=lambda: True, result=answer)}
    with nullcontext() if is_asked_again else pytest.raises(NoDevice, match="does not say what"):
        assert there._described("one") is None
    assert not there.asked


def test_a_scheduler_that_cannot_read_what_is_sent_is_named_and_not_the_worker() -> None:
    import distributed

    def answer(timeout: float) -> NoReturn:
        raise RuntimeError("Error during deserialization of the task graph.")

    there = Cluster.__new__(Cluster)
    there.distributed, there.address = distributed, "tcp://x:1"
    there.asked = {"one": SimpleNamespace(done=lambda: True, result=answer)}
    with pytest.raises(
        NoDevice, match=r"the scheduler at tcp://x:1 cannot read .* install jaxinit"
    ):
        there._described("one")


@pytest.mark.parametrize("asked", [{"platform": "gpu"}, {"deterministic": True}])
def test_workers_of_somebody_else_are_told_nothing_of_devices(asked: dict[str, Any]) -> None:
    with pytest.raises(BadStudy, match=r"were started elsewhere.*leave out --platform and --det"):
        Cluster("tcp://127.0.0.1:9", **asked)


def test_workers_are_started_on_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    import distributed as dask

    monkeypatch.setattr(dask, "SpecCluster", lambda **options: made.update(options))

    def environments(*asked: Any) -> list[dict[str, str]]:
        cluster._local_cluster(dask, *asked)
        return [its["options"]["env"] for its in made["workers"].values()]

    monkeypatch.setattr(cluster, "gpus_of_this_machine", lambda: ["0", "1"])
    assert [its["CUDA_VISIBLE_DEVICES"] for its in environments("gpu", True)] == ["0", "1"]
    assert all(cluster.DETERMINISTIC in its["XLA_FLAGS"] for its in environments(None, True))
    assert not any(cluster.DETERMINISTIC in its["XLA_FLAGS"] for its in environments(None, False))
    assert {its["JAX_PLATFORMS"] for its in environments("cpu", True)} == {"cpu"}
    monkeypatch.setattr(cluster, "gpus_of_this_machine", list)
    with pytest.raises(NoDevice, match="no GPU where one was asked for"):
        environments("gpu", False)
    with pytest.raises(BadStudy, match="on cpu or gpu, got 'tpu'"):
        environments("tpu", False)


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    import dask
    import distributed  # noqa: F401  it adds its own settings when it is first imported

    missing = str(tmp_path / "ca.pem")
    with (
        dask.config.set({"distributed.comm.tls.ca-file": missing}),
        pytest.raises(NoDevice, match=rf"{missing}, Dask's distributed.comm.tls.ca-file, is not"),
    ):
        Cluster("tls://127.0.0.1:9")


def certificate(folder: Path, name: str) -> dict[str, str]:
    """A certificate that is its own authority, and its key, as Dask's configuration names them."""
    key, cert = (str(folder / f"{name}-{part}.pem") for part in ("key", "cert"))
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=jaxinit",
    ]
    subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True)
    where = "distributed.comm.tls"
    return {
        f"{where}.ca-file": cert,
        **{f"{where}.{who}.cert": cert for who in ("client", "scheduler", "worker")},
        **{f"{where}.{who}.key": key for who in ("client", "scheduler", "worker")},
    }


@pytest.fixture
def sockets_are_closed() -> Iterator[None]:
    """Dask leaves connections open that were refused; when one is collected, some later test would
    fail."""

    def there() -> list[socket.socket]:
        sockets = [thing for thing in gc.get_objects() if issubclass(type(thing), socket.socket)]
        return [one for one in sockets if one.family == socket.AF_INET]

    before = there()
    yield
    for left in there():
        if all(left is not other for other in before):
            left.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_tls_is_passed_through_and_never_left_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sockets_are_closed: None
) -> None:
    """With the right certificates the scheduler is reached, which has no workers; with others, or
    where it has none, nothing is sent."""
    import dask
    import distributed

    monkeypatch.setattr(cluster, "FIRST_WORKER", 0.0)
    monkeypatch.setattr(cluster, "CONNECT", 3.0)
    alone = {"n_workers": 0, "processes": False, "dashboard_address": None}
    right, wrong = certificate(tmp_path, "right"), certificate(tmp_path, "wrong")
    with dask.config.set(right), distributed.LocalCluster(protocol="tls://", **alone) as there:
        with pytest.raises(NoDevice, match=r"the scheduler at tls://.* has no workers"):
            Cluster(there.scheduler_address)
        with dask.config.set(wrong), pytest.raises(NoDevice, match="no scheduler answers at tls:"):
            Cluster(there.scheduler_address)
        plain = there.scheduler_address.replace("tls://", "tcp://")
        with pytest.raises(NoDevice, match="no scheduler answers at tcp:"):
            Cluster(plain)
    with distributed.LocalCluster(protocol="tcp://", **alone) as there, dask.config.set(right):
        asked = there.scheduler_address.replace("tcp://", "tls://")
        with pytest.raises(NoDevice, match="no scheduler answers at tls:"):
            Cluster(asked)
