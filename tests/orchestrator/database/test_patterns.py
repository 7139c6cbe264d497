"""ILIKE means the same on both databases."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Text, literal, select

from orchestrator.database import ilike, reading
from orchestrator.database.patterns import matches


def is_like(value: str, pattern: str) -> bool:
    with reading() as session:
        return bool(session.scalar(select(ilike(literal(value, Text()), pattern))))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    "pattern, alike, others",
    [
        ("%test-run%", ["test-run", "FOOtest-runBAR", "TEST-RUN", "a\ntest-run\nb"], ["testrun"]),
        ("\\%test_run", ["%test9run", "%test_run"], ["FOOtest_run", "%test__run", "%test_runBAR"]),
        ("test\\_run", ["test_run", "Test_Run"], ["test9run", "test\\_run"]),
        ("a\\\\b", ["a\\b", "A\\B"], ["ab", "a\\\\b"]),
        ("\\a", ["a"], ["\\a"]),
        ("Ärger%", ["ÄRGERNIS", "Ärger"], ["arger"]),
        ("(a|b)*", ["(A|B)*"], ["a", "aaa"]),
        ("", [""], ["a"]),
        ("%", ["", "anything"], []),
    ],
)
def test_patterns_match_as_documented(pattern: str, alike: list[str], others: list[str]) -> None:
    assert [value for value in alike if not is_like(value, pattern)] == []
    assert [value for value in others if is_like(value, pattern)] == []


@pytest.mark.usefixtures("database")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=st.text("aAb%_\\.\n", max_size=6), pattern=st.text("ab%_\\.", max_size=6))
def test_both_databases_agree_with_python(value: str, pattern: str) -> None:
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        pattern += "\\"
    assert is_like(value, pattern) == matches(value, pattern)


@given(st.text(max_size=20))
def test_a_pattern_that_escapes_everything_matches_only_itself(text: str) -> None:
    pattern = re.sub(r"([%_\\])", r"\\\1", text)
    assert matches(text, pattern) is True
    assert matches(f"{text}x", pattern) is False


def test_nothing_is_known_of_what_is_null() -> None:
    assert matches(None, "%") is None
