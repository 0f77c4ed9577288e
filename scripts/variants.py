"""What the benchmark times: for each variant a function that builds it and returns how to run it,
and the worker.

    python scripts/variants.py VARIANT

reads lines: for the name of a setting it builds, warms up and prints "ready"; for a number of steps
it runs them and prints the milliseconds that a step of a trial took; for `seconds 0.2` it runs as
many as take about so long.
"""

import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import character_models
import picture_models

CHARACTERS_SETTING = "4 blocks of 128, T=64"
# By name: model, hidden units, inputs, batch, steps in time.
SETTINGS = {
    "RNN H=128 T=28": ("rnn", 128, 8, 32, 28),
    "RNN H=64 T=64": ("rnn", 64, 1, 32, 64),
    "LSTM H=128 T=28": ("lstm", 128, 8, 32, 28),
    "GRU H=128 T=28": ("gru", 128, 8, 32, 28),
    "RNN H=512 T=28": ("rnn", 512, 8, 64, 28),
    "LSTM H=512 T=28": ("lstm", 512, 8, 64, 28),
}
# Pictures: channels, columns, batch, rows.
PICTURES = {
    "CNN 16, 8x8": ("cnn", 16, 8, 32, 8),
    "CNN 32, 8x8": ("cnn", 32, 8, 32, 8),
    "CNN 32, 28x28": ("cnn", 32, 28, 32, 28),
}
# Those of scripts/accelerator: a large run, and sizes for trying it out on simulated devices.
ON_ACCELERATORS = {
    "LSTM H=1024 T=100": ("lstm", 1024, 128, 128, 100),
    "RNN H=16 T=8": ("rnn", 16, 8, 8, 8),
    "LSTM H=16 T=8": ("lstm", 16, 8, 8, 8),
    "LSTM H=32 T=16": ("lstm", 32, 8, 8, 16),
}
TOGETHER = {f"ours, {count} together": count for count in (1, 4, 16, 64, 256)}  # under vmap
CHARACTERS = ("transformer", 128, 97, 32, 64)  # the inputs are characters
# Models that others write layer by layer.
WRITTEN_OUT: dict[str, Any] = {"transformer": character_models, "cnn": picture_models}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
TRIALS_PER_DEVICE, CLASSES, RATE = 2, 10, 0.01
TINY = 1e-9  # the rate of "its products alone", whose sizes must neither vanish nor grow
# By variant: evaluations an epoch, and whether records leave the program. What of a study's time is
# evaluation and records is read off the three.
RECORDING = {
    "4 evaluations, recorded": (4, True),
    "4 evaluations, no records": (4, False),
    "1 evaluation, recorded": (1, True),
}
Step = Callable[[int], int]  # runs that many steps of all its trials; returns the number of trials


def ours(model: str, hidden: int, inputs: int, batch: int, length: int, **options: int) -> Step:
    """Our models and backward passes, by plain SGD."""
    import jax

    loss, initial = _jax_loss(model, hidden, inputs, batch, length, **options)

    def step(p: Any) -> Any:
        return jax.tree.map(lambda a, g: a - RATE * g, p, jax.grad(loss)(p))

    return _mapped(step, initial)


