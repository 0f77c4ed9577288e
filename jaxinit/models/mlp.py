"""The multilayer perceptron."""

import math
from itertools import pairwise
from typing import Any, SupportsIndex

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from jaxinit.introspect import Place, Training
from jaxinit.models.bptt import ACTIVATIONS
from jaxinit.models.common import (
    Dense,
    dropped,
    dtype_of,
    norm_named,
    normalize,
    sizes,
    start,
)
from jaxinit.options import MLPOptions, gather


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
    Keywords: those of `MLPOptions`; `init`, a scheme, and `kernel_init`, `readout_init`,
    `bias_init`, which override it.
    Raises: ValueError as `MLPOptions`, for sizes below 1, or an x of another size; TypeError for a
    keyword that it does not take.
    Source: Ba et al. (2016), eq. 3; Ioffe & Szegedy (2015), algorithm 1, with running statistics of
    momentum 0.9.
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
        *,
        rngs: nnx.Rngs,
        **keywords: Any,
    ):
        options, inits = gather(MLPOptions, keywords)
        in_features, width, out_features = sizes(
            in_features=in_features, hidden_features=hidden_features, out_features=out_features
        )
        self.options = options
        layers, norms = [], []
        roles = {"input", "readout", "bias"}
        widths = [in_features] + [width] * options.layers
        for k, (n_in, n) in enumerate(pairwise(widths)):
            role = "hidden" if k else "input"
            place: Place = {"layer": k, "n_layers": options.layers, "width": width}
            active: Place = {**place, "activation": options.activation}
            layers.append(Dense(n_in, n, role, **active))
            if options.norm is not None:
                norms.append(norm_named(options.norm, n, rngs, **place))
            roles.add(role)
        self.layers = nnx.List(layers)
        self.norms = nnx.List(norms)
        last: Place = {
            "layer": options.layers,
            "n_layers": options.layers,
            "width": width,
            "activation": "linear",
        }
        self.readout = Dense(width, out_features, "readout", **last)
        start(self, rngs, roles, inits)

    def __call__(
        self, x: Shaped[Array | np.ndarray, "batch ..."], training: Training | None = None
    ) -> Float[Array, "batch out"]:
        given = math.prod(x.shape[1:])
        expected = self.layers[0].kernel.shape[0]
        if given != expected:
            raise ValueError(
                f"x has the shape {x.shape}, {given} features an example; expected {expected}"
            )
        # Not -1 for the features: a batch of no examples would leave their number open.
        h_bn = jnp.asarray(x, dtype_of(self)).reshape(x.shape[0], given)
        phi = ACTIVATIONS[self.options.activation]
        for k, layer in enumerate(self.layers):
            z_bn = layer(h_bn)
            if self.norms:
                z_bn = normalize(self.norms[k], z_bn, training)
            # The first layer changes the width, so it has no skip connection.
            skip = h_bn if self.options.residual and k else 0.0
            h_bn = dropped(phi(z_bn), training, k) + skip
        return self.readout(h_bn)
