"""Modules to leaves and back."""

import copy
import functools
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect, spec
from jaxinit.engine import training
from jaxinit.engine.campaign import run
from jaxinit.engine.coordcheck import coordinate_check
from jaxinit.initializers import constant, glorot_scheme
from jaxinit.introspect import Training, declare, functional
from jaxinit.models import LSTM, MLP, MODELS
from jaxinit.schemes import SCHEMES, forget_bias
from jaxinit.signals import probes, trace
from jaxinit.study import Study
from jaxinit.tasks import TASKS

KEY = jax.random.key(0)


def test_leaves_say_everything_a_scheme_may_know() -> None:
    leaves = {
        leaf.name: leaf for leaf in introspect.leaves(LSTM(3, 5, 2, layers=2, rngs=nnx.Rngs(0)))
    }
    assert set(leaves) == {
        *(f"layers.{k}.{name}" for k in (0, 1) for name in ("input", "recurrent", "bias")),
        "readout.kernel",
        "readout.bias",
    }
    u = leaves["layers.1.recurrent"]
    assert (u.shape, u.dims, u.role, u.layer, u.n_layers) == ((4, 5, 5), ".io", "recurrent", 1, 2)
    assert u.gate == ("input", "forget", "cell", "output")
    assert leaves["layers.0.input"].fan_in == 3


def test_initialize_returns_a_copy_and_leaves_the_model_alone() -> None:
    model = MLP(4, 8, 2, rngs=nnx.Rngs(0))
    x = jnp.ones((3, 4))
    before = model(x)
    fresh = introspect.initialize(model, SCHEMES["orthogonal"], KEY)
    np.testing.assert_array_equal(model(x), before)
    assert float(jnp.abs(fresh(x) - before).max()) > 1e-3
    again = introspect.initialize(model, SCHEMES["orthogonal"], KEY)
    np.testing.assert_array_equal(fresh(x), again(x))


def test_initialize_refuses_what_an_array_cannot_carry() -> None:
    doubled = lambda leaf: spec.Rule(glorot_scheme(leaf), multiplier=2.0)
    with pytest.raises(ValueError, match=r"multiplies .*readout.kernel.* in the forward pass"):
        introspect.initialize(MLP(4, 8, 2, rngs=nnx.Rngs(0)), doubled, KEY)


def test_functional_is_the_module() -> None:
    make = lambda: LSTM(3, 5, 2, rngs=nnx.Rngs(0))
    leaves, apply, *_ = introspect.functional(make)
    params = spec.draw(SCHEMES["he_normal"], KEY, leaves)
    x = jax.random.normal(KEY, (2, 7, 3))
    module = introspect.initialize(make(), SCHEMES["he_normal"], KEY)
    np.testing.assert_allclose(jax.jit(apply)(params, x), module(x), rtol=1e-6, atol=1e-6)


def test_a_parameter_without_dims_is_an_error_with_its_name() -> None:
    class Foreign(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.zeros((2, 3)))

    with pytest.raises(
        ValueError, match=r"parameter 'w' \(shape \(2, 3\)\) declares no dims and role"
    ):
        introspect.leaves(Foreign())


def test_state_that_is_no_parameter_is_refused_by_name() -> None:
    class Counting(nnx.Module):
        def __init__(self):
            self.w = introspect.param((2, 3), "io", "input")
            self.count = nnx.Cache(jnp.zeros(()))

    with pytest.raises(ValueError, match=r"also holds \['count'\], of nnx.Cache.*decode=False"):
        introspect.functional(Counting)


def test_our_modules_live_inside_any_flax_module() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.inner = MLP(4, 8, 2, kernel_init=constant(0.5), rngs=rngs)

    names = [leaf.name for leaf in introspect.leaves(Net(nnx.Rngs(0)))]
    assert names == [
        f"inner.{name}"
        for name in ("layers.0.bias", "layers.0.kernel", "readout.bias", "readout.kernel")
    ]


