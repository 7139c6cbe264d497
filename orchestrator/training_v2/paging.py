"""What listings have in common: limits, orders, instants, and which fields to fill."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from orchestrator.database import storable
from orchestrator.training_v2.exceptions import ValidationError

#: How many rows a listing returns unless told otherwise.
DEFAULT_LIMIT = 10
#: What a database counts with.
LARGEST = 2**63 - 1


def bounds(limit: int | None, offset: int | None, default: int = DEFAULT_LIMIT) -> tuple[int, int]:
    """The limit and offset of a listing, with their defaults.

    Raises:
        ValidationError: one of them is negative, or beyond counting.
    """
    chosen = default if limit is None else limit, offset or 0
    for name, value in zip(("limit", "offset"), chosen, strict=True):
        if not 0 <= value <= LARGEST:
            raise ValidationError(f"{name} is {value}: it must not be negative, and must fit into 64 bits")
    return chosen


def order(
    sort: Sequence[str] | None, columns: Mapping[str, InstrumentedAttribute[Any]], default: str
) -> list[ColumnElement[Any]]:
    """The order that `sort` names: each a field, perhaps followed by `:asc` or `:desc`.

    Raises:
        ValidationError: it names another field, or another direction.
    """
    found: list[ColumnElement[Any]] = []
    for text in sort or [default]:
        field, _, direction = text.partition(":")
        if field not in columns or direction not in ("", "asc", "desc"):
            choices = ", ".join(f"{name}:asc, {name}:desc" for name in columns)
            raise ValidationError(f"sort: {text!r} is none of {choices}")
        found.append(columns[field].desc() if direction == "desc" else columns[field].asc())
    return found


def check_choices(given: Collection[str] | None, allowed: Collection[str], what: str) -> None:
    """Refuse what is none of the documented words.

    Raises:
        ValidationError: names the culprits and the choices.
    """
    foreign = sorted(set(given or ()) - set(allowed))
    if foreign:
        raise ValidationError(f"{what}: {', '.join(map(repr, foreign))} is none of {', '.join(sorted(allowed))}")


def check_instants(**instants: datetime | None) -> None:
    """Refuse instants without a time zone, which nobody could compare with others.

    Raises:
        ValidationError: names the culprit.
    """
    for name, instant in instants.items():
        if instant is not None and instant.tzinfo is None:
            raise ValidationError(f"{name}: {instant.isoformat()} has no time zone: pass an aware datetime")


def countable(steps: Sequence[int]) -> list[int]:
    """Those of `steps` that can be steps: others are in no row, and would not fit into a statement."""
    return [step for step in steps if 0 <= step <= LARGEST]


def findable(values: Sequence[str] | None) -> list[str]:
    """Those of `values` that a database can look for: others are in no row."""
    return [value for value in values or () if storable(value) == value]
