"""Storing: what a caller gives is checked, and becomes the rows of an inference in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.database import db_now, insert_ignoring
from orchestrator.errors import Conflict, InvalidRequest, OrchestratorError
from orchestrator.inference_store import blobs
from orchestrator.inference_store.entries import Entry, add_entries
from orchestrator.inference_store.filtering.facets import Element, of_embedding, of_standard_list
from orchestrator.inference_store.models import (
    InferenceAction,
    MetadataType,
    NewExtendedMetadataRequest,
    NewInferenceAndMetadataCollection,
    NewInferenceStorageRequest,
    NewStandardMetadataRequest,
    TaskType,
)
from orchestrator.inference_store.protection import protect
from orchestrator.inference_store.register import learn_embedding_size, registered
from orchestrator.inference_store.tables import EmbeddingRow, InferenceRow, LabelRow, MetadataRow, StoreModelRow
from orchestrator.inference_store.texts import checked_id, checked_text

#: The inference actions of each task type that the store takes.
ACTIONS: Final[dict[TaskType, frozenset[InferenceAction]]] = {
    TaskType.IMAGE_CLASSIFICATION: frozenset(
        {InferenceAction.PREDICT, InferenceAction.PREDICT_PROBA, InferenceAction.EMBED}
    ),
    TaskType.IMAGE_EMBEDDING: frozenset({InferenceAction.EMBED}),
    TaskType.IMAGE_SEGMENTATION: frozenset({InferenceAction.PREDICT, InferenceAction.PREDICT_PROBA}),
    TaskType.OBJECT_DETECTION: frozenset({InferenceAction.DETECT}),
    TaskType.ORIENTED_OBJECT_DETECTION: frozenset({InferenceAction.DETECT}),
    TaskType.TEXT_EMBEDDING: frozenset({InferenceAction.EMBED}),
}
STANDARD_LISTS: Final = (
    "image_classification",
    "object_detection",
    "image_segmentation",
    "oriented_object_detection",
)
#: Bytes; what a column of both databases holds.
LARGEST_DATA = 2**63 - 1


class BlobGone(OrchestratorError):
    """The key may not be named any more, or never: it is doomed, or none of the model's. Nothing was written."""


@dataclass(frozen=True, slots=True)
class NewInference:
    """A request that was checked, as what is stored of it."""

    model_id: str
    inference_id: str
    #: Columns of the inference that a second request must repeat to be the same …
    columns: Mapping[str, Any]
    #: … and what may change afterwards.
    is_protected: bool
    labels: Sequence[Element]
    embedding: NDArray[np.float32] | None
    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class _Output:
    """What the model said."""

    version: str
    data: str | None
    labels: Sequence[Element] = ()
    embedding: NDArray[np.float32] | None = None


def check(request: NewInferenceStorageRequest) -> NewInference:
    """Hold a request against the rules.

    Raises:
        InvalidRequest: a value is wrong, or does not go with another.
    """
    given = request.data
    output = _output(given)
    return NewInference(
        model_id=checked_id("model_id", request.model_id),
        inference_id=checked_id("inference_id", request.inference_id),
        columns={
            "version": output.version,
            "data": output.data,
            **_standard(given.metadata.standard_metadata),
        },
        is_protected=request.is_protected,
        labels=output.labels,
        embedding=output.embedding,
        entries=_entries(given.metadata.extended_metadata),
    )


def entry(request: NewExtendedMetadataRequest) -> Entry:
    """A piece of extended metadata.

    Raises:
        InvalidRequest: its key or value cannot be stored.
    """
    return Entry(
        checked_id("metadata key", request.key),
        MetadataType(request.type).value,
        checked_text(f"metadata {request.key!r}", request.value, longest=None),
    )


