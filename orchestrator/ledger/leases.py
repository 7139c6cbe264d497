"""Leases: how an attempt takes a unit, keeps it, writes under it and lets it go.

Every statement here is one compare-and-set on (id, attempt, state).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, assert_never, cast

from sqlalchemy import ColumnElement, CursorResult, and_, case, false, or_, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, storable, transact
from orchestrator.errors import LeaseLost
from orchestrator.ledger import units
from orchestrator.ledger.backoff import LONGEST_POSTPONEMENT, backoff
from orchestrator.ledger.lifecycle import UnitState, sources
from orchestrator.ledger.models import ATTEMPTS, Again, Done, Failed, Hopeless, Lease, Outcome, Postponed, Split
from orchestrator.ledger.tables import GateRow, JobRow, UnitRow
from orchestrator.settings import settings

#: Longer texts are cut: an error is for reading.
ERROR_LENGTH = 2000

_NEVER = false()


def claim(unit_id: str, owner: str) -> Lease | None:
    """Take the unit for `owner`, or None if it is not to be had: then drop the message.

    It is to be had when nobody works on it, or whoever did fell silent; not when it is finished,
    not yet due, out of attempts, its job is paused, or its gate is shut.
    """
    free = or_(
        UnitRow.state.in_((UnitState.READY, UnitState.PUBLISHED)),
        and_(UnitRow.state == UnitState.LEASED, UnitRow.lease_expires_at < db_now()),
    )
    paused = select(JobRow.id).where(JobRow.id == UnitRow.job_id, JobRow.paused).exists()
    shut = select(GateRow.name).where(GateRow.name == UnitRow.gate, GateRow.shut_until > db_now()).exists()
    statement = (
        update(UnitRow)
        .where(UnitRow.id == unit_id, free, UnitRow.not_before <= db_now(), ~paused, ~shut)
        .where(UnitRow.attempt < UnitRow.max_attempts)
        .values(
            state=UnitState.LEASED,
            attempt=UnitRow.attempt + 1,
            lease_owner=owner,
            lease_expires_at=db_now(settings().lease),
            started_at=db_now(),
        )
        .returning(
            UnitRow.attempt,
            UnitRow.max_attempts,
            UnitRow.kind,
            UnitRow.queue,
            UnitRow.job_id,
            UnitRow.job_kind,
            UnitRow.project_id,
            UnitRow.payload,
            UnitRow.postponements,
            UnitRow.gate,
        )
    )

    def take(session: Session) -> Lease | None:
        row = session.execute(statement, execution_options={"synchronize_session": False}).one_or_none()
        return None if row is None else Lease(unit_id=unit_id, owner=owner, **row._mapping)

    return transact(take)


def renew(lease: Lease) -> bool:
    """Extend the lease from the database's clock; say whether the job wants the unit to pause.

    Raises:
        LeaseLost: another attempt has claimed the unit since, or it was cancelled.
    """

    def extend(session: Session) -> bool:
        _write(session, lease, lease_expires_at=db_now(settings().lease))
        return is_paused(session, lease)

    return transact(extend)


def check(session: Session, lease: Lease) -> datetime:
    """Make sure, first thing in a transaction, that the lease still holds, and lock its unit; returns the time.

    Nobody can take the unit until the transaction ends. The time is that of the database.

    Raises:
        LeaseLost: another attempt has claimed the unit since, or it was cancelled.
    """
    mine = UnitRow.id == lease.unit_id, UnitRow.attempt == lease.attempt, UnitRow.state == UnitState.LEASED
    now = session.scalar(select(db_now()).select_from(UnitRow).where(*mine).with_for_update(of=UnitRow))
    if now is None:
        raise LeaseLost(lease.unit_id, lease.attempt)
    return now


def hold(session: Session, lease: Lease, *, done: int = 0, failed: int = 0, in_flight: int = 0) -> None:
    """Extend the lease inside the caller's transaction, and add to the unit's counters.

    Raises:
        LeaseLost: another attempt has claimed the unit since, or it was cancelled.
    """
    _write(
        session,
        lease,
        lease_expires_at=db_now(settings().lease),
        done_count=UnitRow.done_count + done,
        failed_count=UnitRow.failed_count + failed,
        in_flight=in_flight,
        # Whoever makes progress starts again with the shortest delay, and with all attempts to come: a unit
        # is given up for getting nowhere, not for being long and having had bad luck more than once.
        postponements=0 if done else UnitRow.postponements,
        max_attempts=_at_least(UnitRow.attempt + ATTEMPTS) if done or failed else UnitRow.max_attempts,
    )


def note(session: Session, lease: Lease, **payload: Any) -> None:
    """Add to the unit's payload what its later attempts must know.

    Raises:
        LeaseLost: another attempt has claimed the unit since, or it was cancelled.
    """
    _write(session, lease, payload={**lease.payload, **payload})


def is_paused(session: Session, lease: Lease) -> bool:
    """Whether somebody paused the lease's job."""
    return bool(session.scalar(select(JobRow.paused).where(JobRow.id == lease.job_id)))


