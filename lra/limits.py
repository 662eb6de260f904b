"""How much memory a process may have: above it an allocation fails, which ends as ``oom``."""

import contextlib
import os
import resource
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/memory.max")


def machine_bytes() -> int:
    """Of memory, or what the container that this runs in may have of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(CGROUP.read_text()))
    return total


def limit_memory(gib: float | None) -> None:
    """Of this process from now on; None: 90 % of ``machine_bytes``."""
    if gib is None:
        gib = 0.9 * machine_bytes() / 2**30
    limit, (_, hard) = int(gib * 2**30), resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
