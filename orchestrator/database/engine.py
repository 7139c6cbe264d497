"""Engines and transactions, one engine a process and URL."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orchestrator import clock
from orchestrator.database.geography import haversine
from orchestrator.database.patterns import matches
from orchestrator.settings import Settings, settings

P = ParamSpec("P")
T = TypeVar("T")

#: How long a writer on SQLite waits for the one before it, in milliseconds.
BUSY_TIMEOUT = 30_000
#: A transaction that the database itself undid (deadlock, serialization, busy) is run again this often.
RETRIES = 8

#: Seconds between two looks at SQLite's write lock, on average. SQLite's own way of waiting looks ever more seldom, in
#: the end ten times a second: who has waited longest would wait longest still.
LOOK = 0.001
#: Seconds in which everybody who waits for SQLite's write lock has looked at it, on a busy machine, too.
PAUSE = 5 * LOOK
#: Pages, of 4 KiB, in SQLite's log after which a commit copies them back into the file by itself. One transaction of a
#: sweep writes several times the default of 1,000; and the seldomer it is done, the fewer pages are copied twice.
LOG_PAGES = 20_000

#: Each statement would see another state otherwise; and what only reads can never be undone for it.
POSTGRESQL_SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
#: No write lock: a snapshot begins with the first statement.
SQLITE_SNAPSHOT: dict[str, Any] = {"sqlite_begin": "DEFERRED"}
#: A process that froze inside a transaction must not hold its locks, dispatch's among them, for ever.
#: And its planner must not take a disk for one with heads that move: it would rather read whole tables.
POSTGRESQL_OPTIONS = "-c idle_in_transaction_session_timeout=60s -c random_page_cost=1.1"

_engines: dict[tuple[int, str], Engine] = {}


def engine(config: Settings | None = None) -> Engine:
    """The engine of this process for the configured database, opened at the first call.

    Keyed by process id: a forked child must not share its parent's connections.
    """
    config = config or settings()
    key = (os.getpid(), config.sqlalchemy_url)
    if key not in _engines:
        # Of two threads that open one at the same time, one wins; the other's has connected to nothing yet.
        _engines.setdefault(key, open_engine(config.sqlalchemy_url, pool_size=config.database_pool_size))
    return _engines[key]


def open_engine(url: str, *, pool_size: int = 5) -> Engine:
    """A new engine for `url`, set up so that both databases behave alike."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        opened = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT / 1000}, pool_size=pool_size)
        event.listen(opened, "connect", _prepare_sqlite)
        event.listen(opened, "begin", _begin_sqlite)
        return opened
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if "options" not in parsed.query:
        parsed = parsed.update_query_dict({"options": POSTGRESQL_OPTIONS})
    opened = create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args={
            # To find a pooled connection dead and to fail at a new one takes less than ten seconds together.
            "connect_timeout": 3,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        },
    )
    event.listen(opened, "do_connect", _connect_patiently)
    return opened


def dispose() -> None:
    """Close every connection of this process; the next use opens new ones."""
    for key in [key for key in _engines if key[0] == os.getpid()]:
        _engines.pop(key).dispose()


@contextmanager
def writing() -> Iterator[Session]:
    """A session in one transaction that may write: committed at the end, undone on an error."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading() -> Iterator[Session]:
    """A session that reads one consistent state and never waits for a writer."""
    source = engine()
    snapshot = POSTGRESQL_SNAPSHOT if source.dialect.name == "postgresql" else SQLITE_SNAPSHOT
    with Session(source.execution_options(**snapshot), expire_on_commit=False) as session:
        yield session


def transact(work: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work(session, …)` in one writing transaction, and again when the database undid it by itself.

    Only failures that guarantee a rollback are retried, so `work` takes effect at most once.
    """
    for attempt in range(RETRIES):
        is_committing = False
        try:
            with writing() as session:
                outcome = work(session, *args, **kwargs)
                is_committing = True
            return outcome
        except DBAPIError as error:
            if attempt == RETRIES - 1 or not _was_undone(error, is_committing=is_committing):
                raise
            time.sleep(random.uniform(0, 0.05 * 2**attempt))
    raise AssertionError("unreachable: the last attempt returns or raises")


def give_way(seconds: float) -> None:
    """Let others write between two transactions of a long series, of which the last took so many `seconds`.

    Who waits for SQLite's only write lock is not woken, but looks now and then: in a series without pauses its turn
    would hardly come. On PostgreSQL nobody waits for rows that are not his.
    """
    if engine().dialect.name == "sqlite":
        time.sleep(min(PAUSE, seconds))


def checkpoint() -> None:
    """Copy SQLite's log back into its file, beside others who read and write: else a commit does it now and then.

    For whoever writes much: between two transactions nobody waits for it.
    """
    source = engine()
    if source.dialect.name == "sqlite":
        with closing(source.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")


def _was_undone(error: DBAPIError, *, is_committing: bool) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state in ("57P01", "57P02"):
        # The session was ended by an administrator or a crash: before COMMIT that undoes it, in COMMIT nobody knows.
        return not is_committing
    if state is not None:
        return state in ("40001", "40P01")  # serialization failure, deadlock
    return isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig)


def _connect_patiently(_dialect: Any, _record: Any, cargs: Any, cparams: dict[str, Any]) -> object:
    from orchestrator.database.patience import PatientConnection  # psycopg is an extra

    return PatientConnection.connect(*cargs, **cparams)


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # The driver's own transaction handling begins too late to take the write lock up front.
    connection.isolation_level = None
    connection.create_function("orchestrator_now", 1, _sqlite_clock)
    connection.create_function("orchestrator_ilike", 2, matches, deterministic=True)
    connection.create_function("orchestrator_haversine", 4, haversine, deterministic=True)
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"wal_autocheckpoint = {LOG_PAGES}",
        "temp_store = MEMORY",
        "cache_size = -16000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_clock(offset: float) -> str:
    instant = clock.now() + timedelta(seconds=offset)
    return instant.strftime("%Y-%m-%d %H:%M:%S.%f")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
    if mode != "IMMEDIATE":
        connection.exec_driver_sql(f"BEGIN {mode}")
        return
    driver = cast(sqlite3.Connection, connection.connection.driver_connection)
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        _begin_when_free(connection, driver)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")


def _begin_when_free(connection: Connection, driver: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT / 1000
    while time.monotonic() < deadline:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # beside the reason, in the higher bits
                break
            time.sleep(random.uniform(0.5, 1.5) * LOOK)
        else:
            return
    # Once more, so that what is wrong is said in SQLAlchemy's words.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
