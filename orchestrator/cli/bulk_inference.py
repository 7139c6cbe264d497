"""`orchestrator bulk-inference`: infer over a split of a snapshot."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from orchestrator.bulk_inference import job as jobs
from orchestrator.bulk_inference.models import JobDetails, NewBulkInferenceJobRequest, ProgressState, SubmitOptions
from orchestrator.bulk_inference.submit import check
from orchestrator.cli.bulk_inference_watch import WatchedJob
from orchestrator.cli.guard import NeedsDatabase, complain
from orchestrator.cli.names import find_dataset, find_listed_project, find_model, find_snapshot
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
    state,
)
from orchestrator.cli.watch import follow
from orchestrator.errors import Unavailable
from orchestrator.queues import CeleryPublisher, QueueName
from orchestrator.registry.models import Snapshot

app = typer.Typer(help="Infer over a split of a snapshot.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


@app.command("submit", cls=NeedsDatabase)
def submit(
    model: Annotated[str, typer.Option("--model", "-m", help="Name or id of the model.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Name or id of the dataset.")],
    split: Annotated[str, typer.Option("--split", "-s", help="The split to infer on.")],
    snapshot: Annotated[str | None, typer.Option(help="Name or id; the newest by default.")] = None,
    project: ProjectOption = None,
    dataset_project: Annotated[str | None, typer.Option(help="The dataset's, if it is not the model's.")] = None,
    model_version: Annotated[str | None, typer.Option(help="The one registered last by default.")] = None,
    method: Annotated[str, typer.Option(help="Inference method; needed where the model has several.")] = "",
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Compare with annotations at the end.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Datums in one request.")] = 1,
    failure_threshold: Annotated[float, typer.Option(help="Share of datums that may fail, 0 to 1.")] = 0.0,
    priority: Annotated[int, typer.Option(help="Higher goes first, within a project.")] = 0,
    request_id: Annotated[str | None, typer.Option(help="Submitted twice, it is one job.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show progress until the job ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and say how many datums.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a job."""
    found_model = find_model(model, project, model_version)
    found_dataset = find_dataset(dataset, dataset_project or project or found_model.project_id)
    found_snapshot = find_snapshot(snapshot, found_dataset)
    request = NewBulkInferenceJobRequest(
        model_project_id=found_model.project_id,
        model_id=found_model.id,
        dataset_project_id=found_dataset.project_id,
        dataset_id=found_dataset.id,
        dataset_snapshot_id=found_snapshot.id,
        dataset_snapshot_split=split,
        inference_method=method,
        evaluate_metrics=evaluate,
        batch_size=batch_size,
    )
    options = SubmitOptions(request_id=request_id, failure_threshold=failure_threshold, priority=priority)
    if dry_run:
        _print_plan(request, found_snapshot, as_json)
        return
    job_id = jobs.submit_bulk_inference_job(request, **options.model_dump())
    _warn_of_a_broker_away(job_id)
    if watch:
        if not as_json:
            console().print(Text(f"Job {job_id}", style="bold"))
        raise typer.Exit(follow(WatchedJob(job_id), as_json=as_json))
    _print(job_id, as_json)


@app.command("list", cls=NeedsDatabase)
def list_(
    status: Annotated[ProgressState | None, typer.Option(help="Only jobs of this status.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only jobs of this model: name or id.")] = None,
    project: ProjectOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    model_id = None if model is None else find_model(model, project).id
    project_id = find_listed_project(project, model)
    found = jobs.list_bulk_inference_jobs(status=status, model_id=model_id, project_id=project_id, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["JOB", "STATUS", "DONE#", "FAILED#", "AGE#"],
        ([job.job_id, _standing(job), _done(job), f"{job.num_failed:,}", ago(job.created_at)] for job in found),
        empty="No job here: `orchestrator bulk-inference submit` makes one.",
    )


@app.command("show", cls=NeedsDatabase)
def show(job: JobArgument, as_json: JsonOption = False) -> None:
    """Show everything there is to know of a job."""
    _print(job, as_json)


@app.command("watch", cls=NeedsDatabase)
def watch(
    job: JobArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON whenever something changes.")] = False,
) -> None:
    """Show progress until the job ends; exit code 0 if it succeeded, 1 if not."""
    raise typer.Exit(follow(WatchedJob(job), as_json=as_json))


@app.command("abort", cls=NeedsDatabase)
def abort(
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="Kept with the job.")] = "aborted by request",
    as_json: JsonOption = False,
) -> None:
    """End a job now; its results so far stay."""
    jobs.abort_bulk_inference_job(job, reason=reason)
    _print(job, as_json)


