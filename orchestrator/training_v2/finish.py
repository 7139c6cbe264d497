"""Finishing: a run whose step died all its attempts is ended, and nothing of it is left running."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, transact
from orchestrator.errors import Unavailable
from orchestrator.ledger import Again, Done, Lease, Outcome, Postponed, UnitState
from orchestrator.ledger.tables import UnitRow
from orchestrator.training_v2.fence import set_columns
from orchestrator.training_v2.lifecycle import end
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.runtime import Runtime
from orchestrator.training_v2.step import SOON, Run, look, lose, observed, written
from orchestrator.training_v2.tables import TERMINAL, RunRow


def finish(lease: Lease, runtimes: Mapping[str, Runtime]) -> Outcome:
    """End the run, once nothing of its launch is left; a second finish does not wait for that.

    Raises:
        LeaseLost: the unit belongs to another attempt now; nothing was written.
    """
    run = look(lease, runtimes)
    if run is not None and run.state not in TERMINAL and run.row.place and not lease.payload.get("former_error"):
        try:
            waits = _clear(run)
        except Unavailable as error:
            return Postponed(f"waiting for the runtime: {error.body}")
        if waits is not None:
            return waits
    transact(_end, lease)
    return Done()


def _clear(run: Run) -> Outcome | None:
    """Have the run's launch ended; None once nothing of it is left."""
    if run.in_sight:
        run.runtime.terminate(run.name, timedelta())
    # Whoever supervises it out of sight hears from the database, as after any other loss or stop.
    elif run.state is State.JOB_RUNNING:
        return lose(run, "the run could not be driven")
    elif run.grace:
        return written(run, lambda session: set_columns(session, run.row.id, kill_at=db_now()))
    return None if run.is_cleared(observed(run)) else Again(SOON)


def _end(session: Session, lease: Lease) -> None:
    session.execute(select(RunRow.id).where(RunRow.id == lease.job_id).with_for_update(key_share=True))
    ledger.check(session, lease)
    error = session.scalar(
        select(UnitRow.last_error)
        .where(UnitRow.job_id == lease.job_id, UnitRow.state == UnitState.DEAD)
        .order_by(UnitRow.id.desc())
        .limit(1)
    )
    reason = f"the run could not be driven: {error or 'nobody knows why'}"
    for state in (State.JOB_FAILED, State.JOB_CREATE_FAILED):
        if end(session, lease.job_id, state, reason=reason, by=lease.unit_id):
            return
