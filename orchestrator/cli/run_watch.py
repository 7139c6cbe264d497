"""A training run as it goes: live bars and a drawn metric on a terminal, lines elsewhere, or JSON.

Only the database is read; it may be away for a while.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import InterfaceError, OperationalError

from orchestrator.cli.guard import REFUSED, complain, is_unmigrated
from orchestrator.cli.output import console, print_json_line, span, state
from orchestrator.cli.watch import AWAY, INTERRUPTED, INTERVAL, LINE_INTERVAL
from orchestrator.training_v2 import Metric, RunState
from orchestrator.training_v2.details import RunDetails, get_run_details
from orchestrator.training_v2.metrics import find_metrics

#: Metrics that are drawn, and the characters of the drawing, from low to high.
POINTS = 60
BARS = "▁▂▃▄▅▆▇█"


class Screen(Protocol):
    """Shows what a look at the run found."""

    def show(self, run: RunDetails, series: Sequence[Metric]) -> None: ...

    def notice(self, text: str) -> None: ...


def watch(run_id: str, *, tag: str | None = None, as_json: bool = False) -> int:
    """Show the run until it ends; returns 0 if it completed and 1 if not.

    Ctrl-C ends the watching and not the run: then returns 130.

    Raises:
        RunDoesNotExistError: there is no such run.
    """
    try:
        with _screen(as_json) as screen:
            run = _follow(run_id, tag, screen)
    except KeyboardInterrupt:
        complain(f"the run goes on; look again with `orchestrator run watch {run_id}`")
        return INTERRUPTED
    if not as_json:
        console().print(summary(run))
    return 0 if run.status is RunState.JOB_COMPLETED else REFUSED


def summary(run: RunDetails) -> Text:
    """How the run ended, in a line or two."""
    text = Text.assemble(state(run.status.value))
    if run.finished_at is not None:
        text.append(f" after {span(run.finished_at - run.created_at)}, in launch {run.launch}")
    if run.reason:
        text.append(f"\n{run.reason}")
    if run.status is not RunState.JOB_COMPLETED:
        text.append(f"\n`orchestrator run logs {run.run_id}` shows what it printed", style="dim")
    return text


def sparkline(values: Sequence[float]) -> str:
    """The values as a row of bars, the lowest and the highest filling the height."""
    if not values:
        return ""
    # Halves: the distance between two numbers may be more than a number can be.
    low, high = min(values) / 2, max(values) / 2
    height = (high - low) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((value / 2 - low) / height * len(BARS)))] for value in values)


def _follow(run_id: str, tag: str | None, screen: Screen) -> RunDetails:
    while True:
        try:
            run = get_run_details(run_id)
            screen.show(run, _series(run_id, tag))
        except (OperationalError, InterfaceError) as error:
            if is_unmigrated(error):
                raise
            screen.notice(AWAY)
            time.sleep(2 * INTERVAL)
            continue
        if run.is_over:
            return run
        time.sleep(INTERVAL)


def _series(run_id: str, tag: str | None) -> list[Metric]:
    """The newest metrics of a tag, oldest first; of the tag that was measured last, if none is named."""
    if tag is None:
        newest = find_metrics(run_id, limit=1)
        if not newest:
            return []
        tag = newest[0].tag
    return find_metrics(run_id, tags=[tag], limit=POINTS)[::-1]


@contextmanager
def _screen(as_json: bool) -> Iterator[Screen]:
    if as_json:
        yield JsonLines()
    elif sys.stdout.isatty():
        with Live(console=console(), refresh_per_second=8, transient=False) as live:
            yield Bars(live)
    else:
        yield Lines()


class JsonLines:
    """A line of JSON whenever something changed."""

    def __init__(self) -> None:
        self.last: RunDetails | None = None

    def show(self, run: RunDetails, series: Sequence[Metric]) -> None:  # noqa: ARG002  every screen is told the same
        now = run.model_copy(update={"heartbeat_at": None})
        if now != self.last:
            print_json_line(run)
        self.last = now

    def notice(self, text: str) -> None:
        complain(text)


class Lines:
    """A line when the run's status changes, and now and then."""

    def __init__(self) -> None:
        self.due = 0.0
        self.last: tuple[str, str] | None = None

    def show(self, run: RunDetails, series: Sequence[Metric]) -> None:
        now, standing = time.monotonic(), (run.status.value, run.reason)
        if standing != self.last or now >= self.due:
            done = [f"{each.operation} {each.value:g}/{each.final_value:g} {each.units}" for each in run.progress]
            typer.echo("  ".join(filter(None, (run.status.value, run.reason, *done, _newest(series)))))
            self.due = now + LINE_INTERVAL
        self.last = standing

    def notice(self, text: str) -> None:
        complain(text)


class Bars:
    """Status, a bar for each operation, and below them a metric."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.shown: Group | None = None

    def show(self, run: RunDetails, series: Sequence[Metric]) -> None:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for ratio in (None, 1, None):
            table.add_column(ratio=ratio, no_wrap=True)
        for each in run.progress:
            bar = ProgressBar(total=each.final_value or 1, completed=each.value)
            table.add_row(each.operation, bar, f"{each.value:g}/{each.final_value:g} {each.units}")
        drawn = Text.assemble((sparkline([metric.value for metric in series]), "cyan"), "  ", _newest(series))
        heading = Text.assemble(state(run.status.value), ("  " + run.reason, "dim"))
        self.shown = Group(heading, table, drawn)
        self.live.update(self.shown)

    def notice(self, text: str) -> None:
        self.live.update(Group(self.shown or "", Text(text, style="yellow")))


def _newest(series: Sequence[Metric]) -> str:
    if not series:
        return ""
    return f"{series[-1].tag} {series[-1].value:.5g} at step {series[-1].global_step}"
