"""What the experiments share: several studies in a row, their rows, claims and summary."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ended_trials import Ended, records, sample

from jaxinit import reproduce
from jaxinit.analysis import table
from jaxinit.analysis.claims import (
    IN_WORDS,
    Comparison,
    judge,
    make_claim,
    near,
    no_verdicts,
    ratio_claim,
)
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.store import Result
from jaxinit.engine import campaign, progress
from jaxinit.engine.resolve import resolve
from jaxinit.spec import Rule
from jaxinit.study import BadStudy, Interrupted, Study
from jaxinit.tasks import TASKS

STUDY = Study(
    hidden=8,
    schemes=("small_normal", "orthogonal"),
    lrs=(0.1, 0.3),
    seeds=2,
    tune_seeds=1,
    epochs=1,
    target=0.2,
)
SAME = [sample(2.0, 2.0, 2.0, 2.0)]
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
    by_study, _ = results
    tanh, relu = (by_study["T=8"], "orthogonal"), (by_study["a ReLU"], "orthogonal")
    claim = reproduce.faster("X", "what", tanh, relu, "?", (1.0, 2.0))
    ratio = reproduce.times(*relu).time.mean() / reproduce.times(*tanh).time.mean()
    assert claim["measured"] == pytest.approx(ratio)
    assert reproduce.finish(tmp_path, STUDIES, by_study, [claim], "A title", more=1) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [row["setting"] for row in summary["table"]] == ["T=8"] * 2 + ["a ReLU"] * 2
    assert summary["studies"]["a ReLU"]["activation"] == "relu"
    assert summary["claims"][0]["id"] == "X"
    assert summary["more"] == 1
    assert (tmp_path / "figures" / "epochs.png").exists()
    assert "X: what" in capsys.readouterr().out


def test_nothing_is_claimed_of_a_scheme_that_could_not_be_run(
    results: tuple[reproduce.Results, Path],
) -> None:
    by_study, _ = results
    tanh = by_study["T=8"]
    of_tanh = tanh.records.scheme.values == "orthogonal"
    failed = np.where(of_tanh, Outcome.FAILED, tanh.records.outcome.values)
    records = tanh.records.assign(outcome=("trial", failed.astype(np.int8)))
    side = tanh._replace(records=records), "orthogonal"
    claim = reproduce.faster("X", "what", (by_study["a ReLU"], "orthogonal"), side, "?", (1.0, 2.0))
    assert (claim["verdict"], claim["low"], claim["high"]) == ("open", None, None)
    assert claim["note"] == "no trial of orthogonal could be run"
    own = judge(records, [Comparison("X", "what", "orthogonal", "orthogonal", (1.0, 2.0))])
    assert [one["verdict"] for one in own] == ["open"], "as of the study's own claims"
    with no_verdicts():
        claim = reproduce.faster("X", "what", side, side, "?", (1.0, 2.0))
    assert claim["verdict"] is None


def test_times_to_the_target_are_read_off_the_metric(
    results: tuple[reproduce.Results, Path],
) -> None:
    """As training has found them: the same average, over the same epoch."""
    converged = 0
    for result in results[0].values():
        data = result.records
        ended = data.outcome.values == Outcome.CONVERGED
        moved = table.times_to(data, STUDY.target)
        np.testing.assert_array_equal(moved.event, ended)
        np.testing.assert_array_equal(moved.time[ended], data.last_epoch.values[ended])
        converged += ended.sum()
    assert converged


def test_the_best_metric_of_a_seed(results: tuple[reproduce.Results, Path]) -> None:
    result = results[0]["T=8"]
    got = reproduce.best(result, "orthogonal")
    assert got.shape == (2,)
    assert ((got > 0.1) & (got <= 1)).all()
    lost = result._replace(records=result.records.assign(metric=np.nan * result.records.metric))
    np.testing.assert_array_equal(reproduce.best(lost, "orthogonal"), 0.1)


@pytest.mark.usefixtures("as_users_run")
def test_an_interrupted_study_ends_the_experiment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit code 130, and no claim from half of the studies."""
    whole = campaign.run

    def half(*args, **kwargs):
        return whole(*args, **kwargs, progress=False)._replace(complete=False)

    monkeypatch.setattr(campaign, "run", half)
    with pytest.raises(Interrupted):
        reproduce.run_all({"T=8": STUDY}, tmp_path)
    main = reproduce.make_main(
        "x", "About x.", {"quick": STUDIES}, lambda of, out: len(reproduce.run_all(of, out))
    )
    assert main(["--out", str(tmp_path / "x")]) == 130


