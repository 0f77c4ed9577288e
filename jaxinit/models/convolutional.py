"""Convolutional networks for small pictures: a plain one, and a residual one.

    pictures, row by row -> convolutions of 3 x 3 -> mean over pixels -> readout

The convolution has a backward pass of its own, made of convolutions in the one layout that XLA's
CPU compiler runs by its fast routine inside loops too, where all training is (`convolved`).
"""

from typing import Any, SupportsIndex, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Shaped

from jaxinit.introspect import Place, Training, param
from jaxinit.models.bptt import ACTIVATIONS
from jaxinit.models.common import (
    Dense,
    dropped,
    dtype_of,
    norm_named,
    normalize,
    plus,
    scalars,
    sizes,
    start,
)
from jaxinit.options import CNNOptions, ConvolutionalOptions, ResNetOptions, gather

SIDE = 3  # pixels of a window, either way
AROUND = ((1, 1), (1, 1))  # rows and columns of zeros, with which a picture keeps its size
LAYOUT = ("NHWC", "HWIO", "NHWC")

Pictures = Float[Array, "b r c i"]  # batch, rows, columns, channels
Kernel = Float[Array, "3 3 i o"]
Stream = Float[Array, "b _ _ i"]  # of as many rows and columns as its stage has


@jax.custom_vjp
def convolved(x: Pictures, kernel: Kernel) -> Float[Array, "b r c o"]:
    """y[r, c] = sum over the window of x[r + i - 1, c + j - 1] W[i, j], with zeros around x.

    Shapes: x `[batch, rows, columns, inputs]`, kernel `[3, 3, inputs, outputs]`, y `[batch, rows,
    columns, outputs]`.
    Both gradients are written as convolutions of the same layout. XLA's CPU compiler brings others
    into it, but not inside a loop: there autodiff's ran 29 times slower at 16 channels and 52 at 32
    (8 x 8 pixels, batch 32). A matrix product of gathered windows is 1.2 and 1.5 times slower than
    this; `nnx.Conv` outside of any loop is as fast (one core).
    Departure: no forward mode, as JAX says by name; reverse mode can be repeated.
    """
    return _convolution(x, kernel)


@jax.custom_vjp
def correlated(x: Pictures, dy: Float[Array, "b r c o"]) -> Kernel:
    """The gradient of `convolved` by its kernel: the sum over pictures and pixels of x[r + i - 1,
    c + j - 1] dy[r, c]."""
    # Pictures take the place of channels, and the gradient that of a kernel as large as they are.
    by_channel = x.transpose(3, 1, 2, 0)
    windows = dy.transpose(1, 2, 0, 3)
    return _convolution(by_channel, windows).transpose(1, 2, 0, 3)


def _convolution(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), AROUND, dimension_numbers=LAYOUT)


