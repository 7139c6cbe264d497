"""The doors of exports: create a task, look it up, and see to it that it gives its archive away."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import reading, transact
from orchestrator.errors import JobNotFound
from orchestrator.inference_store.exports import queries
from orchestrator.inference_store.exports.lifecycle import end
from orchestrator.inference_store.exports.models import Archive, ArchiveFormat, ExportDetails, ExportTaskState
from orchestrator.inference_store.exports.submit import submit
from orchestrator.inference_store.exports.sweep import clear
from orchestrator.inference_store.exports.tables import ExportTaskRow
from orchestrator.inference_store.models import ExportTask, NewExportTaskRequest
from orchestrator.inference_store.register import models_of
from orchestrator.inference_store.texts import checked_limit, may_exist
from orchestrator.storage import blobs

#: How many tasks a listing returns unless told otherwise.
DEFAULT_LIMIT = 50


def create_export_task(model_id: str, request_body: NewExportTaskRequest) -> ExportTask | None:
    """Create an export task to get data and inferences, and optionally annotations and metadata.

    Parameters:
        model_id: The model id.
        request_body: The export task to execute.

    Returns:
        The export task.

    Raises:
        ModelNotFound: no model of this id is registered with the store.
        InvalidRequest: an id is none that an inference could have. Nothing was written.
    """
    return get_export_task(model_id, submit(model_id, request_body))


def submit_export_task(
    model_id: str,
    request_body: NewExportTaskRequest,
    *,
    archive_format: ArchiveFormat = ArchiveFormat.DATASET,
    request_id: str | None = None,
    priority: int = 0,
) -> str:
    """`create_export_task` with everything that a submission may say; returns the task's id.

    Parameters:
        model_id: The model id.
        request_body: The export task to execute.
        archive_format: How the archive describes its files.
        request_id: A second submission with the same id returns the first one's task.
        priority: Work of a higher priority goes first, within a project.

    Raises:
        ModelNotFound, InvalidRequest: as `create_export_task`.
    """
    return submit(model_id, request_body, archive_format=archive_format, request_id=request_id, priority=priority)


def get_export_task(model_id: str, export_task_id: str) -> ExportTask | None:
    """Get an export task.

    Parameters:
        model_id: The model id.
        export_task_id: The export task id.

    Returns:
        The export task, or None if the model has none of this id. `expected_count` is 0 until the set is pinned;
        `presigned_url` is a new one at each call, and None until the archive is complete.
    """
    with reading() as session:
        row = session.get(ExportTaskRow, export_task_id) if may_exist(export_task_id) else None
        if row is None or row.model_id != model_id:
            return None
        details = _details(session, [row])[0]
    return ExportTask(
        id=row.id,
        progress_count=details.progress_count,
        expected_count=details.expected_count or 0,
        state=row.state,
        presigned_url=blobs().sign(details.archive.key) if details.archive else None,
    )


def get_export_details(export_task_id: str) -> ExportDetails:
    """Everything there is to know of an export task.

    Raises:
        JobNotFound: no export task has this id.
    """
    with reading() as session:
        return _details(session, [_find(session, export_task_id)])[0]


def list_export_tasks(
    *, model_id: str | None = None, project_id: str | None = None, limit: int = DEFAULT_LIMIT
) -> list[ExportDetails]:
    """Export tasks of one model, of a project's models or of all, newest first.

    Raises:
        InvalidRequest: `limit` is negative, or larger than any list.
    """
    if model_id is not None and not may_exist(model_id):
        return []
    statement = select(ExportTaskRow).order_by(ExportTaskRow.id.desc()).limit(checked_limit(limit))
    if model_id is not None:
        statement = statement.where(ExportTaskRow.model_id == model_id)
    if project_id is not None:
        statement = statement.where(ExportTaskRow.model_id.in_(models_of(project_id)))
    with reading() as session:
        return _details(session, session.scalars(statement).all())


def cancel_export_task(export_task_id: str, *, reason: str = "cancelled by request") -> ExportDetails:
    """End the task as failed, now; cancelling one that has ended changes nothing.

    Raises:
        JobNotFound: no export task has this id.
    """

    def cancel(session: Session) -> None:
        _find(session, export_task_id)
        end(session, export_task_id, ExportTaskState.FAILED, reason=reason)

    transact(cancel)
    clear(export_task_id)
    return get_export_details(export_task_id)


def _find(session: Session, task_id: str) -> ExportTaskRow:
    row = session.get(ExportTaskRow, task_id) if may_exist(task_id) else None
    if row is None:
        raise JobNotFound(f"No export task {task_id!r}: `orchestrator export list` shows them")
    return row


def _details(session: Session, rows: Sequence[ExportTaskRow]) -> list[ExportDetails]:
    written = dict(session.execute(queries.written([row.id for row in rows])).all())
    return [_as_details(session, row, int(written.get(row.id, 0))) for row in rows]


def _as_details(session: Session, row: ExportTaskRow, written: int) -> ExportDetails:
    archive = None
    if row.state == ExportTaskState.COMPLETE:
        assert row.storage_key is not None
        assert row.size is not None
        assert row.sha256 is not None
        archive = Archive(row.storage_key, row.size, row.sha256)
    return ExportDetails(
        task_id=row.id,
        model_id=row.model_id,
        state=ExportTaskState(row.state),
        archive_format=ArchiveFormat(row.archive_format),
        progress_count=ledger.progress(session, row.id).done,
        expected_count=row.expected_count,
        written_bytes=archive.size if archive else written,
        archive=archive,
        reason=row.reason,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
