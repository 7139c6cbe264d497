"""Evaluations, each against figures worked out by hand or by another library."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score

from orchestrator.bulk_inference.evaluation import (
    Confusion,
    Evaluation,
    Pair,
    Thresholds,
    confusion_picture,
    evaluate,
)
from orchestrator.errors import InvalidRequest, Unavailable
from orchestrator.registry.models import TaskType

CLASSES = TaskType.IMAGE_CLASSIFICATION
BOXES = TaskType.OBJECT_DETECTION
ORIENTED = TaskType.ORIENTED_OBJECT_DETECTION
SEGMENTS = TaskType.IMAGE_SEGMENTATION
SCORED = [CLASSES, BOXES, ORIENTED, SEGMENTS]


def classified(truth: str | None, *predicted: tuple[str, float | None]) -> Pair:
    """A datum of one class, and its inference."""
    annotations = [] if truth is None else [{"class_label": truth}]
    return Pair("datum", annotations, [{"label": label, "score": score} for label, score in predicted])


def truth_box(label: str, xmin: float, ymin: float, xmax: float, ymax: float) -> dict[str, Any]:
    return {"class_label": label, "bbox": {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}}


def found_box(label: str, score: float | None, *corners: float) -> dict[str, Any]:
    return {"label": label, "score": score, **dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))}


def metric(evaluation: Evaluation, kind: str, **parameters: Any) -> Any:
    """The value of the one metric of this kind that has these parameters."""
    values = [m.value for m in evaluation.metrics if m.type == kind and parameters.items() <= m.parameters.items()]
    assert len(values) == 1, f"{len(values)} metrics {kind} with {parameters}"
    return values[0]


class TestEveryTask:
    @pytest.mark.parametrize("task_type", SCORED)
    def test_no_datums_make_an_empty_evaluation(self, task_type: TaskType) -> None:
        assert evaluate(task_type, []) == Evaluation(task_type=task_type, datums=0)

    @pytest.mark.parametrize("task_type", [BOXES, ORIENTED, SEGMENTS])
    def test_a_datum_with_nothing_to_see_and_nothing_seen_counts(self, task_type: TaskType) -> None:
        evaluation = evaluate(task_type, [Pair("empty", [], [])])
        assert (evaluation.datums, evaluation.skipped, evaluation.labels) == (1, 0, [])

    @pytest.mark.parametrize("task_type", SCORED)
    def test_a_datum_annotated_for_another_task_is_skipped(self, task_type: TaskType) -> None:
        foreign = [{"class_label": "cat", "start": 3, "end": 5, "bbox": None}]
        if task_type is CLASSES:
            foreign = [truth_box("cat", 0, 0, 1, 1)]
        evaluation = evaluate(task_type, [Pair("a", foreign, [])])
        assert (evaluation.datums, evaluation.skipped) == (0, 1)

    @pytest.mark.parametrize("task_type", [TaskType.IMAGE_EMBEDDING, TaskType.TEXT_EMBEDDING])
    def test_an_embedding_has_no_metrics(self, task_type: TaskType) -> None:
        with pytest.raises(InvalidRequest, match="has no metrics"):
            evaluate(task_type, [])

    @pytest.mark.parametrize(
        "task_type, module",
        [(CLASSES, "classification"), (BOXES, "detection"), (ORIENTED, "detection"), (SEGMENTS, "segmentation")],
    )
    def test_without_the_extra_the_error_says_what_to_install(
        self, task_type: TaskType, module: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "valor_lite"]:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"orchestrator.bulk_inference.evaluation.{module}", raising=False)
        with pytest.raises(Unavailable, match=r"needs valor_lite: pip install 'orchestrator\[evaluation\]'"):
            evaluate(task_type, [])

    @pytest.mark.parametrize(
        "task_type, annotations, inference, complaint",
        [
            (CLASSES, [{"class_label": "a"}], [{"score": 1}], "inference 0.label: Field required"),
            (CLASSES, [{"class_label": "a"}], ["a"], "inference 0"),
            (CLASSES, [{"class_label": 7}], [], "annotation 0.class_label"),
            (CLASSES, [{"class_label": "a"}], [{"label": "a", "score": math.nan}], "inference 0.score"),
            (BOXES, [], [found_box("a", 1, 0, 0, 1, 1), {"label": "a", "score": 1}], "inference 1.xmin"),
            (ORIENTED, [], [found_box("a", 1, 0, 0, 1, 1)], "inference 0.cx"),
            (SEGMENTS, [], [{"label": "a", "contours": [[{"x": 1}]]}], "inference 0.contours.0.0.y"),
        ],
    )
    def test_a_malformed_datum_is_named_with_its_field(
        self, task_type: TaskType, annotations: list[Any], inference: list[Any], complaint: str
    ) -> None:
        with pytest.raises(InvalidRequest, match=f"datum broken cannot be evaluated: {complaint}"):
            evaluate(task_type, [Pair("broken", annotations, inference)])

    def test_an_evaluation_survives_json(self) -> None:
        pairs = [classified("cat", ("cat", 0.9), ("dog", 0.1)), classified("dog", ("dog", 0.7), ("cat", 0.3))]
        evaluation = evaluate(CLASSES, pairs)
        stored = json.loads(json.dumps(evaluation.model_dump(mode="json"), allow_nan=False))
        assert Evaluation.model_validate(stored) == evaluation


class TestClassification:
    def test_figures_equal_those_of_scikit_learn(self) -> None:
        random = np.random.default_rng(7)
        labels = ["ant", "bee", "cat", "dog"]
        scores = random.dirichlet(np.ones(4) * 0.4, 500)
        truths = [labels[random.choice(4, p=row)] for row in scores]
        evaluation = evaluate(
            CLASSES,
            (classified(t, *zip(labels, row, strict=True)) for t, row in zip(truths, scores.tolist(), strict=True)),
            thresholds=Thresholds(score=0.0),
        )
        winners = [labels[i] for i in scores.argmax(axis=1)]
        assert evaluation.datums == 500
        assert evaluation.labels == labels
        assert evaluation.summary["accuracy"] == pytest.approx(accuracy_score(truths, winners))
        assert evaluation.summary["macro_f1"] == pytest.approx(f1_score(truths, winners, average="macro"))
        assert evaluation.confusion is not None
        assert evaluation.confusion.matrix == confusion_matrix(truths, winners, labels=labels).tolist()
        for index, label in enumerate(labels):
            area = roc_auc_score([t == label for t in truths], scores[:, index])
            assert metric(evaluation, "ROCAUC", label=label) == pytest.approx(area)

    def test_a_winner_below_the_threshold_counts_as_missed_but_not_in_top1(self) -> None:
        pairs = [
            classified("cat", ("cat", 0.9), ("dog", 0.1)),
            classified("cat", ("cat", 0.4), ("dog", 0.3)),
            classified("dog", ("cat", 0.6), ("dog", 0.4)),
            classified("dog", ("cat", 0.3), ("dog", 0.2)),
        ]
        evaluation = evaluate(CLASSES, pairs)
        assert evaluation.summary["accuracy"] == 0.25
        assert evaluation.summary["top1_accuracy"] == 0.5
        # cat: one hit, one miss, one false alarm; dog: never found.
        assert evaluation.summary["macro_f1"] == pytest.approx((0.5 + 0.0) / 2)
        assert evaluation.confusion == Confusion(unit="datums", matrix=[[1, 0], [1, 0]], missed=[1, 1], spurious=[0, 0])

    def test_recall_knows_a_truth_that_a_top_one_inference_does_not_mention(self) -> None:
        evaluation = evaluate(CLASSES, [classified("cat", ("cat", 0.9)), classified("cat", ("dog", 0.2))])
        assert metric(evaluation, "Recall", label="cat", score_threshold=0.5) == 0.5
        counts = metric(evaluation, "Counts", label="dog", score_threshold=0.5)
        assert counts == {"tp": 0, "fp": 0, "fn": 0, "tn": 2}

    def test_a_missing_score_is_certainty(self) -> None:
        pairs = [classified("cat", ("cat", None)), Pair("b", [{"class_label": "cat"}], [{"label": "cat"}])]
        assert evaluate(CLASSES, pairs).summary["accuracy"] == 1.0

    def test_an_empty_inference_is_a_miss(self) -> None:
        evaluation = evaluate(CLASSES, [classified("cat"), classified("cat", ("cat", 1.0))])
        assert evaluation.summary["accuracy"] == 0.5
        assert evaluation.confusion is not None
        assert evaluation.confusion.missed == [1]

    def test_a_datum_without_exactly_one_class_is_skipped(self) -> None:
        two = Pair("two", [{"class_label": "cat"}, {"class_label": "dog"}], [{"label": "cat"}])
        evaluation = evaluate(CLASSES, [two, classified(None, ("cat", 1.0)), classified("cat", ("cat", 1.0))])
        assert (evaluation.datums, evaluation.skipped) == (1, 2)

    def test_a_class_that_nobody_annotated_is_a_column_of_the_confusion(self) -> None:
        evaluation = evaluate(CLASSES, [classified("cat", ("unicorn", 0.8)), classified("cat", ("cat", 0.8))])
        assert evaluation.labels == ["cat", "unicorn"]
        assert evaluation.confusion is not None
        assert evaluation.confusion.matrix == [[1, 1], [0, 0]]
        # The unicorn has a false positive, so its F1 of 0 halves the mean.
        assert evaluation.summary["macro_f1"] == pytest.approx((2 / 3) / 2)

    def test_there_is_no_roc_where_some_scores_are_missing(self) -> None:
        evaluation = evaluate(CLASSES, [classified("cat", ("cat", 0.8), ("dog", 0.2)), classified("dog", ("dog", 1.0))])
        assert not [m for m in evaluation.metrics if "ROC" in m.type]

    def test_many_classes_keep_their_figures_though_not_their_rows(self) -> None:
        labels = [f"class-{i}" for i in range(150)]
        random = np.random.default_rng(3)
        scores = random.dirichlet(np.ones(150), 60)
        truths = [labels[i] if n % 3 else labels[0] for n, i in enumerate(scores.argmax(axis=1))]
        evaluation = evaluate(
            CLASSES,
            (classified(t, *zip(labels, row, strict=True)) for t, row in zip(truths, scores.tolist(), strict=True)),
            thresholds=Thresholds(score=0.0),
        )
        winners = [labels[i] for i in scores.argmax(axis=1)]
        assert evaluation.summary["accuracy"] == pytest.approx(accuracy_score(truths, winners))
        assert evaluation.summary["macro_f1"] == pytest.approx(f1_score(truths, winners, average="macro"))


#: What matplotlib's scale of blues ends in.
DARKEST = (8, 48, 107)


def shades_of(path: Path) -> set[Any]:
    """Every colour of a picture that fills more than a character's pixels."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {shade for count, shade in image.convert("RGB").getcolors(maxcolors=1 << 24) or [] if count > 5000}


