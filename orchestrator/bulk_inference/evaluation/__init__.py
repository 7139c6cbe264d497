"""How good the stored inferences are, compared with the annotations of their datums."""

from orchestrator.bulk_inference.evaluation.evaluate import evaluate
from orchestrator.bulk_inference.evaluation.models import Confusion, Evaluation, Metric, Pair, Thresholds
from orchestrator.bulk_inference.evaluation.picture import confusion_picture

__all__ = ["Confusion", "Evaluation", "Metric", "Pair", "Thresholds", "confusion_picture", "evaluate"]
