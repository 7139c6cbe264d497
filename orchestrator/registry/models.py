"""What callers see of the registry: projects, datasets, snapshots, datums, models and endpoints."""

from __future__ import annotations

from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class TaskType(str, Enum):  # noqa: UP042  the documented SDK has it so, and `str()` differs
    """What a model does."""

    IMAGE_CLASSIFICATION = "Image Classification"
    IMAGE_EMBEDDING = "Image Embedding"
    IMAGE_SEGMENTATION = "Image Segmentation"
    OBJECT_DETECTION = "Object Detection"
    ORIENTED_OBJECT_DETECTION = "Oriented Object Detection"
    TEXT_EMBEDDING = "Text Embedding"


class InferenceAction(str, Enum):  # noqa: UP042  as above
    """An inference method; which ones exist depends on the task type."""

    DETECT = "detect"
    EMBED = "embed"
    PREDICT = "predict"
    PREDICT_PROBA = "predict_proba"


#: The inference methods of each task type; a method may be left out where there is one only.
ACTIONS: dict[TaskType, tuple[InferenceAction, ...]] = {
    TaskType.IMAGE_CLASSIFICATION: (InferenceAction.PREDICT, InferenceAction.PREDICT_PROBA),
    TaskType.IMAGE_EMBEDDING: (InferenceAction.EMBED,),
    TaskType.IMAGE_SEGMENTATION: (InferenceAction.PREDICT,),
    TaskType.OBJECT_DETECTION: (InferenceAction.DETECT,),
    TaskType.ORIENTED_OBJECT_DETECTION: (InferenceAction.DETECT,),
    TaskType.TEXT_EMBEDDING: (InferenceAction.EMBED,),
}


class InputCodec(StrEnum):
    """How a datum's bytes become an input tensor."""

    IMAGE_BASE64 = "image_base64"  #: the file itself, base64 in a BYTES tensor
    TENSOR_NPY = "tensor_npy"  #: a NumPy .npy file
    TENSOR_JSON = "tensor_json"  #: a JSON array of numbers, nested or flat
    TEXT = "text"  #: UTF-8 text in a BYTES tensor


class OutputCodec(StrEnum):
    """How output tensors become a stored inference."""

    CLASSIFICATION = "classification"  #: probabilities per class, or one label per item
    OBJECTS = "objects"  #: a JSON list of objects per item in a BYTES tensor
    EMBEDDING = "embedding"  #: one vector per item


#: What a task takes and gives, unless somebody says otherwise.
USUAL_INPUT: dict[TaskType, InputCodec] = {
    task_type: InputCodec.TEXT if task_type is TaskType.TEXT_EMBEDDING else InputCodec.IMAGE_BASE64
    for task_type in TaskType
}
USUAL_OUTPUT: dict[TaskType, OutputCodec] = {
    TaskType.IMAGE_CLASSIFICATION: OutputCodec.CLASSIFICATION,
    TaskType.IMAGE_EMBEDDING: OutputCodec.EMBEDDING,
    TaskType.IMAGE_SEGMENTATION: OutputCodec.OBJECTS,
    TaskType.OBJECT_DETECTION: OutputCodec.OBJECTS,
    TaskType.ORIENTED_OBJECT_DETECTION: OutputCodec.OBJECTS,
    TaskType.TEXT_EMBEDDING: OutputCodec.EMBEDDING,
}


class Endpoint(BaseModel):
    """Where a model answers and how to talk to it."""

    model_config = ConfigDict(protected_namespaces=(), extra="forbid")

    #: Base URL of the server, without `/v2`; empty for a model that no server answers for yet.
    url: str
    protocol: Literal["oip-v2"] = "oip-v2"
    #: The model's name and version on the server.
    model_name: str
    model_version: str | None = None
    input_codec: InputCodec
    output_codec: OutputCodec
    #: Names of the tensors; by default the first that the server's metadata lists.
    input_name: str | None = None
    output_name: str | None = None
    #: Class names by index, for servers that return probabilities without labels.
    labels: list[str] | None = None
    #: Limits over all worker processes together (each by itself, where no Redis coordinates them); None lets the
    #: workers find what the server bears.
    max_concurrency: int | None = Field(None, ge=1)
    requests_per_second: float | None = Field(None, gt=0)
    #: Seconds until a request counts as timed out; far below the time for which a worker may hold a message.
    timeout: float = Field(30.0, gt=0, le=120)


class Project(BaseModel):
    """A tenant."""

    id: str
    name: str
    weight: int = 1
    created_at: datetime


class Dataset(BaseModel):
    """A named line of snapshots."""

    id: str
    project_id: str
    name: str
    created_at: datetime


class Split(BaseModel):
    """How many datums a split holds, and how many of them carry annotations."""

    split: str
    datum_count: int
    annotated_count: int


class Snapshot(BaseModel):
    """An immutable set of datums."""

    id: str
    dataset_id: str
    name: str
    created_at: datetime
    splits: list[Split]


class Datum(BaseModel):
    """One file of a snapshot."""

    id: str
    snapshot_id: str
    split: str
    ordinal: int
    path: str
    sha256: str
    size: int
    content_type: str
    storage_key: str
    metadata: dict[str, Any] | None = None
    annotations: list[dict[str, Any]] | None = None


class Model(BaseModel):
    """A model and the server that answers for it."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    project_id: str
    name: str
    version: str
    task_type: TaskType
    actions: list[InferenceAction]
    endpoint: Endpoint
    created_at: datetime
