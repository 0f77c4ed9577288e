"""Every product with a parameter is found, through whatever a model wraps around it, and its
moments are right."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from jaxinit import spec
from jaxinit.introspect import functional
from jaxinit.models import MODELS
from jaxinit.schemes import SCHEMES
from jaxinit.signals import trace
from jaxinit.spec import Leaf

X = jax.random.normal(jax.random.key(1), (7, 5, 3))
Params = dict[str, Array]


def drawn(leaves: tuple[Leaf, ...], seed: int = 0) -> Params:
    return spec.draw(SCHEMES["xavier_rnn"], jax.random.key(seed), leaves)


def products(function, leaves: tuple[Leaf, ...], params: Params) -> dict[str, trace.Moments]:
    """The moments of the products that `function(params, X)` makes, by parameter."""
    _, by_name = trace.products(function, leaves, params, X)
    return by_name


def compiled_products(function, leaves: tuple[Leaf, ...], params: Params) -> tuple:
    """The result of `function(params, X)` and the moments of its products, from one program."""

    @jax.jit
    def watched(params: Params) -> tuple:
        return trace.products(function, leaves, params, X)

    return watched(params)


def check_close(got: Any, expected: Any, rtol: float, atol: float = 0.0) -> None:
    """Two trees, leaf by leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def check(moments: trace.Moments, *products: Array) -> None:
    """Moments of one copy each, against the products computed apart."""
    for copy, product in enumerate(products):
        assert moments.entries[copy] == product.size
        np.testing.assert_allclose(moments.mean[copy], product.mean(), atol=1e-5)
        np.testing.assert_allclose(moments.variance[copy], product.var(), rtol=1e-3)
    assert len(moments.entries) == len(products)


def test_a_net_in_the_order_of_its_data() -> None:
    leaves, apply, *_ = functional(lambda: MODELS["mlp"](15, 8, 4, layers=3, rngs=nnx.Rngs(0)))
    params = drawn(leaves)
    y, by_name = compiled_products(apply, leaves, params)
    # compiled and eager round apart
    np.testing.assert_allclose(y, apply(params, X), rtol=1e-6, atol=1e-6)
    assert list(products(apply, leaves, params)) == [
        "layers.0.kernel",
        "layers.1.kernel",
        "layers.2.kernel",
        "readout.kernel",
    ]
    h = X.reshape(7, -1)
    for k in range(3):
        z = h @ params[f"layers.{k}.kernel"]
        check(by_name[f"layers.{k}.kernel"], z)
        h = jnp.tanh(z)
    check(by_name["readout.kernel"], h @ params["readout.kernel"])


LOOPS = [{}, {"segment": 2}, {"backward": "autodiff"}, {"readout": "all"}]


@pytest.mark.parametrize(
    ("model", "options"), every(5, of=itertools.product(["rnn", "lstm", "gru"], LOOPS))
)
def test_gates_are_told_apart_inside_time_loops(model: str, options: dict) -> None:
    leaves, apply, *_ = functional(lambda: MODELS[model](3, 6, 4, rngs=nnx.Rngs(0), **options))
    params = drawn(leaves)
    y, by_name = trace.products(apply, leaves, params, X)
    np.testing.assert_allclose(y, apply(params, X), rtol=1e-5, atol=1e-6)
    kernel, recurrent = params["layers.0.input"], params["layers.0.recurrent"]
    by_gate = kernel if kernel.ndim == 3 else kernel[None]
    check(by_name["layers.0.input"], *[X @ w for w in by_gate])
    assert by_name["layers.0.recurrent"].entries.tolist() == [7 * 5 * 6] * len(by_gate)
    if model == "rnn":
        states = [jnp.zeros((7, 6))]
        for t in range(5):
            states.append(jnp.tanh(X[:, t] @ kernel + states[-1] @ recurrent))
        check(by_name["layers.0.recurrent"], jnp.stack(states[:-1]) @ recurrent)


