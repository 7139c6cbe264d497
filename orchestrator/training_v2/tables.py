"""Tables of training: blueprints, runs, what they measured, and the checkpoints they left."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.database import Base, Identifier, JsonText, db_now
from orchestrator.training_v2.models import RunState

#: States that nothing leaves but by a person's wish; `lifecycle` declares the moves.
TERMINAL = frozenset({RunState.JOB_CREATE_FAILED, RunState.JOB_TERMINATED, RunState.JOB_FAILED, RunState.JOB_COMPLETED})

_STATES = ", ".join(repr(state.value) for state in RunState)
_TERMINAL_STATES = ", ".join(repr(state.value) for state in RunState if state in TERMINAL)

#: Said as the index says it: SQLite uses a partial index only for the very words of its condition.
INCOMPLETE = "status = 'incomplete'"


def _where(condition: str) -> dict[str, Any]:
    """A partial index on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class BlueprintRow(Base):
    """How to train one kind of model. A deleted one stays for the runs that refer to it; its version is free again."""

    __tablename__ = "blueprints"
    __table_args__ = (
        CheckConstraint("image IS NOT NULL OR entry_point IS NOT NULL", name="runnable"),
        Index("uq_blueprints_version", "name", "version", unique=True, **_where("deleted_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text)
    image: Mapped[str | None] = mapped_column(Text)
    entry_point: Mapped[list[str] | None] = mapped_column(JsonText)
    task_types: Mapped[list[str]] = mapped_column(JsonText)
    config_schema: Mapped[dict[str, Any]] = mapped_column(JsonText)
    checkpoint_policy: Mapped[dict[str, Any] | None] = mapped_column(JsonText)
    serving: Mapped[dict[str, Any] | None] = mapped_column(JsonText)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    deleted_at: Mapped[datetime | None]


class RunRow(Base):
    """A training run, under the id that the ledger knows it by.

    `launch` is its fencing token: each launch adds one, and whatever a trainer writes names its launch.
    """

    __tablename__ = "training_runs"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint(f"(finished_at IS NOT NULL) = (state IN ({_TERMINAL_STATES}))", name="finished_at"),
        CheckConstraint("launch >= 0 AND restarts >= 0 AND metrics_seen >= 0", name="counts"),
        CheckConstraint("deleted_at IS NULL OR finished_at IS NOT NULL", name="deleted_at"),
        Index("ix_training_runs_created", "created_at", "id"),
        Index("ix_training_runs_project", "project_id", "created_at"),
        Index("ix_training_runs_live", "id", **_where("finished_at IS NULL")),
        Index("ix_training_runs_deleted", "id", **_where("deleted_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    status_updated_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    finished_at: Mapped[datetime | None]
    name: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    user_id: Mapped[str] = mapped_column(Identifier)
    blueprint_id: Mapped[str] = mapped_column(ForeignKey("blueprints.id"))
    task_type: Mapped[str] = mapped_column(Text)
    resources: Mapped[dict[str, Any]] = mapped_column(JsonText)
    config: Mapped[dict[str, Any]] = mapped_column(JsonText)
    notes: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[list[dict[str, Any]]] = mapped_column(JsonText)
    progress_updated_at: Mapped[datetime | None]
    #: Why the run waits, or how it ended; empty when there is nothing to say.
    message: Mapped[str] = mapped_column(Text, default="")
    checkpoint_policy: Mapped[dict[str, Any] | None] = mapped_column(JsonText)
    #: The kind of runtime that launches it.
    runtime: Mapped[str] = mapped_column(Text)
    launch: Mapped[int] = mapped_column(default=0)
    #: Where the launch is, such as a host: set before anything is started there.
    place: Mapped[str | None] = mapped_column(Identifier)
    #: Who supervises the launch's trainer: the first that came.
    supervisor: Mapped[str | None] = mapped_column(Identifier)
    #: The last sign of life of the launch's trainer.
    heartbeat_at: Mapped[datetime | None]
    #: Until when a run that is to stop may take its time.
    kill_at: Mapped[datetime | None]
    #: Launches because of silence, since somebody last wanted the run to be launched.
    restarts: Mapped[int] = mapped_column(default=0)
    #: How many metrics the launch has sent; what is sent twice is told from it.
    metrics_seen: Mapped[int] = mapped_column(BigInteger, default=0)
    #: When the newest metric was created: no two of a run are of the same instant.
    metrics_at: Mapped[datetime | None]
    #: Writes of launches that are over: refused, and counted here.
    stale_writes: Mapped[int] = mapped_column(default=0)
    #: Since when nobody sees the run, whose parts are being removed.
    deleted_at: Mapped[datetime | None]


class MetricRow(Base):
    """A number that a run measured. `created_at` is unique within the run: keyset paging by it loses nothing.

    Nothing refers to the run by a foreign key: millions of rows would each have it checked, where the
    transaction that writes them holds the run's row already.
    """

    __tablename__ = "training_metrics"
    __table_args__ = (
        Index("ix_training_metrics_tag", "run_id", "tag", "created_at"),
        Index("ix_training_metrics_step", "run_id", "global_step", "created_at"),
        # The rows lie in the order in which they are listed.
        {"sqlite_with_rowid": False},
    )

    run_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    launch: Mapped[int]
    global_step: Mapped[int] = mapped_column(BigInteger)
    tag: Mapped[str] = mapped_column(Text)
    value: Mapped[float] = mapped_column(Double)


class CheckpointRow(Base):
    """A checkpoint of a run; its files are blobs below `training/<run>/<checkpoint>/`."""

    __tablename__ = "training_checkpoints"
    __table_args__ = (
        CheckConstraint("status IN ('incomplete', 'complete')", name="status"),
        Index("ix_training_checkpoints_run", "run_id", "created_at", "id"),
        Index("ix_training_checkpoints_created", "created_at", "id"),
        Index("ix_training_checkpoints_incomplete", "id", **_where(INCOMPLETE)),
        Index("ix_training_checkpoints_deleted", "id", **_where("deleted_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("training_runs.id"))
    launch: Mapped[int]
    global_step: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(Text, default="incomplete")
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    status_updated_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    #: Since when nobody sees the checkpoint, whose blobs are being removed.
    deleted_at: Mapped[datetime | None]


class CheckpointFileRow(Base):
    """A file of a complete checkpoint; its blob is named by `number`, since paths may hold any character."""

    __tablename__ = "training_checkpoint_files"

    checkpoint_id: Mapped[str] = mapped_column(
        ForeignKey("training_checkpoints.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    path: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Text)


class ModelSourceRow(Base):
    """Which checkpoint a model of the registry came from; as long as this row is there, the checkpoint stays."""

    __tablename__ = "training_models"

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    checkpoint_id: Mapped[str] = mapped_column(Identifier, index=True)
    run_id: Mapped[str] = mapped_column(Identifier)
    summary: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
