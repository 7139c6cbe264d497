"""Indexes of embeddings, where the database can have them: asked for by the first search that is slow without."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, cast

import structlog
from sqlalchemy import Select, Table, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, transact
from orchestrator.database import nearest as vectors
from orchestrator.database.nearest import VectorIndex
from orchestrator.ids import new_id
from orchestrator.inference_store.filtering import embeddings
from orchestrator.inference_store.filtering.embeddings import Found, Metric, Query
from orchestrator.inference_store.tables import EmbeddingRow, InferenceRow, StoreModelRow
from orchestrator.ledger import Again, Done, Lease, NewUnit, Outcome
from orchestrator.ledger.tables import JobRow
from orchestrator.queues import QueueName

log = structlog.get_logger(__name__)

KIND: Final = "vector_index"
#: Embeddings up to which comparing all of them takes some tenths of a second, and no index is worth its upkeep.
FEW: Final = 10_000
#: Candidates beyond those that are wanted: the index is not exact, so more are compared than asked for.
SPARE: Final = 50
#: How deep into the list a page that the index finds may reach: the farther, the more it would miss.
DEEPEST: Final = 100
#: Seconds between two looks at an index that the server goes on making although the worker who asked was killed.
PAUSE: Final = 15.0
#: After this long a job that made no index is asked again.
AGAIN: Final = timedelta(hours=1)
#: A cosine distance from which on nothing is left to the index: it does not know vectors of nothing but zeros.
RIGHT_ANGLE: Final = 1 - 1e-6


def nearest(session: Session, query: Query, chosen: Select[Any], *, offset: int, limit: int) -> list[Found]:
    """As `embeddings.nearest`, of which the index finds the candidates, if there is one.

    Inferences of jobs that are not indexed yet are compared one by one, as are all of them where the index finds too
    few that meet the filters.
    """
    wanted = offset + limit
    index = index_of(query.model_id, len(query.vector), query.metric)
    if not 0 < wanted <= DEEPEST or not vectors.is_ready(session, index):
        return embeddings.nearest(session, query, chosen, offset=offset, limit=limit)
    count = min(vectors.MOST, 2 * wanted + SPARE)
    ids = vectors.candidates(session, index, query.vector, chosen, "inference_id", count)
    narrowed = chosen.where(or_(InferenceRow.inference_id.in_(ids), embeddings.waits(query.model_id)))
    found = embeddings.nearest(session, query, narrowed, offset=0, limit=wanted) if len(ids) >= wanted else []
    if not found or (query.metric is Metric.COSINE and (found[-1].distance or 0) >= RIGHT_ANGLE):
        return embeddings.nearest(session, query, chosen, offset=offset, limit=limit)
    return found[offset:]


def index_of(model_id: str, size: int, metric: Metric) -> VectorIndex:
    """The index of a model's embeddings by a metric, whether or not it is there."""
    table = cast(Table, EmbeddingRow.__table__)
    return VectorIndex(table, "model_id", "embedding", model_id, size, metric.value)


def ask_for_index(session: Session, query: Query) -> None:
    """Have the index made that a search would have used, by a job that is asked for once; for few embeddings, none.

    A job that ended without an index, or whose index somebody dropped, is asked again after a while. `session` only
    reads; the job is written in a transaction of its own.
    """
    index = index_of(query.model_id, len(query.vector), query.metric)
    if vectors.is_ready(session, index) or not vectors.is_possible(session, index):
        return
    former = ledger.requested(session, KIND, index.name)
    if former is not None and session.scalar(_ended(former)) is None:
        return
    owned = select(EmbeddingRow.inference_id).where(EmbeddingRow.model_id == query.model_id)
    if session.scalar(owned.offset(FEW).limit(1)) is None:
        return
    try:
        transact(_open, index)
    except IntegrityError:
        return  # another search was faster
    ledger.nudge()


def _open(session: Session, index: VectorIndex) -> None:
    job_id = new_id()
    payload = {"model_id": index.owner, "size": index.size, "metric": index.metric}
    unit = NewUnit(f"{KIND}.build", f"build {job_id}", QueueName.PLANNING, payload)
    former = ledger.requested(session, KIND, index.name)
    if former is None:
        project_id = session.get_one(StoreModelRow, index.owner).project_id
        ledger.open_job(session, job_id=job_id, kind=KIND, project_id=project_id, request_id=index.name, first=unit)
    elif session.scalar(_ended(former).with_for_update()) is not None:
        ledger.reopen(session, former)
        ledger.add(session, former, [unit])
    else:
        return  # another search was faster
    log.info("job_submitted", job=former or job_id, kind=KIND, model=index.owner)


def _ended(job_id: str) -> Select[str]:
    """The job, if it has ended so long ago that it may be asked again."""
    return select(JobRow.id).where(JobRow.id == job_id, JobRow.closed_at <= db_now(-AGAIN))


def build(lease: Lease) -> Outcome:
    """Make the index. It writes nothing else, so an attempt that lost its unit does no harm."""
    payload = lease.payload
    index = index_of(payload["model_id"], payload["size"], Metric(payload["metric"]))
    return Done() if vectors.build(index) else Again(PAUSE)


def finish(lease: Lease) -> Outcome:
    """Close the job; without an index every search goes on comparing one by one."""

    def close(session: Session) -> None:
        ledger.check(session, lease)
        ledger.close(session, lease.job_id)

    transact(close)
    return Done()
