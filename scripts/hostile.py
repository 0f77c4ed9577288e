"""Random command lines, most of them senseless: carried out, or refused in one line, and nothing is
left behind.

    with prepared(folder):
        ends, faults = try_many(2000, seed, folder)
"""

import contextlib
import io
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import patch

from jaxinit import cli, console
from jaxinit.calibrate import CALIBRATIONS
from jaxinit.engine import campaign
from jaxinit.engine.training import OPTIMIZERS
from jaxinit.models import ACTIVATIONS, MODELS
from jaxinit.schemes import SCHEMES
from jaxinit.study import Study
from jaxinit.tasks import TASKS

CODES = {0, 1, 2, 130, 141}
COMMANDS = (
    "run",
    "resume",
    "extend",
    "rerun",
    "probe",
    "coordcheck",
    "audit",
    "reproduce",
    "list",
    "plot",
    "report",
    "open",
    "compare",
)
NUMBERS = (
    "0",
    "-1",
    "-0",
    "1",
    "2",
    "3",
    "7",
    "1.5",
    "-2.5",
    "1e-3",
    "0.1",
    "1e39",
    "-1e39",
    "1e-46",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "2147483647",
    "2147483648",
    "4294967296",
    "9223372036854775808",
    str(10**30),
    "9" * 400,
    "0x10",
    "1_0",
    "٣",
    "",
    " ",
    "--",
    "-",
    "None",
    "True",
    "many",
)
NAMES = (
    "",
    " ",
    "no_such",
    "Orthogonal",
    "orthogonal+",
    "+lsuv",
    "orthogonal+lsuv+lsuv",
    "[bold]x[/bold]",
    "$\\frac{1}{2}$",
    ":smile:",
    "größe",
    "初期化",
    "\u202eabc",
    "a\nb",
    "\x1b[31m",
    "x" * 300,
    "../../etc",
    "{}",
    "%s",
    "None",
    "*",
)
PATHS = (
    "missing.txt",
    "no/such/folder",
    "folder",
    "some.txt",
    "binary.bin",
    "empty.txt",
    "short.txt",
    "latin1.txt",
    ".",
    "",
    "/proc/no/such",
    "/dev/null",
    "/dev/null/x",
    "x" * 300,
    "größe.txt",
    "~",
    "-",
)
KNOWN = {
    "model": list(MODELS),
    "task": [name for name in TASKS if "mnist" not in name and "cifar" not in name],
    "optimizer": list(OPTIMIZERS),
    "activation": list(ACTIVATIONS),
    "norm": ["layer", "batch", "rms", "none"],
    "baseline": ["small_normal", "orthogonal"],
    "schemes": [*SCHEMES, *(f"orthogonal+{name}" for name in CALIBRATIONS)],
}
SETTINGS = {field.name.replace("_", "-"): field.name for field in fields(Study)}
ADDRESSES = (
    "tcp://127.0.0.1:9",
    "tls://127.0.0.1:9",
    "tcp://127.0.0.1",
    "tcp://",
    "tcp://:0",
    "tcp://127.0.0.1:-1",
    "tcp://127.0.0.1:99999",
    "tcp://127.0.0.1:many",
    "tcp://[::1]:9",
    "tcp://[::1:9",
    "tcp://user:word@127.0.0.1:9/path?x=1",
    "tcp://größe:9",
    "tcp://" + "x" * 300 + ":9",
    "tcp://a b:9",
    "TCP://127.0.0.1:9",
    "http://127.0.0.1:9",
    "inproc://127.0.0.1/1/2",
    "127.0.0.1:9",
    "local",
)
FOLDERS = ("study", "other", "begun")  # of studies
MADE = (
    "model.py:build",
    "model.py:fails",
    "model.py:nothing",
    "model.py:text",
    "model.py:",
    "model.py",
)
OF_COMMANDS = {
    "run": ("out", "slots", "cluster", "platform", "quiet", "json", "dry-run", "force-resume"),
    "resume": ("slots", "cluster", "force-resume"),
    "extend": ("schemes", "seeds", "slots", "cluster", "force-resume"),
    "rerun": ("out", "check", "cluster"),
    "probe": ("out", "examples", "only"),
    "coordcheck": ("out", "widths", "depths", "steps", "rate"),
    "audit": ("batch", "scheme", "loss", "weights", "json", "report"),
    "reproduce": ("out", "size"),
    "list": ("verbose",),
    "plot": (),
    "report": (),
    "open": (),
    "compare": ("out",),
}
SEVERAL = ("schemes", "lrs", "widths", "depths")
FLAGS = (
    *("verbose", "quiet", "json", "dry-run", "force-resume", "check"),
    *(field.name.replace("_", "-") for field in fields(Study) if field.type is bool),
)
SMALL = {
    "run": "--hidden 4 --schemes small_normal orthogonal --lrs 0.1 --seeds 2 --epochs 1 --batch 64",
    "probe": "--hidden 4 --seeds 2 --examples 5",
    "coordcheck": "--widths 4 8 --seeds 2",
}
# The words without an option, of commands that have any, that make sense.
POSITIONALS: dict[str, tuple[str, ...]] = {
    "reproduce": ("glorot2010",),
    "list": ("models", "all"),
    "audit": MADE,
    **dict.fromkeys(("resume", "extend", "rerun", "plot", "report", "open", "compare"), FOLDERS),
}
STUDY = Study(
    model="mlp",
    hidden=4,
    schemes=("small_normal", "orthogonal"),
    lrs=(0.1,),
    seeds=2,
    epochs=1,
    batch=64,
)
MODEL = """
from flax import nnx

text = "no model"

def build(rngs):
    return nnx.Linear(3, 2, rngs=rngs)

def fails(rngs):
    raise ValueError("a message\\nof two lines")
"""
PARTS = ("data", "task", "split", "model", "optimizer")
NO_IDENTITY = dict.fromkeys(PARTS, "") | {"schemes": {}, "calibrations": {}, "precision": {}}


