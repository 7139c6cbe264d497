"""Approximate search among vectors, where the PostgreSQL server has the extension pgvector; nowhere else.

A model's vectors have an index of their own for each metric, made when it is first wanted and outside of migrations:
which extensions a server has is not the project's to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, Table, Text, TextClause, cast, func, literal, select, text
from sqlalchemy.orm import Session
from sqlalchemy.types import UserDefinedType

from orchestrator.database.engine import engine

#: Numbers of a vector that an index takes, at most.
LARGEST: Final = 2000
#: Nearest rows that one search in an index is asked for, at most.
MOST: Final = 500
#: By metric: the operator, and the operators that an index is made for.
OPERATORS: Final = {
    "cosine": ("<=>", "vector_cosine_ops"),
    "l2": ("<->", "vector_l2_ops"),
    "negative_dot_product": ("<#>", "vector_ip_ops"),
}


class VectorIndex(NamedTuple):
    """The index of those rows of `table` that belong to `owner`, and whose vectors have `size` numbers."""

    table: Table
    #: Columns that hold the owner and the vector.
    owner_column: str
    vector_column: str
    owner: str
    size: int
    metric: str

    @property
    def name(self) -> str:
        """The same for the same index, and for no other."""
        digest = hashlib.sha256(f"{self.owner}/{self.size}/{self.metric}".encode()).hexdigest()
        return f"hnsw_{self.table.name}_{digest[:16]}"


def is_possible(session: Session, index: VectorIndex) -> bool:
    """Whether the server could have the index: it has the extension, or offers it."""
    if session.get_bind().dialect.name != "postgresql" or index.size > LARGEST:
        return False
    offered = text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
    return session.scalar(offered) is not None


def is_ready(session: Session, index: VectorIndex) -> bool:
    """Whether the index is there and complete."""
    return session.get_bind().dialect.name == "postgresql" and session.scalar(_valid(), {"name": index.name}) is True


def build(index: VectorIndex) -> bool:
    """Make the index while others go on reading and writing; says whether it is complete.

    Done again after its process was killed, it waits for what the server still does of its own accord, which is not
    complete, or begins anew.
    """
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
        state = connection.scalar(_valid(), {"name": index.name})
        if state is True:
            return True
        if state is False:
            if connection.scalar(_at_work(), {"name": index.name}) is not None:
                return False
            connection.exec_driver_sql(f'DROP INDEX CONCURRENTLY IF EXISTS "{index.name}"')
        driver: Any = connection.connection.driver_connection
        driver.execute(_creation(index))
        return True


def candidates(
    session: Session, index: VectorIndex, query: NDArray[np.float32], rows: Select[Any], id_column: str, limit: int
) -> Sequence[str]:
    """About the nearest of the rows whose ids `rows` selects: fewer than `limit` if the index gave up looking."""
    operator, _ = OPERATORS[index.metric]
    column, table = index.table.c[index.vector_column], index.table
    wanted = cast(literal(f"[{','.join(map(repr, query.tolist()))}]", Text()), _Vector(index.size))
    session.execute(text(f"SET LOCAL hnsw.ef_search = {MOST}"))
    session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
    found = (
        select(table.c[id_column])
        .where(table.c[index.owner_column] == index.owner, func.cardinality(column) == index.size)
        .where(table.c[id_column].in_(rows))
        .order_by(cast(column, _Vector(index.size)).op(operator)(wanted))
        .limit(limit)
    )
    return session.scalars(found).all()


class _Vector(UserDefinedType[Any]):
    """pgvector's own type."""

    cache_ok = True

    def __init__(self, size: int) -> None:
        self.size = size

    def get_col_spec(self, **_: Any) -> str:
        return f"vector({self.size})"


def _valid() -> TextClause:
    return text(
        "SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE relname = :name AND pg_table_is_visible(pg_class.oid)"
    )


def _at_work() -> TextClause:
    return text(
        "SELECT 1 FROM pg_stat_progress_create_index JOIN pg_class ON pg_class.oid = index_relid WHERE relname = :name"
    )


def _creation(index: VectorIndex) -> Any:
    from psycopg import sql  # an extra

    column, (_, operators) = sql.Identifier(index.vector_column), OPERATORS[index.metric]
    return sql.SQL(
        "CREATE INDEX CONCURRENTLY {} ON {} USING hnsw (({}::vector({})) {}) WHERE {} = {} AND cardinality({}) = {}"
    ).format(
        sql.Identifier(index.name),
        sql.Identifier(index.table.name),
        column,
        sql.Literal(index.size),
        sql.Identifier(operators),
        sql.Identifier(index.owner_column),
        sql.Literal(index.owner),
        column,
        sql.Literal(index.size),
    )
