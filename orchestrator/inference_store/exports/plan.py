"""Planning: the set is pinned under a hold, and cut into parts by ordinal."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, reading, transact
from orchestrator.inference_store import filtering
from orchestrator.inference_store.blobs import hold_subject
from orchestrator.inference_store.exports import queries
from orchestrator.inference_store.exports.lifecycle import KIND, LIFECYCLE, set_columns
from orchestrator.inference_store.exports.models import ExportTaskState
from orchestrator.inference_store.exports.record import ASSEMBLE
from orchestrator.inference_store.exports.tables import ExportTaskRow, NamedInferenceRow
from orchestrator.inference_store.models import NewExportTaskRequest
from orchestrator.ledger import Done, Lease, NewUnit, Outcome, holds
from orchestrator.queues import QueueName

#: Members of a part, at most: some hundred milliseconds of work …
MOST = 4096
#: … and about so many bytes, so that large files are spread over all workers as small ones are.
PART_BYTES = 64 << 20
#: Units written in one transaction.
PAGE = 500


def plan(lease: Lease) -> Outcome:
    """Hold the model, pin the set, and add a unit for each part.

    Three kinds of transaction: the hold; the set, all of it at once; pages of units. Killed after any of them and
    run again, it finds the set pinned and adds the units that are missing: their keys are their parts.
    """
    transact(_hold, lease)
    transact(_pin, lease)
    with reading() as session:
        total = session.get_one(ExportTaskRow, lease.job_id).expected_count or 0
        volume = session.scalar(queries.volume(lease.job_id)) or 0
    size = members_of_part(total, int(volume))
    units = [_part(part, low, min(low + size, total)) for part, low in enumerate(range(0, total, size))]
    units = units or [ASSEMBLE]
    for start in range(0, len(units), PAGE):
        transact(_add, lease, units[start : start + PAGE])
    return Done()


def members_of_part(total: int, volume: int) -> int:
    """How many members a part has: the same for the same set, so that the same set makes the same archive.

    `volume` is what all members together weigh, in bytes.
    """
    average = max(1, volume // max(1, total))
    return max(1, min(MOST, PART_BYTES // average))


def _part(part: int, low: int, high: int) -> NewUnit:
    return NewUnit(f"{KIND}.part", f"part {part}", QueueName.EXPORTS, {"part": part, "low": low, "high": high})


def _hold(session: Session, lease: Lease) -> None:
    ledger.check(session, lease)
    task = session.get_one(ExportTaskRow, lease.job_id)
    LIFECYCLE.move(session, task.id, ExportTaskState.RUNNING, started_at=db_now())
    holds.place(session, hold_subject(task.model_id), task.id)


def _pin(session: Session, lease: Lease) -> None:
    ledger.check(session, lease)
    task = session.get_one(ExportTaskRow, lease.job_id)
    if task.expected_count is not None:
        return
    request = NewExportTaskRequest.model_validate(task.request)
    names_any = session.scalar(queries.any_named(task.id)) is not None
    known = filtering.look(session, task.model_id, request.filters)
    wanted = filtering.conditions(task.model_id, request.filters, known=known)
    session.execute(queries.pin(task.id, task.model_id, wanted, names_any=names_any))
    set_columns(session, task.id, expected_count=session.scalar(queries.pinned(task.id)))
    session.execute(delete(NamedInferenceRow).where(NamedInferenceRow.task_id == task.id))


def _add(session: Session, lease: Lease, page: list[NewUnit]) -> None:
    ledger.check(session, lease)
    ledger.add(session, lease.job_id, page)
