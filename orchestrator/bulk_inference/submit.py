"""Submission: a request is checked against the registry, then becomes a job and its first unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference.lifecycle import LIFECYCLE
from orchestrator.bulk_inference.models import NewBulkInferenceJobRequest, ProgressState, SubmitOptions
from orchestrator.bulk_inference.plan import plan_at_once, run_at_once
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import reading, storable, transact
from orchestrator.errors import (
    DatasetNotFound,
    InferenceMethodNotSupported,
    InvalidRequest,
    ModelNotFound,
    SnapshotNotFound,
    SplitNotFound,
)
from orchestrator.ids import new_id
from orchestrator.inference_store import indexing
from orchestrator.inference_store.register import add_if_missing
from orchestrator.queues import QueueName
from orchestrator.registry.models import TaskType
from orchestrator.registry.tables import DatasetRow, ModelRow, ProjectRow, SnapshotRow, SnapshotSplitRow

log = structlog.get_logger(__name__)

KIND = "bulk_inference"

#: A batch is one request, and is in memory as a whole: at the server, and once for each request in flight here.
LARGEST_BATCH = 4096

#: Task types whose standard lists can be compared with annotations.
EVALUABLE = frozenset(
    {
        TaskType.IMAGE_CLASSIFICATION,
        TaskType.IMAGE_SEGMENTATION,
        TaskType.OBJECT_DETECTION,
        TaskType.ORIENTED_OBJECT_DETECTION,
    }
)


def submit(request: NewBulkInferenceJobRequest, options: SubmitOptions | None = None) -> str:
    """Write the job and its first unit in one transaction, then nudge dispatch; returns the job's id.

    With the broker away the job is accepted all the same, and starts when the broker is back.

    Raises:
        NotFound: no such model, dataset, snapshot or split (each a class of its own).
        InvalidRequest: another value of the request is wrong. Nothing was written.
        RequestIdReused: the request id is that of a job which was asked for something else.
    """
    options = options or SubmitOptions()
    try:
        job_id, is_new = transact(_write, request, options)
    except IntegrityError:
        # Another submission with the same request id committed first, or the snapshot went away under
        # the check: run again, and find its job, or the right error.
        job_id, is_new = transact(_write, request, options)
    if is_new:
        log.info("job_submitted", job=job_id, kind=KIND, model=request.model_id)
        ledger.nudge()
    return job_id


def check(request: NewBulkInferenceJobRequest) -> str:
    """Do everything that `submit` does but write; returns the inference method that the request resolves to.

    Raises:
        NotFound, InvalidRequest: as `submit`.
    """
    with reading() as session:
        return _check(session, request)[0]


def submit_message(spec: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """`submit` for a message from a queue, whose parts have not been checked yet.

    Raises:
        NotFound, InvalidRequest: as `submit`; also for a field that is missing, unknown or of the wrong type.
    """
    # The request itself takes any field, as in the documented SDK; a stranger's typing error must not be lost.
    unknown = set(spec) - set(NewBulkInferenceJobRequest.model_fields)
    if unknown:
        raise InvalidRequest(f"spec: unknown fields {', '.join(sorted(map(repr, unknown)))}")
    try:
        request = NewBulkInferenceJobRequest.model_validate(spec)
    except ValidationError as error:
        raise InvalidRequest(f"spec: {_what_is_wrong(error)}") from error
    return submit(request, check_options(options))


def check_options(values: Mapping[str, Any]) -> SubmitOptions:
    """The options of a submission.

    Raises:
        InvalidRequest: a value is wrong, or there is no such option.
    """
    try:
        return SubmitOptions.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(_what_is_wrong(error)) from error


def _what_is_wrong(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())


def _write(session: Session, request: NewBulkInferenceJobRequest, options: SubmitOptions) -> tuple[str, bool]:
    _check_text(request_id=options.request_id)
    if options.request_id is not None:
        former = ledger.requested(session, KIND, options.request_id)
        if former is not None:
            _check_same(session, former, request, options)
            return former, False
    action, model, split = _check(session, request)
    job_id = new_id()
    # Which datums are annotated is for planning to find out.
    only = None if request.evaluate_metrics else plan_at_once(session, model, split.datum_count, request.batch_size)
    ledger.open_job(
        session,
        job_id=job_id,
        kind=KIND,
        project_id=request.model_project_id,
        weight=session.get_one(ProjectRow, request.model_project_id).weight,
        priority=options.priority,
        request_id=options.request_id,
        first=only or ledger.NewUnit(f"{KIND}.plan", "plan", QueueName.PLANNING),
    )
    session.add(
        BulkInferenceJobRow(
            id=job_id,
            state=ProgressState.INITIALIZED,
            model_project_id=request.model_project_id,
            model_id=request.model_id,
            dataset_project_id=request.dataset_project_id,
            dataset_id=request.dataset_id,
            snapshot_id=request.dataset_snapshot_id,
            split=request.dataset_snapshot_split,
            inference_method=request.inference_method,
            action=action,
            evaluate_metrics=request.evaluate_metrics,
            batch_size=request.batch_size,
            failure_threshold=options.failure_threshold,
        )
    )
    session.flush()
    add_if_missing(session, model.id, project_id=model.project_id, task_type=model.task_type)
    indexing.begin(
        session,
        job_id,
        model_id=request.model_id,
        dataset_id=request.dataset_id,
        dataset_snapshot_id=request.dataset_snapshot_id,
        dataset_snapshot_split=request.dataset_snapshot_split,
    )
    LIFECYCLE.begin(session, job_id)
    if only is not None:
        run_at_once(session, job_id, split.datum_count)
    return job_id, True


def _check_same(session: Session, job_id: str, request: NewBulkInferenceJobRequest, options: SubmitOptions) -> None:
    row = session.get_one(BulkInferenceJobRow, job_id)
    former = {
        "model_project_id": row.model_project_id,
        "model_id": row.model_id,
        "dataset_project_id": row.dataset_project_id,
        "dataset_id": row.dataset_id,
        "dataset_snapshot_id": row.snapshot_id,
        "dataset_snapshot_split": row.split,
        "inference_method": row.inference_method,
        "evaluate_metrics": row.evaluate_metrics,
        "batch_size": row.batch_size,
        "failure_threshold": row.failure_threshold,
    }
    asked = {**request.model_dump(), "failure_threshold": options.failure_threshold}
    ledger.check_same(job_id, options.request_id or "", former, asked)


def _check_text(**values: object) -> None:
    """Names and ids are refused if a database cannot even look for them."""
    for name, value in values.items():
        if isinstance(value, str) and storable(value) != value:
            raise InvalidRequest(f"{name}: {value!r} holds characters that no id or name has")


def _check(session: Session, request: NewBulkInferenceJobRequest) -> tuple[str, ModelRow, SnapshotSplitRow]:
    """Hold the request against the registry; returns the inference method it resolves to, the model and the split."""
    _check_text(**request.model_dump())
    if not 1 <= request.batch_size <= LARGEST_BATCH:
        raise InvalidRequest(f"batch_size is {request.batch_size}: it must be 1 or more, and {LARGEST_BATCH} at most")
    model = session.get(ModelRow, request.model_id)
    if model is None or model.project_id != request.model_project_id:
        raise ModelNotFound(f"No model {request.model_id!r} in project {request.model_project_id!r}")
    if not model.config["url"]:
        raise InvalidRequest(f"model_id: no server answers for {model.name!r} yet: `orchestrator model serve`")
    split = _find_split(session, request)
    if request.evaluate_metrics:
        if TaskType(model.task_type) not in EVALUABLE:
            raise InvalidRequest(f"evaluate_metrics: there are no metrics for {model.task_type}")
        if split.annotated_count == 0:
            raise InvalidRequest(f"evaluate_metrics: no datum of split {split.split!r} is annotated")
    return _resolve_action(model, request.inference_method), model, split


def _find_split(session: Session, request: NewBulkInferenceJobRequest) -> SnapshotSplitRow:
    dataset = session.get(DatasetRow, request.dataset_id)
    if dataset is None or dataset.project_id != request.dataset_project_id:
        raise DatasetNotFound(f"No dataset {request.dataset_id!r} in project {request.dataset_project_id!r}")
    snapshot = session.get(SnapshotRow, request.dataset_snapshot_id)
    if snapshot is None or snapshot.dataset_id != dataset.id or snapshot.state != "ready":
        raise SnapshotNotFound(f"No snapshot {request.dataset_snapshot_id!r} in dataset {dataset.name!r}")
    split = session.get(SnapshotSplitRow, (snapshot.id, request.dataset_snapshot_split))
    if split is None:
        known = session.scalars(select(SnapshotSplitRow.split).where(SnapshotSplitRow.snapshot_id == snapshot.id))
        raise SplitNotFound(
            f"No split {request.dataset_snapshot_split!r} in snapshot {snapshot.name!r}: "
            f"it has {', '.join(sorted(known))}"
        )
    return split


def _resolve_action(model: ModelRow, method: str) -> str:
    if method in model.actions:
        return method
    choices = ", ".join(model.actions)
    if method:
        raise InferenceMethodNotSupported(
            f"inference_method: {model.task_type} model {model.name!r} has no {method!r}: choose from {choices}"
        )
    if len(model.actions) != 1:
        raise InferenceMethodNotSupported(
            f"inference_method: {model.task_type} model {model.name!r} has several, name one of {choices}"
        )
    return model.actions[0]
