"""The operators of metadata filters, as conditions on a column."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement
from sqlalchemy.orm import InstrumentedAttribute

from orchestrator.inference_store.models import MetadataFilterOperator as Operator

COMPARISONS: Final[dict[Operator, Callable[[Any, Any], Any]]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def compared(
    comparison: Operator, values: Sequence[str], column: ColumnElement[Any] | InstrumentedAttribute[Any]
) -> ColumnElement[bool]:
    """`column` beside the values: the only one, or, for `in`, all of them."""
    if comparison is Operator.IN:
        return column.in_(values)
    condition: ColumnElement[bool] = COMPARISONS[comparison](column, values[0])
    return condition
