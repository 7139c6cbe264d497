"""`orchestrator schedule`: jobs that are submitted again and again."""

from __future__ import annotations

import sys
from datetime import UTC, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.text import Text

from orchestrator import schedules
from orchestrator.cli import schedule_view as view
from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.names import find_project
from orchestrator.cli.output import JsonOption, LimitOption, ProjectOption, console, print_json, print_table
from orchestrator.cli.times import parse_instant, parse_span
from orchestrator.errors import InvalidRequest, ScheduleNotFound
from orchestrator.schedules import NewSchedule, Overlap, Schedule
from orchestrator.schedules.timing import find_zone


class Kind(StrEnum):
    """What may be submitted, as in a message on the queue `submissions`."""

    BULK_INFERENCE = "bulk_inference"
    EXPORT = "export"
    RETENTION = "retention"
    TRAINING = "training"


app = typer.Typer(help="Submit jobs again and again, by the clock.", no_args_is_help=True)

ScheduleArgument = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Name or id.")]
SpecOption = Annotated[
    str | None, typer.Option("--spec", help="The job's request: a JSON file, - for stdin, or the JSON itself.")
]
CronOption = Annotated[str | None, typer.Option(help="Minute, hour, day, month, day of the week: '30 2 * * 1-5'.")]
EveryOption = Annotated[
    timedelta | None, typer.Option(parser=parse_span, metavar="SPAN", help="So often, such as 15m, 1h30m or 2d.")
]
ZoneOption = Annotated[
    str | None, typer.Option("--zone", help="In which --cron is read, such as Europe/Berlin; UTC by default.")
]
OverlapOption = Annotated[Overlap | None, typer.Option(help="While the last job is still at work; skip by default.")]
CatchUpOption = Annotated[
    timedelta | None,
    typer.Option(parser=parse_span, metavar="SPAN", help="How late a job may be submitted; 1h by default."),
]
PriorityOption = Annotated[int | None, typer.Option(help="Of its jobs: higher goes first, within a project.")]
StartOption = Annotated[str | None, typer.Option(help="Nothing is due before; now by default.")]
EndOption = Annotated[str | None, typer.Option(help="Nothing is due after.")]
CountOption = Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="How many.")]