class Begun(BaseException):
    """A command passed every check, and would begin to compute."""


def command_line(chance: random.Random) -> list[str]:
    """One random command line."""
    command = chance.choice((*COMMANDS, "run", "run", "run", "probe", "coordcheck"))
    words = [
        chance.choice(("", "frob", "RUN", "--help", "-", "[b]"))
        if chance.random() < 0.03
        else command
    ]
    words += SMALL.get(command, "").split()
    known = POSITIONALS.get(command, ())
    for _ in range(2 if command == "compare" else 1):
        if known and chance.random() < 0.9:
            words.append(chance.choice(known if chance.random() < 0.5 else (*NAMES, *PATHS)))
    possible = list(OF_COMMANDS[command])
    if command in SMALL:
        possible += SETTINGS
    for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 5))):
        if chance.random() < 0.05 or not possible:
            words.append(chance.choice(("--bogus", "--hiden", "-x", "extra", "--out", "--seeds")))
            continue
        words += option(chance, chance.choice(possible))
    return words


def option(chance: random.Random, name: str) -> list[str]:
    """An option with a value that may make sense, or several."""
    if name in FLAGS:
        return [
            f"--{chance.choice(('', '', 'no-'))}{name}",
            *(["yes"] if chance.random() < 0.1 else []),
        ]
    count = (
        chance.choice((0, 1, 2, 3)) if name in SEVERAL else chance.choice((0, 1, 1, 1, 1, 1, 1, 2))
    )
    return [f"--{name}", *(value(chance, name) for _ in range(count))]


def value(chance: random.Random, name: str) -> str:
    """A value of an option, most often of the right kind."""
    if chance.random() < 0.15:
        return chance.choice((*NUMBERS, *NAMES, *PATHS))
    if name in KNOWN:
        return chance.choice(KNOWN[name] if chance.random() < 0.7 else NAMES)
    if name == "cluster":
        return chance.choice(ADDRESSES)
    if name in ("out", "text", "batch", "weights", "report"):
        return chance.choice((*PATHS, *FOLDERS))
    if name in ("only", "size", "loss", "platform"):
        return chance.choice(("*", "layers.*", "smoke", "cross_entropy", "cpu", "gpu", *NAMES))
    return str(chance.randint(1, 16)) if chance.random() < 0.4 else chance.choice(NUMBERS)


def begins(*_args: object, **_options: object) -> None:
    raise Begun


