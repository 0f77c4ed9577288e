"""Small nets on digits to calibrate, and what their kernels and first steps do, in plain code."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from jaxinit import spec
from jaxinit.calibrate import Problem
from jaxinit.initializers import glorot_scheme
from jaxinit.introspect import functional
from jaxinit.models import MODELS, Transformer
from jaxinit.schemes import SCHEMES
from jaxinit.signals import trace
from jaxinit.spec import Leaf
from jaxinit.tasks import TASKS
from jaxinit.tasks.base import cross_entropy

DIGITS = TASKS["digits_rows"]()


ETA = {"sgd": 0.1, "adam": 0.001}


BOUND = {"sgd": 1.0, "adam": 1000.0}


def variances_in(problem: Problem) -> Callable[..., dict[str, Array]]:
    """The variances of a problem's products at its parameters on inputs, compiled."""

    @jax.jit
    def measure(params: dict[str, Array], x: Array) -> dict[str, Array]:
        products = trace.products(problem.apply, problem.leaves, params, x)[1]
        return {name: moments.variance for name, moments in products.items()}

    return measure


def variances(problem: Problem, params: dict[str, Array], x: Array) -> dict[str, np.ndarray]:
    return jax.tree.map(np.asarray, variances_in(problem)(params, x))


def deep(std: float) -> tuple[Problem, dict[str, Array], tuple[Array, Array]]:
    """A 20-layer tanh net on digits, initialized from N(0, std^2)."""
    leaves, apply, *_ = functional(lambda: MODELS["mlp"](64, 64, 10, layers=20, rngs=nnx.Rngs(0)))
    drawn = spec.draw(SCHEMES["small_normal"], jax.random.key(0), leaves)
    params = {name: w * (std / 0.01) for name, w in drawn.items()}
    order = jax.random.permutation(jax.random.key(3), 1280)[:512].reshape(8, 64)
    x, y = DIGITS.data["train_x"][order], DIGITS.data["train_y"][order]
    return Problem(leaves, apply, cross_entropy), params, (x, y)


def shallow(
    scale: float, optimizer: str, kind: str
) -> tuple[Problem, dict[str, Array], tuple[Array, Array]]:
    """A small net of a kind, its kernels `scale` times Glorot's, and eight batches."""
    order = jax.random.permutation(jax.random.key(3), 1280)[:512].reshape(8, 64)
    x, y = DIGITS.data["train_x"][order], DIGITS.data["train_y"][order]
    if kind == "cnn":
        leaves = (
            Leaf("first", (3, 3, 1, 8), "wwio", "hidden"),
            Leaf("second", (3, 3, 8, 16), "wwio", "hidden"),
            Leaf("readout", (16, 10), "io", "readout"),
        )

        def apply(p: dict[str, Array], x: Array) -> Array:
            for name in ("first", "second"):
                x = jax.lax.conv_general_dilated(
                    x, p[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = jax.nn.relu(x)
            return x.mean((1, 2)) @ p["readout"]

        x = x.reshape(8, 64, 8, 8, 1)
    elif kind == "mlp":
        leaves, apply, *_ = functional(
            lambda: MODELS["mlp"](64, 32, 10, layers=4, rngs=nnx.Rngs(0))
        )
    else:

        def make() -> Transformer:
            return Transformer(
                8,
                16,
                10,
                layers=1,
                heads=2,
                length=8,
                readout="mean",
                causal=False,
                scan=False,
                rngs=nnx.Rngs(0),
            )

        leaves, apply, *_ = functional(make)
    drawn = spec.draw(glorot_scheme, jax.random.key(0), leaves)
    kernels = {leaf.name for leaf in leaves if leaf.is_kernel}
    params = {name: w * scale if name in kernels else w for name, w in drawn.items()}
    return Problem(leaves, apply, cross_entropy, optimizer), params, (x, y)


def nth(batches: tuple[Array, Array], k: Array) -> tuple[Array, Array]:
    """The batch of an index, again and again."""
    return jax.tree.map(lambda array: array[k % 8], batches)


def after_one_step(problem: Problem, params: dict[str, Array], data: tuple[Array, Array]) -> Array:
    """The loss on a batch after one step on the one before, mean over the batches: plain first
    steps."""

    def stepped_loss(k: Array) -> Array:
        batch = nth(data, k)
        other = nth(data, k + 1)
        slopes = jax.grad(problem.loss_of)(params, batch)
        if problem.optimizer == "adam":
            slopes = jax.tree.map(jnp.sign, slopes)
        moved = jax.tree.map(lambda w, g: w - ETA[problem.optimizer] * g, params, slopes)
        return problem.loss_of(moved, other)

    return jnp.mean(jax.lax.map(stepped_loss, jnp.arange(8)))


def slope(problem: Problem, params: dict[str, Array], data: tuple[Array, Array]) -> Array:
    """The norm of the gradient that GradInit bounds, mean over the batches."""

    def norm(batch: tuple[Array, Array]) -> Array:
        flat, _ = ravel_pytree(jax.grad(problem.loss_of)(params, batch))
        return jnp.linalg.norm(flat, 1 if problem.optimizer == "adam" else 2)

    return jnp.mean(jax.lax.map(norm, data))
