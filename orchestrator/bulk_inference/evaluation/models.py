"""What goes into an evaluation and what comes out; importable without the `evaluation` extra."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, Field

from orchestrator.registry.models import TaskType


class Pair(NamedTuple):
    """One datum: what people say it shows, and what the model inferred."""

    datum_id: str
    #: In the dataset's import format; an empty list says that there is nothing to see.
    annotations: list[dict[str, Any]]
    #: The stored standard list, as parsed from JSON.
    inference: list[Any]
    #: Width and height of the image in pixels, where known.
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a prediction counts."""

    #: Overlaps from which a detection is a hit, ascending; the first also rules the confusion matrix.
    iou: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    #: A prediction below this score counts as not made, except for average precision.
    score: float = 0.5


class Metric(BaseModel):
    """One figure as valor-lite gives it, with the label and thresholds that it holds for."""

    type: str
    value: int | float | dict[str, Any]
    parameters: dict[str, Any]


class Confusion(BaseModel):
    """Truth against prediction, row and column in the order of `Evaluation.labels`."""

    #: What a cell holds: a count of datums or objects, or the IoU of two classes' pixels.
    unit: Literal["datums", "objects", "iou"]
    matrix: list[list[float]]
    #: Per label, ground truths that no prediction met; for segmentation the share of their pixels.
    missed: list[float]
    #: Per label, predictions that met no ground truth; for segmentation the share of their pixels.
    spurious: list[float]


class Evaluation(BaseModel):
    """How a model did on a split. Plain JSON: `model_dump(mode="json")` is stored with the job."""

    task_type: TaskType
    #: Datums that were compared.
    datums: int
    #: Datums left out, since their annotations say nothing about this task.
    skipped: int = 0
    metrics: list[Metric] = Field(default_factory=list)
    #: The headline figures; empty when there was nothing to compare.
    summary: dict[str, float] = Field(default_factory=dict)
    labels: list[str] = Field(default_factory=list)
    confusion: Confusion | None = None


class Scorer(Protocol):
    """How one kind of task is scored; each needs valor-lite to be imported."""

    def __call__(self, task_type: TaskType, pairs: Iterable[Pair], thresholds: Thresholds) -> Evaluation: ...