LEAVES = (
    Leaf("w", (3, 4, 2), "i.o", "query"),
    Leaf("stack", (6, 8, 8), ".io", "hidden"),
    Leaf("table", (10, 8), "io", "embedding"),
    Leaf("conv", (3, 8, 5), "wio", "hidden"),
)


def convolution(h: Array, kernel: Array) -> Array:
    layout = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(h, kernel, (1,), "SAME", dimension_numbers=layout)


def test_heads_stacks_tables_convolutions_and_tied_weights() -> None:
    params = drawn(LEAVES)
    words = jax.random.randint(jax.random.key(2), (7, 9), 0, 10)

    @jax.checkpoint
    def embedded(table: Array) -> Array:
        return 2.0 * jnp.take(table, words, axis=0)

    @jax.jit
    def tied(h: Array, table: Array) -> Array:
        return h @ table.T

    def layer(h: Array, w: Array) -> tuple[Array, None]:
        return jnp.tanh(h @ w), None

    def model(p: Params, x: Array) -> Array:
        heads = jnp.einsum("bti,iho->btho", x, p["w"])
        h, _ = jax.lax.scan(layer, embedded(p["table"]), p["stack"])
        convolved = convolution(h, p["conv"])
        return heads.sum() + tied(h, p["table"]).sum() + convolved.sum()

    _, by_name = compiled_products(model, LEAVES, params)
    check(by_name["w"], *[X @ params["w"][:, head] for head in range(4)])
    rows = params["table"][words]
    h = 2 * rows
    layers = []
    for w in params["stack"]:
        layers.append(h @ w)
        h = jnp.tanh(layers[-1])
    check(by_name["stack"], *layers)
    both = jnp.concatenate([rows.ravel(), (h @ params["table"].T).ravel()])
    check(by_name["table"], both)
    check(by_name["conv"], convolution(h, params["conv"]))


def test_a_gate_on_the_data_hides_no_product() -> None:
    """A number that multiplies data is no kernel, and what it multiplies is data still."""
    leaves = (Leaf("gate", (), "", "residual_gate"), Leaf("w", (3, 4), "io", "hidden"))
    params = {"gate": jnp.float32(0.5), "w": jnp.ones((3, 4))}

    def on_data(params: dict[str, Array], x: Array) -> Array:
        return (params["gate"] * x) @ params["w"]

    def on_kernel(params: dict[str, Array], x: Array) -> Array:
        return x @ (params["gate"] * params["w"])

    for apply in (on_data, on_kernel):
        by_name = products(apply, leaves, params)
        assert list(by_name) == ["w"]
        check(by_name["w"], 0.5 * X @ params["w"])


def test_a_barrier_hides_no_product() -> None:
    leaves = (Leaf("w", (3, 4), "io", "hidden"), Leaf("v", (3, 2), "io", "hidden"))
    params = drawn(leaves)

    def function(p: Params, x: Array) -> Array:
        x, w, v = jax.lax.optimization_barrier((x, p["w"].T, p["v"]))
        return jnp.concatenate([x @ w.T, x @ v], -1)

    by_name = products(function, leaves, params)
    assert list(by_name) == ["w", "v"]
    for name, moments in by_name.items():
        check(moments, X @ params[name])


def test_fused_copies_are_told_apart_by_their_columns() -> None:
    leaves = (Leaf("fused", (4, 3, 6), ".io", "recurrent"),)
    params = drawn(leaves)

    def whole(p: Params, x: Array) -> Array:
        return x @ p["fused"].swapaxes(0, 1).reshape(3, 24)

    def summed(p: Params, x: Array) -> Array:
        return jnp.einsum("bti,gio->bto", x, p["fused"])

    check(products(whole, leaves, params)["fused"], *[X @ w for w in params["fused"]])
    assert products(summed, leaves, params) == {}, "a sum over copies is no copy's product"


JOINED = (
    Leaf("query", (3, 6), "io", "query"),
    Leaf("key", (3, 4), "io", "key"),
    Leaf("gates", (2, 3, 5), ".io", "value"),
)


