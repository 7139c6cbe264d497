"""Identifiers: version 7, unique, and in the order in which they were made."""

from __future__ import annotations

import time
import uuid

import pytest

from orchestrator.ids import new_id
from tests.support.ledger import at_once


def test_an_id_is_a_uuid_of_version_7() -> None:
    parsed = uuid.UUID(new_id())
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)


def test_an_id_says_the_millisecond_in_which_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000 + 1


def test_ids_sort_in_the_order_in_which_they_were_made() -> None:
    made = [new_id() for _ in range(10_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_never_sort_backwards_even_when_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    assert first < new_id() < new_id()


def test_threads_never_make_the_same_id() -> None:
    made = at_once([lambda: [new_id() for _ in range(500)]] * 8)
    assert len({one for batch in made for one in batch}) == 4000
