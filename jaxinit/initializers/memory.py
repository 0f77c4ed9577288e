"""Laws of how long a unit remembers: poles, decays and time steps of linear recurrences, biases of
gates.

Each is drawn as the number that a model keeps of it: a logarithm, a logit, or what a softplus makes
a time step of. How long memory lasts is said by `theory.half_life` and the functions beside it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxinit.initializers.sampling import Number, known, real_dtype, within
from jaxinit.spec import Joint, Sampler


def log_decay(low: Number, high: Number) -> Sampler:
    """log(-log |l|) for |l|^2 uniform on [low^2, high^2]: the radii of the poles of a diagonal
    recurrence.

    Shapes: any; dtypes: real, kept in [log(-log high), log(-log low)] by the cast.
    Raises: ValueError unless 0 <= low < high < 1. Source: Orvieto et al. (2023), lemma 3.2.
    """
    if known(low, high) and not 0 <= low < high < 1:
        raise ValueError(f"log_decay needs radii 0 <= low < high < 1, got low={low}, high={high}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "log_decay")
        least = jnp.asarray(low**2, wide)
        span = jnp.asarray(high**2 - low**2, wide)
        square = jax.random.uniform(key, shape, wide) * span + least
        # Radii below 1e-6, whose logarithm may be infinite, become 1e-6.
        log_radius = 0.5 * jnp.log(jnp.maximum(square, 1e-12))
        drawn = jnp.log(-log_radius).astype(dtype)
        if not known(low, high):
            return drawn
        slowest = math.log(-math.log(high))
        fastest = math.log(-math.log(max(low, 1e-6)))
        return within(drawn, slowest, fastest)

    return Sampler(init)


def log_phase(most: Number = 2 * math.pi) -> Sampler:
    """log(t) for t uniform on (0, most]: the angles of the poles of a diagonal recurrence.

    Shapes: any; dtypes: real, kept at or below log(most) by the cast.
    Raises: ValueError for a `most` that is not positive. Source: Orvieto et al. (2023), lemma 3.2.
    """
    if known(most) and not most > 0:
        raise ValueError(f"log_phase needs a positive angle, got {most}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "log_phase")
        share = 1 - jax.random.uniform(key, shape, wide)  # in (0, 1], whose logarithm is finite
        drawn = jnp.log(jnp.asarray(most, wide) * share).astype(dtype)
        if not known(most):
            return drawn
        return within(drawn, -math.inf, math.log(most))

    return Sampler(init)


def decay_logit(low: Number = 0.9, high: Number = 0.999, power: Number = 8.0) -> Sampler:
    """L with a = sigmoid(L) and a^power on the ring: (a^power)^2 uniform on [low^2, high^2].

    log a = log(u (high^2 - low^2) + low^2) / (2 power), with u uniform on [0, 1); L = log a - log(1
    - a). A unit of an RG-LRU whose recurrence gate is r decays by a^(8 r) a step.
    Shapes: any; dtypes: real, kept between the logits of low^(1/power) and high^(1/power) by the
    cast.
    Raises: ValueError unless 0 < low < high < 1 and power > 0.
    Source: De et al. (2024), Griffin, section 2.4: a^8 between 0.9 and 0.999. Their code
    (recurrentgemma 1.0.1, commit 2efa84d, `rnn_real_param_init`) has a itself there, `power=1`, so
    that memory fades 8 times as fast; it keeps -L, and a^2 1e-8 larger.
    """
    if known(low, high) and not 0 < low < high < 1:
        raise ValueError(f"decay_logit needs decays 0 < low < high < 1, got low={low}, high={high}")
    if known(power) and not power > 0:
        raise ValueError(f"decay_logit needs a positive power, got {power}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "decay_logit")
        least = jnp.asarray(low**2, wide)
        span = jnp.asarray(high**2 - low**2, wide)
        square = jax.random.uniform(key, shape, wide) * span + least
        log_decay = jnp.log(square) / jnp.asarray(2 * power, wide)
        # 1 - a by expm1: a is so near 1 that the difference would have few digits left.
        drawn = (log_decay - jnp.log(-jnp.expm1(log_decay))).astype(dtype)
        if not known(low, high, power):
            return drawn
        return within(drawn, _logit(low ** (1 / power)), _logit(high ** (1 / power)))

    return Sampler(init)


def _logit(share: Number) -> float:
    return math.log(share) - math.log1p(-share)


def inverse_softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """b with log(1 + e^b) = x, for positive x: x + log(1 - e^-x), which small x do not cancel in.

    Of a logarithm it makes something else: b = log x + log(1 - e^-x) is about 2 log x, so that the
    softplus gives x^2.
    """
    return x + jnp.log(-jnp.expm1(-x))


def time_steps(low: Number = 1e-3, high: Number = 0.1, floor: Number = 1e-4) -> Sampler:
    """The bias behind a softplus for log-uniform time steps: b with softplus(b) = max(dt, floor),
    log dt uniform.

    log dt = u (log high - log low) + log low, with u uniform on [0, 1); b = dt + log(1 - e^-dt).
    Shapes: any; dtypes: real, kept between the biases of the bounds by the cast. Units: dt is in
    steps, so that a unit of rate A forgets as e^(-A dt) a step.
    Raises: ValueError unless 0 < low < high, and 0 <= floor < high.
    Source: Gu & Dao (2023), Mamba, section 3.6, and the code (dt_min, dt_max, dt_init_floor) of
    Mamba, Mamba-2 and Mamba-3 (mamba_ssm, commit e9594ce, 2026-07-23) and of gated DeltaNet
    (NVlabs, commit 5ddd1e4, 2025-03-17).
    """
    if known(low, high) and not 0 < low < high:
        raise ValueError(f"time_steps needs steps 0 < low < high, got low={low}, high={high}")
    if known(floor, high) and not 0 <= floor < high:
        raise ValueError(f"time_steps needs 0 <= floor < high, got floor={floor}, high={high}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "time_steps")
        least = jnp.log(jnp.asarray(low, wide))
        span = jnp.log(jnp.asarray(high, wide)) - least
        dt = jnp.exp(jax.random.uniform(key, shape, wide) * span + least)
        drawn = inverse_softplus(jnp.maximum(dt, jnp.asarray(floor, wide))).astype(dtype)
        if not known(low, high, floor):
            return drawn
        shortest, longest = max(low, floor), high
        return within(drawn, math.log(math.expm1(shortest)), math.log(math.expm1(longest)))

    return Sampler(init)


def log_rate(low: Number = 1.0, high: Number = 16.0) -> Sampler:
    """log A for A uniform on [low, high): the rates at which the units of a recurrence forget.

    Shapes: any; dtypes: real, kept in [log low, log high] by the cast. Units: 1 / time; a unit
    forgets as e^(-A dt) in a step of time dt.
    Raises: ValueError unless 0 < low < high.
    Source: Dao & Gu (2024), Mamba-2, A_init_range in its code (mamba_ssm, commit e9594ce,
    2026-07-23). Gated DeltaNet's code (NVlabs, commit 5ddd1e4, 2025-03-17) has U[0, 16), whose
    logarithm has no lower bound: units that forget nothing are among them.
    """
    if known(low, high) and not 0 < low < high:
        raise ValueError(f"log_rate needs rates 0 < low < high, got low={low}, high={high}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "log_rate")
        rate = jax.random.uniform(key, shape, wide, low, high)
        drawn = jnp.log(rate).astype(dtype)
        if not known(low, high):
            return drawn
        return within(drawn, math.log(low), math.log(high))

    return Sampler(init)


def s4d_real() -> Sampler:
    """log n for n = 1 to N: the rates of the N states of a channel, the eigenvalues of HiPPO-LegS.

    A_n = -n, the same for every channel; nothing is random.
    Shapes: `(..., N)`; dtypes: real. Source: Gu et al. (2022), S4D-Real; Gu & Dao (2023), Mamba,
    section 3.6, and its code (mamba_ssm, commit e9594ce, `mamba_simple.py`).
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        return _over_states(np.log(_states(shape) + 1), shape, dtype, "s4d_real")

    return Sampler(init)


