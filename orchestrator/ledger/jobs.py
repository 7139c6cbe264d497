"""Jobs as the ledger sees them: opened, paused, finished by a unit of their own, closed."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now
from orchestrator.errors import RequestIdReused
from orchestrator.ledger import units
from orchestrator.ledger.leases import settle
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.models import Done, Failed, Hopeless, Lease, NewUnit, Outcome, Split
from orchestrator.ledger.tables import JobRow, UnitRow, is_unfinished
from orchestrator.queues import QueueName


def open_job(
    session: Session,
    *,
    job_id: str,
    kind: str,
    project_id: str,
    first: NewUnit,
    weight: int = 1,
    priority: int = 0,
    request_id: str | None = None,
) -> None:
    """Write a job and its first unit; the caller's transaction makes both of them true at once."""
    session.add(
        JobRow(id=job_id, kind=kind, project_id=project_id, weight=weight, priority=priority, request_id=request_id)
    )
    session.flush()
    units.add(session, job_id, [first])


def requested(session: Session, kind: str, request_id: str) -> str | None:
    """The job that an earlier submission with this request id made."""
    return session.scalar(select(JobRow.id).where(JobRow.kind == kind, JobRow.request_id == request_id))


def check_same(job_id: str, request_id: str, former: Mapping[str, object], asked: Mapping[str, object]) -> None:
    """Whoever asks again under a request id must ask for the same; a priority is no part of what is asked for.

    `former` is what made the job, by name; of `asked` only these names are looked at.

    Raises:
        RequestIdReused: something differs.
    """
    different = [name for name, value in former.items() if asked[name] != value]
    if different:
        raise RequestIdReused(
            f"request_id: {request_id!r} is that of job {job_id}, which was submitted with another "
            f"{', '.join(different)}: take a new one",
            job_id=job_id,
        )


def pause(session: Session, job_id: str) -> None:
    """Let no further unit of the job start; those at work stop at their next write."""
    _set(session, job_id, paused=True)
    # The message stays in the broker; whoever receives it finds the job paused and drops it.
    _forget_messages(session, job_id)


def resume(session: Session, job_id: str) -> None:
    """Undo a pause."""
    _set(session, job_id, paused=False)
    # A dispatch that ran while the job was paused may have published units, whose messages were dropped.
    _forget_messages(session, job_id)


def close(session: Session, job_id: str) -> None:
    """The job has ended: reconcile looks at it no more."""
    _set(session, job_id, closed_at=db_now(), paused=False)


def reopen(session: Session, job_id: str) -> None:
    """The job has something to do again, and will need finishing again."""
    _set(session, job_id, closed_at=None, finish_unit_id=None)


def conclude(session: Session, lease: Lease, outcome: Outcome) -> None:
    """Settle an attempt, and add the unit that finishes the job if this was the last thing to do.

    Raises:
        LeaseLost: another attempt has claimed the unit since, or it was cancelled.
    """
    # The job first: of attempts that end at once, each sees what those before it settled.
    _lock(session, lease.job_id)
    settle(session, lease, outcome)
    if isinstance(outcome, Done | Split | Failed | Hopeless):
        finish_if_drained(session, lease.job_id)


def finish_if_drained(session: Session, job_id: str) -> bool:
    """Add the unit that finishes the job, if nothing else is left to do; say whether it was added.

    Of many that try at once, one adds it. A finishing unit that died, or was cancelled without its
    job being closed, is followed by another, which its payload tells why.
    """
    job = _lock(session, job_id)
    if job is None or job.closed_at is not None or _has_unfinished(session, job_id):
        return False
    former = session.get(UnitRow, job.finish_unit_id) if job.finish_unit_id else None
    if former is not None and former.state == UnitState.DONE:
        return False
    kind = f"{job.kind}.finish"
    number = session.scalar(
        select(func.count()).select_from(UnitRow).where(UnitRow.job_id == job_id, UnitRow.kind == kind)
    )
    key = f"finish {(number or 0) + 1}"
    payload = {"former_error": former.last_error} if former is not None else {}
    units.add(session, job_id, [NewUnit(kind, key, QueueName.PLANNING, payload)])
    job.finish_unit_id = session.scalar(select(UnitRow.id).where(UnitRow.job_id == job_id, UnitRow.key == key))
    return True


def _lock(session: Session, job_id: str) -> JobRow | None:
    # The lock spares the key, which whoever adds units holds.
    return session.get(JobRow, job_id, with_for_update={"key_share": True}, populate_existing=True)


def _has_unfinished(session: Session, job_id: str) -> bool:
    unfinished = select(UnitRow.id).where(UnitRow.job_id == job_id, is_unfinished()).limit(1)
    return session.scalar(unfinished) is not None


def _forget_messages(session: Session, job_id: str) -> None:
    session.execute(
        update(UnitRow)
        .where(UnitRow.job_id == job_id, UnitRow.state == UnitState.PUBLISHED)
        .values(state=UnitState.READY, published_at=None),
        execution_options={"synchronize_session": False},
    )


def _set(session: Session, job_id: str, **values: object) -> None:
    session.execute(
        update(JobRow).where(JobRow.id == job_id).values(**values), execution_options={"synchronize_session": False}
    )
