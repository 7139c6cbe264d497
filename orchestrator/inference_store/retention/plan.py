"""Planning: what a task is to delete is counted, and its sweep begins."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import reading, transact
from orchestrator.inference_store.purge import INFERENCES
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention import queries
from orchestrator.inference_store.retention.lifecycle import KIND, LIFECYCLE
from orchestrator.inference_store.retention.models import TaskState
from orchestrator.inference_store.retention.tables import RetentionPolicyRow, RetentionTaskRow
from orchestrator.ledger import Done, Lease, NewUnit, Outcome
from orchestrator.queues import QueueName


def plan(lease: Lease) -> Outcome:
    """Count what the task is to delete, and add the unit that does it; a dry run counts as it lists.

    Killed midway and run again, it counts anew, unless the sweep has begun: then the totals stay.
    """
    with reading() as session:
        task = session.get_one(RetentionTaskRow, lease.job_id)
        totals = {} if task.dry_run else count(session, task)
    transact(_schedule, lease, totals)
    return Done()


def count(session: Session, task: RetentionTaskRow) -> dict[str, int]:
    """How many records and blobs the task is to delete, as columns of it."""
    if task.approved_task_id is not None:
        dry = session.get_one(RetentionTaskRow, task.approved_task_id)
        return {"total_record_count": dry.total_record_count or 0, "total_blob_count": dry.total_blob_count or 0}
    action = Action(session.get_one(RetentionPolicyRow, task.policy_id).delete_action)
    old = queries.too_old(task.model_id, task.maximum_record_age_limit, action)
    blobs = queries.blobs_to_go(task.model_id, task.maximum_blob_age_limit).order_by(None).subquery()
    return {
        "total_record_count": session.scalar(select(func.count()).select_from(INFERENCES).where(old)) or 0,
        "total_blob_count": session.scalar(select(func.count()).select_from(blobs)) or 0,
    }


def _schedule(session: Session, lease: Lease, totals: dict[str, Any]) -> None:
    ledger.check(session, lease)
    if LIFECYCLE.move(session, lease.job_id, TaskState.SCHEDULED, **totals):
        ledger.add(session, lease.job_id, [NewUnit(f"{KIND}.sweep", "sweep", QueueName.RETENTION)])
