"""Scores image classification: one true class per datum against the class that scored best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

from valor_lite.classification import Classification, Evaluator, Loader, MetricType

from orchestrator.bulk_inference.evaluation.formats import PREDICTIONS, annotations_of, predictions_of
from orchestrator.bulk_inference.evaluation.models import Confusion, Evaluation, Metric, Pair, Thresholds
from orchestrator.registry.models import TaskType

#: ROC AUC needs a row per class and datum; with more classes than this, only the winner and the truth are kept,
#: from which every other figure follows.
MAX_DISTRIBUTION = 100
#: valor-lite takes a score this small for none.
NO_SCORE = 1e-8


@dataclass(slots=True)
class Tally:
    """What is counted while the datums stream by."""

    threshold: float
    datums: int = 0
    skipped: int = 0
    #: Datums by true class and winner; the winner is None where no score reached the threshold.
    outcomes: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    #: The label sets seen; more than one, or None, and there is no common distribution for ROC AUC.
    distributions: set[frozenset[str] | None] = field(default_factory=set)

    def add(self, truth: str, scores: dict[str, float]) -> Classification:
        """Count one datum and put it as valor-lite wants it."""
        winner = max(scores, key=scores.__getitem__, default=None)
        met = winner is not None and scores[winner] >= self.threshold and scores[winner] > NO_SCORE
        self.outcomes[truth, winner if met else None] += 1
        if len(self.distributions) < 2:
            self.distributions.add(frozenset(scores) if 1 < len(scores) <= MAX_DISTRIBUTION else None)
        if winner is not None and len(scores) > MAX_DISTRIBUTION:
            scores = {winner: scores[winner], truth: scores.get(truth, 0.0)}
        # Without a row of its own a truth that was not predicted would be missing from recall.
        scores.setdefault(truth, 0.0)
        self.datums += 1
        return Classification(
            uid=str(self.datums), groundtruth=truth, predictions=list(scores), scores=list(scores.values())
        )


def score_classes(task_type: TaskType, pairs: Iterable[Pair], thresholds: Thresholds) -> Evaluation:
    """Accuracy, precision, recall, F1 per class, and ROC AUC where all scores of all classes are stored.

    Only datums with exactly one class label can be scored; the others are counted as skipped.
    """
    tally = Tally(thresholds.score)
    with TemporaryDirectory() as folder:
        loader = Loader.persistent(folder)
        for pair in pairs:
            truth = true_class(pair)
            if truth is None:
                tally.skipped += 1
            else:
                loader.add_data([tally.add(truth, best_scores(pair))])
        if not tally.datums:
            return Evaluation(task_type=task_type, datums=0, skipped=tally.skipped)
        return summarise(task_type, loader.finalize(), tally)


def true_class(pair: Pair) -> str | None:
    """The one class that the whole image is annotated with, if there is exactly one."""
    classes = {
        a.class_label
        for a in annotations_of(pair)
        if a.class_label is not None and a.bbox is None and a.oriented_bbox is None and a.contour is None
    }
    return classes.pop() if len(classes) == 1 else None


def best_scores(pair: Pair) -> dict[str, float]:
    """Each predicted class once, with its best score."""
    scores: dict[str, float] = {}
    for prediction in predictions_of(PREDICTIONS, pair):
        scores[prediction.label] = max(prediction.score, scores.get(prediction.label, prediction.score))
    return scores


def summarise(task_type: TaskType, evaluator: Evaluator, tally: Tally) -> Evaluation:
    """Gather the figures at the threshold, and without one for the plain top-1 accuracy."""
    found = evaluator.compute_precision_recall(score_thresholds=sorted({0.0, tally.threshold}))
    metrics = [metric.to_dict() for kind in found.values() for metric in kind]
    complete_counts(metrics, tally.datums)
    labels = sorted({m["parameters"]["label"] for m in metrics if "label" in m["parameters"]})
    if tally.distributions == {frozenset(labels)}:
        roc = evaluator.compute_rocauc()
        metrics += [metric.to_dict() for kind in roc.values() for metric in kind]
    return Evaluation(
        task_type=task_type,
        datums=tally.datums,
        skipped=tally.skipped,
        metrics=[Metric(**metric) for metric in metrics],
        summary=headline(metrics, tally.threshold),
        labels=labels,
        confusion=confusion_of(tally.outcomes, labels),
    )


def complete_counts(metrics: list[dict[str, Any]], datums: int) -> None:
    """Set the true negatives, which valor-lite sees only for classes that a datum's inference lists."""
    for metric in metrics:
        if metric["type"] == MetricType.Counts.value:
            counts = metric["value"]
            counts["tn"] = datums - counts["tp"] - counts["fp"] - counts["fn"]


def headline(metrics: list[dict[str, Any]], threshold: float) -> dict[str, float]:
    """Accuracy at the threshold and without one; F1 over the classes that occur as truth or as winner."""
    accuracy, counts = {}, []
    for metric in metrics:
        score = metric["parameters"].get("score_threshold")
        if metric["type"] == MetricType.Accuracy.value:
            accuracy[score] = metric["value"]
        elif metric["type"] == MetricType.Counts.value and score == threshold:
            counts.append(metric["value"])
    f1 = [2 * c["tp"] / (2 * c["tp"] + c["fp"] + c["fn"]) for c in counts if c["tp"] + c["fp"] + c["fn"]]
    return {
        "accuracy": accuracy[threshold],
        "top1_accuracy": accuracy[0.0],
        "macro_f1": sum(f1) / len(f1),
    }


def confusion_of(outcomes: Counter[tuple[str, str | None]], labels: list[str]) -> Confusion:
    """The confusion matrix, counted here: valor-lite's own needs memory by the square of the rows."""
    return Confusion(
        unit="datums",
        matrix=[[outcomes[truth, winner] for winner in labels] for truth in labels],
        missed=[outcomes[truth, None] for truth in labels],
        spurious=[0] * len(labels),
    )
