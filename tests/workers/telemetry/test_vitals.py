"""The judgement: which silence is a reason, and which is not."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from orchestrator.errors import Unavailable
from orchestrator.settings import settings
from tests.support.processes import wait_until
from workers.telemetry import vitals as judging
from workers.telemetry.vitals import BeatVitals, Vitals, watch_broker


def sign(folder: Path, slot: int, *, seen: float = 0, able: float = 0, trouble: str = "") -> None:
    """A sign of life that is `seen` seconds old, of a process that was last able to work `able` seconds ago."""
    now = time.monotonic()
    words = {"pid": slot, "seen_at": now - seen, "able_at": now - able, "trouble": trouble}
    (folder / f"slot-{slot}.json").write_text(json.dumps(words))


def test_one_process_that_can_work_is_enough(tmp_path: Path) -> None:
    sign(tmp_path, 0, seen=500, able=500)
    sign(tmp_path, 1)
    vitals = Vitals(tmp_path)
    assert vitals.judge().healthy
    assert vitals.slots() == {"alive": 1, "silent": 1}


def test_processes_that_live_and_cannot_work_say_why(tmp_path: Path) -> None:
    for slot in (0, 1):
        sign(tmp_path, slot, able=60, trouble="OperationalError: disk full")
    assert list(Vitals(tmp_path).judge().reasons) == ["OperationalError: disk full (for 60 s)"]


def test_a_worker_whose_processes_never_start_is_given_the_same_time(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path)
    assert vitals.judge().healthy
    vitals.started_at -= 60
    assert list(vitals.judge().reasons) == ["no pool process has started (for 60 s)"]


def test_a_loop_that_stands_still_and_a_broker_that_is_silent_are_reasons_each(tmp_path: Path) -> None:
    sign(tmp_path, 0)
    vitals = Vitals(tmp_path)
    vitals.broker_at -= 50
    assert ["the broker has not answered" in reason for reason in vitals.judge().reasons] == [True]
    assert vitals.loop_at is not None
    vitals.loop_at -= 50
    assert len(vitals.judge().reasons) == 2
    vitals.stopping = True
    assert vitals.judge().healthy, "nobody should kill what is on its way out"


def test_a_pool_without_an_event_loop_is_not_asked_for_one(tmp_path: Path) -> None:
    sign(tmp_path, 0)
    assert Vitals(tmp_path, loop_at=None).judge().healthy


class Broker:
    """Says what it was told to of every queue."""

    def __init__(self) -> None:
        self.waiting = 0
        self.away = False

    def depth(self, queue: str) -> int:
        if self.away:
            raise Unavailable("the broker does not answer")
        return self.waiting if queue == "inference" else 0


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A broker that the watch asks, many times a second."""
    broker = Broker()
    monkeypatch.setattr(judging, "CeleryPublisher", lambda: broker)
    monkeypatch.setattr(settings(), "liveness_seconds", 0.3)
    return broker


def test_messages_that_wait_for_an_idle_place_are_a_reason_until_one_is_taken(tmp_path: Path, broker: Broker) -> None:
    vitals, received = Vitals(tmp_path), [0]
    watch_broker(vitals, ["planning", "inference"], idle=lambda: True, taken=lambda: received[0])
    broker.waiting = 3

    def ignored() -> bool:
        return any("messages wait in inference" in reason for reason in vitals.judge().reasons)

    wait_until(ignored, "the ignored messages are a reason")
    broker.waiting = 0
    wait_until(lambda: not ignored(), "there is nothing to take any more")
    vitals.stopping = True


def test_messages_that_wait_while_every_place_is_busy_are_no_reason(tmp_path: Path, broker: Broker) -> None:
    vitals, looks = Vitals(tmp_path), []

    def idle() -> bool:
        looks.append(1)
        return False

    broker.waiting = 3
    watch_broker(vitals, ["inference"], idle=idle, taken=lambda: 0)
    wait_until(lambda: len(looks) > 10, "the broker was asked some times")
    assert vitals.ignoring_since is None
    vitals.stopping = True


def test_a_broker_that_is_away_is_named_as_the_reason(tmp_path: Path, broker: Broker) -> None:
    vitals = Vitals(tmp_path)
    broker.away = True
    watch_broker(vitals, ["inference"], idle=lambda: True, taken=lambda: 0)
    wait_until(lambda: any("does not answer" in reason for reason in vitals.judge().reasons), "the broker is named")
    broker.away = False
    wait_until(lambda: not any("does not answer" in reason for reason in vitals.judge().reasons), "it is back")
    vitals.stopping = True


def test_beat_is_healthy_as_long_as_it_sends_ticks() -> None:
    beat = BeatVitals()
    assert beat.judge().healthy
    beat.sent_at -= 60
    assert "no tick was sent (for 60 s)" in beat.judge().reasons[0]
