"""What a filter may say, checked before a database sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from orchestrator.database import storable
from orchestrator.errors import InvalidRequest

#: Values of a list that a filter may name.
MOST_VALUES: Final = 10_000


def text_of(name: str, value: str) -> str:
    """A text that a database can look for.

    Raises:
        InvalidRequest: it holds NUL or half a character, which nothing that is stored does.
    """
    if storable(value) != value:
        raise InvalidRequest(f"{name}: {value[:80]!r} holds characters that nothing stored has")
    return value


def texts_of(name: str, values: Sequence[str]) -> list[str]:
    """Texts that a database can look for.

    Raises:
        InvalidRequest: one of them is none, or there are more than `MOST_VALUES`.
    """
    if len(values) > MOST_VALUES:
        raise InvalidRequest(f"{name}: {len(values)} values are more than a filter takes, which is {MOST_VALUES}")
    return [text_of(name, value) for value in values]


def finite(name: str, value: float) -> float:
    """A number.

    Raises:
        InvalidRequest: it is NaN or infinite.
    """
    if not math.isfinite(value):
        raise InvalidRequest(f"{name} is {value}: it must be a finite number")
    return value


def within(name: str, value: float, bound: float) -> float:
    """A number between `-bound` and `bound`.

    Raises:
        InvalidRequest: it is not.
    """
    if not abs(value) <= bound:
        raise InvalidRequest(f"{name} is {value}: it must lie between -{bound:g} and {bound:g}")
    return value


def instant(name: str, value: str) -> datetime:
    """The instant that `YYYY-MM-DDTHH:MM:SSZ` says, perhaps with a fraction of a second or another offset from UTC.

    Raises:
        InvalidRequest: it says none, or leaves open in which time zone.
    """
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest(f"{name}: {value[:80]!r} is no time such as 2024-01-31T23:59:59Z")
