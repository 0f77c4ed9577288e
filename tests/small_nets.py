"""Leaves of small networks of every kind in `MODELS`."""

from functools import cache

from flax import nnx

from jaxinit.introspect import functional
from jaxinit.models import MODELS
from jaxinit.spec import Leaf

SIZES = (48, 64, 16)


@cache
def leaves_of(model: str, sizes: tuple[int, int, int] = SIZES, layers: int = 2) -> tuple[Leaf, ...]:
    return functional(lambda: MODELS[model](*sizes, layers=layers, rngs=nnx.Rngs(0))).leaves
