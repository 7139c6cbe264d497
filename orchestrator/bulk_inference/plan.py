"""Planning: a job's split is cut into units by ordinal range, in bounded memory."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference import queries
from orchestrator.bulk_inference.lifecycle import LIFECYCLE, set_columns
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import db_now, reading, transact
from orchestrator.ledger import Done, Lease, NewUnit, Outcome, Split
from orchestrator.queues import QueueName
from orchestrator.registry.tables import ModelRow, SnapshotSplitRow

#: A job is cut into about this many units, so that all workers have some to the end …
UNITS = 16
#: … but a unit is worth its overhead, and not so large that only one worker has something to do.
SMALLEST, LARGEST = 64, 8192
#: Seconds that a unit should take at least, and at most, once it is known how fast the model's units go.
SHORTEST, LONGEST = 0.25, 5.0
#: A unit's datums, whatever the rate: what an attempt that was killed leaves must be found again.
MOST = 65_536
#: Units written in one transaction.
PAGE = 500
#: Datums of a job that is planned as it is submitted, at most.
AT_ONCE = SMALLEST


def plan(lease: Lease) -> Outcome:
    """Count the job's datums, write its units, and set it running.

    Killed midway and run again, it writes the units that are missing: their keys are their ranges.
    """
    with reading() as session:
        job = session.get_one(BulkInferenceJobRow, lease.job_id)
        split = session.get_one(SnapshotSplitRow, (job.snapshot_id, job.split))
        gate = ledger.gates.find(session, job.model_id)
        limit = session.get_one(ModelRow, job.model_id).config.get("max_concurrency")
    total = split.annotated_count if job.evaluate_metrics else split.datum_count
    if limit is not None or gate is not None:
        # More units than requests at once would only wait for each other, and keep workers from other work.
        transact(_limit, lease, job.model_id, limit)
    # Units of an attempt that was killed are found again by their ranges: the rate may have been learnt meanwhile.
    size = lease.payload.get("size") or unit_size(total, job.batch_size, gate.rate if gate else None)
    ranges = _annotated_ranges(job, size) if job.evaluate_metrics else ranges_of(total, size)
    units = (infer_unit(job.model_id, low, high) for low, high in ranges)
    page = list(islice(units, PAGE))
    if len(page) < PAGE:
        transact(_write_all, lease, total, size, page)
        return Done()
    transact(_begin, lease, total, size)
    while page:
        transact(_add, lease, page)
        page = list(islice(units, PAGE))
    transact(_set_running, lease)
    return Done()


def plan_at_once(session: Session, model: ModelRow, total: int, batch_size: int) -> NewUnit | None:
    """The only unit of a small job, in the transaction that submits it; None if the job needs more than one.

    Planning it in a unit of its own would take as long as all the rest of the way to its first result.
    """
    gate = ledger.gates.find(session, model.id)
    if not 0 < total <= AT_ONCE or total > unit_size(total, batch_size, gate.rate if gate else None):
        return None
    limit = model.config.get("max_concurrency")
    if limit is not None or gate is not None:
        ledger.gates.limit(session, model.id, limit)
    return infer_unit(model.id, 0, total)


def run_at_once(session: Session, job_id: str, total: int) -> None:
    """Set a job running that was planned at once."""
    set_columns(session, job_id, expected_total=total)
    LIFECYCLE.move(session, job_id, ProgressState.IN_PROGRESS, started_at=db_now())
    LIFECYCLE.move(session, job_id, ProgressState.RUNNING)


def unit_size(total: int, batch_size: int, rate: float | None = None) -> int:
    """Datums in a unit, a multiple of the batch size; `rate` is what a unit of the model does in a second."""
    fair = -(-total // UNITS)
    if rate is None:
        wanted = max(SMALLEST, min(LARGEST, fair))
    else:
        wanted = max(1, min(MOST, max(math.ceil(rate * SHORTEST), min(math.ceil(rate * LONGEST), fair))))
    return -(-wanted // batch_size) * batch_size


def cut_again(lease: Lease, job: BulkInferenceJobRow, position: int, rate: float) -> Split:
    """End the unit before the ordinal `position`, and make units of the measured size of what lies behind it.

    Units were cut before anybody knew how fast the model is. One whose time is up says how fast.
    """
    low, high = lease.payload["low"], lease.payload["high"]
    size = unit_size((high - position) * UNITS, job.batch_size, rate)
    with reading() as session:
        # Of an attempt that was killed: it was ahead of what it left out.
        done = sorted(session.scalars(queries.inferred(job.id, position, high)))
        failed = sorted(session.scalars(queries.failed(job.id, position, high)))
    rest = [
        rest_unit(job.model_id, position + start, position + end, done, failed)
        for start, end in ranges_of(high - position, size)
    ]
    return Split({**lease.payload, "low": low, "high": position}, rest)


def infer_unit(model_id: str, low: int, high: int) -> NewUnit:
    """The unit that infers on the ordinals from `low` up to but not including `high`."""
    payload = {"low": low, "high": high}
    return NewUnit("bulk_inference.infer", f"datums {low}-{high}", QueueName.INFERENCE, payload, gate=model_id)


def rest_unit(model_id: str, low: int, high: int, done: Sequence[int], failed: Sequence[int]) -> NewUnit:
    """`infer_unit` for what another unit had before; `done` and `failed` are ordinals of that, in order.

    Outcomes are counted where they lie: a retry takes the units that count failures.
    """
    unit = infer_unit(model_id, low, high)
    inside = [bisect_left(ordinals, high) - bisect_left(ordinals, low) for ordinals in (done, failed)]
    return replace(unit, payload={**unit.payload, "rest": True}, done=inside[0], failed=inside[1])


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


def _limit(session: Session, lease: Lease, model_id: str, units: int | None) -> None:
    ledger.check(session, lease)
    ledger.gates.limit(session, model_id, units)


def _write_all(session: Session, lease: Lease, total: int, size: int, page: list[NewUnit]) -> None:
    _begin(session, lease, total, size)
    _add(session, lease, page)
    _set_running(session, lease)


def _begin(session: Session, lease: Lease, total: int, size: int) -> None:
    ledger.note(session, lease, size=size)
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
