"""A study that searches each scheme's rate: its answer does not depend on slots, devices,
interruptions or the order in which trials end."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cases import quick
from pieces import in_pieces

from jaxinit.analysis import store
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import select
from jaxinit.analysis.store import Result
from jaxinit.engine import campaign, resolve, sweep
from jaxinit.study import Study

# Noise of dropout spreads the seeds, so that some trial is stopped whose rate is reported.
LADDER = Study(
    model="mlp",
    hidden=8,
    schemes=("he_normal", "small_normal"),
    search="ladder",
    seeds=4,
    first_seed=20,
    epochs=8,
    evaluations=10,
    target=0.8003,  # no mean of accuracies on 517 images lies on it
    batch=128,
    dropout=0.5,
)
RUN = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
from jaxinit.engine import campaign
from jaxinit.study import Study
for slots in (1, 2, 16):
    study = Study.from_json(sys.argv[1] + "/study.json")
    out = f"{sys.argv[3]}/{slots}"
    campaign.run(study, out=out, progress=False, slots_per_device=slots)
"""


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return campaign.run(LADDER, out=tmp_path_factory.mktemp("ladder") / "s", progress=False)


def assert_same_answer(result: Result, expected: Result) -> None:
    xr.testing.assert_identical(result.records, expected.records)
    spent = ("wall_s", "compile_s", "compilations")
    answers = []
    for summary in (result.summary, expected.summary):
        answers.append({name: value for name, value in summary.items() if name not in spent})
    assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_slots_and_devices_change_no_bit(devices: int, ladder: Result, tmp_path: Path) -> None:
    words = [sys.executable, "-c", RUN, str(ladder.folder), str(devices), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for slots in (1, 2, 16):
        result = store.load(tmp_path / str(slots))
        assert result.about["device"]["count"] == devices
        assert_same_answer(result, ladder)
        assert result.summary["compilations"] == 1


Rows = list[sweep.Row]


def interrupted_where(
    wanted: Callable[[Rows], bool], folder: Path, patch: pytest.MonkeyPatch
) -> Result:
    """Run LADDER, one trial on each device at a time, until a signal arrives in a chunk that is
    wanted."""
    run = sweep.Sweep.run

    def run_and_signal(self, *args, **kwargs):
        for rows, running in run(self, *args, **kwargs):
            if wanted(rows):
                signal.raise_signal(signal.SIGTERM)
            yield rows, running

    with patch.context() as patched:
        in_pieces(patched)
        patched.setattr(sweep.Sweep, "run", run_and_signal)
        return campaign.run(LADDER, out=folder, progress=False, slots_per_device=1)


@pytest.mark.slow
def test_a_signal_after_every_chunk_changes_no_bit(
    ladder: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = 1
    while not interrupted_where(lambda rows: True, tmp_path / "s", monkeypatch).complete:
        lives += 1
    assert lives > 10
    assert_same_answer(store.load(tmp_path / "s"), ladder)


@pytest.mark.slow
def test_a_stopped_trial_is_trained_again_and_may_be_interrupted_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "EPOCHS_PER_CHUNK", 1)  # or it would end in its first chunk
    reached: dict[int, int] = {}

    def trains_again(rows: Rows) -> bool:
        again = False
        for row in rows:
            behind = row.last < reached.get(row.number, 0)
            again |= behind and row.outcome is Outcome.UNFINISHED
            reached[row.number] = max(row.last, reached.get(row.number, 0))
        return again

    partial = interrupted_where(trains_again, tmp_path / "s", monkeypatch)
    assert not partial.complete, "no trial was trained again: choose another study"
    whole = campaign.run(LADDER, out=tmp_path / "s", progress=False, slots_per_device=2)
    expected = campaign.run(LADDER, out=tmp_path / "whole", progress=False)
    assert_same_answer(whole, expected)


def test_a_ladder_is_compiled_once(ladder: Result) -> None:
    assert ladder.summary["compilations"] == 1


def test_what_is_reported_has_all_seeds_and_ran_to_the_end(ladder: Result) -> None:
    for row in ladder.summary["table"]:
        reported = select(ladder.records, row["scheme"], "report")
        assert sorted(set(reported.lr.values)) == sorted(row["lrs"])
        assert len(row["lrs"]) == 2
        for rate in row["lrs"]:
            at_rate = select(reported, row["scheme"], lr=rate)
            assert at_rate.seed.values.tolist() == list(LADDER.reporting)
        assert Outcome.STOPPED not in reported.outcome.values


def test_stopped_trials_end_at_their_cap(ladder: Result) -> None:
    stopped = ladder.records.outcome.values == Outcome.STOPPED
    assert stopped.any()
    done = np.rint(ladder.records.last_epoch.values * 10).astype(int)
    for trace in ("train_loss", "grad_norm", "valid_loss", "metric"):
        recorded = ~np.isnan(ladder.records[trace].values)
        np.testing.assert_array_equal(recorded.sum(1), done)
        assert all(row[:count].all() for row, count in zip(recorded, done, strict=True))
    for scheme in LADDER.schemes:
        # The first stage stops with its fastest trial, on one seed at every third rate.
        coarse = select(ladder.records, scheme, "coarse")
        first = select(ladder.records, scheme)
        rungs = np.rint(6 * np.log10(first.lr.values)).astype(int)
        first = first.isel(trial=np.flatnonzero((rungs % 3 == 0) & (first.seed.values == 20)))
        fastest = first.last_epoch.values[first.outcome.values == Outcome.CONVERGED].min()
        assert (coarse.outcome.values == Outcome.STOPPED).any()
        assert (coarse.last_epoch.values[coarse.outcome.values == Outcome.STOPPED] == fastest).all()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The study on other seeds, two of which it shares."""
    study = replace(LADDER, first_seed=22)
    return campaign.run(study, out=tmp_path_factory.mktemp("others") / "s", progress=False)


def test_studies_that_share_seeds_share_trials(ladder: Result, others: Result) -> None:
    assert set(others.records.seed.values) == {22, 23, 24, 25}
    shared = 0
    for scheme in LADDER.schemes:
        sides = []
        for result in (ladder, others):
            trials = select(result.records, scheme)
            whole = trials.isel(trial=np.flatnonzero(trials.outcome.values != Outcome.STOPPED))
            keys = list(zip(whole.lr.values.tolist(), whole.seed.values.tolist(), strict=True))
            sides.append((keys, whole))
        (keys, trials), (other_keys, other_trials) = sides
        for key in set(keys) & set(other_keys):
            mine = trials.isel(trial=keys.index(key)).drop_vars("purpose")
            theirs = other_trials.isel(trial=other_keys.index(key)).drop_vars("purpose")
            assert mine.equals(theirs)
            shared += 1
    assert shared >= 4


def test_the_first_seed_is_0_unless_it_is_given(tmp_path: Path) -> None:
    study = replace(
        LADDER, first_seed=Study.first_seed, schemes=("he_normal",), baseline="he_normal"
    )
    plain = {name: value for name, value in study.plain().items() if name != "first_seed"}
    assert Study.from_plain(plain) == study == replace(study, first_seed=0)
    result = campaign.run(study, out=tmp_path / "s", progress=False)
    assert set(result.records.seed.values) == {0, 1, 2, 3}


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Adam, whose best rate lies above the usual ones, on a metric that is to fall."""
    study = replace(
        LADDER,
        task="adding",
        length=4,
        model="rnn",
        optimizer="adam",
        dropout=0.0,
        target=0.06,
        schemes=("orthogonal",),
        baseline="orthogonal",
    )
    return campaign.run(study, out=tmp_path_factory.mktemp("adding") / "s", progress=False)


@pytest.mark.parametrize("name", quick("ladder", of=["ladder", "adding"]))
def test_a_trial_converges_where_the_last_epoch_is_at_the_target_on_average(
    name: str, request: pytest.FixtureRequest
) -> None:
    records = request.getfixturevalue(name).records
    per_epoch = records.attrs["evaluations_per_epoch"]
    sign = 1 if records.attrs["higher_is_better"] else -1
    windows = np.lib.stride_tricks.sliding_window_view(records.metric.values, per_epoch, axis=1)
    means = windows.astype(np.float64).mean(-1)
    reached = sign * means >= sign * records.attrs["target"]
    converged = records.outcome.values == Outcome.CONVERGED
    assert converged.any()
    assert not converged.all()
    np.testing.assert_array_equal(reached.any(1), converged)
    first = (reached.argmax(1) + per_epoch) / per_epoch
    np.testing.assert_array_equal(first[converged], records.last_epoch.values[converged])
    # and a single evaluation was there sooner
    once = sign * records.metric.values >= sign * records.attrs["target"]
    assert ((once.argmax(1) + 1) / per_epoch < records.last_epoch.values)[converged].any()


def test_the_ladder_grows_beyond_its_end(adding: Result) -> None:
    assert min(adding.summary["table"][0]["lrs"]) > 0.01, "where the usual rates of Adam end"
    assert adding.summary["table"][0]["unresolved"] != "at an end of the rates tried"
