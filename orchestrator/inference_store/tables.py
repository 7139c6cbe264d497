"""Tables of the inference store: inferences, what is known of each, and what finds them again.

A bulk job writes rows of `inferences` and nothing else. What all its rows have in common is said once, in
`inference_origins`; labels and embeddings are taken apart after the job (`inference_origins.indexed_at`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKeyConstraint,
    Index,
    Text,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.database import Base, Identifier, db_now
from orchestrator.database.vectors import Vector

#: Text of any length, compared byte by byte as `Identifier` is.
ByteText = Text().with_variant(Text(collation="C"), "postgresql")
#: How many characters of a long value the index holds.
HEAD = 200


def _where(condition: str) -> dict[str, Any]:
    """A partial index on both databases."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class StoreModelRow(Base):
    """A model that is registered for inference storage; `embedding_size` is 0 unless it makes embeddings."""

    __tablename__ = "inference_models"
    __table_args__ = (CheckConstraint("embedding_size >= 0", name="embedding_size"),)

    model_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    project_id: Mapped[str] = mapped_column(Identifier)
    task_type: Mapped[str] = mapped_column(Text)
    embedding_size: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    updated_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class InferenceRow(Base):
    """One inference, written by a bulk job or stored by a caller.

    A bulk inference's snapshot and split are those of its origin, so they are not repeated here.
    """

    __tablename__ = "inferences"
    __table_args__ = (
        # One result a datum and job: what makes a second delivery harmless.
        Index("uq_inferences_job_ordinal", "bulk_inference_job_id", "ordinal", unique=True),
        # The order in which inferences are listed and swept.
        Index("ix_inferences_created", "model_id", "created_at", "inference_id", "inference_action"),
        # Bulk inferences are found by their datums: in no order, an entry of each would cost a job as much as the rest.
        Index("ix_inferences_hash", "model_id", "data_hash", **_where("bulk_inference_job_id IS NULL")),
        Index("ix_inferences_source", "model_id", "data_source", "created_at", **_where("data_source IS NOT NULL")),
        Index("ix_inferences_place", "model_id", "latitude", "longitude", **_where("latitude IS NOT NULL")),
        # The blobs of bulk inferences belong to their datasets, and are none of the store's to delete.
        Index("ix_inferences_blob", "data_storage_key", **_where("bulk_inference_job_id IS NULL")),
        # What is gone for its callers and waits for an export to let go of it.
        Index("ix_inferences_purge", "model_id", "inference_id", **_where("deletion = 'hard'")),
        CheckConstraint("(bulk_inference_job_id IS NULL) = (ordinal IS NULL)", name="job_ordinal"),
        CheckConstraint("(latitude IS NULL) = (longitude IS NULL)", name="place"),
        CheckConstraint("(deleted_at IS NULL) = (deletion IS NULL)", name="deleted_at"),
        CheckConstraint("deletion IN ('soft', 'hard')", name="deletion"),
    )

    model_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    inference_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    #: None as long as nothing has changed since `created_at`.
    updated_at: Mapped[datetime | None]
    #: Since when nobody sees the row. It keeps the key of its blob, which may be gone.
    deleted_at: Mapped[datetime | None]
    #: `soft`: the row is kept; `hard`: it waits for an export that needs it, and is then purged.
    deletion: Mapped[str | None] = mapped_column(Text)
    inference_action: Mapped[str] = mapped_column(Text)
    #: `v2` where `data` is one of the standard lists, else `v1`.
    version: Mapped[str] = mapped_column(Text)
    data: Mapped[str | None] = mapped_column(Text)
    data_hash: Mapped[str] = mapped_column(Text)
    #: In bytes; None for bulk inferences, whose datum knows it.
    data_size: Mapped[int | None] = mapped_column(BigInteger)
    data_source: Mapped[str | None] = mapped_column(Identifier)
    latitude: Mapped[float | None] = mapped_column(Double)
    longitude: Mapped[float | None] = mapped_column(Double)
    data_storage_key: Mapped[str | None] = mapped_column(Text)
    is_protected: Mapped[bool] = mapped_column(default=False, server_default=false())
    bulk_inference_job_id: Mapped[str | None] = mapped_column(Identifier)
    datum_id: Mapped[str | None] = mapped_column(Identifier)
    ordinal: Mapped[int | None] = mapped_column(BigInteger)


class OriginRow(Base):
    """What all inferences of a bulk job have in common: metadata of each of them."""

    __tablename__ = "inference_origins"
    __table_args__ = (Index("ix_inference_origins_split", "model_id", "dataset_snapshot_id", "dataset_snapshot_split"),)

    bulk_inference_job_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(Identifier)
    dataset_id: Mapped[str] = mapped_column(Identifier)
    dataset_snapshot_id: Mapped[str] = mapped_column(Identifier)
    dataset_snapshot_split: Mapped[str] = mapped_column(ByteText)
    #: Since when all rows have their labels and embeddings in the tables below; until then they are read from `data`.
    indexed_at: Mapped[datetime | None]
    #: The job that may say so: none while the bulk job runs, or runs again.
    index_job_id: Mapped[str | None] = mapped_column(Identifier)


def _of_an_inference(table: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["model_id", "inference_id"],
        ["inferences.model_id", "inferences.inference_id"],
        name=f"fk_{table}_inferences",
        ondelete="CASCADE",
    )


