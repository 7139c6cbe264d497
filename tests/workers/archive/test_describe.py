"""Metadata in an archive: texts become what the store takes them for, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.inference_store.entries import Entry
from workers.archive.describe import value_of


@pytest.mark.parametrize(
    "kind, text, value",
    [
        ("int", "-12", -12),
        ("int", "1_000", "1_000"),
        ("int", " 7", " 7"),
        ("int", "9" * 5000, "9" * 5000),
        ("float", "1e3", 1000.0),
        ("float", "1_0.5", "1_0.5"),
        ("float", "nan", "nan"),
        ("json", '{"a": [1]}', {"a": [1]}),
        ("json", "{", "{"),
        ("string", "12", "12"),
    ],
)
def test_a_text_becomes_a_value_where_filters_take_it_for_one(kind: str, text: str, value: Any) -> None:
    assert value_of(Entry("key", kind, text)) == value
