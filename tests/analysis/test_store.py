"""The folder of a study: nothing is overwritten, nothing is half written."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
from ended_study import LIFE, STUDY, TRIALS, about, ended, ended_courses

from jaxinit.analysis import store
from jaxinit.analysis.folder import Folder, to_json
from jaxinit.analysis.records import TRACES
from jaxinit.analysis.summary import summarize
from jaxinit.study import BadStudy, Study


def write(path: Path, status: str = "complete") -> xr.Dataset:
    records, folder = ended(), Folder(path)
    records.metric.values[1] = np.arange(8)
    summary = summarize(records, STUDY, about(status))
    files = {"records.nc": store.netcdf(records), "summary.json": to_json(summary)}
    with folder.locked():
        store.write_study(folder, STUDY, about(status), files if status == "complete" else {})
    return records


def test_round_trip_keeps_axes_values_and_attributes(tmp_path: Path) -> None:
    records = write(tmp_path / "s")
    result = store.load(tmp_path / "s")
    xr.testing.assert_identical(result.records, records)
    assert result.study == STUDY
    assert result.complete
    assert dict(result.records.sizes) == {"trial": TRIALS, "epoch": 8}
    assert list(result.records.purpose.values[:4]) == ["tune", "report", "report", "tune"]
    meanings = "unfinished converged censored diverged stopped failed"
    assert result.records.outcome.attrs["flag_meanings"] == meanings
    names = ["manifest.json", "records.nc", "study.json", "summary.json"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == names
    assert (
        result.records.attrs["schema"]
        == json.loads((tmp_path / "s" / "study.json").read_text())["schema"]
        == 4
    )
    assert result.records.attrs["identity"] == "d"
    assert (
        result.origin
        == f"computed 2026-11-25T12:00:00+00:00 on 2 cpu devices, JAX {jax.__version__}"
    )


def test_study_json_says_what_it_ran_on(tmp_path: Path) -> None:
    write(tmp_path)
    stored = json.loads((tmp_path / "study.json").read_text())
    assert stored["command"].startswith("jaxinit run --schemes orthogonal small_normal")
    assert stored["seeds"] == {"tune": [0], "report": [1, 2]}
    assert {"jax", "numpy", "python"} <= set(stored["versions"])
    assert {
        "commit",
        "source",
        "written",
        "identity",
        "digest",
        "status",
        "lives",
        "device",
    } <= set(stored)


def state(metric: float) -> dict[str, np.ndarray]:
    courses = ended_courses()
    for course in courses.by_point.values():
        course.traces[list(TRACES).index("metric")] = metric
    return courses.arrays()


def metrics(saved: dict[str, Any]) -> np.ndarray:
    return saved["traces"][:, list(TRACES).index("metric")]


def test_a_folder_with_nothing_is_no_answer_and_another_question_is_refused(tmp_path: Path) -> None:
    assert store.answered(Folder(tmp_path / "new"), STUDY) is None
    write(tmp_path / "s")
    stored = store.answered(Folder(tmp_path / "s"), STUDY)
    assert stored is not None
    assert stored["status"] == "complete"
    before = {path: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    with pytest.raises(
        BadStudy, match=r"holds another study \(seeds is 2 there, 9 here\); give --out a new folder"
    ):
        store.answered(Folder(tmp_path / "s"), Study(**{**STUDY.__dict__, "seeds": 9}))
    assert {path: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="holds no study"):
        store.load(tmp_path)
    with pytest.raises(BadStudy, match="holds no study"):
        store.load(tmp_path / "nowhere")
    store.write_answer(tmp_path / "p", "probe", {}, {"signals.nc": b""})
    with pytest.raises(BadStudy, match="holds a probe and no study"):
        store.load(tmp_path / "p")
    write(tmp_path / "my s", "running")
    with pytest.raises(
        BadStudy, match=r"has no records yet; run it again: jaxinit run .* --out '.*my s'"
    ):
        store.load(tmp_path / "my s")


def test_a_study_that_was_killed_shows_its_last_saved_state(tmp_path: Path) -> None:
    write(tmp_path, "running")
    for metric in (0.25, 0.75):
        store.write_state(tmp_path, state(metric), "d", [LIFE])
    result = store.load(tmp_path)
    assert not result.complete
    assert (result.records.metric == 0.75).all()
    assert result.summary["trials"] == TRIALS
    (tmp_path / store.STATE).write_bytes(b"torn")
    before = store.load(tmp_path)
    assert (before.records.metric == 0.25).all()
    assert before.remark.endswith("is torn; these are the records of the state saved before")
    assert (tmp_path / store.STATE).exists(), "who only looks sets nothing aside"
    (tmp_path / store.STATE).write_bytes((tmp_path / store.SPARE).read_bytes())
    assert "state.bin is a copy of state.before.bin; these are" in store.load(tmp_path).remark
    (tmp_path / store.STATE).unlink()
    assert (
        "state.bin is missing; these are the records of the state saved before"
        in store.load(tmp_path).remark
    )


def test_a_study_that_ends_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "running")
    stored = store.stored

    def then_it_ends(path: Path) -> dict:
        about = stored(path)
        if about["status"] == "running":
            write(tmp_path, "complete")
        return about

    monkeypatch.setattr(store, "stored", then_it_ends)
    assert store.load(tmp_path).complete


def test_without_a_state_the_records_of_the_last_interruption_are_shown(tmp_path: Path) -> None:
    records = write(tmp_path, "interrupted")
    with pytest.raises(BadStudy, match="has no records yet"):
        store.load(tmp_path)
    for name in (store.STATE, store.SPARE):
        (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(
        BadStudy,
        match=r"state.bin is torn; .*state.before.bin is torn; the study in .* has no records",
    ):
        store.load(tmp_path)
    with Folder(tmp_path).locked():
        store.write_study(
            Folder(tmp_path), STUDY, about("interrupted"), {"records.nc": store.netcdf(records)}
        )
    result = store.load(tmp_path)
    xr.testing.assert_identical(result.records, records)
    assert not result.complete
    assert "state.before.bin is torn; no saved state is left" in result.remark
    assert "these are the records of its last interruption" in result.remark
    foreign = {"records.nc": store.netcdf(records.assign_attrs(identity="other"))}
    with Folder(tmp_path).locked():
        store.write_study(Folder(tmp_path), STUDY, about("interrupted"), foreign)
    with pytest.raises(BadStudy, match="has no records yet"):
        store.load(tmp_path)


def test_a_state_of_another_study_is_never_taken(tmp_path: Path) -> None:
    store.write_state(tmp_path, state(0.25), "mine", [LIFE])
    store.write_state(tmp_path, state(0.75), "another", [LIFE])
    found, remark = store.read_state(tmp_path, "mine")
    assert found is not None
    assert (metrics(found) == 0.25).all()
    assert found["lives"] == [LIFE]
    assert (
        "belongs to another study and was set aside as state.bin.foreign; going on from" in remark
    )
    assert (tmp_path / "state.bin.foreign").exists()


def test_a_summary_can_always_be_made_again_from_the_records(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "summary.json"
    good, kept = path.read_bytes(), store.load(tmp_path).summary
    for damage in (b"{}", good[:-20], None):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(BadStudy, match=r"summary.json is (damaged|missing).*jaxinit plot"):
            store.load(tmp_path)
        assert store.summarize_again(tmp_path).summary == kept
        assert path.read_bytes() == good
        assert store.load(tmp_path).summary == kept


@pytest.mark.parametrize("how", ["folder", "loop"])
def test_a_summary_and_a_state_that_are_no_files_are_as_torn_ones(how: str, tmp_path: Path) -> None:
    def make(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(path.name) if how == "loop" else path.mkdir()

    write(tmp_path / "s")
    kept = store.load(tmp_path / "s").summary
    make(tmp_path / "s" / "summary.json")
    assert store.summarize_again(tmp_path / "s").summary == kept
    assert store.load(tmp_path / "s").summary == kept
    assert (tmp_path / "s" / "summary.json").is_file()
    for metric in (0.25, 0.75):
        store.write_state(tmp_path, state(metric), "d", [LIFE])
    make(tmp_path / store.STATE)
    found, remark = store.read_state(tmp_path, "d")
    assert found is not None
    assert (metrics(found) == 0.25).all()
    assert "is torn and was set aside as state.bin.torn; going on from" in remark


def test_missing_records_of_a_finished_study_give_advice_that_ends(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "records.nc").unlink()
    for look in (store.load, store.summarize_again):
        with pytest.raises(
            BadStudy,
            match=r"records.nc is missing; restore it from a copy, or move the folder away",
        ):
            look(tmp_path)


def test_a_finished_study_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    (tmp_path / "summary.json").unlink()

    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # the suite may run as root, whom no mode stops
    assert store.summarize_again(tmp_path).summary["trials"] == TRIALS


@pytest.mark.parametrize("name", ["study.json", "records.nc", "summary.json", "manifest.json"])
def test_flipped_bits_are_always_named(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    content = (tmp_path / name).read_bytes()
    draws = np.random.default_rng(0)
    for place in draws.integers(0, len(content), 25):
        flipped = bytearray(content)
        flipped[place] ^= 1 << draws.integers(8)
        (tmp_path / name).write_bytes(flipped)
        with pytest.raises(BadStudy, match="is damaged") as caught:
            store.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_changed_conditions_are_named() -> None:
    here = store.conditions()
    assert store.changed_conditions(here, here) == []
    other = here | {
        "arithmetic": here["arithmetic"] | {"XLA_FLAGS": "--x=1", "processor": "another"}
    }
    words = store.changed_conditions(other, here)
    assert len(words) == 2
    assert words[0].startswith("XLA_FLAGS '--x=1' there, '")
    assert words[1].startswith("processor 'another' there, '")
    other = here | {"versions": here["versions"] | {"jax": "0.1"}, "commit": "abc"}
    words = store.changed_conditions(other, here)
    assert f"jax 0.1 there, {jax.__version__} here" in words
    assert any(word.startswith("commit abc there") for word in words)
    assert store.changed_conditions(here | {"source": "x"}, here) == ["the source of jaxinit"]
