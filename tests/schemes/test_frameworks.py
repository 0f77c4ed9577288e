"""The defaults of other libraries against the libraries themselves, where they are installed."""

import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick
from flax import linen, nnx
from scipy import stats
from small_nets import leaves_of

from jaxinit.models import GRU, LSTM, MODELS, RNN
from jaxinit.schemes import frameworks
from jaxinit.spec import Leaf, Scheme, draw

IN, H, OUT, DRAWS = 24, 64, 10, 2
FRAMEWORKS = ("pytorch", "keras", "flax_nnx", "flax_linen", "haiku", "equinox")


@cache
def ours(scheme: Scheme, model: str) -> dict[str, np.ndarray]:
    """Pooled draws by parameter: the draw is the first axis."""
    leaves = leaves_of(model, (IN, H, OUT), layers=1)
    draws = [draw(scheme, jax.random.key(seed), leaves) for seed in range(DRAWS)]
    pooled = {}
    for leaf in leaves:
        pooled[leaf.name] = np.stack([np.asarray(drawn[leaf.name]) for drawn in draws])
    return pooled


def same_law(one: np.ndarray, other: np.ndarray, label: str) -> None:
    if not other.any() or len(np.unique(other)) == 1:
        assert np.unique(one) == np.unique(other), label
    else:
        assert stats.ks_2samp(one.ravel(), other.ravel()).pvalue > 1e-3, label


def orthogonality(w_gnn: np.ndarray) -> np.ndarray:
    """The mean singular value of each gate: 1 where gates are drawn apart."""
    return np.linalg.svd(w_gnn, compute_uv=False).mean((0, -1))


@pytest.mark.parity
@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_pytorch(model: str) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[model]
    nets, readouts = [], []
    for _ in range(DRAWS):
        nets.append(kind(IN, H))
        readouts.append(torch.nn.Linear(H, OUT))

    def pooled(layers: list, name: str) -> np.ndarray:
        return np.stack([getattr(layer, name).detach().numpy() for layer in layers])

    got = ours(frameworks.pytorch, model)
    same_law(got["layers.0.input"], pooled(nets, "weight_ih_l0"), "input")
    same_law(got["layers.0.recurrent"], pooled(nets, "weight_hh_l0"), "recurrent")
    same_law(got["readout.kernel"], pooled(readouts, "weight"), "readout")
    same_law(got["readout.bias"], pooled(readouts, "bias"), "readout bias")
    bias = got["layers.0.bias"]
    of_input, of_state = pooled(nets, "bias_ih_l0"), pooled(nets, "bias_hh_l0")
    if model == "gru":  # the new gate keeps its two biases apart
        new = slice(2 * H, None)
        same_law(bias[:, :2], (of_input + of_state)[:, : 2 * H], "bias")
        same_law(bias[:, 2], of_input[:, new], "new bias")
        same_law(got["layers.0.reset_bias"], of_state[:, new], "reset bias")
    else:
        same_law(bias, of_input + of_state, "bias")


