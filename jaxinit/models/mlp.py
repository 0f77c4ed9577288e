"""The multilayer perceptron."""

from itertools import pairwise
from typing import Unpack

from flax import nnx
from jaxtyping import Array, Float

from jaxinit.models.common import Dense, Inits, activation_named, check_sizes, start


class MLP(nnx.Module):
    """A multilayer perceptron on flattened inputs.

    h_0 = x; h_l = phi(h_{l-1} W_l + b_l) for l = 1..layers; y = h_layers V + c.

    Shapes: x `[batch, ...]`, flattened to `[batch, in_features]`; y `[batch, out_features]`. float32.
    Roles: `input` (W_1), `hidden` (the other W_l), `readout` (V), `bias`.
    Raises: ValueError for sizes below 1 or an unknown activation; TypeError for an argument it does not take.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        layers: int = 1,
        activation: str = "tanh",
        rngs: nnx.Rngs,
        **inits: Unpack[Inits],
    ):
        check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features, layers=layers)
        self.activation = activation_named(activation)
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
        for layer in self.layers:
            h_bn = self.activation(layer(h_bn))
        return self.readout(h_bn)
