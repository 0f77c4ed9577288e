"""MetaInit: norms of kernels at which the gradient changes little along itself."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinit.calibrate.problem import (
    SMALLEST_FACTOR,
    Batch,
    Calibrated,
    Factors,
    Params,
    Problem,
    check_count,
    checked,
    factors_of_one,
    in_turn,
    mean_over,
    not_finite,
    sum_of,
    unscalable,
)

State: TypeAlias = tuple[Factors, Factors]  # the factors, and the velocities of the norms


def gradient_quotient(
    loss: Callable[[Params], Array], params: Params, *, eps: float = 1e-5
) -> Float[Array, ""]:
    """How much one step of steepest descent changes the gradient, relative to it.

    GQ = mean_i |(g_i - (H g)_i) / (g_i + eps sign(g_i)) - 1|, g the gradient and H the Hessian of
    the loss; the sign of 0 is 1. Small where the curvature along the gradient is small, which is
    where learning starts well.
    Units: dimensionless. Assumes a loss that reverse mode differentiates twice.
    Source: Dauphin & Schoenholz (2019), MetaInit, eq. 1 and 2.
    """

    def half_square(params: Params) -> Array:
        return sum_of(jnp.square, jax.grad(loss)(params)) / 2

    def deviation(g: Array, hg: Array) -> Array:
        sign = jnp.where(g >= 0, jnp.ones_like(g), -jnp.ones_like(g))
        # A constant when MetaInit differentiates the quotient.
        sign = jax.lax.stop_gradient(sign)
        quotient = (g - hg) / (g + eps * sign)
        return jnp.abs(quotient - 1)

    gradient = jax.grad(loss)(params)
    # The gradient of |g|^2 / 2 is H g: by reverse mode twice, since hand-written backward passes
    # have no forward mode.
    hessian_gradient = jax.grad(half_square)(params)
    deviations = jax.tree.map(deviation, gradient, hessian_gradient)
    count = sum(g.size for g in jax.tree.leaves(gradient))
    return sum_of(_itself, deviations) / count


def _itself(x: Array) -> Array:
    return x


def metainit(
    problem: Problem,
    params: Params,
    batches: Batch,
    *,
    steps: int = 500,
    rate: float = 0.1,
    momentum: float = 0.9,
) -> Calibrated:
    """MetaInit: the norms of the kernels at which the gradient quotient is small.

    |W| <- |W| + v, v <- momentum v - rate sign(d GQ / d |W|), for every kernel (copy) at every
    step. Directions stay.
    Shapes: `batches` is (x, y), `[count, batch, ...]`, taken in turn.
    Report: `quotient_before` and `quotient_after`, each the mean over the batches.
    Assumes that a norm never needs to fall below a hundredth of its initial value, which it does
    not.
    Raises: ValueError for a kernel that is zero, which has no direction to keep, or not finite, by
    name, and for a quotient that is not finite.
    Source: Dauphin & Schoenholz (2019), algorithm 1. Departures: the norm of each copy moves by
    itself; the data is the task's, where the paper also takes random inputs and labels; the floor.
    """
    check_count("metainit", "steps", steps)
    failures, norms = unscalable("metainit", problem.kernels, params)

    def quotient(factors: Factors, batch: Batch) -> Array:
        def loss(params: Params) -> Array:
            return problem.loss_of(params, batch)

        return gradient_quotient(loss, problem.rescaled(params, factors))

    def accelerated(velocity: Array, slope: Array) -> Array:
        # The sign of NaN is NaN, which would stay in the velocity.
        return momentum * velocity - rate * jnp.sign(jnp.nan_to_num(slope))

    def step(state: State, batch: Batch) -> tuple[State, None]:
        factors, velocity = state
        # By factor and not by norm, since a norm is its factor times a positive constant: the sign
        # is the same.
        slopes = jax.grad(quotient)(factors, batch)
        velocity = jax.tree.map(accelerated, velocity, slopes)
        moved = {}
        for name, factor in factors.items():
            # The velocity is that of a norm.
            moved[name] = jnp.maximum(factor + velocity[name] / norms[name], SMALLEST_FACTOR)
        return (moved, velocity), None

    ones = factors_of_one(problem.kernels, params)
    at_rest = jax.tree.map(jnp.zeros_like, ones)
    (factors, _), _ = jax.lax.scan(step, (ones, at_rest), in_turn(batches, steps))

    report = {
        "quotient_before": mean_over(batches, quotient, ones),
        "quotient_after": mean_over(batches, quotient, factors),
    }
    failures |= not_finite("metainit", report)
    rescaled = problem.rescaled(params, factors)
    return checked(Calibrated(rescaled, factors, report, failures))
