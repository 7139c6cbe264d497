"""Training: how fast metrics come in, how fast pages of very many are read, and what a look at many live runs costs.

    python -m benchmarks.training --database sqlite --metrics 10000000 --runs 1000

One supervisor reports batches of 10,000 metrics of 20 tags. A trainer is a process of its own, which reports through
the runner library as fast as it can, and then 10,000 metrics a second, one call each; this process supervises it. Pages
are those that `Run.get_metrics` returns, of 1,000 metrics, measured when a hundredth of the metrics is there (200,000
at least) and again when all are. Live runs are at a runtime that answers at once: what is left is our own cost.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

from benchmarks.figures import Figure, at_least, at_most, parser, report, without_goal
from benchmarks.snapshots import analyze
from benchmarks.stage import stage
from orchestrator.training_v2 import Run, intake
from orchestrator.training_v2.measured import NewMetric
from orchestrator.training_v2.watch import watch
from tests.support.trainers import supervised
from tests.support.training import StageRuntime, fall_silent, running, runtimes, set_scene

BATCH = 10_000
TAGS = 20
ROUNDS = 5
#: Metrics a second that a trainer may report.
RATE = 10_000
#: Its processor time is that of all its threads.
TRAINER = """
tags = [f"train/tag {number}" for number in range(tags)]
metrics = [runner.Metric(tags[n % len(tags)], n / 7, n // len(tags)) for n in range(count)]
runner.save_metric("first", 0, 0)
runner.flush()

begun, spent = time.perf_counter(), time.process_time()
runner.save_metrics(metrics)
runner.flush()
print(count / (time.perf_counter() - begun), flush=True)
together = (time.process_time() - spent) / count

begun, spent = time.perf_counter(), time.process_time()
for start in range(0, min(count, 10 * rate), 100):
    for tag, value, step in metrics[start : start + 100]:
        runner.save_metric(tag, value, step)
    time.sleep(max(0.0, begun + (start + 100) / rate - time.perf_counter()))
runner.flush()
alone = (time.process_time() - spent) / min(count, 10 * rate)
share = (time.process_time() - spent) / (time.perf_counter() - begun)
print(alone, together, share)
"""


def main() -> None:
    """Measure, and print a table."""
    report(measure, options().parse_args())


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    options = parser(__doc__)
    options.add_argument("--metrics", type=int, default=10_000_000)
    options.add_argument("--runs", type=int, default=1000)
    options.add_argument("--reported", type=int, default=200_000, help="metrics that a trainer reports")
    return options


def measure(options: argparse.Namespace) -> list[Figure]:
    """Everything, on a database of its own."""
    with stage(options.database, 1):
        return measured(options)


def measured(options: argparse.Namespace) -> list[Figure]:
    """As `measure`, where a database is there already."""
    return [*of_metrics(options.metrics), *of_a_trainer(options.reported), *of_runs(options.runs)]


def of_metrics(total: int) -> list[Figure]:
    """What one run's metrics cost."""
    run_id = running(set_scene(), StageRuntime())
    # With fewer, pages of some kinds would not be full.
    few = min(total, max(20 * BATCH, total // 100))
    rate_of_few = fill(run_id, 0, few)
    before = pages(run_id, few)
    rate = fill(run_id, few, total) if total > few else rate_of_few
    analyze()
    after = pages(run_id, total)
    return [
        at_least(f"metrics a second, at {total:,}", rate, 10_000),
        *(
            at_most(f"{name}: times as long at {total:,} metrics as at {few:,}", after[name] / before[name], 2)
            for name in after
        ),
        *(without_goal(f"  {name}, at {total:,}: milliseconds", f"{after[name] * 1000:.1f}") for name in after),
    ]


def fill(run_id: str, start: int, end: int) -> float:
    """Report the metrics from `start` to `end`; returns how many a second."""
    begun = time.perf_counter()
    for position in range(start, end, BATCH):
        numbers = range(position, min(position + BATCH, end))
        batch = [NewMetric(number // TAGS, f"train/tag {number % TAGS}", number / 7) for number in numbers]
        intake.record_metrics(run_id, 1, position, batch)
    return (end - start) / (time.perf_counter() - begun)


def pages(run_id: str, total: int) -> dict[str, float]:
    """Seconds that each kind of page takes."""
    run = Run.from_id(run_id)
    middle = run.get_metrics(global_steps=[total // TAGS // 2], limit=1)[0].created_at
    kinds: dict[str, Callable[[], object]] = {
        "newest page": run.get_metrics,
        "page in the middle": lambda: run.get_metrics(created_before=middle),
        "page of two tags": lambda: run.get_metrics(tags=["train/tag 3", "train/tag 7"], created_before=middle),
        "page of a step": lambda: run.get_metrics(global_steps=[total // TAGS // 3]),
    }
    return {name: seconds(read) for name, read in kinds.items()}


def of_a_trainer(count: int) -> list[Figure]:
    """What reporting costs a trainer, and how fast it can be."""
    run_id = running(set_scene(), StageRuntime())
    with supervised(run_id) as ours:
        printed = ours.run(f"count, rate, tags = {count}, {RATE}, {TAGS}\n{TRAINER}")
    rate, alone, together, share = (float(word) for word in printed.split())
    return [
        at_least("metrics a second from one trainer, until they are stored", rate, RATE),
        at_most(f"share of a core that {RATE:,} a second cost the trainer", share, 0.1),
        without_goal("  one metric reported alone: microseconds", f"{alone * 1e6:.1f}"),
        without_goal("  one metric reported with 1,000: microseconds", f"{together * 1e6:.1f}"),
    ]


def of_runs(count: int) -> list[Figure]:
    """What looking at live runs costs."""
    runtime, scene = StageRuntime(), set_scene()
    live = [running(scene, runtime) for _ in range(count)]
    quiet = seconds(lambda: watch(runtimes(runtime)))
    beats = count / seconds(lambda: [intake.beat(run_id, 1) for run_id in live])
    for run_id in live[: count // 10]:
        fall_silent(run_id)
    begun = time.perf_counter()
    found = watch(runtimes(runtime))
    with_news = time.perf_counter() - begun
    assert found.live >= count, "every run is looked at"
    return [
        at_most(f"{count:,} live runs: seconds of a look", quiet, 2),
        at_most(f"{count:,} live runs, a tenth silent: seconds of a look", with_news, 2),
        without_goal("  signs of life a second", f"{beats:,.0f}"),
    ]


def seconds(work: Callable[[], object]) -> float:
    """The median of some rounds, after one that warms up."""
    work()
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return median(times)


if __name__ == "__main__":
    main()
