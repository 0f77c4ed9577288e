"""The multilayer perceptron."""

import math
from itertools import pairwise
from typing import Literal, SupportsIndex, Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from jaxinit.introspect import Place, Training
from jaxinit.models.common import (
    Dense,
    Inits,
    activation_named,
    dropped,
    dtype_of,
    norm_named,
    normalize,
    sizes,
    start,
)


class MLP(nnx.Module):
    """A multilayer perceptron on flattened inputs.

    h_0 = x; h_l = phi(z_l), z_l = h_{l-1} W_l + b_l, for l = 1..layers; y = h_layers V + c. With
    `norm` phi sees gamma (z_l - mean) / std + beta, over units ("layer") or over the batch
    ("batch": in training its own statistics, in evaluation their running mean); with `residual`,
    h_l = h_{l-1} + phi(...) for l > 1. In training, units of every h_l are dropped at the rate that
    `training` says.

    Shapes: x `[batch, ...]`, flattened to `[batch, in_features]`; y `[batch, out_features]`. In the
    dtype of the parameters, float32 until they are cast; x is cast to it.
    Roles: `input` (W_1), `hidden` (the other W_l), `readout` (V), `bias`, and `scale` (gamma) with
    `norm`.
    Options: `activation` linear, tanh, sigmoid, softsign, relu, leaky_relu, hard_tanh, erf, elu,
    gelu or silu; `norm`; `residual`; `init` and `kernel_init`, `readout_init`, `bias_init`.
    Raises: ValueError for sizes below 1, an unknown activation or norm, or an x of another size;
    TypeError for an argument it does not take.
    Source: Ba et al. (2016), eq. 3; Ioffe & Szegedy (2015), algorithm 1, with running statistics of
    momentum 0.9.
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
        *,
        layers: SupportsIndex = 1,
        activation: str = "tanh",
        norm: Literal["layer", "batch"] | None = None,
        residual: bool = False,
        rngs: nnx.Rngs,
        **inits: Unpack[Inits],
    ):
        in_features, hidden_features, out_features, layers = sizes(
            in_features=in_features,
            hidden_features=hidden_features,
            out_features=out_features,
            layers=layers,
        )
        activation_named(activation)  # raises for an unknown name
        self.activation = activation
        self.residual = residual
        widths = [in_features] + [hidden_features] * layers
        of = lambda k, phi="linear": Place(
            layer=k, n_layers=layers, activation=phi, width=hidden_features
        )
        self.layers = nnx.List(
            [
                Dense(n_in, n, "hidden" if k else "input", **of(k, activation))
                for k, (n_in, n) in enumerate(pairwise(widths))
            ]
        )
        places = range(layers) if norm else ()
        self.norms = nnx.List([norm_named(norm, hidden_features, rngs, **of(k)) for k in places])
        self.readout = Dense(hidden_features, out_features, "readout", **of(layers))
        start(
            self,
            rngs,
            {"input", "hidden", "readout", "bias"} if layers > 1 else {"input", "readout", "bias"},
            inits,
        )

    def __call__(
        self, x: Shaped[Array | np.ndarray, "batch ..."], training: Training | None = None
    ) -> Float[Array, "batch out"]:
        given, expected = math.prod(x.shape[1:]), self.layers[0].kernel.shape[0]
        if given != expected:
            raise ValueError(
                f"x has the shape {x.shape}, {given} features an example; expected {expected}"
            )
        h_bn = jnp.asarray(x, dtype_of(self)).reshape(x.shape[0], given)
        phi = activation_named(self.activation)
        for k, layer in enumerate(self.layers):
            z_bn = layer(h_bn)
            if self.norms:
                z_bn = normalize(self.norms[k], z_bn, training)
            h_bn = dropped(phi(z_bn), training, k) + (h_bn if self.residual and k else 0.0)
        return self.readout(h_bn)
