"""New rows for new tokens, and where they may grow."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import nnx

from jaxinit import finetune, introspect
from jaxinit.finetune import extend_rows, extend_vocabulary
from jaxinit.introspect import Functional, functional
from jaxinit.models import Transformer
from jaxinit.schemes import xavier_rnn
from jaxinit.spec import Leaf, draw
from jaxinit.tasks.base import cross_entropy


@pytest.mark.parametrize("tied", quick(False, of=[False, True]))
def test_new_tokens_by_the_mean_are_bounded(tied: bool) -> None:
    """B2, B8, pitfall 25: log(1 + n/V) for any context, however far the logits are shifted; old
    logits stay."""
    v, n, d = 11, 4, 8

    def make(v: int) -> Functional:
        return functional(
            lambda: Transformer(v, d, v, layers=1, length=8, tied=tied, rngs=nnx.Rngs(0))
        )

    old, new = make(v), make(v + n)
    drawn = draw(xavier_rnn, jax.random.key(0), old.leaves)
    values = {name: 3.0 * w for name, w in drawn.items()}
    if not tied:
        values["readout.bias"] = values["readout.bias"] - 20.0  # the same function
    x = jax.random.randint(jax.random.key(1), (4, 8), 0, v)
    before = old.apply(values, x)
    divergences = {}
    for how in ("zero", "normal", "mean", "mean_cov"):
        wider = extend_vocabulary(values, old.leaves, n, how, jax.random.key(2))
        assert {name: w.shape for name, w in wider.items()} == {
            leaf.name: leaf.shape for leaf in new.leaves
        }
        report = finetune.step_zero(
            before, new.apply, wider, (x, x), cross_entropy, ("embedding",), slice(v, None)
        )
        assert report.shift < 1e-5
        divergences[how] = report.kl
        z = jax.nn.logsumexp(new.apply(wider, x), -1) - jax.nn.logsumexp(before, -1)
        assert report.kl == pytest.approx(float(z.mean()), rel=1e-4, abs=1e-6)
    bound = math.log(1 + n / v)
    assert 0 < divergences["mean"] <= bound
    assert divergences["mean_cov"] == pytest.approx(divergences["mean"], abs=0.01)
    if not tied:  # what the bias hides from the mean
        assert divergences["zero"] > 10 * bound
        assert divergences["normal"] > 10 * bound


def test_new_tokens_take_rows_of_padding_in_every_table() -> None:
    leaves = [
        Leaf("table", (8, 4), "io", "embedding"),
        Leaf("readout.kernel", (4, 8), "io", "readout"),
    ]
    values = {
        "table": jnp.ones((8, 4)),
        "readout.kernel": jnp.ones((4, 8)),
        "readout.bias": jnp.arange(8.0),
    }
    for how, bias in (("normal", 0.0), ("zero", 0.0), ("mean", 2.0)):
        wider = extend_vocabulary(values, leaves, 2, how, jax.random.key(0), used=5)
        assert {name: w.shape for name, w in wider.items()} == {
            name: w.shape for name, w in values.items()
        }
        np.testing.assert_array_equal(wider["readout.bias"], [0, 1, 2, 3, 4, bias, bias, 7])
        for name, rows in (
            ("table", wider["table"]),
            ("readout.kernel", wider["readout.kernel"].T),
        ):
            assert bool((rows[5:7] == 1).all()) == (how == "mean"), name
            np.testing.assert_array_equal(rows[7], 1)


def test_new_rows() -> None:
    rows = jax.random.normal(jax.random.key(0), (200, 4)) * jnp.asarray([[1.0, 2.0, 0.1, 5.0]]) + 3
    wide = np.asarray(extend_rows(rows, 2000, "mean_cov", jax.random.key(1), share=1.0))[200:]
    np.testing.assert_allclose(wide.mean(0), rows.mean(0), atol=4 * 5 / math.sqrt(2000))
    np.testing.assert_allclose(
        np.cov(wide.T), np.cov(rows.T, bias=True), atol=4 * 25 * math.sqrt(2 / 2000)
    )
    padded = extend_rows(rows, 3, "mean", jax.random.key(1), used=190)
    assert padded.shape == rows.shape  # rows of padding are taken first
    np.testing.assert_allclose(
        padded[190:193], jnp.broadcast_to(rows[:190].mean(0), (3, 4)), rtol=1e-5
    )
    np.testing.assert_array_equal(padded[193:], rows[193:])
    with pytest.raises(ValueError, match="1 row or more, got 0"):
        extend_rows(rows, 0, "mean", jax.random.key(0))
    with pytest.raises(ValueError, match=r"used rows must be 1 to 200.*got 201"):
        extend_rows(rows, 1, "mean", jax.random.key(0), used=201)


@pytest.mark.parametrize("how", ["zero", "normal", "mean", "mean_cov"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_new_rows_have_the_dtype_of_the_old(how: Any, dtype: Any) -> None:
    rows = jax.random.normal(jax.random.key(0), (300, 4)).astype(dtype) + jnp.asarray(3, dtype)
    wide = extend_rows(rows, 2, how, jax.random.key(1))
    assert wide.dtype == dtype
    np.testing.assert_array_equal(wide[:300], rows)
    if how == "mean":  # of the values, not of sums that bfloat16 stops at 256 for
        mean = np.asarray(rows, np.float64).mean(0)
        np.testing.assert_allclose(
            np.asarray(wide[300], np.float64), mean, rtol=float(jnp.finfo(dtype).eps)
        )


class Tokens(nnx.Module):
    """A model on tokens of Flax's own layers: what a caller has, with `lm_head`, a tied head, or
    another."""

    def __init__(
        self, v: int, d: int, positions: int | None = None, dtype: Any = jnp.float32, **parts: Any
    ):
        options: dict[str, Any] = {"param_dtype": dtype, "rngs": nnx.Rngs(0)}
        self.tokens = nnx.Embed(v, d, **options)
        self.places = None if positions is None else nnx.Embed(positions, d, **options)
        for name, part in parts.items():
            setattr(self, name, part(options))

    def __call__(self, x: Any) -> Any:
        return self.tokens(x)


def extended(
    model: nnx.Module, n: int = 3, how: Any = "mean", **options: Any
) -> dict[str, tuple[int, ...]]:
    """The shapes that change."""
    introspect.declare(model)
    leaves, values = introspect.leaves(model), introspect.values(model)
    wider = extend_vocabulary(values, leaves, n, how, jax.random.key(0), **options)
    assert wider.keys() == values.keys()
    assert all(wider[name].dtype == value.dtype for name, value in values.items())
    return {name: value.shape for name, value in wider.items() if value.shape != values[name].shape}


def linear(inputs: Any, outputs: Any, **more: Any) -> Callable[[dict[str, Any]], nnx.Module]:
    has_several_axes = isinstance(inputs, tuple) or isinstance(outputs, tuple)
    layer = nnx.LinearGeneral if has_several_axes else nnx.Linear
    if isinstance(inputs, tuple):
        more["axis"] = tuple(range(-len(inputs), 0))
    return lambda options: layer(inputs, outputs, **(options | more))


def test_heads_of_flax_grow_with_the_table() -> None:
    table = {"tokens.embedding": (14, 8)}
    head = {"lm_head.kernel": (8, 14), "lm_head.bias": (14,)}
    for dtype in (jnp.float32, jnp.bfloat16):
        assert extended(Tokens(11, 8, dtype=dtype, lm_head=linear(8, 11))) == table | head
    assert extended(Tokens(11, 8, lm_head=linear(8, 11, use_bias=False))) == table | {
        "lm_head.kernel": (8, 14)
    }
    assert extended(Tokens(11, 8, lm_head=linear((2, 4), 11))) == table | {
        "lm_head.kernel": (2, 4, 14),
        "lm_head.bias": (14,),
    }
    assert extended(Tokens(11, 8, lm_head=linear(8, (2, 11)))) == table | {
        "lm_head.kernel": (8, 2, 14),
        "lm_head.bias": (2, 14),
    }
    assert extended(Tokens(11, 8)) == table  # tied
    # four classes stay four
    assert extended(Tokens(11, 8, inner=linear(8, 8), classes=linear(8, 4))) == table
    tied = Tokens(11, 8, logit_bias=lambda options: introspect.param((11,), "o", "bias"))
    assert extended(tied) == table | {"logit_bias": (14,)}


def test_the_logits_of_new_tokens_are_the_mean_of_the_old() -> None:
    model = Tokens(11, 8, lm_head=linear((2, 4), (3, 11)))
    introspect.declare(model)
    values = introspect.values(model)
    values["lm_head.bias"] = jax.random.normal(jax.random.key(1), (3, 11))
    wider = extend_vocabulary(values, introspect.leaves(model), 2, "mean", jax.random.key(0))
    x = jax.random.normal(jax.random.key(2), (5, 2, 4))

    def logits(values: dict[str, jax.Array]) -> jax.Array:
        products = jnp.einsum("bij,ijkv->bkv", x, values["lm_head.kernel"])
        return products + values["lm_head.bias"][None]

    np.testing.assert_array_equal(logits(wider)[..., :11], logits(values))
    for new in (11, 12):
        np.testing.assert_allclose(logits(wider)[..., new], logits(values).mean(-1), atol=1e-5)


def test_what_is_no_vocabulary_is_refused_with_the_line_that_settles_it() -> None:
    positions = Tokens(11, 8, positions=16, lm_head=linear(8, 11))
    with pytest.raises(
        ValueError,
        match=r"tables of several sizes, places.embedding \(16, 8\), tokens.*one of 11, 16",
    ):
        extended(positions)
    grown = {"tokens.embedding": (14, 8), "lm_head.kernel": (8, 14), "lm_head.bias": (14,)}
    assert extended(positions, vocabulary=11) == grown
    assert extended(positions, parts=("tokens.*", "lm_head.*")) == grown
    alike = Tokens(11, 8, positions=11, lm_head=linear(8, 11))
    with pytest.raises(
        ValueError,
        match=r"2 tables have 11 rows.* parts=\('places.embedding', 'tokens.embedding', ...",
    ):
        extended(alike)
    assert extended(alike, parts=("tokens.*", "lm_head.kernel")) == grown
    hidden = Tokens(11, 8, inner=linear(8, 11), outer=linear(11, 8), lm_head=linear(8, 11))
    with pytest.raises(
        ValueError,
        match=r"inner.bias \(11,\), .* have an axis of 11 too.*parts=\('tokens.embedding', ",
    ):
        extended(hidden)
    assert extended(hidden, parts=("tokens.embedding", "lm_head.kernel")) == grown
    # its outputs are inputs: no head
    first = Tokens(11, 8, inner=linear(8, 11), classes=linear(11, 4))
    with pytest.raises(ValueError, match=r"classes.kernel \(11, 4\).* have an axis of 11 too"):
        extended(first)
    assert extended(first, parts=("tokens.embedding",)) == {"tokens.embedding": (14, 8)}
    classes = Transformer(11, 8, 4, layers=1, length=16, readout="mean", rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"readout.kernel \(8, 4\) has not the 11 outputs .*vocabulary=11"
    ):
        extended(classes)
    assert extended(classes, vocabulary=11) == {"embedding": (14, 8)}
    with pytest.raises(ValueError, match=r"0 tables have 7 rows, of tokens.embedding \(11, 8\)"):
        extended(Tokens(11, 8), vocabulary=7)
    with pytest.raises(ValueError, match=r"parts \['head'\] match no parameter"):
        extended(Tokens(11, 8), parts=("head",))
    with pytest.raises(ValueError, match=r"inner.kernel \(8, 5\) has not one axis of 11 tokens"):
        extended(Tokens(11, 8, inner=linear(8, 5)), parts=("tokens.*", "inner.kernel"))
    with pytest.raises(ValueError, match="no parameter has the role embedding"):
        extended(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    model = Tokens(11, 8)
    introspect.declare(model)
    with pytest.raises(
        ValueError, match=r"not the model's: tokens.embedding \(9, 8\), the model has \(11, 8\)"
    ):
        extend_vocabulary(
            {"tokens.embedding": jnp.zeros((9, 8))},
            introspect.leaves(model),
            1,
            "mean",
            jax.random.key(0),
        )


def test_a_models_own_widths_are_no_vocabulary() -> None:
    """As wide, and as long, as it has tokens: roles decide."""
    model = Transformer(8, 8, 8, layers=1, heads=2, length=8, rngs=nnx.Rngs(0))
    assert extended(model) == {
        "embedding": (11, 8),
        "readout.kernel": (8, 11),
        "readout.bias": (11,),
    }