def test_flaxs_own_layers_are_declared_by_what_they_are() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.table = nnx.Embed(7, 8, rngs=rngs)
            self.conv = nnx.Conv(8, 6, (3, 3), rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(8, 4, rngs=rngs)])
            self.mine = introspect.param((3, 4, 5), ".io", "recurrent")

    net = Net(nnx.Rngs(0))
    introspect.declare(net)
    found = {leaf.name: (leaf.dims, leaf.role) for leaf in introspect.leaves(net)}
    assert found["table.embedding"] == ("io", "embedding")
    assert found["conv.kernel"] == ("wwio", "hidden")
    assert found["attention.query.kernel"] == ("i.o", "query")
    assert found["attention.out.kernel"] == ("iio", "attention_out")
    assert found["attention.out.bias"] == ("o", "bias")
    assert found["norm.scale"] == ("o", "scale")
    assert found["layers.0.kernel"] == ("io", "hidden")
    assert found["mine"] == (".io", "recurrent")  # what is declared already stays
    drawn = introspect.initialize(net, SCHEMES["he_normal"], jax.random.key(0))
    assert float(jnp.std(drawn.attention.query.kernel[...])) == pytest.approx(
        (2 / 8) ** 0.5, rel=0.3
    )


RNGS = nnx.Rngs(0)
H = 48
# A layer of Flax and, of each of its kernels, the dims, the fans, the copies and the role.
LAYERS: dict[str, tuple[Callable[[], nnx.Module], dict[str, tuple[str, int, int, int, str]]]] = {
    "Linear": (lambda: nnx.Linear(6, 4, rngs=RNGS), {"kernel": ("io", 6, 4, 1, "hidden")}),
    "LinearGeneral": (
        lambda: nnx.LinearGeneral((2, 3), (4, 5), axis=(-2, -1), batch_axis={0: 7}, rngs=RNGS),
        {"kernel": (".iioo", 6, 20, 7, "hidden")},
    ),
    "Einsum": (
        lambda: nnx.Einsum("bed,edf->bef", (7, 4, 6), (7, 6), rngs=RNGS),
        {"kernel": (".io", 4, 6, 7, "hidden")},
    ),
    "heads of an Einsum": (
        lambda: nnx.Einsum("btd,hdk->bthk", (2, 6, 4), rngs=RNGS),
        {"kernel": ("oio", 6, 8, 1, "hidden")},
    ),
    "Embed": (lambda: nnx.Embed(7, 4, rngs=RNGS), {"embedding": ("io", 7, 4, 1, "embedding")}),
    "Conv": (lambda: nnx.Conv(8, 6, (3, 5), rngs=RNGS), {"kernel": ("wwio", 120, 90, 1, "hidden")}),
    "grouped": (
        lambda: nnx.Conv(8, 12, (3,), feature_group_count=4, rngs=RNGS),
        {"kernel": (".wio", 6, 9, 4, "hidden")},
    ),
    "depthwise": (
        lambda: nnx.Conv(256, 256, (3, 3), feature_group_count=256, rngs=RNGS),
        {"kernel": (".wwio", 9, 9, 256, "hidden")},
    ),
    "ConvTranspose": (
        lambda: nnx.ConvTranspose(8, 6, (3,), rngs=RNGS),
        {"kernel": ("wio", 24, 18, 1, "hidden")},
    ),
    "transposed kernel": (
        lambda: nnx.ConvTranspose(8, 6, (3,), transpose_kernel=True, rngs=RNGS),
        {"kernel": ("woi", 24, 18, 1, "hidden")},
    ),
    "MultiHeadAttention": (
        lambda: nnx.MultiHeadAttention(2, 6, qkv_features=8, decode=False, rngs=RNGS),
        {
            "query.kernel": ("i.o", 6, 4, 2, "query"),
            "key.kernel": ("i.o", 6, 4, 2, "key"),
            "value.kernel": ("i.o", 6, 4, 2, "value"),
            "out.kernel": ("iio", 8, 6, 1, "attention_out"),
        },
    ),
    "LoRALinear": (
        lambda: nnx.LoRALinear(6, 4, lora_rank=2, rngs=RNGS),
        {
            "kernel": ("io", 6, 4, 1, "hidden"),
            "lora.lora_a": ("io", 6, 2, 1, "lora_a"),
            "lora.lora_b": ("io", 2, 4, 1, "lora_b"),
        },
    ),
    "SimpleCell": (
        lambda: nnx.SimpleCell(5, H, rngs=RNGS),
        {
            "dense_i.kernel": ("io", 5, H, 1, "input"),
            "dense_h.kernel": ("io", H, H, 1, "recurrent"),
        },
    ),
    "GRUCell": (
        lambda: nnx.GRUCell(5, H, rngs=RNGS),
        {
            "dense_i.kernel": (".io", 5, H, 3, "input"),
            "dense_h.kernel": (".io", H, H, 3, "recurrent"),
        },
    ),
    "OptimizedLSTMCell": (
        lambda: nnx.OptimizedLSTMCell(5, H, rngs=RNGS),
        {
            "dense_i.kernel": (".io", 5, H, 4, "input"),
            "dense_h.kernel": (".io", H, H, 4, "recurrent"),
        },
    ),
    "LSTMCell": (
        lambda: nnx.LSTMCell(5, H, rngs=RNGS),
        {f"i{x}.kernel".replace("if.", "if_."): (".io", 5, H, 1, "input") for x in "ifgo"}
        | {f"h{x}.kernel": (".io", H, H, 1, "recurrent") for x in "ifgo"},
    ),
    "SpectralNorm": (
        lambda: nnx.SpectralNorm(nnx.Linear(6, 4, rngs=RNGS), rngs=RNGS),
        {"layer_instance.kernel": ("io", 6, 4, 1, "hidden")},
    ),
    "WeightNorm": (
        lambda: nnx.WeightNorm(nnx.Linear(6, 4, rngs=RNGS), rngs=RNGS),
        {"layer_instance.kernel": ("io", 6, 4, 1, "hidden")},
    ),
    "stacked by vmap": (
        lambda: nnx.vmap(lambda key: nnx.GRUCell(5, H, rngs=nnx.Rngs(key)))(
            jax.random.split(KEY, 2)
        ),
        {
            "dense_i.kernel": ("..io", 5, H, 6, "input"),
            "dense_h.kernel": ("..io", H, H, 6, "recurrent"),
        },
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_of_flax_has_its_fans_and_its_copies(name: str) -> None:
    make, expected = LAYERS[name]
    found = {leaf.name: leaf for leaf in introspect.leaves(declare(make())) if leaf.is_kernel}
    told = {
        name: (leaf.dims, leaf.fan_in, leaf.fan_out, leaf.copies, leaf.role)
        for name, leaf in found.items()
    }
    assert told == expected


def test_every_vector_of_flax_has_its_role() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.norms = nnx.List(
                [
                    nnx.LayerNorm(6, rngs=rngs),
                    nnx.RMSNorm(6, rngs=rngs),
                    nnx.BatchNorm(6, rngs=rngs),
                    nnx.GroupNorm(6, 2, rngs=rngs),
                    nnx.InstanceNorm(6, rngs=rngs),
                ]
            )
            self.prelu = nnx.PReLU()
            self.cell = nnx.GRUCell(5, 6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(
                2, 6, decode=False, normalize_qk=True, rngs=rngs
            )

    net = declare(Net(nnx.Rngs(0)))
    found = {leaf.name: leaf for leaf in introspect.leaves(net)}
    for k in range(5):
        scale = found[f"norms.{k}.scale"]
        assert (scale.dims, scale.role, scale.kind, scale.inputs, scale.layer) == (
            "o",
            "scale",
            "norm",
            6,
            k,
        )
    assert found["norms.3.bias"].role == "bias"
    assert (found["prelu.negative_slope"].dims, found["prelu.negative_slope"].role) == ("", "slope")
    assert found["attention.query_ln.scale"].role == "scale"
    assert (found["attention.query.bias"].dims, found["attention.query.bias"].inputs) == (".o", 6)
    bias = found["cell.dense_i.bias"]
    assert (bias.shape, bias.dims, bias.gate, bias.kind) == (
        (3, 6),
        ".o",
        ("reset", "update", "new"),
        "gru",
    )
    drawn = introspect.initialize(net, SCHEMES["he_normal"], KEY)
    assert float(drawn.prelu.negative_slope[...]) == pytest.approx(0.01)
    assert drawn.cell.dense_i.bias.get_value().shape == (18,)


@pytest.mark.parametrize(("cell", "gates"), [(nnx.GRUCell, 3), (nnx.OptimizedLSTMCell, 4)])
def test_fused_gates_are_drawn_one_by_one(cell: Any, gates: int) -> None:
    net = introspect.initialize(
        declare(cell(5, H, rngs=nnx.Rngs(0))), SCHEMES["saxe_orthogonal"], KEY
    )
    for gate in np.split(np.asarray(net.dense_h.kernel[...]), gates, axis=1):
        np.testing.assert_allclose(np.linalg.svd(gate, compute_uv=False), 1, atol=1e-5)
    he = introspect.initialize(net, SCHEMES["he_normal"], KEY)
    for gate in np.split(np.asarray(he.dense_h.kernel[...]), gates, axis=1):
        # The standard error of a standard deviation of n entries is 1/sqrt(2 n) of it: four of
        # them.
        assert gate.std() == pytest.approx(math.sqrt(2 / H), rel=4 / math.sqrt(2 * gate.size))


def test_groups_and_heads_are_drawn_one_by_one() -> None:
    grouped = declare(nnx.Conv(64, 128, (3,), feature_group_count=2, rngs=nnx.Rngs(0)))
    w = np.asarray(introspect.initialize(grouped, SCHEMES["he_normal"], KEY).kernel[...])
    for group in np.split(w, 2, axis=-1):
        assert group.std() == pytest.approx(math.sqrt(2 / 96), rel=4 / math.sqrt(2 * group.size))
    heads = declare(nnx.MultiHeadAttention(2, 32, decode=False, rngs=nnx.Rngs(0)))
    q = np.asarray(introspect.initialize(heads, SCHEMES["saxe_orthogonal"], KEY).query.kernel[...])
    for head in range(2):
        np.testing.assert_allclose(np.linalg.svd(q[:, head], compute_uv=False), 1, atol=1e-5)


@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell])
def test_a_forget_bias_reaches_either_lstm(cell: Any) -> None:
    drawn = introspect.initialize(declare(cell(2, 3, rngs=nnx.Rngs(0))), forget_bias(1.0), KEY)
    if cell is nnx.LSTMCell:
        found = [getattr(drawn, f"h{letter}").bias[...] for letter in "ifgo"]
    else:
        found = jnp.split(drawn.dense_h.bias[...], 4)
    np.testing.assert_array_equal(np.stack([np.asarray(of) for of in found]).mean(1), [0, 1, 0, 0])


class Fused(nnx.Module):
    """Blocks as many a user writes them: one kernel for queries, keys and values, plain layers
    elsewhere."""

    def __init__(self, d: int, blocks: int, rngs: nnx.Rngs):
        self.blocks = nnx.List(
            [
                nnx.Dict(
                    qkv=nnx.Linear(d, 3 * d, rngs=rngs),
                    out=nnx.Linear(d, d, rngs=rngs),
                    up=nnx.Linear(d, 2 * d, rngs=rngs),
                    down=nnx.Linear(2 * d, d, rngs=rngs),
                )
                for _ in range(blocks)
            ]
        )
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
    found = {leaf.name: leaf for leaf in introspect.leaves(net)}
    for part in ("query", "key", "value"):
        kernel, bias = found[f"blocks.1.qkv.kernel.{part}"], found[f"blocks.1.qkv.bias.{part}"]
        assert (kernel.shape, kernel.role, kernel.layer, kernel.n_layers, kernel.width) == (
            (16, 16),
            part,
            1,
            2,
            16,
        )
        assert (bias.shape, bias.role) == ((16,), "bias")
    assert (found["head.kernel"].role, found["head.kernel"].layer, found["head.bias"].kind) == (
        "readout",
        2,
        "readout",
    )
    assert (found["w_extra"].dims, found["w_extra"].role_assumed) == ("io", True)
    drawn = introspect.initialize(net, SCHEMES["saxe_orthogonal"], KEY)
    for part in np.split(np.asarray(drawn.blocks[0].qkv.kernel[...]), 3, axis=1):
        np.testing.assert_allclose(np.linalg.svd(part, compute_uv=False), 1, atol=1e-5)
    pure, x = functional(lambda: drawn), jax.random.normal(KEY, (3, 4, 16))
    values = introspect.values(drawn)
    np.testing.assert_allclose(jax.jit(pure.apply)(values, x), drawn(x), rtol=1e-5, atol=1e-5)
    again = introspect.initialize(
        net, lambda leaf: spec.Joint(lambda key, shape, dtype: values[leaf.name]), KEY
    )
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
    found = {leaf.name: leaf for leaf in introspect.leaves(net)}
    assert (found["blocks.0.out.kernel"].role, found["blocks.0.out.kernel"].n_layers) == (
        "attention_out",
        2,
    )
    assert (found["blocks.1.out.kernel"].role, found["blocks.1.out.kernel"].role_assumed) == (
        "hidden",
        False,
    )
    assert found["blocks.0.qkv.kernel.key"].width == 4


class Noisy(nnx.Module):
    """What changes between training and evaluation: batch statistics, dropout, a carry that is
    drawn at the call."""

    def __init__(self, rngs: nnx.Rngs, cell: Any = nnx.GRUCell):
        self.rnn = nnx.RNN(cell(8, 12, rngs=rngs), rngs=rngs)
        self.norm = nnx.BatchNorm(12, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dropout(self.norm(self.rnn(x))[:, -1]))


def noisy(cell: Any = nnx.GRUCell, **said: Any) -> nnx.Module:
    return declare(Noisy(nnx.Rngs(0), cell), **said)


def test_a_module_is_evaluated_in_evaluation_and_trained_in_training() -> None:
    """The same 8 examples alone and among 64; noise from the step's key alone, and none without a
    key."""
    net: Any = noisy()
    pure, params = functional(lambda: net), introspect.values(net)
    x = jax.random.normal(KEY, (64, 5, 8))
    apply, learn = jax.jit(pure.apply), jax.jit(pure.learn)
    among = apply(params, x)
    np.testing.assert_allclose(among[:8], apply(params, x[:8]), atol=1e-6)
    assert sorted(pure.running) == ["norm.mean", "norm.var"]
    assert pure.noisy
    assert not functional(lambda: MLP(4, 8, 2, rngs=nnx.Rngs(0))).noisy
    one, running = learn(params, pure.running, x, Training(jax.random.key(1)))
    same, _ = learn(params, pure.running, x, Training(jax.random.key(1)))
    other, _ = learn(params, pure.running, x, Training(jax.random.key(2)))
    np.testing.assert_array_equal(one, same)
    assert float(jnp.abs(one - other).max()) > 0.1
    gathered = 0.01 * net.rnn(x).mean((0, 1))
    np.testing.assert_allclose(running["norm.mean"], gathered, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(pure.as_trained(params, x), pure.as_trained(params, x))
    net.eval()
    np.testing.assert_allclose(among, net(x), atol=1e-6)
    assert (
        float(jnp.abs(apply(params | running, x) - among).max()) > 1e-4
    )  # evaluation uses what training gathered


@pytest.mark.parametrize("cell", [nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_products_in_the_loops_of_flax_are_found(cell: Any) -> None:
    net = noisy(cell)
    pure, x = functional(lambda: net), jax.random.normal(KEY, (4, 5, 8))
    found = trace.products(pure.as_trained, pure.leaves, introspect.values(net), x)[1]
    assert set(found) == {leaf.name for leaf in pure.leaves if leaf.is_kernel}


def test_a_module_with_noise_and_statistics_is_probed_as_in_training() -> None:
    net: Any = noisy()
    x, y = jax.random.normal(KEY, (16, 5, 8)), jnp.zeros((16, 10))
    found = probes.probe(net, (x, y), lambda out, y: jnp.mean((out - y) ** 2))
    assert found.product_mean.sel(parameter="rnn.cell.dense_h.kernel").values.shape == (5, 3)
    at_head = found.activation_mean_square.sel(parameter="head.kernel").values[0, 0]
    net.train()
    normalized = net.norm(net.rnn(x))[:, -1]  # by the batch, and no unit dropped
    assert at_head == pytest.approx(float(jnp.mean(normalized**2)), rel=1e-4)


def test_a_trial_of_a_module_with_noise_and_statistics() -> None:
    """Epochs train with fresh noise from the trial's seed, the same each time; blocks of examples
    change nothing."""
    task = TASKS["digits_rows"]()
    model = functional(noisy)
    params = spec.draw(SCHEMES["glorot_uniform"], KEY, model.leaves)
    trial = training.Trial(
        jnp.int32(0),
        jnp.float32(0.1),
        jnp.float32(jnp.inf),
        jnp.float32(jnp.inf),
        jnp.float32(0),
        jnp.float32(0),
        jnp.float32(2),
        jnp.int32(9),
    )
    records = []
    for at_once in (None, 64):
        program = training.Program(
            model, task, "sgd", batch=320, evaluations=1, epochs=1, at_once=at_once
        )
        advance = jax.jit(program.advance)
        state, first = advance(task.data, program.initial_state(params), trial)
        _, again = advance(task.data, program.initial_state(params), trial)
        np.testing.assert_array_equal(first.train_loss, again.train_loss)
        _, other = advance(
            task.data, program.initial_state(params), trial._replace(seed=jnp.int32(1))
        )
        assert float(first.train_loss[0]) != float(other.train_loss[0])
        records.append(first)
        assert float(jnp.abs(state.running["norm.mean"]).max()) > 1e-3
    np.testing.assert_allclose(records[0].valid_loss, records[1].valid_loss, rtol=1e-5)


def test_state_of_the_callers_own_type_is_carried_and_its_dtype_kept() -> None:
    class Seen(nnx.Variable):
        pass

    class Net(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(
                3, 2, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
            )
            self.steps = Seen(jnp.zeros((), jnp.int32))

        def __call__(self, x: jax.Array) -> jax.Array:
            self.steps[...] = self.steps[...] + 1
            return self.layer(x)

    pure = functional(lambda: declare(Net()))
    params = spec.draw(SCHEMES["he_normal"], KEY, pure.leaves)
    y, after = pure.learn(params, pure.running, jnp.ones((4, 3)), Training())
    assert y.dtype == jnp.bfloat16
    assert int(after["steps"]) == 1
    assert list(pure.running) == ["steps"]
    slopes = jax.grad(lambda p: pure.apply(p, jnp.ones((4, 3))).sum())(params)
    assert (
        slopes["layer.kernel"].dtype == params["layer.kernel"].dtype
    )  # a float32 master copy stays one


KEPT: dict[str, tuple[Callable[[jax.Array], Any], Callable[[Any], Any]]] = {
    "attribute": (lambda a: a, lambda kept: kept),
    "marked": (nnx.data, lambda kept: kept),
    "NumPy": (
        lambda a: a,
        lambda kept: kept[: int(kept[1])].sum() * kept,
    ),  # a size that a trace must know
    "dict": (lambda a: nnx.data({"table": a}), lambda kept: kept["table"]),
    "list": (lambda a: nnx.data([a]), lambda kept: kept[0]),
    "nnx.Dict": (lambda a: nnx.Dict(table=a), lambda kept: kept["table"]),
    "nnx.List": (lambda a: nnx.List([a]), lambda kept: kept[0]),
    "closure": (lambda a: lambda: a, lambda kept: kept()),
}


class Tabled(nnx.Module):
    """A layer whose outputs are multiplied by a plain array, kept in one of the ways of `KEPT`."""

    def __init__(self, inputs: int, outputs: int, way: str):
        self.layer = nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0))
        given = (np if way == "NumPy" else jnp).arange(1, outputs + 1, dtype=np.float32)
        self.table, self.way = KEPT[way][0](given), way

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.layer(x)
        return y * jnp.broadcast_to(KEPT[self.way][1](self.table), y.shape)


@pytest.mark.parametrize("way", KEPT)
def test_a_plain_array_of_a_module_is_a_constant(way: str) -> None:
    make, x = lambda: declare(Tabled(3, 2, way)), jnp.ones((4, 3))
    pure, params, own = functional(make), introspect.values(make()), Tabled(3, 2, way)(x)
    np.testing.assert_allclose(jax.jit(pure.apply)(params, x), own, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(pure.as_trained)(params, x), own, rtol=1e-6)
    assert pure.running == {}


def test_what_weight_normalization_keeps_is_a_constant() -> None:
    make = lambda: declare(nnx.WeightNorm(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)))
    net, x = make(), jnp.ones((4, 3))
    np.testing.assert_allclose(functional(make).apply(introspect.values(net), x), net(x), rtol=1e-6)


def test_a_study_and_a_probe_take_a_module_with_plain_arrays(tmp_path: Path) -> None:
    def make(
        inputs: int,
        units: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        way: str = "attribute",
        **unused: Any,
    ) -> Any:
        net = nnx.Sequential(Tabled(inputs, outputs, way), lambda y: y.mean(1))
        return declare(net, roles={"*.layer": "readout"}, n_layers=1, width=units)

    study = Study(
        model="own",
        task="digits_rows",
        schemes=("lecun_normal",),
        baseline="lecun_normal",
        hidden=8,
        lrs=(0.1,),
        seeds=2,
        epochs=1,
        evaluations=1,
    )
    result = run(study, models={"own": make}, out=tmp_path, progress=False)
    assert np.isfinite(result.records.valid_loss.values).all()
    net, x = make(3, 4, 2, rngs=nnx.Rngs(0), way="dict"), jnp.ones((4, 5, 3))
    found = probes.probe(net, (x, jnp.zeros((4, 2))), lambda out, y: jnp.mean((out - y) ** 2))
    assert found.gradient_norm.values > 0


def test_an_array_that_was_cached_in_a_trace_is_refused() -> None:
    table = functools.cache(lambda: jnp.ones(2))

    class Cached(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
            self.table = table()

    with pytest.raises(
        ValueError, match=r"keeps \['table'\], of arrays without a value: .* functools.cache"
    ):
        functional(lambda: declare(Cached()))


class ByHand(nnx.Module):
    """Switched into training by an argument of its call, which `train()` knows nothing of."""

    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def switched(self, x: jax.Array, on: bool) -> jax.Array:
        assert isinstance(on, bool)
        return self.dropout(self.norm(x, use_running_average=not on), deterministic=not on)


class Train(ByHand):
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.switched(x, train)


class IsTraining(ByHand):
    def __call__(self, x: jax.Array, *, is_training: bool) -> jax.Array:
        return self.switched(x, is_training)


class InTraining(ByHand):
    def __call__(self, x: jax.Array, training: bool = True) -> jax.Array:
        return self.switched(x, training)


class Deterministic(ByHand):
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        return self.switched(x, not deterministic)


class UsesRunningAverage(ByHand):
    def __call__(self, x: jax.Array, use_running_average: bool = True) -> jax.Array:
        return self.switched(x, not use_running_average)


@pytest.mark.parametrize("kind", [Train, IsTraining, InTraining, Deterministic, UsesRunningAverage])
def test_a_module_that_is_switched_by_an_argument_trains(kind: Any) -> None:
    pure, x = functional(lambda: declare(kind())), jax.random.normal(KEY, (64, 3)) + 1
    params = {"norm.scale": jnp.ones(3), "norm.bias": jnp.zeros(3)}
    np.testing.assert_allclose(pure.apply(params, x), x, rtol=1e-3)  # the statistics of the start
    y, running = pure.learn(params, pure.running, x, Training(KEY))
    assert 0.3 < float(jnp.mean(y == 0)) < 0.7
    np.testing.assert_allclose(running["norm.mean"], 0.01 * x.mean(0), rtol=1e-3)
    quiet, own = (
        pure.as_trained(params, x),
        np.asarray(x),
    )  # normalized by the batch, and no unit dropped
    np.testing.assert_allclose(quiet, (own - own.mean(0)) / own.std(0), atol=1e-3)


class Passes(nnx.Module):
    """Its own call takes no argument that says whether it trains, and its block's call does."""

    def __init__(self, block: nnx.Module, lifted: Any = lambda f: f, **given: bool):
        self.block, self.lifted, self.given = block, lifted, given

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.lifted(lambda block, x: block(x, **self.given))(self.block, x)


class TrainsUnlessTold(ByHand):
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        return self.switched(x, train)


@pytest.mark.parametrize("kind", [TrainsUnlessTold, Deterministic])
def test_a_layer_that_trains_while_the_module_is_evaluated_is_refused(kind: Any) -> None:
    given = {"deterministic": False} if kind is Deterministic else {}
    pure = functional(lambda: declare(Passes(kind(), **given)))
    params = {"block.norm.scale": jnp.ones(3), "block.norm.bias": jnp.zeros(3)}
    with pytest.raises(
        ValueError,
        match=r"'block.norm' is told to train while the module is evaluated, .*pass it on",
    ):
        pure.apply(params, jnp.ones((4, 3)))


class Switched(ByHand):
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.norm(x))


@pytest.mark.parametrize("lifted", [lambda f: f, nnx.remat, nnx.jit])
def test_a_layer_that_is_evaluated_inside_a_transform_is_not_refused(lifted: Any) -> None:
    pure = functional(lambda: declare(Passes(Switched(), lifted)))
    params, x = {"block.norm.scale": jnp.ones(3), "block.norm.bias": jnp.zeros(3)}, jnp.ones((4, 3))
    np.testing.assert_allclose(pure.apply(params, x), x, rtol=1e-3)
    _, running = pure.learn(params, pure.running, x, Training(KEY))
    assert float(running["block.norm.mean"][0]) == pytest.approx(0.01)


def test_dropout_without_random_state_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'layers.1' drops units at a rate of 0.5 and has no random state"
    ):
        functional(
            lambda: declare(nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Dropout(0.5)))
        )


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_pickled_copied_and_be_part_of_a_static_argument(name: str) -> None:
    model: Any = MODELS[name](4, 8, 3, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 5, 4)) if name != "mlp" else jnp.ones((2, 4))
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin(x), model(x))
        assert introspect.leaves(twin) == introspect.leaves(model)
    assert hash(nnx.graphdef(model)) == hash(nnx.graphdef(copy.deepcopy(model)))


