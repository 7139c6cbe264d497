"""Bulk inferences found by their datums: indexes that only these filters need would slow every job down."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, select
from sqlalchemy.orm import aliased

from orchestrator.inference_store.filtering.membership import Source, Way, is_among
from orchestrator.inference_store.tables import InferenceRow, OriginRow
from orchestrator.registry.keys import datum_key
from orchestrator.registry.tables import DatumRow
from orchestrator.storage import is_sha256


def on_datums(found: Select[Any], bulk: Any, model_id: str, which: ColumnElement[bool]) -> Select[Any]:
    """`found`, a select from `bulk`, cut to the model's bulk inferences on the datums that meet `which`.

    They are known by their places in their splits, which the index of each job's results holds.
    """
    place = and_(
        OriginRow.dataset_snapshot_id == DatumRow.snapshot_id, OriginRow.dataset_snapshot_split == DatumRow.split
    )
    return (
        found.join(OriginRow, and_(OriginRow.bulk_inference_job_id == bulk.bulk_inference_job_id))
        .join(DatumRow, and_(place, DatumRow.ordinal == bulk.ordinal, DatumRow.id == bulk.datum_id))
        .where(which, OriginRow.model_id == model_id)
    )


def upon_data(model_id: str, data_hash: str, way: Way) -> ColumnElement[bool]:
    """Whether an inference is upon the data with this hash."""
    if way is Way.ROW_BY_ROW:
        return InferenceRow.data_hash == data_hash
    stored = aliased(InferenceRow)
    by_callers = select(stored.inference_id).where(
        stored.model_id == model_id, stored.data_hash == data_hash, stored.bulk_inference_job_id.is_(None)
    )
    sources = [Source(by_callers, stored)]
    if is_sha256(data_hash):  # callers may name what they like; the registry computes what it stores
        bulk = aliased(InferenceRow)
        same = DatumRow.storage_key == datum_key(data_hash)
        sources.append(Source(on_datums(select(bulk.inference_id), bulk, model_id, same), bulk))
    return is_among(way, *sources)
