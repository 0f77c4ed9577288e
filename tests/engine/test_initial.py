"""Initial parameters: drawn, paired between schemes, and calibrated."""

from dataclasses import replace

import numpy as np
import pytest
from cases import quick

from jaxinit.engine import initial, resolve
from jaxinit.initializers import zeros
from jaxinit.study import BadStudy, Study

STUDY = Study(hidden=16, schemes=("small_normal", "xavier_rnn"), lrs=(0.1,), batch=64)


def test_seeds_are_paired_across_schemes() -> None:
    resolved = resolve.resolve(replace(STUDY, schemes=("small_normal", "xavier_rnn")))
    starts = initial.draw_parameters(resolved)
    fan_in = {leaf.name: leaf.fan_in for leaf in resolved.model.leaves if leaf.role != "bias"}
    for name, n in fan_in.items():
        # The same Gaussian numbers under both schemes, at different scales.
        np.testing.assert_allclose(
            starts["small_normal"][name] * 100, starts["xavier_rnn"][name] * np.sqrt(n), rtol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["transformer", "vit"])
def test_transformers_are_calibrated_in_a_study(model: str) -> None:
    names = ("xavier_transformer", "xavier_transformer+lsuv")
    study = replace(
        STUDY,
        model=model,
        layers=1,
        schemes=names,
        baseline=names[0],
        seeds=2,
        tune_seeds=1,
        hidden=8,
    )
    resolved = resolve.resolve(
        replace(study, task="digits_patches" if model == "vit" else "digits_rows", heads=2)
    )
    starts, reports = initial.calibrate_parameters(resolved, initial.draw_parameters(resolved))
    report = reports[names[1]]
    assert report["variance_low"]["low"] == pytest.approx(1, abs=0.1)
    assert report["variance_high"]["high"] == pytest.approx(1, abs=0.1)
    assert report["skipped positions"]["median"] == 1
    np.testing.assert_array_equal(starts[names[1]]["positions"], starts[names[0]]["positions"])


@pytest.mark.parametrize("calibration", quick("lsuv", of=["lsuv", "metainit", "gradinit"]))
def test_a_start_of_zeros_is_refused_with_the_parameter(calibration: str) -> None:
    name = f"zeros+{calibration}"
    study = replace(
        STUDY, model="mlp", layers=1, schemes=(name,), baseline=name, seeds=2, tune_seeds=1
    )
    resolved = resolve.resolve(study, schemes={"zeros": lambda leaf: zeros})
    with pytest.raises(
        BadStudy, match=rf"^zeros\+{calibration}: {calibration}: .*'layers.0.kernel'"
    ):
        initial.calibrate_parameters(resolved, initial.draw_parameters(resolved))
