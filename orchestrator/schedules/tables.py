"""Tables of schedules: what is due when, and what became of each instant at which it was."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.database import Base, Identifier, JsonText, db_now
from orchestrator.schedules.models import OccurrenceState, Overlap

_OVERLAPS = ", ".join(f"'{overlap.value}'" for overlap in Overlap)
_STATES = ", ".join(f"'{state.value}'" for state in OccurrenceState)


class ScheduleRow(Base):
    """A job that is submitted again and again; deleted ones are kept for their occurrences."""

    __tablename__ = "schedules"
    __table_args__ = (
        Index(
            "uq_schedules_name",
            "project_id",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(
            "ix_schedules_due",
            "next_due_at",
            sqlite_where=text("next_due_at IS NOT NULL"),
            postgresql_where=text("next_due_at IS NOT NULL"),
        ),
        CheckConstraint("(cron IS NULL) <> (interval_seconds IS NULL)", name="timing"),
        CheckConstraint("interval_seconds >= 1", name="interval_seconds"),
        CheckConstraint("catch_up_seconds >= 0", name="catch_up_seconds"),
        CheckConstraint(f"overlap IN ({_OVERLAPS})", name="overlap"),
        CheckConstraint("deleted_at IS NULL OR next_due_at IS NULL", name="deleted_at"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(Identifier)
    name: Mapped[str] = mapped_column(Identifier)
    #: Kind, `spec` and options of the submission, as in a message on the queue `submissions`.
    kind: Mapped[str] = mapped_column(Identifier)
    spec: Mapped[dict[str, Any]] = mapped_column(JsonText)
    options: Mapped[dict[str, Any]] = mapped_column(JsonText)
    cron: Mapped[str | None] = mapped_column(Text)
    interval_seconds: Mapped[int | None] = mapped_column(BigInteger)
    #: In which a cron expression is read.
    time_zone: Mapped[str] = mapped_column(Text)
    overlap: Mapped[str] = mapped_column(Text)
    catch_up_seconds: Mapped[int] = mapped_column(BigInteger)
    #: Intervals are counted from here; nothing is due before.
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime | None]
    paused: Mapped[bool] = mapped_column(default=False)
    #: Every instant up to here has its row among the occurrences.
    decided_until: Mapped[datetime]
    #: The first instant after that; None when nothing will be due any more.
    next_due_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    updated_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    deleted_at: Mapped[datetime | None]


class OccurrenceRow(Base):
    """An instant at which a schedule was due, and what was done about it: one row, whoever decided, however often."""

    __tablename__ = "schedule_occurrences"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("state NOT IN ('skipped', 'queued') OR emission_id IS NULL", name="emission_id"),
        CheckConstraint("state NOT IN ('fired', 'caught_up') OR emission_id IS NOT NULL", name="fired"),
        CheckConstraint("emission_id IS NOT NULL OR NOT is_open", name="is_open"),
        Index(
            "ix_schedule_occurrences_open",
            "schedule_id",
            sqlite_where=text("is_open = 1"),
            postgresql_where=text("is_open"),
        ),
        Index(
            "ix_schedule_occurrences_queued",
            "schedule_id",
            "due_at",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
    )

    schedule_id: Mapped[str] = mapped_column(ForeignKey("schedules.id"), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    #: Why it was skipped, refused or queued; or that a person asked for it.
    reason: Mapped[str] = mapped_column(Text, default="")
    #: The ledger's job whose one unit submits.
    emission_id: Mapped[str | None] = mapped_column(Identifier)
    #: The job that was submitted.
    job_id: Mapped[str | None] = mapped_column(Identifier)
    #: Whether that one, or the job, was still at work when somebody looked last.
    is_open: Mapped[bool] = mapped_column(default=False)
    decided_at: Mapped[datetime] = mapped_column(insert_default=db_now())
