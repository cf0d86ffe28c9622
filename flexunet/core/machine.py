"""What this machine, or the container that stands for one, may use."""

import os
from pathlib import Path


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; `taskset` gives it fewer."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    # On a Mac, which tells no more.
    return list(range(os.cpu_count() or 1))


def usable_memory() -> int:
    """Bytes: all of the machine's, or what a container is allowed."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(allowed)) if allowed.isdigit() else total
