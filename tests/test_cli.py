"""The command as a user meets it: help, lists, one-line errors, exit codes, and the default study's
options."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
from cases import every
from kept_study import keep

from jaxinit import cli, console
from jaxinit.analysis.outcome import Outcome
from jaxinit.engine import campaign
from jaxinit.engine.survey import survey
from jaxinit.initializers import CATALOGUE
from jaxinit.study import BadStudy, Study

SMALL = (
    "--hidden 16 --schemes small_normal orthogonal --lrs 0.1 --seeds 2 --epochs 1 --batch 128 "
    "--target 0.5"
)


def jaxinit(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "jaxinit.cli", *words], capture_output=True, text=True
    )


def test_help_never_imports_jax() -> None:
    code = (
        "import sys; from jaxinit import cli\ntry: cli.main(['run', '--help'])\nexcept "
        "SystemExit: pass\n"
    )
    heavy = "('jax', 'flax', 'numpy', 'matplotlib', 'sklearn', 'xarray', 'scipy')"
    done = subprocess.run(
        [sys.executable, "-c", code + f"print([m for m in {heavy} if m in sys.modules])"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for option in (
        "model",
        "hidden",
        "layers",
        "activation",
        "task",
        "length",
        "schemes",
        "lrs",
        "optimizer",
        "seeds",
    ):
        assert f"--{option}" in done.stdout
    for option in ("tune-seeds", "epochs", "target", "batch", "baseline", "out"):
        assert f"--{option}" in done.stdout


@pytest.mark.parametrize("words", [["run", "--help"], ["list", "--verbose"]])
def test_output_that_nobody_reads_any_more_is_no_error(words: list[str]) -> None:
    command = [sys.executable, "-m", "jaxinit.cli", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `head` does
        assert process.stderr.read() == ""
    assert process.returncode == console.CLOSED


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("schemes", "xavier_rnn"),
        ("models", "lstm"),
        ("tasks", "digits_pixels"),
        ("all", "schemes:"),
    ],
)
def test_lists_have_a_line_each(
    what: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["list", what]) == 0
    out = capsys.readouterr().out
    assert expected in out
    listed = [line for line in out.splitlines() if not line.endswith(":")]
    assert all(len(line.split(maxsplit=1)) == 2 for line in listed), "a name says nothing"


def test_initializers_are_listed_with_their_variance_and_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["list", "initializers"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "variance 2 / (n + m)" in lines["glorot"]
    assert "[Glorot & Bengio (2010) eq. 16, where the law is uniform]" in lines["glorot"]
    assert set(lines) == set(CATALOGUE)
    assert cli.main(["list", "initializers", "--verbose"]) == 0
    assert "Raises: ValueError" in capsys.readouterr().out


def test_run_then_again_then_plot(
    tmp_path: Path, as_users_run: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    first = jaxinit("run", *SMALL.split(), "--out", str(out))
    assert first.returncode == 0, first.stderr
    assert "4 trials, 1 compilation(s) of the training program" in first.stdout
    assert "orthogonal" in first.stdout
    assert f"report: {out / 'report.html'}; see it with: jaxinit open {out}" in first.stdout
    assert (out / "report.html").exists()
    pictures = sorted(path.name for path in (out / "figures").iterdir())
    names = ["answer", "learning_curves", "share_converged"]
    assert pictures == [f"{name}.{end}" for name in names for end in ("csv", "png", "svg")]
    command = [sys.executable, "-m", "jaxinit.cli", "plot", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == console.CLOSED
    for path in (out / "figures").iterdir():
        path.unlink()
    again = jaxinit("plot", str(out))
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in (out / "figures").iterdir()) == pictures
    assert cli.main(["compare", str(out), str(out)]) == 0
    compared = capsys.readouterr().out
    assert "0 of 2 schemes agree (95 % over all of them); of 2 no trial" in compared
    assert "2 seeds are the same in both" in compared
    assert cli.main(["run", *SMALL.split(), "--seeds", "3", "--out", str(out)]) == 2
    assert "holds another study (seeds is 2 there, 3 here)" in capsys.readouterr().err


@pytest.mark.slow  # test_again has it without the command line
def test_a_study_is_forecast_gone_on_with_extended_and_run_again(
    tmp_path: Path, as_users_run: None, capsys
) -> None:
    out = str(tmp_path / "study")
    assert cli.main(["run", *SMALL.split(), "--dry-run"]) == 0
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("of somebody else")
    taken = ["--out", str(tmp_path / "taken"), "--dry-run"]
    assert cli.main(["run", *SMALL.split(), *taken]) == 2
    said = capsys.readouterr().out
    assert "trials: about 4, of at most 1 epochs each" in said
    assert "nothing was written" in said
    assert not (tmp_path / "study").exists()
    assert cli.main(["run", *SMALL.split(), "--out", out]) == 0
    assert cli.main(["run", *SMALL.split(), "--out", out, "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert cli.main(["resume", out]) == 0
    assert f"read from {out}" in capsys.readouterr().out
    assert cli.main(["extend", out, "--schemes", "he_normal"]) == 0
    assert "6 trials, " in capsys.readouterr().out
    assert cli.main(["extend", out, "--schemes", "he_normal"]) == 2
    assert "has all of these schemes and seeds" in capsys.readouterr().err
    assert cli.main(["rerun", out, "--check"]) == 0
    assert f"bit for bit, as those of {out}" in capsys.readouterr().out
    assert cli.main(["rerun", out, "--check"]) == 2
    assert "is not empty; give --out a new folder" in capsys.readouterr().err
    assert cli.main(["resume", str(tmp_path / "none")]) == 2


def test_a_report_is_written_opened_and_compared(
    tmp_path: Path,
    as_users_run: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, page = tmp_path / "s", tmp_path / "s" / "report.html"
    keep(folder)
    assert cli.main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {page}\n"
    addresses: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: addresses.append(address) or True)
    page.unlink()
    assert cli.main(["open", str(folder)]) == 0
    assert page.exists()
    assert addresses == [page.as_uri()]
    assert capsys.readouterr().out == f"report: {page}\n"
    page.write_text("as it was", encoding="utf-8")
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert cli.main(["open", str(folder)]) == 0
    assert "no browser was found; the report: " in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == "as it was"
    other = tmp_path / "other.html"
    assert cli.main(["compare", str(folder), str(folder), "--out", str(other)]) == 0
    assert f"report: {other}" in capsys.readouterr().out
    assert "Do two studies agree?" in other.read_text(encoding="utf-8")
    assert cli.main(["compare", str(folder), str(folder), "--out", str(folder / "records.nc")]) == 2
    assert "a page is written into a file *.html" in capsys.readouterr().err
    for command in ("report", "open"):
        assert cli.main([command, str(tmp_path / "none")]) == 2
        assert "holds no study" in capsys.readouterr().err


def test_an_audit_has_a_page(tmp_path: Path, as_users_run: None) -> None:
    model = tmp_path / "mine.py"
    model.write_text(
        "from flax import nnx\n\n\ndef build(rngs):\n    return nnx.Linear(8, 8, rngs=rngs)\n"
    )
    page = tmp_path / "audit.html"
    assert cli.main(["audit", f"{model}:build", "--report", str(page)]) == 0
    assert "0 serious" in page.read_text(encoding="utf-8")


def test_a_study_as_json(
    tmp_path: Path, as_users_run: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", *SMALL.split(), "--out", str(tmp_path / "study"), "--json"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert answer.pop("folder") == str(tmp_path / "study")
    assert answer.pop("complete")
    assert answer == summary
    assert (tmp_path / "study" / "figures" / "learning_curves.png").exists()
    phases = [json.loads(line)["phase"] for line in said.err.splitlines()]
    assert {"drawing", "training", "comparing schemes"} <= set(phases)
    assert cli.main(words) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["table"] == summary["table"]
    assert again.err == "", "it is read back"


@pytest.mark.slow
def test_a_study_with_few_words_and_with_many(tmp_path: Path) -> None:
    quiet = jaxinit("run", *SMALL.split(), "--out", str(tmp_path / "quiet"), "--quiet")
    assert quiet.returncode == 0, quiet.stderr
    assert quiet.stderr == ""
    assert "4 trials, 1 compilation(s) of the training program" in quiet.stdout
    many = jaxinit("run", *SMALL.split(), "--out", str(tmp_path / "many"), "--verbose")
    assert many.returncode == 0, many.stderr
    assert "compiled jit(training_program) in " in many.stderr
    assert " slots on " in many.stderr
    assert " MiB that it may use" in many.stderr
    assert f"states are saved in {tmp_path / 'many' / 'state.bin'} every 5 s" in many.stderr


def test_signals_during_training_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_users_run: None
) -> None:
    asked: dict[str, Any] = {}

    def run(study: Any, **options: Any) -> Any:
        asked.update(options)
        raise BadStudy("enough")

    monkeypatch.setattr("jaxinit.engine.campaign.run", run)
    assert cli.main(["run", "--signals", "50", "--out", str(tmp_path / "s")]) == 2
    assert asked["signals"] == 50


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--quiet --json", "--quiet and --json exclude each other; give one of them"),
        ("--verbose --json --quiet", "--quiet and --json and --verbose exclude each other"),
        ("--sharded --cluster", "--sharded and --cluster exclude each other; give one of them"),
        ("--distributed --cluster", "--distributed and --cluster exclude each other; give one"),
        ("--distributed --dry-run", "--dry-run measures this process; leave out --distributed"),
    ],
)
def test_ways_to_run_and_to_answer_exclude_each_other(
    flags: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["run", *flags.split(), "--out", str(tmp_path / "s")]) == 2
    assert capsys.readouterr().err.startswith(f"jaxinit: {said}")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "words",
    [
        "run --schemes ortogonal small_normal",
        "run --model rnm",
        "run --task digits",
        "run --lrs 0.1 -0.1",
        "run --target 1.01",
        "run --seeds 1",
        "plot no-such-folder",
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extra = ["--out", str(tmp_path / "s")] if words.startswith("run") else []
    with pytest.MonkeyPatch.context() as patch:
        # the suite has set its devices up
        patch.setattr("jaxinit.engine.sweep.one_device_per_core", lambda: None)
        assert cli.main([*words.split(), *extra]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxinit: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("words", ["--help", "run --help", "list initializers --verbose"])
def test_a_terminal_that_knows_ascii_alone_is_written_to(words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jaxinit.cli", *words.split()],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii")
    assert not done.stderr


@pytest.mark.parametrize(("to", "code"), [(">&-", 0), (">/dev/full", 1)])
def test_output_that_cannot_be_written(to: str, code: int) -> None:
    command = f"{shlex.quote(sys.executable)} -m jaxinit.cli list models {to}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr == ("jaxinit: the output: No space left on device\n" if code else "")


@pytest.mark.slow
def test_what_the_environment_says_of_arithmetic_changes_no_record(tmp_path: Path) -> None:
    study = Study(
        hidden=8,
        schemes=("small_normal", "uniform01"),
        lrs=(3000.0,),
        seeds=2,
        epochs=1,
        batch=256,
        target=0.5,
    )
    plain = campaign.run(study, out=tmp_path / "a", progress=False)
    with jax.enable_x64(True), jax.debug_nans(True), jax.debug_infs(True), jax.enable_checks(True):
        other = campaign.run(study, out=tmp_path / "b", progress=False)
        signals = survey(study, examples=8)
    assert (plain.records.outcome == Outcome.DIVERGED).any(), "a trial diverges, as one may"
    xr.testing.assert_identical(plain.records, other.records)
    assert signals.activation_mean_square.dtype == np.float32
    xr.testing.assert_identical(signals, survey(study, examples=8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JAX_ENABLE_X64", "1"),
        ("JAX_DEBUG_NANS", "1"),
        ("JAX_DEBUG_INFS", "1"),
        ("JAX_ENABLE_CHECKS", "1"),
        ("JAX_NUMPY_DTYPE_PROMOTION", "strict"),
        ("JAX_NUMPY_RANK_PROMOTION", "raise"),
    ],
)
def test_commands_work_whatever_the_environment_says(
    variable: str, value: str, tmp_path: Path
) -> None:
    probe = (
        "probe --model lstm --task adding --length 10 --hidden 8 --seeds 2 --examples 9 --schemes "
        "orthogonal+lsuv"
    )
    for words in (f"run {SMALL}", probe):
        command = [
            sys.executable,
            "-m",
            "jaxinit.cli",
            *words.split(),
            "--out",
            str(tmp_path / words[:3]),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, variable: value}
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("platforms", "words", "said", "todo"),
    every(
        6,
        of=[
            ("rocm", "run", "no GPU", "unset JAX_PLATFORMS, which is 'rocm'"),
            ("cuda", "run", "no GPU", "unset JAX_PLATFORMS, which is 'cuda'"),
            ("cuda", "probe", "no GPU", "unset JAX_PLATFORMS, which is 'cuda'"),
            ("tpu", "run", "no TPU", "unset JAX_PLATFORMS, which is 'tpu'"),
            ("metal", "run", "no device of 'metal'", "unset JAX_PLATFORMS, which is 'metal'"),
            ("", "run --platform gpu", "no GPU", "leave --platform out"),
            ("cpu", "run --platform gpu", "no GPU", "unset JAX_PLATFORMS, which is 'cpu'"),
        ],
    ),
)
def test_a_device_that_is_not_there_is_one_line(
    platforms: str, words: str, said: str, todo: str, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "s")]
    command = [sys.executable, "-m", "jaxinit.cli", *words.split(), *out]
    environment = os.environ | {"JAX_PLATFORMS": platforms}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"jaxinit: {said} where one was asked for")
    assert "; there is 1 cpu device; " in line or " cpu devices; " in line
    assert line.endswith(todo)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_probe_prints_verdicts_and_draws(
    tmp_path: Path, as_users_run: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["probe", "--hidden", "64", "--seeds", "2", "--examples", "100", "--out"]
    assert cli.main([*words, str(tmp_path / "p")]) == 0
    said = capsys.readouterr().out
    assert "glorot_standard: vanishing" in said
    assert "decades per layer going back" in said
    assert "try: variance by the activation's gain" in said
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        "signals.nc",
        "verdicts.json",
        "manifest.json",
        "report.html",
        "figures",
    }
    assert cli.main([*words, str(tmp_path / "q"), "--only", "conv*"]) == 2
    assert "matches no kernel" in capsys.readouterr().err


def test_a_probe_as_json(
    tmp_path: Path, as_users_run: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "probe --model rnn --task adding --length 10 --hidden 8 --seeds 2 --examples 20"
    schemes = ["--schemes", "orthogonal", "small_normal", "--baseline", "orthogonal"]
    assert cli.main([*words.split(), *schemes, "--json", "--out", str(tmp_path / "p")]) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["folder"] == str(tmp_path / "p")
    assert Path(answer["report"]).exists()
    stored = json.loads((tmp_path / "p" / "verdicts.json").read_text())
    assert answer["verdicts"] == stored["verdicts"]
    assert list(answer["memory"]) == ["orthogonal", "small_normal"]
    assert [len(steps) for steps in answer["memory"].values()] == [2, 2]
    assert "measuring signals" in {json.loads(line)["phase"] for line in said.err.splitlines()}


def test_reproduce_knows_its_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "experiments"]) == 0
    assert "glorot2010" in capsys.readouterr().out
    assert cli.main(["reproduce", "glorot2011"]) == 2
    assert (
        "no experiment is called 'glorot2011'; the nearest is 'glorot2010'"
        in capsys.readouterr().err
    )
