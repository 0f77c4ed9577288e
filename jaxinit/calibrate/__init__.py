"""Calibrations: rescale initial parameters by what they do to data, before training.

    (problem, parameters, batches) -> parameters, and what is worth knowing of them

Each only rescales: a kernel is multiplied by one factor for each of its independent copies (gates,
heads), so that the law of a scheme keeps its shape (`admin` rescales the residual stream and no
kernel). All are pure: they can be jitted and mapped over seeds. `CALIBRATIONS` is the table of
names; a study's `orthogonal+lsuv` is the scheme `orthogonal`, calibrated by `lsuv`.

Parameters that a calibration cannot treat raise ValueError, with the parameter and the reason.
Inside `jit` no value is known: `Calibrated.failures` then holds what has to be checked outside
(`checked`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from jaxinit.signals import trace
from jaxinit.spec import Leaf, sampling_dtype

Params: TypeAlias = dict[str, Array]
Factors: TypeAlias = dict[str, Float[Array, " copies"]]
Batch: TypeAlias = tuple[Array, Array]

TABLES = ("embedding", "position")  # roles of tables whose rows may be added without a product
ROUNDING = 1e-5  # a variance below this share of the mean square is rounding error in float32
SMALLEST_FACTOR = 0.01  # of MetaInit and GradInit, so that no step makes a kernel zero or negative


class Problem(NamedTuple):
    """What is calibrated: the model's parameters, its function, and the loss that it will be
    trained on.

    `apply(params, x)` gives the outputs, `loss(outputs, y)` their mean loss; `optimizer` is what
    will train it.
    """

    leaves: tuple[Leaf, ...]
    apply: Callable[[Params, Array], Array]
    loss: Callable[[Array, Array], Array]
    optimizer: str = "sgd"

    @property
    def kernels(self) -> dict[str, Leaf]:
        """The parameters that have factors, by name."""
        return {leaf.name: leaf for leaf in self.leaves if leaf.is_kernel}

    def loss_of(self, params: Params, batch: Batch) -> Array:
        x, y = batch
        return self.loss(self.apply(params, x), y)

    def rescaled(self, params: Params, factors: Factors) -> Params:
        """The parameters with every kernel's copies multiplied by their factors, in its dtype."""
        kernels = self.kernels
        rescaled = dict(params)
        for name, by_copy in factors.items():
            kernel = params[name]
            wide = kernel.astype(sampling_dtype(kernel.dtype))
            factor = _per_entry(kernels[name], by_copy).astype(wide.dtype)
            rescaled[name] = (wide * factor).astype(kernel.dtype)
        return rescaled


class Calibrated(NamedTuple):
    """The calibrated parameters, the factor of each kernel, and named numbers about how it went.

    dtypes: each parameter keeps its own; factors are float32, or wider where a parameter is.
    `failures` has, for each reason why parameters cannot be treated (a sentence that names one),
    whether it holds.
    """

    params: Params
    factors: Factors
    report: dict[str, Array]
    failures: dict[str, Any]


def checked(done: Calibrated) -> Calibrated:
    """`done` as it is, unless its values are known and one of its failures holds.

    Raises: ValueError with all reasons that hold, of any seed if there are several.
    """
    if any(isinstance(holds, Tracer) for holds in done.failures.values()):
        return done
    reasons = [reason for reason, holds in done.failures.items() if np.any(holds)]
    if reasons:
        raise ValueError("; ".join(reasons))
    return done


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
    _check_count("lsuv", "passes", passes)
    x = batches[0]
    together = x.reshape(-1, *x.shape[2:])
    kernels = _measured_kernels(problem, params, together)
    factors, moments, rounds = kernels.calibrate(tolerance, passes)
    variances = jnp.concatenate([kernel.variance for kernel in moments.values()])
    report = {"variance_low": variances.min(), "variance_high": variances.max(), "passes": rounds}
    for name in problem.kernels:
        if name not in moments:
            report[f"skipped {name}"] = jnp.ones(())
    if x.shape[0] > 1:
        report["spread"] = _spread(problem, params, x, tolerance, passes)
    failures = _failures_of_variances(moments)
    return checked(Calibrated(problem.rescaled(params, factors), factors, report, failures))


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
        problem, rescaled = self.problem, self.problem.rescaled(self.params, factors)
        products = trace.products(problem.apply, problem.leaves, rescaled, self.x)[1]
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

        def one_pass(state: tuple[Factors, Array, Array]) -> tuple[Factors, Array, Array]:
            factors, _, rounds = state
            factors = self.correct_all(factors)
            return factors, _largest_deviation(self.moments(factors)), rounds + 1

        def goes_on(state: tuple[Factors, Array, Array]) -> Array:
            _, deviation, rounds = state
            return (deviation > tolerance) & (rounds < passes)

        kernels = self.problem.kernels
        ones = _ones({name: kernels[name] for name in self.names}, self.params)
        far = jnp.full((), tolerance + 1, jnp.float32)  # so that there is a first pass
        state = (ones, far, jnp.zeros((), jnp.int32))
        factors, _, rounds = jax.lax.while_loop(goes_on, one_pass, state)
        return factors, self.moments(factors), rounds


