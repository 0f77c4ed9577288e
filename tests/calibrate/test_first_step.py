"""GradInit lowers the loss after the first step, and bounds its gradient."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calibration_problems import BOUND, ETA, after_one_step, deep, nth, shallow, slope
from jaxtyping import Array

from jaxinit.calibrate import Problem, first_step, gradinit
from jaxinit.calibrate.problem import factors_of_one


@pytest.mark.slow
def test_gradinit_keeps_the_gradient_bounded() -> None:
    problem, params, data = deep(std=0.3)  # chaotic: its gradient is large
    report = jax.jit(lambda p: gradinit(problem, p, data))(params).report
    assert report["norm_before"] > 50
    assert report["norm_after"] < 1.2


def published_gradinit(
    problem: Problem, params: dict[str, Array], data: tuple[Array, Array], steps: int = 390
) -> dict:
    """The published rule as its code has it: factors themselves follow Adam, the step is a
    constant, moments apart."""
    adam, eta = problem.optimizer == "adam", ETA[problem.optimizer]
    rate, limit, decay = 0.01, BOUND[problem.optimizer], 0.98 if adam else 0.999
    kernels = [leaf.name for leaf in problem.leaves if leaf.is_kernel]

    def scaled(f: Array) -> dict[str, Array]:
        return params | {name: params[name] * f[k] for k, name in enumerate(kernels)}

    def size(f: Array, batch: tuple) -> Array:
        slopes = jax.tree.leaves(jax.grad(problem.loss_of)(scaled(f), batch))
        if adam:
            return jnp.stack([jnp.abs(g).sum() for g in slopes]).sum()
        return jnp.sqrt(jnp.stack([(g**2).sum() for g in slopes]).sum())

    def stepped(f: Array, batch: tuple, other: tuple) -> Array:
        slopes = jax.lax.stop_gradient(jax.grad(problem.loss_of)(scaled(f), batch))
        slopes = jax.tree.map(jnp.sign, slopes) if adam else slopes
        after = jax.tree.map(lambda w, g: w - eta * g, scaled(f), slopes)
        return problem.loss_of(after, other) / eta

    def step(state: tuple, k: Array) -> tuple[tuple, None]:
        f, means, squares, counts = state  # [2, kernels]: of the loss, of the norm
        batch = nth(data, k)
        other = nth(data, k + 1)
        beyond = (size(f, batch) > limit).astype(jnp.int32)
        slope = jax.lax.cond(
            beyond == 1,
            lambda: jax.grad(size)(f, batch),
            lambda: jax.grad(stepped)(f, batch, other),
        )
        means = means.at[beyond].set(0.9 * means[beyond] + 0.1 * slope)
        squares = squares.at[beyond].set(decay * squares[beyond] + (1 - decay) * slope**2)
        counts = counts.at[beyond].add(1)
        mean = means[beyond] / (1 - 0.9 ** counts[beyond])
        square = squares[beyond] / (1 - decay ** counts[beyond])
        f = jnp.maximum(f - rate * mean / (jnp.sqrt(square) + 1e-8), 0.01)
        return (f, means, squares, counts), None

    zero = jnp.zeros((2, len(kernels)))
    first = (jnp.ones(len(kernels)), zero, zero, jnp.zeros(2))
    (f, *_), _ = jax.lax.scan(step, first, jnp.arange(steps))
    return scaled(f)


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        ("mlp", "adam"),
        *(
            pytest.param(kind, optimizer, marks=pytest.mark.slow)
            for kind, optimizer in (
                ("mlp", "sgd"),
                *itertools.product(("cnn", "transformer"), ("sgd", "adam")),
            )
        ),
    ],
)
def test_gradinit_lowers_the_loss_after_one_step_as_the_published_rule_does(
    kind: str, optimizer: str
) -> None:
    problem, _, data = shallow(1.0, optimizer, kind)

    def judged(calibration):
        """The loss after one step and the norm of the gradient, of calibrated parameters."""

        def judge(params: dict[str, Array]) -> tuple[Array, Array]:
            calibrated = calibration(params)
            return after_one_step(problem, calibrated, data), slope(problem, calibrated, data)

        return jax.jit(judge)

    none = judged(lambda params: params)
    ours = judged(lambda params: gradinit(problem, params, data).params)
    theirs = judged(lambda params: published_gradinit(problem, params, data))
    for scale in (0.3, 1.0, 3.0):
        params = shallow(scale, optimizer, kind)[1]
        before, after, published = none(params), ours(params), theirs(params)
        name = f"{kind} {optimizer} {scale:g} Glorot"
        print(f"{name}: none {before[0]:.3f}, ours {after[0]:.3f}, published {published[0]:.3f}")
        assert after[0] < before[0]
        # what the published rule gains by leaving the gradient beyond its bound is no lead
        within = after[1] <= BOUND[optimizer] < published[1]
        assert within or before[0] - after[0] > 0.9 * (before[0] - published[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_first_step_is_that_of_the_optimizer(optimizer: str) -> None:
    problem, params, data = shallow(1.0, optimizer, "mlp")
    step = first_step._FirstStep(problem, params, ETA[optimizer], by_sign=optimizer == "adam")
    ones = factors_of_one(problem.kernels, params)
    following = jax.tree.map(lambda array: jnp.roll(array, -1, 0), data)

    def loss_after(batches: tuple) -> Array:
        return step.loss_after(ones, *batches)

    losses = jax.jit(lambda: jax.lax.map(loss_after, (data, following)))()
    norms = jax.jit(lambda: jax.lax.map(lambda batch: step.norm(ones, batch), data))()
    np.testing.assert_allclose(losses.mean(), after_one_step(problem, params, data), rtol=1e-5)
    np.testing.assert_allclose(norms.mean(), slope(problem, params, data), rtol=1e-5)
