"""Metadata of inferences as rows: their own, and what those of a bulk job have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from orchestrator.database import db_now, insert_ignoring
from orchestrator.inference_store.filtering.derived import DATUM_ID, DERIVED, OF_ORIGIN
from orchestrator.inference_store.filtering.facets import of_metadata
from orchestrator.inference_store.models import MetadataType
from orchestrator.inference_store.tables import InferenceRow, MetadataLeafRow, MetadataRow, OriginRow


class Entry(NamedTuple):
    """A piece of metadata, as texts."""

    key: str
    type: str
    value: str


def metadata_of(session: Session, model_id: str, rows: Sequence[Any]) -> dict[str, list[Entry]]:
    """The metadata of each of the rows by inference id, ordered by key.

    Rows have `inference_id`, `bulk_inference_job_id` and `datum_id`. However many they are, there are two queries.
    """
    origins = _origins(session, {row.bulk_inference_job_id for row in rows} - {None})
    found = {row.inference_id: _inherited(origins, row) for row in rows}
    own = select(MetadataRow.inference_id, MetadataRow.key, MetadataRow.type, MetadataRow.value).where(
        MetadataRow.model_id == model_id, MetadataRow.inference_id.in_(list(found))
    )
    for inference_id, key, kind, value in session.execute(own):
        # An entry without a value says that one of the origin's was deleted here.
        found[inference_id].pop(key, None)
        if value is not None:
            found[inference_id][key] = Entry(key, kind, value)
    return {inference_id: [entries[key] for key in sorted(entries)] for inference_id, entries in found.items()}


def add_entries(session: Session, model_id: str, inference_id: str, entries: Mapping[str, Entry]) -> None:
    """Write entries by key, with all that filters need of them; none of the keys has a row yet."""
    now = session.scalar(select(db_now()))
    item = {"model_id": model_id, "inference_id": inference_id}
    rows, leaves = [], []
    for key, entry in entries.items():
        facets = of_metadata(key, entry.type, entry.value)
        row = {"type": entry.type, "value": entry.value, "head": facets.head, "number": facets.number}
        rows.append({**item, "key": key, **row, "created_at": now})
        leaves += [{**item, "key": key, **leaf._asdict()} for leaf in facets.leaves]
    insert_ignoring(session, MetadataRow, rows)
    insert_ignoring(session, MetadataLeafRow, leaves)


def remove_entry(session: Session, inference: InferenceRow, key: str) -> bool:
    """Delete the entry of this key, one that a bulk inference derives included; says whether there was one.

    The caller has locked the inference.
    """
    item = (
        MetadataRow.model_id == inference.model_id,
        MetadataRow.inference_id == inference.inference_id,
        MetadataRow.key == key,
    )
    own = session.execute(select(MetadataRow.value).where(*item)).one_or_none()
    is_derived = inference.bulk_inference_job_id is not None and key in DERIVED
    is_there = is_derived if own is None else own.value is not None
    if is_there:
        session.execute(delete(MetadataRow).where(*item))
        if is_derived:
            _hide(session, inference, key)
    return is_there


def _hide(session: Session, inference: InferenceRow, key: str) -> None:
    row = MetadataRow(
        model_id=inference.model_id,
        inference_id=inference.inference_id,
        key=key,
        type=MetadataType.STRING.value,
    )
    session.add(row)
    session.flush()


def _origins(session: Session, job_ids: set[str]) -> dict[str, dict[str, Entry]]:
    rows = session.scalars(select(OriginRow).where(OriginRow.bulk_inference_job_id.in_(list(job_ids)))).all()
    return {
        row.bulk_inference_job_id: {key: Entry(key, "string", getattr(row, key)) for key in OF_ORIGIN} for row in rows
    }


def _inherited(origins: dict[str, dict[str, Entry]], row: Any) -> dict[str, Entry]:
    shared = origins.get(row.bulk_inference_job_id)
    if shared is None:
        return {}
    return {**shared, DATUM_ID: Entry(DATUM_ID, "string", row.datum_id)}
