"""What a caller asks for: filters, embedding search, sorting and pages."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict


class DeleteAction(str, Enum):  # noqa: UP042  the documented SDK has it so, and `str()` differs
    """The selection of delete actions."""

    HARD = "hard"
    SOFT = "soft"


class EmbeddingDistanceMetric(str, Enum):  # noqa: UP042  as above
    """The selection of distance metrics supported by the inference store."""

    COSINE = "cosine"  #: 1 − cos of the angle
    L2 = "l2"  #: Euclidean
    NEGATIVE_DOT_PRODUCT = "negative_dot_product"


class MetadataFilterOperator(str, Enum):  # noqa: UP042  as above
    """The selection of metadata filter operators supported by the inference store."""

    EQUAL = "="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    IN = "in"
    LESS = "<"
    LESS_OR_EQUAL = "<="
    NOT_EQUAL = "!="  #: the key must be there


class MetadataFilterType(str, Enum):  # noqa: UP042  as above
    """The selection of metadata filter types supported by the inference store."""

    FLOAT = "float"
    INT = "int"
    JSON_FLOAT = "json.float"
    JSON_INT = "json.int"
    JSON_STRING = "json.string"
    STRING = "string"


class PaginationEmbeddingSortField(str, Enum):  # noqa: UP042  as above
    """Defines the sort field options for embedding models."""

    CREATED_AT = "created_at"
    EMBEDDING_DISTANCE = "embedding_distance"


class PaginationGranularInferenceSortField(str, Enum):  # noqa: UP042  as above
    """Defines the sort field options for granular inferences."""

    CREATED_AT = "created_at"
    LABEL = "label"
    SCORE = "score"


class PaginationSortDirection(str, Enum):  # noqa: UP042  as above
    """Defines the sort direction options."""

    ASCENDING = "asc"
    DESCENDING = "desc"


class PaginationSortField(str, Enum):  # noqa: UP042  as above
    """Defines the sort field options."""

    CREATED_AT = "created_at"


class GeoPoint(BaseModel):
    """Defines a point on the globe.

    Parameters:
        latitude: A latitude value in decimal format between -90 and 90.
        longitude: A longitude value in decimal format between -180 and 180.
    """

    model_config = ConfigDict(protected_namespaces=())

    latitude: float
    longitude: float


class GeoCircle(BaseModel):
    """Defines a circular search area using a centerpoint and radius.

    Parameters:
        center: The centre of the circle.
        radius: The radius in meters to expand from the center.
    """

    model_config = ConfigDict(protected_namespaces=())

    center: GeoPoint
    radius: float


class GeoRectangle(BaseModel):
    """Defines a rectangular search area using two points on the globe.

    Parameters:
        p1: One corner.
        p2: The corner across from it. No rectangle reaches over the antimeridian.
    """

    model_config = ConfigDict(protected_namespaces=())

    p1: GeoPoint
    p2: GeoPoint


class GeolocationFilter(BaseModel):
    """Defines a circular or a rectangular search area on the globe.

    Parameters:
        gps_coordinates_circle: The circular area on the globe to search for inferences.
        gps_coordinates_rectangle: The rectangular area on the globe to search for inferences.
    """

    model_config = ConfigDict(protected_namespaces=())

    gps_coordinates_circle: GeoCircle | None = None
    gps_coordinates_rectangle: GeoRectangle | None = None


class TimeWindowFilter(BaseModel):
    """Get inferences within a time window expressed in the following datetime format: YYYY-MM-DDTHH:MM:SSZ.

    To format an existing datetime object: `dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")`. Both bounds belong to the window.

    Parameters:
        start: The left time bound. Defaults to 1970-01-01T00:00:00Z if not supplied.
        end: The right time bound: Defaults to now if not supplied.
    """

    model_config = ConfigDict(protected_namespaces=())

    start: str | None = None
    end: str | None = None


class MetadataFilter(BaseModel):
    """Get inferences matching a given metadata inequality/constraint.

    Parameters:
        key: The name of the metadata key. Specify json keys using dot notation. For example, in order to filter
            against the nested key "y" in {"x": {"y": 10, "z": 5}} -> x.y
        operator: The equality/inequality operator in which to compare a value against (=, !=, >, <, >=, <=, in).
        type: The metadata value type (string, int, float, json.string, json.int, json.float).
        value: The value the operator compares against. If using the 'in' operator, pass a list of unquoted values
            using brackets and comma separation, [v1, v2, …, vn]
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    key: str
    operator: MetadataFilterOperator
    type: MetadataFilterType
    value: str

    @staticmethod
    def form_values_for_in_operator(
        values_type: MetadataFilterType, values: list[str] | list[int] | list[float]
    ) -> str | None:
        """The `value` of a filter with the operator `in`: `[v1, v2]`.

        None where it cannot be said: a value is not of the type, or a text that holds a comma or has white space
        around it.
        """
        kind = MetadataFilterType(values_type).value.removeprefix("json.")
        texts = [_form_value(kind, value) for value in values]
        formed = f"[{', '.join(text for text in texts if text is not None)}]"
        is_lost = None in texts or (len(texts) == 1 and not texts[0])
        return None if is_lost else formed


