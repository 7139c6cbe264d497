"""What becomes of each instant at which one schedule was due; decided once, by whoever holds the schedule's row.

One transaction locks the row, writes an occurrence for each instant that has come and, with those that fire, a job of
the ledger whose only unit submits (`firing.py`). So an occurrence that says `fired` has its unit, and an instant that
was not written is decided by the next who looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, insert_ignoring
from orchestrator.errors import InvalidRequest
from orchestrator.ids import new_id
from orchestrator.queues import QueueName
from orchestrator.schedules import queries
from orchestrator.schedules.models import OccurrenceState, Overlap
from orchestrator.schedules.tables import OccurrenceRow, ScheduleRow
from orchestrator.schedules.timing import Timing, cron, every

#: Instants of one schedule decided in one transaction; after a long outage others get their turn in between.
BATCH = 500
#: Instants of one schedule that may wait for the job before them; what comes due beyond is skipped.
MOST_WAITING = 1000
#: What was due for longer is late: beat ticks many times meanwhile.
LATE = timedelta(minutes=1)

KIND = "schedules"
FIRE = f"{KIND}.fire"

Clock = Callable[[Session], datetime]


@dataclass(frozen=True, slots=True)
class Ticked:
    """What was decided: instants that fired in time, late, that wait, and that were skipped."""

    fired: int = 0
    caught_up: int = 0
    queued: int = 0
    skipped: int = 0

    def __add__(self, other: Ticked) -> Ticked:
        return Ticked(
            self.fired + other.fired,
            self.caught_up + other.caught_up,
            self.queued + other.queued,
            self.skipped + other.skipped,
        )


def database_clock(session: Session) -> datetime:
    """The one clock that all who tick agree on."""
    return session.scalars(select(db_now())).one()


def decide(session: Session, row: ScheduleRow, now: datetime, *, because: str | None = None) -> Ticked:
    """Decide the next instants of a schedule whose row the caller has locked: `BATCH` at most.

    With `because` they are all skipped, for this reason.
    """
    book = _Book(session, row, now, "the schedule was paused" if row.paused else because)
    book.let_queued_go()
    horizon = min(now, row.ends_at or now)
    row.next_due_at = None
    taken = set(session.scalars(queries.instants(row.id, row.decided_until, now)))
    for number, due_at in enumerate(timing_of(row).following(row.decided_until)):
        if due_at > horizon or number == BATCH:
            row.next_due_at = _before_end(row, due_at)
            break
        if due_at not in taken:  # somebody asked for it in that very moment
            book.decide(due_at)
        row.decided_until = due_at
    book.write()
    return book.total()


def decide_all(session: Session, row: ScheduleRow, now: datetime, *, because: str | None = None) -> None:
    """`decide`, until nothing that has come is left: before the schedule itself is changed.

    One whose zone this machine does not know, or no more, can be changed all the same.
    """
    try:
        timing_of(row)
    except InvalidRequest:
        return
    while row.next_due_at is not None and row.next_due_at <= now:
        decide(session, row, now, because=because)


def timing_of(row: ScheduleRow) -> Timing:
    """When the schedule is due."""
    if row.cron is not None:
        return cron(row.cron, row.time_zone)
    assert row.interval_seconds is not None, "the table has one or the other"
    return every(timedelta(seconds=row.interval_seconds), row.starts_at)


def next_due(row: ScheduleRow) -> datetime | None:
    """The first instant that is not decided yet."""
    found = next(timing_of(row).following(row.decided_until), None)
    return None if found is None else _before_end(row, found)


def emit(session: Session, row: ScheduleRow, due_at: datetime) -> str:
    """Write the job of the ledger that submits for this instant; returns its id."""
    emission_id = new_id()
    payload = {"schedule_id": row.id, "due_at": due_at.isoformat()}
    ledger.open_job(
        session,
        job_id=emission_id,
        kind=KIND,
        project_id=row.project_id,
        first=ledger.NewUnit(FIRE, "fire", QueueName.PLANNING, payload),
    )
    return emission_id


class _Book:
    """What one transaction decides for one schedule."""

    def __init__(self, session: Session, row: ScheduleRow, now: datetime, because: str | None) -> None:
        self.session = session
        self.row = row
        self.now = now
        self.because = because
        self.rows: list[dict[str, object]] = []
        self.counts = dict.fromkeys(OccurrenceState, 0)
        self.is_busy = is_busy(session, row.id) and row.overlap != Overlap.ALLOW
        self.waiting = session.scalar(queries.waiting(row.id)) or 0

    def decide(self, due_at: datetime) -> None:
        """Decide for an instant that has come."""
        age = self.now - due_at
        if self.because is not None:
            self.add(due_at, OccurrenceState.SKIPPED, self.because)
        elif age > max(LATE, timedelta(seconds=self.row.catch_up_seconds)):
            self.add(due_at, OccurrenceState.SKIPPED, f"missed: nobody ticked for {age}, longer than the catch-up")
        elif self.is_busy and self.row.overlap == Overlap.SKIP:
            self.add(due_at, OccurrenceState.SKIPPED, "the job before it is still at work")
        elif self.waiting >= MOST_WAITING:
            self.add(due_at, OccurrenceState.SKIPPED, f"{self.waiting} wait already: jobs last too long")
        elif self.is_busy or self.waiting:
            self.waiting += 1
            self.add(due_at, OccurrenceState.QUEUED, "it waits for the job before it")
        else:
            self.is_busy = self.row.overlap != Overlap.ALLOW
            state = OccurrenceState.CAUGHT_UP if age > LATE else OccurrenceState.FIRED
            self.add(due_at, state, "", emit(self.session, self.row, due_at))

    def let_queued_go(self) -> None:
        """Fire the oldest of those that wait, if it is its turn; where jobs may overlap, it is everybody's."""
        if not self.waiting or self.because is not None or self.is_busy:
            return
        self.is_busy = self.row.overlap != Overlap.ALLOW
        turn = queries.queued(self.row.id).limit(1 if self.is_busy else BATCH)
        for waiting in self.session.scalars(turn).all():
            waiting.emission_id, waiting.is_open = emit(self.session, self.row, waiting.due_at), True
            waiting.state, waiting.reason = OccurrenceState.CAUGHT_UP, ""
            self.counts[OccurrenceState.CAUGHT_UP] += 1
            self.waiting -= 1

    def add(self, due_at: datetime, state: OccurrenceState, reason: str, emission_id: str | None = None) -> None:
        """Note an occurrence."""
        self.counts[state] += 1
        self.rows.append(
            {
                "schedule_id": self.row.id,
                "due_at": due_at,
                "state": state.value,
                "reason": reason,
                "emission_id": emission_id,
                "is_open": emission_id is not None,
                "decided_at": self.now,
            }
        )

    def write(self) -> None:
        """Write what was noted."""
        self.session.flush()
        insert_occurrences(self.session, self.rows)

    def total(self) -> Ticked:
        """What was decided, by its end."""
        return Ticked(**{state.value: count for state, count in self.counts.items()})


def insert_occurrences(session: Session, rows: Iterable[dict[str, object]]) -> None:
    """Write occurrences; under the schedule's lock none of them can be there already."""
    rows = list(rows)
    if insert_ignoring(session, OccurrenceRow, rows) != len(rows):
        raise AssertionError("an instant was decided twice: the schedule's row was not locked")


def is_busy(session: Session, schedule_id: str) -> bool:
    """Whether a job that the schedule fired, or what submits it, is still at work."""
    mine = OccurrenceRow.schedule_id == schedule_id, OccurrenceRow.is_open
    ended = update(OccurrenceRow).where(*mine, ~queries.is_at_work(OccurrenceRow)).values(is_open=False)
    session.execute(ended, execution_options={"synchronize_session": False})
    return session.scalar(select(exists().where(*mine))) or False


def _before_end(row: ScheduleRow, due_at: datetime) -> datetime | None:
    return None if row.ends_at is not None and due_at > row.ends_at else due_at
