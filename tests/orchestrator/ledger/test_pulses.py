"""Signs of life: by the database's clock, one row a name."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from orchestrator.database import db_now, reading, transact, writing
from orchestrator.ledger.pulses import SILENCE, Pulse, beat, forget, prune, pulses
from orchestrator.ledger.tables import PulseRow
from tests.support.ledger import at_once

pytestmark = pytest.mark.usefixtures("database")


def seen(prefix: str) -> list[Pulse]:
    with reading() as session:
        return pulses(session, prefix)


def test_a_second_beat_renews_the_first_and_keeps_its_beginning() -> None:
    transact(beat, "worker:a", {"pid": 1})
    (first,) = seen("worker:")
    transact(beat, "worker:a", {"pid": 2})
    (second,) = seen("worker:")
    assert (second.name, second.details, second.started_at) == ("worker:a", {"pid": 2}, first.started_at)
    assert second.seen_at > first.seen_at


def test_the_age_of_a_pulse_tells_who_is_gone() -> None:
    transact(beat, "worker:alive", {})
    transact(beat, "worker:gone", {})
    with writing() as session:
        session.execute(
            update(PulseRow).where(PulseRow.name == "worker:gone").values(seen_at=db_now(timedelta(minutes=-5)))
        )
    assert [pulse.name for pulse in seen("worker:") if pulse.age > SILENCE] == ["worker:gone"]


def test_pulses_are_found_by_prefix_to_the_letter_and_in_order() -> None:
    for name in ("worker:b", "worker:a", "worker_c", "tick:dispatch"):
        transact(beat, name, {})
    assert [pulse.name for pulse in seen("worker:")] == ["worker:a", "worker:b"]
    assert [pulse.name for pulse in seen("worker_")] == ["worker_c"]
    assert len(seen("")) == 4


def test_beats_of_one_name_at_the_same_moment_leave_one_row() -> None:
    at_once([lambda: transact(beat, "tick:dispatch", {})] * 6)
    assert len(seen("tick:")) == 1


def test_a_forgotten_pulse_is_gone_and_forgetting_twice_does_no_harm() -> None:
    transact(beat, "worker:a", {})
    transact(forget, "worker:a")
    transact(forget, "worker:a")
    assert seen("worker:") == []


def test_who_has_been_silent_for_a_day_is_forgotten() -> None:
    for name, age in (("worker:today", timedelta(hours=23)), ("worker:yesterday", timedelta(hours=25))):
        transact(beat, name, {})
        with writing() as session:
            session.execute(update(PulseRow).where(PulseRow.name == name).values(seen_at=db_now(-age)))
    transact(prune)
    assert [pulse.name for pulse in seen("worker:")] == ["worker:today"]
