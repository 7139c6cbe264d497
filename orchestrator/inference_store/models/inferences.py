"""What the store keeps: models, inferences, their metadata, and requests that write them."""

from __future__ import annotations

import json
from datetime import datetime
from enum import Enum
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.inference_store.models.filters import BaseInferenceFilter, GeoPoint
from orchestrator.registry.models import InferenceAction, TaskType


class MetadataType(str, Enum):  # noqa: UP042  the documented SDK has it so, and `str()` differs
    """The selection of metadata types supported by the inference store."""

    FLOAT = "float"
    INT = "int"
    JSON = "json"
    STRING = "string"


class MetadataStatisticsType(str, Enum):  # noqa: UP042  as above
    """The selection of metadata statistics types supported by the inference store."""

    FLOAT = "float"
    INT = "int"
    STRING = "string"


class Model(BaseModel):
    """Defines an inference store model resource.

    Parameters:
        model_id: The model id.
        created_at: A timestamp of when the model was created
        updated_at: A timestamp of when the model was updated
        embedding_size: The dimension of the embeddings produced.
    """

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    created_at: datetime
    updated_at: datetime
    embedding_size: int


class NewRegisterModelRequest(BaseModel):
    """Helper object to register a model for inference storage.

    Parameters:
        model_id: The model id.
        project_id: The project id.
        task_type: The model task type.
        embedding_size: The dimension of the embeddings produced; 0 for a model that makes none.
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    model_id: str
    project_id: str
    task_type: TaskType
    embedding_size: int = 0


class Metadata(BaseModel):
    """Defines an inference store metadata resource.

    Parameters:
        key: The name of the metadata key.
        type: The metadata value type (string, int, float, json).
        value: The metadata value.
    """

    model_config = ConfigDict(protected_namespaces=())

    key: str
    type: str
    value: str


class Inference(BaseModel):
    """Defines an inference store inference resource.

    Parameters:
        model_id: The model id.
        inference_id: The inference id.
        created_at: A timestamp of when the inference was created
        updated_at: A timestamp of when the inference was updated
        inference_action: The inference action.
        data: The inference data. Returned as an arbitrary string when the associated model is not registered as an
            embedding model.
        embedding_distance: The embedding distance from a query embedding.
        metadata: The collection of metadata associated to the inference.
        data_hash: The hash of the inference input data.
        data_source: The data source of the inference.
        data_coordinates: A set of geospatial coordinates defining where the inference occurred.
        data_storage_key: The internal data storage key for the inference input data.
        presigned_url: A presigned url to download the inference input data.
        is_protected: Whether the inference and its associated data should be protected from deletion by retention
            policy
        version: The inference version: `v2` where `data` is one of the standard lists.
    """

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    inference_id: str
    created_at: datetime
    updated_at: datetime
    inference_action: str
    data: str | None = None
    embedding_distance: float | None = None
    metadata: list[Metadata] | None = None
    data_hash: str
    data_source: str | None = None
    data_coordinates: GeoPoint | None = None
    data_storage_key: str | None = None
    presigned_url: str | None = None
    is_protected: bool = False
    version: str

    @property
    def structured_embedding(self) -> list[int | float] | None:
        """The numbers of `data` if it is an embedding, else None."""
        try:
            found = json.loads(self.data or "null")
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, list) or not found:
            return None
        is_number = (isinstance(each, int | float) and not isinstance(each, bool) for each in found)
        return found if all(is_number) else None


class NewStandardMetadataRequest(BaseModel):
    """Helper object to attach standard metadata to an inference.

    Supported pairs of task type and inference action: Image Classification: predict, predict_proba, embed;
    Object Detection and Oriented Object Detection: detect; Image Segmentation: predict, predict_proba;
    Image Embedding and Text Embedding: embed.

    Parameters:
        data_hash: The SHA256 hexdigest of the data inferred upon. Use the helper function get_data_hash if necessary.
        data_size: The size of the input data, in bytes.
        task_type: The task type of the model.
        inference_action: The inference action passed to the inference server.
        data_source: An optional field to express the origin of the inference data.
        latitude: An optional field to store the latitude the inference data was captured at.
        longitude: An optional field to store the longitude the inference data was captured at.
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    data_hash: str
    data_size: int
    task_type: TaskType
    inference_action: InferenceAction
    data_source: str | None = None
    latitude: float | None = None
    longitude: float | None = None


