"""Datums a second of a bulk inference job, beside the limit and beside what a user would write first.

    python -m benchmarks.bulk_inference --database postgres --datums 50000

All figures are of one run on one machine: only their ratios mean anything elsewhere.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from operator import truediv
from statistics import median

from benchmarks import bare_loop, plain_celery
from benchmarks.figures import Figure, at_least, parser, without_goal, write
from benchmarks.processes import Cost, spending
from benchmarks.stage import Stage, model_server, stage, table
from orchestrator import clock, registry
from orchestrator.bulk_inference.job import create_bulk_inference_job, wait_for_bulk_inference_job
from orchestrator.bulk_inference.models import JobDetails, NewBulkInferenceJobRequest, ProgressState
from orchestrator.registry.models import Datum, Model
from orchestrator.storage import blobs
from tests.support.processes import Running


def main() -> None:
    """Measure, and print two tables."""
    chosen = options().parse_args()
    show(*measure(chosen), chosen)


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--datums", type=int, default=50_000)
    options.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    options.add_argument("--workers", type=int, default=2, help="processes that infer")
    options.add_argument("--rounds", type=int, default=3, help="how often each is measured; the median counts")
    options.add_argument("--files", action="store_true", help="the bare loop reads the files, too, as the job does")
    options.add_argument("--plain-datums", type=int, default=2000, help="tasks for plain Celery; 0 leaves it out")
    return options


def show(rates: Sequence[Rate], plain: float, chosen: argparse.Namespace) -> None:
    """Print two tables, and write the figures where they are asked for."""
    print(f"{platform.machine()}, Python {platform.python_version()}, {chosen.database}, {chosen.datums:,} datums")
    table(
        "Datums a second, instant server; and processor seconds per 1,000, without the server's",
        ("batch size", "this system", "bare loop", "ratio", "seconds, this", "seconds, bare"),
        [rate.cells() for rate in rates],
    )
    for rate in rates:
        print(f"  batch size {rate.batch_size}, processor seconds per 1,000: {rate.spent_by}")
    if plain:
        table(
            "Against a plain Celery task for each datum",
            ("batch size", "this system", "plain Celery", "ratio"),
            [(rate.batch_size, f"{rate.ours:,.0f}", f"{plain:,.0f}", f"{rate.ours / plain:.1f}") for rate in rates],
        )
    write(figures(rates, plain), chosen.figures)


@dataclass(frozen=True, slots=True)
class Rate:
    """Datums a second at one batch size, and the processor seconds per 1,000 datums behind them."""

    batch_size: int
    ours: float
    limit: float
    ratio: float
    ours_cost: float
    limit_cost: float
    #: How `ours_cost`, and what the model server spent, divide among the processes.
    spent_by: str = ""

    def cells(self) -> tuple[object, ...]:
        """As a row of a table."""
        rates = f"{self.ours:,.0f}", f"{self.limit:,.0f}", f"{self.ratio:.2f}"
        return self.batch_size, *rates, f"{self.ours_cost:.3f}", f"{self.limit_cost:.3f}"


def measure(options: argparse.Namespace) -> tuple[list[Rate], float]:
    """The rates at each batch size, and that of plain Celery, 0 where it is left out."""
    with stage(options.database, options.datums) as surroundings:
        start_workers(surroundings, options.workers)
        return measured(surroundings, options)


def measured(surroundings: Stage, options: argparse.Namespace) -> tuple[list[Rate], float]:
    """As `measure`, where workers run already."""
    with model_server(surroundings) as model:
        datums = load(surroundings, reads=not options.files)
        rates = [
            in_turns(
                partial(run, surroundings, model, size),
                partial(bare_loop.run, model, datums, size),
                batch_size=size,
                datums=len(datums),
                rounds=options.rounds,
            )
            for size in options.batch_sizes
        ]
        plain = 0.0
        if options.plain_datums:
            plain = plain_celery.run(surroundings, model, [datum for datum, _ in datums[: options.plain_datums]])
    return rates, plain


def in_turns(job: Callable[[], float], bare: Callable[[], float], *, batch_size: int, datums: int, rounds: int) -> Rate:
    """The medians of so many rounds of the job and of the bare loop, which take turns.

    The machine and the table do not stay the same: only what was measured one after the other can be compared.
    """
    ours, limits = [], []
    ours_cost, limit_cost = Cost(), Cost()
    for _ in range(rounds):
        with spending(limit_cost):
            limits.append(bare())
        with spending(ours_cost):
            ours.append(job())
    return Rate(
        batch_size,
        median(ours),
        median(limits),
        median(map(truediv, ours, limits)),
        ours_cost.per_thousand(rounds * datums),
        limit_cost.per_thousand(rounds * datums),
        spent_by=ours_cost.by_role(rounds * datums),
    )


def figures(rates: Sequence[Rate], plain: float) -> list[Figure]:
    """The rates as ratios, beside their goals."""
    found = []
    for rate in rates:
        found.append(at_least(f"batch size {rate.batch_size}: rate against the bare loop", rate.ratio, 0.6))
        cost = f"{rate.ours_cost:.3f} and {rate.limit_cost:.3f}"
        found.append(without_goal("  datums a second, job and bare loop", f"{rate.ours:,.0f} and {rate.limit:,.0f}"))
        found.append(without_goal("  processor seconds per 1,000, job and bare loop", cost))
    if plain and rates:
        found.append(at_least("against a plain Celery task per datum", rates[0].ours / plain, 10, " x"))
    return found


def load(surroundings: Stage, *, reads: bool = True) -> list[bare_loop.Loaded]:
    """Every datum, with its bytes where they are read."""
    found: list[Datum] = []
    while page := registry.list_datums(
        surroundings.snapshot.id, surroundings.split, found[-1].ordinal if found else -1, 5000
    ):
        found += page
    return [(datum, blobs().get(datum.storage_key) if reads else None) for datum in found]


def start_workers(surroundings: Stage, processes: int) -> dict[str, Running]:
    """One worker that infers, one that does the rest, and beat."""
    informative = {"ORCHESTRATOR_LOG_LEVEL": "INFO"}
    workers = surroundings.workers
    started = {
        "inference": workers.start("inference", concurrency=processes, environment=informative),
        "planning": workers.start("planning", "ticks", "submissions", concurrency=1, environment=informative),
        "beat": workers.beat(environment=informative),
    }
    time.sleep(1)  # the children of the pools have yet to import what they run
    return started


def run(surroundings: Stage, model: Model, batch_size: int) -> float:
    """A whole job from its submission to its end; returns datums a second.

    Its index is made afterwards, and is over when this returns.
    """
    submitted = clock.now()
    job_id = create_bulk_inference_job(request(surroundings, model, batch_size))
    assert job_id is not None
    # Seldom: asking takes processor time from the workers, and the job itself knows when it ended.
    job = wait_for_bulk_inference_job(job_id, timeout=timedelta(hours=1), interval=timedelta(seconds=0.25))
    check(job)
    assert job.finished_at is not None
    surroundings.settle()
    return job.num_computed / (job.finished_at - submitted).total_seconds()


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
