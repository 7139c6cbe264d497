"""Named selects over the ledger: each says in one line which rows it finds."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import aliased

from orchestrator.database import db_now
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.tables import JobRow, UnitRow, is_unfinished


def _due(queue: str) -> ColumnElement[bool]:
    ready = and_(UnitRow.state == UnitState.READY, UnitRow.queue == queue, UnitRow.not_before <= db_now())
    startable = select(JobRow.id).where(JobRow.id == UnitRow.job_id, ~JobRow.paused).exists()
    return and_(ready, startable)


def waiting_projects(queue: str) -> Select[str, int]:
    """Projects with a unit to publish on `queue`, by name, and the weight of each.

    Asked of each project with an open job, so that one unit answers for thousands.
    """
    open_projects = (
        select(JobRow.project_id, func.max(JobRow.weight).label("weight"))
        .where(JobRow.closed_at.is_(None), ~JobRow.paused)
        .group_by(JobRow.project_id)
        .subquery()
    )
    waits = select(UnitRow.id).where(_due(queue), UnitRow.project_id == open_projects.c.project_id).exists()
    return select(open_projects.c.project_id, open_projects.c.weight).where(waits).order_by(open_projects.c.project_id)


def publishable(queue: str, project_id: str, limit: int) -> Select[str, str, str, str, str]:
    """What to publish of the project's due units on `queue`: highest priority first, then oldest."""
    return (
        select(UnitRow.id, UnitRow.kind, UnitRow.queue, UnitRow.job_id, UnitRow.key)
        .where(_due(queue), UnitRow.project_id == project_id)
        .order_by(UnitRow.rank, UnitRow.id)
        .limit(limit)
    )


def published_count(queue: str) -> Select[int]:
    """How many units of `queue` are in the broker, as far as the ledger knows."""
    return select(func.count()).select_from(UnitRow).where(UnitRow.state == UnitState.PUBLISHED, UnitRow.queue == queue)


def backlog(queue: str) -> Select[int, bool]:
    """How many units of `queue` are in the broker, and whether any could follow."""
    could_follow = select(UnitRow.id).where(_due(queue)).exists()
    return select(published_count(queue).scalar_subquery(), could_follow)


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
        .order_by(UnitRow.published_at)
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
