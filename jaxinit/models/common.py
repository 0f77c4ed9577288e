"""What every model shares: the nonlinearities, the readout, and the border where `init=` meets the parameters."""

from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinit.initializers import glorot_scheme
from jaxinit.introspect import Place, fill, param
from jaxinit.models.bptt import ACTIVATIONS
from jaxinit.spec import Initializer, Override, Rule, Scheme


class Inits(TypedDict, total=False):
    """How a module starts: `init` is a scheme; each of the others overrides it for one role, the Flax way."""

    init: Scheme
    kernel_init: Initializer | None
    recurrent_init: Initializer | None
    readout_init: Initializer | None
    bias_init: Initializer | None


# The roles that each Flax-style argument decides.
ROLES = {
    "kernel_init": ("input", "hidden"),
    "recurrent_init": ("recurrent",),
    "readout_init": ("readout",),
    "bias_init": ("bias",),
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


class Dense(nnx.Module):
    """y = x W + b, with W `[inputs, outputs]`, under a declared role."""

    def __init__(self, in_features: int, out_features: int, role: str, **place: Unpack[Place]):
        self.kernel = param((in_features, out_features), "io", role, **place)
        self.bias = param((out_features,), "o", "bias", **(place | {"inputs": in_features}))

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        y = x @ self.kernel[...]
        return y + jnp.broadcast_to(self.bias[...], y.shape)
