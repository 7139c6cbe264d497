"""Dispatch: keeps a shallow window of units in the broker, fairly over projects.

It may run anywhere, any number of times at once: a unit is published by whoever moves its row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import structlog
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, exclusive, reading, skip_locked, transact
from orchestrator.errors import Unavailable
from orchestrator.ledger import queries
from orchestrator.ledger.fairness import Claimant, share_out
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.models import Published
from orchestrator.ledger.tables import ShareRow, UnitRow
from orchestrator.queues import UNIT_QUEUES, CeleryPublisher, Publisher
from orchestrator.settings import settings

log = structlog.get_logger(__name__)


def dispatch(publisher: Publisher | None = None) -> int:
    """Publish ready units until every queue's window is full; returns how many.

    With the broker away nothing is published and nothing is lost: the units stay ready.
    """
    publisher = publisher or CeleryPublisher()
    return sum(_dispatch_queue(queue.value, publisher) for queue in UNIT_QUEUES)


def nudge() -> None:
    """`dispatch` for whoever has just committed: should it fail, beat's next tick does the same.

    Nothing is raised, since what the caller was asked to do is done.
    """
    try:
        dispatch()
    except Exception:
        log.exception("nudge_failed")


def top_up(publisher: Publisher | None = None) -> int:
    """As `dispatch`, but leave alone the queues whose window is still half full: for whoever ends a unit."""
    publisher = publisher or CeleryPublisher()
    with reading() as session:
        lacking = [queue.value for queue in UNIT_QUEUES if _is_lacking(session, queue.value)]
    return sum(_dispatch_queue(queue, publisher) for queue in lacking)


def _is_lacking(session: Session, queue: str) -> bool:
    published, has_due = session.execute(queries.backlog(queue)).one()
    return has_due and published * 2 <= settings().dispatch_window


def _dispatch_queue(queue: str, publisher: Publisher) -> int:
    units = transact(choose, queue)
    # The rows say `published` first. Killed here, reconcile publishes them again; the other way
    # round, a message could arrive before its unit may be claimed.
    try:
        if units:
            publisher.publish(units)
    except Unavailable as error:
        transact(take_back, units)
        log.warning("broker_away", queue=queue, units=len(units), error=error.body)
        return 0
    return len(units)


def choose(session: Session, queue: str) -> list[Published]:
    """Pick units to fill the queue's window, mark them published, and return them in order."""
    exclusive(session, f"dispatch:{queue}")
    room = settings().dispatch_window - (session.scalar(queries.published_count(queue)) or 0)
    if room <= 0:
        return []
    waiting: dict[str, deque[Published]] = {}
    claimants: dict[str, Claimant] = {}
    owed = {row.project_id: row.deficit for row in session.scalars(select(ShareRow).where(ShareRow.queue == queue))}
    for project_id, weight in session.execute(queries.waiting_projects(queue)):
        # One more than there is room for shows who is left waiting, and so is owed something.
        found = session.execute(skip_locked(queries.publishable(queue, project_id, room + 1), session, UnitRow))
        waiting[project_id] = deque(Published(*row) for row in found)
        claimants[project_id] = Claimant(len(waiting[project_id]), weight, owed.get(project_id, 0.0))
    chosen = [waiting[project_id].popleft() for project_id in share_out(claimants, room)]
    _remember_shares(session, queue, claimants)
    _mark_published(session, [unit.id for unit in chosen])
    return chosen


def take_back(session: Session, units: Sequence[Published]) -> None:
    """Units that could not be published are ready again, unless somebody has claimed them meanwhile."""
    session.execute(
        update(UnitRow)
        .where(UnitRow.id.in_([unit.id for unit in units]), UnitRow.state == UnitState.PUBLISHED)
        .values(state=UnitState.READY, published_at=None),
        execution_options={"synchronize_session": False},
    )


def _mark_published(session: Session, unit_ids: Sequence[str]) -> None:
    if unit_ids:
        session.execute(
            update(UnitRow)
            .where(UnitRow.id.in_(unit_ids), UnitRow.state == UnitState.READY)
            .values(state=UnitState.PUBLISHED, published_at=db_now()),
            execution_options={"synchronize_session": False},
        )


def _remember_shares(session: Session, queue: str, claimants: dict[str, Claimant]) -> None:
    # Only a project that was left waiting is owed anything; with one project nothing is written.
    owed = {project_id: claimant.deficit for project_id, claimant in claimants.items() if claimant.deficit}
    if owed or len(claimants) > 1:
        session.execute(delete(ShareRow).where(ShareRow.queue == queue))
    if owed:
        rows = [{"queue": queue, "project_id": project_id, "deficit": owed[project_id]} for project_id in owed]
        session.execute(insert(ShareRow), rows)
