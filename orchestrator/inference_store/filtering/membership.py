"""Conditions on rows of other tables, said in the two ways between which a database does not choose well by itself."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, or_, union_all

from orchestrator.inference_store.tables import InferenceRow


class Way(Enum):
    """How to look for what meets a condition."""

    LISTED = auto()  #: find all that do, then what else is asked of them: right for few, and for whoever wants all
    ROW_BY_ROW = auto()  #: ask each row: right for the first of very many


class Source(NamedTuple):
    """A select of inferences' ids from rows of `row`, which has `model_id` and `inference_id`."""

    select: Select[Any]
    row: Any


def is_among(way: Way, *sources: Source) -> ColumnElement[bool]:
    """Whether one of the sources names an `InferenceRow`."""
    if way is Way.LISTED:
        # One list of all: PostgreSQL takes no index for one list or another.
        return InferenceRow.inference_id.in_(
            union_all(*(source.select.with_only_columns(source.row.inference_id) for source in sources))
        )
    return or_(*(_names(source).exists() for source in sources))


def _names(source: Source) -> Select[Any]:
    row = source.row
    return source.select.where(row.model_id == InferenceRow.model_id, row.inference_id == InferenceRow.inference_id)
