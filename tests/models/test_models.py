"""The models against their equations, their gradients against finite differences, their
arguments."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every, quick
from flax import nnx
from programs import equations
from scipy.stats import kstest

from jaxinit import introspect, spec, theory
from jaxinit.initializers import constant, normal, orthogonal, vector
from jaxinit.introspect import Training, functional
from jaxinit.introspect.pure import ALWAYS_WIDE
from jaxinit.models import ACTIVATIONS, GLR, GRU, LRU, LSTM, MGU, MLP, MODELS, RGLRU, RNN
from jaxinit.models.bptt import SLOPES
from jaxinit.models.recurrent import shapes_of
from jaxinit.options import ACTIVATIONS as ACTIVATION_NAMES
from jaxinit.options import OPTIONS, RECURRENT_ACTIVATIONS
from jaxinit.schemes import min_gru
from jaxinit.study import ATTENTION, PICTURES

KEY = jax.random.key(0)
B, T, D, H, K = 3, 6, 4, 5, 2
X = jax.random.normal(KEY, (B, T, D))
KINDS = {
    "rnn tanh": (RNN, {}),
    "rnn relu": (RNN, {"activation": "relu"}),
    "rnn sigmoid": (RNN, {"activation": "sigmoid"}),
    "lstm": (LSTM, {}),
    "gru after": (GRU, {}),
    "gru before": (GRU, {"reset": "before"}),
}


def of_kind(kind: str, **options):
    model_class, own = KINDS[kind]
    return model_class(D, H, K, rngs=nnx.Rngs(1), **own, **options)


def build(name: str, out_features: int = K, **options):
    """A model of this file's sizes, by its name in the table."""
    in_features = T * D if name == "mlp" else D
    return MODELS[name](in_features, H, out_features, rngs=nnx.Rngs(0), **options)


def everything_normal(leaf):
    """Biases too, so that every term of the equations is seen."""
    return normal(0.6)


def normal_beside_vectors(std: float):
    """A scheme: biases, scales and poles as they always are, all else normal."""

    def scheme(leaf):
        return vector(leaf) or normal(std)

    return scheme


def normal_beside_poles(std: float):
    """A scheme: poles and time constants as they always are, all else normal, biases too."""

    def scheme(leaf):
        return vector(leaf) if leaf.role in ALWAYS_WIDE else normal(std)

    return scheme


