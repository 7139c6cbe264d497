"""Metadata: attached, replaced and deleted, inherited from a bulk job, counted and described."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.database import writing
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.ids import new_id
from orchestrator.inference_store import (
    BaseInferenceFilter,
    MetadataStatistics,
    MetadataStatisticsType,
    MetadataType,
    NewExtendedMetadataRequest,
    NewGetMetadataStatisticsRequest,
    TimeWindowFilter,
    create_metadata,
    delete_inference,
    delete_metadata,
    get_data_hash,
    get_inference,
    get_metadata,
    get_metadata_key_type_counts,
    get_metadata_statistics,
    map_to_inference_store_metadata,
)
from orchestrator.inference_store.statistics import _edges
from orchestrator.inference_store.tables import InferenceRow, OriginRow
from tests.support.store import collection, create, registered

JOB_KEYS = {"bulk_inference_job_id", "dataset_id", "dataset_snapshot_id", "dataset_snapshot_split", "datum_id"}


def attach(model_id: str, inference_id: str, key: str, kind: str, value: str) -> None:
    create_metadata(model_id, inference_id, NewExtendedMetadataRequest(key=key, type=MetadataType(kind), value=value))


def known(model_id: str, inference_id: str) -> dict[str, tuple[str, str]]:
    return {entry.key: (entry.type, entry.value) for entry in get_metadata(model_id, inference_id)}


def bulk(model_id: str, count: int, split: str = "train") -> str:
    """A bulk job's inferences `<split>-<ordinal>`; returns the job's id."""
    job_id = new_id()
    with writing() as session:
        session.add(
            OriginRow(
                bulk_inference_job_id=job_id,
                model_id=model_id,
                dataset_id="dataset",
                dataset_snapshot_id="snapshot",
                dataset_snapshot_split=split,
            )
        )
        row = {"model_id": model_id, "inference_action": "predict", "version": "v2", "data": "[]", "data_hash": "hash"}
        session.flush()
        session.add_all(
            InferenceRow(
                inference_id=f"{split}-{n}", bulk_inference_job_id=job_id, ordinal=n, datum_id=f"datum-{n}", **row
            )
            for n in range(count)
        )
    return job_id


def described(model_id: str, key: str, kind: str, **bins: float) -> MetadataStatistics:
    request = NewGetMetadataStatisticsRequest.model_validate({"key": key, "type": kind, **bins})
    found = get_metadata_statistics(model_id, request)
    assert found is not None
    return found


def with_numbers(numbers: Sequence[float], kind: str = "float") -> str:
    model_id = registered()
    for place, number in enumerate(numbers):
        create(model_id, f"i{place}", collection(metadata={"n": (kind, repr(number))}))
    return model_id


def test_metadata_is_attached_replaced_and_deleted(database: object) -> None:
    model_id = registered()
    create(model_id, "i")
    attach(model_id, "i", "a", "json", '{"x": 1}')
    attach(model_id, "i", "a", "int", "2")
    attach(model_id, "i", "b", "string", "")
    assert known(model_id, "i") == {"a": ("int", "2"), "b": ("string", "")}
    found = get_inference(model_id, "i")
    assert found is not None
    assert found.updated_at > found.created_at
    assert delete_metadata(model_id, "i", "a") == "a"
    assert delete_metadata(model_id, "i", "a") is None
    assert known(model_id, "i") == {"b": ("string", "")}


def test_metadata_of_what_is_not_there(database: object) -> None:
    model_id = registered()
    create(model_id, "gone")
    delete_inference(model_id, "gone")
    for inference_id in ("gone", "never"):
        with pytest.raises(NotFound, match=inference_id):
            attach(model_id, inference_id, "a", "int", "1")
        assert get_metadata(model_id, inference_id) == []
        assert delete_metadata(model_id, inference_id, "a") is None


@pytest.mark.parametrize("key, value", [("", "v"), ("k" * 256, "v"), ("a\0", "v"), ("k", "\0")])
def test_keys_and_values_that_cannot_be_stored_are_refused(database: object, key: str, value: str) -> None:
    model_id = registered()
    create(model_id, "i")
    with pytest.raises(InvalidRequest, match="metadata"):
        attach(model_id, "i", key, "string", value)


def test_bulk_inferences_have_the_metadata_of_their_job(database: object) -> None:
    model_id = registered()
    job_id = bulk(model_id, 2)
    expected = {
        "bulk_inference_job_id": ("string", job_id),
        "dataset_id": ("string", "dataset"),
        "dataset_snapshot_id": ("string", "snapshot"),
        "dataset_snapshot_split": ("string", "train"),
        "datum_id": ("string", "datum-1"),
    }
    assert known(model_id, "train-1") == expected
    found = get_inference(model_id, "train-1")
    assert found is not None
    assert {entry.key for entry in found.metadata or []} == JOB_KEYS


def test_the_metadata_of_a_job_is_overridden_and_deleted_for_one_inference(database: object) -> None:
    model_id = registered()
    bulk(model_id, 3)
    attach(model_id, "train-0", "dataset_id", "string", "another")
    assert delete_metadata(model_id, "train-1", "dataset_id") == "dataset_id"
    assert delete_metadata(model_id, "train-1", "dataset_id") is None
    assert known(model_id, "train-0")["dataset_id"] == ("string", "another")
    assert "dataset_id" not in known(model_id, "train-1")
    assert known(model_id, "train-2")["dataset_id"] == ("string", "dataset")
    assert delete_metadata(model_id, "train-0", "dataset_id") == "dataset_id"
    assert "dataset_id" not in known(model_id, "train-0")
    attach(model_id, "train-0", "dataset_id", "int", "7")
    assert known(model_id, "train-0")["dataset_id"] == ("int", "7")


def test_keys_and_types_are_counted_with_what_jobs_say_and_without_what_is_deleted(database: object) -> None:
    model_id = registered()
    bulk(model_id, 3)
    create(model_id, "i", collection(metadata={"a": ("int", "1"), "b": ("string", "x")}))
    create(model_id, "j", collection(metadata={"a": ("float", "1"), "dataset_id": ("string", "mine")}))
    create(model_id, "gone", collection(metadata={"a": ("int", "1")}))
    delete_inference(model_id, "gone")
    attach(model_id, "train-0", "dataset_id", "int", "1")
    delete_metadata(model_id, "train-1", "datum_id")
    counts = get_metadata_key_type_counts(model_id)
    assert counts is not None
    assert counts.counts == {
        "a": {"int": 1, "float": 1},
        "b": {"string": 1},
        "bulk_inference_job_id": {"string": 3},
        "dataset_id": {"int": 1, "string": 3},
        "dataset_snapshot_id": {"string": 3},
        "dataset_snapshot_split": {"string": 3},
        "datum_id": {"string": 2},
    }


def test_a_model_without_inferences_has_no_keys_and_an_unknown_one_is_none(database: object) -> None:
    counts = get_metadata_key_type_counts(registered())
    assert counts is not None
    assert counts.counts == {}
    assert get_metadata_key_type_counts("nobody") is None
    request = NewGetMetadataStatisticsRequest(key="a", type=MetadataStatisticsType.INT)
    assert get_metadata_statistics("nobody", request) is None


def test_texts_are_counted_by_value_those_of_jobs_included(database: object) -> None:
    model_id = registered()
    bulk(model_id, 2, "train")
    bulk(model_id, 1, "test")
    attach(model_id, "train-0", "dataset_snapshot_split", "string", "test")
    delete_metadata(model_id, "train-1", "dataset_snapshot_split")
    create(model_id, "i", collection(metadata={"dataset_snapshot_split": ("string", "own")}))
    found = described(model_id, "dataset_snapshot_split", "string")
    assert (found.count, found.distribution) == (3, {"own": 1, "test": 2})
    assert (found.min, found.max) == (None, None)
    assert described(model_id, "datum_id", "string").distribution == {"datum-0": 2, "datum-1": 1}


def test_numbers_are_counted_in_ten_bins_from_the_least_to_the_greatest(database: object) -> None:
    found = described(with_numbers([0, 1, 1.5, 9.99, 10]), "n", "float")
    assert found.distribution == {
        "0-1": 1, "1-2": 2, "2-3": 0, "3-4": 0, "4-5": 0, "5-6": 0, "6-7": 0, "7-8": 0, "8-9": 0, "9-10": 2,
    }  # fmt: skip
    assert (found.count, found.min, found.max) == (5, 0, 10)


def test_a_number_lies_in_the_bin_whose_label_says_so(database: object) -> None:
    found = described(with_numbers([0, 0.1, 0.2, 0.3, 0.6, 0.7, 1]), "n", "float")
    assert found.distribution is not None
    assert [label for label, count in found.distribution.items() if count] == [
        "0-0.1", "0.1-0.2", "0.2-0.3", "0.3-0.4", "0.6-0.7", "0.7-0.8", "0.9-1",
    ]  # fmt: skip


def test_bins_of_a_width_reach_over_the_greatest(database: object) -> None:
    model_id = with_numbers([1, 2, 3, 8], "int")
    found = described(model_id, "n", "int", distribution_bin_width=3)
    assert found.distribution == {"1-4": 3, "4-7": 0, "7-10": 1}
    assert described(model_id, "n", "int", distribution_bin_width=3.5).distribution == {"1-4.5": 3, "4.5-8": 1}


def test_only_what_lies_in_the_range_is_counted(database: object) -> None:
    model_id = with_numbers([-5, 1, 2, 3, 99])
    bins = {"distribution_minimum_value": 0, "distribution_maximum_value": 4, "distribution_bin_count": 2}
    found = described(model_id, "n", "float", **bins)
    assert (found.count, found.min, found.max) == (3, 1, 3)
    assert found.distribution == {"0-2": 1, "2-4": 2}
    nothing = described(model_id, "n", "float", distribution_minimum_value=100)
    assert (nothing.count, nothing.distribution, nothing.min) == (0, {}, None)
    empty = described(
        model_id, "n", "float", distribution_minimum_value=100, distribution_maximum_value=102, distribution_bin_count=2
    )
    assert empty.distribution == {"100-101": 0, "101-102": 0}


def test_one_number_is_one_bin(database: object) -> None:
    found = described(with_numbers([2.5, 2.5]), "n", "float")
    assert found.distribution == {"2.5-2.5": 2}
    assert described(with_numbers([2]), "n", "float", distribution_bin_width=1).distribution == {"2-3": 1}


def test_what_is_no_finite_number_of_the_type_is_not_counted(database: object) -> None:
    model_id = registered()
    for place, (kind, value) in enumerate(
        [("float", "nan"), ("float", "inf"), ("float", "x"), ("float", "1"), ("int", "2")]
    ):
        create(model_id, f"i{place}", collection(metadata={"n": (kind, value)}))
    assert described(model_id, "n", "float").count == 1
    assert described(model_id, "n", "int").count == 1
    assert described(model_id, "other", "int").distribution == {}


def test_statistics_are_those_of_what_the_filter_finds(database: object) -> None:
    model_id = registered()
    for place, source in enumerate(["a", "b", "a"]):
        given = collection(metadata={"n": ("int", str(place)), "s": ("string", "x")}, data_source=source)
        create(model_id, f"i{place}", given)
    for kind, key in (("int", "n"), ("string", "s")):
        request = NewGetMetadataStatisticsRequest(
            key=key, type=MetadataStatisticsType(kind), filters=BaseInferenceFilter(data_source_filter="a")
        )
        found = get_metadata_statistics(model_id, request)
        assert found is not None
        assert found.count == 2
    broken = BaseInferenceFilter(time_window_filter=TimeWindowFilter(start="yesterday"))
    with pytest.raises(InvalidRequest, match="yesterday"):
        get_metadata_statistics(
            model_id, NewGetMetadataStatisticsRequest(key="n", type=MetadataStatisticsType.INT, filters=broken)
        )


@pytest.mark.parametrize(
    "bins",
    [
        {"distribution_bin_count": 2, "distribution_bin_width": 1},
        {"distribution_bin_count": 0},
        {"distribution_bin_count": 1001},
        {"distribution_bin_width": 0},
        {"distribution_bin_width": math.inf},
        {"distribution_minimum_value": math.nan},
        {"distribution_minimum_value": 2, "distribution_maximum_value": 1},
        {"distribution_bin_width": 1e-9, "distribution_maximum_value": 1e9, "distribution_minimum_value": 0},
    ],
)
def test_bins_that_are_none_are_refused(database: object, bins: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match="distribution_"):
        described(registered(), "n", "float", **bins)


def test_texts_have_no_bins(database: object) -> None:
    with pytest.raises(InvalidRequest, match="texts"):
        described(registered(), "n", "string", distribution_bin_count=3)


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.tuples(FINITE, FINITE).map(sorted), st.integers(1, 100))
def test_bins_of_equal_width_begin_at_the_least_and_end_at_the_greatest(bounds: list[float], count: int) -> None:
    low, high = bounds
    edges = _edges(low, high, count, None)
    assert (edges[0], edges[-1]) == (low, high)
    assert edges == sorted(edges)
    assert len(edges) <= count + 1
    assert low == high or len(set(edges)) == len(edges)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(0.001, 1e6))
def test_bins_of_a_width_hold_everything(low: float, spread: float, width: float) -> None:
    if spread / width > 900:
        return
    edges = _edges(low, low + spread, None, width)
    assert edges[0] == low
    assert edges[-1] >= low + spread
    assert edges == sorted(edges)


def test_a_hash_is_the_sha256_of_the_data() -> None:
    assert get_data_hash(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_dictionary_becomes_typed_metadata() -> None:
    mapped = map_to_inference_store_metadata(
        {
            "data_source": "drone",
            "latitude": 1.5,
            "longitude": -2,
            "n": 3,
            "x": 0.1,
            "t": "é",
            "m": {"a": [1]},
            "b": True,
        }
    )
    assert mapped == {
        "data_source": "drone",
        "latitude": "1.5",
        "longitude": "-2",
        "extended_metadata": [
            {"key": "n", "type": "int", "value": "3"},
            {"key": "x", "type": "float", "value": "0.1"},
            {"key": "t", "type": "string", "value": "é"},
            {"key": "m", "type": "json", "value": '{"a": [1]}'},
            {"key": "b", "type": "string", "value": "true"},
        ],
    }
    assert map_to_inference_store_metadata({}) == {"extended_metadata": []}


def test_what_is_no_metadata_is_refused_by_its_key() -> None:
    for value in (None, [1], {"a": object()}):
        with pytest.raises(InvalidRequest, match="'k'"):
            map_to_inference_store_metadata({"k": value})  # type: ignore[dict-item]  # that is the point
