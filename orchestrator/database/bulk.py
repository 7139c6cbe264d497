"""Many rows into one table, and many out, at the cost of little more than their text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any, cast

from sqlalchemy import Executable, Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session

#: Rows of one statement on SQLite. It lets go of the interpreter once; in a statement of its own, each row would wait
#: to have it back from the worker's other threads, and everybody else for the write lock.
RUN = 256


def insert_rows(
    session: Session,
    model: type[DeclarativeBase],
    shared: Mapping[str, str | datetime],
    names: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
) -> None:
    """Insert `rows` of the columns `names`, each with the values of `shared` in other columns.

    Every value is the text of what its column holds, so that nothing is converted twice: COPY takes it
    on PostgreSQL, and the affinity of the column on SQLite. Where a row may exist already, use
    `insert_ignoring`, at about three times the price.

    Raises:
        IntegrityError: a row exists already, or breaks another constraint.
    """
    if not rows:
        return
    table = cast(Table, model.__table__).name
    connection = session.connection()
    columns = (*shared, *names)
    if connection.dialect.name == "postgresql":
        values = "\t".join(_escaped(_postgresql_text(value)) for value in shared.values())
        # The driver is an extra, so it is not imported here.
        driver: Any = connection.connection.driver_connection
        base: type[Exception] = cast(Any, connection.dialect.dbapi).Error
        try:
            with driver.cursor().copy(_copy(table, columns)) as sink:
                sink.write(copy_text(values, rows))
        except base as error:
            # In SQLAlchemy's words, as of any other statement: the callers know those.
            raise DBAPIError.instance(_copy(table, columns), None, error, base) from error
        return
    constants = tuple(_sqlite_text(value) for value in shared.values())
    for run in _runs(rows):
        statement = _insert(table, columns, len(constants), len(run))
        connection.exec_driver_sql(statement, (*constants, *chain.from_iterable(run)))


def fetch_rows(session: Session, statement: Executable) -> list[tuple[Any, ...]]:
    """All rows of a statement as the driver has them: nothing is converted, which is right for texts and integers.

    SQLAlchemy's own rows cost more than twice as much.
    """
    connection = session.connection()
    base: type[Exception] = cast(Any, connection.dialect.dbapi).Error
    with closing(connection.execute(statement)) as result:
        cursor: Any = result.cursor
        try:
            return cast(list[tuple[Any, ...]], cursor.fetchall())
        except base as error:
            # SQLite looks for rows as they are fetched.
            raise DBAPIError.instance(str(statement), None, error, base) from error


def instant_text(session: Session, instant: datetime) -> str:
    """An instant as `insert_rows` takes it in a row."""
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    return _postgresql_text(instant) if is_postgresql else _sqlite_text(instant)


def copy_text(shared: str, rows: Sequence[tuple[str, ...]]) -> bytes:
    """Rows in COPY's text format, each behind the values that all have in common."""
    text = _lines(shared, rows)
    fields = len(rows[0]) * len(rows) + shared.count("\t") * len(rows)
    # Looking once whether anything needs to be escaped is cheaper than asking every value.
    if "\\" in text or text.count("\t") != fields or text.count("\n") != len(rows) or "\r" in text:
        text = _lines(shared, [tuple(map(_escaped, row)) for row in rows])
    return text.encode()


def _lines(shared: str, rows: Iterable[tuple[str, ...]]) -> str:
    return "".join([shared + "\t" + "\t".join(row) + "\n" for row in rows])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _postgresql_text(value: str | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else value


def _sqlite_text(value: str | datetime) -> str:
    # As SQLAlchemy's DateTime writes it there.
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


@lru_cache(maxsize=16)
def _copy(table: str, columns: tuple[str, ...]) -> str:
    return f"COPY {table} ({', '.join(columns)}) FROM STDIN"


def _runs(rows: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    """The rows in runs of `RUN`, and what is left in runs of half of that, and so on: few lengths, few statements."""
    start, length = 0, RUN
    while start < len(rows):
        while length > len(rows) - start:
            length //= 2
        yield rows[start : start + length]
        start += length


@lru_cache(maxsize=64)
def _insert(table: str, columns: tuple[str, ...], shared: int, rows: int) -> str:
    """Of so many rows, whose first `shared` columns have the values of the first parameters."""
    values = [f"?{number}" for number in range(1, shared + 1)] + ["?"] * (len(columns) - shared)
    row = f"({', '.join(values)})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)}"
