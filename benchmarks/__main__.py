"""Every benchmark on both databases, and one table: what was asked for, and what was measured.

    python -m benchmarks            # an hour, on an otherwise idle machine
    python -m benchmarks --quick    # some minutes: fewer datums, fewer rounds

Each program runs in a process of its own, with servers of its own, on loopback; what it prints goes to the screen. The
exit code is 1 if a program failed, never for a figure that misses its goal.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.figures import Figure, read, verdict
from benchmarks.stage import table

#: The options of each program, in full and with `--quick`.
PROGRAMS: dict[str, tuple[str, str]] = {
    "bulk_inference": ("", "--datums 20000 --rounds 2 --plain-datums 500"),
    "overload": ("", "--datums 20000 --rounds 1 --in-flight 32 60 64"),
    "scale": ("", "--datums 10000 100000"),
    "latency": ("", "--rounds 10 --busy-rounds 3 --datums 200000"),
    "live_jobs": ("", "--rounds 5"),
    "filters": ("", "--rows 100000 --embeddings 20000"),
    "exports": ("", "--members 1000 10000 --rounds 2 --large 0"),
    "retention": ("", "--rows 100000"),
    "training": ("", "--metrics 300000 --runs 200"),
}
DATABASES = {"postgres": "PostgreSQL", "sqlite": "SQLite"}


def main() -> int:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller numbers, for a first impression")
    parser.add_argument("--only", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--databases", nargs="+", choices=list(DATABASES), default=list(DATABASES))
    options = parser.parse_args()
    found: dict[str, list[Figure]] = {}
    failed = []
    for program in options.only:
        for database in options.databases:
            print(f"\n=== {program}, {DATABASES[database]}", flush=True)
            code, figures = run(program, database, PROGRAMS[program][options.quick].split())
            found.setdefault(database, []).extend(figures)
            if code:
                failed.append(f"{program} on {DATABASES[database]}")
    print(f"\n{platform.machine()}, Python {platform.python_version()}")
    names = [DATABASES[database] for database in found]
    table("All figures", ("work", "goal", *names, "met"), side_by_side(found), texts=2)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


def run(program: str, database: str, options: list[str]) -> tuple[int, list[Figure]]:
    """One program on one database: its exit code, and its figures."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-bench-") as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"benchmarks.{program}", "--database", database, "--figures", str(path)]
        return subprocess.run([*command, *options], check=False).returncode, read(path)


def side_by_side(found: dict[str, list[Figure]]) -> list[tuple[str, ...]]:
    """A row for each work, with a column for each database; `met` only where all of them meet the goal."""
    by_work: dict[str, dict[str, Figure]] = {}
    for database, figures in found.items():
        # Explanations bear the same name below several figures: the heading keeps them apart.
        heading = ""
        for figure in figures:
            heading = heading if figure.work.startswith(" ") else figure.work
            by_work.setdefault(f"{heading}\n{figure.work}", {})[database] = figure
    rows = []
    for named in by_work.values():
        figures = list(named.values())
        verdicts = {figure.met for figure in figures}
        met = verdict(None if verdicts == {None} else verdicts == {True})
        shown = [named[database].shown if database in named else "" for database in found]
        rows.append((figures[0].work, figures[0].goal, *shown, met))
    return rows


if __name__ == "__main__":
    sys.exit(main())
