"""A plain convolutional network of 4 layers for the benchmark, as a Flax NNX and as a PyTorch user
would write it.

Each returns how to run it, as in `variants`: a function that makes that many training steps (SGD,
fixed batch of pictures of one channel).
"""

import importlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import character_models
import numpy as np

LAYERS, CLASSES = 4, 10
Step = Callable[[int], int]


def pictures(columns: int, batch: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(batch, rows, columns)).astype(np.float32)
    return x, draws.integers(CLASSES, size=batch)


def flops(hidden: int, columns: int, batch: int, rows: int) -> float:
    """Multiplications and additions of one training step: 3 x 3 windows, forward and twice that
    backward."""
    kernels = 9 * hidden + (LAYERS - 1) * 9 * hidden**2
    return 3 * 2 * batch * rows * columns * kernels


def flax_nnx(hidden: int, columns: int, batch: int, rows: int, rate: float) -> Step:
    import jax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            sizes = [1] + [hidden] * LAYERS
            layers = [
                nnx.Conv(inputs, outputs, (3, 3), rngs=rngs) for inputs, outputs in pairwise(sizes)
            ]
            self.layers = nnx.List(layers)
            self.out = nnx.Linear(hidden, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = x[..., None]
            for layer in self.layers:
                h = nnx.relu(layer(h))
            return self.out(h.mean((1, 2)))

    x, y = map(jax.numpy.asarray, pictures(columns, batch, rows))
    return character_models.nnx_steps(Net(nnx.Rngs(0)), x, y, rate)


def pytorch(hidden: int, columns: int, batch: int, rows: int, rate: float, threads: int) -> Step:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    layers: list[Any] = []
    for inputs in [1] + [hidden] * (LAYERS - 1):
        layers += [torch.nn.Conv2d(inputs, hidden, 3, padding=1), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    out = torch.nn.Linear(hidden, CLASSES)
    optimizer = torch.optim.SGD([*net.parameters(), *out.parameters()], lr=rate)
    x, y = map(torch.from_numpy, pictures(columns, batch, rows))

    def run(steps: int) -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(out(net(x[:, None])), y).backward()
            optimizer.step()
        return 1

    return run
