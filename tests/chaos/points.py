"""Named points of a process at which it can be told to die, or to freeze, while it runs.

A test arms a point by a file in a folder that its processes know; each pass adds a byte to the file,
so passes are counted over all processes of a role, and each wanted pass strikes one process.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

#: Names the folder, in the environment of the processes that have points.
VARIABLE = "ORCHESTRATOR_CHAOS_FOLDER"
#: Lists each point that is passed, when it exists, and each that has struck.
PASSED, STRUCK = "passed", "struck"
#: The transaction in which `ledger.claim` takes a unit.
CLAIM = "claim.<locals>.take"
#: Stands for whatever job a process passes a point for, or for none.
ANY = "any"

#: What this process is: `child` of a pool, its `parent`, `beat`, `submitter` or `importer`.
role = os.environ.get("ORCHESTRATOR_CHAOS_ROLE", "parent")


class Point(NamedTuple):
    """A moment in the life of a process of some role."""

    role: str
    name: str

    def __str__(self) -> str:
        return f"{self.role}: {self.name}"


class Strike(NamedTuple):
    """A process that was struck at a point, armed for which job, and at which pass."""

    point: Point
    job_id: str
    number: int
    pid: int


def reach(name: str, job_id: str | None = None) -> None:
    """Pass the point, perhaps on behalf of a job, or end there."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return
    point = Point(role, name)
    _append(Path(folder, PASSED), f"{role}\t{name}\t{job_id or ANY}\n")
    for job in {job_id or ANY, ANY}:
        armed = _append(_file(Path(folder), point, job), ".")
        if armed is not None:
            header, _, passes = armed.partition("\n")
            action, _, wanted = header.partition(" ")
            if str(len(passes)) in wanted.split(","):
                _append(Path(folder, STRUCK), f"{role}\t{name}\t{job}\t{len(passes)}\t{os.getpid()}\n", create=True)
                os.kill(os.getpid(), signal.Signals[action])


class Points:
    """The points of a test's processes, from the outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to have points."""
        return {VARIABLE: str(self.folder)}

    def record(self) -> None:
        """Remember each point that is passed from now on."""
        (self.folder / PASSED).touch()

    def passed(self) -> dict[Point, Counter[str]]:
        """How often each point was passed since `record`, by job, in the order of the first time."""
        found: dict[Point, Counter[str]] = {}
        for role, name, job_id in _lines(self.folder / PASSED):
            found.setdefault(Point(role, name), Counter())[job_id] += 1
        return found

    def stop_recording(self) -> None:
        """Remember no more."""
        (self.folder / PASSED).unlink(missing_ok=True)

    def arm(
        self,
        point: Point,
        passes: Iterable[int] = (1,),
        *,
        job_id: str = ANY,
        strike: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Send `strike` to whoever passes the point the first time, or at each of `passes`, counted from 1.

        With `job_id` only what happens on behalf of that job counts.
        """
        file = _file(self.folder, point, job_id)
        prepared = file.with_suffix(".new")
        prepared.write_text(f"{strike.name} {','.join(map(str, sorted(passes)))}\n")
        prepared.rename(file)

    def disarm(self, point: Point, *, job_id: str = ANY) -> None:
        """Let the point be passed unharmed again."""
        _file(self.folder, point, job_id).unlink(missing_ok=True)

    def struck(self) -> list[Strike]:
        """Who was struck so far, in order."""
        return [
            Strike(Point(role, name), job_id, int(number), int(pid))
            for role, name, job_id, number, pid in _lines(self.folder / STRUCK)
        ]


def _file(folder: Path, point: Point, job_id: str) -> Path:
    return folder / quote(f"armed {point.role} {point.name} {job_id}", safe="")


def _append(path: Path, text: str, *, create: bool = False) -> str | None:
    """Add `text` at the end, and return all up to there; None when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0))
    except FileNotFoundError:
        return None
    try:
        os.write(descriptor, text.encode())
        # Where this write ended: others may have added theirs since.
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        return os.pread(descriptor, min(end, 4096), 0).decode()
    finally:
        os.close(descriptor)


def _lines(path: Path) -> list[list[str]]:
    try:
        return [line.split("\t") for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