def settle(session: Session, lease: Lease, outcome: Outcome) -> None:
    """Let the unit go as its attempt ended.

    Raises:
        LeaseLost: another attempt has claimed the unit since, or it was cancelled.
    """
    match outcome:
        case Done():
            _finish(session, lease, UnitState.DONE, None)
        case Hopeless(error):
            _finish(session, lease, UnitState.DEAD, error)
        case Split(payload, rest):
            kept = {
                "done_count": UnitRow.done_count - sum(unit.done for unit in rest),
                "failed_count": UnitRow.failed_count - sum(unit.failed for unit in rest),
            }
            _finish(session, lease, UnitState.DONE, None, payload=dict(payload), **kept)
            units.add(session, lease.job_id, rest)
        case Failed(error):
            # Not what the lease says: progress since the claim begins the count anew.
            left = (
                session.scalar(select(UnitRow.max_attempts).where(UnitRow.id == lease.unit_id)) or 0
            ) - lease.attempt
            if left <= 0:
                _finish(session, lease, UnitState.DEAD, error)
            else:
                _put_back(session, lease, backoff(ATTEMPTS - left), last_error=_excerpt(error))
        case Again(delay):
            back = timedelta(seconds=delay)
            _put_back(session, lease, back, _was_woken(), max_attempts=_at_least(lease.max_attempts + 1))
        case Postponed(reason):
            _put_back(
                session,
                lease,
                # Not what the lease says: progress since the claim begins the count anew.
                min(backoff(_postponements(session, lease) + 1), LONGEST_POSTPONEMENT),
                max_attempts=_at_least(lease.max_attempts + 1),
                postponements=UnitRow.postponements + 1,
                last_error=_excerpt(reason),
            )
        case _:
            assert_never(outcome)


def count_stale_write(lease: Lease) -> None:
    """Remember on the unit that an attempt without a lease tried to write and was refused."""

    def count(session: Session) -> None:
        session.execute(
            update(UnitRow).where(UnitRow.id == lease.unit_id).values(stale_writes=UnitRow.stale_writes + 1),
            execution_options={"synchronize_session": False},
        )

    transact(count)


def _postponements(session: Session, lease: Lease) -> int:
    return session.scalar(select(UnitRow.postponements).where(UnitRow.id == lease.unit_id)) or 0


def rescue_values() -> dict[str, Any]:
    """The columns of a unit whose attempt fell silent: back to ready, or dead when none is left."""
    spent = UnitRow.attempt >= UnitRow.max_attempts
    silence = "the attempt fell silent: its process was killed, froze, or lost the database"
    return {
        "state": case((spent, UnitState.DEAD.value), else_=UnitState.READY.value),
        "finished_at": case((spent, db_now()), else_=None),
        "lease_owner": None,
        "lease_expires_at": None,
        "in_flight": 0,
        "not_before": db_now(),
        "published_at": None,
        "last_error": silence,
    }


def _at_least(attempts: ColumnElement[int] | int) -> ColumnElement[int]:
    return case((UnitRow.max_attempts < attempts, attempts), else_=UnitRow.max_attempts)


def _finish(session: Session, lease: Lease, state: UnitState, error: str | None, **values: Any) -> None:
    _write(
        session,
        lease,
        to=state,
        lease_owner=None,
        lease_expires_at=None,
        in_flight=0,
        finished_at=db_now(),
        last_error=None if error is None else _excerpt(error),
        **values,
    )


def _excerpt(error: str) -> str:
    return storable(error[:ERROR_LENGTH])


def _was_woken() -> ColumnElement[bool]:
    """Whether `units.wake` met the attempt at work: it may not have seen what it was woken for."""
    return UnitRow.not_before > UnitRow.started_at


def _put_back(
    session: Session, lease: Lease, delay: timedelta, at_once: ColumnElement[bool] = _NEVER, **values: Any
) -> None:
    _write(
        session,
        lease,
        to=UnitState.READY,
        lease_owner=None,
        lease_expires_at=None,
        in_flight=0,
        published_at=None,
        not_before=case((at_once, db_now()), else_=db_now(delay)),
        **values,
    )


def _write(session: Session, lease: Lease, *, to: UnitState = UnitState.LEASED, **values: Any) -> None:
    outcome = session.execute(
        update(UnitRow)
        .where(UnitRow.id == lease.unit_id, UnitRow.attempt == lease.attempt, UnitRow.state == UnitState.LEASED)
        .where(UnitRow.state.in_(sources(to)))
        .values(state=to, **values),
        execution_options={"synchronize_session": False},
    )
    if cast(CursorResult[Any], outcome).rowcount != 1:
        raise LeaseLost(lease.unit_id, lease.attempt)
