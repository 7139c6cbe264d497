"""From the submission of a small job to its first stored result: on an idle system, and beside a job of a million.

    python -m benchmarks.latency --database postgres

The processes are those of `orchestrator up`. Time runs from the call that submits until another connection sees the
first row, which is looked for every millisecond. The large job belongs to another project, and keeps every worker busy
with a model server that answers at once, or after `--delay` seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import median, quantiles

from sqlalchemy import select

from benchmarks import bulk_inference, hops
from benchmarks.figures import Figure, at_most, parser, report, without_goal
from benchmarks.snapshots import repeated
from benchmarks.stage import Stage, import_files, model_server, stage
from orchestrator import clock, registry
from orchestrator.bulk_inference.job import (
    abort_bulk_inference_job,
    create_bulk_inference_job,
    get_bulk_inference_details,
    wait_for_bulk_inference_job,
)
from orchestrator.bulk_inference.lifecycle import TERMINAL
from orchestrator.database import reading
from orchestrator.embedded.instance import commands
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.registry.models import Model
from tests.support.processes import Running, wait_until

#: Datums of the small job.
SMALL = 10
#: Seconds between two small jobs on the idle system.
PAUSE = 0.3
#: Seconds that a first result may take.
PATIENCE = 120.0


def main() -> None:
    """Measure, and print a table."""
    report(measure, options().parse_args())


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=30, help="small jobs on the idle system")
    options.add_argument("--busy-rounds", type=int, default=10, help="small jobs beside the large one; 0 leaves it out")
    options.add_argument("--datums", type=int, default=1_000_000, help="of the large job")
    options.add_argument("--delay", type=float, default=0.0, help="seconds until the large job's server answers")
    options.add_argument("--workers", type=int, default=2, help="worker processes, as `orchestrator up` starts them")
    return options


def measure(options: argparse.Namespace) -> list[Figure]:
    """Times to the first result, idle and busy."""
    with stage(options.database, SMALL) as small:
        start_up(small, options.workers)
        return measured(small, options)


def measured(small: Stage, options: argparse.Namespace) -> list[Figure]:
    """As `measure`, where workers run already, on a snapshot of a few datums."""
    with model_server(small) as model:
        first_result(small, model)  # what every process imports and connects to once is not in question
        paths: list[list[datetime]] = []
        idle = [first_result(small, model, paths) for _ in range(options.rounds)]
        figures = [
            at_most("submit to first result, idle: median", median(idle), 50, " ms"),
            without_goal("  95 % of them within", f"{ninety_five(idle):.0f} ms"),
            without_goal("  fastest and slowest", f"{min(idle):.0f} and {max(idle):.0f} ms"),
            *by_hop(paths),
        ]
        if options.busy_rounds:
            paths = []
            busy = beside_large_job(small, model, options, paths)
            figures += [
                at_most(f"submit to first result beside a job of {options.datums:,}: slowest", max(busy), 2000, " ms"),
                without_goal("  median, and how many", f"{median(busy):.0f} ms of {len(busy)}"),
                *by_hop(paths),
            ]
    return figures


def by_hop(paths: Sequence[Sequence[datetime]]) -> list[Figure]:
    """Where the time went, hop by hop."""
    return [without_goal(f"    {hop}", f"{taken:.1f} ms") for hop, taken in hops.typical(paths).items()]


def beside_large_job(
    small: Stage, model: Model, options: argparse.Namespace, paths: list[list[datetime]]
) -> list[float]:
    """Times to the first result of small jobs that were submitted while the large one was at work."""
    times: list[float] = []
    with large_job(small, options.datums, options.delay) as is_at_work:
        while len(times) < options.busy_rounds and is_at_work():
            times.append(first_result(small, model, paths))
    return times


def start_up(surroundings: Stage, workers: int) -> None:
    """The processes of `orchestrator up`, ready for work."""
    environment = {"ORCHESTRATOR_LOG_LEVEL": "INFO"}
    for name, command in commands(workers):
        running = surroundings.workers.run(name, command, environment=environment)
        wait_for_word(running, "beat: Starting" if name == "beat" else " ready.")


def wait_for_word(running: Running, word: str) -> None:
    """Wait until the process logs that it is ready."""
    running.wait_ready(lambda: word in running.log.read_text(encoding="utf-8", errors="replace"))


def first_result(surroundings: Stage, model: Model, paths: list[list[datetime]] | None = None) -> float:
    """Milliseconds from the submission of a small job to its first row; the job has ended when this returns.

    The moments on the way are added to `paths`.
    """
    submitted, started = clock.now(), time.perf_counter()
    job_id = create_bulk_inference_job(bulk_inference.request(surroundings, model, 1))
    assert job_id is not None
    row = select(InferenceRow.ordinal).where(InferenceRow.bulk_inference_job_id == job_id).limit(1)
    while True:
        with reading() as session:
            if session.scalar(row) is not None:
                break
        if time.perf_counter() - started > PATIENCE:
            raise SystemExit(f"no result in {PATIENCE:.0f} s: {get_bulk_inference_details(job_id)}")
        time.sleep(0.001)
    elapsed, seen = time.perf_counter() - started, clock.now()
    job = wait_for_bulk_inference_job(job_id, timeout=timedelta(minutes=5), interval=timedelta(seconds=0.02))
    bulk_inference.check(job)
    if paths is not None:
        paths.append(hops.moments(job_id, submitted, seen))
    time.sleep(PAUSE)
    return elapsed * 1000


@contextmanager
def large_job(surroundings: Stage, datums: int, delay: float) -> Iterator[Callable[[], bool]]:
    """A job of another project that begins before the body runs, and is aborted after it; yields whether it goes on."""
    project = registry.create_project("large")
    files = replace(surroundings, project=project, snapshot=import_files(surroundings.home / "large", project, 1000))
    large = replace(files, snapshot=repeated(files, datums))
    with model_server(large, "--delay", str(delay)) as model:
        job_id = create_bulk_inference_job(bulk_inference.request(large, model, 1))
        assert job_id is not None
        wait_until(lambda: get_bulk_inference_details(job_id).num_computed > 0, "the large job runs", within=PATIENCE)
        yield lambda: get_bulk_inference_details(job_id).status not in TERMINAL
        abort_bulk_inference_job(job_id)


def ninety_five(times: Sequence[float]) -> float:
    """What 95 of 100 of the times do not exceed."""
    return quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else max(times)


if __name__ == "__main__":
    main()