def sum_of_squares(y):
    return jnp.sum(y**2)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def reference(kind: str, p: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The states of one layer by its equations, one example and one step at a time, in float64."""
    w, u, b = (p[f"layers.0.{name}"] for name in ("input", "recurrent", "bias"))
    phi = {"tanh": np.tanh, "relu": relu, "sigmoid": sigmoid}
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


@pytest.mark.parametrize(
    ("kind", "readout"),
    quick(*zip(KINDS, ["last", "all"] * 3, strict=True), of=product(KINDS, ["last", "all"])),
)
def test_recurrent_equations(kind: str, readout: str) -> None:
    leaves, apply, *_ = functional(partial(of_kind, kind, readout=readout))
    params = spec.draw(everything_normal, KEY, leaves)
    exact = {name: np.asarray(value, np.float64) for name, value in params.items()}
    h = reference(kind, exact, np.asarray(X, np.float64))
    y = h @ exact["readout.kernel"] + exact["readout.bias"]
    if readout == "last":
        y = y[:, -1]
    np.testing.assert_allclose(apply(params, X), y, rtol=2e-5, atol=2e-6)


def test_mlp_equations() -> None:
    leaves, apply, *_ = functional(partial(build, "mlp", layers=2, activation="relu"))
    params = spec.draw(everything_normal, KEY, leaves)
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    h = np.asarray(X).reshape(B, -1)
    for k in (0, 1):
        h = relu(h @ p[f"layers.{k}.kernel"] + p[f"layers.{k}.bias"])
    np.testing.assert_allclose(apply(params, X), states_of(h, p), rtol=2e-5, atol=2e-5)
    assert [leaf.role for leaf in leaves if "kernel" in leaf.name] == ["input", "hidden", "readout"]


@pytest.mark.parametrize("kind", every(2, of=(kind for kind in KINDS if "relu" not in kind)))
def test_gradients_through_the_scan_against_finite_differences(kind: str) -> None:
    leaves, apply, *_ = functional(partial(of_kind, kind, layers=2))
    narrow = spec.draw(everything_normal, KEY, leaves)
    with jax.enable_x64(True):
        params = {n: jnp.asarray(np.asarray(v), jnp.float64) for n, v in narrow.items()}
        x = jnp.asarray(np.asarray(X), jnp.float64)

        @jax.jit
        def loss(p):
            return jnp.sum(jnp.sin(apply(p, x)))

        gradient = jax.tree.map(np.asarray, jax.jit(jax.grad(loss))(params))
        step = 1e-5
        for name, value in params.items():
            direction = np.random.default_rng(0).normal(size=value.shape)
            ahead = loss({**params, name: np.asarray(value) + step * direction})
            behind = loss({**params, name: np.asarray(value) - step * direction})
            slope = (float(ahead) - float(behind)) / (2 * step)
            along = float(np.sum(gradient[name] * direction))
            # Central differences: error of order step^2 plus rounding 1e-16 / step.
            assert along == pytest.approx(slope, rel=1e-7, abs=1e-9), name


@pytest.mark.parametrize(
    ("kind", "readout", "segment"),
    quick(
        ("lstm", "all", 4),
        of=[("rnn tanh", "last", 1), ("lstm", "all", 4), ("gru after", "last", 5)],
    ),
)
def test_segments_change_neither_outputs_nor_gradients(
    kind: str, readout: str, segment: int
) -> None:
    def outputs_and_gradients(**options):
        make = partial(of_kind, kind, layers=2, readout=readout, **options)
        leaves, apply, *_ = functional(make)
        params = spec.draw(everything_normal, KEY, leaves)
        return jax.jit(jax.value_and_grad(lambda p: sum_of_squares(apply(p, X))))(params)

    whole = outputs_and_gradients(segment=T)
    parts = outputs_and_gradients(segment=segment, unroll=2)
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.slow  # three large compilations
def test_memory_grows_as_the_square_root_of_a_long_sequence() -> None:
    def temporary(length: int, **options) -> int:
        leaves, apply, *_ = functional(lambda: LSTM(1, 32, 2, rngs=nnx.Rngs(0), **options))

        def loss(p, x):
            return sum_of_squares(apply(p, x))

        params = {leaf.name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for leaf in leaves}
        x = jax.ShapeDtypeStruct((64, length, 1), jnp.float32)
        program = jax.jit(jax.grad(loss)).lower(params, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    lengths = 2**14, 2**18
    kept = [temporary(length) for length in lengths]
    inputs = [4 * 64 * length for length in lengths]  # the inputs themselves are turned round once
    segments = [size - turned for size, turned in zip(kept, inputs, strict=True)]
    assert np.log2(segments[1] / segments[0]) < 3, "16 times the length, about 4 times the memory"
    assert temporary(2**14, segment=2**14) > 10 * kept[0]


@pytest.mark.parametrize("kind", quick("rnn tanh", "lstm", of=KINDS))
def test_unrolling_changes_nothing_but_the_program(kind: str) -> None:
    outputs = [of_kind(kind, unroll=unroll)(X) for unroll in (1, 2, T)]
    for other in outputs[1:]:
        np.testing.assert_allclose(outputs[0], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", every(2, of=KINDS))
def test_causality_by_gradient(kind: str) -> None:
    model = of_kind(kind, readout="all", layers=2)

    def outputs_by_time(x):
        return jnp.sum(model(x), axis=(0, 2))

    # [output time, batch, input time, i]
    jacobian = jax.jit(jax.jacrev(outputs_by_time))(X)
    for t in range(T):
        assert not jacobian[t, :, t + 1 :].any()
        assert jacobian[t, :, t].any()


# test_transformer has its own
@pytest.mark.parametrize("name", every(2, of=(name for name in MODELS if name not in ATTENTION)))
def test_overrides_reach_their_role_only(name: str) -> None:
    arguments = {
        "kernel_init": ("input", "hidden"),
        "readout_init": ("readout",),
        "bias_init": ("bias",),
    }
    if name not in ("mlp", *LINEAR, *PICTURES):
        arguments["recurrent_init"] = ("recurrent",)
    plain = MODELS[name](D, H, K, rngs=nnx.Rngs(0))
    defaults = dict(nnx.to_flat_state(nnx.state(plain, nnx.Param)))
    for argument, roles in arguments.items():
        model = MODELS[name](D, H, K, rngs=nnx.Rngs(0), **{argument: constant(3.0)})
        values = nnx.to_flat_state(nnx.state(model, nnx.Param))
        for path, value in values:
            if value.get_metadata()["role"] in roles:
                assert bool((value[...] == 3.0).all()), (argument, path)
            else:
                np.testing.assert_array_equal(value[...], defaults[path][...])


def test_jax_and_flax_initializers_plug_in_per_gate() -> None:
    model = LSTM(D, H, K, recurrent_init=nnx.initializers.orthogonal(), rngs=nnx.Rngs(0))
    u = model.layers[0].recurrent[...]
    products = jnp.einsum("gij,gkj->gik", u, u)
    np.testing.assert_allclose(products, np.tile(np.eye(H), (4, 1, 1)), atol=2e-5)


def test_fused_gates_would_not_be_orthogonal() -> None:
    # The fault in Flax NNX that the separate gate axis avoids: one fused (H, 3H) kernel.
    orthogonal = nnx.initializers.orthogonal()
    theirs = nnx.GRUCell(64, 64, recurrent_kernel_init=orthogonal, rngs=nnx.Rngs(0))
    first_gate = np.asarray(theirs.dense_h.kernel[...][:, :64])
    assert np.linalg.svd(first_gate, compute_uv=False).mean() < 0.7  # 0.51 at 128 units
    ours = GRU(64, 64, 1, recurrent_init=orthogonal, rngs=nnx.Rngs(0))
    gates = np.asarray(ours.layers[0].recurrent[...])
    np.testing.assert_allclose(np.linalg.svd(gates, compute_uv=False), 1, atol=2e-5)


def test_gru_has_the_bias_inside_the_reset_product_only_after() -> None:
    assert "layers.0.reset_bias" in introspect.values(of_kind("gru after"))
    assert "layers.0.reset_bias" not in introspect.values(of_kind("gru before"))


def test_further_layers_draw_nothing_anew() -> None:
    one = introspect.values(build("lstm", layers=1))
    three = introspect.values(build("lstm", layers=3))
    for name, value in one.items():
        np.testing.assert_array_equal(value, three[name])


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("rnn", {"activation": "tahn"}, "no activation is called 'tahn'"),
        ("lstm", {"unroll": T + 1}, "unroll=7 is more than the 6 time steps"),
        ("mlp", {"recurrent_init": constant(0.0)}, "MLP takes no recurrent_init"),
        ("rnn", {"recurent_init": constant(0.0)}, "RNN takes no recurent_init"),
    ],
)
def test_errors(name: str, keywords: dict, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build(name, **keywords)(X)


def test_a_network_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_features must be a positive integer, got 0"):
        RNN(D, 0, K, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", quick("rnn", "lru", "mlp", "resnet", "transformer", of=MODELS))
def test_a_model_keeps_the_configuration_that_its_name_stands_for(name: str) -> None:
    model: Any = MODELS[name](D, 8, K, layers=2, rngs=nnx.Rngs(0))
    assert type(model.options) is OPTIONS[name]
    assert model.options.layers == 2


def test_activations_have_the_names_that_options_know() -> None:
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES
    assert tuple(SLOPES) == RECURRENT_ACTIVATIONS


def test_names_with_fixed_choices_are_checked() -> None:
    # ours, or the suite's type checker before it
    with pytest.raises(Exception, match="never"):
        build("gru", reset="never")
    with pytest.raises(Exception, match="first"):
        build("rnn", readout="first")


def test_dropout_of_recurrent_nets_is_on_what_goes_up_and_never_on_what_goes_on_in_time() -> None:
    model = functional(lambda: RNN(3, 4, 2, activation="linear", layers=2, rngs=nnx.Rngs(0)))
    params = {leaf.name: jnp.zeros(leaf.shape) for leaf in model.leaves}
    # Inputs reach the first layer's states and stay there; nothing else is connected.
    params |= {
        "layers.0.input": jnp.eye(3, 4),
        "layers.0.recurrent": jnp.eye(4),
        "layers.1.input": jnp.eye(4),
    }
    params |= {"readout.kernel": jnp.eye(4, 2)}
    x = jnp.zeros((500, 6, 3)).at[:, 0, 0].set(1.0)

    def noisy(seed: int) -> np.ndarray:
        y, _ = model.learn(params, {}, x, Training(jax.random.key(seed), 0.5))
        return np.asarray(y[:, 0])

    y = noisy(0)
    # dropped three times on the way up, each time kept as 2 or lost
    assert set(np.unique(y).tolist()) == {0.0, 8.0}
    assert y.mean() == pytest.approx(1, abs=4 * np.sqrt(7 / 500))
    assert (y != noisy(1)).any()
    np.testing.assert_array_equal(model.learn(params, {}, x, Training())[0][:, 0], 1)
    segments = functional(
        lambda: RNN(3, 4, 2, activation="linear", layers=2, segment=2, rngs=nnx.Rngs(0))
    )
    y = np.asarray(segments.learn(params, {}, x, Training(jax.random.key(0), 0.5))[0][:, 0])
    assert set(np.unique(y).tolist()) == {0.0, 8.0}


# Options of the recurrent networks, each against its equation or against the network without it.

LINEAR = ("lru", "glr", "rg_lru")
RECURRENT = ("rnn", "lstm", "gru", "mgu", *LINEAR)


def drawn(model, scheme=everything_normal, key=KEY):
    """A model whose parameters are drawn under `scheme`, biases too."""
    return introspect.initialize(model, scheme, key)


def exact(model) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in introspect.values(model).items()}


def normalized(z: np.ndarray) -> np.ndarray:
    return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)


def states_of(h: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    return h @ p["readout.kernel"] + p["readout.bias"]


def test_peepholes_by_their_equations() -> None:
    model = drawn(LSTM(D, H, K, peepholes=True, readout="all", rngs=nnx.Rngs(0)))
    p, x = exact(model), np.asarray(X, np.float64)
    w, u, b, peep = (p[f"layers.0.{name}"] for name in ("input", "recurrent", "bias", "peephole"))
    h = c = np.zeros((B, H))
    out = []
    for t in range(T):
        i, f, g, o = (x[:, t] @ w[k] + h @ u[k] + b[k] for k in range(4))
        i, f = sigmoid(i + peep[0] * c), sigmoid(f + peep[1] * c)
        c = f * c + i * np.tanh(g)
        h = sigmoid(o + peep[2] * c) * np.tanh(c)
        out.append(h)
    np.testing.assert_allclose(model(X), states_of(np.stack(out, 1), p), rtol=2e-5, atol=2e-6)


def test_the_minimal_gated_unit_and_the_leak_by_their_equations() -> None:
    model = drawn(MGU(D, H, K, rngs=nnx.Rngs(0)))
    p, x, h = exact(model), np.asarray(X, np.float64), np.zeros((B, H))
    w, u, b = (p[f"layers.0.{name}"] for name in ("input", "recurrent", "bias"))
    for t in range(T):
        z = sigmoid(x[:, t] @ w[0] + h @ u[0] + b[0])
        h = z * h + (1 - z) * np.tanh(x[:, t] @ w[1] + ((1 - z) * h) @ u[1] + b[1])
    np.testing.assert_allclose(model(X), states_of(h, p), rtol=2e-5, atol=2e-6)

    leaky = drawn(RNN(D, H, K, leak=0.3, rngs=nnx.Rngs(0)))
    p, h = exact(leaky), np.zeros((B, H))
    w, u, b = (p[f"layers.0.{name}"] for name in ("input", "recurrent", "bias"))
    for t in range(T):
        h = 0.7 * h + 0.3 * np.tanh(x[:, t] @ w + h @ u + b)
    np.testing.assert_allclose(leaky(X), states_of(h, p), rtol=2e-5, atol=2e-6)


def test_layer_normalization_inside_the_cell() -> None:
    model = drawn(RNN(D, H, K, norm="layer", rngs=nnx.Rngs(0)))
    p, x, h = exact(model), np.asarray(X, np.float64), np.zeros((B, H))
    w, u, b, scale = (p[f"layers.0.{name}"] for name in ("input", "recurrent", "bias", "scale"))
    for t in range(T):
        h = np.tanh(scale * normalized(x[:, t] @ w + h @ u) + b)
    np.testing.assert_allclose(model(X), states_of(h, p), rtol=2e-4, atol=2e-5)
    # whatever the size of the inputs, the pre-activations are the same
    for kind in ("lstm", "gru", "mgu"):
        big = MODELS[kind](D, H, K, norm="layer", recurrent_init=constant(0.0), rngs=nnx.Rngs(0))
        np.testing.assert_allclose(big(100 * X), big(X), rtol=0.02, atol=1e-3)


def test_the_linear_recurrent_unit_by_its_equation() -> None:
    model = drawn(build("lru"), normal_beside_vectors(0.6))
    p, x, s = exact(model), np.asarray(X, np.float64), np.zeros((B, H), complex)
    layer = {name.removeprefix("layers.0."): value for name, value in p.items()}
    pole = np.exp(-np.exp(layer["log_decay"]) + 1j * np.exp(layer["log_phase"]))
    into, mix = (
        (real + 1j * imaginary) / np.sqrt(2) for real, imaginary in (layer["input"], layer["mix"])
    )
    for t in range(T):
        s = pole * s + np.sqrt(1 - np.abs(pole) ** 2) * (x[:, t] @ into)
    past = x[:, -1] @ layer["skip.kernel"] + layer["skip.bias"]
    h = np.asarray(jax.nn.gelu(jnp.asarray((s @ mix).real + past, jnp.float32)), np.float64)
    np.testing.assert_allclose(model(X), states_of(h, p), rtol=2e-4, atol=2e-5)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.gelu(jnp.asarray(x, jnp.float32)), np.float64)


def test_the_gated_linear_recurrence_by_its_equation() -> None:
    model = drawn(GLR(D, H, K, rngs=nnx.Rngs(0)), normal_beside_poles(0.6))
    p, x, s = exact(model), np.asarray(X, np.float64), np.zeros((B, H))
    layer = {name.removeprefix("layers.0."): value for name, value in p.items()}
    for t in range(T):
        dt = np.log1p(np.exp(x[:, t] @ layer["time_step"] + layer["step_bias"]))
        a = np.exp(-dt * np.exp(layer["log_rate"]))
        s = a * s + (1 - a) * (x[:, t] @ layer["input"])
    past = x[:, -1] @ layer["skip.kernel"] + layer["skip.bias"]
    h = gelu(s @ layer["mix"] + past)
    np.testing.assert_allclose(model(X), states_of(h, p), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("retention", [0.5, 0.9])
def test_the_minimal_gru_is_a_gated_linear_recurrence_at_rates_of_one(retention: float) -> None:
    """h = (1 - z) h + z h~ with z and h~ of the input alone, in Feng et al.'s own form."""
    model = drawn(GLR(D, H, K, rngs=nnx.Rngs(0)), min_gru(retention))
    p, x, h = exact(model), np.asarray(X, np.float64), np.zeros((B, H))
    layer = {name.removeprefix("layers.0."): value for name, value in p.items()}
    for t in range(T):
        z = sigmoid(x[:, t] @ layer["time_step"] + np.log(1 / retention - 1))
        h = (1 - z) * h + z * (x[:, t] @ layer["input"])
    past = x[:, -1] @ layer["skip.kernel"]
    np.testing.assert_allclose(
        model(X), states_of(gelu(h @ layer["mix"] + past), p), rtol=2e-4, atol=2e-5
    )
    half_lives = theory.glr_half_life(layer["step_bias"], layer["log_rate"])
    np.testing.assert_allclose(half_lives, theory.half_life(retention), rtol=1e-5)


def test_the_real_gated_linear_recurrent_unit_by_its_equation() -> None:
    model = drawn(RGLRU(D, H, K, rngs=nnx.Rngs(0)), normal_beside_poles(0.6))
    p, x, s = exact(model), np.asarray(X, np.float64), np.zeros((B, H))
    layer = {name.removeprefix("layers.0."): value for name, value in p.items()}
    for t in range(T):
        u = x[:, t] @ layer["input"]
        r, i = (
            sigmoid(u @ layer[f"{gate}.kernel"] + layer[f"{gate}.bias"])
            for gate in ("recurrence_gate", "input_gate")
        )
        a = sigmoid(layer["decay_logit"]) ** (8 * r)
        s = a * s + np.sqrt(1 - a**2) * (i * u)
    past = x[:, -1] @ layer["skip.kernel"] + layer["skip.bias"]
    h = gelu(s @ layer["mix"] + past)
    np.testing.assert_allclose(model(X), states_of(h, p), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["glr", "rg_lru"])
def test_half_lives_by_the_parameters_are_those_of_states_left_alone(name: str) -> None:
    model = drawn(build(name), normal_beside_poles(0.6))
    steps = 8
    nothing, before = jnp.zeros((1, steps, D)), ((jnp.ones((1, H)),),)
    _, ((left,),) = jax.jit(model.advance)(nothing, before)
    measured = steps * np.log(2) / -np.log(np.asarray(left[0], np.float64))
    p = exact(model)
    layer = {name.removeprefix("layers.0."): value for name, value in p.items()}
    if name == "glr":
        expected = theory.glr_half_life(layer["step_bias"], layer["log_rate"])
    else:
        gate_bias = layer["recurrence_gate.bias"]
        expected = theory.rg_lru_half_life(layer["decay_logit"], gate_bias)
    np.testing.assert_allclose(measured, expected, rtol=1e-3)


@pytest.mark.parametrize("gate", [-50.0, 50.0])
def test_gates_at_their_ends_leave_gradients_finite(gate: float) -> None:
    """Where nothing is forgotten the root of 1 - a^2 has an infinite slope, which is bounded."""
    for name, end in (("glr", "step_bias"), ("rg_lru", "recurrence_gate.bias")):
        leaves, apply, *_ = functional(partial(build, name))
        params = spec.draw(normal_beside_poles(0.6), KEY, leaves)
        params[f"layers.0.{end}"] = jnp.full(H, gate)
        gradient = jax.jit(jax.grad(lambda p, apply=apply: sum_of_squares(apply(p, X))))(params)
        assert all(bool(jnp.isfinite(slope).all()) for slope in gradient.values()), name


def test_the_poles_lie_uniformly_on_their_ring() -> None:
    model = LRU(D, 4000, K, rngs=nnx.Rngs(0))
    size = np.exp(-2 * np.exp(np.asarray(model.layers[0].log_decay[...], np.float64)))
    phase = np.exp(np.asarray(model.layers[0].log_phase[...]))
    low, high = 0.9**2, 0.999**2
    assert kstest(size, "uniform", args=(low, high - low)).pvalue > 0.01
    assert kstest(phase, "uniform", args=(0, 2 * np.pi)).pvalue > 0.01


@pytest.mark.parametrize("name", every(2, of=RECURRENT))
def test_steps_of_every_kind_equal_its_own_loop(name: str) -> None:
    model = build(name, layers=2, readout="all", learned_start=True)
    model = drawn(model, normal_beside_poles(0.5))
    outputs, states, _ = model.unrolled(X)
    np.testing.assert_allclose(model(X), outputs, rtol=1e-5, atol=2e-6)
    assert shapes_of(states) == [[(T, B, H)] * model.carries] * 2


@pytest.mark.parametrize("name", every(2, of=RECURRENT))
def test_two_directions_are_two_networks_side_by_side(name: str) -> None:
    model = MODELS[name](D, H, K, bidirectional=True, readout="all", rngs=nnx.Rngs(0))
    p = introspect.values(model)
    assert p["readout.kernel"].shape == (2 * H, K)
    whole = jnp.zeros((B, T, K))
    for direction, rows in (("layers", slice(0, H)), ("layers_back", slice(H, 2 * H))):
        leaves, apply, *_ = functional(partial(build, name, readout="all"))
        mine = {"readout.kernel": p["readout.kernel"][rows], "readout.bias": 0 * p["readout.bias"]}
        for leaf in leaves:
            if "layers" in leaf.name:
                mine[leaf.name] = p[leaf.name.replace("layers", direction)]
        if direction == "layers":
            whole = whole + apply(mine, X)
        else:
            whole = whole + apply(mine, X[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(model(X), whole, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="reads the whole sequence at once"):
        model.advance(X)


@pytest.mark.parametrize(
    ("readout", "bidirectional"),
    quick(("last", False), ("all", True), of=product(["last", "all"], [False, True])),
)
def test_what_follows_a_sequences_end_does_not_matter(readout: str, bidirectional: bool) -> None:
    model = LSTM(D, H, K, layers=2, bidirectional=bidirectional, readout=readout, rngs=nnx.Rngs(0))
    lengths = np.asarray([T, 2, 1])  # known, in a program too

    @jax.jit
    def outputs_and_slopes(x):
        def cost(x):
            y = model(x, lengths=lengths)
            return sum_of_squares(y), y

        gradient, y = jax.grad(cost, has_aux=True)(x)
        return y, gradient

    y, gradient = map(np.asarray, outputs_and_slopes(X))
    alone = jax.jit(model)
    for row, length in enumerate(lengths):
        together = y[row, :length] if readout == "all" else y[row]
        expected = alone(X[row : row + 1, :length])[0]
        np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-6)
    if readout == "all":
        assert not y[1, 2:].any()
    mask = np.arange(T)[None] < lengths[:, None]
    by_mask = jax.jit(lambda x: model(x, mask=mask))(X)
    np.testing.assert_array_equal(by_mask, jax.jit(lambda x: model(x, lengths=lengths))(X))
    np.testing.assert_allclose(by_mask, y, rtol=1e-5, atol=1e-6)
    assert not gradient[1, 2:].any()
    assert np.isfinite(gradient).all()


def test_lengths_and_masks_that_make_no_sense_are_refused() -> None:
    model = RNN(D, H, K, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match="lengths must be 1 to 6, the steps there are; sequence 1 has 0"
    ):
        model(X, lengths=jnp.asarray([1, 0, 2]))
    with pytest.raises(ValueError, match="sequence 2 has 7"):
        model(X, lengths=jnp.asarray([1, 6, 7]))
    with pytest.raises(ValueError, match="one for each sequence"):
        model(X, lengths=jnp.asarray([1, 2]))
    mask = jnp.ones((B, T), bool).at[1, 4:].set(False)
    with pytest.raises(ValueError, match="lengths and mask disagree: sequence 1 has length 5"):
        model(X, lengths=jnp.asarray([6, 5, 6]), mask=mask)
    with pytest.raises(ValueError, match="without gaps"):
        model(X, mask=mask.at[0, 2].set(False))


@pytest.mark.parametrize("name", quick("lstm", "gru", "glr", of=RECURRENT))
def test_a_sequence_in_parts_is_the_whole_sequence(name: str) -> None:
    model = MODELS[name](D, H, K, layers=2, readout="all", rngs=nnx.Rngs(0))
    first, states = model.advance(X[:, :2])
    rest, _ = model.advance(X[:, 2:], states)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), model(X), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"states have the shapes .* expected"):
        model.advance(X[:1], states)


