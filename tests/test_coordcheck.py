"""The coordinate check: muP passes, the standard parametrization and planted faults fail."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jaxinit import cli, coordcheck
from jaxinit.coordcheck import coordinate_check, passes, slopes
from jaxinit.initializers import normal
from jaxinit.residual import depth_mup, mup, spectral_mup, u_mup
from jaxinit.schemes import xavier_rnn
from jaxinit.spec import Leaf, Rule, Scheme
from jaxinit.study import BadStudy, Study

BASE = 32
STUDY = Study(
    model="mlp", layers=2, activation="relu", optimizer="adam", schemes=("mup",), baseline="mup", seeds=4, batch=64
)
WIDTHS = (32, 128, 512)


def wrong_power(leaf: Leaf) -> Rule:
    """The slip of a well-known port: the readout's standard deviation over m instead of over sqrt(m)."""
    rule = mup(BASE)(leaf)
    if not isinstance(rule, Rule) or leaf.role != "readout":
        assert isinstance(rule, Rule)
        return rule
    m = leaf.width / BASE
    return replace(rule, draw=normal(1 / leaf.fan_in**0.5), lr_scale=m**-0.5, wd_scale=1.0)


def decay_with_rate(leaf: Leaf) -> Rule:
    """Decoupled decay that shrinks with the rate: narrow nets are decayed, wide ones are not."""
    rule = mup(BASE, zero_readout=True)(leaf)  # an answer of 0 at the start has nothing to decay
    assert isinstance(rule, Rule)
    return replace(rule, wd_scale=1.0)


def rows_of(scheme: Scheme, study: Study = STUDY) -> list[coordcheck.Slope]:
    return slopes(coordinate_check(replace(study, schemes=("s",), baseline="s"), WIDTHS, schemes={"s": scheme}))


@pytest.mark.parametrize("model", ["mlp", "rnn"])
def test_mup_and_its_kin_pass(model: str) -> None:
    """Sizes in the draw (muP, spectral) or in a multiplier (u-muP): the network computes the same but for factors."""
    schemes = {"mup": mup(BASE), "spectral": spectral_mup(BASE), "u_mup": u_mup(BASE)}
    study = replace(STUDY, model=model, activation="tanh", layers=2 if model == "mlp" else 1, batch=32)
    study = replace(study, schemes=tuple(schemes), baseline="mup")
    rows = slopes(coordinate_check(study, WIDTHS, schemes=schemes))
    assert all(passes(rows, name) for name in schemes), [row for row in rows if not row.passed]
    assert all(row.low <= row.slope <= row.high for row in rows)


def test_the_standard_parametrization_fails_by_its_theory() -> None:
    """Under Adam a step changes the readout in proportion to the width: a slope of 1."""
    rows = slopes(coordinate_check(replace(STUDY, schemes=("xavier_rnn",), baseline="xavier_rnn"), WIDTHS))
    update = next(row for row in rows if row.parameter == "readout.kernel" and row.kind == "update")
    assert update.slope == pytest.approx(1, abs=0.25)
    assert not update.passed
    assert not passes(rows, "xavier_rnn")


def test_a_wrong_power_is_caught() -> None:
    assert not passes(rows_of(wrong_power), "s")


def test_decay_that_is_scaled_with_the_rate_is_caught() -> None:
    decayed = replace(STUDY, weight_decay=150.0)  # times the rate of 0.001: 15 % a step
    right = rows_of(mup(BASE, zero_readout=True), decayed)
    assert passes(right, "s"), [row for row in right if not row.passed]
    assert not passes(rows_of(decay_with_rate, decayed), "s")


def test_the_command_says_pass_or_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from jaxinit import sweep

    monkeypatch.setattr(sweep, "one_device_per_core", lambda: None)
    monkeypatch.setattr(sweep, "keep_compilations", lambda: None)
    study = replace(STUDY, schemes=("xavier_rnn",), baseline="xavier_rnn", seeds=2)
    assert cli.check_coordinates(study, (16, 64), (), 2, 0.001, tmp_path / "c") == 1
    printed = capsys.readouterr().out
    assert "xavier_rnn: FAIL" in printed
    assert "not flat" in printed
    assert (tmp_path / "c" / "figures" / "coordinates.png").exists()
    stored = json.loads((tmp_path / "c" / "slopes.json").read_text())
    assert len(stored["slopes"]) == 3 * 3


def test_bad_requests_are_one_line() -> None:
    with pytest.raises(BadStudy, match="two or more different widths, got 64"):
        coordinate_check(STUDY, (64,))
    with pytest.raises(ValueError, match="got a base of 64 and a model of 16"):
        coordinate_check(STUDY, (16, 64))


DEEP = Study(model="transformer", hidden=32, task="text", length=16, optimizer="adam", schemes=("s",), baseline="s")


def unscaled_rate(leaf: Leaf) -> Rule:
    """depth-muP without its factor on the rate."""
    rule = depth_mup(xavier_rnn, 2)(leaf)
    assert isinstance(rule, Rule)
    return replace(rule, lr_scale=1.0)


def test_the_depth_check_tells_depth_mup_from_the_rest() -> None:
    """What the branches' sum changes by goes as L times the multiplier times the rate, where they pull together."""
    schemes = {"depth_mup": depth_mup(xavier_rnn, 2), "plain": xavier_rnn, "fault": unscaled_rate}
    study = replace(DEEP, seeds=3, batch=32, schemes=tuple(schemes), baseline="plain")
    # A small rate: later steps depend on the text, and pull together the less the further they go.
    rows = slopes(coordcheck.depth_check(study, (2, 8), steps=5, rate=0.001, schemes=schemes))
    update = {row.scheme: row.slope for row in rows if (row.parameter, row.kind) == ("branches", "update")}
    assert {name: passes(rows, name) for name in schemes} == {"depth_mup": True, "plain": False, "fault": False}
    assert update == pytest.approx({"depth_mup": 0.0, "plain": 1.0, "fault": 0.5}, abs=0.25)


def test_the_depth_check_refuses_a_model_without_a_stream() -> None:
    with pytest.raises(BadStudy, match=r"residual stream.*'mlp'"):
        coordcheck.depth_check(replace(STUDY, seeds=2), (2, 4), schemes={"mup": mup(BASE)})