@pytest.mark.parametrize("model", quick("lstm", of=["rnn", "lstm", "gru"]))
def test_flax_nnx(model: str) -> None:
    kind = {"rnn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}[model]
    cells = [kind(IN, H, rngs=nnx.Rngs(seed)) for seed in range(DRAWS)]
    got = ours(frameworks.flax_nnx, model)
    dense_i = np.stack([np.asarray(cell.dense_i.kernel[...]) for cell in cells])
    dense_h = np.stack([np.asarray(cell.dense_h.kernel[...]) for cell in cells])
    same_law(got["layers.0.input"], dense_i, "input")
    same_law(got["layers.0.recurrent"], dense_h, "recurrent")
    if model != "rnn":  # the fault of the default: orthogonal as one matrix, not by gate
        fused = orthogonality(got["layers.0.recurrent"])
        gates = dense_h.reshape(DRAWS, H, -1, H).swapaxes(1, 2)
        np.testing.assert_allclose(fused, orthogonality(gates).mean(), rtol=0.1)
        assert fused.max() < 0.7
        by_gate = orthogonality(ours(frameworks.flax_linen, model)["layers.0.recurrent"])
        np.testing.assert_allclose(by_gate, 1, rtol=1e-4)


@pytest.mark.parametrize("model", ["lstm", "gru"])
def test_flax_linen(model: str) -> None:
    cell = {"lstm": linen.LSTMCell, "gru": linen.GRUCell}[model](H)
    x, carry = jnp.zeros((1, IN)), jnp.zeros((1, H))
    carries = (carry, carry) if model == "lstm" else carry
    trees = [cell.init(jax.random.key(seed), carries, x)["params"] for seed in range(DRAWS)]

    def pooled(first_letter: str) -> np.ndarray:
        names = [name for name in sorted(trees[0]) if name[0] == first_letter]
        return np.stack([[tree[name]["kernel"] for name in names] for tree in trees])

    got = ours(frameworks.flax_linen, model)
    same_law(got["layers.0.input"], pooled("i"), "input")
    same_law(got["layers.0.recurrent"], pooled("h"), "recurrent")
    np.testing.assert_allclose(orthogonality(pooled("h")), 1, rtol=1e-4)
    assert not got["layers.0.bias"].any()


def keras_on_torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("torch", reason="the parity extra is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("keras", reason="the parity extra is not installed")
    return importlib.import_module("keras")


@pytest.mark.parity
def test_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = keras_on_torch(monkeypatch)
    got = ours(frameworks.keras, "lstm")
    layers = []
    for _ in range(DRAWS):
        layer = keras.layers.LSTM(H)
        layer.build((None, 3, IN))
        layers.append([weight.value.detach().cpu().numpy() for weight in layer.weights])
    kernel, recurrent, bias = (np.stack(weights) for weights in zip(*layers, strict=True))
    same_law(got["layers.0.input"], kernel, "input")
    same_law(got["layers.0.recurrent"], recurrent, "recurrent")
    np.testing.assert_array_equal(got["layers.0.bias"].reshape(DRAWS, -1), bias)


def test_keras_by_its_formulas() -> None:
    got = ours(frameworks.keras, "lstm")
    bound = math.sqrt(6 / (IN + 4 * H))
    assert np.abs(got["layers.0.input"]).max() == pytest.approx(bound, rel=1e-2)
    whole = got["layers.0.recurrent"].transpose(0, 2, 1, 3).reshape(DRAWS, H, 4 * H)
    gram = whole @ whole.swapaxes(1, 2)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(H), gram.shape), atol=1e-5)
    np.testing.assert_array_equal(np.unique(got["layers.0.bias"][:, 1]), [1.0])
    assert not got["layers.0.bias"][:, [0, 2, 3]].any()


def test_haiku_by_its_formulas() -> None:
    cut = stats.truncnorm(-2, 2)
    for model, fan, corrected in (("rnn", H, 1.0), ("lstm", IN + H, 1.0), ("gru", H, cut.std())):
        w = ours(frameworks.haiku, model)["layers.0.recurrent"].ravel()
        law = stats.truncnorm(-2, 2, scale=1 / math.sqrt(fan) / corrected)
        assert stats.kstest(w, law.cdf).pvalue > 1e-3, model


def test_equinox_by_its_formulas() -> None:
    for model in ("lstm", "gru"):
        got = ours(frameworks.equinox, model)
        for name, bound in (
            ("layers.0.input", H),
            ("layers.0.recurrent", H),
            ("layers.0.bias", H),
            ("readout.bias", H),
        ):
            law = stats.uniform(-1 / math.sqrt(bound), 2 / math.sqrt(bound))
            assert stats.kstest(got[name].ravel(), law.cdf).pvalue > 1e-3, (model, name)


