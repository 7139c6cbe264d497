"""What a test of the inference store starts from: registered models, and requests with something in every field."""

from __future__ import annotations

import hashlib
from typing import Any

from orchestrator.ids import new_id
from orchestrator.inference_store import (
    BaseInferenceFilter,
    Inference,
    InferenceAction,
    MetadataType,
    NewExtendedMetadataRequest,
    NewGetInferencesRequest,
    NewInferenceAndMetadataCollection,
    NewInferenceStorageRequest,
    NewMetadataCollectionRequest,
    NewRegisterModelRequest,
    NewStandardMetadataRequest,
    TaskType,
    create_inference,
    create_inference_storage_request,
    filter_inferences,
    register_model_for_inference_storage,
)

CATS = [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}]
EVERYTHING = NewGetInferencesRequest()
NO_FILTER = BaseInferenceFilter()


def registered(task_type: TaskType = TaskType.IMAGE_CLASSIFICATION, embedding_size: int = 0) -> str:
    """A new model that is registered with the store; returns its id."""
    model_id = new_id()
    register_model_for_inference_storage(
        NewRegisterModelRequest(
            model_id=model_id, project_id="project", task_type=task_type, embedding_size=embedding_size
        )
    )
    return model_id


def collection(
    data: bytes = b"", metadata: dict[str, tuple[str, str]] | None = None, **values: Any
) -> NewInferenceAndMetadataCollection:
    """An inference upon `data`; `values` are fields of the standard metadata, or what the model said."""
    fields = NewInferenceAndMetadataCollection.model_fields
    said = {name: values.pop(name) for name in list(values) if name in fields} or {"image_classification": CATS}
    standard = {
        "data_hash": hashlib.sha256(data).hexdigest(),
        "data_size": len(data),
        "task_type": TaskType.IMAGE_CLASSIFICATION,
        "inference_action": InferenceAction.PREDICT,
    } | values
    return NewInferenceAndMetadataCollection(
        **said,
        metadata=NewMetadataCollectionRequest(
            standard_metadata=NewStandardMetadataRequest(**standard),
            extended_metadata=[
                NewExtendedMetadataRequest(key=key, type=MetadataType(kind), value=value)
                for key, (kind, value) in (metadata or {}).items()
            ],
        ),
    )


def embedded(numbers: list[float], **values: Any) -> NewInferenceAndMetadataCollection:
    """An embedding."""
    return collection(
        embedding=numbers, task_type=TaskType.IMAGE_EMBEDDING, inference_action=InferenceAction.EMBED, **values
    )


def request(
    model_id: str, inference_id: str, given: NewInferenceAndMetadataCollection, **values: Any
) -> NewInferenceStorageRequest:
    """A request to store an inference."""
    return NewInferenceStorageRequest(model_id=model_id, inference_id=inference_id, data=given, **values)


def create(model_id: str, inference_id: str, given: NewInferenceAndMetadataCollection | None = None) -> Inference:
    """Store an inference without data."""
    found = create_inference(model_id, request(model_id, inference_id, given or collection()))
    assert found is not None
    return found


def create_upon(model_id: str, inference_id: str, data: bytes, **values: Any) -> Inference:
    """Store an inference with the data that was inferred upon."""
    found = create_inference_storage_request(model_id, inference_id, data, collection(data, **values))
    assert found is not None
    return found


def ids(model_id: str) -> list[str]:
    """The ids of the inferences that a caller sees, in the order of a listing."""
    return [inference.inference_id for inference in filter_inferences(model_id, EVERYTHING)]
