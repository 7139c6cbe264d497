"""Every filter against what it means in plain Python, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from orchestrator import clock
from orchestrator.database import reading
from orchestrator.errors import InvalidRequest
from orchestrator.ids import new_id
from orchestrator.inference_store.filtering import count, found, page
from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    DeconstructedInferenceFilter,
    MetadataFilter,
    NewGetInferencesRequest,
    Pagination,
    TimeWindowFilter,
)
from tests.orchestrator.inference_store.filtering import oracle, worlds
from tests.orchestrator.inference_store.filtering.oracle import Item, Record
from tests.orchestrator.inference_store.filtering.store import store
from tests.orchestrator.inference_store.filtering.worlds import EPOCH

pytestmark = pytest.mark.usefixtures("database")

#: The database is the same for all examples: each has a model of its own.
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MANY = settings(QUICK, max_examples=400)
EXAMPLES = (worlds.worlds(), st.lists(worlds.filters, min_size=10, max_size=20))


@QUICK
@given(*EXAMPLES)
def test_filters_find_what_they_mean(records: list[Record], filters: list[BaseInferenceFilter]) -> None:
    compare(records, filters)


@pytest.mark.endurance
@pytest.mark.timeout(3600)
@MANY
@given(*EXAMPLES)
def test_filters_find_what_they_mean_thousands_of_times(
    records: list[Record], filters: list[BaseInferenceFilter]
) -> None:
    compare(records, filters)


def compare(records: list[Record], filters: list[BaseInferenceFilter]) -> None:
    stamp = new_id()[-12:]
    records = worlds.stamped(records, stamp)
    model_id = store(records)
    for drawn in filters:
        filter_ = worlds.stamped_filter(drawn, stamp)
        try:
            expected = {record.inference_id: verdict(filter_, record) for record in records}
        except oracle.Malformed:
            event("malformed")
            with pytest.raises(InvalidRequest):
                found(model_id, filter_)
            continue
        with reading() as session:
            ids = session.scalars(found(model_id, filter_)).all()
            counted = count(session, model_id, NewGetInferencesRequest(filters=filter_))
            listed = page(session, model_id, NewGetInferencesRequest(filters=filter_))
        event(f"finds {'none' if not ids else 'some' if len(ids) < len(records) else 'all'}")
        certain = {inference_id for inference_id, is_found in expected.items() if is_found is not None}
        assert {inference_id for inference_id in ids if inference_id in certain} == {
            inference_id for inference_id, is_found in expected.items() if is_found
        }, filter_
        assert len(ids) == len(set(ids)) == counted
        assert sorted(one.inference_id for one in listed) == sorted(ids)


def verdict(filter_: BaseInferenceFilter, record: Record) -> bool | None:
    """Whether the filter finds the record; None where rounding may decide."""
    try:
        return oracle.finds(filter_, record, clock.now())
    except oracle.Doubtful:
        return None


@QUICK
@given(
    worlds.worlds(),
    st.lists(
        st.tuples(
            st.none() | worlds.label_filters,
            st.sampled_from([None, "created_at", "label", "score"]),
            st.sampled_from([None, "asc", "desc"]),
            st.integers(0, 3),
            st.none() | st.integers(0, 4),
        ),
        min_size=10,
        max_size=20,
    ),
)
def test_pages_come_in_the_order_that_the_request_names(records: list[Record], requests: list[Any]) -> None:
    records = worlds.stamped(records, new_id()[-12:])
    model_id = store(records)
    for labels, sort, direction, offset, limit in requests:
        request = NewGetInferencesRequest(
            filters=BaseInferenceFilter(deconstructed_inference_filter=labels),
            pagination=Pagination(sort=sort, direction=direction, offset=offset, limit=limit),
        )
        with reading() as session:
            ids = [one.inference_id for one in page(session, model_id, request)]
        there = [record for record in records if not record.is_deleted and oracle.has_label(labels, record)]
        ordered = in_order(there, labels, sort or "created_at", is_descending=direction == "desc")
        assert ids == ordered[offset:][: 50 if limit is None else limit], (labels, sort, direction)


def in_order(
    records: list[Record], labels: DeconstructedInferenceFilter | None, sort: str, *, is_descending: bool
) -> list[str]:
    oldest_first = sorted(records, key=lambda record: (record.created_at, record.inference_id))
    if sort == "created_at":
        return [record.inference_id for record in (reversed(oldest_first) if is_descending else oldest_first)]
    keys: dict[str, Any] = {}
    for record in records:
        values = [element.get(sort) for element in oracle.matching_elements(labels, record)]
        known = [value.encode() if isinstance(value, str) else value for value in values if value is not None]
        if known:
            keys[record.inference_id] = (max if is_descending else min)(known)
    with_key = [record for record in oldest_first if record.inference_id in keys]
    # Equals stay in their order, also in a sort that is reversed.
    with_key.sort(key=lambda record: keys[record.inference_id], reverse=is_descending)
    without = [record for record in oldest_first if record.inference_id not in keys]
    return [record.inference_id for record in with_key + without]


@pytest.mark.parametrize(
    "pagination, complaint",
    [({"limit": -1}, "limit is -1"), ({"offset": -1}, "offset is -1"), ({"sort": "embedding_distance"}, "from what")],
)
def test_a_malformed_pagination_is_refused(pagination: dict[str, Any], complaint: str) -> None:
    request = NewGetInferencesRequest(pagination=Pagination(**pagination))
    with reading() as session, pytest.raises(InvalidRequest, match=complaint):
        page(session, "model", request)


def test_an_inference_of_the_future_is_outside_a_window_without_an_end() -> None:
    future = datetime(2100, 1, 1, tzinfo=UTC)
    model_id = store([Record("old", EPOCH), Record("new", future)])
    with reading() as session:
        filter_ = BaseInferenceFilter(time_window_filter=TimeWindowFilter())
        assert session.scalars(found(model_id, filter_)).all() == ["old"]


def test_one_model_does_not_see_another_ones_inferences() -> None:
    item: dict[str, Item] = {"k": ("string", "v")}
    mine = store([Record("one", EPOCH, metadata=item, elements=[{"label": "cat", "score": 1.0}])])
    store([Record("two", EPOCH, metadata=item, elements=[{"label": "cat", "score": 1.0}])])
    filter_ = BaseInferenceFilter(
        metadata_filter=[MetadataFilter(key="k", operator="=", type="string", value="v")],
        deconstructed_inference_filter=DeconstructedInferenceFilter(labels=["cat"]),
    )
    with reading() as session:
        assert session.scalars(found(mine, filter_)).all() == ["one"]
