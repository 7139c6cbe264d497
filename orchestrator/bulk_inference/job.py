"""The doors of bulk inference: create, look up, watch, steer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference import queries
from orchestrator.bulk_inference.lifecycle import LIFECYCLE, TERMINAL, end, set_columns
from orchestrator.bulk_inference.models import (
    BulkInferenceJob,
    InferenceFailure,
    JobDetails,
    NewBulkInferenceJobRequest,
    ProgressState,
)
from orchestrator.bulk_inference.submit import check_options, submit
from orchestrator.bulk_inference.tables import BulkInferenceJobRow, FailureRow
from orchestrator.database import reading, storable, transact
from orchestrator.errors import Conflict, InvalidRequest, JobNotFound
from orchestrator.inference_store import indexing
from orchestrator.ledger.tables import JobRow

#: How many jobs a listing returns unless told otherwise.
DEFAULT_LIMIT = 50


def create_bulk_inference_job(job_spec: NewBulkInferenceJobRequest) -> str | None:
    """Create a bulk inference job.

    Parameters:
        job_spec: The bulk inference job specification.

    Returns:
        The bulk inference job id.

    Raises:
        NotFound: no such model, dataset, snapshot or split.
        InvalidRequest: another value is wrong. In either case nothing was written.
    """
    return submit(job_spec)


def submit_bulk_inference_job(
    job_spec: NewBulkInferenceJobRequest,
    *,
    request_id: str | None = None,
    failure_threshold: float = 0.0,
    priority: int = 0,
) -> str:
    """`create_bulk_inference_job` with everything that a submission may say.

    Parameters:
        job_spec: The bulk inference job specification.
        request_id: A second submission of the same with the same id returns the first one's job.
        failure_threshold: The share of datums, 0 to 1, that may fail before the job counts as failed.
        priority: Work of a higher priority goes first, within a project.

    Returns:
        The bulk inference job id.

    Raises:
        NotFound: no such model, dataset, snapshot or split.
        InvalidRequest: another value is wrong. In either case nothing was written.
        RequestIdReused: the request id is that of a job which was asked for something else.
    """
    options = {"request_id": request_id, "failure_threshold": failure_threshold, "priority": priority}
    return submit(job_spec, check_options(options))


def get_bulk_inference_job(job_id: str) -> BulkInferenceJob | None:
    """Get a bulk inference job, or None if there is none with this id."""
    with reading() as session:
        row = session.get(BulkInferenceJobRow, storable(job_id))
        return None if row is None else _as_jobs(session, [row])[0]


def get_bulk_inference_jobs(
    model_id: str,
    dataset_version_id: str | None = None,
    dataset_snapshot_id: str | None = None,
    dataset_version_split: str | None = None,
    inference_method: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> list[BulkInferenceJob]:
    """Get bulk inference jobs of a model, newest first.

    Parameters:
        model_id: The model id.
        dataset_version_id: Only jobs on this snapshot; an older name of `dataset_snapshot_id`.
        dataset_snapshot_id: Only jobs on this snapshot.
        dataset_version_split: Only jobs on this split.
        inference_method: Only jobs with this inference method.
        limit: How many to return, 50 by default.
        offset: How many to pass over first.

    Raises:
        InvalidRequest: `limit` or `offset` is negative.
    """
    row = BulkInferenceJobRow
    statement = select(row).where(row.model_id == storable(model_id)).order_by(row.id.desc())
    for snapshot_id in (dataset_version_id, dataset_snapshot_id):
        if snapshot_id is not None:
            statement = statement.where(row.snapshot_id == storable(snapshot_id))
    if dataset_version_split is not None:
        statement = statement.where(row.split == storable(dataset_version_split))
    if inference_method is not None:
        statement = statement.where(row.action == storable(inference_method))
    wanted, skipped = DEFAULT_LIMIT if limit is None else limit, offset or 0
    _check_bounds(limit=wanted, offset=skipped)
    with reading() as session:
        return _as_jobs(session, session.scalars(statement.limit(wanted).offset(skipped)).all())


def get_bulk_inference_details(job_id: str) -> JobDetails:
    """Everything there is to know of a job.

    Raises:
        JobNotFound: no bulk inference job has this id.
    """
    with reading() as session:
        return _as_details(session, _find(session, job_id))


def list_bulk_inference_jobs(
    *,
    status: ProgressState | None = None,
    model_id: str | None = None,
    project_id: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> list[JobDetails]:
    """Jobs of every model, newest first, perhaps of one status, model or model's project only.

    Raises:
        InvalidRequest: `limit` is negative.
    """
    _check_bounds(limit=limit)
    statement = select(BulkInferenceJobRow).order_by(BulkInferenceJobRow.id.desc()).limit(limit)
    if status is not None:
        statement = statement.where(BulkInferenceJobRow.state == status)
    if model_id is not None:
        statement = statement.where(BulkInferenceJobRow.model_id == storable(model_id))
    if project_id is not None:
        statement = statement.where(BulkInferenceJobRow.model_project_id == storable(project_id))
    with reading() as session:
        return [_as_details(session, row) for row in session.scalars(statement)]


def wait_for_bulk_inference_job(
    job_id: str,
    *,
    callback: Callable[[JobDetails], None] | None = None,
    timeout: timedelta | None = None,
    interval: timedelta = timedelta(seconds=0.5),
) -> JobDetails:
    """Wait until the job has ended.

    Parameters:
        job_id: The job.
        callback: Called with the job's details at every look, also the last.
        timeout: How long to wait at most; for ever by default.
        interval: The pause between two looks.

    Raises:
        JobNotFound: no bulk inference job has this id.
        TimeoutError: the job has not ended in time; it goes on.
    """
    deadline = None if timeout is None else time.monotonic() + timeout.total_seconds()
    while True:
        details = get_bulk_inference_details(job_id)
        if callback is not None:
            callback(details)
        if details.is_over:
            return details
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"Job {job_id} is still {details.status}; wait longer, or look at its units")
        pause = interval.total_seconds()
        time.sleep(pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic())))


def abort_bulk_inference_job(job_id: str, *, reason: str = "aborted by request") -> JobDetails:
    """End the job now. Results so far stay; aborting a job that has ended changes nothing.

    Raises:
        JobNotFound: no bulk inference job has this id.
    """

    def abort(session: Session) -> None:
        _find(session, job_id)
        end(session, job_id, ProgressState.ABORTED, reason=reason)

    transact(abort)
    return get_bulk_inference_details(job_id)


def pause_bulk_inference_job(job_id: str) -> JobDetails:
    """Let no further unit start, and those at work stop within about a second, keeping what they stored.

    Raises:
        JobNotFound: no bulk inference job has this id.
        Conflict: the job has ended.
    """

    def pause(session: Session) -> None:
        _find_live(session, job_id)
        ledger.pause(session, job_id)

    transact(pause)
    return get_bulk_inference_details(job_id)


def resume_bulk_inference_job(job_id: str) -> JobDetails:
    """Let a paused job go on; resuming one that is not paused changes nothing.

    Raises:
        JobNotFound: no bulk inference job has this id.
        Conflict: the job has ended.
    """

    def resume(session: Session) -> None:
        _find_live(session, job_id)
        ledger.resume(session, job_id)

    transact(resume)
    ledger.nudge()
    return get_bulk_inference_details(job_id)


def retry_bulk_inference_job(job_id: str) -> JobDetails:
    """Try again what failed. Failures are forgotten, results stay, and the job runs on to a new end.

    Raises:
        JobNotFound: no bulk inference job has this id.
        Conflict: the job is still running, was aborted, or has nothing to retry.
    """
    transact(_retry, job_id)
    ledger.nudge()
    return get_bulk_inference_details(job_id)


def get_bulk_inference_failures(job_id: str, *, after: int = -1, limit: int = 1000) -> list[InferenceFailure]:
    """A page of the datums that the job gave up, in the order of the split.

    Parameters:
        job_id: The job.
        after: The ordinal of the last failure of the page before; the first page by default.
        limit: How many to return at most.

    Raises:
        JobNotFound: no bulk inference job has this id.
        InvalidRequest: `limit` is negative.
    """
    _check_bounds(limit=limit)
    with reading() as session:
        _find(session, job_id)
        return [_as_failure(row, path) for row, path in session.execute(queries.failures(job_id, after, limit))]


def get_bulk_inference_evaluation(job_id: str) -> dict[str, Any] | None:
    """The metrics that were computed when the job ended, or None if there are none.

    Raises:
        JobNotFound: no bulk inference job has this id.
    """
    with reading() as session:
        return _find(session, job_id).evaluation


def _retry(session: Session, job_id: str) -> None:
    row = _find(session, job_id)
    if row.state not in (ProgressState.FAILED, ProgressState.SUCCEEDED):
        raise Conflict(f"Job {job_id} is {row.state}: only a job that succeeded or failed can be retried")
    # The unit that ended the job may not have settled yet: killed now and run again, it would end the job anew.
    ledger.cancel(session, job_id)
    ledger.reopen(session, job_id)
    session.execute(delete(FailureRow).where(FailureRow.job_id == job_id))
    again = ledger.retry(session, job_id)
    if again == 0 and row.state == ProgressState.SUCCEEDED:
        raise Conflict(f"Job {job_id} has nothing to retry")
    if not LIFECYCLE.move(session, job_id, ProgressState.RUNNING, reason=f"retrying {again} units"):
        raise Conflict(f"Job {job_id} is being retried already")
    set_columns(session, job_id, reason="", evaluation=None)
    indexing.suspend(session, job_id)
    if again == 0:
        ledger.finish_if_drained(session, job_id)  # what failed was the finish, such as its evaluation


def _find(session: Session, job_id: str) -> BulkInferenceJobRow:
    row = session.get(BulkInferenceJobRow, storable(job_id))
    if row is None:
        raise JobNotFound(f"No bulk inference job {job_id!r}: `orchestrator bulk-inference list` shows them")
    return row


def _find_live(session: Session, job_id: str) -> BulkInferenceJobRow:
    row = _find(session, job_id)
    if row.state in TERMINAL:
        raise Conflict(f"Job {job_id} has ended: it is {row.state}")
    return row


def _check_bounds(**bounds: int) -> None:
    for name, value in bounds.items():
        if value < 0:
            raise InvalidRequest(f"{name} is {value}: it must not be negative")


def _as_jobs(session: Session, rows: Sequence[BulkInferenceJobRow]) -> list[BulkInferenceJob]:
    computed = dict(session.execute(queries.computed([row.id for row in rows])).all())
    return [
        BulkInferenceJob(
            execution_id=row.id,
            execution_status=row.state,
            num_computed=int(computed[row.id]),
            expected_total=row.expected_total,
        )
        for row in rows
    ]


def _as_details(session: Session, row: BulkInferenceJobRow) -> JobDetails:
    progress = ledger.progress(session, row.id)
    job = session.get_one(JobRow, row.id)
    gate = None if row.state in TERMINAL else ledger.gates.find(session, row.model_id)
    return JobDetails(
        job_id=row.id,
        status=ProgressState(row.state),
        request=NewBulkInferenceJobRequest(
            model_project_id=row.model_project_id,
            model_id=row.model_id,
            dataset_project_id=row.dataset_project_id,
            dataset_id=row.dataset_id,
            dataset_snapshot_id=row.snapshot_id,
            dataset_snapshot_split=row.split,
            inference_method=row.inference_method,
            evaluate_metrics=row.evaluate_metrics,
            batch_size=row.batch_size,
        ),
        failure_threshold=row.failure_threshold,
        priority=job.priority,
        paused=job.paused,
        num_computed=progress.done,
        num_failed=progress.failed,
        expected_total=row.expected_total,
        in_flight=progress.in_flight,
        units=dict(progress.units),
        # None of its units may have met the endpoint that another job's found to be away.
        reason=row.reason or (gate.reason if gate else ""),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _as_failure(row: FailureRow, path: str) -> InferenceFailure:
    return InferenceFailure(
        job_id=row.job_id,
        datum_id=row.datum_id,
        path=path,
        ordinal=row.ordinal,
        failure_class=row.failure_class,
        status=row.status,
        message=row.message,
        attempts=row.attempts,
        created_at=row.created_at,
    )
