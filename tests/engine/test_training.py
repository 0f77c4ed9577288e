"""The training program of one trial, against loops written out by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxinit.analysis.outcome import Outcome
from jaxinit.engine.training import (
    OPTIMIZERS,
    Program,
    Scales,
    Trial,
    nearest_divisor,
)
from jaxinit.initializers import zeros
from jaxinit.introspect import Functional, Training, functional
from jaxinit.models import MLP, RNN
from jaxinit.models.common import dropped
from jaxinit.schemes import SCHEMES
from jaxinit.spec import Rule, draw, named_key
from jaxinit.tasks import TASKS

TASK = TASKS["digits_rows"]()
MODEL = functional(lambda: RNN(8, 16, 10, rngs=nnx.Rngs(0)))
PARAMS = draw(SCHEMES["orthogonal"], jax.random.key(0), MODEL.leaves)


def trial(**settings) -> Trial:
    given = {
        "seed": 3,
        "lr": 0.1,
        "clip": np.inf,
        "clip_value": np.inf,
        "l2": 0.0,
        "weight_decay": 0.0,
    } | settings
    given = {"target": 0.99, "budget": 1000} | given
    kinds = {"seed": jnp.int32, "budget": jnp.int32}
    return Trial(
        **{k: v if k == "scales" else kinds.get(k, jnp.float32)(v) for k, v in given.items()}
    )


def program(
    optimizer: str = "sgd", batch: int = 64, evaluations: int = 4, epochs: int = 2
) -> Program:
    return Program(
        MODEL, TASK, OPTIMIZERS[optimizer], batch=batch, evaluations=evaluations, epochs=epochs
    )


def test_validating_in_blocks_gives_what_validating_at_once_gives() -> None:
    whole = advance(program(evaluations=2, epochs=1), trial())[1]
    # a block that is filled up, one that holds all, one that nearly does
    for at_once in (64, 517, 500):
        made = Program(
            MODEL, TASK, OPTIMIZERS["sgd"], batch=64, evaluations=2, epochs=1, at_once=at_once
        )
        blocks = advance(made, trial())[1]
        np.testing.assert_allclose(blocks.valid_loss, whole.valid_loss, rtol=1e-4)
        np.testing.assert_allclose(blocks.metric, whole.metric, atol=1.01 / 517)


def data_of(seed):
    """What a seed trains and validates on."""
    return TASK.of_seed(TASK.data, named_key(jax.random.key(seed), "split"))


def advance(made: Program, settings: Trial, params=PARAMS):
    return jax.jit(made.advance)(TASK.data, made.initial_state(params, settings), settings)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", optax.sgd(0.1)),
        pytest.param("momentum", optax.sgd(0.1, momentum=0.9), marks=pytest.mark.slow),
        ("adam", optax.adam(0.1)),
    ],
)
def test_optimizers_are_optax_written_with_a_traced_rate(
    name: str, reference: optax.GradientTransformation
) -> None:
    made = program(name, evaluations=5)
    state, records = advance(made, trial(lr=0.1))
    params, opt, losses = PARAMS, reference.init(PARAMS), []
    data = data_of(3)
    loss_of = jax.jit(jax.value_and_grad(lambda p, x, y: TASK.loss(MODEL.apply(p, x), y)))
    for epoch in range(2):
        key = jax.random.fold_in(named_key(jax.random.key(jnp.int32(3)), "data order"), epoch)
        for ticket in TASK.tickets(data, key, 20, 64):
            loss, grads = loss_of(params, *TASK.batch(data, ticket))
            with jax.numpy_dtype_promotion("standard"):
                updates, opt = reference.update(grads, opt, params)
            params = optax.apply_updates(params, updates)
            losses.append(float(loss))
    expected = np.asarray(losses).reshape(10, 4).mean(1)
    # rounding grows over 40 steps, and Adam divides by small numbers
    tolerance = 1e-4 if name == "sgd" else 2e-2
    np.testing.assert_allclose(records.train_loss[:5], expected[:5], rtol=tolerance)
    if name == "sgd":
        for leaf, value in params.items():
            np.testing.assert_allclose(state.params[leaf], value, atol=1e-4)
        valid = float(TASK.metric(MODEL.apply(params, data["valid_x"]), data["valid_y"]))
        assert float(records.metric[-1]) == pytest.approx(valid, abs=2 / 517)


def epoch_means(metric: np.ndarray, width: int) -> np.ndarray:
    """The mean of the last `width` metrics at each evaluation, NaN before there are so many."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(metric, np.float64), width)
    return np.concatenate([np.full(width - 1, np.nan), windows.mean(1)])


