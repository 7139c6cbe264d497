"""`orchestrator run`: training runs from creation to a model."""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.text import Text

from orchestrator.cli.blueprint import find_blueprint
from orchestrator.cli.guard import NeedsDatabase, complain
from orchestrator.cli.names import find_project
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
    state,
)
from orchestrator.cli.run_watch import WatchedRun
from orchestrator.cli.watch import follow
from orchestrator.errors import InvalidRequest
from orchestrator.training_v2 import Gpu, Resources, RunState
from orchestrator.training_v2 import checkpoint as checkpoints_of
from orchestrator.training_v2 import run as runs
from orchestrator.training_v2.details import RunDetails, get_run_details
from orchestrator.training_v2.logs import read_log
from orchestrator.training_v2.steering import delete_run, restart, stop
from orchestrator.training_v2.submit import NewRun, submit

app = typer.Typer(help="Training runs, from a config to a model.", no_args_is_help=True)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
CheckpointArgument = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="The checkpoint's id.")]
#: Seconds between two looks at a log that is followed.
INTERVAL = 0.5


@app.command("create", cls=NeedsDatabase)
def create(
    name: str,
    blueprint: Annotated[str, typer.Option("--blueprint", "-b", help="Name or id.")],
    task_type: Annotated[str, typer.Option("--task-type", "-t", help='Such as "Image Classification".')],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", exists=True, dir_okay=False, help="A .toml or .json file.")
    ] = None,
    project: ProjectOption = None,
    version: Annotated[str, typer.Option(help="The version of the run.")] = "1",
    blueprint_version: Annotated[str | None, typer.Option(help="SQL ILIKE pattern; the newest by default.")] = None,
    cpu: Annotated[str, typer.Option(help="Kubernetes quantity.")] = "1",
    memory: Annotated[str, typer.Option(help="Kubernetes quantity.")] = "1Gi",
    storage: Annotated[str | None, typer.Option(help="Ephemeral storage, a Kubernetes quantity.")] = None,
    gpu: Annotated[str | None, typer.Option(help="TYPE or TYPE:COUNT.")] = None,
    notes: Annotated[str | None, typer.Option(help="Kept with the run.")] = None,
    request_id: Annotated[str | None, typer.Option(help="Created twice, it is one run.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show progress until the run ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a run, which then starts by itself."""
    new = NewRun(
        name=name,
        version=version,
        resources=Resources(cpu=cpu, memory=memory, ephemeral_storage=storage, gpu=_gpu(gpu)),
        config={} if config is None else _read_config(config),
        task_type=task_type,
        blueprint_id=find_blueprint(blueprint, blueprint_version).id,
        project_id=find_project(project).id,
        notes=notes,
    )
    run_id = submit(new, request_id=request_id)
    if watch:
        if not as_json:
            console().print(Text(f"Run {run_id}", style="bold"))
        raise typer.Exit(follow(WatchedRun(run_id), as_json=as_json))
    _print(run_id, as_json)


@app.command("list", cls=NeedsDatabase)
def list_(
    name: Annotated[str | None, typer.Option(help="SQL ILIKE pattern, such as `%digits%`.")] = None,
    status: Annotated[list[RunState] | None, typer.Option(help="Only runs of this status; may be repeated.")] = None,
    project: ProjectOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    found = runs.get_runs(
        name_ilikes=None if name is None else [name],
        statuses=None if not status else [each.value for each in status],
        project_ids=None if project is None else [find_project(project).id],
        limit=limit,
    )
    if as_json:
        print_json(found)
        return
    print_table(
        ["RUN", "NAME", "VERSION", "STATUS", "DONE#", "AGE#"],
        (
            [run.id or "", run.name or "", run.version or "", state(run.status or ""), _done(run), ago(run.created_at)]
            for run in found
        ),
        empty="No run here: `orchestrator run create` makes one.",
    )


@app.command("show", cls=NeedsDatabase)
def show(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show everything there is to know of a run."""
    _print(run, as_json)


@app.command("watch", cls=NeedsDatabase)
def watch(
    run: RunArgument,
    tag: Annotated[str | None, typer.Option(help="The metric to draw; the newest by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON whenever something changes.")] = False,
) -> None:
    """Show status, progress and a metric until the run ends; exit code 0 if it completed, 1 if not."""
    raise typer.Exit(follow(WatchedRun(run, tag=tag), as_json=as_json))


@app.command("stop", cls=NeedsDatabase)
def stop_(
    run: RunArgument,
    grace: Annotated[float, typer.Option(min=1, help="Seconds until it is killed.")] = 600.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a run to end; asked again, the shortest grace period counts."""
    stop(run, timedelta(seconds=grace))
    _print(run, as_json)


@app.command("restart", cls=NeedsDatabase)
def restart_(run: RunArgument, as_json: JsonOption = False) -> None:
    """Launch a run again that was stopped or failed; it goes on from its latest checkpoint."""
    restart(run)
    _print(run, as_json)


@app.command("delete", cls=NeedsDatabase)
def delete(run: RunArgument) -> None:
    """Delete a run that has ended, with its metrics, checkpoints and logs."""
    delete_run(run)
    console().print(f"Run {run} is deleted.")


@app.command("logs", cls=NeedsDatabase)
def logs(
    run: RunArgument,
    launch: Annotated[int | None, typer.Option(min=1, help="Of this launch; the newest by default.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until the run ends.")] = False,
) -> None:
    """Print what a run's trainer printed."""
    details = get_run_details(run)
    number, chunk = launch or details.launch, 0
    while True:
        for data in read_log(run, number, chunk) if number else ():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            chunk += 1
        if not follow or details.is_over or (number and details.launch != number):
            break
        time.sleep(INTERVAL)
        # The look comes before the last reading: what was printed before the end is kept by then.
        details = get_run_details(run)
        number = number or details.launch
    if not number:
        complain(f"run {run} was not launched yet, and has printed nothing")


@app.command("metrics", cls=NeedsDatabase)
def metrics(
    run: RunArgument,
    tag: Annotated[list[str] | None, typer.Option(help="Only of this tag; may be repeated.")] = None,
    step: Annotated[list[int] | None, typer.Option(help="Only of this step; may be repeated.")] = None,
    limit: LimitOption = 50,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw every metric of the tags into this PNG file instead.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List metrics, newest first, or draw them."""
    found = runs.Run.from_id(run)
    if plot is not None:
        from orchestrator.cli.plot import draw

        draw(run, tag, plot)
        console().print(f"{plot} shows the metrics of run {run}.")
        return
    measured = found.get_metrics(step or None, tag or None, limit)
    if as_json:
        print_json(measured)
        return
    print_table(
        ["STEP#", "TAG", "VALUE#", "LAUNCH#", "AGE#"],
        (
            [
                str(metric.global_step),
                metric.tag,
                f"{metric.value:.6g}",
                (metric.job_id or "").rpartition("-")[2],
                ago(metric.created_at),
            ]
            for metric in measured
        ),
        empty="Nothing measured yet.",
    )


@app.command("checkpoints", cls=NeedsDatabase)
def checkpoints(run: RunArgument, limit: LimitOption = 20, as_json: JsonOption = False) -> None:
    """List a run's checkpoints, newest first."""
    found = runs.Run.from_id(run).get_checkpoints(limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["CHECKPOINT", "STEP#", "STATUS", "AGE#"],
        ([each.id or "", str(each.global_step), each.status or "", ago(each.created_at)] for each in found),
        empty="No checkpoint yet.",
    )


@app.command("download", cls=NeedsDatabase)
def download(
    checkpoint: CheckpointArgument,
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Where its files go.")],
) -> None:
    """Download a checkpoint's files."""
    checkpoints_of.download_checkpoint(checkpoint, str(folder))
    console().print(f"Checkpoint {checkpoint} is in {folder}.")


@app.command("create-model", cls=NeedsDatabase)
def create_model(
    checkpoint: CheckpointArgument,
    name: Annotated[str, typer.Option(help="The name to give the model.")],
    version: Annotated[str, typer.Option(help="Its version, in SemVer.")],
    summary: Annotated[str, typer.Option(help="What it is.")] = "",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a model from a checkpoint."""
    model_id = checkpoints_of.create_model_from_checkpoint(
        checkpoint_id=checkpoint,
        name=name,
        version=version,
        summary=summary,
        project_id=None if project is None else find_project(project).id,
    )
    if as_json:
        print_json({"model_id": model_id})
        return
    console().print(f"Model {name} {version} has the id {model_id}: `orchestrator model show {model_id}`")


def _gpu(text: str | None) -> Gpu | None:
    if text is None:
        return None
    kind, _, count = text.partition(":")
    if not kind or not (count or "1").isdecimal():
        raise typer.BadParameter(f"{text!r}: give TYPE or TYPE:COUNT")
    return Gpu(type=kind, count=int(count or 1))


def _read_config(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        said = tomllib.loads(text) if path.suffix == ".toml" else orjson.loads(text)
    except (tomllib.TOMLDecodeError, orjson.JSONDecodeError) as error:
        raise InvalidRequest(f"{path}: {error}") from error
    if not isinstance(said, Mapping):
        raise InvalidRequest(f"{path}: a config is an object, not a {type(said).__name__}")
    return dict(said)


def _done(run: runs.Run) -> str:
    shares = [each.value / each.final_value for each in run.progress or () if each.final_value]
    return f"{shares[-1]:.0%}" if shares else ""


def _print(run_id: str, as_json: bool) -> None:
    run, details = runs.Run.from_id(run_id), get_run_details(run_id)
    if as_json:
        print_json({**run.model_dump(mode="json"), "details": details})
        return
    print_facts(
        Text.assemble((f"Run {run.name} {run.version}  ", "bold"), state(details.status.value)),
        [
            ("id", run_id),
            ("reason", details.reason),
            ("project", run.project_id or ""),
            ("by", run.user_id or ""),
            ("blueprint", run.blueprint_id or ""),
            ("task", run.task_type or ""),
            ("resources", _resources(run.resources)),
            ("config", orjson.dumps(run.config, option=orjson.OPT_INDENT_2).decode()),
            *((each.operation, f"{each.value:g} of {each.final_value:g} {each.units}") for each in details.progress),
            ("launch", _launch(details)),
            ("stale reports", str(details.stale_writes or "")),
            ("notes", run.notes or ""),
            ("created", moment(details.created_at)),
            ("ended", moment(details.finished_at)),
        ],
    )


def _resources(resources: Resources | None) -> str:
    if resources is None:
        return ""
    gpu = f"{resources.gpu.count} {resources.gpu.type}" if resources.gpu else None
    parts = (f"{resources.cpu} CPU", resources.memory, resources.ephemeral_storage, gpu)
    return ", ".join(filter(None, parts))


def _launch(details: RunDetails) -> str:
    if not details.launch:
        return ""
    place = f" at {details.place}" if details.place else ""
    seen = f", last seen {ago(details.heartbeat_at)} ago" if details.heartbeat_at and not details.is_over else ""
    lost = f", {details.restarts} lost before" if details.restarts else ""
    return f"{details.launch}, {details.runtime}{place}{seen}{lost}"
