"""A bulk inference job as it runs: what `watch` shows of one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.text import Text

from orchestrator.bulk_inference.job import get_bulk_inference_details
from orchestrator.bulk_inference.models import JobDetails, ProgressState
from orchestrator.cli.output import counted, state
from orchestrator.cli.pace import Pace
from orchestrator.cli.watch import Watched, bar_line


class WatchedJob(Watched[JobDetails]):
    """State, bar, counts, rate and time left; below, what else there is to say."""

    noun = "job"
    command = "bulk-inference watch"

    def __init__(self, work_id: str) -> None:
        super().__init__(work_id)
        self.pace = Pace()

    def look(self) -> JobDetails:
        job = get_bulk_inference_details(self.work_id)
        self.pace.look(time.monotonic(), job.num_computed + job.num_failed)
        return job

    def went_well(self, found: JobDetails) -> bool:
        return found.status is ProgressState.SUCCEEDED

    def summary(self, found: JobDetails) -> Text:
        text = Text.assemble(
            state(found.status.value), f": {counted(found.num_computed, 'inference')}, {found.num_failed} failed"
        )
        if found.started_at is not None and found.finished_at is not None:
            seconds = (found.finished_at - found.started_at).total_seconds()
            text.append(f", in {seconds:,.1f} s ({found.num_computed / max(seconds, 0.001):,.0f}/s)")
        if found.reason:
            text.append(f"\n{found.reason}")
        if found.num_failed:
            text.append(f"\n`orchestrator bulk-inference failures {found.job_id}` lists what failed", style="dim")
        return text

    def standing(self, found: JobDetails) -> object:
        return found.status, found.paused, found.reason

    def line(self, found: JobDetails) -> Sequence[str]:
        return found.status.value, _counts(found), self._speed(found), _remarks(found)

    def picture(self, found: JobDetails) -> Group:
        total = found.expected_total
        done = found.num_computed + found.num_failed
        bar = ProgressBar(total=total or 1, completed=done, pulse=total is None and not found.is_over)
        line = bar_line(state(found.status.value), bar, _counts(found), self._speed(found))
        return Group(line, Text(_remarks(found), style="dim"))

    def _speed(self, job: JobDetails) -> str:
        if job.is_over or job.expected_total is None or self.pace.rate is None:
            return ""
        left = self.pace.remaining(job.expected_total - job.num_computed - job.num_failed)
        return f"{self.pace.rate:,.0f}/s" + (f"  ETA {timedelta(seconds=round(left.total_seconds()))}" if left else "")


def _counts(job: JobDetails) -> str:
    if job.expected_total is None:
        return "counting datums"
    done = job.num_computed + job.num_failed
    share = f"  {done / job.expected_total:.0%}" if job.expected_total else ""
    return f"{done:,}/{job.expected_total:,}{share}"


def _remarks(job: JobDetails) -> str:
    remarks = [f"{job.num_failed} failed", f"{job.in_flight} in flight"]
    if job.paused:
        remarks.append("paused")
    if job.reason and not job.is_over:
        remarks.append(job.reason)
    return " · ".join(remarks)
