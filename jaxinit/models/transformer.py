"""The Transformer: decoder or encoder, every role with an initializer of its own, blocks with the
options papers add.

    whole numbers or features -> embedding, positions -> blocks -> norm -> readout

Every block declares its own parameters, so that a draw can depend on the layer; to run them they
are stacked and scanned, so that depth costs no compile time.
"""

import math
from collections.abc import Callable
from typing import Any, SupportsIndex, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Shaped

from jaxinit.introspect import Place, Training, param
from jaxinit.models.bptt import ACTIVATIONS
from jaxinit.models.common import (
    EPSILON,
    Dense,
    Inputs,
    dropped,
    dtype_of,
    plus,
    resolve_lengths,
    scalars,
    sequences,
    sizes,
    start,
    wide,
)
from jaxinit.options import TransformerOptions, gather

NEVER = (
    -1e30
)  # added to the score of what is not seen, or half of the least number: its softmax is 0
WAVELENGTH = 10_000.0  # the longest of sinusoidal and rotary positions, over 2 pi

ROLES = {
    "embedding",
    "position",
    "query",
    "key",
    "value",
    "attention_out",
    "ffn_in",
    "ffn_out",
    "bias",
    "readout",
}

Stream = Float[Array, "b t d"]
# Which steps of each sequence are its own and not padding.
Within = Bool[Array, "b t"]
Lengths = Shaped[Array | np.ndarray, "..."] | None


class Norm(nnx.Module):
    """Layer or root-mean-square normalization over the last axis: gamma (x - mean) / std + beta, or
    gamma x / rms."""

    def __init__(self, norm: str, features: int, **place: Unpack[Place]):
        here: Place = {**place, "kind": "norm", "inputs": features, "activation": "linear"}
        self.scale = param((features,), "o", "scale", **here)
        self.bias = param((features,), "o", "bias", **here) if norm == "layer" else None

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        dtype = x.dtype
        x = wide(x)  # moments of a narrow dtype would be rounded to it on the way
        if self.bias is not None:
            x = x - x.mean(-1, keepdims=True)
        size = jnp.sqrt((x**2).mean(-1, keepdims=True) + EPSILON)
        y = x / size * jnp.broadcast_to(wide(self.scale[...]), x.shape)
        return plus(y.astype(dtype), self.bias)


