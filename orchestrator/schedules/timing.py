"""When a schedule is due: cron expressions read in a time zone, and intervals.

Daylight saving time is treated as Vixie's cron does. An expression that names its minutes and hours is due once a
local day: in the hour that the clock skips it is read with the offset before the jump, and in the hour that the clock
shows twice the first time counts. One whose minute or hour begins with `*` is due whenever the local clock matches:
not in an hour that is skipped, and twice in one that is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from orchestrator.errors import InvalidRequest

#: No clock is put forward or back by more, except where a country changes sides of the date line.
JUMP = timedelta(hours=3)
#: What is looked at is known to be free of jumps if both of its ends, which are no further apart, have one offset.
STEADY = timedelta(hours=12)
#: An expression that finds no date within so long never does: 29 February falls on one day of the week every 28 years,
#: or 40 where a century has no leap year.
HORIZON = timedelta(days=366 * 41)
#: How far one look for the next instants goes, at first.
FIRST_LOOK = timedelta(hours=1)


class Timing(Protocol):
    """The instants at which something is due, in UTC and in order."""

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Those after `after`, up to and including `until`."""

    def following(self, after: datetime) -> Iterator[datetime]:
        """Those after `after`, without end unless nothing will ever be due."""


@dataclass(frozen=True, slots=True)
class Every:
    """Every `interval`, counted from `anchor`, which is the first."""

    interval: timedelta
    anchor: datetime

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        for due in self.following(after):
            if due > until:
                return
            yield due

    def following(self, after: datetime) -> Iterator[datetime]:
        steps = max(0, (after - self.anchor) // self.interval + 1)
        with suppress(OverflowError):  # the calendar ends with the year 9999
            while True:
                yield self.anchor + steps * self.interval
                steps += 1


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, read in a time zone."""

    expression: str
    zone: ZoneInfo

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        change = abs(_offset(until + JUMP, self.zone) - _offset(after - JUMP, self.zone))
        # No clock is put forward and back on one day.
        margin = JUMP + change if change or until - after > STEADY else timedelta()
        end = _wall(until, self.zone) + margin
        found: set[datetime] = set()
        for wall in CronSim(self.expression, _wall(after, self.zone) - margin):
            if wall > end:
                break
            found.update(self._instants(wall))
        return iter(sorted(due for due in found if after < due <= until))

    def following(self, after: datetime) -> Iterator[datetime]:
        span, end = FIRST_LOOK, after
        while end < after + HORIZON:
            for due in self.between(end, end + span):
                after = due
                yield due
            end, span = end + span, min(2 * span, timedelta(days=366))

    def _instants(self, wall: datetime) -> Iterator[datetime]:
        """The instants at which the expression is due because the local clock should show `wall`."""
        local = wall.replace(tzinfo=self.zone)
        instant = local.astimezone(UTC)
        is_shown = instant.astimezone(self.zone).replace(tzinfo=None) == wall
        if is_shown or self._names_its_time():
            yield instant
        if is_shown and not self._names_its_time():
            yield local.replace(fold=1).astimezone(UTC)

    def _names_its_time(self) -> bool:
        minute, hour, *_ = self.expression.split()
        return not minute.startswith("*") and not hour.startswith("*")


@lru_cache(maxsize=4096)
def cron(expression: str, time_zone: str) -> Cron:
    """The expression, checked.

    Raises:
        InvalidRequest: it is no cron expression of five fields, is never due, or the time zone is unknown.
    """
    zone = find_zone(time_zone)
    fields = " ".join(expression.split())
    if len(fields.split()) != 5:
        raise InvalidRequest(f"cron: {expression!r} has not five fields: minute, hour, day, month, day of the week")
    try:
        CronSim(fields, datetime(2000, 1, 1))  # noqa: DTZ001  a local clock
    except CronSimError as error:
        raise InvalidRequest(f"cron: {expression!r} cannot be read: {error}") from error
    timing = Cron(fields, zone)
    if next(timing.following(datetime.now(UTC)), None) is None:
        raise InvalidRequest(f"cron: {expression!r} is never due")
    return timing


def every(interval: timedelta, anchor: datetime) -> Every:
    """The interval, checked.

    Raises:
        InvalidRequest: it is shorter than a second, or no whole number of them.
    """
    if interval < timedelta(seconds=1) or interval % timedelta(seconds=1):
        raise InvalidRequest(f"every: {interval} is no whole number of seconds: use 1 or more")
    return Every(interval, anchor)


def find_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(f"time_zone: {name!r} is no IANA name such as Europe/Berlin") from error


def preview(timing: Timing, after: datetime, count: int) -> list[datetime]:
    """The next `count` instants."""
    return list(islice(timing.following(after), count))


def _wall(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None)


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()
