"""Our training beside what people would pick instead, and how its cost grows.

Steps: milliseconds per training step and trial, ours, idiomatic Flax NNX, a plain jitted step,
PyTorch; and two bounds, large matrix products and the products of a training step with nothing
between them. Every variant is a process of its own that builds, warms up and waits; the parent lets
them run one round each in turn, so that a drift of the machine's speed meets all of them alike.
Quote the ratios, never a bare time.
Draws: the parameters of many trials. Study: the wall clock of a whole study, started cold;
`--evaluations` changes how often an epoch is evaluated, by all alike. Growth: time against trials,
T and H^2, memory against T, and what unrolling costs and brings.

    scripts/benchmark [--quick] [--parts steps tokens draws study growth] [--json FILE]
"""

import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from variants import CELLS, CHARACTERS, CHARACTERS_CELL, RECORDING, flops

QUICK = ("RNN H=128 T=28", "LSTM H=128 T=28", "GRU H=128 T=28")
# name: processes at once
VARIANTS = {
    "ours, mapped over devices": 1,
    "plain jax.jit step": 1,
    "Flax NNX, idiomatic": 1,
    "PyTorch, 1 thread": 1,
    "PyTorch, 2 threads": 1,
    "PyTorch, 2 processes": 2,
    "PyTorch, torch.compile": 1,
    "its products alone": 1,
    "matmul peak": 1,
}
# what grows: the sizes, over two orders of magnitude (of hidden units squared)
GROWTH = {
    "trials": (4, 40, 400),
    "T": (16, 160, 1600),
    "hidden units": (32, 101, 320),
    "memory": (100, 1000, 10000),
    "memory, whole": (100, 1000),
    "unroll RNN": (1, 4, 28),
    "unroll LSTM": (1, 4),
}


Workers = dict[str, list[Any]]  # the processes of each variant


def start_workers(variants: dict[str, int]) -> Workers:
    return {
        variant: [start_worker(variant) for _ in range(count)]
        for variant, count in variants.items()
    }


def start_worker(*arguments: str) -> Any:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "variants.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )


def ask(processes: list[Any], line: str) -> list[str]:
    """What all processes of a variant answer to a line, given to them at once; empty answers when
    one has died."""
    try:
        for process in processes:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
    except BrokenPipeError:
        return [""]
    return [process.stdout.readline().strip() for process in processes]


