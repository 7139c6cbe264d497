"""Firing: the unit that submits the job of one occurrence.

The submission's request id is made of the schedule and the instant, so that an attempt that was killed after it
submitted finds its job again; the occurrence learns the job's id, and the ledger's job is closed, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import reading, storable, transact
from orchestrator.errors import ApiException, InvalidRequest, RequestIdReused, Unavailable
from orchestrator.ledger import Done, Lease, Outcome, Postponed
from orchestrator.ledger.tables import UnitRow
from orchestrator.schedules.decisions import FIRE
from orchestrator.schedules.models import OccurrenceState
from orchestrator.schedules.tables import OccurrenceRow, ScheduleRow

#: Takes the spec and the options of a submission, and returns the job's id.
Submit = Callable[[Mapping[str, Any], Mapping[str, Any]], str]


def fire(lease: Lease, kinds: Mapping[str, Submit]) -> Outcome:
    """Submit the job; a request that is refused makes the occurrence a skipped one, with the reason."""
    schedule_id, due_at = lease.payload["schedule_id"], datetime.fromisoformat(lease.payload["due_at"])
    with reading() as session:
        row = session.get_one(ScheduleRow, schedule_id)
    try:
        if row.kind not in kinds:
            raise InvalidRequest(f"nobody knows jobs of kind {row.kind!r}, only {', '.join(sorted(kinds))}")
        request_id = f"schedule {schedule_id} {due_at.isoformat()}"
        job_id = kinds[row.kind](row.spec, {**row.options, "request_id": request_id})
    except RequestIdReused as error:
        # An attempt that was killed had submitted it, before somebody changed the schedule.
        transact(_settle, lease, schedule_id, due_at, job_id=error.details["job_id"])
    except Unavailable as error:
        return Postponed(f"waiting: {error.body}")
    except ApiException as error:
        refusal = {"reason": storable(f"refused: {error.body}"), "emission_id": None, "is_open": False}
        transact(_settle, lease, schedule_id, due_at, state=OccurrenceState.SKIPPED.value, **refusal)
    else:
        transact(_settle, lease, schedule_id, due_at, job_id=job_id)
    return Done()


def give_up(session: Session, lease: Lease) -> None:
    """End an occurrence whose unit died of errors that nobody foresaw; the unit is kept, with the last of them."""
    ledger.check(session, lease)
    unit = session.scalars(select(UnitRow).where(UnitRow.job_id == lease.job_id, UnitRow.kind == FIRE)).one()
    _settle(
        session,
        lease,
        unit.payload["schedule_id"],
        datetime.fromisoformat(unit.payload["due_at"]),
        state=OccurrenceState.SKIPPED.value,
        reason=storable(f"submitting failed: {unit.last_error}"),
        emission_id=None,
        is_open=False,
    )


def _settle(session: Session, /, lease: Lease, schedule_id: str, due_at: datetime, **values: Any) -> None:
    """Write what became of the occurrence, and close the job that submitted."""
    ledger.check(session, lease)
    session.execute(
        update(OccurrenceRow)
        .where(OccurrenceRow.schedule_id == schedule_id, OccurrenceRow.due_at == due_at)
        .values(**values),
        execution_options={"synchronize_session": False},
    )
    ledger.close(session, lease.job_id)
