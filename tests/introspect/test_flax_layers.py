"""Flax's own layers: axes, roles, fans and gates of their parameters."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx

from jaxinit import introspect
from jaxinit.engine.campaign import run
from jaxinit.engine.coordcheck import coordinate_check
from jaxinit.introspect import declare
from jaxinit.schemes import SCHEMES, forget_bias
from jaxinit.study import Study

KEY = jax.random.key(0)


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
    declared = {leaf.name: (leaf.dims, leaf.role) for leaf in introspect.leaves(net)}
    assert declared["table.embedding"] == ("io", "embedding")
    assert declared["conv.kernel"] == ("wwio", "hidden")
    assert declared["attention.query.kernel"] == ("i.o", "query")
    assert declared["attention.out.kernel"] == ("iio", "attention_out")
    assert declared["attention.out.bias"] == ("o", "bias")
    assert declared["norm.scale"] == ("o", "scale")
    assert declared["layers.0.kernel"] == ("io", "hidden")
    assert declared["mine"] == (".io", "recurrent")  # what is declared already stays
    drawn = introspect.initialize(net, SCHEMES["he_normal"], jax.random.key(0))
    std = float(jnp.std(drawn.attention.query.kernel[...]))
    assert std == pytest.approx((2 / 8) ** 0.5, rel=0.3)


RNGS = nnx.Rngs(0)
H = 48


def stacked_cells() -> nnx.Module:
    @nnx.vmap
    def cell(key: jax.Array) -> nnx.GRUCell:
        return nnx.GRUCell(5, H, rngs=nnx.Rngs(key))

    return cell(jax.random.split(KEY, 2))


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
        {
            "ii.kernel": (".io", 5, H, 1, "input"),
            "if_.kernel": (".io", 5, H, 1, "input"),
            "ig.kernel": (".io", 5, H, 1, "input"),
            "io.kernel": (".io", 5, H, 1, "input"),
            "hi.kernel": (".io", H, H, 1, "recurrent"),
            "hf.kernel": (".io", H, H, 1, "recurrent"),
            "hg.kernel": (".io", H, H, 1, "recurrent"),
            "ho.kernel": (".io", H, H, 1, "recurrent"),
        },
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
        stacked_cells,
        {
            "dense_i.kernel": ("..io", 5, H, 6, "input"),
            "dense_h.kernel": ("..io", H, H, 6, "recurrent"),
        },
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_of_flax_has_its_fans_and_its_copies(name: str) -> None:
    make, expected = LAYERS[name]
    declared = {}
    for leaf in introspect.leaves(declare(make())):
        if leaf.is_kernel:
            axes = (leaf.dims, leaf.fan_in, leaf.fan_out, leaf.copies)
            declared[leaf.name] = (*axes, leaf.role)
    assert declared == expected


def test_every_vector_of_flax_has_its_role() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            norms = [
                nnx.LayerNorm(6, rngs=rngs),
                nnx.RMSNorm(6, rngs=rngs),
                nnx.BatchNorm(6, rngs=rngs),
                nnx.GroupNorm(6, 2, rngs=rngs),
                nnx.InstanceNorm(6, rngs=rngs),
            ]
            self.norms = nnx.List(norms)
            self.prelu = nnx.PReLU()
            self.cell = nnx.GRUCell(5, 6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(
                2, 6, decode=False, normalize_qk=True, rngs=rngs
            )

    net = declare(Net(nnx.Rngs(0)))
    leaves = {leaf.name: leaf for leaf in introspect.leaves(net)}
    for k in range(5):
        scale = leaves[f"norms.{k}.scale"]
        assert (scale.dims, scale.role, scale.kind) == ("o", "scale", "norm")
        assert (scale.inputs, scale.layer) == (6, k)
    assert leaves["norms.3.bias"].role == "bias"
    slope = leaves["prelu.negative_slope"]
    assert (slope.dims, slope.role) == ("", "slope")
    assert leaves["attention.query_ln.scale"].role == "scale"
    query_bias = leaves["attention.query.bias"]
    assert (query_bias.dims, query_bias.inputs) == (".o", 6)
    bias = leaves["cell.dense_i.bias"]
    assert (bias.shape, bias.dims, bias.kind) == ((3, 6), ".o", "gru")
    assert bias.gate == ("reset", "update", "new")
    drawn = introspect.initialize(net, SCHEMES["he_normal"], KEY)
    assert float(drawn.prelu.negative_slope[...]) == pytest.approx(0.01)
    assert drawn.cell.dense_i.bias.get_value().shape == (18,)


@pytest.mark.parametrize(
    ("cell", "gates"), quick((nnx.GRUCell, 3), of=[(nnx.GRUCell, 3), (nnx.OptimizedLSTMCell, 4)])
)
def test_fused_gates_are_drawn_one_by_one(cell: Any, gates: int) -> None:
    declared = declare(cell(5, H, rngs=nnx.Rngs(0)))
    net = introspect.initialize(declared, SCHEMES["saxe_orthogonal"], KEY)
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


@pytest.mark.parametrize(
    "cell", quick(nnx.OptimizedLSTMCell, of=[nnx.LSTMCell, nnx.OptimizedLSTMCell])
)
def test_a_forget_bias_reaches_either_lstm(cell: Any) -> None:
    drawn = introspect.initialize(declare(cell(2, 3, rngs=nnx.Rngs(0))), forget_bias(1.0), KEY)
    if cell is nnx.LSTMCell:
        biases = [drawn.hi.bias[...], drawn.hf.bias[...], drawn.hg.bias[...], drawn.ho.bias[...]]
    else:
        biases = jnp.split(drawn.dense_h.bias[...], 4)
    np.testing.assert_array_equal(np.asarray(jnp.stack(biases)).mean(1), [0, 1, 0, 0])


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
                forward = nnx.RNN(cell(inputs, units, rngs=rngs), rngs=rngs)
                backward = nnx.RNN(cell(inputs, units, rngs=rngs), rngs=rngs)
                self.rnn = nnx.Bidirectional(forward, backward, rngs=rngs)
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
    two_schemes = replace(study, schemes=("mup(base_width=16)", "orthogonal"))
    sizes = coordinate_check(two_schemes, (16, 64), steps=2, models={"net": make})
    assert "rnn.forward_rnn.cell" in str(sizes.parameter.values)
    assert (sizes.forward.values > 0).all()
