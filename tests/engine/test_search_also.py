"""A setting that is searched beside the rate: each scheme at each of its values, and an answer that
holds the choice of both."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import optax
import pytest
import xarray as xr
from cases import every
from short_study import STUDY

from jaxinit.analysis import table
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import by_value, select
from jaxinit.analysis.store import Result
from jaxinit.analysis.study_figures import draw_all
from jaxinit.engine import campaign, sweep
from jaxinit.engine.resolve import resolve
from jaxinit.study import BadStudy, Study, check_settings

ALSO = replace(
    STUDY,
    schemes=("xavier_rnn", "small_normal"),
    optimizer="momentum",
    search_also=("momentum", "0.5", "0.9"),
    target=0.5,
    search="ladder",
    lrs=(0.003, 0.01, 0.03, 0.1),
    seeds=3,
    tune_seeds=3,
    epochs=4,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return campaign.run(ALSO, out=tmp_path_factory.mktemp("also") / "s", progress=False)


def test_every_scheme_searches_its_rate_at_every_value(result: Result) -> None:
    assert result.summary["compilations"] == 1
    assert result.records.attrs["also"] == "momentum"
    for scheme in ALSO.schemes:
        values = by_value(select(result.records, scheme, "report"))
        assert list(values) == [0.5, 0.9]
        samples = table.samples_of(result.records, scheme)
        assert len(samples) == sum(len(np.unique(trials.lr)) for trials in values.values())
        assert {sample.also for sample in samples} == {0.5, 0.9}
        row = next(row for row in result.summary["table"] if row["scheme"] == scheme)
        assert (row["lr"], row["also"]) == (samples[0].rate, samples[0].also)


def test_a_value_is_what_the_same_study_has_that_is_given_it(
    result: Result, tmp_path: Path
) -> None:
    """0.9 is Optax's momentum of our optimizer by that name; one that is given is not traced."""
    given = replace(ALSO, search_also=())
    alone = campaign.run(given, out=tmp_path / "s", progress=False).records
    searched = by_value(result.records)[0.9]
    for name in ("lr", "seed", "scheme", "outcome", "last_epoch"):
        assert alone[name].values.tolist() == searched[name].values.tolist()
    np.testing.assert_allclose(alone.metric, searched.metric, atol=0.02)


def test_figures_and_notes_are_of_the_best_value(result: Result, tmp_path: Path) -> None:
    best = table.at_best_value(result.records)
    for scheme, (_, also) in table.best_points(result.records).items():
        assert set(select(best, scheme).also.values) == {also}
    assert len(draw_all(result.records, tmp_path)) == 4
    assert any(
        note.startswith("momentum was searched beside the rate, each scheme at each of 0.5, 0.9")
        and "best at an end of these" in note
        for note in result.summary["notes"]
    )


@pytest.mark.slow  # as of every study: test_campaign
def test_a_study_that_was_stopped_goes_on_bit_for_bit(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sweep.Sweep.run

    def stopped(self, *args, **kwargs):
        for chunk in run(self, *args, **kwargs):
            signal.raise_signal(signal.SIGTERM)
            yield chunk

    with monkeypatch.context() as patched:
        patched.setattr(sweep.Sweep, "run", stopped)
        partial = campaign.run(ALSO, out=tmp_path / "s", progress=False)
    assert not partial.complete
    whole = campaign.run(ALSO, out=tmp_path / "s", progress=False)
    xr.testing.assert_identical(whole.records, result.records)


@pytest.mark.parametrize(
    ("setting", "values"),
    every(
        4,
        of=[
            ("warmup", (0.0, 0.5)),
            ("weight_decay", (0.0, 0.1)),
            ("clip", (0.1, 1.0)),
            ("l2", (0, 0.1)),
        ],
    ),
)
def test_settings_of_a_study_are_traced_as_if_they_were_given(
    setting: str, values: tuple[float, float], tmp_path: Path
) -> None:
    study = replace(STUDY, schemes=("small_normal",), lrs=(1.0,), seeds=2, epochs=3, target=0.99)
    searched = replace(study, search_also=(setting, *map(str, values)))
    both = campaign.run(searched, out=tmp_path / "both", progress=False).records
    for value, trials in by_value(both).items():
        given = replace(study, **{setting: value})
        alone = campaign.run(given, out=tmp_path / f"{value:g}", progress=False).records
        np.testing.assert_allclose(alone.train_loss, trials.train_loss, rtol=1e-4)
    first, second = by_value(both).values()
    assert not np.allclose(first.train_loss, second.train_loss, rtol=1e-3), "the setting matters"


@pytest.mark.slow
def test_a_setting_of_no_use_costs_nobody_else_his_answer(tmp_path: Path) -> None:
    """A momentum above 1 diverges at every rate, and the scheme is reported at the other."""
    study = replace(
        ALSO, search_also=("momentum", "0.5", "1.5"), schemes=("xavier_rnn",), baseline="xavier_rnn"
    )
    result = campaign.run(study, out=tmp_path / "s", progress=False)
    worse = by_value(select(result.records, "xavier_rnn"))[1.5]
    assert (worse.outcome == Outcome.CONVERGED).sum() == 0
    (row,) = result.summary["table"]
    assert row["also"] == 0.5
    assert row["converged"] == 3


@pytest.mark.parametrize(
    ("also", "optimizer", "message"),
    [
        (("momentum",), "momentum", "two or more different values of momentum, .* got none"),
        (("momentum", "0.9", "0.90"), "momentum", "two or more different values of momentum"),
        (("0.9", "momentum"), "momentum", "a setting and its values, .* got 0.9 momentum"),
        (("momentum", "0.5", "nan"), "momentum", "two or more different values"),
        (("momentun", "0.5", "0.9"), "momentum", "called 'momentun' under .*nearest is 'momentum'"),
        (("momentum", "0.5", "0.9"), "adam", r"called 'momentum' under optimizer 'adam'; .*\bb1\b"),
        (("learning_rate", "0.5", "0.9"), "adam", "called 'learning_rate' under"),
        (("clip", "0", "1"), "sgd", "clip must be positive"),
        (("warmup", "0", "1"), "sgd", "warmup is a share of the budget"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(
    also: tuple[str, ...], optimizer: str, message: str
) -> None:
    with pytest.raises(BadStudy, match=message) as caught:
        resolve(replace(STUDY, search_also=also, optimizer=optimizer))
    assert "\n" not in str(caught.value)


def test_a_setting_is_given_or_searched() -> None:
    with pytest.raises(BadStudy, match="--clip is searched by --search-also; leave one of them"):
        check_settings(replace(STUDY, clip=1.0, search_also=("clip", "0.1", "1")))


@pytest.mark.slow
def test_numbers_and_functions_from_python(tmp_path: Path) -> None:
    """An argument of a caller's own optimizer, values as numbers; the study is its own file."""

    def tx(learning_rate: float, beta: float = 0.9) -> optax.GradientTransformation:
        return optax.sgd(learning_rate, momentum=beta)

    study = replace(STUDY, optimizer=tx, search_also=("beta", 0.5, 0.9), epochs=1)
    assert study.search_also == ("beta", "0.5", "0.9")
    assert study.also == ("beta", (0.5, 0.9))
    result = campaign.run(study, out=tmp_path / "s", progress=False)
    assert list(by_value(result.records)) == [0.5, 0.9]
    assert Study.from_json(tmp_path / "s" / "study.json").search_also == study.search_also
    assert "--search-also beta 0.5 0.9" in study.command()
