"""Reconcile: makes the ledger and the world agree again after something died.

It runs from beat, and may run anywhere any number of times at once: it only makes compare-and-sets.
Every sweep takes a bounded batch, returns counts, and is silent when there was nothing to do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, cast

import structlog
from sqlalchemy import CursorResult, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, reading, skip_locked, transact
from orchestrator.errors import Unavailable
from orchestrator.ledger import jobs, queries
from orchestrator.ledger.leases import rescue_values
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.tables import UnitRow
from orchestrator.queues import UNIT_QUEUES, CeleryPublisher, Publisher, QueueName
from orchestrator.settings import settings

log = structlog.get_logger(__name__)

#: Rows that one sweep takes at most, so that its transaction stays short.
BATCH = 500


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What one run put right."""

    rescued: int = 0  #: units whose owner fell silent: ready again, or dead
    republished: int = 0  #: units whose message got lost: ready again
    finishing: int = 0  #: jobs with nothing left to do: their finishing unit was added


def reconcile(publisher: Publisher | None = None) -> Reconciled:
    """Run every sweep once."""
    publisher = publisher or CeleryPublisher()
    done = Reconciled(
        rescued=transact(rescue),
        republished=sum(_find_lost(queue.value, publisher) for queue in UNIT_QUEUES),
        finishing=finish_drained(),
    )
    if done != Reconciled():
        log.info("reconciled", **asdict(done))
    return done


def rescue(session: Session, *, limit: int = BATCH) -> int:
    """Take units from owners that fell silent."""
    silent = session.scalars(skip_locked(queries.abandoned(limit), session, UnitRow)).all()
    if not silent:
        return 0
    return _change(
        session,
        update(UnitRow)
        .where(UnitRow.id.in_(silent), UnitRow.state == UnitState.LEASED, UnitRow.lease_expires_at < db_now())
        .values(**rescue_values()),
    )


def requeue(session: Session, queue: str, age: timedelta, *, limit: int = BATCH) -> int:
    """Make units ready whose message nobody has taken for `age`; a late message is harmless."""
    lost = session.scalars(skip_locked(queries.unclaimed(queue, age, limit), session, UnitRow)).all()
    if not lost:
        return 0
    return _change(
        session,
        update(UnitRow)
        .where(UnitRow.id.in_(lost), UnitRow.state == UnitState.PUBLISHED)
        .values(state=UnitState.READY, published_at=None),
    )


def finish_drained(*, limit: int = BATCH) -> int:
    """Add the finishing unit of every job that has nothing else left to do."""
    with reading() as session:
        drained = session.scalars(queries.drained_jobs(limit)).all()
    return sum(transact(jobs.finish_if_drained, job_id) for job_id in drained)


def _find_lost(queue: str, publisher: Publisher) -> int:
    try:
        waiting = publisher.depth(queue)
    except Unavailable:
        return 0  # nothing can be published now, and dispatch says so
    if waiting == 0:
        return transact(requeue, queue, timedelta(seconds=settings().republish_empty_seconds))
    with reading() as session:
        published = session.scalar(queries.published_count(queue)) or 0
    # A queue that is slow has its messages still: published again, they would make it slower, and so on for ever.
    # Where ticks wait as well, nobody can tell.
    lacking = min(published if queue == QueueName.TRAINING else published - waiting, BATCH)
    if lacking <= 0:
        return 0
    return transact(requeue, queue, timedelta(seconds=settings().republish_seconds), limit=lacking)


def _change(session: Session, statement: Any) -> int:
    outcome = session.execute(statement, execution_options={"synchronize_session": False})
    return cast(CursorResult[Any], outcome).rowcount
