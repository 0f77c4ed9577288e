"""Several processes with one model between them, by `jax.distributed`: the first leads, the others
follow.

    leader, where searches and folder are: a command, one line of JSON -> every follower
    all: the same program of JAX, each on its own devices

Commands and signs of life have a connection of their own, since JAX notices that a process has died
after 100 s, and ends the others with a core dump. Where one is gone, here, the others end at once,
and where nothing is heard from its machine any more, after `SILENCE` seconds: whoever is in the
midst of a sum over all devices cannot go on without it.
"""

import json
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxinit.console import PEER_GONE, handled, in_one_line, out_of_memory
from jaxinit.study import BadStudy, NoDevice

BEAT = 5.0  # seconds between two signs of life
SILENCE = 40.0  # after which a process counts as gone
FAREWELL = 5.0  # which the leader gives the others to end before it does
START = 120  # seconds in which all processes must come
GO_ON = "what was saved is kept: start all processes again, and the study goes on"
SIZE = 512  # bytes of an announcement


class Peers:
    """This process among those that share a model.

    `stop` is where the leader keeps the signals that asked it to stop; a follower's own signals are
    passed on to it.
    """

    def __init__(self, links: Sequence[socket.socket]):
        self.number, self.count = jax.process_index(), jax.process_count()
        self.stop: list[int] = []
        self._links = list(links)  # the leader's to all others, theirs to it
        self._heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._over = threading.Event()
        self._sending = threading.Lock()
        self._listening = []
        for number, link in enumerate(self._links, start=1 if self.leads else 0):
            link.settimeout(SILENCE)
            listening = threading.Thread(target=self._listen, args=(link, number), daemon=True)
            listening.start()
            self._listening.append(listening)
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def leads(self) -> bool:
        return self.number == 0

    def tell(self, do: str, **what: Any) -> None:
        """Say to all others what is done next."""
        line = json.dumps({"do": do, **what}).encode() + b"\n"
        with self._sending:
            for link in self._links:
                try:
                    link.sendall(line)
                except OSError:  # who listens to it says that it is gone
                    continue

    def commands(self) -> Iterator[dict[str, Any]]:
        """What the leader says, until it ends."""
        while True:
            command = self._heard.get()
            yield command
            if command["do"] == "end":
                return

    def end(self, **what: Any) -> None:
        """The leader is done: it lets the others end, and nobody is missed any more."""
        self._over.set()
        self.tell("end", **what)
        deadline = time.monotonic() + FAREWELL
        for listening in self._listening:
            listening.join(max(deadline - time.monotonic(), 0))

    @contextmanager
    def following(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM of a follower ask the leader to stop."""

        def pass_on(number: int, frame: object) -> None:
            self.tell("stop")

        with handled(pass_on), watched(self):
            yield

    @property
    def over(self) -> bool:
        """Whether the leader has ended."""
        return self._over.is_set()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self.tell("live")

    def _listen(self, link: socket.socket, number: int) -> None:
        try:
            for line in lines(link):
                said = json.loads(line)
                if said["do"] == "end":
                    self._over.set()
                if said["do"] == "stop" and not self.stop:
                    self.stop.append(signal.SIGTERM)
                elif said["do"] not in ("live", "stop"):
                    self._heard.put(said)
        except (OSError, ValueError):
            pass
        if not self._over.is_set():
            leave(f"process {number} of {self.count} is gone")


def leave(why: str) -> NoReturn:
    """End this process at once, as a kill would, which loses nothing that was saved."""
    sys.stderr.write(f"\njaxinit: {why}; {GO_ON}\n")
    sys.stderr.flush()
    os._exit(PEER_GONE)


def lines(link: socket.socket) -> Iterator[bytes]:
    """The whole lines that come over a connection, until it ends."""
    rest = b""
    while received := link.recv(2**16):
        *whole, rest = (rest + received).split(b"\n")
        yield from whole


@contextmanager
def led(peers: Peers | None) -> Iterator[None]:
    """What the leader does; where it fails the others are told why, and end too."""
    try:
        with watched(peers):
            yield
    except BaseException as error:
        if peers is not None:
            refused = isinstance(error, BadStudy)
            peers.end(complete=False, error=in_one_line(error), refused=refused)
        raise


@contextmanager
def watched(peers: Peers | None) -> Iterator[None]:
    """What fails inside because another process has died says that alone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if peers is not None and not out_of_memory(error):
            time.sleep(SILENCE + 2 * BEAT)  # by then whoever listens has ended this process
        raise


_joined: list[Peers] = []


def joined() -> bool:
    """Whether this process is one of several."""
    return bool(_joined)


def join(
    address: str | None = None,
    count: int | None = None,
    number: int | None = None,
    platform: str | None = None,
) -> Peers | None:
    """Make this process one of `count` that share a model, the `number`-th from 0 on, of which
    process 0 listens at `address`, HOST:PORT; what is None SLURM, MPI or Kubernetes says.

    To be called before the first JAX operation. None for a single process.
    Raises: BadStudy for an address that is none, NoDevice where not all processes come in time.
    """
    if platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
    host = None
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise BadStudy(f"the address of process 0 is HOST:PORT, got {address!r}")
        if number:
            _await(host, int(port))
    try:
        jax.distributed.initialize(address, count, number, initialization_timeout=START)
    except (RuntimeError, ValueError) as error:
        raise NoDevice(
            f"the processes did not find each other ({in_one_line(error)}); start as many "
            "as --num-processes says, each with its --process-id and all with one "
            "--coordinator-address"
        ) from error
    if jax.process_count() == 1:
        return None
    with _silent():  # Gloo tells of its connections
        jax.block_until_ready(multihost_utils.process_allgather(np.zeros(jax.local_device_count())))
        try:
            _joined.append(Peers(_meet(host or socket.gethostname())))
        except OSError as error:
            raise NoDevice(
                f"the processes do not reach process 0 at {host or socket.gethostname()} "
                f"({error}); open the ports between the machines, or give --coordinator-address"
            ) from error
    return _joined[-1]


def _await(host: str, port: int) -> None:
    """Wait for process 0: JAX would end with a core dump where it does not come."""
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection((host, port), timeout=BEAT).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise NoDevice(
                    f"process 0 does not answer at {host}:{port} ({error}); start it, or look at "
                    "host and port"
                ) from error
            time.sleep(0.2)


def _meet(host: str) -> list[socket.socket]:
    """Connections between the leader and all others, who know each other by a word that JAX's own
    connection has carried."""
    if jax.process_index():
        said = json.loads(bytes(broadcast(np.zeros(SIZE, np.uint8))).decode())
        link = socket.create_connection((said["host"], said["port"]), timeout=START)
        link.sendall(
            json.dumps({"word": said["word"], "number": jax.process_index()}).encode() + b"\n"
        )
        return [link]
    word = secrets.token_hex(16)
    # At the loopback alone where the address is; else this machine may not know itself as `host`.
    with socket.create_server((host if host.startswith("127.") else "", 0)) as server:
        server.settimeout(START)
        port = server.getsockname()[1]
        said = json.dumps({"host": host, "port": port, "word": word}).encode().ljust(SIZE)
        broadcast(np.frombuffer(said, np.uint8))
        links: dict[int, socket.socket] = {}
        while len(links) < jax.process_count() - 1:
            link, _ = server.accept()
            link.settimeout(BEAT)
            try:
                hello = json.loads(next(lines(link)))
                if secrets.compare_digest(hello["word"], word):
                    links[hello["number"]] = link
            except (OSError, ValueError, KeyError, TypeError, StopIteration):
                link.close()  # whoever that was
    return [links[number] for number in sorted(links)]


def broadcast(value: np.ndarray) -> np.ndarray:
    """The leader's array, on every process; others give one of its shape and dtype."""
    return np.asarray(multihost_utils.broadcast_one_to_all(value))


@contextmanager
def _silent() -> Iterator[None]:
    """What libraries print, past Python, goes nowhere."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    try:
        yield
    finally:
        for number, before in enumerate(kept, start=1):
            os.dup2(before, number)
            os.close(before)
        os.close(nowhere)
