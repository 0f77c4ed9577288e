"""What the benchmark times: for each variant a function that builds it and returns how to run it,
and the worker.

    python scripts/variants.py VARIANT

reads lines: for the name of a cell it builds, warms up and prints "ready"; for a number of steps it
runs them and prints the milliseconds that a step of a trial took.
"""

import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import character_models

CHARACTERS_CELL = "4 blocks of 128, T=64"
# model, hidden, input, batch, time
CELLS = {
    "RNN H=128 T=28": ("rnn", 128, 8, 32, 28),
    "RNN H=64 T=64": ("rnn", 64, 1, 32, 64),
    "LSTM H=128 T=28": ("lstm", 128, 8, 32, 28),
    "GRU H=128 T=28": ("gru", 128, 8, 32, 28),
    "RNN H=512 T=28": ("rnn", 512, 8, 64, 28),
    "LSTM H=512 T=28": ("lstm", 512, 8, 64, 28),
}
CHARACTERS = ("transformer", 128, 97, 32, 64)  # the inputs are characters
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
TRIALS_PER_DEVICE, CLASSES, RATE = 2, 10, 0.01
TINY = 1e-9  # the rate of "its products alone", whose sizes must neither vanish nor grow
# the training program of a study with 8 evaluations an epoch: what of its time is evaluation and
# records
RECORDING = {
    "8 evaluations, recorded": (8, True),
    "8 evaluations, no records": (8, False),
    "1 evaluation, recorded": (1, True),
}


Step = Callable[[int], int]  # runs that many steps of all its trials; returns the number of trials


def ours(model: str, hidden: int, inputs: int, batch: int, length: int, **options: int) -> Step:
    import jax

    loss, start = _jax_loss(model, hidden, inputs, batch, length, **options)
    step = lambda p: jax.tree.map(lambda a, g: a - RATE * g, p, jax.grad(loss)(p))
    return _mapped(step, start)


