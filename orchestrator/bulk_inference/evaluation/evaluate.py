"""The door to evaluation: picks the scorer of a task and imports valor-lite only then."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import cast

from orchestrator.bulk_inference.evaluation.models import Evaluation, Pair, Scorer, Thresholds
from orchestrator.errors import InvalidRequest, Unavailable
from orchestrator.registry.models import TaskType

#: The module and function that score a task; absent means that the task has no ground truth to meet.
SCORERS = {
    TaskType.IMAGE_CLASSIFICATION: ("classification", "score_classes"),
    TaskType.OBJECT_DETECTION: ("detection", "score_boxes"),
    TaskType.ORIENTED_OBJECT_DETECTION: ("detection", "score_oriented_boxes"),
    TaskType.IMAGE_SEGMENTATION: ("segmentation", "score_segments"),
}


def evaluate(task_type: TaskType, pairs: Iterable[Pair], *, thresholds: Thresholds | None = None) -> Evaluation:
    """Compare inferences with annotations, reading `pairs` once and in bounded memory.

    Raises:
        InvalidRequest: the task has no metrics, or an annotation or inference is malformed.
        Unavailable: the `evaluation` extra is not installed.
    """
    return load_scorer(task_type)(task_type, pairs, thresholds or Thresholds())


def load_scorer(task_type: TaskType) -> Scorer:
    """The function that scores `task_type`; raises as `evaluate` does."""
    if task_type not in SCORERS:
        raise InvalidRequest(f"{task_type.value} has no metrics: evaluate_metrics must be false")
    module, function = SCORERS[task_type]
    try:
        return cast(Scorer, getattr(import_module(f"{__package__}.{module}"), function))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise Unavailable(f"evaluation needs {package}: pip install 'orchestrator[evaluation]'") from error
