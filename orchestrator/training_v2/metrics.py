"""Metrics of runs: written in bulk, each at an instant of its own, and paged by it, newest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from orchestrator.database import insert_rows, instant_text, reading, storable
from orchestrator.training_v2.exceptions import ValidationError
from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.models import Metric
from orchestrator.training_v2.paging import countable
from orchestrator.training_v2.runtime import job_id
from orchestrator.training_v2.tables import MetricRow

#: No two metrics of a run are of the same instant: this far apart they are listed in the order in which they came.
TICK = timedelta(microseconds=1)
END_OF_TIME = datetime.max.replace(tzinfo=UTC)
#: Metrics in memory at a time when all are read.
PAGE = 10_000

COLUMNS = ("created_at", "global_step", "tag", "value")


def insert_metrics(
    session: Session, run_id: str, launch: int, metrics: Sequence[NewMetric], first_at: datetime
) -> datetime:
    """Insert metrics, the first at `first_at` and each a tick later; returns when the next may be.

    The caller holds the run's row, and `first_at` is later than any metric of the run.
    """
    rows = [
        (instant_text(session, first_at + index * TICK), str(step), storable(tag), repr(float(value or 0.0)))
        for index, (step, tag, value) in enumerate(metrics)
    ]
    insert_rows(session, MetricRow, {"run_id": run_id, "launch": str(launch)}, COLUMNS, rows)
    return first_at + len(rows) * TICK


def find_metrics(
    run_id: str,
    *,
    global_steps: Sequence[int] | None = None,
    tags: Sequence[str] | None = None,
    limit: int = 1000,
    created_before: datetime | None = None,
) -> list[Metric]:
    """A page of a run's metrics, newest first; `created_before` of the last one leads to the next page."""
    if limit < 0:
        raise ValidationError(f"limit is {limit}: it must not be negative")
    chosen, kept = newest(run_id, limit, created_before), {storable(tag) for tag in tags or ()}
    if global_steps is not None:
        one_by_one = [chosen.where(MetricRow.global_step == step) for step in set(countable(global_steps))]
        if tags is not None:
            one_by_one = [each.where(MetricRow.tag.in_(kept)) for each in one_by_one]
    elif tags is not None:
        one_by_one = [chosen.where(MetricRow.tag == tag) for tag in kept]
    else:
        one_by_one = [chosen]
    with reading() as session:
        return [as_metric(row) for row in _newest_of(session, one_by_one, limit)]


def _newest_of(session: Session, one_by_one: Sequence[Select[MetricRow]], limit: int) -> list[MetricRow]:
    """The newest rows of several selects, newest first.

    Of each step or tag the newest are read from its index; of several together they would have to be looked for.
    """
    rows: list[MetricRow] = []
    for each in one_by_one:
        # Once there are enough, only those are read that are newer than the oldest of them.
        enough = len(rows) >= limit > 0
        rows += session.scalars(each.where(MetricRow.created_at > rows[-1].created_at) if enough else each)
        if len(rows) >= limit:
            rows = _newest_first(rows)[:limit]
    return _newest_first(rows)


def _newest_first(rows: list[MetricRow]) -> list[MetricRow]:
    return sorted(rows, key=attrgetter("created_at"), reverse=True)


def all_metrics(run_id: str) -> Iterator[Metric]:
    """Every metric of a run, newest first, a page in memory at a time."""
    before: datetime | None = None
    while page := find_metrics(run_id, limit=PAGE, created_before=before):
        yield from page
        before = page[-1].created_at


def newest(run_id: str, limit: int, created_before: datetime | None) -> Select[MetricRow]:
    """The run's newest metrics before an instant; to be narrowed to a step or a tag."""
    return (
        select(MetricRow)
        # A bound in any case: without one SQLite would walk through the whole run in search of a tag.
        .where(MetricRow.run_id == run_id, MetricRow.created_at < (created_before or END_OF_TIME))
        .order_by(MetricRow.created_at.desc())
        .limit(limit)
    )


def as_metric(row: MetricRow) -> Metric:
    """A row as callers see it."""
    return Metric(
        id=f"{row.run_id}-{row.created_at:%Y%m%d%H%M%S%f}",
        created_at=row.created_at,
        run_id=row.run_id,
        global_step=row.global_step,
        tag=row.tag,
        value=row.value,
        job_id=job_id(row.run_id, row.launch),
    )