def test_converged_where_the_last_epoch_reaches_the_target_on_average_and_then_at_rest() -> None:
    made = program(epochs=4)
    _, full = advance(made, trial())
    means = epoch_means(full.metric, 4)
    target = (means[8] + means[9]) / 2
    count = int(np.argmax(means >= target)) + 1
    assert np.argmax(np.asarray(full.metric) >= target) + 1 < count, "or the mean makes no odds"
    state, records = advance(made, trial(target=target))
    assert Outcome(int(state.outcome)) is Outcome.CONVERGED
    assert int(state.evaluations) == count
    np.testing.assert_array_equal(records.metric[:count], full.metric[:count])
    np.testing.assert_array_equal(state.recent, full.metric[count - 4 : count])
    for trace in records:
        assert np.isnan(trace[count:]).all()
    again, nothing = jax.jit(made.advance)(TASK.data, state, trial(target=target))
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(before, after)
    assert np.isnan(nothing.metric).all()


def test_nobody_converges_before_an_epoch_has_passed() -> None:
    state, _ = advance(program(), trial(target=0.0))
    assert Outcome(int(state.outcome)) is Outcome.CONVERGED
    assert int(state.evaluations) == 4
    state, _ = advance(program(), trial(target=0.0, budget=3))
    assert Outcome(int(state.outcome)) is Outcome.CENSORED


def test_censored_when_the_budget_ends_first() -> None:
    state, records = advance(program(), trial(target=1.0, budget=5))
    assert Outcome(int(state.outcome)) is Outcome.CENSORED
    assert int(state.evaluations) == 5
    assert np.isnan(records.metric[5:]).all()


def test_diverged_when_the_loss_is_ten_times_its_start_or_not_finite() -> None:
    state, records = advance(program(), trial(lr=3000.0))
    assert Outcome(int(state.outcome)) is Outcome.DIVERGED
    last = int(state.evaluations) - 1
    first_loss = float(state.first_loss)
    assert not records.train_loss[last] <= 10 * first_loss
    assert (np.asarray(records.train_loss[:last]) <= 10 * first_loss).all()
    poisoned = {**PARAMS, "readout.bias": jnp.full(10, jnp.nan)}
    state, _ = advance(program(), trial(), poisoned)
    assert Outcome(int(state.outcome)) is Outcome.DIVERGED
    assert int(state.evaluations) == 1


def test_a_lower_metric_is_better_where_the_task_says_so() -> None:
    task = TASKS["adding"](4)
    model = functional(lambda: RNN(2, 16, 1, rngs=nnx.Rngs(0)))
    made = Program(model, task, OPTIMIZERS["adam"], batch=64, evaluations=4, epochs=4)
    params = draw(SCHEMES["orthogonal"], jax.random.key(0), model.leaves)
    settings = trial(lr=0.01, target=0.1)
    state, records = jax.jit(made.advance)(
        task.data, made.initial_state(params, settings), settings
    )
    assert Outcome(int(state.outcome)) is Outcome.CONVERGED
    means = epoch_means(records.metric, 4)[: int(state.evaluations)]
    assert means[-1] <= 0.1
    assert (means[3:-1] > 0.1).all()


def test_chunks_join_without_a_seam() -> None:
    _, whole = advance(program(epochs=2), trial())
    made = program(epochs=1)
    state, first = advance(made, trial())
    _, second = jax.jit(made.advance)(TASK.data, state, trial())
    for a, b, c in zip(first, second, whole, strict=True):
        np.testing.assert_allclose(np.concatenate([a, b]), c, rtol=1e-5)


