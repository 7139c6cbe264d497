"""Draws a confusion matrix."""

from __future__ import annotations

from pathlib import Path

from orchestrator.bulk_inference.evaluation.models import Confusion, Evaluation
from orchestrator.errors import InvalidRequest, Unavailable

#: With more labels than this, figures in the cells could not be read.
MAX_FIGURES = 25
#: The same for the names beside the matrix.
MAX_NAMES = 60


def confusion_picture(evaluation: Evaluation, path: Path) -> Path:
    """Write the confusion matrix of `evaluation` as a PNG file and return its path.

    A cell is as dark as its share of the row, or as its IoU. What met nothing stands in a last column and row, where
    there is any.

    Raises:
        InvalidRequest: the evaluation has no confusion matrix, since there was nothing to compare.
        Unavailable: matplotlib is not installed.
    """
    if evaluation.confusion is None:
        raise InvalidRequest("there is no confusion matrix to draw: no annotated datum was compared")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise Unavailable("a picture needs matplotlib: pip install 'orchestrator[evaluation]'") from error
    rows, row_names, column_names = table_of(evaluation.confusion, evaluation.labels)
    tints = rows if evaluation.confusion.unit == "iou" else shares(rows)
    side = min(24.0, 3.2 + 0.55 * len(column_names))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(tints, cmap="Blues", vmin=0, vmax=1)
    if len(column_names) <= MAX_NAMES:
        axes.set_xticks(range(len(column_names)), column_names, rotation=45 if longest(column_names) > 3 else 0)
        axes.set_yticks(range(len(row_names)), row_names)
    else:
        axes.set(xticks=[], yticks=[])
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.set_title(title_of(evaluation), fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(column_names) <= MAX_FIGURES:
        for y, (row, row_tints) in enumerate(zip(rows, tints, strict=True)):
            for x, (value, tint) in enumerate(zip(row, row_tints, strict=True)):
                ink = "white" if tint > 0.5 else "#08306b" if value else "#c6c6c6"
                axes.text(x, y, figure_of(value, evaluation.confusion), ha="center", va="center", color=ink, fontsize=9)
    figure.savefig(path, dpi=150, format="png")
    return path


def table_of(confusion: Confusion, labels: list[str]) -> tuple[list[list[float]], list[str], list[str]]:
    """The matrix with its last row and column, and the names of rows and columns."""
    rows, row_names, column_names = [list(row) for row in confusion.matrix], list(labels), list(labels)
    corner: list[float] = []
    if any(confusion.missed):
        rows = [[*row, missed] for row, missed in zip(rows, confusion.missed, strict=True)]
        column_names.append("missed")
        corner = [0.0]
    if any(confusion.spurious):
        rows.append([*confusion.spurious, *corner])
        row_names.append("spurious")
    return rows, row_names, column_names


def shares(rows: list[list[float]]) -> list[list[float]]:
    """Each cell's share of its row."""
    return [[value / total if (total := sum(row)) else 0.0 for value in row] for row in rows]


def longest(names: list[str]) -> int:
    """The length of the longest name."""
    return max(len(name) for name in names)


def title_of(evaluation: Evaluation) -> str:
    """What was compared, and the headline figures."""
    figures = ", ".join(f"{name} {value:.3f}" for name, value in evaluation.summary.items())
    return f"{evaluation.task_type.value}, {evaluation.datums:,} datums\n{figures}"


def figure_of(value: float, confusion: Confusion) -> str:
    """A cell's text: whole counts, or two decimals of an IoU."""
    return f"{value:.2f}" if confusion.unit == "iou" else f"{value:g}"
