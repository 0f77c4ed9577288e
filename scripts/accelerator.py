"""What jaxinit does on the GPU or TPU of this machine: one command, unattended, without a network.

machine: devices, memory, versions, driver. tests: those marked `accelerator`. together: training
steps of many trials under vmap, and from how many trials on that is faster than one by one. large:
one large LSTM beside PyTorch, Flax NNX and cuDNN's through JAX, those that are installed and work
there. Every part is a process or several, and what fails is a row that says why; the exit code is
then 1. Rows of other libraries are left out where they do not work, which is no failure.

    scripts/accelerator [--quick] [--parts machine tests together large] [--json FILE]
    scripts/accelerator --devices 2    # on simulated devices, in small sizes, to try it out

Where there is no accelerator it runs on the CPU, in small sizes. JAX multiplies by its default
there, on newer NVIDIA GPUs in TF32, and so does PyTorch's cuDNN.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from variants import TOGETHER
from workers import VARIANTS, Workers, measure, start_workers, stop

ROOT = Path(__file__).parent.parent
MARK = "pytest.mark.accelerator"
PASSED, FAILED, LEFT_OUT = "passed", "FAILED", "left out"
ONE_BY_ONE = "ours, mapped over devices"  # of each device's trials one after another
OURS = ("ours", "plain jax.jit step")  # how our variants begin: they must work
LONGEST = 160  # characters of a reason
# By platform: the settings of `together`, and that of `large`.
SMALL = ("RNN H=16 T=8", "LSTM H=16 T=8"), "LSTM H=32 T=16"
WHOLE = ("RNN H=128 T=28", "LSTM H=128 T=28"), "LSTM H=1024 T=100"


@dataclass(frozen=True)
class Row:
    """A line of the table: what was done, what came of it, and the numbers for the file."""

    part: str
    what: str
    state: str
    result: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What the command line asks for, and what JAX finds here."""

    quick: bool
    limit: float  # seconds of a part
    folder: Path  # for the files of this run
    found: dict[str, Any]

    @property
    def platform(self) -> str:
        return self.found["platform"]


def machine(asked: Asked) -> Iterator[Row]:
    """What JAX finds, and the driver where it is known."""
    found, memory = asked.found, ""
    if found["devices"][0]["bytes"]:
        memory = f", {found['devices'][0]['bytes'] / 2**30:.0f} GiB each for JAX"
    words = f"{len(found['devices'])} x {found['devices'][0]['kind']}{memory}"
    if found["platform"] == "cpu":
        words += "; no GPU or TPU here, so all that follows is small and tells no speed"
    yield Row("machine", f"devices ({found['platform']})", PASSED, words, found)
    versions = [f"{name} {version}" for name, version in found["versions"].items()]
    yield Row("machine", "versions", PASSED, f"{', '.join(versions)}, Python {python()}")
    yield driver()


def look(limit: float) -> dict[str, Any]:
    """What JAX finds, told by a process of its own: ours leaves the memory of the device alone."""
    command = [sys.executable, str(VARIANTS), "machine"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(last_line(done.stderr))
    return json.loads(done.stdout)


def python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def driver() -> Row:
    """What NVIDIA's own tool says, where there is one."""
    query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, timeout=30)
        words = "; ".join(done.stdout.split("\n")).strip("; ")
    except (OSError, subprocess.TimeoutExpired):
        words = ""
    if not words:
        return Row("machine", "driver", LEFT_OUT, "nvidia-smi is not here, or does not answer")
    return Row("machine", "driver", PASSED, words, {"driver": words})


def tests(asked: Asked) -> Iterator[Row]:
    """The tests for accelerators, with what they have measured: each file in a process of its own,
    so that one that hangs or dies takes no other with it."""
    until = time.monotonic() + asked.limit
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if is_marked(path):
            yield from tests_of(path, asked, max(1.0, until - time.monotonic()))


