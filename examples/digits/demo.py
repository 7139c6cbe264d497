"""The demo: from nothing to an accuracy, through a real model server, real workers and a real Redis."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from examples.digits.aftermath import Exported, Swept, export, retain
from examples.digits.dataset import write_dataset
from examples.digits.training import Trained, network_of, train
from orchestrator import registry
from orchestrator.bulk_inference.evaluation import Evaluation, confusion_picture
from orchestrator.bulk_inference.job import (
    get_bulk_inference_evaluation,
    submit_bulk_inference_job,
    wait_for_bulk_inference_job,
)
from orchestrator.bulk_inference.models import JobDetails, NewBulkInferenceJobRequest, ProgressState
from orchestrator.cli.bulk_inference_watch import WatchedJob
from orchestrator.cli.watch import follow
from orchestrator.logs import configure_logging
from orchestrator.registry.models import Model, Project, Snapshot
from orchestrator.settings import settings

#: Small, so that there is a bar to watch and batches to see.
BATCH_SIZE = 4
#: Seconds that servers may take to start on a busy machine.
PATIENCE = 60


@dataclass(frozen=True)
class Summary:
    """What the demo has to say at its end."""

    status: str
    datums: int
    failed: int
    datums_per_second: float
    accuracy: float
    job: str
    folder: str
    confusion_picture: str
    trained: Trained
    exported: Exported
    retained: Swept
    seconds: float


def main() -> None:
    """Run the demo; the exit code is 0 when the job succeeded."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".orchestrator/demo"), help="where the results stay")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON document")
    arguments = parser.parse_args()
    console = Console(stderr=arguments.json, highlight=False)
    try:
        summary, evaluation = run(arguments.folder.absolute(), console)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; everything that was started has been stopped") from None
    if arguments.json:
        print(json.dumps(asdict(summary), default=str))
    else:
        report(console, summary, evaluation)
    raise SystemExit(0 if summary.status == ProgressState.SUCCEEDED else 1)


def run(folder: Path, console: Console) -> tuple[Summary, Evaluation]:
    """Everything from the data set to the picture; what was started is stopped, the results stay in `folder`."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="digits-")))
        console.print("1. writing 1,797 handwritten digits as PNG files")
        counts = write_dataset(scratch / "data")
        console.print("2. starting a Redis, two worker processes and beat")
        stack.enter_context(instance(folder))
        console.print(f"3. importing a snapshot: train {counts['train']:,}, test {counts['test']:,}")
        project, snapshot = import_digits(scratch / "data")
        console.print(
            "4. training a classifier on train, as a run; its last checkpoint becomes a model, which is served"
        )
        # Standard output is for the summary alone where a program reads it.
        trained, checkpoint = train(project.id, scratch / "data", quietly=console.stderr)
        url = stack.enter_context(model_server(network_of(checkpoint, scratch / "checkpoint")))
        model = registry.serve_model(trained.model, url)
        console.print("5. inferring on the split test")
        job_id = submit(model, snapshot)
        job = show(job_id) if not console.stderr else wait_for_bulk_inference_job(job_id)
        evaluation = Evaluation.model_validate(get_bulk_inference_evaluation(job_id))
        picture = confusion_picture(evaluation, folder / "confusion.png")
        console.print("6. exporting images, inferences and annotations as an archive, and importing that as a snapshot")
        exported = export(model, snapshot, folder)
        console.print("7. retention: protecting one inference, listing what is too old, deleting what was listed")
        swept = retain(model)
    return summarise(job, evaluation, picture, trained, exported, swept, folder, time.monotonic() - started), evaluation


@contextmanager
def model_server(classifier: Path) -> Iterator[str]:
    """The digits' server in a process of its own; yields its URL."""
    with process("-m", "examples.digits.server", "--model", str(classifier)) as answers:
        yield next(answers)["url"]


@contextmanager
def instance(folder: Path) -> Iterator[None]:
    """`orchestrator up` on `folder`, and this process as its user."""
    with process("-m", "orchestrator", "up", str(folder), "--json") as events:
        while next(events)["event"] != "ready":
            pass
        os.environ["ORCHESTRATOR_HOME"] = str(folder)
        os.environ.setdefault("ORCHESTRATOR_LOG_LEVEL", "WARNING")
        settings.cache_clear()
        configure_logging()
        yield


