"""Processes that share a model: what they say to each other, and, in processes of their own, the
same records, whoever dies."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr

from jaxinit.analysis import store
from jaxinit.cli import main
from jaxinit.console import INTERRUPTED, REFUSED
from jaxinit.engine import campaign, peers
from jaxinit.engine.peers import PEER_GONE, Peers, led
from jaxinit.study import BadStudy

STUDY = ["--model", "mlp", "--hidden", "16", "--schemes", "orthogonal", "small_normal"]
STUDY += ["--baseline", "small_normal", "--search", "grid", "--lrs", "0.1", "--seeds", "2"]
STUDY += ["--epochs", "6", "--target", "0.99", "--platform", "cpu"]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Peers, socket.socket, list[str]]]:
    """A leader, the other end of its connection to a follower, and why it would have left."""
    left: list[str] = []
    monkeypatch.setattr(peers, "leave", left.append)
    monkeypatch.setattr(peers, "BEAT", 0.01)
    monkeypatch.setattr(peers, "SILENCE", 0.5)
    monkeypatch.setattr(peers, "FAREWELL", 0.1)
    here, there = socket.socketpair()
    leader = Peers([here])
    yield leader, there, left
    leader.end(complete=True)
    there.close()
    for listening in leader._listening:
        listening.join()
    here.close()


def wait_for(what) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_follower_that_dies_is_named(pair) -> None:
    _, there, left = pair
    there.close()
    wait_for(lambda: left)
    assert left == ["process 1 of 1 is gone"]


def test_a_follower_that_is_silent_is_named(pair) -> None:
    _, there, left = pair
    there.sendall(b'{"do": "live"}\n')
    wait_for(lambda: left)
    assert left == ["process 1 of 1 is gone"]


def test_nobody_is_missed_after_the_end(pair) -> None:
    leader, there, left = pair
    leader.end(complete=True)
    there.close()
    for listening in leader._listening:
        listening.join()
    assert not left


def test_a_followers_signal_asks_the_leader_once(pair) -> None:
    leader, there, _ = pair
    there.sendall(b'{"do": "st')
    there.sendall(b'op"}\n{"do": "stop"}\n')
    wait_for(lambda: leader.stop)
    assert leader.stop == [signal.SIGTERM]


def test_a_followers_stop_is_no_second_signal() -> None:
    """As when all processes are asked at once, and the leader hears of another one's first."""
    with campaign._stop_requests() as stop:
        stop.append(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert stop == [signal.SIGTERM] * 2


def test_the_others_are_told_why_the_leader_has_failed(pair) -> None:
    leader, there, left = pair
    with pytest.raises(BadStudy), led(leader):
        raise BadStudy("the folder\nis another's")
    there.settimeout(5)
    said = [json.loads(line) for line in there.recv(2**16).splitlines()]
    assert said[-1] == {
        "do": "end",
        "complete": False,
        "error": "the folder is another's",
        "refused": True,
    }
    assert not left


@pytest.mark.parametrize("address", ["10.0.0.1", "host:port", ":99"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(BadStudy, match=f"is HOST:PORT, got '{address}'"):
        peers.join(address, 2, 0)


def test_numbers_of_processes_need_processes(capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "--num-processes", "2"]) == REFUSED
    assert "give --distributed too" in capsys.readouterr().err


def start(count: int, out: Path, *more: str) -> list[subprocess.Popen]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = [sys.executable, "-m", "jaxinit", "run", "--distributed", *STUDY, "--out", str(out)]
    words += ["--coordinator-address", f"127.0.0.1:{port}", "--num-processes", str(count), *more]
    return [
        subprocess.Popen(
            [*words, "--process-id", str(number)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def ends(started: list[subprocess.Popen], within: float) -> list[tuple[int, list[str]]]:
    """How processes end: exit codes and the last line of each."""
    deadline = time.monotonic() + within
    found = []
    for process in started:
        _, said = process.communicate(timeout=max(deadline - time.monotonic(), 1))
        found.append((process.returncode, [line for line in said.splitlines() if line]))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """The records of two processes that nobody disturbs."""
    out = tmp_path_factory.mktemp("peers") / "whole"
    assert [code for code, _ in ends(start(2, out), 300)] == [0, 0]
    return store.load(out).records


def wait_for_state(out: Path) -> None:
    deadline = time.monotonic() + 120
    while not (out / store.STATE).exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_when_one_is_killed_the_other_ends_and_the_study_goes_on(
    whole: xr.Dataset, tmp_path: Path, dies: int
) -> None:
    out = tmp_path / "s"
    started = start(2, out, "--quiet")
    wait_for_state(out)
    started[dies].kill()
    (left,) = ends([started[1 - dies]], 60)
    assert left[0] == PEER_GONE
    assert left[1] == [f"jaxinit: process {dies} of 2 is gone; {peers.GO_ON}"]
    started[dies].communicate()
    assert [code for code, _ in ends(start(2, out), 300)] == [0, 0]
    xr.testing.assert_identical(store.load(out).records, whole)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_one_that_is_asked_to_stop_stops_all(whole: xr.Dataset, tmp_path: Path, asked: int) -> None:
    out = tmp_path / "s"
    started = start(2, out)
    wait_for_state(out)
    started[asked].send_signal(signal.SIGTERM)
    assert [code for code, _ in ends(started, 30)] == [INTERRUPTED, INTERRUPTED]
    assert [code for code, _ in ends(start(2, out), 300)] == [0, 0]
    xr.testing.assert_identical(store.load(out).records, whole)


@pytest.mark.slow
def test_four_processes_train_as_one_does_within_rounding(tmp_path: Path) -> None:
    assert [code for code, _ in ends(start(4, tmp_path / "four"), 400)] == [0] * 4
    four = store.load(tmp_path / "four")
    one = subprocess.run(
        [sys.executable, "-m", "jaxinit", "run", *STUDY, "--out", str(tmp_path / "one"), "--quiet"]
    )
    assert one.returncode == 0
    alone = store.load(tmp_path / "one")
    assert four.about["processes"] == 4
    xr.testing.assert_allclose(four.records.train_loss, alone.records.train_loss, rtol=2e-3)


@pytest.mark.slow
def test_a_study_that_is_refused_ends_all_with_the_reason(
    whole: xr.Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    out.mkdir()
    (out / "mine").write_text("something of mine")
    found = ends(start(2, out), 120)
    assert [code for code, _ in found] == [REFUSED, REFUSED]
    assert all(len(said) == 1 for _, said in found)
    assert found[1][1][0].startswith("jaxinit: process 0 has ended: ")
