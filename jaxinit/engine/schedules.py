"""The course of the learning rate over a trial's budget: a factor for every step.

share of the budget that warms up, steps -> factor of the rate
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# What is left of the rate after a share of the steps that follow the warm-up.
Decay = Callable[[Array], Array]
DECAYS: dict[str, Decay] = {
    "constant": jnp.ones_like,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + jnp.cos(jnp.pi * share)) / 2,
}


def factor(
    schedule: str,
    step: Int[Array, "..."],
    steps: Int[Array, ""],
    warmup: Float[Array, ""],
) -> Float[Array, "..."]:
    """The factor of the learning rate at a step, counted from 0, of a budget of `steps`.

    With w = max(warmup steps, 1), t = step + 1 and u = (step - w) / (steps - w), 0 before:
    min(t / w, 1) times 1 (constant), 1 - u (linear), (1 + cos(pi u)) / 2 (cosine) or
    sqrt(w / max(t, w)) (inverse_sqrt). The schedule is that of the budget: a trial that converges
    has not come to its end.
    Shapes: step `[...]` and the result; units: `warmup` is a share of `steps`.
    Source: Vaswani et al. (2017), eq. 3, for inverse_sqrt; Loshchilov & Hutter (2017), eq. 5, for
    cosine, without restarts.
    """
    done, all_steps = step.astype(jnp.float32), steps.astype(jnp.float32)
    warm = jnp.maximum(warmup * all_steps, 1.0)
    count = done + 1.0
    rise = jnp.minimum(count / warm, 1.0)
    if schedule == "inverse_sqrt":
        return rise * jnp.sqrt(warm / jnp.maximum(count, warm))
    share = jnp.clip((done - warm) / jnp.maximum(all_steps - warm, 1.0), 0.0, 1.0)
    return rise * DECAYS[schedule](share)
