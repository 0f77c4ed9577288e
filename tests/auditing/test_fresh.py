"""Models drawn anew: what changes, what stays, and what a plan says of it."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from audited import Bare, Language
from flax import linen, nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxinit
from jaxinit.auditing import audit
from jaxinit.auditing.fresh import plan, reinitialize
from jaxinit.study import BadStudy


def test_gates_are_drawn_apart_and_the_model_itself_stays() -> None:
    cell = nnx.GRUCell(16, 16, rngs=nnx.Rngs(0))
    before = np.asarray(cell.dense_h.kernel.get_value())
    fresh = reinitialize(cell, "orthogonal", jax.random.key(0))
    kernel = np.asarray(fresh.dense_h.kernel.get_value())
    for gate in np.split(kernel, 3, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(16), atol=1e-5)
    np.testing.assert_array_equal(cell.dense_h.kernel.get_value(), before)
    assert not audit(fresh, "orthogonal").serious


def test_the_same_key_and_name_give_the_same_values_whatever_else_is_there() -> None:
    key = jax.random.key(3)
    small = reinitialize(nnx.Dict(a=nnx.Linear(8, 8, rngs=nnx.Rngs(0))), "he_normal", key)
    large = reinitialize(
        nnx.Dict(a=nnx.Linear(8, 8, rngs=nnx.Rngs(1)), b=nnx.Linear(8, 8, rngs=nnx.Rngs(2))),
        "he_normal",
        key,
    )
    np.testing.assert_array_equal(small.a.kernel.get_value(), large.a.kernel.get_value())


def test_dtypes_ties_statistics_and_shardings_stay() -> None:
    devices = jax.devices()[:2]
    mesh = Mesh(np.asarray(devices), ("model",))
    sharding = NamedSharding(mesh, PartitionSpec(None, "model"))
    model = nnx.Dict(
        a=nnx.Linear(8, 8, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
        b=nnx.Linear(8, 8, use_bias=False, rngs=nnx.Rngs(1)),
        norm=nnx.BatchNorm(8, rngs=nnx.Rngs(2)),
    )
    model.tied = model.b
    model.norm.mean.set_value(jnp.arange(8.0))
    alone = reinitialize(model, "he_normal", jax.random.key(0))
    model.b.kernel.set_value(jax.device_put(model.b.kernel.get_value(), sharding))
    fresh = reinitialize(model, "he_normal", jax.random.key(0))
    assert fresh.a.kernel.get_value().dtype == jnp.bfloat16
    assert fresh.tied.kernel is fresh.b.kernel
    assert fresh.b.kernel.get_value().sharding == sharding
    np.testing.assert_array_equal(fresh.norm.mean.get_value(), np.arange(8.0))
    np.testing.assert_array_equal(alone.b.kernel.get_value(), fresh.b.kernel.get_value())


def test_what_is_excluded_keeps_its_values() -> None:
    model = Language(nnx.Rngs(0))
    fresh = reinitialize(model, "gpt2", jax.random.key(0), exclude=("wte*", "blocks.0.*"))
    np.testing.assert_array_equal(fresh.wte.embedding.get_value(), model.wte.embedding.get_value())
    fc1, fresh_fc1 = model.blocks[1].fc1, fresh.blocks[1].fc1
    assert not np.array_equal(fc1.kernel.get_value(), fresh_fc1.kernel.get_value())


def test_a_tree_of_linens_comes_back_as_a_tree() -> None:
    params = linen.Dense(3).init(jax.random.key(0), jnp.ones((1, 4)))
    fresh = reinitialize(params, "orthogonal", jax.random.key(0))
    kernel = np.asarray(fresh["params"]["kernel"])
    np.testing.assert_allclose(kernel.T @ kernel, 8 / 8 * np.eye(3), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "he"}, "no scheme is called 'he'"),
        ({"scheme": "he_normal", "exclude": "nothing*"}, "'nothing\\*' of exclude matches no"),
        ({"scheme": "u_mup"}, "multiplies .* in the forward pass"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict, message: str) -> None:
    scheme = options.pop("scheme")
    with pytest.raises(BadStudy, match=message):
        reinitialize(Language(nnx.Rngs(0)), scheme, jax.random.key(0), width={"*": 64}, **options)


def test_axes_that_nobody_has_said_are_asked_for() -> None:
    model = Bare(jnp.ones((3, 4, 5)))
    with pytest.raises(BadStudy, match="the axes of w are not known; say dims= and roles="):
        reinitialize(model, "he_normal", jax.random.key(0))
    assert plan(model, "he_normal").unknown == ("w",)


def test_a_plan_has_the_factor_of_every_parameter() -> None:
    lines = {line.name: line for line in plan(Language(nnx.Rngs(0)), "gpt2").lines}
    assert lines["blocks.0.fc1.kernel"].law == "normal, std 0.02"
    assert lines["blocks.0.fc2.kernel"].law == f"normal, std {0.02 / 8**0.5:.3g}"
    assert lines["blocks.0.norm.scale"].law == "ones"
    assert "blocks.0.fc2.kernel" in str(plan(Language(nnx.Rngs(0)), "gpt2"))


@pytest.mark.parametrize(
    ("scheme", "law"),
    [
        ("he_normal", f"truncated normal, std {(2 / 64) ** 0.5:.3g}"),
        ("glorot_uniform", f"uniform, std {(2 / (64 + 256)) ** 0.5:.3g}"),
        ("saxe_orthogonal", f"orthogonal, std {256**-0.5:.3g}"),
        ("scale(orthogonal, 2.0)", f"orthogonal, std {2 * 256**-0.5:.3g}"),
        ("xavier_rnn", f"normal, std {64**-0.5:.3g}"),
    ],
)
def test_a_plan_knows_standard_deviations_without_a_draw(scheme: str, law: str) -> None:
    """And they are those of a draw."""
    model = nnx.Dict(fc=nnx.Linear(64, 256, rngs=nnx.Rngs(0)))
    (line,) = [line for line in plan(model, scheme).lines if line.role == "hidden"]
    assert line.law == law
    drawn = np.asarray(reinitialize(model, scheme, jax.random.key(0)).fc.kernel.get_value())
    assert drawn.std() == pytest.approx(float(law.split()[-1]), rel=0.03)


def test_seven_billion_parameters_are_planned_without_a_draw() -> None:
    """Shapes of a Llama-like model: 32 blocks of width 4096."""
    width, hidden = 4096, 11008
    block = {
        "self_attn": {
            name: {"weight": jax.ShapeDtypeStruct((width, width), jnp.bfloat16)}
            for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        },
        "mlp": {
            "gate_proj": {"weight": jax.ShapeDtypeStruct((hidden, width), jnp.bfloat16)},
            "up_proj": {"weight": jax.ShapeDtypeStruct((hidden, width), jnp.bfloat16)},
            "down_proj": {"weight": jax.ShapeDtypeStruct((width, hidden), jnp.bfloat16)},
        },
    }
    table = {"weight": jax.ShapeDtypeStruct((32000, width), jnp.bfloat16)}
    model = {"embed_tokens": table, "layers": [block] * 32, "lm_head": table}
    began = time.monotonic()
    planned = jaxinit.plan(model, "gpt2")
    assert time.monotonic() - began < 30
    total = sum(int(np.prod(line.shape)) for line in planned.lines)
    assert total == pytest.approx(6.7e9, rel=0.02)
    lines = {line.name: line for line in planned.lines}
    assert lines["layers.31.mlp.down_proj.weight"].law == "normal, std 0.0025"
