"""Tables of bulk inference: jobs, and the datums that could not be inferred on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.bulk_inference.models import ProgressState
from orchestrator.database import Base, Identifier, JsonText, db_now

_STATES = ", ".join(f"'{state.value}'" for state in ProgressState)


class BulkInferenceJobRow(Base):
    """A job, under the id that the ledger knows it by."""

    __tablename__ = "bulk_inference_jobs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'aborted'))", name="finished_at"
        ),
        CheckConstraint("batch_size >= 1", name="batch_size"),
        CheckConstraint("failure_threshold BETWEEN 0 AND 1", name="failure_threshold"),
        Index("ix_bulk_inference_jobs_model", "model_id", "id"),
    )

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    model_project_id: Mapped[str] = mapped_column(Identifier)
    model_id: Mapped[str] = mapped_column(Identifier)
    dataset_project_id: Mapped[str] = mapped_column(Identifier)
    dataset_id: Mapped[str] = mapped_column(Identifier)
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"))
    split: Mapped[str] = mapped_column(Text)
    #: As the caller gave it, perhaps empty; `action` is what it was resolved to.
    inference_method: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    evaluate_metrics: Mapped[bool]
    batch_size: Mapped[int]
    failure_threshold: Mapped[float]
    expected_total: Mapped[int | None] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text, default="")
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(JsonText)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class FailureRow(Base):
    """A datum that a job gave up on, and why."""

    __tablename__ = "bulk_inference_failures"

    job_id: Mapped[str] = mapped_column(ForeignKey("bulk_inference_jobs.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    datum_id: Mapped[str] = mapped_column(Identifier)
    failure_class: Mapped[str] = mapped_column(Text)
    status: Mapped[int | None]
    message: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