def _turned(kernel: Array) -> Array:
    """The kernel that takes gradients back: turned round, from outputs to inputs."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _keep(x: Array, other: Array, product: Any) -> tuple[Array, tuple[Array, Array]]:
    return product(x, other), (x, other)


def _convolved_backward(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return convolved(dy, _turned(kernel)), correlated(x, dy)


def _correlated_backward(kept: tuple[Array, Array], dw: Array) -> tuple[Array, Array]:
    x, dy = kept
    return convolved(dy, _turned(dw)), convolved(x, dw)


# Each in terms of the other, so that calibrations, which differentiate twice, are as fast.
convolved.defvjp(lambda x, kernel: _keep(x, kernel, convolved), _convolved_backward)
correlated.defvjp(lambda x, dy: _keep(x, dy, correlated), _correlated_backward)


class Convolution(nnx.Module):
    """y = x * W (+ b), with W `[3, 3, inputs, outputs]`, under a declared role."""

    def __init__(
        self, in_channels: int, out_channels: int, role: str, bias: bool, **place: Unpack[Place]
    ):
        self.kernel = param((SIDE, SIDE, in_channels, out_channels), "wwio", role, **place)
        beside: Place = {**place, "inputs": SIDE * SIDE * in_channels, "partner": role}
        self.bias = param((out_channels,), "o", "bias", **beside) if bias else None

    def __call__(self, x: Pictures) -> Float[Array, "b r c o"]:
        return plus(convolved(x, self.kernel[...]), self.bias)


class CNN(nnx.Module):
    """A plain convolutional network.

    h_0 = x; h_l = phi(h_{l-1} * W_l + b_l) for l = 1..layers; y = (mean of h_layers over pixels) V
    + c. With `norm` phi sees gamma (z - mean) / std + beta in place of z + b, over the channels of
    a pixel ("layer") or over the batch and all pixels ("batch": in training its own statistics, in
    evaluation their running mean). The layers are divided into `stages`; the first of each further
    stage moves its window by two pixels, which halves rows and columns. In training, units of every
    h_l are dropped at the rate that `training` says.

    Shapes: x `[batch, rows, in_features]`, a row of which is read as columns x channels; y `[batch,
    out_features]`. Kernels `[3, 3, inputs, hidden_features]`, zeros around the picture. In the
    dtype of the parameters, float32 until they are cast; x is cast to it.
    Roles: `input` (W_1), `hidden` (the other W_l), `readout` (V), `bias`, and `scale` with `norm`.
    Keywords: those of `CNNOptions`; `init`, a scheme, and `kernel_init`, `readout_init`,
    `bias_init`, which override it.
    Raises: ValueError as `CNNOptions`, for sizes below 1, channels that do not divide in_features,
    or an x of another shape; TypeError for a keyword that it does not take.
    Source: He et al. (2015), section 2.2, without its last dense layers; Ioffe & Szegedy (2015).
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
        options, inits = gather(CNNOptions, keywords)
        in_features, width, out_features = sizes(
            in_features=in_features, hidden_features=hidden_features, out_features=out_features
        )
        options.check_row(in_features)
        self.options = options
        self.in_features = in_features
        layers, norms = [], []
        roles = {"input", "readout", "bias"}
        inputs = options.channels
        for k in range(options.layers):
            role = "hidden" if k else "input"
            place: Place = {"layer": k, "n_layers": options.layers, "width": width}
            active: Place = {**place, "activation": options.activation}
            # The bias of a normalization comes after it, and takes that of a kernel out.
            layers.append(Convolution(inputs, width, role, bias=options.norm is None, **active))
            if options.norm is not None:
                norms.append(norm_named(options.norm, width, rngs, **place))
            roles.add(role)
            inputs = width
        self.layers = nnx.List(layers)
        self.norms = nnx.List(norms)
        last: Place = {"layer": options.layers, "n_layers": options.layers, "width": width}
        self.readout = Dense(width, out_features, "readout", **last)
        start(self, rngs, roles, inits)

    def __call__(
        self, x: Shaped[Array | np.ndarray, "batch ..."], training: Training | None = None
    ) -> Float[Array, "batch out"]:
        h = pictures(x, self.in_features, self.options, dtype_of(self))
        phi = ACTIVATIONS[self.options.activation]
        halving = halvings(self.options)
        for k, layer in enumerate(self.layers):
            z = layer(h)
            if k in halving:
                z = halved(z)
            if self.norms:
                z = normalize(self.norms[k], z, training)
            h = dropped(phi(z), training, k)
        return self.readout(h.mean((1, 2)))


class Block(nnx.Module):
    """The parameters of one residual block: two convolutions, and what stands before each."""

    def __init__(self, d: int, o: ResNetOptions, rngs: nnx.Rngs, **place: Unpack[Place]):
        bias = o.with_biases
        inner: Place = {**place, "activation": o.activation}
        self.first = Convolution(d, d, "ffn_in", bias, **inner)
        self.last = Convolution(d, d, "ffn_out", bias, **place)
        norm_before = norm_between = None
        if o.norm is not None:
            norm_before = norm_named(o.norm, d, rngs, **place)
            norm_between = norm_named(o.norm, d, rngs, **place)
        self.norm_before, self.norm_between = norm_before, norm_between
        self.gate = param((), "", "residual_gate", **place) if o.gate else None
        self.before_activation, self.before_first = scalars(2, o.scalar_bias, **inner)
        self.between_activation, self.before_last = scalars(2, o.scalar_bias, **inner)

    def __call__(
        self, x: Stream, o: ResNetOptions, training: Training | None, place: int, halves: bool
    ) -> Stream:
        phi = ACTIVATIONS[o.activation]
        h = activated(x, self.norm_before, self.before_activation, phi, training)
        z = self.first(plus(h, self.before_first))
        if halves:
            x = halved(x)
            z = halved(z)
        h = activated(z, self.norm_between, self.between_activation, phi, training)
        y = dropped(self.last(plus(h, self.before_last)), training, place)
        if self.gate is not None:
            y = y * jnp.broadcast_to(self.gate[...], y.shape)
        return x + checkpoint_name(y, f"blocks.{place}.branch")


