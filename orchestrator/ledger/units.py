"""Units of work: adding, counting, listing, cancelling and retrying them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, insert_ignoring, reading
from orchestrator.errors import JobNotFound
from orchestrator.ids import new_id
from orchestrator.ledger import queries
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.models import ATTEMPTS, NewUnit, Progress, UnitSummary
from orchestrator.ledger.tables import JobRow, UnitRow, is_unfinished


def add(session: Session, job_id: str, units: Iterable[NewUnit]) -> int:
    """Add units to a job; those whose key the job already has are passed over. Returns how many are new."""
    job = session.get_one(JobRow, job_id)
    # From the database: a submitter whose clock runs ahead must not make units due in the future.
    created = session.scalar(select(db_now()))
    return insert_ignoring(
        session,
        UnitRow,
        [
            {
                "id": new_id(),
                "job_id": job_id,
                "key": unit.key,
                "kind": unit.kind,
                "job_kind": job.kind,
                "project_id": job.project_id,
                "queue": unit.queue.value,
                "gate": unit.gate,
                "rank": -job.priority,
                "payload": dict(unit.payload),
                "state": UnitState.READY.value,
                "attempt": 0,
                "max_attempts": unit.max_attempts,
                "postponements": 0,
                "not_before": created,
                "done_count": unit.done,
                "failed_count": unit.failed,
                "in_flight": 0,
                "stale_writes": 0,
                "created_at": created,
            }
            for unit in units
        ],
    )


def progress(session: Session, job_id: str) -> Progress:
    """The job's counts, summed over its units.

    Raises:
        JobNotFound: the ledger has no such job.
    """
    rows = session.execute(
        select(
            UnitRow.state,
            func.count(),
            func.sum(UnitRow.done_count),
            func.sum(UnitRow.failed_count),
            func.sum(UnitRow.in_flight),
        )
        .where(UnitRow.job_id == job_id)
        .group_by(UnitRow.state)
    ).all()
    if not rows:
        raise JobNotFound(f"No job {job_id!r}")
    return Progress(
        done=int(sum(row[2] for row in rows)),
        failed=int(sum(row[3] for row in rows)),
        in_flight=int(sum(row[4] for row in rows)),
        units={row[0]: row[1] for row in rows},
    )


def cancel(session: Session, job_id: str, *, but: str | None = None) -> int:
    """Cancel whatever the job has left to do, except the unit `but`.

    Attempts at work find out at their next write.
    """
    # A finishing unit is added under this lock.
    session.execute(select(JobRow.id).where(JobRow.id == job_id).with_for_update(key_share=True))
    statement = (
        update(UnitRow)
        .where(UnitRow.job_id == job_id, is_unfinished(), UnitRow.id != (but or ""))
        .values(
            state=UnitState.CANCELLED,
            finished_at=db_now(),
            lease_owner=None,
            lease_expires_at=None,
            in_flight=0,
        )
    )
    # An attempt whose unit this had to wait for may have added units meanwhile, which a statement of
    # PostgreSQL that began before does not see. The next does; and no attempt is left to add more.
    cancelled = _change(session, statement)
    return cancelled + _change(session, statement)


def wake(session: Session, job_ids: Collection[str]) -> int:
    """Let what the jobs have left to do go on at once, whatever it was waiting for; returns how many units.

    A unit at work comes back at once if it ends as `Again`: it may not have seen what it is woken for.
    """
    waiting = (UnitRow.state == UnitState.READY) & (UnitRow.not_before > db_now())
    return _change(
        session,
        update(UnitRow)
        .where(UnitRow.job_id.in_(job_ids), is_unfinished())
        .where(waiting | (UnitRow.state == UnitState.LEASED))
        .values(not_before=db_now()),
    )


def retry(session: Session, job_id: str, *, unit_ids: Sequence[str] | None = None, keeps_failures: bool = False) -> int:
    """Make the job's units that died, failed in part or were cancelled ready again, with fresh attempts.

    What such a unit has stored stays: the next attempt does only what is missing. `keeps_failures` says that this
    is true of its failures as well, and so of their count. A job that has ended must be reopened in the same
    transaction, or its units wait for ever.
    """
    failed = (UnitRow.state == UnitState.DONE) & (UnitRow.failed_count > 0)
    statement = update(UnitRow).where(
        UnitRow.job_id == job_id,
        UnitRow.state.in_((UnitState.DEAD, UnitState.CANCELLED)) | failed,
        # A job is finished anew once the rest is done, by a unit of its own.
        UnitRow.kind != UnitRow.job_kind + ".finish",
    )
    if unit_ids is not None:
        statement = statement.where(UnitRow.id.in_(unit_ids))
    return _change(
        session,
        statement.values(
            state=UnitState.READY,
            max_attempts=UnitRow.attempt + ATTEMPTS,
            postponements=0,
            failed_count=UnitRow.failed_count if keeps_failures else 0,
            not_before=db_now(),
            published_at=None,
            finished_at=None,
        ),
    )


def list_units(job_id: str | None = None, *, states: Sequence[UnitState] = (), limit: int = 50) -> list[UnitSummary]:
    """Units in the given states (all by default), of one job or of all, newest job first."""
    with reading() as session:
        rows = session.scalars(queries.units_of(job_id, tuple(states), limit)).all()
    return [UnitSummary(**{name: getattr(row, name) for name in UnitSummary.__slots__}) for row in rows]


def _change(session: Session, statement: Any) -> int:
    outcome = session.execute(statement, execution_options={"synchronize_session": False})
    return cast(CursorResult[Any], outcome).rowcount
