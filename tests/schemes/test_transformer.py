"""Schemes of residual networks by their formulas, and muP by its table, role by role."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect
from jaxinit.initializers import he, zeros
from jaxinit.introspect import functional
from jaxinit.models import LSTM, MLP, RNN, EncoderDecoder, Transformer
from jaxinit.schemes import SCHEMES, transformer
from jaxinit.signals import trace
from jaxinit.spec import Leaf, Override, Scheme, draw, rules, under
from jaxinit.tasks.base import cross_entropy

V, D, L = 50, 64, 6
KEY = jax.random.key(0)


def leaves(width: int = D, layers: int = L, **options) -> tuple[Leaf, ...]:
    return functional(lambda: Transformer(V, width, V, layers=layers, length=40, rngs=nnx.Rngs(0), **options)).leaves


def std(scheme, role: str, of: tuple[Leaf, ...] | None = None) -> float:
    """The standard deviation over all parameters of a role."""
    of = of or leaves()
    drawn = draw(scheme, KEY, of)
    return float(np.concatenate([np.ravel(drawn[leaf.name]) for leaf in of if leaf.role == role]).std())


GLOROT = {"query": math.sqrt(2 / (D + 16)), "ffn_in": math.sqrt(2 / (5 * D))}
EXPECTED = {
    "gpt2": {
        "query": 0.02,
        "attention_out": 0.02 / math.sqrt(2 * L),
        "ffn_out": 0.02 / math.sqrt(2 * L),
        "position": 0.02,
    },
    "gpt2_blocks": {"ffn_in": 0.02, "ffn_out": 0.02 / math.sqrt(L)},
    "llama": {"ffn_out": 0.02, "embedding": 0.02},
    "bert": {"ffn_out": 0.02, "readout": 0.02},
    "t5": {"ffn_out": 1 / math.sqrt(4 * D), "embedding": 1.0, "key": 1 / math.sqrt(D)},
    "small_init_wang": {
        "query": math.sqrt(2 / (5 * D)),
        "ffn_out": 2 / (L * math.sqrt(D)),
        "embedding": math.sqrt(2 / (5 * D)),
    },
    "spike_no_more": {
        "query": math.sqrt(2 / (5 * D)),
        "attention_out": math.sqrt(2 / (5 * D)) / math.sqrt(2 * L),
        "embedding": 1.0,
    },
    "xavier_transformer": GLOROT | {"embedding": 1 / math.sqrt(D)},
    "t_fixup": {"ffn_in": (9 * L) ** -0.25 * GLOROT["ffn_in"], "query": GLOROT["query"]},
    "t_fixup_encoder": {"ffn_in": 0.67 * L**-0.25 * GLOROT["ffn_in"], "embedding": 0.67 * L**-0.25 / math.sqrt(D)},
    "fixup": {"attention_out": 0, "ffn_out": 0, "readout": 0, "ffn_in": math.sqrt(2 / D / (2 * L))},
    "deepnorm": {"ffn_in": (8 * L) ** -0.25 * GLOROT["ffn_in"], "query": GLOROT["query"]},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_role_has_the_size_of_the_paper(name: str) -> None:
    for role, expected in EXPECTED[name].items():
        # The least role has 3,200 entries: three standard errors of a standard deviation are 3.8 %.
        assert std(SCHEMES[name], role) == pytest.approx(expected, rel=0.04), role
    drawn = draw(SCHEMES[name], KEY, leaves())
    assert not any(np.any(drawn[leaf.name]) for leaf in leaves() if leaf.role == "bias")


@pytest.mark.parametrize(
    "name",
    ["gpt2", "gpt2_blocks", "small_init_wang", "spike_no_more", "t_fixup", "fixup", "deepnorm", "t_fixup_encoder"],
)
def test_a_rule_for_branches_is_refused_by_a_model_without(name: str) -> None:
    plain = functional(lambda: MLP(4, 8, 2, rngs=nnx.Rngs(0))).leaves
    with pytest.raises(ValueError, match=r"the rules for \['the roles attention_out and ffn_out'\] match no parameter"):
        draw(SCHEMES[name], KEY, plain)


class Blocks(nnx.Module):
    """Attention and feed-forward layers of Flax's own, whose depth and whose roles it cannot know."""

    def __init__(self, blocks: int):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List(
            [
                nnx.Dict(
                    attention=nnx.MultiHeadAttention(4, D, decode=False, rngs=rngs),
                    up=nnx.Linear(D, 4 * D, rngs=rngs),
                    down=nnx.Linear(4 * D, D, rngs=rngs),
                )
                for _ in range(blocks)
            ]
        )
        self.head = nnx.Linear(D, V, rngs=rngs)


