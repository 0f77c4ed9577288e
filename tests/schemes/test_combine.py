"""Schemes made of schemes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_nets import leaves_of

from jaxinit.initializers import normal, orthogonal, zeros
from jaxinit.schemes import SCHEMES, by_role, scale, with_bias
from jaxinit.spec import draw

KEY = jax.random.key(0)


def test_by_role_names_what_it_lacks_and_what_matches_nothing() -> None:
    leaves = leaves_of("rnn")
    table = {"input": normal(0.1), "recurrent": orthogonal(), "readout": zeros, "bias": zeros}
    assert set(draw(by_role(table), KEY, leaves)) == {leaf.name for leaf in leaves}
    with pytest.raises(
        ValueError, match=r"'mine' has no rule for parameter 'layers.0.bias' \(role 'bias'"
    ):
        draw(by_role({k: v for k, v in table.items() if k != "bias"}, "mine"), KEY, leaves)
    with pytest.raises(ValueError, match=r"the rules for \['query'\] match no parameter"):
        draw(by_role(table | {"query": zeros}), KEY, leaves)


def test_scale_multiplies_kernels_only_and_its_gain_can_be_traced() -> None:
    leaves = leaves_of("lstm")
    base = draw(SCHEMES["forget_bias"], KEY, leaves)

    def scaled(gain: jax.Array) -> dict[str, jax.Array]:
        return draw(scale(SCHEMES["forget_bias"], gain), KEY, leaves)

    swept = jax.jit(jax.vmap(scaled))(jnp.asarray([0.5, 3.0]))
    for leaf in leaves:
        for k, gain in enumerate((0.5, 3.0)):
            expected = base[leaf.name] * (1 if leaf.role == "bias" else gain)
            # Entries up to about 1, in float32.
            np.testing.assert_allclose(swept[leaf.name][k], expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="gate reset"):  # what the base refuses stays refused
        draw(scale(with_bias(SCHEMES["orthogonal"], reset=1.0), 2.0), KEY, leaves)
