"""Finishing: what dead units left undone is recorded, metrics are computed, and the job ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.bulk_inference import queries
from orchestrator.bulk_inference.lifecycle import end, set_columns
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.bulk_inference.record import FailedResult, failure_rows
from orchestrator.bulk_inference.tables import BulkInferenceJobRow, FailureRow
from orchestrator.database import insert_ignoring, reading, transact
from orchestrator.errors import OrchestratorError, Unavailable
from orchestrator.ledger import Done, Lease, Outcome
from orchestrator.ledger.tables import UnitRow

log = structlog.get_logger(__name__)

#: Datums of a dead unit that one transaction records.
PAGE = 1000

#: Computes a job's metrics; raises `OrchestratorError` when there are none to be had.
Evaluator = Callable[[BulkInferenceJobRow], dict[str, Any]]


def finish(lease: Lease, evaluate: Evaluator) -> Outcome:
    """End the job: the share of failed datums against its threshold decides how.

    Killed at any point and run again, it does what is missing; the last transaction ends the job.
    """
    with reading() as session:
        job = session.get_one(BulkInferenceJobRow, lease.job_id)
        dead = session.scalars(queries.dead_units(lease.job_id)).all()
    for unit in dead:
        if unit.kind == "bulk_inference.infer":
            _give_up(lease, job, unit)
    reason = _why_failed(lease, job, dead)
    if job.evaluate_metrics and not reason:
        reason = _evaluate(lease, job, evaluate)
    state = ProgressState.FAILED if reason else ProgressState.SUCCEEDED
    transact(_end, lease, state, reason)
    log.info("job_ended", job=job.id, state=state.value, reason=reason)
    return Done()


def _give_up(lease: Lease, job: BulkInferenceJobRow, unit: UnitRow) -> None:
    """Record as failed every datum of a dead unit that has neither result nor failure."""
    low, high = unit.payload["low"], unit.payload["high"]
    for start in range(low, high, PAGE):
        transact(_give_up_page, lease, job, unit, start, min(start + PAGE, high))


def _give_up_page(session: Session, lease: Lease, job: BulkInferenceJobRow, unit: UnitRow, low: int, high: int) -> None:
    ledger.check(session, lease)
    settled = set(session.scalars(queries.settled(job.id, low, high)))
    message = f"its unit died after {unit.attempt} attempts: {unit.last_error}"
    missing = [
        FailedResult(ordinal, datum_id, "abandoned", None, message, unit.attempt)
        for ordinal, datum_id, *_ in session.execute(queries.datums(job, low, high))
        if ordinal not in settled
    ]
    count = insert_ignoring(session, FailureRow, failure_rows(session, job.id, missing))
    session.execute(update(UnitRow).where(UnitRow.id == unit.id).values(failed_count=UnitRow.failed_count + count))


def _why_failed(lease: Lease, job: BulkInferenceJobRow, dead: Sequence[UnitRow]) -> str:
    """Why the job counts as failed; empty when it does not."""
    former_error = lease.payload.get("former_error")
    if former_error:
        return f"the job could not be finished: {former_error}"
    for unit in dead:
        if unit.kind == "bulk_inference.plan":
            return f"the job could not be planned: {unit.last_error}"
    with reading() as session:
        done = ledger.progress(session, job.id).done
    # What is not there has failed, whether or not somebody wrote down why.
    total = job.expected_total or 0
    share = (total - done) / max(1, total)
    if share <= job.failure_threshold:
        return ""
    allowed = f"more than the threshold of {job.failure_threshold:.2%}"
    return f"{total - done} of {total} datums failed ({share:.2%}), {allowed}"


def _evaluate(lease: Lease, job: BulkInferenceJobRow, evaluate: Evaluator) -> str:
    """Compute and store the job's metrics; returns why there are none, or nothing."""
    try:
        evaluation = evaluate(job)
    except Unavailable:
        raise  # another attempt may find the blob store back
    except OrchestratorError as error:
        return f"the results are stored, but could not be evaluated: {error}"

    def store(session: Session) -> None:
        ledger.check(session, lease)
        set_columns(session, job.id, evaluation=evaluation)

    transact(store)
    return ""


def _end(session: Session, lease: Lease, state: ProgressState, reason: str) -> None:
    ledger.check(session, lease)
    end(session, lease.job_id, state, reason=reason, by=lease.unit_id)
