"""How schedules and their occurrences look in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from rich.text import Text

from orchestrator import schedules
from orchestrator.cli.output import console, moment, print_facts, print_json, print_table, state
from orchestrator.cli.times import show_span
from orchestrator.schedules import Occurrence, Overlap, Schedule
from orchestrator.schedules.timing import find_zone

#: How many times to come, and how many that have passed, `show` tells.
SHOWN = 5

OVERLAPS = {
    Overlap.SKIP: "skip: nothing is submitted while the last job is at work",
    Overlap.QUEUE: "queue: one job after the other",
    Overlap.ALLOW: "allow: jobs may be at work at once",
}


class _Shown(Schedule):
    """A schedule as `--json` tells it."""

    next_times: list[datetime]
    occurrences: list[Occurrence]


def show(schedule: Schedule, as_json: bool) -> None:
    """Print a schedule, when it is due next, and what became of it lately."""
    coming = [] if schedule.deleted_at else schedules.next_times(schedule, SHOWN)
    lately = schedules.list_occurrences(schedule.id, limit=SHOWN)
    if as_json:
        print_json(_Shown(**schedule.model_dump(), next_times=coming, occurrences=lately))
        return
    zone = find_zone(schedule.time_zone)
    print_facts(
        f"Schedule {schedule.name}",
        [
            ("id", schedule.id),
            ("state", Text("paused: what is due is skipped", style="yellow") if schedule.paused else ""),
            ("kind", schedule.kind),
            ("due", timing(schedule)),
            ("from", local(schedule.starts_at, zone) if schedule.starts_at else ""),
            ("until", local(schedule.ends_at, zone) if schedule.ends_at else ""),
            ("overlap", OVERLAPS[schedule.overlap]),
            ("catch up", f"what is late by no more than {show_span(schedule.catch_up)}"),
            ("next", "\n".join(local(due, zone) for due in coming) or "never"),
            ("lately", "\n".join(_told(one, zone) for one in lately)),
            ("changed", moment(schedule.updated_at)),
        ],
    )


def show_times(times: Sequence[datetime], time_zone: str, as_json: bool) -> None:
    """Print instants as a clock in the zone shows them."""
    if as_json:
        print_json(times)
        return
    for due in times:
        console().print(Text(local(due, find_zone(time_zone))))
    if not times:
        console().print(Text("It is never due.", style="dim"))


def show_history(occurrences: Sequence[Occurrence], time_zone: str) -> None:
    """Print what became of instants, a line each."""
    zone = find_zone(time_zone)
    print_table(
        ["DUE", "STATE", "JOB", "WHY"],
        ([local(one.due_at, zone), state(one.state), one.job_id or "", one.reason] for one in occurrences),
        empty="It has not been due yet.",
    )


def timing(schedule: Schedule) -> str:
    """When a schedule is due, in a line."""
    if schedule.every is not None:
        return f"every {show_span(schedule.every)}"
    return f"{schedule.cron}  {schedule.time_zone}"


def next_due(schedule: Schedule) -> str:
    """When it is due next, in its zone."""
    if schedule.paused:
        return "paused"
    return "never" if schedule.next_due_at is None else local(schedule.next_due_at, find_zone(schedule.time_zone))


def local(instant: datetime, zone: ZoneInfo) -> str:
    """What a clock in the zone shows, down to the second if that is not a whole minute."""
    shown = instant.astimezone(zone)
    seconds = f":{shown:%S}" if shown.second or shown.microsecond else ""
    return f"{shown:%a %Y-%m-%d %H:%M}{seconds} {shown:%Z}"


def _told(occurrence: Occurrence, zone: ZoneInfo) -> str:
    why = occurrence.reason or (f"job {occurrence.job_id}" if occurrence.job_id else "")
    return f"{local(occurrence.due_at, zone)}  {occurrence.state.value}" + (f": {why}" if why else "")