@contextmanager
def prepared(place: Path) -> Iterator[None]:
    """Work in a folder with files of several kinds, and let a command end as soon as it begins to
    compute."""
    with ExitStack() as stack:

        def instead(where: str, what: object) -> None:
            stack.enter_context(patch(f"jaxinit.{where}", what))

        # which traces the model
        instead("engine.campaign.identify", lambda cell: NO_IDENTITY)
        instead("engine.again.identify", lambda cell: NO_IDENTITY)
        stack.enter_context(contextlib.chdir(place))
        for name, schemes in (("study", STUDY.schemes), ("other", STUDY.schemes[:1])):
            study = replace(STUDY, schemes=schemes)
            campaign.run(study, out=place / name, progress=False)
        for where in (
            "engine.campaign.draw_parameters",
            "engine.survey.draw_parameters",
            "engine.coordcheck.draw_parameters",
            "engine.again.draw_seed",
            "engine.cluster._local_cluster",
            "auditing.audit",
            "cli.runpy.run_path",
        ):
            instead(where, begins)
        # the caller has set its devices up
        instead("engine.sweep.one_device_per_core", lambda: None)
        instead("engine.sweep.keep_compilations", lambda: None)
        instead("engine.memory.free_on_host", lambda: 2**30)
        instead("engine.cluster.CONNECT", 0.1)
        instead("analysis.study_figures.draw_all", lambda *_: [])
        instead("analysis.page.put", lambda *_: None)
        stack.enter_context(patch("webbrowser.open", lambda *_: True))
        with contextlib.suppress(Begun):
            campaign.run(STUDY, out=place / "begun", progress=False)
        (place / "folder").mkdir()
        (place / "folder" / "file").write_text("not a study")
        (place / "some.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200)
        (place / "binary.bin").write_bytes(bytes(range(256)) * 8)
        (place / "empty.txt").write_text("")
        (place / "short.txt").write_text("ab")
        (place / "latin1.txt").write_bytes("größe ".encode("latin-1") * 500)
        (place / "model.py").write_text(MODEL)
        yield


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def restore(folder: Path, before: dict[Path, bytes]) -> None:
    """A folder with the contents that it had."""
    for path in sorted({*contents(folder)} - {*before}):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path, content in before.items():
        if path.is_file() and path.read_bytes() != content:
            path.write_bytes(content)


def carried_out(words: list[str]) -> tuple[int | None, str, str]:
    """The exit code of a command line, None where it would have begun to compute, and what it
    said."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        try:
            code = cli.main(words)
        except Begun:
            code = None
        except SystemExit as stop:  # help
            code = int(stop.code or 0)
    return code, out.getvalue(), errors.getvalue()


def tried(words: list[str], place: Path, before: dict[Path, bytes]) -> tuple[int | None, list[str]]:
    """How a command line ended, and what should hold for each and does not."""
    try:
        code, out, errors = carried_out(words)
    except Exception as error:
        restore(place, before)
        return 1, [f"a traceback: {type(error).__name__}: {error}"]
    faults = []
    if "Traceback" in errors + out:
        faults.append("a traceback")
    if console.DEBUG in errors:
        faults.append("an error that nobody expected")
    if code is not None:
        if code not in CODES:
            faults.append("an exit code of no meaning")
        if (code == 0) != (errors == ""):
            faults.append("an exit code that does not fit what was said")
    if code:
        line = errors.removesuffix("\n")
        if not (errors.startswith("jaxinit: ") and line.isprintable() and len(errors) < 2000):
            faults.append("not one line")
    if code is None:
        restore(place, before)
    elif contents(place) != before:
        changed = {*contents(place).items()} ^ {*before.items()}
        faults.append(f"left behind: {sorted({str(path) for path, _ in changed})}")
        restore(place, before)
    return code, [f"{fault}; {code}, {errors[:300]!r}" for fault in faults]


def try_many(count: int, seed: int, place: Path) -> tuple[dict[int | None, int], list[str]]:
    """Try random command lines in a `prepared` folder: how often they end in each way, and what
    did not hold for which."""
    chance, before = random.Random(seed), contents(place)
    ends: dict[int | None, int] = {}
    faults = []
    for _ in range(count):
        words = command_line(chance)
        code, complaints = tried(words, place, before)
        ends[code] = ends.get(code, 0) + 1
        faults += [f"{words}: {complaint}" for complaint in complaints]
    return ends, faults
