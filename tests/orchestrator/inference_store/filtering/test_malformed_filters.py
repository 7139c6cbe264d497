"""Malformed filters: refused before a database is asked."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.inference_store.filtering import found
from orchestrator.inference_store.models import (
    BaseInferenceFilter,
    DeconstructedInferenceFilter,
    GeoCircle,
    GeolocationFilter,
    GeoPoint,
    MetadataFilter,
    TimeWindowFilter,
)


def metadata(value: str = "1", **changes: Any) -> BaseInferenceFilter:
    given = {"key": "key", "operator": "=", "type": "int", "value": value, **changes}
    return BaseInferenceFilter(metadata_filter=[MetadataFilter(**given)])


def circle(latitude: float = 0, longitude: float = 0, radius: float = 1) -> BaseInferenceFilter:
    centre = GeoPoint(latitude=latitude, longitude=longitude)
    area = GeolocationFilter(gps_coordinates_circle=GeoCircle(center=centre, radius=radius))
    return BaseInferenceFilter(location_filter=area)


@pytest.mark.parametrize(
    "filter_, complaint",
    [
        (metadata("1.0"), "'1.0' is no int"),
        (metadata("one", type="json.float"), "'one' is no float"),
        (metadata("1, 2", operator="in"), "write \\[v1, v2\\]"),
        (metadata("[1, x]", operator="in"), "'x' is no int"),
        (metadata(f"[{'1,' * 10_000}1]", operator="in"), "10001 values"),
        (metadata("\0", type="string"), "nothing stored has"),
        (metadata(key="\ud800"), "nothing stored has"),
        (circle(latitude=90.1), "between -90 and 90"),
        (circle(longitude=-181), "between -180 and 180"),
        (circle(latitude=math.nan), "between -90 and 90"),
        (circle(radius=-1), "must not be negative"),
        (circle(radius=math.inf), "finite"),
        (BaseInferenceFilter(time_window_filter=TimeWindowFilter(start="yesterday")), "no time such as"),
        (BaseInferenceFilter(time_window_filter=TimeWindowFilter(end="2024-01-01T00:00:00")), "no time such as"),
        (BaseInferenceFilter(data_hash_filter="\0"), "nothing stored has"),
        (BaseInferenceFilter(deconstructed_inference_filter=DeconstructedInferenceFilter(labels=["\0"])), "nothing"),
        (
            BaseInferenceFilter(deconstructed_inference_filter=DeconstructedInferenceFilter(minimum_score=math.nan)),
            "minimum_score is nan",
        ),
    ],
)
def test_a_malformed_filter_is_refused_with_a_word_on_what_to_do(filter_: BaseInferenceFilter, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        found("model", filter_)
