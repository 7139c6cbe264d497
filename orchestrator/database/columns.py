"""Column types and expressions that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Boolean, DateTime, Dialect, Double, MetaData, SQLColumnExpression, String, Text, literal
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import JSON, TypeDecorator

#: Text compared byte by byte, so that ids sort by time on every server locale.
Identifier = String(255).with_variant(String(255, collation="C"), "postgresql")

#: JSON stored as text on SQLite and as jsonb on PostgreSQL.
JsonText = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC instant; SQLite keeps it as sortable text, PostgreSQL as `timestamptz`."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: pass an aware datetime")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Every table of the project; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JsonText}


def storable(text: str) -> str:
    """`text` without what a database refuses: PostgreSQL stores no NUL, and UTF-8 has no lone surrogates.

    For what strangers write and people read, such as a server's error; names and ids are refused instead.
    """
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


class db_now(FunctionElement[datetime]):  # noqa: N801  it reads as the SQL function it is
    """The database's clock, plus `offset`: leases must not depend on a worker's clock."""

    type = UtcDateTime()
    name = "db_now"
    inherit_cache = True

    def __init__(self, offset: timedelta = timedelta()) -> None:
        # A bound parameter, so that the statement is compiled once whatever the offset.
        super().__init__(literal(offset.total_seconds(), Double()))


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    # clock_timestamp and not now(): a transaction that waited for a lock must see how late it is.
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: SQLCompiler, **options: Any) -> str:
    # A subquery is run once for a statement, where SQLite would call the function for every row.
    return f"(SELECT orchestrator_now({compiler.process(element.clauses, **options)}))"


class ilike(FunctionElement[bool]):  # noqa: N801  as above
    """Whether a text matches a SQL ILIKE pattern, whose escape is the backslash; not what SQLite's LIKE does.

    That ignores the case of ASCII letters only. On PostgreSQL the server's locale decides about other letters.
    """

    type = Boolean()
    name = "ilike"
    inherit_cache = True

    def __init__(self, value: SQLColumnExpression[str], pattern: str) -> None:
        super().__init__(value, literal(pattern, Text()))


@compiles(ilike, "postgresql")
def _postgresql_ilike(element: ilike, compiler: SQLCompiler, **options: Any) -> str:
    value, pattern = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({value} ILIKE {pattern})"


@compiles(ilike, "sqlite")
def _sqlite_ilike(element: ilike, compiler: SQLCompiler, **options: Any) -> str:
    return f"orchestrator_ilike({compiler.process(element.clauses, **options)})"
