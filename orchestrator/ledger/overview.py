"""The ledger at a glance: the few figures that say whether work flows, for metrics and for the doctor.

Only what is unfinished is counted, which partial indexes find: a million units that are done cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, and_, case, func, select
from sqlalchemy.orm import Session

from orchestrator.database import db_now
from orchestrator.ledger.lifecycle import UNFINISHED, UnitState
from orchestrator.ledger.tables import JobRow, UnitRow, is_unfinished
from orchestrator.queues import UNIT_QUEUES


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue's unfinished units."""

    #: How many there are, by state.
    units: Mapping[UnitState, int]
    #: How long the oldest of those that could be dispatched has waited for it; None if there is none.
    oldest_ready: timedelta | None


@dataclass(frozen=True, slots=True)
class Overview:
    """What is unfinished now."""

    queues: Mapping[str, QueueView]
    open_jobs: int
    paused_jobs: int


def overview(session: Session) -> Overview:
    """Count what is unfinished, on one reading of the database."""
    now = session.scalar(select(db_now()))
    assert now is not None, "the database has a clock"
    units: dict[str, dict[UnitState, int]] = {queue.value: dict.fromkeys(UNFINISHED, 0) for queue in UNIT_QUEUES}
    due: dict[str, datetime] = {}
    for queue, state, count, oldest in session.execute(unfinished_units(now)):
        units.setdefault(queue, dict.fromkeys(UNFINISHED, 0))[UnitState(state)] = count
        if oldest is not None:
            due[queue] = oldest
    open_jobs, paused = session.execute(jobs_count()).one()
    queues = {
        queue: QueueView(found, max(now - due[queue], timedelta()) if queue in due else None)
        for queue, found in units.items()
    }
    return Overview(queues, open_jobs, paused or 0)


def unfinished_units(now: datetime) -> Select[str, str, int, datetime | None]:
    """How many units are unfinished, by queue and state, and since when the oldest could be dispatched.

    `now` is a value and not `db_now`, which SQLite would call for every row.
    """
    could_go = and_(UnitRow.state == UnitState.READY, UnitRow.not_before <= now, ~JobRow.paused)
    return (
        select(
            UnitRow.queue,
            UnitRow.state,
            func.count(),
            func.min(case((could_go, UnitRow.not_before))),
        )
        .join(JobRow, JobRow.id == UnitRow.job_id)
        .where(is_unfinished())
        .group_by(UnitRow.queue, UnitRow.state)
    )


def jobs_count() -> Select[int, int | None]:
    """How many jobs are open, and how many of them are paused."""
    return select(func.count(), func.sum(case((JobRow.paused, 1), else_=0))).where(JobRow.closed_at.is_(None))


def state_of(session: Session, unit_id: str) -> UnitState | None:
    """The unit's state now; None if there is no such unit."""
    found = session.scalar(select(UnitRow.state).where(UnitRow.id == unit_id))
    return None if found is None else UnitState(found)
