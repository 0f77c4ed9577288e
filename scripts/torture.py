"""Damage folders of studies, kill studies, and start two on one folder: nothing may be lost, wrong
or a traceback.

Prints a line for each kind of damage: how often it was tried, how often it was named in one line,
did no harm, went unnoticed though the answer changed (silent), or ended in a traceback; and a line
each for kills and pairs.
Exit code 1 when anything was silent, lost or a traceback.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxinit import cli
from jaxinit.analysis import store
from jaxinit.engine import campaign, sweep
from jaxinit.study import Study

STUDY = Study(
    hidden=16,
    schemes=("small_normal", "orthogonal"),
    lrs=(0.1, 0.3),
    seeds=2,
    tune_seeds=1,
    epochs=6,
    target=0.9,
)
# A ladder, whose trials are stopped and trained again.
KILLED = "run --hidden 64 --schemes small_normal xavier_rnn --seeds 6 --epochs 60 --target 0.97"
Damage = Callable[[bytes, np.random.Generator], bytes | None]


@dataclass(frozen=True)
class Settings:
    """How much of each."""

    files: int = 675
    """Files torn or altered."""
    flips: int = 800
    """Single bits flipped in records.nc."""
    kills: int = 40
    """Studies killed at a random moment and gone on with."""
    pairs: int = 8
    """Pairs of processes on one folder."""
    seed: int = 0
    """Of the random choices."""


def cut(content: bytes, draws: np.random.Generator) -> bytes:
    return content[: draws.integers(len(content))]


def emptied(content: bytes, draws: np.random.Generator) -> bytes:
    return b""


def deleted(content: bytes, draws: np.random.Generator) -> None:
    return None


def noise(content: bytes, draws: np.random.Generator) -> bytes:
    return draws.bytes(len(content))


def zeroed(content: bytes, draws: np.random.Generator) -> bytes:
    """A block of zeros, as a disk leaves it."""
    start = int(draws.integers(len(content)))
    length = min(512, len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def shortened(content: bytes, draws: np.random.Generator) -> bytes:
    """A few bytes gone from the middle."""
    start = int(draws.integers(len(content)))
    return content[:start] + content[start + 7 :]


def longer(content: bytes, draws: np.random.Generator) -> bytes:
    return content + draws.bytes(9)


def flipped(content: bytes, draws: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[draws.integers(len(content))] ^= 1 << int(draws.integers(8))
    return bytes(changed)


def edited(content: bytes, draws: np.random.Generator) -> bytes:
    """JSON that is still JSON: an entry replaced or removed; of other files, two bytes
    exchanged."""
    try:
        body = json.loads(content)
    except ValueError:  # no JSON
        first, second = sorted(draws.integers(len(content), size=2))
        middle = content[first + 1 : second]
        return (
            content[:first]
            + content[second : second + 1]
            + middle
            + content[first : first + 1]
            + content[second + 1 :]
        )
    holder: Any = body
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = keys[draws.integers(len(keys))]
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and draws.random() < 0.8:
            holder = inner  # most entries are further inside
            continue
        if draws.random() < 0.3:
            del holder[key]
        else:
            holder[key] = [None, -1, 1e300, "x", [], {}][draws.integers(6)]
        return json.dumps(body, indent=2).encode() + b"\n"


DAMAGES: tuple[Damage, ...] = (
    cut,
    emptied,
    deleted,
    noise,
    zeroed,
    shortened,
    longer,
    flipped,
    edited,
)


def ask(folder: Path) -> tuple[int, str, str]:
    """`jaxinit plot` without its figures: exit code, output and errors, the folder's name taken
    out."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = cli.main(["plot", str(folder)])
    said = out.getvalue().replace(str(folder), "FOLDER")
    complaint = errors.getvalue().replace(str(folder), "FOLDER")
    return code, said, complaint


def judge(folder: Path, whole: store.Result, answer: str) -> str:
    """What became of a damaged folder: named, harmless, silent or traceback."""
    try:
        code, said, errors = ask(folder)
        if code != 0:
            one_line = errors.startswith("jaxinit: ") and errors.count("\n") == 1
            return "named" if one_line else "traceback"
        # Lines are wrapped, at a width that is the terminal's.
        if "; these are the records of the state saved before" in " ".join(said.split()):
            return "named"
        same = said == answer and store.load(folder).records.identical(whole.records)
        return "harmless" if same else "silent"
    except Exception as error:
        print(f"traceback: {type(error).__name__}: {error}", file=sys.stderr)
        return "traceback"


