"""What a retention sweep costs beside one SQL DELETE of the same rows, and what writers notice of it.

    python -m benchmarks.retention --database postgres --rows 1000000

Rows are inserted for a model and deleted by one statement, then for another and swept by the units of a task, in this
process; then half as many are swept while another process stores inferences.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from unittest import mock

from sqlalchemy import text

from benchmarks import figures
from benchmarks.figures import Figure, at_least, at_most, without_goal
from benchmarks.inserting import insert, writer
from benchmarks.snapshots import analyze
from benchmarks.stage import stage
from orchestrator import clock
from orchestrator.database import engine, transact, writing
from orchestrator.ids import new_id
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention.policies import set_policy
from orchestrator.inference_store.retention.submit import submit
from orchestrator.inference_store.retention.sweep import Page, Place, sweep_page
from orchestrator.inference_store.retention.tables import RetentionTaskRow
from orchestrator.inference_store.retention.tasks import find_task
from orchestrator.inference_store.tables import StoreModelRow
from orchestrator.ledger import Lease, UnitState, list_units
from workers import sweep
from workers.tasks import retention

#: Rows inserted in one transaction, all of one age.
PAGE = 5000


def measure(options: argparse.Namespace) -> Sequence[Figure]:
    """Everything on a stage of its own."""
    with stage(options.database, 1):
        return measured(options)


def measured(options: argparse.Namespace) -> list[Figure]:
    """Delete twice, in two ways, and watch a writer during a sweep and without."""
    raw_model, swept_model = fill(options.rows), fill(options.rows)
    with writer() as alone:
        time.sleep(options.alone)
    raw = delete_at_once(raw_model)
    tidy_up()
    pages: list[Page] = []
    with noting(pages):
        seconds = sweep_alone(swept_model)
    other_model = fill(options.rows // 2)
    with writer() as meanwhile:
        sweep_alone(other_model)
    longest = max(page.seconds for page in pages)
    return [
        at_least(f"sweep of {options.rows:,} rows / one DELETE", raw / seconds, 0.5),
        without_goal("  one DELETE", f"{options.rows / raw:,.0f} rows/s"),
        without_goal("  sweep, counting included", f"{options.rows / seconds:,.0f} rows/s"),
        at_most("longest transaction of the sweep", longest * 1000, 200, " ms"),
        without_goal(
            "  all of them", f"{spread([page.seconds for page in pages])}, {options.rows // len(pages):,} rows each"
        ),
        without_goal("p99 of inserts, with / without a sweep", f"{p99(meanwhile) / p99(alone):.1f}"),
        without_goal("  without", spread(alone)),
        without_goal("  with", spread(meanwhile)),
    ]


def fill(rows: int) -> str:
    """A registered model with so many inferences, one page a minute old after the other; returns its id."""
    model_id = new_id()
    with writing() as session:
        session.add(
            StoreModelRow(model_id=model_id, project_id="p", task_type="Image Classification", embedding_size=0)
        )
    now = clock.now()
    pages = -(-rows // PAGE)
    for number in range(pages):
        created_at = now - timedelta(minutes=pages - number)
        transact(insert, model_id, created_at, min(PAGE, rows - number * PAGE))
    analyze()
    return model_id


def delete_at_once(model_id: str) -> float:
    """One DELETE, by its time limit as a sweep has it; returns seconds."""
    begun = time.perf_counter()
    with writing() as session:
        limit = {"model_id": model_id, "limit": clock.now().isoformat(sep=" ")}
        session.execute(
            text("DELETE FROM inferences WHERE model_id = :model_id AND created_at < :limit AND NOT is_protected"),
            limit,
        )
    return time.perf_counter() - begun


def tidy_up() -> None:
    """Let neither way of deleting pay for the other's dead rows."""
    if engine().dialect.name == "postgresql":
        with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM inferences")


def sweep_alone(model_id: str) -> float:
    """Run a task to its end, unit after unit; returns the seconds from its submission on."""
    policy = set_policy(
        model_id, automated_interval=0, maximum_record_age=0, maximum_blob_age=0, delete_action=Action.HARD
    )
    units = {unit.name: unit for unit in (retention.plan, retention.sweep, retention.finish)}
    begun = time.perf_counter()
    task_id = submit(model_id, policy.id, dry_run=False)
    while waiting := list_units(task_id, states=[UnitState.READY, UnitState.PUBLISHED]):
        units[waiting[0].kind](waiting[0].id)
    seconds = time.perf_counter() - begun
    task = find_task(task_id)
    assert task.deleted_record_count == task.total_record_count, task
    return seconds


@contextmanager
def noting(pages: list[Page]) -> Iterator[None]:
    """Keep what is known of each transaction of the sweeps meanwhile."""

    def note(
        lease: Lease, task: RetentionTaskRow, action: Action, place: Place, size: int
    ) -> tuple[Page, Place | None]:
        page, reached = sweep_page(lease, task, action, place, size)
        pages.append(page)
        return page, reached

    with mock.patch.object(sweep, "sweep_page", note):
        yield


def p99(seconds: Sequence[float]) -> float:
    """The largest but a hundredth."""
    return sorted(seconds)[len(seconds) * 99 // 100]


def spread(seconds: Sequence[float]) -> str:
    """Median, p99 and largest, in milliseconds, and how many there were."""
    ordered = sorted(value * 1000 for value in seconds)
    at = [ordered[len(ordered) * share // 100] for share in (50, 99)]
    return f"median {at[0]:.1f}, p99 {at[1]:.1f}, max {ordered[-1]:.1f} ms of {len(ordered)}"


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    parser = figures.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--alone", type=float, default=10.0, help="seconds for which the writer is watched without a sweep"
    )
    return parser


def main() -> None:
    """Measure, and print a table."""
    figures.report(measure, options().parse_args())


if __name__ == "__main__":
    main()
