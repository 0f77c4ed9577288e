"""The coordinate check: muP passes, the standard parametrization and planted faults fail."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cases import quick

from jaxinit import cli
from jaxinit.analysis.coordinates import Slope, passes, slopes
from jaxinit.engine import coordcheck
from jaxinit.engine.coordcheck import coordinate_check
from jaxinit.initializers import normal, zeros
from jaxinit.models import MODELS, Transformer
from jaxinit.schemes import xavier_rnn
from jaxinit.schemes.mup import depth_mup, mup, spectral_mup, u_mup
from jaxinit.spec import Leaf, Rule, Scheme
from jaxinit.study import BadStudy, Study

BASE = 32
STUDY = Study(
    model="mlp",
    layers=2,
    activation="relu",
    optimizer="adam",
    schemes=("mup",),
    baseline="mup",
    seeds=4,
    batch=64,
)
WIDTHS = (32, 128, 512)


def wrong_power(leaf: Leaf) -> Rule:
    """The slip of a well-known port: the readout's standard deviation over m instead of over
    sqrt(m)."""
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


def rows_of(scheme: Scheme, study: Study = STUDY) -> list[Slope]:
    return slopes(
        coordinate_check(
            replace(study, schemes=("s",), baseline="s"), WIDTHS, schemes={"s": scheme}
        )
    )


def test_the_seeds_are_those_from_the_first_on() -> None:
    def sizes(study: Study) -> xr.Dataset:
        return coordinate_check(study, (16, 32), steps=2)

    study = replace(STUDY, layers=1, schemes=("orthogonal",), search="ladder", seeds=3)
    whole = sizes(study)
    later = sizes(replace(study, first_seed=1, seeds=2))
    assert later.seed.values.tolist() == [1, 2]
    xr.testing.assert_allclose(later, whole.sel(seed=[1, 2]), rtol=1e-4)


@pytest.mark.parametrize("model", quick("rnn", of=["mlp", "rnn"]))
def test_mup_and_its_kin_pass(model: str) -> None:
    """Sizes in the draw (muP, spectral) or in a multiplier (u-muP): the network computes the same
    but for factors."""
    schemes = {"mup": mup(BASE), "spectral": spectral_mup(BASE), "u_mup": u_mup(BASE)}
    study = replace(
        STUDY, model=model, activation="tanh", layers=2 if model == "mlp" else 1, batch=32
    )
    study = replace(study, schemes=tuple(schemes), baseline="mup")
    rows = slopes(coordinate_check(study, WIDTHS, schemes=schemes))
    assert all(passes(rows, name) for name in schemes), [row for row in rows if not row.passed]
    assert all(row.low <= row.slope <= row.high for row in rows)


def test_the_standard_parametrization_fails_by_its_theory() -> None:
    """Under Adam a step changes the readout in proportion to the width: a slope of 1."""
    rows = slopes(
        coordinate_check(replace(STUDY, schemes=("xavier_rnn",), baseline="xavier_rnn"), WIDTHS)
    )
    update = next(row for row in rows if row.parameter == "readout.kernel" and row.kind == "update")
    assert update.slope == pytest.approx(1, abs=0.25)
    assert not update.passed
    assert not passes(rows, "xavier_rnn")


def test_a_wrong_power_is_caught() -> None:
    assert not passes(rows_of(wrong_power), "s")


@pytest.mark.slow
def test_decay_that_is_scaled_with_the_rate_is_caught() -> None:
    decayed = replace(STUDY, weight_decay=150.0)  # times the rate of 0.001: 15 % a step
    right = rows_of(mup(BASE, zero_readout=True), decayed)
    assert passes(right, "s"), [row for row in right if not row.passed]
    assert not passes(rows_of(decay_with_rate, decayed), "s")


def test_the_command_says_pass_or_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    from jaxinit.engine import sweep

    monkeypatch.setattr(sweep, "one_device_per_core", lambda: None)
    monkeypatch.setattr(sweep, "keep_compilations", lambda: None)
    study = replace(STUDY, schemes=("xavier_rnn",), baseline="xavier_rnn", seeds=2)
    assert cli.check_coordinates(study, (16, 64), (), 2, 0.001, tmp_path / "c") == 1
    printed = capsys.readouterr().out
    assert "xavier_rnn: fails in " in printed
    assert "not flat" in printed
    assert (tmp_path / "c" / "report.html").exists()
    assert (tmp_path / "c" / "figures" / "coordinates.png").exists()
    stored = json.loads((tmp_path / "c" / "slopes.json").read_text())
    # three kernels, and the network's output, which has no gradient
    assert len(stored["slopes"]) == 3 * 3 + 2
    assert cli.check_coordinates(study, (16, 64), (), 2, 0.001, tmp_path / "c", "json") == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["slopes"] == stored["slopes"]
    assert answer["passes"] == {"xavier_rnn": False}
    assert all(json.loads(line) for line in said.err.splitlines())


def test_bad_requests_are_one_line() -> None:
    with pytest.raises(BadStudy, match="two or more different widths, got 64"):
        coordinate_check(STUDY, (64,))
    with pytest.raises(ValueError, match="got a base of 64 and a model of 16"):
        coordinate_check(STUDY, (16, 64))


@pytest.mark.parametrize("steps", [0, -5])
def test_no_step_is_no_check(steps: int) -> None:
    with pytest.raises(BadStudy, match=f"steps must be 1 or more, got {steps}"):
        coordinate_check(STUDY, WIDTHS, steps=steps)
    with pytest.raises(BadStudy, match=f"steps must be 1 or more, got {steps}"):
        coordcheck.depth_check(STUDY, (2, 4), steps=steps)


def all_zero(leaf: Leaf) -> Rule:
    return Rule(zeros)


def standing_still(leaf: Leaf) -> Rule:
    rule = mup(BASE)(leaf)
    assert isinstance(rule, Rule)
    return replace(rule, lr_scale=0.0)


def notes(rows: list[Slope], kind: str) -> set[str]:
    return {row.note for row in rows if row.kind == kind and row.parameter != "logits"}


@pytest.mark.slow
def test_where_nothing_happens_nothing_passes() -> None:
    """Slopes of zeros are flat; they fail by name instead."""
    rows = rows_of(all_zero)
    assert not passes(rows, "s")
    assert notes(rows, "forward") == {"nothing to judge: it is zero"}
    assert notes(rows, "update") == {"nothing to judge: it has not moved"}
    still = rows_of(standing_still)
    assert not passes(still, "s")
    assert notes(still, "update") == {"nothing to judge: it has not moved"}
    tiny = slopes(
        coordinate_check(
            replace(STUDY, schemes=("s",)), WIDTHS, rate=1e-9, schemes={"s": mup(BASE)}
        )
    )
    assert not passes(tiny, "s"), "float32 cannot tell what steps of 1e-9 do"
    assert any("no more than rounding" in note for note in notes(tiny, "update"))
    with pytest.raises(ValueError, match=r"no slopes of a scheme 'other'.*those of s"):
        passes(rows, "other")


def test_zeros_that_theory_asks_for_are_judged_by_their_updates() -> None:
    """A readout of zeros leaves no gradient below it at the start, and learns all the same."""
    rows = rows_of(mup(BASE, zero_readout=True))
    assert passes(rows, "s"), [row for row in rows if not row.passed]
    noted = {
        row.parameter for row in rows if row.note == "zero at initialization: judged by its update"
    }
    assert noted == {"layers.0.kernel", "layers.1.kernel"}


# Of models that take the same settings one stands for the others.
@pytest.mark.parametrize("model", quick("lstm", "mlp", of=MODELS))
def test_every_model_goes_through(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command's own defaults, but for the model: none is refused for what its user never
    gave."""
    seen = []
    monkeypatch.setattr(cli, "check_coordinates", lambda study, *_: seen.append(study) or 0)
    assert cli.main(["coordcheck", "--model", model, "--seeds", "2", "--layers", "1"]) == 0
    study = replace(seen[0], batch=8)
    rows = slopes(coordinate_check(study, (64, 68), steps=1))
    assert {row.scheme for row in rows} == {"mup", "xavier_rnn"}
    assert all(np.isfinite(row.slope) for row in rows if row.kind == "forward")