def test_clipping_bounds_the_step_and_decay_shrinks_the_weights() -> None:
    made = Program(MODEL, TASK, OPTIMIZERS["sgd"], batch=1280, evaluations=1, epochs=1)
    free, _ = advance(made, trial())
    step = lambda state: {n: state.params[n] - PARAMS[n] for n in PARAMS}
    norm = float(optax.tree.norm(step(free)))
    clipped, records = advance(made, trial(clip=1e-3))
    # recorded before clipping
    assert float(records.grad_norm[0]) == pytest.approx(norm / 0.1, rel=1e-3)
    assert float(optax.tree.norm(step(clipped))) == pytest.approx(1e-4, rel=2e-3)
    decayed, _ = advance(made, trial(weight_decay=0.5))
    for name, value in PARAMS.items():
        np.testing.assert_allclose(
            decayed.params[name], free.params[name] - 0.1 * 0.5 * value, atol=1e-6
        )


def test_scales_multiply_the_weight_the_rate_and_the_decay() -> None:
    plain = {leaf.name: Rule(zeros) for leaf in MODEL.leaves}
    made = Program(MODEL, TASK, OPTIMIZERS["sgd"], batch=1280, evaluations=1, epochs=1)
    free, _ = advance(made, trial())
    same, _ = advance(made, trial(scales=Scales.of(plain)))
    for name in PARAMS:
        np.testing.assert_allclose(same.params[name], free.params[name], atol=1e-7)
    # Half the parameter under twice the multiplier is the same function, and its gradient is twice
    # as large.
    name = "readout.kernel"
    doubled = Scales.of({**plain, name: Rule(zeros, multiplier=2.0, lr_scale=0.25)})
    moved, records = advance(made, trial(scales=doubled), {**PARAMS, name: PARAMS[name] / 2})
    np.testing.assert_allclose(2 * moved.params[name], free.params[name], atol=1e-6)
    assert float(records.valid_loss[0]) == pytest.approx(
        float(advance(made, trial())[1].valid_loss[0]), rel=1e-4
    )


@pytest.mark.parametrize(
    ("n", "wanted", "got"),
    [(40, 8, 8), (40, 7, 8), (40, 6, 5), (41, 8, 1), (12, 100, 12), (1, 8, 1)],
)
def test_nearest_divisor(n: int, wanted: int, got: int) -> None:
    assert nearest_divisor(n, wanted) == got


def test_a_batch_that_the_training_set_does_not_hold_is_refused() -> None:
    for batch in (0, 1281):
        with pytest.raises(ValueError, match=f"batch must be 1 to 1280.*got {batch}"):
            program(batch=batch)


def one_step(model: Functional = MODEL, params=PARAMS, **settings):
    """The state after a single step on the whole training set, and that batch."""
    made = Program(model, TASK, OPTIMIZERS["sgd"], batch=1280, evaluations=1, epochs=1)
    given = trial(**settings)
    order = jax.random.fold_in(named_key(jax.random.key(given.seed), "data order"), 0)
    data = data_of(given.seed)
    batch = TASK.batch(data, TASK.tickets(data, order, 1, 1280)[0])
    return jax.jit(made.advance)(TASK.data, made.initial_state(params, given), given)[0], batch


def test_l2_adds_half_its_squares_to_the_loss_and_decay_does_not_pass_the_clip() -> None:
    penalized = lambda p, x, y: (
        TASK.loss(MODEL.apply(p, x), y) + 0.05 * sum(jnp.sum(w**2) for w in p.values())
    )
    state, batch = one_step(l2=0.1)
    slopes = jax.grad(penalized)(PARAMS, *batch)
    for name, w in PARAMS.items():
        np.testing.assert_allclose(state.params[name], w - 0.1 * slopes[name], atol=1e-6)
    state, _ = one_step(l2=0.1, clip=1e-3)
    moved = np.sqrt(sum(np.sum(np.square(state.params[name] - w)) for name, w in PARAMS.items()))
    assert moved == pytest.approx(1e-4, rel=1e-3)


def test_a_rate_that_an_optimizer_keeps_in_its_state_is_that_of_the_trial() -> None:
    kept = replace(program(), optimizer=optax.inject_hyperparams(optax.sgd))
    for settings in (trial(lr=0.1), trial(lr=0.02)):
        ours, theirs = advance(program(), settings)[1], advance(kept, settings)[1]
        np.testing.assert_allclose(theirs.train_loss, ours.train_loss, rtol=1e-5)


