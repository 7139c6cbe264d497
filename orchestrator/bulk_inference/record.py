"""Recording: results, failures and progress of an attempt, in one fenced transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import ledger, meters
from orchestrator.bulk_inference.lifecycle import LIFECYCLE, TERMINAL, end
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.bulk_inference.tables import BulkInferenceJobRow, FailureRow
from orchestrator.database import db_now, insert_ignoring, insert_rows, transact
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import Lease


class StoredResult(NamedTuple):
    """An inference to be stored: `data` is JSON text, `version` says whether it is a standard list."""

    ordinal: int
    datum_id: str
    sha256: str
    storage_key: str
    data: str
    version: str


class FailedResult(NamedTuple):
    """A datum that is given up."""

    ordinal: int
    datum_id: str
    failure_class: str
    status: int | None
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a flush found: how many rows were new, and whether the unit should go on."""

    stored: int
    failed: int
    paused: bool
    gives_way: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What every result of a job has in common."""

    model_id: str
    action: str


#: Columns in which a job's results differ, in the order of `insert_results`.
COLUMNS = ("inference_id", "data", "data_hash", "data_storage_key", "datum_id", "ordinal")

Insert = Callable[[Session, str, Target, Sequence[StoredResult], datetime], int]


def record(
    lease: Lease,
    target: Target,
    results: Sequence[StoredResult],
    failures: Sequence[FailedResult] = (),
    *,
    in_flight: int = 0,
    may_yield: bool = False,
) -> Recorded:
    """Store results and failures, and add those that are new to the unit's counters.

    With `may_yield` it is also asked whether another project waits that should have the worker.

    One transaction, which first makes sure that the lease still holds.

    Raises:
        LeaseLost: the unit belongs to another attempt now, or was cancelled; nothing was written.
    """
    work = lease, target, results, failures, in_flight, may_yield
    try:
        recorded = transact(_record, *work, insert_results)
    except IntegrityError:
        # Under the lease nobody else writes these rows, and what was written before is not inferred again.
        # Should there be any all the same, they stay as they are.
        recorded = transact(_record, *work, insert_missing_results)
    meters.count_datums(target.model_id, {"stored": recorded.stored, "failed": recorded.failed})
    return recorded


def _record(
    session: Session,
    lease: Lease,
    target: Target,
    results: Sequence[StoredResult],
    failures: Sequence[FailedResult],
    in_flight: int,
    may_yield: bool,
    insert: Insert,
) -> Recorded:
    now = ledger.check(session, lease)
    stored = insert(session, lease.job_id, target, results, now)
    failed = insert_ignoring(session, FailureRow, failure_rows(session, lease.job_id, failures))
    ledger.hold(session, lease, done=stored, failed=failed, in_flight=in_flight)
    if failed:
        LIFECYCLE.move(session, lease.job_id, ProgressState.RUNNING_FAILED)
    gives_way = may_yield and ledger.gives_way(session, lease)
    return Recorded(stored, failed, ledger.is_paused(session, lease), gives_way)


def fail_job(lease: Lease, reason: str) -> None:
    """End the job as failed because its endpoint will never answer; results so far stay.

    Raises:
        LeaseLost: the unit belongs to another attempt now, or was cancelled; nothing was written.
    """

    def fail(session: Session) -> None:
        ledger.check(session, lease)
        end(session, lease.job_id, ProgressState.FAILED, reason=reason, by=lease.unit_id)

    transact(fail)


def explain(lease: Lease, reason: str) -> None:
    """Say on the job why it waits; an empty reason clears what was said.

    Raises:
        LeaseLost: the unit belongs to another attempt now, or was cancelled; nothing was written.
    """

    def say(session: Session) -> None:
        ledger.check(session, lease)
        session.execute(
            update(BulkInferenceJobRow)
            # Why a job ended stays, whatever its last units have to say.
            .where(BulkInferenceJobRow.id == lease.job_id, BulkInferenceJobRow.state.not_in(TERMINAL))
            .where(BulkInferenceJobRow.reason != reason)
            .values(reason=reason),
            execution_options={"synchronize_session": False},
        )

    transact(say)


def inference_id(job_id: str, ordinal: int) -> str:
    """The id of a job's inference on a datum: the same however often the unit runs."""
    return f"{job_id}-{ordinal:08d}"


def failure_rows(session: Session, job_id: str, failures: Sequence[FailedResult]) -> list[dict[str, object]]:
    """Rows for `FailureRow`, stamped by the database's clock."""
    if not failures:
        return []
    created = session.scalar(select(db_now()))
    return [{"job_id": job_id, "created_at": created, **failure._asdict()} for failure in failures]


def insert_results(
    session: Session, job_id: str, target: Target, results: Sequence[StoredResult], now: datetime
) -> int:
    """Insert results none of which exists; returns how many.

    Raises:
        IntegrityError: one exists.
    """
    for version, group in groupby(results, key=attrgetter("version")):
        shared: dict[str, str | datetime] = {
            "model_id": target.model_id,
            "created_at": now,
            "inference_action": target.action,
            "version": version,
            "bulk_inference_job_id": job_id,
        }
        rows = [
            (inference_id(job_id, ordinal), data, sha256, storage_key, datum_id, str(ordinal))
            for ordinal, datum_id, sha256, storage_key, data, _ in group
        ]
        insert_rows(session, InferenceRow, shared, COLUMNS, rows)
    return len(results)


def insert_missing_results(
    session: Session, job_id: str, target: Target, results: Sequence[StoredResult], now: datetime
) -> int:
    """Insert the results that do not exist; returns how many."""
    return insert_ignoring(
        session,
        InferenceRow,
        [
            {
                "model_id": target.model_id,
                "inference_id": inference_id(job_id, result.ordinal),
                "created_at": now,
                "inference_action": target.action,
                "version": result.version,
                "data": result.data,
                "data_hash": result.sha256,
                "data_storage_key": result.storage_key,
                "bulk_inference_job_id": job_id,
                "datum_id": result.datum_id,
                "ordinal": result.ordinal,
            }
            for result in results
        ],
    )
