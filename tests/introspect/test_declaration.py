"""What a caller says of parameters, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect, spec
from jaxinit.introspect import declare, functional
from jaxinit.schemes import SCHEMES

KEY = jax.random.key(0)


def by_name(model: nnx.Module) -> dict[str, spec.Leaf]:
    return {leaf.name: leaf for leaf in introspect.leaves(model)}


class Fused(nnx.Module):
    """Blocks as many a user writes them: one kernel for queries, keys and values, plain layers
    elsewhere."""

    def __init__(self, d: int, blocks: int, rngs: nnx.Rngs):
        self.blocks = nnx.List()
        for _ in range(blocks):
            block = nnx.Dict(
                qkv=nnx.Linear(d, 3 * d, rngs=rngs),
                out=nnx.Linear(d, d, rngs=rngs),
                up=nnx.Linear(d, 2 * d, rngs=rngs),
                down=nnx.Linear(2 * d, d, rngs=rngs),
            )
            self.blocks.append(block)
        self.head = nnx.Linear(d, 5, rngs=rngs)
        self.w_extra = nnx.Param(jnp.zeros((2, 3)))

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            q, k, v = jnp.split(block.qkv(x), 3, axis=-1)
            weights = jax.nn.softmax(q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5)
            x = x + block.out(weights @ v)
            x = x + block.down(jax.nn.relu(block.up(x)))
        return self.head(x[:, -1])


SAID: dict[str, Any] = {
    "roles": {"*.out": "attention_out", "*.up": "ffn_in", "*.down": "ffn_out", "head": "readout"},
    "split": {"*.qkv.kernel": ("query", "key", "value")},
    "dims": {"w_*": "io"},
}


def test_a_fused_projection_is_three_parameters_and_its_bias_too() -> None:
    net = declare(Fused(16, 2, nnx.Rngs(0)), n_layers=2, width=16, **SAID)
    leaves = by_name(net)
    for part in ("query", "key", "value"):
        kernel = leaves[f"blocks.1.qkv.kernel.{part}"]
        bias = leaves[f"blocks.1.qkv.bias.{part}"]
        assert (kernel.shape, kernel.role) == ((16, 16), part)
        assert (kernel.layer, kernel.n_layers, kernel.width) == (1, 2, 16)
        assert (bias.shape, bias.role) == ((16,), "bias")
    assert (leaves["head.kernel"].role, leaves["head.kernel"].layer) == ("readout", 2)
    assert leaves["head.bias"].kind == "readout"
    assert (leaves["w_extra"].dims, leaves["w_extra"].role_assumed) == ("io", True)
    drawn = introspect.initialize(net, SCHEMES["saxe_orthogonal"], KEY)
    for part in np.split(np.asarray(drawn.blocks[0].qkv.kernel[...]), 3, axis=1):
        np.testing.assert_allclose(np.linalg.svd(part, compute_uv=False), 1, atol=1e-5)
    pure, x = functional(lambda: drawn), jax.random.normal(KEY, (3, 4, 16))
    values = introspect.values(drawn)
    np.testing.assert_allclose(jax.jit(pure.apply)(values, x), drawn(x), rtol=1e-5, atol=1e-5)

    def as_drawn(leaf: spec.Leaf) -> spec.Joint:
        return spec.Joint(lambda key, shape, dtype: values[leaf.name])

    again = introspect.initialize(net, as_drawn, KEY)
    np.testing.assert_array_equal(again.blocks[1].qkv.kernel[...], drawn.blocks[1].qkv.kernel[...])


def test_parts_of_unequal_size_and_copies_without_names() -> None:
    layer = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
    declare(layer, split={"kernel": {"query": 8, "key": 4, "value": 4}})
    assert {leaf.name: leaf.shape for leaf in introspect.leaves(layer)} == {
        "bias.query": (8,),
        "bias.key": (4,),
        "bias.value": (4,),
        "kernel.query": (8, 8),
        "kernel.key": (8, 4),
        "kernel.value": (8, 4),
    }
    experts = declare(nnx.Linear(8, 16, rngs=nnx.Rngs(0)), split={"kernel": 4})
    kernel = introspect.leaves(experts)[1]
    assert (kernel.shape, kernel.dims, kernel.fan_out) == ((4, 8, 4), ".io", 4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"roles": {"nothing": "query"}},
            "'nothing' of roles matches no parameter; they are blocks.0.down.bias",
        ),
        (
            {"roles": {"*.out": "a", "*.out.kernel": "b"}},
            r"'\*.out' and '\*.out.kernel' of roles both match",
        ),
        ({"split": {"head": 3}}, "has 5 outputs, which split=3 does not divide"),
        ({"split": {"head": "query"}}, r"split takes a number, or the names"),
        ({"dims": {"w_extra": "i"}}, "'w_extra': dims 'i' names 1 axes"),
        ({"n_layers": {"none.*": 3}}, "of n_layers matches no parameter"),
    ],
)
def test_what_declare_refuses(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        declare(Fused(4, 1, nnx.Rngs(0)), **said)


def test_what_is_declared_already_stays_and_what_is_said_goes_first() -> None:
    net = declare(Fused(4, 2, nnx.Rngs(0)), n_layers=2, **SAID)
    declare(net)
    declare(net, width=4, roles={"blocks.1.out": "hidden"})
    leaves = by_name(net)
    first, second = leaves["blocks.0.out.kernel"], leaves["blocks.1.out.kernel"]
    assert (first.role, first.n_layers) == ("attention_out", 2)
    assert (second.role, second.role_assumed) == ("hidden", False)
    assert leaves["blocks.0.qkv.kernel.key"].width == 4


class Parted(nnx.Module):
    """Attention's kernels as one, with parts of names of its own; a norm of the queries; blocks in
    a list."""

    def __init__(self, n: int):
        rngs = nnx.Rngs(0)
        self.qkv = nnx.Linear(n, 3 * n, rngs=rngs)
        self.blocks = nnx.List([nnx.LayerNorm(n, rngs=rngs)])
        self.norm = nnx.LayerNorm(n, rngs=rngs)


@pytest.mark.parametrize("order", [("q", "k", "v"), ("v", "k", "q")])
def test_biases_of_parts_have_their_own_partners(order: tuple[str, ...]) -> None:
    kinds = {"q": "query", "k": "key", "v": "value"}
    roles = {f"qkv.kernel.{part}": kinds[part] for part in order}
    model = declare(Parted(8), split={"qkv": ("q", "k", "v")}, roles=roles, n_layers=1)
    leaves = by_name(model)
    for part, role in kinds.items():
        assert leaves[f"qkv.kernel.{part}"].role == role
        assert leaves[f"qkv.bias.{part}"].role == "bias"
        assert leaves[f"qkv.bias.{part}"].partner == role


def test_a_norm_beside_the_blocks_is_in_none_of_them() -> None:
    leaves = by_name(declare(Parted(8), n_layers=1))
    assert leaves["blocks.0.scale"].layer == 0
    assert leaves["norm.scale"].layer == leaves["norm.bias"].layer == 1


class Bare(nnx.Module):
    """Attention on bare parameters, with a norm of the queries."""

    def __init__(self, n: int):
        self.wq, self.wk = nnx.Param(jnp.ones((n, n))), nnx.Param(jnp.ones((n, n)))
        self.bq = nnx.Param(jnp.ones((n,)))
        self.q_norm = nnx.RMSNorm(n, rngs=nnx.Rngs(0))


def test_partners_of_bare_parameters_are_said() -> None:
    said = {"dims": {"w*": "io", "bq": "o"}, "roles": {"wq": "query", "wk": "key", "bq": "bias"}}
    partners = {"bq": "query", "q_norm": "query"}
    model = declare(Bare(8), **said, partners=partners, width=8, n_layers=1)
    leaves = introspect.leaves(model)
    partner_of = {leaf.name: leaf.partner for leaf in leaves if leaf.partner}
    assert partner_of == {"bq": "query", "q_norm.scale": "query"}
    assert [leaf.name for leaf in leaves if leaf.normalized] == ["wq"]
    message = r"takes a bias or a scale and the role of a kernel.*'wk' has the role 'key'"
    with pytest.raises(ValueError, match=message):
        declare(Bare(8), **said, partners={"wk": "query"})


def test_a_bias_belongs_to_the_kernel_of_its_layer_alone() -> None:
    alone = declare(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), roles={"kernel": "readout"}, n_layers=2)
    bias = by_name(alone)["bias"]
    assert (bias.partner, bias.layer) == ("readout", 2)
    # a readout and a bias side by side are no pair
    roles = {"wq": "query", "wk": "readout", "bq": "bias"}
    bare = declare(Bare(8), dims={"w*": "io", "bq": "o"}, roles=roles, n_layers=2)
    leaves = by_name(bare)
    assert (leaves["wk"].layer, leaves["bq"].layer, leaves["bq"].partner) == (2, 0, "")


def test_what_cannot_be_cut_or_has_no_role_is_said() -> None:
    grouped = nnx.Conv(8, 24, (3,), feature_group_count=8, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="a convolution of 8 groups, which are copies already"):
        declare(grouped, split={"kernel": ("query", "key", "value")})

    class Experts(nnx.Module):
        def __init__(self):
            self.experts, self.eb = nnx.Param(jnp.ones((2, 4, 8))), nnx.Param(jnp.ones((2, 8)))

    said = {
        "dims": {"experts": ".io", "eb": ".o"},
        "split": {"experts": ("gate", "up"), "eb": ("gate", "up")},
    }
    leaves = introspect.leaves(declare(Experts(), **said, roles={"eb.*": "bias"}))
    assert "bias" in {leaf.role for leaf in leaves}
    with pytest.raises(ValueError, match=r"parameter 'eb\.gate' has no role"):
        introspect.leaves(declare(Experts(), **said))


def test_a_role_that_is_nearly_one_is_a_slip() -> None:
    message = "no role is called 'readuot', and 'readout' is near; the roles are"
    with pytest.raises(ValueError, match=message):
        declare(Parted(8), roles={"qkv": "readuot"})
    assert introspect.leaves(declare(Parted(8), roles={"qkv": "mine"}, n_layers=1))
