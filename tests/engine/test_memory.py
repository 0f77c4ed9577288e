"""How much memory is free, as the machine and the limits of a process say."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxinit.engine import memory


@pytest.mark.parametrize(
    ("line", "files", "free"),
    [
        (
            "0::/job/part",
            {
                "memory.stat": "inactive_file 0",
                "job/memory.max": "1000",
                "job/memory.current": "400",
                "job/memory.stat": "anon 300\ninactive_file 50",
                "job/part/memory.max": "max",
                "job/part/memory.current": "10",
                "job/part/memory.stat": "inactive_file 0",
            },
            [650],
        ),
        (
            "4:memory:/elsewhere",  # in a container, whose own group is the root
            {
                "memory/memory.limit_in_bytes": "2000",
                "memory/memory.usage_in_bytes": "500",
                "memory/memory.stat": "cache 9\ntotal_inactive_file 100",
            },
            [1600],
        ),
        ("7:cpu:/", {}, []),
    ],
)
def test_memory_is_bounded_by_the_groups_of_a_process(
    tmp_path: Path, line: str, files: dict[str, str], free: list[int]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"{line}\n")
    assert memory.free_in_groups(tmp_path, tmp_path / "own") == free


def test_memory_is_bounded_by_the_limits_of_a_process() -> None:
    code = (
        "import resource, jaxinit.engine.memory as m\n"
        "plenty = m.free_on_host()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, -1))\n"
        "print(plenty > 2**26 >= m.free_on_host() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.slow  # two studies, each in a process of its own
@pytest.mark.accelerator
def test_many_small_trials_together_need_memory_in_proportion(
    record_property: Callable[[str, object], None],
) -> None:
    """Draws, training and records of trials of 16 units under vmap: less than 4 MiB for each.

    A seed's own split of the digits takes 0.5 MB of it, and each array of states of those that
    validate, 517 of 8 steps, 0.3 MB.
    """
    program = str(Path(__file__).parents[1] / "many_trials.py")
    peaks = {}
    for trials in (64, 256):
        command = [sys.executable, program, str(trials)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks[trials] = int(done.stdout) / 2**20
    of_one = (peaks[256] - peaks[64]) / (256 - 64)
    record_property(
        "measured",
        f"64 trials {peaks[64]:.0f} MiB, 256 {peaks[256]:.0f} MiB: {of_one:.2f} MiB a trial",
    )
    assert 0 < of_one < 4
