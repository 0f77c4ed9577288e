"""Leaves of residual networks, of this package's kind and of Flax's own layers, and what schemes
say of them."""

from functools import cache

import jax
import numpy as np
from flax import nnx

from jaxinit import introspect
from jaxinit.introspect import functional
from jaxinit.models import Transformer
from jaxinit.spec import Leaf, Scheme, draw, rules

V, D, L = 50, 64, 6


KEY = jax.random.key(0)


@cache
def leaves(width: int = D, layers: int = L, **options) -> tuple[Leaf, ...]:
    return functional(
        lambda: Transformer(V, width, V, layers=layers, length=40, rngs=nnx.Rngs(0), **options)
    ).leaves


@cache
def drawn(scheme: Scheme, of: tuple[Leaf, ...]) -> dict[str, np.ndarray]:
    """All parameters, drawn once however many roles are looked at."""
    return {name: np.asarray(w) for name, w in draw(scheme, KEY, of).items()}


def std(scheme: Scheme, role: str, of: tuple[Leaf, ...] | None = None) -> float:
    """The standard deviation over all parameters of a role."""
    of = of or leaves()
    by_name = drawn(scheme, of)
    entries = [np.ravel(by_name[leaf.name]) for leaf in of if leaf.role == role]
    return float(np.concatenate(entries).std())


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


@cache
def blocks() -> Blocks:
    """Blocks of shapes: tracing them anew for every declaration took half of these tests' time."""
    return nnx.eval_shape(lambda: Blocks(12))


def declared(**said) -> tuple[Leaf, ...]:
    return introspect.leaves(introspect.declare(nnx.clone(blocks()), **said))


def scales(scheme: Scheme, of: tuple[Leaf, ...]) -> dict[str, tuple[float, float, float]]:
    """Multiplier, rate scale and decay of every role, and of every bias by its name."""
    by_name = rules(scheme, of)
    scaled = {}
    for leaf in of:
        rule = by_name[leaf.name]
        place = f"bias of {leaf.name}" if leaf.role == "bias" else leaf.role
        scaled[place] = (rule.multiplier, rule.lr_scale, rule.lr_scale * rule.wd_scale)
    return scaled
