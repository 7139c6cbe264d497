"""Lengths of time and instants, as a person types them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import typer

UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "min": "minutes", "s": "seconds"}
_PART = re.compile(r"(\d+)\s*(min|[wdhms])\s*")


def parse_span(text: str) -> timedelta:
    """A length of time: `90s`, `15m`, `1h30m`, `2d`, `1w`; `0` for none.

    Raises:
        BadParameter: it is none.
    """
    wanted = text.strip().lower()
    if wanted == "0":
        return timedelta()
    if not wanted or _PART.sub("", wanted):
        raise typer.BadParameter(f"{text!r} is no length of time such as 90s, 15m, 1h30m or 2d")
    try:
        return sum((timedelta(**{UNITS[unit]: int(count)}) for count, unit in _PART.findall(wanted)), timedelta())
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is too long") from error


def show_span(length: timedelta) -> str:
    """As `parse_span` reads it."""
    seconds, shown = int(length.total_seconds()), ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")):
        shown += f"{seconds // size}{unit}" if seconds >= size else ""
        seconds %= size
    return shown or "0"


def parse_instant(text: str, zone: ZoneInfo) -> datetime:
    """An ISO 8601 instant; without an offset it is what a clock in `zone` shows.

    Raises:
        BadParameter: it is none.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no instant such as 2027-01-31T06:00 or 2027-01-31T06:00:00Z") from error
    return instant.replace(tzinfo=zone) if instant.tzinfo is None else instant
