"""`orchestrator export`: archives of inferences and the data that they were made on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.text import Text

from orchestrator.cli.export_watch import WatchedExport, counts, downloading, summary
from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.names import find_listed_project, find_store_model
from orchestrator.cli.output import (
    JsonOption,
    LimitOption,
    ProjectOption,
    ago,
    console,
    moment,
    print_facts,
    print_json,
    print_table,
    readable,
    state,
)
from orchestrator.cli.watch import follow
from orchestrator.errors import Conflict, InvalidRequest
from orchestrator.inference_store.export_task import (
    cancel_export_task,
    get_export_details,
    list_export_tasks,
    submit_export_task,
)
from orchestrator.inference_store.exports.download import download as download_archive
from orchestrator.inference_store.exports.models import ArchiveFormat
from orchestrator.inference_store.models import NewExportTaskRequest

app = typer.Typer(help="Archive inferences, and the data that they were made on.", no_args_is_help=True)

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]


@app.command("create", cls=NeedsDatabase)
def create(
    model: Annotated[str, typer.Option("--model", "-m", help="Name or id of the model.")],
    project: ProjectOption = None,
    archive_format: Annotated[ArchiveFormat, typer.Option("--format", help="How files are described.")] = (
        ArchiveFormat.DATASET
    ),
    action: Annotated[str | None, typer.Option(help="Only this inference action.")] = None,
    data_hash: Annotated[str | None, typer.Option("--hash", help="Only upon this data: its SHA-256.")] = None,
    source: Annotated[str | None, typer.Option(help="Only of this data source.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this instant on, as 2026-01-31T00:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Only up to this instant.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only with this label; several mean any of them.")] = None,
    minimum_score: Annotated[float | None, typer.Option(help="Only with such a score, or a higher one.")] = None,
    maximum_score: Annotated[float | None, typer.Option(help="Only with such a score, or a lower one.")] = None,
    include: Annotated[list[str] | None, typer.Option(help="The id of an inference to add; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="The id of one to leave out; may be repeated.")] = None,
    annotations: Annotated[bool, typer.Option("--annotations", help="Inferences as annotations.")] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="Custom metadata.")] = False,
    request: Annotated[str | None, typer.Option(help="A file that holds the whole request as JSON; - for stdin.")] = (
        None
    ),
    request_id: Annotated[str | None, typer.Option(help="Submitted twice, it is one task.")] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first, within a project.")] = 0,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show progress until the task ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Archive what the options choose, all of a model's inferences by default."""
    filters = {
        "inference_action_filter": action,
        "data_hash_filter": data_hash,
        "data_source_filter": source,
        "time_window_filter": _given(start=since, end=until),
        "deconstructed_inference_filter": _given(
            labels=label or None, minimum_score=minimum_score, maximum_score=maximum_score
        ),
    }
    values = {
        "filters": filters,
        "include_inference_ids": include or [],
        "exclude_inference_ids": exclude or [],
        "include_inferences_as_annotations": annotations,
        "include_custom_metadata": metadata,
    }
    task_id = submit_export_task(
        find_store_model(model, project),
        _request(values, request),
        archive_format=archive_format,
        request_id=request_id,
        priority=priority,
    )
    if watch:
        if not as_json:
            console().print(Text(f"Task {task_id}", style="bold"))
        raise typer.Exit(follow(WatchedExport(task_id), as_json=as_json))
    _print(task_id, as_json)


@app.command("list", cls=NeedsDatabase)
def list_(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only tasks of this model: name or id.")] = None,
    project: ProjectOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first."""
    model_id = None if model is None else find_store_model(model, project)
    project_id = find_listed_project(project, model)
    found = list_export_tasks(model_id=model_id, project_id=project_id, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["TASK", "STATE", "FORMAT", "INFERENCES#", "BYTES#", "AGE#"],
        (
            [
                one.task_id,
                state(one.state.value),
                one.archive_format.value,
                counts(one),
                f"{one.written_bytes:,}",
                ago(one.created_at),
            ]
            for one in found
        ),
        empty="No task here: `orchestrator export create` makes one.",
    )


@app.command("show", cls=NeedsDatabase)
def show(task: TaskArgument, as_json: JsonOption = False) -> None:
    """Show everything there is to know of a task."""
    _print(task, as_json)


@app.command("watch", cls=NeedsDatabase)
def watch(
    task: TaskArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON whenever something changes.")] = False,
) -> None:
    """Show progress until the task ends; exit code 0 if it is complete, 1 if not."""
    raise typer.Exit(follow(WatchedExport(task), as_json=as_json))


@app.command("cancel", cls=NeedsDatabase)
def cancel(task: TaskArgument, as_json: JsonOption = False) -> None:
    """End a task now; nothing of its archive is kept."""
    cancel_export_task(task)
    _print(task, as_json)


@app.command("download", cls=NeedsDatabase)
def download(
    task: TaskArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; export-TASK.tar.gz by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch an archive and verify it; run again, it goes on where it was cut off."""
    details = get_export_details(task)
    if details.archive is None:
        raise Conflict(f"Export task {task} is {details.state.value}: only a complete one has an archive")
    target = output or Path(f"export-{task}.tar.gz")
    with downloading(details.archive.size, is_quiet=as_json) as progress:
        download_archive(details.archive, target, progress)
    if as_json:
        print_json({"path": target, "size": details.archive.size, "sha256": details.archive.sha256})
        return
    console().print(
        Text(
            f"{readable(str(target))}: {details.archive.size:,} bytes, "
            f"SHA-256 {details.archive.sha256}, as it should be"
        )
    )


def _given(**values: Any) -> dict[str, Any] | None:
    """A part of the filter; None if none of it was asked for."""
    return None if all(value is None for value in values.values()) else values


def _request(values: dict[str, Any], path: str | None) -> NewExportTaskRequest:
    """The request that the options make, or the file that takes their place."""
    asked = NewExportTaskRequest.model_validate(values)
    if path is None:
        return asked
    if asked != NewExportTaskRequest():
        raise typer.BadParameter("a request says all: leave out the options that say what to archive")
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    try:
        return NewExportTaskRequest.model_validate(orjson.loads(text), extra="forbid")
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{path} is no JSON document: {error}") from error


def _print(task_id: str, as_json: bool) -> None:
    task = get_export_details(task_id)
    if as_json:
        print_json(task)
        return
    print_facts(
        Text.assemble((f"Export task {task.task_id}  ", "bold"), state(task.state.value)),
        [
            ("inferences", counts(task)),
            ("bytes", f"{task.written_bytes:,}" if task.written_bytes else ""),
            ("SHA-256", task.archive.sha256 if task.archive else ""),
            ("format", task.archive_format.value),
            ("reason", task.reason),
            ("model", task.model_id),
            ("created", moment(task.created_at)),
            ("started", moment(task.started_at)),
            ("ended", moment(task.finished_at)),
            ("", summary(task) if task.is_over else ""),
        ],
    )
