"""The probe: whether this process could claim a unit and settle it right now. It leaves nothing behind."""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, engine
from orchestrator.ids import new_id
from orchestrator.ledger.jobs import open_job
from orchestrator.ledger.leases import settle
from orchestrator.ledger.lifecycle import UnitState
from orchestrator.ledger.models import Done, Lease, NewUnit
from orchestrator.ledger.tables import UnitRow
from orchestrator.queues import QueueName
from orchestrator.settings import settings

NAME = "probe"


def probe() -> None:
    """Write a job with one unit, claim the unit, settle it, and undo all of it in the same transaction.

    Raises:
        SQLAlchemyError: the database is away, full, read-only, or not of this version.
    """
    with Session(engine()) as session:
        job_id = new_id()
        open_job(
            session, job_id=job_id, kind=NAME, project_id=NAME, first=NewUnit(f"{NAME}.work", NAME, QueueName.PLANNING)
        )
        session.execute(
            update(UnitRow)
            .where(UnitRow.job_id == job_id)
            .values(state=UnitState.LEASED, attempt=1, lease_owner=NAME, lease_expires_at=db_now(settings().lease)),
            execution_options={"synchronize_session": False},
        )
        settle(session, _lease(session, job_id), Done())
        session.rollback()


def _lease(session: Session, job_id: str) -> Lease:
    unit = session.scalars(
        select(UnitRow).where(UnitRow.job_id == job_id), execution_options={"populate_existing": True}
    ).one()
    shared = {field.name for field in fields(Lease)} - {"unit_id", "owner"}
    return Lease(unit_id=unit.id, owner=NAME, **{name: getattr(unit, name) for name in shared})
