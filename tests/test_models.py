"""The models against their equations, their gradients against finite differences, their arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect, spec
from jaxinit.initializers import constant, normal
from jaxinit.introspect import Training, functional
from jaxinit.models import GRU, LSTM, MLP, MODELS, RNN

KEY = jax.random.key(0)
B, T, D, H, K = 3, 6, 4, 5, 2
X = jax.random.normal(KEY, (B, T, D))
KINDS = {
    "rnn tanh": lambda **o: RNN(D, H, K, rngs=nnx.Rngs(1), **o),
    "rnn relu": lambda **o: RNN(D, H, K, activation="relu", rngs=nnx.Rngs(1), **o),
    "rnn sigmoid": lambda **o: RNN(D, H, K, activation="sigmoid", rngs=nnx.Rngs(1), **o),
    "lstm": lambda **o: LSTM(D, H, K, rngs=nnx.Rngs(1), **o),
    "gru after": lambda **o: GRU(D, H, K, rngs=nnx.Rngs(1), **o),
    "gru before": lambda **o: GRU(D, H, K, reset="before", rngs=nnx.Rngs(1), **o),
}
RANDOM = lambda leaf: normal(0.6)  # biases too, so that every term of the equations is seen


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def reference(kind: str, p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The states of one layer by its equations, one example and one step at a time, in float64."""
    w, u, b = (p[f"layers.0.{name}"] for name in ("input", "recurrent", "bias"))
    phi = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "sigmoid": sigmoid}
    out = np.zeros((*x.shape[:2], H))
    for example in range(len(x)):
        h = c = np.zeros(H)
        for t in range(x.shape[1]):
            xt = x[example, t]
            if kind.startswith("rnn"):
                h = phi[kind.split()[1]](xt @ w + h @ u + b)
            elif kind == "lstm":
                i, f, g, o = (xt @ w[k] + h @ u[k] + b[k] for k in range(4))
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            else:
                r, z = (sigmoid(xt @ w[k] + h @ u[k] + b[k]) for k in range(2))
                if kind == "gru after":
                    n = np.tanh(xt @ w[2] + b[2] + r * (h @ u[2] + p["layers.0.reset_bias"]))
                else:
                    n = np.tanh(xt @ w[2] + b[2] + (r * h) @ u[2])
                h = (1 - z) * n + z * h
            out[example, t] = h
    return out


