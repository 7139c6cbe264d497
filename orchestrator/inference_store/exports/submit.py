"""Submission: a request becomes a task, its job, and the unit that pins the set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import insert_ignoring, transact
from orchestrator.errors import InvalidRequest, ModelNotFound
from orchestrator.ids import new_id
from orchestrator.inference_store.exports.lifecycle import KIND, LIFECYCLE
from orchestrator.inference_store.exports.models import ArchiveFormat, ExportTaskState
from orchestrator.inference_store.exports.tables import ExportTaskRow, NamedInferenceRow
from orchestrator.inference_store.filtering import conditions
from orchestrator.inference_store.models import NewExportTaskRequest
from orchestrator.inference_store.register import find_registered
from orchestrator.inference_store.texts import checked_id, may_exist
from orchestrator.ledger import NewUnit
from orchestrator.queues import QueueName
from orchestrator.registry.tables import ProjectRow

log = structlog.get_logger(__name__)

#: Rows that one statement inserts.
PAGE = 1000
#: Characters of an inference id.
LONGEST_ID = 255
#: As of bulk inference jobs.
HIGHEST_PRIORITY = 1000


def submit(
    model_id: str,
    request: NewExportTaskRequest,
    *,
    archive_format: ArchiveFormat = ArchiveFormat.DATASET,
    request_id: str | None = None,
    priority: int = 0,
) -> str:
    """Write the task and its first unit in one transaction, then nudge dispatch; returns the task's id.

    Raises:
        ModelNotFound: no model of this id is registered with the store.
        InvalidRequest: a filter is malformed, an id is none that an inference could have, or an option is out of
            bounds. Nothing was written.
        RequestIdReused: the request id is that of a task that was asked for something else.
    """
    if request_id is not None:
        checked_id("request_id", request_id)
    if abs(priority) > HIGHEST_PRIORITY:
        raise InvalidRequest(f"priority is {priority}: it must lie between -{HIGHEST_PRIORITY} and {HIGHEST_PRIORITY}")
    _check_ids([*request.include_inference_ids, *request.exclude_inference_ids])
    conditions(model_id, request.filters)  # refuses here what would otherwise fail in a worker
    work = model_id, request, archive_format, request_id, priority
    try:
        task_id, is_new = transact(_write, *work)
    except IntegrityError:
        # Another submission with the same request id committed first: find its task.
        task_id, is_new = transact(_write, *work)
    if is_new:
        log.info("job_submitted", job=task_id, kind=KIND, model=model_id)
        ledger.nudge()
    return task_id


class Message(BaseModel):
    """An export as a message or a schedule describes it: the request's fields, and what a caller names beside it."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_id: str
    request: NewExportTaskRequest = NewExportTaskRequest()
    archive_format: ArchiveFormat = ArchiveFormat.DATASET
    request_id: str | None = None
    priority: int = 0


def submit_message(spec: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """`submit` for a message from a queue or a schedule, whose parts have not been checked yet.

    Raises:
        ModelNotFound: as `submit`.
        InvalidRequest: as `submit`; also for a field that is missing, unknown or of the wrong type.
    """
    try:
        message = Message.model_validate({**spec, **options}, extra="forbid")
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidRequest(wrong) from error
    return submit(
        message.model_id,
        message.request,
        archive_format=message.archive_format,
        request_id=message.request_id,
        priority=message.priority,
    )


def _check_ids(inference_ids: Iterable[str]) -> None:
    for inference_id in inference_ids:
        if len(inference_id) > LONGEST_ID or not may_exist(inference_id):
            raise InvalidRequest(f"{inference_id[:80]!r} is no inference id: it has up to {LONGEST_ID} characters")


def _write(
    session: Session,
    model_id: str,
    request: NewExportTaskRequest,
    archive_format: ArchiveFormat,
    request_id: str | None,
    priority: int,
) -> tuple[str, bool]:
    if request_id is not None:
        former = ledger.requested(session, KIND, request_id)
        if former is not None:
            row = session.get_one(ExportTaskRow, former)
            # The ids that a request names are kept only until they are pinned: they are not compared.
            stored = {"model_id": row.model_id, "archive_format": row.archive_format, **row.request}
            asked = {"model_id": model_id, "archive_format": archive_format, **_without_ids(request)}
            ledger.check_same(former, request_id, stored, asked)
            return former, False
    model = find_registered(session, model_id)
    if model is None:
        raise ModelNotFound(f"No model {model_id!r} is registered with the inference store: register it first")
    project = session.get(ProjectRow, model.project_id)
    task_id = new_id()
    ledger.open_job(
        session,
        job_id=task_id,
        kind=KIND,
        project_id=model.project_id,
        weight=project.weight if project else 1,
        priority=priority,
        request_id=request_id,
        first=NewUnit(f"{KIND}.plan", "plan", QueueName.EXPORTS),
    )
    session.add(
        ExportTaskRow(
            id=task_id,
            state=ExportTaskState.PENDING,
            model_id=model_id,
            archive_format=archive_format,
            request=_without_ids(request),
        )
    )
    session.flush()
    _name(session, task_id, request)
    LIFECYCLE.begin(session, task_id)
    return task_id, True


def _without_ids(request: NewExportTaskRequest) -> dict[str, Any]:
    return request.model_dump(mode="json", exclude={"include_inference_ids", "exclude_inference_ids"})


def _name(session: Session, task_id: str, request: NewExportTaskRequest) -> None:
    """Write down the ids that the request names; what it includes and excludes is excluded."""
    named = dict.fromkeys(request.include_inference_ids, False) | dict.fromkeys(request.exclude_inference_ids, True)
    rows = [
        {"task_id": task_id, "inference_id": inference_id, "excluded": excluded}
        for inference_id, excluded in named.items()
    ]
    for start in range(0, len(rows), PAGE):
        insert_ignoring(session, NamedInferenceRow, rows[start : start + PAGE])
