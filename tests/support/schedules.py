"""Schedules for tests, and what should become of them by a reckoning of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import schedules
from orchestrator.database import reading
from orchestrator.schedules import NewSchedule, Schedule
from orchestrator.schedules.tables import OccurrenceRow

#: Every clock on earth has been put forward and back by multiples of this since 1972.
STEP = timedelta(minutes=15)
PROJECT = "project"


def distinct_zones() -> list[str]:
    """Every zone, under one of its names: two of five names are others for the same clock."""
    data = files("tzdata")
    names = data.joinpath("zones").read_text().split()
    return sorted({data.joinpath("zoneinfo", *name.split("/")).read_bytes(): name for name in names}.values())


def new(**values: Any) -> NewSchedule:
    """A schedule of jobs that nobody knows, every minute unless told otherwise."""
    timing = {} if "cron" in values or "every" in values else {"every": timedelta(minutes=1)}
    return NewSchedule(**{"project_id": PROJECT, "name": "nightly", "kind": "test", "spec": {}, **timing, **values})


def create(**values: Any) -> Schedule:
    """`new`, written."""
    return schedules.create_schedule(new(**values))


def at(instant: datetime) -> Callable[[Session], datetime]:
    """A clock that stands still."""
    return lambda _: instant


def occurrences(schedule_id: str) -> dict[datetime, str]:
    """The state of each instant that was decided, in order."""
    statement = select(OccurrenceRow.due_at, OccurrenceRow.state).where(OccurrenceRow.schedule_id == schedule_id)
    with reading() as session:
        return dict(session.execute(statement.order_by(OccurrenceRow.due_at)).all())


def local_clock(zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, bool]]:
    """A walk along a local clock: instant, what the clock shows, and whether it showed that before.

    What the clock skips is told with the instant at which it would have been shown without the jump.
    """
    instant, shown = start, start.astimezone(zone)
    while instant <= end:
        yield instant, shown.replace(tzinfo=None), bool(shown.fold)
        following = (instant + STEP).astimezone(zone)
        skipped = shown.replace(tzinfo=None) + STEP
        late = instant + STEP
        while skipped < following.replace(tzinfo=None):
            yield late, skipped, False
            skipped, late = skipped + STEP, late + STEP
        instant, shown = instant + STEP, following


def due_daily(zone: ZoneInfo, hour: int, minute: int, start: datetime, end: datetime) -> list[datetime]:
    """When something is due that names its time of day: once for each that the clock shows, or skips."""
    found = {
        instant.astimezone(UTC)
        for instant, shown, again in local_clock(zone, start - timedelta(days=2), end)
        if (shown.hour, shown.minute) == (hour, minute) and not again
    }
    return sorted(instant for instant in found if start < instant <= end)


def due_whenever_shown(zone: ZoneInfo, minute: int, start: datetime, end: datetime) -> list[datetime]:
    """When something is due at this minute of every hour: whenever the clock really shows it."""
    found, instant = [], start
    while (instant := instant + STEP) <= end:
        if instant.astimezone(zone).minute == minute:
            found.append(instant)
    return found
