"""Initialization from a trained model, and the report on it."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import finetune
from jaxinit.initializers import lecun, zeros
from jaxinit.introspect import Functional, functional
from jaxinit.models import LSTM
from jaxinit.schemes import by_role, xavier_rnn
from jaxinit.spec import Override, draw, rules
from jaxinit.study import RATES, BadStudy, Study

X = jax.random.normal(jax.random.key(0), (5, 3))


def test_an_initialization_by_trained_values_is_a_scheme() -> None:

    def make(outputs: int) -> Functional:
        return functional(lambda: LSTM(3, 8, outputs, rngs=nnx.Rngs(0)))

    old, new = make(2), make(5)
    values = draw(xavier_rnn, jax.random.key(0), old.leaves)
    body = {name: value for name, value in values.items() if not name.startswith("readout")}
    for_new = by_role({"readout": lecun("normal"), "bias": zeros})
    scheme = finetune.pretrained(body, for_new, frozen=True)
    drawn = draw(scheme, jax.random.key(1), new.leaves)
    for name, value in body.items():  # gates are copies: the layout must survive
        np.testing.assert_array_equal(drawn[name], value)
    assert drawn["readout.kernel"].shape == (8, 5)
    by_name = rules(scheme, new.leaves)
    assert {by_name[name].lr_scale for name in body} == {0.0}
    assert by_name["readout.kernel"].lr_scale == 1.0
    with pytest.raises(ValueError, match=r"'readout.bias' has shape \(2,\), the parameter \(5,\)"):
        draw(finetune.pretrained(values, xavier_rnn), jax.random.key(1), new.leaves)
    with pytest.raises(ValueError, match="match no parameter"):
        draw(finetune.pretrained({"x": jnp.zeros(1)}, xavier_rnn), jax.random.key(1), new.leaves)
    # of the scheme for what is new
    misnamed = finetune.pretrained(body, Override(xavier_rnn, {"head": zeros}))
    with pytest.raises(ValueError, match=r"\['head'\] match no parameter"):
        draw(misnamed, jax.random.key(1), new.leaves)


def test_pretraining_and_the_report() -> None:
    study = Study(
        model="mlp",
        layers=1,
        hidden=16,
        schemes=("xavier_rnn",),
        baseline="xavier_rnn",
        lrs=(0.3,),
        epochs=3,
    )
    trained = finetune.pretrain(study, progress=False)
    assert trained.metric > 0.6
    model = trained.resolved.model
    task = trained.resolved.task
    x = task.data["valid_x"][:50]
    y = task.data["valid_y"][:50]
    before = model.apply(trained.values, x)

    def report_on(pattern: str) -> finetune.StepZero:
        return finetune.step_zero(
            before, model.apply, trained.values, (x, y), task.loss, (pattern,)
        )

    report = report_on("readout.*")
    assert report.shift < 1e-6  # rounding, between a program that is compiled and one that is not
    assert abs(report.kl) < 1e-7
    assert set(report.gradient) == {"readout.kernel", "readout.bias"}
    assert "gradient norms: readout.bias" in str(report)
    with pytest.raises(BadStudy, match="forward pass"):
        finetune.pretrain(
            replace(study, model="transformer", hidden=128, schemes=("mup",)), progress=False
        )
    with pytest.raises(ValueError, match="matches no parameter"):
        report_on("z")


@pytest.mark.parametrize("search", [None, "ladder"])
def test_a_study_without_rates_pretrains_at_the_first_usual_one(search: str | None) -> None:
    study = Study(model="mlp", hidden=8, schemes=("xavier_rnn",), baseline="xavier_rnn", epochs=1)
    trained = finetune.pretrain(replace(study, search=search, seeds=2), progress=False)
    assert trained.resolved.study.lrs[0] == RATES["sgd"][0]
    other = finetune.pretrain(replace(study, search=search, seeds=2, first_seed=1), progress=False)
    assert not np.array_equal(other.values["readout.kernel"], trained.values["readout.kernel"])


def test_the_report_on_a_model_in_bfloat16() -> None:
    before = jax.random.normal(jax.random.key(0), (4, 300)).astype(jnp.bfloat16)
    report = finetune.step_zero(
        before, lambda p, x: before + p["new"], {"new": jnp.zeros((4, 300), jnp.bfloat16)},
        (X, jnp.zeros(4, jnp.int32)), lambda y, labels: jnp.mean(y.astype(jnp.float32)), ("new",),
    )  # fmt: skip
    assert report.shift == 0
    assert report.kl == 0
    assert report.gradient["new"] == pytest.approx(1 / math.sqrt(1200), rel=2**-7)
