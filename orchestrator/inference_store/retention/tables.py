"""Tables of retention: policies, those of the past included, and tasks. Receipts are in `inference_store.tables`."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.database import Base, Identifier, db_now
from orchestrator.inference_store.retention.models import TaskState

_STATES = ", ".join(f"'{state.value}'" for state in TaskState)
_CURRENT = "ended_at IS NULL"


class RetentionPolicyRow(Base):
    """A policy as somebody set it; it never changes. Another one ends it; receipts go on naming it."""

    __tablename__ = "retention_policies"
    __table_args__ = (
        CheckConstraint("delete_action IN ('soft', 'hard')", name="delete_action"),
        CheckConstraint("automated_interval >= 0", name="automated_interval"),
        CheckConstraint("(schedule_id IS NOT NULL) = (automated_interval > 0)", name="schedule_id"),
        CheckConstraint("maximum_record_age >= -1 AND maximum_blob_age >= 0", name="ages"),
        CheckConstraint("maximum_record_age = -1 OR maximum_blob_age <= maximum_record_age", name="order"),
        Index(
            "uq_retention_policies_model",
            "model_id",
            unique=True,
            sqlite_where=text(_CURRENT),
            postgresql_where=text(_CURRENT),
        ),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("inference_models.model_id"))
    #: In hours, as the ages; 0 for none.
    automated_interval: Mapped[int]
    #: -1: records are never too old.
    maximum_record_age: Mapped[int]
    maximum_blob_age: Mapped[int]
    delete_action: Mapped[str] = mapped_column(Text)
    #: What runs the policy by itself.
    schedule_id: Mapped[str | None] = mapped_column(ForeignKey("schedules.id"))
    last_scheduled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    #: Since when another one, or none, holds.
    ended_at: Mapped[datetime | None]


class RetentionTaskRow(Base):
    """A task, under the id that the ledger knows it by. What it has deleted is the sum of its receipts."""

    __tablename__ = "retention_tasks"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint("(finished_at IS NOT NULL) = (state IN ('complete', 'failed', 'stopped'))", name="finished_at"),
        CheckConstraint("(total_record_count IS NULL) = (total_blob_count IS NULL)", name="totals"),
        CheckConstraint("(manifest_key IS NULL) = (manifest_sha256 IS NULL)", name="manifest"),
        CheckConstraint("manifest_key IS NULL OR dry_run", name="manifest_dry_run"),
        Index("ix_retention_tasks_model", "model_id", "created_at", "id"),
        Index("ix_retention_tasks_policy", "policy_id"),
    )

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    model_id: Mapped[str] = mapped_column(Identifier)
    policy_id: Mapped[str] = mapped_column(ForeignKey("retention_policies.id"))
    dry_run: Mapped[bool]
    #: What was created since is safe from deletion …
    maximum_record_age_limit: Mapped[datetime]
    #: … and what was created since this keeps its input data as well.
    maximum_blob_age_limit: Mapped[datetime]
    total_record_count: Mapped[int | None] = mapped_column(BigInteger)
    total_blob_count: Mapped[int | None] = mapped_column(BigInteger)
    #: Where a dry run's manifest is, and what it must still be when it is run.
    manifest_key: Mapped[str | None] = mapped_column(Text)
    manifest_sha256: Mapped[str | None] = mapped_column(Text)
    #: The dry run whose manifest this task runs.
    approved_task_id: Mapped[str | None] = mapped_column(Identifier)
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
