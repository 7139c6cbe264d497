"""Whose turn it is once units are in the broker: a queue there is first in, first out, and fair shares are not.

Dispatch shares out places in the broker. What waits there may have to wait behind long units of
others; so a message only says that a unit of its kind may start, which one is decided when it is
claimed, and a unit at work gives way when somebody with a smaller share waits.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from orchestrator.database import reading
from orchestrator.ledger import queries
from orchestrator.ledger.fairness import share_at_work
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.models import Lease
from orchestrator.ledger.pulses import SILENCE, pulses
from orchestrator.ledger.tables import UnitRow
from orchestrator.queues import UNIT_QUEUES

#: What has been in the broker for less is about to be claimed: there is a worker free.
NOTICEABLE = timedelta(seconds=0.25)


def whose_turn(unit_id: str) -> str:
    """The unit to claim on a message that names `unit_id`: that, or one of the same kind that should go before it.

    It goes before if its project has less of the workers. The unit passed over is claimed on the
    other's message. Which of them had been lost, if one was, makes no difference.
    """
    with reading() as session:
        named = session.execute(
            select(UnitRow.queue, UnitRow.kind, UnitRow.project_id, UnitRow.state).where(UnitRow.id == unit_id)
        ).one_or_none()
        if named is None:
            return unit_id
        waiting = _counts(session, queries.published_by_project(named.queue))
        if named.state == UnitState.READY:
            waiting.setdefault(named.project_id, 1)
        if set(waiting) <= {named.project_id} and named.state != UnitState.LEASED:
            return unit_id
        busy = _counts(session, queries.leased_by_project(named.queue))
        weights = _counts(session, queries.weights([*waiting]))
        # Of equals, the one that the message names.
        order = sorted(waiting, key=lambda name: (share_at_work(busy, weights, name, 1), name != named.project_id))
        for project_id in order:
            if project_id == named.project_id and named.state != UnitState.LEASED:
                return unit_id
            found = session.scalar(queries.first_published(named.queue, named.kind, project_id))
            if found is not None:
                return found
        return unit_id


def gives_way(session: Session, lease: Lease) -> bool:
    """Whether a project waits that, with one unit more, has no greater share of the workers than the lease's now.

    On whatever queue the same workers serve: its plan may wait for the slot in which this unit infers.
    """
    published = queries.published_by_project(age=NOTICEABLE)
    if not _counts(session, published).keys() - {lease.project_id}:
        return False
    here = UnitRow.queue.in_(_served_beside(session, lease.queue))
    waiting = _counts(session, published.where(here))
    waiting.pop(lease.project_id, None)
    busy = _counts(session, queries.leased_by_project().where(here))
    weights = _counts(session, queries.weights([*waiting, lease.project_id]))
    mine = share_at_work(busy, weights, lease.project_id)
    return any(share_at_work(busy, weights, name, 1) <= mine for name in waiting)


def _served_beside(session: Session, queue: str) -> set[str]:
    """The queues that workers of `queue` serve; every queue as long as none of them has announced itself."""
    served = (worker.details.get("queues", ()) for worker in pulses(session, "worker:") if worker.age <= SILENCE)
    return {name for queues in served if queue in queues for name in queues} or {name.value for name in UNIT_QUEUES}


def _counts(session: Session, statement: Select[str, int]) -> dict[str, int]:
    return dict(session.execute(statement).all())