MODEL, HEADS, WORDS, GROUPS, CHANNELS = 32, 4, 50, 2, 16
HEAD = MODEL // HEADS
# What the models above do not have: each by the layout that `frameworks` states.
OTHERS = (
    Leaf("conv.kernel", (3, 3, IN, CHANNELS), "wwio", "hidden"),
    Leaf("conv.bias", (CHANNELS,), "o", "bias", inputs=9 * IN),
    Leaf("grouped.kernel", (3, 3, GROUPS, IN // GROUPS, CHANNELS // GROUPS), "ww.io", "hidden"),
    Leaf("embedding", (WORDS, MODEL), "io", "embedding"),
    Leaf("query", (MODEL, HEADS, HEAD), "i.o", "query", kind="attention"),
    Leaf("out", (HEADS, HEAD, MODEL), "iio", "attention_out", kind="attention"),
    Leaf("query.bias", (HEADS, HEAD), ".o", "bias", inputs=MODEL, kind="attention"),
    Leaf("norm.scale", (MODEL,), "o", "scale", kind="norm"),
    Leaf("norm.bias", (MODEL,), "o", "bias", kind="norm"),
)


def others_are(scheme: Scheme, theirs: Callable[[int], dict[str, np.ndarray]]) -> None:
    """Our draws of OTHERS follow the laws of theirs; a parameter that the library does not have is
    left out."""
    their_draws = [theirs(seed) for seed in range(4)]
    our_draws = [draw(scheme, jax.random.key(seed), OTHERS) for seed in range(4)]
    names = set(their_draws[0])
    for name in sorted(names):
        one = np.concatenate([np.ravel(np.asarray(drawn[name])) for drawn in our_draws])
        other = np.concatenate([np.ravel(drawn[name]) for drawn in their_draws])
        same_law(one, other, name)
    assert {"conv.kernel", "grouped.kernel", "embedding", "query", "out", "norm.scale"} <= names


@pytest.mark.parity
def test_pytorch_beyond_recurrent_layers() -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")

    def theirs(seed: int) -> dict[str, np.ndarray]:
        torch.manual_seed(seed)
        conv = torch.nn.Conv2d(IN, CHANNELS, 3)
        grouped = torch.nn.Conv2d(IN, CHANNELS, 3, groups=GROUPS)
        attention = torch.nn.MultiheadAttention(MODEL, HEADS)
        norm = torch.nn.LayerNorm(MODEL)
        parameters = {
            "conv.kernel": conv.weight,
            "conv.bias": conv.bias,
            "grouped.kernel": grouped.weight,
            "embedding": torch.nn.Embedding(WORDS, MODEL).weight,
            "query": attention.in_proj_weight,
            "out": attention.out_proj.weight,
            "query.bias": attention.in_proj_bias,
            "norm.scale": norm.weight,
            "norm.bias": norm.bias,
        }
        return {name: value.detach().numpy() for name, value in parameters.items()}

    others_are(frameworks.pytorch, theirs)


def test_flax_nnx_beyond_recurrent_layers() -> None:
    def theirs(seed: int) -> dict[str, np.ndarray]:
        rngs = nnx.Rngs(seed)
        attention = nnx.MultiHeadAttention(HEADS, MODEL, rngs=rngs)
        norm = nnx.LayerNorm(MODEL, rngs=rngs)
        conv = nnx.Conv(IN, CHANNELS, (3, 3), rngs=rngs)
        grouped = nnx.Conv(IN, CHANNELS, (3, 3), feature_group_count=GROUPS, rngs=rngs)
        parameters: dict[str, Any] = {
            "conv.kernel": conv.kernel,
            "conv.bias": conv.bias,
            "grouped.kernel": grouped.kernel,
            "embedding": nnx.Embed(WORDS, MODEL, rngs=rngs).embedding,
            "query": attention.query.kernel,
            "out": attention.out.kernel,
            "query.bias": attention.query.bias,
            "norm.scale": norm.scale,
            "norm.bias": norm.bias,
        }
        return {name: np.asarray(value[...]) for name, value in parameters.items()}

    others_are(frameworks.flax_nnx, theirs)


def test_flax_linen_beyond_recurrent_layers() -> None:
    def theirs(seed: int) -> dict[str, np.ndarray]:
        image, words = jnp.zeros((1, 8, 8, IN)), jnp.zeros((1, 5), int)
        tokens = jnp.zeros((1, 5, MODEL))

        def initialized(module: Any, x: jax.Array) -> Any:
            return module.init(jax.random.key(seed), x)["params"]

        attention = initialized(linen.MultiHeadDotProductAttention(HEADS), tokens)
        grouped = initialized(linen.Conv(CHANNELS, (3, 3), feature_group_count=GROUPS), image)
        return {
            "conv.kernel": initialized(linen.Conv(CHANNELS, (3, 3)), image)["kernel"],
            "grouped.kernel": grouped["kernel"],
            "embedding": initialized(linen.Embed(WORDS, MODEL), words)["embedding"],
            "query": attention["query"]["kernel"],
            "out": attention["out"]["kernel"],
            "query.bias": attention["query"]["bias"],
            "norm.scale": initialized(linen.LayerNorm(), tokens)["scale"],
        }

    others_are(frameworks.flax_linen, theirs)


@pytest.mark.parity
def test_keras_beyond_recurrent_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = keras_on_torch(monkeypatch)

    def theirs(seed: int) -> dict[str, np.ndarray]:
        keras.utils.set_random_seed(seed)
        tokens, image = (None, 5, MODEL), (None, 8, 8, IN)

        def built(layer: Any, *shapes: tuple) -> list[np.ndarray]:
            layer.build(*shapes)
            return [weight.value.detach().cpu().numpy() for weight in layer.weights]

        attention = keras.layers.MultiHeadAttention(HEADS, HEAD)
        attention.build(tokens, tokens)

        def of_attention(end: str) -> np.ndarray:
            (weight,) = [weight for weight in attention.weights if weight.path.endswith(end)]
            return weight.value.detach().cpu().numpy()

        conv = built(keras.layers.Conv2D(CHANNELS, 3), image)
        norm = built(keras.layers.LayerNormalization(), tokens)
        return {
            "conv.kernel": conv[0],
            "conv.bias": conv[1],
            "grouped.kernel": built(keras.layers.Conv2D(CHANNELS, 3, groups=GROUPS), image)[0],
            "embedding": built(keras.layers.Embedding(WORDS, MODEL), (None, 5))[0],
            "query": of_attention("query/kernel"),
            "out": of_attention("attention_output/kernel"),
            "query.bias": of_attention("query/bias"),
            "norm.scale": norm[0],
            "norm.bias": norm[1],
        }

    others_are(frameworks.keras, theirs)


@pytest.mark.parametrize("name", ["haiku", "equinox"])
def test_haiku_and_equinox_beyond_recurrent_layers_by_their_formulas(name: str) -> None:
    drawn = draw(getattr(frameworks, name), jax.random.key(0), OTHERS)
    fans = {"conv.kernel": 9 * IN, "grouped.kernel": 9 * IN // GROUPS, "query": MODEL, "out": MODEL}
    for parameter, fan in fans.items():
        size = 1 / math.sqrt(fan)
        if name == "haiku":
            law = stats.truncnorm(-2, 2, scale=size)
        else:
            law = stats.uniform(-size, 2 * size)
        assert stats.kstest(np.ravel(drawn[parameter]), law.cdf).pvalue > 1e-3, parameter
    word = stats.truncnorm(-2, 2) if name == "haiku" else stats.norm()
    assert stats.kstest(np.ravel(drawn["embedding"]), word.cdf).pvalue > 1e-3
    assert (drawn["norm.scale"] == 1).all()
    assert not drawn["norm.bias"].any()


@pytest.mark.parametrize("name", quick("equinox", of=FRAMEWORKS))
def test_every_default_covers_every_model(name: str) -> None:
    for model in MODELS:
        leaves = leaves_of(model, (3, 4, 2), layers=2 if model == "mlp" else 1)
        for value in draw(getattr(frameworks, name), jax.random.key(0), leaves).values():
            assert jnp.isfinite(value).all()


def test_a_ported_initialization_is_the_fused_one_only_where_the_library_fuses() -> None:
    for make in (RNN, LSTM, GRU):
        model = make(IN, H, OUT, init=frameworks.flax_nnx, rngs=nnx.Rngs(0))
        w = np.asarray(model.layers[0].recurrent[...])
        by_gate = w if w.ndim == 3 else w[None]
        apart = np.allclose(orthogonality(by_gate[None]), 1, atol=1e-4)
        assert apart == (make is RNN)
