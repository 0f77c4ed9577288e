"""Adapters start as the model they adapt, and learn."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect
from jaxinit.finetune import LoRA, lora_gaussian, lora_init_b, lora_kaiming
from jaxinit.initializers import normal
from jaxinit.introspect import functional
from jaxinit.models import LSTM, Transformer
from jaxinit.spec import Leaf, draw

X = jax.random.normal(jax.random.key(0), (5, 3))
TOKENS = jax.random.randint(jax.random.key(1), (2, 6), 0, 7)


def squash(x: jax.Array) -> jax.Array:
    """JAX's own activations cannot all be pickled."""
    return jnp.tanh(x)


BASES: dict[str, tuple[Callable[[], nnx.Module], Any]] = {
    "Linear": (lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)), X),
    "Embed": (lambda: nnx.Embed(7, 4, rngs=nnx.Rngs(0)), TOKENS),
    "LinearGeneral": (lambda: nnx.LinearGeneral(3, (2, 4), rngs=nnx.Rngs(0)), X),
    "Transformer": (lambda: Transformer(7, 8, 7, layers=1, length=16, rngs=nnx.Rngs(0)), TOKENS),
    "LSTM": (lambda: LSTM(3, 8, 2, rngs=nnx.Rngs(0)), X[None]),
    "fused gates": (
        lambda: nnx.RNN(nnx.GRUCell(3, 4, gate_fn=squash, activation_fn=squash, rngs=nnx.Rngs(0))),
        X[None],
    ),
}


@pytest.mark.parametrize("kind", BASES)
def test_an_adapter_can_be_pickled_copied_and_be_part_of_a_static_argument(kind: str) -> None:
    make, x = BASES[kind]
    adapted: Any = LoRA(make(), 2, init=lambda leaf: normal(0.5), rngs=nnx.Rngs(1))
    for twin in (pickle.loads(pickle.dumps(adapted)), copy.deepcopy(adapted)):
        np.testing.assert_array_equal(twin(x), adapted(x))
    assert hash(nnx.graphdef(adapted)) == hash(nnx.graphdef(copy.deepcopy(adapted)))


def test_statistics_and_noise_of_an_adapted_base_stand_still() -> None:
    norm, drop = nnx.BatchNorm(3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    adapted: Any = LoRA(
        nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), norm, drop), 1, rngs=nnx.Rngs(1)
    )
    np.testing.assert_allclose(adapted(X)[:2], adapted(X[:2]), atol=1e-6)


@pytest.mark.parametrize("init", [lora_kaiming, lora_gaussian, lora_init_b])
@pytest.mark.parametrize("kind", BASES)
def test_an_adapted_model_starts_as_itself_and_can_learn(kind: str, init: Any) -> None:
    """B6, pitfall 24: B A = 0 at step 0, and the factor that is 0 has a gradient."""
    make, x = BASES[kind]
    base = make()
    model = functional(lambda: LoRA(base, 2, init=init, rngs=nnx.Rngs(1)))
    params = draw(init, jax.random.key(2), model.leaves)
    call: Any = base
    np.testing.assert_array_equal(model.apply(params, x), call(x))
    slopes = jax.grad(lambda p: jnp.sum(model.apply(p, x) ** 2))(params)
    for leaf in model.leaves:
        table = leaf.kind == "embedding"
        at_zero = leaf.role == ("lora_a" if table or init is lora_init_b else "lora_b")
        assert bool((params[leaf.name] == 0).all()) == at_zero
        assert (float(jnp.abs(slopes[leaf.name]).max()) > 0) == at_zero, leaf.name


@pytest.mark.parametrize("kind", BASES)
def test_merged_and_unmerged(kind: str) -> None:
    make, x = BASES[kind]
    base: Any = make()
    adapted = LoRA(base, 2, alpha=3.0, init=lambda leaf: normal(0.5), rngs=nnx.Rngs(1))
    merged = adapted.merged()
    np.testing.assert_allclose(merged(x), adapted(x), atol=1e-6)
    assert float(jnp.abs(merged(x) - base(x)).max()) > 1e-3
    np.testing.assert_allclose(adapted.unmerged(merged)(x), base(x), atol=1e-5)
    assert not nnx.to_flat_state(nnx.state(merged, introspect.Frozen))


def test_the_formula_of_an_adapted_linear_layer() -> None:
    base = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    for options, scale in (
        ({}, 1.0),
        ({"alpha": 6.0}, 3.0),
        ({"alpha": 6.0, "rank_stabilized": True}, 6 / math.sqrt(2)),
    ):
        adapted = LoRA(base, 2, init=lambda leaf: normal(0.5), rngs=nnx.Rngs(1), **options)
        a, b = adapted.lora_a["kernel"][...], adapted.lora_b["kernel"][...]
        np.testing.assert_allclose(adapted(X), base(X) + scale * (X @ a) @ b, rtol=1e-5, atol=1e-6)


