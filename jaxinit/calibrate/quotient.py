"""MetaInit: norms of kernels at which the gradient changes little along itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
    search = _MetaInitSearch(problem, params, norms, rate, momentum)
    ones = factors_of_one(problem.kernels, params)
    factors = search.run(ones, batches, steps)

    report = {
        "quotient_before": mean_over(batches, search.quotient, ones),
        "quotient_after": mean_over(batches, search.quotient, factors),
    }
    failures |= not_finite("metainit", report)
    rescaled = problem.rescaled(params, factors)
    return checked(Calibrated(rescaled, factors, report, failures))


class _MetaInitState(NamedTuple):
    """Between two steps of MetaInit: the factors of the kernels and the velocities of their
    norms."""

    factors: Factors
    velocities: Factors


@dataclass(frozen=True)
class _MetaInitSearch:
    """MetaInit's descent: every norm moves against the sign of its slope, with momentum."""

    problem: Problem
    params: Params
    norms: Factors
    rate: float
    momentum: float

    def quotient(self, factors: Factors, batch: Batch) -> Array:
        """The gradient quotient as a function of the factors."""

        def loss(params: Params) -> Array:
            return self.problem.loss_of(params, batch)

        rescaled = self.problem.rescaled(self.params, factors)
        return gradient_quotient(loss, rescaled)

    def run(self, factors: Factors, batches: Batch, steps: int) -> Factors:
        at_rest = jax.tree.map(jnp.zeros_like, factors)
        state = _MetaInitState(factors, at_rest)
        state, _ = jax.lax.scan(self.step, state, in_turn(batches, steps))
        return state.factors

    def step(self, state: _MetaInitState, batch: Batch) -> tuple[_MetaInitState, None]:
        # By factor and not by norm, since a norm is its factor times a positive constant: the sign
        # is the same.
        slopes = jax.grad(self.quotient)(state.factors, batch)

        def accelerated(velocity: Array, slope: Array) -> Array:
            # The sign of NaN is NaN, which would stay in the velocity.
            return self.momentum * velocity - self.rate * jnp.sign(jnp.nan_to_num(slope))

        velocities = jax.tree.map(accelerated, state.velocities, slopes)
        moved = {}
        for name, factor in state.factors.items():
            change = velocities[name] / self.norms[name]  # of the factor, from that of the norm
            moved[name] = jnp.maximum(factor + change, SMALLEST_FACTOR)
        return _MetaInitState(moved, velocities), None
