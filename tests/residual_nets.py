"""Leaves of residual networks, of this package's kind and of Flax's own layers, and what schemes
say of them."""

import jax
import numpy as np
from flax import nnx

from jaxinit import introspect
from jaxinit.introspect import functional
from jaxinit.models import Transformer
from jaxinit.spec import Leaf, draw, rules

V, D, L = 50, 64, 6


KEY = jax.random.key(0)


def leaves(width: int = D, layers: int = L, **options) -> tuple[Leaf, ...]:
    return functional(
        lambda: Transformer(V, width, V, layers=layers, length=40, rngs=nnx.Rngs(0), **options)
    ).leaves


def std(scheme, role: str, of: tuple[Leaf, ...] | None = None) -> float:
    """The standard deviation over all parameters of a role."""
    of = of or leaves()
    drawn = draw(scheme, KEY, of)
    return float(
        np.concatenate([np.ravel(drawn[leaf.name]) for leaf in of if leaf.role == role]).std()
    )


class Blocks(nnx.Module):
    """Attention and feed-forward layers of Flax's own, whose depth and whose roles it cannot
    know."""

    def __init__(self, blocks: int):
        rngs = nnx.Rngs(0)
        self.blocks = nnx.List(
            [
                nnx.Dict(
                    attention=nnx.MultiHeadAttention(4, D, decode=False, rngs=rngs),
                    up=nnx.Linear(D, 4 * D, rngs=rngs),
                    down=nnx.Linear(4 * D, D, rngs=rngs),
                )
                for _ in range(blocks)
            ]
        )
        self.head = nnx.Linear(D, V, rngs=rngs)


FEED = {"*.up": "ffn_in", "*.down": "ffn_out"}


def declared(**said) -> tuple[Leaf, ...]:
    return introspect.leaves(introspect.declare(nnx.eval_shape(lambda: Blocks(12)), **said))


def scales(scheme, of: tuple[Leaf, ...]) -> dict[str, tuple[float, float, float]]:
    found = rules(scheme, of)
    return {
        leaf.role if leaf.role != "bias" else f"bias of {leaf.name}": (
            found[leaf.name].multiplier,
            found[leaf.name].lr_scale,
            found[leaf.name].lr_scale * found[leaf.name].wd_scale,
        )
        for leaf in of
    }
