"""Schedules as their users see them: created, looked up, changed, paused, run at once, deleted, previewed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import clock, ledger
from orchestrator.database import reading, storable, transact
from orchestrator.errors import Conflict, InvalidRequest, ScheduleNotFound
from orchestrator.ids import new_id
from orchestrator.schedules import queries
from orchestrator.schedules.decisions import database_clock, decide_all, emit, next_due
from orchestrator.schedules.models import NewSchedule, Occurrence, OccurrenceState, Schedule
from orchestrator.schedules.tables import OccurrenceRow, ScheduleRow
from orchestrator.schedules.timing import cron as read_cron
from orchestrator.schedules.timing import every, find_zone, preview

#: Longer, and a column of a database could not tell.
LONGEST = timedelta(days=366 * 100)
#: Between them no time zone, and no look ahead, leaves the calendar.
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9900, 1, 1, tzinfo=UTC)
#: What a database takes for a limit.
LARGEST_LIMIT = 2**31 - 1
#: No two instants are closer.
INSTANT = timedelta(microseconds=1)


def create_schedule(new: NewSchedule) -> Schedule:
    """Write the schedule; the next tick that finds it due submits its job.

    Raises:
        InvalidRequest: no timing or two, an expression that cannot be read, an unknown zone …; nothing was written.
        Conflict: the project has a schedule of this name.
    """
    try:
        return transact(lambda session: _shown(add(session, new)))
    except IntegrityError as error:
        raise Conflict(f"name: the project has a schedule {new.name!r} already") from error


def add(session: Session, new: NewSchedule) -> ScheduleRow:
    """As `create_schedule`, in the caller's transaction.

    Raises:
        InvalidRequest: as there.
    """
    check(new)
    now = database_clock(session)
    row = ScheduleRow(
        id=new_id(),
        **_columns(new),
        project_id=new.project_id,
        paused=new.paused,
        starts_at=new.starts_at or now,
        created_at=now,
        updated_at=now,
    )
    _count_anew(row, now - INSTANT)
    session.add(row)
    session.flush()
    return row


def get_schedule(schedule_id: str) -> Schedule | None:
    """The schedule; also one that was deleted. None if there is none."""
    with reading() as session:
        row = session.get(ScheduleRow, storable(schedule_id))
        return None if row is None else _shown(row)


def find_schedule(project_id: str, name: str) -> Schedule | None:
    """The project's schedule of this name."""
    with reading() as session:
        row = session.scalar(
            select(ScheduleRow).where(
                ScheduleRow.project_id == storable(project_id),
                ScheduleRow.name == storable(name),
                ScheduleRow.deleted_at.is_(None),
            )
        )
        return None if row is None else _shown(row)


def list_schedules(project_id: str | None = None) -> list[Schedule]:
    """The schedules of a project, or of all, by name."""
    statement = select(ScheduleRow).where(ScheduleRow.deleted_at.is_(None)).order_by(ScheduleRow.name, ScheduleRow.id)
    if project_id is not None:
        statement = statement.where(ScheduleRow.project_id == storable(project_id))
    with reading() as session:
        return [_shown(row) for row in session.scalars(statement)]


def update_schedule(schedule_id: str, **changes: Any) -> Schedule:
    """Change any fields of `NewSchedule` but the project; what was due until now is decided by the rules so far.

    To change from `cron` to `every`, or back, give the other one alone.

    Raises:
        ScheduleNotFound: there is no such schedule, or it was deleted.
        InvalidRequest, Conflict: as `create_schedule`; or it is a retention policy's, which alone may change it.
    """
    if "project_id" in changes:
        raise InvalidRequest("project_id: a schedule stays with its project; create another")
    if ("cron" in changes) != ("every" in changes):
        changes = {"cron": None, "every": None, **changes}
    try:
        return transact(_update, schedule_id, changes)
    except IntegrityError as error:
        raise Conflict(f"name: the project has a schedule {changes.get('name')!r} already") from error


def pause_schedule(schedule_id: str) -> Schedule:
    """Skip whatever comes due, until it is resumed.

    Raises:
        ScheduleNotFound: there is no such schedule, or it was deleted.
        Conflict: it is a retention policy's, which alone may change it.
    """
    return update_schedule(schedule_id, paused=True)