def measure(workers: Workers, cell: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds per step and trial of each variant, a value a round; one that cannot run is left
    out."""
    for variant, processes in list(workers.items()):
        if any(answer != "ready" for answer in ask(processes, cell)):
            print(
                f"benchmark: {variant!r} cannot run here (its error is above), so it is left out",
                file=sys.stderr,
            )
            del workers[variant]
    times: dict[str, list[float]] = {variant: [] for variant in workers}
    for _ in range(rounds):
        for variant, processes in workers.items():
            took = [float(answer) for answer in ask(processes, str(steps))]
            times[variant].append(max(took) / len(processes))
    return times


def stop(workers: Workers) -> None:
    for processes in workers.values():
        for process in processes:
            process.communicate()


def rows_of(cell: str, times: dict[str, list[float]]) -> list[dict]:
    """One row a variant: the median and the range, and how many times slower PyTorch's best and NNX
    are."""
    middle = {variant: statistics.median(values) for variant, values in times.items()}
    torch = min(
        (ms for variant, ms in middle.items() if variant.startswith("PyTorch")), default=None
    )
    nnx = next((ms for variant, ms in middle.items() if "NNX" in variant), None)
    top = middle.get("matmul peak")
    over = lambda reference, ms: None if reference is None else reference / ms
    return [
        {
            "cell": cell,
            "variant": variant,
            "ms": {"median": middle[variant], "low": min(values), "high": max(values)},
            "share_of_peak": over(top, middle[variant]),
            "ratio_to_torch": over(torch, middle[variant]),
            "ratio_to_nnx": over(nnx, middle[variant]),
        }
        for variant, values in times.items()
    ]


def show(row: dict) -> None:
    ms = row["ms"]
    spread = f"{ms['median']:.3f} ({ms['low']:.3f}-{ms['high']:.3f})"
    number = lambda value, form: "-" if value is None else format(value, form)
    share, torch, nnx = row["share_of_peak"], row["ratio_to_torch"], row["ratio_to_nnx"]
    print(
        f"{row['cell']:16} {row['variant']:26} {spread:>28} {number(share, '.0%'):>8} "
        f"{number(torch, '.2f'):>8} {number(nnx, '.2f'):>6}",
        flush=True,
    )


def steps_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """Training steps, and what recording costs of them."""
    quick = settings.quick
    left_out = ("PyTorch, torch.compile",) if quick else ()
    variants = {
        variant: count
        for variant, count in VARIANTS.items()
        if (has_torch or not variant.startswith("PyTorch")) and variant not in left_out
    }
    rounds = 5 if quick else 9
    workers = start_workers(variants)
    for cell in QUICK if quick else CELLS:
        yield from rows_of(
            cell, measure(workers, cell, rounds, max(4, round(4e9 / flops(*CELLS[cell]))))
        )
    stop(workers)
    workers = start_workers(dict.fromkeys(RECORDING, 1))
    yield from rows_of("main job, T=8", measure(workers, "main job", rounds, 400))
    stop(workers)


def study_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """A whole convergence study from the start of its process to its answer; nothing is compiled
    beforehand."""
    from jaxinit.analysis.folder import to_json
    from jaxinit.engine.resolve import resolve
    from jaxinit.study import Study

    small = Study(schemes=("small_normal", "xavier_rnn"), lrs=(0.1, 0.3), seeds=4, tune_seeds=2)
    resolved = resolve(
        replace(small if settings.quick else Study(), evaluations=settings.evaluations)
    )
    name = "study, quick" if settings.quick else "main job, whole"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.json").write_bytes(to_json({"study": resolved.study.plain()}))
        import numpy as np

        data: dict[str, Any] = {
            name: np.asarray(value) for name, value in resolved.task.data.items()
        }
        np.savez(Path(folder) / "data.npz", **data)
        ours = (
            "from jaxinit.engine import sweep; sweep.one_device_per_core(); from "
            "jaxinit.engine.campaign import run; from jaxinit.study import Study; import "
            f"tempfile; run(Study.from_json({folder!r} + '/study.json'), out=tempfile.mkdtemp() + "
            "'/s', progress=False)"
        )
        peers = str(Path(__file__).parent / "peers.py")
        commands = {"ours, cold": [sys.executable, "-c", ours]}
        if has_torch:
            commands["PyTorch, 2 processes"] = [sys.executable, peers, "torch", folder]
        commands["Flax NNX, 2 processes"] = [sys.executable, peers, "nnx", folder]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
        times: dict[str, list[float]] = {variant: [] for variant in commands}
        for variant, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            times[variant].append((time.perf_counter() - began) * 1e3)
    yield from rows_of(name, times)


def tokens_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """Training steps of a character model, a decoder of 4 blocks of 128 units; prints tokens per
    second too."""
    left_out = ("PyTorch, torch.compile", "its products alone")
    variants = {
        variant: count
        for variant, count in VARIANTS.items()
        if (has_torch or not variant.startswith("PyTorch")) and variant not in left_out
    }
    workers = start_workers(variants)
    rows = rows_of(
        CHARACTERS_CELL, measure(workers, CHARACTERS_CELL, 5 if settings.quick else 9, 8)
    )
    stop(workers)
    _, _, _, batch, length = CHARACTERS
    for row in rows:
        row["tokens_per_s"] = batch * length / row["ms"]["median"] * 1e3
        yield row
    told = ", ".join(
        f"{row['variant']} {row['tokens_per_s']:,.0f}"
        for row in rows
        if row["variant"] != "matmul peak"
    )
    print(f"tokens per second, on all cores: {told}")


def draws_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """Parameters of many trials, drawn by us and by `jax.nn.initializers`, in all: `ms` is not per
    trial."""
    del settings, has_torch
    answers = start_worker("draws").communicate()[0].splitlines()
    for answer in map(json.loads, answers):
        yield from rows_of(answer["cell"], answer["times"])


def growth_part() -> Iterator[dict]:
    """How time and memory grow, each size in a process of its own."""
    for what, sizes in GROWTH.items():
        for size in sizes:
            process = start_worker(f"growth {what}", str(size))
            answer = json.loads(process.communicate()[0] or "null")
            if answer is None:
                raise SystemExit(
                    f"benchmark: the worker of {what} at {size} failed; its error is above"
                )
            yield {"cell": what, "variant": str(size), **answer}


@dataclass(frozen=True)
class Benchmark:
    """Our training beside PyTorch and Flax NNX, interleaved in one run, and how its cost grows."""

    quick: bool = False
    """Three cells instead of six, fewer rounds and a small study: under three minutes."""
    parts: tuple[Literal["steps", "tokens", "draws", "study", "growth"], ...] = (
        "steps",
        "draws",
        "study",
    )
    """What to measure: training steps, those of a Transformer, drawing parameters, a whole study,
    how cost grows."""
    evaluations: int = 8
    """Evaluations an epoch in the whole study; a divisor of its 40 batches."""
    json: Path | None = None
    """Write the rows to this file too."""


def main() -> None:
    settings = tyro.cli(Benchmark)
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        print(
            "PyTorch is not installed in this environment, so its rows are left out",
            file=sys.stderr,
        )
    rows = []
    parts = {"steps": steps_part, "tokens": tokens_part, "draws": draws_part, "study": study_part}
    for part in settings.parts:
        if part in parts:
            heading = "ms/step/trial" if part in ("steps", "tokens") else "ms in all"
            print(
                f"{'cell':16} {'variant':26} {heading + ' (low-high)':>28} {'of peak':>8} "
                f"{'x torch':>8} {'x NNX':>6}"
            )
            for row in parts[part](settings, has_torch):
                rows.append(row)
                show(row)
        else:
            print(
                f"{'what grows':18} {'size':>7} {'ms/step/trial (low-high)':>28} "
                f"{'first run, s':>12} {'peak, MiB':>10}"
            )
            for row in growth_part():
                rows.append(row)
                ms = row["ms"]
                spread = f"{ms['median']:.3f} ({ms['low']:.3f}-{ms['high']:.3f})"
                print(
                    f"{row['cell']:18} {row['variant']:>7} {spread:>28} {row['first_s']:12.1f} "
                    f"{row['peak_mib']:10.0f}",
                    flush=True,
                )
    if settings.json:
        settings.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
