"""What a benchmark found, beside what was asked for."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.stage import table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value: `met` says whether it reaches the goal, None that there is no goal."""

    work: str
    goal: str
    shown: str
    met: bool | None


def at_least(work: str, value: float, goal: float, unit: str = "") -> Figure:
    """A figure that should not be smaller than `goal`."""
    return Figure(work, f">= {goal:g}{unit}", f"{value:.2f}{unit}", value >= goal)


def at_most(work: str, value: float, goal: float, unit: str = "") -> Figure:
    """A figure that should not be larger than `goal`."""
    return Figure(work, f"<= {goal:g}{unit}", f"{in_digits(value)}{unit}", value <= goal)


def in_digits(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def without_goal(work: str, shown: str) -> Figure:
    """A figure without a goal, to explain one that has."""
    return Figure(work, "", shown, None)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--database", choices=["sqlite", "postgres"], default="postgres")
    made.add_argument("--figures", type=Path, help="also write the figures there, as JSON, for `python -m benchmarks`")
    return made


def report(measure: Callable[[argparse.Namespace], Sequence[Figure]], options: argparse.Namespace) -> None:
    """Measure, print the figures, and write them to a file where one is asked for."""
    figures = measure(options)
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.database}")
    table("Measured", ("work", "goal", "measured", "met"), [cells(figure) for figure in figures], texts=2)
    write(figures, options.figures)


def cells(figure: Figure) -> tuple[str, str, str, str]:
    """The figure as a row of a table."""
    return figure.work, figure.goal, figure.shown, verdict(figure.met)


def verdict(met: bool | None) -> str:
    """In one word."""
    return "" if met is None else "yes" if met else "no"


def write(figures: Sequence[Figure], path: Path | None) -> None:
    """Leave the figures for another process."""
    if path is not None:
        path.write_text(json.dumps([asdict(figure) for figure in figures]), encoding="utf-8")


def read(path: Path) -> list[Figure]:
    """What `write` left, or nothing if that process ended before."""
    return [Figure(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
