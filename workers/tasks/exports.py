"""The units of an export task: plan, part, assemble, finish; and the tick that clears what tasks left behind."""

from __future__ import annotations

import structlog

from orchestrator.database import reading
from orchestrator.errors import LeaseLost, Unavailable
from orchestrator.inference_store.exports import finish as finishing
from orchestrator.inference_store.exports import plan as planning
from orchestrator.inference_store.exports import sweep as sweeping
from orchestrator.inference_store.exports.lifecycle import TERMINAL
from orchestrator.inference_store.exports.record import explain, pieces_of
from orchestrator.inference_store.exports.tables import ExportTaskRow
from orchestrator.ledger import Hopeless, Lease, Outcome, Postponed
from orchestrator.queues import app
from orchestrator.storage import blobs
from workers.archive.assemble import assemble as put_together
from workers.archive.part import write_part
from workers.archive.records import Order
from workers.unit import unit

log = structlog.get_logger(__name__)

#: Seconds that putting an archive together may take: it is one pass, however large the archive is.
LONGEST_PASS = sweeping.SETTLED.total_seconds() - 3600


@unit("exports.plan")
def plan(lease: Lease) -> Outcome:
    """Pin the set, and cut it into parts."""
    return planning.plan(lease)


@unit("exports.part")
def part(lease: Lease) -> Outcome:
    """Write a part of the archive, or go on with it."""
    task = find(lease)
    if task.state in TERMINAL:
        # The attempt that ended the task was killed before it could settle.
        return Hopeless(f"the task has ended: {task.reason or task.state}")
    try:
        return write_part(lease, Order.of(task))
    except Unavailable as error:
        return postpone(lease, error)


@unit("exports.assemble", soft_time_limit=LONGEST_PASS, time_limit=LONGEST_PASS + 60)
def assemble(lease: Lease) -> Outcome:
    """Put the archive together of its pieces, and end the task."""
    task = find(lease)
    if task.state in TERMINAL:
        return finishing.tidy_up(lease)
    try:
        archive = put_together(Order.of(task), task.expected_count or 0, pieces_of(task.id), attempt=lease.attempt)
    except Unavailable as error:
        return postpone(lease, error)
    try:
        return finishing.complete(lease, archive)
    except LeaseLost:
        blobs().delete(archive.key)  # the archive of the task is another attempt's
        raise


@unit("exports.finish")
def finish(lease: Lease) -> Outcome:
    """End a task that cannot become complete."""
    return finishing.finish(lease)


@app.task(name="ticks.exports")
def sweep() -> None:
    """Clear what tasks left behind that ended a while ago."""
    swept = sweeping.sweep()
    if swept:
        log.info("exports_swept", tasks=swept)


def find(lease: Lease) -> ExportTaskRow:
    """The unit's task."""
    with reading() as session:
        return session.get_one(ExportTaskRow, lease.job_id)


def postpone(lease: Lease, error: Unavailable) -> Outcome:
    """Say on the task what it waits for, and come back."""
    reason = f"waiting: {error}"
    explain(lease, reason)
    return Postponed(reason)
