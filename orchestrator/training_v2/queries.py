"""Named selects of training: each says in one line which rows it finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from orchestrator.database import ilike
from orchestrator.training_v2.paging import findable
from orchestrator.training_v2.tables import RunRow


def runs(
    equal: Mapping[InstrumentedAttribute[str], Sequence[str] | None],
    patterns: Sequence[str] | None,
    created_after: datetime | None,
    created_before: datetime | None,
    id_after: str | None,
) -> Select[RunRow]:
    """Runs that nobody has deleted, whose columns have one of the given values and whose name matches a pattern."""
    statement = select(RunRow).where(RunRow.deleted_at.is_(None))
    for column, values in equal.items():
        if values is not None:
            statement = statement.where(column.in_(findable(values)))
    if patterns is not None:
        statement = statement.where(or_(False, *(ilike(RunRow.name, pattern) for pattern in patterns)))
    if created_after is not None:
        statement = statement.where(RunRow.created_at > created_after)
    if created_before is not None:
        statement = statement.where(RunRow.created_at < created_before)
    if id_after is not None:
        # No id holds what a database cannot look for: such a text stands for its beginning.
        statement = statement.where(RunRow.id > (findable([id_after]) or [""])[0])
    return statement
