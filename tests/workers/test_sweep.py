"""How a sweep paces itself: what it makes of a page that was quick, or slow, and when it copies the log back."""

from __future__ import annotations

import pytest

from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention.sweep import Page
from orchestrator.ledger import Done
from workers import sweep
from workers.sweep import LARGEST, SMALLEST, TARGET, Pace


def sizes(*seconds: float) -> list[int]:
    """How many inferences are taken after pages that took so long each."""
    pace = Pace()
    found = []
    for taken in seconds:
        pace.learn(taken)
        found.append(pace.size)
    return found


def test_quick_pages_double_until_one_takes_as_long_as_is_wanted() -> None:
    assert sizes(0.001, 0.001, TARGET, TARGET) == [400, 800, 800, 800]


def test_a_page_that_took_too_long_is_followed_by_one_that_should_not() -> None:
    assert sizes(TARGET * 4, TARGET) == [50, 50]


def test_a_page_that_was_somewhat_slow_or_quick_counts_for_half() -> None:
    assert sizes(TARGET * 1.5625) == [160]
    assert sizes(TARGET / 1.5625) == [250]


def test_pages_stay_within_their_bounds() -> None:
    assert sizes(*[0.001] * 10)[-1] == LARGEST
    assert sizes(*[10.0] * 10)[-1] == SMALLEST


def test_the_log_is_copied_back_once_it_holds_many_inferences(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    monkeypatch.setattr(sweep, "LOGGED", 100)
    monkeypatch.setattr(sweep, "checkpoint", lambda: did.append("checkpoint"))
    monkeypatch.setattr(sweep, "give_way", lambda _: did.append("give way"))
    pages = iter([Page(Action.HARD, count, 0.01) for count in (60, 60, 10, 90)])
    assert sweep.go_on(lambda _: next(pages, None), lambda: True) == Done()
    assert did == ["give way", "give way", "checkpoint", "give way", "give way", "checkpoint"]
