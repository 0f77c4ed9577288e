"""How much memory is free: of a device, of the machine, and within the limits of this process."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def free_memory(devices: Sequence[Any]) -> int:
    """Bytes that each device may still use; devices that are cores of one machine share what it
    has."""
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free_on_host() // len(devices)


def free_on_host() -> int:
    """Bytes that this process may still use: what the machine has, within the limits of its groups
    and its own."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(min(free, *free_in_groups(), *_free_in_process()), 0)


def free_in_groups(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Bytes free in each control group that bounds this process's memory, of the first version or
    the second.

    File caches that can be dropped count as free. In a container its own group is the root.
    """
    if not own.exists():
        return []
    free = []
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # the second version
            top = root
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                free += _free_in_group(folder, *names)
    return free


def _free_in_group(folder: Path, limit: str, used: str, cache: str) -> list[int]:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return []
        lines = (folder / "memory.stat").read_text().splitlines()
        counts = dict(line.split() for line in lines)
        used_now = int((folder / used).read_text())
        return [int(most) - used_now + int(counts.get(cache, 0))]
    except OSError:  # the root has no limit, and a group outside of a container is not to be seen
        return []


def _free_in_process() -> list[int]:
    """What `ulimit` leaves this process, where it sets a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return []
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return []
    pages = [int(word) for word in statm.read_text().split()]
    used = {resource.RLIMIT_AS: pages[0], resource.RLIMIT_DATA: pages[5]}
    free = []
    for kind, count in used.items():
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            free.append(limit - count * resource.getpagesize())
    return free