def s4d_lin() -> Sampler:
    """pi n for n = 0 to N - 1: the imaginary parts of the poles A_n = -1/2 + i pi n, Fourier's
    frequencies.

    Shapes: `(..., N)`, N the poles that are kept, one of each conjugate pair; dtypes: real. Nothing
    is random. Source: Gu et al. (2022), S4D-Lin, and its code (state-spaces/s4, commit e757cef,
    `dplr`).
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        return _over_states(math.pi * _states(shape), shape, dtype, "s4d_lin")

    return Sampler(init)


def s4d_inv() -> Sampler:
    """(M / pi) (M / (2 n + 1) - 1) for n = 0 to N - 1, M = 2 N: the imaginary parts of the poles
    A_n = -1/2 + i ..., the highest of which are those of HiPPO-LegS.

    Shapes: `(..., N)`, N the poles that are kept, one of each conjugate pair, of a state of size M;
    dtypes: real. Nothing is random. Source: Gu et al. (2022), S4D-Inv, and its code
    (state-spaces/s4, commit e757cef, `dplr`).
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        n = _states(shape)
        size = 2 * len(n)
        frequencies = size / math.pi * (size / (2 * n + 1) - 1)
        return _over_states(frequencies, shape, dtype, "s4d_inv")

    return Sampler(init)


def _states(shape: tuple[int, ...]) -> np.ndarray:
    """0 to N - 1 in float64, N the last axis."""
    return np.arange(shape[-1], dtype=np.float64)


def _over_states(values: np.ndarray, shape: tuple[int, ...], dtype: DTypeLike, name: str) -> Array:
    """What is the same for every channel, cast last."""
    wide = real_dtype(dtype, name)
    return jnp.broadcast_to(jnp.asarray(values, wide), shape).astype(dtype)


def xlstm_biases(
    gates: tuple[str, ...], low: Number = 3.0, high: Number = 6.0, std: Number = 0.1
) -> Joint:
    """Forget biases evenly from `low` to `high` over the units, input biases N(0, std^2), others 0.

    The b-th of n forget biases is low + (high - low) b / (n - 1): a unit keeps a share sigmoid(3) =
    0.953 to sigmoid(6) = 0.998 of its state a step.
    Shapes: `(gates, units)`; dtypes: real. Raises: ValueError for gates without forget and input.
    Source: Beck et al. (2024), xLSTM, and its code (xlstm 2.0.6, `mLSTMCell.reset_parameters`),
    where the units are heads and the kernels of these gates are 0. Departure: their input gate is
    an exponential, and sees the bias as its logarithm.
    """
    missing = [gate for gate in ("forget", "input") if gate not in gates]
    if missing:
        raise ValueError(
            f"xlstm_biases needs a forget and an input gate, got {', '.join(gates) or 'none'}; use "
            "it for an LSTM"
        )

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "xlstm_biases")
        rows = {
            "forget": jnp.linspace(low, high, shape[-1], dtype=wide),
            "input": jnp.asarray(std, wide) * jax.random.normal(key, shape[1:], wide),
        }
        zeros = jnp.zeros(shape[1:], wide)
        by_gate = [jnp.broadcast_to(rows.get(gate, zeros), shape[1:]) for gate in gates]
        return jnp.stack(by_gate).astype(dtype)

    return Joint(init)
