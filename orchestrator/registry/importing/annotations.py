"""What a line of an annotations file may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, FiniteFloat, Tag, model_validator

Extent = Annotated[FiniteFloat, Field(ge=0)]


class Strict(BaseModel):
    """No misspelt key is passed over, and no text is taken for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class BoundingBox(Strict):
    """A box along the axes, in pixels."""

    xmin: FiniteFloat
    xmax: FiniteFloat
    ymin: FiniteFloat
    ymax: FiniteFloat

    @model_validator(mode="after")
    def check_order(self) -> BoundingBox:
        """A box has its smaller edges first."""
        if self.xmin > self.xmax or self.ymin > self.ymax:
            raise ValueError("xmin must not exceed xmax, nor ymin ymax")
        return self


class OrientedBox(Strict):
    """A turned box: centre and size as shares of the image, angle in radians."""

    cx: FiniteFloat
    cy: FiniteFloat
    w: Extent
    h: Extent
    r: FiniteFloat


class Point(Strict):
    """A corner of a contour, in pixels."""

    x: FiniteFloat
    y: FiniteFloat


Ring = Annotated[list[Point], Field(min_length=3)]


class ImageAnnotation(Strict):
    """The class of an image or, with one of the shapes, of an object in it."""

    class_label: str
    bbox: BoundingBox | None = None
    contour: Annotated[list[Ring], Field(min_length=1)] | None = None
    oriented_bbox: OrientedBox | None = None

    @model_validator(mode="after")
    def check_shapes(self) -> ImageAnnotation:
        """An object has one shape."""
        if sum(shape is not None for shape in (self.bbox, self.contour, self.oriented_bbox)) > 1:
            raise ValueError("give one of bbox, contour and oriented_bbox, not several")
        return self


class TextAnnotation(Strict):
    """The class of a text in a context."""

    context: str
    label: str


class TokenAnnotation(Strict):
    """The class of the characters from `start` up to, not including, `end`."""

    start: Annotated[int, Field(ge=0)]
    end: int
    label: str

    @model_validator(mode="after")
    def check_order(self) -> TokenAnnotation:
        """A span does not run backwards."""
        if self.end < self.start:
            raise ValueError("end must not be less than start")
        return self


class GeneratedText(Strict):
    """The text that is to follow a context."""

    context: str
    generated_text: str


def kind_of(annotation: Any) -> Literal["image", "text", "token", "generated"]:
    """Which annotation is meant, by the key that only that kind has; so errors speak of one kind."""
    if isinstance(annotation, dict):
        if "generated_text" in annotation:
            return "generated"
        if "start" in annotation or "end" in annotation:
            return "token"
        if "context" in annotation or "label" in annotation:
            return "text"
    return "image"


Annotation = Annotated[
    Annotated[ImageAnnotation, Tag("image")]
    | Annotated[TextAnnotation, Tag("text")]
    | Annotated[TokenAnnotation, Tag("token")]
    | Annotated[GeneratedText, Tag("generated")],
    Discriminator(kind_of),
]


class AnnotationLine(Strict):
    """A line of `annotations.jsonl`; without `annotations` the datum counts as not annotated."""

    path: str
    annotations: list[Annotation] | None = None
    metadata: dict[str, Any] | None = None
    split: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None


class MetadataLine(Strict):
    """A line of `metadata.jsonl`."""

    path: str
    metadata: dict[str, Any]