def write(session: Session, new: NewInference, key: str | None) -> None:
    """Store the inference, its labels, embedding and metadata, and let it name the blob under `key`.

    All in the caller's transaction. One that is stored already, and is the same, is left as it is, but that it is
    protected from now on if that is asked for.

    Raises:
        ModelNotFound: the model is not registered.
        InvalidRequest: its embeddings have another size.
        Conflict: another inference is stored under this id, or was until it was deleted.
        BlobGone: the blob may not be named: ask for another key, and write it again.
    """
    model = registered(session, new.model_id)
    if new.embedding is not None:
        _check_size(session, model, len(new.embedding))
    item = {"model_id": new.model_id, "inference_id": new.inference_id}
    row = {
        **item,
        **new.columns,
        "created_at": session.scalar(select(db_now())),
        "data_storage_key": key,
        "is_protected": new.is_protected,
    }
    if not insert_ignoring(session, InferenceRow, [row]):
        found = _compare(session, new, key)
        if new.is_protected and not found.is_protected and not protect(session, new.model_id, new.inference_id):
            raise _deleted(new.inference_id)
        return
    # After the insert: deletion locks inferences before it locks their blobs.
    if key is not None and not blobs.claim(session, new.model_id, key):
        raise BlobGone(key)
    insert_ignoring(session, LabelRow, [{**item, **label._asdict()} for label in new.labels])
    if new.embedding is not None:
        session.add(EmbeddingRow(**item, embedding=new.embedding))
        session.flush()
    add_entries(session, new.model_id, new.inference_id, new.entries)


def _output(given: NewInferenceAndMetadataCollection) -> _Output:
    said = [name for name in (*STANDARD_LISTS, "embedding") if getattr(given, name) is not None]
    if len(said) > 1:
        raise InvalidRequest(f"{' and '.join(said)} are given: an inference is one of them")
    if not said:
        return _Output("v1", None)
    output = getattr(given, said[0])
    data = _json(said[0], output)
    if said != ["embedding"]:
        return _Output("v2", data, labels=of_standard_list(output))
    vector = of_embedding(output)
    if vector is None:
        raise InvalidRequest("embedding is empty, or holds numbers that are not finite as FP32")
    return _Output("v1", data, embedding=vector)


def _json(name: str, value: object) -> str:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} cannot be written as JSON: {error}") from error
    return checked_text(name, text, longest=None)


def _standard(given: NewStandardMetadataRequest) -> dict[str, Any]:
    task_type, action = TaskType(given.task_type), InferenceAction(given.inference_action)
    if action not in ACTIONS[task_type]:
        known = ", ".join(sorted(each.value for each in ACTIONS[task_type]))
        raise InvalidRequest(f"inference_action: {task_type.value} has no {action.value!r}: choose from {known}")
    if not 0 <= given.data_size <= LARGEST_DATA:
        raise InvalidRequest(f"data_size is {given.data_size}: it must be a number of bytes")
    if (given.latitude is None) != (given.longitude is None):
        raise InvalidRequest("latitude and longitude go together: give both or none")
    for name, value, bound in (("latitude", given.latitude, 90), ("longitude", given.longitude, 180)):
        if value is not None and not abs(value) <= bound:
            raise InvalidRequest(f"{name} is {value}: it must lie between -{bound} and {bound}")
    source = given.data_source
    return {
        "inference_action": action.value,
        "data_hash": checked_text("data_hash", given.data_hash),
        "data_size": given.data_size,
        "data_source": None if source is None else checked_text("data_source", source),
        "latitude": given.latitude,
        "longitude": given.longitude,
    }


def _entries(given: Sequence[NewExtendedMetadataRequest]) -> dict[str, Entry]:
    """By key: of two with the same key the last one counts."""
    return {request.key: entry(request) for request in given}


def _check_size(session: Session, model: StoreModelRow, size: int) -> None:
    if not model.embedding_size:
        learn_embedding_size(session, model.model_id, size)
        session.refresh(model)
    if model.embedding_size != size:
        raise InvalidRequest(f"embedding has {size} numbers: those of {model.model_id!r} have {model.embedding_size}")


def _compare(session: Session, new: NewInference, key: str | None) -> InferenceRow:
    """The inference that is stored, which must be the same."""
    row = session.get(InferenceRow, (new.model_id, new.inference_id))
    if row is None or row.deleted_at is not None:
        raise _deleted(new.inference_id)
    different = [name for name, value in new.columns.items() if getattr(row, name) != value]
    if (row.data_storage_key is None) != (key is None):
        different.append("data_storage_key")
    chosen = select(MetadataRow.key, MetadataRow.type, MetadataRow.value).where(
        MetadataRow.model_id == new.model_id, MetadataRow.inference_id == new.inference_id
    )
    # What was added since is no matter.
    if not set(new.entries.values()) <= set(map(tuple, session.execute(chosen).all())):
        different.append("extended_metadata")
    if different:
        raise Conflict(
            f"inference {new.inference_id!r} is stored already, with another {', '.join(different)}: choose another id"
        )
    return row


def _deleted(inference_id: str) -> Conflict:
    return Conflict(f"inference {inference_id!r} was deleted: choose another id")
