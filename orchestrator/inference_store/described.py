"""Rows of the store as what callers get: inferences with their metadata, and URLs of their data."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from orchestrator.inference_store.entries import metadata_of
from orchestrator.inference_store.models import GeoPoint, Inference, Metadata
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.inference_store.texts import may_exist
from orchestrator.storage import blobs


def as_inferences(session: Session, model_id: str, rows: Sequence[InferenceRow], *, presign: bool) -> list[Inference]:
    """Inferences of the model; `presign` mints a URL for each that has data, which expires after an hour."""
    entries = metadata_of(session, model_id, rows)
    return [
        Inference(
            model_id=row.model_id,
            inference_id=row.inference_id,
            created_at=row.created_at,
            updated_at=row.updated_at or row.created_at,
            inference_action=row.inference_action,
            data=row.data,
            metadata=[Metadata(**entry._asdict()) for entry in entries[row.inference_id]],
            data_hash=row.data_hash,
            data_source=row.data_source,
            data_coordinates=_place(row),
            data_storage_key=row.data_storage_key,
            presigned_url=blobs().sign(row.data_storage_key) if presign and row.data_storage_key else None,
            is_protected=row.is_protected,
            version=row.version,
        )
        for row in rows
    ]


def find_visible(session: Session, model_id: str, inference_id: str) -> InferenceRow | None:
    """The inference's row, if there is one that anybody sees."""
    row = session.get(InferenceRow, (model_id, inference_id)) if may_exist(model_id, inference_id) else None
    return None if row is None or row.deleted_at is not None else row


def _place(row: InferenceRow) -> GeoPoint | None:
    if row.latitude is None or row.longitude is None:
        return None
    return GeoPoint(latitude=row.latitude, longitude=row.longitude)