def _measured_kernels(problem: Problem, params: Params, x: Array) -> _MeasuredKernels:
    """The kernels whose products can be measured. Raises: ValueError where one that is not a table
    has none."""
    kernels = problem.kernels
    products = trace.products(problem.apply, problem.leaves, params, x)[1]
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
        return _measured_kernels(problem, params, batch).calibrate(tolerance, passes)[0]

    by_batch = jax.lax.map(factors_of, x)
    deviations = []
    for factors in by_batch.values():
        deviations.append(jnp.max(jnp.std(jnp.log(factors), axis=0)))
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
    return finite & (moments.variance > ROUNDING * jnp.where(finite, moments.mean_square, 0))


def _largest_deviation(moments: dict[str, trace.Moments]) -> Float[Array, ""]:
    """How far from 1 the variance of a product is, at most; products that do not vary aside."""
    deviations = []
    for product in moments.values():
        deviations.append(jnp.where(_varies(product), jnp.abs(product.variance - 1), 0))
    return jnp.max(jnp.concatenate(deviations))


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
        return _sum_of(jnp.square, jax.grad(loss)(params)) / 2

    def deviation(g: Array, hg: Array) -> Array:
        # The sign is a constant when MetaInit differentiates the quotient.
        sign = jax.lax.stop_gradient(jnp.where(g >= 0, jnp.ones_like(g), -jnp.ones_like(g)))
        return jnp.abs((g - hg) / (g + eps * sign) - 1)

    gradient = jax.grad(loss)(params)
    # The gradient of |g|^2 / 2 is H g: by reverse mode twice, since hand-written backward passes
    # have no forward mode.
    hessian_gradient = jax.grad(half_square)(params)
    deviations = jax.tree.map(deviation, gradient, hessian_gradient)
    count = sum(g.size for g in jax.tree.leaves(gradient))
    return _sum_of(lambda x: x, deviations) / count


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
    _check_count("metainit", "steps", steps)
    failures, norms = _unscalable("metainit", problem.kernels, params)

    def quotient(factors: Factors, batch: Batch) -> Array:
        rescaled = problem.rescaled(params, factors)
        return gradient_quotient(lambda p: problem.loss_of(p, batch), rescaled)

    def accelerated(velocity: Array, slope: Array) -> Array:
        return momentum * velocity - rate * jnp.sign(jnp.nan_to_num(slope))

    def step(state: tuple[Factors, Factors], batch: Batch) -> tuple[tuple[Factors, Factors], None]:
        factors, velocity = state
        # By factor and not by norm, since a norm is its factor times a positive constant: the sign
        # is the same.
        slopes = jax.grad(quotient)(factors, batch)
        velocity = jax.tree.map(accelerated, velocity, slopes)
        moved = {}
        for name, factor in factors.items():
            moved[name] = jnp.maximum(factor + velocity[name] / norms[name], SMALLEST_FACTOR)
        return (moved, velocity), None

    ones = _ones(problem.kernels, params)
    at_rest = jax.tree.map(jnp.zeros_like, ones)
    (factors, _), _ = jax.lax.scan(step, (ones, at_rest), _in_turn(batches, steps))
    report = {
        "quotient_before": _mean_over(batches, quotient, ones),
        "quotient_after": _mean_over(batches, quotient, factors),
    }
    failures |= _not_finite("metainit", report)
    return checked(Calibrated(problem.rescaled(params, factors), factors, report, failures))


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
    Raises: ValueError for a kernel that is zero, which no factor changes, or not finite, by name,
    and for a loss or a norm that is not finite.
    Source: Zhu et al. (2021), algorithm 1, and their code for eta and the bounds, and for moments
    apart under Adam. Departures: the two batches share nothing, where the paper's share half;
    logarithms of the factors, and a decay of 0.99 for their squares (there 0.98 under Adam, 0.999
    and slopes clipped under SGD), so that parameters that are wrong by orders of magnitude are
    corrected too; only kernels have factors, since biases are initialized to 0.
    """
    _check_count("gradinit", "steps", steps)
    adam = problem.optimizer == "adam"
    if eta is None:
        eta = 0.001 if adam else 0.1
    if bound is None:
        bound = 1000.0 if adam else 1.0
    first_step = _FirstStep(problem, params, eta, by_sign=adam)
    search = _GradInitSearch(first_step, rate, bound)
    ones = _ones(problem.kernels, params)
    failures, _ = _unscalable("gradinit", problem.kernels, params)
    factors = search.run(ones, batches, steps)
    report = {
        "loss_before": _mean_over(batches, first_step.loss, ones),
        "loss_after": _mean_over(batches, first_step.loss, factors),
        "norm_before": _mean_over(batches, first_step.norm, ones),
        "norm_after": _mean_over(batches, first_step.norm, factors),
    }
    failures |= _not_finite("gradinit", report)
    return checked(Calibrated(problem.rescaled(params, factors), factors, report, failures))


@dataclass(frozen=True)
class _FirstStep:
    """The first step of training as a function of the kernels' factors: of length `eta`, along the
    gradient or, `by_sign`, as Adam's is, along its signs."""

    problem: Problem
    params: Params
    eta: float
    by_sign: bool

    def loss(self, factors: Factors, batch: Batch) -> Array:
        return self.problem.loss_of(self.problem.rescaled(self.params, factors), batch)

    def gradient(self, factors: Factors, batch: Batch) -> Params:
        """dL / d(f W), of all parameters."""
        return jax.grad(self.problem.loss_of)(self.problem.rescaled(self.params, factors), batch)

    def norm(self, factors: Factors, batch: Batch) -> Array:
        """The norm of the gradient that a step's length goes with: l1 for signs, else l2."""
        gradient = self.gradient(factors, batch)
        if self.by_sign:
            return _sum_of(jnp.abs, gradient)
        # The root has an infinite slope at 0.
        return jnp.sqrt(_sum_of(jnp.square, gradient) + 1e-30)

    def loss_after(self, factors: Factors, batch: Batch, next_batch: Batch) -> Array:
        """The loss on the next batch after a step on this one."""
        direction = self.gradient(factors, batch)
        if self.by_sign:
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
        last = jax.tree.map(lambda array: array[-1], batches)
        state = _GradInitState(factors, moments, moments, last)
        state, _ = jax.lax.scan(self.step, state, _in_turn(batches, steps))
        return state.factors

    def step(self, state: _GradInitState, batch: Batch) -> tuple[_GradInitState, None]:
        """One step: the gradient is of the batch before, the loss of this one."""
        factors, before = state.factors, state.batch

        def lower_loss() -> tuple[Factors, Any, Any]:
            slopes = jax.grad(self.first_step.loss_after)(factors, before, batch)
            changes, moments = self.changes(slopes, factors, state.loss_moments)
            return changes, moments, state.norm_moments

        def lower_norm() -> tuple[Factors, Any, Any]:
            slopes = jax.grad(self.first_step.norm)(factors, before)
            changes, moments = self.changes(slopes, factors, state.norm_moments)
            return changes, state.loss_moments, moments

        out_of_bound = self.first_step.norm(factors, before) > self.bound
        changes, loss_moments, norm_moments = jax.lax.cond(out_of_bound, lower_norm, lower_loss)

        def moved(factor: Array, change: Array) -> Array:
            return jnp.maximum(factor * jnp.exp(change), SMALLEST_FACTOR)

        factors = jax.tree.map(moved, factors, changes)
        return _GradInitState(factors, loss_moments, norm_moments, batch), None

    def changes(self, slopes: Factors, factors: Factors, moments: Any) -> tuple[Any, Any]:
        """Adam's changes of the logarithms of the factors, and its moments afterwards."""

        def by_logarithm(slope: Array, factor: Array) -> Array:
            return jnp.nan_to_num(slope * factor)

        by_log = jax.tree.map(by_logarithm, slopes, factors)
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            return self.adam.update(by_log, moments)


