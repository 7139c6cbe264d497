"""What the processes of a measurement cost: processor seconds, which a noisy machine changes little, and memory."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from tests.support.processes import Running

#: Seconds between two looks at the memory.
INTERVAL = 0.25
MEBIBYTE = 1 << 20

#: What a child of this process is, by a word of its command line.
ROLES = {"instant_server": "model server", "postgres": "database", "redis-server": "broker", "celery": "workers"}


@dataclass
class Cost:
    """Processor seconds by role; filled in when a `spending` block ends."""

    seconds: dict[str, float] = field(default_factory=dict)

    def per_thousand(self, datums: int, *, without: Sequence[str] = ("model server",)) -> float:
        """Processor milliseconds for each datum, which is seconds for a thousand."""
        return sum(spent for role, spent in self.seconds.items() if role not in without) / datums * 1000

    def by_role(self, datums: int) -> str:
        """Who spent how much on a thousand datums, the largest first."""
        shares = sorted(self.seconds.items(), key=lambda share: -share[1])
        return ", ".join(f"{role} {spent / datums * 1000:.3f}" for role, spent in shares if spent / datums > 1e-6)


@contextmanager
def spending(cost: Cost | None = None) -> Iterator[Cost]:
    """Count what this process and everything that it started spend meanwhile, on top of what is in `cost`."""
    cost = cost or Cost()
    before = processor_seconds()
    try:
        yield cost
    finally:
        for role, spent in processor_seconds().items():
            cost.seconds[role] = cost.seconds.get(role, 0.0) + spent - before.get(role, 0.0)


def processor_seconds() -> dict[str, float]:
    """Processor seconds until now of this process and of those below it, by role."""
    spent: dict[str, float] = defaultdict(float)
    own = psutil.Process()
    times = own.cpu_times()
    spent["this process"] = times.user + times.system
    for child in own.children():
        for process in family(child):
            spent[role_of(child)] += seconds_of(process)
    return spent


def role_of(child: psutil.Process) -> str:
    """What this child of ours is for."""
    try:
        command = " ".join(child.cmdline())
    except psutil.Error:
        return "other"
    return next((role for word, role in ROLES.items() if word in command), "other")


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all below it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def seconds_of(process: psutil.Process) -> float:
    """What the process spent itself, and what its children spent that have ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


class Memory:
    """The resident memory of worker processes, looked at again and again: the largest process of each group."""

    def __init__(self, workers: Mapping[str, Running]) -> None:
        self.groups = {name: psutil.Process(running.pid) for name, running in workers.items()}
        self.samples: dict[str, list[int]] = {name: [] for name in workers}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look until the block ends."""
        done = threading.Event()
        thread = threading.Thread(target=self.watch, args=(done,), name="memory", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def watch(self, done: threading.Event) -> None:
        while not done.is_set():
            started = time.monotonic()
            for name, process in self.groups.items():
                self.samples[name].append(max(map(resident, family(process)), default=0))
            done.wait(max(INTERVAL, 20 * (time.monotonic() - started)))

    def growth(self) -> dict[str, float]:
        """MiB by which each group's peak in the last tenth of the time is above that of the first tenth."""
        return {name: growth_of(samples) / MEBIBYTE for name, samples in self.samples.items() if samples}


def growth_of(samples: Sequence[int]) -> int:
    """How much the peak of the last tenth is above that of the first."""
    tenth = max(1, len(samples) // 10)
    return max(samples[-tenth:]) - max(samples[:tenth])


def resident(process: psutil.Process) -> int:
    """Bytes of memory that the process occupies now; none if it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
