"""The database of a simulation: SQLite in memory, which tells a witness of each change of a row and each commit."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import PoolProxiedConnection, StaticPool

from orchestrator.bulk_inference.tables import BulkInferenceJobRow, FailureRow
from orchestrator.database import Base
from orchestrator.database.engine import _begin_sqlite, _engines, _prepare_sqlite
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger.tables import GateRow, JobRow, UnitRow
from orchestrator.registry.tables import DatasetRow, DatumRow, ModelRow, ProjectRow, SnapshotRow, SnapshotSplitRow
from orchestrator.settings import settings
from orchestrator.transitions import EventRow
from tests.conftest import import_tables

URL = "sqlite://"
#: What is told of: the rest is nobody's promise, or the registry's.
WATCHED = tuple(
    cast(Table, model.__table__)
    for model in (JobRow, UnitRow, GateRow, BulkInferenceJobRow, FailureRow, InferenceRow, EventRow)
)
#: Rows that every simulation finds.
REGISTRY = tuple(
    cast(Table, model.__table__)
    for model in (ProjectRow, DatasetRow, SnapshotRow, SnapshotSplitRow, DatumRow, ModelRow)
)

Row = Mapping[str, Any]


class Witness(Protocol):
    """Hears of everything that happens to the database, and may let it fail."""

    def begins(self) -> None: ...
    def changed(self, table: str, old: Row | None, new: Row | None) -> None: ...
    def undone(self) -> None: ...
    def commits(self) -> None: ...
    def committed(self) -> None: ...


class Database:
    """One connection to one database in memory, for one simulation after the other."""

    def __init__(self) -> None:
        self.witness: Witness | None = None
        self.connection = sqlite3.connect(":memory:", check_same_thread=False, cached_statements=2000)
        self.engine = self._open()
        import_tables()
        Base.metadata.create_all(self.engine)
        self.connection.create_function("witness", -1, self._changed)
        self.columns = {table.name: [column.name for column in table.columns] for table in WATCHED}
        for table in WATCHED:
            self._watch(table)
        #: Children before their parents.
        self.tables = [table for table in reversed(Base.metadata.sorted_tables) if table not in REGISTRY]

    def empty(self) -> None:
        """Forget everything but the registry."""
        self.witness = None
        for table in self.tables:
            self.connection.execute(f"DELETE FROM {table.name}")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds, asked by nobody."""
        return self.connection.execute(query).fetchall()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let this be the configured database of this process."""
        config = settings()
        config.database_url = SecretStr(URL)
        key = (os.getpid(), URL)
        _engines[key] = self.engine
        try:
            yield
        finally:
            _engines.pop(key)

    def _open(self) -> Engine:
        opened = create_engine(URL, creator=lambda: self.connection, poolclass=StaticPool)
        # What the product does with a connection, and before it a chance for others to run first.
        event.listen(opened, "connect", _prepare_sqlite)
        event.listen(opened, "begin", self._begins)
        # An event would come before the commit.
        opened.dialect.do_commit = self._commit  # type: ignore[method-assign]  # it is the same call
        opened.dialect.do_rollback = self._roll_back  # type: ignore[method-assign]  # as above
        return opened

    def _begins(self, connection: Connection) -> None:
        if self.witness is not None:
            self.witness.begins()
        elif self.connection.in_transaction:
            return  # a check within a check, when nobody is left to change anything
        _begin_sqlite(connection)

    def _commit(self, dbapi_connection: PoolProxiedConnection) -> None:
        if self.witness is not None:
            self.witness.commits()
        dbapi_connection.commit()
        if self.witness is not None:
            self.witness.committed()

    def _roll_back(self, dbapi_connection: PoolProxiedConnection) -> None:
        if self.witness is not None:
            self.witness.undone()
        dbapi_connection.rollback()

    def _watch(self, table: Table) -> None:
        names = self.columns[table.name]
        for verb, halves in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
            values = ", ".join(f'{half}."{name}"' for half in halves for name in names)
            self.connection.execute(
                f"CREATE TRIGGER watch_{table.name}_{verb} AFTER {verb} ON {table.name} "
                f"BEGIN SELECT witness('{table.name}', '{verb}', {values}); END"
            )

    def _changed(self, table: str, verb: str, *values: Any) -> None:
        if self.witness is None:
            return
        names = self.columns[table]
        first = dict(zip(names, values, strict=False))
        match verb:
            case "INSERT":
                self.witness.changed(table, None, first)
            case "DELETE":
                self.witness.changed(table, first, None)
            case _:
                self.witness.changed(table, first, dict(zip(names, values[len(names) :], strict=True)))


def away() -> OperationalError:
    """What a lost connection looks like."""
    return OperationalError("simulated", {}, sqlite3.OperationalError("the database is away"))


def answer_lost() -> sqlite3.Error:
    """What a commit looks like whose answer never came."""
    return sqlite3.OperationalError("the connection was lost while committing")


Change = tuple[str, Row | None, Row | None]
