"""Studies on workers of Dask while workers, a scheduler and clients die: the same answer."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lives import Life, descendants, runs, workers_of

from jaxinit.analysis import store
from jaxinit.analysis.outcome import Outcome

LINE = "run --hidden 48 --schemes small_normal xavier_rnn --seeds 3 --epochs 40 --target 0.96"
STUDY = LINE.split()
POISONED = "run --hidden 24 --batch 64 --lrs 0.1 --search grid --seeds 2 --epochs 8 --target 0.9"
# A scheme whose draw may be traced, and ends the process where it is computed.
POISON = '''
"""Draws that end the process that computes them."""

import os

import jax
from jax.experimental import io_callback

from jaxinit.schemes import SCHEMES


def end(drawn):
    os._exit(9)


def poison(leaf):
    sound = SCHEMES["orthogonal"](leaf)

    def draw(key, shape, dtype):
        drawn = sound(key, shape, dtype)
        return io_callback(end, jax.ShapeDtypeStruct(drawn.shape, drawn.dtype), drawn)

    return draw
'''
ENDS_WITHIN = 60.0  # seconds in which a client ends whose scheduler has died


def same(folder: Path, whole: Path) -> bool:
    return store.load(folder).records.identical(store.load(whole).records)


def dying_workers(storms: int, expected: float, draws: np.random.Generator, there: Path) -> bool:
    """Workers killed at random until the study ends, on average so many in the time that it takes
    undisturbed."""
    assert not Life(STUDY, there / "whole").finish()[0]
    began = time.monotonic()
    assert not Life([*STUDY, "--cluster"], there / "undisturbed").finish()[0]
    mean = (time.monotonic() - began) / expected
    sound = same(there / "undisturbed", there / "whole")
    for number in range(storms):
        folder = there / f"storm{number}"
        life = Life([*STUDY, "--cluster"], folder)
        while life.going() and not any(folder.glob(".parts/*")):
            time.sleep(0.05)  # until all workers have started
        began, deaths = time.monotonic(), 0
        while not life.ended(draws.exponential(mean)):
            for victim in draws.permutation(workers_of(life.pid))[:1].tolist():
                os.kill(victim, signal.SIGKILL)
                deaths += 1
        code, errors = life.finish()
        right = code == 0 and same(folder, there / "whole")
        sound &= right
        print(
            f"workers killed, one in {mean:.0f} s on average: {deaths} deaths in "
            f"{time.monotonic() - began:.0f} s, records "
            f"{'the same' if right else f'WRONG {errors}'}",
            flush=True,
        )
    return sound


def poisoned_trials(there: Path) -> bool:
    """A scheme whose every trial ends the worker that has it: its trials have failed, and those of
    the other scheme are what they are without it."""
    file = there / "poison.py"
    file.write_text(POISON)
    alone = [*POISONED.split(), "--schemes", "small_normal"]
    code, errors = Life(alone, there / "sound").finish()
    if code:
        raise RuntimeError(errors)
    began = time.monotonic()
    life = Life([*alone, f"{file}:poison", "--cluster"], there / "poisoned")
    code, errors = life.finish()
    if code:
        print(f"a poisoned scheme: LOST, {errors}", flush=True)
        return False
    records = store.load(there / "poisoned").records
    others = records.isel(trial=np.flatnonzero(records.scheme.values == "small_normal"))
    poisoned = records.isel(trial=np.flatnonzero(records.scheme.values != "small_normal"))
    whole = store.load(there / "sound").records
    failed = int((poisoned.outcome.values == Outcome.FAILED).sum())
    right = failed == poisoned.sizes["trial"] > 0 and others.drop_attrs().identical(
        whole.drop_attrs()
    )
    print(
        f"a scheme whose draws end their process: {failed} of its {poisoned.sizes['trial']} trials "
        f"have failed, the {others.sizes['trial']} of the other are "
        f"{'the same' if right else 'WRONG'}, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return right


@contextmanager
def fleet(there: Path, name: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """A scheduler on the loopback with two workers: its address, and its process."""
    file = there / f"{name}.json"
    words = ["--scheduler-file", str(file), "--no-dashboard"]
    both: list[subprocess.Popen] = []

    def begin(what: str, *more: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *words, *more]
        with (there / f"{name}.{what}.said").open("a") as said:
            own = os.environ | {"JAX_PLATFORMS": "cpu"}
            both.append(subprocess.Popen(command, stdout=said, stderr=said, env=own))
        return both[-1]

    scheduler = begin("scheduler", "--host", "127.0.0.1", "--port", "0")
    try:
        while not file.exists() or not file.read_text():
            time.sleep(0.1)
        for _ in range(2):
            begin("worker", "--nthreads", "1", "--local-directory", str(there))
        yield json.loads(file.read_text())["address"], scheduler
    finally:
        children = [pid for process in both for pid in descendants(process.pid)]
        for process in both:
            process.kill()
            process.wait()
        for pid in children:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)


def until_it_has_something(life: Life, folder: Path) -> None:
    """Wait until a client, or its workers, have written what can be gone on from."""
    while life.going() and not (
        (folder / store.STATE).exists() or any(folder.glob(".parts/*/*.part"))
    ):
        time.sleep(0.05)


def dying_schedulers(rounds: int, there: Path) -> bool:
    """A scheduler dies, then a client of a new one; the same command goes on to the same answer."""
    if not (there / "whole").exists():
        assert not Life(STUDY, there / "whole").finish()[0]
    sound = True
    for number in range(rounds):
        folder = there / f"orphaned{number}"
        with fleet(there, f"first{number}") as (address, scheduler):
            life = Life([*STUDY, "--cluster", address], folder)
            until_it_has_something(life, folder)
            scheduler.kill()
            began = time.monotonic()
            ended = life.ended(ENDS_WITHIN)
            seconds = time.monotonic() - began
            if not ended:
                life.kill()
            code, errors = life.finish()
        lines = errors.strip().splitlines()
        one_line = len(lines) == 1 and lines[0].startswith("jaxinit: ")
        ends = ended and code == 1 and one_line
        print(
            f"a scheduler died: its client ended {'' if ended else 'NOT '}in {seconds:.0f} s, code "
            f"{code}: {errors.strip()}",
            flush=True,
        )
        with fleet(there, f"second{number}") as (address, _):
            life = Life([*STUDY, "--cluster", address], folder)
            life.ended(3.0)
            until_it_has_something(life, folder)
            life.kill()
            code, errors = Life([*STUDY, "--cluster", address], folder).finish()
        right = code == 0 and same(folder, there / "whole")
        sound &= ends and right
        print(
            "the same command with a new scheduler, whose client was killed, and once more: "
            f"records {'the same' if right else f'WRONG {code} {errors}'}",
            flush=True,
        )
    return sound


def costs(pairs: int, words: list[str], there: Path) -> bool:
    """What saving costs, and what workers cost where one process would do: the same study here and
    on workers of this machine, in turn."""
    spent: dict[str, list[dict[str, Any]]] = {"here": [], "on workers": []}
    for number in range(pairs):
        for where, more in (("here", []), ("on workers", ["--cluster"])):
            folder, file = there / f"cost{number}{where[:4]}", there / "cost.json"
            code, errors = Life([*words, *more], folder, save_every=5.0, costs=file).finish()
            if code:
                raise RuntimeError(errors)
            spent[where].append(json.loads(file.read_text()))
    if not pairs:
        return True

    def middle(where: str, what: str) -> float:
        return statistics.median(one[what] for one in spent[where])

    for where in spent:
        shares = [one["saving"] / one["training"] for one in spent[where]]
        print(
            f"{where}: {middle(where, 'wall'):.1f} s, of which the training loop "
            f"{middle(where, 'training'):.1f} s, {middle(where, 'cpu'):.1f} s of processors; "
            f"{middle(where, 'saves'):.0f} states saved, {100 * statistics.median(shares):.2f} % "
            "of the training loop"
        )
    for what in ("wall", "training", "cpu"):
        ratios = [b[what] / a[what] for a, b in zip(*spent.values(), strict=True)]
        print(
            f"on workers / here, {what}: median {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}, {pairs} pairs)",
            flush=True,
        )
    saving = middle("here", "saving") / middle("here", "training")
    overhead = middle("on workers", "wall") / middle("here", "wall") - 1
    return saving < 0.03 and overhead < 0.15
