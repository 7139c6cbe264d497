"""Which statements take the time, and why: what the database itself says of the slowest."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event

from orchestrator.database import engine

#: How the two databases are asked; PostgreSQL's way runs the statement, so it is undone.
EXPLAIN = {"postgresql": "EXPLAIN (ANALYZE, BUFFERS, SETTINGS)", "sqlite": "EXPLAIN QUERY PLAN"}


@dataclass
class Statement:
    """One text, however often and with whatever values it was run; times in seconds."""

    text: str
    parameters: Any
    times: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        """All its runs together."""
        return sum(self.times)


@contextmanager
def recorded(found: dict[str, Statement]) -> Iterator[None]:
    """Add every statement of this process that runs meanwhile to `found`, by its text."""
    started: dict[int, float] = defaultdict(float)

    def before(_: Connection, cursor: Any, *__: object) -> None:
        started[id(cursor)] = time.perf_counter()

    def after(_: Connection, cursor: Any, text: str, parameters: Any, __: object, many: bool) -> None:
        if not many:
            statement = found.setdefault(text, Statement(text, parameters))
            statement.times.append(time.perf_counter() - started.pop(id(cursor)))

    watched = engine()
    event.listen(watched, "before_cursor_execute", before)
    event.listen(watched, "after_cursor_execute", after)
    try:
        yield
    finally:
        event.remove(watched, "before_cursor_execute", before)
        event.remove(watched, "after_cursor_execute", after)


def explain(statement: Statement) -> str:
    """The database's plan for the statement, with the values it was first run with."""
    prefix = EXPLAIN[engine().dialect.name]
    with engine().connect() as connection:
        rows = connection.exec_driver_sql(f"{prefix} {statement.text}", statement.parameters).all()
        connection.rollback()
    return "\n".join("  " + " ".join(str(cell) for cell in row) for row in rows)


def print_slowest(found: dict[str, Statement], count: int = 5) -> None:
    """The statements that took longest in all, each with its plan."""
    for statement in sorted(found.values(), key=lambda statement: -statement.total)[:count]:
        runs = len(statement.times)
        print(f"\n{statement.total * 1000:.1f} ms in {runs} runs, {max(statement.times) * 1000:.1f} ms at most")
        print(shorten(statement.text.replace("\n", " ")))
        for line in explain(statement).splitlines():
            print(shorten(line, 200))


def shorten(text: str, length: int = 1000) -> str:
    """Without the middle of a list of hundreds of ids."""
    return text if len(text) <= length else f"{text[: length // 2]} … {text[-length // 2 :]}"
