"""Jobs of ten thousand to a million datums: the rate must not depend on the size, nor memory grow.

    python -m benchmarks.scale --database postgres --datums 10000 100000 1000000

The datums of each snapshot share the blobs of a few thousand files (see `benchmarks.snapshots`). A rate is taken from
the submission of a job to its end. Memory is that of the largest process of each worker, growth that of the last tenth
of the largest job against its first tenth.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from statistics import median

from benchmarks import bulk_inference
from benchmarks.figures import Figure, at_most, parser, report, without_goal
from benchmarks.processes import Memory, spending
from benchmarks.snapshots import repeated
from benchmarks.stage import Stage, model_server, stage
from orchestrator.registry.models import Model
from tests.support.processes import Running

#: Files on disk.
FILES = 4096
#: Jobs of fewer datums are over so soon that one says little: they are run again, up to this many datums.
ENOUGH = 100_000
MOST_ROUNDS = 5


def main() -> None:
    """Measure, and print a table."""
    report(measure, options().parse_args())


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--datums", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--batch-size", type=int, default=1)
    options.add_argument("--workers", type=int, default=2, help="processes that infer")
    return options


def measure(options: argparse.Namespace) -> list[Figure]:
    """The rate at each size, and the growth of the largest."""
    with stage(options.database, min(FILES, *options.datums)) as surroundings:
        workers = bulk_inference.start_workers(surroundings, options.workers)
        return measured(surroundings, workers, options)


def measured(surroundings: Stage, workers: Mapping[str, Running], options: argparse.Namespace) -> list[Figure]:
    """As `measure`, where workers run already."""
    rates: dict[int, float] = {}
    costs: dict[int, float] = {}
    memory = Memory({})
    with model_server(surroundings) as model:
        # Processes grow when they first do anything, which is no leak.
        bulk_inference.run(surroundings, model, options.batch_size)
        for size in sorted(options.datums):
            at_size = replace(surroundings, snapshot=repeated(surroundings, size))
            memory = Memory({name: workers[name] for name in ("inference", "planning")})
            with memory.watched(), spending() as cost:
                rates[size], rounds = typical_rate(at_size, model, options.batch_size, size)
            costs[size] = cost.per_thousand(size * rounds)
    return figures(rates, costs, memory)


def typical_rate(surroundings: Stage, model: Model, batch_size: int, size: int) -> tuple[float, int]:
    """The median rate of several jobs, one if they are large, and how many they were."""
    rounds = max(1, min(MOST_ROUNDS, ENOUGH // size))
    return median(bulk_inference.run(surroundings, model, batch_size) for _ in range(rounds)), rounds


def figures(rates: Mapping[int, float], costs: Mapping[int, float], memory: Memory) -> list[Figure]:
    """What the jobs showed."""
    smallest, largest = min(rates), max(rates)
    spread = 100 * (max(rates.values()) / min(rates.values()) - 1)
    growth = memory.growth()
    return [
        at_most(f"{smallest:,} to {largest:,} datums: spread of the rate", spread, 10, " %"),
        at_most(f"{largest:,} datums: growth of inference workers", growth["inference"], 50, " MB"),
        at_most(f"{largest:,} datums: growth of the planner", growth["planning"], 50, " MB"),
        *(without_goal(f"  {size:,} datums: datums a second", f"{rate:,.0f}") for size, rate in rates.items()),
        *(
            without_goal(f"  {size:,} datums: processor seconds per 1,000", f"{cost:.3f}")
            for size, cost in costs.items()
        ),
    ]


if __name__ == "__main__":
    main()
