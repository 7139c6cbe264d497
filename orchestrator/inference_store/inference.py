"""The doors of inferences: create, get, filter, count, delete."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import storage
from orchestrator.database import reading, transact
from orchestrator.errors import BlobNotFound, Conflict, InvalidRequest, Unavailable
from orchestrator.inference_store import blobs, filtering, purge, storing
from orchestrator.inference_store.described import as_inferences, find_visible
from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    Inference,
    NewGetInferencesRequest,
    NewInferenceAndMetadataCollection,
    NewInferenceStorageRequest,
)
from orchestrator.inference_store.register import registered
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.inference_store.texts import may_exist

log = structlog.get_logger(__name__)

#: How often data is written again because its key was doomed meanwhile: each time somebody else deleted the last
#: other inference upon the same data at that very moment.
ATTEMPTS = 10
#: Inferences that one query loads.
PAGE = 1000


def create_inference(model_id: str, request_body: NewInferenceStorageRequest) -> Inference | None:
    """Create a new inference; created twice it is stored once.

    Record, labels, embedding and metadata are written in one transaction, which also makes sure that the data that was
    uploaded stays.

    Parameters:
        model_id: The model id.
        request_body: The inference and metadata.

    Returns:
        The inference.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
        BlobNotFound: nothing was uploaded under `data_storage_key`.
        InvalidRequest: a value is wrong, such as an embedding of another size than the model's.
        Conflict: another inference is stored under this id.
    """
    if request_body.model_id != model_id:
        raise InvalidRequest(f"the request is for the model {request_body.model_id!r}, not {model_id!r}")
    key = request_body.data_storage_key
    if key is not None:
        request_body = _with_size(request_body, _uploaded_size(model_id, key))
    new = storing.check(request_body)
    try:
        transact(storing.write, new, key)
    except storing.BlobGone as error:
        raise Conflict(f"the upload {key!r} has been swept: ask for another one, and upload again") from error
    return get_inference(model_id, new.inference_id)


def create_inference_storage_request(
    model_id: str,
    inference_id: str,
    data: str | bytes | None,
    metadata: NewInferenceAndMetadataCollection,
    is_protected: bool = False,
) -> Inference | None:
    """Create an inference via the API. This function will upload the supplied data to blob storage if the data field
    is specified.

    Killed before the inference is there it leaves nothing that anybody sees; data without an inference is swept after
    a day.

    Parameters:
        model_id: The model id.
        inference_id: The inference id.
        data: Optionally, the data inferred upon; text is stored as UTF-8.
        metadata: The inference and metadata.
        is_protected: Whether the inference and its associated data should be protected from deletion by retention
            policy

    Returns:
        The inference.

    Raises:
        ModelNotFound, InvalidRequest, Conflict: as `create_inference`; also, `data_hash` is not that of the data.
    """
    request = NewInferenceStorageRequest(
        model_id=model_id, inference_id=inference_id, data=metadata, is_protected=is_protected
    )
    if data is None:
        return create_inference(model_id, request)
    content = _content(data)
    sha256 = hashlib.sha256(content).hexdigest()
    if metadata.metadata.standard_metadata.data_hash != sha256:
        raise InvalidRequest(f"data_hash is not that of the data, which is {sha256}: `get_data_hash` computes it")
    new = storing.check(_with_size(request, len(content)))
    with reading() as session:
        registered(session, model_id)
    for _ in range(ATTEMPTS):
        key = blobs.acquire(model_id, sha256)
        storage.blobs().put_missing({key: content})
        try:
            transact(storing.write, new, key)
        except storing.BlobGone:
            continue
        return get_inference(model_id, inference_id)
    raise Unavailable(f"the data of {inference_id!r} was deleted {ATTEMPTS} times while it was stored: try again")


def get_inference(model_id: str, inference_id: str) -> Inference | None:
    """Get details about a single inference.

    Parameters:
        model_id: The model id.
        inference_id: The inference id.

    Returns:
        The inference, with a URL of its data if it has any; None if there is no such inference.
    """
    with reading() as session:
        row = find_visible(session, model_id, inference_id)
        if row is None:
            return None
        return as_inferences(session, model_id, [row], presign=True)[0]


def filter_inferences(model_id: str, request_body: NewGetInferencesRequest) -> list[Inference]:
    """Get inferences for a model, optionally matching a series of filters.

    Without `pagination` these are the 50 oldest, or with `embedding_filters` the 50 nearest.

    Parameters:
        model_id: The model id.
        request_body: The inference filter to apply upon the full collection of inferences stored for the model.

    Returns:
        The collection of inferences that met the filter criteria.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
        InvalidRequest: a filter or the pagination is malformed.
    """
    with reading() as session:
        registered(session, model_id)
        page = filtering.page(session, model_id, request_body)
        return [
            inference
            for start in range(0, len(page), PAGE)
            for inference in _load(session, model_id, page[start : start + PAGE], presign=request_body.presign)
        ]


def count_inferences(model_id: str, request_body: NewGetInferencesRequest) -> int:
    """Get the count of all inferences for a model, optionally matching a series of filters.

    Parameters:
        model_id: The model id.
        request_body: The inference filter to apply upon the full collection of inferences stored for the model; its
            pagination is ignored.

    Returns:
        The record count.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
        InvalidRequest: a filter is malformed.
    """
    with reading() as session:
        registered(session, model_id)
        return filtering.count(session, model_id, request_body)


def delete_inference(model_id: str, inference_id: str) -> str | None:
    """Delete an inference and all associated metadata, and its data unless another inference has the same.

    It is gone for everybody when this returns, a protected one as well; an export that has pinned it still gets it.

    Parameters:
        model_id: The model id.
        inference_id: The inference id.

    Returns:
        The deleted inference id; None if there is no such inference.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
    """
    return next(iter(_delete(model_id, [inference_id] if may_exist(inference_id) else [])), None)


def bulk_delete_inferences(model_id: str, filter_: BaseInferenceFilter) -> list[str | None]:
    """Delete inferences and all associated metadata, protected ones as well; an empty filter deletes all.

    Killed midway, it has deleted some of them.

    Parameters:
        model_id: The model id.
        filter_: A filter describing which inferences to delete.

    Returns:
        The deleted inference ids, in the order of the ids.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
        InvalidRequest: the filter is malformed.
    """
    with reading() as session:
        registered(session, model_id)
        chosen = filtering.found(model_id, filter_, known=filtering.look(session, model_id, filter_))
        ids = session.scalars(chosen.order_by(InferenceRow.inference_id)).all()
    return [*_delete(model_id, ids)]


def _load(session: Session, model_id: str, page: Sequence[filtering.Found], *, presign: bool) -> list[Inference]:
    ids = [found.inference_id for found in page]
    chosen = select(InferenceRow).where(InferenceRow.model_id == model_id, InferenceRow.inference_id.in_(ids))
    found = as_inferences(session, model_id, session.scalars(chosen).all(), presign=presign)
    by_id = {inference.inference_id: inference for inference in found}
    for inference_id, distance in page:
        by_id[inference_id].embedding_distance = distance
    return [by_id[inference_id] for inference_id in ids]


def _delete(model_id: str, inference_ids: Sequence[str]) -> list[str]:
    with reading() as session:
        registered(session, model_id)
    deleted = purge.delete_inferences(model_id, inference_ids)
    if deleted:
        try:
            purge.remove_blobs(model_id)
        except Unavailable as error:
            # Nobody sees the blobs any more, and the purge that beat starts removes them later.
            log.warning("blobs_left", model=model_id, error=str(error))
    return deleted


def _content(data: str | bytes) -> bytes:
    try:
        return data.encode() if isinstance(data, str) else data
    except UnicodeEncodeError as error:
        raise InvalidRequest("data holds half a character, which no UTF-8 says: give bytes") from error


def _with_size(request: NewInferenceStorageRequest, size: int) -> NewInferenceStorageRequest:
    """The request with the size that its data really has."""
    copy = request.model_copy(deep=True)
    copy.data.metadata.standard_metadata.data_size = size
    return copy


def _uploaded_size(model_id: str, key: str) -> int:
    missing = f"nothing was uploaded for model {model_id!r} under {key[:255]!r}: PUT the data to its URL first"
    if not blobs.is_known(model_id, key):
        raise BlobNotFound(missing)
    try:
        return storage.blobs().size(key)
    except BlobNotFound as error:
        raise BlobNotFound(missing) from error