FEED = {"*.up": "ffn_in", "*.down": "ffn_out"}


def declared(**said) -> tuple[Leaf, ...]:
    return introspect.leaves(introspect.declare(nnx.eval_shape(lambda: Blocks(12)), **said))


@pytest.mark.parametrize(
    "name",
    ["gpt2", "gpt2_blocks", "small_init_wang", "spike_no_more", "t_fixup", "fixup", "deepnorm", "t_fixup_encoder"],
)
def test_unknown_depth_and_unknown_roles_are_refused_with_the_line_that_settles_them(name: str) -> None:
    scheme = SCHEMES[name]
    with pytest.raises(ValueError, match=r"ffn_out.*nobody has said the role of parameter.*say declare\(model, roles="):
        rules(scheme, declared(n_layers=12))
    said = FEED | ({"head": "readout"} if name == "fixup" else {})
    unknown = rf"'{name}' needs the number of blocks, which parameter 'blocks.0.*' does not know; say declare\(model, n"
    with pytest.raises(ValueError, match=unknown):
        rules(scheme, declared(roles=said))
    rules(scheme, declared(roles=said, n_layers=12))


def test_gpt2_knows_the_depth_that_was_said() -> None:
    known = declared(roles=FEED, n_layers=12)
    drawn = draw(SCHEMES["gpt2"], KEY, [leaf for leaf in known if leaf.layer == 3])
    for name in ("blocks.3.attention.out.kernel", "blocks.3.down.kernel"):
        assert float(np.std(drawn[name])) == pytest.approx(0.02 / math.sqrt(24), rel=0.05)


@pytest.mark.parametrize("make", [transformer.mup, transformer.u_mup, transformer.spectral_mup])
def test_mup_refuses_roles_that_nobody_said(make) -> None:
    with pytest.raises(ValueError, match=r"the roles readout, input or embedding or position, where nobody has said"):
        rules(make(16), declared(width=D))
    rules(make(16), declared(width=D, roles={"head": "readout", "blocks.0.up": "input"}))


def test_depth_scaling_refuses_unknown_depth_and_what_its_base_refuses() -> None:
    scheme = transformer.depth_mup(transformer.mup(16), 4)
    with pytest.raises(ValueError, match="scheme 'depth_mup' needs the number of blocks"):
        rules(scheme, declared(width=D, roles=FEED | {"head": "readout"}))
    with pytest.raises(ValueError, match="nobody has said the role"):
        rules(scheme, declared(width=D, n_layers=12))


def test_mimetic_attention_in_layers_of_flax_shares_its_keys() -> None:
    found = rules(SCHEMES["mimetic"], declared(roles=FEED))
    keys = {name: rule.key for name, rule in found.items() if rule.key and name.startswith("blocks.2.")}
    assert set(keys.values()) == {"blocks.2.attention.query_key", "blocks.2.attention.value_out"}


def scales(scheme, of: tuple[Leaf, ...]) -> dict[str, tuple[float, float, float]]:
    found = rules(scheme, of)
    return {
        leaf.role if leaf.role != "bias" else f"bias of {leaf.name}": (
            found[leaf.name].multiplier,
            found[leaf.name].lr_scale,
            found[leaf.name].lr_scale * found[leaf.name].wd_scale,
        )
        for leaf in of
    }


def test_mup_by_its_table() -> None:
    """Table 3 of Tensor Programs V at four times the base width; decoupled decay keeps its size everywhere."""
    wide = leaves(4 * D)
    adam, sgd = (scales(transformer.mup(D, optimizer), wide) for optimizer in ("adam", "sgd"))
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
    for scheme in (
        transformer.mup(D, "sgd"),
        transformer.spectral_mup(D, "sgd"),
    ):  # a number's gradient sums over the width
        single = scales(scheme, gated)
        assert single["residual_gate"] == single["bias of blocks.0.attention.before"] == (1, 1, 1)
    assert std(transformer.mup(D), "readout", wide) == pytest.approx(1 / math.sqrt(4 * 4 * D), rel=0.04)
    assert std(transformer.mup(D), "ffn_out", wide) == pytest.approx(1 / math.sqrt(16 * D), rel=0.04)
    assert std(transformer.mup(D, zero_readout=True), "readout", wide) == 0


