"""All calibrations rescale only, keep dtypes, and refuse by name what they cannot treat."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from calibration_problems import DIGITS, deep, shallow
from cases import every, quick
from flax import nnx
from jaxtyping import Array

from jaxinit import calibrate, spec
from jaxinit.calibrate import Problem, gradinit, lsuv, metainit
from jaxinit.introspect import functional
from jaxinit.models import MODELS
from jaxinit.schemes import SCHEMES
from jaxinit.tasks.base import cross_entropy


@pytest.mark.parametrize("name", quick("lsuv", of=["lsuv", "metainit", "gradinit"]))
def test_calibrations_only_rescale_and_map_over_seeds(name: str) -> None:
    leaves, apply, *_ = functional(lambda: MODELS["gru"](8, 8, 10, rngs=nnx.Rngs(0)))
    problem = Problem(leaves, apply, cross_entropy, "adam")
    x = jax.random.normal(jax.random.key(1), (3, 16, 4, 8))
    y = jax.random.randint(jax.random.key(2), (3, 16), 0, 10)
    options = {} if name == "lsuv" else {"steps": 5}

    def drawn(seed: int | Array) -> dict[str, Array]:
        return spec.draw(SCHEMES["glorot_uniform"], jax.random.key(seed), leaves)

    def run(seed: int | Array) -> calibrate.Calibrated:
        return calibrate.CALIBRATIONS[name](problem, drawn(seed), (x, y), **options)

    together = jax.jit(jax.vmap(run))(jnp.arange(3))
    alone = jax.jit(run)(1)
    for leaf in leaves:
        np.testing.assert_allclose(
            together.params[leaf.name][1], alone.params[leaf.name], rtol=1e-4, atol=1e-6
        )
        expected = np.asarray(drawn(1)[leaf.name])
        if leaf.name in alone.factors:
            expected = expected * np.asarray(alone.factors[leaf.name]).reshape(leaf.copy_shape)
        np.testing.assert_allclose(alone.params[leaf.name], expected, rtol=1e-5)


def loss_after(problem: Problem, params: dict[str, Array], steps: int, rate: float) -> float:
    tx = optax.sgd(rate)

    def step(state, key):
        params, opt = state
        rows = jax.random.randint(key, (64,), 0, 1280)
        batch = DIGITS.data["train_x"][rows], DIGITS.data["train_y"][rows]
        updates, opt = tx.update(jax.grad(problem.loss_of)(params, batch), opt)
        return (optax.apply_updates(params, updates), opt), None

    keys = jax.random.split(jax.random.key(7), steps)
    (params, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), keys))(params)
    everything = DIGITS.data["train_x"], DIGITS.data["train_y"]
    return float(problem.loss_of(params, everything))


@pytest.mark.slow
@pytest.mark.parametrize("std", [0.1, 0.01])  # both readings of N(0, 0.01)
@pytest.mark.parametrize("calibration", [metainit, gradinit])
def test_metainit_and_gradinit_lower_the_loss_after_500_steps(calibration, std: float) -> None:
    problem, params, data = deep(std)
    done = jax.jit(lambda p: calibration(problem, p, data))(params)
    before, after = (loss_after(problem, p, 500, 0.1) for p in (params, done.params))
    print(calibration.__name__, before, after, {k: float(v) for k, v in done.report.items()})
    assert after < 0.9 * before
    if std == 0.01:
        assert before > 2.2, "without calibration it does not learn"
        assert after < 1
    if calibration is metainit:
        assert done.report["quotient_after"] < 0.5 * done.report["quotient_before"]


def dead(name: str, value: float) -> tuple[Problem, dict[str, Array], tuple[Array, Array]]:
    problem, params, data = shallow(1.0, "sgd", "mlp")
    return problem, params | {name: jnp.full_like(params[name], value)}, data


@pytest.mark.parametrize(
    ("calibration", "value", "message"),
    every(
        2,
        of=[
            (lsuv, 0.0, "lsuv: the product with 'layers.1.kernel' has variance 0"),
            (lsuv, jnp.nan, "lsuv: the product with 'layers.1.kernel' is not finite"),
            (metainit, jnp.nan, "metainit: 'layers.1.kernel' is not finite"),
            (metainit, 0.0, "metainit: 'layers.1.kernel' is zero"),
            (gradinit, 0.0, "gradinit: 'layers.1.kernel' is zero"),
            (gradinit, jnp.nan, "gradinit: 'layers.1.kernel' is not finite"),
        ],
    ),
)
def test_parameters_that_cannot_be_calibrated_are_refused_by_name(
    calibration, value: float, message: str
) -> None:
    problem, params, data = dead("layers.1.kernel", value)
    options = {} if calibration is lsuv else {"steps": 1}
    # as a study calls it
    done = jax.jit(lambda p: calibration(problem, p, data, **options))(params)
    with pytest.raises(ValueError, match=message):
        calibrate.checked(done)
    named = [reason for reason, holds in done.failures.items() if np.any(holds)]
    assert message in named[0]
    if value == 0:
        assert all(jnp.isfinite(w).all() for w in done.params.values())
        assert all(np.isfinite(number) for number in done.report.values())
    if calibration is lsuv and value == 0:
        assert done.report["variance_low"] == 0
        with pytest.raises(ValueError, match=message):
            lsuv(problem, params, data)


@pytest.mark.slow
def test_calibrations_keep_dtypes() -> None:
    problem, params, (x, y) = shallow(1.0, "adam", "mlp")
    halves = {name: w.astype(jnp.bfloat16) for name, w in params.items()}

    def cast(p: dict[str, Array], x: Array) -> Array:
        wide = {name: w.astype(jnp.float32) for name, w in p.items()}
        return problem.apply(wide, x)

    casting = problem._replace(apply=cast)
    for calibration, options in ((lsuv, {}), (metainit, {"steps": 2}), (gradinit, {"steps": 2})):
        run = partial(calibration, casting, batches=(x, y), **options)
        done = jax.jit(run)(halves)
        assert {w.dtype for w in done.params.values()} == {jnp.dtype(jnp.bfloat16)}
        assert all(factor.dtype == jnp.float32 for factor in done.factors.values())


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["JAX_ENABLE_X64", "JAX_DEBUG_NANS", "JAX_DEBUG_INFS"])
def test_calibrations_under_the_settings_of_jax(setting: str) -> None:
    program = """
