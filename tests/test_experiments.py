"""Every experiment runs tiny through the command line, and its docstring teaches."""

import ast
import json
import runpy
from pathlib import Path

import pytest

from jaxinit import cli
from jaxinit.engine.resolve import resolve
from jaxinit.study import Study

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))
NO_EPOCHS = {"mup_transfer", "depth_transfer"}  # where epochs to a target are not the question


# All of them in this process: they share what is imported and compiled.
@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("name", [path.stem for path in EXPERIMENTS])
def test_smoke(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jaxinit.analysis.figure.FORMATS", ("png",))  # SVG is a tenth of the time
    out = tmp_path / "smoke"
    assert cli.main(["reproduce", name, "--size", "smoke", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert bool(summary["table"]) == (name not in NO_EPOCHS)
    assert summary["claims"]
    for path in out.rglob("summary.json"):  # also those of the studies it is made of
        assert {claim["verdict"] for claim in json.loads(path.read_text())["claims"]} <= {None}, (
            path
        )
    said = capsys.readouterr().out
    assert not any(word in said for word in ("; supported", "; refuted", "; too noisy")), said
    assert list((out / "figures").glob("*.png"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_docstring_has_the_command_the_time_and_the_numbers_to_expect(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"python experiments/{path.name}" in text
    assert "Expect" in text
    assert "--size smoke" in text


def test_quick_is_the_main_job() -> None:
    sizes = runpy.run_path(str(cli.experiments()["rnn_convergence"]))["SIZES"]
    resolved = resolve(Study()).study
    assert (
        resolve(next(iter(sizes["quick"].values()))).study.__dict__ | {"activation": None}
        == resolved.__dict__
    )