@pytest.mark.parametrize("make", [transformer.mup, transformer.u_mup, transformer.spectral_mup])
def test_what_is_last_to_size_the_queries_has_their_multiplier(make) -> None:
    """m^(-1/2) at m = 4: kernel and bias alike, or, where a norm divides it out, the scale of that norm alone."""

    def factors(**options) -> dict[str, float]:
        """Multipliers at 4 times the base width, over those at the base width with the kernels' fans taken out."""
        wide, base = (rules(make(D), leaves(width, **options)) for width in (4 * D, D))
        key = wide["blocks.0.attention.key"].multiplier / base["blocks.0.attention.key"].multiplier
        ratio = {}
        for name in wide:
            fan = key if name.endswith(("query", "key", "value")) else 1.0
            ratio[name.removeprefix("blocks.0.attention.")] = wide[name].multiplier / base[name].multiplier / fan
        return ratio

    plain, normalized = factors(), factors(qk_norm=True)
    assert plain["query"] == plain["query_bias"] == pytest.approx(1 / 2)
    assert normalized["query"] == normalized["query_bias"] == 1
    assert normalized["query_norm.scale"] == pytest.approx(1 / 2)
    for name in ("key", "key_bias", "value", "value_bias", "out_bias"):
        assert plain[name] == normalized[name] == pytest.approx(1)
    assert normalized["key_norm.scale"] == 1


def test_the_scores_of_normalized_queries_shrink_with_the_multiplier() -> None:
    """A multiplier before the norm leaves scores as they are; m^(-1/2) on its scale is seen in every score."""
    model = functional(lambda: Transformer(V, 4 * D, V, layers=1, qk_norm=True, scan=False, rngs=nnx.Rngs(0)))
    params, x = draw(transformer.mup(D), KEY, model.leaves), jnp.zeros((2, 5), int)
    found = rules(transformer.mup(D), model.leaves)
    scores = lambda p: trace.named(model.apply, p, x)[1]["blocks.0.attention.scores"]
    scaled = scores({name: w * found[name].multiplier for name, w in params.items()})
    np.testing.assert_allclose(scaled, scores(params) / 2, rtol=1e-5, atol=1e-6)


def test_rates_follow_the_optimizer_of_the_study() -> None:
    of = leaves(4 * D)
    for make in (
        transformer.mup,
        transformer.spectral_mup,
        lambda *given: transformer.depth_mup(transformer.mup(*given), 2),
    ):
        for optimizer in ("adam", "sgd", "momentum"):
            adapted = rules(under(make(D), optimizer), of)
            assert {optimizer in rule.optimizers for rule in adapted.values()} == {True}
            expected = "adam" if optimizer == "adam" else "sgd"
            assert scales(under(make(D), optimizer), of) == scales(under(make(D), expected), of)
        assert rules(under(make(D), "sgd"), of)["embedding"].lr_scale == 4
        assert rules(under(make(D), "adam"), of)["embedding"].lr_scale == 1
    stacks = transformer.encoder_decoder(transformer.mup(D), transformer.mup(D))
    around = Override(stacks, {"embedding": zeros})
    assert rules(under(around, "sgd"), of)["readout.bias"].optimizers == ("sgd", "momentum")
    assert rules(transformer.u_mup(D), of)["readout.bias"].optimizers == ("adam",)
    assert under(SCHEMES["gpt2"], "sgd") is SCHEMES["gpt2"]


@pytest.mark.parametrize("kind", [RNN, LSTM])
def test_mup_scales_recurrent_networks_too(kind: type) -> None:
    of = functional(lambda: kind(5, 128, 3, rngs=nnx.Rngs(0))).leaves
    adam = scales(transformer.mup(32), of)
    assert adam["recurrent"] == (1, 1 / 4, 1)
    assert adam["input"] == (1, 1, 1)
    assert adam["readout"] == (1, 1 / 4, 1)


def test_mup_at_its_base_width_is_plain() -> None:
    assert set(scales(transformer.mup(D), leaves()).values()) == {(1, 1, 1)}


def test_a_base_width_above_the_models_is_refused() -> None:
    with pytest.raises(ValueError, match="got a base of 128 and a model of 64"):
        draw(transformer.mup(128), KEY, leaves())
    with pytest.raises(ValueError, match="mup knows adam, sgd and momentum, got 'lion'"):
        transformer.mup(64, "lion")
    with pytest.raises(ValueError, match="base_width must be a positive number of units, got 0"):
        transformer.u_mup(0)
    with pytest.raises(ValueError, match="mup needs the width of the model"):
        draw(transformer.mup(2), KEY, [Leaf("w", (4, 4), "io", "hidden")])


