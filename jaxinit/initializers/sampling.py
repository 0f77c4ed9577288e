"""What initializers share: numbers that may be traced, casts that keep bounds, decompositions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Key, Num

from jaxinit.spec import Sample, Sampler, Spread, sampling_dtype

Number = float | np.number | Num[Array, ""]  # known, or traced


def known(*numbers: Number) -> bool:
    """Whether all of the numbers have values, and none is traced: only then can they be checked."""
    return not any(isinstance(number, Tracer) for number in numbers)


def root(x: Number) -> Number:
    """The square root of a number, known or traced."""
    return math.sqrt(x) if known(x) else jnp.sqrt(x)


def polar(modulus: Array, angle: Array) -> Array:
    """Complex numbers from their moduli and angles."""
    return jax.lax.complex(modulus * jnp.cos(angle), modulus * jnp.sin(angle))


def within(x: Array, low: Number, high: Number, includes_high: bool = True) -> Array:
    """`x`, whose cast may have rounded it over a bound, on the numbers of its dtype in [low, high],
    or in [low, high).

    Raises: ValueError where that dtype has none, if the bounds are known.
    """
    if not known(low, high):
        least = jnp.asarray(low, x.dtype)
        most = jnp.asarray(high, x.dtype)
        if not includes_high:
            most = jnp.nextafter(most, least)
        return jnp.clip(x, least, most)
    dtype = np.dtype(x.dtype)
    limits = jnp.finfo(x.dtype)
    # Infinite bounds become the largest numbers; a rounded one may lie beyond the bound itself.
    least = np.clip(low, float(limits.min), float(limits.max)).astype(dtype)
    most = np.clip(high, float(limits.min), float(limits.max)).astype(dtype)
    if float(least) < low:
        least = np.nextafter(least, np.asarray(limits.max, dtype))
    if float(most) > high or (float(most) == high and not includes_high):
        most = np.nextafter(most, np.asarray(limits.min, dtype))
    if least > most:
        raise ValueError(
            f"no {dtype} number lies between {low} and {high}; ask for a wider dtype, or bounds "
            "further apart"
        )
    return jnp.clip(x, jnp.asarray(least), jnp.asarray(most))


def real_dtype(dtype: DTypeLike, name: str) -> DTypeLike:
    """The dtype to sample a real law in. Raises: ValueError for a complex dtype, and as
    `sampling_dtype`."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"{name} draws real numbers, got dtype {jnp.dtype(dtype)}; ask for "
            f"{jnp.finfo(dtype).dtype}"
        )
    return sampling_dtype(dtype)


def check_std(std: Number, name: str) -> None:
    if known(std) and not std >= 0:
        raise ValueError(f"{name}: the standard deviation must not be negative, got {std}")


def sampled_wide(sample: Sample, law: str = "", spread: Spread | None = None) -> Sampler:
    """Sample in float32 or wider and cast last; `law` and `spread` as of a `Sampler`."""

    def wide(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return sample(key, shape, sampling_dtype(dtype)).astype(dtype)

    return Sampler(wide, law=law, spread=spread)


def one_by_one(decompose: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """A matrix decomposition that `vmap` on CPU runs matrix by matrix; elsewhere it is batched as
    usual.

    A batched LAPACK call waits for tasks of the thread pool that it runs on: a program with a dozen
    of them stops for ever on two cores (JAX 0.10). One by one costs about the same.
    """
    alone = jax.custom_batching.sequential_vmap(decompose)

    def decomposed(matrix: Array) -> Any:
        return jax.lax.platform_dependent(matrix, cpu=alone, default=decompose)

    return decomposed