@app.command("pause", cls=NeedsDatabase)
def pause(job: JobArgument, as_json: JsonOption = False) -> None:
    """Stop a job within about a second, to be resumed."""
    jobs.pause_bulk_inference_job(job)
    _print(job, as_json)


@app.command("resume", cls=NeedsDatabase)
def resume(job: JobArgument, as_json: JsonOption = False) -> None:
    """Let a paused job go on."""
    jobs.resume_bulk_inference_job(job)
    _print(job, as_json)


@app.command("retry", cls=NeedsDatabase)
def retry(job: JobArgument, as_json: JsonOption = False) -> None:
    """Try again what failed in a job that has ended; results stay."""
    jobs.retry_bulk_inference_job(job)
    _print(job, as_json)


@app.command("failures", cls=NeedsDatabase)
def failures(
    job: JobArgument,
    after: Annotated[int, typer.Option(help="The ordinal of the last one seen, for the next page.")] = -1,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List the datums that a job gave up, and why."""
    found = jobs.get_bulk_inference_failures(job, after=after, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["ORDINAL#", "PATH", "CLASS", "STATUS#", "TRIES#", "MESSAGE"],
        (
            [str(one.ordinal), one.path, one.failure_class, str(one.status or ""), str(one.attempts), one.message]
            for one in found
        ),
        empty="Nothing failed.",
    )
    if len(found) == limit:
        console().print(Text(f"There may be more: --after {found[-1].ordinal}", style="dim"))


def _warn_of_a_broker_away(job_id: str) -> None:
    """A job whose first unit could not be published was accepted all the same: say what it waits for."""
    if jobs.get_bulk_inference_details(job_id).units != {"ready": 1}:
        return
    try:
        CeleryPublisher().depth(QueueName.PLANNING)
    except Unavailable:
        complain("the broker does not answer: the job is accepted, and starts when the broker is back")


def _print_plan(request: NewBulkInferenceJobRequest, snapshot: Snapshot, as_json: bool) -> None:
    action = check(request)
    split = next(split for split in snapshot.splits if split.split == request.dataset_snapshot_split)
    count = split.annotated_count if request.evaluate_metrics else split.datum_count
    if as_json:
        print_json({"valid": True, "datums": count, "inference_method": action, "request": request})
        return
    which = " annotated" if request.evaluate_metrics else ""
    console().print(
        f"The job would {action} on {counted(count, 'datum')}:{which or ' all'} of split {split.split!r}. "
        "Nothing was written."
    )


def _print(job_id: str, as_json: bool) -> None:
    job = jobs.get_bulk_inference_details(job_id)
    evaluation = jobs.get_bulk_inference_evaluation(job_id)
    if as_json:
        print_json({**job.model_dump(mode="json"), "evaluation": evaluation})
        return
    request = job.request
    print_facts(
        Text.assemble((f"Job {job.job_id}  ", "bold"), _standing(job)),
        [
            ("done", f"{_done(job)}, {job.num_failed:,} failed, {job.in_flight} in flight"),
            ("units", ", ".join(f"{count} {name}" for name, count in sorted(job.units.items()))),
            ("reason", job.reason),
            ("metrics", _metrics(evaluation)),
            ("model", request.model_id),
            ("snapshot", request.dataset_snapshot_id),
            ("split", request.dataset_snapshot_split),
            ("method", request.inference_method),
            ("batch size", str(request.batch_size)),
            ("may fail", f"{job.failure_threshold:.2%} of the datums" if job.failure_threshold else ""),
            ("priority", str(job.priority or "")),
            ("created", moment(job.created_at)),
            ("started", moment(job.started_at)),
            ("ended", moment(job.finished_at)),
        ],
    )


def _standing(job: JobDetails) -> Text:
    return Text("paused", style="yellow") if job.paused else state(job.status.value)


def _done(job: JobDetails) -> str:
    return f"{job.num_computed:,}/{'?' if job.expected_total is None else format(job.expected_total, ',')}"


def _metrics(evaluation: dict[str, Any] | None) -> str:
    figures = (evaluation or {}).get("summary", {})
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, int | float))