class Attention(nnx.Module):
    """The parameters of one attention: queries from the stream, keys and values from it or from
    another."""

    def __init__(self, d: int, o: TransformerOptions, **place: Unpack[Place]):
        head = d // o.heads
        here: Place = {**place, "inputs": d, "activation": "linear", "kind": "attention"}
        # Schemes need to know: a norm takes away the size that queries and keys are drawn at.
        sized: Place = {**here, "normalized": o.qk_norm}
        self.query = param((d, o.heads, head), "i.o", "query", **sized)
        self.key = param((d, o.key_value_heads, head), "i.o", "key", **sized)
        self.value = param((d, o.key_value_heads, head), "i.o", "value", **here)
        self.out = param((o.heads, head, d), "iio", "attention_out", **here)
        self.query_bias = bias_of("query", (o.heads, head), ".o", o, **sized)
        self.key_bias = bias_of("key", (o.key_value_heads, head), ".o", o, **sized)
        self.value_bias = bias_of("value", (o.key_value_heads, head), ".o", o, **here)
        self.out_bias = bias_of("attention_out", (d,), "o", o, **here)
        self.before, self.before_out = scalars(2, o.scalar_bias, **here)
        query_norm = key_norm = None
        if o.qk_norm:
            query_norm = Norm("rms", head, **{**place, "partner": "query"})
            key_norm = Norm("rms", head, **{**place, "partner": "key"})
        self.query_norm, self.key_norm = query_norm, key_norm

    def __call__(
        self,
        x: Stream,
        seen: Float[Array, "b s d"],
        o: TransformerOptions,
        causal: bool,
        name: str = "attention",
        within: Bool[Array, "b s"] | None = None,
    ) -> Stream:
        """softmax(q k / sqrt(d_head)) v of every head, the heads mixed by the output kernel.

        `within` says which steps of `seen` are there, and not padding. The scores before the
        softmax are named `name`.scores, which the coordinate check looks for. The softmax is
        float32 or wider.
        """
        x = plus(x, self.before)
        seen = plus(seen, self.before)
        q = plus(times(x, self.query[...]), self.query_bias)
        k = plus(times(seen, self.key[...]), self.key_bias)
        v = plus(times(seen, self.value[...]), self.value_bias)
        if self.query_norm is not None and self.key_norm is not None:
            q = self.query_norm(q)
            k = self.key_norm(k)
        # After the norms, whose scales would pull apart the two entries that turn as a pair.
        if o.positions == "rotary":
            q = rotated(q)
            k = rotated(k)
        if o.key_value_heads < o.heads:
            # Neighbouring heads share their keys and values.
            shared_by = o.heads // o.key_value_heads
            k = jnp.repeat(k, shared_by, axis=2)
            v = jnp.repeat(v, shared_by, axis=2)
        # Scaling the queries is less work than scaling the scores, of which there are t by t.
        q = (q / math.sqrt(q.shape[-1])).swapaxes(1, 2)
        k = k.swapaxes(1, 2)
        v = v.swapaxes(1, 2)
        scores = checkpoint_name(q @ k.swapaxes(2, 3), f"{name}.scores")
        scores = wide(scores)
        if causal:
            scores = scores + future(x.shape[1], scores.dtype)
        if within is not None:
            # Where no step is there, all scores are the same, and the softmax stays finite.
            scores = jnp.where(within[:, None, None], scores, never(scores.dtype))
        # The largest score cancels in the quotient, so no gradient has to pass through it. The
        # quotient comes last: one division a head and step, not one for each step that is seen.
        largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - largest)
        mixed = wide(weights.astype(v.dtype) @ v) / weights.sum(-1, keepdims=True)
        mixed = mixed.astype(v.dtype)
        side_by_side = mixed.swapaxes(1, 2).reshape(x.shape)
        kernel = self.out[...].reshape(-1, x.shape[-1])
        y = times(plus(side_by_side, self.before_out), kernel)
        return plus(y, self.out_bias)


class Branch(nnx.Module):
    """Norm, gate and skip scale around a residual branch."""

    def __init__(self, d: int, o: TransformerOptions, **place: Unpack[Place]):
        self.norm = Norm(o.norm, d, **place) if o.norm else None
        self.gate = param((), "", "residual_gate", **place) if o.gate else None
        self.skip = param((d,), "o", "skip", **place) if o.learned_skip else None

    def __call__(
        self, x: Stream, branch: Callable[[Stream], Stream], o: TransformerOptions, name: str
    ) -> Stream:
        """The branch added to the stream; what is added is named `name`.branch, for the coordinate
        check."""
        seen = x
        if self.norm is not None and o.placed == "pre":
            seen = self.norm(x)
        y = branch(seen)
        # The gate is a part of the branch, so it comes before the name that measurements go by.
        if self.gate is not None:
            y = y * jnp.broadcast_to(self.gate[...], y.shape)
        y = checkpoint_name(y, f"{name}.branch")
        scale = o.skip_scale
        if self.skip is not None:
            scale = jnp.broadcast_to(self.skip[...], x.shape)
        x = x * scale + y
        if self.norm is not None and o.placed == "post":
            x = self.norm(x)
        return x


