"""What every model shares: the nonlinearities, the readout, and the border where `init=` meets the parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinit.initializers import glorot_scheme
from jaxinit.introspect import Place, Training, fill, param
from jaxinit.models.bptt import ACTIVATIONS
from jaxinit.spec import Initializer, Override, Rule, Scheme


class Inits(TypedDict, total=False):
    """How a module starts: `init` is a scheme; each of the others overrides it for one role, the Flax way."""

    init: Scheme
    kernel_init: Initializer | None
    recurrent_init: Initializer | None
    readout_init: Initializer | None
    bias_init: Initializer | None
    embedding_init: Initializer | None
    position_init: Initializer | None
    query_init: Initializer | None
    key_init: Initializer | None
    value_init: Initializer | None
    attention_out_init: Initializer | None
    ffn_in_init: Initializer | None
    ffn_out_init: Initializer | None


EPSILON = 1e-5  # under the square root of a normalization
NORMS: dict[str, Callable[..., nnx.Module]] = {
    "layer": nnx.LayerNorm,
    "batch": partial(nnx.BatchNorm, momentum=0.9),
}

# The roles that each Flax-style argument decides.
ROLES = {
    "kernel_init": ("input", "hidden"),
    "recurrent_init": ("recurrent",),
    "readout_init": ("readout",),
    "bias_init": ("bias",),
} | {
    f"{role}_init": (role,)
    for role in ("embedding", "position", "query", "key", "value", "attention_out", "ffn_in", "ffn_out")
}


def start(model: nnx.Module, rngs: nnx.Rngs, roles: set[str], inits: Inits) -> None:
    """Draw the parameters of a module under construction: the last line of its constructor.

    Raises: TypeError for an argument that no role of this module answers to.
    """
    base = inits.get("init", glorot_scheme)
    overrides: dict[str, Rule | Initializer] = {}
    given: dict[str, Any] = {name: init for name, init in inits.items() if name != "init" and init is not None}
    for argument, init in given.items():
        decided = [role for role in ROLES.get(argument, ()) if role in roles]
        if not decided:
            known = ["init", *(name for name, its in ROLES.items() if roles & set(its))]
            raise TypeError(f"{type(model).__name__} takes no {argument}; it takes {', '.join(known)}")
        overrides |= dict.fromkeys(decided, init)
    fill(model, Override(base, overrides) if overrides else base, rngs.params())


def activation_named(name: str) -> Callable[[Array], Array]:
    if name not in ACTIVATIONS:
        raise ValueError(f"no activation is called {name!r}; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


def norm_named(name: str | None, features: int, rngs: nnx.Rngs, **place: Unpack[Place]) -> nnx.Module:
    """Flax's layer or batch normalization, with scale and bias under declared roles.

    Raises: ValueError for another name.
    """
    if name not in NORMS:
        raise ValueError(f"norm is {' or '.join(map(repr, NORMS))} or None, got {name!r}")
    meta = place | {"kind": "norm", "activation": "linear", "inputs": features}
    metadata = {f"{role}_metadata": {"dims": "o", "role": role, **meta} for role in ("scale", "bias")}
    return NORMS[name](features, epsilon=EPSILON, rngs=rngs, **metadata)


def normalize(norm: nnx.Module, x: Array, training: Training | None) -> Array:
    """`norm(x)`: batch normalization by the batch in training, by its running statistics in evaluation."""
    apply: Any = norm
    return apply(x, use_running_average=training is None) if isinstance(norm, nnx.BatchNorm) else apply(x)


def dropped(x: Float[Array, "..."], training: Training | None, place: int) -> Float[Array, "..."]:
    """`x` with entries put to 0 with the probability of `training`, the others scaled to keep the mean.

    `place` tells one use in a step from another. Source: Srivastava et al. (2014), in its inverted form.
    """
    if training is None or training.key is None:
        return x
    kept = jax.random.bernoulli(jax.random.fold_in(training.key, place), 1 - training.dropout, x.shape)
    return jnp.where(kept, x / jnp.asarray(1 - training.dropout, x.dtype), 0)


class Dense(nnx.Module):
    """y = x W + b, with W `[inputs, outputs]`, under a declared role."""

    def __init__(self, in_features: int, out_features: int, role: str, **place: Unpack[Place]):
        self.kernel = param((in_features, out_features), "io", role, **place)
        self.bias = param((out_features,), "o", "bias", **(place | {"inputs": in_features, "partner": role}))

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        y = x @ self.kernel[...]
        return y + jnp.broadcast_to(self.bias[...], y.shape)
