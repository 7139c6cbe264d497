"""Statements that the two databases say differently."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVarTuple, cast

import orjson
from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    CursorResult,
    Float,
    Row,
    Select,
    String,
    Table,
    TextClause,
    bindparam,
    column,
    func,
    select,
    text,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session

from orchestrator.database.columns import UtcDateTime, storable

Ts = TypeVarTuple("Ts")


def skip_locked(statement: Select[*Ts], session: Session, model: type[DeclarativeBase]) -> Select[*Ts]:
    """Lock the selected rows of `model`, not those joined to them, and pass over those that somebody else holds.

    A writing transaction on SQLite holds the only write lock, so there is nothing to pass over.
    """
    if session.get_bind().dialect.name == "postgresql":
        return statement.with_for_update(skip_locked=True, of=model)
    return statement


def of_each(
    session: Session,
    values: Sequence[str],
    build: Callable[[ColumnElement[str]], Select[*Ts]],
    parameters: Mapping[str, Any],
) -> Sequence[Row[*Ts]]:
    """The rows that `build` selects for each of `values`, value after value and in the order of its select.

    PostgreSQL is asked once for all of them, since each question costs the way there and back.
    """
    if session.get_bind().dialect.name != "postgresql":
        statement = build(bindparam("each"))
        return [row for value in values for row in session.execute(statement, {**parameters, "each": value})]
    each = func.unnest(bindparam("each", type_=postgresql.ARRAY(String))).table_valued("value").render_derived()
    found = build(each.c.value).lateral()
    # A lateral join is a loop, so it keeps the order of both sides.
    together = select(*found.c).select_from(each.join(found, true()))
    return cast("Sequence[Row[*Ts]]", session.execute(together, {**parameters, "each": list(values)}).all())


def exclusive(transaction: Session | Connection, name: str) -> None:
    """Wait until no other transaction holds `name`, and hold it until this one ends."""
    connection = transaction.connection() if isinstance(transaction, Session) else transaction
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def insert_ignoring(session: Session, model: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]]) -> int:
    """Insert `rows`, passing over those that break a unique constraint; return how many went in.

    Every row must have the same keys. Text that a database refuses is made `storable`. On PostgreSQL
    the rows travel as one JSON parameter, which costs the client a third of what an INSERT with a
    parameter per value does.

    Raises:
        ValueError: a datetime has no time zone, or a number is NaN or infinite.
    """
    if not rows:
        return 0
    table = cast(Table, model.__table__)
    names = tuple(rows[0])
    _refuse_ambiguous(table, names, rows)
    if session.get_bind().dialect.name == "postgresql":
        outcome = session.execute(_from_json(table, names), {"rows": _as_json(rows)})
        return cast(CursorResult[Any], outcome).rowcount
    statement = sqlite.insert(table).on_conflict_do_nothing()
    # At the level of Core: the ORM's bulk insert would turn every row into an object.
    outcome = session.connection().execute(statement, [_storable(row) for row in rows])
    return outcome.rowcount


def _refuse_ambiguous(table: Table, names: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON would turn NaN into null, and the server would read a naive datetime in its own time zone."""
    for name in _to_be_checked(table, names):
        for row in rows:
            if not _is_definite(row[name]):
                raise ValueError(f"{table.name}.{name} is {row[name]!r}: no NaN, no infinity, no datetime without zone")


@lru_cache(maxsize=64)
def _to_be_checked(table: Table, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if isinstance(table.c[name].type, JSON | Float | UtcDateTime))


def _is_definite(value: Any) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case datetime():
            return value.tzinfo is not None
        case Mapping():
            return all(map(_is_definite, value.values()))
        case list() | tuple():
            return all(map(_is_definite, value))
        case _:
            return True


def _as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    try:
        encoded = orjson.dumps(rows)
    except orjson.JSONEncodeError:
        encoded = orjson.dumps(_storable(rows))  # a lone surrogate; whatever else it was, is raised again
    # May also be the six characters themselves, which survive the cleaning.
    return (orjson.dumps(_storable(rows)) if b"\\u0000" in encoded else encoded).decode()


def _storable(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case Mapping():
            return {_storable(key): _storable(part) for key, part in value.items()}
        case list() | tuple():
            return [_storable(part) for part in value]
        case _:
            return value


@lru_cache(maxsize=64)
def _from_json(table: Table, columns: tuple[str, ...]) -> TextClause:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves the factory untyped
    names = ", ".join(column(name).compile(dialect=dialect).string for name in columns)
    typed = ", ".join(
        f"{column(name).compile(dialect=dialect).string} {table.c[name].type.dialect_impl(dialect).compile(dialect)}"
        for name in columns
    )
    return text(
        f"INSERT INTO {table.name} ({names}) SELECT {names} "
        f"FROM json_to_recordset(CAST(:rows AS json)) AS given ({typed}) ON CONFLICT DO NOTHING"
    )