def test_training_sees_the_adapters_alone() -> None:
    adapted = LoRA(BASES["Transformer"][0](), 2, adapt=("query", "value"), rngs=nnx.Rngs(1))
    names = [leaf.name for leaf in introspect.leaves(adapted)]
    assert len(names) == 4
    assert all(name.startswith(("lora_a.blocks", "lora_b.blocks")) for name in names)


def test_sizes_of_adapters() -> None:
    """Variances of the laws, from 4096 entries each, within four standard errors."""
    a = Leaf("a", (256, 16), "io", "lora_a")
    table = Leaf("t", (16, 256), "io", "lora_b", kind="embedding")
    b = Leaf("b", (16, 256), "io", "lora_b")
    for scheme, leaf, variance in (
        (lora_kaiming, a, 1 / (3 * 256)),
        (lora_kaiming, table, 1.0),
        (lora_gaussian, table, 1.0),
        (lora_gaussian, a, 1 / 16**2),
        (lora_init_b, b, 1 / (3 * 16)),
    ):
        drawn = np.asarray(draw(scheme, jax.random.key(0), [leaf])[leaf.name])
        assert drawn.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / drawn.size))


def test_bad_adapters() -> None:
    base = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="rank of 5 is above the smaller side of 'kernel', which is 3 x 4"
    ):
        LoRA(base, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="positive integer, got 0"):
        LoRA(base, 0, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError,
        match=r"'nothing'.* matches no kernel to adapt; the kernels are kernel \(hidden\)",
    ):
        LoRA(base, 2, adapt=("nothing",), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("init", [lora_kaiming, lora_gaussian, lora_init_b])
@pytest.mark.parametrize("kind", ["Linear", "LinearGeneral", "Conv", "Embed"])
def test_adapters_keep_the_dtype_and_every_bit_of_the_outputs(
    kind: str, init: Any, dtype: Any
) -> None:
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
    base, x = {
        "Linear": lambda: (nnx.Linear(3, 4, **options), X),
        "LinearGeneral": lambda: (nnx.LinearGeneral(3, (2, 4), **options), X),
        "Conv": lambda: (nnx.Conv(3, 4, (3,), **options), X[None]),
        "Embed": lambda: (nnx.Embed(7, 4, **options), TOKENS),
    }[kind]()
    adapted: Any = LoRA(base, 2, init=init, rngs=nnx.Rngs(1))
    merged, call = adapted.merged(), cast(Any, base)
    for module in (merged, adapted.unmerged(merged)):
        for name, value in introspect.values(module).items():
            assert value.dtype == dtype
            np.testing.assert_array_equal(value, introspect.values(base)[name])
        assert module(x).dtype == dtype
        np.testing.assert_array_equal(module(x), call(x))
    np.testing.assert_array_equal(adapted(x), call(x))


def test_a_moved_adapter_is_rounded_once() -> None:
    base = nnx.Linear(64, 64, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    adapted = LoRA(base, 2, init=lambda leaf: normal(0.01), rngs=nnx.Rngs(1))
    a, b = adapted.lora_a["kernel"][...], adapted.lora_b["kernel"][...]
    expected = (base.kernel[...].astype(jnp.float32) + a @ b).astype(jnp.bfloat16)
    np.testing.assert_array_equal(adapted.merged().kernel[...], expected)


def test_a_kernel_of_whole_numbers_is_refused() -> None:
    base = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    base.kernel.set_value(jnp.ones((3, 4), jnp.int8))
    with pytest.raises(
        ValueError, match="'kernel' has dtype int8, to which no small step can be added"
    ):
        LoRA(base, 2, rngs=nnx.Rngs(0))


def test_tables_are_adapted_as_the_cited_code_does() -> None:
    """A = 0 on the side of the vocabulary, B ~ N(0, 1), for both schemes."""
    for init in (lora_kaiming, lora_gaussian):
        adapted = LoRA(nnx.Embed(512, 256, rngs=nnx.Rngs(0)), 16, init=init, rngs=nnx.Rngs(1))
        a = np.asarray(adapted.lora_a["embedding"][...])
        b = np.asarray(adapted.lora_b["embedding"][...])
        assert a.shape == (512, 16)
        np.testing.assert_array_equal(a, 0)
        assert b.shape == (16, 256)
        assert b.mean() == pytest.approx(0, abs=4 / math.sqrt(b.size))
        assert b.var() == pytest.approx(1, rel=4 * math.sqrt(2 / b.size))
