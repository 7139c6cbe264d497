"""Refused submissions: kept once for each message, whatever their text, newest first."""

from __future__ import annotations

import pytest

from orchestrator.database import transact
from orchestrator.ledger.submissions import EXCERPT_LENGTH, reject, rejections

pytestmark = pytest.mark.usefixtures("database")


def refuse(message_id: str | None, reason: str = "no such kind", excerpt: str = "{}") -> None:
    transact(reject, message_id=message_id, request_id="request", reason=reason, excerpt=excerpt)


def test_a_refused_message_is_kept_with_its_reason() -> None:
    refuse("m1", "kind: 'x' is not one of bulk_inference", "{'kind': 'x'}")
    (kept,) = rejections()
    assert (kept.message_id, kept.request_id) == ("m1", "request")
    assert (kept.reason, kept.excerpt) == ("kind: 'x' is not one of bulk_inference", "{'kind': 'x'}")
    assert kept.created_at.tzinfo is not None


def test_a_message_that_is_delivered_twice_is_kept_once_and_nameless_ones_are_all_kept() -> None:
    for message_id in ("m1", "m1", None, None):
        refuse(message_id)
    assert len(rejections()) == 3


def test_the_newest_come_first_and_no_more_than_asked_for() -> None:
    for number in range(5):
        refuse(f"m{number}")
    assert [kept.message_id for kept in rejections(limit=2)] == ["m4", "m3"]


def test_any_text_can_be_kept_and_only_its_beginning_is() -> None:
    refuse("m1", reason="NUL \0 and half a pair \ud83d", excerpt="'\"\0☃" + "x" * 10_000)
    (kept,) = rejections()
    assert kept.reason == "NUL \N{REPLACEMENT CHARACTER} and half a pair ?"
    assert kept.excerpt.startswith("'\"\N{REPLACEMENT CHARACTER}☃xxx")
    assert len(kept.excerpt) == EXCERPT_LENGTH
