"""The defaults of other libraries against the libraries themselves, where they are installed."""

import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from scipy import stats

from jaxinit import frameworks
from jaxinit.introspect import functional
from jaxinit.models import GRU, LSTM, MODELS, RNN
from jaxinit.spec import Scheme, draw

IN, H, OUT, DRAWS = 24, 64, 10, 2
FRAMEWORKS = ("pytorch", "keras", "flax_nnx", "flax_linen", "haiku", "equinox")


def ours(scheme: Scheme, model: str) -> dict[str, np.ndarray]:
    """Pooled draws by parameter: the draw is the first axis."""
    leaves, _ = functional(lambda: MODELS[model](IN, H, OUT, rngs=nnx.Rngs(0)))
    drawn = [draw(scheme, jax.random.key(seed), leaves) for seed in range(DRAWS)]
    return {leaf.name: np.stack([np.asarray(one[leaf.name]) for one in drawn]) for leaf in leaves}


def same_law(one: np.ndarray, other: np.ndarray, what: str) -> None:
    if not other.any() or len(np.unique(other)) == 1:
        assert np.unique(one) == np.unique(other), what
    else:
        assert stats.ks_2samp(one.ravel(), other.ravel()).pvalue > 1e-3, what


def orthogonality(w_gnn: np.ndarray) -> np.ndarray:
    """The mean singular value of each gate: 1 where gates are drawn apart."""
    return np.linalg.svd(w_gnn, compute_uv=False).mean((0, -1))


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_pytorch(model: str) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[model]
    nets = [(kind(IN, H), torch.nn.Linear(H, OUT)) for _ in range(DRAWS)]
    pooled = lambda pick: np.stack([pick(*net).detach().numpy() for net in nets])
    got = ours(frameworks.pytorch, model)
    same_law(got["layers.0.input"], pooled(lambda net, out: net.weight_ih_l0), "input")
    same_law(got["layers.0.recurrent"], pooled(lambda net, out: net.weight_hh_l0), "recurrent")
    same_law(got["readout.kernel"], pooled(lambda net, out: out.weight), "readout")
    same_law(got["readout.bias"], pooled(lambda net, out: out.bias), "readout bias")
    bias = got["layers.0.bias"]
    if model == "gru":  # the new gate keeps its two biases apart
        same_law(bias[:, :2], pooled(lambda net, out: (net.bias_ih_l0 + net.bias_hh_l0)[: 2 * H]), "bias")
        same_law(bias[:, 2], pooled(lambda net, out: net.bias_ih_l0[2 * H :]), "new bias")
        same_law(got["layers.0.reset_bias"], pooled(lambda net, out: net.bias_hh_l0[2 * H :]), "reset bias")
    else:
        same_law(bias, pooled(lambda net, out: net.bias_ih_l0 + net.bias_hh_l0), "bias")


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
def test_flax_nnx(model: str) -> None:
    kind = {"rnn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}[model]
    cells = [kind(IN, H, rngs=nnx.Rngs(seed)) for seed in range(DRAWS)]
    got = ours(frameworks.flax_nnx, model)
    pooled = lambda name: np.stack([np.asarray(getattr(cell, name).kernel[...]) for cell in cells])
    same_law(got["layers.0.input"], pooled("dense_i"), "input")
    theirs = pooled("dense_h")
    same_law(got["layers.0.recurrent"], theirs, "recurrent")
    if model != "rnn":  # the fault of the default: orthogonal as one matrix, not by gate
        gates = theirs.reshape(DRAWS, H, -1, H).swapaxes(1, 2)
        np.testing.assert_allclose(orthogonality(got["layers.0.recurrent"]), orthogonality(gates).mean(), rtol=0.1)
        assert orthogonality(got["layers.0.recurrent"]).max() < 0.7
        np.testing.assert_allclose(
            orthogonality(ours(frameworks.flax_linen, model)["layers.0.recurrent"]), 1, rtol=1e-4
        )


@pytest.mark.parametrize("model", ["lstm", "gru"])
def test_flax_linen(model: str) -> None:
    cell = {"lstm": linen.LSTMCell, "gru": linen.GRUCell}[model](H)
    x, carry = jnp.zeros((1, IN)), jnp.zeros((1, H))
    carries = (carry, carry) if model == "lstm" else carry
    trees = [cell.init(jax.random.key(seed), carries, x)["params"] for seed in range(DRAWS)]
    pooled = lambda first: np.stack([[tree[k]["kernel"] for k in sorted(tree) if k[0] == first] for tree in trees])
    got = ours(frameworks.flax_linen, model)
    same_law(got["layers.0.input"], pooled("i"), "input")
    same_law(got["layers.0.recurrent"], pooled("h"), "recurrent")
    np.testing.assert_allclose(orthogonality(pooled("h")), 1, rtol=1e-4)
    assert not got["layers.0.bias"].any()


def test_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the parity extra is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("keras", reason="the parity extra is not installed")
    keras = importlib.import_module("keras")
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
    assert np.abs(got["layers.0.input"]).max() == pytest.approx(math.sqrt(6 / (IN + 4 * H)), rel=1e-2)
    whole = got["layers.0.recurrent"].transpose(0, 2, 1, 3).reshape(DRAWS, H, 4 * H)
    np.testing.assert_allclose(whole @ whole.swapaxes(1, 2), np.broadcast_to(np.eye(H), (DRAWS, H, H)), atol=1e-5)
    np.testing.assert_array_equal(np.unique(got["layers.0.bias"][:, 1]), [1.0])
    assert not got["layers.0.bias"][:, [0, 2, 3]].any()


def test_haiku_by_its_formulas() -> None:
    cut = stats.truncnorm(-2, 2)
    for model, fan, corrected in (("rnn", H, 1.0), ("lstm", IN + H, 1.0), ("gru", H, cut.std())):
        w = ours(frameworks.haiku, model)["layers.0.recurrent"].ravel()
        assert stats.kstest(w, stats.truncnorm(-2, 2, scale=1 / math.sqrt(fan) / corrected).cdf).pvalue > 1e-3, model


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


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_default_covers_every_model(name: str) -> None:
    for model in MODELS:
        leaves, _ = functional(lambda model=model: MODELS[model](3, 4, 2, layers=2, rngs=nnx.Rngs(0)))
        for value in draw(getattr(frameworks, name), jax.random.key(0), leaves).values():
            assert jnp.isfinite(value).all()


def test_a_ported_start_is_the_fused_one_only_where_the_library_fuses() -> None:
    for make in (RNN, LSTM, GRU):
        model = make(IN, H, OUT, init=frameworks.flax_nnx, rngs=nnx.Rngs(0))
        w = np.asarray(model.layers[0].recurrent[...])
        apart = np.allclose(orthogonality(w[None] if w.ndim == 3 else w[None, None]), 1, atol=1e-4)
        assert apart == (make is RNN)
