"""Datums a second of a bulk inference job, beside the limit and beside what a user would write first.

    python -m benchmarks.bulk_inference --database postgres --datums 50000

All figures are of one run on one machine: only their ratios mean anything elsewhere.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import timedelta

from benchmarks import bare_loop, plain_celery
from benchmarks.stage import Stage, model_server, stage, table
from orchestrator import registry
from orchestrator.bulk_inference.job import create_bulk_inference_job, wait_for_bulk_inference_job
from orchestrator.bulk_inference.models import JobDetails, NewBulkInferenceJobRequest, ProgressState
from orchestrator.registry.models import Datum, Model
from orchestrator.storage import blobs


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="postgres")
    parser.add_argument("--datums", type=int, default=50_000)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--workers", type=int, default=2, help="processes that infer")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; the best counts")
    parser.add_argument("--plain-datums", type=int, default=2000, help="tasks for plain Celery; 0 leaves it out")
    options = parser.parse_args()
    with stage(options.database, options.datums) as surroundings, model_server(surroundings) as model:
        datums = load(surroundings)
        start_workers(surroundings, options.workers)
        rows = []
        for size in options.batch_sizes:
            limit = max(bare_loop.run(model, datums, size) for _ in range(options.rounds))
            ours = max(run(surroundings, model, size) for _ in range(options.rounds))
            rows.append((size, f"{ours:,.0f}", f"{limit:,.0f}", f"{ours / limit:.2f}"))
        plain = 0.0
        if options.plain_datums:
            plain = plain_celery.run(surroundings, model, [datum for datum, _ in datums[: options.plain_datums]])
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.database}, {options.datums:,} datums")
    header = ("batch size", "this system", "bare loop", "ratio")
    table("Datums a second, instant server", header, rows)
    if plain:
        table(
            "Against a plain Celery task for each datum",
            ("batch size", "this system", "plain Celery", "ratio"),
            [(row[0], row[1], f"{plain:,.0f}", f"{float(row[1].replace(',', '')) / plain:.1f}") for row in rows],
        )


def load(surroundings: Stage) -> list[tuple[Datum, bytes]]:
    """Every datum with its bytes."""
    found: list[Datum] = []
    while page := registry.list_datums(
        surroundings.snapshot.id, surroundings.split, found[-1].ordinal if found else -1, 5000
    ):
        found += page
    return [(datum, blobs().get(datum.storage_key)) for datum in found]


def start_workers(surroundings: Stage, processes: int) -> None:
    """One worker that infers, one that does the rest, and beat."""
    informative = {"ORCHESTRATOR_LOG_LEVEL": "INFO"}
    surroundings.workers.start("inference", concurrency=processes, environment=informative)
    surroundings.workers.start("planning", "ticks", "submissions", concurrency=1, environment=informative)
    surroundings.workers.beat(environment=informative)
    time.sleep(1)  # the children of the pools have yet to import what they run


def run(surroundings: Stage, model: Model, batch_size: int) -> float:
    """A whole job from its submission to its end; returns datums a second."""
    started = time.perf_counter()
    job_id = create_bulk_inference_job(request(surroundings, model, batch_size))
    assert job_id is not None
    job = wait_for_bulk_inference_job(job_id, timeout=timedelta(minutes=10), interval=timedelta(seconds=0.02))
    elapsed = time.perf_counter() - started
    check(job)
    return job.num_computed / elapsed


def request(surroundings: Stage, model: Model, batch_size: int) -> NewBulkInferenceJobRequest:
    """The job over the whole snapshot."""
    return NewBulkInferenceJobRequest(
        model_project_id=surroundings.project.id,
        model_id=model.id,
        dataset_project_id=surroundings.project.id,
        dataset_id=surroundings.snapshot.dataset_id,
        dataset_snapshot_id=surroundings.snapshot.id,
        dataset_snapshot_split=surroundings.split,
        inference_method="predict_proba",
        batch_size=batch_size,
    )


def check(job: JobDetails) -> None:
    """A figure of a job that went wrong would mean nothing."""
    if job.status is not ProgressState.SUCCEEDED or job.num_computed != job.expected_total:
        raise SystemExit(f"the job ended {job.status} with {job.num_computed} of {job.expected_total}: {job.reason}")


if __name__ == "__main__":
    main()