class TestPicture:
    def test_it_is_a_png_file_with_the_matrix_in_it(self, tmp_path: Path) -> None:
        evaluation = evaluate(CLASSES, [classified("cat", ("dog", 0.9)), classified("dog", ("dog", 0.2))])
        path = confusion_picture(evaluation, tmp_path / "confusion.png")
        assert DARKEST in shades_of(path), "a full row is as dark as the scale goes"

    def test_a_poor_overlap_is_pale_though_it_is_all_of_its_row(self, tmp_path: Path) -> None:
        poor = Confusion(unit="iou", matrix=[[0.1]], missed=[0], spurious=[0])
        evaluation = Evaluation(task_type=SEGMENTS, datums=1, labels=["road"], confusion=poor)
        assert DARKEST not in shades_of(confusion_picture(evaluation, tmp_path / "confusion.png"))

    @pytest.mark.parametrize("count", [1, 30, 200])
    def test_any_number_of_labels_can_be_drawn(self, tmp_path: Path, count: int) -> None:
        labels = [f"label {i}" for i in range(count)]
        evaluation = evaluate(CLASSES, [classified(label, (label, 1.0)) for label in labels])
        assert confusion_picture(evaluation, tmp_path / "confusion.png").stat().st_size > 1000

    def test_nothing_to_draw_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="no confusion matrix to draw"):
            confusion_picture(evaluate(CLASSES, []), tmp_path / "confusion.png")
        assert not list(tmp_path.iterdir())
