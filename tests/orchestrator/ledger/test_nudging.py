"""A nudge publishes what was committed, and holds nobody up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from orchestrator.ledger import UnitState, nudge, settle_nudges
from tests.support.ledger import one_unit, state
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.conftest import Database

#: The module, not the function of a name like it.
NUDGING = import_module("orchestrator.ledger.nudging")


class Dispatch:
    """Counts its calls, and may be held up."""

    def __init__(self) -> None:
        self.calls = 0
        self.let_go = threading.Event()
        self.let_go.set()

    def __call__(self, publisher: object) -> int:
        self.calls += 1
        assert self.let_go.wait(10)
        return 0


@pytest.fixture
def dispatch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatch]:
    standing_in = Dispatch()
    monkeypatch.setattr(NUDGING, "dispatch", standing_in)
    yield standing_in
    standing_in.let_go.set()
    settle_nudges(10)


def test_what_a_nudge_starts_is_mostly_done_when_it_returns(
    dispatch: Dispatch,
) -> None:
    for number in range(1, 4):
        nudge()
        assert dispatch.calls == number
        settle_nudges(10)


def test_a_nudge_that_is_held_up_holds_up_nobody_and_all_who_come_meanwhile_are_served_by_one_more(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NUDGING, "PATIENCE", 0.05)
    dispatch.let_go.clear()
    begun = time.monotonic()
    for _ in range(100):
        nudge()
    assert time.monotonic() - begun < 2
    assert dispatch.calls == 1
    dispatch.let_go.set()
    wait_until(lambda: dispatch.calls == 2, "the others are served")
    settle_nudges(10)
    assert dispatch.calls == 2


def test_a_nudge_that_fails_is_forgotten(dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(publisher: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(NUDGING, "dispatch", fail)
    nudge()
    settle_nudges(10)
    monkeypatch.setattr(NUDGING, "dispatch", dispatch)
    nudge()
    settle_nudges(10)
    assert dispatch.calls == 1


def test_a_broker_that_was_away_is_left_alone_for_a_while(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = one_unit()
    published: list[str] = []
    publish = NUDGING.CeleryPublisher.publish

    def counting(self: object, units: list[object]) -> None:
        published.append("attempt")
        publish(self, units)

    monkeypatch.setattr(NUDGING.CeleryPublisher, "publish", counting)
    for _ in range(3):
        nudge()
        settle_nudges(10)
    assert published == ["attempt"]
    assert state(unit) == UnitState.READY
    monkeypatch.setattr(NUDGING, "_away_until", 0.0)
    nudge()
    settle_nudges(10)
    assert published == ["attempt"] * 2
