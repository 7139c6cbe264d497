"""Engines and transactions: what is retried, what a reader sees, and that a fork shares nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from orchestrator.database import dispose, engine, reading, transact, writing
from orchestrator.database.engine import checkpoint, open_engine
from orchestrator.ledger.tables import ShareRow
from tests.conftest import Database
from tests.support.ledger import at_once
from tests.support.processes import ROOT

#: The module, which its function of the same name hides.
ENGINES = sys.modules["orchestrator.database.engine"]


def add(session: Session, name: str, deficit: float = 0.0) -> None:
    session.execute(insert(ShareRow).values(queue="q", project_id=name, deficit=deficit))


def names() -> list[str]:
    with reading() as session:
        return list(session.scalars(select(ShareRow.project_id).order_by(ShareRow.project_id)))


def sqlite_only(database: Database) -> None:
    if database.kind != "sqlite":
        pytest.skip("about SQLite's one write lock")


def postgres_only(database: Database) -> None:
    if database.kind != "postgres":
        pytest.skip("about PostgreSQL's locks and sessions")


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    transact(add, "kept")
    with pytest.raises(ZeroDivisionError), writing() as session:
        add(session, "lost", 1 / (len(names()) - 1))
    assert names() == ["kept"]


def test_two_transactions_that_deadlock_are_both_made_in_the_end(database: Database) -> None:
    postgres_only(database)
    for name in ("a", "b"):
        transact(add, name)
    both_hold_one = threading.Barrier(2)
    runs: list[str] = []

    def raise_both(session: Session, first: str, second: str) -> None:
        runs.append(first)
        for name in (first, second):
            session.execute(update(ShareRow).where(ShareRow.project_id == name).values(deficit=ShareRow.deficit + 1))
            if len(runs) <= 2 and name == first:
                both_hold_one.wait(30)

    at_once([partial(transact, raise_both, "a", "b"), partial(transact, raise_both, "b", "a")])
    assert len(runs) == 3  # one was undone, and ran again
    with reading() as session:
        assert session.scalars(select(ShareRow.deficit)).all() == [2, 2]


def test_a_writer_that_finds_sqlite_locked_too_long_tries_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_only(database)
    monkeypatch.setattr(ENGINES, "BUSY_TIMEOUT", 50)
    dispose()
    with sqlite3.connect(str(database.url.database), isolation_level=None, check_same_thread=False) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.15, partial(other.execute, "COMMIT")).start()
        transact(add, "patient")
    other.close()
    assert names() == ["patient"]


def test_a_writer_gives_up_when_sqlite_stays_locked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_only(database)
    monkeypatch.setattr(ENGINES, "BUSY_TIMEOUT", 20)
    monkeypatch.setattr(ENGINES, "RETRIES", 3)
    dispose()
    with sqlite3.connect(str(database.url.database), isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            transact(add, "patient")
        other.execute("ROLLBACK")
    other.close()


def test_sixteen_writers_never_see_a_lock(database: Database) -> None:
    at_once([partial(transact, add, f"writer {n:02}") for n in range(16)])
    assert len(names()) == 16


def test_an_error_that_is_the_caller_s_own_is_not_retried(database: Database) -> None:
    transact(add, "once")
    runs: list[str] = []

    def add_again(session: Session) -> None:
        runs.append("run")
        add(session, "once")

    with pytest.raises(IntegrityError):
        transact(add_again)
    assert runs == ["run"]


def test_a_reader_sees_one_state_whatever_is_written_meanwhile_and_waits_for_nobody(database: Database) -> None:
    transact(add, "old")
    with reading() as session:
        before = session.scalars(select(ShareRow.project_id)).all()
        with writing() as writer:
            add(writer, "new")
            assert session.scalars(select(ShareRow.project_id)).all() == before
        assert session.scalars(select(ShareRow.project_id)).all() == before
    assert names() == ["new", "old"]


def test_a_reader_cannot_write_by_mistake(database: Database) -> None:
    postgres_only(database)
    with reading() as session, pytest.raises(DBAPIError, match="read-only"):
        session.execute(delete(ShareRow))


def test_a_process_frozen_inside_a_transaction_loses_its_session_after_a_while(database: Database) -> None:
    postgres_only(database)
    with reading() as session:
        assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "1min"


def test_options_in_the_url_are_the_user_s_own(database: Database) -> None:
    postgres_only(database)
    url = database.url.update_query_dict({"options": "-c statement_timeout=7s"})
    opened = open_engine(url.render_as_string(hide_password=False))
    with opened.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "7s"
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "0"
    opened.dispose()


def test_a_connection_that_the_server_closed_is_replaced_unnoticed(database: Database) -> None:
    postgres_only(database)
    with reading() as session:
        pid = session.scalar(text("SELECT pg_backend_pid()"))
    other = open_engine(database.url.render_as_string(hide_password=False))
    with other.connect() as connection:
        assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    other.dispose()
    transact(add, "after")
    assert names() == ["after"]


def test_a_transaction_whose_session_was_ended_before_its_commit_is_made_again(database: Database) -> None:
    postgres_only(database)
    runs: list[str] = []

    def interrupted(session: Session) -> None:
        add(session, "once")
        session.flush()
        runs.append("run")
        if len(runs) == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    transact(interrupted)
    assert (names(), runs) == (["once"], ["run", "run"])


def test_a_transaction_whose_session_was_ended_in_its_commit_is_not_made_again(database: Database) -> None:
    """Nobody knows whether it took effect: whoever asked for it has to look."""
    postgres_only(database)
    with writing() as session:
        session.execute(
            text(
                "CREATE FUNCTION end_session() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN NULL; END $$"
            )
        )
        table = ShareRow.__tablename__
        session.execute(
            text(
                f"CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION end_session()"
            )
        )
    runs: list[str] = []

    def interrupted(session: Session) -> None:
        runs.append("run")
        add(session, "lost")

    with pytest.raises(OperationalError):
        transact(interrupted)
    assert (names(), runs) == ([], ["run"])


def test_threads_share_one_engine(database: Database) -> None:
    dispose()
    assert len({id(opened) for opened in at_once([engine] * 8)}) == 1


FORK = """
import os, sys
from sqlalchemy import text
from orchestrator.database import engine, reading

def works():
    with reading() as session:
        return session.scalar(text("SELECT 1")) == 1

ours = engine()
assert works()
child = os.fork()
if child == 0:
    os._exit(0 if engine() is not ours and works() else 1)
_, status = os.waitpid(child, 0)
assert status == 0, "the child shares its parent's engine"
assert engine() is ours and works(), "the parent lost its own"
"""


def test_a_forked_child_opens_connections_of_its_own(database: Database) -> None:
    result = subprocess.run([sys.executable, "-c", FORK], check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_sqlite_syncs_what_it_commits_and_checks_what_refers(database: Database) -> None:
    sqlite_only(database)
    with reading() as session:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        assert [session.scalar(text(f"PRAGMA {name}")) for name in pragmas] == ["wal", 2, 1, 30_000]


def test_what_sqlite_has_logged_is_copied_into_its_file_while_others_are_in_transactions(database: Database) -> None:
    transact(add, "first")
    with writing() as session:
        add(session, "second")
        checkpoint()
        assert names() == ["first"]
    if database.kind == "sqlite":
        assert names_in_the_file_alone() == ["first"]


def names_in_the_file_alone() -> list[str]:
    """What is read by whoever does not know of the log."""
    with closing(sqlite3.connect(f"file:{engine().url.database}?immutable=1", uri=True)) as connection:
        return [name for (name,) in connection.execute("SELECT project_id FROM dispatch_shares ORDER BY 1")]
