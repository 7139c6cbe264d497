"""The doors of uploads: URLs to send data to before the inference is created."""

from __future__ import annotations

from pydantic import ValidationError

from orchestrator import storage
from orchestrator.database import reading
from orchestrator.errors import BlobNotFound, InvalidRequest
from orchestrator.inference_store import blobs
from orchestrator.inference_store.inference import create_inference
from orchestrator.inference_store.models import (
    DataUpload,
    Inference,
    MetadataUpload,
    NewInferenceAndMetadataCollection,
    NewInferenceStorageRequest,
)
from orchestrator.inference_store.register import registered


def upload_data(model_id: str) -> DataUpload | None:
    """Get an internal storage key and presigned url in which to upload data to.

    PUT the data to the URL within an hour (`storage.put_signed` does it for the URLs of every store), and give the key
    to `create_inference` within a day: until then nobody else refers to what was uploaded, and it is swept.

    Parameters:
        model_id: The model id.

    Returns:
        The upload data details.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
    """
    key = _new_key(model_id)
    return DataUpload(data_presigned_url=storage.blobs().sign(key, "PUT"), data_storage_key=key)


def upload_inference_and_metadata(model_id: str) -> MetadataUpload | None:
    """Get an internal storage key and presigned url in which to upload metadata to.

    PUT what `NewInferenceAndMetadataCollection.encode` gives to the URL within an hour, and give the key to
    `create_inference_from_upload` within a day.

    Parameters:
        model_id: The model id.

    Returns:
        The upload metadata details.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
    """
    key = _new_key(model_id)
    return MetadataUpload(metadata_presigned_url=storage.blobs().sign(key, "PUT"), metadata_storage_key=key)


def create_inference_from_upload(
    model_id: str,
    inference_id: str,
    metadata_storage_key: str,
    *,
    data_storage_key: str | None = None,
    is_protected: bool = False,
) -> Inference | None:
    """`create_inference` of an inference and metadata that were uploaded.

    Parameters:
        model_id: The model id.
        inference_id: The inference id.
        metadata_storage_key: A key from `upload_inference_and_metadata`, to whose URL they were sent.
        data_storage_key: A key from `upload_data`.
        is_protected: Whether the inference and its associated data should be protected from deletion by retention
            policy.

    Returns:
        The inference.

    Raises:
        ModelNotFound, NotFound, InvalidRequest, Conflict: as `create_inference`; also, what was uploaded is no
            inference with metadata.
    """
    with reading() as session:
        registered(session, model_id)
    if not blobs.is_known(model_id, metadata_storage_key):
        raise BlobNotFound(f"{metadata_storage_key[:255]!r} is no upload of model {model_id!r}")
    try:
        uploaded = NewInferenceAndMetadataCollection.model_validate_json(storage.blobs().get(metadata_storage_key))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidRequest(f"what was uploaded is no inference with metadata: {wrong}") from error
    request = NewInferenceStorageRequest(
        model_id=model_id,
        inference_id=inference_id,
        data=uploaded,
        data_storage_key=data_storage_key,
        is_protected=is_protected,
    )
    return create_inference(model_id, request)


def _new_key(model_id: str) -> str:
    with reading() as session:
        registered(session, model_id)
    return blobs.new_upload(model_id)
