"""Finishing: a run whose step died all its attempts is ended, and nothing of it is left running."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.errors import Unavailable
from orchestrator.ledger import Again, Done, Lease, Outcome, Postponed, UnitState
from orchestrator.ledger.tables import UnitRow
from orchestrator.training_v2.lifecycle import end
from orchestrator.training_v2.models import RunState as State
from orchestrator.training_v2.runtime import Exited, Gone, Runtime
from orchestrator.training_v2.step import SOON, Run, look
from orchestrator.training_v2.tables import TERMINAL, RunRow


def finish(lease: Lease, runtimes: Mapping[str, Runtime]) -> Outcome:
    """End the run, once nothing of its launch is left; a second finish does not wait for that.

    Raises:
        LeaseLost: the unit belongs to another attempt now; nothing was written.
    """
    run = look(lease, runtimes)
    if run is not None and run.state not in TERMINAL and not lease.payload.get("former_error"):
        try:
            if not _is_cleared(run):
                return Again(SOON)
        except Unavailable as error:
            return Postponed(f"waiting for the runtime: {error.body}")
    transact(_end, lease)
    return Done()


def _is_cleared(run: Run) -> bool:
    if run.row.place is None or not run.in_sight:
        return True  # whoever supervises it is told at its next report
    run.runtime.terminate(run.name, timedelta())
    return isinstance(run.runtime.observe([run.name])[0], Exited | Gone)


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
