"""Pruning: of instants that were decided long ago the ledger is forgotten, some of it at a time."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, delete
from sqlalchemy.orm import Session

from orchestrator.database import give_way, reading, transact
from orchestrator.schedules import queries
from orchestrator.schedules.tables import OccurrenceRow

#: Occurrences that one transaction deletes, and schedules looked up at once.
BATCH = 1000
PAGE = 100
#: Seconds after which a call ends; the next goes on.
SLICE = 5.0


def prune(age: timedelta) -> int:
    """Delete occurrences that were due and decided `age` ago; returns how many.

    Those that wait, and whose jobs are at work, stay. What is gone is not decided again: schedules are far beyond it.
    """
    deadline = time.monotonic() + SLICE
    pruned = 0
    with reading() as session:
        schedules = session.scalars(queries.with_old(age, PAGE)).all()
    for schedule_id in schedules:
        while (begun := time.monotonic()) < deadline:
            count = transact(_delete, schedule_id, age)
            pruned += count
            if count < BATCH:
                break
            give_way(time.monotonic() - begun)
    return pruned


def _delete(session: Session, schedule_id: str, age: timedelta) -> int:
    some = queries.old(schedule_id, age).limit(BATCH)
    chosen = (OccurrenceRow.schedule_id == schedule_id, OccurrenceRow.due_at.in_(some))
    outcome = session.execute(delete(OccurrenceRow).where(*chosen), execution_options={"synchronize_session": False})
    return cast(CursorResult[Any], outcome).rowcount
