"""A study of so many small trials, all together, in a process of its own: prints the bytes that it
needed at most, on the device where that tells, else in all.

    python tests/many_trials.py TRIALS
"""

import resource
import sys
import tempfile
from pathlib import Path

import jax

SCHEMES, DEVICES = ("small_normal", "orthogonal"), 8  # simulated ones, where there are no others


def main(trials: int) -> None:
    from jaxinit.engine import campaign
    from jaxinit.study import Study

    jax.config.update("jax_num_cpu_devices", DEVICES)
    study = Study(
        hidden=16,
        schemes=SCHEMES,
        search="grid",
        lrs=(0.1,),
        seeds=trials // len(SCHEMES),
        tune_seeds=1,
        epochs=1,
        evaluations=1,
        batch=64,
        target=0.99,
    )
    with tempfile.TemporaryDirectory() as folder:
        campaign.run(study, out=f"{folder}/study", progress=False, mapping="vmap")
    stats = jax.devices()[0].memory_stats()
    if stats is None:
        print(most_of_all())
    else:
        print(stats["peak_bytes_in_use"])


def most_of_all() -> int:
    """Bytes that this process has held at most. What getrusage says would hold what its parent had
    when it was forked, which is more where the parent is a suite."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    main(int(sys.argv[1]))
