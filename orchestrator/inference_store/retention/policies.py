"""Policies: what of a model is deleted when it is too old; one holds at a time, and those before it are kept."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from orchestrator import schedules
from orchestrator.database import db_now, reading, transact
from orchestrator.errors import InvalidRequest, ModelNotFound, ScheduleNotFound
from orchestrator.ids import new_id
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention import queries
from orchestrator.inference_store.retention.lifecycle import KIND, end
from orchestrator.inference_store.retention.models import TaskState
from orchestrator.inference_store.retention.tables import RetentionPolicyRow
from orchestrator.inference_store.tables import StoreModelRow
from orchestrator.schedules import NewSchedule, Overlap

#: Hours; what a column of both databases holds, and far more than anybody waits.
LONGEST = 2**31 - 1


def check(automated_interval: int, maximum_record_age: int, maximum_blob_age: int) -> None:
    """Hold a policy against the rules.

    Raises:
        InvalidRequest: an age or the interval is out of bounds, or blobs would outlive their records.
    """
    for name, value, least in (
        ("automated_interval", automated_interval, 0),
        ("maximum_record_age", maximum_record_age, -1),
        ("maximum_blob_age", maximum_blob_age, 0),
    ):
        if not least <= value <= LONGEST:
            raise InvalidRequest(f"{name} is {value}: give hours, {least} or more and {LONGEST} at most")
    if -1 < maximum_record_age < maximum_blob_age:
        raise InvalidRequest(
            f"maximum_blob_age is {maximum_blob_age}: no blob outlives its record, whose maximum age is "
            f"{maximum_record_age}"
        )


def set_policy(
    model_id: str, *, automated_interval: int, maximum_record_age: int, maximum_blob_age: int, delete_action: Action
) -> RetentionPolicyRow:
    """Let a policy hold for the model from now on, in place of the one before.

    What still runs under that one is stopped: the new policy may spare what it deletes.

    Raises:
        ModelNotFound: the model is not registered for inference storage.
        InvalidRequest: as `check`.
    """
    check(automated_interval, maximum_record_age, maximum_blob_age)
    policy: dict[str, object] = {
        "automated_interval": automated_interval,
        "maximum_record_age": maximum_record_age,
        "maximum_blob_age": maximum_blob_age,
        "delete_action": delete_action.value,
    }
    return transact(_replace, model_id, policy)


def find_policy(model_id: str) -> RetentionPolicyRow | None:
    """The policy that holds for the model."""
    with reading() as session:
        return session.scalar(queries.current_policy(model_id))


def end_policy(model_id: str, policy_id: str) -> bool:
    """Let the model have no policy; say whether this one held."""
    return transact(_end_if_current, model_id, policy_id)


def _replace(session: Session, model_id: str, policy: dict[str, object]) -> RetentionPolicyRow:
    # The lock: of two that set a policy at once, one comes after the other.
    model = session.get(StoreModelRow, model_id, with_for_update={"key_share": True})
    if model is None:
        raise ModelNotFound(f"Model {model_id!r} is not registered for inference storage: register it first")
    _end(session, model_id, reason="its policy was replaced")
    row = RetentionPolicyRow(id=new_id(), model_id=model_id, **policy, created_at=session.scalar(select(db_now())))
    if row.automated_interval:
        row.schedule_id = schedules.add(session, _schedule(row, model.project_id)).id
    session.add(row)
    session.flush()
    return row


def _end_if_current(session: Session, model_id: str, policy_id: str) -> bool:
    session.get(StoreModelRow, model_id, with_for_update={"key_share": True})
    current = session.scalar(queries.current_policy(model_id))
    if current is None or current.id != policy_id:
        return False
    _end(session, model_id, reason="its policy was deleted")
    return True


def _schedule(policy: RetentionPolicyRow, project_id: str) -> NewSchedule:
    """What runs the policy: at once, and then every so often, but never while a run of it is still at work."""
    interval = timedelta(hours=policy.automated_interval)
    return NewSchedule(
        project_id=project_id,
        name=f"retention policy {policy.id}",
        kind=KIND,
        spec={"model_id": policy.model_id, "retention_policy_id": policy.id, "automated": True},
        every=interval,
        overlap=Overlap.SKIP,
        # After an outage one run makes up for all that were missed.
        catch_up=interval,
    )


def _end(session: Session, model_id: str, reason: str) -> None:
    former = session.execute(
        update(RetentionPolicyRow)
        .where(RetentionPolicyRow.model_id == model_id, RetentionPolicyRow.ended_at.is_(None))
        .values(ended_at=db_now())
        .returning(RetentionPolicyRow.id, RetentionPolicyRow.schedule_id),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    if former is None:
        return
    policy_id, schedule_id = former
    if schedule_id is not None:
        with suppress(ScheduleNotFound):  # somebody has deleted it already
            schedules.remove(session, schedule_id)
    for task_id in session.scalars(queries.live_tasks(policy_id)).all():
        end(session, task_id, TaskState.STOPPED, reason=reason)
