"""Tables of the registry: who owns what, which data a job reads, and which server answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.database import Base, Identifier, JsonText, db_now


class ProjectRow(Base):
    """A tenant; `weight` is its share when several projects compete for workers."""

    __tablename__ = "projects"
    __table_args__ = (CheckConstraint("weight >= 1", name="weight"),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    weight: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class DatasetRow(Base):
    """A named line of snapshots."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class SnapshotRow(Base):
    """An immutable set of datums; invisible to jobs until `state` is `ready`."""

    __tablename__ = "snapshots"
    __table_args__ = (
        UniqueConstraint("dataset_id", "name"),
        CheckConstraint("state IN ('importing', 'ready')", name="state"),
        CheckConstraint("(ready_at IS NOT NULL) = (state = 'ready')", name="ready_at"),
        CheckConstraint("(import_owner IS NOT NULL) = (state = 'importing')", name="import_owner"),
        CheckConstraint("(import_expires_at IS NOT NULL) = (state = 'importing')", name="import_expires_at"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    name: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, default="importing")
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    ready_at: Mapped[datetime | None]
    #: Whoever writes the snapshot, and until when he counts as alive unless he renews it.
    import_owner: Mapped[str | None] = mapped_column(Identifier)
    import_expires_at: Mapped[datetime | None]


class ImportBlobRow(Base):
    """A blob that an unfinished import may have written: recorded before the write, so that a
    sweep finds it whatever happened to the import."""

    __tablename__ = "import_blobs"
    __table_args__ = (Index("ix_import_blobs_storage_key", "storage_key"),)

    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"), primary_key=True)
    storage_key: Mapped[str] = mapped_column(Identifier, primary_key=True)


class SnapshotSplitRow(Base):
    """How many datums a split holds, counted once when the snapshot became ready."""

    __tablename__ = "snapshot_splits"

    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"), primary_key=True)
    split: Mapped[str] = mapped_column(Identifier, primary_key=True)
    datum_count: Mapped[int]
    annotated_count: Mapped[int]


class DatumRow(Base):
    """One file of a snapshot; `ordinal` counts 0, 1, 2 … within its split, without gaps."""

    __tablename__ = "datums"
    __table_args__ = (
        UniqueConstraint("snapshot_id", "split", "ordinal"),
        UniqueConstraint("snapshot_id", "path"),
        Index("ix_datums_storage_key", "storage_key"),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshots.id"))
    split: Mapped[str] = mapped_column(Identifier)
    ordinal: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    content_type: Mapped[str] = mapped_column(Text)
    storage_key: Mapped[str] = mapped_column(Text)
    #: `metadata` is taken by SQLAlchemy, so the attribute has a longer name than the column.
    custom_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata", JsonText)
    annotations: Mapped[list[dict[str, Any]] | None] = mapped_column(JsonText)


class ModelRow(Base):
    """A model and the server that answers for it; `config` is `registry.models.Endpoint` as JSON."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("project_id", "name", "version"),)

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(Text)
    version: Mapped[str] = mapped_column(Text, default="1")
    task_type: Mapped[str] = mapped_column(Text)
    actions: Mapped[list[str]] = mapped_column(JsonText)
    config: Mapped[dict[str, Any]] = mapped_column(JsonText)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
