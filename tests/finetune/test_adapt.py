"""Starting from a trained model: functions preserved, gradients where learning can begin, bounds that hold."""

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect
from jaxinit.finetune import LoRA, adapt, extend_rows, extend_vocabulary, lora_gaussian, lora_init_b, lora_kaiming
from jaxinit.initializers import lecun, normal, zeros
from jaxinit.introspect import functional
from jaxinit.models import LSTM, Transformer
from jaxinit.schemes import by_role, xavier_rnn
from jaxinit.spec import Leaf, Override, draw
from jaxinit.study import BadStudy, Study
from jaxinit.tasks.base import cross_entropy

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
    adapted: Any = LoRA(nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), norm, drop), 1, rngs=nnx.Rngs(1))
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
    with pytest.raises(ValueError, match="rank of 5 is above the smaller side of 'kernel', which is 3 x 4"):
        LoRA(base, 5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="positive integer, got 0"):
        LoRA(base, 0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"'nothing'.* matches no kernel to adapt; the kernels are kernel \(hidden\)"):
        LoRA(base, 2, adapt=("nothing",), rngs=nnx.Rngs(0))


def test_a_start_from_trained_values_is_a_scheme() -> None:
    make = lambda out: functional(lambda: LSTM(3, 8, out, rngs=nnx.Rngs(0)))
    old, new = make(2), make(5)
    values = draw(xavier_rnn, jax.random.key(0), old.leaves)
    body = {name: value for name, value in values.items() if not name.startswith("readout")}
    scheme = adapt.pretrained(body, by_role({"readout": lecun("normal"), "bias": zeros}), frozen=True)
    drawn = draw(scheme, jax.random.key(1), new.leaves)
    for name, value in body.items():  # gates are copies: the layout must survive
        np.testing.assert_array_equal(drawn[name], value)
    assert drawn["readout.kernel"].shape == (8, 5)
    rules = adapt.rules(scheme, new.leaves)
    assert {rules[name].lr_scale for name in body} == {0.0}
    assert rules["readout.kernel"].lr_scale == 1.0
    with pytest.raises(ValueError, match=r"'readout.bias' has shape \(2,\), the parameter \(5,\)"):
        draw(adapt.pretrained(values, xavier_rnn), jax.random.key(1), new.leaves)
    with pytest.raises(ValueError, match="match no parameter"):
        draw(adapt.pretrained({"x": jnp.zeros(1)}, xavier_rnn), jax.random.key(1), new.leaves)
    with pytest.raises(ValueError, match=r"\['head'\] match no parameter"):  # of the scheme for what is new
        draw(adapt.pretrained(body, Override(xavier_rnn, {"head": zeros})), jax.random.key(1), new.leaves)


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_by_the_mean_are_bounded(tied: bool) -> None:
    """B2, B8, pitfall 25: log(1 + n/V) for any context, however far the logits are shifted; old logits stay."""
    v, n, d = 11, 4, 8
    make = lambda v: functional(lambda: Transformer(v, d, v, layers=1, length=8, tied=tied, rngs=nnx.Rngs(0)))
    old, new = make(v), make(v + n)
    values = {name: 3.0 * w for name, w in draw(xavier_rnn, jax.random.key(0), old.leaves).items()}
    if not tied:
        values["readout.bias"] = values["readout.bias"] - 20.0  # the same function
    x = jax.random.randint(jax.random.key(1), (4, 8), 0, v)
    before = old.apply(values, x)
    found = {}
    for how in ("zero", "normal", "mean", "mean_cov"):
        wider = extend_vocabulary(values, old.leaves, n, how, jax.random.key(2))
        assert {name: w.shape for name, w in wider.items()} == {leaf.name: leaf.shape for leaf in new.leaves}
        report = adapt.step_zero(before, new.apply, wider, (x, x), cross_entropy, ("embedding",), slice(v, None))
        assert report.shift < 1e-5
        found[how] = report.kl
        z = jax.nn.logsumexp(new.apply(wider, x), -1) - jax.nn.logsumexp(before, -1)
        assert report.kl == pytest.approx(float(z.mean()), rel=1e-4, abs=1e-6)
    bound = math.log(1 + n / v)
    assert 0 < found["mean"] <= bound
    assert found["mean_cov"] == pytest.approx(found["mean"], abs=0.01)
    if not tied:  # what the bias hides from the mean
        assert found["zero"] > 10 * bound
        assert found["normal"] > 10 * bound