@app.command("create", cls=NeedsDatabase)
def create(
    name: str,
    kind: Annotated[Kind, typer.Option("--kind", "-k", help="What kind of job.")],
    spec: SpecOption = None,
    cron: CronOption = None,
    every: EveryOption = None,
    zone: ZoneOption = None,
    overlap: OverlapOption = None,
    catch_up: CatchUpOption = None,
    priority: PriorityOption = None,
    start: StartOption = None,
    end: EndOption = None,
    paused: Annotated[bool, typer.Option("--paused", help="Skip everything until it is resumed.")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a schedule; it holds from this moment on."""
    timing = _given(cron=cron, every=every, time_zone=zone, overlap=overlap, catch_up=catch_up)
    new = NewSchedule(
        project_id=find_project(project).id,
        name=name,
        kind=kind.value,
        spec=_read_spec(spec or "{}"),
        options=_given(priority=priority),
        paused=paused,
        **timing,
        **_bounds(start, end, zone or "UTC"),
    )
    view.show(schedules.create_schedule(new), as_json)


@app.command("list", cls=NeedsDatabase)
def list_(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """List the schedules of a project, or of all, by name."""
    found = schedules.list_schedules(None if project is None else find_project(project).id)
    if as_json:
        print_json(found)
        return
    print_table(
        ["SCHEDULE", "KIND", "DUE", "NEXT", "OVERLAP"],
        ([one.name, one.kind, view.timing(one), view.next_due(one), one.overlap.value] for one in found),
        empty="No schedule yet: `orchestrator schedule create` makes one.",
    )


@app.command("show", cls=NeedsDatabase)
def show(schedule: ScheduleArgument, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show a schedule, when it is due next, and what became of it lately."""
    view.show(_find(schedule, project), as_json)


@app.command("next")
def next_(
    cron: CronOption = None,
    every: EveryOption = None,
    zone: ZoneOption = None,
    start: StartOption = None,
    end: EndOption = None,
    count: CountOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Say when a schedule would be due, without making one."""
    timing = _given(cron=cron, every=every, time_zone=zone)
    bounds = _bounds(start, end, zone or "UTC")
    new = NewSchedule(project_id="none", name="none", kind="none", spec={}, **timing, **bounds)
    view.show_times(schedules.next_times(new, count), new.time_zone, as_json)


@app.command("pause", cls=NeedsDatabase)
def pause(schedule: ScheduleArgument, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Skip whatever comes due, until it is resumed; jobs at work go on."""
    view.show(schedules.pause_schedule(_find(schedule, project).id), as_json)


@app.command("resume", cls=NeedsDatabase)
def resume(schedule: ScheduleArgument, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Go on with what is due from now on."""
    view.show(schedules.resume_schedule(_find(schedule, project).id), as_json)


@app.command("run", cls=NeedsDatabase)
def run(schedule: ScheduleArgument, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Submit its job once, now, whatever the timing, a pause and the overlap policy say."""
    occurrence = schedules.run_schedule_now(_find(schedule, project).id)
    if as_json:
        print_json(occurrence)
    else:
        console().print(Text("The job will be submitted at once: `orchestrator schedule history` tells its id."))


@app.command("edit", cls=NeedsDatabase)
def edit(
    schedule: ScheduleArgument,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    spec: SpecOption = None,
    cron: CronOption = None,
    every: EveryOption = None,
    zone: ZoneOption = None,
    overlap: OverlapOption = None,
    catch_up: CatchUpOption = None,
    priority: PriorityOption = None,
    start: StartOption = None,
    end: Annotated[str | None, typer.Option(help="Nothing is due after; 'never' for no end.")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is named; what was due until now is decided by the rules that held then."""
    former = _find(schedule, project)
    changes = _given(name=name, cron=cron, every=every, time_zone=zone, overlap=overlap, catch_up=catch_up)
    if spec is not None:
        changes["spec"] = _read_spec(spec)
    if priority is not None:
        changes["options"] = {**former.options, "priority": priority}
    changes |= _bounds(start, None if end == "never" else end, zone or former.time_zone)
    if end == "never":
        changes["ends_at"] = None
    if not changes:
        raise InvalidRequest("nothing to change: name what is to be different, such as --cron or --overlap")
    view.show(schedules.update_schedule(former.id, **changes), as_json)


@app.command("delete", cls=NeedsDatabase)
def delete(schedule: ScheduleArgument, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Let nothing be due any more; its history and its jobs stay."""
    deleted = schedules.delete_schedule(_find(schedule, project).id)
    if as_json:
        print_json({"deleted": deleted})
    else:
        console().print(Text(f"Schedule {deleted} is deleted."))


@app.command("history", cls=NeedsDatabase)
def history(
    schedule: ScheduleArgument, project: ProjectOption = None, limit: LimitOption = 20, as_json: JsonOption = False
) -> None:
    """Tell what became of each instant at which it was due, newest first; also of a deleted one, by its id."""
    found = schedules.get_schedule(schedule) or _find(schedule, project)
    occurrences = schedules.list_occurrences(found.id, limit=limit)
    if as_json:
        print_json(occurrences)
    else:
        view.show_history(occurrences, found.time_zone)


def _find(name: str, project: str | None) -> Schedule:
    found = schedules.get_schedule(name) if project is None else None
    if found is not None and found.deleted_at is None:
        return found
    named = schedules.find_schedule(find_project(project).id, name)
    if named is None:
        raise ScheduleNotFound(f"no schedule {name!r}: `orchestrator schedule list` shows them")
    return named


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _bounds(start: str | None, end: str | None, zone: str) -> dict[str, Any]:
    given = _given(starts_at=start, ends_at=end)
    return {name: parse_instant(text, find_zone(zone)).astimezone(UTC) for name, text in given.items()}


def _read_spec(source: str) -> dict[str, Any]:
    text = source
    if not source.lstrip().startswith("{"):
        text = sys.stdin.read() if source == "-" else Path(source).read_text()
    try:
        spec = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"spec: {source} is no JSON: {error}") from error
    if not isinstance(spec, dict):
        raise InvalidRequest(f"spec: an object is needed, not {type(spec).__name__}")
    return spec
