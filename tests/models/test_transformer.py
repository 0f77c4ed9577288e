"""The Transformer against other libraries with copied weights, and its options one by one."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every, quick
from flax import nnx
from programs import equations

from jaxinit import introspect, spec
from jaxinit.initializers import constant, glorot_scheme, normal, vector
from jaxinit.introspect import Training, functional
from jaxinit.models import EncoderDecoder, Transformer, ViT
from jaxinit.models.transformer import rotated, waves

V, D, K, T, B = 11, 16, 11, 6, 3
TOKENS = jax.random.randint(jax.random.key(0), (B, T), 0, V)
OPTIONS = {
    "plain": {},
    "post-norm": {"placed": "post", "skip_scale": 1.5},
    "no norm": {"norm": None},
    "rms": {"norm": "rms", "qk_norm": True, "bias": False},
    "llama": {
        "norm": "rms",
        "positions": "rotary",
        "activation": "swiglu",
        "bias": False,
        "kv_heads": 2,
    },
    "sinusoidal": {"positions": "sinusoidal", "tied": True},
    "rezero": {"norm": None, "gate": True},
    "fixup": {"norm": None, "gate": True, "scalar_bias": True, "bias": False},
    "admin": {"placed": "post", "learned_skip": True},
}


def make(**options) -> Transformer:
    settings = {"layers": 2, "heads": 4, "length": T} | options
    return Transformer(V, D, K, rngs=nnx.Rngs(0), **settings)


def everything_normal(leaf):
    """Gates and scales too, so that all of a block is seen."""
    return normal(0.3)


def normal_beside_scales(leaf):
    return vector(leaf) if leaf.role == "scale" else normal(0.3)


def drawn(model):
    return introspect.initialize(model, everything_normal, jax.random.key(1))


def outputs_by_time(model):
    """A function of x whose Jacobian says which step of the inputs reaches which of the outputs."""

    def summed(*inputs):
        return jnp.sum(model(*inputs), axis=(0, 2))

    return summed


@pytest.mark.parametrize("name", quick("post-norm", "llama", "fixup", of=OPTIONS))
def test_scanned_blocks_equal_blocks_one_by_one(name: str) -> None:
    scanned = drawn(make(scan=True, **OPTIONS[name]))
    unrolled = drawn(make(scan=False, **OPTIONS[name]))

    @jax.jit
    def outputs(tokens):
        return scanned(tokens), unrolled(tokens), scanned(jax.nn.one_hot(tokens, V))

    y, one_by_one, of_vectors = outputs(TOKENS)
    assert y.shape == (B, T, K)
    np.testing.assert_allclose(y, one_by_one, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_vectors, y, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_backward_pass_keeps_the_products_of_each_block_alone() -> None:
    """10 d floats a step: the stream, queries, keys, values, attention's product, 4 d into and d
    out of the ffn."""
    batch, length, width = 32, 32, 32

    def temporary(layers: int) -> int:
        model = functional(
            lambda: Transformer(V, width, V, layers=layers, length=length, rngs=nnx.Rngs(0))
        )
        params = {leaf.name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for leaf in model.leaves}

        def loss(p):
            return jnp.mean(model.apply(p, jnp.zeros((batch, length), int)) ** 2)

        program = jax.jit(jax.grad(loss)).lower(params).compile()
        return program.memory_analysis().temp_size_in_bytes

    kept = (temporary(12) - temporary(4)) / 8
    # 3.8 times that where all is kept
    assert kept == pytest.approx(10 * width * batch * length * 4, rel=0.3)


@pytest.mark.parametrize("name", quick("llama", "sinusoidal", "rezero", "fixup", of=OPTIONS))
def test_causality_by_gradient(name: str) -> None:
    x = jax.nn.one_hot(TOKENS, V)
    # that nothing else hides the future is seen in two blocks that share no part of their attention
    for causal in (True, False) if name in ("plain", "llama") else (True,):
        model = drawn(make(causal=causal, **OPTIONS[name]))
        jacobian = jax.jit(jax.jacrev(outputs_by_time(model)))(x)
        future = [bool(jacobian[t, :, t + 1 :].any()) for t in range(T - 1)]
        assert not any(future) if causal else all(future)


def test_attention_equals_flaxs_with_copied_weights() -> None:
    theirs = nnx.MultiHeadAttention(
        num_heads=4, in_features=D, qkv_features=D, decode=False, rngs=nnx.Rngs(3)
    )
    model = make(positions=None)
    attention = model.blocks[0].attention
    for name in ("query", "key", "value", "out"):
        getattr(attention, name).set_value(getattr(theirs, name).kernel[...])
    x = jax.random.normal(jax.random.key(5), (B, T, D))
    mask = nnx.make_causal_mask(jnp.ones((B, T)))
    graph, state = nnx.split(theirs)

    def attend(x):
        return attention(x, x, model.options, True)

    def attend_as_flax(x):
        return nnx.merge(graph, state)(x, mask=mask)

    np.testing.assert_allclose(attend(x), theirs(x, mask=mask), atol=1e-5)
    our_slopes = jax.jit(jax.grad(lambda x: jnp.sum(attend(x) ** 2)))(x)
    their_slopes = jax.jit(jax.grad(lambda x: jnp.sum(attend_as_flax(x) ** 2)))(x)
    np.testing.assert_allclose(our_slopes, their_slopes, atol=1e-5)


def array_of(tensor):
    return jnp.asarray(tensor.detach().numpy())


def copy_attention(ours, theirs, bias) -> None:
    """PyTorch's packed query, key, value and output kernels, with biases other than 0, into
    ours."""
    import torch

    with torch.no_grad():
        theirs.in_proj_bias.copy_(torch.tensor(np.asarray(bias)))
    packed = array_of(theirs.in_proj_weight)
    for k, name in enumerate(("query", "key", "value")):
        rows = slice(k * D, (k + 1) * D)
        getattr(ours, name).set_value(packed[rows].T.reshape(D, 4, D // 4))
        getattr(ours, f"{name}_bias").set_value(bias[rows].reshape(4, D // 4))
    ours.out.set_value(array_of(theirs.out_proj.weight).T.reshape(4, D // 4, D))


def copy_feed(block, layer) -> None:
    block.ffn_in.set_value(array_of(layer.linear1.weight).T)
    block.ffn_out.set_value(array_of(layer.linear2.weight).T)
    block.ffn_in_bias.set_value(array_of(layer.linear1.bias))
    block.ffn_out_bias.set_value(array_of(layer.linear2.bias))


@pytest.mark.parity
@pytest.mark.parametrize("placed", ["pre", "post"])
def test_a_block_equals_pytorchs_with_copied_weights(placed: str) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    layer = torch.nn.TransformerEncoderLayer(
        D, 4, 4 * D, dropout=0.0, activation="gelu", batch_first=True, norm_first=placed == "pre"
    )
    model = make(causal=False, placed=placed, positions=None)
    block = model.blocks[0]
    copy_attention(block.attention, layer.self_attn, 0.1 * jnp.arange(3.0 * D))
    copy_feed(block, layer)
    x = jax.random.normal(jax.random.key(5), (B, T, D))
    theirs = torch.tensor(np.asarray(x), requires_grad=True)
    weight = np.cos(np.arange(x.size)).reshape(x.shape).astype(np.float32)
    (layer(theirs) * torch.tensor(weight)).sum().backward()

    def ours(x):
        return block(x, model.options, None, 0, None)

    np.testing.assert_allclose(ours(x), layer(theirs).detach().numpy(), atol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(ours(x) * weight)))(x)
    expected = theirs.grad.numpy()
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parity
@pytest.mark.parametrize("placed", quick("pre", of=["pre", "post"]))
def test_a_decoder_block_equals_pytorchs_with_copied_weights(placed: str) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    layer = torch.nn.TransformerDecoderLayer(
        D, 4, 4 * D, dropout=0.0, activation="gelu", batch_first=True, norm_first=placed == "pre"
    )
    model = make(cross=True, placed=placed, positions=None)
    block = model.blocks[0]
    copy_attention(block.attention, layer.self_attn, 0.1 * jnp.arange(3.0 * D))
    copy_attention(block.cross, layer.multihead_attn, 0.05 * jnp.arange(3.0 * D))
    copy_feed(block, layer)
    x = jax.random.normal(jax.random.key(5), (B, T, D))
    memory = jax.random.normal(jax.random.key(6), (B, T + 3, D))
    mask = torch.nn.Transformer.generate_square_subsequent_mask(T)
    tensors = [torch.tensor(np.asarray(stream), requires_grad=True) for stream in (x, memory)]
    theirs = layer(*tensors, tgt_mask=mask)
    weight = np.cos(np.arange(x.size)).reshape(x.shape).astype(np.float32)
    (theirs * torch.tensor(weight)).sum().backward()

    def ours(x, memory):
        return block(x, model.options, None, 0, memory)

    def cost(x, memory):
        return jnp.sum(ours(x, memory) * weight)

    np.testing.assert_allclose(ours(x, memory), theirs.detach().numpy(), atol=1e-5)
    gradients = jax.jit(jax.grad(cost, argnums=(0, 1)))(x, memory)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert tensor.grad is not None
        expected = tensor.grad.numpy()
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_an_encoder_decoder() -> None:
    """The target sees all of the source and its own past; both stacks are drawn, and know which
    they are."""
    options = {"layers": 2, "decoder_layers": 3, "heads": 2, "length": 16}
    model = EncoderDecoder(V, D, K, **options, init=everything_normal, rngs=nnx.Rngs(0))
    x, z = jax.nn.one_hot(TOKENS, V), jax.random.normal(jax.random.key(1), (B, 5, K))
    assert jax.eval_shape(model, x, z).shape == (B, 5, K)
    by_source, by_target = jax.jit(jax.jacrev(outputs_by_time(model), argnums=(0, 1)))(x, z)
    reached = jnp.any(by_source != 0, axis=(1, 3))  # [target step, source step]
    assert reached.shape == (5, T)
    assert reached.all()
    for t in range(4):
        assert not by_target[t, :, t + 1 :].any()
    leaves = introspect.leaves(model)
    stacks = {"encoder": [], "decoder": []}
    for leaf in leaves:
        stacks[leaf.name.split(".")[0]].append(leaf)
    assert {leaf.n_layers for leaf in stacks["encoder"]} == {2}
    assert {leaf.n_layers for leaf in stacks["decoder"]} == {3}
    with pytest.raises(ValueError, match="give memory"):
        model.decoder(z)


def test_a_vision_transformer_sees_all_patches_alike() -> None:
    """Without positions the order of the patches does not matter, and with them it does."""
    x = jax.random.normal(jax.random.key(0), (B, T, V))
    for positions in (None, "learned"):
        settings = {"layers": 1, "positions": positions, "init": everything_normal}
        model = ViT(V, D, K, rngs=nnx.Rngs(0), **settings)
        y = model(x)
        turned_round = model(x[:, ::-1])
        assert y.shape == (B, K)
        assert np.allclose(y, turned_round, atol=1e-5) == (positions is None)
    with pytest.raises(TypeError, match="ViT decides causal itself"):
        ViT(V, D, K, causal=True, rngs=nnx.Rngs(0))


def test_rotary_scores_depend_on_distance_alone() -> None:
    # The same query and key at each of nine steps.
    one_query = jax.random.normal(jax.random.key(1), (1, 1, 2, 8))
    one_key = jax.random.normal(jax.random.key(2), (1, 1, 2, 8))
    q = jnp.broadcast_to(one_query, (1, 9, 2, 8))
    k = jnp.broadcast_to(one_key, (1, 9, 2, 8))
    scores = jnp.einsum("bqhk,bshk->hqs", rotated(q), rotated(k))[0]
    for distance in range(-4, 5):
        diagonal = jnp.diagonal(scores, offset=distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)
    sizes = jnp.linalg.norm(q, axis=-1)
    np.testing.assert_allclose(jnp.linalg.norm(rotated(q), axis=-1), sizes, rtol=1e-5)


def test_positions_by_their_formula() -> None:
    positions = waves(7, 6)
    np.testing.assert_allclose(positions[3, 4], np.sin(3 / 10_000 ** (4 / 6)), rtol=1e-6)
    np.testing.assert_allclose(positions[3, 5], np.cos(3 / 10_000 ** (4 / 6)), rtol=1e-6)
    np.testing.assert_array_equal(positions[0], [0, 1] * 3)


def test_scalar_biases_stand_before_every_kernel_and_activation() -> None:
    model = make(layers=1, positions=None, causal=False, **OPTIONS["fixup"])
    model = introspect.initialize(model, lambda leaf: normal(0.5), jax.random.key(1))
    block = model.blocks[0]
    attention = block.attention
    s = model.embedding[...][TOKENS]
    scalars = (
        attention.before,
        attention.before_out,
        block.before,
        block.before_activation,
        block.before_out,
    )
    numbers = [float(scalar[...]) for scalar in scalars]
    before, before_out, before_ffn, before_activation, before_ffn_out = numbers
    assert len({*numbers, float(model.before[...]), 0.0}) == 7  # all different, none 0
    heads = []
    for h in range(4):
        q = (s + before) @ attention.query[...][:, h]
        k = (s + before) @ attention.key[...][:, h]
        v = (s + before) @ attention.value[...][:, h]
        heads.append(jax.nn.softmax(q @ k.swapaxes(1, 2) / 2, axis=-1) @ v)
    mixed = jnp.concatenate(heads, axis=-1) + before_out
    s = s + block.attended.gate[...] * (mixed @ attention.out[...].reshape(D, D))
    h = jax.nn.gelu((s + before_ffn) @ block.ffn_in[...] + before_activation, approximate=False)
    s = s + block.fed.gate[...] * ((h + before_ffn_out) @ block.ffn_out[...])
    y = (s + model.before[...]) @ model.readout.kernel[...] + model.readout.bias[...][None, None]
    np.testing.assert_allclose(model(TOKENS), y, rtol=1e-5, atol=1e-5)


def test_a_gate_at_zero_leaves_the_stream_alone() -> None:
    model = make(norm=None, gate=True, scan=False)  # every scheme starts the gates at 0
    courses = model.stream(TOKENS)
    for after in courses[1:]:
        np.testing.assert_array_equal(after, courses[0])
    branch = model.blocks[0].attention(courses[0], courses[0], model.options, True)
    assert jax.grad(lambda gate: jnp.sum(branch * gate))(1.0) != 0


def test_fans_count_no_copy_and_layers_are_known() -> None:
    leaves = {leaf.name: leaf for leaf in introspect.leaves(make(kv_heads=2, layers=3))}
    query = leaves["blocks.2.attention.query"]
    key = leaves["blocks.2.attention.key"]
    out = leaves["blocks.2.attention.out"]
    assert (query.fan_in, query.fan_out, query.copies) == (D, 4, 4)
    assert (query.layer, query.n_layers) == (2, 3)
    assert (key.shape, key.copies) == ((D, 2, 4), 2)
    assert (out.fan_in, out.fan_out) == (D, D)
    assert leaves["blocks.0.ffn_out"].fan_in == 4 * D
    drawn = spec.draw(glorot_scheme, jax.random.key(0), leaves.values())
    assert not np.array_equal(drawn["blocks.0.attention.query"], drawn["blocks.1.attention.query"])


def test_dropout_and_readouts() -> None:
    model = make(readout="mean")
    assert model(TOKENS).shape == (B, K)
    noisy = model(TOKENS, Training(jax.random.key(1), 0.5))
    assert not np.allclose(noisy, model(TOKENS))
    np.testing.assert_allclose(model(TOKENS, Training()), model(TOKENS), rtol=1e-6)
    tied = functional(partial(make, tied=True))
    assert not any("readout" in leaf.name for leaf in tied.leaves)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads must divide the width, got 3 heads and a width of 16"),
        ({"kv_heads": 3}, "kv_heads must divide the heads, got 3 and 4"),
        ({"heads": 16, "positions": "rotary"}, "the width of a head must be even, got 1"),
        ({"activation": "swish"}, "no activation is called 'swish'"),
        ({"layers": 0}, "layers must be a positive integer"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_sequence_that_is_too_long_is_refused() -> None:
    with pytest.raises(
        ValueError, match="the sequence has 7 steps, and the network positions for 6; raise length"
    ):
        make()(jnp.zeros((1, 7), jnp.int32))
    with pytest.raises(
        ValueError, match="a tied readout needs as many outputs as inputs, got 5 and 11"
    ):
        Transformer(V, D, 5, tied=True, rngs=nnx.Rngs(0))


@cache
def of_no_initializer() -> tuple[dict, dict]:
    plain = make()
    return introspect.values(plain), {leaf.name: leaf.role for leaf in introspect.leaves(plain)}


@pytest.mark.parametrize(
    "role",
    every(
        3,
        of=[
            "embedding",
            "position",
            "query",
            "key",
            "value",
            "attention_out",
            "ffn_in",
            "ffn_out",
            "readout",
            "bias",
        ],
    ),
)
def test_an_initializer_for_every_role(role: str) -> None:
    before, roles = of_no_initializer()
    after = introspect.values(make(**{f"{role}_init": constant(3.0)}))
    assert role in roles.values()
    for name, value in after.items():
        if roles[name] == role:
            assert bool((value == 3.0).all()), name
        else:
            np.testing.assert_array_equal(value, before[name])


# Options are not told by the dtype: each is seen in a block or two.
IN_A_DTYPE = quick(
    ("llama", "bfloat16"),
    ("fixup", "float64"),
    of=((name, dtype) for dtype in ("bfloat16", "float16", "float64") for name in OPTIONS),
)


@pytest.mark.parametrize(("name", "dtype"), IN_A_DTYPE)
def test_everything_is_computed_in_the_dtype_of_the_parameters(name: str, dtype: str) -> None:
    """Outputs, gradients, a scan of SGD steps, and the two sides of every product."""
    with jax.enable_x64(dtype == "float64"):
        model = functional(partial(make, **OPTIONS[name]))
        values = spec.draw(normal_beside_scales, jax.random.key(0), model.leaves)
        params = {n: value.astype(dtype) for n, value in values.items()}
        noise = Training(jax.random.key(1), 0.25)

        def cost(p):
            y, _ = model.learn(p, {}, TOKENS, noise)
            return jnp.sum(jnp.sin(y))

        def step(p, _):
            after = {n: p[n] - 0.1 * slope for n, slope in jax.grad(cost)(p).items()}
            return after, model.apply(p, TOKENS)

        program = jax.make_jaxpr(lambda p: jax.lax.scan(step, p, length=2))(params)
        assert {str(aval.dtype) for aval in program.out_avals} == {dtype}
        of_factors = set()
        for equation in equations(program.jaxpr):
            if equation.primitive.name == "dot_general":
                of_factors.update(str(var.aval.dtype) for var in equation.invars)
        assert of_factors == {dtype}
        # half of the least float16 is far enough below every score: the future has no weight
        x = jax.nn.one_hot(TOKENS, V, dtype=dtype)
        into = jax.jit(jax.grad(lambda x: jnp.sum(model.apply(params, x)[:, 2])))(x)
        assert into.dtype == dtype
        assert bool(jnp.isfinite(into).all())
        assert not into[:, 3:].any()


@pytest.mark.slow
def test_gradients_in_bfloat16_are_those_of_float32_to_its_rounding() -> None:
    model = functional(partial(make, norm="rms", positions="rotary"))
    params = spec.draw(normal_beside_scales, jax.random.key(0), model.leaves)
    narrow = {name: value.astype(jnp.bfloat16) for name, value in params.items()}
    exact = {name: value.astype(jnp.float32) for name, value in narrow.items()}
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(p, TOKENS)))))
    got, expected = gradients(narrow), gradients(exact)
    for name, value in expected.items():
        error = jnp.linalg.norm(got[name].astype(jnp.float32) - value) / jnp.linalg.norm(value)
        # some 40 roundings on the way through two blocks, 2^-9 each at most
        assert error < 40 * 2**-9, name


@pytest.mark.slow
def test_two_stacks_in_bfloat16_and_their_shapes() -> None:
    model = EncoderDecoder(V, D, K, heads=2, length=T, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    narrow = nnx.merge(graph, jax.tree.map(lambda a: a.astype(jnp.bfloat16), state))
    assert jax.eval_shape(narrow, TOKENS, TOKENS).dtype == jnp.bfloat16
    assert jax.eval_shape(narrow, TOKENS, jax.nn.one_hot(TOKENS, K)).dtype == jnp.bfloat16
    memory = jnp.zeros((B, T, D))
    for wrong in (memory[:, :, :3], memory[:2], memory[:, :0], memory[0]):
        with pytest.raises(
            ValueError,
            match=r"memory has the shape .*, expected \[3, steps, 16\], of 1 step or more",
        ):
            model.decoder(TOKENS, memory=wrong)
    for x, z in ((memory[..., :3], TOKENS), (TOKENS, memory[..., :3])):
        with pytest.raises(ValueError, match=r"expected features \[batch, time, 11\]"):
            model(x, z)


def test_sizes_of_any_integral_type() -> None:
    size = np.int64
    options = {"heads": size(4), "kv_heads": size(2), "length": size(T)}
    model = Transformer(size(V), size(D), size(K), rngs=nnx.Rngs(0), **options)
    assert jax.eval_shape(model, TOKENS).shape == (B, T, K)
    for name in ("kv_heads", "heads", "ffn", "length"):
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
            make(**{name: 0})
    with pytest.raises(ValueError, match="layers must be a positive integer, got 0"):
        EncoderDecoder(V, D, K, decoder_layers=0, rngs=nnx.Rngs(0))


# Lengths and masks.

LENGTHS = np.asarray([T, 2, 4])
WITHIN = np.arange(T)[None] < LENGTHS[:, None]
FEATURES = jax.random.normal(jax.random.key(2), (B, T, V))
PADDED = {
    "last": {"readout": "last", "scan": False},
    "last causal": {"readout": "last", "causal": True, "norm": "rms", "positions": "rotary"},
    "mean": {"readout": "mean", "placed": "post"},
    "mean causal": {"readout": "mean", "causal": True, "positions": "sinusoidal", "scan": False},
    "all": {"readout": "all", "qk_norm": True},
    "all causal": {"readout": "all", "causal": True, "tied": True},
}


@pytest.mark.parametrize("name", quick("mean", "all causal", of=PADDED))
def test_what_follows_a_sequences_end_does_not_matter(name: str) -> None:
    model = drawn(make(**{"causal": False, **PADDED[name]}))
    every_step = model.options.readout == "all"

    @jax.jit
    def outputs_and_slopes(x):
        def cost(x):
            y = model(x, lengths=LENGTHS)
            return jnp.sum(jnp.sin(y)), y

        (_, y), slopes = jax.value_and_grad(cost, has_aux=True)(x)
        return y, slopes

    y, slopes = outputs_and_slopes(FEATURES)
    alone = jax.jit(model)
    for row, length in enumerate(LENGTHS):
        got = y[row, :length] if every_step else y[row]
        expected = alone(FEATURES[row : row + 1, :length])[0]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert bool((slopes != 0).any(-1)[0].any())
    assert not slopes[~WITHIN].any()
    # whatever the padding holds, numbers or none, not a bit changes
    for padding in (7.0, jnp.nan):
        other = jnp.where(WITHIN[..., None], FEATURES, padding)
        for before, after in zip((y, slopes), outputs_and_slopes(other), strict=True):
            np.testing.assert_array_equal(after, before)
    if every_step:
        assert not y[~WITHIN].any()


@pytest.mark.slow
def test_gradients_of_parameters_know_nothing_of_padding() -> None:
    model = functional(partial(make, causal=False, readout="mean", layers=1))
    params = spec.draw(normal_beside_scales, jax.random.key(0), model.leaves)

    @jax.jit
    def slopes_of(tokens):
        def cost(p):
            return jnp.sum(jnp.sin(model.filled(p)(tokens, lengths=LENGTHS)))

        return jax.grad(cost)(params)

    padded = jnp.where(WITHIN, TOKENS, V - 1)
    for before, after in zip(*map(jax.tree.leaves, map(slopes_of, (TOKENS, padded))), strict=True):
        np.testing.assert_array_equal(after, before)
    alone = jax.tree.map(jnp.zeros_like, params)
    for row, length in enumerate(LENGTHS):

        def cost(p, one=TOKENS[row : row + 1, :length]):
            return jnp.sum(jnp.sin(model.apply(p, one)))

        alone = jax.tree.map(jnp.add, alone, jax.jit(jax.grad(cost))(params))
    for name, slope in slopes_of(TOKENS).items():
        np.testing.assert_allclose(slope, alone[name], rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("scan", quick(True, of=[False, True]))
def test_two_stacks_of_different_lengths(scan: bool) -> None:
    model = drawn(EncoderDecoder(V, D, K, layers=2, heads=2, length=T, scan=scan, rngs=nnx.Rngs(0)))
    steps, ends = 5, np.asarray([3, 5, 1])
    z = jax.random.randint(jax.random.key(3), (B, steps), 0, K)

    @jax.jit
    def outputs_and_slopes(x):
        def cost(x):
            y = model(x, z, mask=WITHIN, target_lengths=ends)
            return jnp.sum(jnp.sin(y)), y

        (_, y), slopes = jax.value_and_grad(cost, has_aux=True)(x)
        return y, slopes

    y, slopes = outputs_and_slopes(FEATURES)
    alone = jax.jit(model)
    for row, (length, end) in enumerate(zip(LENGTHS, ends, strict=True)):
        expected = alone(FEATURES[row : row + 1, :length], z[row : row + 1, :end])[0]
        np.testing.assert_allclose(y[row, :end], expected, rtol=1e-5, atol=1e-5)
        assert not y[row, end:].any()
    assert not slopes[~WITHIN].any()
    other = jnp.where(WITHIN[..., None], FEATURES, jnp.nan)
    np.testing.assert_array_equal(outputs_and_slopes(other)[0], y)


def test_lengths_that_are_traced_and_those_that_make_no_sense() -> None:
    for readout in ("last", "mean"):
        model = drawn(make(causal=False, readout=readout, layers=1))
        y = jax.jit(lambda lengths, model=model: model(TOKENS, lengths=lengths))(
            jnp.asarray([9, 0, 2])
        )
        assert jnp.isfinite(y).all()
        np.testing.assert_allclose(y[0], model(TOKENS[:1])[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(y[1], model.readout.bias[...])  # of no steps
    with pytest.raises(ValueError, match="lengths must be 1 to 6, the steps there are; sequence 0"):
        model(TOKENS, lengths=np.asarray([0, 1, 2]))
    with pytest.raises(ValueError, match="mask has the shape"):
        model(TOKENS, mask=WITHIN[:, :3])
    with pytest.raises(ValueError, match="there is none; give memory too"):
        model(TOKENS, memory_lengths=LENGTHS)


def test_softmaxes_of_narrow_scores_are_float32() -> None:
    """Hundred equal weights of 1/100 sum to 1, which bfloat16 would round on the way."""
    model = functional(partial(make, length=100, layers=1, causal=False, readout=None, norm=None))
    params = spec.draw(normal_beside_scales, jax.random.key(0), model.leaves)
    narrow = {name: value.astype(jnp.bfloat16) for name, value in params.items()}
    program = jax.make_jaxpr(model.apply)(narrow, jnp.zeros((2, 100), jnp.int32))
    exponentials = [e for e in equations(program.jaxpr) if e.primitive.name == "exp"]
    assert exponentials
    assert {str(e.invars[0].aval.dtype) for e in exponentials} == {"float32"}