def _form_value(kind: str, value: str | float) -> str | None:
    match value:
        case str() if kind == "string":
            return None if "," in value or value != value.strip() else value
        case bool():
            return None
        case int() if kind in ("int", "float"):
            return str(value)
        case float() if kind == "float":
            return repr(value)
        case _:
            return None


class DeconstructedInferenceFilter(BaseModel):
    """Helper object for filtering inferences by labels and scores; both must hold on one element.

    Parameters:
        labels: The list of labels to filter on; any of them will do.
        minimum_score: The minimum confidence score, itself included.
        maximum_score: The maximum confidence score, itself included.
    """

    model_config = ConfigDict(protected_namespaces=())

    labels: list[str] | None = None
    minimum_score: float | None = None
    maximum_score: float | None = None


class BaseInferenceFilter(BaseModel):
    """Helper object for filtering inferences; what is given must all be true.

    Parameters:
        inference_action_filter: Get inferences with a given inference action.
        data_hash_filter: Get inferences with a given data hash.
        data_source_filter: Get inferences with a given data source.
        time_window_filter: Get inferences within a time window.
        metadata_filter: Get inferences matching the intersection of one or more metadata filters.
        location_filter: Get inferences in a circular or rectangular area on the globe.
        deconstructed_inference_filter: Get inferences with certain labels or confidence scores.
    """

    model_config = ConfigDict(protected_namespaces=())

    inference_action_filter: str | None = None
    data_hash_filter: str | None = None
    data_source_filter: str | None = None
    time_window_filter: TimeWindowFilter | None = None
    metadata_filter: list[MetadataFilter] | None = None
    location_filter: GeolocationFilter | None = None
    deconstructed_inference_filter: DeconstructedInferenceFilter | None = None


class EmbeddingFilter(BaseModel):
    """Get embeddings using a query embedding and distance metric.

    Parameters:
        query_embedding: The query embedding to search against.
        distance_metric: The distance metric operator (defaults to cosine)
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    query_embedding: list[float]
    distance_metric: str | None = EmbeddingDistanceMetric.COSINE


class Pagination(BaseModel):
    """Get inferences matching pagination constraints.

    Parameters:
        direction: Direction in which to sort the 'sort' field (defaults to asc).
        limit: Limit the number of inferences returned (defaults to 50).
        offset: Offset the starting position of inferences to be returned (defaults to 0).
        sort: The column to sort by (defaults to created_at).
    """

    model_config = ConfigDict(protected_namespaces=(), use_enum_values=True)

    direction: PaginationSortDirection | None = None
    limit: int | None = None
    offset: int | None = None
    sort: PaginationSortField | PaginationEmbeddingSortField | PaginationGranularInferenceSortField | None = None


class NewGetInferencesRequest(BaseModel):
    """Get inferences matching a series of filters.

    Parameters:
        filters: A collection of filters.
        embedding_filters: An extended set of filters for embedding models.
        pagination: Get inferences matching pagination constraints.
        presign: Whether to presign data_storage_key(s).
    """

    model_config = ConfigDict(protected_namespaces=())

    filters: BaseInferenceFilter = BaseInferenceFilter()
    embedding_filters: EmbeddingFilter | None = None
    pagination: Pagination | None = None
    presign: bool = False
