"""Adapters start as the model they adapt, and learn."""

import copy
import math
import pickle
from collections.abc import Callable
from itertools import product
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx

from jaxinit import introspect
from jaxinit.finetune import (
    LoRA,
    lora_gaussian,
    lora_init_b,
    lora_kaiming,
    lora_orthogonal,
    olora,
    pissa,
    pretrained,
)
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


@pytest.mark.parametrize("kind", quick("Linear", "fused gates", of=BASES))
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


INITS = [lora_kaiming, lora_gaussian, lora_init_b]


@pytest.mark.parametrize(
    ("kind", "init"),
    quick(
        ("Linear", lora_kaiming),
        ("Embed", lora_gaussian),
        ("LinearGeneral", lora_init_b),
        of=product(BASES, INITS),
    ),
)
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


STARTS: dict[str, dict[str, Any]] = {
    "pissa": {"factors": pissa},
    "olora": {"factors": olora},
    "orthogonal": {"init": lora_orthogonal},
}


@pytest.mark.parametrize(
    ("kind", "start"), quick(*zip(BASES, STARTS, strict=False), of=product(BASES, STARTS))
)
def test_starts_with_two_factors_leave_the_model_as_it_is_and_both_learn(
    kind: str, start: str
) -> None:
    """W_res + s A B = W to rounding, and neither factor waits for the other."""
    make, x = BASES[kind]
    base: Any = make()
    adapted = LoRA(base, 2, alpha=3.0, rngs=nnx.Rngs(1), **STARTS[start])
    merged = introspect.values(adapted.merged())
    # Declared, so that fused gates are apart here too.
    for name, w in introspect.values(introspect.declare(make())).items():
        np.testing.assert_allclose(merged[name], w, atol=2e-6 * float(jnp.abs(w).max() + 1))
    np.testing.assert_allclose(cast(Any, adapted)(x), base(x), atol=1e-5)
    model = functional(lambda: adapted)
    params = introspect.values(adapted)
    slopes = jax.grad(lambda p: jnp.sum(model.apply(p, x) ** 2))(params)
    for leaf in model.leaves:
        assert float(jnp.abs(slopes[leaf.name]).max()) > 0, leaf.name


def of_a_matrix(start: str, rank: int, alpha: float) -> tuple[np.ndarray, ...]:
    """W, s A B, W_res, A and B of a linear layer of 24 x 16."""
    base = nnx.Linear(24, 16, rngs=nnx.Rngs(0))
    adapted = LoRA(base, rank, alpha=alpha, rngs=nnx.Rngs(1), **STARTS[start])
    a, b = (np.asarray(f["kernel"][...], np.float64) for f in (adapted.lora_a, adapted.lora_b))
    frozen = np.asarray(adapted.base["kernel"][...], np.float64)
    return np.asarray(base.kernel[...], np.float64), alpha / rank * a @ b, frozen, a, b


def test_pissa_adapts_the_principal_singular_values() -> None:
    w, product, frozen, a, b = of_a_matrix("pissa", 4, 8.0)
    spectrum = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(
        np.linalg.svd(product, compute_uv=False)[:5], [*spectrum[:4], 0], atol=1e-5
    )
    np.testing.assert_allclose(
        np.linalg.svd(frozen, compute_uv=False), [*spectrum[4:], 0, 0, 0, 0], atol=1e-5
    )
    # The factors share the singular values, each of which PEFT divides by s = 2.
    half = np.diag(spectrum[:4] / 2)
    np.testing.assert_allclose(a.T @ a, half, atol=1e-5)
    np.testing.assert_allclose(b @ b.T, half, atol=1e-5)


def test_olora_adapts_an_orthonormal_basis() -> None:
    w, product, frozen, a, b = of_a_matrix("olora", 4, 8.0)
    np.testing.assert_allclose(b @ b.T, np.eye(4), atol=1e-5)
    # R is triangular, so that the first rows of W are combinations of the first of the basis.
    np.testing.assert_allclose((a @ b)[:4], w[:4], atol=1e-5)
    assert np.linalg.matrix_rank(product, tol=1e-4) == 4
    np.testing.assert_allclose(frozen + product, w, atol=1e-6)
    np.testing.assert_allclose(frozen[:4], -w[:4], atol=1e-5)  # less s A B, and s = 2


def test_orthogonal_factors_annihilate_each_other() -> None:
    base = nnx.Linear(256, 256, rngs=nnx.Rngs(0))
    adapted = LoRA(base, 16, init=lora_orthogonal, rngs=nnx.Rngs(1))
    a, b = (np.asarray(f["kernel"][...], np.float64) for f in (adapted.lora_a, adapted.lora_b))
    assert np.abs(a @ b).max() < 1e-6
    for factor in (a, b):
        assert np.linalg.matrix_rank(factor, tol=1e-4) == 8
        # 256 x 8 independent Gaussians, turned into 16 columns.
        assert factor.var() == pytest.approx(1 / 200, rel=4 * math.sqrt(2 / (256 * 8)))
    with pytest.raises(ValueError, match=r"needs an even rank, .*got 3 in 'lora_a"):
        LoRA(base, 3, init=lora_orthogonal, rngs=nnx.Rngs(1))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_is_left_of_a_narrow_kernel_is_rounded_once(start: str) -> None:
    base = nnx.Linear(64, 64, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    adapted = LoRA(base, 4, rngs=nnx.Rngs(1), **STARTS[start])
    w = np.asarray(base.kernel[...], np.float64)
    frozen = adapted.base["kernel"][...]
    assert frozen.dtype == jnp.bfloat16
    moved = np.asarray(adapted.merged().kernel[...], np.float64) - w
    # Two roundings to 8 digits of base 2: of what is frozen, and of the sum.
    most = np.abs(np.asarray(frozen, np.float64)) + np.abs(w)
    assert (np.abs(moved) <= 1.01 * 2**-8 * most).all()


def test_a_study_draws_the_factors_of_a_kernel_as_values() -> None:
    base = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    adapted = LoRA(base, 2, factors=pissa, rngs=nnx.Rngs(1))
    model = functional(lambda: LoRA(base, 2, factors=pissa, rngs=nnx.Rngs(2)))
    scheme = pretrained(introspect.values(adapted), lora_kaiming)
    params = draw(scheme, jax.random.key(5), model.leaves)
    x = jnp.ones((3, 6))
    np.testing.assert_allclose(model.apply(params, x), base(x), atol=1e-6)


def test_factors_and_a_scheme_are_not_both_given() -> None:
    base = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="a scheme for them; leave out init, or factors"):
        LoRA(base, 2, init=lora_gaussian, factors=pissa, rngs=nnx.Rngs(1))
    with pytest.raises(ValueError, match="alpha above 0; got alpha=0"):
        LoRA(base, 2, alpha=0.0, factors=pissa, rngs=nnx.Rngs(1))