def admin(problem: Problem, params: Params, batches: Batch) -> Calibrated:
    """Admin: scales of a post-norm residual stream by a profile of what its branches add.

    omega_k^2 = 1 + sum over j < k of Var f_j, with f_j the output of branch j in one forward pass
    at omega = 1; the stream is then x_k = N(omega_k x_{k-1} + f_k).
    Shapes: `batches` is (x, y), `[count, batch, ...]`; y is not used.
    Report: `omega_last`, the scale before the last branch. Factors: none of a kernel.
    Assumes a model with learned scales of the stream (role `skip`, option `learned_skip`), one
    before each branch, in the order of the data.
    Raises: ValueError for a model without.
    Source: Liu et al. (2020), section 4.2. Departure: the stream before the first branch counts
    with a variance of 1.
    """
    skips = [leaf for leaf in problem.leaves if leaf.role == "skip"]
    if not skips:
        raise ValueError(
            "admin needs learned scales of the stream (the role skip); give the model learned_skip"
        )
    at_one = params | {leaf.name: jnp.ones_like(params[leaf.name]) for leaf in skips}
    x = batches[0].reshape(-1, *batches[0].shape[2:])
    moments = trace.products(problem.apply, problem.leaves, at_one, x)[1]
    last = {leaf.name for leaf in problem.leaves if leaf.role in ("attention_out", "ffn_out")}
    branches = [name for name in moments if name in last]
    # Inside a layer `attended` comes before `fed`, by name as in the data.
    skips.sort(key=lambda leaf: (leaf.layer, leaf.name))
    omega = jnp.ones(())  # squared: the variance of the stream so far
    scaled = dict(at_one)
    for skip, branch in zip(skips, branches, strict=True):
        scaled[skip.name] = jnp.broadcast_to(jnp.sqrt(omega), params[skip.name].shape)
        omega = omega + jnp.mean(moments[branch].variance)
    report = {"omega_last": jnp.sqrt(omega)}
    return checked(Calibrated(scaled, {}, report, _not_finite("admin", report)))


