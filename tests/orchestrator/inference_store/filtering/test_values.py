"""Values as texts: they sort as the values do, and nothing that is no value has a text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.inference_store.filtering.facets import leaves, of_embedding, of_metadata, of_standard_list
from orchestrator.inference_store.filtering.values import LONGEST_INT, fitted, parse_float, parse_int

INTS = st.integers() | st.integers(-(10**LONGEST_INT) + 1, 10**LONGEST_INT - 1)


def order(one: Any, other: Any) -> int:
    return int(one > other) - int(one < other)


@given(INTS, INTS)
def test_integers_sort_as_their_texts_do_however_large(one: int, other: int) -> None:
    first, second = parse_int(str(one)), parse_int(str(other))
    assert first is not None
    assert second is not None
    assert order(first.text, second.text) == order(one, other)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_floats_sort_as_their_texts_do_infinities_and_both_zeros_included(one: float, other: float) -> None:
    first, second = parse_float(str(one)), parse_float(str(other))
    assert first is not None
    assert second is not None
    assert order(first.text, second.text) == order(one, other)


@pytest.mark.parametrize("text", ["", "1.0", "1_000", " 1", "1\n", "٣", "0x1", "--1", "+", "9" * 151, "1e3", "nan"])
def test_what_is_no_integer_has_no_text(text: str) -> None:
    assert parse_int(text) is None


@pytest.mark.parametrize("text", ["", "1_0.0", " 1.0", "1,5", "٣.٥", ".", "e3", "nan", "-NaN", "infinite", "1.0f"])
def test_what_is_no_float_or_nan_has_no_text(text: str) -> None:
    assert parse_float(text) is None


def test_zeros_in_front_and_signs_do_not_make_another_integer() -> None:
    assert parse_int("007") == parse_int("7") == parse_int("+7")
    assert parse_int("-0") == parse_int("0")


def test_heads_fit_their_column_whatever_the_value() -> None:
    for kind, value in [("int", "-" + "9" * LONGEST_INT), ("float", "-1e308"), ("string", "\U0001f600" * 900)]:
        head = of_metadata("key", kind, value).head
        assert head is not None
        assert len(head) <= 200
    assert len(fitted("x" * 300)) == 255
    assert fitted("x" * 300) != fitted("x" * 301)


def test_a_document_is_taken_apart_along_its_objects() -> None:
    document = {"y": 10, "z": 2.5, "s": "text", "b": True, "n": None, "l": [1, {"y": 2}], "o": {"p": {"q": -1}}}
    found = {(leaf.path, leaf.type, leaf.value) for leaf in leaves("x", json.dumps(document))}
    assert found == {
        ("x.y", "int", "10"),
        ("x.z", "float", "2.5"),
        ("x.s", "string", "text"),
        ("x.b", "string", "true"),
        ("x.o.p.q", "int", "-1"),
    }


def test_of_two_ways_to_one_path_the_one_through_more_objects_is_taken() -> None:
    for document in ('{"a.b": 1, "a": {"b": 2}}', '{"a": {"b": 2}, "a.b": 1}'):
        assert [(leaf.path, leaf.value) for leaf in leaves("k", document)] == [("k.a.b", "2")]


@pytest.mark.parametrize("document", ["", "{", "[" * 100_000, "nothing", '{"a": NaN}', "null", "[]"])
def test_a_document_without_strings_and_numbers_has_no_leaves(document: str) -> None:
    assert leaves("key", document) == []


def test_characters_that_databases_refuse_do_not_reach_them() -> None:
    (leaf,) = leaves("k", '{"a\\u0000": "\\ud800"}')
    assert (leaf.path, leaf.value) == ("k.a\N{REPLACEMENT CHARACTER}", "?")


def test_a_standard_list_gives_its_labels_and_scores() -> None:
    objects: list[dict[str, Any]] = [
        {"label": "cat", "score": 1},
        {"label": "dog", "score": None},
        {"score": 0.5},
        {"label": "x" * 300},
    ]
    assert of_standard_list(objects) == [(0, "cat", 1.0), (1, "dog", None), (3, "x" * 255, None)]


@pytest.mark.parametrize("numbers", [[], [float("nan")], [1e300], [[1.0]], [None], ["a"]])
def test_what_is_no_embedding_is_not_searched(numbers: Any) -> None:
    assert of_embedding(numbers) is None
