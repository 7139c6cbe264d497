"""PostgreSQL databases for tests, emptied and renamed for the next one where that is as good as a new one.

A copy of the template costs half a second of a processor for its hundreds of files, emptying costs milliseconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg import sql
from sqlalchemy import URL

from tests.support.services import Postgres

#: After so many tests, or rows that had to be deleted, a database is full of dead rows and is replaced.
USES, ROWS = 50, 5000
#: Milliseconds that a session may take to end.
PATIENCE = 10_000

#: What tests could change in a database beside rows, as one text.
SHAPE = """
SELECT md5(concat_ws('/',
    (SELECT string_agg(concat_ws(' ', relname, relkind, reloptions), ',' ORDER BY oid) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace),
    (SELECT string_agg(pg_attribute::text, ',' ORDER BY attrelid, attnum) FROM pg_attribute
        JOIN pg_class ON attrelid = pg_class.oid WHERE relnamespace = 'public'::regnamespace),
    (SELECT string_agg(conname, ',' ORDER BY oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace),
    (SELECT string_agg(concat_ws(' ', tgname, tgenabled), ',' ORDER BY oid) FROM pg_trigger),
    (SELECT string_agg(proname, ',' ORDER BY oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace),
    (SELECT string_agg(nspname, ',' ORDER BY oid) FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'),
    (SELECT string_agg(setconfig::text, ',') FROM pg_db_role_setting
        JOIN pg_database ON setdatabase = pg_database.oid WHERE datname = current_database())
))
"""


class Databases:
    """Hands out one empty database after the other, each under a name of its own.

    `tables` are those that hold rows, what refers to others first.
    """

    def __init__(self, server: Postgres, template: str, tables: Sequence[str]) -> None:
        self.server = server
        self.template = template
        self.tables = tables
        with server.connection(template) as connection:
            self.shape = shape(connection)
        #: Connected to the server's own database: one may not be renamed by whoever is connected to it.
        self.administration = server.connection()
        self.spare: str | None = None
        self.uses = self.rows = 0

    @contextmanager
    def database(self) -> Iterator[URL]:
        """A database with every table and no row; nobody stays connected to it."""
        name = self._take()
        try:
            yield self._url(name)
        finally:
            self._give_back(name)

    def close(self) -> None:
        """Drop what is kept for the next test."""
        if self.spare is not None:
            self._drop(self.spare)
            self.spare = None
        self.administration.close()

    def _take(self) -> str:
        self.uses += 1
        name, self.spare = self.spare, None
        if name is None:
            name = new_name()
            self._administer("CREATE DATABASE {} TEMPLATE {}", name, self.template)
            self.uses = self.rows = 0
        return name

    def _give_back(self, name: str) -> None:
        try:
            # Under its new name no process that a test left behind finds it.
            kept = self._rename(name)
        except psycopg.Error:
            self._drop(name)
            return
        try:
            is_as_new = self._empty(kept)
        except psycopg.Error:
            is_as_new = False
        if is_as_new:
            self.spare = kept
        else:
            self._drop(kept)

    def _rename(self, name: str) -> str:
        kept = new_name()
        self.administration.execute(
            "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend'",
            [PATIENCE, name],
        )
        self._administer("ALTER DATABASE {} RENAME TO {}", name, kept)
        return kept

    def _empty(self, name: str) -> bool:
        """Delete every row; say whether the database may pass for a new one."""
        delete = sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in self.tables)
        with self.server.connection(name) as connection:
            self.rows += sum(result.rowcount for result in connection.execute(delete).results())
            return self.uses < USES and self.rows < ROWS and shape(connection) == self.shape

    def _drop(self, name: str) -> None:
        self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _administer(self, statement: LiteralString, *names: str) -> None:
        self.administration.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _url(self, name: str) -> URL:
        return self.server.url.set(drivername="postgresql+psycopg", database=name)


def shape(connection: psycopg.Connection) -> str:
    """What a database consists of but for its rows; equal for a copy."""
    row = connection.execute(SHAPE).fetchone()
    assert row is not None
    return str(row[0])


def new_name() -> str:
    """A name that no other run uses."""
    return f"orchestrator_test_{secrets.token_hex(6)}"
