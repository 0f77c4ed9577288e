"""Convolutional networks against Flax's convolution, mean-field theory, and the papers of their
schemes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import introspect
from jaxinit.calibrate import Problem, gradinit, lsuv, metainit
from jaxinit.engine.resolve import resolve
from jaxinit.initializers import he, normal
from jaxinit.introspect import Functional, Training, functional
from jaxinit.models import CNN, ResNet
from jaxinit.models.convolutional import convolved, halved, halvings
from jaxinit.options import CNNOptions
from jaxinit.schemes import SCHEMES
from jaxinit.signals import trace
from jaxinit.spec import Override, draw
from jaxinit.study import BadStudy, Study
from jaxinit.tasks.base import cross_entropy

KEY = jax.random.key(0)
B, ROWS, COLUMNS, WIDTH, OUT = 4, 6, 5, 8, 3
X = jax.random.normal(jax.random.key(1), (B, ROWS, COLUMNS))
Y = jnp.arange(B) % OUT
FIXUP = {"norm": "none", "gate": True, "scalar_bias": True}


def built(model: Any, **options: Any) -> Functional:
    return functional(lambda: model(COLUMNS, WIDTH, OUT, rngs=nnx.Rngs(0), **options))


def by_lax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def of_flax(kernel: jax.Array, bias: jax.Array | float, strides: int = 1) -> nnx.Conv:
    """Flax's layer with our parameters; its SAME padding is another where it strides."""
    inputs, outputs = kernel.shape[2:]
    layer = nnx.Conv(inputs, outputs, (3, 3), strides, padding=((1, 1), (1, 1)), rngs=nnx.Rngs(0))
    layer.kernel.set_value(kernel)
    assert layer.bias is not None
    layer.bias.set_value(jnp.broadcast_to(bias, (outputs,)))
    return layer


def everything_normal(leaf: Any) -> Any:
    """Biases and scales too, so that every term is seen."""
    return normal(0.4)


def test_a_convolution_and_its_derivatives_are_those_of_jax() -> None:
    x = jax.random.normal(jax.random.key(2), (B, ROWS, COLUMNS, 3))
    kernel = jax.random.normal(jax.random.key(3), (3, 3, 3, 7))

    def twice(product: Any) -> Any:
        """Value, gradient, and the gradient of its size: what calibrations take."""

        def cost(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(jnp.tanh(product(x, kernel)) ** 2)

        def size(x: jax.Array, kernel: jax.Array) -> jax.Array:
            by_x, by_kernel = jax.grad(cost, (0, 1))(x, kernel)
            return jnp.sum(by_x**2) + jnp.sum(by_kernel**2)

        once = jax.value_and_grad(cost, (0, 1))(x, kernel)
        return once, jax.grad(size, (0, 1))(x, kernel)

    ours, theirs = jax.jit(partial(twice, convolved))(), jax.jit(partial(twice, by_lax))()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-3), ours, theirs)


def test_the_plain_network_is_one_of_flaxs_convolutions() -> None:
    model = built(CNN, layers=4, stages=2)
    assert halvings(CNNOptions(layers=4, stages=2)) == {2}
    p = draw(everything_normal, KEY, model.leaves)
    h = X[..., None]
    for k in range(4):
        name = f"layers.{k}"
        layer = of_flax(p[f"{name}.kernel"], p[f"{name}.bias"], 2 if k == 2 else 1)
        h = jax.nn.relu(layer(h))
    assert h.shape == (B, 3, 3, WIDTH)
    expected = h.mean((1, 2)) @ p["readout.kernel"] + p["readout.bias"][None]
    np.testing.assert_allclose(model.apply(p, X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"norm": "none"}, FIXUP])
def test_the_residual_network_by_its_formula(options: dict) -> None:
    model = built(ResNet, layers=2, stages=2, **options)
    p = draw(everything_normal, KEY, model.leaves)

    def scalar(name: str) -> jax.Array:
        return p.get(name, jnp.zeros(()))

    def phi(x: jax.Array, name: str) -> jax.Array:
        return jax.nn.relu(x + jnp.full(x.shape, scalar(name)))

    def layer(x: jax.Array, name: str, before: str = "") -> jax.Array:
        bias = p.get(f"{name}.bias", 0.0)
        shifted = x + jnp.full(x.shape, scalar(before))
        return of_flax(p[f"{name}.kernel"], bias)(shifted)

    s = layer(X[..., None], "stem")
    for k in range(2):
        at = f"blocks.{k}"
        z = layer(phi(s, f"{at}.before_activation"), f"{at}.first", f"{at}.before_first")
        if k == 1:
            s, z = halved(s), halved(z)
        y = layer(phi(z, f"{at}.between_activation"), f"{at}.last", f"{at}.before_last")
        s = s + y * jnp.full(y.shape, p.get(f"{at}.gate", 1.0))
    pooled = phi(s, "before_activation").mean((1, 2))
    pooled = pooled + jnp.full(pooled.shape, scalar("before"))
    expected = pooled @ p["readout.kernel"] + p["readout.bias"][None]
    np.testing.assert_allclose(jax.jit(model.apply)(p, X), expected, rtol=1e-3, atol=1e-4)
    biases = {leaf.shape for leaf in model.leaves if leaf.role == "bias"}
    assert biases == ({(), (OUT,)} if options is FIXUP else {(WIDTH,), (OUT,)})


