"""Years of instants in every time zone, with outages and schedulers whose clocks are wrong, against an oracle."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import time_machine

from orchestrator.schedules import OccurrenceState, Overlap, Schedule, tick
from orchestrator.schedules.decisions import LATE
from tests.support.schedules import STEP, at, create, distinct_zones, due_daily, due_whenever_shown, occurrences

pytestmark = pytest.mark.usefixtures("database", "nothing_submitted")

START = datetime(2030, 1, 1, tzinfo=UTC)
ZONES = ("Europe/Berlin", "Australia/Lord_Howe")
#: In so many parts all the zones of the earth are walked through.
PARTS = 8
#: What is wrong with the clocks of the three that tick.
SKEWS = (timedelta(), timedelta(hours=-7), timedelta(days=3))


@pytest.fixture
def nothing_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instants are decided, and no job is opened for them: there are very many; and nobody else wants to write."""
    monkeypatch.setattr("orchestrator.schedules.decisions.emit", lambda *_: "nobody")
    monkeypatch.setattr("orchestrator.schedules.ticking.give_way", lambda _: None)
    monkeypatch.setattr("orchestrator.schedules.ticking.SLICE", 600.0)


class Zone:
    """A schedule in a zone, and what the oracle says about it."""

    def __init__(self, name: str, days: int, chance: random.Random) -> None:
        self.end = START + timedelta(days=days)
        self.catch_up = timedelta(hours=chance.choice([0, 1, 30, 200]))
        zone, before = ZoneInfo(name), START - STEP
        hour, minute = chance.choice([(2, 30), (2, 0), (0, 0), (1, 45), (3, 15), (23, 30)])
        if chance.random() < 0.05:
            self.cron, self.due = f"{minute} * * * *", due_whenever_shown(zone, minute, before, self.end)
        else:
            self.cron, self.due = f"{minute} {hour} * * *", due_daily(zone, hour, minute, before, self.end)
        self.expected: dict[datetime, str] = {}
        self.schedule: Schedule = create(
            name=name,
            cron=self.cron,
            time_zone=name,
            starts_at=START,
            catch_up=self.catch_up,
            overlap=Overlap.ALLOW,
        )

    def expect(self, after: datetime, now: datetime) -> None:
        """Somebody ticks `now`, and nobody did since `after`."""
        for due_at in self.due[bisect_right(self.due, after) : bisect_right(self.due, now)]:
            age = now - due_at
            late = OccurrenceState.CAUGHT_UP if age > LATE else OccurrenceState.FIRED
            self.expected[due_at] = OccurrenceState.SKIPPED if age > max(LATE, self.catch_up) else late


def walk(names: Collection[str], days: int, seed: int) -> int:
    """Go through the days; returns how many instants were decided."""
    chance = random.Random(seed)
    zones = [Zone(name, days, chance) for name in names]
    instants = sorted({due_at for zone in zones for due_at in zone.due})
    before, end = START - timedelta(days=1), START + timedelta(days=days)
    while before < end:
        # Just after something is due, as beat would tick; or after nobody did for a while.
        place = bisect_right(instants, before)
        now = instants[place] + timedelta(seconds=2) if place < len(instants) else end
        if chance.random() < 0.5:
            now += timedelta(days=chance.uniform(0, 12))
        now = min(now, end)
        for zone in zones:
            zone.expect(before, now)
        for skew in chance.sample(SKEWS, chance.randint(1, 3)):
            with time_machine.travel(now + skew, tick=False):
                tick(at(now))
        before = now
    for zone in zones:
        assert [*zone.expected] == zone.due
        assert occurrences(zone.schedule.id) == zone.expected, (zone.schedule.name, zone.cron)
    return sum(len(zone.due) for zone in zones)


def test_zones_over_a_year_with_outages_and_skewed_clocks_miss_and_double_nothing() -> None:
    assert walk(ZONES, 366, seed=1) > 365 * len(ZONES)


@pytest.mark.endurance
@pytest.mark.timeout(600)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_zone_over_years_with_outages_and_skewed_clocks_misses_and_doubles_nothing(part: int) -> None:
    walk(distinct_zones()[part::PARTS], 3 * 366, part)
