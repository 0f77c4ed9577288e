"""A study from question to folder, small: the records, the answer, what is paired, what bad input
costs."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from cases import quick
from pieces import in_pieces
from rich.console import Console
from short_study import SHORT, STUDY

import jaxinit
from jaxinit import spec
from jaxinit.analysis import store
from jaxinit.analysis.folder import Folder
from jaxinit.analysis.outcome import Outcome
from jaxinit.analysis.records import select
from jaxinit.analysis.search import trials_of_a_search
from jaxinit.analysis.store import Result
from jaxinit.engine import again, campaign, devices, initial, progress, resolve, sweep
from jaxinit.initializers import glorot_scheme, normal, zeros
from jaxinit.study import BadStudy, Interrupted, Study
from jaxinit.tasks import TASKS, Task


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return campaign.run(STUDY, out=tmp_path_factory.mktemp("study") / "s", progress=False)


def test_the_folder_holds_the_whole_answer(result: Result) -> None:
    summary = json.loads((result.folder / "summary.json").read_text())
    assert result.complete
    assert {"baseline", "trials", "compilations", "wall_s", "table", "claims", "notes"} <= set(
        summary
    )
    assert summary["compilations"] == 1
    assert summary["trials"] == 3 * (2 * 1 + 2)
    columns = {
        "model",
        "task",
        "scheme",
        "lr",
        "epochs",
        "epochs_low",
        "epochs_high",
        "ratio",
        "ratio_low",
        "ratio_high",
    }
    assert columns | {"converged", "censored", "diverged"} <= set(summary["table"][0])
    assert {row["scheme"] for row in summary["table"]} == set(STUDY.schemes)
    claim = summary["claims"][0]
    assert set(claim) >= {
        "id",
        "statement",
        "measured",
        "low",
        "high",
        "published",
        "band",
        "verdict",
        "note",
    }
    assert claim["id"] == "A10.small_normal"
    assert store.load(result.folder).study == replace(STUDY, search="grid")


def test_records_hold_every_trial_and_nothing_else(result: Result) -> None:
    records = result.records
    for scheme in STUDY.schemes:
        tuned = select(records, scheme, "tune")
        assert tuned.lr.values.tolist() == list(STUDY.lrs)
        assert set(tuned.seed.values) == set(STUDY.tuning)
        reported = select(records, scheme, "report")
        assert len(set(reported.lr.values)) == 1
        assert reported.seed.values.tolist() == list(STUDY.reporting)
    done = np.rint(records.last_epoch.values * 4).astype(int)
    assert (done > 0).all()
    assert (np.sum(~np.isnan(records.metric.values), axis=-1) == done).all()
    assert (records.outcome.values == Outcome.CONVERGED).any()


def test_a_grid_reports_the_rate_that_is_best_on_other_seeds(result: Result) -> None:
    for row in result.summary["table"]:
        tuned = select(result.records, row["scheme"], "tune")
        rate = min(STUDY.lrs, key=lambda rate: _slowness(tuned, rate))
        assert row["lrs"] == [row["lr"]] == [rate]


def _slowness(tuned: xr.Dataset, rate: float) -> tuple[float, float]:
    """What the best rate has least of: mean time, and where none converged, lack of metric."""
    trials = tuned.isel(trial=np.flatnonzero(tuned.lr.values == rate))
    return float(trials.last_epoch.mean()), -float(trials.metric.max("epoch").sum())


def test_the_same_command_reads_the_answer_back(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "Sweep", None)  # nothing may be computed
    again = campaign.run(STUDY, out=result.folder, progress=False)
    assert again.summary == result.summary
    assert again.read_back
    assert not result.read_back
    assert again.origin.startswith("computed 20")


@pytest.mark.slow
def test_a_study_can_be_repeated_from_its_own_file(result: Result, tmp_path: Path) -> None:
    again = campaign.run(
        Study.from_json(result.folder / "study.json"), out=tmp_path / "again", progress=False
    )
    xr.testing.assert_identical(again.records, result.records)


def test_mappings_agree(result: Result, tmp_path: Path) -> None:
    together = campaign.run(
        STUDY, out=tmp_path / "v", progress=False, mapping="vmap", slots_per_device=1
    )
    assert (together.records.outcome == result.records.outcome).all()
    np.testing.assert_allclose(together.records.train_loss, result.records.train_loss, rtol=2e-3)


@pytest.mark.slow
@pytest.mark.accelerator
def test_trials_together_are_those_one_by_one_within_rounding(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """In products of full precision, and at the first evaluation, before training has made much of
    what rounding differs in."""
    study = replace(STUDY, epochs=1, lrs=(0.1,), target=0.99)
    records = {}
    with jax.default_matmul_precision("highest"):
        for mapping in ("map", "vmap"):
            done = campaign.run(
                study, out=tmp_path / mapping, progress=False, mapping=mapping, slots_per_device=16
            )
            records[mapping] = done.records
    together, one_by_one = records["vmap"], records["map"]
    assert (together.outcome == one_by_one.outcome).all()
    worst = 0.0
    for name in ("train_loss", "grad_norm", "valid_loss"):
        first = one_by_one[name].isel(epoch=0)
        differences = np.abs(together[name].isel(epoch=0) / first - 1)
        worst = max(worst, float(differences.max()))
    record_property("measured", f"largest relative difference {worst:.1e}")
    assert worst < 1e-4


@pytest.mark.slow
def test_own_schemes_and_scaled_rules(tmp_path: Path) -> None:
    def mine(leaf: spec.Leaf):
        return spec.Rule(glorot_scheme(leaf), multiplier=2.0, lr_scale=0.5)

    study = replace(STUDY, schemes=("mine", "xavier_rnn"), baseline="xavier_rnn", lrs=(0.1,))
    mixed = campaign.run(study, out=tmp_path / "m", schemes={"mine": mine}, progress=False)
    assert mixed.summary["compilations"] == 1
    alone = campaign.run(
        replace(study, schemes=("xavier_rnn",)),
        out=tmp_path / "a",
        schemes={"mine": mine},
        progress=False,
    )
    # A scheme without scales trains the same beside one that has them.
    np.testing.assert_allclose(
        select(mixed.records, "xavier_rnn").train_loss,
        select(alone.records, "xavier_rnn").train_loss,
        rtol=2e-3,
    )


def test_a_scheme_that_cannot_be_drawn_is_refused_by_name(tmp_path: Path) -> None:
    def broken(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        raise ZeroDivisionError("no law for\nthis")

    study = replace(STUDY, schemes=("mine", "small_normal"), baseline="small_normal")
    with pytest.raises(BadStudy, match=r"scheme 'mine' cannot be drawn \(no law for this\); mend"):
        campaign.run(
            study,
            out=tmp_path / "s",
            schemes={"mine": lambda leaf: broken},
            progress=False,
        )
    assert not (tmp_path / "s").exists()


def test_a_draw_that_fails_costs_no_other_scheme(tmp_path: Path) -> None:
    """Of which nothing is known before it is carried out."""

    def fails(shape: tuple[int, ...]) -> np.ndarray:
        raise ValueError("the file of weights is gone")

    def from_a_file(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        made = jax.ShapeDtypeStruct(shape, dtype)
        return jax.pure_callback(lambda _: fails(shape), made, key, vmap_method="sequential")

    study = replace(
        STUDY, schemes=("mine", "small_normal"), baseline="small_normal", lrs=(0.1,), epochs=1
    )
    done = campaign.run(
        study,
        out=tmp_path / "s",
        schemes={"mine": lambda leaf: from_a_file},
        progress=False,
    )
    assert "the file of weights is gone" in done.about["failures"]["mine"]
    mine = done.records.scheme.values == "mine"
    assert (done.records.outcome.values[mine] == Outcome.FAILED).all()
    assert np.isfinite(done.records.train_loss.values[~mine]).any()


def test_a_calibration_of_minutes_is_left_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def takes_long(*args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        ended.wait(60)
        raise ValueError("nobody waits for it")

    monkeypatch.setattr(initial, "_calibrated", takes_long)
    study = replace(STUDY, schemes=("small_normal", "orthogonal+lsuv"), baseline="small_normal")
    began = time.monotonic()
    with pytest.raises(Interrupted):
        campaign.run(study, out=tmp_path / "s", progress=False)
    assert time.monotonic() - began < 50
    ended.set()
    assert not (tmp_path / "s" / "study.json").exists()


@pytest.mark.slow
def test_the_number_of_slots_that_shapes_the_program_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, seen = replace(LONG, epochs=1), []
    made = sweep.Sweep.__init__

    def noted(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **options)
        seen.append(self.slots // len(self.devices))

    monkeypatch.setattr(sweep.Sweep, "__init__", noted)
    first = campaign.run(
        study, out=tmp_path / "s", progress=False, mapping="vmap", slots_per_device=2
    )
    again.rerun(first.folder, tmp_path / "t", progress=False)
    again.rerun(first.folder, tmp_path / "u", progress=False, slots_per_device=3)
    assert seen == [2, 2, 3]
    device = sweep.described("vmap")
    folder = Folder(first.folder)
    assert campaign._slots_before(folder, first.study, device) == 2
    assert campaign._slots_before(folder, first.study, sweep.described("map")) is None


def test_a_folder_knows_an_own_scheme_that_has_changed(tmp_path: Path) -> None:
    def make(law):
        return {"mine": lambda leaf: zeros if leaf.role == "bias" else law}

    study = replace(
        STUDY, schemes=("mine",), baseline="mine", lrs=(0.1,), epochs=1, batch=320, evaluations=2
    )
    first = campaign.run(study, out=tmp_path / "s", schemes=make(normal(0.1)), progress=False)
    again = campaign.run(study, out=tmp_path / "s", schemes=make(normal(0.1)), progress=False)
    assert again.summary == first.summary
    with pytest.raises(
        BadStudy, match=r"holds another study \(the draws of scheme 'mine' differ\)"
    ):
        campaign.run(study, out=tmp_path / "s", schemes=make(normal(0.2)), progress=False)


@pytest.mark.slow
def test_a_calibrated_scheme_beside_its_own_base(tmp_path: Path) -> None:
    names = ("saxe_orthogonal", "saxe_orthogonal+lsuv")
    study = replace(
        STUDY, schemes=names, baseline=names[0], lrs=(0.1,), epochs=1, batch=320, evaluations=2
    )
    got = campaign.run(study, out=tmp_path / "s", progress=False)
    assert got.summary["compilations"] == 1
    report = got.summary["calibrations"][names[1]]
    assert report["variance_low"]["low"] > 0.9
    assert report["spread"]["median"] < 0.2
    assert any(note.startswith(f"{names[1]}: passes") for note in got.summary["notes"])
    own, calibrated = (select(got.records, name).train_loss.isel(epoch=0) for name in names)
    assert (own.values != calibrated.values).all()
    resolved = resolve.resolve(study)
    starts, _ = initial.calibrate_parameters(resolved, initial.draw_parameters(resolved))
    for name, start in starts[names[0]].items():  # the same draw, rescaled
        ratio = starts[names[1]][name][start != 0] / start[start != 0]
        assert not ratio.size or np.ptp(ratio.reshape(len(start), -1), axis=1).max() < 1e-3


@pytest.mark.parametrize(
    ("task", "model"),
    quick(
        ("adding", "mlp"),
        of=product(["adding", "digits_rows"], ["lstm", "gru", "mlp"]),
    ),
)
def test_every_model_runs_on_tasks_of_both_kinds(model: str, task: str, tmp_path: Path) -> None:
    study = replace(
        STUDY,
        model=model,
        task=task,
        target=None,
        optimizer="adam",
        lrs=(0.01,),
        epochs=1,
        batch=320,
        evaluations=2,
    )
    study = replace(
        study, length=4 if task == "adding" else None, schemes=("small_normal", "orthogonal")
    )
    got = campaign.run(study, out=tmp_path / "s", progress=False)
    assert got.summary["trials"] == 4
    assert np.isfinite(got.records.train_loss.values).all()


def test_new_data_under_an_old_name_never_gives_the_old_answer(tmp_path: Path) -> None:
    digits = TASKS["digits_rows"]()

    def run(task: Task, models=None, mapping=None) -> Result:
        study = replace(SHORT, task="own")
        return campaign.run(
            study,
            out=tmp_path / "s",
            tasks={"own": lambda: task},
            models=models,
            progress=False,
            mapping=mapping,
        )

    own = replace(digits, name="own")
    first = run(own)
    assert run(own).summary == first.summary
    flipped = replace(own, data=own.data | {"train_y": 9 - own.data["train_y"]})
    with pytest.raises(
        BadStudy, match=r"holds another study \(the data of task 'own' differ\); give --out a new"
    ):
        run(flipped)
    with pytest.raises(
        BadStudy, match=r"\(loss, metric or batches of task 'own' differ; what model 'rnn' computes"
    ):
        run(replace(own, loss=lambda outputs, y: 2 * digits.loss(outputs, y)))

    class Silent(jaxinit.RNN):
        def __call__(self, x, training=None):
            return 0 * super().__call__(x, training)

    with pytest.raises(BadStudy, match=r"\(what model 'rnn' computes differs\)"):
        run(own, models={"rnn": Silent})
    assert run(own, mapping="vmap").read_back, "an answer is one wherever it was computed"


def test_an_unfinished_study_goes_on_with_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another text, another device, another version: nothing of it is mixed in."""
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    study = replace(
        SHORT,
        task="text",
        text=str(tmp_path / "book.txt"),
        length=10,
        batch=64,
        epochs=4,
        target=0.01,
    )
    stop = sweep.Sweep.run

    def stopped(self, *args, **kwargs):
        for chunk in stop(self, *args, **kwargs):
            signal.raise_signal(signal.SIGTERM)
            yield chunk

    with monkeypatch.context() as patched:
        patched.setattr(sweep.Sweep, "run", stopped)
        assert not campaign.run(study, out=tmp_path / "s", progress=False).complete
    (tmp_path / "book.txt").write_text("the lazy dog jumps over the quick brown fox. " * 200)
    with pytest.raises(BadStudy, match="the data of task 'text' differ"):
        campaign.run(study, out=tmp_path / "s", progress=False)
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    with pytest.raises(BadStudy, match="was begun on cpu by map and would go on on cpu by vmap"):
        campaign.run(study, out=tmp_path / "s", progress=False, mapping="vmap")
    conditions = store.conditions()
    later = conditions | {"versions": conditions["versions"] | {"jax": "99"}}
    monkeypatch.setattr(store, "conditions", lambda: later)
    with pytest.raises(
        BadStudy, match=rf"under other conditions \(jax {jax.__version__} there, 99 here\); go on"
    ):
        campaign.run(study, out=tmp_path / "s", progress=False)
    forced = campaign.run(study, out=tmp_path / "s", progress=False, force_resume=True)
    assert forced.complete
    assert any(
        note.startswith("resumed by force under other conditions: jax")
        for note in forced.summary["notes"]
    )