def damaged_folders(settings: Settings, there: Path) -> bool:
    """Folders of a finished and of an unfinished study, one file of each damaged."""
    from jaxinit.analysis import study_figures

    # Figures are drawn from the records: not what is tried here.
    study_figures.draw_all = lambda *_: []
    finished = campaign.run(STUDY, out=there / "finished", progress=False)
    unfinished = interrupted(there / "unfinished")
    foreign = campaign.run(replace(STUDY, seeds=3), out=there / "foreign", progress=False)
    answers = {result.folder: ask(result.folder)[1] for result in (finished, unfinished)}
    draws = np.random.default_rng(settings.seed)
    counts: dict[str, Counter] = {}
    broken = there / "broken"  # a copy of a folder, anew for every attempt

    def attempt(result: store.Result, name: str, kind: str, content: bytes | None) -> None:
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(result.folder, broken)
        (broken / name).unlink()
        if content is not None:
            (broken / name).write_bytes(content)
        outcome = judge(broken, result, answers[result.folder])
        counts.setdefault(kind, Counter())[outcome] += 1

    for number in range(settings.files):
        result = unfinished if number % 3 == 2 else finished
        names = [path.name for path in sorted(result.folder.iterdir()) if path.is_file()]
        name = names[draws.integers(len(names))]
        content = (result.folder / name).read_bytes()
        choice = draws.integers(len(DAMAGES) + 2)
        if choice == len(DAMAGES):
            other = foreign.folder / name
            if not other.exists():  # a state, which finished studies have none of
                other = finished.folder / "summary.json"
            attempt(result, name, "swapped with another study's", other.read_bytes())
        elif choice > len(DAMAGES):
            other = names[draws.integers(len(names))]
            attempt(result, name, "swapped within the folder", (result.folder / other).read_bytes())
        else:
            attempt(result, name, DAMAGES[choice].__name__, DAMAGES[choice](content, draws))
    records = (finished.folder / "records.nc").read_bytes()
    for _ in range(settings.flips):
        attempt(finished, "records.nc", "a bit flipped in records.nc", flipped(records, draws))

    print(f"{'damage':32} tried  named  harmless  silent  tracebacks")
    total: Counter = Counter()
    for kind, count in counts.items():
        total.update(count)
        print_counts(kind, count)
    print_counts("all", total)
    return not (total["silent"] or total["traceback"])


def print_counts(kind: str, count: Counter) -> None:
    row = (count.total(), count["named"], count["harmless"], count["silent"], count["traceback"])
    print("{:32} {:5}  {:5}  {:8}  {:6}  {:10}".format(kind, *row))


def interrupted(folder: Path) -> store.Result:
    """An unfinished study: stopped after two saved chunks."""
    run = sweep.Sweep.run

    def stopped(self: Any, *args: Any, **kwargs: Any) -> Any:
        import signal

        for number, chunk in enumerate(run(self, *args, **kwargs)):
            if number == 1:
                signal.raise_signal(signal.SIGTERM)
            yield chunk

    sweep.Sweep.run, seconds = stopped, campaign.SAVE_EVERY
    campaign.SAVE_EVERY = 0.0  # after every chunk
    try:
        return campaign.run(STUDY, out=folder, progress=False, slots_per_device=1)
    finally:
        sweep.Sweep.run, campaign.SAVE_EVERY = run, seconds


def start(folder: Path) -> subprocess.Popen:
    """A process that runs a study in a folder."""
    command = [sys.executable, "-m", "jaxinit.cli", *KILLED.split(), "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(folder: Path) -> tuple[int, str]:
    """Run a study in a folder to its end: exit code, and errors."""
    process = start(folder)
    _, errors = process.communicate()
    return process.returncode, errors


def killed_studies(settings: Settings, there: Path) -> bool:
    """Each study killed once at a moment of its life, then run to its end: its records must be
    those of a whole one."""
    began = time.monotonic()
    code, errors = finish(there / "whole")
    length = time.monotonic() - began
    if code:
        raise RuntimeError(errors)
    whole = store.load(there / "whole").records
    draws = np.random.default_rng(settings.seed)
    tally: Counter = Counter()
    for number in range(settings.kills):
        folder = there / f"killed{number}"
        process = start(folder)
        time.sleep(draws.uniform(0.1, 1.0) * length)
        process.kill()  # SIGKILL, which no handler sees
        process.communicate()
        looked = subprocess.run(
            [sys.executable, "-m", "jaxinit.cli", "plot", str(folder)],
            capture_output=True,
            text=True,
        )
        tally["unreadable"] += "Traceback" in looked.stderr
        code, errors = finish(folder)
        tally["resumed"] += "going on from" in errors
        if code or "Traceback" in errors:
            tally["lost"] += 1
        else:
            tally["wrong"] += not store.load(folder).records.identical(whole)
        shutil.rmtree(folder)
    print(
        f"{settings.kills} studies killed: {tally['resumed']} went on from a saved state, "
        f"{tally['lost']} lost, {tally['wrong']} wrong, {tally['unreadable']} unreadable"
    )
    return not (tally["lost"] or tally["wrong"] or tally["unreadable"])


def pairs_of_processes(settings: Settings, there: Path) -> bool:
    """Two processes on one folder: one does the work, the other is refused in a line or reads the
    answer."""
    whole = store.load(there / "whole").records
    tally: Counter = Counter()
    for number in range(settings.pairs):
        folder = there / f"pair{number}"
        both = [start(folder), start(folder)]
        done = refused = 0
        for process in both:
            _, errors = process.communicate()
            done += process.returncode == 0
            refused += process.returncode == 2 and "is being written by process" in errors
        tally["one refused"] += refused == 1
        tally["died"] += done + refused < 2
        tally["wrong"] += not done or not store.load(folder).records.identical(whole)
    print(
        f"{settings.pairs} pairs of processes on one folder: in {tally['one refused']} one was "
        f"refused in a line, {tally['died']} died, {tally['wrong']} wrong answers"
    )
    return not (tally["died"] or tally["wrong"])


def main() -> int:
    settings = tyro.cli(Settings, description=__doc__)
    sweep.one_device_per_core()
    sweep.keep_compilations()
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        sound = damaged_folders(settings, there)
        if settings.kills or settings.pairs:
            sound &= killed_studies(settings, there)
            sound &= pairs_of_processes(settings, there)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
