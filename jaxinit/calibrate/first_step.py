"""GradInit: factors of kernels at which the first step of training lowers the loss most."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

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


def gradinit(
    problem: Problem,
    params: Params,
    batches: Batch,
    *,
    steps: int = 400,
    rate: float = 0.03,
    eta: float | None = None,
    bound: float | None = None,
) -> Calibrated:
    """GradInit: the factors at which the first step of training lowers the loss most, its gradient
    bounded.

    While |g| <= bound: lower L(f W - eta A(g)); else lower |g|. g = dL / d(f W); A(g) = g and |.| =
    l2 for SGD, A(g) = sign(g) and |.| = l1 for Adam. The logarithms of the factors f follow Adam
    with `rate` and decays 0.9 and 0.99, whose moments of the two slopes are apart; f stays above
    0.01.
    Shapes: `batches` is (x, y), `[count, batch, ...]`: the gradient is of one, the loss of the
    next.
    `eta`, the step: 0.1 for SGD, 0.001 for Adam. `bound`: 1 for SGD, 1000 for Adam.
    Report: `loss_before`, `loss_after`, and the gradient's `norm_before`, `norm_after`: means over
    the batches, before any training.
    Raises: ValueError for another optimizer, for a kernel that is zero, which no factor changes, or
    not finite, by name, and for a loss or a norm that is not finite.
    Source: Zhu et al. (2021), algorithm 1, and their code for eta and the bounds, and for moments
    apart under Adam. Departures: the two batches share nothing, where the paper's share half;
    logarithms of the factors, and a decay of 0.99 for their squares (there 0.98 under Adam, 0.999
    and slopes clipped under SGD), so that parameters that are wrong by orders of magnitude are
    corrected too; only kernels have factors, since biases are initialized to 0.
    """
    check_count("gradinit", "steps", steps)
    if problem.optimizer not in ("sgd", "momentum", "adam"):
        raise ValueError(
            f"gradinit knows the first step of sgd, momentum and adam, not {problem.optimizer!r}"
        )
    adam = problem.optimizer == "adam"
    # Adam's step moves every entry by eta, and its l1 norm grows with the number of entries.
    if eta is None:
        eta = 0.001 if adam else 0.1
    if bound is None:
        bound = 1000.0 if adam else 1.0
    first_step = _FirstStep(problem, params, eta, by_sign=adam)
    search = _GradInitSearch(first_step, rate, bound)
    ones = factors_of_one(problem.kernels, params)
    failures, _ = unscalable("gradinit", problem.kernels, params)
    factors = search.run(ones, batches, steps)

    report = {
        "loss_before": mean_over(batches, first_step.loss, ones),
        "loss_after": mean_over(batches, first_step.loss, factors),
        "norm_before": mean_over(batches, first_step.norm, ones),
        "norm_after": mean_over(batches, first_step.norm, factors),
    }
    failures |= not_finite("gradinit", report)
    rescaled = problem.rescaled(params, factors)
    return checked(Calibrated(rescaled, factors, report, failures))


@dataclass(frozen=True)
class _FirstStep:
    """The first step of training as a function of the kernels' factors: of length `eta`, along the
    gradient or, `by_sign`, as Adam's is, along its signs."""

    problem: Problem
    params: Params
    eta: float
    by_sign: bool

    def loss(self, factors: Factors, batch: Batch) -> Array:
        rescaled = self.problem.rescaled(self.params, factors)
        return self.problem.loss_of(rescaled, batch)

    def gradient(self, factors: Factors, batch: Batch) -> Params:
        """dL / d(f W), of all parameters."""
        rescaled = self.problem.rescaled(self.params, factors)
        return jax.grad(self.problem.loss_of)(rescaled, batch)

    def norm(self, factors: Factors, batch: Batch) -> Array:
        """The norm of the gradient that a step's length goes with: l1 for signs, else l2."""
        gradient = self.gradient(factors, batch)
        if self.by_sign:
            return sum_of(jnp.abs, gradient)
        squares = sum_of(jnp.square, gradient)
        return jnp.sqrt(squares + 1e-30)  # the root has an infinite slope at 0

    def loss_after(self, factors: Factors, batch: Batch, next_batch: Batch) -> Array:
        """The loss on the next batch after a step on this one."""
        direction = self.gradient(factors, batch)
        if self.by_sign:
            # Adam's first step is the sign: its moments have seen one gradient.
            direction = jax.tree.map(jnp.sign, direction)

        def moved(w: Array, d: Array) -> Array:
            return w - self.eta * d

        rescaled = self.problem.rescaled(self.params, factors)
        after = jax.tree.map(moved, rescaled, direction)
        return self.problem.loss_of(after, next_batch)


class _GradInitState(NamedTuple):
    """Between two steps of GradInit: the factors, Adam's moments of the slopes of the loss and of
    the norm, and the batch that the next gradient is of."""

    factors: Factors
    loss_moments: Any
    norm_moments: Any
    batch: Batch


@dataclass(frozen=True)
class _GradInitSearch:
    """GradInit's descent: lower the loss after the first step while the gradient is within `bound`,
    else its norm."""

    first_step: _FirstStep
    rate: float
    bound: float

    @property
    def adam(self) -> optax.GradientTransformation:
        # Tiny slopes are slopes too, hence eps. Parameters that are far off have large ones, which
        # must be forgotten soon, hence b2.
        return optax.adam(self.rate, b2=0.99, eps=1e-20)

    def run(self, factors: Factors, batches: Batch, steps: int) -> Factors:
        moments = self.adam.init(factors)
        # Its gradient is the first, so that the first loss is of the first batch.
        last_batch = jax.tree.map(lambda array: array[-1], batches)
        state = _GradInitState(factors, moments, moments, last_batch)
        state, _ = jax.lax.scan(self.step, state, in_turn(batches, steps))
        return state.factors

    def step(self, state: _GradInitState, batch: Batch) -> tuple[_GradInitState, None]:
        """One step: the gradient is of the batch before, the loss of this one."""
        factors = state.factors
        before = state.batch

        def lower_loss() -> tuple[Factors, Any, Any]:
            slopes = jax.grad(self.first_step.loss_after)(factors, before, batch)
            changes, moments = self.changes(slopes, factors, state.loss_moments)
            return changes, moments, state.norm_moments

        def lower_norm() -> tuple[Factors, Any, Any]:
            slopes = jax.grad(self.first_step.norm)(factors, before)
            changes, moments = self.changes(slopes, factors, state.norm_moments)
            return changes, state.loss_moments, moments

        # Each slope keeps moments of its own: the two differ by orders of magnitude.
        out_of_bound = self.first_step.norm(factors, before) > self.bound
        changes, loss_moments, norm_moments = jax.lax.cond(out_of_bound, lower_norm, lower_loss)

        # A step of the logarithm, so that factors of any order of magnitude are near.
        def moved(factor: Array, change: Array) -> Array:
            return jnp.maximum(factor * jnp.exp(change), SMALLEST_FACTOR)

        factors = jax.tree.map(moved, factors, changes)
        return _GradInitState(factors, loss_moments, norm_moments, batch), None

    def changes(self, slopes: Factors, factors: Factors, moments: Any) -> tuple[Any, Any]:
        """Adam's changes of the logarithms of the factors, and its moments afterwards."""

        # dL / d log f = f dL / df
        def by_logarithm(slope: Array, factor: Array) -> Array:
            # A NaN would stay in the moments.
            return jnp.nan_to_num(slope * factor)

        by_log = jax.tree.map(by_logarithm, slopes, factors)
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            return self.adam.update(by_log, moments)
