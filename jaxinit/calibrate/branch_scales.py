"""Admin: scales of a residual stream by a profile of what its branches add to it."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinit.calibrate.problem import Batch, Calibrated, Params, Problem, checked, not_finite
from jaxinit.signals import trace
from jaxinit.spec import Leaf

BRANCH_ENDS = ("attention_out", "ffn_out")  # roles of the last kernel of a branch


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
    # Inside a layer `attended` comes before `fed`, by name as in the data.
    skips.sort(key=_layer_and_name)
    at_one = dict(params)
    for skip in skips:
        at_one[skip.name] = jnp.ones_like(params[skip.name])
    variances = _branch_variances(problem, at_one, batches[0])

    stream_variance = jnp.ones(())
    scaled = dict(at_one)
    # Branches add up as if they were independent: the variance of a sum is the sum of variances.
    for skip, branch_variance in zip(skips, variances, strict=True):
        omega = jnp.sqrt(stream_variance)
        scaled[skip.name] = jnp.broadcast_to(omega, params[skip.name].shape)
        stream_variance = stream_variance + branch_variance

    report = {"omega_last": jnp.sqrt(stream_variance)}
    return checked(Calibrated(scaled, {}, report, not_finite("admin", report)))


def _branch_variances(problem: Problem, params: Params, x: Array) -> list[Float[Array, ""]]:
    """The variance of what each branch adds, in the order of the data."""
    ends = {leaf.name for leaf in problem.leaves if leaf.role in BRANCH_ENDS}
    examples = x.reshape(-1, *x.shape[2:])
    _, moments = trace.products(problem.apply, problem.leaves, params, examples)
    variances = []
    for name, product in moments.items():
        if name in ends:
            variances.append(jnp.mean(product.variance))
    return variances


def _layer_and_name(leaf: Leaf) -> tuple[int, str]:
    return leaf.layer, leaf.name
