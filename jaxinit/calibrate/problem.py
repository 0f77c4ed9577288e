"""What every calibration is given and gives back, and the numbers that several of them need."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from jaxinit.signals import trace
from jaxinit.spec import Leaf, sampling_dtype

Params: TypeAlias = dict[str, Array]
Factors: TypeAlias = dict[str, Float[Array, " copies"]]
Batch: TypeAlias = tuple[Array, Array]

SMALLEST_FACTOR = 0.01  # of MetaInit and GradInit, so that no step makes a kernel zero or negative


class Problem(NamedTuple):
    """What is calibrated: the model's parameters, its function, and the loss that it will be
    trained on.

    `apply(params, x)` gives the outputs, `loss(outputs, y)` their mean loss; `optimizer` is what
    will train it. `cost(params, batch)` goes in the place of both where the loss sees more than
    outputs and y.
    """

    leaves: tuple[Leaf, ...]
    apply: Callable[[Params, Array], Array]
    loss: Callable[..., Array]
    optimizer: str = "sgd"
    cost: Callable[[Params, Batch], Array] | None = None

    @property
    def kernels(self) -> dict[str, Leaf]:
        """The parameters that have factors, by name."""
        return {leaf.name: leaf for leaf in self.leaves if leaf.is_kernel}

    def loss_of(self, params: Params, batch: Batch) -> Array:
        if self.cost is not None:
            return self.cost(params, batch)
        x, y = batch
        outputs = self.apply(params, x)
        return self.loss(outputs, y)

    def rescaled(self, params: Params, factors: Factors) -> Params:
        """The parameters with every kernel's copies multiplied by their factors, in its dtype."""
        kernels = self.kernels
        rescaled = dict(params)
        for name, by_copy in factors.items():
            kernel = params[name]
            # Rounded once: the factor itself would be rounded too in a narrow dtype.
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


def check_count(calibration: str, argument: str, count: int) -> None:
    """Raises: ValueError for a number of passes or steps below 1."""
    if count < 1:
        raise ValueError(
            f"{calibration}: {argument} must be 1 or more, got {count}; without any nothing is "
            "calibrated"
        )


def factors_of_one(kernels: dict[str, Leaf], params: Params) -> Factors:
    """A factor of 1 for every copy, in float32, or wider where the parameter is."""
    ones = {}
    for name, leaf in kernels.items():
        wide = sampling_dtype(params[name].dtype)
        real = jnp.finfo(wide).dtype  # a complex kernel has real factors
        ones[name] = jnp.ones(leaf.copies, real)
    return ones


def unscalable(
    calibration: str, kernels: dict[str, Leaf], params: Params
) -> tuple[dict[str, Array], dict[str, Float[Array, " copies"]]]:
    """Why kernels cannot be scaled, and whether so; and their norms by copy, 1 where there is none
    to divide by."""
    failures = {}
    norms = {}
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


def not_finite(calibration: str, report: dict[str, Array]) -> dict[str, Array]:
    """Which numbers of a report are not finite, as failures."""
    failures = {}
    for name, number in report.items():
        reason = f"{calibration}: {name} is not finite; start smaller, or look at the data"
        failures[reason] = ~jnp.isfinite(number)
    return failures


def sum_of(term: Callable[[Array], Array], tree: Any) -> Float[Array, ""]:
    """The sum of `term` over all entries of a tree, in float32, or wider where an array is."""
    terms = []
    for array in jax.tree.leaves(tree):
        wide = array.astype(sampling_dtype(array.dtype))
        terms.append(term(wide))
    widest = max((array.dtype for array in terms), key=_item_size)
    sums = [jnp.sum(array).astype(widest) for array in terms]
    return jnp.sum(jnp.stack(sums))


def mean_over(
    batches: Batch, measure: Callable[[Factors, Batch], Array], factors: Factors
) -> Float[Array, ""]:
    """The mean of `measure(factors, batch)` over the batches, one after another, so that memory
    does not grow with their number."""

    def measured(batch: Batch) -> Array:
        return measure(factors, batch)

    by_batch = jax.lax.map(measured, batches)
    return jnp.mean(by_batch)


def in_turn(batches: Batch, steps: int) -> Batch:
    """`steps` batches: those given, again and again."""
    count = batches[0].shape[0]
    order = jnp.arange(steps) % count
    return jax.tree.map(lambda array: array[order], batches)


def _per_entry(leaf: Leaf, by_copy: Array) -> Array:
    """A number for each copy, in the parameter's shape."""
    return jnp.broadcast_to(by_copy.reshape(leaf.copy_shape), leaf.shape)


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
    norms = unit * jnp.sqrt(jnp.where(usable, squares, 1))
    return jnp.where(usable, norms, 1)


def _item_size(dtype: np.dtype) -> int:
    return dtype.itemsize