@pytest.mark.usefixtures("as_users_run")
def test_an_experiment_says_which_of_its_studies_it_is_at(
    results: tuple[reproduce.Results, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def training(study: Study, **_: object) -> Result:
        with progress.work("training"):
            return results[0]["a ReLU" if study.activation else "T=8"]

    def carry_out(studies: dict[str, Study], out: Path) -> int:
        found = reproduce.run_all(studies, out)
        return reproduce.finish(out, studies, found, [])

    monkeypatch.setattr(campaign, "run", training)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    main = reproduce.make_main("x", "About x.", {"quick": STUDIES}, carry_out)
    assert main(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    for line in (
        "1/2 T=8",
        "jaxinit: study 1 of 2 (T=8), training",
        "2/2 a ReLU",
        "jaxinit: study 2 of 2 (a ReLU), training",
        "jaxinit: claims",
    ):
        assert line in said.err.splitlines()
    assert "small_normal" in said.out
    assert main(["--out", str(tmp_path), "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert quiet.out == said.out


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(("size", "verdict"), [("smoke", None), ("quick", "supported")])
def test_a_smoke_size_judges_nothing(
    size: str, verdict: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in the summary nor in print; the next experiment of the process judges again."""

    def claims(_: int, out: Path) -> int:
        rows = [
            make_claim("X", "two is two", [2.0] * 4, "2", near(2.0, 0.1)),
            ratio_claim("Y", "faster", SAME, SAME, 4.0, "1", near(1.0, 0.1)),
        ]
        return reproduce.conclude(out, [], rows, [])

    main = reproduce.make_main("x", "About x.", {"smoke": 0, "quick": 1}, claims)
    assert main(["--size", size, "--out", str(tmp_path)]) == 0
    stored = json.loads((tmp_path / "summary.json").read_text())["claims"]
    assert [claim["verdict"] for claim in stored] == [verdict, verdict]
    assert [claim["measured"] for claim in stored] == [2.0, 1.0]
    # Of each claim both ends.
    assert capsys.readouterr().out.count(IN_WORDS[stored[0]["verdict"]]) == 4
    again = make_claim("X", "two is two", [2.0] * 4, "2", near(2.0, 0.1))
    assert again["verdict"] == "supported"


@pytest.mark.usefixtures("as_users_run")
def test_bad_input_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def bad(size: int, out: Path) -> int:
        raise BadStudy(f"size {size} is bad")

    assert reproduce.make_main("x", "About x.", {"quick": 3}, bad)([]) == 2
    assert "size 3 is bad" in capsys.readouterr().err


def test_the_optimum_of_a_rate_is_read_off_a_parabola() -> None:
    """A loss whose logarithm is a parabola in log2 of the rate has its optimum where it was put,
    off the grid or at an edge; a diverged trial counts as the worst."""
    rates, tops = 2.0 ** np.arange(-10, -2), (-6.3, -4.8, -13.0)
    course = np.stack([np.exp(0.1 * (np.log2(rates) - top) ** 2) for top in tops], 1)
    course[-1, 0] = np.nan
    trials = [Ended("s", rate, seed, 1.0, purpose="tune") for rate in rates for seed in range(3)]
    data = records(trials, budget=1.0)
    data["train_loss"] = ("trial", "epoch"), course.reshape(-1, 1)
    result = Result(STUDY, data, {}, Path(), True)
    assert reproduce.losses(result, "s")[-1, 0] == np.nanmax(course)
    np.testing.assert_allclose(reproduce.optimum(result, "s"), [-6.3, -4.8, -10.0], atol=1e-6)


def test_the_figure_of_a_transfer_has_the_losses_at_every_rate(
    results: tuple[reproduce.Results, Path], tmp_path: Path
) -> None:
    reproduce.draw_transfer(results[0], "A title", tmp_path)
    assert (tmp_path / "transfer.png").exists()


def test_a_smoke_size_is_small_whatever_the_study() -> None:
    """Its length too where a task leaves that free; what is changed goes before."""
    large = replace(
        STUDY, hidden=512, layers=6, lrs=(0.01, 0.1, 1.0), seeds=30, epochs=100, batch=8
    )
    small = reproduce.smoke(large)
    assert (small.hidden, small.layers, small.lrs, small.seeds) == (8, 2, (0.1,), 2)
    assert (small.epochs, small.evaluations, small.batch, small.length) == (1, 1, 64, None)
    assert small.schemes == large.schemes
    assert reproduce.smoke(replace(large, task="adding", length=400)).length == 10
    assert reproduce.smoke(large, epochs=3, hidden=2).hidden == 2


def test_short_text_is_the_text_in_shorter_epochs() -> None:
    task, whole = reproduce.short_text(), TASKS["text"](16)
    assert 6 * task.examples < whole.examples < 7 * task.examples
    assert (task.chance, task.entropy) == (whole.chance, whole.entropy)
    np.testing.assert_array_equal(task.data["numbers"], whole.data["numbers"])


def test_courses_reach_a_target_at_their_first_epoch_below_it() -> None:
    courses = np.asarray([[0.9, 0.5, 0.7], [0.9, 0.8, 0.7]])
    times = reproduce.times_to(0.6, courses, np.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(times.time, [2.0, 3.0])
    np.testing.assert_array_equal(times.event, [True, False])


def test_a_model_before_training_is_measured_with_its_multipliers() -> None:
    """For every seed, whatever the measure returns."""
    resolved = resolve(replace(STUDY, schemes=("orthogonal",), baseline="orthogonal"))
    scheme = resolved.schemes["orthogonal"]
    doubled = lambda leaf: Rule(scheme(leaf), multiplier=2.0)
    norms = lambda module: (abs(module.readout.kernel[...]).sum(), 1.0)
    plain = reproduce.before_training(resolved.model, scheme, 3, norms)
    assert plain.shape == (3, 2)
    twice = reproduce.before_training(resolved.model, doubled, 3, norms)
    np.testing.assert_allclose(twice[:, 0], 2 * plain[:, 0], rtol=1e-6)


@pytest.mark.slow
def test_studies_of_one_scheme_are_rows_of_one_setting(tmp_path: Path) -> None:
    one = replace(STUDY, schemes=("orthogonal",), baseline="orthogonal", lrs=(0.1,), seeds=3)
    studies = {"tanh": one, "relu": replace(one, activation="relu")}
    found = {
        name: campaign.run(study, out=tmp_path / name, progress=False)
        for name, study in studies.items()
    }
    rows = reproduce.as_one(found, "both", "tanh")
    assert {row["setting"] for row in rows} == {"both"}
    assert {row["scheme"]: row["drawn_by"] for row in rows} == {
        "tanh": "orthogonal",
        "relu": "orthogonal",
    }
    relu = next(row for row in rows if row["scheme"] == "relu")
    means = {name: reproduce.times(found[name], "orthogonal").time.mean() for name in studies}
    assert relu["ratio"] == pytest.approx(means["tanh"] / means["relu"])
    assert next(row for row in rows if row["scheme"] == "tanh")["ratio"] == 1
