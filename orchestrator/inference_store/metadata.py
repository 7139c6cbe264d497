"""The doors of metadata: attach, look up, delete, count, and describe by statistics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, reading, transact
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.inference_store import statistics
from orchestrator.inference_store.described import find_visible
from orchestrator.inference_store.entries import Entry, add_entries, metadata_of, remove_entry
from orchestrator.inference_store.models import (
    Metadata,
    MetadataKeyTypeCounts,
    MetadataStatistics,
    MetadataType,
    NewExtendedMetadataRequest,
    NewGetMetadataStatisticsRequest,
)
from orchestrator.inference_store.register import find_registered
from orchestrator.inference_store.storing import entry
from orchestrator.inference_store.tables import InferenceRow, MetadataRow
from orchestrator.inference_store.texts import may_exist

#: What belongs to the inference itself and is no extended metadata.
STANDARD_KEYS = ("data_source", "latitude", "longitude")


def create_metadata(model_id: str, inference_id: str, request_body: NewExtendedMetadataRequest) -> Metadata | None:
    """Create new metadata for an inference, in place of what it has under the same key.

    Parameters:
        model_id: The model id.
        inference_id: The id of the inference.
        request_body: The metadata to attach to the inference.

    Returns:
        The metadata details.

    Raises:
        NotFound: the model has no such inference.
        InvalidRequest: the key or the value cannot be stored.
    """
    new = entry(request_body)
    transact(_replace, model_id, inference_id, new)
    return Metadata(**new._asdict())


def delete_metadata(model_id: str, inference_id: str, key: str) -> str | None:
    """Delete metadata for a particular inference and key pair.

    Parameters:
        model_id: The model id.
        inference_id: The id of the inference.
        key: The key of the metadata to delete.

    Returns:
        The key of the deleted metadata; None if there is none, or no such inference.
    """
    return key if transact(_remove, model_id, inference_id, key) else None


def get_metadata(model_id: str, inference_id: str) -> list[Metadata]:
    """Get all metadata for a particular inference.

    A bulk inference has `dataset_id`, `dataset_snapshot_id`, `dataset_snapshot_split`, `datum_id` and
    `bulk_inference_job_id` by itself, unless something else was stored there, or they were deleted.

    Parameters:
        model_id: The model id.
        inference_id: The id of the inference.

    Returns:
        The metadata details, ordered by key; nothing if there is no such inference.
    """
    with reading() as session:
        row = find_visible(session, model_id, inference_id)
        if row is None:
            return []
        return [Metadata(**found._asdict()) for found in metadata_of(session, model_id, [row])[inference_id]]


def get_metadata_key_type_counts(model_id: str) -> MetadataKeyTypeCounts | None:
    """Get metadata key, type counts.

    Parameters:
        model_id: The model id.

    Returns:
        The count of each metadata key, type pair; None if the model is not registered for inference storage.
    """
    with reading() as session:
        if find_registered(session, model_id) is None:
            return None
        return MetadataKeyTypeCounts(counts=statistics.key_type_counts(session, model_id))


def get_metadata_statistics(model_id: str, request_body: NewGetMetadataStatisticsRequest) -> MetadataStatistics | None:
    """Get metadata statistics for a particular metadata key, type pair.

    Numbers are counted in bins, by default ten of the same width from the smallest to the largest; texts by value.
    A bin is named `low-high` and holds what is at least `low` and less than `high`; the last one also holds `high`.
    `count`, `min` and `max` are those of the numbers within the bins.

    Parameters:
        model_id: The model id.
        request_body: The metadata statistics criteria.

    Returns:
        The metadata statistics; None if the model is not registered for inference storage.

    Raises:
        InvalidRequest: bins are said in two ways, out of bounds, or asked for texts; or a filter is malformed.
    """
    with reading() as session:
        if find_registered(session, model_id) is None:
            return None
        return statistics.describe(session, model_id, request_body)


def get_data_hash(data: bytes) -> str:
    """Get the SHA256 hexdigest of the data being inferred upon.

    Parameters:
        data: The input inference data.

    Returns:
        The data hash.
    """
    return hashlib.sha256(data).hexdigest()


def map_to_inference_store_metadata(data: Mapping[str, str | float | int | Mapping[str, Any]]) -> dict[str, Any]:
    """Map data from a dictionary into the required inference store format. All keys, types, and values are strings.

    `data_source`, `latitude` and `longitude` belong to the inference itself and are given under their names. Everything
    else is a piece of extended metadata in the list `extended_metadata`: an int of the type int, a float of the type
    float, a mapping of the type json, a text of the type string, and a bool as the text `true` or `false`.

    Parameters:
        data: The metadata.

    Returns:
        The typed metadata.

    Raises:
        InvalidRequest: a value is nothing of that.
    """
    typed = [(str(key), *_typed(key, value)) for key, value in data.items()]
    extended = [
        {"key": key, "type": kind.value, "value": text} for key, kind, text in typed if key not in STANDARD_KEYS
    ]
    return {key: text for key, _, text in typed if key in STANDARD_KEYS} | {"extended_metadata": extended}


def _typed(key: str, value: object) -> tuple[MetadataType, str]:
    match value:
        case str():
            return MetadataType.STRING, value
        case bool():
            return MetadataType.STRING, "true" if value else "false"
        case Integral():
            return MetadataType.INT, str(int(value))
        case Real():
            return MetadataType.FLOAT, repr(float(value))
        case Mapping():
            try:
                return MetadataType.JSON, json.dumps(dict(value), ensure_ascii=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise InvalidRequest(f"metadata {key!r} cannot be written as JSON: {error}") from error
        case _:
            raise InvalidRequest(
                f"metadata {key!r} is a {type(value).__name__}: give a text, a number, a bool or a mapping"
            )


def _replace(session: Session, model_id: str, inference_id: str, new: Entry) -> None:
    if _locked(session, model_id, inference_id) is None:
        raise NotFound(f"model {model_id!r} has no inference {inference_id!r}")
    item = (MetadataRow.model_id == model_id, MetadataRow.inference_id == inference_id, MetadataRow.key == new.key)
    session.execute(delete(MetadataRow).where(*item))
    add_entries(session, model_id, inference_id, {new.key: new})
    _touch(session, model_id, inference_id)


def _remove(session: Session, model_id: str, inference_id: str, key: str) -> bool:
    inference = _locked(session, model_id, inference_id)
    if inference is None or not may_exist(key) or not remove_entry(session, inference, key):
        return False
    _touch(session, model_id, inference_id)
    return True


def _locked(session: Session, model_id: str, inference_id: str) -> InferenceRow | None:
    """The inference, if anybody sees it; of two that change its metadata the second waits for the first."""
    if not may_exist(model_id, inference_id):
        return None
    return session.scalar(
        select(InferenceRow)
        .where(InferenceRow.model_id == model_id, InferenceRow.inference_id == inference_id)
        .where(InferenceRow.deleted_at.is_(None))
        .with_for_update(key_share=True)
    )


def _touch(session: Session, model_id: str, inference_id: str) -> None:
    session.execute(
        update(InferenceRow)
        .where(InferenceRow.model_id == model_id, InferenceRow.inference_id == inference_id)
        .values(updated_at=db_now()),
        execution_options={"synchronize_session": False},
    )
