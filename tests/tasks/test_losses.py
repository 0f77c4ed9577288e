"""What a loss of the caller's sees, what outputs of 0 cost, and functions that are no loss."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxinit
from jaxinit import task
from jaxinit.engine.resolve import resolve
from jaxinit.study import BadStudy, Study
from jaxinit.tasks.losses import names_seen

RNG = np.random.default_rng(0)
N = 50
X = RNG.normal(size=(N, 4)).astype(np.float32)
Y = RNG.normal(size=N).astype(np.float32)


def squared(outputs: Any, y: Any) -> Any:
    return jnp.mean((outputs[:, 0] - y) ** 2)


def of_the_first(outputs: Any, y: Any) -> Any:
    return squared(outputs, y[:, 0])


def penalized(outputs: Any, y: Any, *, params: Any, strength: float = 0.1) -> Any:
    return squared(outputs, y) + strength * sum(jnp.sum(w**2) for w in params.values())


def test_a_loss_sees_what_it_names() -> None:
    def everything(outputs: Any, y: Any, x: Any, *, key: Any, apply: Any, params: Any) -> Any:
        return 0.0

    assert names_seen(squared) == ()
    assert names_seen(penalized) == ("params",)
    assert names_seen(everything) == ("x", "key", "apply", "params")
    assert names_seen(partial(everything, x=X)) == ("key", "apply", "params")
    assert names_seen(jax.jit(penalized)) == ("params",)
    assert names_seen(lambda outputs, y, **unused: 0.0) == ()


def test_chance_is_what_outputs_of_0_cost_and_parameters_of_0_where_they_are_seen() -> None:
    made = task(X, Y, loss=penalized, target=0.1)
    assert np.isnan(made.chance), "no model is known"
    study = Study(model="mlp", hidden=4, batch=10, task=made)
    resolved = resolve(study)
    plain = task(X, Y, loss=squared, target=0.1)
    assert resolved.task.chance == pytest.approx(plain.chance)
    assert plain.chance == pytest.approx(float(np.mean(plain.data["valid_y"] ** 2)), rel=1e-5)
    assert resolve(study).task.chance == resolved.task.chance


def test_without_y_the_inputs_are_learnt() -> None:
    made = task(X)
    assert made.out_features == 4
    np.testing.assert_array_equal(made.data["train_y"], made.data["train_x"][:, 0])
    sizes = RNG.normal(size=(N, 3, 2, 1))
    pictures = task(sizes, loss=of_the_first, target=0.1, out_features=5)
    assert (pictures.length, pictures.out_features) == (3, 5)
    assert pictures.data["valid_y"].shape == (10, 6)
    assert task(X, valid=(X[:9], None)).data["valid_y"].shape == (9, 4)
    with pytest.raises(ValueError, match="given both, or neither"):
        task(X, valid=(X, Y))


def failing(outputs: Any, y: Any) -> Any:
    return jnp.mean(outputs @ y)  # [n, 1] times [n]


def unnormalized(outputs: Any, y: Any) -> Any:
    return jnp.mean(outputs / jnp.linalg.norm(outputs)) + squared(outputs, y)


def on_the_host(outputs: Any, y: Any) -> Any:
    return float(np.mean(np.asarray(outputs)))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (failing, r"failed on outputs of 0 \[10, 1\] and y \[10\]: .*\(test_losses.py, line \d+\)"),
        (lambda o, y: (o[:, 0] - y) ** 2, r"one real number, got float32 \[10\].*take the mean"),
        (lambda o, y: None, "one real number, got NoneType"),
        (lambda o, y: jnp.sum(o > 0), r"one real number, got int32 \[\]"),
        (unnormalized, r"the loss is nan on outputs of 0 \[10, 1\].*must be finite"),
        (lambda o, y: squared(o, y) - 99, "the loss is -9.* must be above 0 there.*add a constant"),
        (on_the_host, r"failed on .* TracerArrayConversionError: .*\(test_losses.py, line \d+\)"),
        (lambda o, y: jnp.mean((o - y) ** 2), r"makes \[10, 10\] .*take outputs\[:, 0\]"),
        (lambda o, y, parms: 0.0, "wants 'parms', which there is not: .* params, key, x, apply"),
        (lambda o: 0.0, r"a function of \(outputs, y\), got \(o\)"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(loss: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        task(X, Y, loss=loss, target=0.1)
    assert "\n" not in str(caught.value)


def test_a_loss_that_the_model_does_not_fit_is_refused_in_one_line() -> None:
    def absent(outputs: Any, y: Any, *, params: Any) -> Any:
        return jnp.mean(params["decoder.kernel"]) + squared(outputs, y)

    def three(inputs: int, units: int, outputs: int, *, rngs: Any, **unused: Any) -> Any:
        return jaxinit.declare(_Flat(inputs, 3, rngs=rngs), n_layers=1, width=units)

    for loss, model, message in (
        (absent, "mlp", r"failed on outputs of 0 .*KeyError: 'decoder.kernel' \(test_losses.py"),
        (squared_of_two, three, r"failed on the model's outputs \(10, 3\) and y \(10,\)"),
        (None, three, r"gives outputs \(10, 3\) and task 'own' wants \(10, 1\)"),
    ):
        options = {} if loss is None else {"loss": loss, "target": 0.1}
        with pytest.raises(BadStudy, match=message) as caught:
            resolve(Study(model=model, hidden=4, batch=10, task=task(X, Y, **options)))
        assert "\n" not in str(caught.value)


def squared_of_two(outputs: Any, y: Any) -> Any:
    return jnp.mean((outputs.reshape(y.shape) - y) ** 2)


class _Flat(nnx.Module):
    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.readout = nnx.Linear(inputs, outputs, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.readout(x[:, 0])


class Both(nnx.Module):
    """Two kinds of inputs: a vector and a class."""

    def __init__(self, inputs: int, units: int, outputs: int, *, rngs: nnx.Rngs):
        self.table = nnx.Embed(3, units, rngs=rngs)
        self.layer = nnx.Linear(inputs, units, rngs=rngs)
        self.readout = nnx.Linear(units, outputs, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.readout(jnp.tanh(self.layer(x["a"]) + self.table(x["kind"])))


def both(inputs: int, units: int, outputs: int, *, layers: int, rngs: Any, **unused: Any) -> Any:
    model = Both(inputs, units, outputs, rngs=rngs)
    return jaxinit.declare(model, n_layers=layers, width=units)


SEVERAL = {"kind": RNG.integers(0, 3, N), "a": X}


def test_several_inputs_are_given_to_a_model_of_the_callers_as_they_are() -> None:
    made = task(SEVERAL, Y)
    assert (made.in_features, made.length, made.out_features) == (4, 1, 1)
    drawn = made.of_seed(made.data, jax.random.key(1))
    assert drawn["valid_x"]["kind"].shape == (10,)
    # An example stays whole: each row of a with the kind and the y that it had.
    for part in ("train", "valid"):
        vectors = np.asarray(drawn[f"{part}_x"]["a"])
        rows = [int(np.flatnonzero((row == X).all(1))[0]) for row in vectors]
        np.testing.assert_array_equal(drawn[f"{part}_x"]["kind"], SEVERAL["kind"][rows])
        np.testing.assert_array_equal(drawn[f"{part}_y"][:, 0], Y[rows])
    resolved = resolve(Study(model=both, hidden=4, batch=10, task=made))
    assert task(SEVERAL | {"a": X + 1}, Y).fingerprint() != made.fingerprint()
    with pytest.raises(BadStudy, match="signals are for a task whose x is one array"):
        resolved.loss_of_outputs(made.data["valid_x"])


def test_several_inputs_are_refused_where_one_is_taken() -> None:
    for x, message in (
        ({"a": X, "b": X[:-1]}, r"x\['b'\] has 49 examples and y 50"),
        ({"a": X * np.nan}, r"x\['a'\] has 200 values of 200 that are not finite"),
        ({}, "x is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            task(x, Y)
    with pytest.raises(ValueError, match="without y there is one input"):
        task((X, X))
    with pytest.raises(BadStudy, match=r"is 2 arrays, and model 'mlp' takes one"):
        resolve(Study(model="mlp", batch=10, task=task((X, X), Y)))


def test_signals_do_not_come_back_from_a_loss_that_sees_parameters() -> None:
    resolved = resolve(
        Study(model="mlp", hidden=4, batch=10, task=task(X, Y, loss=penalized, target=0.1))
    )
    with pytest.raises(BadStudy, match="the loss of task 'own' sees params beside them"):
        resolved.loss_of_outputs(X)
