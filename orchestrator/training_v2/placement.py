"""Placement: a launch gets its place before anything is started there, so that others know where to look."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.database import exclusive
from orchestrator.training_v2.fence import set_columns
from orchestrator.training_v2.models import Resources
from orchestrator.training_v2.quantities import Demand, demand_of
from orchestrator.training_v2.runtime import Runtime
from orchestrator.training_v2.tables import RunRow


def reserve(session: Session, row: RunRow, runtime: Runtime) -> str:
    """Place the run where the runtime is, if it fits there beside the others; returns what is lacking, or nothing."""
    if runtime.capacity is not None:
        exclusive(session, f"place {runtime.place}")
        wanted = demand_of(Resources.model_validate(row.resources))
        lacking = wanted.fits(runtime.capacity, placed(session, row.runtime, runtime.place))
        if lacking:
            return f"waiting at {runtime.place}: {lacking}"
    set_columns(session, row.id, place=runtime.place)
    return ""


def placed(session: Session, runtime: str, place: str) -> list[Demand]:
    """What the runs demand that are at a place."""
    chosen = select(RunRow.resources).where(
        RunRow.runtime == runtime, RunRow.place == place, RunRow.finished_at.is_(None)
    )
    return [demand_of(Resources.model_validate(resources)) for resources in session.scalars(chosen)]