def together(trials: int, model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    """As `ours`, so many trials under vmap, as a study runs them on an accelerator."""
    import jax

    loss, initial = _jax_loss(model, hidden, inputs, batch, length)

    def step(p: Any) -> Any:
        return jax.tree.map(lambda a, g: a - RATE * g, p, jax.grad(loss)(p))

    return _mapped(step, initial, trials)


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

        # Forwards, backwards, and the products that give the gradients of the weights.
        forth, states = jax.lax.scan(through, p["h"], None, length=length)
        back, slopes = jax.lax.scan(through, forth, None, length=length)
        states, slopes = states.reshape(-1, hidden), slopes.reshape(-1, hidden)
        u = []
        for k, w in enumerate(p["u"]):
            # k makes each gate's product another one, which the compiler cannot reuse.
            u.append(w + TINY * (states.T @ (slopes + k)))
        # States of one size, or they would overflow after many steps.
        return {"h": back / jax.numpy.sqrt(jax.numpy.mean(back * back)), "u": u}

    def initial(seed: Any) -> Any:
        key_h, *keys = jax.random.split(jax.random.key(seed), gates + 1)
        spread = (hidden * gates) ** 0.5
        u = [jax.random.normal(key, (hidden, hidden)) / spread for key in keys]
        return {"h": jax.random.normal(key_h, (batch, hidden)), "u": u}

    return _mapped(step, initial)


def _mapped(step: Callable, initial: Callable, trials: int | None = None) -> Step:
    """Trials over all devices: a step of each trial, again and again.

    One after another on each device; or so many `trials` in all, together on each.
    """
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    count = TRIALS_PER_DEVICE * jax.device_count()
    if trials is not None:  # as many on every device
        count = -(-trials // jax.device_count()) * jax.device_count()
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("trial",))
    by_trial = PartitionSpec("trial")
    drawn = jax.vmap(initial)(jax.numpy.arange(count))
    params = jax.device_put(drawn, NamedSharding(mesh, by_trial))

    def on_device(params: Any, steps: Any) -> Any:
        def trained(p: Any) -> Any:
            return jax.lax.fori_loop(0, steps, lambda _, p: step(p), p)

        return jax.lax.map(trained, params) if trials is None else jax.vmap(trained)(params)

    program = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(by_trial, PartitionSpec()),
        out_specs=by_trial,
        check_vma=False,
    )
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
    from jaxinit.engine import training
    from jaxinit.engine.resolve import VALIDATED_AT_ONCE, resolve
    from jaxinit.schemes import SCHEMES
    from jaxinit.study import Study

    resolved = resolve(Study())
    sizes: dict[str, Any] = {
        "batch": 32,
        "evaluations": evaluations,
        "epochs": 1,
        "at_once": VALIDATED_AT_ONCE,
    }
    program = training.Program(resolved.model, resolved.task, resolved.optimizer, **sizes)
    drawn = spec.draw(SCHEMES["xavier_rnn"], jax.random.key(0), resolved.model.leaves)
    real, whole = jax.numpy.float32, jax.numpy.int32
    # No clipping, and a target that no accuracy reaches: every step is made.
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
    state = program.initial_state(drawn, trial)

    def epoch(state: Any) -> Any:
        state, records = program.advance(resolved.task.data, state, trial)
        # What is not returned is not computed: the compiler leaves it out.
        return (state, records) if recorded else (state, None)

    compiled = jax.jit(epoch)

    def run(steps: int) -> int:
        after: Any = state
        for _ in range(steps // 40):  # an epoch of the main job has 40 steps
            after, _ = compiled(after)
        jax.block_until_ready(after)
        return 1

    return run


def plain_jit(
    model: str, hidden: int, inputs: int, batch: int, length: int, **options: int
) -> Step:
    """The same loss as ours, one trial, and a call of a compiled step for each step."""
    import jax

    loss, initial = _jax_loss(model, hidden, inputs, batch, length, **options)

    @jax.jit
    def step(p: Any) -> Any:
        return jax.tree.map(lambda a, g: a - RATE * g, p, jax.grad(loss)(p))

    def run(steps: int) -> int:
        p = initial(0)
        for _ in range(steps):
            p = step(p)
        jax.block_until_ready(p)
        return 1

    return run


def _jax_loss(model: str, hidden: int, inputs: int, batch: int, length: int, **options: int):
    """The loss of one of our models on a fixed batch, and its initial weights by seed."""
    import jax
    from flax import nnx

    from jaxinit import introspect, spec
    from jaxinit.models import MODELS
    from jaxinit.schemes import SCHEMES
    from jaxinit.tasks.base import cross_entropy

    make: Any = MODELS[model]
    sizes: dict[str, Any] = dict(options)
    if model == "transformer":
        blocks, heads = character_models.BLOCKS, character_models.HEADS
        sizes |= {"layers": blocks, "heads": heads, "length": length}
        outputs, scheme = inputs, SCHEMES["xavier_transformer"]
        x, y = map(jax.numpy.asarray, character_models.tokens(inputs, batch, length))
    elif model == "cnn":
        sizes |= {"layers": picture_models.LAYERS}
        outputs, scheme = CLASSES, SCHEMES["he_normal"]
        x, y = map(jax.numpy.asarray, picture_models.pictures(inputs, batch, length))
    else:
        outputs, scheme = CLASSES, SCHEMES["glorot_uniform"]
        x = jax.random.normal(jax.random.key(0), (batch, length, inputs))
        y = jax.numpy.zeros(batch, int)
    leaves, apply, *_ = introspect.functional(
        lambda: make(inputs, hidden, outputs, rngs=nnx.Rngs(0), **sizes)
    )

    def loss(p: Any) -> Any:
        return cross_entropy(apply(p, x), y)

    @jax.jit
    def initial(seed: Any) -> Any:
        return spec.draw(scheme, jax.random.key(seed), leaves)

    return loss, initial


def flax_nnx(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    if model in WRITTEN_OUT:
        return WRITTEN_OUT[model].flax_nnx(hidden, inputs, batch, length, RATE)
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
    device: str = "cpu",
) -> Step:
    if model in WRITTEN_OUT:
        return WRITTEN_OUT[model].pytorch(hidden, inputs, batch, length, RATE, threads)
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    kinds: dict[str, Any] = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("this PyTorch finds no GPU")
    net, out = kinds[model](inputs, hidden, batch_first=True), torch.nn.Linear(hidden, CLASSES)
    net, out = net.to(device), out.to(device)
    optimizer = torch.optim.SGD([*net.parameters(), *out.parameters()], lr=RATE)
    x = torch.randn(batch, length, inputs, device=device)
    y = torch.zeros(batch, dtype=torch.long, device=device)

    def loss_of() -> Any:
        states, _ = net(x)
        return torch.nn.functional.cross_entropy(out(states[:, -1]), y)

    if compiled:
        loss_of = torch.compile(loss_of)

    def run(steps: int) -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of().backward()
            optimizer.step()
        if device == "cuda":  # which computes what it was told while we go on
            torch.cuda.synchronize()
        return 1

    return run


def cudnn(model: str, hidden: int, inputs: int, batch: int, length: int) -> Step:
    """cuDNN's LSTM through JAX, with our readout."""
    if model != "lstm":
        raise SystemExit("jax.experimental.rnn has LSTMs alone")
    import jax
    from jax.experimental import rnn

    from jaxinit.tasks.base import cross_entropy

    x = jax.random.normal(jax.random.key(0), (batch, length, inputs))
    y, zeros = jax.numpy.zeros(batch, int), jax.numpy.zeros((1, batch, hidden))
    lengths = jax.numpy.full(batch, length, jax.numpy.int32)

    def loss(p: Any) -> Any:
        layers, dropout, both = 1, 0.0, False
        found: Any = rnn.lstm(
            x, zeros, zeros, p["cell"], lengths, inputs, hidden, layers, dropout, both
        )
        states, _, _ = found
        return cross_entropy(states[:, -1] @ p["out"], y)

    @jax.jit
    def step(p: Any) -> Any:
        return jax.tree.map(lambda a, g: a - RATE * g, p, jax.grad(loss)(p))

    cell = rnn.init_lstm_weight(jax.random.key(1), inputs, hidden, 1, False)
    begun = {"cell": cell, "out": jax.random.normal(jax.random.key(2), (hidden, CLASSES)) / hidden}

    def run(steps: int) -> int:
        p = begun
        for _ in range(steps):
            p = step(p)
        jax.block_until_ready(p)
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
        # Two products may be worth more than the steps asked: then they are those of many trials.
        return 1 if products > 2 else max(1, round(2 / (steps * share)))

    return run


def flops(model: str, hidden: int, inputs: int, batch: int, length: int) -> float:
    """Multiplications and additions of one training step: forward, and twice that backward."""
    if model in WRITTEN_OUT:
        return WRITTEN_OUT[model].flops(hidden, inputs, batch, length)
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
        "PyTorch on the GPU": lambda *a: pytorch(*a, threads=1, device="cuda"),
        "jax.experimental.rnn": cudnn,
        "its products alone": products,
        "matmul peak": peak,
    }
    for name, trials in TOGETHER.items():
        makers[name] = partial(together, trials)
    if variant in ("ours, mapped over devices", "its products alone", *RECORDING):
        set_up_devices()
    # While others are asked: on a GPU a start takes seconds.
    if variant.startswith("PyTorch"):
        importlib.import_module("torch")
    else:
        importlib.import_module("jax").devices()
    settings = SETTINGS | PICTURES | ON_ACCELERATORS | {CHARACTERS_SETTING: CHARACTERS}
    run: Step | None = None
    for line in map(str.strip, sys.stdin):
        if run is None or line in settings or line == "main job":
            if variant in RECORDING:
                run = recording(*RECORDING[variant])
                run(40)  # an epoch: fewer steps would be none
            else:
                run = makers[variant](*settings[line])
                run(3)
            print("ready", flush=True)
            continue
        steps = steps_in(float(line.split()[1]), run) if line.startswith("seconds") else int(line)
        began = time.perf_counter()
        trials = run(steps)
        milliseconds = (time.perf_counter() - began) * 1e3
        print(milliseconds / steps / trials, flush=True)


