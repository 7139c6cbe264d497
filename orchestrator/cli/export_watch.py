"""An export as it runs, and its download: a live bar on a terminal, a line now and then elsewhere, or JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.filesize import decimal
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import InterfaceError, OperationalError

from orchestrator.cli.guard import REFUSED, complain, is_unmigrated
from orchestrator.cli.output import console, counted, print_json_line, state
from orchestrator.cli.pace import Pace
from orchestrator.inference_store.export_task import get_export_details
from orchestrator.inference_store.exports.models import ExportDetails, ExportTaskState

#: Seconds between two looks, and between two lines where there is no terminal.
INTERVAL = 0.5
LINE_INTERVAL = 10.0
#: The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130

Show = Callable[[ExportDetails, Pace], None]


def watch(task_id: str, *, as_json: bool = False) -> int:
    """Show the task until it ends; returns 0 if it is complete and 1 if not.

    Ctrl-C ends the watching and not the task: then returns 130.

    Raises:
        JobNotFound: there is no such task.
    """
    try:
        task = _watch(task_id, as_json)
    except KeyboardInterrupt:
        complain(f"the task goes on; look again with `orchestrator export watch {task_id}`")
        return INTERRUPTED
    if not as_json:
        console().print(summary(task))
    return 0 if task.state is ExportTaskState.COMPLETE else REFUSED


def summary(task: ExportDetails) -> Text:
    """How the task ended, in a line or two."""
    text = Text.assemble(state(task.state.value), f": {counted(task.progress_count, 'inference')}")
    if task.archive is not None:
        text.append(f", {decimal(task.archive.size)}")
        if task.started_at is not None and task.finished_at is not None:
            seconds = (task.finished_at - task.started_at).total_seconds()
            text.append(f", in {seconds:,.1f} s ({decimal(int(task.archive.size / max(seconds, 0.001)))}/s)")
        text.append(f"\n`orchestrator export download {task.task_id}` fetches it", style="dim")
    if task.reason:
        text.append(f"\n{task.reason}")
    return text


def counts(task: ExportDetails) -> str:
    """Members that are in the archive, against those of the set."""
    return f"{task.progress_count:,}/{'?' if task.expected_count is None else format(task.expected_count, ',')}"


@contextmanager
def downloading(size: int, *, is_quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar for a download of `size` bytes; call what this yields with the bytes that are here."""
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(), disable=is_quiet or not sys.stdout.isatty()) as progress:
        bar = progress.add_task("", total=size)
        yield lambda here: progress.update(bar, completed=here)


def _watch(task_id: str, as_json: bool) -> ExportDetails:
    if as_json:
        return _follow(task_id, JsonLines().show)
    if sys.stdout.isatty():
        with Live(console=console(), refresh_per_second=8) as live:
            return _follow(task_id, lambda task, pace: live.update(_bar(task, pace)))
    return _follow(task_id, Lines().show)


def _follow(task_id: str, show: Show) -> ExportDetails:
    pace = Pace()
    task = get_export_details(task_id)
    while True:
        pace.look(time.monotonic(), task.written_bytes)
        show(task, pace)
        if task.is_over:
            return task
        time.sleep(INTERVAL)
        task = _look_again(task)


def _look_again(task: ExportDetails) -> ExportDetails:
    """The task now, or as it was when the database is away."""
    try:
        return get_export_details(task.task_id)
    except (OperationalError, InterfaceError) as error:
        if is_unmigrated(error):
            raise
        return task


def _bar(task: ExportDetails, pace: Pace) -> Table:
    line = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for ratio in (None, 1, None, None):
        line.add_column(ratio=ratio, no_wrap=True)
    bar = ProgressBar(total=task.expected_count or 1, completed=task.progress_count, pulse=not task.expected_count)
    line.add_row(state(task.state.value), bar, counts(task), _bytes(task, pace))
    return line


def _bytes(task: ExportDetails, pace: Pace) -> str:
    rate = f"  {decimal(int(pace.rate))}/s" if pace.rate and not task.is_over else ""
    return f"{decimal(task.written_bytes)}{rate}"


class JsonLines:
    """A line of JSON whenever something changed."""

    def __init__(self) -> None:
        self.last: ExportDetails | None = None

    def show(self, task: ExportDetails, pace: Pace) -> None:  # noqa: ARG002  every screen is told the same
        if task != self.last:
            print_json_line(task)
        self.last = task


class Lines:
    """A line when the task's state changes, and now and then."""

    def __init__(self) -> None:
        self.due = 0.0
        self.last: tuple[str, str] | None = None

    def show(self, task: ExportDetails, pace: Pace) -> None:
        now = time.monotonic()
        standing = task.state.value, task.reason
        if standing != self.last or now >= self.due:
            parts = task.state.value, counts(task), _bytes(task, pace), "" if task.is_over else task.reason
            typer.echo("  ".join(filter(None, parts)))
            self.due = now + LINE_INTERVAL
        self.last = standing
