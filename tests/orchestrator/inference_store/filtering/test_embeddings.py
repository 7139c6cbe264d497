"""Embedding search against plain Python: by each metric, nearest or farthest first, indexed or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from orchestrator.database import engine, reading
from orchestrator.errors import InvalidRequest
from orchestrator.ids import new_id
from orchestrator.inference_store.filtering import Found, count, embeddings, page
from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    EmbeddingDistanceMetric,
    EmbeddingFilter,
    NewGetInferencesRequest,
    Pagination,
)
from tests.orchestrator.inference_store.filtering.oracle import HASH, Origin, Record
from tests.orchestrator.inference_store.filtering.store import store
from tests.orchestrator.inference_store.filtering.worlds import EPOCH, stamped

pytestmark = pytest.mark.usefixtures("database")

numbers = st.sampled_from([0.0, 1.0, -1.0, 0.1]) | st.floats(-100, 100, width=32)
vectors = st.lists(numbers, min_size=3, max_size=3)
ORIGINS = [
    None,
    Origin("@indexed", "set", "@one", "train", is_indexed=True),
    Origin("@waiting", "set", "@two", "train", is_indexed=False),
]


@st.composite
def worlds(draw: st.DrawFn) -> list[Record]:
    """Inferences with embeddings, most of them of the model's size, and some without."""
    found = []
    for number in range(draw(st.integers(1, 12))):
        origin = draw(st.sampled_from(ORIGINS))
        found.append(
            Record(
                f"inference-{number:02}",
                EPOCH,
                action="embed",
                data_hash=draw(st.sampled_from([HASH, "0" * 64])),
                embedding=draw(st.none() | vectors | vectors),
                origin=origin,
                datum_id=None if origin is None else f"@datum-{number}",
                is_deleted=draw(st.integers(0, 9)) == 0,
            )
        )
    return found


def distance(metric: str, one: list[float], other: list[float]) -> float:
    first, second = [[float(np.float32(number)) for number in vector] for vector in (one, other)]
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    match metric:
        case "l2":
            return math.dist(first, second)
        case "negative_dot_product":
            return -dot
        case _:
            lengths = math.hypot(*first) * math.hypot(*second)
            return 1 - (dot / lengths if lengths else 0.0)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    worlds(),
    st.lists(
        st.tuples(
            vectors,
            st.none() | st.sampled_from([metric.value for metric in EmbeddingDistanceMetric]),
            st.sampled_from([None, HASH]),
            st.sampled_from([None, "asc", "desc"]),
            st.integers(0, 3),
            st.none() | st.integers(0, 5),
        ),
        min_size=5,
        max_size=10,
    ),
)
def test_the_nearest_come_first_whatever_the_metric(records: list[Record], requests: list[Any]) -> None:
    records = stamped(records, new_id()[-12:])
    model_id = store(records, embedding_size=3)
    for query, metric, wanted_hash, direction, offset, limit in requests:
        request = NewGetInferencesRequest(
            filters=BaseInferenceFilter(data_hash_filter=wanted_hash),
            embedding_filters=EmbeddingFilter(query_embedding=query, distance_metric=metric),
            pagination=Pagination(direction=direction, offset=offset, limit=limit),
        )
        distances = {
            record.inference_id: distance(metric or "cosine", record.embedding, query)
            for record in records
            if record.embedding and not record.is_deleted and wanted_hash in (None, record.data_hash)
        }
        expected = sorted(distances.values(), reverse=direction == "desc")[offset:][: 50 if limit is None else limit]
        with reading() as session:
            found = page(session, model_id, request)
            assert count(session, model_id, request) == len(distances)
        assert [one.distance for one in found] == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert [one.distance for one in found] == pytest.approx(
            [distances[one.inference_id] for one in found], rel=1e-5, abs=1e-5
        )
        assert len({one.inference_id for one in found}) == len(found)


def records_of(*embedded: Sequence[float]) -> list[Record]:
    return [Record(f"{number}", EPOCH, embedding=list(vector)) for number, vector in enumerate(embedded)]


def search(model_id: str, query: list[float], metric: str | None = None, **pagination: Any) -> list[Found]:
    request = NewGetInferencesRequest(
        embedding_filters=EmbeddingFilter(query_embedding=query, distance_metric=metric),
        pagination=Pagination(**pagination),
    )
    with reading() as session:
        return page(session, model_id, request)


def test_distances_are_known_too_where_time_orders() -> None:
    model_id = store(records_of([1, 0], [0, 2]), embedding_size=2)
    assert search(model_id, [0, 1], "l2", sort="created_at", direction="desc") == [Found("1", 1.0), Found("0", 2**0.5)]


def test_of_equals_the_smaller_id_comes_first_on_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "MOST", 3)
    model_id = store(records_of(*[[1, 1]] * 9), embedding_size=2)
    pages = [[one.inference_id for one in search(model_id, [1, 0], offset=at, limit=2)] for at in range(0, 10, 2)]
    assert pages == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["8"]]


@pytest.mark.parametrize(
    "size, query, metric, complaint",
    [
        (3, [1, 0], None, "has 2 numbers: the model's have 3"),
        (0, [], None, "not registered with an embedding_size"),
        (2, [1, math.nan], None, "not finite"),
        (2, [1, 1e39], None, "not finite"),
        (2, [1, 0], "manhattan", "choose from cosine, l2, negative_dot_product"),
    ],
)
def test_a_malformed_search_is_refused(size: int, query: list[float], metric: str | None, complaint: str) -> None:
    model_id = store([], embedding_size=size)
    with pytest.raises(InvalidRequest, match=complaint):
        search(model_id, query, metric)


def test_a_page_of_any_length_is_measured_in_statements_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model_id = store(
        [Record(f"inference-{n:02}", EPOCH, action="embed", embedding=[1.0, 2.0, float(n)]) for n in range(40)],
        embedding_size=3,
    )
    monkeypatch.setattr(embeddings, "MOST", 5)
    sizes: list[int] = []

    def measure(*given: Any) -> None:
        sizes.append(len(given[3] or ()))

    event.listen(engine(), "before_cursor_execute", measure)
    request = NewGetInferencesRequest(
        embedding_filters=EmbeddingFilter(query_embedding=[1.0, 2.0, 0.0], distance_metric="l2"),
        pagination=Pagination(limit=40, sort="created_at"),
    )
    with reading() as session:
        found = page(session, model_id, request)
    # Later tests have the same engine.
    event.remove(engine(), "before_cursor_execute", measure)
    assert found == [Found(f"inference-{n:02}", float(n)) for n in range(40)]
    assert max(sizes) < 20
