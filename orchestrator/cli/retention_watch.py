"""A retention task as it runs: what `watch` shows of one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output import counted, state
from orchestrator.cli.pace import Pace
from orchestrator.cli.watch import Watched, bar_line
from orchestrator.inference_store.retention.models import RetentionDetails, TaskState
from orchestrator.inference_store.retention.tasks import find_task


class WatchedRetention(Watched[RetentionDetails]):
    """State, bar, records and blobs, and how fast they go."""

    noun = "task"
    command = "retention watch"

    def __init__(self, work_id: str) -> None:
        super().__init__(work_id)
        self.pace = Pace()

    def look(self) -> RetentionDetails:
        task = find_task(self.work_id)
        self.pace.look(time.monotonic(), task.deleted_record_count + task.stripped_count)
        return task

    def went_well(self, found: RetentionDetails) -> bool:
        return found.state is TaskState.COMPLETE

    def summary(self, found: RetentionDetails) -> Text:
        return summary(found)

    def standing(self, found: RetentionDetails) -> object:
        return found.state

    def line(self, found: RetentionDetails) -> Sequence[str]:
        return found.state.value, _counts(found), self._speed(found)

    def picture(self, found: RetentionDetails) -> Table:
        total, count = found.total_record_count, found.deleted_record_count
        bar = ProgressBar(total=total or 1, completed=count, pulse=not total and not found.is_over)
        return bar_line(state(found.state), bar, _counts(found), self._speed(found))

    def _speed(self, task: RetentionDetails) -> str:
        return "" if task.is_over or not self.pace.rate else f"{self.pace.rate:,.0f}/s"


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


def _counts(task: RetentionDetails) -> str:
    records, blobs = deleted(task)
    return f"{records} records  {blobs} blobs"
