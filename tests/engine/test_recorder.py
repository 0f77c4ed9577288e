"""Signals of a study under way, recorded between chunks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from short_study import SHORT, STUDY

from jaxinit.analysis.records import select
from jaxinit.engine import campaign
from jaxinit.tasks import TASKS


def test_signals_are_recorded_between_chunks_and_own_tasks_run(tmp_path: Path) -> None:
    shorter = {"own": lambda: replace(TASKS["digits_rows"](), name="own", examples=256)}
    study = replace(
        STUDY,
        model="mlp",
        layers=2,
        task="own",
        lrs=(0.1,),
        epochs=5,
        target=1.0,
        baseline="orthogonal",
    )
    got = campaign.run(study, out=tmp_path / "s", tasks=shorter, progress=False, signals=50)
    assert got.records.attrs["task"] == "own"
    with xr.open_dataset(got.folder / "signals.nc", engine="h5netcdf") as file:
        courses = file.load()
    assert courses.scheme.values.tolist() == list(STUDY.schemes)
    assert courses.epoch.values.tolist() == [0.0, 2.0, 4.0]
    assert courses.parameter.values.tolist() == [
        "layers.0.kernel",
        "layers.1.kernel",
        "readout.kernel",
    ]
    weights = courses.weight_mean_square.isel(step=0, copy=0).sel(parameter="readout.kernel")
    np.testing.assert_allclose(weights.sel(scheme="small_normal", epoch=0.0), 0.01**2, rtol=0.4)
    assert (weights.diff("epoch") != 0).all()
    moved = courses.update_mean_square / courses.weight_gradient_mean_square
    # plain SGD at its rate
    np.testing.assert_allclose(moved.isel(step=0, copy=0), 0.1**2, rtol=1e-3)
    assert (
        campaign.run(study, out=got.folder, tasks=shorter, progress=False, signals=50).remark == ""
    )


@pytest.mark.slow
def test_of_a_ladder_the_signals_are_those_of_the_best_rate(tmp_path: Path) -> None:
    """Which trains its first seed at many rates."""
    study = replace(
        STUDY,
        model="mlp",
        schemes=("orthogonal",),
        baseline="orthogonal",
        search="ladder",
        lrs=(),
        tune_seeds=3,
        target=0.9,
        epochs=20,
        batch=320,
        first_seed=3,
    )
    got = campaign.run(study, out=tmp_path / "s", progress=False, signals=50, slots_per_device=1)
    (row,) = got.summary["table"]
    with xr.open_dataset(got.folder / "signals.nc", engine="h5netcdf") as file:
        courses = file.load()
    own = select(got.records, "orthogonal", "report", row["lr"]).isel(trial=0)
    assert int(own.seed) == 3
    # as long as the trial went on
    assert courses.epoch.values.tolist() == list(np.arange(0, float(own.last_epoch), 2))
    first = courses.isel(scheme=0, step=0, copy=0, epoch=0)
    moved = first.update_mean_square / first.weight_gradient_mean_square
    np.testing.assert_allclose(moved, row["lr"] ** 2, rtol=1e-3)


def test_a_study_that_was_computed_without_signals_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign.run(SHORT, out=tmp_path / "s", progress=False)
    again = campaign.run(SHORT, out=tmp_path / "s", progress=False, signals=50)
    assert again.read_back
    assert "no signals were recorded" in again.remark
    assert again.remark in capsys.readouterr().err