def test_truncation_cuts_the_gradient_and_nothing_else() -> None:
    whole, cut = (RNN(D, H, K, truncate=k, rngs=nnx.Rngs(0)) for k in (None, 2))
    np.testing.assert_allclose(whole(X), cut(X), rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(cut(x)))(X)
    assert not gradient[:, :4].any()
    assert gradient[:, 4:].any()
    with pytest.raises(ValueError, match="truncate=9 is more than the 6 time steps"):
        RNN(D, H, K, truncate=9, rngs=nnx.Rngs(0))(X)


def test_states_carried_from_batch_to_batch() -> None:
    make = partial(build, "lstm", layers=2, readout="all")
    model = functional(partial(make, stateful=B))
    params = introspect.values(make())
    first, running = model.learn(params, model.running, X[:, :3], Training())
    second, _ = model.learn(params, running, X[:, 3:], Training())
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), make()(X), rtol=1e-5, atol=1e-6)

    def after_another_batch(x):
        _, running = model.learn(params, model.running, x, Training())
        y, _ = model.learn(params, running, X, Training())
        return jnp.sum(y)

    assert not jax.grad(after_another_batch)(X).any(), "no gradient passes from batch to batch"
    # evaluation starts afresh
    np.testing.assert_allclose(model.apply(params | running, X), make()(X), rtol=1e-6)