# Nobody converges, so 12 trials of two chunks through 8 slots: after three chunks 8 have ended, 4
# are half way.
LONG = replace(STUDY, target=0.99, lrs=(0.1,), seeds=4)


def interrupted(
    folder: Path,
    number: signal.Signals,
    pieces: int,
    patch: pytest.MonkeyPatch,
    steps: int = 2**30,
    **options: Any,
) -> Result:
    """Run LONG until a signal arrives in its piece of that number, which are whole chunks if not of
    so many steps."""
    run, seen = sweep.Sweep.run, []

    def run_and_signal(self, *args, **kwargs):
        for chunk in run(self, *args, **kwargs):
            seen.append(chunk)
            if len(seen) == pieces:
                signal.raise_signal(number)
            yield chunk

    with patch.context() as patched:
        in_pieces(patched, steps)
        patched.setattr(sweep.Sweep, "run", run_and_signal)
        return campaign.run(LONG, out=folder, progress=False, slots_per_device=1, **options)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return campaign.run(
        LONG, out=tmp_path_factory.mktemp("whole") / "s", progress=False, slots_per_device=1
    )


@pytest.mark.parametrize("number", quick(signal.SIGTERM, of=[signal.SIGINT, signal.SIGTERM]))
def test_a_signal_saves_and_the_same_study_goes_on_bit_for_bit(
    number: signal.Signals,
    uninterrupted: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    partial = interrupted(tmp_path / "s", number, 3, monkeypatch)
    assert not partial.complete
    assert partial.summary["trials"] == 8
    assert "interrupted" in json.loads((tmp_path / "s" / "study.json").read_text())["status"]
    assert any(note.startswith("interrupted: 4 trials") for note in partial.summary["notes"])
    assert "finishing the steps under way" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    # Other slots than before: a trial does not depend on where it runs.
    whole = campaign.run(LONG, out=tmp_path / "s", progress=False, slots_per_device=2)
    assert "going on from" in capsys.readouterr().err
    xr.testing.assert_identical(whole.records, uninterrupted.records)
    names = ["manifest.json", "records.nc", "study.json", "summary.json"]
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == names
    first, second = whole.about["lives"]
    assert whole.summary["compilations"] == first["compilations"] + second["compilations"] == 2
    assert whole.summary["wall_s"] == first["wall_s"] + second["wall_s"] > first["wall_s"] > 0


@pytest.mark.slow  # one between epochs is tested
@pytest.mark.parametrize("mapping", ["map", "vmap"])
def test_a_signal_in_the_midst_of_an_epoch_loses_none_of_it(
    mapping: sweep.Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of which an epoch takes hours are saved between two steps; under vmap those that join
    wait until a chunk begins."""
    whole = campaign.run(
        LONG, out=tmp_path / "whole", progress=False, slots_per_device=1, mapping=mapping
    )
    cut = interrupted(tmp_path / "s", signal.SIGTERM, 3, monkeypatch, steps=5, mapping=mapping)
    assert not cut.complete
    saved, _ = store.read_state(tmp_path / "s", cut.about["digest"])
    assert saved is not None
    places = [name for name in saved if name.startswith("state") and (saved[name] == 15).all()]
    assert places, "no state says that it is 15 steps into its chunk"
    again = campaign.run(
        LONG, out=tmp_path / "s", progress=False, slots_per_device=1, mapping=mapping
    )
    xr.testing.assert_identical(again.records, whole.records)


def test_a_study_that_goes_on_counts_what_was_done_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = interrupted(tmp_path / "s", signal.SIGTERM, 3, monkeypatch)
    out = io.StringIO()
    with progress.shown("json", console=Console(file=out)):
        whole = campaign.run(LONG, out=tmp_path / "s", slots_per_device=1)
    shown = [json.loads(line) for line in out.getvalue().splitlines()]
    assert shown[0]["remark"].startswith("going on from")
    first = next(one for one in shown if one.get("phase") == "training")
    assert first["done"] == round(float(partial.records.last_epoch.sum()) * 4) > 0
    assert first["ended"] == (partial.records.outcome != Outcome.UNFINISHED).sum() > 0
    assert first["trials"] == whole.summary["trials"]
    assert first["total"] >= first["done"]


def test_a_torn_state_is_set_aside_and_the_one_before_is_used(
    uninterrupted: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(campaign, "SAVE_EVERY", 0.0)
    interrupted(tmp_path / "s", signal.SIGTERM, 3, monkeypatch)
    state = tmp_path / "s" / store.STATE
    state.write_bytes(state.read_bytes()[:-100])
    ran = set()
    run = sweep.Sweep.run

    def noted(self, *args, **kwargs):
        for rows, running in run(self, *args, **kwargs):
            ran.update(row.number for row in rows)
            yield rows, running

    monkeypatch.setattr(sweep.Sweep, "run", noted)
    whole = campaign.run(LONG, out=tmp_path / "s", progress=False, slots_per_device=1)
    assert "is torn and was set aside as state.bin.torn; going on from" in capsys.readouterr().err
    assert (tmp_path / "s" / "state.bin.torn").exists()
    assert len(ran) == 4, "eight trials had ended by the chunk before"
    xr.testing.assert_identical(whole.records, uninterrupted.records)


@pytest.mark.slow
def test_a_study_whose_states_are_gone_says_so_and_starts_anew(
    uninterrupted: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    partial = interrupted(tmp_path / "s", signal.SIGTERM, 3, monkeypatch)
    for path in (tmp_path / "s").glob("state*"):
        path.unlink()
    shown = store.load(tmp_path / "s")
    xr.testing.assert_identical(shown.records, partial.records)
    assert "no saved state is left" in shown.remark
    capsys.readouterr()
    whole = campaign.run(LONG, out=tmp_path / "s", progress=False, slots_per_device=1)
    said = capsys.readouterr().err
    assert said.endswith(
        f"no saved state is left in {tmp_path / 's'}: the study starts anew, and will write over "
        "records.nc; to keep it, stop and copy it\n"
    )
    xr.testing.assert_identical(whole.records, uninterrupted.records)
    assert [life.get("lost", False) for life in whole.about["lives"]] == [True, False]


STOPPED = """
import signal, sys
from jaxinit import cli
from jaxinit.engine import sweep

run, seen = sweep.Sweep.run, []

def run_and_signal(self, *orders):
    for chunk in run(self, *orders):
        seen.append(chunk)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        yield chunk

sweep.Sweep.run = run_and_signal
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow  # three processes, which all compile
@pytest.mark.accelerator
def test_a_deterministic_study_goes_on_in_another_process_bit_for_bit(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    words = "run --deterministic --hidden 16 --schemes small_normal orthogonal --lrs 0.1 --seeds 4 "
    words += "--epochs 6 --batch 64 --target 0.99 --out"
    # Nothing is kept, so that each process chooses its kernels itself.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}

    def lived(program: list[str], folder: str) -> int:
        command = [sys.executable, *program, *words.split(), str(tmp_path / folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode in (0, 130), done.stderr
        return done.returncode

    assert lived(["-m", "jaxinit.cli"], "whole") == 0
    assert lived(["-c", STOPPED], "stopped") == 130
    assert lived(["-m", "jaxinit.cli"], "stopped") == 0
    whole, stopped = (store.load(tmp_path / name) for name in ("whole", "stopped"))
    assert len(stopped.about["lives"]) == 2
    xr.testing.assert_identical(whole.records, stopped.records)
    flags = stopped.about["arithmetic"]["XLA_FLAGS"].split()
    assert (devices.DETERMINISTIC in flags) == (jax.default_backend() == "gpu")
    record_property("measured", f"{whole.summary['trials']} trials, stopped once: the same bits")


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    grid = (
        "run --hidden 64 --schemes small_normal xavier_rnn --lrs 0.03 0.1 --seeds 12 --tune-seeds 2"
    )
    budget = "--epochs 900 --target 1.0 --out"
    command = [sys.executable, "-m", "jaxinit.cli", *grid.split(), *budget.split()]
    # the suite's quick compilations would train for half an hour
    optimized = os.environ | {"XLA_FLAGS": ""}
    whole = subprocess.run(
        [*command, str(tmp_path / "whole")], env=optimized, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr
    draws, lives = np.random.default_rng(0), []
    for _ in range(20):
        began = time.monotonic()
        process = subprocess.Popen(
            [*command, str(tmp_path / "killed")], env=optimized, stderr=subprocess.PIPE, text=True
        )
        # if it ends, the study is too short to be killed twenty times
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=draws.uniform(4, 18))
        process.kill()
        _, said = process.communicate()
        lives.append((round(time.monotonic() - began, 1), "going on from" in said))
    print(f"seconds lived, and whether a saved state was found: {lives}")
    assert sum(found for _, found in lives) >= 10
    last = subprocess.run(
        [*command, str(tmp_path / "killed")], env=optimized, capture_output=True, text=True
    )
    assert last.returncode == 0, last.stderr
    xr.testing.assert_identical(
        store.load(tmp_path / "killed").records, store.load(tmp_path / "whole").records
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schemes": ("glorot_unifrm", "small_normal")},
            "no scheme is called 'glorot_unifrm'; the nearest is 'glorot_uniform'",
        ),
        (
            {"schemes": ("kaiming", "small_normal")},
            "no scheme is called 'kaiming'; the nearest is 'he_normal'",
        ),
        (
            {"schemes": ("xavier_uniform", "small_normal")},
            "no scheme is called 'xavier_uniform'; the nearest is 'glorot_uniform'",
        ),
        (
            {"schemes": ("small_normal+lsvu", "small_normal")},
            "no calibration is called 'lsvu'; the nearest is 'lsuv'",
        ),
        ({"model": "lsmt"}, "no model is called 'lsmt'; the nearest is 'lstm'"),
        ({"task": "digit_rows"}, "no task is called 'digit_rows'; the nearest is 'digits_rows'"),
        ({"optimizer": "adm"}, "no optimizer is called 'adm'; the nearest is 'adam'"),
        ({"activation": "than"}, "no activation is called 'than'; the nearest is 'tanh'"),
        (
            {"model": "gru", "activation": "relu"},
            "--activation is an option of rnn, mlp, cnn, resnet, transformer, vit; leave it out",
        ),
        ({"target": 1.5}, "target 1.5 is out of reach"),
        (
            {"length": 5},
            "--length is an option of adding, .*; leave it out, .* in place of task 'digits_rows'",
        ),
        ({"task": "adding", "length": 1, "target": None}, "needs a length of 2 or more, got 1"),
        ({"task": "copy", "model": "mlp", "target": None}, "wants an output at every step"),
        ({"batch": 5000}, "batch is at most 1280"),
        ({"unroll": 9}, "unroll is at most 8, the steps of task 'digits_rows'; got 9"),
        ({"segment": 0}, "segment must be 1 to 2147483647, got 0"),
        (
            {"model": "mlp", "segment": 4},
            "--segment is an option of rnn, .*; leave it out, .* in place of model 'mlp'",
        ),
    ],
)
def test_bad_studies_are_one_line_and_write_nothing(
    change: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadStudy, match=message) as caught:
        campaign.run(replace(STUDY, **change), out=tmp_path / "s", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_a_scheme_that_covers_too_little_is_refused_before_any_work(tmp_path: Path) -> None:
    def bare(leaf: spec.Leaf):
        return None

    study = replace(STUDY, schemes=("bare", "small_normal"))
    with pytest.raises(BadStudy, match=r"'bare' has no rule for parameter 'layers.0.bias'"):
        campaign.run(study, out=tmp_path / "s", schemes={"bare": bare}, progress=False)
    assert not (tmp_path / "s").exists()


def test_a_scheme_that_cannot_be_calibrated_costs_no_other(tmp_path: Path) -> None:
    names = ("glorot_normal", "nothing+lsuv")
    study = replace(STUDY, model="mlp", layers=1, schemes=names, baseline=names[0])
    own: dict[str, Any] = {"schemes": {"nothing": lambda leaf: zeros}, "progress": False}
    done = campaign.run(study, out=tmp_path / "both", **own)
    alone = campaign.run(replace(study, schemes=names[:1]), out=tmp_path / "one", **own)
    failed = done.records.scheme.values == names[1]
    assert (done.records.outcome.values[failed] == Outcome.FAILED).all()
    left = done.records.isel(trial=~failed)
    xr.testing.assert_equal(left.drop_attrs(), alone.records.drop_attrs())
    reason = done.about["failures"][names[1]]
    assert reason.startswith("lsuv:")
    (row,) = [row for row in done.summary["table"] if row["scheme"] == names[1]]
    assert row["diverged"] == study.seeds
    assert any(reason in note for note in done.summary["notes"])
    with pytest.raises(BadStudy, match=r"^nothing\+lsuv: lsuv: "):
        campaign.run(
            replace(study, schemes=names[1:], baseline=names[1]), out=tmp_path / "none", **own
        )


@pytest.mark.slow
def test_a_baseline_that_cannot_be_calibrated_is_no_exception(tmp_path: Path) -> None:
    names = ("glorot_normal", "nothing+lsuv")
    study = replace(STUDY, model="mlp", layers=1, schemes=names, baseline=names[1])
    own = {"nothing": lambda leaf: zeros}
    assert campaign.run(study, out=tmp_path / "s", schemes=own, progress=False).complete


def test_sequences_of_nan_are_diverged_trials_and_cost_no_other(tmp_path: Path) -> None:
    """A task whose inputs are not numbers: every trial ends as diverged, and the table says so."""

    def holed() -> Task:
        task = TASKS["digits_rows"]()
        return replace(
            task,
            name="holed",
            batch=lambda data, t: (jnp.nan * task.batch(data, t)[0], task.batch(data, t)[1]),
        )

    study = replace(STUDY, task="holed", lrs=(0.1,), epochs=1, target=0.9)
    got = campaign.run(study, out=tmp_path / "s", tasks={"holed": holed}, progress=False)
    assert got.complete
    assert all(row["diverged"] == row["seeds"] for row in got.summary["table"])


def test_by_default_an_accelerator_holds_all_trials_that_may_run_together() -> None:
    ladder = replace(STUDY, search="ladder", lrs=(), seeds=8)
    schemes = len(ladder.schemes)
    assert campaign.default_slots(ladder, "map", 2) == campaign.SLOTS
    # two rates are reported, on all seeds
    assert campaign.default_slots(ladder, "vmap", 1) == schemes * 2 * 8
    assert campaign.default_slots(ladder, "vmap", 3) == -(-schemes * 2 * 8 // 3)
    grid = replace(ladder, search="grid", lrs=(0.1, 0.3, 1.0), tune_seeds=3)
    assert campaign.default_slots(grid, "vmap", 1) == schemes * 9
    many = replace(ladder, seeds=10_000)
    assert campaign.default_slots(many, "vmap", 1) == campaign.MOST_SLOTS


def test_on_a_cpu_a_large_study_has_more_slots() -> None:
    large = replace(STUDY, lrs=(0.1,), seeds=3_000)
    trials = len(large.schemes) * trials_of_a_search(large)
    assert trials > 9_000
    assert campaign.default_slots(large, "map", 1) == trials // 64
    assert campaign.default_slots(large, "map", 1000) == campaign.SLOTS
    assert campaign.default_slots(replace(large, seeds=10**6), "map", 2) == campaign.MOST_SLOTS


@pytest.mark.parametrize("slots", [0, -1, 100_000])
def test_slots_that_are_none_are_refused(slots: int, tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match=f"slots must be 1 to 1024, got {slots}"):
        campaign.run(STUDY, out=tmp_path / "s", progress=False, slots_per_device=slots)
    assert not (tmp_path / "s").exists()
