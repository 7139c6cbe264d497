"""A retention task as it runs: a live bar on a terminal, a line now and then elsewhere, or JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import typer
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.guard import REFUSED, complain
from orchestrator.cli.output import console, counted, print_json_line, state
from orchestrator.cli.pace import Pace
from orchestrator.inference_store.retention.models import RetentionDetails, TaskState
from orchestrator.inference_store.retention.tasks import find_task

#: Seconds between two looks, and between two lines where there is no terminal.
INTERVAL = 0.5
LINE_INTERVAL = 10.0
#: The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130

Show = Callable[[RetentionDetails, Pace], None]


def watch(task_id: str, *, as_json: bool = False) -> int:
    """Show the task until it ends; returns 0 if it is complete and 1 if not.

    Ctrl-C ends the watching and not the task: then returns 130.

    Raises:
        NotFound: there is no such task.
    """
    try:
        task = _watch(task_id, as_json)
    except KeyboardInterrupt:
        complain(f"the task goes on; look again with `orchestrator retention watch {task_id}`")
        return INTERRUPTED
    if not as_json:
        console().print(summary(task))
    return 0 if task.state is TaskState.COMPLETE else REFUSED


def summary(task: RetentionDetails) -> Text:
    """How the task ended, in a line or two."""
    records, blobs = task.deleted_record_count, task.deleted_blob_count
    if task.dry_run:
        records, blobs = task.total_record_count or 0, task.total_blob_count or 0
    done = "to delete" if task.dry_run else "deleted"
    text = Text.assemble(state(task.state), f": {counted(records, 'record')} and {counted(blobs, 'blob')} {done}")
    if task.reason:
        text.append(f"\n{task.reason}")
    if task.manifest:
        text.append(f"\n`orchestrator retention run --model {task.model_id} --manifest {task.manifest}` deletes them")
    return text


def deleted(task: RetentionDetails) -> tuple[str, str]:
    """Records and blobs, those that are gone against those that are to go."""
    pairs = (
        (task.deleted_record_count, task.total_record_count),
        (task.deleted_blob_count, task.total_blob_count),
    )
    records, blobs = (f"{done:,}/{'?' if total is None else format(total, ',')}" for done, total in pairs)
    return records, blobs


def _watch(task_id: str, as_json: bool) -> RetentionDetails:
    if as_json:
        return _follow(task_id, JsonLines().show)
    if sys.stdout.isatty():
        with Live(console=console(), refresh_per_second=8) as live:
            return _follow(task_id, lambda task, pace: live.update(_bar(task, pace)))
    return _follow(task_id, Lines().show)


def _follow(task_id: str, show: Show) -> RetentionDetails:
    pace = Pace()
    while True:
        task = find_task(task_id)
        pace.look(time.monotonic(), task.deleted_record_count + task.stripped_count)
        show(task, pace)
        if task.is_over:
            return task
        time.sleep(INTERVAL)


def _bar(task: RetentionDetails, pace: Pace) -> Table:
    line = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for ratio in (None, 1, None, None):
        line.add_column(ratio=ratio, no_wrap=True)
    total, count = task.total_record_count, task.deleted_record_count
    bar = ProgressBar(total=total or 1, completed=count, pulse=not total and not task.is_over)
    line.add_row(state(task.state), bar, _counts(task), _speed(task, pace))
    return line


def _counts(task: RetentionDetails) -> str:
    records, blobs = deleted(task)
    return f"{records} records  {blobs} blobs"


def _speed(task: RetentionDetails, pace: Pace) -> str:
    return "" if task.is_over or not pace.rate else f"{pace.rate:,.0f}/s"


class JsonLines:
    """A line of JSON whenever something changed."""

    def __init__(self) -> None:
        self.last: RetentionDetails | None = None

    def show(self, task: RetentionDetails, pace: Pace) -> None:  # noqa: ARG002  every screen is told the same
        if task != self.last:
            print_json_line(task)
        self.last = task


class Lines:
    """A line when the task's state changes, and now and then."""

    def __init__(self) -> None:
        self.due = 0.0
        self.last: str | None = None

    def show(self, task: RetentionDetails, pace: Pace) -> None:
        now = time.monotonic()
        if task.state != self.last or now >= self.due:
            typer.echo("  ".join(filter(None, (task.state.value, _counts(task), _speed(task, pace)))))
            self.due = now + LINE_INTERVAL
        self.last = task.state