def tests_of(path: Path, asked: Asked, limit: float) -> list[Row]:
    """The tests for accelerators of one file."""
    report = asked.folder / f"{path.stem}.xml"
    command = [sys.executable, "-m", "pytest", "-m", "accelerator", "-p", "no:cacheprovider"]
    command += [str(path), f"--junitxml={report}", *([] if asked.quick else ["--slow"])]
    done = run_within(limit, command)
    if done is None:
        return [
            Row("tests", path.name, FAILED, f"not done within {asked.limit:.0f} s of all tests")
        ]
    rows = [of_test(case) for case in xml.parse(report).iter("testcase")] if report.exists() else []
    if not rows or (done.returncode and not any(row.state == FAILED for row in rows)):
        reason = last_line(done.stderr or done.stdout)
        rows.append(Row("tests", path.name, FAILED, reason))
    return rows


def run_within(limit: float, command: list[str]) -> subprocess.CompletedProcess | None:
    """A command's end; None where it took too long and was ended, with all that it had started."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def is_marked(path: Path) -> bool:
    return MARK in path.read_text()


def of_test(case: xml.Element) -> Row:
    """The row of a test: what it measured, or why it failed."""
    name = (case.get("name") or "").removeprefix("test_").replace("_", " ")
    numbers = {"seconds": float(case.get("time") or 0)}
    for tag, state in (("failure", FAILED), ("error", FAILED), ("skipped", LEFT_OUT)):
        found = case.find(tag)
        if found is not None:
            return Row("tests", name, state, first_line(found.get("message") or ""), numbers)
    measured = [entry.get("value") or "" for entry in case.iter("property")]
    return Row("tests", name, PASSED, "; ".join(measured), numbers)


def together(asked: Asked) -> Iterator[Row]:
    """Training steps of many trials under vmap beside the same one by one."""
    counts = dict(TOGETHER)
    if asked.platform == "cpu":
        counts = {name: count for name, count in counts.items() if count <= 4}
    elif asked.quick:
        counts = {name: count for name, count in counts.items() if count in (1, 16, 256)}
    settings, _ = SMALL if asked.platform == "cpu" else WHOLE
    peers = ["Flax NNX, idiomatic", *torch_here(asked)]
    for setting, times, rows in timed(asked, "together", settings, [ONE_BY_ONE, *counts, *peers]):
        yield from rows
        if ONE_BY_ONE in times:
            yield overtaking(setting, times, counts)


def overtaking(setting: str, times: dict[str, list[float]], counts: dict[str, int]) -> Row:
    """From how many trials on vmap is faster than one by one, by the medians: at that number, and
    at every larger one."""
    alone = statistics.median(times[ONE_BY_ONE])
    measured = {count: times[name] for name, count in counts.items() if count > 1 and name in times}
    at = None
    for count in sorted(measured, reverse=True):
        if statistics.median(measured[count]) >= alone:
            break
        at = count
    words = f"vmap overtakes one by one at none of {', '.join(map(str, measured))} trials"
    if at is not None:
        words = f"vmap overtakes one by one at {at} trials, of {', '.join(map(str, measured))}"
    return Row("together", setting, PASSED, words, {"overtakes_at": at})


def large(asked: Asked) -> Iterator[Row]:
    """One large LSTM, ours beside others'."""
    _, setting = SMALL if asked.platform == "cpu" else WHOLE
    variants = ["plain jax.jit step", "ours, 1 together", "Flax NNX, idiomatic"]
    variants += torch_here(asked)
    if asked.platform == "gpu":
        variants.append("jax.experimental.rnn")
    for _, _, rows in timed(asked, "large", (setting,), variants):
        yield from rows


def torch_here(asked: Asked) -> list[str]:
    """PyTorch's variant on such a device, where it is installed."""
    names = {"gpu": "PyTorch on the GPU", "cpu": "PyTorch, 1 thread"}
    installed = importlib.util.find_spec("torch") is not None
    return [names[asked.platform]] if installed and asked.platform in names else []