class MetadataRow(Base):
    """A piece of extended metadata; `value` is None where one of the origin's was deleted for this inference."""

    __tablename__ = "inference_metadata"
    __table_args__ = (
        _of_an_inference("inference_metadata"),
        Index("ix_inference_metadata_head", "model_id", "key", "type", "head", "inference_id"),
        Index("ix_inference_metadata_number", "model_id", "key", "type", "number"),
    )

    model_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    inference_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    key: Mapped[str] = mapped_column(Identifier, primary_key=True)
    type: Mapped[str] = mapped_column(Identifier)
    value: Mapped[str | None] = mapped_column(ByteText)
    #: What filters compare, byte by byte (`filtering.facets`): of a string the first `HEAD` characters, since long
    #: ones do not fit into an index of PostgreSQL; of a number a text that sorts as it does.
    head: Mapped[str | None] = mapped_column(Identifier)
    #: `value` as a number, where it is a finite one.
    number: Mapped[float | None] = mapped_column(Double)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())


class MetadataLeafRow(Base):
    """A string or number inside a JSON document of metadata, under its dotted path, the key included.

    Its type is `string`, `int` or `float`; the columns mean what those of `MetadataRow` do.
    """

    __tablename__ = "inference_metadata_leaves"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model_id", "inference_id", "key"],
            ["inference_metadata.model_id", "inference_metadata.inference_id", "inference_metadata.key"],
            name="fk_inference_metadata_leaves_inference_metadata",
            ondelete="CASCADE",
        ),
        Index("ix_inference_metadata_leaves_head", "model_id", "path", "type", "head", "inference_id"),
    )

    model_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    inference_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    key: Mapped[str] = mapped_column(Identifier, primary_key=True)
    path: Mapped[str] = mapped_column(Identifier, primary_key=True)
    type: Mapped[str] = mapped_column(Identifier)
    value: Mapped[str] = mapped_column(ByteText)
    head: Mapped[str] = mapped_column(Identifier)


class LabelRow(Base):
    """A label of one element of a standard list, cut to 255 characters, with its score."""

    __tablename__ = "inference_labels"
    __table_args__ = (
        _of_an_inference("inference_labels"),
        Index("ix_inference_labels_label", "model_id", "label", "score", "inference_id"),
        Index("ix_inference_labels_score", "model_id", "score", "inference_id"),
    )

    model_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    inference_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    element: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(Identifier)
    score: Mapped[float | None] = mapped_column(Double)


class EmbeddingRow(Base):
    """An embedding, most often of as many numbers as its model's `embedding_size` says."""

    __tablename__ = "inference_embeddings"
    __table_args__ = (_of_an_inference("inference_embeddings"),)

    model_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    inference_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    embedding: Mapped[NDArray[np.float32]] = mapped_column(Vector)


class StoreBlobRow(Base):
    """A blob of the store, recorded before it is written, so that a sweep finds it whatever happens after.

    Once doomed, a key is never referred to again: the same content gets another key.
    """

    __tablename__ = "inference_blobs"
    __table_args__ = (
        Index("ix_inference_blobs_hash", "model_id", "sha256", **_where("doomed_at IS NULL")),
        Index("ix_inference_blobs_doomed", "doomed_at", **_where("doomed_at IS NOT NULL")),
        Index("ix_inference_blobs_touched", "touched_at", **_where("touched_at IS NOT NULL")),
    )

    storage_key: Mapped[str] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(Identifier)
    #: None for an upload by signed URL, whose content is not known before it is referred to.
    sha256: Mapped[str | None] = mapped_column(Text)
    #: When somebody last asked for the key: until a day later it counts as wanted although no inference names it.
    #: None since one does: whatever deletes the last of those dooms it.
    touched_at: Mapped[datetime | None] = mapped_column(insert_default=db_now())
    #: Since when it is being deleted.
    doomed_at: Mapped[datetime | None]


class ReceiptRow(Base):
    """What one transaction deleted, why and when; kept for ever, whatever becomes of task, policy and model."""

    __tablename__ = "retention_receipts"
    __table_args__ = (
        CheckConstraint("action IN ('soft', 'hard', 'blob')", name="action"),
        CheckConstraint("count >= 1 AND blob_count >= 0", name="counts"),
        CheckConstraint("(task_id IS NULL) = (policy_id IS NULL)", name="policy"),
        Index("ix_retention_receipts_model", "model_id", "id"),
        Index("ix_retention_receipts_task", "task_id", "id", **_where("task_id IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    model_id: Mapped[str] = mapped_column(Identifier)
    #: The retention task and its policy; None where a caller deleted.
    task_id: Mapped[str | None] = mapped_column(Identifier)
    policy_id: Mapped[str | None] = mapped_column(Identifier)
    #: `soft` and `hard` as the records were deleted; `blob` where they stay and only lost their input data.
    action: Mapped[str] = mapped_column(Text)
    #: How many inferences.
    count: Mapped[int] = mapped_column(BigInteger)
    #: How many blobs left the store with them: those that nobody else refers to.
    blob_count: Mapped[int] = mapped_column(BigInteger)
    #: The smallest and the largest of the inferences' ids, byte by byte.
    first_id: Mapped[str] = mapped_column(Identifier)
    last_id: Mapped[str] = mapped_column(Identifier)
    #: SHA-256 of the ids in that order, each with a line feed behind it.
    sha256: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