def resume_schedule(schedule_id: str) -> Schedule:
    """Fire again, from the next instant on.

    Raises:
        ScheduleNotFound: there is no such schedule, or it was deleted.
    """
    return update_schedule(schedule_id, paused=False)


def delete_schedule(schedule_id: str) -> str:
    """Let nothing be due any more; its occurrences stay, and so do jobs that it has submitted.

    Raises:
        ScheduleNotFound: there is no such schedule, or it was deleted.
        Conflict: it is a retention policy's, which alone may delete it.
    """
    return transact(_delete, schedule_id)


def remove(session: Session, schedule_id: str) -> str:
    """As `delete_schedule`, in the caller's transaction."""
    row, now = _locked(session, schedule_id), database_clock(session)
    decide_all(session, row, now, because="the schedule was deleted")
    row.next_due_at, row.deleted_at = None, now
    session.execute(
        update(OccurrenceRow)
        .where(OccurrenceRow.schedule_id == schedule_id, queries.is_queued())
        .values(state=OccurrenceState.SKIPPED.value, reason="the schedule was deleted while it waited"),
        execution_options={"synchronize_session": False},
    )
    return schedule_id


def run_schedule_now(schedule_id: str) -> Occurrence:
    """Submit the job once, now, whatever the timing, a pause and the overlap policy say.

    Raises:
        ScheduleNotFound: there is no such schedule, or it was deleted.
    """
    occurrence = transact(_run_now, schedule_id)
    ledger.nudge()
    return occurrence


def list_occurrences(schedule_id: str, *, limit: int = 50, before: datetime | None = None) -> list[Occurrence]:
    """What became of the instants at which the schedule was due, newest first; `before` pages on.

    Raises:
        InvalidRequest: `limit` is negative, or larger than any list; `before` has no time zone.
    """
    if not 0 <= limit <= LARGEST_LIMIT:
        raise InvalidRequest(f"limit is {limit}: it must be 0 or more, and {LARGEST_LIMIT} at most")
    if before is not None and before.tzinfo is None:
        raise InvalidRequest(f"before: {before} has no time zone: add one, such as +00:00")
    statement = select(OccurrenceRow).where(OccurrenceRow.schedule_id == storable(schedule_id))
    if before is not None:
        statement = statement.where(OccurrenceRow.due_at < before)
    with reading() as session:
        rows = session.scalars(statement.order_by(OccurrenceRow.due_at.desc()).limit(limit))
        return [Occurrence.model_validate(row) for row in rows]


def next_times(new: NewSchedule, count: int = 5, *, after: datetime | None = None) -> list[datetime]:
    """When such a schedule would be due next, in UTC.

    Raises:
        InvalidRequest: as `create_schedule`.
    """
    check(new)
    now = clock.now()
    start = new.starts_at or now
    timing = read_cron(new.cron, new.time_zone) if new.cron is not None else every(new.every or timedelta(), start)
    from_here = max(after or now, start - INSTANT)
    return [due for due in preview(timing, from_here, count) if new.ends_at is None or due <= new.ends_at]


def check(new: NewSchedule) -> None:
    """Hold a schedule against the rules.

    Raises:
        InvalidRequest: a value is wrong; the text says which, and what would be right.
    """
    for name in ("name", "kind", "project_id"):
        if storable(getattr(new, name)) != getattr(new, name):
            raise InvalidRequest(f"{name}: {getattr(new, name)!r} holds characters that no name has")
    for name in ("spec", "options"):
        _check_json(name, getattr(new, name))
    _check_bounds(new)
    if (new.cron is None) == (new.every is None):
        raise InvalidRequest("a schedule is due by cron or every so often: give one of the two")
    find_zone(new.time_zone)
    if new.cron is not None:
        read_cron(new.cron, new.time_zone)
    if new.every is not None:
        every(new.every, clock.now())


def _check_json(name: str, value: dict[str, Any]) -> None:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name}: this is no JSON: {error}") from error
    if storable(text) != text or "\\u0000" in text:
        raise InvalidRequest(f"{name}: a text holds characters that a database refuses")


