"""Jobs with units for tests of the ledger, and publishers that remember, refuse or die."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import update

from orchestrator import ledger
from orchestrator.database import db_now, reading, transact, writing
from orchestrator.errors import Unavailable
from orchestrator.ids import new_id
from orchestrator.ledger import Lease, NewUnit, Outcome, UnitState
from orchestrator.ledger.tables import JobRow, UnitRow
from orchestrator.queues import Publishable, QueueName

T = TypeVar("T")

KIND = "test"
#: Longer ago than any lease, delay or message is waited for.
LONG_AGO = db_now(timedelta(days=-1))


class Wire:
    """A broker that keeps what it is given, in order, and never fails."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def publish(self, units: Iterable[Publishable]) -> None:
        self.sent.extend(unit.id for unit in units)

    def depth(self, queue: str) -> int:
        return len(self.sent)


class AwayWire(Wire):
    """A broker that does not answer."""

    def publish(self, units: Iterable[Publishable]) -> None:
        raise Unavailable("the broker does not answer")

    def depth(self, queue: str) -> int:
        raise Unavailable("the broker does not answer")


class PowerCut(BaseException):
    """The process ends here: nothing may catch this and go on."""


class DyingWire(Wire):
    """Kills the process between the ledger's commit and the first message."""

    def publish(self, units: Iterable[Publishable]) -> None:
        raise PowerCut


def open_job(
    units: int = 0,
    *,
    project: str = "project",
    weight: int = 1,
    priority: int = 0,
    max_attempts: int = ledger.models.ATTEMPTS,
    queue: QueueName = QueueName.INFERENCE,
) -> str:
    """A job of `units` units, all on one queue; returns its id."""
    job_id = new_id()
    new = [NewUnit(f"{KIND}.work", f"unit {n}", queue, {"n": n}, max_attempts) for n in range(max(units, 1))]
    with writing() as session:
        ledger.open_job(
            session, job_id=job_id, kind=KIND, project_id=project, weight=weight, priority=priority, first=new[0]
        )
        ledger.add(session, job_id, new[1:])
    return job_id


def one_unit(**options: Any) -> str:
    """The id of the only unit of a new job."""
    return unit_ids(open_job(1, **options))[0]


def rows(job_id: str) -> list[UnitRow]:
    """The job's units, oldest first."""
    with reading() as session:
        return list(session.scalars(ledger.queries.units_of(job_id, (), 1_000_000)))


def unit_ids(job_id: str) -> list[str]:
    return [row.id for row in rows(job_id)]


def row(unit_id: str) -> UnitRow:
    with reading() as session:
        return session.get_one(UnitRow, unit_id)


def job_row(job_id: str) -> JobRow:
    with reading() as session:
        return session.get_one(JobRow, job_id)


def state(unit_id: str) -> UnitState:
    return UnitState(row(unit_id).state)


def claimed(unit_id: str, owner: str = "worker") -> Lease:
    """The lease of a claim that must succeed."""
    lease = ledger.claim(unit_id, owner)
    assert lease is not None, f"{unit_id} is {row(unit_id).state}"
    return lease


def lease_of(unit_id: str) -> Lease:
    """What the unit's latest attempt holds in its hands, whether or not it still owns the unit."""
    found = row(unit_id)
    values = {name: getattr(found, name) for name in Lease.__slots__ if name not in ("unit_id", "owner")}
    return Lease(unit_id=unit_id, owner=found.lease_owner or "worker", **values)


def settle(lease: Lease, outcome: Outcome) -> None:
    transact(ledger.settle, lease, outcome)


def fall_silent(unit_id: str) -> None:
    """Let the unit's lease run out, as if nobody had renewed it."""
    _set(unit_id, lease_expires_at=LONG_AGO)


def become_due(unit_id: str) -> None:
    """Let the unit's delay pass."""
    _set(unit_id, not_before=LONG_AGO)


def published_long_ago(unit_id: str) -> None:
    """Let the unit's message be older than any that is still waited for."""
    _set(unit_id, published_at=LONG_AGO)


def put_in(unit_id: str, wanted: UnitState) -> None:
    """Bring a fresh unit into a state by the ledger's own moves."""
    if wanted is UnitState.PUBLISHED:
        ledger.dispatch(Wire())
    elif wanted is UnitState.CANCELLED:
        transact(ledger.cancel, row(unit_id).job_id)
    elif wanted is not UnitState.READY:
        lease = claimed(unit_id)
        if wanted is UnitState.DONE:
            settle(lease, ledger.Done())
        elif wanted is UnitState.DEAD:
            settle(lease, ledger.Hopeless("broken"))
    assert state(unit_id) is wanted


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls return, each made by a thread of its own, all at the same moment."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def _set(unit_id: str, **values: Any) -> None:
    with writing() as session:
        session.execute(update(UnitRow).where(UnitRow.id == unit_id).values(**values))
