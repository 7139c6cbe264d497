"""Standard lists as annotations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.registry.importing.annotations import AnnotationLine
from workers.archive.annotations import annotations_of

BOX = {"xmin": 1, "ymin": 2.5, "xmax": 3, "ymax": 4}
ORIENTED = {"cx": 0.5, "cy": 0.5, "w": 0.1, "h": 0.2, "r": 1.5}
RING = [{"x": 0, "y": 0}, {"x": 1, "y": 0}, {"x": 1, "y": 1}]


@pytest.mark.parametrize(
    "elements, expected",
    [
        ([], []),
        ([{"label": "a", "score": 0.2}, {"label": "b", "score": 0.7}], [{"class_label": "b"}]),
        ([{"label": "a"}, {"label": "b", "score": 0.7}], [{"class_label": "a"}]),
        ([{"label": 7, "score": 0.2}], [{"class_label": "7"}]),
        ([{"label": "a\0b", "score": 1}], [{"class_label": "a\N{REPLACEMENT CHARACTER}b"}]),
        ([{"label": "a", "score": 1, **BOX}], [{"class_label": "a", "bbox": BOX}]),
        ([{"label": "a", **ORIENTED}], [{"class_label": "a", "oriented_bbox": ORIENTED}]),
        ([{"label": "a", "contours": [RING, RING[:2]]}], [{"class_label": "a", "contour": [RING]}]),
        ([{"label": "a", "contours": [RING[:2]]}], []),
        ([{"label": "a", **BOX, "xmax": 0}], []),
        ([{"score": 1, **BOX}], []),
        ([{"label": "a", **ORIENTED, "w": -1}], []),
    ],
)
def test_a_standard_list_becomes_annotations(elements: list[Any], expected: list[Any]) -> None:
    assert annotations_of("v2", json.dumps(elements)) == expected


@pytest.mark.parametrize(
    "version, data", [("v1", "[]"), ("v2", None), ("v2", "{}"), ("v2", "[1]"), ("v2", "no JSON"), ("v1", "[0.5]")]
)
def test_what_is_no_standard_list_has_no_annotations(version: str, data: str | None) -> None:
    assert annotations_of(version, data) is None


NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.text(max_size=2))
POINTS = st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS})
ELEMENTS = st.fixed_dictionaries(
    {},
    optional={
        "label": st.one_of(st.none(), st.text(max_size=3), st.integers()),
        "contours": st.lists(st.lists(POINTS, max_size=4), max_size=2),
        **dict.fromkeys(("score", "xmin", "ymin", "xmax", "ymax", "cx", "cy", "w", "h", "r"), NUMBERS),
    },
)


@given(st.lists(ELEMENTS, max_size=3))
def test_an_importer_takes_whatever_comes_of_a_list(elements: list[Any]) -> None:
    found = annotations_of("v2", json.dumps(elements))
    AnnotationLine.model_validate({"path": "a.png", "annotations": found})