@pytest.mark.slow
def test_whole_numbers_stand_for_one_hot_vectors() -> None:
    tokens = jax.random.randint(KEY, (B, T), 0, D)
    vectors = jax.nn.one_hot(tokens, D)
    for options in ({}, {"embedding": 3}):
        for name in RECURRENT:
            model = MODELS[name](D, H, K, rngs=nnx.Rngs(0), **options)
            outputs = jax.jit(model)
            np.testing.assert_allclose(
                outputs(tokens), outputs(vectors), rtol=1e-5, atol=1e-6, err_msg=name
            )


@pytest.mark.slow
def test_variational_dropout_drops_the_same_units_at_every_step() -> None:
    same = jnp.broadcast_to(X[:, :1], X.shape)
    noise = Training(jax.random.key(3), 0.5)
    for variational in (True, False):
        model = RNN(
            D,
            H,
            K,
            readout="all",
            variational=variational,
            recurrent_init=constant(0.0),
            rngs=nnx.Rngs(0),
        )
        y = model(same, noise)
        assert bool(jnp.allclose(y, y[:, :1], atol=1e-6)) is variational
        assert not jnp.allclose(y[:, 0], model(same)[:, 0])
    kept = drawn(LSTM(D, H, K, variational=True, rngs=nnx.Rngs(0)))
    np.testing.assert_allclose(kept(X, Training(None, 0.5)), kept(X), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bidirectional": True, "truncate": 2}, "leave truncate out"),
        ({"truncate": 2, "segment": 2}, "leave segment out"),
        ({"leak": 1.5}, "leak must be above 0 and at most 1"),
        ({"embedding": 0}, "embedding must be a positive integer"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RNN(D, H, K, rngs=nnx.Rngs(0), **options)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_outputs_and_gradients_equal_pytorchs_with_copied_weights(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    net = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](D, H, batch_first=True)
    gates = 4 if kind == "lstm" else 3

    def array_of(name: str) -> np.ndarray:
        return getattr(net, name).detach().numpy()

    def by_gate(name: str) -> np.ndarray:
        return array_of(name).reshape(gates, H, -1).swapaxes(1, 2)

    biases = array_of("bias_ih_l0").reshape(gates, H), array_of("bias_hh_l0").reshape(gates, H)
    leaves, apply, *_ = functional(partial(build, kind, H, readout="all"))
    params = {
        "layers.0.input": by_gate("weight_ih_l0"),
        "layers.0.recurrent": by_gate("weight_hh_l0"),
    }
    params["layers.0.bias"] = biases[0] + biases[1]
    if kind == "gru":  # the new gate keeps its two biases apart
        in_common = np.asarray([[1], [1], [0]], np.float32)
        params["layers.0.bias"] = biases[0] + biases[1] * in_common
        params["layers.0.reset_bias"] = biases[1][2]
    params |= {
        "readout.kernel": np.eye(H, dtype=np.float32),
        "readout.bias": np.zeros(H, np.float32),
    }
    params = {name: jnp.asarray(value) for name, value in params.items()}
    assert set(params) == {leaf.name for leaf in leaves}
    x = torch.tensor(np.asarray(X), requires_grad=True)
    theirs, _ = net(x)
    (theirs**2).sum().backward()

    def cost(p, x):
        return sum_of_squares(apply(p, x))

    mine, into = jax.jit(jax.grad(cost, argnums=(0, 1)))(params, X)
    np.testing.assert_allclose(apply(params, X), theirs.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(into, x.grad.numpy(), atol=1e-5)
    for name, other in (("layers.0.input", "weight_ih_l0"), ("layers.0.recurrent", "weight_hh_l0")):
        grad = getattr(net, other).grad.numpy().reshape(gates, H, -1).swapaxes(1, 2)
        room = 1e-5 * max(1, float(np.abs(grad).max()))
        np.testing.assert_allclose(mine[name], grad, atol=room)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_outputs_and_gradients_equal_flaxs_with_copied_weights(kind: str) -> None:
    cells = {"rnn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}
    cell = cells[kind](D, H, rngs=nnx.Rngs(0))
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind]
    before = cell.initialize_carry((B, D), nnx.Rngs(0))

    def by_gate(w):
        if kind == "rnn":
            return w
        return jnp.stack(jnp.split(w, gates, axis=-1))

    def theirs(x):
        carry = before
        out = []
        for t in range(T):
            carry, h = cell(carry, x[:, t])
            out.append(h)
        return jnp.stack(out, 1)

    leaves, apply, *_ = functional(partial(build, kind, H, readout="all"))
    params = {leaf.name: jnp.zeros(leaf.shape) for leaf in leaves}
    params["layers.0.input"] = by_gate(cell.dense_i.kernel[...])
    params["layers.0.recurrent"] = by_gate(cell.dense_h.kernel[...])
    params["readout.kernel"] = jnp.eye(H)
    np.testing.assert_allclose(apply(params, X), jax.jit(theirs)(X), atol=1e-5)
    our_slopes = jax.jit(jax.grad(lambda x: sum_of_squares(apply(params, x))))(X)
    their_slopes = jax.jit(jax.grad(lambda x: sum_of_squares(theirs(x))))(X)
    np.testing.assert_allclose(our_slopes, their_slopes, atol=1e-5)


# The dtype of the parameters is the dtype of everything.

BF16 = jnp.bfloat16
IN_A_DTYPE = {
    "rnn leak": ("rnn", {"leak": 0.3}),
    "lstm peepholes": ("lstm", {"peepholes": True}),
    "gru before": ("gru", {"reset": "before"}),
    "mlp layer": ("mlp", {"norm": "layer", "layers": 2, "residual": True}),
    "mlp batch": ("mlp", {"norm": "batch", "layers": 2}),
}
OF_ALL = {
    "bidirectional": True,
    "learned_start": True,
    "embedding": 3,
    "stateful": B,
    "segment": 2,
    "truncate": 2,
    "backward": "autodiff",
    "readout": "all",
    "layers": 2,
}
AT_THE_INPUT = {"embedding", "bidirectional", "learned_start", "stateful"}
OF_ALL_WITH_A_RECURRENT_MATRIX = {"norm": "layer", "variational": True}
for _name in RECURRENT:
    for _option, _value in OF_ALL.items():
        IN_A_DTYPE[f"{_name} {_option}"] = (_name, {_option: _value})
    if _name not in LINEAR:
        for _option, _value in OF_ALL_WITH_A_RECURRENT_MATRIX.items():
            IN_A_DTYPE[f"{_name} {_option}"] = (_name, {_option: _value})
for _activation in SLOPES:
    if _activation != "tanh":
        IN_A_DTYPE[f"rnn {_activation}"] = ("rnn", {"activation": _activation})
for _activation in ACTIVATIONS:
    IN_A_DTYPE[f"mlp {_activation}"] = ("mlp", {"activation": _activation, "layers": 2})
# What no cell knows of, the loop around it does: of one with two states and a linear one it is
# enough to see.
IN_THE_LOOP = {"bidirectional", "embedding", "stateful", "segment", "truncate", "readout", "layers"}
DTYPE_CASES = []
for _case, (_name, _options) in IN_A_DTYPE.items():
    _again = _name not in ("lstm", "lru") and set(_options) <= IN_THE_LOOP
    DTYPE_CASES.append(pytest.param(_case, marks=[pytest.mark.slow] if _again else []))


def cast(values: dict, dtype) -> dict:
    return {name: value.astype(dtype) for name, value in values.items()}


def check_dtype(model: introspect.Functional, x, dtype) -> None:
    """Outputs, gradients, running statistics and every product are of `dtype`; so is a scan of SGD
    steps."""
    noise = Training(jax.random.key(3), 0.25)
    params = {leaf.name: jax.ShapeDtypeStruct(leaf.shape, dtype) for leaf in model.leaves}
    running = {n: jax.ShapeDtypeStruct(a.shape, dtype) for n, a in model.running.items()}
    by = (0, 2) if jnp.issubdtype(x.dtype, jnp.floating) else (0,)

    def cost(params, running, x):
        y, running = model.learn(params, running, x, noise)
        assert y.dtype == dtype
        return jnp.sum(jnp.sin(y)), running

    def step(carry, _):
        params, running = carry
        (slopes, *into), running = jax.grad(cost, by, has_aux=True)(params, running, x)
        return ({name: params[name] - 0.1 * slopes[name] for name in params}, running), into

    def two_steps(carry):
        return jax.lax.scan(step, carry, length=2)

    program = jax.make_jaxpr(two_steps)((params, running))
    assert {aval.dtype for aval in program.out_avals} == {jnp.dtype(dtype)}
    products = 0
    for equation in equations(program.jaxpr):
        if equation.primitive.name == "dot_general":
            assert {var.aval.dtype for var in equation.invars} == {jnp.dtype(dtype)}, equation
            products += 1
    assert products


@pytest.mark.parametrize("case", DTYPE_CASES)
def test_everything_is_computed_in_the_dtype_of_the_parameters(case: str) -> None:
    name, options = IN_A_DTYPE[case]
    model = functional(partial(build, name, **options))
    check_dtype(model, X.astype(BF16), BF16)
    if AT_THE_INPUT & set(options):
        check_dtype(model, jnp.argmax(X, axis=2), BF16)  # whole numbers follow the parameters


@pytest.mark.parametrize(
    ("name", "dtype"), every(3, of=product([*RECURRENT, "mlp"], ["float16", "float64"]))
)
def test_other_dtypes(name: str, dtype: str) -> None:
    options = {"norm": "batch"} if name == "mlp" else {"learned_start": True, "layers": 2}
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.asarray(X), dtype)
        check_dtype(functional(partial(build, name, **options)), x, dtype)


@pytest.mark.parametrize(
    "case",
    quick("rnn relu", "lstm", "glr", "mlp", of=[*KINDS, "mgu", *LINEAR, "peepholes", "mlp"]),
)
def test_gradients_in_bfloat16_are_those_of_float32_to_its_rounding(case: str) -> None:
    def make(**options):
        if case == "mlp":  # which has no time to go back through
            return build("mlp", layers=2)
        if case == "peepholes":
            return build("lstm", peepholes=True, **options)
        return of_kind(case, **options) if case in KINDS else build(case, **options)

    def cost(apply, p, x):
        return jnp.sum(jnp.sin(apply(p, x)))

    leaves, apply, *_ = functional(make)
    narrow = cast(spec.draw(normal_beside_poles(0.4), KEY, leaves), BF16)
    x = X.astype(BF16)
    gradients = jax.jit(jax.grad(cost, argnums=(1, 2)), static_argnums=0)
    exact = gradients(apply, cast(narrow, jnp.float32), x.astype(jnp.float32))
    by_hand = gradients(apply, narrow, x)
    by_autodiff = functional(partial(make, backward="autodiff"))
    plain = gradients(by_autodiff.apply, narrow, x)
    for one, other, expected in zip(*map(jax.tree.leaves, (by_hand, plain, exact)), strict=True):
        # each of some 20 roundings on the way of an entry is 2^-9 of it at most
        room = 20 * 2**-9 * float(jnp.abs(expected).max())
        for got in (one, other):
            assert got.dtype == BF16
            np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=0, atol=room)


def test_inputs_are_cast_and_parameters_of_two_dtypes_are_refused() -> None:
    leaves, apply, *_ = functional(partial(build, "lstm"))
    params = spec.draw(everything_normal, KEY, leaves)
    assert apply(cast(params, BF16), X).dtype == BF16
    assert apply(params, X.astype(BF16)).dtype == jnp.float32
    counts = jnp.round(3 * X)
    # numbers, not tokens
    np.testing.assert_array_equal(apply(params, counts.astype(jnp.int8)), apply(params, counts))
    with pytest.raises(
        ValueError,
        match=r"LSTM computes in the dtype of its parameters, got several: .*readout.bias",
    ):
        apply(params | {"readout.bias": params["readout.bias"].astype(BF16)}, X)


def test_the_linear_recurrent_unit_keeps_its_states_wide() -> None:
    """A decay of 0.999 is 1 in bfloat16: the state of a narrow network must still fade."""
    model = LRU(1, H, K, readout="all", rngs=nnx.Rngs(0))
    model = drawn(model, normal_beside_vectors(0.6))
    narrow = {name: value.astype(BF16) for name, value in introspect.values(model).items()}
    narrow["layers.0.log_decay"] = jnp.full(H, -7.0, BF16)
    _, apply, *_ = functional(lambda: model)
    x = jnp.zeros((1, 2000, 1)).at[0, 0].set(1.0)
    apply = jax.jit(apply)
    wide = apply(cast(narrow, jnp.float32), x)
    room = 0.02 * float(jnp.abs(wide).max())
    np.testing.assert_allclose(apply(narrow, x).astype(jnp.float32), wide, atol=room)
    states = jax.eval_shape(model.advance, x)[1]
    assert {a.dtype for carry in states for a in carry} == {jnp.dtype(jnp.float32)}


# Shapes at the border.


# with neither, the program is a part of that with both
@pytest.mark.parametrize("both", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", quick("rnn", "lstm", "glr", "rg_lru", of=RECURRENT))
def test_traced_lengths_count_as_the_nearest_that_there_is(name: str, both: bool) -> None:
    learned_start = bidirectional = both
    options = {"bidirectional": bidirectional, "learned_start": learned_start, "layers": 2}
    model = drawn(build(name, **options), normal_beside_poles(0.5))

    @jax.jit
    def traced(x, lengths):
        def cost(x):
            y = model(x, lengths=lengths)
            return sum_of_squares(y), y

        gradient, y = jax.grad(cost, has_aux=True)(x)
        return y, gradient

    y, _ = traced(X, jnp.asarray([0, T + 3, 2]))
    known = jax.jit(lambda x: model(x, lengths=np.asarray([T, T, 2])))(X)
    np.testing.assert_allclose(y[1:], known[1:], rtol=1e-5, atol=1e-6)
    p, sides = exact(model), ["layers", "layers_back"] if bidirectional else ["layers"]
    starts = []  # what the last layer hands on before its first step
    for side in sides:
        last = f"{side}.1"
        carry = [np.zeros(H)] * model.carries
        if learned_start:
            carry = [p[f"{last}.start.{k}"] for k in range(model.carries)]
        h = carry[0]
        if name in LINEAR:
            mix = p[f"{last}.mix"]
            if name == "lru":
                mixed = (carry[0] @ mix[0] - carry[1] @ mix[1]) / np.sqrt(2)
            else:
                mixed = carry[0] @ mix
            mixed = mixed + p[f"{last}.skip.bias"]
            h = np.asarray(jax.nn.gelu(jnp.asarray(mixed, jnp.float32)))
        starts.append(h)
    np.testing.assert_allclose(y[0], states_of(np.concatenate(starts), p), rtol=1e-4, atol=1e-5)
    _, gradient = traced(X, jnp.asarray([0, -1, 2]))
    assert not gradient[:2].any()
    assert jnp.isfinite(gradient).all()
    of_none = traced(X, jnp.asarray([0, 1, 1]))[0][0]
    of_fewer = traced(X, jnp.asarray([-2, 1, 1]))[0][0]
    np.testing.assert_array_equal(of_none, of_fewer)


def test_traced_masks_end_at_their_first_false() -> None:
    model = drawn(GRU(D, H, K, rngs=nnx.Rngs(0)))
    traced = jax.jit(lambda lengths, mask: model(X, lengths=lengths, mask=mask))
    mask = jnp.asarray([[1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], bool)
    expected = jax.jit(lambda lengths: model(X, lengths=lengths))
    np.testing.assert_array_equal(traced(None, mask), expected(jnp.asarray([2, 0, 6])))
    np.testing.assert_array_equal(
        traced(jnp.asarray([1, 4, 9]), mask), expected(jnp.asarray([1, 0, 6]))
    )
    every_step = drawn(build("gru", readout="all"))
    outputs = jax.jit(lambda lengths: every_step(X, lengths=lengths))(jnp.asarray([0, 2, 9]))
    assert not outputs[0].any()
    with pytest.raises(ValueError, match=r"mask has the shape \(3, 5\), expected \(3, 6\)"):
        model(X, mask=mask[:, :5])
    with pytest.raises(ValueError, match="lengths has the dtype float32, expected whole numbers"):
        jax.jit(lambda lengths: model(X, lengths=lengths))(jnp.ones(B))


@pytest.mark.parametrize(
    "name", every(3, of=(name for name in MODELS if name not in ("mlp", *PICTURES)))
)
def test_inputs_of_another_shape_are_refused_in_one_line(name: str) -> None:
    model = MODELS[name](D, 8, K, rngs=nnx.Rngs(0))
    expected = rf"expected features \[batch, time, {D}\] or whole numbers \[batch, time\] below {D}"
    for x in (X[:, :, :3], X[:, :, 0], X[None]):
        with pytest.raises(ValueError, match=expected) as caught:
            model(x)
        assert str(x.shape) in str(caught.value)
        assert "\n" not in str(caught.value)
    for x in (X[:, :0], jnp.zeros((B, 0), int)):
        with pytest.raises(ValueError, match=r"which is no time step; give sequences of 1 or more"):
            model(x)
    if name in RECURRENT:
        for method in (model.advance, model.unrolled):
            with pytest.raises(ValueError, match=expected):
                method(X[:, :, :3])


def test_a_perceptron_refuses_features_of_another_number_and_takes_whole_numbers() -> None:
    model = MLP(T * D, H, K, layers=2, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"x has the shape \(3, 6, 3\), 18 features an example; expected 24"
    ):
        model(X[:, :, :3])
    counts = jnp.round(3 * X)
    np.testing.assert_array_equal(model(counts.astype(jnp.int8)), model(counts))


@pytest.mark.parametrize("name", quick("gru", "glr", "mlp", "resnet", "vit", of=MODELS))
def test_a_batch_of_no_examples(name: str) -> None:
    model = functional(lambda: MODELS[name](T * D if name == "mlp" else D, 8, K, rngs=nnx.Rngs(0)))
    params = spec.draw(normal_beside_vectors(0.3), KEY, model.leaves)

    @jax.jit
    def cost_and_slopes(p):
        def cost(p):
            y = model.apply(p, X[:0])
            return sum_of_squares(y), y

        return jax.value_and_grad(cost, has_aux=True)(p)

    (cost, y), slopes = cost_and_slopes(params)
    assert y.shape == ((0, T, K) if name == "transformer" else (0, K))
    assert cost == 0
    assert not any(bool(slope.any()) for slope in slopes.values())


@pytest.mark.parametrize("name", every(3, of=MODELS))
def test_sizes_of_any_integral_type(name: str) -> None:
    def make(size: type):
        return MODELS[name](size(D), size(8), size(K), layers=size(2), rngs=nnx.Rngs(0))

    ours, plain = introspect.values(make(np.int64)), introspect.values(make(int))
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
    for wrong in (True, 0, np.int64(-1)):
        with pytest.raises(ValueError, match="layers must be a positive integer, got"):
            MODELS[name](D, 8, K, layers=wrong, rngs=nnx.Rngs(0))
    if name in RECURRENT:
        with pytest.raises(ValueError, match="segment must be a positive integer, got True"):
            MODELS[name](D, 8, K, segment=True, rngs=nnx.Rngs(0))


def test_states_are_not_passed_on_from_padding() -> None:
    model = MODELS["lstm"](4, 6, 2, stateful=3, rngs=nnx.Rngs(0))
    x = jnp.ones((3, 5, 4))
    model(x, lengths=jnp.asarray([1, 2, 5]))  # evaluation passes nothing on
    with pytest.raises(
        ValueError, match="passes on its states after the last step, which is padding"
    ):
        model(x, Training(), lengths=jnp.asarray([1, 2, 5]))


@pytest.mark.accelerator
def test_a_linear_orthogonal_network_keeps_its_norm_over_1000_steps(
    record_property: Callable[[str, object], None],
) -> None:
    """In products of full precision, which accelerators round to fewer digits unless they are told.

    The matrix is the orthogonal one that is nearest to a draw, in float64: what float32's own
    rounding leaves in a draw, 6e-7 in W^T W, would add up to 3e-5 in as many steps.
    """
    n, steps = 128, 1000
    with jax.default_matmul_precision("highest"):
        drawn = np.asarray(orthogonal()(KEY, (n, n)))
    np.testing.assert_allclose(drawn.T.astype(float) @ drawn, np.eye(n), atol=2e-6)
    left, _, right = np.linalg.svd(drawn.astype(float))
    nearest = jnp.asarray(left @ right, jnp.float32)
    model = RNN(n, n, n, activation="linear", readout="all", rngs=nnx.Rngs(0))
    layer, eye = model.layers[0], jnp.eye(n)
    for parameter, value in (
        (layer.input, eye),
        (layer.recurrent, nearest),
        (layer.bias, 0 * eye[0]),
    ):
        parameter.set_value(value)
    model.readout.kernel.set_value(eye)
    x = jnp.zeros((16, steps, n)).at[:, 0].set(jax.random.normal(KEY, (16, n)))
    with jax.default_matmul_precision("highest"):
        states = np.asarray(jax.jit(lambda x: model(x))(x), float)
    norms = np.linalg.norm(states, axis=2)
    worst = np.abs(norms / norms[:, :1] - 1).max()
    record_property("measured", f"largest change of the norm {worst:.1e}")
    assert worst < 1e-5
