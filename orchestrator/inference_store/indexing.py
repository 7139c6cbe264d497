"""The late index: what a bulk job's inferences are found by is taken out of their data after the job has ended.

A bulk job writes inferences and nothing else, because the model server should set its pace. Until its origin says that
it is indexed, filters read labels and embeddings from the data itself, so the answers are the same at any time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import orjson
import structlog
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, give_way, insert_ignoring, transact
from orchestrator.ids import new_id
from orchestrator.inference_store.filtering.facets import of_data, of_standard_list
from orchestrator.inference_store.register import learn_embedding_size
from orchestrator.inference_store.tables import EmbeddingRow, InferenceRow, LabelRow, OriginRow
from orchestrator.ledger import Again, Done, Lease, NewUnit, Outcome, UnitState
from orchestrator.ledger.tables import JobRow, UnitRow
from orchestrator.queues import QueueName

log = structlog.get_logger(__name__)

KIND: Final = "inference_index"
#: Inferences that one transaction takes apart: a tenth of a second at some ten labels each.
PAGE: Final = 500
#: Inferences of a job that is indexed in the transaction that ends it: cheaper than two units of work.
AT_ONCE: Final = 64
#: Inferences of a unit at least, and units of a job at most: they are written in the transaction that ends the job.
SMALLEST, MOST_UNITS = 8192, 64
#: Seconds of work after which a unit gives way: jobs are planned and ended on the same queue, and people wait for that.
SLICE: Final = 0.5
#: Behind whatever else the project has to do.
PRIORITY: Final = -100


def begin(session: Session, job_id: str, **origin: str) -> None:
    """Write down, as the bulk job is submitted, what all its inferences will have in common."""
    session.add(OriginRow(bulk_inference_job_id=job_id, **origin))
    session.flush()


def schedule(session: Session, job_id: str) -> None:
    """Have the inferences of a bulk job indexed, in the transaction that ends it."""
    origin = session.get(OriginRow, job_id)
    if origin is None:
        return
    total = session.scalar(select(func.max(InferenceRow.ordinal)).where(InferenceRow.bulk_inference_job_id == job_id))
    high = -1 if total is None else total
    if high < AT_ONCE:
        _take_apart(session, job_id, 0, AT_ONCE)
        _set(session, job_id, indexed_at=db_now(), index_job_id=None)
        return
    bulk, index_job_id = session.get_one(JobRow, job_id), new_id()
    size = max(SMALLEST, -(-(high + 1) // MOST_UNITS))
    units = [_unit(job_id, low, min(low + size, high + 1)) for low in range(0, high + 1, size)]
    ledger.open_job(
        session,
        job_id=index_job_id,
        kind=KIND,
        project_id=bulk.project_id,
        weight=bulk.weight,
        priority=PRIORITY,
        first=units[0],
    )
    ledger.add(session, index_job_id, units[1:])
    _set(session, job_id, index_job_id=index_job_id)


def suspend(session: Session, job_id: str) -> None:
    """A bulk job runs again, and writes what no index knows: filters look into the data again."""
    origin = session.get(OriginRow, job_id)
    if origin is None:
        return
    if origin.index_job_id is not None:
        ledger.cancel(session, origin.index_job_id)
        ledger.close(session, origin.index_job_id)
    _set(session, job_id, indexed_at=None, index_job_id=None)


def index(lease: Lease) -> Outcome:
    """Take a range of a bulk job's inferences apart, a page in each transaction, which also says how far it came.

    Killed midway and run again, it goes on behind the last page; what it finds done it leaves.
    """
    job_id, high = lease.payload["bulk_inference_job_id"], lease.payload["high"]
    position = lease.payload.get("position", lease.payload["low"])
    deadline = time.monotonic() + SLICE
    while position < high:
        started = time.monotonic()
        if started > deadline:
            return Again()
        position = transact(_index_page, lease, job_id, position, min(position + PAGE, high))
        give_way(time.monotonic() - started)
    return Done()


def finish(lease: Lease) -> Outcome:
    """Say that the bulk job is indexed, unless a range could not be: then filters go on looking into its data."""
    error = transact(_finish, lease)
    if error:
        log.error("index_failed", job=lease.job_id, error=error)
    return Done()


def _unit(job_id: str, low: int, high: int) -> NewUnit:
    payload = {"bulk_inference_job_id": job_id, "low": low, "high": high}
    return NewUnit(f"{KIND}.index", f"{low}-{high}", QueueName.PLANNING, payload)


def _index_page(session: Session, lease: Lease, job_id: str, low: int, high: int) -> int:
    ledger.check(session, lease)
    done = _take_apart(session, job_id, low, high)
    ledger.hold(session, lease, done=done)
    ledger.note(session, lease, position=high)
    return high


def _take_apart(session: Session, job_id: str, low: int, high: int) -> int:
    """Write the labels and embeddings of inferences with `low <= ordinal < high`; returns how many these are."""
    found = session.execute(
        select(InferenceRow.model_id, InferenceRow.inference_id, InferenceRow.version, InferenceRow.data)
        .where(InferenceRow.bulk_inference_job_id == job_id, InferenceRow.ordinal >= low, InferenceRow.ordinal < high)
        .order_by(InferenceRow.ordinal)
        # Nobody may delete them meanwhile: the new rows refer to them.
        .with_for_update(key_share=True, read=True)
    ).all()
    labels = [row for of_one in found if of_one.version == "v2" for row in _labels(of_one)]
    insert_ignoring(session, LabelRow, labels)
    _add_embeddings(session, [row for of_one in found if of_one.version == "v1" for row in _embeddings(of_one)])
    return len(found)


def _labels(found: Any) -> Iterable[dict[str, Any]]:
    objects = orjson.loads(found.data or "[]")
    for element in of_standard_list(objects if isinstance(objects, list) else []):
        yield {"model_id": found.model_id, "inference_id": found.inference_id, **element._asdict()}


def _embeddings(found: Any) -> Iterable[dict[str, Any]]:
    vector = of_data(found.data)
    if vector is not None:
        yield {"model_id": found.model_id, "inference_id": found.inference_id, "embedding": vector}


def _add_embeddings(session: Session, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    there = set(
        session.scalars(
            select(EmbeddingRow.inference_id).where(
                EmbeddingRow.model_id == rows[0]["model_id"],
                EmbeddingRow.inference_id.in_([row["inference_id"] for row in rows]),
            )
        )
    )
    missing = [row for row in rows if row["inference_id"] not in there]
    if missing:
        learn_embedding_size(session, rows[0]["model_id"], len(rows[0]["embedding"]))
        session.connection().execute(insert(EmbeddingRow), missing)


def _finish(session: Session, lease: Lease) -> str:
    ledger.check(session, lease)
    dead = select(UnitRow.last_error).where(UnitRow.job_id == lease.job_id, UnitRow.state == UnitState.DEAD).limit(1)
    error = session.scalar(dead) or ""
    if not error:
        session.execute(
            update(OriginRow).where(OriginRow.index_job_id == lease.job_id).values(indexed_at=db_now()),
            execution_options={"synchronize_session": False},
        )
    ledger.close(session, lease.job_id)
    return error


def _set(session: Session, job_id: str, /, **values: Any) -> None:
    session.execute(
        update(OriginRow).where(OriginRow.bulk_inference_job_id == job_id).values(**values),
        execution_options={"synchronize_session": False},
    )