def joined(p: Params) -> Array:
    gates_side_by_side = p["gates"].swapaxes(0, 1).reshape(3, 10)
    return jnp.concatenate([p["query"], gates_side_by_side, p["key"]], 1)


def dense(p: Params, x: Array) -> Array:
    return x @ joined(p)


def left(p: Params, x: Array) -> Array:
    @jax.jit
    def product(w: Array) -> Array:
        return jnp.einsum("io,bti->otb", w.astype(jnp.float32), x)

    return product(joined(p))


def pointwise_convolution(p: Params, x: Array) -> Array:
    kernel = joined(p).T[:, :, None]
    return jax.lax.conv_general_dilated(x.swapaxes(1, 2), kernel, (1,), "SAME")


def in_a_loop(p: Params, x: Array) -> Array:
    def turn(carry: float, rows: Array) -> tuple[float, Array]:
        return carry, rows @ joined(p)

    return jax.lax.scan(turn, 0.0, x)[1]


def stacked(p: Params, x: Array) -> Array:
    def turn(carry: float, w: Array) -> tuple[float, Array]:
        return carry, x @ w

    return jax.lax.scan(turn, 0.0, jnp.stack([joined(p)]))[1]


@pytest.mark.parametrize(
    "product",
    every(2, of=[dense, left, pointwise_convolution, in_a_loop, stacked]),
    ids=["dense", "left", "convolution", "loop", "stacked"],
)
def test_parameters_joined_along_an_output_axis_are_measured_apart(product) -> None:
    params = drawn(JOINED)
    _, by_name = compiled_products(product, JOINED, params)
    assert sorted(by_name) == ["gates", "key", "query"]
    check(by_name["query"], X @ params["query"])
    check(by_name["gates"], *[X @ w for w in params["gates"]])
    check(by_name["key"], X @ params["key"])


def test_a_joined_product_has_the_entries_and_gradients_of_single_ones() -> None:
    params, target = drawn(JOINED[:2]), jax.random.normal(jax.random.key(3), (7, 5, 10))

    def together(p: Params, x: Array) -> Array:
        return x @ jnp.concatenate([p["query"], p["key"]], 1)

    def apart(p: Params, x: Array) -> Array:
        return jnp.concatenate([x @ p["query"], x @ p["key"]], -1)

    def sites_and_gradients(function) -> tuple:
        def look(p: Params, taps: list[Array] | None) -> tuple:
            return trace.watched(function, JOINED[:2], lambda entries: entries, p, taps, X)

        def cost(p: Params, taps: list[Array]) -> Array:
            y, _ = look(p, taps)
            return (y * target).sum()

        _, sites = look(params, None)
        assert [site.name for site in sites] == ["query", "key"]
        taps = [jnp.zeros_like(site.product) for site in sites]
        measured = [(site.copies, site.product, site.given) for site in sites]
        return measured, jax.jit(jax.grad(cost, (0, 1)))(params, taps)

    check_close(sites_and_gradients(together), sites_and_gradients(apart), rtol=1e-5, atol=1e-5)


def test_products_that_sum_or_loop_over_different_parameters_belong_to_none() -> None:
    leaves = (Leaf("a", (3, 3), "io", "hidden"), Leaf("b", (3, 3), "io", "hidden"))

    def summed(p: Params, x: Array) -> Array:
        return jnp.concatenate([x, x], -1) @ jnp.concatenate([p["a"], p["b"]], 0)

    def turn(h: Array, w: Array) -> tuple[Array, None]:
        return h @ w, None

    def looped(p: Params, x: Array) -> Array:
        h, _ = jax.lax.scan(turn, x, jnp.stack([p["a"], p["b"]]))
        return h

    for function in (summed, looped):
        assert products(function, leaves, drawn(leaves)) == {}


