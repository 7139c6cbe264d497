"""What commands print: tables for a person, one JSON document for a program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from pydantic import BaseModel
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from orchestrator import clock

#: Columns of what is piped into another program, which has no edge to break lines at.
PIPED_WIDTH = 200

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many to show at most.")]
ProjectOption = Annotated[
    str | None, typer.Option("--project", "-p", help="Name or id; may be left out where there is only one.")
]

#: How states look, of jobs and of units.
STYLES = {
    "succeeded": "green",
    "done": "green",
    "complete": "green",
    "running": "cyan",
    "leased": "cyan",
    "running_failed": "yellow",
    "failed": "red",
    "dead": "red",
    "aborted": "magenta",
    "cancelled": "magenta",
    "job_completed": "green",
    "job_running": "cyan",
    "job_pending": "yellow",
    "job_unknown": "yellow",
    "job_failed": "red",
    "job_create_failed": "red",
    "job_terminated": "magenta",
}


def console() -> Console:
    """A console on the present stdout, which shows every text as it is: names and paths may hold brackets."""
    fixed = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=fixed)


def print_json(value: Any) -> None:
    """Print `value` as one indented JSON document."""
    sys.stdout.write(orjson.dumps(value, default=plain, option=orjson.OPT_INDENT_2).decode() + "\n")


def print_json_line(value: Any) -> None:
    """Print `value` as one line of JSON, at once."""
    sys.stdout.write(orjson.dumps(value, default=plain).decode() + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """What JSON makes of a value that it does not know."""
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case timedelta():
            return value.total_seconds()
        case Path():
            return readable(str(value))
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def readable(name: str) -> str:
    """A file's name with backslash escapes for what is not UTF-8: neither JSON nor a terminal takes such bytes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str | Text]], *, empty: str) -> None:
    """Print rows under their headings, or `empty` when there are none.

    A heading that ends in `#` is that of a column of numbers.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, heading in enumerate(columns):
        # The first column identifies the row: broken or cut short it would be of no use.
        justify: JustifyMethod = "right" if heading.endswith("#") else "left"
        table.add_column(heading.removesuffix("#"), justify=justify, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    if table.row_count:
        console().print(table)
    else:
        console().print(Text(empty, style="dim"))


def print_facts(title: str | Text, facts: Iterable[tuple[str, str | Text]]) -> None:
    """Print a title, and below it what is known, a line each; empty values are left out."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value:
            table.add_row(f"  {name}", Text(value) if isinstance(value, str) else value)
    console().print(Text(title, style="bold") if isinstance(title, str) else title, table, sep="\n")


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=STYLES.get(name, ""))


def ago(instant: datetime | None) -> str:
    """How long ago, in a word; empty for never."""
    return "" if instant is None else span(clock.now() - instant)


def span(length: timedelta) -> str:
    """A length of time, in its largest unit."""
    seconds = max(0, int(length.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def moment(instant: datetime | None) -> str:
    """An instant in local time, and how long ago it was; empty for never."""
    return "" if instant is None else f"{instant.astimezone():%Y-%m-%d %H:%M:%S} ({ago(instant)} ago)"


def counted(count: int, noun: str) -> str:
    """`1 datum`, `2 datums`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
