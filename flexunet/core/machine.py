"""What this machine, or the container that stands for one, may use."""

import math
import os
import random
from pathlib import Path
from typing import Final

# What the kernel's control groups (v2) allow a container, as it sees it.
_CONTROL_GROUP: Final = Path("/sys/fs/cgroup")


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; `taskset` gives it fewer, and so does a container's limit.

    A limit of 2.5 cores counts as three. It tells how many and not which: they are drawn, so that two containers of one
    node seldom take the same.
    """
    # A Mac tells no more than how many there are.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    quota, _, period = _allowed("cpu.max").partition(" ")
    allowed = max(1, math.ceil(int(quota) / int(period))) if quota.isdigit() and period.isdigit() else len(cores)
    return sorted(random.SystemRandom().sample(cores, allowed)) if allowed < len(cores) else cores


def usable_memory() -> int:
    """Bytes: all of the machine's, or what a container is allowed."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = _allowed("memory.max")
    return min(total, int(allowed)) if allowed.isdigit() else total


def _allowed(name: str) -> str:
    limit = _CONTROL_GROUP / name
    return limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
