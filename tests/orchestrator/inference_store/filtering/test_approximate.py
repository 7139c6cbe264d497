"""Embedding search with an index of PostgreSQL: asked for once, made beside everything else, as exact as without."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select

from orchestrator import ledger
from orchestrator.database import nearest, reading
from orchestrator.inference_store.filtering import approximate, embeddings, found, page
from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    EmbeddingDistanceMetric,
    EmbeddingFilter,
    NewGetInferencesRequest,
    Pagination,
)
from orchestrator.ledger import Done, Hopeless, Lease
from orchestrator.ledger.tables import JobRow, UnitRow
from tests.conftest import Database
from tests.orchestrator.inference_store.filtering.oracle import Origin, Record
from tests.orchestrator.inference_store.filtering.store import store
from tests.orchestrator.inference_store.filtering.worlds import EPOCH
from tests.support.bulk_inference import settle

SIZE = 8
ODD, EVEN = "1" * 64, "2" * 64


@pytest.fixture
def model_id(database: Database, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model with 300 embeddings, one of them zeros, and some in a bulk job that is not indexed."""
    if database.kind == "sqlite":
        pytest.skip("SQLite has no such index")
    chance = np.random.default_rng(7)
    waiting = Origin("job", "set", "snapshot", "train", is_indexed=False)
    records = [
        Record(
            f"{number:03}",
            EPOCH,
            data_hash=ODD if number % 2 else EVEN,
            embedding=chance.standard_normal(SIZE).tolist() if number else [0.0] * SIZE,
            origin=waiting if number % 20 == 10 else None,
            datum_id=f"datum-{number}" if number % 20 == 10 else None,
        )
        for number in range(300)
    ]
    made = store(records, embedding_size=SIZE)
    index = approximate.index_of(made, SIZE, EmbeddingDistanceMetric.COSINE)
    with reading() as session:
        if not nearest.is_possible(session, index):
            pytest.skip("the server does not offer pgvector")
    monkeypatch.setattr(approximate, "FEW", 100)
    return made


def request(metric: str, data_hash: str | None = None, limit: int = 10) -> NewGetInferencesRequest:
    query = np.random.default_rng(1).standard_normal(SIZE).tolist()
    return NewGetInferencesRequest(
        filters=BaseInferenceFilter(data_hash_filter=data_hash),
        embedding_filters=EmbeddingFilter(query_embedding=query, distance_metric=metric),
        pagination=Pagination(limit=limit, offset=2),
    )


def search(model_id: str, asked: NewGetInferencesRequest) -> list[embeddings.Found]:
    with reading() as session:
        return page(session, model_id, asked)


def exact(model_id: str, asked: NewGetInferencesRequest) -> list[embeddings.Found]:
    assert asked.embedding_filters is not None
    assert asked.pagination is not None
    with reading() as session:
        query = embeddings.query_of(session, model_id, asked.embedding_filters)
        chosen = found(model_id, asked.filters)
        return embeddings.nearest(session, query, chosen, offset=2, limit=asked.pagination.limit or 0)


def jobs() -> list[str]:
    with reading() as session:
        return list(session.scalars(select(JobRow.id).where(JobRow.kind == approximate.KIND)))


def claim(kind: str) -> Lease:
    with reading() as session:
        unit_id = session.scalar(select(UnitRow.id).where(UnitRow.kind == kind).order_by(UnitRow.id.desc()))
    lease = ledger.claim(unit_id or "", "test")
    assert lease is not None
    return lease


def run_job() -> None:
    """Make the index that was asked for last, as a worker would."""
    lease = claim("vector_index.build")
    outcome = approximate.build(lease)
    assert outcome == Done()
    settle(lease, outcome)
    lease = claim("vector_index.finish")
    settle(lease, approximate.finish(lease))


@pytest.mark.parametrize("metric", [metric.value for metric in EmbeddingDistanceMetric])
def test_answers_with_the_index_are_those_without(model_id: str, broker: object, metric: str) -> None:
    cases = [request(metric), request(metric, ODD), request(metric, limit=200), request(metric, "none")]
    before = [search(model_id, case) for case in cases]
    assert before == [exact(model_id, case) for case in cases]
    run_job()
    index = approximate.index_of(model_id, SIZE, EmbeddingDistanceMetric(metric))
    with reading() as session:
        assert nearest.is_ready(session, index)
    for case, former in zip(cases, before, strict=True):
        after = search(model_id, case)
        assert [one.inference_id for one in after] == [one.inference_id for one in former]
        assert [one.distance for one in after] == pytest.approx([one.distance for one in former])
    assert len(jobs()) == 1


def test_an_index_is_made_once_however_often_its_unit_runs(model_id: str) -> None:
    index = approximate.index_of(model_id, SIZE, EmbeddingDistanceMetric.L2)
    assert nearest.build(index)
    assert nearest.build(index)


def test_an_index_that_could_not_be_made_is_asked_for_again_after_a_while(
    model_id: str, broker: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request("l2")
    search(model_id, asked)
    settle(claim("vector_index.build"), Hopeless("the disk is full"))
    settle(lease := claim("vector_index.finish"), approximate.finish(lease))
    search(model_id, asked)
    assert units() == {"dead": 1, "done": 1}
    monkeypatch.setattr(approximate, "AGAIN", timedelta())
    search(model_id, asked)
    search(model_id, asked)
    run_job()
    with reading() as session:
        assert nearest.is_ready(session, approximate.index_of(model_id, SIZE, EmbeddingDistanceMetric.L2))
    search(model_id, asked)
    assert (len(jobs()), units()) == (1, {"dead": 1, "done": 3})


def units() -> dict[str, int]:
    """How many units there are of each state."""
    with reading() as session:
        return dict(Counter(session.scalars(select(UnitRow.state))))


def test_few_embeddings_get_no_index(model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "FEW", 1000)
    search(model_id, request("cosine"))
    assert jobs() == []