def steps_in(seconds: float, run: Step) -> int:
    """As many steps as take about so long, by the time of one, with which the waiting for the
    device is counted."""
    began = time.perf_counter()
    run(1)
    return max(1, round(seconds / (time.perf_counter() - began)))


def machine() -> None:
    """A worker: what JAX finds here, as JSON."""
    import jax

    devices = []
    for device in jax.devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        devices.append({"kind": device.device_kind, "bytes": limit})
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax")}
    print(json.dumps({"platform": jax.default_backend(), "devices": devices, "versions": versions}))


def draws() -> None:
    """A worker: parameters of many trials drawn by us and by `jax.nn.initializers`, in turn; prints
    milliseconds."""
    import jax
    from flax import nnx

    from jaxinit import initializers, introspect, spec
    from jaxinit.models import LSTM
    from jaxinit.schemes import SCHEMES

    leaves, *_ = introspect.functional(lambda: LSTM(8, 256, CLASSES, rngs=nnx.Rngs(0)))
    square = (512, 512)
    our_orthogonal = initializers.orthogonal()
    their_orthogonal = jax.nn.initializers.orthogonal()

    def our_lstm(key: Any) -> Any:
        return spec.draw(SCHEMES["glorot_uniform"], key, leaves)

    def their_lstm(key: Any) -> list[Any]:
        keys = jax.random.split(key, len(leaves))
        return [drawn_by_jax(leaf, k) for leaf, k in zip(leaves, keys, strict=True)]

    comparisons = (
        ("draws: LSTM, 256 units", 256, our_lstm, their_lstm),
        (
            "draws: orthogonal 512 x 512",
            64,
            lambda key: our_orthogonal(key, square),
            lambda key: their_orthogonal(key, square),
        ),
    )
    for name, count, mine, theirs in comparisons:
        keys = jax.random.split(jax.random.key(0), count)
        programs = {
            "ours": jax.jit(jax.vmap(mine)),
            "jax.nn.initializers, vmap": jax.jit(jax.vmap(theirs)),
        }
        times = in_turn(programs, keys)
        print(json.dumps({"setting": f"{name}, {count} trials", "times": times}), flush=True)


