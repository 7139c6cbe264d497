"""Finishing: a task is complete unless one of its units died."""

from __future__ import annotations

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.inference_store.retention.lifecycle import end
from orchestrator.inference_store.retention.models import TaskState
from orchestrator.ledger import Done, Lease, Outcome, UnitState
from orchestrator.ledger.tables import UnitRow

log = structlog.get_logger(__name__)


def finish(lease: Lease) -> Outcome:
    """End the task; run again, it finds it ended."""
    reason = transact(_finish, lease)
    log.info("job_ended", job=lease.job_id, state=TaskState.FAILED if reason else TaskState.COMPLETE, reason=reason)
    return Done()


def _finish(session: Session, lease: Lease) -> str:
    ledger.check(session, lease)
    reason = str(lease.payload.get("former_error") or _error_of_dead(session, lease.job_id))
    end(session, lease.job_id, TaskState.FAILED if reason else TaskState.COMPLETE, reason=reason, by=lease.unit_id)
    return reason


def _error_of_dead(session: Session, task_id: str) -> str:
    dead = select(UnitRow.last_error).where(UnitRow.job_id == task_id, UnitRow.state == UnitState.DEAD)
    return session.scalar(dead.where(UnitRow.kind != "retention.finish").limit(1)) or ""