class Block(nnx.Module):
    """The parameters of one block: attention, attention to another stream in a decoder of two
    stacks, feed-forward."""

    def __init__(self, d: int, o: TransformerOptions, **place: Unpack[Place]):
        inner: Place = {**place, "inputs": d, "activation": o.activation}
        wide = o.ffn * d
        outer: Place = {**place, "inputs": wide, "activation": "linear"}
        self.attention = Attention(d, o, **place)
        self.attended = Branch(d, o, **place)
        cross = crossed = None
        if o.cross:
            cross = Attention(d, o, **place)
            crossed = Branch(d, o, **place)
        self.cross, self.crossed = cross, crossed
        self.ffn_in = param((d, wide), "io", "ffn_in", **inner)
        gate = None
        # Two kernels and not one of twice the width: each is drawn as a matrix of its own.
        if o.activation == "swiglu":
            gate = param((d, wide), "io", "ffn_in", **inner)
        self.ffn_gate = gate
        self.ffn_out = param((wide, d), "io", "ffn_out", **outer)
        self.ffn_in_bias = bias_of("ffn_in", (wide,), "o", o, **inner)
        self.ffn_out_bias = bias_of("ffn_out", (d,), "o", o, **outer)
        self.before, self.before_activation, self.before_out = scalars(3, o.scalar_bias, **inner)
        self.fed = Branch(d, o, **place)

    def __call__(
        self,
        x: Stream,
        o: TransformerOptions,
        training: Training | None,
        place: int,
        memory: Float[Array, "b s d"] | None,
        within: Within | None = None,
        memory_within: Bool[Array, "b s"] | None = None,
    ) -> Stream:
        name = f"blocks.{place}"

        # Each branch of a block has a place of its own, so that no two drop the same entries.
        def attend(x: Stream) -> Stream:
            y = self.attention(x, x, o, o.causal, f"{name}.attention", within)
            return dropped(y, training, 3 * place)

        def attend_to_memory(x: Stream) -> Stream:
            assert self.cross is not None
            assert memory is not None
            y = self.cross(x, memory, o, False, f"{name}.cross", memory_within)
            return dropped(y, training, 3 * place + 1)

        def feed(x: Stream) -> Stream:
            return dropped(self.feed(x, o), training, 3 * place + 2)

        x = self.attended(x, attend, o, f"{name}.attention")
        if self.crossed is not None and memory is not None:
            x = self.crossed(x, attend_to_memory, o, f"{name}.cross")
        return self.fed(x, feed, o, f"{name}.feed")

    def feed(self, x: Stream, o: TransformerOptions) -> Stream:
        """phi(x W + b) V + c, or (silu(x W + b) * x G) V + c with swiglu."""
        x = plus(x, self.before)
        z = plus(times(x, self.ffn_in[...]), self.ffn_in_bias)
        z = plus(z, self.before_activation)
        if self.ffn_gate is not None:
            h = jax.nn.silu(z) * times(x, self.ffn_gate[...])
        else:
            h = ACTIVATIONS[o.activation](z)
        y = times(plus(h, self.before_out), self.ffn_out[...])
        return plus(y, self.ffn_out_bias)


