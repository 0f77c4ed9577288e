"""Calibrations: what corrects a start by looking at data, after the draw and before training.

    (problem, parameters, batches) -> parameters, and what is worth knowing of them

Each only rescales: a kernel is multiplied by one factor for each of its independent copies (gates, heads), so that the
law of a scheme keeps its shape (`admin` rescales the stream and no kernel). All are pure: they can be jitted and mapped
over seeds. `CALIBRATIONS` is the table of names; a study's `orthogonal+lsuv` is the scheme `orthogonal`, calibrated by
`lsuv`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxinit import watch
from jaxinit.spec import Leaf

Params: TypeAlias = dict[str, Array]
Factors: TypeAlias = dict[str, Float[Array, " copies"]]
Batch: TypeAlias = tuple[Array, Array]


class Problem(NamedTuple):
    """What is calibrated: the model's parameters, its function, and the loss that it will be trained on.

    `apply(params, x)` gives the outputs, `loss(outputs, y)` their mean loss; `optimizer` is what will train it.
    """

    leaves: tuple[Leaf, ...]
    apply: Callable[[Params, Array], Array]
    loss: Callable[[Array, Array], Array]
    optimizer: str = "sgd"

    def loss_of(self, params: Params, batch: Batch) -> Array:
        x, y = batch
        return self.loss(self.apply(params, x), y)


class Calibrated(NamedTuple):
    """The calibrated parameters, the factor of each kernel, and named numbers about how it went."""

    params: Params
    factors: Factors
    report: dict[str, Array]


def lsuv(problem: Problem, params: Params, batches: Batch, *, tolerance: float = 0.02, passes: int = 20) -> Calibrated:
    """Layer-sequential unit variance: every product with a kernel has variance 1 on the calibration data.

    W <- W / std(product with W), kernel by kernel in the order in which the data meets them, again until every variance
    is within `tolerance` of 1 (one pass for a feed-forward net, a few where a loop feeds a kernel its own output). The
    variance is over examples, units and steps; each copy has its own.
    Shapes: `batches` is (x, y), `[count, batch, ...]`: all of it together calibrates, and `y` is not used.
    Report: `variance_low` and `variance_high`, the extremes over kernels afterwards; `passes`; `spread`, the largest
    standard deviation over the batches, each calibrated alone, of the logarithm of a factor: how much the result
    depends on its batch (0.1 is about 10 %); left out for a single batch.
    Assumes that the draw is not zero; a product without variance is left alone.
    Raises: ValueError for a kernel that no product was found for, by name.
    Source: Mishkin & Matas (2016), algorithm 1. Departures: recurrent, attention and tied kernels take part, per copy;
    the data's order is read off the program; orthonormal matrices are the scheme's business (`saxe_orthogonal`).
    """
    x = batches[0]
    together = x.reshape(-1, *x.shape[2:])
    factors, moments, rounds = _lsuv(problem, params, together, tolerance, passes)
    variances = jnp.concatenate([of.variance for of in moments.values()])
    lasting = jnp.where(variances > 0, variances, 1)
    report = {"variance_low": lasting.min(), "variance_high": lasting.max(), "passes": rounds}
    if x.shape[0] > 1:
        alone = jax.lax.map(lambda batch: _lsuv(problem, params, batch, tolerance, passes)[0], x)
        report["spread"] = jnp.max(jnp.stack([jnp.max(jnp.std(jnp.log(of), axis=0)) for of in alone.values()]))
    return Calibrated(_stretched(problem, params, factors), factors, report)


def _lsuv(
    problem: Problem, params: Params, x: Array, tolerance: float, passes: int
) -> tuple[Factors, dict[str, watch.Moments], Array]:
    kernels = [leaf.name for leaf in problem.leaves if leaf.is_kernel]

    def measured(factors: Factors) -> dict[str, watch.Moments]:
        return watch.products(problem.apply, problem.leaves, _stretched(problem, params, factors), x)[1]

    ones = {leaf.name: jnp.ones(leaf.copies) for leaf in problem.leaves if leaf.name in kernels}
    order = [name for name in watch.products(problem.apply, problem.leaves, params, x)[1] if name in kernels]
    missing = sorted(set(kernels) - set(order))
    if missing:
        raise ValueError(
            f"lsuv found no product with {missing}, so it cannot measure what they do; calibrate a model that uses "
            "them in a matrix product or a convolution, outside of branches and while loops"
        )

    def one_pass(state: tuple[Factors, Array, Array]) -> tuple[Factors, Array, Array]:
        factors, _, rounds = state

        def one_kernel(k: Array, factors: Factors) -> Factors:
            moments = measured(factors)
            correct = lambda name: (
                factors[name] * jnp.where(moments[name].variance > 0, jax.lax.rsqrt(moments[name].variance), 1)
            )
            return factors | {
                name: jnp.where(k == place, correct(name), factors[name]) for place, name in enumerate(order)
            }

        factors = jax.lax.fori_loop(0, len(order), one_kernel, factors)
        return factors, _off(measured(factors)), rounds + 1

    def going_on(state: tuple[Factors, Array, Array]) -> Array:
        return (state[1] > tolerance) & (state[2] < passes)

    factors, _, rounds = jax.lax.while_loop(going_on, one_pass, (ones, jnp.asarray(jnp.inf), jnp.asarray(0)))
    after = measured(factors)
    return factors, {name: after[name] for name in order}, rounds


def _off(moments: dict[str, watch.Moments]) -> Array:
    """How far from 1 the variance of a product is, at most; products without variance aside."""
    variances = jnp.concatenate([of.variance for of in moments.values()])
    return jnp.max(jnp.where(variances > 0, jnp.abs(variances - 1), 0))


def gradient_quotient(loss: Callable[[Params], Array], params: Params, *, eps: float = 1e-5) -> Float[Array, ""]:
    """How much one step of steepest descent changes the gradient, relative to it.

    GQ = mean_i |(g_i - (H g)_i) / (g_i + eps sign(g_i)) - 1|, g the gradient and H the Hessian of the loss; the sign of
    0 is 1. Small where the curvature along the gradient is small, which is where learning starts well.
    Units: dimensionless. Assumes a loss that reverse mode differentiates twice.
    Source: Dauphin & Schoenholz (2019), MetaInit, eq. 1 and 2.
    """
    half_square = lambda p: sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(p))) / 2
    slopes, curved = jax.grad(loss)(params), jax.grad(half_square)(params)  # g and H g

    def off(g: Array, hg: Array) -> Array:
        sign = jax.lax.stop_gradient(jnp.where(g >= 0, 1.0, -1.0))
        return jnp.sum(jnp.abs((g - hg) / (g + eps * sign) - 1))

    count = sum(g.size for g in jax.tree.leaves(slopes))
    return sum(jax.tree.leaves(jax.tree.map(off, slopes, curved)), jnp.zeros(())) / count


def metainit(
    problem: Problem, params: Params, batches: Batch, *, steps: int = 500, rate: float = 0.1, momentum: float = 0.9
) -> Calibrated:
    """MetaInit: the norms of the kernels at which the gradient quotient is small.

    |W| <- |W| + v, v <- momentum v - rate sign(d GQ / d |W|), for every kernel (copy) at every step. Directions stay.
    Shapes: `batches` is (x, y), `[count, batch, ...]`, taken in turn.
    Report: `quotient_before` and `quotient_after`, each the mean over the batches.
    Assumes kernels that are not zero; a norm never falls below a hundredth of its start.
    Source: Dauphin & Schoenholz (2019), algorithm 1. Departures: the norm of each copy moves by itself; the data is the
    task's, where the paper also takes random inputs and labels; the floor.
    """
    kernels = {leaf.name: leaf for leaf in problem.leaves if leaf.is_kernel}
    start = {name: _norms(leaf, params[name]) for name, leaf in kernels.items()}
    quotient = lambda factors, batch: gradient_quotient(
        lambda p: problem.loss_of(p, batch), _stretched(problem, params, factors)
    )

    def step(state: tuple[Factors, Factors], batch: Batch) -> tuple[tuple[Factors, Factors], None]:
        factors, speed = state
        slopes = jax.grad(quotient)(factors, batch)  # by factor: the sign is that of the slope by norm
        speed = jax.tree.map(lambda v, g: momentum * v - rate * jnp.sign(jnp.nan_to_num(g)), speed, slopes)
        moved = {name: jnp.maximum(of + speed[name] / start[name], 0.01) for name, of in factors.items()}
        return (moved, speed), None

    ones = jax.tree.map(jnp.ones_like, start)
    (factors, _), _ = jax.lax.scan(step, (ones, jax.tree.map(jnp.zeros_like, ones)), _in_turn(batches, steps))
    mean = lambda factors: jnp.mean(jax.lax.map(lambda batch: quotient(factors, batch), batches))
    report = {"quotient_before": mean(ones), "quotient_after": mean(factors)}
    return Calibrated(_stretched(problem, params, factors), factors, report)


def gradinit(
    problem: Problem,
    params: Params,
    batches: Batch,
    *,
    steps: int = 200,
    rate: float = 0.03,
    eta: float = 0.1,
    bound: float | None = None,
) -> Calibrated:
    """GradInit: the factors at which the first step of training lowers the loss most, its gradient bounded.

    While |g| <= bound: lower L(f W - eta A(g)); else lower |g|. g = dL / d(f W); A(g) = g and |.| = l2 for SGD, A(g) =
    sign(g) and |.| = l1 for Adam. The logarithms of the factors f follow Adam with `rate`; f stays above 0.01.
    Shapes: `batches` is (x, y), `[count, batch, ...]`: the gradient is of one, the loss of the next.
    `bound`: 1 for SGD; for Adam sqrt(number of parameters), which is what an l2 norm of 1 comes to if all are alike.
    Report: `loss_before`, `loss_after`, and the gradient's `norm_before`, `norm_after`: means over the batches, before
    any training.
    Source: Zhu et al. (2021), algorithm 1. Departures: the two batches share nothing, where the paper's share half;
    the bound for Adam; logarithms of the factors, so that a start that is wrong by
    orders of magnitude is reached too; only kernels have factors, since biases start at 0.
    """
    adam = problem.optimizer == "adam"
    size = sum(params[leaf.name].size for leaf in problem.leaves)
    limit = bound if bound is not None else math.sqrt(size) if adam else 1.0
    kernels = {leaf.name: leaf for leaf in problem.leaves if leaf.is_kernel}
    ones = {name: jnp.ones(leaf.copies) for name, leaf in kernels.items()}
    slopes_of = lambda factors, batch: jax.grad(problem.loss_of)(_stretched(problem, params, factors), batch)

    def norm(factors: Factors, batch: Batch) -> Array:
        leaves = jax.tree.leaves(slopes_of(factors, batch))
        if adam:
            return sum((jnp.sum(jnp.abs(g)) for g in leaves), jnp.zeros(()))
        return jnp.sqrt(sum((jnp.sum(g**2) for g in leaves), jnp.zeros(())) + 1e-30)

    def after_step(factors: Factors, batch: Batch, other: Batch) -> Array:
        direction = slopes_of(factors, batch)
        if adam:
            direction = jax.tree.map(jnp.sign, direction)
        moved = jax.tree.map(lambda w, d: w - eta * d, _stretched(problem, params, factors), direction)
        return problem.loss_of(moved, other)

    updates = optax.adam(rate, eps=1e-20)  # tiny slopes are slopes too
    by_log = lambda slope, f: jnp.nan_to_num(slope * f)

    def step(state: Any, batch: Batch) -> tuple[Any, None]:
        factors, moments, before = state
        slopes = jax.lax.cond(
            norm(factors, before) > limit,
            lambda: jax.grad(norm)(factors, before),
            lambda: jax.grad(after_step)(factors, before, batch),
        )
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            change, moments = updates.update(jax.tree.map(by_log, slopes, factors), moments)
        factors = jax.tree.map(lambda f, c: jnp.maximum(f * jnp.exp(c), 0.01), factors, change)
        return (factors, moments, batch), None

    first = jax.tree.map(lambda a: a[-1], batches)
    (factors, _, _), _ = jax.lax.scan(step, (ones, updates.init(ones), first), _in_turn(batches, steps))
    mean = lambda of, factors: jnp.mean(jax.lax.map(lambda batch: of(factors, batch), batches))
    loss = lambda factors, batch: problem.loss_of(_stretched(problem, params, factors), batch)
    report = {
        "loss_before": mean(loss, ones),
        "loss_after": mean(loss, factors),
        "norm_before": mean(norm, ones),
        "norm_after": mean(norm, factors),
    }
    return Calibrated(_stretched(problem, params, factors), factors, report)


def admin(problem: Problem, params: Params, batches: Batch) -> Calibrated:
    """Admin: scales of a post-norm stream by a profile of what its branches add.

    omega_k^2 = 1 + sum over j < k of Var f_j, with f_j the output of branch j in one forward pass at omega = 1; the
    stream is then x_k = N(omega_k x_{k-1} + f_k).
    Shapes: `batches` is (x, y), `[count, batch, ...]`; y is not used. Report: `omega_last`, the scale before the last
    branch. Factors: none of a kernel.
    Assumes a model with learned scales of the stream (role `skip`, option `learned_skip`), one before each branch, in
    the order of the data. Raises: ValueError for a model without.
    Source: Liu et al. (2020), section 4.2. Departure: the stream before the first branch counts with a variance of 1.
    """
    skips = {leaf.name: leaf for leaf in problem.leaves if leaf.role == "skip"}
    if not skips:
        raise ValueError("admin needs learned scales of the stream (the role skip); give the model learned_skip")
    at_one = params | {name: jnp.ones_like(params[name]) for name in skips}
    x = batches[0].reshape(-1, *batches[0].shape[2:])
    moments = watch.products(problem.apply, problem.leaves, at_one, x)[1]
    last = {leaf.name for leaf in problem.leaves if leaf.role in ("attention_out", "ffn_out")}
    branches = [name for name in moments if name in last]
    layer = {leaf.name: leaf.layer for leaf in problem.leaves}
    omega, found = jnp.ones(()), dict(at_one)
    for skip, branch in zip(sorted(skips, key=lambda name: (layer[name], name)), branches, strict=True):
        found[skip] = jnp.broadcast_to(jnp.sqrt(omega), params[skip].shape)
        omega = omega + jnp.mean(moments[branch].variance)
    return Calibrated(found, {}, {"omega_last": jnp.sqrt(omega)})


CALIBRATIONS: dict[str, Callable[[Problem, Params, Batch], Calibrated]] = {
    "lsuv": lsuv,
    "metainit": metainit,
    "gradinit": gradinit,
    "admin": admin,
}


def _along(leaf: Leaf, of: Array) -> Array:
    """A number for each copy, in a shape that multiplies the parameter."""
    return jnp.broadcast_to(of.reshape(leaf.copy_shape), leaf.shape)


def _norms(leaf: Leaf, w: Array) -> Float[Array, " copies"]:
    return watch.by_copy(lambda entries: jnp.sqrt(jnp.sum(entries**2, 1)), leaf, w)


def _stretched(problem: Problem, params: Params, factors: Factors) -> Params:
    by_name = {leaf.name: leaf for leaf in problem.leaves}
    return params | {name: params[name] * _along(by_name[name], of) for name, of in factors.items()}


def _in_turn(batches: Batch, steps: int) -> Batch:
    """`steps` batches: those given, again and again."""
    count = batches[0].shape[0]
    return jax.tree.map(lambda a: a[jnp.arange(steps) % count], batches)