import jax, numpy as np
from dataclasses import replace
from jaxinit.engine import initial, resolve
from jaxinit.study import Study
schemes = tuple(f"xavier_rnn+{name}" for name in ("lsuv", "metainit", "gradinit"))
for model, optimizer in (("rnn", "sgd"), ("mlp", "adam")):
    study = Study(model=model, hidden=8, layers=1, schemes=schemes, baseline=schemes[0],
                  lrs=(0.1,), seeds=2, tune_seeds=1, batch=64, optimizer=optimizer)
    cell = resolve.resolve(study)
    calibrated, reports = initial.calibrate_parameters(cell, initial.draw_parameters(cell))
    assert abs(reports[schemes[0]]["variance_high"]["high"] - 1) < 0.1, reports
    for report in reports.values():
        assert all(np.isfinite(number["median"]) for number in report.values()), reports
    for params in calibrated.values():
        assert all(w.dtype == np.float32 for w in params.values())
"""
    environment = os.environ | {setting: "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("calibration", "argument"), [(lsuv, "passes"), (metainit, "steps"), (gradinit, "steps")]
)
@pytest.mark.parametrize("count", [0, -3])
def test_no_step_is_no_calibration(calibration, argument: str, count: int) -> None:
    problem, params, data = shallow(1.0, "sgd", "mlp")
    with pytest.raises(ValueError, match=f"{argument} must be 1 or more, got {count}"):
        calibration(problem, params, data, **{argument: count})
