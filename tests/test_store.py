"""The folder of a study: nothing is overwritten, nothing is half written."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from jaxinit import store
from jaxinit.study import BadStudy, Study

STUDY = Study(lrs=(0.1, 0.3), target=0.97, schemes=("orthogonal", "small_normal"), seeds=2, tune_seeds=1, epochs=2)
ABOUT = {
    "task": "digits_rows",
    "metric_name": "validation accuracy",
    "higher_is_better": 1,
    "chance": 0.1,
    "target": 0.97,
}


def write(folder: Path, status: str = "complete") -> xr.Dataset:
    records = store.empty_records(STUDY, 4, ABOUT)
    records.metric.values[0, 1, 2] = np.arange(8)
    store.write_study(folder, STUDY, status, {"data_sha256": "x"})
    store.write_records(folder, records)
    store.write_json(folder / "summary.json", {"table": []})
    return records


def test_round_trip_keeps_axes_values_and_attributes(tmp_path: Path) -> None:
    records = write(tmp_path / "s")
    result = store.load(tmp_path / "s")
    xr.testing.assert_identical(result.records, records)
    assert result.study == STUDY
    assert result.complete
    assert dict(result.records.sizes) == {"scheme": 2, "lr": 2, "seed": 3, "epoch": 8}
    assert list(result.records.phase.values) == ["tune", "report", "report"]
    assert result.records.outcome.attrs["flag_meanings"] == "unfinished converged censored diverged"
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["records.nc", "study.json", "summary.json"]


def test_study_json_says_what_it_ran_on(tmp_path: Path) -> None:
    write(tmp_path)
    stored = json.loads((tmp_path / "study.json").read_text())
    assert stored["command"].startswith("jaxinit run --schemes orthogonal small_normal")
    assert stored["seeds"] == {"tune": [0], "report": [1, 2]}
    assert {"jax", "numpy", "python"} <= set(stored["versions"])
    assert {"commit", "written", "data_sha256", "status"} <= set(stored)


def test_holds_only_the_very_same_complete_study(tmp_path: Path) -> None:
    assert not store.holds(tmp_path / "new", STUDY)
    write(tmp_path / "s")
    assert store.holds(tmp_path / "s", STUDY)
    write(tmp_path / "i", "interrupted")
    assert not store.holds(tmp_path / "i", STUDY)


def test_another_study_is_refused_with_what_differs(tmp_path: Path) -> None:
    write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BadStudy, match=r"holds another study \(seeds is 2 there, 9 here\); give --out a new folder"):
        store.holds(tmp_path, Study(**{**STUDY.__dict__, "seeds": 9}))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_foreign_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadStudy, match="is not empty and holds no study"):
        store.holds(tmp_path, STUDY)
    with pytest.raises(BadStudy, match="is a file; give --out a folder"):
        store.holds(tmp_path / "notes.txt", STUDY)


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="holds no study"):
        store.load(tmp_path)
    store.write_study(tmp_path, STUDY, "running", {})
    with pytest.raises(BadStudy, match="wrote no records yet; run it again: jaxinit run"):
        store.load(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    store.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ZeroDivisionError):
        store._write_atomically(tmp_path / "a.json", lambda to: to.write_text("half of it") // 0)
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_numbers_that_are_not_finite_never_cost_a_summary(tmp_path: Path) -> None:
    store.write_json(tmp_path / "x.json", {"a": [float("nan"), 1.0], "b": {"c": (float("inf"), -0.5)}, "d": "nan"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.0], "b": {"c": [None, -0.5]}, "d": "nan"}
