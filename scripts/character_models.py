"""The 4-block, 128-wide character model for the benchmark: as a Flax NNX and as a PyTorch user
would write it.

Each returns how to run it, as in `variants`: a function that makes that many training steps (SGD,
fixed batch).
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

BLOCKS, HEADS = 4, 4
Step = Callable[[int], int]


def tokens(characters: int, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels: each position's label is the next character."""
    drawn = np.random.default_rng(0).integers(characters, size=(batch, length + 1))
    return drawn[:, :-1], drawn[:, 1:]


def flops(hidden: int, characters: int, batch: int, length: int) -> float:
    """Multiplications and additions of one training step: kernels, attention, readout, thrice."""
    kernels = BLOCKS * 12 * hidden**2 + characters * hidden
    attention = BLOCKS * 2 * length * hidden
    return 3 * 2 * batch * length * (kernels + attention)


def flax_nnx(hidden: int, characters: int, batch: int, length: int, rate: float) -> Step:
    import jax
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.LayerNorm(hidden, rngs=rngs)
            self.second = nnx.LayerNorm(hidden, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(HEADS, hidden, decode=False, rngs=rngs)
            self.inner = nnx.Linear(hidden, 4 * hidden, rngs=rngs)
            self.outer = nnx.Linear(4 * hidden, hidden, rngs=rngs)

        def __call__(self, x: Any, mask: Any) -> Any:
            x = x + self.attention(self.first(x), mask=mask)
            # Not Flax's approximation by tanh: PyTorch's default is the exact one.
            inner = jax.nn.gelu(self.inner(self.second(x)), approximate=False)
            return x + self.outer(inner)

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.table = nnx.Embed(characters, hidden, rngs=rngs)
            self.places = nnx.Embed(length, hidden, rngs=rngs)
            self.blocks = nnx.List([Block(rngs) for _ in range(BLOCKS)])
            self.norm = nnx.LayerNorm(hidden, rngs=rngs)
            self.out = nnx.Linear(hidden, characters, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            mask = nnx.make_causal_mask(x)
            h = self.table(x) + self.places(jax.numpy.arange(length))[None]
            for block in self.blocks:
                h = block(h, mask)
            return self.out(self.norm(h))

    x, y = map(jax.numpy.asarray, tokens(characters, batch, length))
    return nnx_steps(Net(nnx.Rngs(0)), x, y, rate)


def nnx_steps(net: Any, x: Any, y: Any, rate: float) -> Step:
    """The steps of any NNX classifier as a user of Flax would write them."""
    import jax
    import optax
    from flax import nnx

    optimizer = nnx.Optimizer(net, optax.sgd(rate), wrt=nnx.Param)

    def loss(net: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

    @nnx.jit
    def step(net: Any, optimizer: Any) -> Any:
        value, grads = nnx.value_and_grad(loss)(net)
        optimizer.update(net, grads)
        return value

    def run(steps: int) -> int:
        value = None
        for _ in range(steps):
            value = step(net, optimizer)
        jax.block_until_ready(value)  # the steps are queued: the time is that of their end
        return 1

    return run


def pytorch(
    hidden: int, characters: int, batch: int, length: int, rate: float, threads: int
) -> Step:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    layer = torch.nn.TransformerEncoderLayer(
        hidden, HEADS, 4 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    net = torch.nn.TransformerEncoder(
        layer, BLOCKS, norm=torch.nn.LayerNorm(hidden), enable_nested_tensor=False
    )
    table = torch.nn.Embedding(characters, hidden)
    places = torch.nn.Embedding(length, hidden)
    out = torch.nn.Linear(hidden, characters)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(length)
    modules = torch.nn.ModuleList([net, table, places, out])
    optimizer = torch.optim.SGD(modules.parameters(), lr=rate)
    x, y = map(torch.from_numpy, tokens(characters, batch, length))
    positions = torch.arange(length)

    def run(steps: int) -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            embedded = table(x) + places(positions)
            logits = out(net(embedded, mask=mask, is_causal=True))
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
            optimizer.step()
        return 1

    return run
