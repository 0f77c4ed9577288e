"""The page of a study has all that its folder holds, and says what is missing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ended_study import STUDY, about, ended, ended_courses
from ended_trials import Ended, courses
from kept_study import keep
from pages import Read, asks_for_nothing

from jaxinit.analysis import store, study_page
from jaxinit.analysis.folder import Folder
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.page import Chart, rendered
from jaxinit.analysis.pages import page_of as page_of_folder
from jaxinit.analysis.store import netcdf
from jaxinit.study import BadStudy

EVIL = "<script>alert(1)</script>"


def page_of(path: Path) -> Read:
    return Read(rendered(study_page.study_page(study_page.read(path))))


def lines(read: Read) -> str:
    return "\n".join(text for texts in read.texts.values() for text in texts)


def test_a_page_has_the_numbers_of_the_summary(tmp_path: Path) -> None:
    result = keep(tmp_path / "s", target_because="somebody said so")
    path = study_page.write_study(result)
    assert path == tmp_path / "s" / "report.html"
    assert path.stat().st_size < 100_000
    read = Read(path.read_text(encoding="utf-8"))
    assert asks_for_nothing(read)
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    for row, record in zip(summary["table"], read.records(), strict=True):
        assert record["scheme"] == row["scheme"]
        for name in ("lr", "epochs", "epochs_low", "epochs_high", "ratio", "p_holm", "converged"):
            assert record[name] == ("" if row[name] is None else str(row[name])), name
    said = lines(read)
    assert "orthogonal converges first, to validation accuracy ≥ 0.97 in 1.1" in said
    assert "times fewer than small_normal, the baseline." in said
    for fact in ("somebody said so", "2 cpu devices", "jaxinit rerun", "jaxinit run --schemes"):
        assert fact in said
    assert all(note in said for note in summary["notes"])
    assert result.about["versions"]["jax"] in said


def test_a_scheme_has_its_place_in_every_chart(tmp_path: Path) -> None:
    keep(tmp_path / "s")
    numbers = page_of(tmp_path / "s").numbers
    assert numbers["schemes"] == list(STUDY.schemes)
    titles = [chart["title"] for chart in numbers["charts"]]
    assert len(titles) == 3
    assert all([line["s"] for line in chart["lines"]] == [0, 1] for chart in numbers["charts"])
    (rates,) = (chart for chart in numbers["charts"] if chart["dots"])
    assert [sum(len(dot["x"]) for dot in rates["dots"])] == [8]
    assert rates["lines"][0]["x"] == [0.1, 0.3]


def test_a_scheme_may_be_called_anything(tmp_path: Path) -> None:
    study = replace(STUDY, schemes=(EVIL, "small_normal"))
    trials = [
        Ended(scheme, 0.1, seed, time)
        for scheme, time in ((EVIL, 1.0), ("small_normal", 2.0))
        for seed in (1, 2)
    ]
    attrs = store.attributes(study, 4, about("complete")["task"], "d")
    keep(tmp_path / "s", study, courses(trials, **attrs).dataset())
    read = page_of(tmp_path / "s")
    assert len(read.scripts) == 2
    assert read.numbers["schemes"] == [EVIL, "small_normal"]
    assert read.records()[0]["scheme"] == EVIL
    assert any(row[0] == EVIL for row in read.cells)


def test_lost_and_forced_trials_are_warned_of(tmp_path: Path) -> None:
    records = ended()
    records.outcome.values[1] = Outcome.DIVERGED
    life = about("complete")["lives"][0] | {"forced": ["jax 1 there, 2 here"]}
    failures = {"orthogonal at 0.1, seed 2": "its workers died"}
    keep(tmp_path / "s", records=records, failures=failures, lives=[life])
    said = "\n".join(study_page.warnings_of(study_page.read(tmp_path / "s")))
    assert "1 of 2 trials diverged" in said
    assert "orthogonal at 0.1, seed 2 (its workers died)" in said
    assert "jax 1 there, 2 here" in said


def test_a_study_that_never_converges_says_so(tmp_path: Path) -> None:
    trials = [
        Ended(scheme, 0.1, seed, 2.0, Outcome.CENSORED)
        for scheme in STUDY.schemes
        for seed in (1, 2)
    ]
    attrs = store.attributes(STUDY, 4, about("complete")["task"], "d")
    keep(tmp_path / "s", records=courses(trials, **attrs).dataset())
    parts = study_page.read(tmp_path / "s")
    assert study_page.answer(parts) == (
        "No scheme reached validation accuracy ≥ 0.97 within 2 epochs."
    )


def test_a_study_under_way_is_shown_with_how_to_go_on(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "s")
    with folder.locked():
        store.write_study(folder, STUDY, about("running"))
    read = page_of(tmp_path / "s")
    assert "has no records yet" in lines(read)
    assert "jaxinit resume" in lines(read)
    assert not read.numbers["charts"]
    store.write_state(tmp_path / "s", ended_courses().arrays(), "d", about("running")["lives"])
    read = page_of(tmp_path / "s")
    assert len(read.numbers["charts"]) == 3
    assert "8 trials have ended" in lines(read)


@pytest.mark.parametrize(
    ("name", "charts", "has_table"),
    [("records.nc", 0, True), ("summary.json", 3, True), ("study.json", 3, True)],
)
def test_a_damaged_study_shows_the_rest(
    name: str, charts: int, has_table: bool, tmp_path: Path
) -> None:
    keep(tmp_path / "s")
    (tmp_path / "s" / name).write_bytes(b"damaged")
    read = page_of(tmp_path / "s")
    assert f"{name} is damaged" in lines(read)
    assert len(read.numbers["charts"]) == charts
    assert bool(read.numbers["tables"]) == has_table
    assert read.numbers["schemes"] == list(STUDY.schemes)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="holds no study"):
        study_page.read(tmp_path)
    store.write_answer(tmp_path / "p", "probe", {}, {"signals.nc": b""})
    with pytest.raises(BadStudy, match="holds a probe and no study"):
        study_page.read(tmp_path / "p")


def signals(epochs: bool) -> xr.Dataset:
    """Of two schemes, two kernels, and two epochs or two seeds."""
    axis = "epoch" if epochs else "seed"
    shape = (2, 2, 2, 1, 1)
    values = np.linspace(1, 4, 8, dtype=np.float32).reshape(shape)
    axes = ("scheme", axis, "parameter", "step", "copy")
    variables = {f"{name}_mean_square": (axes, values) for name in study_page.SIZES}
    coords: dict[str, Any] = {"scheme": list(STUDY.schemes), "parameter": ["in", "out"]}
    return xr.Dataset(variables, coords | {axis: [0, 1]})


def test_signals_are_drawn_where_they_were_recorded(tmp_path: Path) -> None:
    keep(tmp_path / "s", files={"signals.nc": netcdf(signals(epochs=True))})
    charts = page_of(tmp_path / "s").numbers["charts"][3:]
    assert [chart["title"] for chart in charts[:2]] == ["in: activations", "in: gradients"]
    assert len(charts) == 6
    (tmp_path / "s" / "summary.json").write_bytes(b"damaged")
    assert page_of(tmp_path / "s").numbers["charts"][3:] == charts
    assert charts[0]["lines"][0]["y"] == pytest.approx([1.0, (1 + 6 / 7) ** 0.5], rel=1e-3)
    dead = signals(epochs=True)
    dead["gradient_mean_square"][0, 0, 0] = 0
    chart = study_page.signal_charts(dead)[1]
    assert isinstance(chart, Chart)
    assert chart.y_log, "a size of 0 leaves the axis logarithmic"
    assert np.isnan(chart.curves[STUDY.schemes[0]].y).tolist() == [True, False]
    before = study_page.signal_charts(signals(epochs=False))
    assert [block.kind for block in before] == ["chart"] * 3 + ["lines"]


@pytest.mark.parametrize("torn", [None, b"{", b'{"kind": "study"}'])
def test_a_study_without_its_manifest_is_shown_as_what_nobody_verified(
    tmp_path: Path, torn: bytes | None
) -> None:
    result = keep(tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    manifest.unlink()
    if torn is not None:
        manifest.write_bytes(torn)
    read = Read(rendered(page_of_folder(tmp_path / "s")))
    assert "nothing could be verified: what is shown is what the files say now" in lines(read)
    assert [row["scheme"] for row in read.records()] == [
        row["scheme"] for row in result.summary["table"]
    ]
    (tmp_path / "s" / "records.nc").write_bytes(b"torn too")
    with pytest.raises(BadStudy, match="manifest"):
        page_of_folder(tmp_path / "s")
