"""Named selects over the ledger: each says in one line which rows it finds."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, Select, and_, func, select

from orchestrator.database import db_now
from orchestrator.ledger.lifecycle import UNFINISHED, UnitState
from orchestrator.ledger.tables import JobRow, UnitRow


def _due(queue: str) -> ColumnElement[bool]:
    ready = and_(UnitRow.state == UnitState.READY, UnitRow.queue == queue, UnitRow.not_before <= db_now())
    return and_(ready, ~JobRow.paused)


def waiting_projects(queue: str) -> Select[str, int]:
    """Projects with a unit to publish on `queue`, and the weight of each."""
    return (
        select(UnitRow.project_id, func.max(JobRow.weight))
        .join(JobRow, JobRow.id == UnitRow.job_id)
        .where(_due(queue))
        .group_by(UnitRow.project_id)
    )


def publishable(queue: str, project_id: str, limit: int) -> Select[UnitRow]:
    """The project's due units on `queue`: highest priority first, then oldest."""
    return (
        select(UnitRow)
        .join(JobRow, JobRow.id == UnitRow.job_id)
        .where(_due(queue), UnitRow.project_id == project_id)
        .order_by(UnitRow.rank, UnitRow.id)
        .limit(limit)
    )


def published_count(queue: str) -> Select[int]:
    """How many units of `queue` are in the broker, as far as the ledger knows."""
    return select(func.count()).select_from(UnitRow).where(UnitRow.state == UnitState.PUBLISHED, UnitRow.queue == queue)


def abandoned(limit: int) -> Select[UnitRow]:
    """Leased units whose owner fell silent, oldest first."""
    return (
        select(UnitRow)
        .where(UnitRow.state == UnitState.LEASED, UnitRow.lease_expires_at < db_now())
        .order_by(UnitRow.lease_expires_at)
        .limit(limit)
    )


def unclaimed(queue: str, age: timedelta, limit: int) -> Select[UnitRow]:
    """Units of `queue` published at least `age` ago that nobody claimed, oldest first."""
    return (
        select(UnitRow)
        .where(UnitRow.state == UnitState.PUBLISHED, UnitRow.queue == queue, UnitRow.published_at < db_now(-age))
        .order_by(UnitRow.published_at)
        .limit(limit)
    )


def drained_jobs(limit: int) -> Select[str]:
    """Open jobs with nothing left to do: either nobody finishes them yet, or who did is dead."""
    unfinished = select(UnitRow.id).where(UnitRow.job_id == JobRow.id, UnitRow.state.in_(UNFINISHED)).exists()
    return select(JobRow.id).where(JobRow.closed_at.is_(None), ~unfinished).order_by(JobRow.id).limit(limit)


def units_of(job_id: str | None, states: tuple[UnitState, ...], limit: int) -> Select[UnitRow]:
    """Units in the given states (all when empty), of one job or of all, newest job first."""
    statement = select(UnitRow).order_by(UnitRow.job_id.desc(), UnitRow.id).limit(limit)
    if job_id is not None:
        statement = statement.where(UnitRow.job_id == job_id)
    return statement.where(UnitRow.state.in_(states)) if states else statement