def products(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    """What any step here has to pay: its products, one after another where the recurrence asks for
    it."""
    import jax

    gates = GATES[model]

    def step(p: dict[str, Any]) -> dict[str, Any]:
        first, *others = p["u"]

        def through(h: Any, _: None) -> tuple[Any, Any]:
            h = sum((h @ w for w in others), h @ first)
            return h, h

        forth, states = jax.lax.scan(through, p["h"], None, length=length)
        back, slopes = jax.lax.scan(through, forth, None, length=length)
        flat = lambda a: a.reshape(-1, hidden)
        u = [w + TINY * (flat(states).T @ (flat(slopes) + k)) for k, w in enumerate(p["u"])]
        return {"h": back / jax.numpy.sqrt(jax.numpy.mean(back * back)), "u": u}

    def start(seed: Any) -> Any:
        keys = jax.random.split(jax.random.key(seed), gates + 1)
        u = [jax.random.normal(key, (hidden, hidden)) / (hidden * gates) ** 0.5 for key in keys[1:]]
        return {"h": jax.random.normal(keys[0], (batch, hidden)), "u": u}

    return _mapped(step, start)


def _mapped(step: Callable, start: Callable) -> Step:
    """Trials over all devices, one after another on each: a step of each trial, again and again."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    count = TRIALS_PER_DEVICE * jax.device_count()
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("trial",))
    params = jax.device_put(
        jax.vmap(start)(jax.numpy.arange(count)), NamedSharding(mesh, PartitionSpec("trial"))
    )

    def program(params: Any, steps: Any) -> Any:
        specs = (PartitionSpec("trial"), PartitionSpec())
        return jax.shard_map(
            lambda params, steps: jax.lax.map(
                lambda p: jax.lax.fori_loop(0, steps, lambda _, p: step(p), p), params
            ),
            mesh=mesh,
            in_specs=specs,
            out_specs=PartitionSpec("trial"),
            check_vma=False,
        )(params, steps)

    compiled = jax.jit(program)

    def run(steps: int) -> int:
        jax.block_until_ready(compiled(params, steps))
        return count

    return run


def recording(evaluations: int, recorded: bool) -> Step:
    """The training program of the main job, one epoch at a time: `steps` counts those of
    training."""
    import jax

    from jaxinit import spec
    from jaxinit.engine import campaign, training
    from jaxinit.engine.resolve import resolve
    from jaxinit.schemes import SCHEMES
    from jaxinit.study import Study

    resolved = resolve(Study())
    sizes = {
        "batch": 32,
        "evaluations": evaluations,
        "epochs": 1,
        "at_once": campaign.VALIDATED_AT_ONCE,
    }
    program = training.Program(resolved.model, resolved.task, "sgd", **sizes)
    drawn = spec.draw(SCHEMES["xavier_rnn"], jax.random.key(0), resolved.model.leaves)
    real, whole = jax.numpy.float32, jax.numpy.int32
    trial = training.Trial(
        seed=whole(0),
        lr=real(0.01),
        clip=real(jax.numpy.inf),
        clip_value=real(jax.numpy.inf),
        l2=real(0),
        weight_decay=real(0),
        target=real(2),
        budget=whole(10**9),
    )
    state = program.initial_state(drawn)

    def epoch(state: Any) -> Any:
        state, records = program.advance(resolved.task.data, state, trial)
        return (state, records) if recorded else (state, None)

    compiled = jax.jit(epoch)

    def run(steps: int) -> int:
        after: Any = state
        for _ in range(steps // 40):
            after, _ = compiled(after)
        jax.block_until_ready(after)
        return 1

    return run


def plain_jit(
    model: str, hidden: int, inputs: int, batch: int, length: int, **options: int
) -> Step:
    import jax

    loss, start = _jax_loss(model, hidden, inputs, batch, length, **options)
    step = jax.jit(lambda p: jax.tree.map(lambda a, g: a - RATE * g, p, jax.grad(loss)(p)))

    def run(steps: int) -> int:
        p = start(0)
        for _ in range(steps):
            p = step(p)
        jax.block_until_ready(p)
        return 1

    return run


def _jax_loss(model: str, hidden: int, inputs: int, batch: int, length: int, **options: int):
    import jax
    from flax import nnx

    from jaxinit import introspect, spec
    from jaxinit.models import MODELS
    from jaxinit.schemes import SCHEMES
    from jaxinit.tasks.base import cross_entropy

    make: Any = MODELS[model]
    if model == "transformer":
        sizes = {
            "layers": character_models.BLOCKS,
            "heads": character_models.HEADS,
            "length": length,
        }
        leaves, apply, *_ = introspect.functional(
            lambda: make(inputs, hidden, inputs, rngs=nnx.Rngs(0), **sizes, **options)
        )
        x, y = map(jax.numpy.asarray, character_models.tokens(inputs, batch, length))
        start = jax.jit(
            lambda seed: spec.draw(SCHEMES["xavier_transformer"], jax.random.key(seed), leaves)
        )
        return (lambda p: cross_entropy(apply(p, x), y)), start
    leaves, apply, *_ = introspect.functional(
        lambda: make(inputs, hidden, CLASSES, rngs=nnx.Rngs(0), **options)
    )
    x = jax.random.normal(jax.random.key(0), (batch, length, inputs))
    y = jax.numpy.zeros(batch, int)
    start = jax.jit(lambda seed: spec.draw(SCHEMES["glorot_uniform"], jax.random.key(seed), leaves))
    return (lambda p: cross_entropy(apply(p, x), y)), start


def flax_nnx(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    if model == "transformer":
        return character_models.flax_nnx(hidden, inputs, batch, length, RATE)
    import jax
    from flax import nnx

    cells: dict[str, Any] = {
        "rnn": nnx.SimpleCell,
        "lstm": nnx.OptimizedLSTMCell,
        "gru": nnx.GRUCell,
    }

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.rnn = nnx.RNN(cells[model](inputs, hidden, rngs=rngs), rngs=rngs)
            self.out = nnx.Linear(hidden, CLASSES, rngs=rngs)

        def __call__(self, x):
            states: Any = self.rnn(x)
            return self.out(states[:, -1])

    x = jax.random.normal(jax.random.key(0), (batch, length, inputs))
    return character_models.nnx_steps(Net(nnx.Rngs(0)), x, jax.numpy.zeros(batch, int), RATE)


def pytorch(
    model: str,
    hidden: int,
    inputs: int,
    batch: int,
    length: int,
    threads: int,
    compiled: bool = False,
) -> Step:
    if model == "transformer":
        return character_models.pytorch(hidden, inputs, batch, length, RATE, threads)
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    kinds: dict[str, Any] = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    net, out = kinds[model](inputs, hidden, batch_first=True), torch.nn.Linear(hidden, CLASSES)
    optimizer = torch.optim.SGD([*net.parameters(), *out.parameters()], lr=RATE)
    x, y = torch.randn(batch, length, inputs), torch.zeros(batch, dtype=torch.long)

    loss_of = lambda: torch.nn.functional.cross_entropy(out(net(x)[0][:, -1]), y)
    if compiled:
        loss_of = torch.compile(loss_of)

    def run(steps: int) -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of().backward()
            optimizer.step()
        return 1

    return run


def peak(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    """The multiplications of one training step as products of large square matrices, on all
    cores."""
    import jax

    size = 1536
    one, dot = jax.numpy.ones((size, size)), jax.jit(jax.numpy.dot)
    share = flops(model, hidden, inputs, batch, length) / (2 * size**3)

    def run(steps: int) -> int:
        products = max(2, round(steps * share))
        for _ in range(products):
            jax.block_until_ready(dot(one, one))
        # how many trials that is worth
        return 1 if products > 2 else max(1, round(2 / (steps * share)))

    return run


def flops(model: str, hidden: int, inputs: int, batch: int, length: int) -> float:
    """Multiplications and additions of one training step: forward, and twice that backward."""
    if model == "transformer":
        return character_models.flops(hidden, inputs, batch, length)
    return 3 * 2 * length * batch * hidden * (hidden + inputs) * GATES[model]


def work(variant: str) -> None:
    """A worker: answers the lines that it reads until there are no more."""
    makers: dict[str, Callable[..., Step]] = {
        "ours, mapped over devices": ours,
        "plain jax.jit step": plain_jit,
        "Flax NNX, idiomatic": flax_nnx,
        "PyTorch, 1 thread": lambda *a: pytorch(*a, threads=1),
        "PyTorch, 2 threads": lambda *a: pytorch(*a, threads=2),
        "PyTorch, 2 processes": lambda *a: pytorch(*a, threads=1),
        "PyTorch, torch.compile": lambda *a: pytorch(*a, threads=2, compiled=True),
        "its products alone": products,
        "matmul peak": peak,
    }
    if variant in ("ours, mapped over devices", "its products alone", *RECORDING):
        set_up_devices()
    run: Step = lambda steps: 0
    for line in map(str.strip, sys.stdin):
        if not line.isdigit():
            run = (
                recording(*RECORDING[variant])
                if variant in RECORDING
                else makers[variant](*(CHARACTERS if line == CHARACTERS_CELL else CELLS[line]))
            )
            run(40 if variant in RECORDING else 3)
            print("ready", flush=True)
            continue
        began = time.perf_counter()
        trials = run(int(line))
        print((time.perf_counter() - began) * 1e3 / int(line) / trials, flush=True)


def draws() -> None:
    """A worker: parameters of many trials drawn by us and by `jax.nn.initializers`, in turn; prints
    milliseconds."""
    import jax
    from flax import nnx

    from jaxinit import initializers, introspect, spec
    from jaxinit.models import LSTM
    from jaxinit.schemes import SCHEMES

    leaves, *_ = introspect.functional(lambda: LSTM(8, 256, CLASSES, rngs=nnx.Rngs(0)))
    glorot, zeros = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.zeros
    square = (512, 512)

    def plain(key: Any) -> list[Any]:
        drawn = []
        for leaf, k in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
            law = zeros if leaf.role == "bias" else glorot
            if leaf.gate and leaf.role != "bias":
                drawn.append(
                    jax.vmap(lambda k, of=leaf.shape[1:]: glorot(k, of))(
                        jax.random.split(k, len(leaf.gate))
                    )
                )
            else:
                drawn.append(law(k, leaf.shape))
        return drawn

    pairs = {
        "draws: LSTM, 256 units": (
            256,
            lambda key: spec.draw(SCHEMES["glorot_uniform"], key, leaves),
            plain,
        ),
        "draws: orthogonal 512 x 512": (
            64,
            lambda key: initializers.orthogonal()(key, square),
            lambda key: jax.nn.initializers.orthogonal()(key, square),
        ),
    }
    for name, (count, mine, theirs) in pairs.items():
        keys = jax.random.split(jax.random.key(0), count)
        programs = {
            "ours": jax.jit(jax.vmap(mine)),
            "jax.nn.initializers, vmap": jax.jit(jax.vmap(theirs)),
        }
        times: dict[str, list[float]] = {variant: [] for variant in programs}
        for turn in range(8):  # the first compiles
            for variant, program in programs.items():
                began = time.perf_counter()
                jax.block_until_ready(program(keys))
                if turn:
                    times[variant].append((time.perf_counter() - began) * 1e3)
        print(json.dumps({"cell": f"{name}, {count} trials", "times": times}), flush=True)


def set_up_devices() -> None:
    from jaxinit.engine import sweep

    sweep.one_device_per_core()


def grow(what: str, size: str) -> None:
    """A worker: build one size, run it, print milliseconds a step and trial, seconds of compilation
    and peak memory."""
    variant = what.removeprefix("growth ")
    option: dict[str, Any] = {}
    sizes: dict[str, Any] = {"model": "rnn", "hidden": 64, "inputs": 1, "batch": 32, "length": 16}
    if variant.startswith("unroll"):
        sizes |= {"model": variant.split()[1].lower(), "hidden": 128, "inputs": 8, "length": 28}
        option = {"unroll": int(size)}
    elif variant.startswith("memory"):
        sizes |= {"model": "lstm", "hidden": 128, "length": int(size)}
        option = {"segment": int(size)} if "whole" in variant else {}
    elif variant == "trials":
        sizes |= {"hidden": 32}
    else:
        sizes |= {{"T": "length", "hidden units": "hidden"}[variant]: int(size)}
    began = time.perf_counter()
    if variant == "trials":
        global TRIALS_PER_DEVICE
        TRIALS_PER_DEVICE = int(size) // 2
    if not variant.startswith("memory"):
        set_up_devices()
    run = (plain_jit if variant.startswith("memory") else ours)(**sizes, **option)
    run(1)
    first = time.perf_counter() - began
    times = []
    for _ in range(1 if variant.startswith("memory") else 5):
        began = time.perf_counter()
        trials = run(steps := {"trials": 200, "memory": 1}.get(variant.split(",")[0], 20))
        times.append((time.perf_counter() - began) * 1e3 / steps / trials)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ms = {"median": statistics.median(times), "low": min(times), "high": max(times)}
    print(json.dumps({"ms": ms, "first_s": first, "peak_mib": peak_mib}))


if __name__ == "__main__":
    if sys.argv[1] == "draws":
        draws()
    else:
        (grow if sys.argv[1].startswith("growth") else work)(*sys.argv[1:])
