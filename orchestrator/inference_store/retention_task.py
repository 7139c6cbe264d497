"""The doors of retention tasks: create, look up, list, stop, and run what a dry run's manifest names."""

from __future__ import annotations

from sqlalchemy import Select, select

from orchestrator.errors import InvalidRequest
from orchestrator.inference_store.filtering.checks import instant
from orchestrator.inference_store.models import (
    NewGetRetentionTasksRequest,
    NewRetentionTaskRequest,
    PaginationSortDirection,
    PaginationSortField,
    RetentionTask,
    TimeWindowFilter,
)
from orchestrator.inference_store.retention import submit, tasks
from orchestrator.inference_store.retention.models import Manifest, RetentionDetails
from orchestrator.inference_store.retention.tables import RetentionTaskRow
from orchestrator.inference_store.texts import checked_text

#: How many tasks a listing returns unless told otherwise.
DEFAULT_LIMIT = 50


def create_retention_task(model_id: str, request_body: NewRetentionTaskRequest) -> RetentionTask | None:
    """Create a retention task associated with a non-automated retention policy, or a dry run of any policy.

    What is old enough to go is settled now, by the database's clock: what is stored later is not touched.

    Parameters:
        model_id: The model id.
        request_body: The retention policy to execute.

    Returns:
        The retention task.

    Raises:
        NotFound: the model has no such policy.
        Conflict: the policy runs by itself, and this is no dry run.
    """
    checked_text("model_id", model_id)
    checked_text("retention_policy_id", request_body.retention_policy_id)
    task_id = submit.submit(model_id, request_body.retention_policy_id, dry_run=request_body.dry_run)
    return get_retention_task(model_id, task_id)


def run_retention_manifest(model_id: str, task_id: str, sha256: str) -> RetentionTask | None:
    """Delete exactly what a dry run listed, less what was protected or deleted since.

    Parameters:
        model_id: The model id.
        task_id: The dry run.
        sha256: The digest of its manifest, which whoever approved it has looked at.

    Returns:
        The task that deletes.

    Raises:
        NotFound: the model has no such dry run.
        Conflict: the dry run's manifest is another one, or its policy holds no more or runs by itself.
    """
    checked_text("model_id", model_id)
    approved = Manifest(checked_text("task_id", task_id), sha256)
    return get_retention_task(model_id, submit.submit_approved(model_id, approved))


def stop_retention_task(model_id: str, retention_task_id: str) -> RetentionTask | None:
    """End a retention task now; what it has deleted stays deleted, and its receipts tell what that is.

    Parameters:
        model_id: The model id.
        retention_task_id: The retention task id.

    Returns:
        The retention task.

    Raises:
        NotFound: the model has no such task.
        Conflict: it has ended already, otherwise than by being stopped.
    """
    tasks.stop(checked_text("model_id", model_id), checked_text("retention_task_id", retention_task_id))
    return get_retention_task(model_id, retention_task_id)


def get_retention_task(model_id: str, retention_task_id: str) -> RetentionTask | None:
    """Get a retention task.

    Parameters:
        model_id: The model id.
        retention_task_id: The retention task id.

    Returns:
        The retention task; None if the model has no such task.
    """
    chosen = select(RetentionTaskRow).where(RetentionTaskRow.model_id == checked_text("model_id", model_id))
    task_id = checked_text("retention_task_id", retention_task_id)
    found = tasks.details(chosen.where(RetentionTaskRow.id == task_id))
    return _as_task(found[0]) if found else None


def filter_retention_tasks(model_id: str, request_body: NewGetRetentionTasksRequest) -> list[RetentionTask]:
    """Filter retention tasks; oldest first and 50 at most, unless `pagination` says otherwise.

    Parameters:
        model_id: The model id.
        request_body: The retention task filter.

    Returns:
        The collection of retention tasks that meet the filter criteria.

    Raises:
        InvalidRequest: a time cannot be read, or `pagination` is out of bounds or sorts by anything but created_at.
    """
    chosen = select(RetentionTaskRow).where(RetentionTaskRow.model_id == checked_text("model_id", model_id))
    if request_body.retention_policy_id is not None:
        policy_id = checked_text("retention_policy_id", request_body.retention_policy_id)
        chosen = chosen.where(RetentionTaskRow.policy_id == policy_id)
    if request_body.state_filter is not None:
        chosen = chosen.where(RetentionTaskRow.state == request_body.state_filter)
    if request_body.time_window_filter is not None:
        chosen = _within(chosen, request_body.time_window_filter)
    return [_as_task(found) for found in tasks.details(_paged(chosen, request_body))]


def _within(chosen: Select[RetentionTaskRow], window: TimeWindowFilter) -> Select[RetentionTaskRow]:
    if window.start is not None:
        chosen = chosen.where(RetentionTaskRow.created_at >= instant("time_window_filter.start", window.start))
    if window.end is not None:
        chosen = chosen.where(RetentionTaskRow.created_at <= instant("time_window_filter.end", window.end))
    return chosen


def _paged(chosen: Select[RetentionTaskRow], request: NewGetRetentionTasksRequest) -> Select[RetentionTaskRow]:
    pagination = request.pagination
    limit = DEFAULT_LIMIT if pagination is None or pagination.limit is None else pagination.limit
    offset = 0 if pagination is None or pagination.offset is None else pagination.offset
    if limit < 0 or offset < 0:
        raise InvalidRequest(f"pagination: limit is {limit} and offset {offset}: neither must be negative")
    if pagination is not None and pagination.sort not in (None, PaginationSortField.CREATED_AT):
        raise InvalidRequest(f"pagination: retention tasks are sorted by created_at, not by {pagination.sort!r}")
    order = [RetentionTaskRow.created_at, RetentionTaskRow.id]
    if pagination is not None and pagination.direction == PaginationSortDirection.DESCENDING:
        return chosen.order_by(*(column.desc() for column in order)).limit(limit).offset(offset)
    return chosen.order_by(*order).limit(limit).offset(offset)


def _as_task(found: RetentionDetails) -> RetentionTask:
    return RetentionTask(
        id=found.task_id,
        retention_policy_id=found.policy_id,
        deleted_record_count=found.deleted_record_count,
        deleted_blob_count=found.deleted_blob_count,
        total_record_count=found.total_record_count or 0,
        total_blob_count=found.total_blob_count or 0,
        state=found.state,
        maximum_record_age_limit=found.maximum_record_age_limit,
        maximum_blob_age_limit=found.maximum_blob_age_limit,
    )
