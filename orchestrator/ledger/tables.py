"""Tables of the ledger: jobs, their units of work, and what else must outlive a process."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.database import Base, Identifier, JsonText, db_now
from orchestrator.ledger.lifecycle import UNFINISHED

UNFINISHED_SQL = f"state IN ({', '.join(repr(state.value) for state in UNFINISHED)})"


class JobRow(Base):
    """What the ledger knows of a job of any kind; the domain keeps the rest under the same id."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("kind", "request_id"),
        # Dispatch adds up weights until one of them buys a place: of nothing but zeros none ever would.
        CheckConstraint("weight >= 1", name="weight"),
        Index("ix_jobs_open", "id", sqlite_where=text("closed_at IS NULL"), postgresql_where=text("closed_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    kind: Mapped[str] = mapped_column(Text)
    project_id: Mapped[str] = mapped_column(Identifier)
    #: The project's share of the workers, copied here because the registry stands above the ledger.
    weight: Mapped[int] = mapped_column(default=1)
    priority: Mapped[int] = mapped_column(default=0)
    #: A second submission with the same request id returns this job.
    request_id: Mapped[str | None] = mapped_column(Text)
    paused: Mapped[bool] = mapped_column(default=False)
    #: The unit that finishes the job, once nothing else is left to do.
    finish_unit_id: Mapped[str | None] = mapped_column(Identifier)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    closed_at: Mapped[datetime | None]


class UnitRow(Base):
    """Something to be done, once. `attempt` is the fencing token: every write names the one it expects."""

    __tablename__ = "work_units"
    __table_args__ = (
        UniqueConstraint("job_id", "key"),
        CheckConstraint("state IN ('ready', 'published', 'leased', 'done', 'dead', 'cancelled')", name="state"),
        CheckConstraint(f"(finished_at IS NULL) = ({UNFINISHED_SQL})", name="finished_at"),
        CheckConstraint("(lease_expires_at IS NOT NULL) = (state = 'leased')", name="lease_expires_at"),
        CheckConstraint("(lease_owner IS NOT NULL) = (state = 'leased')", name="lease_owner"),
        CheckConstraint("state <> 'published' OR published_at IS NOT NULL", name="published_at"),
        CheckConstraint("attempt BETWEEN 0 AND max_attempts", name="attempt"),
        CheckConstraint("done_count >= 0 AND failed_count >= 0 AND in_flight >= 0", name="counts"),
        Index(
            "ix_work_units_ready",
            "queue",
            "project_id",
            "rank",
            "id",
            sqlite_where=text("state = 'ready'"),
            postgresql_where=text("state = 'ready'"),
        ),
        Index(
            "ix_work_units_published",
            "queue",
            "published_at",
            sqlite_where=text("state = 'published'"),
            postgresql_where=text("state = 'published'"),
        ),
        Index(
            "ix_work_units_leased",
            "lease_expires_at",
            sqlite_where=text("state = 'leased'"),
            postgresql_where=text("state = 'leased'"),
        ),
        Index(
            "ix_work_units_unfinished",
            "job_id",
            sqlite_where=text(UNFINISHED_SQL),
            postgresql_where=text(UNFINISHED_SQL),
        ),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    #: Names the unit within its job, so that planning twice writes it once.
    key: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    job_kind: Mapped[str] = mapped_column(Text)
    project_id: Mapped[str] = mapped_column(Identifier)
    queue: Mapped[str] = mapped_column(Text)
    #: The gate that the unit must pass (`gates.py`); None for none.
    gate: Mapped[str | None] = mapped_column(Identifier)
    #: The job's priority, negated: units go in ascending order of (rank, id), which one index serves.
    rank: Mapped[int] = mapped_column(default=0)
    #: Ids and ranges only.
    payload: Mapped[dict[str, Any]] = mapped_column(JsonText)
    state: Mapped[str] = mapped_column(Text, default="ready")
    attempt: Mapped[int] = mapped_column(default=0)
    #: A unit that is put back through no fault of its own has this raised with `attempt`.
    max_attempts: Mapped[int] = mapped_column(default=3)
    #: How often in a row the unit was put back without progress; sets the next delay.
    postponements: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime] = mapped_column(insert_default=db_now())
    published_at: Mapped[datetime | None]
    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None]
    done_count: Mapped[int] = mapped_column(BigInteger, default=0)
    failed_count: Mapped[int] = mapped_column(BigInteger, default=0)
    #: Requests that the attempt at work had open at its last write.
    in_flight: Mapped[int] = mapped_column(default=0)
    #: Writes of attempts that had lost the unit: refused, and counted here.
    stale_writes: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


def is_unfinished() -> ColumnElement[bool]:
    """Whether a unit still has something to do, in the words of the index that finds those units.

    SQLite uses a partial index only for a condition that repeats the index's own.
    """
    return UnitRow.state.in_([literal_column(repr(state.value)) for state in UNFINISHED])


class GateRow(Base):
    """What units share that is outside of us, and how many of them it bears; see `gates.py`."""

    __tablename__ = "gates"
    __table_args__ = (
        CheckConstraint("failures >= 0", name="failures"),
        CheckConstraint("unit_limit >= 1", name="unit_limit"),
        CheckConstraint("width >= 1", name="width"),
    )

    name: Mapped[str] = mapped_column(Identifier, primary_key=True)
    #: How often in a row the gate was shut; sets how long it stays so the next time.
    failures: Mapped[int] = mapped_column(default=0)
    shut_until: Mapped[datetime | None]
    #: Why it was shut; empty once a unit was served again.
    reason: Mapped[str] = mapped_column(Text, default="")
    #: Units at once, as somebody said …
    limit: Mapped[int | None] = mapped_column("unit_limit")
    #: … and as experience says.
    width: Mapped[int | None]
    #: Items a second of one unit, a moving average.
    rate: Mapped[float | None]


class ShareRow(Base):
    """What a project is still owed on a queue: the memory of deficit round robin."""

    __tablename__ = "dispatch_shares"

    queue: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    deficit: Mapped[float]


class SubmissionRow(Base):
    """A message on the queue `submissions` that was refused, and why."""

    __tablename__ = "rejected_submissions"

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    message_id: Mapped[str | None] = mapped_column(Identifier, unique=True)
    request_id: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    #: The start of the message, for a person to recognise it by.
    excerpt: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class PulseRow(Base):
    """A sign of life: of a worker (`worker:<host>`), or of one of beat's ticks (`tick:<name>`)."""

    __tablename__ = "pulses"

    name: Mapped[str] = mapped_column(Identifier, primary_key=True)
    details: Mapped[dict[str, Any]] = mapped_column(JsonText)
    started_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    seen_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class HoldRow(Base):
    """Something that must not be purged yet, and who needs it; see `holds.py`."""

    __tablename__ = "holds"
    __table_args__ = (Index("ix_holds_holder", "holder"),)

    subject: Mapped[str] = mapped_column(Identifier, primary_key=True)
    holder: Mapped[str] = mapped_column(Identifier, primary_key=True)
