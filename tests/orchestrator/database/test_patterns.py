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


@settings(deadline=None)
@given(st.text(max_size=20))
def test_a_pattern_that_escapes_everything_matches_only_itself(text: str) -> None:
    pattern = re.sub(r"([%_\\])", r"\\\1", text)
    assert matches(text, pattern) is True
    assert matches(f"{text}x", pattern) is False


@settings(deadline=None)
@given(value=st.text("ab", max_size=8), pattern=st.text("ab%_", max_size=8))
def test_a_pattern_matches_if_some_way_to_read_it_does(value: str, pattern: str) -> None:
    assert matches(value, pattern) == fits(value, pattern)


def fits(value: str, pattern: str) -> bool:
    """The definition, step by step."""
    if not pattern:
        return not value
    if pattern[0] == "%":
        return any(fits(value[start:], pattern[1:]) for start in range(len(value) + 1))
    return bool(value) and pattern[0] in ("_", value[0]) and fits(value[1:], pattern[1:])


def test_a_pattern_of_very_many_parts_is_matched_before_anybody_grows_old() -> None:
    assert matches("a" * 200, "%a" * 40 + "%b") is False
    assert matches("a" * 200 + "b", "%a" * 40 + "%b") is True


def test_nothing_is_known_of_what_is_null() -> None:
    assert matches(None, "%") is None
