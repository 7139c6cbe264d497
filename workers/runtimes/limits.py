"""What a local trainer may use: as many cores as it demands, rounded up, and as much memory.

No privilege and no cgroup is needed. Cores: the trainer and all that it starts are bound to cores which no other
trainer of this folder has, as long as there are enough; several that demand a part of a core each share one only
when none is free. The usual libraries are told to start as many threads. Memory: the resident memory of the whole
tree, shared pages counted once where the system tells, is looked at every second, and a tree that has more than it
demands is killed. A trainer that takes much memory within a second can have it for that long. Ephemeral storage is
not limited.
"""

from __future__ import annotations

import fcntl
import math
import os
import random
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import psutil


def host_cores() -> Sequence[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


class Cores:
    """So many cores, taken until `release`, or until this process ends."""

    def __init__(self, folder: Path, demanded: Decimal) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._locks: list[int] = []
        available = list(host_cores())
        wanted = min(math.ceil(demanded), len(available))
        chosen: list[int] = []
        for core in random.sample(available, len(available)):
            if len(chosen) < wanted and self._take(folder / str(core)):
                chosen.append(core)
        rest = [core for core in available if core not in chosen]
        self.numbers = sorted([*chosen, *random.sample(rest, wanted - len(chosen))])

    def _take(self, path: Path) -> bool:
        """Lock a core's file: the system forgets the lock of whoever dies."""
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._locks.append(descriptor)
        return True

    def release(self) -> None:
        """Let others have the cores."""
        while self._locks:
            os.close(self._locks.pop())


def resident(processes: Sequence[psutil.Process]) -> int:
    """Bytes of memory that processes have; pages that they share count for each."""
    return sum(_measured(process, "rss") for process in processes)


def proportional(processes: Sequence[psutil.Process]) -> int:
    """The same, with shared pages counted once; it costs much more to find out."""
    return sum(_measured(process, "pss") for process in processes)


def _measured(process: psutil.Process, what: str) -> int:
    try:
        if what == "rss":
            return int(process.memory_info().rss)
        found = process.memory_full_info()
        return int(getattr(found, "pss", found.rss))
    except psutil.Error:
        return 0
