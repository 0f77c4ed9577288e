"""Every experiment runs tiny, as a user would start it, and its docstring teaches."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))
LIKE_OTHERS = {  # which take the same paths as others, and run with --slow
    *("chrono2018", "forget_bias2015", "framework_defaults", "irnn2015", "memory2016", "remedies_rnn", "rezero2020"),
    *("zaremba2014", "he2015"),
}
NO_EPOCHS = {"mup_transfer", "depth_transfer"}  # where epochs to a target are not the question
SMOKED = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LIKE_OTHERS else [])
    for path in EXPERIMENTS
]


@pytest.mark.parametrize("path", SMOKED)
def test_smoke(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path), "--size", "smoke", "--out", str(tmp_path / "s")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert bool(summary["table"]) == (path.stem not in NO_EPOCHS)
    assert summary["claims"]
    for path in (tmp_path / "s").rglob("summary.json"):  # also those of the studies it is made of
        assert {claim["verdict"] for claim in json.loads(path.read_text())["claims"]} <= {None}, path
    assert not any(word in done.stdout for word in ("; supported", "; refuted", "; too noisy")), done.stdout
    assert list((tmp_path / "s" / "figures").glob("*.png"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_docstring_has_the_command_the_time_and_the_numbers_to_expect(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"python experiments/{path.name}" in text
    assert "Expect" in text
    assert "--size smoke" in text


def test_quick_is_the_main_job() -> None:
    sys.path.insert(0, str(EXPERIMENTS[0].parent))
    try:
        from rnn_convergence import SIZES
    finally:
        sys.path.pop(0)
    from jaxinit.cell import check
    from jaxinit.study import Study

    resolved = check(Study()).study
    assert check(next(iter(SIZES["quick"].values()))).study.__dict__ | {"activation": None} == resolved.__dict__
