"""Singular values of Jacobians: of a whole network, and from one layer to the next.

    apply, parameters, examples -> singular values of each example's Jacobian

They are NumPy arrays on the host, where the decompositions are made. Jacobians of a recurrent
network between its steps are in `through_time`.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.sparse.linalg import LinearOperator, svds

from jaxinit.signals import trace
from jaxinit.spec import Leaf

Params: TypeAlias = dict[str, Array]

EXACT = 256  # inputs or outputs up to which a Jacobian is computed whole


def jacobian_singular_values(
    apply: Callable[[Params, Array], Array], params: Params, x: Array, count: int | None = None
) -> np.ndarray:
    """Singular values of the input-output Jacobian dy/dx of each example, largest first.

    Exact, all of them, where inputs and outputs have at most 256 entries each or `count` is None;
    else the `count` largest by Lanczos iteration on products with the Jacobian and its transpose.
    Shapes: x `[examples, ...]`; result `[examples, min(count, inputs, outputs)]`.
    Raises: ValueError for a batch without examples, or a count below 1.
    """
    if x.shape[0] < 1:
        raise ValueError(f"a Jacobian needs one example or more, got a batch of shape {x.shape}")
    if count is not None and count < 1:
        raise ValueError(f"count must be 1 or more singular values, got {count}")

    def of_example(example: Array) -> Array:
        return apply(params, example[None])[0].reshape(-1)

    inputs = int(np.prod(x.shape[1:]))
    outputs = jax.eval_shape(of_example, x[0]).shape[0]
    small = max(inputs, outputs) <= EXACT
    if count is None or small or count >= min(inputs, outputs):

        def jacobian(example: Array) -> Array:
            return jax.jacrev(of_example)(example).reshape(outputs, inputs)

        whole = jax.jit(jax.vmap(jacobian))(x)
        return np.linalg.svd(np.asarray(whole), compute_uv=False)[:, :count]
    return _largest_singular_values(of_example, x, outputs, count)


def _largest_singular_values(
    function: Callable[[Array], Array], x: Array, outputs: int, count: int
) -> np.ndarray:
    """The largest singular values of a function's Jacobian at each example, by Lanczos iteration
    from products with it."""

    def back(example: Array, dy: Array) -> Array:
        return jax.vjp(function, example)[1](dy)[0]

    def forth(example: Array, dx: Array) -> Array:
        # The transpose of the transpose, and not a jvp: backward passes that are written by hand
        # have none.
        zero = jnp.zeros(outputs, example.dtype)
        return jax.vjp(lambda dy: back(example, dy), zero)[1](dx)[0]

    back_compiled = jax.jit(back)
    forth_compiled = jax.jit(forth)
    make_operator: Any = LinearOperator  # SciPy's stubs know neither of its arguments' types
    largest: Any = svds
    by_example = []
    for example in x:

        def matvec(v: np.ndarray, example: Array = example) -> np.ndarray:
            dx = jnp.asarray(v, example.dtype).reshape(example.shape)
            return np.asarray(forth_compiled(example, dx))

        def rmatvec(u: np.ndarray, example: Array = example) -> np.ndarray:
            dy = jnp.asarray(u, example.dtype).reshape(-1)
            return np.asarray(back_compiled(example, dy)).reshape(-1)

        operator = make_operator(
            (outputs, example.size), matvec=matvec, rmatvec=rmatvec, dtype=np.float32
        )
        values = largest(operator, k=count, return_singular_vectors=False, random_state=0)
        by_example.append(np.sort(values)[::-1])
    return np.stack(by_example)


def layer_jacobian_singular_values(
    apply: Callable[[Params, Array], Array],
    leaves: Sequence[Leaf],
    params: Params,
    x: Array,
    slopes: Callable[[Array], Array],
) -> dict[str, np.ndarray]:
    """Singular values of dz^{i+1}/dz^i = diag(phi'(z^i)) W^{i+1}, for every hidden kernel and
    example, largest first.

    `slopes` gives phi' from phi(z), as `models.bptt.SLOPES` does; z is the pre-activation.
    Shapes: x `[examples, ...]`; results `[examples, min(inputs, outputs)]`.
    Assumes kernels `io` that multiply the activations of the layer before.
    Source: Glorot & Bengio (2010), section 4.2.1.
    """
    hidden = tuple(leaf for leaf in leaves if leaf.dims == "io" and leaf.role == "hidden")
    _, sites = trace.watched(apply, hidden, lambda entries: entries, params, None, x)
    by_kernel = {}
    for site in sites:
        kernel = np.asarray(params[site.name])
        activation = site.given.reshape(-1, kernel.shape[0])
        phi_slopes = np.asarray(slopes(activation))
        jacobians = phi_slopes[:, :, None] * kernel
        by_kernel[site.name] = np.linalg.svd(jacobians, compute_uv=False)
    return by_kernel