class Transformer(nnx.Module):
    """A Transformer of one stack: a decoder (causal) or an encoder.

    s_0 = E x + P; s <- norm-and-add(s, attention), s <- norm-and-add(s, feed-forward) in every
    block; y = N(s) V + c, with y of every step, of the last, or of the mean over steps.
    Norm-and-add: s + F(N(s)) (placed="pre"), N(a s + F(s)) (placed="post", a = `skip_scale`), s +
    F(s) (norm=None); F times a learned scalar with `gate`.

    Shapes: x whole numbers `[batch, time]` below in_features, or features `[batch, time,
    in_features]`; y `[batch, out_features]` or `[batch, time, out_features]`. All is computed in
    the dtype of the parameters, float32 until they are cast; features are cast to it.
    `hidden_features` d is the width of the stream, which `heads` divides; attention kernels are
    `[d, heads, d / heads]`.
    Roles: `embedding`, `position`, `query`, `key`, `value`, `attention_out`, `ffn_in`, `ffn_out`,
    `scale`, `bias`, `readout`, `residual_gate`, `skip`.
    Keywords: those of `TransformerOptions`; `init`, a scheme, and `embedding_init`, `query_init`,
    ..., which override it for one role. `memory` is another stream that blocks attend to with
    `cross` (see `EncoderDecoder`).
    With `lengths`, or a `mask` that is true for each sequence's first steps, what follows a
    sequence's end does not reach its output, and no gradient reaches it: nothing attends to it, the
    last output is that of the sequence's own last step, the mean is over its own steps, and outputs
    after its end are 0. `memory_lengths` and `memory_mask` say the same of `memory`. Traced ones
    count as in the recurrent networks; the readout of no steps reads zeros.
    In training, branches are dropped out at the rate that `training` says.
    Raises: ValueError as `TransformerOptions`, for heads that do not divide the width, a sequence
    longer than `length` or without a step, features or memory of another size, parameters of
    different dtypes, or a tied readout of another size than the input; for lengths or a mask as
    `RNN`, and for those of a memory that is not there; TypeError for a keyword that it does not
    take.
    Source: Vaswani et al. (2017), sections 3.1 to 3.5; Xiong et al. (2020) for pre-norm; Su et al.
    (2021), eq. 34; Shazeer (2020) for swiglu; Ainslie et al. (2023) for grouped queries; Henry et
    al. (2020) for normalized ones; Wang et al. (2022), DeepNorm, for `skip_scale`; Liu et al.
    (2020), Admin, for `learned_skip`; Bachlechner et al. (2020), ReZero, for `gate`; Zhang et al.
    (2019), Fixup, section 3, for `scalar_bias`.
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
        options, inits = gather(TransformerOptions, keywords)
        in_features, d, out_features = sizes(
            in_features=in_features, hidden_features=hidden_features, out_features=out_features
        )
        options.check_width(d)
        if options.tied and in_features != out_features:
            raise ValueError(
                f"a tied readout needs as many outputs as inputs, got {out_features} and "
                f"{in_features}"
            )
        self.options = options
        layers = options.layers
        roles = set(ROLES)

        first: Place = {"layer": 0, "n_layers": layers, "inputs": in_features, "width": d}
        self.embedding = param((in_features, d), "io", "embedding", **first)
        positions = None
        if options.positions == "learned":
            positions = param((options.length, d), "io", "position", **first)
        else:
            roles.remove("position")
        self.positions = positions

        blocks = []
        for k in range(layers):
            blocks.append(Block(d, options, layer=k, n_layers=layers, width=d))
        self.blocks = nnx.List(blocks)

        last: Place = {"layer": layers, "n_layers": layers, "width": d}
        # Post-norm blocks end in a normalization of their own.
        norm = readout = None
        if options.norm is not None and options.placed == "pre":
            norm = Norm(options.norm, d, **last)
        if options.readout is not None and not options.tied:
            readout = Dense(d, out_features, "readout", **last)
        else:
            roles.remove("readout")
        self.norm, self.readout = norm, readout
        (self.before,) = scalars(1, options.scalar_bias, **last)
        start(self, rngs, roles, inits)

    def __call__(
        self,
        x: Inputs,
        training: Training | None = None,
        memory: Shaped[Array, "..."] | None = None,
        *,
        lengths: Lengths = None,
        mask: Lengths = None,
        memory_lengths: Lengths = None,
        memory_mask: Lengths = None,
    ) -> Float[Array, "b o"] | Float[Array, "b t o"]:
        within = steps_within(x, lengths, mask)
        memory_within = steps_within(memory, memory_lengths, memory_mask)
        return self.answer(self.stream(x, training, memory, within, memory_within)[-1], within)

    def answer(
        self, s: Stream, within: Within | None = None
    ) -> Float[Array, "b o"] | Float[Array, "b t o"]:
        """The outputs, from the last of `stream`."""
        if self.options.readout in ("last", "mean"):
            pool = last_step if self.options.readout == "last" else mean_step
            return self.read(pool(s, within))
        y = s if self.options.readout is None else self.read(s)
        return y if within is None else jnp.where(within[..., None], y, 0)

    def read(self, s: Float[Array, "*b d"]) -> Float[Array, "*b o"]:
        """The readout of what it sees of the stream."""
        s = plus(s, self.before)
        if self.readout is None:
            return self.options.tied_scale * (s @ self.embedding[...].T)
        return self.readout(s)

    def stream(
        self,
        x: Inputs,
        training: Training | None = None,
        memory: Shaped[Array, "..."] | None = None,
        within: Within | None = None,
        memory_within: Bool[Array, "b s"] | None = None,
    ) -> list[Float[Array, "b t d"]]:
        """The residual stream: embedded, after every block (scanned: after the last), and as the
        readout sees it.

        Steps that are not `within` are those of the input 0.
        """
        rows = self.embedding[...]
        dtype = dtype_of(self)
        x = sequences(x, rows.shape[0], dtype)
        if self.options.cross and memory is None:
            raise ValueError(
                "blocks that attend to another stream need it: give memory, [batch, steps, width]"
            )
        if memory is not None:
            memory = checked_memory(memory, x.shape[0], rows.shape[1], dtype)
        # Padding may hold anything, and what is not finite would survive a weight of 0.
        x = without_padding(x, within)
        if memory is not None:
            memory = without_padding(memory, memory_within)
        t = x.shape[1]
        if t > self.options.length:
            raise ValueError(
                f"the sequence has {t} steps, and the network positions for "
                f"{self.options.length}; raise length"
            )
        whole_numbers = jnp.issubdtype(x.dtype, jnp.integer)
        s = rows[x] if whole_numbers else x @ rows
        if self.positions is not None:
            s = s + self.positions[...][None, :t]
        if self.options.positions == "sinusoidal":
            s = s + jnp.asarray(waves(t, s.shape[-1]), s.dtype)[None]

        # A scan over one block would only cost its own overhead.
        courses = [s]
        if self.options.scan and len(self.blocks) > 1:
            courses.append(self._scanned(s, training, memory, within, memory_within))
        else:
            for k, block in enumerate(self.blocks):
                s = block(s, self.options, training, k, memory, within, memory_within)
                courses.append(s)
        last = courses[-1]
        if self.norm is not None:
            last = self.norm(last)
        return [*courses, last]

    def _scanned(
        self,
        s: Stream,
        training: Training | None,
        memory: Float[Array, "b s d"] | None,
        within: Within | None,
        memory_within: Bool[Array, "b s"] | None,
    ) -> Stream:
        """The stream after all blocks, as one scan over their stacked parameters."""
        # All blocks are built alike, so the first one's graph stands for each of them.
        graph, first = nnx.split(self.blocks[0])
        paths_and_variables = nnx.to_flat_state(first)
        by_block = []
        for block in self.blocks:
            variables = nnx.to_flat_state(nnx.state(block))
            by_block.append([variable[...] for _, variable in variables])
        stacked = [jnp.stack(values) for values in zip(*by_block, strict=True)]
        key = None if training is None else training.key
        keys = None if key is None else jax.random.split(key, len(self.blocks))

        def step(s: Array, at: tuple[list[Array], Any]) -> tuple[Array, None]:
            values, key = at
            state = []
            for (path, variable), value in zip(paths_and_variables, values, strict=True):
                state.append((path, variable.replace(value)))
            block: Any = nnx.merge(graph, nnx.from_flat_state(state))
            # The number of a block is not known inside a scan: each has a key of its own.
            noise = training and training._replace(key=key)
            return block(s, self.options, noise, 0, memory, within, memory_within), None

        # Products with kernels are kept for the backward pass, all else is computed again: less
        # memory, and faster. Inside a scan nothing is computed twice in one pass, which is all that
        # `prevent_cse` is for.
        kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        checkpointed = jax.checkpoint(step, prevent_cse=False, policy=kept)
        last, _ = jax.lax.scan(checkpointed, s, (stacked, keys))
        return last


class ViT(Transformer):
    """A Transformer that sees all patches of a picture at once and answers from their mean: a small
    Vision Transformer.

    Shapes: x `[batch, patches, in_features]`; y `[batch, out_features]`. Options, roles and errors
    as `Transformer`. Source: Dosovitskiy et al. (2021), eq. 1 to 4, with the mean over patches in
    place of a class token (Zhai et al., 2022, section 3.2).
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
        **keywords: Any,
    ):
        fixed = sorted({"causal", "readout", "tied", "cross"} & set(keywords))
        if fixed:
            raise TypeError(
                f"ViT decides {', '.join(fixed)} itself; leave it out, or use Transformer"
            )
        super().__init__(
            in_features, hidden_features, out_features, causal=False, readout="mean", **keywords
        )


