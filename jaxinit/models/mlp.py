"""The multilayer perceptron."""

from itertools import pairwise
from typing import Literal, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinit.models.common import Dense, Inits, activation_named, check_sizes, start

EPSILON = 1e-5  # under the square root of a normalization


class MLP(nnx.Module):
    """A multilayer perceptron on flattened inputs.

    h_0 = x; h_l = phi(z_l), z_l = h_{l-1} W_l + b_l, for l = 1..layers; y = h_layers V + c. With `norm="layer"` phi
    sees (z_l - mean) / std over units; with `residual`, h_l = h_{l-1} + phi(z_l) for l > 1.

    Shapes: x `[batch, ...]`, flattened to `[batch, in_features]`; y `[batch, out_features]`. float32.
    Roles: `input` (W_1), `hidden` (the other W_l), `readout` (V), `bias`.
    Options: `activation` linear, tanh, sigmoid, softsign, relu, leaky_relu, hard_tanh, erf, elu, gelu or silu; `norm`;
    `residual`; `init` and `kernel_init`, `readout_init`, `bias_init`.
    Raises: ValueError for sizes below 1 or an unknown activation or norm; TypeError for an argument it does not take.
    Source: Ba et al. (2016), eq. 3, for the normalization. Departure: it has no scale and bias of its own.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        layers: int = 1,
        activation: str = "tanh",
        norm: Literal["layer"] | None = None,
        residual: bool = False,
        rngs: nnx.Rngs,
        **inits: Unpack[Inits],
    ):
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features, layers=layers)
        if norm not in (None, "layer"):
            raise ValueError(f"norm is 'layer' or None, got {norm!r}")
        self.activation = activation_named(activation)
        self.normalized, self.residual = norm == "layer", residual
        widths = [in_features] + [hidden_features] * layers
        self.layers = nnx.List(
            [
                Dense(n_in, n, "hidden" if k else "input", layer=k, n_layers=layers, activation=activation)
                for k, (n_in, n) in enumerate(pairwise(widths))
            ]
        )
        self.readout = Dense(hidden_features, out_features, "readout", layer=layers, n_layers=layers)
        start(self, rngs, {"input", "hidden", "readout", "bias"} if layers > 1 else {"input", "readout", "bias"}, inits)

    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch out"]:
        h_bn = x.reshape(x.shape[0], -1)
        for k, layer in enumerate(self.layers):
            z_bn = layer(h_bn)
            if self.normalized:
                centred = z_bn - jnp.mean(z_bn, axis=-1, keepdims=True)
                z_bn = centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)
            h_bn = self.activation(z_bn) + (h_bn if self.residual and k else 0.0)
        return self.readout(h_bn)
