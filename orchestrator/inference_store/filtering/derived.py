"""Metadata that bulk inferences have without a row for it: what their job and datum say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import InstrumentedAttribute, aliased

from orchestrator.inference_store.filtering.comparing import compared
from orchestrator.inference_store.filtering.datums import on_datums
from orchestrator.inference_store.filtering.membership import Source, Way, is_among
from orchestrator.inference_store.models import MetadataFilterOperator
from orchestrator.inference_store.tables import InferenceRow, MetadataRow, OriginRow
from orchestrator.registry.tables import DatumRow

#: Metadata of all inferences of a job, and the column that holds it.
OF_ORIGIN: Final[dict[str, InstrumentedAttribute[str]]] = {
    "bulk_inference_job_id": OriginRow.bulk_inference_job_id,
    "dataset_id": OriginRow.dataset_id,
    "dataset_snapshot_id": OriginRow.dataset_snapshot_id,
    "dataset_snapshot_split": OriginRow.dataset_snapshot_split,
}
#: Metadata that each inference of a job has of its own.
DATUM_ID: Final = "datum_id"
#: All of it is of the type `string`. An item that is stored under such a key takes its place.
DERIVED: Final = frozenset({*OF_ORIGIN, DATUM_ID})


def derived(model_id: str, key: str, operator: MetadataFilterOperator, values: Sequence[str]) -> Source:
    """The ids of bulk inferences whose derived metadata under `key` compares so, and is not overridden."""
    bulk = aliased(InferenceRow)
    overridden = select(MetadataRow.key).where(
        MetadataRow.model_id == bulk.model_id, MetadataRow.inference_id == bulk.inference_id, MetadataRow.key == key
    )
    found = select(bulk.inference_id).where(~overridden.exists())
    if _is_of_datums(key, operator):
        return Source(on_datums(found, bulk, model_id, DatumRow.id.in_(values)), bulk)
    return Source(found.where(*_columns(bulk, model_id, key, operator, values)), bulk)


def derived_condition(
    model_id: str, key: str, operator: MetadataFilterOperator, values: Sequence[str], way: Way
) -> ColumnElement[bool]:
    """Whether the derived metadata of an inference compares so, where nothing is stored under `key`."""
    if _is_of_datums(key, operator):
        bulk = aliased(InferenceRow)
        return is_among(
            way, Source(on_datums(select(bulk.inference_id), bulk, model_id, DatumRow.id.in_(values)), bulk)
        )
    return and_(*_columns(InferenceRow, model_id, key, operator, values))


def _is_of_datums(key: str, operator: MetadataFilterOperator) -> bool:
    return key == DATUM_ID and operator in (MetadataFilterOperator.EQUAL, MetadataFilterOperator.IN)


def _columns(
    bulk: Any, model_id: str, key: str, operator: MetadataFilterOperator, values: Sequence[str]
) -> list[ColumnElement[bool]]:
    jobs = select(OriginRow.bulk_inference_job_id).where(OriginRow.model_id == model_id)
    if key == DATUM_ID:
        return [bulk.bulk_inference_job_id.in_(jobs), compared(operator, values, bulk.datum_id)]
    return [bulk.bulk_inference_job_id.in_(jobs.where(compared(operator, values, OF_ORIGIN[key])))]