class EncoderDecoder(nnx.Module):
    """Two stacks: an encoder of the source, and a decoder of the target that attends to it.

    m = N(encoder stream of x); y = readout of the decoder of z, each of whose blocks attends to z
    so far, then to m. Shapes: x and z as a `Transformer`'s x, of `in_features` and `out_features`,
    of different lengths; y `[batch, time of z, out_features]`. Keywords and errors as
    `Transformer`, for both stacks; `decoder_layers` (default: `layers`) and `decoder_skip_scale`
    (default: `skip_scale`). `lengths` and `mask` are those of x, `target_lengths` and `target_mask`
    those of z.
    Roles as `Transformer`; names begin with `encoder.` and `decoder.` (see
    `schemes.encoder_decoder`).
    Source: Vaswani et al. (2017), figure 1.
    """

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
        *,
        decoder_layers: SupportsIndex | None = None,
        decoder_skip_scale: float | None = None,
        rngs: nnx.Rngs,
        **keywords: Any,
    ):
        options, inits = {}, {}
        for name, value in keywords.items():
            if name == "init" or name.endswith("_init"):
                inits[name] = value
            else:
                options[name] = value
        decoder_options = {**options, "cross": True}
        if decoder_layers is not None:
            decoder_options["layers"] = decoder_layers
        if decoder_skip_scale is not None:
            decoder_options["skip_scale"] = decoder_skip_scale
        self.encoder = Transformer(
            in_features,
            hidden_features,
            out_features,
            causal=False,
            readout=None,
            rngs=rngs,
            **options,
        )
        self.decoder = Transformer(
            out_features, hidden_features, out_features, rngs=rngs, **decoder_options
        )
        # Both stacks draw again, under the names that they have here: a draw is by name, and each
        # stack has just drawn as if it were alone.
        start(self, rngs, ROLES, inits)

    def __call__(
        self,
        x: Inputs,
        z: Shaped[Array | np.ndarray, "b s ..."],
        training: Training | None = None,
        *,
        lengths: Lengths = None,
        mask: Lengths = None,
        target_lengths: Lengths = None,
        target_mask: Lengths = None,
    ) -> Float[Array, "b s o"]:
        memory = self.encoder(x, training, lengths=lengths, mask=mask)
        return self.decoder(
            z,
            training,
            memory,
            lengths=target_lengths,
            mask=target_mask,
            memory_lengths=lengths,
            memory_mask=mask,
        )