def test_a_row_is_read_as_columns_of_channels() -> None:
    model = functional(lambda: CNN(3 * COLUMNS, WIDTH, OUT, channels=3, rngs=nnx.Rngs(0)))
    p = draw(everything_normal, KEY, model.leaves)
    x = jax.random.normal(KEY, (B, ROWS, COLUMNS, 3))
    z = by_lax(x, p["layers.0.kernel"]) + p["layers.0.bias"][None, None, None]
    second = by_lax(jax.nn.relu(z), p["layers.1.kernel"]) + p["layers.1.bias"][None, None, None]
    expected = jax.nn.relu(second).mean((1, 2)) @ p["readout.kernel"] + p["readout.bias"][None]
    y = model.apply(p, x.reshape(B, ROWS, -1))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="must divide the numbers of a row, got 2 channels and ro"):
        CNN(COLUMNS, WIDTH, OUT, channels=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_fans_count_the_window(name: str) -> None:
    model = built(CNN if name == "cnn" else ResNet, layers=2, norm=None)
    kernels = {leaf.name: leaf for leaf in model.leaves if leaf.is_kernel}
    fans = [(leaf.role, leaf.fan_in, leaf.fan_out) for leaf in kernels.values()]
    square = (9 * WIDTH, 9 * WIDTH)
    hidden = {"cnn": [("hidden", *square)], "resnet": [("ffn_in", *square), ("ffn_out", *square)]}
    assert set(fans) == {("input", 9, 9 * WIDTH), ("readout", WIDTH, OUT), *hidden[name]}
    for leaf in model.leaves:
        if leaf.role == "bias" and leaf.partner != "readout":
            kernel = kernels[leaf.name.replace("bias", "kernel")]
            assert (leaf.inputs, leaf.partner) == (kernel.fan_in, kernel.role)


def blurred(q: np.ndarray) -> np.ndarray:
    """The mean over windows of 3 x 3 with zeros around."""
    padded = np.pad(q, 1)
    rows, columns = q.shape
    shifted = [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return np.mean(shifted, axis=0)


def test_he_keeps_the_size_of_a_deep_relu_network_but_for_its_border() -> None:
    """Mean-field theory: E z_l(r)^2 is the mean of E z_{l-1}^2 over the window around pixel r, with
    zeros around the picture; at LeCun's variance half of that a layer."""
    layers, seeds, width = 6, 8, 96
    model = functional(lambda: CNN(8, width, OUT, layers=layers, rngs=nnx.Rngs(0)))
    x = jax.random.normal(KEY, (16, 8, 8))
    expected = np.mean(np.asarray(x) ** 2, axis=0)
    for _ in range(layers - 1):
        expected = blurred(expected)
    expected = 2 * blurred(expected).mean()  # the first layer's inputs are not rectified

    @jax.jit
    def last(key: jax.Array) -> jax.Array:
        p = draw(SCHEMES["he_normal"], key, model.leaves)
        _, products = trace.products(model.apply, model.leaves, p, x)
        return products[f"layers.{layers - 1}.kernel"].mean_square[0]

    sizes = np.asarray([float(last(jax.random.key(seed))) for seed in range(seeds)])
    error = sizes.std(ddof=1) / np.sqrt(seeds)
    assert error < 0.2 * expected  # LeCun's would be 64 times smaller
    assert sizes.mean() == pytest.approx(expected, abs=4 * error)


def test_delta_orthogonal_linear_networks_are_isometries_of_every_pixel() -> None:
    """Dynamical isometry: all singular values of the Jacobian from inputs to the last layer are
    1."""
    rows, channels = 3, 4
    model = CNN(
        rows * channels,
        channels,
        OUT,
        channels=channels,
        layers=5,
        activation="linear",
        init=SCHEMES["delta_orthogonal"],
        rngs=nnx.Rngs(0),
    )

    def last(x: jax.Array) -> jax.Array:
        h = x.reshape(1, rows, rows, channels)
        for layer in model.layers:
            h = layer(h)
        return h.reshape(-1)

    x = jax.random.normal(KEY, (rows * rows * channels,))
    jacobian = jax.jit(jax.jacrev(last))(x)
    np.testing.assert_allclose(np.linalg.svd(jacobian, compute_uv=False), 1, atol=1e-5)
    pixels = np.asarray(x).reshape(-1, channels), np.asarray(last(x)).reshape(-1, channels)
    np.testing.assert_allclose(*(np.linalg.norm(p, axis=1) for p in pixels), rtol=1e-5)
    values = introspect.values(model)
    gram = values["readout.kernel"].T @ values["readout.kernel"]
    np.testing.assert_allclose(gram, np.eye(OUT), atol=1e-5)


def test_branches_of_convolutions_are_one_a_block() -> None:
    layers, width = 4, 32
    model = functional(lambda: ResNet(8, width, OUT, layers=layers, rngs=nnx.Rngs(0), **FIXUP))
    by_scheme = {
        "fixup": ("first", np.sqrt(2 / (9 * width) / layers)),
        "gpt2": ("last", 0.02 / np.sqrt(layers)),
        "skipinit": ("last", np.sqrt(2 / (9 * width))),
    }
    for name, (kernel, expected) in by_scheme.items():
        p = draw(SCHEMES[name], KEY, model.leaves)
        # 9,216 entries: four standard errors of a standard deviation are 2.9 %
        assert float(p[f"blocks.1.{kernel}.kernel"].std()) == pytest.approx(expected, rel=0.03)
    gates = draw(SCHEMES["fixup"], KEY, model.leaves)
    assert all(float(gates[f"blocks.{k}.gate"]) == 1 for k in range(layers))


def changes(layers: int) -> tuple[Functional, Any]:
    """A network for Fixup, and a function of its parameters and a rate: what its branches add, how
    far the first step moves its outputs, and the second what its branches add."""
    x = jax.random.normal(KEY, (8, ROWS, COLUMNS))
    y = jnp.arange(8) % OUT
    model = functional(lambda: ResNet(COLUMNS, 16, OUT, layers=layers, rngs=nnx.Rngs(0), **FIXUP))

    def cost(p: dict) -> jax.Array:
        return cross_entropy(model.apply(p, x), y)

    def branches(p: dict) -> jax.Array:
        first, *_, last, _ = model.filled(p).stream(x)
        return last - first

    @jax.jit
    def of_steps(p: dict, rate: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        def step(p: dict) -> dict:
            return jax.tree.map(lambda w, g: w - rate * g, p, jax.grad(cost)(p))

        once = step(p)
        twice = step(once)
        outputs = model.apply(once, x) - model.apply(p, x)
        second = branches(twice) - branches(once)
        return jnp.max(jnp.abs(branches(p))), outputs, jnp.sqrt(jnp.mean(second**2))

    return model, of_steps


@pytest.mark.slow
def test_a_network_under_fixup_starts_as_its_stem_and_moves_alike_at_every_depth() -> None:
    """The first step moves the readout alone, in proportion to the rate. The second moves each of L
    branches as its scale squared, which is 1/L: the sum the same at every depth, and as L without
    the scale."""
    fixup = SCHEMES["fixup"]
    schemes = {"fixup": fixup, "unscaled": Override(fixup, {"ffn_in": he("normal")})}
    outputs, moved = {}, {}
    for layers in (2, 8):
        model, of_steps = changes(layers)
        for name, scheme in schemes.items():
            of_branches, first, second = of_steps(draw(scheme, KEY, model.leaves), 0.1)
            assert of_branches == 0
            outputs[name, layers], moved[name, layers] = first, float(second)
    np.testing.assert_allclose(outputs["fixup", 2], outputs["fixup", 8], rtol=1e-4, atol=1e-6)
    _, slower, _ = of_steps(draw(fixup, KEY, model.leaves), 0.01)
    np.testing.assert_allclose(10 * slower, outputs["fixup", 8], rtol=1e-3, atol=1e-5)
    assert moved["fixup", 8] / moved["fixup", 2] == pytest.approx(1, rel=0.35)
    assert moved["unscaled", 8] / moved["unscaled", 2] == pytest.approx(4, rel=0.35)


@pytest.mark.parametrize("model_class", [CNN, ResNet])
def test_batch_norm_sees_the_batch_in_training_and_what_it_has_seen_in_evaluation(
    model_class: Any,
) -> None:
    model = built(model_class, layers=1, norm="batch")
    p = draw(SCHEMES["he_normal"], KEY, model.leaves)
    assert not any(leaf.role == "bias" and leaf.partner == "input" for leaf in model.leaves)
    first = "layers.0" if model_class is CNN else "stem"
    z = np.asarray(by_lax(X[..., None], p[f"{first}.kernel"]))
    norm = "norms.0" if model_class is CNN else "blocks.0.norm_before"

    @jax.jit
    def learn(running: dict) -> tuple[jax.Array, dict]:
        return model.learn(p, running, X, Training())

    trained, after = learn(model.running)
    assert np.isfinite(trained).all()
    np.testing.assert_allclose(after[f"{norm}.mean"], 0.1 * z.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(after[f"{norm}.var"], 0.9 + 0.1 * z.var((0, 1, 2)), rtol=1e-4)
    evaluated = model.apply(p | after, X)
    assert float(jnp.abs(evaluated - trained).max()) > 1e-2
    for _ in range(100):  # of one batch: what is seen comes to be what is there
        _, after = learn(after)
    np.testing.assert_allclose(model.apply(p | after, X), trained, rtol=1e-2, atol=1e-3)


BATCHES = jnp.stack([X, 2 * X]), jnp.stack([Y, Y])


@pytest.mark.slow
def test_lsuv_scales_convolutions_or_says_why_not() -> None:
    plain = built(CNN, layers=3)
    problem = Problem(plain.leaves, plain.as_trained, cross_entropy)
    p = draw(SCHEMES["small_normal"], KEY, plain.leaves)

    @jax.jit
    def variances(p: dict) -> dict:
        scaled = lsuv(problem, p, BATCHES).params
        x = BATCHES[0].reshape(-1, ROWS, COLUMNS)
        _, products = trace.products(plain.apply, plain.leaves, scaled, x)
        return {name: product.variance for name, product in products.items()}

    found = variances(p)
    assert len(found) == 4
    for variance in found.values():
        np.testing.assert_allclose(variance, 1, atol=0.1)

    fixed = built(ResNet, layers=1, **FIXUP)
    zeros = draw(SCHEMES["fixup"], KEY, fixed.leaves)
    with pytest.raises(ValueError, match=r"product with 'blocks.0.last.kernel' has variance 0"):
        lsuv(Problem(fixed.leaves, fixed.as_trained, cross_entropy), zeros, BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("calibration", [metainit, gradinit])
def test_calibrations_that_differentiate_twice_go_through_convolutions(calibration: Any) -> None:
    plain = built(CNN, layers=2)
    problem = Problem(plain.leaves, plain.as_trained, cross_entropy)
    p = draw(SCHEMES["small_normal"], KEY, plain.leaves)
    done = jax.jit(lambda p: calibration(problem, p, BATCHES, steps=3))(p)
    for factor in done.factors.values():
        assert 0.01 < float(factor[0]) != 1


def test_dropout_is_of_training_alone() -> None:
    for model in (built(CNN), built(ResNet)):
        p = draw(SCHEMES["he_normal"], KEY, model.leaves)
        noisy = [
            model.learn(p, model.running, X, Training(jax.random.key(seed), 0.5))[0]
            for seed in (1, 1, 2)
        ]
        np.testing.assert_array_equal(noisy[0], noisy[1])
        assert float(jnp.abs(noisy[0] - noisy[2]).max()) > 1e-3


@pytest.mark.parametrize("model_class", [CNN, ResNet])
@pytest.mark.parametrize(
    "shape", [(B, ROWS, COLUMNS + 1), (B, ROWS), (B, 0, COLUMNS), (B, ROWS, COLUMNS, 1)]
)
def test_pictures_of_another_shape_are_refused_in_one_line(model_class: Any, shape: tuple) -> None:
    model = model_class(COLUMNS, WIDTH, OUT, layers=1, rngs=nnx.Rngs(0))
    message = rf"expected pictures \[batch, rows, {COLUMNS}\] of 1 row or more"
    with pytest.raises(ValueError, match=message) as caught:
        model(jnp.zeros(shape))
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "copy"}, "wants an output at every step, 'cnn' gives one; use rnn, lstm or gru"),
        (
            {"channels": 3},
            "channels must divide the numbers of a row, got 3 channels and rows of 8",
        ),
        ({"stages": 2}, "stages are parts of the layers, at most 1; got 2"),
        ({"norm": "rms"}, "norm of 'cnn' is layer, batch or left out; got 'rms'"),
        ({"gate": True}, "--gate is an option of resnet, transformer, vit"),
        ({"schemes": ("fixup",), "baseline": "fixup"}, "roles attention_out and ffn_out"),
        (
            {"schemes": ("delta_orthogonal",), "baseline": "delta_orthogonal", "model": "rnn"},
            None,
        ),
    ],
)
def test_a_study_is_refused_in_the_words_of_its_settings(change: dict, message: str | None) -> None:
    study = Study(**{"model": "cnn", "hidden": 8, "target": 0.5, **change})
    if message is None:  # without convolutions it is an orthogonal scheme
        assert resolve(study).schemes
        return
    with pytest.raises(BadStudy, match=message):
        resolve(study)
