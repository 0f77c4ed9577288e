"""Every scheme on every model: the declared variance in every role, orthogonality per gate, zero biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit.introspect import functional
from jaxinit.models import MODELS
from jaxinit.schemes import SCHEMES
from jaxinit.spec import Leaf, draw

KEY = jax.random.key(0)
SIZES = (48, 64, 16)
# Variance of a kernel as a function of its fans; None where the scheme draws that role without a variance to speak of.
GLOROT = lambda i, o: 2 / (i + o)
VARIANCE = {
    "uniform01": lambda i, o: 1 / 12,
    "small_normal": lambda i, o: 1e-4,
    "xavier_rnn": lambda i, o: 1 / i,
    "glorot_uniform": GLOROT,
    "glorot_normal": GLOROT,
    "he_normal": lambda i, o: 2 / i,
    "lecun_normal": lambda i, o: 1 / i,
    "orthogonal": GLOROT,
    "identity": GLOROT,
}


def leaves_of(model: str) -> tuple[Leaf, ...]:
    return functional(lambda: MODELS[model](*SIZES, layers=2, rngs=nnx.Rngs(0)))[0]


def test_every_scheme_is_covered_here() -> None:
    assert set(VARIANCE) == set(SCHEMES)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_variance_mean_and_biases(scheme: str, model: str) -> None:
    leaves = leaves_of(model)
    drawn = jax.jit(lambda key: draw(SCHEMES[scheme], key, leaves))(KEY)
    for leaf in leaves:
        w = np.asarray(drawn[leaf.name], np.float64)
        special = leaf.role in ("recurrent", "hidden") and scheme in ("orthogonal", "identity")
        if leaf.role == "bias":
            assert not w.any(), leaf.name
        elif special and scheme == "identity":
            np.testing.assert_array_equal(w, np.broadcast_to(np.eye(64), w.shape))
        elif special:
            gram = np.einsum("...ij,...kj->...ik", w, w)
            np.testing.assert_allclose(gram, np.broadcast_to(np.eye(64), w.shape), atol=2e-5)
        else:
            mean = 0.5 if scheme == "uniform01" else 0.0
            variance = VARIANCE[scheme](leaf.fan_in, leaf.fan_out)
            assert w.mean() == pytest.approx(mean, abs=4.5 * np.sqrt(variance / w.size)), leaf.name
            assert w.var() == pytest.approx(variance, rel=4.5 * np.sqrt(2 / w.size)), leaf.name


def test_xavier_rnn_keeps_the_preactivation_variance_of_unit_inputs() -> None:
    # Claim A1 in its exact form: Var(x W) = n Var(w) = 1 for x of variance 1.
    leaf = Leaf("w", (512, 512), "io", "recurrent")
    w = draw(SCHEMES["xavier_rnn"], KEY, [leaf])["w"]
    x = jax.random.normal(jax.random.key(1), (2000, 512))
    assert float(jnp.var(x @ w)) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_descriptions_are_one_line_for_the_command_line(scheme: str) -> None:
    line = (SCHEMES[scheme].__doc__ or "").splitlines()[0]
    assert line.endswith(".")
    assert len(line) <= 120
