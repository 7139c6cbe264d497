"""A journal that the database itself keeps of who wrote under which attempt: what a fence lets through shows here.

Claims are noted by a trigger, and writes by the workers of `tests.chaos.faulty`, in the transaction
that they are part of. A unit's row is locked by whoever may write under it, so a line's number tells
which of a unit's transactions came first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, Engine, inspect, text

#: What a claim is called; any other line names the function that wrote.
CLAIM = "claim"
#: The one thing that an attempt may write after it has lost its unit: that it was refused.
REFUSAL = "count_stale_write.<locals>.count"

TABLE = {
    "sqlite": "CREATE TABLE chaos_journal (id INTEGER PRIMARY KEY AUTOINCREMENT, {columns})",
    "postgresql": "CREATE TABLE chaos_journal (id BIGSERIAL PRIMARY KEY, {columns})",
}
COLUMNS = "unit_id TEXT NOT NULL, attempt INTEGER NOT NULL, what TEXT NOT NULL, pid INTEGER NOT NULL"
NOTE = f"INSERT INTO chaos_journal (unit_id, attempt, what, pid) VALUES (NEW.id, NEW.attempt, '{CLAIM}', 0);"
TRIGGER = "CREATE TRIGGER chaos_claim AFTER UPDATE OF attempt ON work_units FOR EACH ROW"
TRIGGERS = {
    "sqlite": [
        f"{TRIGGER} WHEN NEW.attempt <> OLD.attempt BEGIN {NOTE} END",
    ],
    "postgresql": [
        f"CREATE FUNCTION chaos_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {NOTE} RETURN NULL; END $$",
        f"{TRIGGER} WHEN (NEW.attempt <> OLD.attempt) EXECUTE FUNCTION chaos_claim()",
    ],
}


class Line(NamedTuple):
    """A claim of a unit, or a transaction under an attempt at it."""

    id: int
    unit_id: str
    attempt: int
    what: str
    pid: int


def install(engine: Engine) -> None:
    """Let the database keep the journal."""
    dialect = engine.dialect.name
    with engine.begin() as connection:
        connection.exec_driver_sql(TABLE[dialect].format(columns=COLUMNS))
        for statement in TRIGGERS[dialect]:
            connection.exec_driver_sql(statement)


def is_kept(connection: Connection) -> bool:
    """Whether the database keeps the journal."""
    return inspect(connection).has_table("chaos_journal")


def note(connection: Connection, unit_id: str, attempt: int, what: str, pid: int) -> None:
    """Write a line, in the transaction that it speaks of."""
    statement = "INSERT INTO chaos_journal (unit_id, attempt, what, pid) VALUES (:unit_id, :attempt, :what, :pid)"
    connection.execute(text(statement), {"unit_id": unit_id, "attempt": attempt, "what": what, "pid": pid})


def lines(connection: Connection) -> Iterator[Line]:
    """The journal from its beginning."""
    statement = "SELECT id, unit_id, attempt, what, pid FROM chaos_journal ORDER BY id"
    return (Line(*row) for row in connection.execute(text(statement)))