def drawn_by_jax(leaf: Any, key: Any) -> Any:
    """A parameter of an LSTM as a user of JAX would draw it: zero biases, Glorot gate by gate."""
    import jax

    if leaf.role == "bias":
        return jax.numpy.zeros(leaf.shape)
    glorot = jax.nn.initializers.glorot_uniform()
    if not leaf.gate:
        return glorot(key, leaf.shape)
    keys = jax.random.split(key, len(leaf.gate))
    return jax.vmap(lambda k: glorot(k, leaf.shape[1:]))(keys)


def in_turn(programs: dict[str, Callable], keys: Any) -> dict[str, list[float]]:
    """Milliseconds of each program on the keys, seven times, one after the other."""
    import jax

    times: dict[str, list[float]] = {variant: [] for variant in programs}
    for turn in range(8):
        for variant, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(keys))
            if turn > 0:  # the first compiles
                times[variant].append((time.perf_counter() - began) * 1e3)
    return times


def set_up_devices() -> None:
    """A device per core, unless the environment says how many there are."""
    from jaxinit.engine import sweep

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        sweep.one_device_per_core()


def grow(name: str, size: str) -> None:
    """A worker: build one size, run it, print milliseconds a step and trial, seconds of compilation
    and peak memory."""
    variant = name.removeprefix("growth ")
    option: dict[str, Any] = {}
    sizes: dict[str, Any] = {"model": "rnn", "hidden": 64, "inputs": 1, "batch": 32, "length": 16}
    if variant.startswith("unroll"):
        sizes |= {"model": variant.split()[1].lower(), "hidden": 128, "inputs": 8, "length": 28}
        option = {"unroll": int(size)}
    elif variant.startswith("memory"):
        sizes |= {"model": "lstm", "hidden": 128, "length": int(size)}
        if "whole" in variant:  # one segment keeps every state for the backward pass
            option = {"segment": int(size)}
    elif variant == "trials":
        sizes |= {"hidden": 32}
    else:
        option_of = {"T": "length", "hidden units": "hidden"}
        sizes[option_of[variant]] = int(size)
    began = time.perf_counter()
    if variant == "trials":
        global TRIALS_PER_DEVICE
        TRIALS_PER_DEVICE = int(size) // 2
    if variant.startswith("memory"):  # of one trial, on one device
        rounds, steps = 1, 1
        run = plain_jit(**sizes, **option)
    else:
        rounds, steps = 5, 200 if variant == "trials" else 20
        set_up_devices()
        run = ours(**sizes, **option)
    run(1)
    first = time.perf_counter() - began
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        trials = run(steps)
        times.append((time.perf_counter() - began) * 1e3 / steps / trials)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ms = {"median": statistics.median(times), "low": min(times), "high": max(times)}
    print(json.dumps({"ms": ms, "first_s": first, "peak_mib": peak_mib}))


if __name__ == "__main__":
    asked, *arguments = sys.argv[1:]
    if asked == "draws":
        draws()
    elif asked == "machine":
        machine()
    elif asked.startswith("growth"):
        grow(asked, *arguments)
    else:
        work(asked)
