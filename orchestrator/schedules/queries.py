"""Named selects on schedules and their occurrences."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, column, exists, func, literal_column, or_, select, table
from sqlalchemy.orm import aliased

from orchestrator.database import db_now
from orchestrator.ledger.tables import JobRow
from orchestrator.schedules.models import OccurrenceState
from orchestrator.schedules.tables import OccurrenceRow, ScheduleRow

#: Only what is asked of it here: what is above may not be imported.
_POLICIES = table("retention_policies", column("model_id"), column("schedule_id"), column("ended_at"))


def model_of_policy(schedule_id: str) -> Select[str]:
    """The model whose retention policy runs by the schedule."""
    return select(_POLICIES.c.model_id).where(_POLICIES.c.schedule_id == schedule_id, _POLICIES.c.ended_at.is_(None))


def due(now: datetime, but: Collection[str], limit: int) -> Select[str]:
    """Schedules that have an instant to decide, the latest first, without those in `but`."""
    come = select(ScheduleRow.id).where(ScheduleRow.next_due_at <= now, ScheduleRow.id.not_in(but))
    return come.order_by(ScheduleRow.next_due_at).limit(limit)


def released(but: Collection[str], limit: int) -> Select[str]:
    """Schedules where an occurrence is queued, and nothing is at work any more."""
    other = aliased(OccurrenceRow)
    at_work = exists().where(other.schedule_id == OccurrenceRow.schedule_id, is_at_work(other))
    free = select(OccurrenceRow.schedule_id).where(is_queued(), ~at_work)
    running = free.join(ScheduleRow).where(ScheduleRow.paused.is_(False), ScheduleRow.id.not_in(but))
    return running.distinct().limit(limit)


def queued(schedule_id: str) -> Select[OccurrenceRow]:
    """The schedule's occurrences that wait, oldest first."""
    mine = select(OccurrenceRow).where(OccurrenceRow.schedule_id == schedule_id, is_queued())
    return mine.order_by(OccurrenceRow.due_at)


def waiting(schedule_id: str) -> Select[int]:
    """How many of the schedule's occurrences wait."""
    return select(func.count()).select_from(OccurrenceRow).where(OccurrenceRow.schedule_id == schedule_id, is_queued())


def instants(schedule_id: str, after: datetime, until: datetime) -> Select[datetime]:
    """Instants after `after` and up to `until` that have an occurrence already."""
    return select(OccurrenceRow.due_at).where(
        OccurrenceRow.schedule_id == schedule_id, OccurrenceRow.due_at > after, OccurrenceRow.due_at <= until
    )


def with_old(age: timedelta, limit: int) -> Select[str]:
    """Schedules with occurrences that may be forgotten; each is one look into the index of the primary key."""
    oldest = select(OccurrenceRow.due_at).where(OccurrenceRow.schedule_id == ScheduleRow.id, *_is_old(age))
    return select(ScheduleRow.id).where(oldest.exists()).limit(limit)


def old(schedule_id: str, age: timedelta) -> Select[datetime]:
    """Instants of the schedule that may be forgotten, oldest first."""
    found = select(OccurrenceRow.due_at).where(OccurrenceRow.schedule_id == schedule_id, *_is_old(age))
    return found.order_by(OccurrenceRow.due_at)


def _is_old(age: timedelta) -> list[ColumnElement[bool]]:
    # Also decided so long ago: what was late shall be seen for as long as anything else.
    times = [column <= db_now(-age) for column in (OccurrenceRow.due_at, OccurrenceRow.decided_at)]
    return [*times, OccurrenceRow.is_open.is_(False), OccurrenceRow.state != OccurrenceState.QUEUED]


def is_queued() -> ColumnElement[bool]:
    """Whether an occurrence waits, in the words of the index that finds those, which SQLite goes by."""
    return OccurrenceRow.state == literal_column(repr(OccurrenceState.QUEUED.value))


def is_at_work(occurrence: type[OccurrenceRow]) -> ColumnElement[bool]:
    """Whether the job of an occurrence, or what submits it, has not ended."""
    jobs = or_(JobRow.id == occurrence.emission_id, JobRow.id == occurrence.job_id)
    return occurrence.is_open & exists().where(jobs, JobRow.closed_at.is_(None))