CALIBRATIONS: dict[str, Callable[[Problem, Params, Batch], Calibrated]] = {
    "lsuv": lsuv,
    "metainit": metainit,
    "gradinit": gradinit,
    "admin": admin,
}


def _per_entry(leaf: Leaf, by_copy: Array) -> Array:
    """A number for each copy, in the parameter's shape."""
    return jnp.broadcast_to(by_copy.reshape(leaf.copy_shape), leaf.shape)


def _ones(kernels: dict[str, Leaf], params: Params) -> Factors:
    """A factor of 1 for every copy, in float32, or wider where the parameter is."""
    ones = {}
    for name, leaf in kernels.items():
        real = jnp.finfo(sampling_dtype(params[name].dtype)).dtype
        ones[name] = jnp.ones(leaf.copies, real)
    return ones


def _unscalable(
    calibration: str, kernels: dict[str, Leaf], params: Params
) -> tuple[dict[str, Array], dict[str, Float[Array, " copies"]]]:
    """Why kernels cannot be scaled, and whether so; and their norms by copy, 1 where there is none
    to divide by."""
    failures, norms = {}, {}
    for name, leaf in kernels.items():
        wide = params[name].astype(sampling_dtype(params[name].dtype))
        largest = trace.by_copy(_largest_size, leaf, wide)
        finite = jnp.isfinite(largest)
        failures[f"{calibration}: {name!r} is not finite; start it smaller"] = ~finite
        failures[
            f"{calibration}: {name!r} is zero, and only its size would change; start it otherwise, "
            f"or leave {calibration} out"
        ] = largest == 0
        norms[name] = _norms(leaf, wide, largest, usable=finite & (largest > 0))
    return failures, norms


def _largest_size(entries: Float[Array, "copies entries"]) -> Float[Array, " copies"]:
    return jnp.max(jnp.abs(entries), 1)


def _norms(
    leaf: Leaf, kernel: Array, largest: Float[Array, " copies"], usable: Bool[Array, " copies"]
) -> Float[Array, " copies"]:
    """The norm of each copy, 1 where it is not usable; `largest` is the size of its largest
    entry."""
    unit = jnp.where(usable, largest, 1)

    def square_sum(entries: Array) -> Array:
        # In units of the largest entry, since the squares of small entries would underflow.
        return jnp.sum((entries / unit[:, None]) ** 2, 1)

    squares = trace.by_copy(square_sum, leaf, kernel)
    return jnp.where(usable, unit * jnp.sqrt(jnp.where(usable, squares, 1)), 1)


def _not_finite(calibration: str, report: dict[str, Array]) -> dict[str, Array]:
    """Which numbers of a report are not finite, as failures."""
    failures = {}
    for name, number in report.items():
        reason = f"{calibration}: {name} is not finite; start smaller, or look at the data"
        failures[reason] = ~jnp.isfinite(number)
    return failures


def _sum_of(term: Callable[[Array], Array], tree: Any) -> Float[Array, ""]:
    """The sum of `term` over all entries of a tree, in float32, or wider where an array is."""
    terms = [term(array.astype(sampling_dtype(array.dtype))) for array in jax.tree.leaves(tree)]
    widest = max((array.dtype for array in terms), key=lambda dtype: dtype.itemsize)
    return jnp.sum(jnp.stack([jnp.sum(array).astype(widest) for array in terms]))


def _mean_over(
    batches: Batch, measure: Callable[[Factors, Batch], Array], factors: Factors
) -> Float[Array, ""]:
    """The mean of `measure(factors, batch)` over the batches, one after another."""
    return jnp.mean(jax.lax.map(lambda batch: measure(factors, batch), batches))


def _check_count(calibration: str, argument: str, count: int) -> None:
    if count < 1:
        raise ValueError(
            f"{calibration}: {argument} must be 1 or more, got {count}; without any nothing is "
            "calibrated"
        )


def _in_turn(batches: Batch, steps: int) -> Batch:
    """`steps` batches: those given, again and again."""
    count = batches[0].shape[0]
    return jax.tree.map(lambda array: array[jnp.arange(steps) % count], batches)
