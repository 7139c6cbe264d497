"""Tables of export tasks: tasks, the sets that they pinned, and the pieces that they have written."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.database import Base, Identifier, JsonText, db_now
from orchestrator.inference_store.exports.models import ArchiveFormat, ExportTaskState

_STATES = ", ".join(f"'{state.value}'" for state in ExportTaskState)
_FORMATS = ", ".join(f"'{kind.value}'" for kind in ArchiveFormat)
_UNSWEPT = "swept_at IS NULL AND finished_at IS NOT NULL"


class ExportTaskRow(Base):
    """A task, under the id that the ledger knows it by."""

    __tablename__ = "export_tasks"
    __table_args__ = (
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        CheckConstraint(f"archive_format IN ({_FORMATS})", name="archive_format"),
        CheckConstraint("(finished_at IS NOT NULL) = (state IN ('complete', 'failed'))", name="finished_at"),
        CheckConstraint("state != 'complete' OR sha256 IS NOT NULL", name="complete"),
        Index("ix_export_tasks_model", "model_id", "id"),
        Index("ix_export_tasks_unswept", "finished_at", sqlite_where=text(_UNSWEPT), postgresql_where=text(_UNSWEPT)),
    )

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    model_id: Mapped[str] = mapped_column(Identifier)
    archive_format: Mapped[str] = mapped_column(Text)
    #: The request without the ids that it names, which are rows of `export_named_inferences`.
    request: Mapped[dict[str, Any]] = mapped_column(JsonText)
    expected_count: Mapped[int | None] = mapped_column(BigInteger)
    #: The archive, once it is whole; visible only when the task is complete.
    storage_key: Mapped[str | None] = mapped_column(Text)
    size: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    #: Since when nothing is left of an ended task but this row and its archive.
    swept_at: Mapped[datetime | None]


class NamedInferenceRow(Base):
    """An inference that a request names, to be included or excluded; gone once the set is pinned."""

    __tablename__ = "export_named_inferences"

    task_id: Mapped[str] = mapped_column(ForeignKey("export_tasks.id"), primary_key=True)
    inference_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    excluded: Mapped[bool]


class ExportMemberRow(Base):
    """A member of a pinned set; `ordinal` counts 0, 1, 2 … in the order of ids.

    The key is kept because retention takes it off the inference before it takes the blob, which the hold prevents.
    There is no foreign key: a million rows go in at once, and checking each would take most of the time.
    """

    __tablename__ = "export_members"

    task_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    ordinal: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    inference_id: Mapped[str] = mapped_column(Identifier)
    storage_key: Mapped[str | None] = mapped_column(Text)


class ExportPieceRow(Base):
    """A piece of an archive: its members, and the blobs that hold it, as `models.Piece` has them."""

    __tablename__ = "export_pieces"
    __table_args__ = (CheckConstraint("low < high", name="range"),)

    task_id: Mapped[str] = mapped_column(ForeignKey("export_tasks.id"), primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    piece: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    low: Mapped[int] = mapped_column(BigInteger)
    high: Mapped[int] = mapped_column(BigInteger)
    #: Bytes of all its blobs.
    size: Mapped[int] = mapped_column(BigInteger)
    streams: Mapped[dict[str, Any]] = mapped_column(JsonText)
    large_files: Mapped[list[dict[str, Any]]] = mapped_column(JsonText)
    counts: Mapped[dict[str, Any]] = mapped_column(JsonText)
