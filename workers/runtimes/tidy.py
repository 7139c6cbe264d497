"""Clears away what is left of local launches that are over: processes first, folders days later."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import structlog
from sqlalchemy import select

from orchestrator.database import reading
from orchestrator.settings import settings
from orchestrator.training_v2.runtime import Alive, LaunchName
from orchestrator.training_v2.tables import RunRow
from workers.runtimes.folder import LaunchFolder
from workers.runtimes.identity import find
from workers.runtimes.local import LocalRuntime

log = structlog.get_logger(__name__)

#: A launch's folder is kept for so long after anything was last done in it, for whoever wants to know what happened.
KEPT = timedelta(days=3)


def sweep(runtime: LocalRuntime) -> int:
    """End what lives on of launches that are over, which no step asks about any more; returns how many were alive.

    A supervisor ends its trainer by itself when its launch is over, unless it is frozen, or dead and has left
    processes behind, and the run was launched again where nobody could see that.
    """
    # The folders before the runs: a launch is in the database before it has a folder.
    open_ = [path for path in _folders(runtime.root) if not LaunchFolder(path).is_over]
    if not open_:
        return 0
    current, owner, place = _current(), runtime.owner, runtime.place
    over = [path for path in open_ if not _is_current(path, current) and LaunchFolder(path).owner == owner]
    launches = [LaunchName(*_name(path), place) for path in over]
    seen = runtime.observe(launches)
    for path, launch, one in zip(over, launches, seen, strict=True):
        if isinstance(one, Alive):
            log.warning("launch_outlived", run=launch.run_id, launch=launch.number)
            runtime.terminate(launch, timedelta())
        else:
            with suppress(OSError):
                LaunchFolder(path).note_outcome(started=False)  # so that nobody looks again
    return sum(isinstance(one, Alive) for one in seen)


def tidy() -> int:
    """Remove folders of launches that are over and days old; returns how many.

    What was claimed for nobody goes too: a launch whose run has ended or has been launched anew is never submitted
    again, and if a worker that slept for days should, its supervisor would be refused when it arrives.
    """
    old = list(_old(settings().launches_folder))
    current = _current() if old else {}
    return sum(_remove(LaunchFolder(path)) for path in old if not _is_current(path, current))


def _old(root: Path) -> Iterator[Path]:
    """The launches' folders in which nothing has happened for long."""
    latest = time.time() - KEPT.total_seconds()
    for path in _folders(root):
        with suppress(OSError):
            # What is not a launch's is somebody's own, in a folder that he shares with us.
            if path.stat().st_mtime < latest and LaunchFolder(path).is_ours:
                yield path


def _folders(root: Path) -> Iterator[Path]:
    return root.glob("*-*")


def _name(path: Path) -> tuple[str, int]:
    """The run and the number of the launch whose folder it is."""
    run_id, _, number = path.name.rpartition("-")
    return run_id, int(number) if number.isdecimal() else 0


def _current() -> Mapping[str, int]:
    """The launches that are not over, by their runs."""
    with reading() as session:
        unfinished = session.execute(select(RunRow.id, RunRow.launch).where(RunRow.finished_at.is_(None)))
        return {row.id: row.launch for row in unfinished}


def _is_current(path: Path, current: Mapping[str, int]) -> bool:
    run_id, launch = _name(path)
    return current.get(run_id) == launch


def _remove(folder: LaunchFolder) -> bool:
    supervisor = folder.supervisor
    if supervisor is not None and find(supervisor) is not None:
        return False
    folder.drop_short_path()
    shutil.rmtree(folder.path, ignore_errors=True)
    return True
