"""What the README shows works: its Python runs as it stands, its commands in tiny sizes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import quick

from jaxinit import cli
from jaxinit.engine.initial import calibrate_parameters, draw_parameters
from jaxinit.engine.resolve import resolve
from jaxinit.study import Study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# what is added to a command so that it takes seconds; of an option given twice the last counts
TINY = {
    "run": "--hidden 8 --seeds 2 --tune-seeds 1 --lrs 0.01 --epochs 1 --evaluations 1 --batch 128",
    "probe": "--hidden 8 --seeds 2 --examples 10",
    "coordcheck": "--seeds 2 --widths 64 128 --steps 1",
}
FULL = "lrs=(0.1, 0.3), seeds=4, epochs=5"  # of the studies in Python
FEWER = {"--length": "12", "--layers": "2"}


def commands() -> list[str]:
    """Every `jaxinit` line of the README's indented blocks, continued lines joined, without its
    comment."""
    joined = README.replace("\\\n", " ")
    lines = re.findall(r"^    (jaxinit .*)$", joined, flags=re.MULTILINE)
    return list(dict.fromkeys(" ".join(line.split("#")[0].split()) for line in lines))


def of_kind(name: str) -> list[str]:
    return [
        command
        for command in commands()
        if command.split()[1] == name and not {"--help", "--dry-run"} & set(command.split())
    ]


def tiny(command: str) -> list[str]:
    """The words of a command after `jaxinit`, in the smallest sizes that take the same paths."""
    words = shlex.split(command)[1:]
    added = TINY[words[0]].split()
    if any("mup(" in word for word in words):
        added += ["--hidden", "64"]  # not below the base width that it names
    for option, value in FEWER.items():
        if option in words:
            added += [option, value]
    return [*words, *added]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_users_run: None) -> Path:
    """An empty folder to be in, but for the text and the arrays that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    inputs = np.random.default_rng(0).normal(size=(200, 4))
    np.savez(tmp_path / "data.npz", x=inputs, y=(inputs[:, 0] > 0).astype(int))
    (tmp_path / "book.txt").write_text(
        "It was the best of times, it was the worst of times. " * 100
    )
    return tmp_path


# Of these a study is drawn and calibrated for seconds, and its model is no other than in tests of
# its own.
LARGE = ("transformer", "vit", "cnn", "resnet", "metainit", "--length 100")
STUDIES = of_kind("run")


@pytest.mark.parametrize(
    "command",
    quick(*(c for c in STUDIES if not any(words in c for words in LARGE)), of=STUDIES),
)
def test_every_study_passes_its_checks_and_draws_its_starts(
    command: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    def up_to_training(study: Study, *options: object) -> int:
        resolved = resolve(study)
        calibrate_parameters(resolved, draw_parameters(resolved))
        checked.append(study)
        return 0

    monkeypatch.setattr("jaxinit.cli.carry_out", up_to_training)
    assert cli.main(tiny(command)) == 0
    assert len(checked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("command", of_kind("run"))
def test_every_study_runs(command: str, elsewhere: Path) -> None:
    assert cli.main(tiny(command)) == 0
    (folder,) = (elsewhere / "results").iterdir()
    assert cli.main(["plot", str(folder)]) == 0
    assert list((folder / "figures").glob("*.png"))


@pytest.mark.parametrize(
    "command", quick(of_kind("probe")[-1], of=[*of_kind("probe"), *of_kind("coordcheck")])
)
def test_every_look_before_training_runs(command: str, elsewhere: Path) -> None:
    words = tiny(command)
    assert cli.main(words) in ((0, 1) if words[0] == "coordcheck" else (0,))  # 1 is its verdict
    (folder,) = (elsewhere / "results").iterdir()
    assert list((folder / "figures").glob("*.png"))


def test_the_other_commands_are_those_that_other_tests_run() -> None:
    experiments = of_kind("reproduce")
    assert experiments
    assert all(command.split()[2] in cli.experiments() for command in experiments)
    here = {*of_kind("run"), *of_kind("probe"), *of_kind("coordcheck"), *experiments}
    assert set(commands()) - here == {
        "jaxinit run --dry-run",
        "jaxinit resume results/...",
        "jaxinit extend results/... --schemes he_normal --seeds 16",
        "jaxinit rerun results/... --check",
        "jaxinit audit mine.py:build",
        "jaxinit audit mine.py:build --batch data.npz --json",
        "jaxinit audit mine.py:build --scheme gpt2",
        "jaxinit audit model.safetensors",
        "jaxinit compare results/a results/b",
        "jaxinit doctor",
        "jaxinit open results/...",
        "jaxinit report results/...",
        "jaxinit list",
        "jaxinit plot results/...",
        "jaxinit run --help",
    }


@pytest.mark.parametrize("fewer", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_python_runs_as_it_stands(fewer: bool, tmp_path: Path) -> None:
    """But for the sizes of its studies, where `fewer`."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    program, text = tmp_path / "readme.py", "\n".join(blocks)
    environment = dict(os.environ)
    if fewer:
        assert text.count(FULL) == 2
        text = text.replace(FULL, "lrs=(0.1,), seeds=2, epochs=1")
    else:  # optimized as for its reader: it trains for half a minute
        environment["XLA_FLAGS"] = ""
    program.write_text(text)
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "tiny" / "summary.json").exists()
    assert (tmp_path / "results" / "body.safetensors").exists()
