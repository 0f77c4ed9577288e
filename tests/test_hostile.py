"""Random command lines, most of them senseless: carried out, or refused in one line, and nothing is
left behind."""

import random
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from jaxinit import cli, console
from jaxinit.calibrate import CALIBRATIONS
from jaxinit.engine.training import OPTIMIZERS
from jaxinit.models import ACTIVATIONS, MODELS
from jaxinit.schemes import SCHEMES
from jaxinit.study import Study
from jaxinit.tasks import TASKS

CODES = {0, 1, 2, 130, 141}
COMMANDS = ("run", "probe", "coordcheck", "reproduce", "list", "plot")
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
OF_COMMANDS = {
    "run": ("out",),
    "probe": ("out", "examples", "only"),
    "coordcheck": ("out", "widths", "depths", "steps", "rate"),
    "reproduce": ("out", "size"),
    "list": ("verbose",),
    "plot": (),
}
SEVERAL = ("schemes", "lrs", "widths", "depths")
FLAGS = (
    "verbose",
    *(field.name.replace("_", "-") for field in fields(Study) if field.type is bool),
)
SMALL = {
    "run": "--hidden 4 --schemes small_normal orthogonal --lrs 0.1 --seeds 2 --epochs 1 --batch 64",
    "probe": "--hidden 4 --seeds 2 --examples 5",
    "coordcheck": "--widths 4 8 --seeds 2",
}


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
    if command in ("reproduce", "list", "plot") and chance.random() < 0.9:
        known = {"reproduce": ["glorot2010"], "list": ["models", "all"], "plot": ["folder"]}[
            command
        ]
        words.append(
            chance.choice(known) if chance.random() < 0.4 else chance.choice((*NAMES, *PATHS))
        )
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
    if name in ("out", "text"):
        return chance.choice(PATHS)
    if name in ("only", "size"):
        return chance.choice(("*", "layers.*", "smoke", *NAMES))
    return str(chance.randint(1, 16)) if chance.random() < 0.4 else chance.choice(NUMBERS)


def begins(*_args: object, **_options: object) -> None:
    raise Begun


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with files of several kinds, where a command ends as soon as it begins
    to compute."""
    for where in (
        "engine.campaign.draw_parameters",
        "engine.survey.draw_parameters",
        "engine.coordcheck.draw_parameters",
        "cli.runpy.run_path",
    ):
        monkeypatch.setattr(f"jaxinit.{where}", begins)
    # which traces the model
    monkeypatch.setattr("jaxinit.engine.campaign.identify", lambda cell: {})
    # the suite has set its devices up
    monkeypatch.setattr("jaxinit.engine.sweep.one_device_per_core", lambda: None)
    monkeypatch.setattr("jaxinit.engine.sweep.keep_compilations", lambda: None)
    monkeypatch.setattr("jaxinit.engine.memory.free_on_host", lambda: 2**30)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("not a study")
    (tmp_path / "some.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200)
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("ab")
    (tmp_path / "latin1.txt").write_bytes("größe ".encode("latin-1") * 500)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def carried_out(words: list[str]) -> int | None:
    """The exit code of a command line; None where it would have begun to compute."""
    try:
        return cli.main(words)
    except Begun:
        return None
    except SystemExit as stop:  # help
        return int(stop.code or 0)


def try_many(
    count: int, seed: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> dict[int | None, int]:
    """Try random command lines, assert what holds for each, and count how they end."""
    chance, ends = random.Random(seed), {}
    before = contents(place)
    for _ in range(count):
        words = command_line(chance)
        capsys.readouterr()
        code = carried_out(words)
        said = capsys.readouterr()
        told = f"{words}: {code}\n{said.err}"
        assert "Traceback" not in said.err + said.out, told
        assert console.DEBUG not in said.err, told  # an error that nobody expected
        if code is not None:
            assert code in CODES, told
            assert (code == 0) == (said.err == ""), told
        if code:
            assert said.err.startswith("jaxinit: "), told
            assert said.err.count("\n") == 1, told
            assert said.err.removesuffix("\n").isprintable(), told
            assert len(said.err) < 2000, told
        if code is None:
            for path in set(place.iterdir()) - {path for path in before if path.parent == place}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert contents(place) == before, told
        ends[code] = ends.get(code, 0) + 1
    return ends


def test_fifty_command_lines(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = try_many(50, 0, place, capsys)
    assert ends.get(2, 0) > 15, ends
    assert ends.get(None, 0) > 1, ends


@pytest.mark.slow
def test_two_thousand_command_lines(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = try_many(2000, 1, place, capsys)
    assert ends.get(2, 0) > 1000, ends
    assert ends.get(None, 0) > 50, ends
