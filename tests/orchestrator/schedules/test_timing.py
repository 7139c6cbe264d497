"""When a schedule is due, in every zone and on the days on which clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvalidRequest
from orchestrator.schedules import timing
from tests.support.schedules import distinct_zones, due_daily, due_whenever_shown
from tests.support.seed import SEED

BERLIN = "Europe/Berlin"
#: Clocks that go forward and back, in either hemisphere, by half an hour, at midnight, and not at all.
ZONES = (
    BERLIN,
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "Asia/Beirut",
    "America/Scoresbysund",
    "Pacific/Apia",
)
START = datetime(2022, 1, 1, tzinfo=UTC)
#: In so many parts all the zones of the earth are looked at.
PARTS = 4
#: Some minute of twenty years.
instants = st.integers(0, 20 * 366 * 24 * 60).map(
    lambda minutes: datetime(2015, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)


def local_times(expression: str, day: str, zone: str = BERLIN) -> list[str]:
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    due = timing.cron(expression, zone).between(start - timedelta(seconds=1), start + timedelta(hours=23, minutes=50))
    return [instant.astimezone(ZoneInfo(zone)).strftime("%H:%M%z") for instant in due]


def test_a_time_that_the_clock_skips_is_due_as_if_it_had_not() -> None:
    assert local_times("30 2 * * *", "2026-03-29") == ["03:30+0200"]


def test_a_time_that_the_clock_shows_twice_is_due_the_first_time() -> None:
    assert local_times("30 2 * * *", "2026-10-25") == ["02:30+0200"]


def test_every_hour_means_every_hour_that_passes() -> None:
    spring, autumn = local_times("0 * * * *", "2026-03-29"), local_times("0 * * * *", "2026-10-25")
    assert "02:00+0100" not in spring
    assert [time for time in autumn if time.startswith("02:")] == ["02:00+0200", "02:00+0100"]


def test_two_times_that_fall_on_one_instant_are_due_once() -> None:
    assert local_times("30 2,3 * * *", "2026-03-29") == ["03:30+0200"]


@pytest.mark.parametrize("name", ZONES[:5])
def test_a_zone_agrees_with_a_walk_along_its_clock(name: str) -> None:
    check_zone(name, START, START + timedelta(days=366))


@pytest.mark.endurance
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_zone_agrees_with_a_walk_along_its_clock(part: int) -> None:
    for place, name in enumerate(distinct_zones()[part::PARTS]):
        # Another year each time.
        start = datetime(2015 + (SEED + place) % 20, 1, 1, tzinfo=UTC)
        check_zone(name, start, start + timedelta(days=366))


@pytest.mark.parametrize("name", ["Pacific/Apia", "Pacific/Fakaofo"])
def test_a_day_that_a_country_skips_is_not_lost(name: str) -> None:
    check_zone(name, datetime(2011, 12, 20, tzinfo=UTC), datetime(2012, 1, 10, tzinfo=UTC))


def check_zone(name: str, start: datetime, end: datetime) -> None:
    """Hold three expressions against the oracle."""
    zone = ZoneInfo(name)
    for hour, minute in ((2, 30), (0, 0)):
        found = list(timing.cron(f"{minute} {hour} * * *", name).between(start, end))
        assert found == due_daily(zone, hour, minute, start, end), name
    assert list(timing.cron("45 * * * *", name).between(start, end)) == due_whenever_shown(zone, 45, start, end), name


@given(
    st.sampled_from(["*/7 * * * *", "0 9 * * 1-5", "30 2 1,15 * *", "15 */5 * * *", "0 0 29 2 *", "59 23 L * *"]),
    st.sampled_from(ZONES),
    instants,
)
def test_what_follows_is_what_lies_between(expression: str, zone: str, after: datetime) -> None:
    schedule = timing.cron(expression, zone)
    following = list(islice(schedule.following(after), 5))
    assert all(left < right for left, right in pairwise([after, *following]))
    assert list(schedule.between(after, following[-1])) == following


@given(st.integers(1, 10**6), instants, st.timedeltas(timedelta(days=-5), timedelta(days=5)))
def test_intervals_are_counted_from_their_anchor_and_never_drift(
    seconds: int, anchor: datetime, away: timedelta
) -> None:
    due = list(islice(timing.every(timedelta(seconds=seconds), anchor).following(anchor + away), 3))
    assert all(instant > anchor + away and instant >= anchor for instant in due)
    assert all((instant - anchor) % timedelta(seconds=seconds) == timedelta() for instant in due)
    assert due[0] == anchor or due[0] - timedelta(seconds=seconds) <= anchor + away


@pytest.mark.parametrize(
    "expression, zone, says",
    [
        ("0 25 * * *", "UTC", "cannot be read"),
        ("* * * *", "UTC", "five fields"),
        ("0 0 * * * *", "UTC", "five fields"),
        ("0 0 30 2 *", "UTC", "cannot be read|never due"),
        ("", "UTC", "five fields"),
        ("0 0 * * *", "Mars/Olympus", "no IANA name"),
        ("0 0 * * *", "../../etc/passwd", "no IANA name"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(expression: str, zone: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        timing.cron(expression, zone)


@pytest.mark.parametrize("interval", [timedelta(), timedelta(seconds=-5), timedelta(seconds=1.5)])
def test_an_interval_is_a_whole_number_of_seconds(interval: timedelta) -> None:
    with pytest.raises(InvalidRequest, match="whole number of seconds"):
        timing.every(interval, START)


def test_what_is_due_once_in_a_generation_is_found() -> None:
    found = timing.preview(timing.cron("0 0 29 2 */7", "UTC"), START, 2)
    assert [due.date().isoformat() for due in found] == ["2032-02-29", "2060-02-29"]


def test_intervals_end_with_the_calendar() -> None:
    ages = timing.every(timedelta(days=366 * 100), START)
    assert len(timing.preview(ages, START, 1000)) == 79
