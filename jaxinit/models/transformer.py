"""The Transformer: decoder or encoder, every role with an initializer of its own, blocks with the options papers add.

    whole numbers or features -> embedding, positions -> blocks -> norm -> readout

Every block declares its own parameters, so that a draw can depend on the layer; to run them they are stacked and
scanned, so that depth costs no compile time.
"""

import math
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxinit.introspect import Place, Training, param
from jaxinit.models.common import EPSILON, Dense, Inits, activation_named, check_sizes, dropped, start

WAVELENGTH = 10_000.0  # the longest of sinusoidal and rotary positions, over 2 pi

Stream = Float[Array, "b t d"]


class Shape(NamedTuple):
    """What shapes a Transformer's blocks; see `Transformer` for the options."""

    heads: int
    kv_heads: int
    ffn: int
    causal: bool
    norm: str | None
    placed: str
    qk_norm: bool
    rotary: bool
    activation: str
    bias: bool
    gate: bool
    skip_scale: float


class Norm(nnx.Module):
    """Layer or root-mean-square normalization over the last axis: gamma (x - mean) / std + beta, or gamma x / rms."""

    def __init__(self, what: str, features: int, **place: Unpack[Place]):
        of: Place = {**place, "kind": "norm", "inputs": features, "activation": "linear"}
        self.scale = param((features,), "o", "scale", **of)
        self.bias = param((features,), "o", "bias", **of) if what == "layer" else None

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        if self.bias is not None:
            x = x - x.mean(-1, keepdims=True)
        y = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * jnp.broadcast_to(self.scale[...], x.shape)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias[...], x.shape)


