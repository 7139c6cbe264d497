"""What a user's mistake looks like: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from typer.core import TyperCommand, TyperGroup

from orchestrator.database.urls import without_secrets
from orchestrator.errors import OrchestratorError, Unavailable
from orchestrator.settings import settings

REFUSED = 1  #: the request was understood, and not granted
USAGE = 2  #: the command line or a setting is wrong
UNAVAILABLE = 3  #: a server is away, or the database has no tables yet

#: PostgreSQL's codes for a table and for a column that is not there.
MISSING = ("42P01", "42703")
#: What a disk that is full is called: by PostgreSQL; and by SQLite when it writes, and when it opens a database.
FULL = ("53100", "SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")


EXAMPLE = "sqlite:///file or postgresql://user:password@host/database"
#: What SQLAlchemy imports for URLs of databases that this project does not run on.
OTHER_DRIVERS = ("MySQLdb", "oracledb", "pyodbc", "psycopg2")

#: What may be a user's mistake, or a machine's trouble; `explain` tells which.
EXPECTED = (
    OrchestratorError,
    ValidationError,
    SQLAlchemyError,
    ModuleNotFoundError,
    OSError,
    OverflowError,
    UnicodeDecodeError,
    UnicodeEncodeError,
)


class Guarded(TyperGroup):
    """The root of the command: turns expected errors into a line and an exit code."""

    # The context's type is private to Typer.
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read our output has gone; Typer knows what to do
        except EXPECTED as error:
            code, message = explain(error)
            complain(message)
            raise typer.Exit(code) from error


class NeedsDatabase(TyperCommand):
    """A command on an existing database: asked where there is none, it leaves no empty file behind."""

    def invoke(self, ctx: Any) -> Any:
        require_database()
        return super().invoke(ctx)


def require_database() -> None:
    """Refuse to go on when the configured database is a SQLite file that nobody has made.

    Raises:
        Unavailable: says how to make it.
    """
    path = sqlite_file()
    if path is not None and not path.exists():
        raise Unavailable(f"there is no database at {path}: run `orchestrator up`, or `orchestrator db upgrade`")


def sqlite_file() -> Path | None:
    """The file of the configured database; None when it is a server's, or in memory."""
    url = make_url(settings().sqlalchemy_url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line for an expected error.

    Raises:
        Exception: `error` itself, when it is nothing that a user could mend.
    """
    match error:
        case Unavailable():
            code, message = UNAVAILABLE, str(error)
        case OrchestratorError():
            code, message = REFUSED, str(error)
        case ValidationError():
            wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            code, message = USAGE, "; ".join(wrong)
        case OverflowError() | DataError():
            code, message = REFUSED, f"a number is too large: {getattr(error, 'orig', error)}"
        case UnicodeDecodeError():
            code, message = REFUSED, f"a file is not UTF-8 text: {error}"
        case UnicodeEncodeError():
            # Python makes lone surrogates of such bytes on the command line, and no database stores those.
            code, message = REFUSED, f"{error.object[:80]!r} is not UTF-8 text"
        case OSError(strerror=str(reason), filename=name):
            code, message = UNAVAILABLE, f"{reason}: {name}" if name else reason
        case _:
            code, message = explain_database(error)
    return code, message


def explain_database(error: Exception) -> tuple[int, str]:
    """`explain` for what comes from the database, its driver or its URL."""
    shown = shown_database() if isinstance(error, DBAPIError | PoolTimeout) else ""
    match error:
        case ModuleNotFoundError(name="psycopg"):
            code, message = UNAVAILABLE, "PostgreSQL needs an extra: pip install 'orchestrator[postgres]'"
        case ModuleNotFoundError(name=name) if name in OTHER_DRIVERS:
            code, message = USAGE, f"ORCHESTRATOR_DATABASE_URL is no database that this runs on: use {EXAMPLE}"
        case ArgumentError():
            code, message = USAGE, f"ORCHESTRATOR_DATABASE_URL is no database URL: use {EXAMPLE}"
        case DBAPIError() if is_unmigrated(error):
            code, message = UNAVAILABLE, f"the database {shown} lacks tables: run `orchestrator db upgrade`"
        case OperationalError() if is_full(error):
            code, message = (
                UNAVAILABLE,
                f"the disk of the database {shown} is full: free some space",
            )
        case OperationalError() | InterfaceError() | PoolTimeout():
            code, message = UNAVAILABLE, f"the database {shown} does not answer: {getattr(error, 'orig', error)}"
        case _:
            raise error
    return code, message


def is_unmigrated(error: DBAPIError) -> bool:
    """Whether a statement failed because a table or column is not there."""
    text = str(error.orig)
    return getattr(error.orig, "sqlstate", None) in MISSING or "no such table" in text or "no such column" in text


def is_full(error: DBAPIError) -> bool:
    """Whether there was no room for what was to be written."""
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    return code in FULL


def shown_database() -> str:
    """The database's address without its secrets."""
    return without_secrets(settings().sqlalchemy_url)


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"orchestrator: {' '.join(message.split())}\n")