def checked_memory(memory: Array, batch: int, width: int, dtype: np.dtype) -> Array:
    """Another stream in the dtype of the parameters. Raises: ValueError for another shape."""
    fits = memory.ndim == 3 and memory.shape[::2] == (batch, width) and memory.shape[1] > 0
    if not fits:
        raise ValueError(
            f"memory has the shape {memory.shape}, expected [{batch}, steps, {width}], of 1 step "
            "or more"
        )
    return jnp.asarray(memory, dtype)


def steps_within(
    x: Shaped[Array | np.ndarray, "..."] | None, lengths: Lengths, mask: Lengths
) -> Within | None:
    """Which steps of x are before the ends of their sequences; None where no ends are given.

    Raises: ValueError as `resolve_lengths`, and for ends of nothing.
    """
    if lengths is None and mask is None:
        return None
    if x is None:
        raise ValueError(
            "memory_lengths and memory_mask are those of memory, and there is none; give memory too"
        )
    b, t = x.shape[:2]
    ends = resolve_lengths(lengths, mask, b, t)
    assert ends is not None
    return jnp.arange(t)[None] < ends[:, None]


def without_padding(x: Array, within: Bool[Array, "b s"] | None) -> Array:
    """Sequences with 0 after their ends."""
    if within is None:
        return x
    return jnp.where(within.reshape(*within.shape, *[1] * (x.ndim - 2)), x, 0)


