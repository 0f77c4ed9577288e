"""Faults of today's libraries that touch a network's initialization: the library's figure, the
law's, and ours, side by side.

    .venv/bin/python scripts/pitfalls.py

Every figure is drawn here and now with the installed releases (JAX and Flax; Keras where it is
installed with a PyTorch backend), so a fault that a release has mended shows as mended. Rows
without a library figure say why.
"""

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxinit import initializers, spec
from jaxinit.models import GRU, LSTM
from jaxinit.schemes import SCHEMES
from jaxinit.spec import Leaf, along, draw

H = 128


class Row(NamedTuple):
    """One comparison; `theirs` is None where the library's figure cannot be had here, and `note`
    says why."""

    fault: str
    library: str
    measured: str
    law: float
    theirs: float | None
    ours: float
    note: str = ""


def mean_singular_value(w: Any) -> float:
    """The mean over all matrices of a stack: 1 for orthogonal ones, 8 / (3 pi) for wide Gaussian
    ones of variance 1/n."""
    singular_values = np.linalg.svd(np.asarray(w, np.float32), compute_uv=False)
    return float(singular_values.mean())


def std(w: Any) -> float:
    return float(np.std(np.asarray(w)))


def by_gate(kernel: np.ndarray, gates: int) -> np.ndarray:
    """A kernel that is stored with its gates side by side, as `[gate, n, n]`."""
    n = kernel.shape[0]
    return kernel.reshape(n, gates, n).swapaxes(0, 1)


def keras_kernel(keras: Any, n: int, **options: Any) -> np.ndarray:
    """The recurrent kernel of a Keras LSTM of n units, by gate."""
    layer = keras.layers.LSTM(n, **options)
    layer.build((None, 2, n))
    return by_gate(layer.weights[1].value.detach().numpy(), 4)


def fused_gates() -> Iterator[Row]:
    """Orthogonal as one matrix for all gates is not orthogonal by gate."""

    def ours(make: Any) -> float:
        model = make(H, H, 2, recurrent_init=initializers.orthogonal(), rngs=nnx.Rngs(0))
        return mean_singular_value(model.layers[0].recurrent[...])

    fault, measured = "gates drawn as one", "mean singular value of a gate"
    for name, cell, gates, make in (
        ("nnx.GRUCell", nnx.GRUCell, 3, GRU),
        ("nnx.OptimizedLSTMCell", nnx.OptimizedLSTMCell, 4, LSTM),
    ):
        kernel = np.asarray(cell(H, H, rngs=nnx.Rngs(0)).dense_h.kernel[...])
        theirs = mean_singular_value(by_gate(kernel, gates))
        yield Row(fault, name, measured, 1.0, theirs, ours(make))
    keras = keras_if_there()
    if keras is not None:
        theirs = mean_singular_value(keras_kernel(keras, H))
        yield Row(fault, "keras.layers.LSTM", measured, 1.0, theirs, ours(LSTM))