class NewExtendedMetadataRequest(BaseModel):
    """Helper object to attach extended/custom metadata to an inference.

    Parameters:
        key: The name of the metadata key.
        type: The metadata value type (string, int, float, json).
        value: The metadata value.
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    key: str
    type: MetadataType
    value: str


class NewMetadataCollectionRequest(BaseModel):
    """Helper object to collect standard and extended metadata to be associated to an inference.

    Call `encode` for the ability to upload the corresponding json data to blob storage.

    Parameters:
        standard_metadata: The standard metadata.
        extended_metadata: The extended metadata. Defaults to an empty list.
    """

    model_config = ConfigDict(protected_namespaces=())

    standard_metadata: NewStandardMetadataRequest
    extended_metadata: list[NewExtendedMetadataRequest] = []

    def encode(self) -> bytes:
        """The collection as JSON, from which `model_validate_json` makes it again."""
        return self.model_dump_json().encode()


class NewInferenceAndMetadataCollection(BaseModel):
    """Helper object to collect inference, standard and extended metadata.

    Of the lists and the embedding one at most may be given; without any, an inference is stored that filters on
    labels and scores do not find. Objects of the lists: classification `{label, score}`; detection
    `{label, score, xmin, ymin, xmax, ymax}` in pixels; oriented detection `{label, score, cx, cy, w, h, r}`, centre and
    size divided by the image's size, `r` in radians; segmentation `{label, score, contours: [[{x, y}, …], …]}` in
    pixels, `score` being optional.

    Call `encode` for the ability to upload the corresponding json data to blob storage.

    Parameters:
        image_classification: The collection of image classification inferences
        object_detection: The collection of object detection inferences
        image_segmentation: The collection of image segmentation inferences
        oriented_object_detection: The collection of oriented object detection inferences
        embedding: An embedding
        metadata: The collection of metadata associated to the inference.
    """

    model_config = ConfigDict(protected_namespaces=())

    # The documented defaults are None, though None is none of what the fields take.
    image_classification: list[dict[str, Any]] = None  # type: ignore[assignment]  # as above
    object_detection: list[dict[str, Any]] = None  # type: ignore[assignment]  # as above
    image_segmentation: list[dict[str, Any]] = None  # type: ignore[assignment]  # as above
    oriented_object_detection: list[dict[str, Any]] = None  # type: ignore[assignment]  # as above
    embedding: list[float] = None  # type: ignore[assignment]  # as above
    metadata: NewMetadataCollectionRequest

    def encode(self) -> bytes:
        """The collection as JSON, from which `model_validate_json` makes it again."""
        missing = {name for name in type(self).model_fields if getattr(self, name) is None}
        return self.model_dump_json(exclude=missing).encode()


class NewInferenceStorageRequest(BaseModel):
    """Helper object to store an inference.

    Parameters:
        model_id: The id of the model.
        inference_id: The id of the inference.
        data: The collection of inference and metadata.
        data_storage_key: An optional data storage key returned from the upload.upload_data function.
        is_protected: Whether the inference and its associated data should be protected from deletion by retention
            policy
    """

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    inference_id: str
    data: NewInferenceAndMetadataCollection
    data_storage_key: str | None = None
    is_protected: bool = False


class MetadataKeyTypeCounts(BaseModel):
    """Defines an inference store metadata key type count resource.

    Parameters:
        counts: The count of each metadata key, type pair.
    """

    model_config = ConfigDict(protected_namespaces=())

    counts: dict[str, dict[str, int]]


class MetadataStatistics(BaseModel):
    """Defines an inference store metadata statistics resource.

    Parameters:
        count: The number of observations given the request filters.
        distribution: The distribution of values.
        min: The minimum value in the set of metadata values
        max: The maximum value in the set of metadata values
    """

    model_config = ConfigDict(protected_namespaces=())

    count: int | None = None
    distribution: dict[str, int] | None = None
    min: float | None = None
    max: float | None = None


class NewGetMetadataStatisticsRequest(BaseModel):
    """Helper object to get metadata statistics

    Parameters:
        filters: A collection of filters.
        key: Filter by metadata key.
        type: Filter by metadata type.
        distribution_bin_count: Number of bins in the distribution. Defaults to producing 10 bins if not specified.
        distribution_bin_width: Width of a bin within the distribution. Both count and width cannot be specified
            jointly.
        distribution_maximum_value: The maximum value in which binning ends. Defaults to the maximum value within the
            time window specified.
        distribution_minimum_value: The minimum value in which binning begins. Defaults to the minimum value within
            the time window specified.
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    filters: BaseInferenceFilter | None = None
    key: str
    type: MetadataStatisticsType
    distribution_bin_count: int | None = None
    distribution_bin_width: float | None = None
    distribution_maximum_value: float | None = None
    distribution_minimum_value: float | None = None


class DataUpload(BaseModel):
    """Defines an inference store data upload resource.

    Parameters:
        data_presigned_url: A presigned url to upload the inference input data to.
        data_storage_key: The internal storage key to the inference input data.
    """

    model_config = ConfigDict(protected_namespaces=())

    data_presigned_url: str
    data_storage_key: str


class MetadataUpload(BaseModel):
    """Defines an inference store metadata upload resource.

    Parameters:
        metadata_presigned_url: A presigned url to upload the inference and metadata to.
        metadata_storage_key: The internal storage key to the inference and metadata.
    """

    model_config = ConfigDict(protected_namespaces=())

    metadata_presigned_url: str
    metadata_storage_key: str
