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
    return float(np.linalg.svd(np.asarray(w, np.float32), compute_uv=False).mean())


def fused_gates() -> Iterator[Row]:
    """Orthogonal as one matrix for all gates is not orthogonal by gate."""
    ours = lambda make: (
        make(H, H, 2, recurrent_init=initializers.orthogonal(), rngs=nnx.Rngs(0))
        .layers[0]
        .recurrent
    )
    for name, cell, gates, make in (
        ("nnx.GRUCell", nnx.GRUCell, 3, GRU),
        ("nnx.OptimizedLSTMCell", nnx.OptimizedLSTMCell, 4, LSTM),
    ):
        kernel = np.asarray(cell(H, H, rngs=nnx.Rngs(0)).dense_h.kernel[...])
        theirs = kernel.reshape(H, gates, H).swapaxes(0, 1)
        what = "mean singular value of a gate"
        yield Row(
            "gates drawn as one",
            name,
            what,
            1.0,
            mean_singular_value(theirs),
            mean_singular_value(ours(make)[...]),
        )
    keras = keras_if_there()
    if keras is not None:
        layer = keras.layers.LSTM(H)
        layer.build((None, 2, H))
        theirs = layer.weights[1].value.detach().numpy().reshape(H, 4, H).swapaxes(0, 1)
        mine = mean_singular_value(ours(LSTM)[...])
        yield Row(
            "gates drawn as one", "keras.layers.LSTM", what, 1.0, mean_singular_value(theirs), mine
        )


def narrow_sampling() -> Iterator[Row]:
    """Gaussian numbers drawn in bfloat16 have a mean; in a ReLU net the signal shows it."""
    shape = (4096, 4096)
    key = jax.random.key(0)
    error = lambda w: float(
        jnp.mean(w.astype(jnp.float32)) / jnp.std(w.astype(jnp.float32)) * math.sqrt(w.size)
    )
    theirs = jax.nn.initializers.he_normal()(key, shape, jnp.bfloat16)
    ours = initializers.he()(key, shape, jnp.bfloat16)
    what = "mean / its standard error, bfloat16"
    yield Row(
        "sampled in bfloat16",
        "jax.nn.initializers.he_normal",
        what,
        0.0,
        error(theirs),
        error(ours),
    )

    def signal(draw: Callable) -> float:
        x = jax.random.normal(jax.random.key(9), (64, 1024))
        for k in range(12):
            w = draw(jax.random.fold_in(key, k), (1024, 1024), jnp.bfloat16).astype(jnp.float32)
            x = jax.nn.relu(x @ w)
        return float(jnp.sqrt(jnp.mean(x**2)))

    what = "RMS after 12 ReLU layers of 1024"
    wide = lambda key, shape, dtype: jax.nn.initializers.he_normal()(key, shape, jnp.float32)
    theirs, ours = signal(jax.nn.initializers.he_normal()), signal(initializers.he())
    yield Row(
        "sampled in bfloat16", "jax.nn.initializers.he_normal", what, signal(wide), theirs, ours
    )


def narrow_orthogonal() -> Iterator[Row]:
    what = "mean singular value, bfloat16"
    mine = mean_singular_value(initializers.orthogonal()(jax.random.key(0), (H, H), jnp.bfloat16))
    try:
        theirs = mean_singular_value(
            jax.nn.initializers.orthogonal()(jax.random.key(0), (H, H), jnp.bfloat16)
        )
        note = ""
    except NotImplementedError as error:
        theirs, note = None, f"raises {type(error).__name__}: {str(error).splitlines()[0]}"
    yield Row("no QR in bfloat16", "jax.nn.initializers.orthogonal", what, 1.0, theirs, mine, note)


def copies_in_a_fan() -> Iterator[Row]:
    """Axes that count independent copies enter a fan by their position."""
    std = lambda w: float(np.std(np.asarray(w)))
    key, lecun, mine = (
        jax.random.key(0),
        jax.nn.initializers.lecun_normal(),
        initializers.lecun("truncated_normal"),
    )
    ours = lambda dims, shape: std(along(dims, mine)(key, shape))
    layer = nnx.LinearGeneral(64, 256, batch_axis={0: 16}, rngs=nnx.Rngs(0))
    shape = layer.kernel[...].shape
    law = 1 / math.sqrt(64)
    yield Row(
        "batch axis in the fan",
        "nnx.LinearGeneral",
        "std of a kernel",
        law,
        std(layer.kernel[...]),
        ours(".io", shape),
    )
    shape, law = (12, H, H), 1 / math.sqrt(H)
    yield Row(
        "stack in the fan",
        "jax lecun_normal (L, D, D)",
        "std of a kernel",
        law,
        std(lecun(key, shape)),
        ours(".io", shape),
    )
    blocks = jax.nn.initializers.orthogonal()(key, shape)
    mine_blocks = along(".io", initializers.orthogonal())(key, shape)
    what = "mean singular value of a block"
    of_blocks = mean_singular_value(blocks), mean_singular_value(mine_blocks)
    yield Row("stack in the fan", "jax orthogonal (L, D, D)", what, 1.0, *of_blocks)
    shape, law = (256, 8, 32), 1 / math.sqrt(256)
    yield Row(
        "heads in the fan",
        "jax lecun_normal (D, H, Dh)",
        "std of a kernel",
        law,
        std(lecun(key, shape)),
        ours("i.o", shape),
    )
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
    yield Row(
        "groups in the fan out",
        "nnx.Conv, depthwise",
        "std, He by fan out",
        math.sqrt(2 / 9),
        std(conv.kernel[...]),
        grouped,
    )


def identity_by_gate() -> Iterator[Row]:
    what = "share of gates that have an identity"
    ours = draw(
        SCHEMES["identity"],
        jax.random.key(0),
        [Leaf("u", (4, 64, 64), ".io", "recurrent", gate=("i", "f", "g", "o"))],
    )
    filled = lambda w_gnn: float(np.mean([np.allclose(w, np.eye(64)) for w in np.asarray(w_gnn)]))
    keras, theirs, note = keras_if_there(), None, "Keras is not installed"
    if keras is not None:
        layer = keras.layers.LSTM(64, recurrent_initializer="identity")
        layer.build((None, 2, 64))
        theirs, note = (
            filled(layer.weights[1].value.detach().numpy().reshape(64, 4, 64).swapaxes(0, 1)),
            "",
        )
    yield Row(
        "identity in one gate", "keras.layers.LSTM", what, 1.0, theirs, filled(ours["u"]), note
    )


def haar() -> Iterator[Row]:
    """QR of a Gaussian matrix without the sign fix is orthogonal, and not Haar."""
    n, draws = 8, 20_000
    keys = jax.random.split(jax.random.key(0), draws)
    plain = jax.vmap(lambda k: jnp.trace(jnp.linalg.qr(jax.random.normal(k, (n, n)))[0]))(keys)
    ours = jax.vmap(lambda k: jnp.trace(initializers.orthogonal()(k, (n, n))))(keys)
    yield Row(
        "QR without signs",
        "jnp.linalg.qr",
        "E[trace], n = 8",
        0.0,
        float(plain.mean()),
        float(ours.mean()),
    )


def rules_that_match_nothing() -> Iterator[Row]:
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
