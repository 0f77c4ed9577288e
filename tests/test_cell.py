"""A study resolved: names, options that must fit together, and paired starts."""

from dataclasses import replace

import numpy as np
import pytest

from jaxinit import cell as cells
from jaxinit.residual import mup
from jaxinit.spec import Initializer, Leaf, Rule, rules
from jaxinit.study import BadStudy, Study
from jaxinit.tasks import TASKS

STUDY = Study(hidden=16, schemes=("small_normal", "xavier_rnn"), lrs=(0.1,), batch=64)


def test_seeds_are_paired_across_schemes() -> None:
    cell = cells.check(replace(STUDY, schemes=("small_normal", "xavier_rnn")))
    starts = cells.draw_starts(cell)
    fan_in = {leaf.name: leaf.fan_in for leaf in cell.model.leaves if leaf.role != "bias"}
    for name, n in fan_in.items():
        # The same Gaussian numbers under both schemes, at different scales.
        np.testing.assert_allclose(
            starts["small_normal"][name] * 100, starts["xavier_rnn"][name] * np.sqrt(n), rtol=1e-5
        )


def test_a_task_of_the_callers_own_takes_a_length_when_its_function_does() -> None:
    def longer(length: int = 7):
        return replace(TASKS["adding"](length), name="longer")

    cell = cells.check(replace(STUDY, task="longer", length=9), tasks={"longer": longer})
    assert cell.task.length == 9
    with pytest.raises(BadStudy, match=r"'digits_rows' has a fixed length; .* adding, copy.*, longer"):
        cells.check(replace(STUDY, length=9), tasks={"longer": longer})


@pytest.mark.parametrize("name", ["mup(base_width=4)", "spectral_mup(base_width=4)", "scale(mup(4), 2)"])
def test_rates_are_those_of_the_studys_optimizer(name: str) -> None:
    """At m = 4: recurrent kernels 1/m under Adam and 1 under SGD, biases of hidden units 1 and m."""
    expected = {"adam": (1 / 4, 1), "sgd": (1, 4), "momentum": (1, 4)}
    for optimizer, rates in expected.items():
        cell = cells.check(replace(STUDY, schemes=(name,), baseline=name, optimizer=optimizer))
        found = rules(cell.schemes[name], cell.model.leaves)
        assert (found["layers.0.recurrent"].lr_scale, found["layers.0.bias"].lr_scale) == rates


def test_rates_for_another_optimizer_are_refused_in_one_line() -> None:
    def wrapped(leaf: Leaf) -> Rule | Initializer | None:
        return mup(4)(leaf)  # hides from the study that the scheme could adapt

    for name, own in (("u_mup(base_width=4)", {}), ("mup(4, 'adam')", {}), ("mine", {"mine": wrapped})):
        study = replace(STUDY, schemes=(name,), baseline=name, optimizer="adam")
        assert cells.check(study, own).schemes
        with pytest.raises(BadStudy, match="has rates for adam, and the optimizer is 'sgd'; use --optimizer adam"):
            cells.check(replace(study, optimizer="sgd"), own)


def test_a_base_above_the_width_is_refused_with_the_line_that_settles_it() -> None:
    with pytest.raises(BadStudy, match=r"a base of 64 and a model of 16; .*'mup\(base_width=16\)'"):
        cells.check(replace(STUDY, schemes=("mup",), baseline="mup"))


def test_settings_and_calibrations_stand_in_one_name() -> None:
    known = cells.SCHEMES
    assert cells.parts("mup(base_width=4)+lsuv", known) == ("mup(base_width=4)", "lsuv")
    assert cells.parts("forget_bias(+2)", known) == ("forget_bias(+2)", "")
    cell = cells.check(replace(STUDY, model="lstm", schemes=("forget_bias(+2)+lsuv",), baseline="forget_bias(+2)+lsuv"))
    assert list(cell.calibrations) == ["forget_bias(+2)+lsuv"]
    with pytest.raises(BadStudy, match="no scheme is called 'orthogonal\\+'"):
        cells.check(replace(STUDY, schemes=("orthogonal+",), baseline="orthogonal+"))


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_normalized_residual_nets_are_a_setting(norm: str) -> None:
    cell = cells.check(replace(STUDY, model="mlp", layers=3, norm=norm, residual=True, dropout=0.5))
    scales = [leaf for leaf in cell.model.leaves if leaf.role == "scale"]
    assert [leaf.shape for leaf in scales] == [(16,)] * 3
    starts = cells.draw_starts(cell)
    for leaf in scales:
        np.testing.assert_array_equal(starts["small_normal"][leaf.name], 1)
    assert len(cell.model.running) == (6 if norm == "batch" else 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "batch"}, "batch normalization and residual are options of mlp"),
        ({"peepholes": True}, "peepholes is an option of lstm"),
        ({"model": "lstm", "leak": 0.5}, "leak is an option of rnn"),
        ({"model": "mlp", "learned_start": True}, "model 'mlp' has no time loop; leave --learned-start out"),
        ({"truncate": 9}, "truncate is at most 8, the steps of task 'digits_rows'; got 9"),
        ({"text": "a.txt"}, "task 'digits_rows' has no text; leave --text out, or use one of text, words"),
        ({"bidirectional": True, "segment": 2}, "leave segment out"),
        ({"model": "mlp", "norm": "group"}, "is layer, batch or left out"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1, got 1"),
        ({"clip_value": 0.0}, "clip_value must be positive, got 0"),
        ({"l2": -1.0}, "l2 must be 0 or more"),
        (
            {"model": "transformer", "norm": "batch"},
            "norm of 'transformer' is layer, rms, none or left out; got 'batch'",
        ),
        ({"model": "mlp", "gate": True}, "gate is an option of transformer, vit"),
        ({"model": "vit", "skip_scale": 2.0, "learned_skip": True}, "skip_scale is positive, and an option of"),
        ({"model": "transformer", "skip_scale": -1.0}, "without learned_skip; got -1 for 'transformer'"),
        ({"model": "vit", "task": "text"}, "task 'text' wants an output at every step, 'vit' gives one"),
        (
            {"model": "transformer", "heads": 3, "hidden": 16},
            "heads must divide the width, got 3 heads and a width of 16",
        ),
    ],
)
def test_remedies_that_make_no_sense_are_refused(change: dict, message: str) -> None:
    with pytest.raises(BadStudy, match=message):
        cells.check(replace(STUDY, **change))
