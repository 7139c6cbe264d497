"""Inferences and filters drawn from few values, odd ones among them, so that many filters find something.

Ids that must be unique in the database begin with `@`, for which `stamped` puts something that no other test has.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    DeconstructedInferenceFilter,
    GeoCircle,
    GeolocationFilter,
    GeoPoint,
    GeoRectangle,
    MetadataFilter,
    TimeWindowFilter,
)
from tests.orchestrator.inference_store.filtering.oracle import HASH, Item, Origin, Record

EPOCH = datetime(2024, 5, 17, 12, tzinfo=UTC)
ODD = [
    "",
    "a",
    "A",
    "b%",
    "b_",
    "\\",
    "'",
    '"',
    "x'; DROP TABLE inferences; --",
    "%(model_id)s",
    ":key",
    "é",
    "e\u0301",
    "\U0001f600",
    "\uffff",
    "new\nline",
    "\t",
    "a" * 199,
    "a" * 200,
    "a" * 200 + "b",
    "a" * 201,
    "\U0001f600" * 201,
    "true",
    "5",
]
texts = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
NAMES = ["a", "b", "c", "a.b", "", "quo'te", 'dou"ble', "per%cent", "back\\slash", "[1]", "ünï"]
HASHES = [HASH, "0" * 64]
#: What callers call a hash.
ODD_HASHES = ["hash", "h'ash", "HASH", HASH.upper()]
DERIVED = ["dataset_id", "dataset_snapshot_id", "dataset_snapshot_split", "datum_id", "bulk_inference_job_id"]
keys = st.sampled_from(["a", "a.b", "a.b.c", *NAMES, *DERIVED])

BIG = 2**53
ints = st.sampled_from([0, 1, -1, BIG, BIG + 1, -BIG - 1, 10**30, 10**30 + 1, -(10**149)]) | st.integers(-3, 3)
int_texts = ints.map(str) | st.sampled_from(["007", "+5", "-0", "5.0", "", "1_0", "9" * 151, " 1", "٣", "abc"])
floats = st.sampled_from([0.1, -0.0, 1e308, 5e-324, float(BIG), 1.5]) | st.floats(allow_nan=False)
float_texts = (
    floats.map(str)
    | ints.map(str)
    | st.sampled_from(["nan", "-NaN", "inf", "-Infinity", "1e400", ".5", "1.", "1e", "", "1_0.0", "x"])
)
values_of = {"string": texts, "int": int_texts, "float": float_texts}

scalars = texts | ints | floats | st.booleans() | st.none() | st.just(float("nan")) | st.just([1, "a"])
documents = st.recursive(
    scalars, lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=3), max_leaves=6
)
json_texts = documents.map(json.dumps) | st.sampled_from(["", "{", "[" * 100_000, "null", '{"a": 1e999}'])

coordinates = st.tuples(
    st.sampled_from([0.0, 90.0, -90.0, 47.37, 89.9]) | st.floats(-90, 90),
    st.sampled_from([0.0, 180.0, -180.0, 8.54, 179.99]) | st.floats(-180, 180),
)
labels = st.sampled_from(["cat", "dog", "CAT", "", "o'label", "é", "%"])
scores = st.sampled_from([0.0, 0.1, 0.5, 0.30000000000000004, 1.0]) | st.floats(0, 1)
elements = st.lists(
    st.fixed_dictionaries({"label": labels}, optional={"score": scores | st.none(), "xmin": st.integers(0, 9)}),
    max_size=3,
)
instants = st.sampled_from([timedelta(0), timedelta(microseconds=1), timedelta(seconds=1), timedelta(days=40_000)]).map(
    lambda offset: EPOCH + offset
)


@st.composite
def items(draw: st.DrawFn) -> Item:
    kind = draw(st.sampled_from(["string", "int", "float", "json"]))
    return kind, draw(json_texts if kind == "json" else values_of[kind])


@st.composite
def worlds(draw: st.DrawFn, size: int = 10) -> list[Record]:
    """Some inferences, of callers and of bulk jobs."""
    origins = [
        Origin(
            f"@job-{number}-{draw(st.sampled_from(['', '%', 'é']))}",
            draw(st.sampled_from(["set", "SET", "d'set"])),
            f"@snapshot-{number}",
            draw(st.sampled_from(["train", "test", "te_t"])),
            draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 2)))
    ]
    return [draw(records(number, origins)) for number in range(draw(st.integers(1, size)))]


@st.composite
def records(draw: st.DrawFn, number: int, origins: list[Origin]) -> Record:
    origin = draw(st.sampled_from([None, *origins]))
    metadata: dict[str, Any] = draw(st.dictionaries(keys, items(), max_size=4))
    if origin is not None:
        metadata.update(draw(st.dictionaries(st.sampled_from(DERIVED), st.just(("string", None)), max_size=1)))
    return Record(
        inference_id=f"inference-{number}",
        created_at=draw(instants),
        action=draw(st.sampled_from(["detect", "predict", "Detect"])),
        data_hash=draw(st.sampled_from(HASHES if origin else [*HASHES, *ODD_HASHES])),
        source=draw(st.none() | texts),
        place=draw(st.none() | coordinates),
        metadata=metadata,
        elements=draw(elements),
        origin=origin,
        datum_id=None if origin is None else f"@datum-{number}",
        is_deleted=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def metadata_filters(draw: st.DrawFn) -> MetadataFilter:
    kind = draw(st.sampled_from(["string", "int", "float"]))
    operator = draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in"]))
    wanted = values_of[kind] | st.sampled_from(["set", "train", "@snapshot-1", "@datum-1", "@job-0-é"])
    if operator == "in":
        value = draw(st.lists(wanted, max_size=3).map(lambda parts: f"[{', '.join(parts)}]") | st.just("1, 2"))
    else:
        value = draw(wanted)
    prefix = draw(st.sampled_from(["", "json."]))
    key = draw(keys | st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(".".join))
    return MetadataFilter(key=key, operator=operator, type=prefix + kind, value=value)


points = coordinates.map(lambda place: GeoPoint(latitude=place[0], longitude=place[1]))
circles = st.builds(GeoCircle, center=points, radius=st.sampled_from([0.0, 1.0, 5e5, 2e7, 3e7]) | st.floats(0, 2.1e7))
places = st.builds(
    GeolocationFilter,
    gps_coordinates_circle=st.none() | circles,
    gps_coordinates_rectangle=st.none() | st.builds(GeoRectangle, p1=points, p2=points),
)
label_filters = st.builds(
    DeconstructedInferenceFilter,
    labels=st.none() | st.lists(labels, max_size=2),
    minimum_score=st.none() | scores,
    maximum_score=st.none() | scores,
)
times = instants.map(lambda instant: instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")) | st.sampled_from(
    ["2024-05-17T12:00:00Z", "2024-05-17T14:00:00+02:00", "2024-05-17T12:00:00.000001Z"]
)
windows = st.builds(TimeWindowFilter, start=st.none() | times, end=st.none() | times)
filters = st.one_of(
    st.builds(BaseInferenceFilter, metadata_filter=st.lists(metadata_filters(), min_size=1, max_size=1)),
    st.builds(BaseInferenceFilter, location_filter=places),
    st.builds(BaseInferenceFilter, deconstructed_inference_filter=label_filters),
    st.builds(BaseInferenceFilter, time_window_filter=windows),
    st.builds(
        BaseInferenceFilter,
        inference_action_filter=st.none() | st.sampled_from(["detect", "predict", "%", ""]),
        data_hash_filter=st.none() | st.sampled_from([*HASHES, *ODD_HASHES, "%"]),
        data_source_filter=st.none() | texts,
        time_window_filter=st.none() | windows,
        metadata_filter=st.none() | st.lists(metadata_filters(), max_size=2),
        location_filter=st.none() | places,
        deconstructed_inference_filter=st.none() | label_filters,
    ),
)


def stamped(records: list[Record], stamp: str) -> list[Record]:
    """The records with ids of their own."""
    return [
        record
        if record.origin is None
        else replace(
            record,
            datum_id=(record.datum_id or "").replace("@", stamp),
            origin=replace(
                record.origin,
                bulk_inference_job_id=record.origin.bulk_inference_job_id.replace("@", stamp),
                dataset_snapshot_id=record.origin.dataset_snapshot_id.replace("@", stamp),
            ),
        )
        for record in records
    ]


def stamped_filter(filter_: BaseInferenceFilter, stamp: str) -> BaseInferenceFilter:
    """The filter, asking for those ids."""
    asked = [
        item.model_copy(update={"value": item.value.replace("@", stamp)}) for item in filter_.metadata_filter or ()
    ]
    return filter_.model_copy(update={"metadata_filter": asked})
