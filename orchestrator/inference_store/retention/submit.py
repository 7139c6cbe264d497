"""Submission: a policy, at one moment, becomes a task and its first unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, reading, transact
from orchestrator.errors import Conflict, InvalidRequest, NotFound
from orchestrator.ids import new_id
from orchestrator.inference_store.retention import queries
from orchestrator.inference_store.retention.lifecycle import KIND, LIFECYCLE
from orchestrator.inference_store.retention.models import Manifest, TaskState
from orchestrator.inference_store.retention.tables import RetentionPolicyRow, RetentionTaskRow
from orchestrator.inference_store.tables import StoreModelRow
from orchestrator.ledger import NewUnit
from orchestrator.queues import QueueName
from orchestrator.registry.tables import ProjectRow

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task that is to be written."""

    model_id: str
    policy_id: str
    dry_run: bool
    approved: Manifest | None
    automated: bool
    request_id: str | None
    priority: int


class Message(BaseModel):
    """A submission from a queue or a schedule."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model_id: str
    retention_policy_id: str
    dry_run: bool = False
    automated: bool = False
    request_id: str | None = None
    priority: int = 0


#: Before anything was stored: the limit of what is never too old.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def submit(
    model_id: str,
    policy_id: str,
    *,
    dry_run: bool,
    approved: Manifest | None = None,
    automated: bool = False,
    request_id: str | None = None,
    priority: int = 0,
) -> str:
    """Write a task and its first unit in one transaction, then nudge dispatch; returns the task's id.

    What is too old is decided here, by the database's clock; with `approved`, by the dry run that is named. A second
    submission with the same `request_id` returns the first one's task. `automated` is for the policy's own schedule.

    Raises:
        NotFound: the model has no such policy, or no such dry run.
        Conflict: the policy runs by itself, which leaves nothing but dry runs to a caller; or the manifest is not
            what is to be run: of another policy or digest, or not there.
        RequestIdReused: the request id is that of a task that was asked for something else.
    """
    task = NewTask(model_id, policy_id, dry_run, approved, automated, request_id, priority)
    try:
        task_id, is_new = transact(_write, task)
    except IntegrityError:
        # Another submission with the same request id committed first: run again, and find its task.
        task_id, is_new = transact(_write, task)
    if is_new:
        log.info("job_submitted", job=task_id, kind=KIND, model=model_id)
        ledger.nudge()
    return task_id


def submit_approved(model_id: str, approved: Manifest) -> str:
    """As `submit`, for the manifest of a dry run, under the policy that the dry run was made under.

    Raises:
        NotFound: the model has no such dry run.
        Conflict: as `submit`; or that policy holds no more.
    """
    with reading() as session:
        dry = session.get(RetentionTaskRow, approved.task_id)
        current = session.scalar(queries.current_policy(model_id))
    if dry is None or dry.model_id != model_id or not dry.dry_run:
        raise NotFound(f"Model {model_id!r} has no dry run {approved.task_id!r}")
    if current is None or current.id != dry.policy_id:
        raise Conflict(f"Dry run {dry.id} was made under a policy that holds no more: make another")
    return submit(model_id, current.id, dry_run=False, approved=approved)


def submit_message(spec: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """`submit` for a message from a queue or a schedule, whose parts have not been checked yet.

    Raises:
        NotFound, Conflict: as `submit`.
        InvalidRequest: a field is missing, unknown or of the wrong type.
    """
    try:
        request = Message.model_validate({**spec, **options}, extra="forbid")
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidRequest(wrong) from error
    return submit(
        request.model_id,
        request.retention_policy_id,
        dry_run=request.dry_run,
        automated=request.automated,
        request_id=request.request_id,
        priority=request.priority,
    )


def _write(session: Session, task: NewTask) -> tuple[str, bool]:
    if task.request_id is not None:
        former = ledger.requested(session, KIND, task.request_id)
        if former is not None:
            row = session.get_one(RetentionTaskRow, former)
            stored = {
                "model_id": row.model_id,
                "policy_id": row.policy_id,
                "dry_run": row.dry_run,
                "manifest": row.approved_task_id,
            }
            asked = {
                "model_id": task.model_id,
                "policy_id": task.policy_id,
                "dry_run": task.dry_run,
                "manifest": task.approved.task_id if task.approved else None,
            }
            ledger.check_same(former, task.request_id, stored, asked)
            return former, False
    # The lock: a policy that is replaced stops its tasks, and must not overlook this one.
    policy = session.scalar(queries.current_policy(task.model_id).with_for_update(key_share=True))
    if policy is None or policy.id != task.policy_id:
        raise NotFound(f"Model {task.model_id!r} has no retention policy {task.policy_id!r}")
    if policy.automated_interval and not (task.dry_run or task.automated):
        raise Conflict(
            f"Policy {policy.id} runs by itself every {policy.automated_interval} hours: ask for a dry run, or set "
            "automated_interval to 0"
        )
    task_id = new_id()
    model = session.get_one(StoreModelRow, task.model_id)
    project = session.get(ProjectRow, model.project_id)
    ledger.open_job(
        session,
        job_id=task_id,
        kind=KIND,
        project_id=model.project_id,
        weight=project.weight if project else 1,
        priority=task.priority,
        request_id=task.request_id,
        first=NewUnit(f"{KIND}.plan", "plan", QueueName.RETENTION),
    )
    _add_task(session, task_id, policy, dry_run=task.dry_run, approved=task.approved)
    return task_id, True


def _add_task(
    session: Session, job_id: str, policy: RetentionPolicyRow, *, dry_run: bool, approved: Manifest | None
) -> None:
    now = session.scalar(select(db_now()))
    assert now is not None, "the database has a clock"
    limits = _limits(policy, now) if approved is None else _approved_limits(session, policy, approved)
    session.add(
        RetentionTaskRow(
            id=job_id,
            state=TaskState.PENDING,
            model_id=policy.model_id,
            policy_id=policy.id,
            dry_run=dry_run,
            maximum_record_age_limit=limits[0],
            maximum_blob_age_limit=limits[1],
            approved_task_id=approved.task_id if approved else None,
            created_at=now,
        )
    )
    session.flush()
    LIFECYCLE.begin(session, job_id)
    if not dry_run:
        session.execute(
            update(RetentionPolicyRow).where(RetentionPolicyRow.id == policy.id).values(last_scheduled_at=now)
        )


def _limits(policy: RetentionPolicyRow, now: datetime) -> tuple[datetime, datetime]:
    """Since when records, and blobs, are safe."""
    record_age, blob_age = policy.maximum_record_age, policy.maximum_blob_age
    return NEVER if record_age == -1 else _before(now, record_age), _before(now, blob_age)


def _before(now: datetime, hours: int) -> datetime:
    return NEVER if hours >= (now - NEVER) / timedelta(hours=1) else now - timedelta(hours=hours)


def _approved_limits(session: Session, policy: RetentionPolicyRow, approved: Manifest) -> tuple[datetime, datetime]:
    dry = session.get(RetentionTaskRow, approved.task_id)
    if dry is None or dry.policy_id != policy.id:
        raise NotFound(f"Policy {policy.id} has no dry run {approved.task_id!r}")
    if dry.manifest_sha256 is None:
        raise Conflict(f"Dry run {dry.id} has no manifest: it is {dry.state}")
    if dry.manifest_sha256 != approved.sha256:
        raise Conflict(f"The manifest of dry run {dry.id} has another digest than the one that was approved")
    return dry.maximum_record_age_limit, dry.maximum_blob_age_limit
