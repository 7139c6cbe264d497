"""Writes the inferences of a test as the doors and the bulk jobs of the store do."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy.orm import Session

from orchestrator.clock import now
from orchestrator.database import transact
from orchestrator.ids import new_id
from orchestrator.inference_store.filtering import facets
from orchestrator.inference_store.tables import (
    EmbeddingRow,
    InferenceRow,
    LabelRow,
    MetadataLeafRow,
    MetadataRow,
    OriginRow,
    StoreModelRow,
)
from orchestrator.registry.keys import datum_key
from orchestrator.registry.tables import DatasetRow, DatumRow, ProjectRow, SnapshotRow
from tests.orchestrator.inference_store.filtering.oracle import Origin, Record


def store(records: Iterable[Record], *, embedding_size: int = 0) -> str:
    """A new model with these inferences; returns its id."""
    model_id = new_id()
    transact(_store, model_id, list(records), embedding_size)
    return model_id


def _store(session: Session, model_id: str, records: list[Record], embedding_size: int) -> None:
    session.add(
        StoreModelRow(
            model_id=model_id, project_id="project", task_type="Object Detection", embedding_size=embedding_size
        )
    )
    for origin in {record.origin for record in records if record.origin is not None}:
        _add_origin(session, model_id, origin)
    session.flush()
    for ordinal, record in enumerate(records):
        _add_inference(session, model_id, ordinal, record)
        session.flush()
        _add_metadata(session, model_id, record)


def _add_origin(session: Session, model_id: str, origin: Origin) -> None:
    if session.get(ProjectRow, "project") is None:
        session.add(ProjectRow(id="project", name="project"))
        session.flush()
        session.add(DatasetRow(id="dataset", project_id="project", name="dataset"))
        session.flush()
    session.add(
        SnapshotRow(
            id=origin.dataset_snapshot_id,
            dataset_id="dataset",
            name=origin.dataset_snapshot_id,
            state="ready",
            ready_at=now(),
        )
    )
    session.add(
        OriginRow(
            bulk_inference_job_id=origin.bulk_inference_job_id,
            model_id=model_id,
            dataset_id=origin.dataset_id,
            dataset_snapshot_id=origin.dataset_snapshot_id,
            dataset_snapshot_split=origin.dataset_snapshot_split,
            indexed_at=now() if origin.is_indexed else None,
        )
    )


def _add_inference(session: Session, model_id: str, ordinal: int, record: Record) -> None:
    origin = record.origin
    if origin is not None:
        session.add(
            DatumRow(
                id=record.datum_id,
                snapshot_id=origin.dataset_snapshot_id,
                split=origin.dataset_snapshot_split,
                ordinal=ordinal,
                path=f"{ordinal}",
                sha256=record.data_hash,
                size=0,
                content_type="image/png",
                storage_key=datum_key(record.data_hash),
            )
        )
    is_embedding = record.embedding is not None
    session.add(
        InferenceRow(
            model_id=model_id,
            inference_id=record.inference_id,
            created_at=record.created_at,
            deleted_at=now() if record.is_deleted else None,
            deletion="soft" if record.is_deleted else None,
            inference_action=record.action,
            version="v1" if is_embedding else "v2",
            data=json.dumps(record.embedding if is_embedding else record.elements),
            data_hash=record.data_hash,
            data_source=record.source,
            latitude=record.place[0] if record.place else None,
            longitude=record.place[1] if record.place else None,
            bulk_inference_job_id=None if origin is None else origin.bulk_inference_job_id,
            datum_id=record.datum_id,
            ordinal=None if origin is None else ordinal,
        )
    )
    session.flush()
    key = {"model_id": model_id, "inference_id": record.inference_id}
    # Every other inference of a job that is being indexed has been reached.
    if origin is None or origin.is_indexed or ordinal % 2:
        session.add_all(LabelRow(**key, **element._asdict()) for element in facets.of_standard_list(record.elements))
        if record.embedding is not None:
            session.add(EmbeddingRow(**key, embedding=facets.of_embedding(record.embedding)))


def _add_metadata(session: Session, model_id: str, record: Record) -> None:
    for key, (kind, value) in record.metadata.items():
        of_item = {"model_id": model_id, "inference_id": record.inference_id, "key": key}
        found = facets.MetadataFacets(None, None, []) if value is None else facets.of_metadata(key, kind, value)
        session.add(MetadataRow(**of_item, type=kind, value=value, head=found.head, number=found.number))
        session.flush()
        session.add_all(MetadataLeafRow(**of_item, **leaf._asdict()) for leaf in found.leaves)
