"""An export as it runs, what `watch` shows of one; and the bar of its download."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import console, counted, state
from orchestrator.cli.pace import Pace
from orchestrator.cli.watch import Watched, bar_line
from orchestrator.inference_store.export_task import get_export_details
from orchestrator.inference_store.exports.models import ExportDetails, ExportTaskState


class WatchedExport(Watched[ExportDetails]):
    """State, bar, members, and bytes with their rate."""

    noun = "task"
    command = "export watch"

    def __init__(self, work_id: str) -> None:
        super().__init__(work_id)
        self.pace = Pace()

    def look(self) -> ExportDetails:
        task = get_export_details(self.work_id)
        self.pace.look(time.monotonic(), task.written_bytes)
        return task

    def went_well(self, found: ExportDetails) -> bool:
        return found.state is ExportTaskState.COMPLETE

    def summary(self, found: ExportDetails) -> Text:
        return summary(found)

    def standing(self, found: ExportDetails) -> object:
        return found.state, found.reason

    def line(self, found: ExportDetails) -> Sequence[str]:
        return found.state.value, counts(found), self._bytes(found), "" if found.is_over else found.reason

    def picture(self, found: ExportDetails) -> Table:
        expected = found.expected_count
        bar = ProgressBar(total=expected or 1, completed=found.progress_count, pulse=not expected)
        return bar_line(state(found.state.value), bar, counts(found), self._bytes(found))

    def _bytes(self, task: ExportDetails) -> str:
        rate = f"  {decimal(int(self.pace.rate))}/s" if self.pace.rate and not task.is_over else ""
        return f"{decimal(task.written_bytes)}{rate}"


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
