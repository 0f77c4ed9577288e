"""The set-up scripts say what is missing, and exit non-zero, where there is no Python, no network
or no space."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
pitfalls: Any = importlib.import_module("pitfalls")
on_accelerator: Any = importlib.import_module("accelerator")
look_at_reports: Any = importlib.import_module("look_at_reports")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that set-up needs, in a folder of its own."""
    for name in ("scripts", "jaxinit"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(clone: Path, script: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAXINIT_", "PIP_", "UV_"))
    }
    return subprocess.run(
        ["bash", str(clone / "scripts" / script)],
        capture_output=True,
        text=True,
        env=clean | environment,
        timeout=300,
    )


def tools(folder: Path, *names: str, **scripts: str) -> str:
    """A PATH of a few tools, and of scripts given by their text."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


BASICS = ("bash", "cat", "cksum", "df", "awk", "head", "tail", "dirname", "sort", "cut", "tr")


@pytest.mark.parametrize("script", ["quickstart", "test", "check", "docs"])
def test_no_suitable_python(clone: Path, script: str) -> None:
    path = tools(clone / "bin", *BASICS, python3="exit 1")
    done = run(clone, script, PATH=path, HOME=str(clone), PYENV_ROOT=str(clone))
    assert done.returncode != 0
    assert "no suitable Python: jaxinit needs 3.11 or later" in done.stderr
    assert "Install one" in done.stderr


def test_a_python_that_was_asked_for_but_does_not_suit(clone: Path) -> None:
    done = run(clone, "quickstart", JAXINIT_PYTHON="/bin/false", PATH=tools(clone / "bin", *BASICS))
    assert done.returncode != 0
    assert "JAXINIT_PYTHON=/bin/false is not a Python 3.11 or later" in done.stderr


@pytest.mark.parametrize(("minor", "suits"), [(10, False), (11, True), (14, True), (19, True)])
def test_which_pythons_suit(clone: Path, minor: int, suits: bool) -> None:
    told = f"import sys; sys.version_info = (3, {minor}, 0); exec(sys.argv[1])"
    folder = tools(clone / "bin", python=f"exec {sys.executable} -c '{told}' \"$2\"")
    command = f"source {clone}/scripts/environment.sh; suits {folder}/python"
    assert (subprocess.run(["bash", "-c", command]).returncode == 0) == suits


@pytest.mark.parametrize(
    ("installed", "extra", "done"),
    [
        ("dev,parity", "dev", True),
        ("dev,parity", "parity", True),
        ("dev", "", True),
        ("dev", "dev,parity", False),
        ("", "dev", False),
        ("devel", "dev", False),
    ],
)
def test_what_is_installed_already_is_skipped(
    clone: Path, installed: str, extra: str, done: bool
) -> None:
    (clone / f".ready-{installed}").write_text("stamp\n")
    for stamp, expected in (("stamp", done), ("another stamp", False)):
        command = f"source {clone}/scripts/environment.sh; venv={clone}; ready '{extra}' '{stamp}'"
        assert (subprocess.run(["bash", "-c", command]).returncode == 0) == expected


@pytest.mark.parametrize(
    ("driver", "extra"),
    [
        ("580.65.06, 9.0", "cuda13"),
        ("590.1, 7.0", "cuda12"),  # an older card
        ("535.183.01, 8.0", "cuda12"),
        ("470.82.01, 8.0", ""),
        ("", ""),  # no driver answers
    ],
)
def test_what_jax_is_installed_for(clone: Path, driver: str, extra: str, tmp_path: Path) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\necho '{driver}'\n")
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment.pop("JAXINIT_ACCELERATOR", None)

    def answer(**asked: str) -> subprocess.CompletedProcess:
        words = ["bash", "-c", f"source {clone}/scripts/environment.sh; accelerator"]
        return subprocess.run(words, env=environment | asked, capture_output=True, text=True)

    found = answer()
    assert found.stdout.strip() == extra, found.stderr
    assert ("too old" in found.stderr) == driver.startswith("470")
    assert answer(JAXINIT_ACCELERATOR="none").stdout == ""
    assert answer(JAXINIT_ACCELERATOR="tpu").stdout.strip() == "tpu"
    wrong = answer(JAXINIT_ACCELERATOR="rocm")
    assert wrong.returncode != 0
    assert "cuda13, cuda12, tpu or none, got rocm" in wrong.stderr


def test_no_space(clone: Path) -> None:
    full = tools(
        clone / "bin", *(b for b in BASICS if b != "df"), df="echo head; echo disk 1 1 1024 1 /"
    )
    done = run(clone, "quickstart", PATH=full)
    assert done.returncode != 0
    assert "not enough space" in done.stderr
    assert "1 MiB are free" in done.stderr


@pytest.mark.slow
def test_no_network(clone: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    done = run(
        clone,
        "quickstart",
        PIP_INDEX_URL=nowhere,
        PIP_RETRIES="0",
        PIP_CONFIG_FILE=os.devnull,
        UV_INDEX_URL=nowhere,
    )
    assert done.returncode != 0
    assert "Most often there is no network" in done.stderr
    assert not (clone / ".venv" / ".ready-").exists()


def rows() -> list[Any]:
    return [row for pitfall in pitfalls.PITFALLS for row in pitfall()]


@pytest.mark.slow
def test_no_pitfall_is_ours_and_what_is_measured_tells_them_apart() -> None:
    """Ours is at the law, within its sampling error; the same bound fails on the library, where it
    has a figure."""
    seen = set()
    for row in rows():
        room = (
            4.5
            if "standard error" in row.measured
            else 0.05 * max(row.law, 1.0 if row.law == 0 else row.law)
        )
        assert abs(row.ours - row.law) < room, row
        if row.theirs is None:
            assert row.note, row
        else:
            assert abs(row.theirs - row.law) > room, f"the library has mended this: say so ({row})"
        seen.add(row.fault)
    assert len(seen) >= 9


def accelerator(*words: str) -> subprocess.CompletedProcess:
    """The script with the Python of the tests, in which it installs nothing."""
    command = ["bash", str(ROOT / "scripts" / "accelerator"), "--python", sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_the_accelerator_script_says_its_options_and_what_it_finds(tmp_path: Path) -> None:
    shown = accelerator("--help")
    assert shown.returncode == 0, shown.stderr
    assert {"--quick", "--devices", "--json", "--python"} <= {
        *shown.stdout.replace("]", " ").split()
    }
    file = tmp_path / "rows.json"
    done = accelerator("--devices", "2", "--parts", "machine", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "2 x cpu; no GPU or TPU here" in done.stdout
    rows = {row["what"]: row for row in json.loads(file.read_text())}
    assert len(rows["devices (cpu)"]["numbers"]["devices"]) == 2


def test_a_python_that_the_accelerator_script_cannot_use(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "scripts" / "accelerator"), "--python"]
    done = subprocess.run([*command, "/bin/false"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "jaxinit: --python /bin/false is not a Python 3.11 or later.\n"
    without = tmp_path / "python"
    without.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')  # no site-packages
    without.chmod(0o755)
    done = subprocess.run([*command, str(without)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "has no JAX, and nothing is installed into it" in done.stderr


@pytest.mark.slow
def test_the_accelerator_script_on_two_simulated_devices(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    done = accelerator("--devices", "2", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(file.read_text())
    assert {row["part"] for row in rows} == {"machine", "tests", "together", "large"}
    assert all(row["state"] != "FAILED" for row in rows)
    measured = [row for row in rows if row["part"] == "tests"]
    assert all(row["result"] for row in measured)
    assert sum("overtakes" in row["result"] for row in rows) == 2


def test_what_fails_is_a_row_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = on_accelerator.Asked(True, 60, tmp_path, {"platform": "cpu"})

    def breaks(asked: Any) -> Any:
        yield on_accelerator.Row("large", "a", "passed", "")
        raise ValueError("why\nand more")

    monkeypatch.setitem(on_accelerator.PARTS, "large", breaks)
    first, last = on_accelerator.carried_out("large", asked)
    assert first.state == "passed"
    assert (last.state, last.result) == ("FAILED", "ValueError: why")
    # A setting that no variant knows: ours has failed, another library is left out.
    ours, theirs = "plain jax.jit step", "Flax NNX, idiomatic"
    ((_, times, rows),) = on_accelerator.timed(asked, "large", ("no setting",), [ours, theirs])
    assert times == {}
    assert [row.state for row in rows] == ["FAILED", "left out"]
    assert all(row.result == "KeyError: 'no setting'" for row in rows)


@pytest.mark.parametrize(
    ("ms", "at"),
    [
        # One by one, then 1, 2, 4 and 16 together.
        ([1.0, 0.9, 0.9, 1.1, 0.5], 16),  # at 4 trials it was slower again
        ([1.0, 2.0, 0.9, 0.8, 0.5], 2),
        ([1.0, 0.5, 0.5, 0.5, 1.5], None),
        ([1.0, 0.5, 1.0, 1.0, 1.0], None),
    ],
)
def test_vmap_overtakes_where_it_stays_ahead(ms: list[float], at: int | None) -> None:
    counts = {"ours, 1 together": 1, "two": 2, "four": 4, "sixteen": 16}
    names = [on_accelerator.ONE_BY_ONE, *counts]
    times = {name: [value] for name, value in zip(names, ms, strict=True)}
    row = on_accelerator.overtaking("RNN", times, counts)
    assert row.numbers["overtakes_at"] == at
    assert ("none of 2, 4, 16" in row.result) == (at is None)


def is_alive(process: int) -> bool:
    try:
        return Path("/proc", str(process), "stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    command = ["bash", "-c", f"sleep 60 & echo $! > {tmp_path}/child; wait"]
    assert on_accelerator.run_within(1.0, command) is None
    assert time.monotonic() - began < 30
    child = int((tmp_path / "child").read_text())
    # On a busy machine a process that was killed is there for a moment.
    while is_alive(child):
        assert time.monotonic() - began < 30, "it outlived the command"
        time.sleep(0.1)
    done = on_accelerator.run_within(60, ["bash", "-c", "echo out; exit 3"])
    assert (done.returncode, done.stdout) == (3, "out\n")


def torture(words: str) -> str:
    """What the script says of the kinds that are named, none of the others."""
    none = {
        **dict.fromkeys(("files", "flips", "parts", "lines", "kills", "pairs"), 0),
        **dict.fromkeys(("kills-on-workers", "storms", "schedulers", "cost-pairs"), 0),
    }
    left = [f"--{name}={number}" for name, number in none.items()]
    command = [sys.executable, str(ROOT / "scripts" / "torture.py"), *left, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing was lost, wrong or a traceback\n")
    return done.stdout


@pytest.mark.slow
def test_some_torture_of_folders_and_commands() -> None:
    said = torture("--files 20 --flips 10 --parts 20 --resumed 1 --lines 20 --no-poisoned")
    assert "20 damages to what workers wrote" in said
    assert "20 hostile command lines" in said


@pytest.mark.slow
def test_some_torture_of_processes() -> None:
    said = torture("--kills 6 --pairs 1 --no-poisoned")
    assert "dropout, momentum searched too, here" in said


@pytest.mark.slow
def test_some_torture_of_workers() -> None:
    said = torture("--kills-on-workers 3 --storms 1 --schedulers 1")
    assert "2 of its 2 trials have failed" in said
    assert "a scheduler died: its client ended in" in said


def test_reports_are_not_looked_at_where_there_is_no_browser(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert look_at_reports.main(["results/some"]) == 0
    assert capsys.readouterr().out == (
        "not looked at: there is no Playwright; pip install -e '.[browser]'\n"
    )
