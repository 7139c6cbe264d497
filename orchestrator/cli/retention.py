"""`orchestrator retention`: delete what is too old, and show what was deleted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from orchestrator.cli.guard import NeedsDatabase
from orchestrator.cli.names import find_listed_project, find_store_model
from orchestrator.cli.output import (
    JsonOption,
    LimitOption,
    ProjectOption,
    ago,
    console,
    counted,
    moment,
    print_facts,
    print_json,
    print_table,
    readable,
    state,
)
from orchestrator.cli.retention_policy import app as policy_app
from orchestrator.cli.retention_watch import WatchedRetention, deleted, summary
from orchestrator.cli.watch import follow
from orchestrator.errors import InvalidRequest, NotFound
from orchestrator.inference_store.receipts import list_receipts
from orchestrator.inference_store.retention import submit, tasks
from orchestrator.inference_store.retention.models import Manifest, RetentionDetails, TaskState
from orchestrator.inference_store.retention.policies import find_policy

app = typer.Typer(help="Delete inferences that are too old, and show what was deleted.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="Name or id of the model.")]


@app.command("run", cls=NeedsDatabase)
def run(
    model: ModelOption,
    project: ProjectOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count and list what would be deleted.")] = False,
    manifest: Annotated[
        str | None, typer.Option(metavar="ID/HASH", help="Delete exactly what this dry run has listed.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show progress until the task ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a model's policy now; with --manifest, only what a dry run listed and somebody approved."""
    model_id = find_store_model(model, project)
    if manifest is not None:
        if dry_run:
            raise typer.BadParameter("a manifest is run for good: leave out --dry-run")
        task_id = submit.submit_approved(model_id, _manifest(manifest))
    else:
        policy = find_policy(model_id)
        if policy is None:
            raise NotFound(f"model {model!r} has no policy: set one with `orchestrator retention policy set`")
        task_id = submit.submit(model_id, policy.id, dry_run=dry_run)
    if watch:
        if not as_json:
            console().print(Text(f"Task {task_id}", style="bold"))
        raise typer.Exit(follow(WatchedRetention(task_id), as_json=as_json))
    _print(task_id, as_json)


@app.command("list", cls=NeedsDatabase)
def list_(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only tasks of this model: name or id.")] = None,
    project: ProjectOption = None,
    status: Annotated[TaskState | None, typer.Option("--state", help="Only tasks in this state.")] = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first."""
    model_id = None if model is None else find_store_model(model, project)
    project_id = find_listed_project(project, model)
    found = tasks.list_tasks(model_id=model_id, project_id=project_id, state=status, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["TASK", "STATE", "KIND", "RECORDS#", "BLOBS#", "AGE#"],
        ([one.task_id, state(one.state), _kind(one), *deleted(one), ago(one.created_at)] for one in found),
        empty="No task here: `orchestrator retention run` makes one.",
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
    raise typer.Exit(follow(WatchedRetention(task), as_json=as_json))


@app.command("stop", cls=NeedsDatabase)
def stop(task: TaskArgument, as_json: JsonOption = False) -> None:
    """End a task now; what it has deleted stays deleted, and its receipts tell what that is."""
    tasks.stop(tasks.find_task(task).model_id, task)
    _print(task, as_json)


@app.command("manifest", cls=NeedsDatabase)
def manifest_(
    task: TaskArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file to write; the screen by default.")
    ] = None,
) -> None:
    """Print what a dry run has listed: one line of JSON for each record and blob that would go."""
    chunks = tasks.read_manifest(task)
    if output is None:
        sys.stdout.buffer.writelines(chunks)
        return
    with output.open("wb") as file:
        file.writelines(chunks)
    console().print(Text(f"{readable(str(output))}: approve it with --manifest {tasks.find_task(task).manifest}"))


@app.command("receipts", cls=NeedsDatabase)
def receipts(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only of this model: name or id.")] = None,
    project: ProjectOption = None,
    task: Annotated[str | None, typer.Option(help="Only of this task.")] = None,
    after: Annotated[str, typer.Option(help="The last receipt seen, for the next page.")] = "",
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List what was deleted, oldest first: a receipt for each transaction, kept for ever."""
    model_id = None if model is None else find_store_model(model, project)
    project_id = find_listed_project(project, model)
    found = list_receipts(model_id=model_id, project_id=project_id, task_id=task, after=after, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["RECEIPT", "WHEN", "ACTION", "COUNT#", "BLOBS#", "FIRST", "LAST", "BY"],
        (
            [
                one.id,
                f"{one.created_at.astimezone():%Y-%m-%d %H:%M:%S}",
                one.action,
                f"{one.count:,}",
                f"{one.blob_count:,}",
                one.first_id,
                one.last_id,
                f"task {one.task_id}" if one.task_id else "a caller",
            ]
            for one in found
        ),
        empty="Nothing was deleted.",
    )
    if len(found) == limit:
        console().print(Text(f"There may be more: --after {found[-1].id}", style="dim"))


def _manifest(text: str) -> Manifest:
    task_id, slash, sha256 = text.partition("/")
    if not slash:
        raise InvalidRequest(f"--manifest {text}: give the dry run's id and the manifest's digest, as ID/HASH")
    return Manifest(task_id, sha256)


def _print(task_id: str, as_json: bool) -> None:
    task = tasks.find_task(task_id)
    if as_json:
        print_json(task)
        return
    records, blobs = deleted(task)
    stays = "{}; their blobs, if the store's own, are counted above".format(counted(task.stripped_count, "inference"))
    print_facts(
        Text.assemble((f"Retention task {task.task_id}  ", "bold"), state(task.state)),
        [
            ("kind", _kind(task)),
            ("records", records),
            ("blobs", blobs),
            ("kept without data", stays if task.stripped_count else ""),
            ("reason", task.reason),
            ("manifest", str(task.manifest or "")),
            ("runs the manifest of", task.approved_task_id or ""),
            ("model", task.model_id),
            ("policy", task.policy_id),
            ("records since", f"{task.maximum_record_age_limit.astimezone():%Y-%m-%d %H:%M:%S} are safe"),
            ("blobs since", f"{task.maximum_blob_age_limit.astimezone():%Y-%m-%d %H:%M:%S} are safe"),
            ("created", moment(task.created_at)),
            ("started", moment(task.started_at)),
            ("ended", moment(task.finished_at)),
            ("", summary(task) if task.is_over else ""),
        ],
    )


def _kind(task: RetentionDetails) -> str:
    if task.dry_run:
        return "dry run"
    return "approved manifest" if task.approved_task_id else "sweep"
