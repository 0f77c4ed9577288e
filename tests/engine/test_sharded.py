"""A trial over all devices: the same draws, the same training within rounding, no device with all
of a model."""

import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from pieces import in_pieces
from short_study import STUDY

from jaxinit.analysis.records import Point
from jaxinit.engine import campaign
from jaxinit.engine.initial import draw_parameters, of_points
from jaxinit.engine.resolve import resolve
from jaxinit.engine.sharded import ShardedSweep
from jaxinit.engine.survey import survey
from jaxinit.study import BadStudy, Study

SMALL = replace(STUDY, target=0.99, lrs=(0.1,), schemes=("orthogonal", "small_normal"))
WIDE = Study(model="transformer", task="text", length=16, hidden=64, optimizer="adam", lrs=(0.01,))


@pytest.mark.parametrize("study", [SMALL, WIDE], ids=["rnn", "transformer"])
def test_draws_are_those_of_one_device_and_lie_in_parts(study: Study) -> None:
    resolved = resolve(replace(study, schemes=("orthogonal",), baseline="orthogonal", seeds=2))
    many = ShardedSweep(resolved, resolved.program("sharded"), jax.devices())
    point = Point("orthogonal", 0.1, resolved.study.first_seed + 1)
    (whole,) = of_points(draw_parameters(resolved), [point], resolved.study.first_seed)
    parts = many.split.params(point.scheme, point.seed)
    for name, value in whole.items():
        np.testing.assert_array_equal(np.asarray(parts[name]), value, err_msg=name)
    held = [0] * len(jax.devices())
    for value in parts.values():
        for shard in value.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    everything = sum(value.nbytes for value in whole.values())
    assert max(held) < (0.6 if study is SMALL else 0.2) * everything  # small ones have odd sizes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    out = tmp_path_factory.mktemp("whole") / "s"
    return campaign.run(SMALL, out=out, progress=False, mapping="sharded").records


def test_training_is_that_of_one_device_within_rounding(whole: xr.Dataset, tmp_path: Path) -> None:
    alone = campaign.run(SMALL, out=tmp_path / "s", progress=False).records
    assert (whole.outcome == alone.outcome).all()
    np.testing.assert_allclose(whole.train_loss, alone.train_loss, rtol=2e-3)


def test_a_sharded_study_goes_on_after_a_signal_bit_for_bit(
    whole: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ShardedSweep.run

    def stopped(self, *args):
        for number, piece in enumerate(run(self, *args)):
            if number == 3:
                signal.raise_signal(signal.SIGTERM)
            yield piece

    with monkeypatch.context() as patched:
        in_pieces(patched, 5)
        patched.setattr(ShardedSweep, "run", stopped)
        cut = campaign.run(SMALL, out=tmp_path / "s", progress=False, mapping="sharded")
    assert not cut.complete
    with pytest.raises(BadStudy, match="was begun on cpu by sharded and would go on on cpu by map"):
        campaign.run(SMALL, out=tmp_path / "s", progress=False)
    again = campaign.run(SMALL, out=tmp_path / "s", progress=False, mapping="sharded")
    xr.testing.assert_identical(again.records, whole)
    assert again.about["lives"][0]["compilations"] == 1


def test_calibrations_are_refused(tmp_path: Path) -> None:
    study = replace(SMALL, schemes=("orthogonal+lsuv", "small_normal"))
    with pytest.raises(BadStudy, match=r"leave them out of orthogonal\+lsuv, or run without"):
        campaign.run(study, out=tmp_path / "s", progress=False, mapping="sharded")


@pytest.mark.slow
def test_signals_are_those_of_one_device_within_rounding() -> None:
    study = replace(SMALL, model="mlp", layers=2, hidden=32, seeds=2)
    alone, parts = (survey(study, examples=64, sharded=sharded) for sharded in (False, True))
    assert set(alone) == set(parts)
    for name in alone:
        # Which entries are exactly zero, or in which bin, rounding decides.
        if alone[name].dtype.kind == "f" and not str(name).endswith(("_zero", "histogram")):
            scale = float(np.nanmax(np.abs(alone[name].values), initial=0.0))
            np.testing.assert_allclose(
                parts[name], alone[name], rtol=2e-3, atol=2e-4 * scale, err_msg=name
            )