@pytest.mark.parametrize(("alpha", "rate"), [(0.5, 0.5), (1.0, 1.0)])
def test_depth_scaling(alpha: float, rate: float) -> None:
    of = scales(transformer.depth_mup(SCHEMES["xavier_rnn"], 2, alpha), leaves(layers=8))
    assert of["ffn_out"] == pytest.approx((4**-alpha, rate, 1))
    assert of["ffn_in"] == pytest.approx((1, rate, 1))
    assert of["readout"] == of["embedding"] == of["bias of readout.bias"] == of["bias of norm.bias"] == (1, 1, 1)
    # A bias is added with its kernel's product, so the branch's factor is on both; all of a block has the block's rate.
    for name in ("blocks.0.ffn_out_bias", "blocks.3.attention.out_bias"):
        assert of[f"bias of {name}"] == pytest.approx((4**-alpha, rate, 1))
    for name in ("blocks.0.ffn_in_bias", "blocks.2.attention.query_bias", "blocks.1.fed.norm.bias"):
        assert of[f"bias of {name}"] == pytest.approx((1, rate, 1))
    sgd = scales(transformer.depth_mup(SCHEMES["xavier_rnn"], 2, alpha, "sgd"), leaves(layers=8))
    assert sgd["ffn_out"] == pytest.approx((4**-alpha, 4 ** (2 * alpha - 1), 1))


@pytest.mark.parametrize("name", ["rezero", "skipinit"])
def test_a_gated_scheme_starts_as_the_identity_and_needs_gates(name: str) -> None:
    gated = leaves(gate=True, norm=None)
    drawn = draw(SCHEMES[name], KEY, gated)
    assert all(float(drawn[leaf.name]) == 0 for leaf in gated if leaf.role == "residual_gate")
    ffn_in = math.sqrt(2 / D) if name == "skipinit" else GLOROT["ffn_in"]
    assert std(SCHEMES[name], "ffn_in", gated) == pytest.approx(ffn_in, rel=0.02)
    with pytest.raises(ValueError, match="residual_gate"):
        draw(SCHEMES[name], KEY, leaves())


def test_fixup_in_a_gated_model_can_learn() -> None:
    """Its last kernels start at 0, so its multipliers must not: two zeros in a row have no gradient."""
    gated = leaves(gate=True, norm=None)
    drawn = draw(SCHEMES["fixup"], KEY, gated)
    assert all(float(drawn[leaf.name]) == 1 for leaf in gated if leaf.role == "residual_gate")


def test_fixups_steps_move_the_stream_alike_at_every_depth() -> None:
    """A step of SGD moves each of 2 L branches as its scale squared, which Fixup makes 1/(2 L); else the sum as L."""
    x = jax.random.randint(jax.random.key(1), (8, 12), 0, V)

    def moved(scheme: Scheme, layers: int) -> float:
        options = {"norm": None, "gate": True, "scalar_bias": True, "bias": False, "layers": layers, "length": 12}
        model = functional(lambda: Transformer(V, D, V, rngs=nnx.Rngs(0), **options))
        gradient = jax.grad(lambda p: cross_entropy(model.apply(p, x), x))
        step = lambda p: jax.tree.map(lambda w, g: w - 0.1 * g, p, gradient(p))
        stream = lambda p: model.filled(p).stream(x)[-1]

        @jax.jit
        def second(p: dict) -> jax.Array:  # the first moves the readout alone, which starts at 0
            once = step(p)
            return jnp.sqrt(jnp.mean((stream(step(once)) - stream(once)) ** 2))

        return float(second(draw(scheme, KEY, model.leaves)))

    growth = lambda scheme: moved(scheme, 8) / moved(scheme, 2)
    assert growth(SCHEMES["fixup"]) == pytest.approx(1, rel=0.2)
    unscaled = Override(SCHEMES["fixup"], dict.fromkeys(("value", "ffn_in"), he("normal")))
    assert growth(unscaled) == pytest.approx(4, rel=0.2)


