"""Processes that time variants in turn: each builds one, warms it up and waits, and the parent lets
them run a round each, so that a drift of the machine's speed meets all of them alike.

    workers = start_workers({"ours, mapped over devices": 1, "PyTorch, 2 processes": 2})
    times = measure(workers, "RNN H=128 T=28", rounds=9, steps=400)
    stop(workers)
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

VARIANTS = Path(__file__).parent / "variants.py"
Workers = dict[str, list[Any]]  # the processes of each variant


def start_workers(variants: Mapping[str, int], **options: Any) -> Workers:
    """The processes of every variant, which all wait for a setting."""
    workers: Workers = {}
    for variant, count in variants.items():
        workers[variant] = [start_worker(variant, **options) for _ in range(count)]
    return workers


def start_worker(*arguments: str, folder: Path | None = None) -> Any:
    """A process of `variants.py`, which reads lines and answers each with a line.

    Its errors are ours or, with a `folder`, go into a file there of its variant's name.
    """
    errors = None
    if folder is not None:
        errors = (folder / arguments[0]).open("w")
    process = subprocess.Popen(
        [sys.executable, str(VARIANTS), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    if errors is not None:
        errors.close()  # the process has it
    return process


def ask(processes: list[Any], line: str) -> list[str]:
    """What all processes of a variant answer to a line, given to them at once; empty answers when
    one has died."""
    try:
        for process in processes:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
    except BrokenPipeError:  # its error is on stderr, which it shares with us
        return [""]
    return [process.stdout.readline().strip() for process in processes]


def say_lost(variant: str) -> None:
    print(
        f"benchmark: {variant!r} cannot run here (its error is above), so it is left out",
        file=sys.stderr,
    )


def measure(
    workers: Workers,
    setting: str,
    rounds: int,
    steps: int | str,
    lost: Callable[[str], None] = say_lost,
) -> dict[str, list[float]]:
    """Milliseconds per step and trial of each variant, a value a round; one that cannot run is left
    out, and `lost` is told. `steps` is a number or `seconds 0.2`, as many as take so long."""
    times: dict[str, list[float]] = {}

    def lose(variant: str) -> None:
        stop({variant: workers.pop(variant)})
        times.pop(variant, None)
        lost(variant)

    for variant, processes in list(workers.items()):
        # In turn too: XLA chooses kernels for a GPU by timing them.
        if set(ask(processes, setting)) == {"ready"}:
            times[variant] = []
        else:
            lose(variant)
    for _ in range(rounds):
        # One round each in turn, so that a drift of the machine's speed meets all alike.
        for variant, processes in list(workers.items()):
            answers = ask(processes, str(steps))
            if "" in answers:
                lose(variant)
                continue
            milliseconds = [float(answer) for answer in answers]
            # Processes run at once: together they have made that many steps.
            times[variant].append(max(milliseconds) / len(processes))
    return times


def stop(workers: Workers) -> None:
    """Close what the processes read, which ends them."""
    for processes in workers.values():
        for process in processes:
            process.communicate()
