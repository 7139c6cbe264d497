"""Metrics of a run as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import InvalidRequest, NotFound, Unavailable
from orchestrator.training_v2.metrics import PAGE, all_metrics, find_metrics
from orchestrator.training_v2.models import Metric

#: Points of a line: more than the picture has columns show nothing more.
POINTS = 2000
#: Fields of a picture: more take minutes to draw, and fit on no screen.
TAGS = 24


def draw(run_id: str, tags: Sequence[str] | None, path: Path) -> None:
    """Draw the run's metrics over their steps, a field for each tag and a line for each launch.

    Raises:
        NotFound: nothing was measured.
        InvalidRequest: the metrics have too many tags for one picture.
        Unavailable: the library that draws is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise Unavailable("drawing needs an extra: pip install 'orchestrator[evaluation]'") from error
    lines = _lines(run_id, tags)
    if not lines:
        raise NotFound(f"run {run_id} has measured nothing of the kind: see `orchestrator run metrics {run_id}`")
    figure = Figure(figsize=(8, 2.4 * len(lines)), layout="constrained")
    fields = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
    for field, (tag, launches) in zip(fields, sorted(lines.items()), strict=True):
        for job_id, points in sorted(launches.items()):
            points.sort()
            sparse = points[:: len(points) // POINTS + 1]
            field.plot([step for step, _ in sparse], [value for _, value in sparse], label=job_id.rpartition("-")[2])
        field.set_title(tag, fontsize=9, parse_math=False)
        if len(launches) > 1:
            field.legend(title="launch", fontsize=7)
    figure.savefig(path, format="png")


def _lines(run_id: str, tags: Sequence[str] | None) -> dict[str, dict[str, list[tuple[int, float]]]]:
    lines: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for metric in all_metrics(run_id) if not tags else _of_tags(run_id, tags):
        lines[metric.tag][metric.job_id or ""].append((metric.global_step, metric.value))
        if len(lines) > TAGS:
            raise InvalidRequest(f"run {run_id} has metrics of more than {TAGS} tags: choose up to {TAGS} with --tag")
    return lines


def _of_tags(run_id: str, tags: Sequence[str]) -> Sequence[Metric]:
    found: list[Metric] = []
    while page := find_metrics(run_id, tags=tags, limit=PAGE, created_before=found[-1].created_at if found else None):
        found += page
    return found
