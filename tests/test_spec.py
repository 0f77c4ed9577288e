"""Leaves, fans, keys by name, and the one place where a scheme meets a model."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import jaxinit
from jaxinit import initializers, spec
from jaxinit.initializers import glorot_scheme, orthogonal, zeros
from jaxinit.spec import (
    Joint,
    Leaf,
    Override,
    Rule,
    along,
    draw,
    named_key,
    per_gate,
    per_part,
)

KEY = jax.random.key(0)
FANS = {  # layer: (shape, dims, fan_in, fan_out)
    "dense": ((30, 50), "io", 30, 50),
    "dense, output first": ((50, 30), "oi", 30, 50),
    "convolution": ((3, 3, 16, 32), "wwio", 144, 288),
    "grouped convolution, 4 groups of 8 to 16": ((3, 3, 4, 8, 16), "ww.io", 72, 144),
    "depthwise convolution": ((3, 3, 64, 1, 1), "ww.io", 9, 9),
    "attention query, heads apart": ((64, 8, 16), "i.o", 64, 16),
    "attention query, heads as one matrix": ((64, 8, 16), "ioo", 64, 128),
    "attention output": ((8, 16, 64), "iio", 128, 64),
    "stacked layers": ((12, 64, 64), ".io", 64, 64),
    "mixture of experts in stacked layers": ((12, 4, 64, 256), "..io", 64, 256),
    "LSTM recurrent": ((4, 128, 128), ".io", 128, 128),
}


@pytest.mark.parametrize("layer", FANS)
def test_fans_come_from_dims_and_never_count_a_copy(layer: str) -> None:
    shape, dims, fan_in, fan_out = FANS[layer]
    leaf = Leaf("w", shape, dims, "hidden")
    assert (leaf.fan_in, leaf.fan_out) == (fan_in, fan_out)


@pytest.mark.parametrize("layer", every(3, of=FANS))
def test_any_initializer_has_the_variance_of_its_fan_in_any_layout(layer: str) -> None:
    shape, dims, fan_in, _ = FANS[layer]
    leaf = Leaf("w", shape, dims, "hidden")
    reps = -(-40_000 // np.prod(shape))

    def draw_one(key: jax.Array) -> jax.Array:
        return draw(lambda _: jax.nn.initializers.lecun_normal(), key, [leaf])["w"]

    drawn = jax.vmap(draw_one)(jax.random.split(KEY, reps))
    assert drawn.shape == (reps, *shape)
    # The variance of a variance of n draws with kurtosis <= 3 is at most 2 sigma^4 / n.
    assert float(jnp.var(drawn)) == pytest.approx(1 / fan_in, rel=4 * np.sqrt(2 / drawn.size))


def test_jax_orthogonal_plugged_in_is_orthogonal_per_gate_and_per_head() -> None:
    gates = Leaf("u", (4, 32, 32), ".io", "recurrent")
    heads = Leaf("q", (64, 4, 16), "i.o", "query")
    drawn = draw(lambda _: jax.nn.initializers.orthogonal(), KEY, [gates, heads])
    for k in range(4):
        np.testing.assert_allclose(drawn["u"][k].T @ drawn["u"][k], np.eye(32), atol=2e-5)
        np.testing.assert_allclose(drawn["q"][:, k].T @ drawn["q"][:, k], np.eye(16), atol=2e-5)
    assert float(jnp.abs(drawn["u"][0] - drawn["u"][1]).max()) > 0.1


def test_axes_come_back_where_they_were() -> None:
    mark = lambda key, shape, dtype: jnp.arange(np.prod(shape), dtype=dtype).reshape(shape)
    np.testing.assert_array_equal(spec.along("oi", mark)(KEY, (2, 3)), np.arange(6).reshape(3, 2).T)
    got = spec.along("o.i", mark)(KEY, (2, 5, 3))
    np.testing.assert_array_equal(got[:, 4, :], np.arange(6).reshape(3, 2).T)
    bias = spec.along(".o", mark)(KEY, (4, 7))
    np.testing.assert_array_equal(bias, np.tile(np.arange(7), (4, 1)))


def test_a_plain_matrix_is_drawn_as_jax_draws_it() -> None:
    init = jax.nn.initializers.glorot_normal()
    drawn = draw(lambda _: init, KEY, [Leaf("w", (20, 30), "io", "input")])["w"]
    np.testing.assert_array_equal(drawn, init(named_key(KEY, "w"), (20, 30), jnp.float32))


def layers(*names: str) -> list[Leaf]:
    return [Leaf(name, (16, 16), "io", "hidden") for name in names]


def test_inserting_a_layer_moves_no_other_draw() -> None:
    before = draw(glorot_scheme, KEY, layers("a", "c"))
    after = draw(glorot_scheme, KEY, layers("a", "b", "c"))
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_names_have_keys_of_their_own() -> None:
    drawn = draw(lambda _: initializers.normal(1.0), KEY, layers(*map(str, range(50))))
    flat = np.stack([np.ravel(a) for a in drawn.values()])
    correlation = np.corrcoef(flat)[np.triu_indices(50, 1)]
    # Independent: correlations of 256 pairs have standard deviation 1/16, and 1225 of them stay
    # below 4.5 of those.
    assert np.abs(correlation).max() < 4.5 / 16
    assert correlation.std() == pytest.approx(1 / 16, rel=0.1)


def test_the_same_key_pairs_draws_across_schemes() -> None:
    leaf = layers("a")
    he, lecun = (
        draw(lambda _, s=s: initializers.variance_scaling(s, "fan_in", "normal"), KEY, leaf)["a"]
        for s in (2, 1)
    )
    np.testing.assert_allclose(he, np.sqrt(2) * lecun, rtol=1e-6)


def test_a_leaf_without_a_rule_is_an_error_that_names_both() -> None:
    def only_kernels(leaf: Leaf):
        return orthogonal() if leaf.role == "hidden" else None

    with pytest.raises(
        ValueError, match=r"'only_kernels' has no rule for parameter 'b' \(role 'bias'"
    ):
        draw(only_kernels, KEY, [*layers("a"), Leaf("b", (16,), "o", "bias")])


def test_a_rule_that_matches_nothing_is_an_error_that_names_both() -> None:
    scheme = Override(glorot_scheme, {"c_proj*": orthogonal()})
    with pytest.raises(
        ValueError, match=r"glorot_scheme\+override.*'c_proj\*'.*match no parameter.*a \(hidden\)"
    ):
        draw(scheme, KEY, layers("a"))


def test_a_leaf_that_two_rules_match_is_an_error_that_names_all() -> None:
    scheme = Override(glorot_scheme, {"hidden": zeros, "a": orthogonal()})
    with pytest.raises(
        ValueError,
        match=r"rules for \['hidden', 'a'\] all match parameter 'a' \(role 'hidden'\).*nest",
    ):
        draw(scheme, KEY, layers("a"))


def test_overrides_match_names_and_roles_and_nest() -> None:
    scheme = Override(Override(glorot_scheme, {"hidden": initializers.constant(2.0)}), {"b": zeros})
    drawn = draw(scheme, KEY, [*layers("a", "b"), Leaf("in", (4, 4), "io", "input")])
    assert float(drawn["a"].min()) == float(drawn["a"].max()) == 2.0
    assert not drawn["b"].any()
    assert drawn["in"].std() > 0
    with pytest.raises(ValueError, match=r"\['hidden'\] match no parameter"):  # of the inner one
        draw(scheme, KEY, [Leaf("b", (4, 4), "io", "input")])


def test_empty_axes_and_integers_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"parameter 'w': shape \(0, 4\) has an empty axis.*sizes of 1 or more"
    ):
        Leaf("w", (0, 4), "io", "hidden")
    with pytest.raises(
        ValueError, match=r"cannot draw parameter 'a'.*got dtype int32; ask for float32"
    ):
        draw(glorot_scheme, KEY, layers("a"), jnp.int32)


AXIS = st.tuples(st.sampled_from("iow."), st.integers(1, 3))


@settings(deadline=None, max_examples=25)
@given(
    st.lists(AXIS, min_size=1, max_size=5),
    st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
)
def test_any_layout_asks_for_one_canonical_matrix_a_copy(
    axes: list[tuple[str, int]], dtype: jnp.dtype
) -> None:
    dims = "".join(letter for letter, _ in axes)
    shape = tuple(size for _, size in axes)
    leaf = Leaf("w", shape, dims, "hidden")
    asked = []

    def numbered(key, shape, dtype=jnp.float32, /):
        asked.append((shape, dtype))
        return jax.random.uniform(key) + jnp.arange(math.prod(shape), dtype=dtype).reshape(shape)

    drawn = jax.jit(lambda key: draw(lambda _: numbered, key, [leaf], dtype)["w"])(KEY)
    assert (drawn.shape, drawn.dtype) == (shape, dtype)
    window = tuple(size for letter, size in axes if letter == "w")
    if "i" in dims and "o" in dims:
        entries = math.prod(window)
        expected = (*window, leaf.fan_in // entries, leaf.fan_out // entries)
    else:
        expected = tuple(size for kind in "wio" for letter, size in axes if letter == kind)
    assert asked == [(expected, jnp.float32)], "one draw, mapped over copies, sampled wide"
    wide = np.asarray(jax.jit(lambda key: draw(lambda _: numbered, key, [leaf])["w"])(KEY))
    np.testing.assert_array_equal(drawn, wide.astype(drawn.dtype))
    order = [axis for kind in ".wio" for axis, letter in enumerate(dims) if letter == kind]
    copies = wide.transpose(order).reshape(-1, math.prod(expected))
    counted = np.tile(np.arange(copies.shape[1]), (len(copies), 1))
    np.testing.assert_allclose(copies - copies[:, :1], counted, atol=1e-4)
    assert len(np.unique(copies[:, 0])) == len(copies), "each copy has a key of its own"


def test_two_leaves_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"share a name: \['a'\]"):
        draw(glorot_scheme, KEY, layers("a", "a"))


def test_a_rule_that_cannot_draw_says_which_parameter_and_why() -> None:
    with pytest.raises(
        ValueError,
        match=r"'<lambda>' cannot draw parameter 'b' \(role 'bias'.*needs inputs and outputs",
    ):
        draw(lambda _: initializers.glorot(), KEY, [Leaf("b", (16,), "o", "bias")])


@pytest.mark.parametrize(("dims", "expected"), [("i", "names 1 axes"), ("ix", r"holds \['x'\]")])
def test_dims_that_do_not_fit_are_refused(dims: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Leaf("w", (3, 4), dims, "hidden")


def test_rules_carry_multipliers() -> None:
    got = spec.rules(lambda _: Rule(zeros, multiplier=2.0, lr_scale=0.5), layers("a"))["a"]
    assert (got.multiplier, got.lr_scale, got.wd_scale) == (2.0, 0.5, 1.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_draws_are_unbiased_because_they_are_cast_last(dtype: jnp.dtype) -> None:
    n = 1_000_000
    faulty = jax.random.normal(KEY, (n,), dtype).astype(jnp.float32)
    ours = draw(
        lambda _: jax.nn.initializers.normal(1.0), KEY, [Leaf("w", (n,), "o", "hidden")], dtype
    )["w"]
    assert ours.dtype == dtype
    if dtype == jnp.bfloat16:
        # the fault in jax.random that this guards against
        assert abs(float(faulty.mean())) > 5 / np.sqrt(n)
    assert abs(float(ours.astype(jnp.float32).mean())) < 4 / np.sqrt(n)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_orthogonal_works_in_low_precision(dtype: jnp.dtype) -> None:
    leaf = Leaf("w", (64, 64), "io", "hidden")
    drawn = draw(lambda _: orthogonal(), KEY, [leaf], dtype)["w"]
    w = drawn.astype(jnp.float32)
    rounding = float(jnp.finfo(dtype).eps)
    assert float(jnp.abs(w.T @ w - jnp.eye(64)).max()) < rounding


BARE = {
    "JAX's normal": jax.nn.initializers.normal(0.1),
    "JAX's zeros": jax.nn.initializers.zeros,
    "ours": initializers.normal(0.1),
    "a function": lambda key, shape, dtype: 0.1 * jax.random.normal(key, shape, dtype),
    "a function with a sharding": lambda key, shape, dtype=None, out_sharding=None: jnp.full(
        shape, 0.1, dtype
    ),
    "along": along("o", initializers.normal(0.1)),
    "scaled": initializers.scaled(initializers.normal(1.0), 0.1),
}


@pytest.mark.parametrize("kind", BARE)
def test_an_initializer_is_a_scheme_that_draws_every_leaf(kind: str) -> None:
    init = BARE[kind]
    assert spec.is_initializer(init)
    leaf, bias = Leaf("w", (4, 4), ".o", "hidden"), Leaf("b", (3, 5), ".o", "bias")
    drawn = draw(init, KEY, [leaf, bias])
    expected = draw(lambda _: init, KEY, [leaf, bias])
    for name in drawn:
        np.testing.assert_array_equal(drawn[name], expected[name])
    assert all(rule.draw is init for rule in spec.rules(init, [leaf, bias]).values())
    with_zeros = draw(Override(init, {"bias": zeros}), KEY, [leaf, bias])
    assert not with_zeros["b"].any()
    np.testing.assert_array_equal(with_zeros["w"], expected["w"])


def test_schemes_are_no_initializers() -> None:
    for scheme in (
        glorot_scheme,
        Override(glorot_scheme),
        lambda leaf, s=1: zeros,
        lambda *leaf: zeros,
        max,
    ):
        assert not spec.is_initializer(scheme)
    # ours, or the suite's type checker before it
    with pytest.raises(Exception, match="'he_normal'"):
        spec.as_scheme("he_normal")  # pyright: ignore[reportArgumentType]


def test_an_initializer_that_refuses_a_vector_names_leaf_scheme_and_remedy() -> None:
    message = (
        r"scheme 'variance_scaling' cannot draw parameter 'b' \(role "
        r"'bias'.*Override\(initializer, \{'bias': zeros\}\)"
    )
    for init in (jax.nn.initializers.he_normal(), initializers.he()):
        with pytest.raises(ValueError, match=message):
            draw(init, KEY, [*layers("a"), Leaf("b", (16,), "o", "bias")])


def test_shardings_of_wrapped_initializers_and_of_nnx_parameters() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("x"))
    joint = Joint(lambda key, shape, dtype: jax.random.normal(key, shape, dtype))
    for init in (
        along("io", jax.nn.initializers.orthogonal()),
        initializers.scaled(orthogonal(), 2.0),
        joint,
    ):
        drawn = init(key=KEY, shape=(16, 16), dtype=jnp.float32, out_sharding=split)
        assert drawn.sharding.is_equivalent_to(split, 2)
        np.testing.assert_array_equal(drawn, init(KEY, (16, 16), jnp.float32))
    with pytest.raises(ValueError, match="no mesh is set; draw under"):
        orthogonal()(KEY, (16, 16), out_sharding=PartitionSpec("x"))
    with jax.set_mesh(mesh):
        parameter = nnx.Param(
            orthogonal()(KEY, (16, 16), jnp.float32, out_sharding=PartitionSpec("x"))
        )
        layer = nnx.Linear(
            16,
            16,
            kernel_init=orthogonal(),
            kernel_metadata={"out_sharding": ("x", None)},
            rngs=nnx.Rngs(0),
        )
        old_way = nnx.Linear(
            16, 16, kernel_init=nnx.with_partitioning(orthogonal(), ("x", None)), rngs=nnx.Rngs(0)
        )
        # Older releases of Flax leave it to the caller to apply a sharding: ours are placed as
        # theirs.
        normal = jax.nn.initializers.normal()
        theirs = nnx.Linear(16, 16, kernel_metadata={"out_sharding": ("x", None)}, rngs=nnx.Rngs(0))
        theirs_old = nnx.Linear(
            16, 16, kernel_init=nnx.with_partitioning(normal, ("x", None)), rngs=nnx.Rngs(0)
        )
    placed = [split, theirs.kernel.get_value().sharding, theirs_old.kernel.get_value().sharding]
    for kernel, sharding in zip((parameter, layer.kernel, old_way.kernel), placed, strict=True):
        value = kernel.get_value()
        assert value.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_allclose(value.T @ value, np.eye(16), atol=1e-5)
    np.testing.assert_array_equal(parameter.get_value(), orthogonal()(KEY, (16, 16), jnp.float32))


def test_a_dtype_of_none_is_jaxs_default() -> None:
    assert initializers.normal(1.0)(KEY, (2,), None).dtype == jnp.float32
    with jax.enable_x64(True):
        assert initializers.normal(1.0)(KEY, (2,)).dtype == jnp.float64


def test_a_joint_initializer_is_given_all_copies_at_once() -> None:
    seen = []

    def numbered(key, shape, dtype=jnp.float32, /):
        seen.append(shape)
        return jnp.arange(math.prod(shape), dtype=dtype).reshape(shape)

    drawn = along("o.i", Joint(numbered))(jax.random.key(0), (5, 3, 4), jnp.float32)
    assert seen == [(3, 4, 5)]  # copies, inputs, outputs
    np.testing.assert_array_equal(drawn, np.arange(60).reshape(3, 4, 5).transpose(2, 0, 1))


def singular_values(kernels: jax.Array) -> np.ndarray:
    return np.linalg.svd(np.asarray(kernels, np.float64), compute_uv=False)


def by_gate(kernel: jax.Array, gates: int) -> np.ndarray:
    """A fused kernel `(inputs, gates * units)` as `(gates, inputs, units)`."""
    return np.stack(np.split(np.asarray(kernel), gates, axis=-1))


@pytest.mark.parametrize(
    ("cell", "gates", "shipped"), [(nnx.GRUCell, 3, 0.51), (nnx.OptimizedLSTMCell, 4, 0.44)]
)
def test_fused_cells_of_flax_are_orthogonal_gate_by_gate(cell, gates: int, shipped: float) -> None:
    """Pitfall 1: as Flax ships them the whole is orthogonal, and no gate is."""
    as_shipped = cell(64, 128, rngs=nnx.Rngs(0)).dense_h.kernel[...]
    assert singular_values(by_gate(as_shipped, gates)).mean() == pytest.approx(shipped, abs=0.01)
    init = per_gate(orthogonal(), gates=gates)
    kernel = cell(64, 128, recurrent_kernel_init=init, rngs=nnx.Rngs(0)).dense_h.kernel[...]
    np.testing.assert_allclose(singular_values(by_gate(kernel, gates)), 1, atol=1e-5)
    # No two gates are alike: the entries of an orthogonal matrix have a variance of 1/n.
    first, second = by_gate(kernel, gates)[:2]
    assert (first - second).var() == pytest.approx(2 / 128, rel=4 * math.sqrt(2) / 128)


# Layers of Flax that store several kernels as one axis: what is drawn, and into how many kernels.
SHARED = {
    "heads of LinearGeneral": (
        lambda init: nnx.LinearGeneral(64, (8, 16), kernel_init=init, rngs=nnx.Rngs(0)),
        per_part(initializers.glorot("normal"), 8),
        math.sqrt(2 / (64 + 16)),  # over all heads it would be 2 / (64 + 128)
    ),
    "batch axes of LinearGeneral": (
        lambda init: nnx.LinearGeneral(
            32, 64, batch_axis={0: 16}, axis=-1, kernel_init=init, rngs=nnx.Rngs(0)
        ),
        per_part(initializers.lecun("normal"), 16, axis=-2),
        1 / math.sqrt(32),  # Flax's own: 1 / (16 x 32)
    ),
    "groups of a convolution": (
        lambda init: nnx.Conv(
            64, 64, (3, 3), feature_group_count=64, kernel_init=init, rngs=nnx.Rngs(0)
        ),
        per_part(initializers.variance_scaling(2.0, "fan_out", "normal"), 64),
        math.sqrt(2 / 9),  # 0.471; Flax counts 64 x 9 outputs: 0.059
    ),
    "packed queries, keys and values": (
        lambda init: nnx.Linear(64, 3 * 64, kernel_init=init, rngs=nnx.Rngs(0)),
        per_part(initializers.glorot("normal"), 3),
        math.sqrt(2 / (64 + 64)),  # packed: 2 / (64 + 192), half of it
    ),
}


@pytest.mark.parametrize("layer", SHARED)
def test_kernels_that_share_an_axis_have_the_size_of_their_own_fans(layer: str) -> None:
    """Pitfalls 4, 6, 10 and 15."""
    make, init, std = SHARED[layer]
    kernel = np.asarray(make(init).kernel[...], np.float64)
    # The variance of a variance of n Gaussian draws is 2 sigma^4 / n.
    assert kernel.var() == pytest.approx(std**2, rel=4 * math.sqrt(2 / kernel.size))
    plain = make(initializers.glorot("normal")).kernel[...]
    assert kernel.shape == plain.shape


def test_experts_and_heads_with_an_axis_of_their_own() -> None:
    """Pitfalls 5 and 6, for bare parameters: `along`, which is offered under the package's name."""
    experts = along(".io", initializers.lecun("normal"))(KEY, (12, 32, 128))
    assert float(experts.var()) == pytest.approx(1 / 32, rel=4 * math.sqrt(2 / experts.size))
    heads = along("i.o", orthogonal())(KEY, (64, 8, 16))
    np.testing.assert_allclose(singular_values(heads.transpose(1, 0, 2)), 1, atol=1e-5)
    assert float(jaxinit.along("i.o", orthogonal())(KEY, (64, 8, 16))[0, 0, 0]) == heads[0, 0, 0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gates_are_drawn_wide_and_cast_last(dtype: jnp.dtype) -> None:
    """Pitfalls 2 and 3: JAX's own laws, which are biased or fail when they sample narrow."""
    wide = per_gate(jax.nn.initializers.orthogonal(), 3)(KEY, (32, 96), jnp.float32)
    narrow = per_gate(jax.nn.initializers.orthogonal(), 3)(KEY, (32, 96), dtype)
    np.testing.assert_array_equal(narrow, wide.astype(dtype))
    he = per_gate(jax.nn.initializers.he_normal(), 4)(KEY, (512, 2048), dtype)
    assert he.dtype == dtype
    w = np.asarray(he, np.float64)
    assert abs(w.mean()) < 4 * w.std() / math.sqrt(w.size)  # sampled narrow: 0.012 of w.std()
    assert w.var() == pytest.approx(2 / 512, rel=4 * math.sqrt(1.4 / w.size) + 2**-8)


def test_an_identity_fills_every_gate() -> None:
    """Pitfall 7: on a fused kernel it fills the first gate only."""
    kernel = per_gate(initializers.identity(), 4)(KEY, (8, 32))
    np.testing.assert_array_equal(by_gate(kernel, 4), np.tile(np.eye(8), (4, 1, 1)))


def test_biases_of_fused_gates() -> None:
    gates = ("input", "forget", "cell", "output")
    init = per_gate(initializers.gate_biases(gates, forget=1.0), gates=4)
    cell = nnx.OptimizedLSTMCell(4, 8, bias_init=init, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(cell.dense_h.bias[...], np.repeat([0, 1, 0, 0], 8))  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: per_gate(orthogonal(), 0), "must be a positive integer, got 0"),
        (lambda: per_gate(orthogonal, 3), r"got orthogonal; .*call it first: orthogonal\(\)"),
        (
            lambda: per_gate(orthogonal(), 5)(KEY, (8, 32)),
            r"axis -1 of shape \(8, 32\) has 32 entries, which 5 kernels cannot share alike; give",
        ),
        (
            lambda: per_part(orthogonal(), 2, axis=2)(KEY, (8, 32)),
            r"shape \(8, 32\) has no axis 2",
        ),
    ],
)
def test_parts_that_make_no_sense_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_parts_are_drawn_alike_eager_jit_and_sharded() -> None:
    init = per_gate(initializers.normal(1.0), 4)
    eager = init(KEY, (8, 64), jnp.float32)
    np.testing.assert_allclose(jax.jit(lambda key: init(key, (8, 64)))(KEY), eager, atol=1e-6)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("units",))
    sharding = NamedSharding(mesh, PartitionSpec(None, "units"))
    np.testing.assert_array_equal(init(KEY, (8, 64), jnp.float32, sharding), eager)
