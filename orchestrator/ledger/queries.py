"""Named selects over the ledger: each says in one line which rows it finds."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from functools import lru_cache

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.orm import aliased

from orchestrator.database import db_now
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.tables import GateRow, JobRow, UnitRow, is_unfinished
from orchestrator.queues import UNIT_QUEUES


def _is_ready(queue: str | BindParameter[str]) -> ColumnElement[bool]:
    return and_(UnitRow.state == UnitState.READY, UnitRow.queue == queue, UnitRow.not_before <= db_now())


def _due(queue: str) -> ColumnElement[bool]:
    startable = select(JobRow.id).where(JobRow.id == UnitRow.job_id, ~JobRow.paused).exists()
    return and_(_is_ready(queue), startable)


@lru_cache(maxsize=1)
def waiting_projects() -> Select[str]:
    """Projects with a ready unit on the queue, by name; `publishable` says which of them may go. Parameter: queue.

    A skip scan: the index is asked for one project after the other, so that neither thousands of units
    of one nor thousands of open jobs are looked at.
    """
    ready = select(func.min(UnitRow.project_id)).where(
        UnitRow.state == UnitState.READY, UnitRow.queue == bindparam("queue")
    )
    found = select(ready.subquery().c[0].label("project_id")).cte("found", recursive=True)
    following = ready.where(UnitRow.project_id > found.c.project_id).scalar_subquery()
    found = found.union_all(select(following).where(found.c.project_id.is_not(None)))
    return select(found.c.project_id).where(found.c.project_id.is_not(None))


@lru_cache(maxsize=1)
def waiting_queues() -> Select[str]:
    """Queues with a ready unit; one look into the index for each."""
    looks = [
        select(literal(queue.value)).where(
            select(UnitRow.id).where(UnitRow.state == UnitState.READY, UnitRow.queue == queue.value).exists()
        )
        for queue in UNIT_QUEUES
    ]
    return select(union_all(*looks).subquery().c[0])


def publishable(project_id: ColumnElement[str]) -> Select[str, str, str, str, str, str, str | None, int]:
    """What to publish of a project's due units on a queue, by priority and then age: the project, the unit, its weight.

    Parameters: queue, barred, limit.
    """
    unit = UnitRow.id, UnitRow.kind, UnitRow.queue, UnitRow.job_id, UnitRow.key, UnitRow.gate
    return (
        select(UnitRow.project_id, *unit, JobRow.weight)
        .join(JobRow, JobRow.id == UnitRow.job_id)
        .where(_is_ready(bindparam("queue")), ~JobRow.paused)
        .where(or_(UnitRow.gate.is_(None), UnitRow.gate.not_in(bindparam("barred", expanding=True))))
        .where(UnitRow.project_id == project_id)
        .order_by(UnitRow.rank, UnitRow.id)
        .limit(bindparam("limit", type_=Integer()))
    )


def published_count(queue: str) -> Select[int]:
    """How many units of `queue` are in the broker, as far as the ledger knows."""
    return select(func.count()).select_from(UnitRow).where(UnitRow.state == UnitState.PUBLISHED, UnitRow.queue == queue)


def published_by_project(queue: str | None = None, age: timedelta = timedelta()) -> Select[str, int]:
    """How many units of `queue`, or of all, each project has had in the broker for at least `age`."""
    statement = select(UnitRow.project_id, func.count()).where(
        UnitRow.state == UnitState.PUBLISHED, UnitRow.published_at <= db_now(-age)
    )
    return (statement if queue is None else statement.where(UnitRow.queue == queue)).group_by(UnitRow.project_id)


def leased_by_project(queue: str | None = None) -> Select[str, int]:
    """How many units of `queue`, or of all, each project has at work."""
    statement = select(UnitRow.project_id, func.count()).where(UnitRow.state == UnitState.LEASED)
    return (statement if queue is None else statement.where(UnitRow.queue == queue)).group_by(UnitRow.project_id)


def weights(project_ids: Collection[str]) -> Select[str, int]:
    """The weight of each of the projects that has an open job."""
    return (
        select(JobRow.project_id, func.max(JobRow.weight))
        .where(JobRow.closed_at.is_(None), JobRow.project_id.in_(project_ids))
        .group_by(JobRow.project_id)
    )


def first_published(queue: str, kind: str, project_id: str) -> Select[str]:
    """The project's unit of this kind in the broker that should go first."""
    return (
        select(UnitRow.id)
        .where(UnitRow.state == UnitState.PUBLISHED, UnitRow.queue == queue)
        .where(UnitRow.kind == kind, UnitRow.project_id == project_id)
        .order_by(UnitRow.rank, UnitRow.id)
        .limit(1)
    )


