"""The gradient quotient is that of its formula."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinit.calibrate import gradient_quotient


def test_gradient_quotient_against_its_formula() -> None:
    matrix = jnp.asarray([[2.0, 0.5], [0.5, 3.0]])
    w = jnp.asarray([1.0, -2.0])

    def loss(p: dict[str, Array]) -> Array:
        return p["w"] @ matrix @ p["w"] / 2

    quotient = gradient_quotient(loss, {"w": w})
    g = np.asarray(matrix @ w)
    hg = np.asarray(matrix) @ g
    expected = np.abs((g - hg) / (g + 1e-5 * np.sign(g)) - 1).mean()
    np.testing.assert_allclose(quotient, expected, rtol=1e-5)
