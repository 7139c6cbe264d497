"""Which process is meant: a number is given again, a number with its start is not.

The standard library alone: a supervisor asks before it imports anything else.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

#: States of /proc/PID/stat in which a process runs no more (zombie, dead), and in which it is held (stopped, traced).
_ENDED, _HELD = frozenset("ZXx"), frozenset("Tt")


class ProcessId(NamedTuple):
    """A process of this host, never to be taken for another.

    `start` is in ticks since the host's boot `boot`, which no change of the clock moves.
    """

    pid: int
    start: int
    boot: str


class Standing(NamedTuple):
    """A process that has not ended."""

    id: ProcessId
    is_held: bool


def here() -> ProcessId:
    """This process."""
    standing = look(os.getpid())
    assert standing is not None, "whoever asks is alive"
    return standing.id


def look(pid: int) -> Standing | None:
    """The process that has this number now; None if there is none, or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None if _has_proc() else _look_without_proc(pid)
    except ProcessLookupError:
        return None
    # The second field is the program's name in parentheses, and may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    if state in _ENDED:
        return None
    return Standing(ProcessId(pid, int(fields[18]), boot_id()), state in _HELD)


def find(process: ProcessId) -> Standing | None:
    """The process, unless it has ended."""
    if process.boot != boot_id():
        return None
    standing = look(process.pid)
    return standing if standing is not None and standing.id == process else None


@cache
def process_namespace() -> str:
    """What names the set of processes that can be seen from here, such as a container's; empty where nothing does."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@cache
def boot_id() -> str:
    """What names the time since the host was started; empty where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def uptime() -> float:
    """Seconds on a clock that all processes of the host share, that nobody sets, and that counts sleep where it can."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@cache
def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()


def _look_without_proc(pid: int) -> Standing | None:
    import psutil

    try:
        process = psutil.Process(pid)
        status = process.status()
        start = int(process.create_time() * 1000)
    except psutil.Error:
        return None
    if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return None
    return Standing(ProcessId(pid, start, boot_id()), status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP))
