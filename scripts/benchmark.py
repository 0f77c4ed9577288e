"""Milliseconds per training step and trial: ours, idiomatic Flax NNX, a plain jitted step, and PyTorch.

Every variant is a process of its own that builds, warms up and waits; the parent lets them run one round each in
turn, so that a drift of the machine's speed meets all of them alike. Quote the ratios, never a bare time.

    scripts/benchmark [--quick] [--json FILE]
"""

import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

# model, hidden, input, batch, time
CELLS = {
    "RNN H=128 T=28": ("rnn", 128, 8, 32, 28),
    "RNN H=64 T=64": ("rnn", 64, 1, 32, 64),
    "LSTM H=128 T=28": ("lstm", 128, 8, 32, 28),
    "GRU H=128 T=28": ("gru", 128, 8, 32, 28),
    "RNN H=512 T=28": ("rnn", 512, 8, 64, 28),
    "LSTM H=512 T=28": ("lstm", 512, 8, 64, 28),
}
QUICK = ("RNN H=128 T=28", "LSTM H=128 T=28", "GRU H=128 T=28")
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
TRIALS_PER_DEVICE, CLASSES, RATE = 2, 10, 0.01
# name: processes at once
VARIANTS = {
    "ours, mapped over devices": 1,
    "plain jax.jit step": 1,
    "Flax NNX, idiomatic": 1,
    "PyTorch, 1 thread": 1,
    "PyTorch, 2 threads": 1,
    "PyTorch, 2 processes": 2,
    "matmul peak": 1,
}

Step = Callable[[int], int]  # runs that many steps of all its trials; returns the number of trials


def ours(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    from jaxinit import sweep

    sweep.one_device_per_core()
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    loss, start = _jax_loss(model, hidden, inputs, batch, length)
    count = TRIALS_PER_DEVICE * jax.device_count()
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("trial",))
    params = jax.device_put(jax.vmap(start)(jax.numpy.arange(count)), NamedSharding(mesh, PartitionSpec("trial")))

    def trial(p, steps):
        step = lambda _, p: jax.tree.map(lambda a, g: a - RATE * g, p, jax.grad(loss)(p))
        return jax.lax.fori_loop(0, steps, step, p)

    def program(params, steps):
        device = lambda params, steps: jax.lax.map(lambda p: trial(p, steps), params)
        specs = (PartitionSpec("trial"), PartitionSpec())
        return jax.shard_map(device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("trial"), check_vma=False)(
            params, steps
        )

    compiled = jax.jit(program)

    def run(steps: int) -> int:
        jax.block_until_ready(compiled(params, steps))
        return count

    return run


