"""The end of a task: complete with its archive, or failed because one of its units died."""

from __future__ import annotations

from contextlib import suppress

import structlog
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import reading, transact
from orchestrator.errors import Unavailable
from orchestrator.inference_store.exports import queries
from orchestrator.inference_store.exports.lifecycle import KIND, end, set_columns
from orchestrator.inference_store.exports.models import Archive, ExportTaskState
from orchestrator.inference_store.exports.sweep import clear
from orchestrator.ledger import Done, Lease, Outcome

log = structlog.get_logger(__name__)


def complete(lease: Lease, archive: Archive) -> Outcome:
    """Show the archive, which is whole and verified, and end the task: one transaction.

    Raises:
        LeaseLost: the unit belongs to another attempt now, or was cancelled; nothing was written.
    """
    transact(_complete, lease, archive)
    log.info("job_ended", job=lease.job_id, state=ExportTaskState.COMPLETE.value, reason="")
    return tidy_up(lease)


def finish(lease: Lease) -> Outcome:
    """End a task as failed: nothing is left to do, and there is no archive."""
    with reading() as session:
        reason = _why_failed(session, lease)
    transact(_fail, lease, reason)
    log.info("job_ended", job=lease.job_id, state=ExportTaskState.FAILED.value, reason=reason)
    return tidy_up(lease)


def tidy_up(lease: Lease) -> Outcome:
    """Clear what a task that has ended leaves behind; what cannot be cleared now, a tick comes back to."""
    with suppress(Unavailable):
        clear(lease.job_id)
    return Done()


def _why_failed(session: Session, lease: Lease) -> str:
    works = {f"{KIND}.plan": "pinned", f"{KIND}.part": "written", f"{KIND}.assemble": "put together"}
    for kind, error in session.execute(queries.dead_units(lease.job_id)):
        if kind in works:
            return f"the archive could not be {works[kind]}: {error}"
    return str(lease.payload.get("former_error") or "its units ended without an archive")


def _complete(session: Session, lease: Lease, archive: Archive) -> None:
    ledger.check(session, lease)
    set_columns(session, lease.job_id, storage_key=archive.key, size=archive.size, sha256=archive.sha256)
    end(session, lease.job_id, ExportTaskState.COMPLETE, by=lease.unit_id)


def _fail(session: Session, lease: Lease, reason: str) -> None:
    ledger.check(session, lease)
    end(session, lease.job_id, ExportTaskState.FAILED, reason=reason, by=lease.unit_id)