def test_two_stacks_have_factors_of_their_own() -> None:
    model = functional(lambda: EncoderDecoder(V, D, V, layers=L, decoder_layers=2, length=40, rngs=nnx.Rngs(0)))
    pair = transformer.deepnorm_pair(L, 2)
    beta = {"encoder": 0.87 * (L**4 * 2) ** (-1 / 16), "decoder": 24**-0.25}
    assert (pair.skip_scale, pair.decoder_skip_scale) == pytest.approx((0.81 * (L**4 * 2) ** (1 / 16), 6**0.25))
    fixup = transformer.encoder_decoder(transformer.t_fixup_encoder, transformer.t_fixup)
    tau = {"encoder": 0.67 * L**-0.25, "decoder": 18**-0.25}
    for stack in ("encoder", "decoder"):
        of = tuple(leaf for leaf in model.leaves if leaf.name.startswith(stack))
        assert std(pair.scheme, "ffn_in", of) == pytest.approx(beta[stack] * GLOROT["ffn_in"], rel=0.02)
        assert std(pair.scheme, "query", of) == pytest.approx(GLOROT["query"], rel=0.02)
        assert std(fixup, "ffn_out", of) == pytest.approx(tau[stack] * GLOROT["ffn_in"], rel=0.02)


def test_spectral_mup_needs_fans_alone_and_agrees_with_mup() -> None:
    """At four times the base width its sizes and rates are those of muP, whose table it derives."""
    wide = leaves(4 * D)
    for optimizer in ("adam", "sgd"):
        spectral, table = (scales(of(D, optimizer), wide) for of in (transformer.spectral_mup, transformer.mup))
        for role in ("query", "value", "attention_out", "ffn_in", "ffn_out", "embedding", "readout", "scale"):
            assert spectral[role] == pytest.approx(table[role]), role
    # ||W|| of n x m Gaussians is s (sqrt(n) + sqrt(m)): within 10 % of sqrt(fan_out / fan_in) but for that sum
    w = np.asarray(draw(transformer.spectral_mup(D), KEY, wide)["blocks.0.ffn_in"])
    n, m = w.shape
    assert np.linalg.norm(w, 2) == pytest.approx((1 + math.sqrt(m / n)), rel=0.1)


def test_u_mup_has_mups_sizes_in_its_multipliers() -> None:
    wide = leaves(4 * D)
    found = rules(transformer.u_mup(D), wide)
    base = rules(transformer.u_mup(D), leaves())
    plain = rules(transformer.mup(D), wide)
    for leaf in wide:
        rule, was, table = found[leaf.name], base[leaf.name], plain[leaf.name]
        if leaf.is_kernel and leaf.role not in ("embedding", "position"):
            # Under Adam an effective weight moves by multiplier times rate: its change with the width is muP's.
            moves = rule.multiplier * rule.lr_scale / (was.multiplier * was.lr_scale)
            assert moves == pytest.approx(table.multiplier * table.lr_scale), leaf.name
    assert std(transformer.u_mup(D), "ffn_out", wide) == pytest.approx(1, rel=0.02)


def test_mimetic_attention_mimics_the_identity() -> None:
    """Values times outputs are 0.4 Z - 0.4 I exactly; queries times keys the best approximation of a head's rank."""
    of = leaves()
    drawn = draw(SCHEMES["mimetic"], KEY, of)
    at = "blocks.1.attention"
    whole = np.asarray(drawn[f"{at}.value"]).reshape(D, D) @ np.asarray(drawn[f"{at}.out"]).reshape(D, D)
    noise = (whole + 0.4 * np.eye(D)) / 0.4 * math.sqrt(D)
    assert noise.mean() == pytest.approx(0, abs=4 / D)
    assert noise.var() == pytest.approx(1, abs=4 * math.sqrt(2) / D)
    query, key = (np.asarray(drawn[f"{at}.{name}"])[:, 2] for name in ("query", "key"))
    product = query @ key.T
    assert np.linalg.matrix_rank(product, tol=1e-4) == 16
    assert np.trace(product) / D > 0.3  # 0.7 at full rank; the largest quarter of the singular directions leans to I
    other = np.asarray(drawn[f"{at}.query"])[:, 0]
    assert abs(np.trace(other @ key.T)) / D < 0.3  # another head has another Z
    np.testing.assert_allclose(np.sort(np.linalg.norm(query, axis=0)), np.sort(np.linalg.norm(key, axis=0)), rtol=1e-4)
    with pytest.raises(ValueError, match="widths add up to 64"):
        draw(SCHEMES["mimetic"], KEY, leaves(kv_heads=2))


def test_depth_scaling_keeps_the_key_that_kernels_share() -> None:
    of = leaves()
    base, scaled_ = (rules(scheme, of) for scheme in (SCHEMES["mimetic"], transformer.depth_mup(SCHEMES["mimetic"], 2)))
    assert {name: rule.key for name, rule in scaled_.items()} == {name: rule.key for name, rule in base.items()}