def test_a_watched_function_can_be_differentiated() -> None:
    leaves, apply, *_ = functional(lambda: MODELS["lstm"](3, 6, 4, rngs=nnx.Rngs(0)))
    params = drawn(leaves)

    def total(p: Params) -> Array:
        return apply(p, X).sum()

    def watched_total(p: Params) -> Array:
        y, _ = trace.products(apply, leaves, p, X)
        return y.sum()

    def variance(scale: float | Array) -> Array:
        _, by_name = trace.products(apply, leaves, params, scale * X)
        return by_name["layers.0.input"].variance.sum()

    slopes, watched = (jax.jit(jax.grad(f))(params) for f in (total, watched_total))
    check_close(slopes, watched, rtol=1e-4, atol=1e-5)
    value, slope = jax.jit(jax.value_and_grad(variance))(1.0)
    np.testing.assert_allclose(slope, 2 * value, rtol=1e-4)


def test_named_values_are_found_inside_calls() -> None:
    def inner(x: Array) -> Array:
        return checkpoint_name(jnp.sin(x), "deep") + 1

    def function(x: Array) -> Array:
        first = checkpoint_name(2 * x, "first")
        # a name again: the first stays
        return checkpoint_name(jax.jit(jax.checkpoint(inner))(first), "first") * 3

    @jax.jit
    def named(x: Array) -> tuple[Array, dict[str, Array]]:
        return trace.named(function, x)

    y, by_name = named(X)
    np.testing.assert_allclose(y, function(X), rtol=1e-6)
    assert set(by_name) == {"first", "deep"}
    np.testing.assert_allclose(by_name["first"], 2 * X)
    np.testing.assert_allclose(by_name["deep"], jnp.sin(2 * X), rtol=1e-6)


def remat_of_jit(f):
    return jax.checkpoint(jax.jit(f))


def with_jvp(f):
    def jvp(primals, tangents):
        return jax.jvp(f, primals, tangents)

    g = jax.custom_jvp(f)
    g.defjvp(jvp)
    return g


def with_vjp(f):
    def forward(w: Array, x: Array):
        return jax.vjp(f, w, x)

    def backward(vjp, dy: Array):
        return vjp(dy)

    g = jax.custom_vjp(f)
    g.defvjp(forward, backward)
    return g


def in_a_cond(f):
    def not_taken(w: Array, x: Array) -> Array:
        return 0 * f(w, x)

    def wrapped(w: Array, x: Array) -> Array:
        return jax.lax.cond(x.sum() < 1e9, f, not_taken, w, x)

    return wrapped


def in_a_switch(f):
    def before(w: Array, x: Array) -> Array:
        return f(w, 3 * x)

    def after(w: Array, x: Array) -> Array:
        return f(w, -x)

    def wrapped(w: Array, x: Array) -> Array:
        return jax.lax.switch(1, [before, f, after], w, x)

    return wrapped


def in_a_scan(f):
    def wrapped(w: Array, x: Array) -> Array:
        def turn(h: Array, _: None) -> tuple[Array, None]:
            return f(w, x) + 0 * h, None

        h, _ = jax.lax.scan(turn, f(w, 0 * x), length=1)
        return h

    return wrapped


def in_a_fori_loop(f):
    def wrapped(w: Array, x: Array) -> Array:
        def turn(_, h: Array) -> Array:
            return f(w, x) + 0 * h

        return jax.lax.fori_loop(0, 1, turn, jnp.zeros((7, 5, 4)))

    return wrapped


INSIDE = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "remat of jit": remat_of_jit,
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "cond": in_a_cond,
    "switch": in_a_switch,
    "scan": in_a_scan,
    "fori": in_a_fori_loop,
}


def dense_layer(w: Array, x: Array) -> Array:
    return x @ w


