"""Work as it goes: a live picture on a terminal, a line now and then elsewhere, or JSON.

Only the database is read, so a broker may come and go meanwhile; and the database may, for a while.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Generic, Protocol, TypeVar

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import InterfaceError, OperationalError

from orchestrator.cli.guard import REFUSED, complain, is_unmigrated
from orchestrator.cli.output import console, print_json_line

#: Seconds between two looks, and between two lines where there is no terminal.
INTERVAL = 0.5
LINE_INTERVAL = 10.0
#: The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130

AWAY = "the database does not answer; asking again"


class Ends(Protocol):
    """Whatever is known of a piece of work, and whether that is the last word."""

    @property
    def is_over(self) -> bool: ...


Details = TypeVar("Details", bound=Ends)


class Watched(ABC, Generic[Details]):
    """One piece of work, and how it is shown; whatever must be remembered from look to look, it keeps."""

    #: What it is called, and the command that watches it.
    noun: ClassVar[str]
    command: ClassVar[str]

    def __init__(self, work_id: str) -> None:
        self.work_id = work_id

    @abstractmethod
    def look(self) -> Details:
        """The work as it is now."""

    @abstractmethod
    def went_well(self, found: Details) -> bool:
        """Whether it ended as it should."""

    @abstractmethod
    def summary(self, found: Details) -> Text:
        """How it ended, in a line or two."""

    @abstractmethod
    def standing(self, found: Details) -> object:
        """What is worth a line as soon as it changes."""

    @abstractmethod
    def line(self, found: Details) -> Sequence[str]:
        """The parts of a line; empty ones are left out."""

    @abstractmethod
    def picture(self, found: Details) -> RenderableType:
        """What a terminal shows."""

    def news(self, found: Details) -> object:
        """What is worth a line of JSON as soon as it changes."""
        return found


class Screen(ABC, Generic[Details]):
    """Shows what a look found."""

    @abstractmethod
    def show(self, found: Details) -> None:
        """Show it, where there is anything new."""

    def notice(self, text: str) -> None:
        """Say why there is nothing to show."""
        complain(text)


def follow(watched: Watched[Details], *, as_json: bool = False) -> int:
    """Show the work until it ends; returns 0 if it went well and 1 if not.

    Ctrl-C ends the watching and not the work: then returns 130.

    Raises:
        NotFound: there is no such work.
    """
    try:
        with _screen(watched, as_json) as screen:
            found = _until_over(watched, screen)
    except KeyboardInterrupt:
        again = f"`orchestrator {watched.command} {watched.work_id}`"
        complain(f"the {watched.noun} goes on; look again with {again}")
        return INTERRUPTED
    if not as_json:
        console().print(watched.summary(found))
    return 0 if watched.went_well(found) else REFUSED


def bar_line(first: RenderableType, bar: ProgressBar, *rest: str) -> Table:
    """A bar as wide as the terminal allows, between what stands before and behind it."""
    line = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for ratio in (None, 1, *(None for _ in rest)):
        line.add_column(ratio=ratio, no_wrap=True)
    line.add_row(first, bar, *rest)
    return line


def _until_over(watched: Watched[Details], screen: Screen[Details]) -> Details:
    found = watched.look()
    while True:
        screen.show(found)
        if found.is_over:
            return found
        time.sleep(INTERVAL)
        found = _look_again(watched, screen)


def _look_again(watched: Watched[Details], screen: Screen[Details]) -> Details:
    """What the next look finds, however long the database is away."""
    while True:
        try:
            return watched.look()
        except (OperationalError, InterfaceError) as error:
            if is_unmigrated(error):
                raise
            screen.notice(AWAY)
            time.sleep(2 * INTERVAL)


@contextmanager
def _screen(watched: Watched[Details], as_json: bool) -> Iterator[Screen[Details]]:
    if as_json:
        yield JsonLines(watched)
    elif sys.stdout.isatty():
        with Live(console=console(), refresh_per_second=8, transient=False) as live:
            yield Picture(watched, live)
    else:
        yield Lines(watched)


class JsonLines(Screen[Details]):
    """A line of JSON whenever something changed."""

    def __init__(self, watched: Watched[Details]) -> None:
        self.watched = watched
        self.last: object = None

    def show(self, found: Details) -> None:
        news = self.watched.news(found)
        if news != self.last:
            print_json_line(found)
        self.last = news


class Lines(Screen[Details]):
    """A line when something of note changes, and now and then."""

    def __init__(self, watched: Watched[Details]) -> None:
        self.watched = watched
        self.due = 0.0
        self.last: object = None

    def show(self, found: Details) -> None:
        now, standing = time.monotonic(), self.watched.standing(found)
        if standing != self.last or now >= self.due:
            typer.echo("  ".join(filter(None, self.watched.line(found))))
            self.due = now + LINE_INTERVAL
        self.last = standing


class Picture(Screen[Details]):
    """The same place of the terminal, drawn again and again."""

    def __init__(self, watched: Watched[Details], live: Live) -> None:
        self.watched = watched
        self.live = live
        self.shown: RenderableType = ""

    def show(self, found: Details) -> None:
        self.shown = self.watched.picture(found)
        self.live.update(self.shown)

    def notice(self, text: str) -> None:
        self.live.update(Group(self.shown, Text(text, style="yellow")))