def test_new_tokens_take_rows_of_padding_in_every_table() -> None:
    leaves = [Leaf("table", (8, 4), "io", "embedding"), Leaf("readout.kernel", (4, 8), "io", "readout")]
    values = {"table": jnp.ones((8, 4)), "readout.kernel": jnp.ones((4, 8)), "readout.bias": jnp.arange(8.0)}
    for how, bias in (("normal", 0.0), ("zero", 0.0), ("mean", 2.0)):
        wider = extend_vocabulary(values, leaves, 2, how, jax.random.key(0), used=5)
        assert {name: w.shape for name, w in wider.items()} == {name: w.shape for name, w in values.items()}
        np.testing.assert_array_equal(wider["readout.bias"], [0, 1, 2, 3, 4, bias, bias, 7])
        for name, rows in (("table", wider["table"]), ("readout.kernel", wider["readout.kernel"].T)):
            assert bool((rows[5:7] == 1).all()) == (how == "mean"), name
            np.testing.assert_array_equal(rows[7], 1)


def test_new_rows() -> None:
    rows = jax.random.normal(jax.random.key(0), (200, 4)) * jnp.asarray([[1.0, 2.0, 0.1, 5.0]]) + 3
    wide = np.asarray(extend_rows(rows, 2000, "mean_cov", jax.random.key(1), share=1.0))[200:]
    np.testing.assert_allclose(wide.mean(0), rows.mean(0), atol=4 * 5 / math.sqrt(2000))
    np.testing.assert_allclose(np.cov(wide.T), np.cov(rows.T, bias=True), atol=4 * 25 * math.sqrt(2 / 2000))
    padded = extend_rows(rows, 3, "mean", jax.random.key(1), used=190)
    assert padded.shape == rows.shape  # rows of padding are taken first
    np.testing.assert_allclose(padded[190:193], jnp.broadcast_to(rows[:190].mean(0), (3, 4)), rtol=1e-5)
    np.testing.assert_array_equal(padded[193:], rows[193:])
    with pytest.raises(ValueError, match="1 row or more, got 0"):
        extend_rows(rows, 0, "mean", jax.random.key(0))
    with pytest.raises(ValueError, match=r"used rows must be 1 to 200.*got 201"):
        extend_rows(rows, 1, "mean", jax.random.key(0), used=201)


def test_pretraining_and_the_report() -> None:
    study = Study(
        model="mlp", layers=1, hidden=16, schemes=("xavier_rnn",), baseline="xavier_rnn", lrs=(0.3,), epochs=3
    )
    trained = adapt.pretrain(study, progress=False)
    assert trained.metric > 0.6
    x, y = trained.cell.task.data["valid_x"][:50], trained.cell.task.data["valid_y"][:50]
    before = trained.cell.model.apply(trained.values, x)
    report = adapt.step_zero(
        before, trained.cell.model.apply, trained.values, (x, y), trained.cell.task.loss, ("readout.*",)
    )
    assert report.shift < 1e-6  # rounding, between a program that is compiled and one that is not
    assert abs(report.kl) < 1e-7
    assert set(report.gradient) == {"readout.kernel", "readout.bias"}
    assert "gradient norms: readout.bias" in str(report)
    with pytest.raises(BadStudy, match="forward pass"):
        adapt.pretrain(replace(study, model="transformer", hidden=128, schemes=("mup",)), progress=False)
    with pytest.raises(ValueError, match="matches no parameter"):
        adapt.step_zero(before, trained.cell.model.apply, trained.values, (x, y), trained.cell.task.loss, ("z",))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("init", [lora_kaiming, lora_gaussian, lora_init_b])
@pytest.mark.parametrize("kind", ["Linear", "LinearGeneral", "Conv", "Embed"])
def test_adapters_keep_the_dtype_and_every_bit_of_the_outputs(kind: str, init: Any, dtype: Any) -> None:
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
    with pytest.raises(ValueError, match="'kernel' has dtype int8, to which no small step can be added"):
        LoRA(base, 2, rngs=nnx.Rngs(0))


