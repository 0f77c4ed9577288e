"""More of a study that there is, the same once more, and what one would cost."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import pytest
import xarray as xr
from short_study import STUDY

from jaxinit.analysis import store
from jaxinit.analysis.store import Result
from jaxinit.engine import again, campaign
from jaxinit.study import BadStudy

# A ladder, of which more seeds raise the caps of stages that have ended.
SMALL = replace(
    STUDY,
    lrs=(),
    tune_seeds=3,
    seeds=2,
    epochs=4,
    batch=160,
    target=0.6,
    schemes=("small_normal", "orthogonal"),
)
LARGE = replace(SMALL, seeds=4, schemes=("small_normal", "orthogonal", "he_normal"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return campaign.run(SMALL, out=tmp_path_factory.mktemp("small") / "s", progress=False)


@pytest.fixture
def folder(small: Result, tmp_path: Path) -> Path:
    """A copy of the finished study."""
    return Path(shutil.copytree(small.folder, tmp_path / "s"))


def test_a_study_that_is_extended_is_the_larger_one_run_anew(
    small: Result, folder: Path, tmp_path: Path
) -> None:
    whole = campaign.run(LARGE, out=tmp_path / "whole", progress=False)
    more = again.extend(folder, ["he_normal"], 4, progress=False)
    xr.testing.assert_identical(more.records, whole.records)
    assert store.load(folder).study == whole.study
    first, second = more.about["lives"]
    assert first == small.about["lives"][0]
    assert more.summary["wall_s"] == pytest.approx(first["wall_s"] + second["wall_s"])
    table = [[row[key] for key in ("scheme", "lr", "epochs")] for row in more.summary["table"]]
    assert table == [
        [row[key] for key in ("scheme", "lr", "epochs")] for row in whole.summary["table"]
    ]


@pytest.mark.slow
def test_what_was_there_is_not_trained_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = []
    joining = campaign.Campaign._joining

    def noted(self, point):
        joined.append(point)
        return joining(self, point)

    monkeypatch.setattr(campaign.Campaign, "_joining", noted)
    again.extend(folder, ["he_normal"], progress=False)
    _, *trained = joined  # the first is for the shapes
    assert {point.scheme for point in trained} == {"he_normal"}


@pytest.mark.slow
def test_an_extension_that_was_stopped_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its first trial, nothing that was there is lost."""
    before = store.load(folder).records

    def killed(*_, **__):
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(again, "run", killed)
        with pytest.raises(RuntimeError, match="killed"):
            again.extend(folder, ["he_normal"])
    held = store.load(folder)
    assert not held.complete
    assert held.records.sizes["trial"] == before.sizes["trial"]
    done = campaign.run(held.study, out=folder, progress=False)
    whole = campaign.run(replace(LARGE, seeds=2), out=tmp_path / "whole", progress=False)
    xr.testing.assert_identical(done.records, whole.records)


@pytest.mark.parametrize(
    ("schemes", "seeds", "message"),
    [
        ((), None, "has all of these schemes and seeds"),
        (("orthogonal",), 2, "has all of these schemes and seeds"),
        (("he_norml",), None, "no scheme is called 'he_norml'; the nearest is 'he_normal'"),
        ((), 1, "has 2 seeds, and trials are never taken away; give more, got 1"),
    ],
)
def test_extensions_that_are_none_are_refused_and_cost_nothing(
    schemes: tuple[str, ...], seeds: int | None, message: str, folder: Path
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(BadStudy, match=message):
        again.extend(folder, schemes, seeds)
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_under_other_versions_an_extension_is_refused_before_it_begins(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = store.conditions()
    later = conditions | {"versions": conditions["versions"] | {"jax": "99"}}
    monkeypatch.setattr(store, "conditions", lambda: later)
    before = (folder / "study.json").read_bytes()
    with pytest.raises(BadStudy, match=rf"jax {jax.__version__} there, 99 here"):
        again.extend(folder, ["he_normal"])
    assert (folder / "study.json").read_bytes() == before
    assert store.load(folder).complete


def test_a_rerun_has_the_same_records_and_one_of_other_records_says_where(
    small: Result, tmp_path: Path
) -> None:
    both = again.rerun(small.folder, tmp_path / "again", progress=False)
    assert both.differences == []
    other = campaign.run(replace(SMALL, batch=159), out=tmp_path / "other", progress=False)
    (line, *_) = again.differences(small, other)
    assert line.split(",")[0].endswith("trials differ") or "are in the first alone" in line
    with pytest.raises(BadStudy, match="is not empty; give --out a new folder"):
        again.rerun(small.folder, tmp_path / "again")


def test_a_forecast_asks_of_the_folder_what_the_run_would(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "SECONDS", 0)
    study = store.load(folder).study
    asked = replace(study, search=None)  # which the folder holds resolved
    assert again.forecast(asked, out=folder).trials > 0
    with pytest.raises(BadStudy, match=r"holds another study \(batch is"):
        again.forecast(replace(asked, batch=study.batch + 1), out=folder)


@pytest.mark.slow
def test_a_forecast_is_of_the_size_of_what_comes(small: Result, tmp_path: Path) -> None:
    study = replace(SMALL, target=0.999, epochs=6)  # which nobody reaches
    cost = again.forecast(study)
    assert not (tmp_path / "s").exists()
    done = campaign.run(study, out=tmp_path / "s", progress=False)
    assert cost.parameters == json.loads((tmp_path / "s" / "study.json").read_text())["parameters"]
    assert cost.epochs == 6
    assert 0.3 < cost.trials / done.summary["trials"] < 3
    assert cost.memory > 4 * cost.parameters
    assert 0 < cost.seconds < 600