class Block(nnx.Module):
    """The parameters of one block: an attention and a feed-forward branch, and what the options add."""

    def __init__(self, d: int, o: Shape, **place: Unpack[Place]):
        head = d // o.heads
        of: Place = {**place, "inputs": d, "activation": "linear", "kind": "attention"}
        self.query = param((d, o.heads, head), "i.o", "query", **of)
        self.key = param((d, o.kv_heads, head), "i.o", "key", **of)
        self.value = param((d, o.kv_heads, head), "i.o", "value", **of)
        self.attention_out = param((o.heads, head, d), "iio", "attention_out", **of)
        inner: Place = {**place, "inputs": d, "activation": o.activation}
        outer: Place = {**place, "inputs": o.ffn, "activation": "linear"}
        self.ffn_in = param((d, o.ffn), "io", "ffn_in", **inner)
        self.ffn_gate = param((d, o.ffn), "io", "ffn_in", **inner) if o.activation == "swiglu" else None
        self.ffn_out = param((o.ffn, d), "io", "ffn_out", **outer)
        self.query_bias = param((o.heads, head), ".o", "bias", **of) if o.bias else None
        self.key_bias = param((o.kv_heads, head), ".o", "bias", **of) if o.bias else None
        self.value_bias = param((o.kv_heads, head), ".o", "bias", **of) if o.bias else None
        self.attention_bias = param((d,), "o", "bias", **of) if o.bias else None
        self.ffn_in_bias = param((o.ffn,), "o", "bias", **inner) if o.bias else None
        self.ffn_out_bias = param((d,), "o", "bias", **outer) if o.bias else None
        self.attention_norm = Norm(o.norm, d, **place) if o.norm else None
        self.ffn_norm = Norm(o.norm, d, **place) if o.norm else None
        self.query_norm = Norm("rms", head, **place) if o.qk_norm else None
        self.key_norm = Norm("rms", head, **place) if o.qk_norm else None
        self.attention_gate = param((), "", "residual_gate", **place) if o.gate else None
        self.ffn_gate_scalar = param((), "", "residual_gate", **place) if o.gate else None

    def __call__(self, x: Stream, o: Shape, training: Training | None, place: int) -> Stream:
        attention = lambda x: dropped(self.attend(x, o), training, 2 * place)
        feed = lambda x: dropped(self.feed(x, o), training, 2 * place + 1)
        x = added(x, attention, self.attention_norm, self.attention_gate, o)
        return added(x, feed, self.ffn_norm, self.ffn_gate_scalar, o)

    def attend(self, x: Stream, o: Shape) -> Stream:
        """softmax(q k / sqrt(d_head)) v of every head, the heads mixed by the output kernel."""
        q, k, v = (
            plus(jnp.einsum("btd,dhk->bthk", x, w[...]), bias)
            for w, bias in ((self.query, self.query_bias), (self.key, self.key_bias), (self.value, self.value_bias))
        )
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if o.rotary:
            q, k = rotated(q), rotated(k)
        if o.kv_heads < o.heads:
            k, v = (jnp.repeat(of, o.heads // o.kv_heads, axis=2) for of in (k, v))
        scores = jnp.einsum("bqhk,bshk->bhqs", q, k) / math.sqrt(q.shape[-1])
        if o.causal:
            seen = np.tril(np.ones((x.shape[1], x.shape[1]), bool))
            scores = jnp.where(seen[None, None], scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores, axis=-1), v)
        return plus(jnp.einsum("bqhk,hkd->bqd", mixed, self.attention_out[...]), self.attention_bias)

    def feed(self, x: Stream, o: Shape) -> Stream:
        """phi(x W + b) V + c, or (silu(x W + b) * x G) V + c with swiglu."""
        z = plus(x @ self.ffn_in[...], self.ffn_in_bias)
        if self.ffn_gate is not None:
            h = jax.nn.silu(z) * (x @ self.ffn_gate[...])
        else:
            h = activation_named(o.activation)(z)
        return plus(h @ self.ffn_out[...], self.ffn_out_bias)


class Transformer(nnx.Module):
    """A Transformer of one stack: a decoder (causal) or an encoder.

    s_0 = E x + P; s <- norm-and-add(s, attention), s <- norm-and-add(s, feed-forward) in every block; y = N(s) V + c,
    with y of every step, of the last, or of the mean over steps. Norm-and-add: s + F(N(s)) (placed="pre"),
    N(a s + F(s)) (placed="post", a = `skip_scale`), s + F(s) (norm=None); F times a learned scalar with `gate`.

    Shapes: x whole numbers `[batch, time]` below in_features, or features `[batch, time, in_features]`; y `[batch,
    out_features]` or `[batch, time, out_features]`. float32. `hidden_features` d is the width of the stream, which
    `heads` divides; attention kernels are `[d, heads, d / heads]`.
    Roles: `embedding`, `position`, `query`, `key`, `value`, `attention_out`, `ffn_in`, `ffn_out`, `scale`, `bias`,
    `readout`, `residual_gate`.
    Options: `layers`; `heads`; `kv_heads` (grouped-query attention); `ffn` (width over d); `causal`; `norm` layer, rms
    or None, `placed` pre or post; `qk_norm` normalizes queries and keys; `positions` learned, sinusoidal, rotary or
    None, of at most `length` steps; `activation` as in `MLP`, or swiglu; `tied` uses the embedding as the readout,
    times `tied_scale` (1/m under muP at m times the base width);
    `bias`; `gate`; `skip_scale`; `readout` all, last or mean; `scan` (False: blocks one by one, which probes need).
    In training, branches are dropped out at the rate that `training` says.
    Raises: ValueError for heads that do not divide the width or key-value heads that do not divide the heads, unknown
    names, a sequence longer than `length`, or a tied readout of another size than the input.
    Source: Vaswani et al. (2017), sections 3.1 to 3.5; Xiong et al. (2020) for pre-norm; Su et al. (2021), eq. 34;
    Shazeer (2020) for swiglu; Ainslie et al. (2023) for grouped queries; Henry et al. (2020) for normalized ones; Wang
    et al. (2022), DeepNorm, for `skip_scale`; Bachlechner et al. (2020), ReZero, for `gate`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        *,
        layers: int = 2,
        heads: int = 4,
        kv_heads: int | None = None,
        ffn: int = 4,
        causal: bool = True,
        norm: Literal["layer", "rms"] | None = "layer",
        placed: Literal["pre", "post"] = "pre",
        qk_norm: bool = False,
        positions: Literal["learned", "sinusoidal", "rotary"] | None = "learned",
        length: int = 512,
        activation: str = "gelu",
        tied: bool = False,
        bias: bool = True,
        gate: bool = False,
        skip_scale: float = 1.0,
        tied_scale: float = 1.0,
        readout: Literal["all", "last", "mean"] = "all",
        scan: bool = True,
        rngs: nnx.Rngs,
        **inits: Unpack[Inits],
    ):
        d, kv = hidden_features, kv_heads or heads
        check_sizes(
            in_features=in_features, hidden_features=d, out_features=out_features, layers=layers, heads=heads,
            kv_heads=kv, ffn=ffn, length=length,
        )  # fmt: skip
        if d % heads:
            raise ValueError(f"heads must divide the width, got {heads} heads and a width of {d}")
        if heads % kv:
            raise ValueError(f"kv_heads must divide the heads, got {kv} and {heads}")
        if positions == "rotary" and d // heads % 2:
            raise ValueError(f"rotary positions turn pairs: the width of a head must be even, got {d // heads}")
        if activation != "swiglu":
            activation_named(activation)
        for name, value, known in (
            ("norm", norm, ("layer", "rms", None)),
            ("placed", placed, ("pre", "post")),
            ("positions", positions, ("learned", "sinusoidal", "rotary", None)),
            ("readout", readout, ("all", "last", "mean")),
        ):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(map(repr, known))}, got {value!r}")
        if tied and in_features != out_features:
            raise ValueError(f"a tied readout needs as many outputs as inputs, got {out_features} and {in_features}")
        rotary = positions == "rotary"
        self.shape = Shape(
            heads, kv, ffn * d, causal, norm, placed, qk_norm, rotary, activation, bias, gate, float(skip_scale)
        )
        self.read, self.scan, self.length, self.tied_scale = readout, scan, length, float(tied_scale)
        edge: Place = {"layer": 0, "n_layers": layers, "inputs": in_features, "width": d}
        self.embedding = param((in_features, d), "io", "embedding", **edge)
        self.positions = param((length, d), "io", "position", **edge) if positions == "learned" else None
        self.sinusoidal = positions == "sinusoidal"
        self.blocks = nnx.List([Block(d, self.shape, layer=k, n_layers=layers, width=d) for k in range(layers)])
        last: Place = {"layer": layers, "n_layers": layers, "width": d}
        self.norm = Norm(norm, d, **last) if norm and placed == "pre" else None
        self.readout = None if tied else Dense(d, out_features, "readout", **last)
        roles = {
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
        start(self, rngs, roles, inits)

    def __call__(
        self, x: Int[Array, "b t"] | Float[Array, "b t i"], training: Training | None = None
    ) -> Float[Array, "b o"] | Float[Array, "b t o"]:
        return self.answer(self.stream(x, training)[-1])

    def answer(self, s: Stream) -> Float[Array, "b o"] | Float[Array, "b t o"]:
        """The outputs, from the last of `stream`."""
        if self.read != "all":
            s = s[:, -1] if self.read == "last" else s.mean(1)
        if self.readout is None:
            return self.tied_scale * (s @ self.embedding[...].T)
        return self.readout(s)

    def stream(
        self, x: Int[Array, "b t"] | Float[Array, "b t i"], training: Training | None = None
    ) -> list[Float[Array, "b t d"]]:
        """The residual stream: embedded, after every block (scanned: after the last), and as the readout sees it."""
        t = x.shape[1]
        if t > self.length:
            raise ValueError(f"the sequence has {t} steps, and the network positions for {self.length}; raise length")
        rows = self.embedding[...]
        s = rows[x] if jnp.issubdtype(x.dtype, jnp.integer) else x @ rows
        if self.positions is not None:
            s = s + self.positions[...][None, :t]
        if self.sinusoidal:
            s = s + jnp.asarray(waves(t, s.shape[-1]), s.dtype)[None]
        courses = [s]
        if self.scan and len(self.blocks) > 1:
            graph, first = nnx.split(self.blocks[0])
            leaves = [[variable[...] for _, variable in nnx.to_flat_state(nnx.state(block))] for block in self.blocks]
            stacked = [jnp.stack(of) for of in zip(*leaves, strict=True)]
            key = None if training is None else training.key
            keys = None if key is None else jax.random.split(key, len(self.blocks))

            def step(s: Array, at: tuple[list[Array], Any]) -> tuple[Array, None]:
                values, key = at
                variables = zip(nnx.to_flat_state(first), values, strict=True)
                state = nnx.from_flat_state([(path, of.replace(value)) for (path, of), value in variables])
                one: Any = nnx.merge(graph, state)
                return one(s, self.shape, training and training._replace(key=key), 0), None

            s = jax.lax.scan(step, s, (stacked, keys))[0]
            courses.append(s)
        else:
            for k, block in enumerate(self.blocks):
                s = block(s, self.shape, training, k)
                courses.append(s)
        return [*courses, s if self.norm is None else self.norm(s)]


def added(x: Stream, branch: Any, norm: Norm | None, gate: nnx.Param | None, o: Shape) -> Stream:
    """A branch added to the stream."""
    before = norm is not None and o.placed == "pre"
    y = branch(norm(x) if norm is not None and before else x)
    if gate is not None:
        y = y * jnp.broadcast_to(gate[...], y.shape)
    x = o.skip_scale * x + y
    return norm(x) if norm is not None and not before else x


def plus(y: Array, bias: nnx.Param | None) -> Array:
    return y if bias is None else y + jnp.broadcast_to(bias[...], y.shape)


def waves(t: int, d: int) -> np.ndarray:
    """sin and cos of t / 10000^(2 k / d), side by side: `[t, d]`. Source: Vaswani et al. (2017), section 3.5."""
    angle = np.arange(t)[:, None] / WAVELENGTH ** (2 * (np.arange(d) // 2) / d)
    return np.where(np.arange(d) % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def rotated(q: Float[Array, "b t h k"]) -> Float[Array, "b t h k"]:
    """Pairs (k, k + half) turned by t / 10000^(2 k / d): the score of two steps then depends on their distance."""
    half = q.shape[-1] // 2
    angle = np.arange(q.shape[1])[:, None] / WAVELENGTH ** (np.arange(half) / half)
    cos, sin = (jnp.asarray(of, q.dtype)[None, :, None] for of in (np.cos(angle), np.sin(angle)))
    first, second = q[..., :half], q[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