@pytest.mark.slow
def test_schedules_of_a_traced_rate_and_decay_of_the_optimizers_own() -> None:
    decaying = replace(program(), optimizer=lambda lr: optax.sgd(optax.constant_schedule(lr)))
    same = advance(decaying, trial())[1]
    np.testing.assert_allclose(
        same.train_loss, advance(program(), trial())[1].train_loss, rtol=1e-5
    )
    own = replace(program(), optimizer=lambda lr: optax.adamw(lr, weight_decay=0.3))
    ours = advance(program("adam"), trial(lr=0.001, weight_decay=0.3))[1]
    np.testing.assert_allclose(
        advance(own, trial(lr=0.001))[1].train_loss, ours.train_loss, rtol=1e-4
    )


def test_clipping_by_value_bounds_every_entry_and_leaves_smaller_ones() -> None:
    free, _ = one_step()
    bound = float(np.median(np.abs(free.params["layers.0.input"] - PARAMS["layers.0.input"]))) / 0.1
    clipped, _ = one_step(clip_value=bound)
    step = {name: np.asarray(w - free.params[name]) / 0.1 for name, w in PARAMS.items()}
    for name, w in PARAMS.items():
        np.testing.assert_allclose(
            (w - clipped.params[name]) / 0.1, np.clip(step[name], -bound, bound), atol=1e-5
        )
    assert (np.abs(step["layers.0.input"]) > bound).mean() == pytest.approx(0.5, abs=0.01)


def test_dropout_is_drawn_anew_at_every_step_from_the_seed_and_is_off_in_evaluation() -> None:
    model = functional(lambda: MLP(64, 32, 10, layers=2, rngs=nnx.Rngs(0)))
    params = draw(SCHEMES["orthogonal"], jax.random.key(0), model.leaves)
    runs = [
        advance(
            Program(model, TASK, OPTIMIZERS["sgd"], batch=64, evaluations=4, epochs=1),
            settings,
            params,
        )[1]
        for settings in (
            trial(),
            trial(dropout=0.5),
            trial(dropout=0.5),
            trial(dropout=0.0),
            trial(dropout=0.5, lr=0),
        )
    ]
    plain, noisy, again, none, still = (np.asarray(run.train_loss) for run in runs)
    np.testing.assert_array_equal(noisy, again)
    np.testing.assert_allclose(none, plain, rtol=1e-5)
    assert (noisy > plain).all()
    assert len(set(still.tolist())) == 4  # no step was taken: only batches and noise differ
    assert len(set(np.asarray(runs[-1].valid_loss).tolist())) == 1


def test_dropout_keeps_the_mean_and_multiplies_the_second_moment() -> None:
    x = jnp.ones((400, 500))
    kept = dropped(x, Training(jax.random.key(0), 0.2), 3)
    assert float((kept == 0).mean()) == pytest.approx(0.2, abs=4 * 0.4 / 447)
    assert float(kept.mean()) == pytest.approx(1, abs=4 * 0.5 / 447)
    assert float((kept**2).mean()) == pytest.approx(1.25, abs=4 * 0.63 / 447)
    assert (dropped(x, Training(), 3) == x).all()
    assert (dropped(x, None, 3) == x).all()


def test_batch_normalization_keeps_running_statistics_and_evaluates_with_them() -> None:
    model = functional(lambda: MLP(64, 32, 10, norm="batch", rngs=nnx.Rngs(0)))
    params = draw(SCHEMES["orthogonal"], jax.random.key(0), model.leaves)
    state, (x, _) = one_step(model, params, lr=0.1)
    z = x.reshape(1280, 64) @ params["layers.0.kernel"]
    np.testing.assert_allclose(state.running["norms.0.mean"], 0.1 * z.mean(0), atol=1e-4)
    np.testing.assert_allclose(state.running["norms.0.var"], 0.9 + 0.1 * z.var(0), rtol=1e-3)
    one = {**state.params, **state.running}
    alone = model.apply(one, x[:1])
    # the batch does not matter
    np.testing.assert_allclose(model.apply(one, x[:7])[:1], alone, rtol=1e-4, atol=1e-5)
    # in training it does
    assert float(jnp.abs(model.as_trained(state.params, x[:7])[:1] - alone).max()) > 1e-2
