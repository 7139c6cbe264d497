"""`python -m tests.simulation`: run seeds, and replay one that failed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.run import simulator
from tests.simulation.world import Result


def main() -> int:
    """Run what the command line asks for; 1 if a seed failed."""
    arguments = parse()
    if arguments.seed is not None:
        return replay(arguments.seed, verbose=arguments.verbose, mutant=arguments.mutant)
    begun = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    parts = [seeds[number :: arguments.jobs] for number in range(arguments.jobs)]
    if arguments.jobs == 1:
        failed, counts = run_some(parts[0])
    else:
        failed, counts = [], Counter()
        with ProcessPoolExecutor(arguments.jobs) as pool:
            for some_failed, some_counts in pool.map(run_some, parts):
                failed += some_failed
                counts += some_counts
    seconds = time.monotonic() - begun
    print(f"{len(seeds)} seeds in {seconds:.1f} s: {len(failed)} failed; {dict(sorted(counts.items()))}")
    for seed, violation in sorted(failed):
        print(f"seed {seed}: {violation}\n  python -m tests.simulation --seed {seed} --verbose")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this seed")
    parser.add_argument("--verbose", action="store_true", help="with --seed: print every step")
    parser.add_argument("--mutant", help="with --seed: with this mutant of the product (tests/simulation/mutations.py)")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run (1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes to run them in (1)")
    return parser.parse_args()


def run_some(seeds: range) -> tuple[list[tuple[int, str]], Counter[str]]:
    """Run the seeds in this process; returns those that failed, and what happened in all of them."""
    failed: list[tuple[int, str]] = []
    counts: Counter[str] = Counter()
    with simulator() as simulated:
        for seed in seeds:
            result = simulated.run(seed)
            counts.update(result.counts)
            counts["steps"] += result.steps
            counts["simulated seconds"] += int(result.seconds)
            if result.violation:
                failed.append((seed, result.violation))
    return failed, counts


def replay(seed: int, *, verbose: bool, mutant: str | None) -> int:
    """Run one seed, and print what happened."""
    with simulator() as simulated:
        result = simulated.run(seed, mutant)
    show(result, verbose=verbose)
    return 1 if result.violation else 0


def show(result: Result, *, verbose: bool) -> None:
    """Print a simulation."""
    for at, who, what in result.trace if verbose else []:
        print(f"{at:9.3f}  {who:22} {what}")
    print(f"seed {result.seed}: {result.violation or 'no violation'}")
    print(f"{result.seconds:.0f} simulated seconds, {result.steps} steps, {result.counts}")


if __name__ == "__main__":
    sys.exit(main())
