"""Every product with a parameter is found, through whatever a model wraps around it, and its
moments are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def drawn(leaves: tuple[Leaf, ...], seed: int = 0) -> dict[str, Array]:
    return spec.draw(SCHEMES["xavier_rnn"], jax.random.key(seed), leaves)


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
    y, found = jax.jit(lambda p: trace.products(apply, leaves, p, X))(params)
    # compiled and eager round apart
    np.testing.assert_allclose(y, apply(params, X), rtol=1e-6, atol=1e-6)
    assert list(trace.products(apply, leaves, params, X)[1]) == [
        "layers.0.kernel",
        "layers.1.kernel",
        "layers.2.kernel",
        "readout.kernel",
    ]
    h = X.reshape(7, -1)
    for k in range(3):
        z = h @ params[f"layers.{k}.kernel"]
        check(found[f"layers.{k}.kernel"], z)
        h = jnp.tanh(z)
    check(found["readout.kernel"], h @ params["readout.kernel"])


@pytest.mark.parametrize("model", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(
    "options", [{}, {"segment": 2}, {"backward": "autodiff"}, {"readout": "all"}]
)
def test_gates_are_told_apart_inside_time_loops(model: str, options: dict) -> None:
    leaves, apply, *_ = functional(lambda: MODELS[model](3, 6, 4, rngs=nnx.Rngs(0), **options))
    params = drawn(leaves)
    y, found = trace.products(apply, leaves, params, X)
    np.testing.assert_allclose(y, apply(params, X), rtol=1e-5, atol=1e-6)
    kernel, recurrent = params["layers.0.input"], params["layers.0.recurrent"]
    by_gate = kernel if kernel.ndim == 3 else kernel[None]
    check(found["layers.0.input"], *[X @ w for w in by_gate])
    assert found["layers.0.recurrent"].entries.tolist() == [7 * 5 * 6] * len(by_gate)
    if model == "rnn":
        states = [jnp.zeros((7, 6))]
        for t in range(5):
            states.append(jnp.tanh(X[:, t] @ kernel + states[-1] @ recurrent))
        check(found["layers.0.recurrent"], jnp.stack(states[:-1]) @ recurrent)


LEAVES = (
    Leaf("w", (3, 4, 2), "i.o", "query"),
    Leaf("stack", (6, 8, 8), ".io", "hidden"),
    Leaf("table", (10, 8), "io", "embedding"),
    Leaf("conv", (3, 8, 5), "wio", "hidden"),
)


def test_heads_stacks_tables_convolutions_and_tied_weights() -> None:
    params = drawn(LEAVES)
    words = jax.random.randint(jax.random.key(2), (7, 9), 0, 10)

    def model(p: dict[str, Array], x: Array) -> Array:
        heads = jnp.einsum("bti,iho->btho", x, p["w"])
        scaled = jax.checkpoint(lambda table: 2.0 * jnp.take(table, words, axis=0))(p["table"])
        h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), scaled, p["stack"])
        tied = jax.jit(lambda h, table: h @ table.T)(h, p["table"])
        convolved = jax.lax.conv_general_dilated(
            h, p["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return heads.sum() + tied.sum() + convolved.sum()

    _, found = trace.products(model, LEAVES, params, X)
    check(found["w"], *[X @ params["w"][:, head] for head in range(4)])
    rows = params["table"][words]
    h = 2 * rows
    layers = []
    for w in params["stack"]:
        layers.append(h @ w)
        h = jnp.tanh(layers[-1])
    check(found["stack"], *layers)
    both = jnp.concatenate([rows.ravel(), (h @ params["table"].T).ravel()])
    check(found["table"], both)
    convolved = jax.lax.conv_general_dilated(
        h, params["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    check(found["conv"], convolved)


def test_a_gate_on_the_data_hides_no_product() -> None:
    """A number that multiplies data is no kernel, and what it multiplies is data still."""
    leaves = (Leaf("gate", (), "", "residual_gate"), Leaf("w", (3, 4), "io", "hidden"))
    params = {"gate": jnp.float32(0.5), "w": jnp.ones((3, 4))}

    def on_data(params: dict[str, Array], x: Array) -> Array:
        return (params["gate"] * x) @ params["w"]

    def on_kernel(params: dict[str, Array], x: Array) -> Array:
        return x @ (params["gate"] * params["w"])

    for apply in (on_data, on_kernel):
        found = trace.products(apply, leaves, params, X)[1]
        assert list(found) == ["w"]
        check(found["w"], 0.5 * X @ params["w"])


def test_a_barrier_hides_no_product() -> None:
    leaves = (Leaf("w", (3, 4), "io", "hidden"), Leaf("v", (3, 2), "io", "hidden"))
    params = drawn(leaves)

    def function(p: dict[str, Array], x: Array) -> Array:
        x, w, v = jax.lax.optimization_barrier((x, p["w"].T, p["v"]))
        return jnp.concatenate([x @ w.T, x @ v], -1)

    found = trace.products(function, leaves, params, X)[1]
    assert list(found) == ["w", "v"]
    for name, moments in found.items():
        check(moments, X @ params[name])


def test_fused_copies_are_told_apart_by_their_columns() -> None:
    leaves = (Leaf("fused", (4, 3, 6), ".io", "recurrent"),)
    params = drawn(leaves)
    whole = lambda p, x: x @ p["fused"].swapaxes(0, 1).reshape(3, 24)
    check(trace.products(whole, leaves, params, X)[1]["fused"], *[X @ w for w in params["fused"]])
    summed = lambda p, x: jnp.einsum("bti,gio->bto", x, p["fused"])
    assert trace.products(summed, leaves, params, X)[1] == {}, (
        "a sum over copies is no copy's product"
    )


JOINED = (
    Leaf("query", (3, 6), "io", "query"),
    Leaf("key", (3, 4), "io", "key"),
    Leaf("gates", (2, 3, 5), ".io", "value"),
)


def joined(p: dict[str, Array]) -> Array:
    return jnp.concatenate([p["query"], p["gates"].swapaxes(0, 1).reshape(3, 10), p["key"]], 1)


@pytest.mark.parametrize(
    "product",
    [
        lambda p, x: x @ joined(p),
        lambda p, x: jax.jit(lambda w: jnp.einsum("io,bti->otb", w.astype(jnp.float32), x))(
            joined(p)
        ),
        lambda p, x: jax.lax.conv_general_dilated(
            x.swapaxes(1, 2), joined(p).T[:, :, None], (1,), "SAME"
        ),
        lambda p, x: jax.lax.scan(lambda c, x: (c, x @ joined(p)), 0.0, x)[1],
        lambda p, x: jax.lax.scan(lambda c, w: (c, x @ w), 0.0, jnp.stack([joined(p)]))[1],
    ],
    ids=["dense", "left", "convolution", "loop", "stacked"],
)
def test_parameters_joined_along_an_output_axis_are_measured_apart(product) -> None:
    params = drawn(JOINED)
    _, found = jax.jit(lambda p: trace.products(product, JOINED, p, X))(params)
    assert sorted(found) == ["gates", "key", "query"]
    check(found["query"], X @ params["query"])
    check(found["gates"], *[X @ w for w in params["gates"]])
    check(found["key"], X @ params["key"])


def test_a_joined_product_has_the_entries_and_gradients_of_single_ones() -> None:
    params, target = drawn(JOINED[:2]), jax.random.normal(jax.random.key(3), (7, 5, 10))
    together = lambda p, x: x @ jnp.concatenate([p["query"], p["key"]], 1)
    apart = lambda p, x: jnp.concatenate([x @ p["query"], x @ p["key"]], -1)

    def sites_and_gradients(function) -> tuple:
        def look(p: dict[str, Array], taps: list[Array] | None) -> tuple:
            return trace.watched(function, JOINED[:2], lambda entries: entries, p, taps, X)

        def cost(p: dict[str, Array], taps: list[Array]) -> Array:
            return (look(p, taps)[0] * target).sum()

        _, sites = look(params, None)
        assert [site.name for site in sites] == ["query", "key"]
        taps = [jnp.zeros_like(site.product) for site in sites]
        return [tuple(site[1:]) for site in sites], jax.grad(cost, (0, 1))(params, taps)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        sites_and_gradients(together),
        sites_and_gradients(apart),
    )


def test_products_that_sum_or_loop_over_different_parameters_belong_to_none() -> None:
    leaves = (Leaf("a", (3, 3), "io", "hidden"), Leaf("b", (3, 3), "io", "hidden"))
    summed = lambda p, x: jnp.concatenate([x, x], -1) @ jnp.concatenate([p["a"], p["b"]], 0)
    looped = lambda p, x: jax.lax.scan(lambda h, w: (h @ w, None), x, jnp.stack([p["a"], p["b"]]))[
        0
    ]
    for function in (summed, looped):
        assert trace.products(function, leaves, drawn(leaves), X)[1] == {}


def test_a_watched_function_can_be_differentiated() -> None:
    leaves, apply, *_ = functional(lambda: MODELS["lstm"](3, 6, 4, rngs=nnx.Rngs(0)))
    params = drawn(leaves)
    plain = jax.grad(lambda p: apply(p, X).sum())(params)
    watched = jax.grad(lambda p: trace.products(apply, leaves, p, X)[0].sum())(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, watched
    )
    slope = jax.grad(
        lambda s: trace.products(apply, leaves, params, s * X)[1]["layers.0.input"].variance.sum()
    )(1.0)
    variance = trace.products(apply, leaves, params, X)[1]["layers.0.input"].variance.sum()
    np.testing.assert_allclose(slope, 2 * variance, rtol=1e-4)


def test_named_values_are_found_inside_calls() -> None:
    def inner(x: Array) -> Array:
        return checkpoint_name(jnp.sin(x), "deep") + 1

    def function(x: Array) -> Array:
        first = checkpoint_name(2 * x, "first")
        # a name again: the first stays
        return checkpoint_name(jax.jit(jax.checkpoint(inner))(first), "first") * 3

    y, found = jax.jit(lambda x: trace.named(function, x))(X)
    np.testing.assert_allclose(y, function(X), rtol=1e-6)
    assert set(found) == {"first", "deep"}
    np.testing.assert_allclose(found["first"], 2 * X)
    np.testing.assert_allclose(found["deep"], jnp.sin(2 * X), rtol=1e-6)


INSIDE = {
    "jit": lambda f: jax.jit(f),
    "remat": lambda f: jax.checkpoint(f),
    "remat of jit": lambda f: jax.checkpoint(jax.jit(f)),
    "custom_jvp": lambda f: with_jvp(f),
    "custom_vjp": lambda f: with_vjp(f),
    "cond": lambda f: lambda w, x: jax.lax.cond(x.sum() < 1e9, f, lambda w, x: 0 * f(w, x), w, x),
    "switch": lambda f: (
        lambda w, x: jax.lax.switch(1, [lambda w, x: f(w, 3 * x), f, lambda w, x: f(w, -x)], w, x)
    ),
    "scan": lambda f: (
        lambda w, x: jax.lax.scan(lambda h, _: (f(w, x) + 0 * h, None), f(w, 0 * x), length=1)[0]
    ),
    "fori": lambda f: (
        lambda w, x: jax.lax.fori_loop(0, 1, lambda _, h: f(w, x) + 0 * h, jnp.zeros((7, 5, 4)))
    ),
}


def with_jvp(f):
    g = jax.custom_jvp(f)
    g.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return g


def with_vjp(f):
    g = jax.custom_vjp(f)
    g.defvjp(lambda *given: jax.vjp(f, *given), lambda back, dy: back(dy))
    return g


@pytest.mark.parametrize("outer", [None, *INSIDE])
@pytest.mark.parametrize("inner", INSIDE)
def test_a_product_is_found_inside_every_pair_of_transformations(
    outer: str | None, inner: str
) -> None:
    leaves = (Leaf("w", (3, 4), "io", "hidden"),)
    params = drawn(leaves)
    wrapped = INSIDE[inner](lambda w, x: x @ w)
    wrapped = wrapped if outer is None else INSIDE[outer](wrapped)
    y, found = jax.jit(lambda p: trace.products(lambda p, x: wrapped(p["w"], x), leaves, p, X))(
        params
    )
    np.testing.assert_allclose(y, X @ params["w"], rtol=1e-5)
    total = found["w"]
    # scans make products of 0 beside the one that counts
    assert int(total.entries[0]) % (7 * 5 * 4) == 0
    np.testing.assert_allclose(total.squares, [jnp.sum((X @ params["w"]) ** 2)], rtol=1e-4)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_branch_that_is_not_taken_makes_no_products(taken: int) -> None:
    """Both branches use w, one of them v: each is seen where it is made, and is nothing where it is
    not."""
    leaves = (Leaf("w", (3, 4), "io", "hidden"), Leaf("v", (4, 4), "io", "hidden"))
    params = drawn(leaves)
    plain = lambda p, x: x @ p["w"]
    deep = lambda p, x: jnp.tanh(2 * x @ p["w"]) @ p["v"]
    choose = lambda p, x, which: jax.lax.cond(which == 1, deep, plain, p, x)
    watched = jax.jit(lambda p, which: trace.products(choose, leaves, p, X, which))
    y, found = watched(params, taken)
    np.testing.assert_allclose(y, (deep if taken else plain)(params, X), rtol=1e-5)
    check(found["w"], (2 if taken else 1) * X @ params["w"])
    if taken:
        check(found["v"], deep(params, X))
    else:
        assert found["v"].entries.tolist() == [0]
    gradient = jax.grad(lambda p: watched(p, taken)[0].sum())(params)
    expected = jax.grad(lambda p: choose(p, X, taken).sum())(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradient, expected)


def test_which_parameter_a_branch_returns_is_known_where_all_agree() -> None:
    leaves = (Leaf("w", (3, 4), "io", "hidden"), Leaf("v", (3, 4), "io", "hidden"))
    params = drawn(leaves)
    same = lambda p, x: x @ jax.lax.cond(x.sum() > 0, lambda w: w.T.T, lambda w: w, p["w"])
    check(trace.products(same, leaves, params, X)[1]["w"], X @ params["w"])
    either = lambda p, x: x @ jax.lax.cond(x.sum() > 0, lambda p: p["w"], lambda p: p["v"], p)
    assert trace.products(either, leaves, params, X)[1] == {}


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
    leaves = (Leaf("w", (3, 4), "io", "hidden"), Leaf("v", (4, 2), "io", "hidden"))
    params = drawn(leaves)
    function = lambda p, x: x @ moved(p["w"]).T @ rounded(p["v"])
    assert list(trace.products(function, leaves, params, X)[1]) == ["w"]
    watched = jax.grad(lambda p: trace.products(function, leaves, p, X)[0].sum())(params)
    expected = jax.grad(lambda p: function(p, X).sum())(params)
    assert watched["v"].any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), watched, expected)
