"""A job as it runs: a live bar on a terminal, a line now and then elsewhere, or JSON.

Only the database is read, so a broker may come and go meanwhile; and the database may, for a while.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import InterfaceError, OperationalError

from orchestrator.bulk_inference.job import get_bulk_inference_details
from orchestrator.bulk_inference.models import JobDetails, ProgressState
from orchestrator.cli.guard import REFUSED, complain, is_unmigrated
from orchestrator.cli.output import console, counted, print_json_line, state
from orchestrator.cli.pace import Pace

#: Seconds between two looks, and between two lines where there is no terminal.
INTERVAL = 0.5
LINE_INTERVAL = 10.0
#: The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130

AWAY = "the database does not answer; asking again"


class Screen(Protocol):
    """Shows what a look at the job found."""

    def show(self, job: JobDetails, pace: Pace) -> None: ...

    def notice(self, text: str) -> None: ...


def watch(job_id: str, *, as_json: bool = False) -> int:
    """Show the job until it ends; returns 0 if it succeeded and 1 if not.

    Ctrl-C ends the watching and not the job: then returns 130.

    Raises:
        JobNotFound: no bulk inference job has this id.
    """
    try:
        with _screen(as_json) as screen:
            job = _follow(job_id, screen)
    except KeyboardInterrupt:
        complain(f"the job goes on; look again with `orchestrator bulk-inference watch {job_id}`")
        return INTERRUPTED
    if not as_json:
        console().print(summary(job))
    return 0 if job.status is ProgressState.SUCCEEDED else REFUSED


def summary(job: JobDetails) -> Text:
    """How the job ended, in a line or two."""
    text = Text.assemble(
        state(job.status.value), f": {counted(job.num_computed, 'inference')}, {job.num_failed} failed"
    )
    if job.started_at is not None and job.finished_at is not None:
        seconds = (job.finished_at - job.started_at).total_seconds()
        text.append(f", in {seconds:,.1f} s ({job.num_computed / max(seconds, 0.001):,.0f}/s)")
    if job.reason:
        text.append(f"\n{job.reason}")
    if job.num_failed:
        text.append(f"\n`orchestrator bulk-inference failures {job.job_id}` lists what failed", style="dim")
    return text


def _follow(job_id: str, screen: Screen) -> JobDetails:
    pace = Pace()
    job = get_bulk_inference_details(job_id)
    while True:
        pace.look(time.monotonic(), job.num_computed + job.num_failed)
        screen.show(job, pace)
        if job.is_over:
            return job
        time.sleep(INTERVAL)
        job = _look_again(job_id, screen)


def _look_again(job_id: str, screen: Screen) -> JobDetails:
    """The job's details, however long the database is away."""
    while True:
        try:
            return get_bulk_inference_details(job_id)
        except (OperationalError, InterfaceError) as error:
            if is_unmigrated(error):
                raise
            screen.notice(AWAY)
            time.sleep(2 * INTERVAL)


@contextmanager
def _screen(as_json: bool) -> Iterator[Screen]:
    if as_json:
        yield JsonLines()
    elif sys.stdout.isatty():
        with Live(console=console(), refresh_per_second=8, transient=False) as live:
            yield Bar(live)
    else:
        yield Lines()


class JsonLines:
    """A line of JSON whenever something changed."""

    def __init__(self) -> None:
        self.last: JobDetails | None = None

    def show(self, job: JobDetails, pace: Pace) -> None:  # noqa: ARG002  every screen is told the same
        if job != self.last:
            print_json_line(job)
        self.last = job

    def notice(self, text: str) -> None:
        complain(text)


class Lines:
    """A line when the job's state changes, and now and then."""

    def __init__(self) -> None:
        self.due = 0.0
        self.last: tuple[str, bool, str] | None = None

    def show(self, job: JobDetails, pace: Pace) -> None:
        now = time.monotonic()
        standing = (job.status.value, job.paused, job.reason)
        if standing != self.last or now >= self.due:
            parts = (job.status.value, _counts(job), _speed(job, pace), _remarks(job))
            typer.echo("  ".join(filter(None, parts)))
            self.due = now + LINE_INTERVAL
        self.last = standing

    def notice(self, text: str) -> None:
        complain(text)


class Bar:
    """Two live lines: state, bar, counts, rate and time left; below, what else there is to say."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.line: Table | None = None

    def show(self, job: JobDetails, pace: Pace) -> None:
        self.line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for ratio in (None, 1, None, None):
            self.line.add_column(ratio=ratio, no_wrap=True)
        total = job.expected_total
        done = job.num_computed + job.num_failed
        bar = ProgressBar(total=total or 1, completed=done, pulse=total is None and not job.is_over)
        self.line.add_row(state(job.status.value), bar, _counts(job), _speed(job, pace))
        self.live.update(Group(self.line, Text(_remarks(job), style="dim")))

    def notice(self, text: str) -> None:
        self.live.update(Group(self.line or "", Text(text, style="yellow")))


def _counts(job: JobDetails) -> str:
    if job.expected_total is None:
        return "counting datums"
    done = job.num_computed + job.num_failed
    share = f"  {done / job.expected_total:.0%}" if job.expected_total else ""
    return f"{done:,}/{job.expected_total:,}{share}"


def _speed(job: JobDetails, pace: Pace) -> str:
    if job.is_over or job.expected_total is None or pace.rate is None:
        return ""
    left = pace.remaining(job.expected_total - job.num_computed - job.num_failed)
    return f"{pace.rate:,.0f}/s" + (f"  ETA {timedelta(seconds=round(left.total_seconds()))}" if left else "")


def _remarks(job: JobDetails) -> str:
    remarks = [f"{job.num_failed} failed", f"{job.in_flight} in flight"]
    if job.paused:
        remarks.append("paused")
    if job.reason and not job.is_over:
        remarks.append(job.reason)
    return " · ".join(remarks)
