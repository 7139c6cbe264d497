"""The shapes of annotations and stored standard lists, checked as they are read."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from orchestrator.bulk_inference.evaluation.models import Pair
from orchestrator.errors import InvalidRequest

Finite = Annotated[float, Field(allow_inf_nan=False)]
#: A prediction without a score is certain.
Score = Annotated[Finite, BeforeValidator(lambda score: 1.0 if score is None else score)]
T = TypeVar("T")


class Point(BaseModel):
    """A corner of a contour, in pixels."""

    x: Finite
    y: Finite


Contour = list[list[Point]]


class Box(BaseModel):
    """An upright box, in pixels."""

    xmin: Finite
    ymin: Finite
    xmax: Finite
    ymax: Finite


class OrientedBox(BaseModel):
    """A box turned about its centre by `r` radians; centre and size are shares of the image's size."""

    cx: Finite
    cy: Finite
    w: Finite
    h: Finite
    r: Finite


class Annotation(BaseModel):
    """One annotation of a datum; the geometry says which task it speaks to."""

    class_label: str | None = None
    bbox: Box | None = None
    oriented_bbox: OrientedBox | None = None
    contour: Contour | None = None


class Prediction(BaseModel):
    """One element of a classification."""

    label: str
    score: Score = 1.0


class BoxPrediction(Prediction, Box):
    """One element of a detection."""


class OrientedPrediction(Prediction, OrientedBox):
    """One element of an oriented detection."""


class SegmentPrediction(Prediction):
    """One element of a segmentation."""

    contours: Contour


ANNOTATIONS = TypeAdapter(list[Annotation])
PREDICTIONS = TypeAdapter(list[Prediction])
BOX_PREDICTIONS = TypeAdapter(list[BoxPrediction])
ORIENTED_PREDICTIONS = TypeAdapter(list[OrientedPrediction])
SEGMENT_PREDICTIONS = TypeAdapter(list[SegmentPrediction])


def annotations_of(pair: Pair) -> list[Annotation]:
    """The annotations of a datum; raises `InvalidRequest` naming the datum and the field."""
    return checked(ANNOTATIONS, pair.annotations, pair, "annotation")


def predictions_of(adapter: TypeAdapter[list[T]], pair: Pair) -> list[T]:
    """The inference of a datum as `adapter` reads it; raises `InvalidRequest` as above."""
    return checked(adapter, pair.inference, pair, "inference")


def checked(adapter: TypeAdapter[list[T]], value: Any, pair: Pair, what: str) -> list[T]:
    """Validate, and name the datum and the field when it is wrong."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(
            f"datum {pair.datum_id} cannot be evaluated: {what} {place}: {first['msg']}", datum_id=pair.datum_id
        ) from error
