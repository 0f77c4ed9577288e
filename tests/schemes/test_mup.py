"""muP and its kin by their tables, role by role."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import quick
from flax import nnx
from residual_nets import FEED, KEY, D, V, declared, leaves, scales, std

from jaxinit import schemes
from jaxinit.initializers import zeros
from jaxinit.introspect import functional
from jaxinit.models import LSTM, RNN, Transformer
from jaxinit.schemes import SCHEMES
from jaxinit.schemes import mup as mups
from jaxinit.signals import trace
from jaxinit.spec import Leaf, Override, Rule, draw, rules, under


@pytest.mark.parametrize("make", [mups.mup, mups.u_mup, mups.spectral_mup])
def test_mup_refuses_roles_that_nobody_said(make) -> None:
    message = r"the roles readout, input or embedding or position, where nobody has said"
    with pytest.raises(ValueError, match=message):
        rules(make(16), declared(width=D))
    rules(make(16), declared(width=D, roles={"head": "readout", "blocks.0.up": "input"}))


def test_depth_scaling_refuses_unknown_depth_and_what_its_base_refuses() -> None:
    scheme = mups.depth_mup(mups.mup(16), 4)
    with pytest.raises(ValueError, match="scheme 'depth_mup' needs the number of blocks"):
        rules(scheme, declared(width=D, roles=FEED | {"head": "readout"}))
    with pytest.raises(ValueError, match="nobody has said the role"):
        rules(scheme, declared(width=D, n_layers=12))


def test_mup_by_its_table() -> None:
    """Table 3 of Tensor Programs V at four times the base width; decoupled decay keeps its size
    everywhere."""
    wide = leaves(4 * D)
    adam = scales(mups.mup(D, "adam"), wide)
    sgd = scales(mups.mup(D, "sgd"), wide)
    for role in ("key", "value", "attention_out", "ffn_in", "ffn_out"):
        assert adam[role] == (1, 1 / 4, 1)
        assert sgd[role] == (1, 1, 1)
    assert adam["query"] == (1 / 2, 1 / 4, 1)
    for role in ("embedding", "position", "scale", "bias of blocks.0.ffn_in_bias"):
        assert adam[role] == (1, 1, 1)
        assert sgd[role] == (1, 4, 1)
    assert adam["readout"] == sgd["readout"] == (1, 1 / 4, 1)
    assert sgd["bias of readout.bias"] == (1, 1, 1)
    gated = leaves(4 * D, gate=True, scalar_bias=True)
    # a number's gradient sums over the width
    for scheme in (mups.mup(D, "sgd"), mups.spectral_mup(D, "sgd")):
        single = scales(scheme, gated)
        assert single["residual_gate"] == single["bias of blocks.0.attention.before"] == (1, 1, 1)
    scheme = mups.mup(D)
    assert std(scheme, "readout", wide) == pytest.approx(1 / math.sqrt(4 * 4 * D), rel=0.04)
    assert std(scheme, "ffn_out", wide) == pytest.approx(1 / math.sqrt(16 * D), rel=0.04)
    assert std(mups.mup(D, zero_readout=True), "readout", wide) == 0


@pytest.mark.parametrize("make", quick(mups.u_mup, of=[mups.mup, mups.u_mup, mups.spectral_mup]))
def test_what_is_last_to_size_the_queries_has_their_multiplier(make) -> None:
    """m^(-1/2) at m = 4: kernel and bias alike, or, where a norm divides it out, the scale of that
    norm alone."""

    def factors(**options) -> dict[str, float]:
        """Multipliers at 4 times the base width, over those at the base width with the kernels'
        fans taken out."""
        wide = rules(make(D), leaves(4 * D, **options))
        base = rules(make(D), leaves(D, **options))
        ratio = {name: wide[name].multiplier / base[name].multiplier for name in wide}
        of_fans = ratio["blocks.0.attention.key"]
        by_name = {}
        for name in ratio:
            of_fan = of_fans if name.endswith(("query", "key", "value")) else 1.0
            by_name[name.removeprefix("blocks.0.attention.")] = ratio[name] / of_fan
        return by_name

    plain, normalized = factors(), factors(qk_norm=True)
    assert plain["query"] == plain["query_bias"] == pytest.approx(1 / 2)
    assert normalized["query"] == normalized["query_bias"] == 1
    assert normalized["query_norm.scale"] == pytest.approx(1 / 2)
    for name in ("key", "key_bias", "value", "value_bias", "out_bias"):
        assert plain[name] == normalized[name] == pytest.approx(1)
    assert normalized["key_norm.scale"] == 1


@pytest.mark.slow
def test_the_scores_of_normalized_queries_shrink_with_the_multiplier() -> None:
    """A multiplier before the norm leaves scores as they are; m^(-1/2) on its scale is seen in
    every score."""

    def make() -> Transformer:
        return Transformer(V, 4 * D, V, layers=1, qk_norm=True, scan=False, rngs=nnx.Rngs(0))

    model, x = functional(make), jnp.zeros((2, 5), int)
    params = draw(mups.mup(D), KEY, model.leaves)
    rule_of = rules(mups.mup(D), model.leaves)
    multiplied = {name: w * rule_of[name].multiplier for name, w in params.items()}

    def scores(params: dict[str, jax.Array]) -> jax.Array:
        _, by_name = trace.named(model.apply, params, x)
        return by_name["blocks.0.attention.scores"]

    np.testing.assert_allclose(scores(multiplied), scores(params) / 2, rtol=1e-5, atol=1e-6)


def test_rates_follow_the_optimizer_of_the_study() -> None:
    wide = leaves(4 * D)
    for scheme in (mups.mup(D), mups.spectral_mup(D), mups.depth_mup(mups.mup(D), 2)):
        for optimizer in ("adam", "sgd", "momentum"):
            adapted = rules(under(scheme, optimizer), wide)
            assert {optimizer in rule.optimizers for rule in adapted.values()} == {True}
            expected = "adam" if optimizer == "adam" else "sgd"
            assert scales(under(scheme, optimizer), wide) == scales(under(scheme, expected), wide)
        assert rules(under(scheme, "sgd"), wide)["embedding"].lr_scale == 4
        assert rules(under(scheme, "adam"), wide)["embedding"].lr_scale == 1
    stacks = schemes.encoder_decoder(mups.mup(D), mups.mup(D))
    around = Override(stacks, {"embedding": zeros})
    assert rules(under(around, "sgd"), wide)["readout.bias"].optimizers == ("sgd", "momentum")
    assert rules(mups.u_mup(D), wide)["readout.bias"].optimizers == ("adam",)
    assert under(SCHEMES["gpt2"], "sgd") is SCHEMES["gpt2"]


def test_under_muon_only_the_readout_and_what_is_no_matrix_are_scaled() -> None:
    wide = leaves(4 * D)
    muon, adam = (scales(mups.mup(D, name), wide) for name in ("muon", "adam"))
    assert muon["readout"] == pytest.approx((1, 1 / 2, 1))
    of_role = {leaf.role: len(leaf.shape) for leaf in wide if leaf.is_kernel}
    assert {2, 3} <= set(of_role.values())  # heads are an axis of their own
    for role, axes in of_role.items():
        if role != "readout":
            expected = 1.0 if axes == 2 else adam[role][1]
            assert muon[role][1] == pytest.approx(expected), role
    assert rules(mups.mup(D, "muon"), wide)["readout.bias"].optimizers == ("muon",)


@pytest.mark.parametrize("outputs", quick(40, of=[10, 40]))
def test_muons_updates_have_the_norms_that_mup_counts_on(outputs: int) -> None:
    """Of a kernel [in, out] the spectral norm of an update is max(1, sqrt(out / in)) times the
    rate, within what five steps of its iteration leave (0.7 to 1.2)."""
    for shape in ((20, 80), (80, 80), (80, outputs)):
        optimizer = optax.contrib.muon(1.0)
        w = jax.random.normal(KEY, shape)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            update, _ = optimizer.update(w, optimizer.init(w), w)
        norm = np.linalg.norm(np.asarray(update), 2) / max(1, math.sqrt(shape[1] / shape[0]))
        assert 0.7 < norm < 1.25


@pytest.mark.parametrize("kind", [RNN, LSTM])
def test_mup_scales_recurrent_networks_too(kind: type) -> None:
    model = functional(lambda: kind(5, 128, 3, rngs=nnx.Rngs(0)))
    adam = scales(mups.mup(32), model.leaves)
    assert adam["recurrent"] == (1, 1 / 4, 1)
    assert adam["input"] == (1, 1, 1)
    assert adam["readout"] == (1, 1 / 4, 1)


def test_mup_at_its_base_width_is_plain() -> None:
    assert set(scales(mups.mup(D), leaves()).values()) == {(1, 1, 1)}


def test_a_base_width_above_the_models_is_refused() -> None:
    with pytest.raises(ValueError, match="got a base of 128 and a model of 64"):
        draw(mups.mup(128), KEY, leaves())
    with pytest.raises(
        ValueError, match="mup knows the rates of adam, muon, sgd and momentum, got 'lion'"
    ):
        mups.mup(64, "lion")
    with pytest.raises(ValueError, match="base_width must be a positive number of units, got 0"):
        mups.u_mup(0)
    with pytest.raises(ValueError, match="mup needs the width of the model"):
        draw(mups.mup(2), KEY, [Leaf("w", (4, 4), "io", "hidden")])


@pytest.mark.parametrize(("alpha", "rate"), [(0.5, 0.5), (1.0, 1.0)])
def test_depth_scaling(alpha: float, rate: float) -> None:
    adam = scales(mups.depth_mup(SCHEMES["xavier_rnn"], 2, alpha), leaves(layers=8))
    assert adam["ffn_out"] == pytest.approx((4**-alpha, rate, 1))
    assert adam["ffn_in"] == pytest.approx((1, rate, 1))
    for at_an_end in ("readout", "embedding", "bias of readout.bias", "bias of norm.bias"):
        assert adam[at_an_end] == (1, 1, 1)
    # A bias is added with its kernel's product, so the branch's factor is on both; all of a block
    # has the block's rate.
    for name in ("blocks.0.ffn_out_bias", "blocks.3.attention.out_bias"):
        assert adam[f"bias of {name}"] == pytest.approx((4**-alpha, rate, 1))
    for name in ("blocks.0.ffn_in_bias", "blocks.2.attention.query_bias", "blocks.1.fed.norm.bias"):
        assert adam[f"bias of {name}"] == pytest.approx((1, rate, 1))
    sgd = scales(mups.depth_mup(SCHEMES["xavier_rnn"], 2, alpha, "sgd"), leaves(layers=8))
    assert sgd["ffn_out"] == pytest.approx((4**-alpha, 4 ** (2 * alpha - 1), 1))


def test_spectral_mup_needs_fans_alone_and_agrees_with_mup() -> None:
    """At four times the base width its sizes and rates are those of muP, whose table it derives."""
    wide = leaves(4 * D)
    kernels = ("query", "value", "attention_out", "ffn_in", "ffn_out", "embedding", "readout")
    for optimizer in ("adam", "sgd"):
        spectral = scales(mups.spectral_mup(D, optimizer), wide)
        table = scales(mups.mup(D, optimizer), wide)
        for role in (*kernels, "scale"):
            assert spectral[role] == pytest.approx(table[role]), role
    # ||W|| of n x m Gaussians is s (sqrt(n) + sqrt(m)): within 10 % of sqrt(fan_out / fan_in) but
    # for that sum
    w = np.asarray(draw(mups.spectral_mup(D), KEY, wide)["blocks.0.ffn_in"])
    n, m = w.shape
    assert np.linalg.norm(w, 2) == pytest.approx((1 + math.sqrt(m / n)), rel=0.1)


def test_u_mup_has_mups_sizes_in_its_multipliers() -> None:
    wide = leaves(4 * D)

    def step(rule: Rule) -> float:
        """What an effective weight moves by under Adam."""
        return rule.multiplier * rule.lr_scale

    unit_scaled = rules(mups.u_mup(D), wide)
    at_base = rules(mups.u_mup(D), leaves())
    mup = rules(mups.mup(D), wide)
    for leaf in wide:
        if leaf.is_kernel and leaf.role not in ("embedding", "position"):
            change_with_width = step(unit_scaled[leaf.name]) / step(at_base[leaf.name])
            assert change_with_width == pytest.approx(step(mup[leaf.name])), leaf.name
    assert std(mups.u_mup(D), "ffn_out", wide) == pytest.approx(1, rel=0.02)


def test_depth_scaling_keeps_the_key_that_kernels_share() -> None:
    base = rules(SCHEMES["mimetic"], leaves())
    scaled = rules(mups.depth_mup(SCHEMES["mimetic"], 2), leaves())
    assert scaled.keys() == base.keys()
    for name, rule in scaled.items():
        assert rule.key == base[name].key
