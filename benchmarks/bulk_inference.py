"""Datums a second of a bulk inference job, beside the limit and beside what a user would write first.

    python -m benchmarks.bulk_inference --database postgres --datums 50000

All figures are of one run on one machine: only their ratios mean anything elsewhere.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from operator import truediv
from statistics import median
from typing import NamedTuple

from sqlalchemy import func, select

from benchmarks import bare_loop, plain_celery
from benchmarks.figures import Figure, at_least, parser, without_goal, write
from benchmarks.processes import Cost, spending
from benchmarks.stage import Stage, model_server, stage, table
from orchestrator import clock, registry
from orchestrator.bulk_inference.job import create_bulk_inference_job, wait_for_bulk_inference_job
from orchestrator.bulk_inference.models import JobDetails, NewBulkInferenceJobRequest, ProgressState
from orchestrator.database import reading
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.registry.models import Datum, Model
from orchestrator.storage import blobs
from tests.support.processes import Running


def main() -> None:
    """Measure, and print two tables."""
    chosen = options().parse_args()
    show(*measure(chosen), chosen)


#: The same work as the job's; and without what comes before the first request.
READS_FILES, IN_MEMORY = "bare loop", "bare loop, files in memory"


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--datums", type=int, default=50_000)
    options.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    options.add_argument("--workers", type=int, default=2, help="processes that infer")
    options.add_argument("--rounds", type=int, default=3, help="how often each is measured; the median counts")
    options.add_argument("--plain-datums", type=int, default=2000, help="tasks for plain Celery; 0 leaves it out")
    return options


def show(rates: Sequence[Rate], plain: float, chosen: argparse.Namespace) -> None:
    """Print two tables, and write the figures where they are asked for."""
    print(f"{platform.machine()}, Python {platform.python_version()}, {chosen.database}, {chosen.datums:,} datums")
    table(
        "Datums a second, instant server; and processor seconds per 1,000, without the server's",
        ("batch size", "", "rate", "the job's is", "seconds"),
        [cells for rate in rates for cells in rate.cells()],
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


class Limit(NamedTuple):
    """A loop that the job is held against: its datums a second, the job's rate over its, its cost per 1,000 datums."""

    rate: float
    ratio: float
    cost: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Datums a second at one batch size, and the processor seconds per 1,000 datums behind them."""

    batch_size: int
    ours: float
    ours_cost: float
    #: How `ours_cost`, and what the model server spent, divide among the processes.
    spent_by: str
    limits: dict[str, Limit]

    def cells(self) -> list[tuple[object, ...]]:
        """As rows of a table."""
        first = self.batch_size, "a job", f"{self.ours:,.0f}", "", f"{self.ours_cost:.3f}"
        others = [
            ("", name, f"{limit.rate:,.0f}", f"{limit.ratio:.2f}", f"{limit.cost:.3f}")
            for name, limit in self.limits.items()
        ]
        return [first, *others]


def measure(options: argparse.Namespace) -> tuple[list[Rate], float]:
    """The rates at each batch size, and that of plain Celery, 0 where it is left out."""
    with stage(options.database, options.datums) as surroundings:
        start_workers(surroundings, options.workers)
        return measured(surroundings, options)


def measured(surroundings: Stage, options: argparse.Namespace) -> tuple[list[Rate], float]:
    """As `measure`, where workers run already."""
    with model_server(surroundings) as model:
        datums, files = load(surroundings), load(surroundings, reads=False)
        rates = [
            in_turns(
                partial(run, surroundings, model, size),
                {
                    READS_FILES: partial(bare_loop.run, model, files, size),
                    IN_MEMORY: partial(bare_loop.run, model, datums, size),
                },
                batch_size=size,
                datums=len(datums),
                rounds=options.rounds,
            )
            for size in options.batch_sizes
        ]
        check_rows(model, len(datums))
        plain = 0.0
        if options.plain_datums:
            plain = plain_celery.run(surroundings, model, [datum for datum, _ in datums[: options.plain_datums]])
    return rates, plain


def in_turns(
    job: Callable[[], float], loops: Mapping[str, Callable[[], float]], *, batch_size: int, datums: int, rounds: int
) -> Rate:
    """The medians of so many rounds of the job and of each of the loops, which take turns.

    The machine and the table do not stay the same: only what was measured one after the other can be compared.
    """
    ours, ours_cost = list[float](), Cost()
    rates = {name: list[float]() for name in loops}
    costs = {name: Cost() for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            with spending(costs[name]):
                rates[name].append(loop())
        with spending(ours_cost):
            ours.append(job())
    total = rounds * datums
    return Rate(
        batch_size,
        median(ours),
        ours_cost.per_thousand(total),
        ours_cost.by_role(total),
        {
            name: Limit(median(rates[name]), median(map(truediv, ours, rates[name])), costs[name].per_thousand(total))
            for name in loops
        },
    )


def figures(rates: Sequence[Rate], plain: float) -> list[Figure]:
    """The rates as ratios, beside their goals."""
    found = []
    for rate in rates:
        for name, limit in rate.limits.items():
            found.append(at_least(f"batch size {rate.batch_size}: rate against the {name}", limit.ratio, 0.6))
        each = " and ".join(f"{limit.rate:,.0f}" for limit in rate.limits.values())
        cost = " and ".join(f"{limit.cost:.3f}" for limit in rate.limits.values())
        found.append(without_goal("  datums a second, job and loops", f"{rate.ours:,.0f}; {each}"))
        found.append(without_goal("  processor seconds per 1,000, job and loops", f"{rate.ours_cost:.3f}; {cost}"))
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


def check_rows(model: Model, datums: int) -> None:
    """A limit that stores something else than a job would mean nothing."""
    row = InferenceRow
    contents = select(
        row.datum_id, row.ordinal, row.data, row.data_hash, row.data_storage_key, row.inference_action, row.version
    )
    different = contents.where(row.model_id == model.id).distinct().subquery()
    with reading() as session:
        found = session.scalar(select(func.count()).select_from(different))
    if found != datums:
        raise SystemExit(f"jobs and loops have stored {found:,} different rows for {datums:,} datums")


if __name__ == "__main__":
    main()