def timed(
    asked: Asked, part: str, settings: tuple[str, ...], variants: list[str]
) -> Iterator[tuple[str, dict[str, list[float]], list[Row]]]:
    """Every setting with its times by variant and its rows; workers that hang are ended."""
    rounds, seconds = (3, 0.1) if asked.quick else (7, 0.3)
    workers = start_workers(dict.fromkeys(variants, 1), folder=asked.folder)
    late: list[bool] = []
    watch = Timer(asked.limit, end, (dict(workers), late))
    watch.start()
    try:
        for setting in settings:
            rows: list[Row] = []

            def lost(variant: str, setting: str = setting, rows: list[Row] = rows) -> None:
                reason = last_line((asked.folder / variant).read_text())
                if late:
                    reason = f"not done within {asked.limit:.0f} s"
                state = FAILED if variant.startswith(OURS) else LEFT_OUT
                rows.append(Row(part, f"{setting}: {variant}", state, reason))

            times = measure(workers, setting, rounds, f"seconds {seconds}", lost)
            best = min(map(statistics.median, times.values()), default=0)
            for variant, values in times.items():
                rows.append(of_times(part, f"{setting}: {variant}", values, best))
            yield setting, times, rows
    finally:
        watch.cancel()
        stop(workers)


def end(workers: Workers, late: list[bool]) -> None:
    """End workers that have taken too long."""
    late.append(True)
    for processes in workers.values():
        for process in processes:
            process.kill()


def of_times(part: str, what: str, values: list[float], best: float) -> Row:
    """A row of milliseconds per step and trial, beside the fastest of its setting."""
    median = statistics.median(values)
    words = f"{median:.4g} ms ({min(values):.4g}-{max(values):.4g}), x{median / best:.2f}"
    ms = {"median": median, "low": min(values), "high": max(values)}
    return Row(part, what, PASSED, words, {"ms": ms})


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:LONGEST]


def last_line(text: str) -> str:
    """What an error ends with; JAX writes a rule and a note on its tracebacks below."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("---", "For simplicity, JAX"))]
    return kept[-1][:LONGEST] if kept else "it ended without a word"


PARTS: dict[str, Callable[[Asked], Iterator[Row]]] = {
    "machine": machine,
    "tests": tests,
    "together": together,
    "large": large,
}


def carried_out(name: str, asked: Asked) -> list[Row]:
    """The rows of a part, the last one an error that nobody expected."""
    rows: list[Row] = []
    try:
        for row in PARTS[name](asked):
            rows.append(row)
    except Exception as error:
        rows.append(Row(name, "all", FAILED, f"{type(error).__name__}: {first_line(str(error))}"))
    return rows


def show(console: Console, part: str, rows: list[Row], seconds: float) -> None:
    """The table of a part."""
    table = Table(
        title=f"{part}, {seconds:.0f} s", title_justify="left", box=None, show_header=False
    )
    for row in rows:
        colour = "red" if row.state == FAILED else "default"
        words = escape(row.what), f"[{colour}]{row.state}[/]", escape(row.result)
        table.add_row(*words)
    console.print(table)


def arguments() -> argparse.Namespace:
    """What is asked for; read by the standard library, which every Python has."""
    about = (__doc__ or "").partition("\n\n    scripts")[0]
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("scripts/accelerator", None, about, formatter_class=raw)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer rounds and numbers of trials, no slow tests")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which (default: all)")
    add("--devices", type=int, metavar="N", help="run on N simulated devices of the CPU")
    add("--limit", type=float, default=300, metavar="S", help="seconds of a part (default: 300)")
    add("--json", type=Path, metavar="FILE", help="write the rows to this file too")
    add("--python", metavar="PYTHON", help="use this Python, and install nothing")
    given = parser.parse_args()
    if given.devices is not None and given.devices < 1:
        parser.error(f"--devices must be 1 or more, got {given.devices}")
    return given


def main() -> int:
    given = arguments()
    # Several processes share the device: none may take most of its memory when it starts.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if given.devices is not None:
        os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(given.devices)}
    console = Console(width=max(120, Console().width))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = look(given.limit)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"accelerator: JAX does not start: {first_line(str(error))}", file=sys.stderr)
            return 1
        asked = Asked(given.quick, given.limit, Path(folder), found)
        for part in given.parts:
            began = time.perf_counter()
            own = carried_out(part, asked)
            show(console, part, own, time.perf_counter() - began)
            rows += own
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    failed = sum(row.state == FAILED for row in rows)
    print(f"{len(rows)} rows, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