def test_tables_are_adapted_as_the_cited_code_does() -> None:
    """A = 0 on the side of the vocabulary, B ~ N(0, 1), for both starts."""
    for init in (lora_kaiming, lora_gaussian):
        adapted = LoRA(nnx.Embed(512, 256, rngs=nnx.Rngs(0)), 16, init=init, rngs=nnx.Rngs(1))
        a, b = np.asarray(adapted.lora_a["embedding"][...]), np.asarray(adapted.lora_b["embedding"][...])
        assert a.shape == (512, 16)
        np.testing.assert_array_equal(a, 0)
        assert b.shape == (16, 256)
        assert b.mean() == pytest.approx(0, abs=4 / math.sqrt(b.size))
        assert b.var() == pytest.approx(1, rel=4 * math.sqrt(2 / b.size))


@pytest.mark.parametrize("how", ["zero", "normal", "mean", "mean_cov"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_new_rows_have_the_dtype_of_the_old(how: Any, dtype: Any) -> None:
    rows = jax.random.normal(jax.random.key(0), (300, 4)).astype(dtype) + jnp.asarray(3, dtype)
    wide = extend_rows(rows, 2, how, jax.random.key(1))
    assert wide.dtype == dtype
    np.testing.assert_array_equal(wide[:300], rows)
    if how == "mean":  # of the values, not of sums that bfloat16 stops at 256 for
        mean = np.asarray(rows, np.float64).mean(0)
        np.testing.assert_allclose(np.asarray(wide[300], np.float64), mean, rtol=float(jnp.finfo(dtype).eps))


class Tokens(nnx.Module):
    """A model on tokens of Flax's own layers: what a caller has, with `lm_head`, a tied head, or another."""

    def __init__(self, v: int, d: int, positions: int | None = None, dtype: Any = jnp.float32, **parts: Any):
        options: dict[str, Any] = {"param_dtype": dtype, "rngs": nnx.Rngs(0)}
        self.tokens = nnx.Embed(v, d, **options)
        self.places = None if positions is None else nnx.Embed(positions, d, **options)
        for name, part in parts.items():
            setattr(self, name, part(options))

    def __call__(self, x: Any) -> Any:
        return self.tokens(x)


def extended(model: nnx.Module, n: int = 3, how: Any = "mean", **options: Any) -> dict[str, tuple[int, ...]]:
    """The shapes that change."""
    introspect.declare(model)
    leaves, values = introspect.leaves(model), introspect.values(model)
    wider = extend_vocabulary(values, leaves, n, how, jax.random.key(0), **options)
    assert wider.keys() == values.keys()
    assert all(wider[name].dtype == value.dtype for name, value in values.items())
    return {name: value.shape for name, value in wider.items() if value.shape != values[name].shape}


def linear(inputs: Any, outputs: Any, **more: Any) -> Callable[[dict[str, Any]], nnx.Module]:
    layer = nnx.LinearGeneral if isinstance(inputs, tuple) or isinstance(outputs, tuple) else nnx.Linear
    if isinstance(inputs, tuple):
        more["axis"] = tuple(range(-len(inputs), 0))
    return lambda options: layer(inputs, outputs, **(options | more))


def test_heads_of_flax_grow_with_the_table() -> None:
    table = {"tokens.embedding": (14, 8)}
    head = {"lm_head.kernel": (8, 14), "lm_head.bias": (14,)}
    for dtype in (jnp.float32, jnp.bfloat16):
        assert extended(Tokens(11, 8, dtype=dtype, lm_head=linear(8, 11))) == table | head
    assert extended(Tokens(11, 8, lm_head=linear(8, 11, use_bias=False))) == table | {"lm_head.kernel": (8, 14)}
    assert extended(Tokens(11, 8, lm_head=linear((2, 4), 11))) == table | {
        "lm_head.kernel": (2, 4, 14),
        "lm_head.bias": (14,),
    }
    assert extended(Tokens(11, 8, lm_head=linear(8, (2, 11)))) == table | {
        "lm_head.kernel": (8, 2, 14),
        "lm_head.bias": (2, 14),
    }
    assert extended(Tokens(11, 8)) == table  # tied
    assert extended(Tokens(11, 8, inner=linear(8, 8), classes=linear(8, 4))) == table  # four classes stay four
    tied = Tokens(11, 8, logit_bias=lambda options: introspect.param((11,), "o", "bias"))
    assert extended(tied) == table | {"logit_bias": (14,)}


def test_the_logits_of_new_tokens_are_the_mean_of_the_old() -> None:
    model = Tokens(11, 8, lm_head=linear((2, 4), (3, 11)))
    introspect.declare(model)
    values = introspect.values(model)
    values["lm_head.bias"] = jax.random.normal(jax.random.key(1), (3, 11))
    wider = extend_vocabulary(values, introspect.leaves(model), 2, "mean", jax.random.key(0))
    x = jax.random.normal(jax.random.key(2), (5, 2, 4))
    of = lambda w: jnp.einsum("bij,ijkv->bkv", x, w["lm_head.kernel"]) + w["lm_head.bias"][None]
    np.testing.assert_array_equal(of(wider)[..., :11], of(values))
    for new in (11, 12):
        np.testing.assert_allclose(of(wider)[..., new], of(values).mean(-1), atol=1e-5)


def test_what_is_no_vocabulary_is_refused_with_the_line_that_settles_it() -> None:
    positions = Tokens(11, 8, positions=16, lm_head=linear(8, 11))
    with pytest.raises(
        ValueError, match=r"tables of several sizes, places.embedding \(16, 8\), tokens.*vocabulary=, one of 11, 16"
    ):
        extended(positions)
    grown = {"tokens.embedding": (14, 8), "lm_head.kernel": (8, 14), "lm_head.bias": (14,)}
    assert extended(positions, vocabulary=11) == grown
    assert extended(positions, parts=("tokens.*", "lm_head.*")) == grown
    alike = Tokens(11, 8, positions=11, lm_head=linear(8, 11))
    with pytest.raises(
        ValueError, match=r"2 tables have 11 rows.* parts=\('places.embedding', 'tokens.embedding', ..."
    ):
        extended(alike)
    assert extended(alike, parts=("tokens.*", "lm_head.kernel")) == grown
    hidden = Tokens(11, 8, inner=linear(8, 11), outer=linear(11, 8), lm_head=linear(8, 11))
    with pytest.raises(
        ValueError, match=r"inner.bias \(11,\), .* have an axis of 11 too.*parts=\('tokens.embedding', "
    ):
        extended(hidden)
    assert extended(hidden, parts=("tokens.embedding", "lm_head.kernel")) == grown
    first = Tokens(11, 8, inner=linear(8, 11), classes=linear(11, 4))  # its outputs are inputs: no head
    with pytest.raises(ValueError, match=r"classes.kernel \(11, 4\).* have an axis of 11 too"):
        extended(first)
    assert extended(first, parts=("tokens.embedding",)) == {"tokens.embedding": (14, 8)}
    classes = Transformer(11, 8, 4, layers=1, length=16, readout="mean", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"readout.kernel \(8, 4\) has not the 11 outputs .*vocabulary=11"):
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
    with pytest.raises(ValueError, match=r"not the model's: tokens.embedding \(9, 8\), the model has \(11, 8\)"):
        extend_vocabulary(
            {"tokens.embedding": jnp.zeros((9, 8))}, introspect.leaves(model), 1, "mean", jax.random.key(0)
        )


def test_a_models_own_widths_are_no_vocabulary() -> None:
    """As wide, and as long, as it has tokens: roles decide."""
    model = Transformer(8, 8, 8, layers=1, heads=2, length=8, rngs=nnx.Rngs(0))
    assert extended(model) == {"embedding": (11, 8), "readout.kernel": (8, 11), "readout.bias": (11,)}


def test_the_report_on_a_start_in_bfloat16() -> None:
    before = jax.random.normal(jax.random.key(0), (4, 300)).astype(jnp.bfloat16)
    report = adapt.step_zero(
        before, lambda p, x: before + p["new"], {"new": jnp.zeros((4, 300), jnp.bfloat16)},
        (X, jnp.zeros(4, jnp.int32)), lambda y, labels: jnp.mean(y.astype(jnp.float32)), ("new",),
    )  # fmt: skip
    assert report.shift == 0
    assert report.kl == 0
    assert report.gradient["new"] == pytest.approx(1 / math.sqrt(1200), rel=2**-7)
