"""The pages of numbers are what the kept summaries say, and nothing else is."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ended_study import STUDY
from kept_study import keep

from jaxinit.study import BadStudy

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
assert spec is not None
assert spec.loader is not None
results: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)


def test_every_page_is_what_the_summaries_say() -> None:
    differing = [path for path, text in results.pages().items() if path.read_text() != text]
    assert not differing, "run scripts/results.py"


def test_every_experiment_has_been_measured() -> None:
    experiments = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    assert experiments <= {path.stem for path in results.KEPT.glob("*.json")}


def test_a_number_that_changes_changes_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = results.pages()
    for path in results.KEPT.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    changed = tmp_path / "rnn_convergence.json"
    summary = json.loads(changed.read_text())
    summary["claims"][0]["measured"] = 123.0
    changed.write_text(json.dumps(summary))
    monkeypatch.setattr(results, "KEPT", tmp_path)
    after = results.pages()
    moved = {path.name for path in after if after[path] != before[path]}
    assert moved == {"results.md", "rnn_convergence.py"}


def test_only_runs_that_anyone_can_repeat_are_kept(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match=r"has no summary.json; give the folder of an experiment"):
        results.keep(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"about": {"size": "smoke"}}))
    with pytest.raises(BadStudy, match="is of size 'smoke'"):
        results.keep(tmp_path)


def test_a_kept_summary_has_what_pages_read_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "KEPT", tmp_path)
    about = {"size": "quick", "experiment": "mine"}
    summary = {"about": about, "table": [{"epochs": 1 / 3}], "studies": {"a": {}}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    results.keep(tmp_path)
    kept = json.loads((tmp_path / "mine.json").read_text())
    assert kept == {"about": about, "table": [{"epochs": 0.333333}]}


def test_the_main_job_is_kept_alone_or_with_replications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "KEPT", tmp_path)
    folders = []
    for first in (0, 100, 200):
        keep(tmp_path / f"from-{first}", replace(STUDY, first_seed=first))
        folders.append(tmp_path / f"from-{first}")
    with pytest.raises(BadStudy, match="takes two of them, got one"):
        results.keep_main(folders[:2])
    with pytest.raises(BadStudy, match="begins at seed 0 first"):
        results.keep_main(folders[1:])
    assert not list(tmp_path.glob("*.json"))
    results.keep_main(folders)
    kept = json.loads((tmp_path / f"{results.REPLICATIONS}.json").read_text())
    assert kept["first_seeds"] == [100, 200]
    assert all(its["epochs"]["held"] in (0, 1, 2) for its in kept["schemes"].values())


def test_schemes_share_a_letter_where_one_of_theirs_is_the_same() -> None:
    rows = {
        name: {"letters": letters} for name, letters in zip("xyz", ("a", "ab", "b"), strict=True)
    }
    shared = {name: results.sharing_a_letter(row, rows) for name, row in rows.items()}
    assert shared == {"x": ["x", "y"], "y": ["x", "y", "z"], "z": ["y", "z"]}


def test_a_docstring_ends_with_what_to_expect() -> None:
    source = '"""One line.\n\nExpect at quick: old.\n"""\n\nx = 1\n'
    assert results.with_expectation(source, "Expect at quick: new.") == source.replace("old", "new")
    with pytest.raises(BadStudy, match="must end with a part"):
        results.with_expectation("x = 1\n", "Expect at quick: new.")