class ResNet(nnx.Module):
    """A residual network of two convolutions a block, activated before each (pre-activation).

    s_0 = x * W_0; s_l = s_{l-1} + g_l phi(N(phi(N(s_{l-1})) * W_l)) * V_l for l = 1..layers; y =
    (mean of phi(N(s_layers)) over pixels) V + c. N is a normalization, over the batch and all
    pixels ("batch": in training its own statistics, in evaluation their running mean) or over the
    channels of a pixel ("layer"), or none; g_l a learned scalar with `gate`, else 1. With
    `scalar_bias` a learned scalar is added before every phi and every kernel but the first (W_0);
    without it and without a normalization every convolution has a bias. The blocks are divided into
    `stages`; the first of each further stage moves the window of W_l by two pixels, and its s_{l-1}
    is every second pixel.

    Shapes and dtypes: as `CNN`; hidden_features is the width of the stream.
    Roles: `input` (W_0), `ffn_in` (W_l) and `ffn_out` (V_l, which ends a branch), as in the
    feed-forward branch of a Transformer, `readout` (V), `bias`, `scale`, `residual_gate`.
    Keywords: those of `ResNetOptions`; `init`, a scheme, and `kernel_init` (W_0), `ffn_in_init`,
    `ffn_out_init`, `readout_init`, `bias_init`, which override it.
    In training, entries of branches are dropped out at the rate that `training` says.
    Raises: as `CNN`.
    Source: He et al. (2016), Identity mappings in deep residual networks, figure 4 (e); Zhang et
    al. (2019), Fixup, section 3, whose model is norm="none" with `gate` and `scalar_bias`.
    Departure: the width is the same in all stages.
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
        options, inits = gather(ResNetOptions, keywords)
        in_features, width, out_features = sizes(
            in_features=in_features, hidden_features=hidden_features, out_features=out_features
        )
        options.check_row(in_features)
        self.options = options
        self.in_features = in_features
        layers = options.layers
        first: Place = {"layer": 0, "n_layers": layers, "width": width}
        self.stem = Convolution(options.channels, width, "input", options.with_biases, **first)
        blocks = []
        for k in range(layers):
            blocks.append(Block(width, options, rngs, layer=k, n_layers=layers, width=width))
        self.blocks = nnx.List(blocks)
        last: Place = {"layer": layers, "n_layers": layers, "width": width}
        norm = None
        if options.norm is not None:
            norm = norm_named(options.norm, width, rngs, **last)
        self.norm = norm
        self.readout = Dense(width, out_features, "readout", **last)
        self.before_activation, self.before = scalars(2, options.scalar_bias, **last)
        start(self, rngs, {"input", "ffn_in", "ffn_out", "readout", "bias"}, inits)

    def __call__(
        self, x: Shaped[Array | np.ndarray, "batch ..."], training: Training | None = None
    ) -> Float[Array, "batch out"]:
        return self.answer(self.stream(x, training)[-1])

    def answer(self, s: Stream) -> Float[Array, "batch out"]:
        """The outputs, from the last of `stream`."""
        return self.readout(plus(s.mean((1, 2)), self.before))

    def stream(
        self, x: Shaped[Array | np.ndarray, "batch ..."], training: Training | None = None
    ) -> list[Stream]:
        """The residual stream: before the first block, after every block, and as the readout sees
        it."""
        o = self.options
        s = self.stem(pictures(x, self.in_features, o, dtype_of(self)))
        courses = [s]
        halving = halvings(o)
        for k, block in enumerate(self.blocks):
            s = block(s, o, training, k, k in halving)
            courses.append(s)
        phi = ACTIVATIONS[o.activation]
        return [*courses, activated(s, self.norm, self.before_activation, phi, training)]


def activated(
    x: Pictures,
    norm: nnx.Module | None,
    bias: nnx.Param | None,
    phi: Any,
    training: Training | None,
) -> Pictures:
    """phi(N(x) + b), without what is None."""
    if norm is not None:
        x = normalize(norm, x, training)
    return phi(plus(x, bias))


def pictures(
    x: Array | np.ndarray, in_features: int, o: ConvolutionalOptions, dtype: np.dtype
) -> Pictures:
    """Pictures `[batch, rows, columns, channels]` of rows of `in_features` numbers, in a dtype.

    Raises: ValueError for another shape, or for pictures without a row.
    """
    if x.ndim != 3 or x.shape[2] != in_features or not x.shape[1]:
        raise ValueError(
            f"x has the shape {x.shape}, expected pictures [batch, rows, {in_features}] of 1 row "
            "or more; reshape it"
        )
    batch, rows, _ = x.shape
    return jnp.asarray(x, dtype).reshape(batch, rows, in_features // o.channels, o.channels)


def halvings(o: ConvolutionalOptions) -> set[int]:
    """The layers that begin a further stage: of 6 layers in 3 stages, layers 2 and 4."""
    return {round(stage * o.layers / o.stages) for stage in range(1, o.stages)}


def halved(x: Stream) -> Stream:
    """Every second row and column: after a convolution, what one with a stride of two gives."""
    return x[:, ::2, ::2]
