"""The course of the learning rate over a budget."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit.analysis.records import Point
from jaxinit.engine.campaign import run
from jaxinit.engine.resolve import resolve
from jaxinit.engine.schedules import DECAYS, factor
from jaxinit.engine.training import Program
from jaxinit.spec import draw
from jaxinit.study import SCHEDULES, BadStudy, Study

STEPS, WARM = 100, 0.2


def factors(schedule: str, warmup: float = WARM) -> np.ndarray:
    return np.asarray(
        factor(schedule, jnp.arange(STEPS), jnp.int32(STEPS), jnp.float32(warmup)), float
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_rises_linearly_to_its_whole(schedule: str) -> None:
    rise = factors(schedule)[:20]
    assert rise == pytest.approx(np.arange(1, 21) / 20, rel=1e-5)
    assert factors(schedule, warmup=0.0)[0] == 1


def test_the_schedules_that_a_study_may_name_are_those_that_are_computed() -> None:
    assert (*DECAYS, "inverse_sqrt") == SCHEDULES


def test_what_follows_the_warm_up() -> None:
    after = np.arange(20, STEPS)
    share = (after - 20) / 80
    assert factors("constant")[20:] == pytest.approx(1)
    assert factors("linear")[20:] == pytest.approx(1 - share, abs=1e-6)
    assert factors("cosine")[20:] == pytest.approx((1 + np.cos(np.pi * share)) / 2, abs=1e-6)
    # Vaswani et al. (2017), eq. 3, but for its constant: min(t / w, sqrt(w / t)), t from 1.
    assert factors("inverse_sqrt")[20:] == pytest.approx(np.sqrt(20 / (after + 1)), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw", "lion"])
def test_a_step_under_a_factor_is_that_of_the_rate_times_it(optimizer: str) -> None:
    """In the engine against Optax's own schedule, which the optimizer is given in the rate's
    place."""
    study = Study(
        model="mlp",
        hidden=8,
        schemes=("he_normal",),
        baseline="he_normal",
        optimizer=optimizer,
        warmup=0.5,
        schedule="linear",
        lrs=(0.01,),
        epochs=2,
        batch=256,
        evaluations=5,
    )
    resolved = resolve(study)
    sizes: Any = {"batch": 256, "evaluations": 5, "epochs": 2}
    program = Program(resolved.model, resolved.task, resolved.optimizer, schedule="linear", **sizes)
    trial = resolved.trial(Point("he_normal", 0.01, 3), program.evaluations_per_epoch)
    trial = trial._replace(target=jnp.float32(2))
    params = draw(resolved.schemes["he_normal"], jax.random.key(3), resolved.model.leaves)
    state, _ = program.advance(resolved.task.data, program.initial_state(params, trial), trial)

    def scheduled(count: jax.Array) -> jax.Array:
        return 0.01 * factor("linear", count, jnp.int32(10), jnp.float32(0.5))

    theirs = Program(
        resolved.model, resolved.task, lambda lr: resolved.optimizer(scheduled), **sizes
    )
    plain = trial._replace(warmup=None)
    expected, _ = theirs.advance(resolved.task.data, theirs.initial_state(params, plain), plain)
    for name, value in expected.params.items():
        np.testing.assert_allclose(state.params[name], value, rtol=2e-4, atol=2e-6)
        assert not np.allclose(value, params[name], atol=1e-4), "it has moved"


def test_warm_up_is_traced_and_a_constant_rate_computes_no_factor() -> None:
    constant = resolve(Study(model="mlp", hidden=8))
    assert constant.trials([], 4).warmup is None
    warm = resolve(Study(model="mlp", hidden=8, warmup=0.1))
    assert warm.trials([], 4).warmup is not None


def test_a_study_with_warm_up_and_adamw(tmp_path: Path) -> None:
    study = Study(
        model="mlp",
        hidden=8,
        schemes=("he_normal", "small_normal"),
        baseline="he_normal",
        optimizer="adamw",
        warmup=0.1,
        schedule="cosine",
        search="grid",
        lrs=(0.01,),
        seeds=2,
        epochs=2,
        target=0.5,
    )
    result = run(study, out=tmp_path / "study", progress=False)
    assert result.complete
    assert "--warmup 0.1 --schedule cosine" in result.study.command()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 1.0}, "warmup is a share of the budget"),
        ({"warmup": -0.1}, "warmup is a share of the budget"),
        ({"schedule": "cosin"}, "no schedule is called 'cosin'; the nearest is 'cosine'"),
        ({"optimizer": "adamww"}, "no optimizer is called 'adamww'; the nearest is 'adamw'"),
        ({"optimizer": "dpsgd"}, "optimizer 'dpsgd' failed with TypeError.*l2_norm_clip"),
        ({"optimizer": "lbfgs"}, "needs no more than the gradient"),
    ],
)
def test_courses_and_optimizers_that_are_none_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(BadStudy, match=message):
        resolve(Study(**settings))