def narrow_sampling() -> Iterator[Row]:
    """Gaussian numbers drawn in bfloat16 have a mean; in a ReLU net the signal shows it."""
    fault, library = "sampled in bfloat16", "jax.nn.initializers.he_normal"
    their_he, our_he = jax.nn.initializers.he_normal(), initializers.he()
    key = jax.random.key(0)

    def error(draw: Callable) -> float:
        # Of many numbers, so that a mean of a thousandth of their spread shows.
        w = draw(key, (4096, 4096), jnp.bfloat16).astype(jnp.float32)
        return float(jnp.mean(w) / jnp.std(w) * math.sqrt(w.size))

    measured = "mean / its standard error, bfloat16"
    yield Row(fault, library, measured, 0.0, error(their_he), error(our_he))

    def signal(draw: Callable) -> float:
        x = jax.random.normal(jax.random.key(9), (64, 1024))
        for k in range(12):
            w = draw(jax.random.fold_in(key, k), (1024, 1024), jnp.bfloat16).astype(jnp.float32)
            x = jax.nn.relu(x @ w)
        return float(jnp.sqrt(jnp.mean(x**2)))

    def wide(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        return their_he(key, shape, jnp.float32)

    # The law is the library's own in float32.
    measured = "RMS after 12 ReLU layers of 1024"
    yield Row(fault, library, measured, signal(wide), signal(their_he), signal(our_he))


def narrow_orthogonal() -> Iterator[Row]:
    """JAX decomposes no matrix of bfloat16."""
    fault, library = "no QR in bfloat16", "jax.nn.initializers.orthogonal"
    measured = "mean singular value, bfloat16"
    wanted = jax.random.key(0), (H, H), jnp.bfloat16
    ours = mean_singular_value(initializers.orthogonal()(*wanted))
    theirs, note = None, ""
    try:
        theirs = mean_singular_value(jax.nn.initializers.orthogonal()(*wanted))
    except NotImplementedError as error:
        note = f"raises {type(error).__name__}: {str(error).splitlines()[0]}"
    yield Row(fault, library, measured, 1.0, theirs, ours, note)


def copies_in_a_fan() -> Iterator[Row]:
    """Axes that count independent copies enter a fan by their position."""
    key, measured = jax.random.key(0), "std of a kernel"
    their_lecun = jax.nn.initializers.lecun_normal()
    our_lecun = initializers.lecun("truncated_normal")

    def ours(dims: str, shape: tuple[int, ...]) -> float:
        return std(along(dims, our_lecun)(key, shape))

    layer = nnx.LinearGeneral(64, 256, batch_axis={0: 16}, rngs=nnx.Rngs(0))
    kernel = layer.kernel[...]
    fault, library, law = "batch axis in the fan", "nnx.LinearGeneral", 1 / math.sqrt(64)
    yield Row(fault, library, measured, law, std(kernel), ours(".io", kernel.shape))

    shape = (12, H, H)
    fault, library, law = "stack in the fan", "jax lecun_normal (L, D, D)", 1 / math.sqrt(H)
    yield Row(fault, library, measured, law, std(their_lecun(key, shape)), ours(".io", shape))
    yield orthogonal_stack(key, shape)

    shape = (256, 8, 32)
    fault, library, law = "heads in the fan", "jax lecun_normal (D, H, Dh)", 1 / math.sqrt(256)
    yield Row(fault, library, measured, law, std(their_lecun(key, shape)), ours("i.o", shape))
    yield depthwise(key)


def orthogonal_stack(key: Any, shape: tuple[int, int, int]) -> Row:
    """A stack drawn as one matrix is orthogonal as a whole, not block by block."""
    theirs = jax.nn.initializers.orthogonal()(key, shape)
    ours = along(".io", initializers.orthogonal())(key, shape)
    return Row(
        "stack in the fan",
        "jax orthogonal (L, D, D)",
        "mean singular value of a block",
        1.0,
        mean_singular_value(theirs),
        mean_singular_value(ours),
    )


def depthwise(key: Any) -> Row:
    """Of 64 groups a kernel's outputs are those of one: its fan out is 9, not 9 x 64."""
    conv = nnx.Conv(
        64,
        64,
        (3, 3),
        feature_group_count=64,
        kernel_init=jax.nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
        rngs=nnx.Rngs(0),
    )
    he_out = initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
    grouped = std(along("ww.io", he_out)(key, (3, 3, 64, 1, 1)))
    return Row(
        "groups in the fan out",
        "nnx.Conv, depthwise",
        "std, He by fan out",
        math.sqrt(2 / 9),
        std(conv.kernel[...]),
        grouped,
    )


def identity_by_gate() -> Iterator[Row]:
    """The identity of one matrix for all gates is that of its first gate; the others are 0."""
    fault, measured = "identity in one gate", "share of gates that have an identity"
    n = 64

    def share(kernel: Any) -> float:
        return float(np.mean([np.allclose(gate, np.eye(n)) for gate in np.asarray(kernel)]))

    leaf = Leaf("u", (4, n, n), ".io", "recurrent", gate=("i", "f", "g", "o"))
    ours = share(draw(SCHEMES["identity"], jax.random.key(0), [leaf])["u"])
    keras = keras_if_there()
    theirs, note = None, "Keras is not installed"
    if keras is not None:
        theirs, note = share(keras_kernel(keras, n, recurrent_initializer="identity")), ""
    yield Row(fault, "keras.layers.LSTM", measured, 1.0, theirs, ours, note)


def haar() -> Iterator[Row]:
    """QR of a Gaussian matrix without the sign fix is orthogonal, and not Haar."""
    shape = (8, 8)
    orthogonal = initializers.orthogonal()
    keys = jax.random.split(jax.random.key(0), 20_000)

    def their_trace(key: Any) -> Any:
        q, _ = jnp.linalg.qr(jax.random.normal(key, shape))
        return jnp.trace(q)

    def our_trace(key: Any) -> Any:
        return jnp.trace(orthogonal(key, shape))

    theirs = float(jax.vmap(their_trace)(keys).mean())
    ours = float(jax.vmap(our_trace)(keys).mean())
    yield Row("QR without signs", "jnp.linalg.qr", "E[trace], n = 8", 0.0, theirs, ours)


def rules_that_match_nothing() -> Iterator[Row]:
    """A rule by name that no parameter has is a mistake, and draws something all the same."""
    leaves = [
        Leaf("blocks.0.proj", (64, 64), "io", "ffn_out"),
        Leaf("blocks.0.proj_bias", (64,), "o", "bias"),
    ]
    meant = initializers.normal(0.02 / math.sqrt(24))
    scheme = spec.Override(SCHEMES["small_normal"], {"*.c_proj": meant})
    try:
        draw(scheme, jax.random.key(0), leaves)
        refused = 0.0
    except ValueError:
        refused = 1.0
    note = (
        "a library whose rule goes by a name that no module has draws without it, and says nothing"
    )
    yield Row(
        "a rule that matches nothing",
        "rules by name",
        "refused (1) or ignored (0)",
        1.0,
        None,
        refused,
        note,
    )


PITFALLS = (
    fused_gates,
    narrow_sampling,
    narrow_orthogonal,
    copies_in_a_fan,
    identity_by_gate,
    haar,
    rules_that_match_nothing,
)


def keras_if_there() -> Any:
    """Keras on PyTorch, or None where either is not installed."""
    if importlib.util.find_spec("keras") is None or importlib.util.find_spec("torch") is None:
        return None
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return importlib.import_module("keras")


def main() -> None:
    print(f"{'fault':28} {'library':30} {'measured':36} {'law':>8} {'theirs':>8} {'ours':>8}")
    for pitfall in PITFALLS:
        for row in pitfall():
            theirs = "-" if row.theirs is None else f"{row.theirs:.4g}"
            print(
                f"{row.fault:28} {row.library:30} {row.measured:36} {row.law:8.4g} {theirs:>8} "
                f"{row.ours:8.4g}"
            )
            if row.note:
                print(f"{'':28} {row.note}")


if __name__ == "__main__":
    main()
