"""Calibrations: what corrects a start by looking at data, after the draw and before training.

    (problem, parameters, batches) -> parameters, and what is worth knowing of them

Each only rescales: a kernel is multiplied by one factor for each of its independent copies (gates,
heads), so that the law of a scheme keeps its shape (`admin` rescales the stream and no kernel). All
are pure: they can be jitted and mapped over seeds. `CALIBRATIONS` is the table of names; a study's
`orthogonal+lsuv` is the scheme `orthogonal`, calibrated by `lsuv`.

A start that a calibration cannot treat raises ValueError, with the parameter and the reason. Inside
`jit` no value is known: `Calibrated.failures` then holds what has to be checked outside
(`checked`).
"""

from collections.abc import Callable
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

    def loss_of(self, params: Params, batch: Batch) -> Array:
        x, y = batch
        return self.loss(self.apply(params, x), y)


class Calibrated(NamedTuple):
    """The calibrated parameters, the factor of each kernel, and named numbers about how it went.

    dtypes: each parameter keeps its own; factors are float32, or wider where a parameter is.
    `failures` says of each reason why the start cannot be treated, with the name of a parameter,
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
    factors, moments, rounds = _lsuv(problem, params, together, tolerance, passes)
    variances = jnp.concatenate([of.variance for of in moments.values()])
    report = {"variance_low": variances.min(), "variance_high": variances.max(), "passes": rounds}
    failures = {}
    for name, of in moments.items():
        finite = jnp.isfinite(of.mean_square)
        failures[
            f"lsuv: the product with {name!r} is not finite; start smaller, or look at the data"
        ] = ~finite
        failures[
            f"lsuv: the product with {name!r} has variance 0, which no factor makes 1: the "
            "parameter is zero, or what it multiplies is zero or constant; start it otherwise, or "
            "leave lsuv out"
        ] = finite & ~_varies(of)
    skipped = [leaf.name for leaf in problem.leaves if leaf.is_kernel and leaf.name not in moments]
    report |= {f"skipped {name}": jnp.ones(()) for name in skipped}
    if x.shape[0] > 1:
        alone = jax.lax.map(lambda batch: _lsuv(problem, params, batch, tolerance, passes)[0], x)
        report["spread"] = jnp.max(
            jnp.stack([jnp.max(jnp.std(jnp.log(of), axis=0)) for of in alone.values()])
        )
    return checked(Calibrated(_stretched(problem, params, factors), factors, report, failures))


def _lsuv(
    problem: Problem, params: Params, x: Array, tolerance: float, passes: int
) -> tuple[Factors, dict[str, trace.Moments], Array]:
    def measured(factors: Factors) -> dict[str, trace.Moments]:
        return trace.products(
            problem.apply, problem.leaves, _stretched(problem, params, factors), x
        )[1]

    kernels = {leaf.name: leaf for leaf in problem.leaves if leaf.is_kernel}
    order = [
        name
        for name in trace.products(problem.apply, problem.leaves, params, x)[1]
        if name in kernels
    ]
    missing = sorted(name for name in set(kernels) - set(order) if kernels[name].role not in TABLES)
    if missing:
        raise ValueError(
            f"lsuv found no product with {missing}, so it cannot measure what they do; calibrate a "
            "model that uses them in a matrix product or a convolution, outside of branches and "
            "while loops"
        )
    ones = _ones({name: kernels[name] for name in order}, params)

    def one_pass(state: tuple[Factors, Array, Array]) -> tuple[Factors, Array, Array]:
        factors, _, rounds = state

        def one_kernel(k: Array, factors: Factors) -> Factors:
            moments = measured(factors)

            def correct(name: str) -> Array:
                variance = jnp.where(_varies(moments[name]), moments[name].variance, 1)
                return factors[name] * jax.lax.rsqrt(variance).astype(factors[name].dtype)

            return factors | {
                name: jnp.where(k == place, correct(name), factors[name])
                for place, name in enumerate(order)
            }

        factors = jax.lax.fori_loop(0, len(order), one_kernel, factors)
        return factors, _off(measured(factors)), rounds + 1

    def going_on(state: tuple[Factors, Array, Array]) -> Array:
        return (state[1] > tolerance) & (state[2] < passes)

    far = jnp.full((), tolerance + 1, jnp.float32)
    factors, _, rounds = jax.lax.while_loop(
        going_on, one_pass, (ones, far, jnp.zeros((), jnp.int32))
    )
    after = measured(factors)
    return factors, {name: after[name] for name in order}, rounds


def _varies(moments: trace.Moments) -> Bool[Array, " copies"]:
    """Whether a product has a variance that is more than the rounding error of its mean square, and
    finite."""
    finite = jnp.isfinite(moments.mean_square)
    return finite & (moments.variance > ROUNDING * jnp.where(finite, moments.mean_square, 0))


def _off(moments: dict[str, trace.Moments]) -> Array:
    """How far from 1 the variance of a product is, at most; products that do not vary aside."""
    off = [jnp.where(_varies(of), jnp.abs(of.variance - 1), 0) for of in moments.values()]
    return jnp.max(jnp.concatenate(off))


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
    half_square = lambda p: _total(lambda g: g**2, jax.grad(loss)(p)) / 2
    slopes, curved = jax.grad(loss)(params), jax.grad(half_square)(params)  # g and H g

    def off(g: Array, hg: Array) -> Array:
        sign = jax.lax.stop_gradient(jnp.where(g >= 0, jnp.ones_like(g), -jnp.ones_like(g)))
        return jnp.abs((g - hg) / (g + eps * sign) - 1)

    count = sum(g.size for g in jax.tree.leaves(slopes))
    return _total(lambda of: of, jax.tree.map(off, slopes, curved)) / count


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
    step. Directions stay. Shapes: `batches` is (x, y), `[count, batch, ...]`, taken in turn.
    Report: `quotient_before` and `quotient_after`, each the mean over the batches.
    Assumes that a norm never needs to fall below a hundredth of its start, which it does not.
    Raises: ValueError for a kernel that is zero, which has no direction to keep, or not finite, by
    name, and for a quotient that is not finite.
    Source: Dauphin & Schoenholz (2019), algorithm 1. Departures: the norm of each copy moves by
    itself; the data is the task's, where the paper also takes random inputs and labels; the floor.
    """
    _check_count("metainit", "steps", steps)
    kernels = {leaf.name: leaf for leaf in problem.leaves if leaf.is_kernel}
    failures, start = _unscalable("metainit", kernels, params)
    quotient = lambda factors, batch: gradient_quotient(
        lambda p: problem.loss_of(p, batch), _stretched(problem, params, factors)
    )

    def step(state: tuple[Factors, Factors], batch: Batch) -> tuple[tuple[Factors, Factors], None]:
        factors, speed = state
        slopes = jax.grad(quotient)(
            factors, batch
        )  # by factor: the sign is that of the slope by norm
        speed = jax.tree.map(
            lambda v, g: momentum * v - rate * jnp.sign(jnp.nan_to_num(g)), speed, slopes
        )
        moved = {
            name: jnp.maximum(of + speed[name] / start[name], 0.01) for name, of in factors.items()
        }
        return (moved, speed), None

    ones = _ones(kernels, params)
    (factors, _), _ = jax.lax.scan(
        step, (ones, jax.tree.map(jnp.zeros_like, ones)), _in_turn(batches, steps)
    )
    mean = lambda factors: jnp.mean(jax.lax.map(lambda batch: quotient(factors, batch), batches))
    report = {"quotient_before": mean(ones), "quotient_after": mean(factors)}
    failures |= _not_finite("metainit", report)
    return checked(Calibrated(_stretched(problem, params, factors), factors, report, failures))


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
    and slopes clipped under SGD), so that a start that is wrong by orders of magnitude is reached
    too; only kernels have factors, since biases start at 0.
    """
    _check_count("gradinit", "steps", steps)
    adam = problem.optimizer == "adam"
    length = (0.001 if adam else 0.1) if eta is None else eta
    limit = (1000.0 if adam else 1.0) if bound is None else bound
    kernels = {leaf.name: leaf for leaf in problem.leaves if leaf.is_kernel}
    ones = _ones(kernels, params)
    failures, _ = _unscalable("gradinit", kernels, params)
    slopes_of = lambda factors, batch: jax.grad(problem.loss_of)(
        _stretched(problem, params, factors), batch
    )

    def norm(factors: Factors, batch: Batch) -> Array:
        slopes = slopes_of(factors, batch)
        if adam:
            return _total(jnp.abs, slopes)
        return jnp.sqrt(_total(lambda g: g**2, slopes) + 1e-30)

    def after_step(factors: Factors, batch: Batch, other: Batch) -> Array:
        direction = slopes_of(factors, batch)
        if adam:
            direction = jax.tree.map(jnp.sign, direction)
        moved = jax.tree.map(
            lambda w, d: w - length * d, _stretched(problem, params, factors), direction
        )
        return problem.loss_of(moved, other)

    # tiny slopes are slopes too; and a start that is far off has large ones, which must be
    # forgotten soon
    updates = optax.adam(rate, b2=0.99, eps=1e-20)

    def change(slopes: Factors, factors: Factors, moments: Any) -> Any:
        by_log = jax.tree.map(lambda slope, f: jnp.nan_to_num(slope * f), slopes, factors)
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            return updates.update(by_log, moments)

    def step(state: Any, batch: Batch) -> tuple[Any, None]:
        factors, of_loss, of_norm, before = state

        def within() -> Any:
            by_log, moments = change(jax.grad(after_step)(factors, before, batch), factors, of_loss)
            return by_log, moments, of_norm

        def beyond() -> Any:
            by_log, moments = change(jax.grad(norm)(factors, before), factors, of_norm)
            return by_log, of_loss, moments

        by_log, of_loss, of_norm = jax.lax.cond(norm(factors, before) > limit, beyond, within)
        factors = jax.tree.map(lambda f, c: jnp.maximum(f * jnp.exp(c), 0.01), factors, by_log)
        return (factors, of_loss, of_norm, batch), None

    first = jax.tree.map(lambda a: a[-1], batches)
    state = ones, updates.init(ones), updates.init(ones), first
    (factors, *_), _ = jax.lax.scan(step, state, _in_turn(batches, steps))
    mean = lambda of, factors: jnp.mean(jax.lax.map(lambda batch: of(factors, batch), batches))
    loss = lambda factors, batch: problem.loss_of(_stretched(problem, params, factors), batch)
    report = {
        "loss_before": mean(loss, ones),
        "loss_after": mean(loss, factors),
        "norm_before": mean(norm, ones),
        "norm_after": mean(norm, factors),
    }
    failures |= _not_finite("gradinit", report)
    return checked(Calibrated(_stretched(problem, params, factors), factors, report, failures))


def admin(problem: Problem, params: Params, batches: Batch) -> Calibrated:
    """Admin: scales of a post-norm stream by a profile of what its branches add.

    omega_k^2 = 1 + sum over j < k of Var f_j, with f_j the output of branch j in one forward pass
    at omega = 1; the stream is then x_k = N(omega_k x_{k-1} + f_k).
    Shapes: `batches` is (x, y), `[count, batch, ...]`; y is not used. Report: `omega_last`, the
    scale before the last branch. Factors: none of a kernel.
    Assumes a model with learned scales of the stream (role `skip`, option `learned_skip`), one
    before each branch, in the order of the data. Raises: ValueError for a model without.
    Source: Liu et al. (2020), section 4.2. Departure: the stream before the first branch counts
    with a variance of 1."""
    skips = {leaf.name: leaf for leaf in problem.leaves if leaf.role == "skip"}
    if not skips:
        raise ValueError(
            "admin needs learned scales of the stream (the role skip); give the model learned_skip"
        )
    at_one = params | {name: jnp.ones_like(params[name]) for name in skips}
    x = batches[0].reshape(-1, *batches[0].shape[2:])
    moments = trace.products(problem.apply, problem.leaves, at_one, x)[1]
    last = {leaf.name for leaf in problem.leaves if leaf.role in ("attention_out", "ffn_out")}
    branches = [name for name in moments if name in last]
    layer = {leaf.name: leaf.layer for leaf in problem.leaves}
    omega, found = jnp.ones(()), dict(at_one)
    for skip, branch in zip(
        sorted(skips, key=lambda name: (layer[name], name)), branches, strict=True
    ):
        found[skip] = jnp.broadcast_to(jnp.sqrt(omega), params[skip].shape)
        omega = omega + jnp.mean(moments[branch].variance)
    report = {"omega_last": jnp.sqrt(omega)}
    return checked(Calibrated(found, {}, report, _not_finite("admin", report)))


CALIBRATIONS: dict[str, Callable[[Problem, Params, Batch], Calibrated]] = {
    "lsuv": lsuv,
    "metainit": metainit,
    "gradinit": gradinit,
    "admin": admin,
}


def _along(leaf: Leaf, of: Array) -> Array:
    """A number for each copy, in a shape that multiplies the parameter."""
    return jnp.broadcast_to(of.reshape(leaf.copy_shape), leaf.shape)


def _ones(kernels: dict[str, Leaf], params: Params) -> Factors:
    """A factor of 1 for every copy, in float32, or wider where the parameter is."""
    real = lambda w: jnp.finfo(sampling_dtype(w.dtype)).dtype
    return {name: jnp.ones(leaf.copies, real(params[name])) for name, leaf in kernels.items()}


def _unscalable(
    calibration: str, kernels: dict[str, Leaf], params: Params
) -> tuple[dict[str, Array], dict[str, Float[Array, " copies"]]]:
    """Why kernels cannot be scaled, and whether so; and their norms by copy, 1 where there is none
    to divide by."""
    failures, norms = {}, {}
    for name, leaf in kernels.items():
        wide = params[name].astype(sampling_dtype(params[name].dtype))
        largest = trace.by_copy(lambda entries: jnp.max(jnp.abs(entries), 1), leaf, wide)
        finite = jnp.isfinite(largest)
        failures[f"{calibration}: {name!r} is not finite; start it smaller"] = ~finite
        failures[
            f"{calibration}: {name!r} is zero, and only its size would change; start it otherwise, "
            f"or leave {calibration} out"
        ] = largest == 0
        usable = finite & (largest > 0)
        unit = jnp.where(usable, largest, 1)
        # by the largest entry first: squares of small ones would underflow
        size = trace.by_copy(
            lambda entries, unit=unit: jnp.sum((entries / unit[:, None]) ** 2, 1), leaf, wide
        )
        norms[name] = jnp.where(usable, unit * jnp.sqrt(jnp.where(usable, size, 1)), 1)
    return failures, norms


def _not_finite(calibration: str, report: dict[str, Array]) -> dict[str, Array]:
    """Which numbers of a report are not finite, as failures."""
    advice = "start smaller, or look at the data"
    return {
        f"{calibration}: {name} is not finite; {advice}": ~jnp.isfinite(of)
        for name, of in report.items()
    }


def _stretched(problem: Problem, params: Params, factors: Factors) -> Params:
    by_name = {leaf.name: leaf for leaf in problem.leaves}
    stretched = dict(params)
    for name, of in factors.items():
        wide = params[name].astype(sampling_dtype(params[name].dtype))
        stretched[name] = (wide * _along(by_name[name], of).astype(wide.dtype)).astype(
            params[name].dtype
        )
    return stretched


def _total(of: Callable[[Array], Array], tree: Any) -> Float[Array, ""]:
    """The sum of `of` over all entries of a tree, in float32, or wider where an array is."""
    leaves = [of(array.astype(sampling_dtype(array.dtype))) for array in jax.tree.leaves(tree)]
    widest = max((array.dtype for array in leaves), key=lambda dtype: dtype.itemsize)
    return jnp.sum(jnp.stack([jnp.sum(array).astype(widest) for array in leaves]))


def _check_count(calibration: str, argument: str, count: int) -> None:
    if count < 1:
        raise ValueError(
            f"{calibration}: {argument} must be 1 or more, got {count}; without any nothing is "
            "calibrated"
        )


def _in_turn(batches: Batch, steps: int) -> Batch:
    """`steps` batches: those given, again and again."""
    count = batches[0].shape[0]
    return jax.tree.map(lambda a: a[jnp.arange(steps) % count], batches)