def normalized_queries(
    in_features: int, hidden: int, out_features: int, **options: Any
) -> Transformer:
    return Transformer(in_features, hidden, out_features, qk_norm=True, **options)


def bias_alone(make: Scheme) -> Scheme:
    """The slip: the query's kernel is scaled, the bias that is added to its product is not."""

    def scheme(leaf: Leaf) -> Rule:
        rule: Any = make(leaf)
        return (
            replace(rule, multiplier=1.0)
            if leaf.role == "bias" and leaf.partner == "query"
            else rule
        )

    return scheme


def divided_out(make: Scheme) -> Scheme:
    """The slip: the query's kernel is scaled before a normalization that divides the scale out."""

    def scheme(leaf: Leaf) -> Rule:
        rule: Any = make(replace(leaf, normalized=False))
        return (
            replace(rule, multiplier=1.0)
            if leaf.role == "scale" and leaf.partner == "query"
            else rule
        )

    return scheme


ATTENTION = Study(
    model="transformer",
    layers=1,
    task="text",
    length=16,
    optimizer="adam",
    seeds=2,
    batch=32,
    schemes=("right", "fault"),
)
KIN = {"mup": mup, "u_mup": u_mup, "spectral_mup": spectral_mup}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "model"), [(bias_alone, "transformer"), (divided_out, "normalized")]
)
@pytest.mark.parametrize("name", KIN)
def test_scores_tell_where_the_multiplier_of_queries_is_missing(
    name: str, fault: Callable[[Scheme], Scheme], model: str
) -> None:
    schemes = {"right": KIN[name](64), "fault": fault(KIN[name](64))}
    study = replace(ATTENTION, model=model, baseline="right")
    models = {"normalized": normalized_queries}
    rows = slopes(coordinate_check(study, (64, 128, 256, 512), schemes=schemes, models=models))
    scores = [row for row in rows if ".scores" in row.parameter]
    assert all(row.passed for row in scores if row.scheme == "right"), scores
    wrong = {row.parameter for row in scores if row.scheme == "fault" and not row.passed}
    # a bias is a part of the scores; what a norm divides out is missing in every part
    parts = {"blocks.0.attention.scores by query bias"}
    if fault is divided_out:
        parts |= {
            "blocks.0.attention.scores",
            "blocks.0.attention.scores by query",
            "blocks.0.attention.scores by key",
        }
    assert wrong & parts
    assert {"blocks.0.attention.branch", "blocks.0.feed.branch", "logits"} <= {
        row.parameter for row in rows
    }