@pytest.mark.parametrize(
    ("inner", "outer"), every(3, of=itertools.product(INSIDE, [None, *INSIDE]))
)
def test_a_product_is_found_inside_every_pair_of_transformations(
    outer: str | None, inner: str
) -> None:
    leaves = (Leaf("w", (3, 4), "io", "hidden"),)
    params = drawn(leaves)
    wrapped = INSIDE[inner](dense_layer)
    if outer is not None:
        wrapped = INSIDE[outer](wrapped)

    def apply(p: Params, x: Array) -> Array:
        return wrapped(p["w"], x)

    y, by_name = compiled_products(apply, leaves, params)
    np.testing.assert_allclose(y, X @ params["w"], rtol=1e-5)
    total = by_name["w"]
    # scans make products of 0 beside the one that counts
    assert int(total.entries[0]) % (7 * 5 * 4) == 0
    np.testing.assert_allclose(total.squares, [jnp.sum((X @ params["w"]) ** 2)], rtol=1e-4)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_branch_that_is_not_taken_makes_no_products(taken: int) -> None:
    """Both branches use w, one of them v: each is seen where it is made, and is nothing where it is
    not."""
    leaves = (Leaf("w", (3, 4), "io", "hidden"), Leaf("v", (4, 4), "io", "hidden"))
    params = drawn(leaves)

    def plain(p: Params, x: Array) -> Array:
        return x @ p["w"]

    def deep(p: Params, x: Array) -> Array:
        return jnp.tanh(2 * x @ p["w"]) @ p["v"]

    def choose(p: Params, x: Array, which: int | Array) -> Array:
        return jax.lax.cond(which == 1, deep, plain, p, x)

    @jax.jit
    def watched(p: Params, which: int | Array) -> tuple:
        return trace.products(choose, leaves, p, X, which)

    def watched_total(p: Params) -> Array:
        y, _ = watched(p, taken)
        return y.sum()

    def total(p: Params) -> Array:
        return choose(p, X, taken).sum()

    y, by_name = watched(params, taken)
    if taken:
        np.testing.assert_allclose(y, deep(params, X), rtol=1e-5)
        check(by_name["w"], 2 * X @ params["w"])
        check(by_name["v"], deep(params, X))
    else:
        np.testing.assert_allclose(y, plain(params, X), rtol=1e-5)
        check(by_name["w"], X @ params["w"])
        assert by_name["v"].entries.tolist() == [0]
    check_close(jax.grad(watched_total)(params), jax.grad(total)(params), rtol=1e-5)


def test_which_parameter_a_branch_returns_is_known_where_all_agree() -> None:
    leaves = (Leaf("w", (3, 4), "io", "hidden"), Leaf("v", (3, 4), "io", "hidden"))
    params = drawn(leaves)

    def same(p: Params, x: Array) -> Array:
        return x @ jax.lax.cond(x.sum() > 0, lambda w: w.T.T, lambda w: w, p["w"])

    def either(p: Params, x: Array) -> Array:
        return x @ jax.lax.cond(x.sum() > 0, lambda p: p["w"], lambda p: p["v"], p)

    check(products(same, leaves, params)["w"], X @ params["w"])
    assert products(either, leaves, params) == {}


def test_a_custom_derivative_of_a_parameter_alone_stays() -> None:
    """Weights rounded in the forward pass and not in the backward pass keep that gradient, and are
    still found."""

    @jax.custom_vjp
    def moved(w: Array) -> Array:
        return w.T

    moved.defvjp(lambda w: (w.T, None), lambda _, dw: (3 * dw.T,))

    @jax.custom_vjp
    def rounded(w: Array) -> Array:
        return jnp.round(w)

    rounded.defvjp(lambda w: (jnp.round(w), None), lambda _, dw: (dw,))

    def function(p: Params, x: Array) -> Array:
        return x @ moved(p["w"]).T @ rounded(p["v"])

    def total(p: Params) -> Array:
        return function(p, X).sum()

    def watched_total(p: Params) -> Array:
        y, _ = trace.products(function, leaves, p, X)
        return y.sum()

    leaves = (Leaf("w", (3, 4), "io", "hidden"), Leaf("v", (4, 2), "io", "hidden"))
    params = drawn(leaves)
    assert list(products(function, leaves, params)) == ["w"]
    gradient = jax.grad(watched_total)(params)
    assert gradient["v"].any()
    check_close(gradient, jax.grad(total)(params), rtol=1e-5)
