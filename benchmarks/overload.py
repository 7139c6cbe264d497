"""A model server of 5 ms that refuses what is more than 64 in flight: how close a job comes to the best fixed limit.

    python -m benchmarks.overload --database sqlite

The bare loop knows how many requests it keeps in flight, and the best of several numbers counts; the job has to find
out. Refused requests are counted by the server, over the whole job.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median

from benchmarks import bare_loop, bulk_inference
from benchmarks.figures import Figure, at_least, at_most, parser, report, without_goal
from benchmarks.processes import spending
from benchmarks.stage import Stage, counts, model_server, stage
from orchestrator.registry.models import Datum, Model

DELAY, CAPACITY = 0.005, 64


def main() -> None:
    """Measure, and print a table."""
    report(measure, options().parse_args())


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--datums", type=int, default=50_000)
    options.add_argument("--in-flight", type=int, nargs="+", default=[16, 32, 48, 60, 64, 80])
    options.add_argument("--workers", type=int, default=2, help="processes that infer")
    options.add_argument("--rounds", type=int, default=3, help="how often each is measured; the best counts")
    return options


def measure(options: argparse.Namespace) -> list[Figure]:
    """The job's rate against the bare loop's, and what was refused."""
    with stage(options.database, options.datums) as surroundings:
        bulk_inference.start_workers(surroundings, options.workers)
        return measured(surroundings, options)


def measured(surroundings: Stage, options: argparse.Namespace) -> list[Figure]:
    """As `measure`, where workers run already."""
    with model_server(surroundings, "--delay", str(DELAY), "--capacity", str(CAPACITY)) as model:
        datums = bulk_inference.load(surroundings)
        rates, refused = zip(*(job(surroundings, model) for _ in range(options.rounds)), strict=True)
        best, limit, bare_cost = best_fixed(model, datums, options.in_flight, options.rounds)
        with spending() as cost:
            bulk_inference.run(surroundings, model, 1)
    ours_cost = cost.per_thousand(len(datums))
    return [
        at_least("5 ms, 64 in flight: rate against the best fixed limit", max(rates) / limit, 0.95),
        at_most("5 ms, 64 in flight: refused requests", 100 * median(refused), 2, " %"),
        without_goal("  datums a second, job and bare loop", f"{max(rates):,.0f} and {limit:,.0f} ({best} in flight)"),
        without_goal("  refused in each round", ", ".join(f"{share:.1%}" for share in refused)),
        without_goal("  processor seconds per 1,000, job and bare loop", f"{ours_cost:.3f} and {bare_cost:.3f}"),
    ]


def job(surroundings: Stage, model: Model) -> tuple[float, float]:
    """One job: datums a second, and the share of its requests that the server refused."""
    before = counts(model)
    rate = bulk_inference.run(surroundings, model, 1)
    served, refused = (counts(model)[name] - before[name] for name in ("served", "refused"))
    return rate, refused / (served + refused)


def best_fixed(
    model: Model, datums: Sequence[tuple[Datum, bytes]], numbers: Sequence[int], rounds: int
) -> tuple[int, float, float]:
    """The number in flight with which the bare loop is fastest, its rate, and its processor seconds per 1,000."""
    best, limit, cheapest = 0, 0.0, 0.0
    for number in [number for number in numbers for _ in range(rounds)]:
        with spending() as cost:
            rate = bare_loop.run(model, datums, 1, number)
        if rate > limit:
            best, limit, cheapest = number, rate, cost.per_thousand(len(datums))
    return best, limit, cheapest


if __name__ == "__main__":
    main()
