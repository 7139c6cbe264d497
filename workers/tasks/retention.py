"""The units of a retention task: plan, sweep, finish."""

from __future__ import annotations

from orchestrator.database import reading
from orchestrator.errors import BlobNotFound, Conflict, LeaseLost, Unavailable
from orchestrator.inference_store import purge
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention import finish as finishing
from orchestrator.inference_store.retention import manifest
from orchestrator.inference_store.retention import plan as planning
from orchestrator.inference_store.retention.sweep import begin, record_manifest
from orchestrator.inference_store.retention.tables import RetentionPolicyRow, RetentionTaskRow
from orchestrator.ledger import Again, Done, Hopeless, Lease, Outcome, Postponed
from workers import sweep as sweeping
from workers.unit import unit


@unit("retention.plan")
def plan(lease: Lease) -> Outcome:
    """Count what the task is to delete."""
    return planning.plan(lease)


@unit("retention.sweep")
def sweep(lease: Lease) -> Outcome:
    """Delete it, or list it if the task is a dry run."""
    begin(lease)
    with reading() as session:
        task = session.get_one(RetentionTaskRow, lease.job_id)
        action = Action(session.get_one(RetentionPolicyRow, task.policy_id).delete_action)
        approved = manifest.of(session, task)
    try:
        if task.dry_run:
            written = manifest.write(task, action, lease.attempt)
            try:
                record_manifest(lease, written)
            except LeaseLost:
                manifest.discard(written)
                raise
            manifest.forget(task.id, lease.attempt)
            return Done()
        if approved is not None:
            outcome = sweeping.run_manifest(lease, task, action, approved)
        else:
            outcome = sweeping.sweep(lease, task, action)
        if isinstance(outcome, Done) and not purge.remove_blobs(task.model_id):
            return Again()  # what is left to do is found again at once
        return outcome
    except Unavailable as error:
        return Postponed(f"waiting: {error}")
    except (BlobNotFound, Conflict) as error:
        return Hopeless(str(error))


@unit("retention.finish")
def finish(lease: Lease) -> Outcome:
    """Decide how the task ended."""
    return finishing.finish(lease)
