"""Our training beside what people would pick instead, and how its cost grows.

Steps: milliseconds per training step and trial, ours, idiomatic Flax NNX, a plain jitted step,
PyTorch; and two bounds, large matrix products and the products of a training step with nothing
between them. Every variant is a process of its own that builds, warms up and waits; the parent lets
them run one round each in turn, so that a drift of the machine's speed meets all of them alike.
Quote the ratios, never a bare time.
Draws: the parameters of many trials. Study: the wall clock of a whole study, started cold;
`--evaluations` changes how often an epoch is evaluated, by all alike. Growth: time against trials,
T and H^2, memory against T, and what unrolling costs and brings.

    scripts/benchmark [--quick] [--parts steps tokens pictures draws study growth] [--json FILE]
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
from variants import CHARACTERS, CHARACTERS_SETTING, PICTURES, RECORDING, SETTINGS, flops
from workers import measure, start_worker, start_workers, stop

QUICK = ("RNN H=128 T=28", "LSTM H=128 T=28", "GRU H=128 T=28")
# By variant: processes at once.
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
# By what grows: the sizes, over two orders of magnitude (of hidden units squared).
GROWTH = {
    "trials": (4, 40, 400),
    "T": (16, 160, 1600),
    "hidden units": (32, 101, 320),
    "memory": (100, 1000, 10000),
    "memory, whole": (100, 1000),
    "unroll RNN": (1, 4, 28),
    "unroll LSTM": (1, 4),
}
# A whole study in a process of its own, which begins before JAX is imported.
OURS = """
import tempfile
from jaxinit.engine import sweep
sweep.one_device_per_core()
from jaxinit.engine.campaign import run
from jaxinit.study import Study
run(Study.from_json({folder!r} + "/study.json"), out=tempfile.mkdtemp() + "/s", progress=False)
"""


def rows_of(setting: str, times: dict[str, list[float]]) -> list[dict]:
    """One row a variant: the median and the range, and how many times slower PyTorch's best and NNX
    are."""
    medians = {variant: statistics.median(values) for variant, values in times.items()}
    torch = fastest(medians, "PyTorch")
    nnx = fastest(medians, "Flax NNX")
    peak = fastest(medians, "matmul peak")
    rows = []
    for variant, values in times.items():
        median = medians[variant]
        rows.append(
            {
                "setting": setting,
                "variant": variant,
                "ms": {"median": median, "low": min(values), "high": max(values)},
                "share_of_peak": ratio(peak, median),
                "ratio_to_torch": ratio(torch, median),
                "ratio_to_nnx": ratio(nnx, median),
            }
        )
    return rows


def fastest(medians: dict[str, float], library: str) -> float | None:
    """The milliseconds of the fastest variant of a library; None where none has run."""
    own = [ms for variant, ms in medians.items() if variant.startswith(library)]
    return min(own, default=None)


def ratio(reference: float | None, ms: float) -> float | None:
    """How many times slower a reference is; None where it has not run."""
    return None if reference is None else reference / ms


def shown(number: float | None, form: str) -> str:
    """A ratio in print, a dash where there is none."""
    return "-" if number is None else format(number, form)


def show(row: dict) -> None:
    """Print a row of the table."""
    share = shown(row["share_of_peak"], ".0%")
    torch = shown(row["ratio_to_torch"], ".2f")
    nnx = shown(row["ratio_to_nnx"], ".2f")
    print(
        f"{row['setting']:16} {row['variant']:26} {spread(row['ms']):>28} {share:>8} {torch:>8} "
        f"{nnx:>6}",
        flush=True,
    )


def show_growth(row: dict) -> None:
    """Print a row of the table of what grows."""
    print(
        f"{row['setting']:18} {row['variant']:>7} {spread(row['ms']):>28} {row['first_s']:12.1f} "
        f"{row['peak_mib']:10.0f}",
        flush=True,
    )


def spread(ms: dict[str, float]) -> str:
    """The median and the range of milliseconds, in print."""
    return f"{ms['median']:.3f} ({ms['low']:.3f}-{ms['high']:.3f})"


def variants_here(has_torch: bool, left_out: tuple[str, ...]) -> dict[str, int]:
    """The variants that can run in this environment, but for those left out."""
    variants = {}
    for variant, count in VARIANTS.items():
        installed = has_torch or not variant.startswith("PyTorch")
        if installed and variant not in left_out:
            variants[variant] = count
    return variants


def steps_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """Training steps, and what recording costs of them."""
    rounds, measured, left_out = 9, tuple(SETTINGS), ()
    if settings.quick:
        rounds, measured = 5, QUICK
        left_out = ("PyTorch, torch.compile",)
    workers = start_workers(variants_here(has_torch, left_out))
    for setting in measured:
        # So many that a round takes about as long whatever the size.
        steps = max(4, round(4e9 / flops(*SETTINGS[setting])))
        yield from rows_of(setting, measure(workers, setting, rounds, steps))
    stop(workers)
    workers = start_workers(dict.fromkeys(RECORDING, 1))
    yield from rows_of("main job, T=8", measure(workers, "main job", rounds, 400))
    stop(workers)


def study_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """A whole convergence study from the start of its process to its answer; nothing is compiled
    beforehand."""
    import numpy as np

    from jaxinit.analysis.folder import to_json
    from jaxinit.engine.resolve import resolve
    from jaxinit.study import Study

    small = Study(schemes=("small_normal", "xavier_rnn"), lrs=(0.1, 0.3), seeds=4, tune_seeds=2)
    # What others would write: a grid, whose trials are the same for all that are timed.
    name, study = "main job, whole", Study(search="grid")
    if settings.quick:
        name, study = "study, quick", small
    resolved = resolve(replace(study, evaluations=settings.evaluations))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.json").write_bytes(to_json({"study": resolved.study.plain()}))
        data: dict[str, Any] = {
            array: np.asarray(value) for array, value in resolved.task.data.items()
        }
        np.savez(Path(folder) / "data.npz", **data)
        ours = OURS.format(folder=folder)
        peers = str(Path(__file__).parent / "peers.py")
        commands = {"ours, cold": [sys.executable, "-c", ours]}
        if has_torch:
            commands["PyTorch, 2 processes"] = [sys.executable, peers, "torch", folder]
        commands["Flax NNX, 2 processes"] = [sys.executable, peers, "nnx", folder]
        # Two processes of one thread each fill two cores; and ours has nothing compiled before.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
        times: dict[str, list[float]] = {}
        for variant, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
            times[variant] = [(time.perf_counter() - began) * 1e3]
    yield from rows_of(name, times)


def tokens_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """Training steps of a character model, a decoder of 4 blocks of 128 units; prints tokens per
    second too."""
    left_out = ("PyTorch, torch.compile", "its products alone")
    workers = start_workers(variants_here(has_torch, left_out))
    rounds = 5 if settings.quick else 9
    times = measure(workers, CHARACTERS_SETTING, rounds, 8)
    rows = rows_of(CHARACTERS_SETTING, times)
    stop(workers)
    _, _, _, batch, length = CHARACTERS
    for row in rows:
        row["tokens_per_s"] = batch * length / row["ms"]["median"] * 1e3
        yield row
    rates = []
    for row in rows:
        if row["variant"] != "matmul peak":  # which reads no tokens
            rates.append(f"{row['variant']} {row['tokens_per_s']:,.0f}")
    print(f"tokens per second, on all cores: {', '.join(rates)}")


def pictures_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """Training steps of a convolutional network of 4 layers."""
    left_out = ("PyTorch, torch.compile", "its products alone")
    workers = start_workers(variants_here(has_torch, left_out))
    rounds = 5 if settings.quick else 9
    for setting, sizes in PICTURES.items():
        steps = max(4, round(4e9 / flops(*sizes)))
        yield from rows_of(setting, measure(workers, setting, rounds, steps))
    stop(workers)


def draws_part(settings: "Benchmark", has_torch: bool) -> Iterator[dict]:
    """Parameters of many trials, drawn by us and by `jax.nn.initializers`, in all: `ms` is not per
    trial."""
    del settings, has_torch
    output, _ = start_worker("draws").communicate()
    for answer in map(json.loads, output.splitlines()):
        yield from rows_of(answer["setting"], answer["times"])


def growth_part() -> Iterator[dict]:
    """How time and memory grow, each size in a process of its own."""
    for growing, sizes in GROWTH.items():
        for size in sizes:
            # A process of its own for each, since its peak memory is that of its whole life.
            output, _ = start_worker(f"growth {growing}", str(size)).communicate()
            if not output:
                raise SystemExit(
                    f"benchmark: the worker of {growing} at {size} failed; its error is above"
                )
            yield {"setting": growing, "variant": str(size), **json.loads(output)}


@dataclass(frozen=True)
class Benchmark:
    """Our training beside PyTorch and Flax NNX, interleaved in one run, and how its cost grows."""

    quick: bool = False
    """Three settings instead of six, fewer rounds and a small study: under three minutes."""
    parts: tuple[Literal["steps", "tokens", "pictures", "draws", "study", "growth"], ...] = (
        "steps",
        "draws",
        "study",
    )
    """What to measure: training steps, those of a Transformer or a convolutional network, drawing
    parameters, a whole study, how cost grows."""
    evaluations: int = 4
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
    parts = {
        "steps": steps_part,
        "tokens": tokens_part,
        "pictures": pictures_part,
        "draws": draws_part,
        "study": study_part,
    }
    for part in settings.parts:
        if part in parts:
            heading = "ms in all" if part in ("draws", "study") else "ms/step/trial"
            print(
                f"{'setting':16} {'variant':26} {heading + ' (low-high)':>28} {'of peak':>8} "
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
                show_growth(row)
    if settings.json:
        settings.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