def plain_jit(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    import jax

    loss, start = _jax_loss(model, hidden, inputs, batch, length)
    step = jax.jit(lambda p: jax.tree.map(lambda a, g: a - RATE * g, p, jax.grad(loss)(p)))

    def run(steps: int) -> int:
        p = start(0)
        for _ in range(steps):
            p = step(p)
        jax.block_until_ready(p)
        return 1

    return run


def _jax_loss(model: str, hidden: int, inputs: int, batch: int, length: int):
    import jax
    from flax import nnx

    from jaxinit import introspect, spec
    from jaxinit.models import MODELS
    from jaxinit.schemes import SCHEMES
    from jaxinit.tasks.base import cross_entropy

    make: Any = MODELS[model]
    leaves, apply = introspect.functional(lambda: make(inputs, hidden, CLASSES, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (batch, length, inputs))
    y = jax.numpy.zeros(batch, int)
    start = jax.jit(lambda seed: spec.draw(SCHEMES["glorot_uniform"], jax.random.key(seed), leaves))
    return (lambda p: cross_entropy(apply(p, x), y)), start


def flax_nnx(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    import jax
    import optax
    from flax import nnx

    cells: dict[str, Any] = {"rnn": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.rnn = nnx.RNN(cells[model](inputs, hidden, rngs=rngs), rngs=rngs)
            self.out = nnx.Linear(hidden, CLASSES, rngs=rngs)

        def __call__(self, x):
            states: Any = self.rnn(x)
            return self.out(states[:, -1])

    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.sgd(RATE), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(0), (batch, length, inputs))
    y = jax.numpy.zeros(batch, int)
    loss = lambda net: optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

    @nnx.jit
    def step(net, optimizer):
        value, grads = nnx.value_and_grad(loss)(net)
        optimizer.update(net, grads)
        return value

    def run(steps: int) -> int:
        value = None
        for _ in range(steps):
            value = step(net, optimizer)
        jax.block_until_ready(value)
        return 1

    return run


def pytorch(model: str, hidden: int, inputs: int, batch: int, length: int, threads: int) -> Step:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    kinds: dict[str, Any] = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    net, out = kinds[model](inputs, hidden, batch_first=True), torch.nn.Linear(hidden, CLASSES)
    optimizer = torch.optim.SGD([*net.parameters(), *out.parameters()], lr=RATE)
    x, y = torch.randn(batch, length, inputs), torch.zeros(batch, dtype=torch.long)

    def run(steps: int) -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(out(net(x)[0][:, -1]), y).backward()
            optimizer.step()
        return 1

    return run


def peak(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    """The multiplications of one training step as products of large square matrices, on all cores."""
    import jax

    size = 1536
    one, dot = jax.numpy.ones((size, size)), jax.jit(jax.numpy.dot)
    share = flops(model, hidden, inputs, batch, length) / (2 * size**3)

    def run(steps: int) -> int:
        products = max(2, round(steps * share))
        for _ in range(products):
            jax.block_until_ready(dot(one, one))
        return 1 if products > 2 else max(1, round(2 / (steps * share)))  # how many trials that is worth

    return run


def flops(model: str, hidden: int, inputs: int, batch: int, length: int) -> float:
    """Multiplications and additions of one training step: forward, and twice that backward."""
    return 3 * 2 * length * batch * hidden * (hidden + inputs) * GATES[model]


def work(variant: str, cell: str) -> None:
    """A worker: build, warm up, then run as many steps as each line of input asks for and print the milliseconds."""
    sizes = CELLS[cell]
    makers: dict[str, Callable[..., Step]] = {
        "ours, mapped over devices": ours,
        "plain jax.jit step": plain_jit,
        "Flax NNX, idiomatic": flax_nnx,
        "PyTorch, 1 thread": lambda *a: pytorch(*a, threads=1),
        "PyTorch, 2 threads": lambda *a: pytorch(*a, threads=2),
        "PyTorch, 2 processes": lambda *a: pytorch(*a, threads=1),
        "matmul peak": peak,
    }
    run = makers[variant](*sizes)
    run(3)
    print("ready", flush=True)
    for line in sys.stdin:
        steps = int(line)
        began = time.perf_counter()
        trials = run(steps)
        print((time.perf_counter() - began) * 1e3 / steps / trials, flush=True)


@dataclass(frozen=True)
class Benchmark:
    """Milliseconds per training step and trial, ours beside the peers, interleaved in one run."""

    quick: bool = False
    """Three cells instead of six, and fewer rounds: under three minutes."""
    json: Path | None = None
    """Write the rows to this file too."""
    worker: tuple[str, str] | None = None
    """For the processes that this one starts: variant and cell."""


def measure(cell: str, variants: list[str], rounds: int) -> list[dict]:
    """One row a variant for one cell."""
    start: Callable[[str], Any] = lambda v: subprocess.Popen(
        [sys.executable, __file__, "--worker", v, cell],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    workers: dict[str, list[Any]] = {
        variant: [start(variant) for _ in range(VARIANTS[variant])] for variant in variants
    }
    for processes in workers.values():
        for process in processes:
            if process.stdout.readline().strip() != "ready":
                raise SystemExit(f"benchmark: a worker of {cell} failed; its error is above")
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    steps = max(4, round(4e9 / flops(*CELLS[cell])))
    for _ in range(rounds):
        for variant, processes in workers.items():
            for process in processes:
                process.stdin.write(f"{steps}\n")
                process.stdin.flush()
            took = [float(process.stdout.readline()) for process in processes]
            times[variant].append(max(took) / len(processes))
    for processes in workers.values():
        for process in processes:
            process.communicate()
    middle = {variant: statistics.median(values) for variant, values in times.items()}
    torch = min((ms for variant, ms in middle.items() if variant.startswith("PyTorch")), default=None)
    return [
        {
            "cell": cell,
            "variant": variant,
            "ms": {"median": middle[variant], "low": min(values), "high": max(values)},
            "share_of_peak": middle["matmul peak"] / middle[variant],
            "ratio_to_torch": None if torch is None else torch / middle[variant],
            "ratio_to_nnx": middle["Flax NNX, idiomatic"] / middle[variant],
        }
        for variant, values in times.items()
    ]


def main() -> None:
    settings = tyro.cli(Benchmark)
    if settings.worker:
        work(*settings.worker)
        return
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        print("PyTorch is not installed in this environment, so its rows are left out", file=sys.stderr)
    variants = [variant for variant in VARIANTS if has_torch or not variant.startswith("PyTorch")]
    rows = []
    print(f"{'cell':16} {'variant':26} {'ms/step/trial (low-high)':>26} {'of peak':>8} {'x torch':>8} {'x NNX':>6}")
    for cell in QUICK if settings.quick else CELLS:
        for row in measure(cell, variants, 5 if settings.quick else 9):
            rows.append(row)
            ms = row["ms"]
            spread = f"{ms['median']:.3f} ({ms['low']:.3f}-{ms['high']:.3f})"
            torch = "-" if row["ratio_to_torch"] is None else f"{row['ratio_to_torch']:.2f}"
            share, nnx = f"{row['share_of_peak']:.0%}", f"{row['ratio_to_nnx']:.2f}"
            print(f"{cell:16} {row['variant']:26} {spread:>26} {share:>8} {torch:>8} {nnx:>6}", flush=True)
    if settings.json:
        settings.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
