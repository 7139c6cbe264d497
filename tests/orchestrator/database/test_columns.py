"""Columns: instants keep their zone, and the clock is the database's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import StatementError

from orchestrator import clock
from orchestrator.database import db_now, reading, storable, writing
from orchestrator.ledger.tables import PulseRow

KATHMANDU = timezone(timedelta(hours=5, minutes=45))
NOON = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)


def kept(instant: datetime) -> datetime:
    with writing() as session:
        session.add(PulseRow(name="pulse", details={}, seen_at=instant))
    with reading() as session:
        return session.get_one(PulseRow, "pulse").seen_at


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("zone", [UTC, KATHMANDU], ids=str)
def test_an_instant_comes_back_as_the_same_instant_in_utc(zone: timezone) -> None:
    found = kept(NOON.astimezone(zone))
    assert (found, found.tzinfo) == (NOON, UTC)


@pytest.mark.usefixtures("database")
def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(StatementError, match="no time zone"):
        kept(datetime(2024, 2, 29, 12))  # noqa: DTZ001  the mistake that is refused


@pytest.mark.usefixtures("database")
def test_the_database_s_clock_agrees_with_this_process_s_on_one_machine() -> None:
    before = clock.now()
    with reading() as session:
        found = session.scalar(select(db_now()))
    assert found is not None
    assert before - timedelta(seconds=5) <= found <= clock.now() + timedelta(seconds=5)


@pytest.mark.usefixtures("database")
def test_the_clock_goes_on_inside_a_transaction() -> None:
    """Whoever waited for a lock must see how late it is."""
    with writing() as session:
        first = session.scalar(select(db_now()))
        second = session.scalar(select(db_now()))
    assert first is not None
    assert second is not None
    assert second > first


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("offset", [timedelta(hours=-1.5), timedelta(), timedelta(days=400), timedelta(milliseconds=1)])
def test_an_offset_is_added_to_the_clock(offset: timedelta) -> None:
    with reading() as session:
        plain, shifted = session.execute(select(db_now(), db_now(offset))).one()
    assert abs(shifted - plain - offset) < timedelta(seconds=1)


@pytest.mark.usefixtures("database")
def test_each_use_of_the_clock_has_its_own_offset_although_its_statement_is_compiled_once() -> None:
    with reading() as session:
        found = [session.execute(select(db_now(timedelta(days=days)))).scalar_one() for days in (1, 2, 3)]
    assert [round((later - found[0]) / timedelta(days=1)) for later in found] == [0, 1, 2]
    keys = [select(db_now(timedelta(days=days)))._generate_cache_key() for days in (1, 2)]
    assert keys[0] is not None
    assert keys[0] == keys[1]


@pytest.mark.usefixtures("database")
def test_instants_compare_with_the_clock() -> None:
    kept(NOON)
    with writing() as session:
        past = update(PulseRow).where(PulseRow.seen_at < db_now(timedelta(hours=-1))).values(details={"late": True})
        session.execute(past)
    with reading() as session:
        assert session.get_one(PulseRow, "pulse").details == {"late": True}


def test_text_is_made_storable_and_ordinary_text_stays_as_it_is() -> None:
    assert storable("plain ☃ \U0001f600 'quoted' \\u0000") == "plain ☃ \U0001f600 'quoted' \\u0000"
    assert storable("a\0b\ud800c") == "a\N{REPLACEMENT CHARACTER}b?c"
