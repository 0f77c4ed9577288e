"""LSUV: kernels divided by the standard deviation of their products, in the order of the data."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinit.calibrate.problem import (
    Batch,
    Calibrated,
    Factors,
    Params,
    Problem,
    check_count,
    checked,
    factors_of_one,
)
from jaxinit.signals import trace

TABLES = ("embedding", "position")  # roles of tables whose rows may be added without a product
ROUNDING = 1e-5  # a variance below this share of the mean square is rounding error in float32


def lsuv(
    problem: Problem, params: Params, batches: Batch, *, tolerance: float = 0.02, passes: int = 20
) -> Calibrated:
    """Layer-sequential unit variance: every product with a kernel has variance 1 on the calibration
    data.

    W <- W / std(product with W), kernel by kernel in the order in which the data meets them, again
    until every variance is within `tolerance` of 1 (one pass for a feed-forward net, a few where a
    loop feeds a kernel its own output). The variance is over examples, units and steps; each copy
    has its own.
    Shapes: `batches` is (x, y), `[count, batch, ...]`: all of it together calibrates, and `y` is
    not used.
    Report: `variance_low` and `variance_high`, the extremes over kernels afterwards; `passes`;
    `spread`, the largest standard deviation over the batches, each calibrated alone, of the
    logarithm of a factor: how much the result depends on its batch (0.1 is about 10 %); left out
    for a single batch. `skipped NAME`, 1, for a table of embeddings or positions that is added and
    never multiplied: it stays as it was drawn.
    Raises: ValueError for a kernel that no product was found for, and for a product that is not
    finite or hardly varies (its standard deviation is below 1/300 of its root mean square, or 0),
    by name.
    Source: Mishkin & Matas (2016), algorithm 1. Departures: recurrent, attention and tied kernels
    take part, per copy; the data's order is read off the program; orthonormal matrices are the
    scheme's business (`saxe_orthogonal`).
    """
    check_count("lsuv", "passes", passes)
    x = batches[0]
    together = x.reshape(-1, *x.shape[2:])
    kernels = _measured_kernels(problem, params, together)
    factors, moments, rounds = kernels.calibrate(tolerance, passes)

    variances = jnp.concatenate([product.variance for product in moments.values()])
    report = {
        "variance_low": variances.min(),
        "variance_high": variances.max(),
        "passes": rounds,
    }
    for name in problem.kernels:
        if name not in moments:
            report[f"skipped {name}"] = jnp.ones(())
    if x.shape[0] > 1:  # one batch says nothing of how much another would differ
        report["spread"] = _spread(problem, params, x, tolerance, passes)

    rescaled = problem.rescaled(params, factors)
    failures = _failures_of_variances(moments)
    return checked(Calibrated(rescaled, factors, report, failures))


class _State(NamedTuple):
    """Between two passes: the factors, how far from 1 a variance is at most, and the number of
    passes so far."""

    factors: Factors
    deviation: Array
    passes: Array


@dataclass(frozen=True)
class _MeasuredKernels:
    """LSUV on one batch: the kernels in the order in which the data meets them, and the moments of
    their products as a function of their factors."""

    problem: Problem
    params: Params
    x: Array
    names: tuple[str, ...]

    def moments(self, factors: Factors) -> dict[str, trace.Moments]:
        """The moments of every product with a kernel, in data order."""
        problem = self.problem
        rescaled = problem.rescaled(self.params, factors)
        _, products = trace.products(problem.apply, problem.leaves, rescaled, self.x)
        return {name: products[name] for name in self.names}

    def correct_one(self, place: Array, factors: Factors) -> Factors:
        """The factors with that of the kernel at `place` divided by the standard deviation of its
        product."""
        moments = self.moments(factors)
        corrected = dict(factors)
        for k, name in enumerate(self.names):
            # A product without variance keeps its factor: `failures` tells of it, and all numbers
            # stay finite.
            variance = jnp.where(_varies(moments[name]), moments[name].variance, 1)
            correction = jax.lax.rsqrt(variance).astype(factors[name].dtype)
            corrected[name] = jnp.where(place == k, factors[name] * correction, factors[name])
        return corrected

    def correct_all(self, factors: Factors) -> Factors:
        """The factors after one pass over the kernels."""
        # Each correction changes the products behind it, so the whole net is measured before each.
        # A loop with a traced place compiles that once, not once a kernel.
        return jax.lax.fori_loop(0, len(self.names), self.correct_one, factors)

    def calibrate(
        self, tolerance: float, passes: int
    ) -> tuple[Factors, dict[str, trace.Moments], Array]:
        """Passes until every variance is within `tolerance` of 1: the factors, the moments that
        they lead to and the number of passes."""

        def one_pass(state: _State) -> _State:
            factors = self.correct_all(state.factors)
            deviation = _largest_deviation(self.moments(factors))
            return _State(factors, deviation, state.passes + 1)

        def goes_on(state: _State) -> Array:
            return (state.deviation > tolerance) & (state.passes < passes)

        kernels = self.problem.kernels
        measured = {name: kernels[name] for name in self.names}
        ones = factors_of_one(measured, self.params)
        far = jnp.full((), tolerance + 1, jnp.float32)  # so that there is a first pass
        first = _State(ones, far, jnp.zeros((), jnp.int32))
        last = jax.lax.while_loop(goes_on, one_pass, first)
        return last.factors, self.moments(last.factors), last.passes


def _measured_kernels(problem: Problem, params: Params, x: Array) -> _MeasuredKernels:
    """The kernels whose products can be measured. Raises: ValueError where one that is not a table
    has none."""
    kernels = problem.kernels
    _, products = trace.products(problem.apply, problem.leaves, params, x)
    names = tuple(name for name in products if name in kernels)
    unseen = sorted(set(kernels) - set(names))
    missing = [name for name in unseen if kernels[name].role not in TABLES]
    if missing:
        raise ValueError(
            f"lsuv found no product with {missing}, so it cannot measure what they do; calibrate a "
            "model that uses them in a matrix product or a convolution, outside of branches and "
            "while loops"
        )
    return _MeasuredKernels(problem, params, x, names)


def _spread(
    problem: Problem, params: Params, x: Array, tolerance: float, passes: int
) -> Float[Array, ""]:
    """The largest standard deviation, over batches that calibrate alone, of a factor's
    logarithm."""

    def factors_of(batch: Array) -> Factors:
        kernels = _measured_kernels(problem, params, batch)
        factors, _, _ = kernels.calibrate(tolerance, passes)
        return factors

    by_batch = jax.lax.map(factors_of, x)
    deviations = []
    for factors in by_batch.values():
        by_copy = jnp.std(jnp.log(factors), axis=0)
        deviations.append(jnp.max(by_copy))
    return jnp.max(jnp.stack(deviations))


def _failures_of_variances(moments: dict[str, trace.Moments]) -> dict[str, Array]:
    """Why products cannot have variance 1, and whether so."""
    failures = {}
    for name, product in moments.items():
        finite = jnp.isfinite(product.mean_square)
        failures[
            f"lsuv: the product with {name!r} is not finite; start smaller, or look at the data"
        ] = ~finite
        failures[
            f"lsuv: the product with {name!r} has variance 0, which no factor makes 1: the "
            "parameter is zero, or what it multiplies is zero or constant; start it otherwise, or "
            "leave lsuv out"
        ] = finite & ~_varies(product)
    return failures


def _varies(moments: trace.Moments) -> Bool[Array, " copies"]:
    """Whether a product has a variance that is more than the rounding error of its mean square, and
    finite."""
    finite = jnp.isfinite(moments.mean_square)
    # The variance is the difference of two squares, and so has the rounding error of a square.
    error = ROUNDING * jnp.where(finite, moments.mean_square, 0)
    return finite & (moments.variance > error)


def _largest_deviation(moments: dict[str, trace.Moments]) -> Float[Array, ""]:
    """How far from 1 the variance of a product is, at most; products that do not vary aside."""
    deviations = []
    for product in moments.values():
        deviation = jnp.abs(product.variance - 1)
        deviations.append(jnp.where(_varies(product), deviation, 0))
    return jnp.max(jnp.concatenate(deviations))
