"""Records for other tools are those of the study, trial by trial."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ended_study import TRIALS
from kept_study import keep

from jaxinit import cli
from jaxinit.analysis.export import export
from jaxinit.analysis.store import Result
from jaxinit.console import REFUSED
from jaxinit.study import BadStudy


@pytest.fixture
def kept(tmp_path: Path) -> Result:
    return keep(tmp_path / "s")


def test_a_table_has_every_evaluation(kept: Result, tmp_path: Path) -> None:
    assert export(kept, "csv", tmp_path / "a.csv", all_trials=True) == TRIALS
    frame = pd.read_csv(tmp_path / "a.csv")
    records = kept.records
    assert len(frame) == int((records.epoch <= records.last_epoch).sum())
    for k in range(TRIALS):
        trial = records.isel(trial=k)
        rows = frame[
            (frame.scheme == trial.scheme.item())
            & np.isclose(frame.lr, trial.lr.item())
            & (frame.seed == trial.seed.item())
        ]
        metric = trial.metric.values[: len(rows)]
        np.testing.assert_allclose(rows.metric, metric, rtol=1e-6)
        assert rows.epoch.max() == trial.last_epoch


def test_only_trials_that_report_are_written_unless_asked(kept: Result, tmp_path: Path) -> None:
    count = export(kept, "csv", tmp_path / "a.csv")
    assert count == int((kept.records.purpose == "report").sum()) < TRIALS


def test_what_is_there_is_not_written_over(kept: Result, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(BadStudy, match="is there already; give --out another name"):
        export(kept, "csv", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "mine"


def test_a_tool_that_is_not_there_is_a_line(
    kept: Result, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert cli.main(["export", str(kept.folder), "--to", "wandb"]) == REFUSED
    assert "install it with: pip install wandb" in capsys.readouterr().err


def test_runs_of_tensorboard(kept: Result, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    count = export(kept, "tensorboard", tmp_path / "runs")
    runs = sorted(path.parent for path in (tmp_path / "runs").rglob("events*"))
    assert len(runs) == count
    assert {run.relative_to(tmp_path / "runs").parts[0] for run in runs} == {
        "orthogonal",
        "small_normal",
    }


def test_runs_lie_below_their_folder_whatever_schemes_are_called(
    kept: Result, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboardX")
    called = {"orthogonal": "/mine.py:tiny", "small_normal": "../other.py:tiny"}
    names = [called[name] for name in kept.records.scheme.values.tolist()]
    records = kept.records.assign_coords(scheme=("trial", names))
    count = export(kept._replace(records=records), "tensorboard", tmp_path / "runs")
    made = list(tmp_path.rglob("events*"))
    assert len(made) == count
    assert all(path.is_relative_to(tmp_path / "runs") for path in made)
