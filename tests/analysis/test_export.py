"""Records for other tools are those of the study, trial by trial."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


def test_each_trial_is_a_run_of_wandb(
    kept: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[dict[str, Any]] = []

    class Run:
        def __init__(self, **asked: Any):
            self.about = asked | {"logged": [], "ended": False}
            runs.append(self.about)

        def log(self, values: dict[str, float], step: int) -> None:
            self.about["logged"].append((step, values))

        def finish(self) -> None:
            self.about["ended"] = True

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=Run))
    count = export(kept, "wandb", tmp_path / "runs")
    reported = kept.records.isel(trial=kept.records.purpose.values == "report")
    assert len(runs) == count == reported.sizes["trial"]
    for run, (_, trial) in zip(runs, reported.groupby("trial"), strict=True):
        trial = trial.squeeze("trial")
        assert run["ended"]
        assert run["project"] == "jaxinit"
        assert run["config"]["scheme"] == trial.scheme.item()
        assert run["config"]["seed"] == trial.seed.item()
        assert [step for step, _ in run["logged"]] == list(range(1, len(run["logged"]) + 1))
        logged = [values["valid_loss"] for _, values in run["logged"]]
        np.testing.assert_allclose(logged, trial.valid_loss.values[: len(logged)], rtol=1e-6)
        assert run["logged"][-1][1]["epoch"] == trial.last_epoch


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[Path, list[tuple[str, float, int]]]:
    """What is written of each run, by a stand-in for tensorboardX."""
    runs: dict[Path, list[tuple[str, float, int]]] = {}

    class SummaryWriter:
        def __init__(self, folder: str):
            self.scalars = runs.setdefault(Path(folder), [])

        def __enter__(self):
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def add_text(self, name: str, text: str) -> None:
            assert "jaxinit run" in text

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars.append((name, value, step))

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter))
    return runs


def test_runs_of_tensorboard(kept: Result, tmp_path: Path, written: dict) -> None:
    count = export(kept, "tensorboard", tmp_path / "runs")
    assert len(written) == count
    for folder, scalars in written.items():
        scheme, rate, seed = folder.relative_to(tmp_path / "runs").parts
        trial = kept.records.isel(
            trial=(kept.records.scheme == scheme)
            & (kept.records.lr == float(rate))
            & (kept.records.seed == int(seed))
        ).squeeze("trial")
        metric = [(value, step) for name, value, step in scalars if name == "metric"]
        assert [step for _, step in metric] == [*range(1, len(metric) + 1)]
        np.testing.assert_array_equal(
            [value for value, _ in metric], trial.metric.values[: len(metric)]
        )


def test_runs_lie_below_their_folder_whatever_schemes_are_called(
    kept: Result, tmp_path: Path, written: dict
) -> None:
    called = {"orthogonal": "/mine.py:tiny", "small_normal": "../other.py:tiny"}
    names = [called[name] for name in kept.records.scheme.values.tolist()]
    records = kept.records.assign_coords(scheme=("trial", names))
    count = export(kept._replace(records=records), "tensorboard", tmp_path / "runs")
    assert len(written) == count
    for folder in written:
        assert folder.resolve().is_relative_to(tmp_path / "runs")
        assert len(folder.relative_to(tmp_path / "runs").parts) == 3
