"""Schemes of residual networks by their formulas, role by role."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx
from residual_nets import FEED, KEY, D, L, V, declared, drawn, leaves, std

from jaxinit.initializers import he
from jaxinit.introspect import functional
from jaxinit.models import EncoderDecoder, Transformer
from jaxinit.schemes import SCHEMES, transformer
from jaxinit.spec import Override, Scheme, draw, rules
from jaxinit.tasks.base import cross_entropy

GLOROT = {"query": math.sqrt(2 / (D + 16)), "ffn_in": math.sqrt(2 / (5 * D))}


EXPECTED = {
    "gpt2": {
        "query": 0.02,
        "attention_out": 0.02 / math.sqrt(2 * L),
        "ffn_out": 0.02 / math.sqrt(2 * L),
        "position": 0.02,
    },
    "gpt2_blocks": {"ffn_in": 0.02, "ffn_out": 0.02 / math.sqrt(L)},
    "layer_index": {"query": 0.02, "ffn_in": 0.02, "embedding": 0.02, "readout": 0.02},
    "nanochat": {
        "query": 1 / math.sqrt(D),
        "value": 1 / math.sqrt(D),
        "ffn_in": 1 / math.sqrt(D),
        "attention_out": 0,
        "ffn_out": 0,
        "embedding": 1.0,
        "readout": 0.001,
    },
    "speedrun": {
        "key": 0.5 / math.sqrt(D),
        "ffn_in": 0.5 / math.sqrt(D),
        "attention_out": 0,
        "ffn_out": 0,
        "embedding": 1.0,
        "readout": 0,
    },
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
    "t_fixup_encoder": {
        "ffn_in": 0.67 * L**-0.25 * GLOROT["ffn_in"],
        "embedding": 0.67 * L**-0.25 / math.sqrt(D),
    },
    "fixup": {"attention_out": 0, "ffn_out": 0, "readout": 0, "ffn_in": math.sqrt(2 / D / (2 * L))},
    "deepnorm": {"ffn_in": (8 * L) ** -0.25 * GLOROT["ffn_in"], "query": GLOROT["query"]},
}


@pytest.mark.parametrize(
    "name",
    quick("gpt2", "llama", "t5", "small_init_wang", "t_fixup", "deepnorm", of=EXPECTED),
)
def test_every_role_has_the_size_of_the_paper(name: str) -> None:
    for role, expected in EXPECTED[name].items():
        # The least role has 3,200 entries: three standard errors of a standard deviation are 3.8 %.
        assert std(SCHEMES[name], role) == pytest.approx(expected, rel=0.04), role
    by_name = drawn(SCHEMES[name], leaves())
    for leaf in leaves():
        if leaf.role == "bias":
            assert not by_name[leaf.name].any()


@pytest.mark.parametrize("role", ["attention_out", "ffn_out"])
def test_by_layer_index_each_block_adds_less_than_the_one_before(role: str) -> None:
    for block in range(L):
        of_block = tuple(leaf for leaf in leaves() if leaf.layer == block)
        expected = 0.02 / math.sqrt(2 * (block + 1))
        size = std(SCHEMES["layer_index"], role, of_block)
        # 4,096 entries in the smaller one: four standard errors are 4.4 %.
        assert size == pytest.approx(expected, rel=4 / math.sqrt(2 * D * D)), block


@pytest.mark.parametrize(
    ("name", "factor"), quick(("speedrun", 0.5), of=[("nanochat", 1.0), ("speedrun", 0.5)])
)
def test_recipes_of_speedruns_are_uniform_and_begin_as_the_identity(
    name: str, factor: float
) -> None:
    by_name = drawn(SCHEMES[name], leaves())
    bound = factor * math.sqrt(3 / D)
    for leaf in leaves():
        if leaf.role in ("query", "key", "value", "ffn_in"):
            largest = np.abs(by_name[leaf.name]).max()
            # Of n uniform draws the largest is short of the bound by bound / n on average.
            assert bound * (1 - 10 / by_name[leaf.name].size) < largest <= bound * (1 + 1e-6)
    model = functional(lambda: Transformer(V, D, V, layers=2, length=8, rngs=nnx.Rngs(0)))
    params = draw(SCHEMES[name], KEY, model.leaves)
    x = jnp.zeros((2, 8), jnp.int32)
    embedded, after_the_blocks, _ = model.filled(params).stream(x)
    np.testing.assert_array_equal(embedded, after_the_blocks)
    slopes = jax.grad(lambda p: cross_entropy(model.apply(p, x), x))(params)
    moved = {leaf.role for leaf in model.leaves if np.any(slopes[leaf.name])}
    assert "readout" in moved
    # Behind a readout of zeros nothing has a slope at first; a small one lets the branches begin.
    for role in ("attention_out", "ffn_out"):
        assert (role in moved) == (name == "nanochat")


def test_mimetic_attention_in_layers_of_flax_shares_its_keys() -> None:
    keys = set()
    for name, rule in rules(SCHEMES["mimetic"], declared(roles=FEED)).items():
        if rule.key and name.startswith("blocks.2."):
            keys.add(rule.key)
    assert keys == {"blocks.2.attention.query_key", "blocks.2.attention.value_out"}


@pytest.mark.parametrize("name", ["rezero", "skipinit"])
def test_a_gated_scheme_starts_as_the_identity_and_needs_gates(name: str) -> None:
    gated = leaves(gate=True, norm=None)
    by_name = drawn(SCHEMES[name], gated)
    assert all(float(by_name[leaf.name]) == 0 for leaf in gated if leaf.role == "residual_gate")
    ffn_in = math.sqrt(2 / D) if name == "skipinit" else GLOROT["ffn_in"]
    assert std(SCHEMES[name], "ffn_in", gated) == pytest.approx(ffn_in, rel=0.02)
    with pytest.raises(ValueError, match="residual_gate"):
        draw(SCHEMES[name], KEY, leaves())


def test_fixup_in_a_gated_model_can_learn() -> None:
    """Its last kernels start at 0, so its multipliers must not: two zeros in a row have no
    gradient."""
    gated = leaves(gate=True, norm=None)
    by_name = drawn(SCHEMES["fixup"], gated)
    assert all(float(by_name[leaf.name]) == 1 for leaf in gated if leaf.role == "residual_gate")


@pytest.mark.slow
def test_fixups_steps_move_the_stream_alike_at_every_depth() -> None:
    """A step of SGD moves each of 2 L branches as its scale squared, which Fixup makes 1/(2 L);
    else the sum as L."""
    x = jax.random.randint(jax.random.key(1), (8, 12), 0, V)

    def moved(scheme: Scheme, layers: int) -> float:
        meant_for = {"norm": None, "gate": True, "scalar_bias": True, "bias": False}
        options = {**meant_for, "layers": layers, "length": 12}
        model = functional(lambda: Transformer(V, D, V, rngs=nnx.Rngs(0), **options))

        def cost(p: dict) -> jax.Array:
            return cross_entropy(model.apply(p, x), x)

        def step(p: dict) -> dict:
            return jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(cost)(p))

        def stream(p: dict) -> jax.Array:
            return model.filled(p).stream(x)[-1]

        @jax.jit
        def second(p: dict) -> jax.Array:  # the first moves the readout alone, which starts at 0
            once = step(p)
            return jnp.sqrt(jnp.mean((stream(step(once)) - stream(once)) ** 2))

        return float(second(draw(scheme, KEY, model.leaves)))

    def growth(scheme: Scheme) -> float:
        return moved(scheme, 8) / moved(scheme, 2)

    assert growth(SCHEMES["fixup"]) == pytest.approx(1, rel=0.2)
    unscaled = Override(SCHEMES["fixup"], dict.fromkeys(("value", "ffn_in"), he("normal")))
    assert growth(unscaled) == pytest.approx(4, rel=0.2)


@pytest.mark.slow
def test_two_stacks_have_factors_of_their_own() -> None:
    def make() -> EncoderDecoder:
        return EncoderDecoder(V, D, V, layers=L, decoder_layers=2, length=40, rngs=nnx.Rngs(0))

    model = functional(make)
    pair = transformer.deepnorm_pair(L, 2)
    beta = {"encoder": 0.87 * (L**4 * 2) ** (-1 / 16), "decoder": 24**-0.25}
    assert pair.skip_scale == pytest.approx(0.81 * (L**4 * 2) ** (1 / 16))
    assert pair.decoder_skip_scale == pytest.approx(6**0.25)
    fixup = transformer.encoder_decoder(transformer.t_fixup_encoder, transformer.t_fixup)
    tau = {"encoder": 0.67 * L**-0.25, "decoder": 18**-0.25}
    for stack in ("encoder", "decoder"):
        stack_leaves = tuple(leaf for leaf in model.leaves if leaf.name.startswith(stack))
        ffn_in = std(pair.scheme, "ffn_in", stack_leaves)
        assert ffn_in == pytest.approx(beta[stack] * GLOROT["ffn_in"], rel=0.02)
        query = std(pair.scheme, "query", stack_leaves)
        assert query == pytest.approx(GLOROT["query"], rel=0.02)
        ffn_out = std(fixup, "ffn_out", stack_leaves)
        assert ffn_out == pytest.approx(tau[stack] * GLOROT["ffn_in"], rel=0.02)


def test_mimetic_attention_mimics_the_identity() -> None:
    """Values times outputs are 0.4 Z - 0.4 I exactly; queries times keys the best approximation of
    a head's rank."""
    by_name = drawn(SCHEMES["mimetic"], leaves(layers=2))
    at = "blocks.1.attention"
    whole = by_name[f"{at}.value"].reshape(D, D) @ by_name[f"{at}.out"].reshape(D, D)
    noise = (whole + 0.4 * np.eye(D)) / 0.4 * math.sqrt(D)
    assert noise.mean() == pytest.approx(0, abs=4 / D)
    assert noise.var() == pytest.approx(1, abs=4 * math.sqrt(2) / D)
    query, key = (by_name[f"{at}.{name}"][:, 2] for name in ("query", "key"))
    product = query @ key.T
    assert np.linalg.matrix_rank(product, tol=1e-4) == 16
    # 0.7 at full rank; the largest quarter of the singular directions leans to I
    assert np.trace(product) / D > 0.3
    other = by_name[f"{at}.query"][:, 0]
    assert abs(np.trace(other @ key.T)) / D < 0.3  # another head has another Z
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(query, axis=0)), np.sort(np.linalg.norm(key, axis=0)), rtol=1e-4
    )
    with pytest.raises(ValueError, match="widths add up to 64"):
        draw(SCHEMES["mimetic"], KEY, leaves(layers=2, kv_heads=2))
