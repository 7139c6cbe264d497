"""Scores object detection, with upright boxes and with turned ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from tempfile import TemporaryDirectory
from typing import Any

from shapely.geometry import Polygon as Shape
from valor_lite.object_detection import BoundingBox, Detection, Evaluator, Loader, MetricType, Polygon

from orchestrator.bulk_inference.evaluation.formats import (
    BOX_PREDICTIONS,
    ORIENTED_PREDICTIONS,
    Box,
    OrientedBox,
    annotations_of,
    predictions_of,
)
from orchestrator.bulk_inference.evaluation.models import Confusion, Evaluation, Metric, Pair, Thresholds
from orchestrator.registry.models import TaskType

#: valor-lite's time grows by the square of the rows in one file, its merging by their number.
ROWS_PER_FILE = 10_000
#: Stands in for an unknown image size: a square, and not of side 1, since valor-lite takes areas under 1e-9 for none.
UNKNOWN_SIZE = (1000, 1000)
#: Too large to store with a job, and of use only for drawing.
LEFT_OUT = {MetricType.PrecisionRecallCurve}


def score_boxes(task_type: TaskType, pairs: Iterable[Pair], thresholds: Thresholds) -> Evaluation:
    """Average precision and recall over upright boxes in pixels."""
    return score_detections(task_type, pairs, thresholds, boxes_of, Loader.add_bounding_boxes)


def score_oriented_boxes(task_type: TaskType, pairs: Iterable[Pair], thresholds: Thresholds) -> Evaluation:
    """The same over turned boxes, as polygons in pixels.

    Width and centre are shares of the image's width, height of its height, and the box is turned in pixels: turning
    before scaling would shear it. Where the image size is unknown, the image is taken for a square.
    """
    return score_detections(task_type, pairs, thresholds, oriented_boxes_of, Loader.add_polygons)


def score_detections(
    task_type: TaskType,
    pairs: Iterable[Pair],
    thresholds: Thresholds,
    detection_of: Callable[[Pair], Detection[Any] | None],
    add: Callable[[Loader, list[Detection[Any]]], None],
) -> Evaluation:
    """Stream detections into valor-lite; a datum annotated for other tasks only is skipped."""
    evaluation = Evaluation(task_type=task_type, datums=0)
    rows = 0
    with TemporaryDirectory() as folder:
        loader = Loader.persistent(folder, rows_per_file=ROWS_PER_FILE)
        for pair in pairs:
            detection = detection_of(pair)
            if detection is None:
                evaluation.skipped += 1
                continue
            evaluation.datums += 1
            rows += len(detection.groundtruths) + len(detection.predictions)
            add(loader, [detection])
        if rows:
            summarise(evaluation, loader.finalize(), thresholds)
    return evaluation


def boxes_of(pair: Pair) -> Detection[BoundingBox] | None:
    """One datum's upright boxes; None where it is annotated, but not with boxes."""
    annotations = annotations_of(pair)
    truths = [(a.bbox, a.class_label) for a in annotations if a.bbox and a.class_label is not None]
    if annotations and not truths:
        return None
    return Detection(
        uid=pair.datum_id,
        groundtruths=[bounding_box(box, label) for box, label in truths],
        predictions=[bounding_box(p, p.label, p.score) for p in predictions_of(BOX_PREDICTIONS, pair)],
    )


def oriented_boxes_of(pair: Pair) -> Detection[Polygon] | None:
    """One datum's turned boxes; None where it is annotated, but not with those."""
    annotations = annotations_of(pair)
    truths = [(a.oriented_bbox, a.class_label) for a in annotations if a.oriented_bbox and a.class_label is not None]
    if annotations and not truths:
        return None
    size = pair.size or UNKNOWN_SIZE
    return Detection(
        uid=pair.datum_id,
        groundtruths=[polygon(box, size, label) for box, label in truths],
        predictions=[polygon(p, size, p.label, p.score) for p in predictions_of(ORIENTED_PREDICTIONS, pair)],
    )


def bounding_box(box: Box, label: str, *scores: float) -> BoundingBox:
    """A box as valor-lite wants it, its corners in order."""
    xmin, xmax = sorted((box.xmin, box.xmax))
    ymin, ymax = sorted((box.ymin, box.ymax))
    return BoundingBox(uid="", xmin=xmin, xmax=xmax, ymin=ymin, ymax=ymax, labels=[label], scores=list(scores))


def polygon(box: OrientedBox, size: tuple[int, int], label: str, *scores: float) -> Polygon:
    """A turned box as valor-lite wants it, in pixels of an image of this size."""
    return Polygon(uid="", shape=corners(box, size), labels=[label], scores=list(scores))


def corners(box: OrientedBox, size: tuple[int, int]) -> Shape:
    """The box in pixels: scaled by the image's width and height first, then turned by `r` radians."""
    width, height = size
    cosine, sine = math.cos(box.r), math.sin(box.r)
    half_w, half_h = box.w * width / 2, box.h * height / 2
    return Shape(
        (box.cx * width + x * cosine - y * sine, box.cy * height + x * sine + y * cosine)
        for x, y in ((-half_w, -half_h), (half_w, -half_h), (half_w, half_h), (-half_w, half_h))
    )


def summarise(evaluation: Evaluation, evaluator: Evaluator, thresholds: Thresholds) -> None:
    """Fill in the figures, the headline and the confusion matrix at the first IoU threshold."""
    found = evaluator.compute_precision_recall(list(thresholds.iou), [thresholds.score])
    first_iou = thresholds.iou[0]
    means = {m.parameters["iou_threshold"]: m.value for m in found[MetricType.mAP]}
    (confusion,) = evaluator.compute_confusion_matrix([first_iou], [thresholds.score])
    table = confusion.to_dict()["value"]
    labels = sorted(table["confusion_matrix"])
    evaluation.labels = labels
    evaluation.metrics = [Metric(**m.to_dict()) for kind, ms in found.items() if kind not in LEFT_OUT for m in ms]
    evaluation.summary = {
        "mAP": found[MetricType.mAPAveragedOverIOUs][0].value,
        f"mAP@{first_iou:g}": means[first_iou],
        "mAR": found[MetricType.mAR][0].value,
    }
    evaluation.confusion = Confusion(
        unit="objects",
        matrix=[[table["confusion_matrix"][truth][label] for label in labels] for truth in labels],
        missed=[table["unmatched_ground_truths"][label] for label in labels],
        spurious=[table["unmatched_predictions"][label] for label in labels],
    )