@pytest.mark.parametrize("readout", ["last", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_recurrent_equations(kind: str, readout: str) -> None:
    leaves, apply, *_ = introspect.functional(lambda: KINDS[kind](readout=readout))
    params = spec.draw(RANDOM, KEY, leaves)
    exact = {name: np.asarray(value, np.float64) for name, value in params.items()}
    h = reference(kind, exact, np.asarray(X, np.float64))
    y = h @ exact["readout.kernel"] + exact["readout.bias"]
    np.testing.assert_allclose(apply(params, X), y if readout == "all" else y[:, -1], rtol=2e-5, atol=2e-6)


def test_mlp_equations() -> None:
    leaves, apply, *_ = introspect.functional(lambda: MLP(T * D, H, K, layers=2, activation="relu", rngs=nnx.Rngs(0)))
    params = spec.draw(RANDOM, KEY, leaves)
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    h = np.asarray(X).reshape(B, -1)
    for k in (0, 1):
        h = np.maximum(h @ p[f"layers.{k}.kernel"] + p[f"layers.{k}.bias"], 0)
    np.testing.assert_allclose(apply(params, X), h @ p["readout.kernel"] + p["readout.bias"], rtol=2e-5, atol=2e-5)
    assert [leaf.role for leaf in leaves if "kernel" in leaf.name] == ["input", "hidden", "readout"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "relu" not in kind])
def test_gradients_through_the_scan_against_finite_differences(kind: str) -> None:
    leaves, apply, *_ = introspect.functional(lambda: KINDS[kind](layers=2))
    with jax.enable_x64(True):
        params = {n: jnp.asarray(np.asarray(v), jnp.float64) for n, v in spec.draw(RANDOM, KEY, leaves).items()}
        x = jnp.asarray(np.asarray(X), jnp.float64)
        loss = jax.jit(lambda p: jnp.sum(jnp.sin(apply(p, x))))
        gradient = jax.grad(loss)(params)
        step = 1e-5
        for name, value in params.items():
            direction = jnp.asarray(np.random.default_rng(0).normal(size=value.shape))
            moved = lambda s, n=name, d=direction: loss({**params, n: params[n] + s * d})
            slope = (moved(step) - moved(-step)) / (2 * step)
            # Central differences: error of order step^2 plus rounding 1e-16 / step.
            assert float(jnp.sum(gradient[name] * direction)) == pytest.approx(float(slope), rel=1e-7, abs=1e-9), name


@pytest.mark.parametrize(
    ("kind", "readout", "segment"), [("rnn tanh", "last", 1), ("lstm", "all", 4), ("gru after", "last", 5)]
)
def test_segments_change_neither_outputs_nor_gradients(kind: str, readout: str, segment: int) -> None:
    def outputs_and_gradients(**options):
        leaves, apply, *_ = introspect.functional(lambda: KINDS[kind](layers=2, readout=readout, **options))
        params = spec.draw(RANDOM, KEY, leaves)
        return jax.jit(jax.value_and_grad(lambda p: jnp.sum(apply(p, X) ** 2)))(params)

    whole, parts = outputs_and_gradients(segment=T), outputs_and_gradients(segment=segment, unroll=2)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.slow  # three large compilations
def test_memory_grows_as_the_square_root_of_a_long_sequence() -> None:
    def temporary(length: int, **options) -> int:
        leaves, apply, *_ = introspect.functional(lambda: LSTM(1, 32, 2, rngs=nnx.Rngs(0), **options))
        loss = lambda p, x: jnp.sum(apply(p, x) ** 2)
        shapes = ({leaf.name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for leaf in leaves},)
        x = jax.ShapeDtypeStruct((64, length, 1), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(*shapes, x).compile().memory_analysis().temp_size_in_bytes

    lengths = 2**14, 2**18
    kept = [temporary(length) for length in lengths]
    inputs = [4 * 64 * length for length in lengths]  # the inputs themselves are turned round once
    segments = [size - turned for size, turned in zip(kept, inputs, strict=True)]
    assert np.log2(segments[1] / segments[0]) < 3, "16 times the length, about 4 times the memory"
    assert temporary(2**14, segment=2**14) > 10 * kept[0]


@pytest.mark.parametrize("kind", KINDS)
def test_unrolling_changes_nothing_but_the_program(kind: str) -> None:
    outputs = [KINDS[kind](unroll=unroll)(X) for unroll in (1, 2, T)]
    for other in outputs[1:]:
        np.testing.assert_allclose(outputs[0], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_causality_by_gradient(kind: str) -> None:
    model = KINDS[kind](readout="all", layers=2)
    jacobian = jax.jit(jax.jacrev(lambda x: jnp.sum(model(x), axis=(0, 2))))(X)  # [output time, batch, input time, i]
    for t in range(T):
        assert not jacobian[t, :, t + 1 :].any()
        assert jacobian[t, :, t].any()


@pytest.mark.parametrize("name", MODELS)
def test_overrides_reach_their_role_only(name: str) -> None:
    arguments = {"kernel_init": "input", "readout_init": "readout", "bias_init": "bias"}
    if name != "mlp":
        arguments["recurrent_init"] = "recurrent"
    for argument, role in arguments.items():
        model = MODELS[name](D, H, K, rngs=nnx.Rngs(0), **{argument: constant(3.0)})
        plain = MODELS[name](D, H, K, rngs=nnx.Rngs(0))
        values = nnx.to_flat_state(nnx.state(model, nnx.Param))
        defaults = dict(nnx.to_flat_state(nnx.state(plain, nnx.Param)))
        for path, value in values:
            if value.get_metadata()["role"] == role:
                assert bool((value[...] == 3.0).all()), (argument, path)
            else:
                np.testing.assert_array_equal(value[...], defaults[path][...])


def test_jax_and_flax_initializers_plug_in_per_gate() -> None:
    model = LSTM(D, H, K, recurrent_init=nnx.initializers.orthogonal(), rngs=nnx.Rngs(0))
    u = model.layers[0].recurrent[...]
    np.testing.assert_allclose(jnp.einsum("gij,gkj->gik", u, u), np.tile(np.eye(H), (4, 1, 1)), atol=2e-5)


def test_fused_gates_would_not_be_orthogonal() -> None:
    # The fault in Flax NNX that the separate gate axis avoids: one fused (H, 3H) kernel.
    fused = nnx.GRUCell(64, 64, recurrent_kernel_init=nnx.initializers.orthogonal(), rngs=nnx.Rngs(0)).dense_h.kernel[
        ...
    ]
    gate = np.linalg.svd(np.asarray(fused[:, :64]), compute_uv=False).mean()
    assert gate < 0.7  # 0.51 at 128 units
    ours = GRU(64, 64, 1, recurrent_init=nnx.initializers.orthogonal(), rngs=nnx.Rngs(0)).layers[0].recurrent[...]
    np.testing.assert_allclose(np.linalg.svd(np.asarray(ours), compute_uv=False), 1, atol=2e-5)


def test_gru_has_the_bias_inside_the_reset_product_only_after() -> None:
    names = lambda model: {leaf.name for leaf in introspect.leaves(model)}
    assert "layers.0.reset_bias" in names(KINDS["gru after"]())
    assert "layers.0.reset_bias" not in names(KINDS["gru before"]())


def test_further_layers_draw_nothing_anew() -> None:
    one, three = (dict(nnx.to_flat_state(nnx.state(LSTM(D, H, K, layers=n, rngs=nnx.Rngs(0))))) for n in (1, 3))
    for path, value in one.items():
        np.testing.assert_array_equal(value[...], three[path][...])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RNN(D, 0, K, rngs=nnx.Rngs(0)), "hidden_features must be a positive integer, got 0"),
        (lambda: RNN(D, H, K, activation="tahn", rngs=nnx.Rngs(0)), "no activation is called 'tahn'"),
        (lambda: LSTM(D, H, K, unroll=T + 1, rngs=nnx.Rngs(0))(X), "unroll=7 is more than the 6 time steps"),
        (lambda: MLP(D, H, K, recurrent_init=constant(0.0), rngs=nnx.Rngs(0)), "MLP takes no recurrent_init"),
        (lambda: RNN(D, H, K, recurent_init=constant(0.0), rngs=nnx.Rngs(0)), "RNN takes no recurent_init"),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_names_with_fixed_choices_are_checked() -> None:
    for make in (
        lambda: GRU(D, H, K, reset="never", rngs=nnx.Rngs(0)),
        lambda: RNN(D, H, K, readout="first", rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(Exception, match=r"never|first"):  # ours, or the suite's type checker before it
            make()


def test_dropout_of_recurrent_nets_is_on_what_goes_up_and_never_on_what_goes_on_in_time() -> None:
    model = functional(lambda: RNN(3, 4, 2, activation="linear", layers=2, rngs=nnx.Rngs(0)))
    params = {leaf.name: jnp.zeros(leaf.shape) for leaf in model.leaves}
    # Inputs reach the first layer's states and stay there; nothing else is connected.
    params |= {"layers.0.input": jnp.eye(3, 4), "layers.0.recurrent": jnp.eye(4), "layers.1.input": jnp.eye(4)}
    params |= {"readout.kernel": jnp.eye(4, 2)}
    x = jnp.zeros((500, 6, 3)).at[:, 0, 0].set(1.0)
    noisy = lambda key: model.learn(params, {}, x, Training(key, 0.5))[0][:, 0]
    y = np.asarray(noisy(jax.random.key(0)))
    assert set(np.unique(y).tolist()) == {0.0, 8.0}  # dropped three times on the way up, each time kept as 2 or lost
    assert y.mean() == pytest.approx(1, abs=4 * np.sqrt(7 / 500))
    assert (y != np.asarray(noisy(jax.random.key(1)))).any()
    np.testing.assert_array_equal(model.learn(params, {}, x, Training())[0][:, 0], 1)
    segments = functional(lambda: RNN(3, 4, 2, activation="linear", layers=2, segment=2, rngs=nnx.Rngs(0)))
    y = np.asarray(segments.learn(params, {}, x, Training(jax.random.key(0), 0.5))[0][:, 0])
    assert set(np.unique(y).tolist()) == {0.0, 8.0}