@pytest.mark.slow
@pytest.mark.parametrize("cell", [nnx.SimpleCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell])
def test_a_study_calibrations_and_the_coordinate_check_take_a_module_of_flax(
    cell: Any, tmp_path: Path
) -> None:
    def make(
        inputs: int, units: int, outputs: int, *, layers: int, rngs: nnx.Rngs, **unused: Any
    ) -> nnx.Module:
        class Net(nnx.Module):
            def __init__(self):
                two = (nnx.RNN(cell(inputs, units, rngs=rngs), rngs=rngs) for _ in range(2))
                self.rnn = nnx.Bidirectional(*two, rngs=rngs)
                self.norm = nnx.BatchNorm(2 * units, rngs=rngs)
                self.dropout = nnx.Dropout(0.2, rngs=rngs)
                self.head = nnx.Linear(2 * units, outputs, rngs=rngs)

            def __call__(self, x: jax.Array) -> jax.Array:
                return self.head(self.dropout(self.norm(self.rnn(x)[:, -1])))

        return declare(Net(), roles={"head": "readout"}, n_layers=layers, width=units)

    names = ("orthogonal", "orthogonal+lsuv", "orthogonal+gradinit", "orthogonal+metainit")
    study = Study(
        model="net",
        task="digits_rows",
        schemes=names,
        baseline="orthogonal",
        hidden=16,
        lrs=(0.1,),
        seeds=2,
        epochs=2,
        batch=256,
    )
    result = run(study, models={"net": make}, out=tmp_path)
    assert np.isfinite(result.records.valid_loss.values[..., 0]).all()
    sizes = coordinate_check(
        replace(study, schemes=("mup(base_width=16)", "orthogonal")),
        (16, 64),
        steps=2,
        models={"net": make},
    )
    assert "rnn.forward_rnn.cell" in str(sizes.parameter.values)
    assert (sizes.forward.values > 0).all()


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
    by_name = {leaf.name: leaf for leaf in introspect.leaves(model)}
    for part, role in kinds.items():
        assert by_name[f"qkv.kernel.{part}"].role == role
        assert by_name[f"qkv.bias.{part}"].role == "bias"
        assert by_name[f"qkv.bias.{part}"].partner == role