def _check_bounds(new: NewSchedule) -> None:
    for name, instant in (("starts_at", new.starts_at), ("ends_at", new.ends_at)):
        if instant is not None and instant.tzinfo is None:
            raise InvalidRequest(f"{name}: {instant} has no time zone: add one, such as +00:00")
        if instant is not None and not EARLIEST <= instant <= LATEST:
            raise InvalidRequest(f"{name}: {instant} is not between {EARLIEST.date()} and {LATEST.date()}")
    if new.ends_at is not None and new.starts_at is not None and new.ends_at < new.starts_at:
        raise InvalidRequest(f"ends_at: {new.ends_at} lies before starts_at, {new.starts_at}")
    for name, span in (("every", new.every), ("catch_up", new.catch_up)):
        if span is not None and not timedelta() <= span <= LONGEST:
            raise InvalidRequest(f"{name}: {span} is not between 0 and {LONGEST.days} days")


def _delete(session: Session, schedule_id: str) -> str:
    _check_free(session, _locked(session, schedule_id))
    return remove(session, schedule_id)


def _check_free(session: Session, row: ScheduleRow) -> None:
    """Make sure that no retention policy relies on it: that would say it runs by itself, and never run."""
    model_id = session.scalar(queries.model_of_policy(row.id))
    if model_id is not None:
        raise Conflict(
            f"schedule {row.name!r} runs the retention policy of model {model_id!r}: change or delete that instead"
        )


def _update(session: Session, schedule_id: str, changes: dict[str, Any]) -> Schedule:
    row = _locked(session, schedule_id)
    if changes != {"paused": False}:
        _check_free(session, row)
    former = _shown(row).model_dump(include=set(NewSchedule.model_fields))
    try:
        new = NewSchedule.model_validate({**former, **changes})
    except ValidationError as error:
        raise InvalidRequest("; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors())) from error
    check(new)
    now = database_clock(session)
    # Before a pause is made or undone, what is late must not fire; otherwise the rules so far hold.
    decide_all(session, row, now, because="the schedule was paused" if new.paused else None)
    for name, value in _columns(new).items():
        setattr(row, name, value)
    # Before the start nothing was decided: that only says from where on to count.
    decided_until = max(now, row.decided_until) if row.decided_until >= row.starts_at else now
    row.paused = new.paused
    row.starts_at = new.starts_at or row.starts_at
    row.updated_at = now
    if {"cron", "every", "time_zone", "starts_at", "ends_at"} & set(changes):
        _count_anew(row, decided_until)
    session.flush()
    return _shown(row)


def _count_anew(row: ScheduleRow, decided_until: datetime) -> None:
    row.decided_until = max(decided_until, row.starts_at - INSTANT)
    row.next_due_at = next_due(row)


def _run_now(session: Session, schedule_id: str) -> Occurrence:
    row, now = _locked(session, schedule_id), database_clock(session)
    due_at = now
    while session.get(OccurrenceRow, (schedule_id, due_at)) is not None:
        due_at += INSTANT
    occurrence = OccurrenceRow(
        schedule_id=schedule_id,
        due_at=due_at,
        state=OccurrenceState.FIRED.value,
        reason="somebody asked for it",
        emission_id=emit(session, row, due_at),
        is_open=True,
        decided_at=now,
    )
    session.add(occurrence)
    session.flush()
    return Occurrence.model_validate(occurrence)


def _locked(session: Session, schedule_id: str) -> ScheduleRow:
    row = session.get(ScheduleRow, storable(schedule_id), with_for_update=True, populate_existing=True)
    if row is None or row.deleted_at is not None:
        raise ScheduleNotFound(f"No schedule {schedule_id!r}")
    return row


def _columns(new: NewSchedule) -> dict[str, Any]:
    return {
        "name": new.name,
        "kind": new.kind,
        "spec": new.spec,
        "options": new.options,
        "cron": None if new.cron is None else " ".join(new.cron.split()),
        "interval_seconds": None if new.every is None else int(new.every.total_seconds()),
        "time_zone": new.time_zone,
        "overlap": new.overlap.value,
        "catch_up_seconds": int(new.catch_up.total_seconds()),
        "ends_at": new.ends_at,
    }


def _shown(row: ScheduleRow) -> Schedule:
    names = set(Schedule.model_fields) - {"every", "catch_up"}
    return Schedule(
        **{name: getattr(row, name) for name in names},
        every=None if row.interval_seconds is None else timedelta(seconds=row.interval_seconds),
        catch_up=timedelta(seconds=row.catch_up_seconds),
    )
