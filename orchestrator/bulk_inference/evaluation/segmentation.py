"""Scores image segmentation by comparing the pixels of contours."""

from __future__ import annotations

from collections.abc import Iterable
from tempfile import TemporaryDirectory

from valor_lite.semantic_segmentation import Evaluator, Loader, MetricType, Segmentation

from orchestrator.bulk_inference.evaluation.formats import SEGMENT_PREDICTIONS, annotations_of, predictions_of
from orchestrator.bulk_inference.evaluation.models import Confusion, Evaluation, Metric, Pair, Thresholds
from orchestrator.bulk_inference.evaluation.raster import Region, bands, class_map, extent
from orchestrator.errors import InvalidRequest
from orchestrator.registry.models import TaskType

#: More than any camera takes: a size or contour beyond it is a mistake that would take hours to draw.
MAX_PIXELS = 1_000_000_000


def score_segments(task_type: TaskType, pairs: Iterable[Pair], thresholds: Thresholds) -> Evaluation:
    """IoU, precision, recall and F1 per class over all pixels, and accuracy with the background.

    A later annotation lies over an earlier one, a surer prediction over a less sure one, and predictions below the
    score threshold are left out. A datum annotated for other tasks only is skipped.
    """
    evaluation = Evaluation(task_type=task_type, datums=0)
    with TemporaryDirectory() as folder:
        loader = Loader.persistent(folder)
        for pair in pairs:
            if add(loader, pair, thresholds.score):
                evaluation.datums += 1
            else:
                evaluation.skipped += 1
        if evaluation.datums:
            summarise(evaluation, loader.finalize())
    return evaluation


def add(loader: Loader, pair: Pair, threshold: float) -> bool:
    """Compare one datum band by band; False where it is annotated, but not with contours.

    Sums over pixels do not change when an image is cut, so each band goes in as a datum of its own.
    """
    annotations = annotations_of(pair)
    truths = [(a.contour, a.class_label) for a in annotations if a.contour and a.class_label is not None]
    if annotations and not truths:
        return False
    predictions = [p for p in predictions_of(SEGMENT_PREDICTIONS, pair) if p.score >= threshold]
    predictions.sort(key=lambda p: p.score)
    labels = sorted({label for _, label in truths} | {p.label for p in predictions})
    value = {label: number for number, label in enumerate(labels, start=1)}
    truth_regions = [Region(contour, value[label]) for contour, label in truths]
    predicted_regions = [Region(p.contours, value[p.label]) for p in predictions]
    size = checked_size(pair, pair.size or extent(truth_regions + predicted_regions))
    for top, bottom in bands(size):
        truth_map = class_map(truth_regions, size[0], top, bottom)
        predicted_map = class_map(predicted_regions, size[0], top, bottom)
        loader.add_data([Segmentation(pair.datum_id, truth_map, predicted_map, labels)])
    return True


def checked_size(pair: Pair, size: tuple[int, int]) -> tuple[int, int]:
    """Refuse an image size that is a mistake."""
    width, height = size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise InvalidRequest(
            f"datum {pair.datum_id} cannot be evaluated: an image of {width} x {height} pixels", datum_id=pair.datum_id
        )
    return size


def summarise(evaluation: Evaluation, evaluator: Evaluator) -> None:
    """Fill in the figures, the headline and the matrix of IoUs."""
    found = evaluator.compute_precision_recall_iou()
    table = found.pop(MetricType.ConfusionMatrix)[0].to_dict()["value"]
    labels = sorted(table["confusion_matrix"])
    f1 = [m.value for m in found[MetricType.F1]]
    evaluation.labels = labels
    evaluation.metrics = [Metric(**m.to_dict()) for metrics in found.values() for m in metrics]
    evaluation.summary = {
        "mIOU": found[MetricType.mIOU][0].value,
        "accuracy": found[MetricType.Accuracy][0].value,
        "macro_f1": sum(f1) / len(f1) if f1 else 0.0,
    }
    if labels:
        evaluation.confusion = Confusion(
            unit="iou",
            matrix=[[table["confusion_matrix"][truth][label]["iou"] for label in labels] for truth in labels],
            missed=[table["unmatched_ground_truths"][label]["ratio"] for label in labels],
            spurious=[table["unmatched_predictions"][label]["ratio"] for label in labels],
        )
