"""Admin scales the residual stream by the variances of its branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from jaxinit.calibrate import Problem, admin
from jaxinit.initializers import glorot_scheme
from jaxinit.introspect import functional
from jaxinit.models import Transformer
from jaxinit.spec import draw


def test_admin_profiles_the_branches() -> None:
    """omega^2 grows by the variance of each branch, measured by hand in a pass at omega = 1."""

    def make() -> Transformer:
        return Transformer(
            7,
            16,
            7,
            layers=3,
            heads=2,
            length=8,
            placed="post",
            learned_skip=True,
            scan=False,
            rngs=nnx.Rngs(0),
        )

    def mean_output(outputs: Array, y: Array) -> Array:
        return jnp.mean(outputs)

    model = functional(make)
    params = draw(glorot_scheme, jax.random.key(0), model.leaves)
    x = jax.random.randint(jax.random.key(1), (4, 8, 8), 0, 7)
    problem = Problem(model.leaves, model.apply, mean_output)
    done = admin(problem, params, (x, x))
    omegas = []
    for k in range(3):
        for branch in ("attended", "fed"):
            omegas.append(float(done.params[f"blocks.{k}.{branch}.skip"][0]))
    assert omegas[0] == 1
    assert omegas == sorted(omegas)
    filled = model.filled(params)
    s = filled.embedding[...][x.reshape(-1, 8)] + filled.positions[...][None, :8]
    variance = 1.0
    expected = []
    for block in filled.blocks:
        attended = block.attention(s, s, filled.options, True)
        expected.append(variance**0.5)
        variance += float(jnp.var(attended))
        s = block.attended.norm(s + attended)
        fed = block.feed(s, filled.options)
        expected.append(variance**0.5)
        variance += float(jnp.var(fed))
        s = block.fed.norm(s + fed)
    np.testing.assert_allclose(omegas, expected, rtol=1e-3)
    with pytest.raises(ValueError, match="learned_skip"):
        admin(Problem((), model.apply, mean_output), params, (x, x))
