"""Dispatch: keeps a shallow window of units in the broker, fairly over projects.

It may run anywhere, any number of times at once: a unit is published by whoever moves its row.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import structlog
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, exclusive, of_each, reading, skip_locked, transact
from orchestrator.errors import Unavailable
from orchestrator.ledger import gates, queries
from orchestrator.ledger.fairness import Claimant, newcomers, share_out
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.models import Published
from orchestrator.ledger.tables import ShareRow, UnitRow
from orchestrator.queues import CeleryPublisher, Publisher
from orchestrator.settings import settings

log = structlog.get_logger(__name__)


def dispatch(publisher: Publisher | None = None) -> int:
    """Publish ready units until every queue's window is full; returns how many.

    With the broker away nothing is published and nothing is lost: the units stay ready.
    """
    publisher = publisher or CeleryPublisher()
    with reading() as session:
        waiting = session.scalars(queries.waiting_queues()).all()
    return sum(_dispatch_queue(queue, publisher) for queue in waiting)


def top_up(project_id: str, publisher: Publisher | None = None) -> int:
    """As `dispatch`, for whoever ends a unit of the project: only the queues that lack something.

    A window that is still half full is left alone, unless the project has nothing in it.
    """
    publisher = publisher or CeleryPublisher()
    with reading() as session:
        waiting = session.scalars(queries.waiting_queues()).all()
        lacking = [queue for queue in waiting if _is_lacking(session, queue, project_id)]
    return sum(_dispatch_queue(queue, publisher) for queue in lacking)


def _is_lacking(session: Session, queue: str, project_id: str) -> bool:
    published, mine, any_could, mine_could = session.execute(queries.backlog(queue, project_id)).one()
    return (any_could and published * 2 <= settings().dispatch_window) or (mine_could and not mine)


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
    window = settings().dispatch_window
    published: dict[str, int] = dict(session.execute(queries.published_by_project(queue)).all())
    room = max(0, window - sum(published.values()))
    rooms = gates.rooms(session)
    barred = [name for name, places in rooms.items() if places == 0]
    waiting: dict[str, deque[Published]] = {}
    claimants: dict[str, Claimant] = {}
    owed = {row.project_id: row.deficit for row in session.scalars(select(ShareRow).where(ShareRow.queue == queue))}
    projects = session.scalars(queries.waiting_projects(), {"queue": queue}).all()
    # Four times its share, for the heavy ones and for what others leave; and one more, which shows who is
    # left waiting and is owed something.
    most = min(room, 4 * math.ceil(room / max(1, len(projects)))) + 1
    asked = [project_id for project_id in projects if room or project_id not in published]
    parameters = {"queue": queue, "barred": barred, "limit": most}
    found = of_each(session, asked, lambda each: skip_locked(queries.publishable(each), session, UnitRow), parameters)
    for project_id, rows in groupby(found, key=itemgetter(0)):
        units = list(rows)
        waiting[project_id] = deque(let_through((Published(*unit[1:-1]) for unit in units), rooms))
        weight = max(unit.weight for unit in units)
        claimants[project_id] = Claimant(len(waiting[project_id]), weight, owed.get(project_id, 0.0))
    places = share_out(claimants, room)
    places += newcomers(claimants, {*published, *places}, window)
    chosen = [waiting[project_id].popleft() for project_id in places]
    _remember_shares(session, queue, claimants)
    _mark_published(session, [unit.id for unit in chosen])
    return chosen


def let_through(units: Iterable[Published], rooms: Mapping[str, int]) -> Iterator[Published]:
    """The units, in order, as far as their gates have room for them."""
    left = dict(rooms)
    for unit in units:
        if unit.gate is not None and unit.gate in left:
            if left[unit.gate] == 0:
                continue
            left[unit.gate] -= 1
        yield unit


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
