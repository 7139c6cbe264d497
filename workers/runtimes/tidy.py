"""Removes the folders of local launches that nobody will ask about any more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select

from orchestrator.database import reading
from orchestrator.settings import settings
from orchestrator.training_v2.tables import RunRow
from workers.runtimes.folder import LaunchFolder
from workers.runtimes.identity import find

#: A launch's folder is kept for so long after anything was last done in it, for whoever wants to know what happened.
KEPT = timedelta(days=3)
#: Runs that one query asks for.
BATCH = 500


def tidy() -> int:
    """Remove folders of launches that are over and days old; returns how many.

    What was claimed for nobody goes too: a launch whose run has ended or has been launched anew is never submitted
    again, and if a worker that slept for days should, its supervisor would be refused when it arrives.
    """
    old = list(_old(settings().launches_folder))
    return sum(_tidy(old[start : start + BATCH]) for start in range(0, len(old), BATCH))


def _tidy(paths: Sequence[Path]) -> int:
    names = {path: _name(path) for path in paths}
    current = _current({run_id for run_id, _ in names.values()})
    return sum(_remove(LaunchFolder(path)) for path, (run_id, launch) in names.items() if launch != current.get(run_id))


def _old(root: Path) -> Iterator[Path]:
    """The launches' folders in which nothing has happened for long."""
    latest = time.time() - KEPT.total_seconds()
    for path in root.glob("*-*"):
        with suppress(OSError):
            # What is not a launch's is somebody's own, in a folder that he shares with us.
            if path.stat().st_mtime < latest and LaunchFolder(path).is_ours:
                yield path


def _name(path: Path) -> tuple[str, int]:
    """The run and the number of the launch whose folder it is."""
    run_id, _, number = path.name.rpartition("-")
    return run_id, int(number) if number.isdecimal() else 0


def _current(run_ids: set[str]) -> Mapping[str, int]:
    """The launches that are not over, by their runs."""
    unfinished = select(RunRow.id, RunRow.launch).where(RunRow.id.in_(run_ids), RunRow.finished_at.is_(None))
    with reading() as session:
        return {row.id: row.launch for row in session.execute(unfinished)}


def _remove(folder: LaunchFolder) -> bool:
    supervisor = folder.supervisor
    if supervisor is not None and find(supervisor) is not None:
        return False
    folder.drop_short_path()
    shutil.rmtree(folder.path, ignore_errors=True)
    return True