def test_a_norm_beside_the_blocks_is_in_none_of_them() -> None:
    by_name = {leaf.name: leaf for leaf in introspect.leaves(declare(Parted(8), n_layers=1))}
    assert by_name["blocks.0.scale"].layer == 0
    assert by_name["norm.scale"].layer == by_name["norm.bias"].layer == 1


class Bare(nnx.Module):
    """Attention on bare parameters, with a norm of the queries."""

    def __init__(self, n: int):
        self.wq, self.wk = nnx.Param(jnp.ones((n, n))), nnx.Param(jnp.ones((n, n)))
        self.bq = nnx.Param(jnp.ones((n,)))
        self.q_norm = nnx.RMSNorm(n, rngs=nnx.Rngs(0))


def test_partners_of_bare_parameters_are_said() -> None:
    said = {"dims": {"w*": "io", "bq": "o"}, "roles": {"wq": "query", "wk": "key", "bq": "bias"}}
    model = declare(
        Bare(8), **said, partners={"bq": "query", "q_norm": "query"}, width=8, n_layers=1
    )
    by_name = {leaf.name: leaf for leaf in introspect.leaves(model)}
    assert {name: leaf.partner for name, leaf in by_name.items() if leaf.partner} == {
        "bq": "query",
        "q_norm.scale": "query",
    }
    assert [name for name, leaf in by_name.items() if leaf.normalized] == ["wq"]
    with pytest.raises(
        ValueError,
        match=r"takes a bias or a scale and the role of a kernel.*'wk' has the role 'key'",
    ):
        declare(Bare(8), **said, partners={"wk": "query"})


