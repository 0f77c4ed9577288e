"""Every experiment runs tiny through the command line, and its docstring teaches."""

import ast
import json
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from cases import quick

from jaxinit import cli
from jaxinit.analysis.claims import IN_WORDS
from jaxinit.engine.resolve import resolve
from jaxinit.study import Study, check_settings

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))
NO_EPOCHS = {"mup_transfer", "depth_transfer"}  # where epochs to a target are not the question

# All the others would be most of the suite; rnn_convergence is run by .ci/run on both ends of the
# versions.
CHECKED_ALWAYS = {"saxe2013"}
SMOKES = quick(*CHECKED_ALWAYS, of=(path.stem for path in EXPERIMENTS))


# All of them in this process: they share what is imported and compiled.
@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("name", SMOKES)
def test_smoke(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jaxinit.analysis.figure.FORMATS", ("png",))  # SVG is a tenth of the time
    out = tmp_path / "smoke"
    assert cli.main(["reproduce", name, "--size", "smoke", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert bool(summary["table"]) == (name not in NO_EPOCHS)
    assert summary["claims"]
    path = cli.experiments()[name]
    assert {claim["id"] for claim in summary["claims"]} <= names_of_claims(path)
    for path in out.rglob("summary.json"):  # also those of the studies it is made of
        assert {claim["verdict"] for claim in json.loads(path.read_text())["claims"]} <= {None}, (
            path
        )
    said = capsys.readouterr().out
    judged = {words for verdict, words in IN_WORDS.items() if verdict is not None}
    assert not any(f": {words}" in said for words in judged), said
    assert IN_WORDS[None] in said
    assert list((out / "figures").rglob("*.png"))


def test_no_two_experiments_have_a_claim_of_one_name() -> None:
    """A name that another experiment has is written with its experiment's: `memory2016.A1`."""
    counts: Counter = Counter()
    for path in EXPERIMENTS:
        names = names_of_claims(path)
        assert names, path
        counts.update(names)
    assert {name: count for name, count in counts.items() if count > 1} == {}


def names_of_claims(path: Path) -> set[str]:
    """The names of an experiment's claims, by its source; `test_smoke` sees that all are there."""
    pattern = re.compile(rf"[A-Z]\d+|{path.stem}\.\w+")
    # Every study of recurrent networks makes this one itself; one experiment hands it on.
    names = set()
    if path.stem == "rnn_convergence":
        names = {"A10.small_normal", "A10.uniform01"}
    for node in ast.walk(ast.parse(path.read_text())):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and pattern.fullmatch(value):
            names.add(value)
    return names


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_docstring_has_the_command_the_time_and_the_numbers_to_expect(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"python experiments/{path.name}" in text
    assert "Expect" in text
    assert "--size smoke" in text


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_size_asks_what_a_study_can_be_asked(path: Path) -> None:
    """Also the one for an accelerator, which nobody runs by chance."""
    for size in runpy.run_path(str(path))["SIZES"].values():
        for study in studies_in(size):
            check_settings(study, tasks_taking={})  # tasks of their own are not known by name


def studies_in(size: Any) -> Iterator[Study]:
    """The studies of a size, a container or a dataclass of some."""
    if isinstance(size, Study):
        yield size
    elif is_dataclass(size):
        for field in fields(size):
            yield from studies_in(getattr(size, field.name))
    elif isinstance(size, dict | tuple):
        for part in size.values() if isinstance(size, dict) else size:
            yield from studies_in(part)


def test_quick_is_the_main_job() -> None:
    sizes = runpy.run_path(str(cli.experiments()["rnn_convergence"]))["SIZES"]
    resolved = resolve(Study()).study
    assert (
        resolve(next(iter(sizes["quick"].values()))).study.__dict__ | {"activation": None}
        == resolved.__dict__
    )
