"""Tasks, as they are looked up, listed and stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from orchestrator.database import reading, transact
from orchestrator.errors import Conflict, NotFound
from orchestrator.inference_store.register import models_of
from orchestrator.inference_store.retention import queries
from orchestrator.inference_store.retention.lifecycle import TERMINAL, end
from orchestrator.inference_store.retention.models import Manifest, RetentionDetails, TaskState
from orchestrator.inference_store.retention.tables import RetentionTaskRow
from orchestrator.storage import blobs


def stop(model_id: str, task_id: str, reason: str = "stopped by request") -> bool:
    """End a task now; what it has deleted stays so. Says whether this ended it.

    Raises:
        NotFound: the model has no such task.
        Conflict: it has ended otherwise.
    """

    def work(session: Session) -> bool:
        row = session.get(RetentionTaskRow, task_id)
        if row is None or row.model_id != model_id:
            raise NotFound(f"Model {model_id!r} has no retention task {task_id!r}")
        if end(session, task_id, TaskState.STOPPED, reason=reason):
            return True
        session.refresh(row)
        if row.state in TERMINAL - {TaskState.STOPPED}:
            raise Conflict(f"Retention task {task_id} has ended: it is {row.state}")
        return False

    return transact(work)


def find_task(task_id: str) -> RetentionDetails:
    """A task of any model.

    Raises:
        NotFound: there is no such task.
    """
    found = details(select(RetentionTaskRow).where(RetentionTaskRow.id == task_id))
    if not found:
        raise NotFound(f"No retention task {task_id!r}: `orchestrator retention list` shows them")
    return found[0]


def list_tasks(
    *,
    model_id: str | None = None,
    project_id: str | None = None,
    state: TaskState | None = None,
    limit: int = 50,
) -> list[RetentionDetails]:
    """Tasks, of one model, of a project's models or of all, newest first."""
    chosen = select(RetentionTaskRow).order_by(RetentionTaskRow.created_at.desc(), RetentionTaskRow.id.desc())
    if model_id is not None:
        chosen = chosen.where(RetentionTaskRow.model_id == model_id)
    if project_id is not None:
        chosen = chosen.where(RetentionTaskRow.model_id.in_(models_of(project_id)))
    if state is not None:
        chosen = chosen.where(RetentionTaskRow.state == state)
    return details(chosen.limit(limit))


def read_manifest(task_id: str) -> Iterator[bytes]:
    """The manifest of a dry run, in pieces: JSON lines.

    Raises:
        NotFound: there is no such task.
        Conflict: it has no manifest, or not yet.
    """
    with reading() as session:
        row = session.get(RetentionTaskRow, task_id)
    if row is None:
        raise NotFound(f"No retention task {task_id!r}: `orchestrator retention list` shows them")
    if row.manifest_key is None:
        raise Conflict(
            f"Retention task {task_id} has no manifest: " + ("not yet" if row.dry_run else "it is no dry run")
        )
    return blobs().stream(row.manifest_key)


def details(chosen: Select[RetentionTaskRow]) -> list[RetentionDetails]:
    """The chosen tasks, with what they have deleted so far."""
    with reading() as session:
        rows = session.scalars(chosen).all()
        return as_details(session, rows)


def as_details(session: Session, rows: Sequence[RetentionTaskRow]) -> list[RetentionDetails]:
    """The rows as a caller sees them."""
    sums = {row[0]: row[1:] for row in session.execute(queries.deleted([row.id for row in rows]))}
    return [_as_details(row, *map(int, sums.get(row.id, (0, 0, 0)))) for row in rows]


def _as_details(row: RetentionTaskRow, records: int, blobs: int, stripped: int) -> RetentionDetails:
    return RetentionDetails(
        task_id=row.id,
        model_id=row.model_id,
        policy_id=row.policy_id,
        state=TaskState(row.state),
        dry_run=row.dry_run,
        maximum_record_age_limit=row.maximum_record_age_limit,
        maximum_blob_age_limit=row.maximum_blob_age_limit,
        deleted_record_count=records,
        deleted_blob_count=blobs,
        total_record_count=row.total_record_count,
        total_blob_count=row.total_blob_count,
        stripped_count=stripped,
        manifest=Manifest(row.id, row.manifest_sha256) if row.manifest_sha256 else None,
        approved_task_id=row.approved_task_id,
        reason=row.reason,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
