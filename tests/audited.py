"""Small models for audits: a Transformer as GPT-2 is drawn, and the faults that are planted in
it."""

import math
import random
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jaxinit
from jaxinit import initializers

WIDTH, DEPTH = 64, 4


class Block(nnx.Module):
    """A pre-norm block with packed nothing: every projection is a layer of its own."""

    def __init__(self, std: dict[str, float], rngs: nnx.Rngs):
        def linear(name: str, inputs: int, outputs: int) -> nnx.Linear:
            init = initializers.normal(std.get(name, 0.02))
            return nnx.Linear(inputs, outputs, kernel_init=init, rngs=rngs)

        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.q_proj = linear("q_proj", WIDTH, WIDTH)
        self.k_proj = linear("k_proj", WIDTH, WIDTH)
        self.v_proj = linear("v_proj", WIDTH, WIDTH)
        self.o_proj = linear("o_proj", WIDTH, WIDTH)
        self.fc1 = linear("fc1", WIDTH, 4 * WIDTH)
        self.fc2 = linear("fc2", 4 * WIDTH, WIDTH)


class Language(nnx.Module):
    """The parameters of a Transformer; what it computes does not matter to an audit of values."""

    def __init__(self, rngs: nnx.Rngs, **std: float):
        ends = 0.02 / math.sqrt(2 * DEPTH)
        std = {"o_proj": ends, "fc2": ends} | std
        self.wte = nnx.Embed(100, WIDTH, embedding_init=initializers.normal(0.02), rngs=rngs)
        self.blocks = nnx.List([Block(std, rngs) for _ in range(DEPTH)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.lm_head = nnx.Linear(
            WIDTH, 100, use_bias=False, kernel_init=initializers.normal(0.02), rngs=rngs
        )


class Layered(nnx.Module):
    """A chain of the layers that it is given."""

    def __init__(self, *layers: Any):
        self.layers = nnx.List(list(layers))

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


class Bare(nnx.Module):
    """One parameter that says nothing of itself."""

    def __init__(self, value: jax.Array):
        self.w = nnx.Param(value)


class Mamba(nnx.Module):
    """The time constants of a selective state space model."""

    def __init__(self, dt_bias: jax.Array, heads: int = 64):
        self.A_log = nnx.Param(jnp.log(jnp.linspace(1.0, 16.0, heads)))
        self.dt_bias = nnx.Param(dt_bias)


def time_steps(heads: int = 64) -> jax.Array:
    """Biases whose softplus is log-uniform on [1e-3, 0.1]."""
    dt = jnp.exp(jnp.linspace(math.log(1e-3), math.log(0.1), heads))
    return dt + jnp.log(-jnp.expm1(-dt))


SCHEMES = (
    "he_normal",
    "glorot_uniform",
    "lecun_normal",
    "glorot_normal",
    "orthogonal",
    "small_normal",
    "pytorch",
    "keras",
    "flax_nnx",
    "bert",
    "xavier_transformer",
)


def random_model(seed: int) -> tuple[nnx.Module, str]:
    """A model of random layers, widths, depth and dtypes that is drawn under a random scheme, and
    the name of that: correct by construction."""
    draws = random.Random(seed)
    rngs = nnx.Rngs(seed)
    dtype = draws.choice([jnp.float32, jnp.float32, jnp.bfloat16])
    width = draws.choice([8, 16, 24, 48, 64])
    kinds: list[Callable[[], nnx.Module]] = [
        lambda: nnx.Linear(width, 2 * width, param_dtype=dtype, rngs=rngs),
        lambda: nnx.Linear(2 * width, width, use_bias=False, param_dtype=dtype, rngs=rngs),
        lambda: nnx.Conv(width, 2 * width, (3, 3), param_dtype=dtype, rngs=rngs),
        lambda: nnx.Conv(width, width, (3,), feature_group_count=4, rngs=rngs),
        lambda: nnx.ConvTranspose(width, 8, (2, 2), rngs=rngs),
        lambda: nnx.Embed(100, width, param_dtype=dtype, rngs=rngs),
        lambda: nnx.LayerNorm(width, rngs=rngs),
        lambda: nnx.BatchNorm(width, rngs=rngs),
        lambda: nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs),
        lambda: nnx.GRUCell(width, width, rngs=rngs),
        lambda: nnx.OptimizedLSTMCell(width, 2 * width, rngs=rngs),
        lambda: nnx.LSTMCell(width, width, rngs=rngs),
        lambda: nnx.SimpleCell(width, width, rngs=rngs),
        lambda: nnx.LinearGeneral((4, width), (2, width), axis=(-2, -1), rngs=rngs),
    ]
    if draws.random() < 0.1:  # one whose residual factor needs the roles of a Transformer
        return jaxinit.reinitialize(Language(rngs), "gpt2", jax.random.key(seed)), "gpt2"
    model = Layered(*[draws.choice(kinds)() for _ in range(draws.randint(1, 6))])
    scheme = draws.choice(SCHEMES)
    return jaxinit.reinitialize(model, scheme, jax.random.key(seed)), scheme
