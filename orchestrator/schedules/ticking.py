"""The tick: finds schedules that are due, and has each decided; any number may tick at the same time."""

from __future__ import annotations

import random
import time

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orchestrator.database import give_way, reading, skip_locked, transact
from orchestrator.schedules import queries
from orchestrator.schedules.decisions import Clock, Ticked, database_clock, decide
from orchestrator.schedules.tables import ScheduleRow

log = structlog.get_logger(__name__)

#: Schedules looked up at once.
PAGE = 200
#: Seconds after which a tick ends; the next goes on.
SLICE = 5.0


def tick(clock: Clock = database_clock) -> Ticked:
    """Decide for schedules that are due, and let queued occurrences go whose turn has come; some seconds' worth."""
    deadline = time.monotonic() + SLICE
    total, passed_over = Ticked(), set[str]()
    while page := _find(clock, passed_over):
        for schedule_id in page:
            begun = time.monotonic()
            if begun > deadline:
                return total
            decided = _decide(schedule_id, clock)
            if decided is None:
                passed_over.add(schedule_id)
            else:
                total += decided
            give_way(time.monotonic() - begun)
    return total


def _find(clock: Clock, passed_over: set[str]) -> list[str]:
    with reading() as session:
        due = session.scalars(queries.due(clock(session), passed_over, PAGE)).all()
        released = session.scalars(queries.released(passed_over, PAGE)).all()
    page = list({*due, *released})
    random.shuffle(page)  # others that tick at the same time hold other rows then
    return page


def _decide(schedule_id: str, clock: Clock) -> Ticked | None:
    """Decide in one transaction; None if that is somebody else's business at the moment, or cannot be done."""
    try:
        return transact(_lock_and_decide, schedule_id, clock)
    except DBAPIError:
        raise
    except Exception:
        # Such as a time zone that this machine does not know: no reason for others to wait.
        log.exception("schedule_not_decided", schedule=schedule_id)
        return None


def _lock_and_decide(session: Session, schedule_id: str, clock: Clock) -> Ticked | None:
    row = session.scalar(skip_locked(select(ScheduleRow).where(ScheduleRow.id == schedule_id), session, ScheduleRow))
    return None if row is None or row.deleted_at is not None else decide(session, row, clock(session))
