"""Figures of signals: what is drawn, labelled and left out."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from jaxinit.analysis import signal_figures
from jaxinit.analysis.figure import style
from jaxinit.engine.survey import survey
from jaxinit.study import Study


@pytest.fixture(scope="module")
def deep() -> xr.Dataset:
    return survey(
        Study(
            model="mlp",
            layers=4,
            hidden=300,
            schemes=("glorot_standard", "glorot_normalized"),
            seeds=2,
        )
    )


@pytest.fixture(scope="module")
def recurrent() -> xr.Dataset:
    return survey(Study(model="lstm", hidden=8, schemes=("glorot_uniform",), seeds=2), examples=20)


@pytest.mark.slow
def test_theory_passes_through_the_points(deep: xr.Dataset) -> None:
    for scheme in deep.scheme.values:
        of = deep.sel(scheme=scheme)
        for signal in ("activation", "gradient"):
            expected = signal_figures._expected(of, signal)
            measured = np.sqrt(of[f"{signal}_mean_square"].mean(("seed", "step", "copy")))
            np.testing.assert_allclose(measured, expected, rtol=0.12)
    assert signal_figures._expected(of, "weight_gradient") is None


def test_histograms_leave_out_inputs_and_readout(deep: xr.Dataset) -> None:
    with style():
        axes = signal_figures.histograms(deep).axes
        assert [len(one.lines) for one in axes] == [4, 4, 4, 4, 4, 4]
        assert axes[0].get_title() == "glorot_standard"
        labelled = signal_figures.sizes(deep).axes
    assert all(one.get_xlabel() and one.get_ylabel() and one.get_title() for one in labelled)


@pytest.mark.slow
def test_a_recurrent_net_has_a_figure_through_time(recurrent: xr.Dataset, tmp_path: Path) -> None:
    paths = signal_figures.draw_all(recurrent, tmp_path)
    assert [path.stem for path in paths] == ["histograms", "sizes", "through_time"]
    with style():
        assert len(signal_figures.by_step(recurrent).axes[0].lines) == 4, "a line for each gate"


def test_courses_of_training_leave_out_inputs_and_readout(deep: xr.Dataset) -> None:
    courses = deep.isel(seed=[0, 1, 0]).rename(seed="epoch").assign_coords(epoch=[0.0, 1.0, 2.0])
    with style():
        rows = {"activation_mean": "mean", "weight_gradient_mean_square": "square"}
        axes = signal_figures.through_training(courses, rows, "title", "note").axes
        assert [len(one.lines) for one in axes] == [4] * 4
    assert axes[0].get_ylabel() == "mean"
    assert axes[2].get_xlabel() == "epochs"


def test_names_are_drawn_as_they_are(deep: xr.Dataset, tmp_path: Path) -> None:
    named = deep.assign_coords(scheme=["_$a$", "$\\frac{1}$"])
    assert len(signal_figures.draw_all(named, tmp_path)) == 2
    with style():
        legend = signal_figures.sizes(named).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [r"_\$a\$", r"\$\frac{1}\$"]
