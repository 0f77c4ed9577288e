"""Commands of jaxinit in processes of their own, to be killed: each is forked from one that has
imported everything and computed nothing, so that a life costs what it computes."""

import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxinit import cli
from jaxinit.analysis import store
from jaxinit.engine import campaign
from jaxinit.study import BadStudy

IMPORTED = ["jaxinit.cli", "jaxinit.engine.again", "jaxinit.analysis.report", "sklearn.datasets"]
SAVE_EVERY = 0.5  # seconds between saved states, so that short studies have several
GONE = 30.0  # seconds in which the children of a process that was killed must be gone
LIFE = itertools.count()
FORKED: Any = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(IMPORTED)


class Life:
    """A process that carries out a command, and what it says on the error stream."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        save_every: float = SAVE_EVERY,
        costs: Path | None = None,
    ):
        self.said = folder.with_name(f"{folder.name}.{next(LIFE)}.said")
        self.said.touch()
        command = [*words, "--out", str(folder), "--quiet"]
        arguments = (command, self.said, save_every, costs)
        self.process = FORKED.Process(target=live, args=arguments)
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def going(self) -> bool:
        return self.process.is_alive()

    def ended(self, within: float | None = None) -> bool:
        """Whether it ends, in so many seconds."""
        self.process.join(within)
        return not self.process.is_alive()

    def finish(self) -> tuple[int, str]:
        """Its exit code, when it has ended, and its errors."""
        self.process.join()
        return self.process.exitcode, self.said.read_text()

    def kill(self) -> int:
        """Kill it, as no handler sees; how many of its children outlive it."""
        children = descendants(self.pid)
        self.process.kill()
        self.process.join()
        deadline = time.monotonic() + GONE
        while (left := [pid for pid in children if runs(pid)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return len(left)


def live(words: Sequence[str], said: Path, save_every: float, costs: Path | None) -> None:
    """Carry out a command without its figures, and end with its exit code; with `costs`, say there
    what it has cost."""
    with said.open("w") as errors, Path(os.devnull).open("w") as nowhere:
        os.dup2(errors.fileno(), 2)
        os.dup2(nowhere.fileno(), 1)
    campaign.SAVE_EVERY = save_every
    cli._draw = lambda result: ""
    spent = timed("_save"), timed("train")
    began = time.monotonic()
    code = cli.main(words)
    if costs is not None:
        usage = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        saving, training = (sum(times) for times in spent)
        about = {
            "saving": saving,
            "training": training,
            "saves": len(spent[0]),
            "wall": time.monotonic() - began,
            "cpu": sum(one.ru_utime + one.ru_stime for one in usage),
        }
        costs.write_text(json.dumps(about))
    sys.exit(code)


def timed(name: str) -> list[float]:
    """The seconds of every call of a method of `Campaign` from now on."""
    method, seconds = getattr(campaign.Campaign, name), []

    def measured(*args: Any) -> Any:
        began = time.monotonic()
        try:
            return method(*args)
        finally:
            seconds.append(time.monotonic() - began)

    setattr(campaign.Campaign, name, measured)
    return seconds


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers_of(pid: int) -> list[int]:
    """Dask's workers that a client has started."""
    found = []
    for child in descendants(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_text()
        except OSError:
            continue
        if "spawn_main" in words and runs(child):
            found.append(child)
    return found


def readable(folder: Path) -> bool:
    """Whether a study that was killed can be looked at, or has nothing yet that could."""
    try:
        store.load(folder)
    except BadStudy as error:
        return "no records yet" in str(error) or "holds no study" in str(error)
    except Exception as error:
        print(f"traceback: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True
