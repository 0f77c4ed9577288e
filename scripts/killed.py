"""Studies that are killed at random moments, here and with workers, and pairs of processes on one
folder: nothing may be lost or wrong."""

import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from lives import Life, readable

from jaxinit.analysis import store

SHAPES = {
    # whose trials are stopped and trained again
    "a ladder": "run --hidden 24 --batch 64 --schemes small_normal xavier_rnn --seeds 3 "
    "--epochs 20 --target 0.95",
    "a grid": "run --hidden 24 --batch 64 --schemes small_normal xavier_rnn --lrs 0.03 0.1 0.3 "
    "--seeds 3 --tune-seeds 2 --epochs 15 --target 0.95",
    "dropout, momentum searched too": "run --model mlp --hidden 64 --dropout 0.2 --batch 64 "
    "--schemes small_normal glorot_uniform --optimizer momentum --search-also momentum 0.8 0.95 "
    "--lrs 0.03 0.1 0.3 --seeds 2 --tune-seeds 2 --epochs 10 --target 0.97",
}
LIVES = 4  # of a study, all but the last of which are killed


def killed_studies(
    kills: int, on_workers: int, jobs: int, draws: np.random.Generator, there: Path
) -> bool:
    """Studies killed several times, each at a random moment of its life, then run to their ends:
    their records must be those of a whole one."""
    sound = True
    for number, (name, line) in enumerate(SHAPES.items()):
        words = line.split()
        whole = there / f"whole{number}"
        code, errors = Life(words, whole).finish()
        if code:
            raise RuntimeError(errors)
        records = store.load(whole).records
        for more, count in ((["--cluster"], on_workers), ([], kills)):
            mine = -(-count // len(SHAPES))  # of this shape
            studies = [min(LIVES - 1, mine - at) for at in range(0, mine, LIVES - 1)]
            if not studies:
                continue
            began = time.monotonic()
            Life([*words, *more], there / "length").finish()
            length = time.monotonic() - began
            shutil.rmtree(there / "length")
            one = partial(killed_study, [*words, *more], records, there)
            moments = [draws.uniform(0.1, 1.0, deaths) * length for deaths in studies]
            with ThreadPoolExecutor(jobs) as pool:
                tallies = pool.map(one, range(len(studies)), moments)
                tally = sum(tallies, Counter())
            where = "on workers" if more else "here"
            print(
                f"{name}, {where}: {tally['killed']} kills of {len(studies)} studies, "
                f"{tally['resumed']} lives went on from what was saved or written; {tally['lost']} "
                f"lost, {tally['wrong']} wrong, {tally['unreadable']} unreadable, "
                f"{tally['orphans']} children outlived them",
                flush=True,
            )
            bad = ("lost", "wrong", "unreadable", "orphans")
            sound &= not any(tally[kind] for kind in bad)
    return sound


def killed_study(
    words: list[str], whole: xr.Dataset, there: Path, number: int, moments: np.ndarray
) -> Counter:
    """What became of a study that was killed at these moments of its lives."""
    folder = there / f"killed{'' if words[-1] != '--cluster' else 'there'}{number}"
    tally: Counter = Counter()
    for moment in moments:
        written = any(folder.glob(".parts/*/*.part"))
        life = Life(words, folder)
        life.ended(moment)
        tally["killed"] += life.going()
        tally["orphans"] += life.kill()
        tally["unreadable"] += folder.exists() and not readable(folder)
        tally["resumed"] += written or "going on from" in life.said.read_text()
    written = any(folder.glob(".parts/*/*.part"))
    code, errors = Life(words, folder).finish()
    tally["resumed"] += written or "going on from" in errors
    if code or "Traceback" in errors:
        print(f"lost: {errors}", flush=True)
        tally["lost"] += 1
    else:
        tally["wrong"] += not store.load(folder).records.identical(whole)
    shutil.rmtree(folder)
    return tally


def pairs_of_processes(pairs: int, there: Path) -> bool:
    """Two processes on one folder: one does the work, the other is refused in a line or reads the
    answer."""
    words = SHAPES["a grid"].split()
    code, errors = Life(words, there / "alone").finish()
    if code:
        raise RuntimeError(errors)
    whole = store.load(there / "alone").records
    tally: Counter = Counter()
    for number in range(pairs):
        folder = there / f"pair{number}"
        both = [Life(words, folder), Life(words, folder)]
        codes, said = zip(*sorted(life.finish() for life in both), strict=True)
        refused = codes == (0, 2) and "is being written by process" in said[1]
        tally["one refused"] += refused
        tally["died"] += not refused and codes != (0, 0)
        tally["wrong"] += 0 not in codes or not store.load(folder).records.identical(whole)
    print(
        f"{pairs} pairs of processes on one folder: in {tally['one refused']} one was "
        f"refused in a line, {tally['died']} died, {tally['wrong']} wrong answers",
        flush=True,
    )
    return not (tally["died"] or tally["wrong"])