def gates_in_use() -> Select[str, int, bool, int | None, int | None, int]:
    """Gates that may hold units back: name, failures, whether shut now, limit, width, units at work or about to be."""
    busy = (
        union_all(
            *(
                select(UnitRow.gate).where(UnitRow.state == state, UnitRow.gate.is_not(None))
                for state in (UnitState.LEASED, UnitState.PUBLISHED)
            )
        )
    ).subquery()
    counts = select(busy.c.gate, func.count().label("units")).group_by(busy.c.gate).subquery()
    return (
        select(
            GateRow.name,
            GateRow.failures,
            func.coalesce(GateRow.shut_until > db_now(), False),
            GateRow.limit,
            GateRow.width,
            func.coalesce(counts.c.units, 0),
        )
        .outerjoin(counts, counts.c.gate == GateRow.name)
        .where(or_(GateRow.failures > 0, GateRow.limit.is_not(None), GateRow.width.is_not(None)))
    )


def backlog(queue: str, project_id: str) -> Select[int, int, bool, bool]:
    """Units of `queue` in the broker, the project's among them; whether any, or any of its, could follow."""
    published = UnitRow.state == UnitState.PUBLISHED, UnitRow.queue == queue
    mine = select(func.count()).select_from(UnitRow).where(*published, UnitRow.project_id == project_id)
    could_follow = select(UnitRow.id).where(_due(queue))
    return select(
        published_count(queue).scalar_subquery(),
        mine.scalar_subquery(),
        could_follow.exists(),
        could_follow.where(UnitRow.project_id == project_id).exists(),
    )


def abandoned(limit: int) -> Select[str]:
    """Leased units whose owner fell silent, oldest first."""
    return (
        select(UnitRow.id)
        .where(UnitRow.state == UnitState.LEASED, UnitRow.lease_expires_at < db_now())
        .order_by(UnitRow.lease_expires_at)
        .limit(limit)
    )


def unclaimed(queue: str, age: timedelta, limit: int) -> Select[str]:
    """Units of `queue` published at least `age` ago that nobody claimed, oldest first."""
    return (
        select(UnitRow.id)
        .where(UnitRow.state == UnitState.PUBLISHED, UnitRow.queue == queue, UnitRow.published_at < db_now(-age))
        .order_by(UnitRow.published_at, UnitRow.id)
        .limit(limit)
    )


def drained_jobs(limit: int) -> Select[str]:
    """Open jobs with nothing left to do, oldest first: nobody finishes them yet, or who did failed to."""
    unfinished = select(UnitRow.id).where(UnitRow.job_id == JobRow.id, is_unfinished()).exists()
    finisher = aliased(UnitRow)
    finished = select(finisher.id).where(finisher.id == JobRow.finish_unit_id, finisher.state == UnitState.DONE)
    return (
        select(JobRow.id)
        .where(JobRow.closed_at.is_(None), ~unfinished)
        .where(or_(JobRow.finish_unit_id.is_(None), ~finished.exists()))
        .order_by(JobRow.id)
        .limit(limit)
    )


def units_of(job_id: str | None, states: tuple[UnitState, ...], limit: int) -> Select[UnitRow]:
    """Units in the given states (all when empty), of one job or of all, newest job first."""
    statement = select(UnitRow).order_by(UnitRow.job_id.desc(), UnitRow.id).limit(limit)
    if job_id is not None:
        statement = statement.where(UnitRow.job_id == job_id)
    return statement.where(UnitRow.state.in_(states)) if states else statement
