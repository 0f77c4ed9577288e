"""What the experiments share: several studies in a row, their rows, claims and summary."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from jaxinit import reproduce
from jaxinit.analysis.claims import make_claim, ratio_claim
from jaxinit.analysis.store import Result
from jaxinit.analysis.survival import Times
from jaxinit.engine import campaign
from jaxinit.study import BadStudy, Interrupted, Study

STUDY = Study(
    hidden=8,
    schemes=("small_normal", "orthogonal"),
    lrs=(0.1, 0.3),
    seeds=2,
    tune_seeds=1,
    epochs=1,
    target=0.2,
)
TIMES = Times(np.asarray([1.0, 2.0, 3.0]), np.ones(3, bool))
STUDIES = {"T=8": STUDY, "a ReLU": replace(STUDY, activation="relu")}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[reproduce.Results, Path]:
    out = tmp_path_factory.mktemp("studies")
    return {
        name: campaign.run(study, out=out / name, progress=False) for name, study in STUDIES.items()
    }, out


def test_rows_claims_and_the_figure_of_several_studies(
    results: tuple[reproduce.Results, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = results
    rows = reproduce.rows_of(found)
    assert [row["cell"] for row in rows] == ["T=8"] * 2 + ["a ReLU"] * 2
    claim = reproduce.faster(
        "X", "what", (found["T=8"], "orthogonal"), (found["a ReLU"], "orthogonal"), "?", (1.0, 2.0)
    )
    pair = [reproduce.times(found[name], "orthogonal").time.mean() for name in ("a ReLU", "T=8")]
    assert claim["measured"] == pytest.approx(pair[0] / pair[1])
    assert reproduce.finish(tmp_path, rows, [claim], STUDIES, "A title", more=1) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["studies"]["a ReLU"]["activation"] == "relu"
    assert summary["claims"][0]["id"] == "X"
    assert summary["more"] == 1
    assert (tmp_path / "figures" / "epochs.png").exists()
    assert "X: what" in capsys.readouterr().out


def test_the_best_metric_of_a_seed(results: tuple[reproduce.Results, Path]) -> None:
    result = results[0]["T=8"]
    got = reproduce.best(result, "orthogonal")
    assert got.shape == (2,)
    assert ((got > 0.1) & (got <= 1)).all()
    lost = result._replace(records=result.records.assign(metric=np.nan * result.records.metric))
    np.testing.assert_array_equal(reproduce.best(lost, "orthogonal"), 0.1)


def test_an_interrupted_study_ends_the_experiment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit code 130, and no claim from half of the studies."""
    from jaxinit.engine import sweep

    monkeypatch.setattr(sweep, "one_device_per_core", lambda: None)
    monkeypatch.setattr(sweep, "keep_compilations", lambda: None)
    whole = campaign.run

    def half(*args, **kwargs):
        return whole(*args, **kwargs, progress=False)._replace(complete=False)

    monkeypatch.setattr(campaign, "run", half)
    with pytest.raises(Interrupted):
        reproduce.run_all({"T=8": STUDY}, tmp_path)
    main = reproduce.main_of(
        "x", "About x.", {"quick": STUDIES}, lambda of, out: len(reproduce.run_all(of, out))
    )
    assert main(["--out", str(tmp_path / "x")]) == 130


@pytest.mark.parametrize(("size", "verdict"), [("smoke", None), ("quick", "supported")])
def test_a_smoke_size_judges_nothing(
    size: str, verdict: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in the summary nor in print; the next experiment of the process judges again."""

    def claims(_: int, out: Path) -> int:
        rows = [
            make_claim("X", "one is one", [1.0, 1.0, 1.0], "1", (0.9, 1.1), ""),
            ratio_claim("Y", "faster", TIMES, TIMES, 4.0, "1", (0.9, 1.1)),
        ]
        return reproduce.finish(out, [], rows, {})

    main = reproduce.main_of("x", "About x.", {"smoke": 0, "quick": 1}, claims)
    assert main(["--size", size, "--out", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "summary.json").read_text())["claims"]
    assert [claim["verdict"] for claim in stored] == [verdict, verdict]
    assert [claim["measured"] for claim in stored] == [1.0, 1.0]
    assert capsys.readouterr().out.count(verdict or "not judged at smoke size") == 2
    again = make_claim("X", "one is one", 1.0, "1", (0.9, 1.1), "")
    assert again["verdict"] == "supported"


def test_bad_input_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def bad(size: int, out: Path) -> int:
        raise BadStudy(f"size {size} is bad")

    assert reproduce.main_of("x", "About x.", {"quick": 3}, bad)([]) == 2
    assert "size 3 is bad" in capsys.readouterr().err


def test_the_optimum_of_a_rate_is_read_off_a_parabola() -> None:
    """A loss whose logarithm is a parabola in log2 of the rate has its optimum where it was put,
    off the grid or at an edge; a diverged trial counts as the worst."""
    rates, tops = 2.0 ** np.arange(-10, -2), (-6.3, -4.8, -13.0)
    course = np.stack([np.exp(0.1 * (np.log2(rates) - top) ** 2) for top in tops], 1)
    course[-1, 0] = np.nan
    records = xr.Dataset(
        {"train_loss": (("scheme", "lr", "seed", "epoch"), course[None, :, :, None])},
        {"scheme": ["s"], "lr": rates, "phase": ("seed", ["tune"] * 3)},
    )
    result = Result(STUDY, records, {}, Path(), True)
    assert reproduce.losses(result, "s")[-1, 0] == np.nanmax(course)
    np.testing.assert_allclose(reproduce.optimum(result, "s"), [-6.3, -4.8, -10.0], atol=1e-6)


def test_studies_of_one_scheme_are_rows_of_one_cell(tmp_path: Path) -> None:
    one = replace(STUDY, schemes=("orthogonal",), baseline="orthogonal", lrs=(0.1,), seeds=3)
    studies = {"tanh": one, "relu": replace(one, activation="relu")}
    found = {
        name: campaign.run(study, out=tmp_path / name, progress=False)
        for name, study in studies.items()
    }
    rows = reproduce.as_one(found, "both", "tanh")
    assert {row["cell"] for row in rows} == {"both"}
    assert {row["scheme"]: row["drawn_by"] for row in rows} == {
        "tanh": "orthogonal",
        "relu": "orthogonal",
    }
    relu = next(row for row in rows if row["scheme"] == "relu")
    means = {name: reproduce.times(found[name], "orthogonal").time.mean() for name in studies}
    assert relu["ratio"] == pytest.approx(means["tanh"] / means["relu"])
    assert next(row for row in rows if row["scheme"] == "tanh")["ratio"] == 1
