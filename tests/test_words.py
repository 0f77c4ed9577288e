"""Words of a command line: help by the model that they name, names that a shell completes, and one
line where they make no sense."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jaxinit import cli
from jaxinit.schemes import SCHEMES
from jaxinit.study import ASKED, Study
from jaxinit.words import parsed, with_address

COMPLETE = """
source {script}
function="$(complete -p jaxinit | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$function
echo "${{COMPREPLY[*]}}"
"""


@pytest.mark.parametrize(
    ("words", "listed", "hidden"),
    [
        ("run --help", "--leak", "--heads"),
        ("run --model lstm --help", "--peepholes", "--leak"),
        ("run --model=vit --help", "--heads", "--peepholes"),
        ("run -h --model lstm --model mlp", "--residual", "--peepholes"),
        ("probe --help", "--residual", "--heads"),
        ("coordcheck --model transformer --help", "--heads", "--residual"),
    ],
)
def test_help_lists_the_options_of_the_model(
    words: str, listed: str, hidden: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    assert not stop.value.code
    out = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert listed in out
    assert not re.search(rf"{hidden}\b", out)
    assert f"for those of another: jaxinit {words.split()[0]} --model NAME --help" in out


def test_help_on_a_model_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--model", "lsmt", "--help"]) == 2
    assert "no model is called 'lsmt'; the nearest is 'lstm'" in capsys.readouterr().err
    assert cli.main(["run", "--model", "--help"]) == 2
    assert "Missing value for argument '--model'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="completes in bash")
def test_a_shell_completes_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--tyro-print-completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)

    def completed(words: str) -> list[str]:
        asked = COMPLETE.format(script=script, words=words)
        return subprocess.run(
            ["bash", "-c", asked], capture_output=True, text=True, check=True
        ).stdout.split()

    assert completed("jaxinit run --task add") == ["adding"]
    glorot = [name for name in SCHEMES if name.startswith("glorot")]
    assert completed("jaxinit run --schemes orthogonal glor") == glorot
    assert completed("jaxinit extend results --schemes chr") == ["chrono"]
    assert completed("jaxinit audit mine.py:build --loss sq") == ["squared_error"]
    assert completed("jaxinit audit mine.py:build --scheme chr") == ["chrono"]
    assert completed("jaxinit resume res") == [], "which leaves files to the shell"
    assert all(word.startswith("-") for word in completed('jaxinit resume ""'))
    words = ["run", "--schemes", "own.py:scheme"]  # a name is still any word
    assert parsed(words, cli.COMMANDS, cli.ASKED, cli.ABOUT)


@pytest.mark.parametrize(
    ("verb", "study", "own"),
    [
        ("run", Study(hidden=7, lrs=(0.1, 0.3), search="grid", target=None), {"slots": 3}),
        ("probe", ASKED["probe"], {"examples": 20, "only": "layers.*"}),
        (
            "probe",
            Study(model="lstm", peepholes=True, schemes=("a b", "c(1)"), baseline="c(1)"),
            {},
        ),
        ("coordcheck", Study(optimizer="adam"), {"widths": (64, 128), "rate": 0.5}),
    ],
)
def test_a_command_reads_as_the_study_that_it_was_written_for(
    verb: str, study: Study, own: dict[str, Any]
) -> None:
    words = shlex.split(study.command(verb, **own))
    asked: Any = parsed(words[1:], cli.COMMANDS, cli.ASKED, cli.ABOUT)
    assert words[:2] == ["jaxinit", verb]
    assert asked.func is cli.COMMANDS[verb]
    assert asked.keywords["study"] == study
    assert {name: asked.keywords[name] for name in own} == own


def test_a_cluster_without_an_address_is_started_here() -> None:
    assert with_address(["run", "--cluster"]) == ["run", "--cluster", "local"]
    assert with_address(["run", "--cluster", "--seeds", "2"])[2:] == ["local", "--seeds", "2"]
    words = ["run", "--cluster", "tcp://10.0.0.1:8786", "--seeds", "2"]
    assert with_address(words) == words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "run --lrs abc",
            "Error parsing --lrs: Could not find valid parse for arguments: ['abc']; see jaxinit "
            "run --help",
        ),
        (
            "run --residul",
            "Unrecognized options: --residul; perhaps you meant --residual; see jaxinit run --help",
        ),
        (
            "run --hidden",
            "Missing value for argument '--hidden'. Expected 1 values; see jaxinit run --help",
        ),
        (
            "audit mine.py:build --quiet",
            "Unrecognized or misplaced options: --quiet (applied to jaxinit audit); see jaxinit "
            "audit --help",
        ),
        ("frob", "Unrecognized options: frob; Available subcommands: run, resume, "),
        ("probe --schemes", "schemes must be one or more different names, got none"),
        ("coordcheck --schemes", "schemes must be one or more different names, got none"),
        ("coordcheck --widths 8 -1", "hidden must be 1 to 2147483647, got -1"),
        (
            "coordcheck --steps 0",
            "steps must be 1 or more, got 0: without a step there is no change to judge",
        ),
        ("probe --lrs 1e39", "learning rates must be positive, finite and different"),
    ],
)
def test_words_that_make_no_sense_are_answered_in_one_line(
    words: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxinit.engine.sweep.one_device_per_core", lambda: None)
    monkeypatch.setattr("jaxinit.engine.sweep.keep_compilations", lambda: None)
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxinit: {said}")
    assert error.count("\n") == 1
