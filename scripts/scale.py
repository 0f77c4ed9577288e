"""How a study grows with its trials: time and memory of each, the size of what is saved and kept,
and the time of statistics, figures and `jaxinit plot`.

Trials are as small as they can be, so that what is not training shows. Each size runs in a process
of its own, whose peak of memory it is. Seconds are those of a processor, which other work on the
machine does not change.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

ROWS = {
    "trials": "trials",
    "whole": "whole run, s",
    "each": "training loop, ms a trial",
    "orders": "of which searches, ms a trial",
    "saves": "states saved",
    "saving": "saving a state, s (the last)",
    "share": "of the training loop, % in saving",
    "state": "a state, kB a trial",
    "records": "records.nc, kB a trial",
    "memory": "peak of memory, MiB",
    "summary": "statistics, s",
    "figures": "figures, s",
    "plot": "jaxinit plot, s",
}


@dataclass(frozen=True)
class Settings:
    """How many trials."""

    sizes: tuple[int, ...] = (100, 1_000, 10_000)
    """Trials of each study; even numbers."""
    within: float = 900.0
    """Seconds that a size may take; larger ones are left out where one took longer."""
    one: int = 0
    """Measure this one size in this process, and print it as JSON."""


def measure(trials: int, there: Path) -> dict[str, Any]:
    """A study of so many trials."""
    from jaxinit import cli
    from jaxinit.analysis import store, study_figures, summary
    from jaxinit.engine import campaign, sweep
    from jaxinit.study import Study

    sweep.one_device_per_core()
    sweep.keep_compilations()
    draws = np.random.default_rng(0)
    x = draws.normal(size=(64, 4)).astype(np.float32)
    np.savez(there / "task.npz", x=x, y=(x[:, 0] > 0).astype(np.int32))
    study = Study(
        model="mlp",
        hidden=2,
        task=str(there / "task.npz"),
        schemes=("small_normal", "orthogonal"),
        lrs=(0.5,),
        seeds=trials // 2,
        epochs=3,
        evaluations=1,
        batch=8,
        target=0.8,
    )
    spent: dict[str, list[float]] = {}
    sizes = [0]

    def time_of(owner: Any, name: str) -> None:
        method, seconds = getattr(owner, name), spent.setdefault(name, [])

        def measured(*args: Any, **options: Any) -> Any:
            began = time.process_time()
            done = method(*args, **options)
            seconds.append(time.process_time() - began)
            if name == "_save":
                sizes.append((there / "study" / store.STATE).stat().st_size)
            return done

        setattr(owner, name, measured)

    for name in ("train", "_orders", "_save"):
        time_of(campaign.Campaign, name)
    time_of(campaign, "summarize")
    time_of(study_figures, "draw_all")
    began = time.process_time()
    result = campaign.run(study, out=there / "study", progress=False)
    whole = time.process_time() - began
    began = time.process_time()
    assert cli.main(["plot", str(there / "study")]) == 0
    plot = time.process_time() - began
    count = len(result.records.trial)
    assert result.summary["trials"] == count, summary
    (training,), saves = spent["train"], spent["_save"]
    return {
        "trials": count,
        "outcomes": dict(Counter(result.records.outcome.values.tolist())),
        "whole": whole,
        "each": 1e3 * training / count,
        "orders": 1e3 * sum(spent["_orders"]) / count,
        "saves": len(saves),
        "saving": saves[-1] if saves else float("nan"),
        "share": 100 * sum(saves) / training,
        "state": max(sizes) / count / 1e3 if saves else float("nan"),
        "records": (there / "study" / store.RECORDS).stat().st_size / count / 1e3,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "summary": sum(spent["summarize"]),
        "figures": sum(spent["draw_all"]),
        "plot": plot,
    }


def main() -> int:
    settings = tyro.cli(Settings, description=__doc__)
    if settings.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(settings.one, Path(folder))))
        return 0
    columns = []
    for size in settings.sizes:
        began = time.monotonic()
        command = [sys.executable, __file__, "--one", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        if done.returncode:
            print(f"{size} trials: failed")
            return 1
        columns.append(json.loads(done.stdout.splitlines()[-1]))
        print(columns[-1], file=sys.stderr, flush=True)
        if time.monotonic() - began > settings.within:
            break
    for name, words in ROWS.items():
        print(f"| {words} | {' | '.join(f'{column[name]:.4g}' for column in columns)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
