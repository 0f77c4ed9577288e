"""A network looked at instead of trained: from a study to signals, verdicts and files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from jaxinit import theory
from jaxinit.analysis import signal_figures
from jaxinit.engine.survey import survey, through_time, verdicts
from jaxinit.study import BadStudy, Study

STUDY = Study(
    model="mlp",
    layers=5,
    hidden=100,
    schemes=("glorot_standard", "glorot_normalized", "small_normal+lsuv"),
    baseline="glorot_standard",
    seeds=2,
)


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Path]:
    folder = tmp_path_factory.mktemp("probe") / "s"
    return survey(STUDY, out=folder), folder


@pytest.mark.slow
def test_glorot_and_bengio_at_the_start(signals: tuple[xr.Dataset, Path]) -> None:
    found, folder = signals
    judged = verdicts(found)
    assert [judged[name][0].kind for name in STUDY.schemes] == ["vanishing", "healthy", "healthy"]
    back = np.sqrt(found.gradient_mean_square.mean(("seed", "step", "copy")))
    hidden = back.sel(parameter=[f"layers.{k}.kernel" for k in range(5)])
    ratio = hidden.sel(parameter="layers.0.kernel") / hidden.sel(parameter="layers.4.kernel")
    assert ratio.sel(scheme="glorot_standard") < 0.2
    assert ratio.sel(scheme="glorot_normalized") > 0.4
    weights = np.sqrt(found.weight_gradient_mean_square.mean(("seed", "step", "copy")))
    inner = weights.sel(
        parameter=[f"layers.{k}.kernel" for k in range(1, 5)], scheme="glorot_standard"
    )
    assert inner.max() / inner.min() < 1.15, "weight gradients do not shrink: eq. 14"
    assert theory.gain("tanh") > 1
    with xr.open_dataset(folder / "signals.nc", engine="h5netcdf") as kept:
        xr.testing.assert_allclose(kept.load(), found)
    stored = json.loads((folder / "verdicts.json").read_text())
    assert stored["verdicts"]["glorot_standard"][0]["kind"] == "vanishing"
    assert (
        Study(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored["study"].items()})
        == STUDY
    )


@pytest.mark.parametrize("search", ["ladder", "grid"])
def test_signals_are_those_of_the_seeds_from_the_first_on(search: str) -> None:
    study = replace(STUDY, layers=1, hidden=8, search=search, schemes=("orthogonal",), seeds=3)
    whole = survey(study, examples=20)
    later = survey(replace(study, first_seed=1, seeds=2), examples=20)
    for kind in ("activation_mean_square", "weight_gradient_mean_square", "weight_mean_square"):
        np.testing.assert_allclose(later[kind], whole[kind].isel(seed=[1, 2]), rtol=1e-5)


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="examples must be 1 to 517"):
        survey(STUDY, examples=0, out=tmp_path / "s")
    with pytest.raises(BadStudy, match=r"the filter 'conv\*' matches no kernel"):
        survey(STUDY, only="conv*", out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_every_step_of_a_long_sequence_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study trains long sequences in segments; a probe looks at all steps, not at those of the
    first segment."""
    from jaxinit.models import recurrent

    monkeypatch.setattr(recurrent, "KEPT_WHOLE", 1)
    study = Study(
        model="rnn",
        hidden=8,
        task="adding",
        length=30,
        schemes=("orthogonal",),
        baseline="orthogonal",
        seeds=2,
    )
    found = survey(study, examples=20)
    course = found.gradient_mean_square.sel(parameter="layers.0.recurrent", copy=0)
    assert course.sizes["step"] == 30
    assert (course > 0).all()
    np.testing.assert_allclose(
        found.recurrent_radius.sel(parameter="layers.0.recurrent"), 1, rtol=1e-4
    )
    np.testing.assert_allclose(
        found.recurrent_norm.sel(parameter="layers.0.recurrent"), 1, rtol=1e-4
    )


def test_a_network_through_time(tmp_path: Path) -> None:
    study = Study(
        model="lstm", hidden=8, task="adding", length=20, schemes=("orthogonal", "chrono"), seeds=2
    )
    courses = through_time(study, examples=20, out=tmp_path / "s")
    assert dict(courses.gradient.sizes) == {
        "scheme": 2,
        "seed": 2,
        "layer": 1,
        "carry": 2,
        "step": 20,
    }
    assert courses.memory.sel(scheme="chrono").min() > courses.memory.sel(scheme="orthogonal").max()
    assert courses.jacobian.sizes["index"] == 16
    with xr.open_dataset(tmp_path / "s" / "through_time.nc", engine="h5netcdf") as kept:
        xr.testing.assert_allclose(kept.load(), courses)
    figure = signal_figures.lens(courses)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "orthogonal: 2" in named
    with pytest.raises(BadStudy, match="no time loop"):
        through_time(STUDY)


@pytest.mark.slow
def test_other_data_under_the_same_name_is_another_answer(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("It was the best of times, it was the worst of times. " * 40)
    study = Study(
        task="text",
        text=str(tmp_path / "t.txt"),
        length=8,
        hidden=8,
        seeds=2,
        schemes=("xavier_rnn",),
        baseline="xavier_rnn",
    )
    survey(study, examples=20, out=tmp_path / "s")
    before = (tmp_path / "s" / "signals.nc").read_bytes()
    survey(study, examples=20, out=tmp_path / "s")
    (tmp_path / "t.txt").write_text(
        "It was the age of wisdom, it was the age of foolishness. " * 40
    )
    with pytest.raises(BadStudy, match=r"holds another probe \(the data of task 'text' differ"):
        survey(study, examples=20, out=tmp_path / "s")
    assert (tmp_path / "s" / "signals.nc").read_bytes() == before
