"""A model server of 5 ms that refuses what is more than 64 in flight: how close a job comes to the best fixed limit.

    python -m benchmarks.overload --database sqlite

The bare loop knows how many requests it keeps in flight, and takes the best of several numbers; the job has to find
out. Refused requests are counted by the server, over the whole job. What may be refused holds for the bare loop, too:
above the server's capacity it is faster still, because half of its requests are refused and sent again at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

from benchmarks import bare_loop, bulk_inference
from benchmarks.figures import Figure, at_least, at_most, parser, report, without_goal
from benchmarks.stage import Stage, counts, model_server, stage
from orchestrator.registry.models import Model

DELAY, CAPACITY = 0.005, 64
#: The share of the requests that may be refused.
REFUSED = 0.02
BEST = "bare loop with the best fixed limit"


def main() -> None:
    """Measure, and print a table."""
    report(measure, options().parse_args())


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--datums", type=int, default=50_000)
    options.add_argument("--in-flight", type=int, nargs="+", default=[16, 32, 48, 60, 64, 80])
    options.add_argument("--workers", type=int, default=2, help="processes that infer")
    options.add_argument("--rounds", type=int, default=3, help="how often each is measured; the median counts")
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
        fixed = {number: limited(model, datums, number) for number in options.in_flight}
        allowed = [number for number in fixed if fixed[number].refused <= REFUSED]
        if not allowed:
            raise SystemExit(
                f"at each of {options.in_flight} in flight more than {REFUSED:.0%} are refused: ask for less"
            )
        best = max(allowed, key=lambda number: fixed[number].rate)
        refused: list[float] = []
        rate = bulk_inference.in_turns(
            partial(job, surroundings, model, refused),
            {BEST: lambda: limited(model, datums, best).rate},
            batch_size=1,
            datums=len(datums),
            rounds=options.rounds,
        )
    limit = rate.limits[BEST]
    costs = f"{rate.ours_cost:.3f} and {limit.cost:.3f}"
    return [
        at_least("5 ms, 64 in flight: rate against the best fixed limit", limit.ratio, 0.95),
        at_most("5 ms, 64 in flight: refused requests", 100 * median(refused), 100 * REFUSED, " %"),
        without_goal(
            "  datums a second, job and bare loop", f"{rate.ours:,.0f} and {limit.rate:,.0f} ({best} in flight)"
        ),
        without_goal("  refused in each round", ", ".join(f"{share:.1%}" for share in refused)),
        without_goal("  processor seconds per 1,000, job and bare loop", costs),
        *(without_goal(f"  bare loop, {number} in flight", str(found)) for number, found in fixed.items()),
    ]


class Run(NamedTuple):
    """Datums a second, and the share of the requests that the server refused."""

    rate: float
    refused: float

    def __str__(self) -> str:
        return f"{self.rate:,.0f}, {self.refused:.1%} refused"


def limited(model: Model, datums: Sequence[bare_loop.Loaded], in_flight: int) -> Run:
    """The bare loop with a fixed limit."""
    return counting(model, partial(bare_loop.run, model, datums, 1, in_flight))


def job(surroundings: Stage, model: Model, refused: list[float]) -> float:
    """Datums a second of one job; the share of its requests that were refused is added to `refused`."""
    found = counting(model, partial(bulk_inference.run, surroundings, model, 1))
    refused.append(found.refused)
    return found.rate


def counting(model: Model, run: Callable[[], float]) -> Run:
    """What `run` says, and what the server says of it."""
    before = counts(model)
    rate = run()
    served, refused = (counts(model)[name] - before[name] for name in ("served", "refused"))
    return Run(rate, refused / (served + refused))


if __name__ == "__main__":
    main()