@contextmanager
def process(*arguments: str) -> Iterator[Iterator[dict[str, Any]]]:
    """A Python program that prints lines of JSON; it is told to end when the block ends."""
    command: Sequence[str] = [sys.executable, *arguments]
    # A session of its own: Ctrl-C reaches this program alone, which then stops the others in order.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            assert running.stdout is not None
            yield (json.loads(line) for line in running.stdout)
        except StopIteration:
            raise SystemExit(f"{' '.join(arguments)} ended with exit code {running.wait(PATIENCE)}") from None
        finally:
            running.terminate()
            running.wait(PATIENCE)


def import_digits(data: Path) -> tuple[Project, Snapshot]:
    """A project with the data set's snapshot."""
    project = registry.create_project("digits")
    dataset = registry.create_dataset(project.id, "handwritten digits")
    return project, registry.import_snapshot(dataset.id, data, name="scikit-learn")


def submit(model: Model, snapshot: Snapshot) -> str:
    """A job that infers on `test` and compares with the annotations."""
    return submit_bulk_inference_job(
        NewBulkInferenceJobRequest(
            model_project_id=model.project_id,
            model_id=model.id,
            dataset_project_id=model.project_id,
            dataset_id=snapshot.dataset_id,
            dataset_snapshot_id=snapshot.id,
            dataset_snapshot_split="test",
            inference_method="predict_proba",
            evaluate_metrics=True,
            batch_size=BATCH_SIZE,
        ),
        request_id="the demo",
    )


def show(job_id: str) -> JobDetails:
    """Watch the job as `orchestrator bulk-inference watch` does, then look at it once more."""
    follow(WatchedJob(job_id))
    return wait_for_bulk_inference_job(job_id, timeout=timedelta(seconds=PATIENCE))


def summarise(
    job: JobDetails,
    evaluation: Evaluation,
    picture: Path,
    trained: Trained,
    exported: Exported,
    swept: Swept,
    folder: Path,
    seconds: float,
) -> Summary:
    """The figures of jobs that have ended."""
    assert job.started_at is not None
    assert job.finished_at is not None
    inferring = (job.finished_at - job.started_at).total_seconds()
    return Summary(
        status=job.status.value,
        datums=job.num_computed,
        failed=job.num_failed,
        datums_per_second=round(job.num_computed / inferring, 1),
        accuracy=round(evaluation.summary["top1_accuracy"], 4),
        job=job.job_id,
        folder=str(folder),
        confusion_picture=str(picture),
        trained=trained,
        exported=exported,
        retained=swept,
        seconds=round(seconds, 1),
    )


def report(console: Console, summary: Summary, evaluation: Evaluation) -> None:
    """Print the summary and the confusion matrix for a person."""
    assert evaluation.confusion is not None
    matrix = Table(
        caption="row: what it is; column: what the model says", caption_style="dim", caption_justify="left", box=None
    )
    for name in ("", *evaluation.labels):
        matrix.add_column(name, justify="right", style=None if name else "dim")
    for label, row in zip(evaluation.labels, evaluation.confusion.matrix, strict=True):
        matrix.add_row(label, *[f"{count:.0f}" if count else "·" for count in row])
    console.print(matrix)
    console.print(
        f"[bold]{summary.datums} datums, {summary.failed} failed, {summary.datums_per_second:,.0f} datums a second, "
        f"accuracy {summary.accuracy:.3f}[/bold], in {summary.seconds:.0f} s from nothing\n"
        f"results  {summary.folder} (ORCHESTRATOR_HOME={summary.folder} orchestrator bulk-inference list)\n"
        f"trained  in {summary.trained.seconds:.0f} s: {summary.trained.metrics} metrics, checkpoints after "
        f"{' and '.join(map(str, summary.trained.checkpoints))} epochs (orchestrator run show {summary.trained.run})\n"
        f"picture  {summary.confusion_picture}\n"
        f"archive  {summary.exported.archive}: {summary.exported.inferences} inferences, "
        f"{summary.exported.size:,} bytes; imported again, its {summary.exported.images} images are "
        f"{'the same' if summary.exported.same else 'NOT the same'}\n"
        f"deleted  {summary.retained.deleted} of {summary.retained.listed} inferences that a dry run had listed; "
        f"{summary.retained.left} left, protected in between; {summary.retained.receipts} receipts",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