def test_a_bias_belongs_to_the_kernel_of_its_layer_alone() -> None:
    alone = declare(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), roles={"kernel": "readout"}, n_layers=2)
    by_name = {leaf.name: leaf for leaf in introspect.leaves(alone)}
    assert (by_name["bias"].partner, by_name["bias"].layer) == ("readout", 2)
    roles = {
        "wq": "query",
        "wk": "readout",
        "bq": "bias",
    }  # a readout and a bias side by side are no pair
    bare = declare(Bare(8), dims={"w*": "io", "bq": "o"}, roles=roles, n_layers=2)
    by_name = {leaf.name: leaf for leaf in introspect.leaves(bare)}
    assert (by_name["wk"].layer, by_name["bq"].layer, by_name["bq"].partner) == (2, 0, "")


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
    assert {
        leaf.role for leaf in introspect.leaves(declare(Experts(), **said, roles={"eb.*": "bias"}))
    } >= {"bias"}
    with pytest.raises(ValueError, match=r"parameter 'eb\.gate' has no role"):
        introspect.leaves(declare(Experts(), **said))


def test_a_role_that_is_nearly_one_is_a_slip() -> None:
    with pytest.raises(
        ValueError, match="no role is called 'readuot', and 'readout' is near; the roles are"
    ):
        declare(Parted(8), roles={"qkv": "readuot"})
    assert introspect.leaves(declare(Parted(8), roles={"qkv": "mine"}, n_layers=1))
