"""Planning: a job's split is cut into units by ordinal range, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference import queries
from orchestrator.bulk_inference.lifecycle import LIFECYCLE, set_columns
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import db_now, reading, transact
from orchestrator.ledger import Done, Lease, NewUnit, Outcome
from orchestrator.queues import QueueName
from orchestrator.registry.tables import SnapshotSplitRow

#: A job is cut into about this many units, so that all workers have some to the end …
UNITS = 16
#: … but a unit is worth its overhead, and its attempt's resumption stays cheap.
SMALLEST, LARGEST = 64, 8192
#: Units written in one transaction.
PAGE = 500


def plan(lease: Lease) -> Outcome:
    """Count the job's datums, write its units, and set it running.

    Killed midway and run again, it writes the units that are missing: their keys are their ranges.
    """
    with reading() as session:
        job = session.get_one(BulkInferenceJobRow, lease.job_id)
        split = session.get_one(SnapshotSplitRow, (job.snapshot_id, job.split))
    total = split.annotated_count if job.evaluate_metrics else split.datum_count
    transact(_begin, lease, total)
    size = unit_size(total, job.batch_size)
    ranges = _annotated_ranges(job, size) if job.evaluate_metrics else ranges_of(total, size)
    while page := [infer_unit(low, high) for low, high in islice(ranges, PAGE)]:
        transact(_add, lease, page)
    transact(_set_running, lease)
    return Done()


def unit_size(total: int, batch_size: int) -> int:
    """Datums in a unit: a multiple of the batch size."""
    wanted = max(SMALLEST, min(LARGEST, -(-total // UNITS)))
    return -(-wanted // batch_size) * batch_size


def infer_unit(low: int, high: int) -> NewUnit:
    """The unit that infers on the ordinals from `low` up to but not including `high`."""
    return NewUnit("bulk_inference.infer", f"datums {low}-{high}", QueueName.INFERENCE, {"low": low, "high": high})


def ranges_of(total: int, size: int) -> Iterator[tuple[int, int]]:
    """The ordinals below `total` in ranges of `size`, each as its first and the one after its last."""
    return ((low, min(low + size, total)) for low in range(0, total, size))


def _annotated_ranges(job: BulkInferenceJobRow, size: int) -> Iterator[tuple[int, int]]:
    """Ranges that hold `size` annotated datums each, however many lie between."""
    last = -1
    while True:
        with reading() as session:
            found = session.scalars(queries.annotated_after(job.snapshot_id, job.split, last, size)).all()
        if not found:
            return
        yield found[0], found[-1] + 1
        last = found[-1]


def _begin(session: Session, lease: Lease, total: int) -> None:
    ledger.check(session, lease)
    set_columns(session, lease.job_id, expected_total=total)
    LIFECYCLE.move(session, lease.job_id, ProgressState.IN_PROGRESS, started_at=db_now())


def _add(session: Session, lease: Lease, page: list[NewUnit]) -> None:
    ledger.check(session, lease)
    ledger.add(session, lease.job_id, page)


def _set_running(session: Session, lease: Lease) -> None:
    ledger.check(session, lease)
    LIFECYCLE.move(session, lease.job_id, ProgressState.RUNNING, only_from={ProgressState.IN_PROGRESS})
    # Units run while planning goes on, so something may have failed by now.
    if ledger.progress(session, lease.job_id).failed:
        LIFECYCLE.move(session, lease.job_id, ProgressState.RUNNING_FAILED)
