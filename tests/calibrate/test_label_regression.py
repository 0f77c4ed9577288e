"""SCBI gives the readout that ridge regressions on subsets average to, in closed form."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibration_problems import DIGITS, shallow
from cases import quick
from jaxtyping import Array

from jaxinit.calibrate import Calibrated, Problem, scbi
from jaxinit.calibrate.label_regression import RIDGES, SCALES, random_rows
from jaxinit.engine import initial, resolve
from jaxinit.spec import Leaf
from jaxinit.study import Study
from jaxinit.tasks.base import cross_entropy, squared_error

COUNT, BATCH, UNITS, CLASSES = 4, 32, 6, 3
ROWS = COUNT * BATCH
LEAVES = (
    Leaf("kernel", (UNITS, CLASSES), "io", "readout"),
    Leaf("bias", (CLASSES,), "o", "bias", partner="readout"),
)
X = 1.5 + jax.random.normal(jax.random.key(0), (COUNT, BATCH, UNITS))
RULE = jax.random.normal(jax.random.key(1), (UNITS, CLASSES))
NOISE = jax.random.normal(jax.random.key(2), (COUNT, BATCH, CLASSES))
NUMBERS = X @ RULE + 0.3 * NOISE - 2
LABELS = jnp.argmax(NUMBERS + 3 * NOISE, -1)
PARAMS = {"kernel": jnp.ones((UNITS, CLASSES)), "bias": jnp.zeros(CLASSES)}


def linear(p: dict[str, Array], x: Array) -> Array:
    return x @ p["kernel"] + jnp.broadcast_to(p["bias"], (*x.shape[:-1], CLASSES))


def calibrated(y: Array, apply: Callable = linear, **options) -> Calibrated:
    loss = squared_error if y.dtype == jnp.float32 else cross_entropy
    problem = Problem(LEAVES, apply, loss)
    return jax.jit(lambda p: scbi(problem, p, (X, y), **options))(PARAMS)


def exact(array: Array) -> np.ndarray:
    return np.asarray(array, np.float64)


def closed_form(h: np.ndarray, t: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """The kernel and the bias as least squares with sqrt(ridge) I below the centred data."""
    centred = np.concatenate([h - h.mean(0), np.sqrt(ridge) * np.eye(h.shape[1])])
    targets = np.concatenate([t - t.mean(0), np.zeros((h.shape[1], t.shape[1]))])
    kernel = np.linalg.lstsq(centred, targets, rcond=None)[0]
    return kernel, t.mean(0) - h.mean(0) @ kernel


def targets_of(y: Array, scale: float) -> np.ndarray:
    if y.dtype == jnp.float32:
        return exact(y).reshape(ROWS, CLASSES)
    signs = 2 * np.eye(CLASSES)[np.asarray(y).reshape(-1)] - 1
    return scale * signs


def loss_of(outputs: np.ndarray, y: Array, rows: np.ndarray) -> float:
    if y.dtype == jnp.float32:
        return float(np.mean((outputs - targets_of(y, 1.0)[rows]) ** 2))
    log_sum = np.log(np.exp(outputs).sum(1))
    mine = outputs[np.arange(len(rows)), np.asarray(y).reshape(-1)[rows]]
    return float(np.mean(log_sum - mine))


@pytest.mark.parametrize("y", [NUMBERS, LABELS], ids=["numbers", "classes"])
@pytest.mark.parametrize(
    ("subsets", "share"), quick((1, 1.0), (10, 0.5), of=[(1, 1.0), (1, 0.5), (10, 0.5)])
)
def test_the_readout_is_the_mean_of_ridge_regressions(y: Array, subsets: int, share: float) -> None:
    done = calibrated(y, subsets=subsets, share=share)
    h = exact(X).reshape(ROWS, UNITS)
    t = targets_of(y, float(done.report.get("scale", 1.0)))
    chosen = np.asarray(random_rows(ROWS, subsets))[:, : int(share * ROWS)]
    solved = [closed_form(h[rows], t[rows], float(done.report["ridge"])) for rows in chosen]
    kernel, bias = (np.mean(parts, 0) for parts in zip(*solved, strict=True))
    np.testing.assert_allclose(done.params["kernel"], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(done.params["bias"], bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("y", [NUMBERS, LABELS], ids=["numbers", "classes"])
def test_ridge_and_scale_are_those_of_the_smallest_loss_on_five_folds(y: Array) -> None:
    done = calibrated(y)
    h = exact(X).reshape(ROWS, UNITS)
    order = np.asarray(random_rows(ROWS, 1))[0]
    size = ROWS // 5
    losses = {}
    for scale in SCALES if y is LABELS else (1.0,):
        for ridge in RIDGES:
            left_out = [0.0] * 5
            for k in range(5):
                out = order[k * size : (k + 1) * size if k < 4 else ROWS]
                rest = np.setdiff1d(order, out)
                kernel, bias = closed_form(h[rest], targets_of(y, scale)[rest], ridge)
                left_out[k] = loss_of(h[out] @ kernel + bias, y, out)
            losses[ridge, scale] = np.mean(left_out)
    ridge, scale = min(losses, key=lambda pair: losses[pair])
    assert done.report["ridge"] == pytest.approx(ridge)
    assert done.report.get("scale", 1.0) == pytest.approx(scale)


def test_rows_of_a_subset_are_no_others_and_subsets_differ() -> None:
    orders = np.asarray(random_rows(1000, 50))
    np.testing.assert_array_equal(np.sort(orders, 1), np.broadcast_to(np.arange(1000), (50, 1000)))
    in_subset = np.zeros((50, 1000))
    np.put_along_axis(in_subset, orders[:, :500], 1, 1)
    # Of two random halves a row is in both with probability 1/4: hypergeometric, sd 7.9 of 250.
    shared = (in_subset @ in_subset.T)[np.triu_indices(50, 1)]
    assert shared.mean() == pytest.approx(250, abs=4 * 7.9 / np.sqrt(len(shared)))


@pytest.mark.parametrize("kind", ["mlp", pytest.param("transformer", marks=pytest.mark.slow)])
def test_the_loss_falls_on_other_examples_too_and_nothing_but_the_readout_moves(kind: str) -> None:
    problem, params, data = shallow(1.0, "sgd", kind)
    done = jax.jit(lambda p: scbi(problem, p, data))(params)
    assert {name for name in params if (done.params[name] != params[name]).any()} == {
        "readout.kernel",
        "readout.bias",
    }
    used = np.unique(np.asarray(jax.random.permutation(jax.random.key(3), 1280)[:512]))
    others = np.setdiff1d(np.arange(1280), used)
    batch = DIGITS.data["train_x"][others], DIGITS.data["train_y"][others]
    before, after = (float(problem.loss_of(p, batch)) for p in (params, done.params))
    assert after < 0.6 * before
    assert done.report["loss_after"] < 0.6 * done.report["loss_before"]


def test_a_multiplier_and_a_normalization_over_the_batch_are_seen() -> None:
    """The readout multiplies h as the forward pass of a batch has it."""

    def doubled(p: dict[str, Array], x: Array) -> Array:
        return linear(p | {"kernel": 2 * p["kernel"]}, x)

    def normalized(p: dict[str, Array], x: Array) -> Array:
        return linear(p, standard(x, 0))

    def standard(x: Array, axis: int) -> Array:
        return (x - x.mean(axis, keepdims=True)) / x.std(axis, keepdims=True)

    for apply, h in ((doubled, 2 * X), (normalized, standard(X, 1))):
        done = calibrated(NUMBERS, apply, subsets=1, share=1.0)
        seen = exact(h).reshape(ROWS, UNITS)
        kernel, _ = closed_form(seen, targets_of(NUMBERS, 1.0), float(done.report["ridge"]))
        np.testing.assert_allclose(done.params["kernel"], kernel, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_what_no_regression_gives_is_refused() -> None:
    batches = (X, LABELS)

    def squashed(p: dict[str, Array], x: Array) -> Array:
        return jnp.tanh(linear(p, x))

    def scaled_bias(p: dict[str, Array], x: Array) -> Array:
        return linear(p | {"bias": 3 * p["bias"]}, x)

    for apply in (squashed, scaled_bias):
        with pytest.raises(
            ValueError, match="scbi: the outputs are not what 'kernel' and its bias"
        ):
            scbi(Problem(LEAVES, apply, cross_entropy), PARAMS, batches)
    problem = Problem(LEAVES, linear, cross_entropy)
    hidden = (replace(LEAVES[0], role="hidden"), LEAVES[1])
    with pytest.raises(ValueError, match="what one matrix of the role readout multiplies, got 0"):
        scbi(problem._replace(leaves=hidden), PARAMS, batches)
    with pytest.raises(ValueError, match=r"got y \[4, 32, 2\] of int32 for outputs \[4, 32, 3\]"):
        scbi(problem, PARAMS, (X, jnp.zeros((COUNT, BATCH, 2), jnp.int32)))
    with pytest.raises(ValueError, match=r"5 folds of cross-validation .* got 4 labels"):
        scbi(problem, PARAMS, (X[:1, :4], LABELS[:1, :4]))
    with pytest.raises(ValueError, match="share must be above 0 and at most 1, got 2"):
        scbi(problem, PARAMS, batches, share=2.0)
    with pytest.raises(ValueError, match="scbi: loss_before is not finite"):
        scbi(problem, PARAMS, (X.at[0, 0, 0].set(jnp.inf), LABELS))


def test_a_study_calibrates_by_it() -> None:
    names = ("glorot_uniform", "glorot_uniform+scbi")
    study = Study(
        model="mlp",
        hidden=16,
        layers=1,
        schemes=names,
        baseline=names[0],
        lrs=(0.1,),
        batch=64,
        seeds=2,
        tune_seeds=1,
    )
    resolved = resolve.resolve(study)
    drawn = initial.draw_parameters(resolved)
    starts, reports = initial.calibrate_parameters(resolved, drawn)
    assert reports[names[1]]["loss_after"]["high"] < 0.5 * reports[names[1]]["loss_before"]["low"]
    np.testing.assert_array_equal(
        starts[names[1]]["layers.0.kernel"], starts[names[0]]["layers.0.kernel"]
    )
    by_seed = starts[names[1]]["readout.kernel"]
    assert (by_seed[0] != by_seed[1]).all()
