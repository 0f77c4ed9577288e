"""Every scheme on every model: the declared variance in every role, orthogonality per gate, zero biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit.initializers import normal, orthogonal, zeros
from jaxinit.introspect import functional
from jaxinit.models import MODELS
from jaxinit.schemes import SCHEMES, by_role, chrono, forget_bias, scale, scheme_named, transformer, with_bias, zaremba
from jaxinit.spec import Leaf, Scheme, draw, rules
from jaxinit.study import BadStudy

KEY = jax.random.key(0)
SIZES = (48, 64, 16)
# Variance of a kernel as a function of its fans; the tables below say which roles have another law.
GLOROT = lambda i, o: 2 / (i + o)
LECUN = lambda i, o: 1 / i
VARIANCE = {
    "uniform01": lambda i, o: 1 / 12,
    "small_normal": lambda i, o: 1e-4,
    "xavier_rnn": LECUN,
    "glorot_uniform": GLOROT,
    "glorot_normal": GLOROT,
    "glorot_normalized": GLOROT,
    "glorot_standard": lambda i, o: 1 / (3 * i),
    "he_normal": lambda i, o: 2 / i,
    "lecun_normal": LECUN,
    "orthogonal": GLOROT,
    "identity": GLOROT,
    "irnn": lambda i, o: 1e-6,
    "np_rnn": lambda i, o: 2 / i,
    "smart_tanh": lambda i, o: 1e-4,
    "saxe_orthogonal": lambda i, o: 1 / max(i, o),
    "zaremba": lambda i, o: 0.01 / 3,
    "chrono": GLOROT,
    "forget_bias": GLOROT,
}
IDENTITY = {"identity": ("recurrent", "hidden"), "irnn": ("recurrent",)}
ORTHOGONAL = {"orthogonal": ("recurrent", "hidden")}
ELSEWHERE = {"np_rnn": ("recurrent",), "smart_tanh": ("recurrent",)}  # tested in test_structured
RESIDUAL = {  # tested in test_residual
    *("gpt2", "gpt2_blocks", "llama", "bert", "t5", "small_init_wang", "spike_no_more", "xavier_transformer"),
    *("t_fixup", "t_fixup_encoder", "fixup", "deepnorm", "mimetic", "rezero", "skipinit"),
    *("mup", "u_mup", "spectral_mup"),
}
FRAMEWORKS = {"pytorch", "keras", "flax_nnx", "flax_linen", "haiku", "equinox"}  # tested in test_frameworks
BIASES = {"zaremba", "chrono", "forget_bias"}  # not zero, tested below
GATED_ONLY = {
    ("chrono", "rnn"),
    ("chrono", "mlp"),
    ("forget_bias", "rnn"),
    ("forget_bias", "mlp"),
    ("forget_bias", "gru"),
}


def leaves_of(model: str) -> tuple[Leaf, ...]:
    return functional(lambda: MODELS[model](*SIZES, layers=2, rngs=nnx.Rngs(0)))[0]


def test_every_scheme_is_covered_here() -> None:
    assert set(VARIANCE) | FRAMEWORKS | RESIDUAL == set(SCHEMES)


@pytest.mark.parametrize(("scheme", "model"), sorted(GATED_ONLY))
def test_gate_biases_are_refused_where_there_are_no_such_gates(scheme: str, model: str) -> None:
    with pytest.raises(ValueError, match="match no parameter"):
        draw(SCHEMES[scheme], KEY, leaves_of(model))


@pytest.mark.parametrize("model", ["lstm", "mlp"])  # gates and none, every role
@pytest.mark.parametrize("scheme", VARIANCE)
def test_variance_mean_and_biases(scheme: str, model: str) -> None:
    if (scheme, model) in GATED_ONLY:
        return
    leaves = leaves_of(model)
    drawn = jax.jit(lambda key: draw(SCHEMES[scheme], key, leaves))(KEY)
    for leaf in leaves:
        w = np.asarray(drawn[leaf.name], np.float64)
        if leaf.role == "bias":
            assert scheme in BIASES or not w.any(), leaf.name
        elif leaf.role in IDENTITY.get(scheme, ()):
            np.testing.assert_array_equal(w, np.broadcast_to(np.eye(64), w.shape))
        elif leaf.role in ORTHOGONAL.get(scheme, ()):
            gram = np.einsum("...ij,...kj->...ik", w, w)
            np.testing.assert_allclose(gram, np.broadcast_to(np.eye(64), w.shape), atol=2e-5)
        elif leaf.role not in ELSEWHERE.get(scheme, ()):
            mean = 0.5 if scheme == "uniform01" else 0.0
            variance = VARIANCE[scheme](leaf.fan_in, leaf.fan_out)
            assert w.mean() == pytest.approx(mean, abs=4.5 * np.sqrt(variance / w.size)), leaf.name
            assert w.var() == pytest.approx(variance, rel=4.5 * np.sqrt(2 / w.size)), leaf.name


def test_biases_that_are_not_zero() -> None:
    leaves = leaves_of("lstm")
    bias = lambda scheme: np.asarray(draw(scheme, KEY, leaves)["layers.0.bias"])
    np.testing.assert_array_equal(bias(SCHEMES["forget_bias"]).mean(1), [0, 1, 0, 0])
    np.testing.assert_array_equal(bias(with_bias(SCHEMES["orthogonal"], forget=2.5, input=-1)).mean(1), [-1, 2.5, 0, 0])
    assert 0 < np.abs(bias(SCHEMES["zaremba"])).max() <= 0.1
    spread = bias(SCHEMES["chrono"])
    np.testing.assert_array_equal(spread[0], -spread[1])
    assert 0 < np.exp(spread[1]).max() <= 99


def test_by_role_names_what_it_lacks_and_what_matches_nothing() -> None:
    leaves = leaves_of("rnn")
    table = {"input": normal(0.1), "recurrent": orthogonal(), "readout": zeros, "bias": zeros}
    assert set(draw(by_role(table), KEY, leaves)) == {leaf.name for leaf in leaves}
    with pytest.raises(ValueError, match=r"'mine' has no rule for parameter 'layers.0.bias' \(role 'bias'"):
        draw(by_role({k: v for k, v in table.items() if k != "bias"}, "mine"), KEY, leaves)
    with pytest.raises(ValueError, match=r"the rules for \['query'\] match no parameter"):
        draw(by_role(table | {"query": zeros}), KEY, leaves)


def test_scale_multiplies_kernels_only_and_its_gain_can_be_traced() -> None:
    leaves = leaves_of("lstm")
    base = draw(SCHEMES["forget_bias"], KEY, leaves)
    scaled = lambda gain: draw(scale(SCHEMES["forget_bias"], gain), KEY, leaves)
    swept = jax.jit(jax.vmap(scaled))(jnp.asarray([0.5, 3.0]))
    for leaf in leaves:
        for k, gain in enumerate((0.5, 3.0)):
            expected = base[leaf.name] * (1 if leaf.role == "bias" else gain)
            # Entries up to about 1, in float32.
            np.testing.assert_allclose(swept[leaf.name][k], expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="gate reset"):  # what the base refuses stays refused
        draw(scale(with_bias(SCHEMES["orthogonal"], reset=1.0), 2.0), KEY, leaves)


def same(one: Scheme, other: Scheme, model: str = "lstm") -> bool:
    """Whether two schemes draw and scale alike."""
    leaves = leaves_of(model)
    drawn, expected = (draw(scheme, KEY, leaves) for scheme in (one, other))
    scales, others = (
        {name: (rule.multiplier, rule.lr_scale, rule.wd_scale) for name, rule in rules(scheme, leaves).items()}
        for scheme in (one, other)
    )
    return scales == others and all(np.array_equal(drawn[name], expected[name]) for name in drawn)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orthogonal", SCHEMES["orthogonal"]),
        ("chrono(longest=784)", chrono(784)),
        ("chrono( 784 )", chrono(784)),
        ("forget_bias(2)", forget_bias(2.0)),
        ("forget_bias(-1.5)", forget_bias(-1.5)),
        ("zaremba(limit=0.05)", zaremba(0.05)),
        ("mup(base_width=16)", transformer.mup(16)),
        ("mup(16, optimizer='sgd')", transformer.mup(16, "sgd")),
        ("mup(16, optimizer=None, zero_readout=True)", transformer.mup(16, zero_readout=True)),
        ("u_mup(16)", transformer.u_mup(16)),
        ("spectral_mup(base_width=8)", transformer.spectral_mup(8)),
        ("scale(orthogonal, 1.5)", scale(SCHEMES["orthogonal"], 1.5)),
        ("scale(chrono(7), gain=2)", scale(chrono(7), 2.0)),
        ("with_bias(orthogonal, forget=1.0, input=-1)", with_bias(SCHEMES["orthogonal"], forget=1.0, input=-1.0)),
    ],
)
def test_a_scheme_with_settings_is_written_as_a_call(text: str, expected: Scheme) -> None:
    assert same(scheme_named(text), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mpu(64)", "no scheme with settings is called 'mpu'; the nearest is 'mup'"),
        ("mpu", "no scheme is called 'mpu'; the nearest is 'mup'"),
        ("orthogonal(2)", "orthogonal takes no settings; write orthogonal"),
        ("mup(base=64)", r"unexpected keyword argument 'base'; mup is mup\(base_width=64, optimizer=None"),
        ("scale(orthogonal)", r"missing a required argument: 'gain'; scale is scale\(base, gain\)"),
        ("mup(64, base_width=64)", "multiple values for argument 'base_width'"),
        ("mup(base_width=8, base_width=9)", "give each setting once, as name=value"),
        ("mup('64')", "base_width must be a whole number, got '64'"),
        ("mup(64.0)", "base_width must be a whole number, got 64.0"),
        ("mup(True)", "base_width must be a whole number, got True"),
        ("mup(None)", "base_width must be a whole number, got None"),
        ("mup(0)", "base_width must be a positive number of units, got 0"),
        ("mup(64, 'lion')", "mup knows adam, sgd and momentum, got 'lion'"),
        ("mup([64])", r"base_width must be a whole number, got \[64\]"),
        ("chrono(2)", "longest must be 3 steps or more, got 2"),
        ("forget_bias(1e999)", "value must be finite, got inf"),
        ("scale(3, 2)", "base must be a scheme, got 3"),
        ("scale(orthogonal, -1)", "a gain must not be negative, got -1"),
        ("mup(__import__('os').getpid())", "expected the name of a scheme or a call"),
        ("mup(os)", "no scheme is called 'os'"),
        ("mup(2 ** 10)", r"a setting is a literal or a scheme, got 2 \*\* 10"),
        ("mup(**{'base_width': 64})", "give each setting once, as name=value"),
        ("mup(64", "is no name of a scheme, nor a call"),
        ("a.b(1)", "expected the name of a scheme or a call"),
        ("(" * 500, "is no name of a scheme, nor a call"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(text: str, message: str) -> None:
    with pytest.raises(BadStudy, match=message) as error:
        scheme_named(text)
    assert "\n" not in str(error.value)


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
