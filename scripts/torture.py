"""Damage folders of studies, kill studies, their workers, schedulers and clients, start two on one
folder, and try senseless commands: nothing may be lost, wrong or a traceback.

Prints a line for each kind: how often it was tried, and what came of it; of damage, how often it
was named in one line, did no harm, went unnoticed though the answer changed (silent), or ended in a
traceback. Last, what saving and workers cost.
Exit code 1 when anything was silent, lost, wrong or a traceback. 0 of a kind leaves it out.
"""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hostile
import killed
import numpy as np
import on_workers
import tyro

from jaxinit import cli
from jaxinit.analysis import store
from jaxinit.analysis.records import Courses
from jaxinit.engine import campaign, cluster, sweep
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
Damage = Callable[[bytes, np.random.Generator], bytes | None]


@dataclass(frozen=True)
class Settings:
    """How much of each."""

    files: int = 675
    """Files torn or altered."""
    flips: int = 800
    """Single bits flipped in records.nc."""
    parts: int = 300
    """Files of what workers wrote, torn or altered."""
    resumed: int = 10
    """Studies that go on with one of these."""
    kills: int = 180
    """Studies killed at random moments and gone on with, of three shapes."""
    kills_on_workers: int = 45
    """As many on workers of this machine, which must end with them."""
    jobs: int = 2
    """Studies that run at once while they are killed."""
    pairs: int = 8
    """Pairs of processes on one folder."""
    lines: int = 2000
    """Hostile command lines."""
    storms: int = 2
    """Studies whose workers are killed all the time."""
    deaths: float = 4.0
    """Of workers, on average, in the time that such a study takes undisturbed."""
    poisoned: bool = True
    """A scheme that ends every worker that draws it."""
    schedulers: int = 1
    """Schedulers killed under their clients, and clients of new ones."""
    cost_pairs: int = 1
    """Pairs of one study here and on workers, by which their costs are measured."""
    cost_study: str = "run --hidden 256 --seeds 56"
    """That study: some five minutes."""
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
    from jaxinit.analysis import page, study_figures

    # Figures and pages are made from the records: not what is tried here.
    study_figures.draw_all = lambda *_: []
    page.put = lambda *_: None
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


def damaged_parts(settings: Settings, there: Path) -> bool:
    """What workers wrote of a study whose client died, one file of it damaged: it counts as it was
    written or not at all, and the study goes on from it to the same records."""
    finished = store.load(there / "finished")
    identity = str(finished.about["digest"])
    folder, foreign = there / "written", there / "written elsewhere"
    for out, study in ((folder, STUDY), (foreign, replace(STUDY, seeds=3))):
        shutil.copytree(there / "unfinished", out) if study is STUDY else out.mkdir()
        write_parts(out, finished if study is STUDY else store.load(there / "foreign"))
    paths = sorted(folder.glob(".parts/*/*.part"))
    others = [path.read_bytes() for path in sorted(foreign.glob(".parts/*/*.part"))]
    written = {path: path.read_bytes() for path in paths}
    said = {path: str(read(path, identity)) for path in paths}
    draws = np.random.default_rng(settings.seed + 1)
    tally: Counter = Counter()
    for number in range(settings.parts):
        path = paths[draws.integers(len(paths))]
        choice = draws.integers(len(DAMAGES) + 1)
        damage = others[draws.integers(len(others))]
        if choice < len(DAMAGES):
            damage = DAMAGES[choice](written[path], draws)
        path.unlink() if damage is None else path.write_bytes(damage)
        if path.exists():
            taken = str(read(path, identity))
            tally["dropped"] += taken == "[]"
            tally["harmless"] += taken == said[path]
            tally["silent"] += taken not in ("[]", said[path])
        else:
            tally["dropped"] += 1
        if number < settings.resumed:
            copy = there / "gone on"
            shutil.copytree(folder, copy)
            done = campaign.run(STUDY, out=copy, progress=False)
            tally["resumed"] += 1
            tally["wrong"] += not done.records.identical(finished.records)
            shutil.rmtree(copy)
        path.write_bytes(written[path])
    print(
        f"{settings.parts} damages to what workers wrote: {tally['dropped']} dropped, "
        f"{tally['harmless']} harmless, {tally['silent']} silent; {tally['resumed']} studies went "
        f"on with one, {tally['wrong']} of them wrong",
        flush=True,
    )
    return not (tally["silent"] or tally["wrong"])


def read(path: Path, identity: str) -> Any:
    """What a client takes of a file that a worker wrote; the error where that is a traceback."""
    try:
        return cluster.read_part(path, identity)
    except Exception as error:
        return error


def write_parts(folder: Path, result: store.Result) -> None:
    """Write courses of a study as its workers do, two a file, of half of its trials."""
    courses = Courses(dict(result.records.attrs), len(result.records.epoch))
    courses.take(result.records)
    ended = []
    for point, course in courses.by_point.items():
        traces = cluster.traces(course.traces[:, : course.evaluations])
        ended.append((point, sweep.Row(-1, 0, course.evaluations, traces, course.outcome)))
    session = folder / cluster.PARTS / "session"
    session.mkdir(parents=True)
    for at in range(0, len(ended) // 2, 2):
        cluster.write_part(
            session / f"1-{at}.part", str(result.about["digest"]), ended[at : at + 2]
        )


def hostile_lines(settings: Settings, there: Path) -> bool:
    """Random command lines: each is carried out, or refused in a line, and leaves nothing
    behind."""
    place = there / "hostile"
    place.mkdir()
    with hostile.prepared(place):
        ends, faults = hostile.try_many(settings.lines, settings.seed, place)
    counts = ", ".join(
        f"{count} {'would begin' if code is None else f'code {code}'}"
        for code, count in sorted(ends.items(), key=lambda end: -end[1])
    )
    print(f"{settings.lines} hostile command lines: {counts}; {len(faults)} faults", flush=True)
    for fault in faults:
        print(f"  {fault}", flush=True)
    return not faults


def main() -> int:
    settings = tyro.cli(Settings, description=__doc__)
    draws = np.random.default_rng(settings.seed)
    sweep.keep_compilations()
    sound = True
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        # First what forks processes, which must not have started JAX.
        if settings.kills or settings.kills_on_workers:
            sound &= killed.killed_studies(
                settings.kills, settings.kills_on_workers, settings.jobs, draws, there
            )
        if settings.pairs:
            sound &= killed.pairs_of_processes(settings.pairs, there)
        if settings.storms:
            sound &= on_workers.dying_workers(settings.storms, settings.deaths, draws, there)
        if settings.poisoned:
            sound &= on_workers.poisoned_trials(there)
        sound &= on_workers.dying_schedulers(settings.schedulers, there)
        sound &= on_workers.costs(settings.cost_pairs, settings.cost_study.split(), there)
        sweep.one_device_per_core()
        if settings.files or settings.flips or settings.parts:
            sound &= damaged_folders(settings, there)
            sound &= damaged_parts(settings, there)
        if settings.lines:
            sound &= hostile_lines(settings, there)
    print("nothing was lost, wrong or a traceback" if sound else "NOT SOUND: see above")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