DEEP = Study(
    model="transformer",
    hidden=32,
    task="text",
    length=16,
    optimizer="adam",
    schemes=("s",),
    baseline="s",
)


def unscaled_rate(leaf: Leaf) -> Rule:
    """depth-muP without its factor on the rate."""
    rule = depth_mup(xavier_rnn, 2)(leaf)
    assert isinstance(rule, Rule)
    return replace(rule, lr_scale=1.0)


@pytest.mark.slow
def test_the_depth_check_tells_depth_mup_from_the_rest() -> None:
    """What the branches' sum changes by goes as L times the multiplier times the rate, where they
    pull together."""
    schemes = {"depth_mup": depth_mup(xavier_rnn, 2), "plain": xavier_rnn, "fault": unscaled_rate}
    study = replace(DEEP, seeds=3, batch=32, schemes=tuple(schemes), baseline="plain")
    # A small rate: later steps depend on the text, and pull together the less the further they go.
    rows = slopes(coordcheck.depth_check(study, (2, 8), steps=5, rate=0.001, schemes=schemes))
    update = {
        row.scheme: row.slope for row in rows if (row.parameter, row.kind) == ("branches", "update")
    }
    assert {name: passes(rows, name) for name in schemes} == {
        "depth_mup": True,
        "plain": False,
        "fault": False,
    }
    assert update == pytest.approx({"depth_mup": 0.0, "plain": 1.0, "fault": 0.5}, abs=0.25)


def test_the_depth_check_refuses_a_model_without_a_stream() -> None:
    with pytest.raises(BadStudy, match=r"residual stream.*'mlp'"):
        coordcheck.depth_check(replace(STUDY, seeds=2), (2, 4), schemes={"mup": mup(BASE)})
