"""Evaluations of what has a place in the image, each against figures worked out by hand or by Shapely."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from shapely import affinity
from shapely.geometry import box as upright

from orchestrator.bulk_inference.evaluation import Confusion, Evaluation, Pair, Thresholds, detection, evaluate, raster
from orchestrator.errors import InvalidRequest
from orchestrator.registry.models import TaskType

BOXES = TaskType.OBJECT_DETECTION
ORIENTED = TaskType.ORIENTED_OBJECT_DETECTION
SEGMENTS = TaskType.IMAGE_SEGMENTATION


def truth_box(label: str, xmin: float, ymin: float, xmax: float, ymax: float) -> dict[str, Any]:
    return {"class_label": label, "bbox": {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}}


def found_box(label: str, score: float | None, *corners: float) -> dict[str, Any]:
    return {"label": label, "score": score, **dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))}


def oriented(cx: float, cy: float, w: float, h: float, r: float) -> dict[str, float]:
    return {"cx": cx, "cy": cy, "w": w, "h": h, "r": r}


def square(xmin: float, ymin: float, xmax: float, ymax: float) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in ((xmin, ymin), (xmax, ymin), (xmax, ymax), (xmin, ymax))]


def metric(evaluation: Evaluation, kind: str, **parameters: Any) -> Any:
    """The value of the one metric of this kind that has these parameters."""
    values = [m.value for m in evaluation.metrics if m.type == kind and parameters.items() <= m.parameters.items()]
    assert len(values) == 1, f"{len(values)} metrics {kind} with {parameters}"
    return values[0]


class TestDetection:
    def test_an_exact_box_is_worth_everything(self) -> None:
        pair = Pair("a", [truth_box("cat", 0, 0, 10, 10)], [found_box("cat", 0.9, 0, 0, 10, 10)])
        evaluation = evaluate(BOXES, [pair])
        assert evaluation.summary == pytest.approx({"mAP": 1.0, "mAP@0.5": 1.0, "mAR": 1.0})
        assert evaluation.confusion == Confusion(unit="objects", matrix=[[1]], missed=[0], spurious=[0])

    def test_a_shifted_box_counts_up_to_its_overlap(self) -> None:
        # 8 of 12 units overlap: IoU 2/3, so the thresholds 0.50, 0.55, 0.60 and 0.65 of ten are met.
        pair = Pair("a", [truth_box("cat", 0, 0, 10, 10)], [found_box("cat", 0.9, 2, 0, 12, 10)])
        evaluation = evaluate(BOXES, [pair])
        assert evaluation.summary["mAP@0.5"] == pytest.approx(1.0)
        assert evaluation.summary["mAP"] == pytest.approx(0.4)

    def test_corners_in_the_wrong_order_are_the_same_box(self) -> None:
        pair = Pair("a", [truth_box("cat", 0, 0, 10, 10)], [found_box("cat", 0.9, 10, 10, 0, 0)])
        assert evaluate(BOXES, [pair]).summary["mAP"] == pytest.approx(1.0)

    def test_a_surer_false_alarm_halves_the_precision(self) -> None:
        pair = Pair(
            "a",
            [truth_box("cat", 0, 0, 10, 10)],
            [found_box("cat", None, 50, 50, 60, 60), found_box("cat", 0.9, 0, 0, 10, 10)],
        )
        assert evaluate(BOXES, [pair]).summary["mAP@0.5"] == pytest.approx(0.5)

    def test_what_was_missed_invented_and_mistaken_shows_in_the_confusion(self) -> None:
        pairs = [
            Pair(
                "a",
                [truth_box("cat", 0, 0, 10, 10), truth_box("dog", 20, 0, 30, 10), truth_box("dog", 40, 0, 50, 10)],
                [found_box("cat", 0.9, 0, 0, 10, 10), found_box("cat", 0.8, 20, 0, 30, 10)],
            ),
            Pair("background", [], [found_box("fox", 0.7, 0, 0, 5, 5), found_box("fox", 0.2, 9, 9, 15, 15)]),
        ]
        evaluation = evaluate(BOXES, pairs)
        assert evaluation.labels == ["cat", "dog", "fox"]
        assert evaluation.confusion == Confusion(
            unit="objects", matrix=[[1, 0, 0], [1, 0, 0], [0, 0, 0]], missed=[0, 1, 0], spurious=[0, 0, 1]
        )

    @pytest.mark.parametrize(
        "pair",
        [
            Pair("only truth", [truth_box("cat", 0, 0, 10, 10)], []),
            Pair("only found", [], [found_box("cat", 0.9, 0, 0, 10, 10)]),
        ],
        ids=lambda pair: pair.datum_id,
    )
    def test_one_side_alone_scores_nothing(self, pair: Pair) -> None:
        evaluation = evaluate(BOXES, [pair])
        assert evaluation.summary == {"mAP": 0.0, "mAP@0.5": 0.0, "mAR": 0.0}
        assert evaluation.labels == ["cat"]

    def test_large_data_in_many_files_gives_the_same_figures(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def pairs() -> Iterator[Pair]:
            random = np.random.default_rng(5)
            for n in range(60):
                corners = random.uniform(0, 300, (6, 2))
                shifts = random.normal(0, 4, (6, 2))
                yield Pair(
                    str(n),
                    [truth_box(str(i % 3), x, y, x + 30, y + 30) for i, (x, y) in enumerate(corners)],
                    [
                        found_box(str(i % 3), float(random.uniform()), x, y, x + 30, y + 30)
                        for i, (x, y) in enumerate(corners + shifts)
                    ],
                )

        whole = evaluate(BOXES, pairs())
        monkeypatch.setattr(detection, "ROWS_PER_FILE", 50)
        cut = evaluate(BOXES, pairs())
        assert 0.1 < whole.summary["mAP"] < 0.9
        assert cut.summary == pytest.approx(whole.summary)
        assert cut.confusion == whole.confusion


class TestOrientedDetection:
    def test_a_quarter_turn_swaps_width_and_height(self) -> None:
        pair = Pair(
            "a",
            [{"class_label": "ship", "oriented_bbox": oriented(0.5, 0.5, 0.4, 0.2, 0)}],
            [{"label": "ship", "score": 0.9, **oriented(0.5, 0.5, 0.2, 0.4, math.pi / 2)}],
        )
        assert evaluate(ORIENTED, [pair]).summary["mAP"] == pytest.approx(1.0)

    def test_on_a_wide_image_a_box_is_turned_in_pixels(self) -> None:
        # 200 x 100 pixels: 0.2 of the width and 0.4 of the height are 40 pixels both, and a turned square is a square.
        pair = Pair(
            "a",
            [{"class_label": "ship", "oriented_bbox": oriented(0.5, 0.5, 0.2, 0.4, 0)}],
            [{"label": "ship", "score": 0.9, **oriented(0.5, 0.5, 0.2, 0.4, math.pi / 2)}],
        )
        assert evaluate(ORIENTED, [pair._replace(size=(200, 100))]).summary["mAP"] == pytest.approx(1.0)
        # As a unit square it is a bar across a bar: IoU 1/3.
        assert evaluate(ORIENTED, [pair]).summary["mAP"] == 0.0

    @pytest.mark.parametrize("angle", [-1.2, 0.1, 0.3, 0.7, 2.5])
    def test_the_overlap_equals_that_of_shapely(self, angle: float) -> None:
        size = (640, 480)
        truth = upright(160, 180, 480, 300)
        turned = affinity.rotate(affinity.translate(truth, 10, -5), angle, use_radians=True)
        overlap = truth.intersection(turned).area / truth.union(turned).area
        pair = Pair(
            "a",
            [{"class_label": "ship", "oriented_bbox": oriented(0.5, 0.5, 0.5, 0.25, 0)}],
            [{"label": "ship", "score": 0.9, **oriented(330 / 640, 235 / 480, 0.5, 0.25, angle)}],
            size,
        )
        below, above = overlap - 1e-6, overlap + 1e-6
        evaluation = evaluate(ORIENTED, [pair], thresholds=Thresholds(iou=(below, above)))
        assert metric(evaluation, "mAP", iou_threshold=below) == pytest.approx(1.0)
        assert metric(evaluation, "mAP", iou_threshold=above) == 0.0

    def test_a_tiny_box_counts_though_the_image_size_is_unknown(self) -> None:
        tiny = oriented(0.5, 0.5, 1e-5, 1e-5, 0.3)
        pair = Pair("a", [{"class_label": "ship", "oriented_bbox": tiny}], [{"label": "ship", "score": 1.0, **tiny}])
        assert evaluate(ORIENTED, [pair]).summary["mAP"] == pytest.approx(1.0)

    def test_a_box_without_area_meets_nothing(self) -> None:
        flat = oriented(0.5, 0.5, 0.2, 0, 0.3)
        pair = Pair("a", [{"class_label": "ship", "oriented_bbox": flat}], [{"label": "ship", "score": 1.0, **flat}])
        assert evaluate(ORIENTED, [pair]).summary["mAP"] == 0.0


class TestSegmentation:
    def test_the_overlap_of_two_squares(self) -> None:
        pair = Pair(
            "a",
            [{"class_label": "road", "contour": [square(0, 0, 10, 10)]}],
            [{"label": "road", "contours": [square(5, 0, 15, 10)]}],
            (20, 20),
        )
        evaluation = evaluate(SEGMENTS, [pair])
        # 50 of 150 pixels are common, 100 of 400 are wrong.
        assert evaluation.summary == pytest.approx({"mIOU": 50 / 150, "accuracy": 300 / 400, "macro_f1": 0.5})
        assert metric(evaluation, "Precision", label="road") == 0.5
        assert evaluation.confusion is not None
        assert evaluation.confusion.unit == "iou"
        assert evaluation.confusion.matrix[0] == pytest.approx([1 / 3])

    def test_a_ring_in_a_ring_is_a_hole(self) -> None:
        pair = Pair(
            "a",
            [{"class_label": "lake", "contour": [square(0, 0, 10, 10), square(3, 3, 6, 6)]}],
            [{"label": "lake", "contours": [square(0, 0, 10, 10)]}],
            (10, 10),
        )
        assert evaluate(SEGMENTS, [pair]).summary["mIOU"] == pytest.approx((100 - 9) / 100)

    def test_an_unknown_size_reaches_as_far_as_the_contours(self) -> None:
        pair = Pair(
            "a",
            [{"class_label": "road", "contour": [square(0, 0, 4, 5)]}],
            [{"label": "road", "contours": [square(0, 0, 8, 5)]}],
        )
        assert evaluate(SEGMENTS, [pair]).summary["accuracy"] == pytest.approx(20 / 40)

    def test_a_contour_beyond_the_image_is_cut(self) -> None:
        pair = Pair(
            "a",
            [{"class_label": "road", "contour": [square(-5, -5, 5, 5)]}],
            [
                {"label": "road", "contours": [square(0, 0, 5, 5)]},
                {"label": "road", "contours": [square(50, 50, 60, 60)]},
            ],
            (10, 10),
        )
        assert evaluate(SEGMENTS, [pair]).summary["mIOU"] == pytest.approx(1.0)

    def test_the_surest_prediction_lies_on_top_and_a_weak_one_is_left_out(self) -> None:
        pair = Pair(
            "a",
            [{"class_label": "road", "contour": [square(0, 0, 10, 10)]}],
            [
                {"label": "road", "contours": [square(0, 0, 10, 10)], "score": 0.9},
                {"label": "grass", "contours": [square(0, 0, 10, 10)], "score": 0.8},
                {"label": "sky", "contours": [square(0, 0, 10, 10)], "score": 0.4},
            ],
            (10, 10),
        )
        evaluation = evaluate(SEGMENTS, [pair])
        assert evaluation.summary["accuracy"] == 1.0
        assert evaluation.labels == ["grass", "road"]

    def test_two_classes_side_by_side_share_no_pixel(self) -> None:
        contours = {"left": square(0, 0, 5, 10), "right": square(5, 0, 10, 10)}
        pair = Pair(
            "a",
            [{"class_label": label, "contour": [ring]} for label, ring in contours.items()],
            [{"label": label, "contours": [ring]} for label, ring in reversed(contours.items())],
            (10, 10),
        )
        assert evaluate(SEGMENTS, [pair]).summary["mIOU"] == 1.0

    def test_figures_do_not_depend_on_how_an_image_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pair = Pair(
            "a",
            [{"class_label": "lake", "contour": [square(3, 2, 61, 40), square(10, 8, 30, 33)]}],
            [{"label": "lake", "contours": [[{"x": 2, "y": 2}, {"x": 60, "y": 10}, {"x": 20, "y": 45}]]}],
            (64, 48),
        )
        whole = evaluate(SEGMENTS, [pair])
        monkeypatch.setattr(raster, "BAND_PIXELS", 64 * 5)
        assert 0.1 < whole.summary["mIOU"] < 0.9
        assert evaluate(SEGMENTS, [pair]) == whole

    def test_a_slanted_contour_covers_its_area(self) -> None:
        triangle = [{"x": 0, "y": 0}, {"x": 200, "y": 0}, {"x": 0, "y": 100}]
        pair = Pair("a", [{"class_label": "hill", "contour": [triangle]}], [], (200, 100))
        accuracy = evaluate(SEGMENTS, [pair]).summary["accuracy"]
        assert accuracy == pytest.approx(0.5, abs=0.01)

    def test_an_absurd_size_is_refused(self) -> None:
        far = square(0, 0, 1e9, 1e9)
        with pytest.raises(InvalidRequest, match="datum a cannot be evaluated: an image of"):
            evaluate(SEGMENTS, [Pair("a", [{"class_label": "road", "contour": [far]}], [])])