def last_step(s: Stream, within: Within | None) -> Float[Array, "b d"]:
    """The last step of every sequence; 0 of one that has none."""
    if within is None:
        return s[:, -1]
    count = within.sum(1)
    last = s[jnp.arange(len(s)), jnp.maximum(count, 1) - 1]
    return jnp.where(count[:, None] > 0, last, 0)


def mean_step(s: Stream, within: Within | None) -> Float[Array, "b d"]:
    """The mean over the steps of every sequence, taken in float32 or wider; 0 of one that has
    none."""
    if within is None:
        return s.mean(1)
    total = wide(jnp.where(within[..., None], s, 0)).sum(1)
    count = jnp.maximum(within.sum(1), 1).astype(total.dtype)
    return (total / count[:, None]).astype(s.dtype)


def times(x: Float[Array, "b t i"], kernel: Float[Array, "i *o"]) -> Float[Array, "b t *o"]:
    """x W, in the form whose gradients XLA computes fastest on CPU (measured: docs/performance.md).

    The steps of all sequences are rows of one matrix. A kernel of more inputs than outputs enters
    transposed, and so does its gradient then: the barrier keeps XLA from turning the product round
    again.
    """
    rows = x.reshape(-1, x.shape[-1])
    w = kernel.reshape(x.shape[-1], -1)
    if w.shape[0] > w.shape[1]:
        transposed = jax.lax.optimization_barrier(w.T)
        contract_last_axes = (((1,), (1,)), ((), ()))
        y = jax.lax.dot_general(rows, transposed, contract_last_axes)
    else:
        y = rows @ w
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])


def bias_of(
    role: str, shape: tuple[int, ...], dims: str, o: TransformerOptions, **place: Unpack[Place]
) -> nnx.Param | None:
    """The bias of a kernel, named by that kernel's role, where the model has biases."""
    if not o.bias:
        return None
    return param(shape, dims, "bias", **{**place, "partner": role})


def future(t: int, dtype: np.dtype) -> Float[Array, "1 1 t t"]:
    """The attention bias that is added to scores, so that no step attends to those after it."""
    later = np.triu(np.full((t, t), never(dtype)), 1)
    return jnp.asarray(later, dtype)[None, None]


def never(dtype: np.dtype) -> float:
    """The score of what is not seen. Not infinity: half of the least number leaves room for the
    score that it is added to."""
    return max(NEVER, float(jnp.finfo(dtype).min) / 2)


def waves(t: int, d: int) -> np.ndarray:
    """sin and cos of t / 10000^(2 k / d), side by side: `[t, d]`. Source: Vaswani et al. (2017),
    section 3.5."""
    column = np.arange(d)
    wavelengths = WAVELENGTH ** (2 * (column // 2) / d)
    angle = np.arange(t)[:, None] / wavelengths
    return np.where(column % 2 == 0, np.sin(angle), np.cos(angle))


def rotated(q: Float[Array, "b t h k"]) -> Float[Array, "b t h k"]:
    """Pairs (k, k + half) turned by t / 10000^(2 k / d): the score of two steps then depends on
    their distance."""
    half = q.shape[-1] // 2
    wavelengths = WAVELENGTH ** (np.arange(half) / half)
    # In NumPy, so in float64: a bfloat16 has no digits for the angle of a late step.
    angle = np.arange(q.shape[1])[:, None] / wavelengths
    cos = jnp.asarray(np.cos(angle), q.dtype)[None, :, None]
    sin = jnp.asarray(np.sin(angle), q.dtype)[None, :, None]
    first = q[..., :half]
    second = q[..., half:]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1)
