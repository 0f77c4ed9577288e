"""Every scheme on every model: the declared variance in every role, orthogonality per gate, zero
biases."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every
from scipy import stats
from small_nets import leaves_of

from jaxinit.schemes import SCHEMES, griffin, with_bias
from jaxinit.spec import Leaf, Scheme, draw

KEY = jax.random.key(0)


def glorot(fan_in: int, fan_out: int) -> float:
    return 2 / (fan_in + fan_out)


def he(fan_in: int, fan_out: int) -> float:
    return 2 / fan_in


def lecun(fan_in: int, fan_out: int) -> float:
    return 1 / fan_in


def lecun_third(fan_in: int, fan_out: int) -> float:
    return 1 / (3 * fan_in)


def semi_orthogonal(fan_in: int, fan_out: int) -> float:
    return 1 / max(fan_in, fan_out)


# Variance of a kernel, where it depends on its fans a function of these; the tables below say which
# roles have another law.
VARIANCE = {
    "uniform01": 1 / 12,
    "small_normal": 1e-4,
    "xavier_rnn": lecun,
    "glorot_uniform": glorot,
    "glorot_normal": glorot,
    "glorot_normalized": glorot,
    "glorot_standard": lecun_third,
    "sinusoidal": glorot,
    "he_normal": he,
    "lecun_normal": lecun,
    "orthogonal": glorot,
    "identity": glorot,
    "irnn": 1e-6,
    "np_rnn": he,
    "smart_tanh": 1e-4,
    "saxe_orthogonal": semi_orthogonal,
    "delta_orthogonal": semi_orthogonal,  # its convolutions are tested in test_convolutional
    "zaremba": 0.01 / 3,
    "chrono": glorot,
    "forget_bias": glorot,
    "mamba": lecun,
    "min_gru": lecun_third,
    "griffin": lecun,
}
# The models that have those they rule on.
TIME_CONSTANTS = {"mamba": "glr", "min_gru": "glr", "griffin": "rg_lru"}
IDENTITY = {"identity": ("recurrent", "hidden"), "irnn": ("recurrent",)}
ORTHOGONAL = {"orthogonal": ("recurrent", "hidden")}
ELSEWHERE = {"np_rnn": ("recurrent",), "smart_tanh": ("recurrent",)}  # tested in test_structured
RESIDUAL = {  # tested in test_transformer and test_mup
    "gpt2",
    "gpt2_blocks",
    "layer_index",
    "nanochat",
    "speedrun",
    "llama",
    "bert",
    "t5",
    "small_init_wang",
    "spike_no_more",
    "xavier_transformer",
    "t_fixup",
    "t_fixup_encoder",
    "fixup",
    "deepnorm",
    "mimetic",
    "rezero",
    "skipinit",
    "mup",
    "u_mup",
    "spectral_mup",
}
# tested in test_frameworks
FRAMEWORKS = {"pytorch", "keras", "flax_nnx", "flax_linen", "haiku", "equinox"}
BIASES = {"zaremba", "chrono", "forget_bias"}  # not zero, tested below


GATED_ONLY = {
    ("chrono", "rnn"),
    ("chrono", "mlp"),
    ("forget_bias", "rnn"),
    ("forget_bias", "mlp"),
    ("forget_bias", "gru"),
    *[(scheme, model) for scheme in TIME_CONSTANTS for model in ("lstm", "mlp", "lru")],
    ("mamba", "rg_lru"),
    ("min_gru", "rg_lru"),
    ("griffin", "glr"),
}


def test_every_scheme_is_covered_here() -> None:
    assert set(VARIANCE) | FRAMEWORKS | RESIDUAL == set(SCHEMES)


@pytest.mark.parametrize(("scheme", "model"), sorted(GATED_ONLY))
def test_schemes_are_refused_where_there_is_nothing_they_rule_on(scheme: str, model: str) -> None:
    with pytest.raises(ValueError, match="match no parameter"):
        draw(SCHEMES[scheme], KEY, leaves_of(model))


EVERY_ROLE = ("lstm", "mlp")  # gates and none
ON_MODELS = [(scheme, model) for scheme in VARIANCE for model in EVERY_ROLE]
ON_MODELS += TIME_CONSTANTS.items()


@pytest.mark.parametrize(("scheme", "model"), every(3, of=ON_MODELS))
def test_variance_mean_and_biases(scheme: str, model: str) -> None:
    if (scheme, model) in GATED_ONLY:
        return
    leaves = leaves_of(model)
    drawn = draw(SCHEMES[scheme], KEY, leaves)
    for leaf in leaves:
        w = np.asarray(drawn[leaf.name], np.float64)
        if leaf.role == "bias":
            assert scheme in BIASES or not w.any(), leaf.name
        elif leaf.role in IDENTITY.get(scheme, ()):
            np.testing.assert_array_equal(w, np.broadcast_to(np.eye(64), w.shape))
        elif leaf.role in ORTHOGONAL.get(scheme, ()):
            gram = np.einsum("...ij,...kj->...ik", w, w)
            np.testing.assert_allclose(gram, np.broadcast_to(np.eye(64), w.shape), atol=2e-5)
        elif leaf.is_kernel and leaf.role not in ELSEWHERE.get(scheme, ()):
            mean = 0.5 if scheme == "uniform01" else 0.0
            variance: Any = VARIANCE[scheme]
            if callable(variance):
                variance = variance(leaf.fan_in, leaf.fan_out)
            assert w.mean() == pytest.approx(mean, abs=4.5 * np.sqrt(variance / w.size)), leaf.name
            assert w.var() == pytest.approx(variance, rel=4.5 * np.sqrt(2 / w.size)), leaf.name


def test_gates_of_sine_waves_differ() -> None:
    """They are not random, so that gates drawn one by one would be equal, and stay so."""
    leaf = Leaf("u", (4, 32, 32), ".io", "recurrent")
    gates = np.asarray(draw(SCHEMES["sinusoidal"], KEY, [leaf])["u"]).reshape(4, -1)
    assert len(np.unique(gates.round(3), axis=0)) == 4
    np.testing.assert_array_equal(
        gates.reshape(4, 32, 32), draw(SCHEMES["sinusoidal"], jax.random.key(9), [leaf])["u"]
    )


def test_biases_that_are_not_zero() -> None:
    leaves = leaves_of("lstm")

    def bias(scheme: Scheme) -> np.ndarray:
        return np.asarray(draw(scheme, KEY, leaves)["layers.0.bias"])

    np.testing.assert_array_equal(bias(SCHEMES["forget_bias"]).mean(1), [0, 1, 0, 0])
    two_gates = with_bias(SCHEMES["orthogonal"], forget=2.5, input=-1)
    np.testing.assert_array_equal(bias(two_gates).mean(1), [-1, 2.5, 0, 0])
    assert 0 < np.abs(bias(SCHEMES["zaremba"])).max() <= 0.1
    spread = bias(SCHEMES["chrono"])
    np.testing.assert_array_equal(spread[0], -spread[1])
    assert 0 < np.exp(spread[1]).max() <= 99


@pytest.mark.parametrize("scheme", ["zaremba", "orthogonal", "pytorch", "mup", "mamba"])
def test_time_constants_have_their_law_under_every_scheme(scheme: str) -> None:
    # the kernels beside them are drawn in test_variance_mean_and_biases, and smaller
    leaves = [leaf for leaf in leaves_of("glr", (8, 2000, 4), layers=1) if not leaf.is_kernel]
    drawn = draw(SCHEMES[scheme], KEY, leaves)
    dt = np.logaddexp(0, np.asarray(drawn["layers.0.step_bias"], float))
    assert stats.kstest(np.log(dt), stats.uniform(np.log(1e-3), np.log(100)).cdf).pvalue > 1e-3
    rates = np.exp(np.asarray(drawn["layers.0.log_rate"], float))
    assert stats.kstest(rates, stats.uniform(1, 15).cdf).pvalue > 1e-3


@pytest.mark.parametrize("power", [1.0, 8.0])
def test_griffins_decays_as_in_the_paper_and_as_in_its_code(power: float) -> None:
    leaves = [leaf for leaf in leaves_of("rg_lru", (8, 2000, 4), layers=1) if not leaf.is_kernel]
    drawn = draw(griffin(power=power), KEY, leaves)
    a = 1 / (1 + np.exp(-np.asarray(drawn["layers.0.decay_logit"], float)))
    low, high = 0.9**2, 0.999**2
    assert stats.kstest(a ** (2 * power), stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_xavier_rnn_keeps_the_preactivation_variance_of_unit_inputs() -> None:
    # Claim A1 in its exact form: Var(x W) = n Var(w) = 1 for x of variance 1.
    leaf = Leaf("w", (512, 512), "io", "recurrent")
    w = draw(SCHEMES["xavier_rnn"], KEY, [leaf])["w"]
    x = jax.random.normal(jax.random.key(1), (2000, 512))
    assert float(jnp.var(x @ w)) == pytest.approx(1.0, abs=0.02)
