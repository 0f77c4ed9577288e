"""What only shows when a model runs on a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audited import Layered
from flax import linen, nnx

from jaxinit.auditing import audit
from jaxinit.study import BadStudy

DRAWS = np.random.default_rng(0)
X = DRAWS.normal(size=(64, 8)).astype(np.float32)
Y = DRAWS.integers(0, 10, 64)


def found(model: Any, **options: Any) -> dict[str, str]:
    """The evidence of every finding, by what it is."""
    report = audit(model, batch=(X, Y), **options)
    return {finding.what: finding.evidence for finding in report.findings}


def classifier(*between: Any, scale: float = 1.0) -> Layered:
    init = nnx.initializers.variance_scaling(scale**2, "fan_in", "normal")
    return Layered(
        nnx.Linear(8, 32, rngs=nnx.Rngs(0)),
        *between,
        nnx.Linear(32, 10, kernel_init=init, rngs=nnx.Rngs(1)),
    )


def test_the_loss_at_the_start_against_chance() -> None:
    assert "guessing has ln 10 = 2.3" in found(classifier())["loss at the start"]
    loud = found(classifier(scale=30.0))
    assert "10 classes have ln 10 = 2.3" in loud["the loss at the start is above chance"]


def test_a_module_in_training_mode_mixes_examples() -> None:
    """The same examples alone and among others: batch normalization by the batch at hand."""
    model = classifier(nnx.BatchNorm(32, rngs=nnx.Rngs(2)))
    assert "apart" in found(model)["examples depend on each other"]
    model.eval()
    assert "examples depend on each other" not in found(model)


def test_a_sum_over_the_batch_is_serious() -> None:
    model = classifier(lambda x: x - x.mean(0, keepdims=True))
    report = audit(model, batch=(X, Y))
    assert [f.what for f in report.serious] == ["examples depend on each other"]


def test_parameters_that_no_gradient_reaches() -> None:
    model = classifier()
    model.unused = nnx.Linear(4, 4, rngs=nnx.Rngs(2))
    report = audit(model, batch=(X, Y))
    names = [f.parameter for f in report.findings if f.what == "no gradient reaches it"]
    assert names == ["unused.bias", "unused.kernel"]


def test_a_gate_at_zero_hides_nothing() -> None:
    """Its branch has no gradient at the first step, and has one after it."""

    class Gated(nnx.Module):
        def __init__(self):
            self.inner = nnx.Linear(32, 32, rngs=nnx.Rngs(2))
            self.gate = nnx.Param(jnp.zeros(()))

        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.gate[...] * self.inner(x)

    assert "no gradient reaches it" not in found(
        classifier(Gated()), dims={"*.gate": ""}, roles={"*.gate": "residual_gate"}
    )


@pytest.mark.slow
def test_signals_through_depth() -> None:
    small = nnx.initializers.normal(0.01)
    layers = [
        nnx.Linear(32, 32, kernel_init=small, use_bias=False, rngs=nnx.Rngs(k)) for k in range(6)
    ]
    assert "signals: vanishing" in found(classifier(*layers))
    assert "signals: vanishing" not in found(classifier())


def test_the_model_is_not_changed() -> None:
    model = classifier(nnx.BatchNorm(32, rngs=nnx.Rngs(2)), nnx.Dropout(0.5, rngs=nnx.Rngs(3)))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    found(model)
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_linen_modules_are_built_for_the_batch() -> None:
    report = audit(linen.Dense(10), batch=(X, Y))
    assert not report.serious
    with pytest.raises(BadStudy, match="has no parameters before it sees inputs"):
        audit(linen.Dense(10))


@pytest.mark.parametrize(
    ("batch", "loss", "message"),
    [
        ((X[:, :5], Y), None, "Layered failed on a batch"),
        ((X, Y[:7]), None, "the loss failed on outputs"),
        ((X, Y), "hinge", "loss is 'cross_entropy', 'squared_error' or a function"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch: Any, loss: Any, message: str) -> None:
    with pytest.raises(BadStudy, match=message) as caught:
        audit(classifier(), batch=batch, loss=loss)
    assert "\n" not in str(caught.value)


def test_a_batch_for_a_tree_of_arrays_is_refused() -> None:
    with pytest.raises(BadStudy, match="a batch needs a model that can be called, got dict"):
        audit({"kernel": jnp.ones((3, 3))}, batch=(X, Y))
