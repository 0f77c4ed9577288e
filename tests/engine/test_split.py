"""A seed's own split in studies: what a trial trains, validates and calibrates on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit.engine.identity import changed, identify
from jaxinit.engine.initial import calibrate_parameters, draw_parameters
from jaxinit.engine.resolve import resolve
from jaxinit.engine.sweep import CompileCounter
from jaxinit.engine.training import OPTIMIZERS, Program, Trial
from jaxinit.introspect import functional
from jaxinit.models import MLP
from jaxinit.schemes import SCHEMES
from jaxinit.spec import draw, named_key
from jaxinit.study import Study
from jaxinit.tasks import TASKS, Task
from jaxinit.tasks.base import Data

SCHEME_NAMES = ("xavier_rnn", "he_normal")


def trial(seed: int, lr: float = 0.1) -> Trial:
    return Trial(
        seed=jnp.int32(seed),
        lr=jnp.float32(lr),
        clip=jnp.float32(jnp.inf),
        clip_value=jnp.float32(jnp.inf),
        l2=jnp.float32(0),
        weight_decay=jnp.float32(0),
        target=jnp.float32(2),  # no accuracy, so that no trial ends before its budget
        budget=jnp.int32(1000),
    )


def own_data(task: Task, seed: int) -> Data:
    return task.of_seed(task.data, named_key(jax.random.key(seed), "split"))


def test_trials_train_and_validate_on_the_split_of_their_seed_by_one_compilation() -> None:
    task = TASKS["digits_rows"]()
    model = functional(lambda: MLP(64, 16, 10, rngs=nnx.Rngs(0)))
    program = Program(model, task, OPTIMIZERS["sgd"], batch=64, evaluations=2, epochs=2)
    params = {}
    for name in SCHEME_NAMES:
        params[name] = draw(SCHEMES[name], jax.random.key(0), model.leaves)

    def advance_alone(data, state, settings):
        return program.advance(data, state, settings)

    advance = jax.jit(advance_alone)
    metrics = {}
    with CompileCounter("advance_alone") as compiled:
        for seed in range(3):
            for name, initial in params.items():
                state = program.initial_state(initial, trial(seed))
                metrics[seed, name] = advance(task.data, state, trial(seed)), initial
    assert compiled.count == 1
    for (seed, _), ((state, records), _) in metrics.items():
        own = own_data(task, seed)
        outputs = model.apply(state.params, own["valid_x"])
        right = float(task.metric(outputs, own["valid_y"]))
        assert float(records.metric[-1]) == pytest.approx(right, abs=1.01 / 517)
        loss = float(task.loss(outputs, own["valid_y"]))
        assert float(records.valid_loss[-1]) == pytest.approx(loss, rel=1e-4)
        others = [data_loss(task, model, state, other) for other in range(3) if other != seed]
        assert all(other != pytest.approx(loss, rel=1e-4) for other in others)
    # At a rate of zero the training loss is that of the same parameters on the seed's own examples.
    for seed in range(2):
        at_rest = trial(seed, lr=0)
        state = program.initial_state(params["he_normal"], at_rest)
        still = advance(task.data, state, at_rest)[1]
        own = own_data(task, seed)
        expected = task.loss(model.apply(params["he_normal"], own["train_x"]), own["train_y"])
        losses = np.asarray(still.train_loss)
        assert losses[:2].mean() == pytest.approx(float(expected), rel=1e-5)
        assert losses[2:].mean() == pytest.approx(float(expected), rel=1e-5)


def data_loss(task: Task, model, state, seed: int) -> float:
    data = own_data(task, seed)
    return float(task.loss(model.apply(state.params, data["valid_x"]), data["valid_y"]))


def test_a_task_without_a_split_validates_on_what_it_gives() -> None:
    task = replace(TASKS["digits_rows"](), split=None)
    model = functional(lambda: MLP(64, 16, 10, rngs=nnx.Rngs(0)))
    program = Program(model, task, OPTIMIZERS["sgd"], batch=64, evaluations=1, epochs=1)
    params = draw(SCHEMES["he_normal"], jax.random.key(0), model.leaves)
    state = program.initial_state(params, trial(5))
    state, records = jax.jit(program.advance)(task.data, state, trial(5))
    outputs = model.apply(state.params, task.data["valid_x"])
    loss = float(task.loss(outputs, task.data["valid_y"]))
    assert float(records.valid_loss[-1]) == pytest.approx(loss, rel=1e-4)


def test_calibrations_see_the_training_part_of_the_seed_alone() -> None:
    """A split that trains every seed on one example of its own makes the calibration's batches
    known."""
    whole = TASKS["digits_rows"]()

    def split(data: Data, key: jax.Array) -> Data:
        chosen = jax.random.randint(key, (), 0, 1280)
        repeated = jnp.broadcast_to(data["train_x"][chosen], data["train_x"].shape)
        return data | {"train_x": repeated}

    study = Study(
        model="mlp",
        task="own",
        schemes=("he_normal+lsuv",),
        baseline="he_normal+lsuv",
        hidden=8,
        lrs=(0.1,),
        seeds=2,
        tune_seeds=1,
    )

    def calibrated(task: Task):
        resolved = resolve(study, None, {"own": lambda: task}, None)
        initial, _ = calibrate_parameters(resolved, draw_parameters(resolved))
        return initial["he_normal+lsuv"]

    own = calibrated(replace(whole, name="own", split=split))
    for row, seed in enumerate([*study.tuning, *study.reporting]):
        given = own_data(replace(whole, split=split), seed)
        by_hand = calibrated(replace(whole, name="own", data=given, split=None))
        for name, values in own.items():
            np.testing.assert_allclose(values[row], by_hand[name][row], rtol=1e-4, atol=1e-6)


def test_another_split_is_another_study() -> None:
    study = Study(model="mlp", task="own", schemes=("he_normal",), baseline="he_normal", lrs=(0.1,))
    task = replace(TASKS["digits_rows"](), name="own")

    def identity(task: Task):
        return identify(resolve(study, None, {"own": lambda: task}, None))

    def reversed_split(data: Data, key: jax.Array) -> Data:
        own = TASKS["digits_rows"]().of_seed(data, key)
        return own | {"valid_x": own["valid_x"][::-1], "valid_y": own["valid_y"][::-1]}

    words = ["how a seed splits the data of task 'own' differs"]
    there = identity(task)
    for other in (replace(task, split=None), replace(task, split=reversed_split)):
        assert changed(there, identity(other), study) == words
    assert identity(replace(TASKS["digits_rows"](), name="own")) == there
