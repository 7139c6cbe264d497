"""The ledger's queries are served by its indexes: none reads every unit there ever was."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Select, literal, select, text

from orchestrator.database import engine, writing
from orchestrator.ledger import queries
from orchestrator.ledger.tables import UnitRow, is_unfinished
from tests.support.ledger import open_job

pytestmark = pytest.mark.usefixtures("database")

#: Each query of the hot paths, and the index that must serve it.
SERVED_BY: dict[str, tuple[Select[*tuple[Any, ...]], str]] = {
    "waiting projects": (queries.waiting_projects().params(queue="inference"), "ix_work_units_ready"),
    "publishable": (
        queries.publishable(literal("project")).params(queue="inference", barred=["gate"], limit=10),
        "ix_work_units_ready",
    ),
    "published": (queries.published_count("inference"), "ix_work_units_published"),
    "published by project": (queries.published_by_project("inference"), "ix_work_units_published"),
    "first published": (queries.first_published("inference", "test.work", "project"), "ix_work_units_published"),
    "leased by project": (queries.leased_by_project("inference"), "ix_work_units_leased"),
    "at work behind gates": (queries.gates_in_use(), "ix_work_units_leased"),
    "about to be": (queries.gates_in_use(), "ix_work_units_published"),
    "unclaimed": (queries.unclaimed("inference", timedelta(seconds=60), 10), "ix_work_units_published"),
    "abandoned": (queries.abandoned(10), "ix_work_units_leased"),
    "drained jobs": (queries.drained_jobs(10), "ix_work_units_unfinished"),
    "open jobs": (queries.drained_jobs(10), "ix_jobs_open"),
    "unfinished": (
        select(UnitRow.id).where(UnitRow.job_id == "job", is_unfinished()).limit(1),
        "ix_work_units_unfinished",
    ),
}


def plan(statement: Select[*tuple[Any, ...]]) -> str:
    """What the database says that it would do, values and all."""
    compiled = statement.compile(engine())
    expanded = compiled.construct_expanded_state(compiled.params)
    with writing() as session:
        connection = session.connection()
        if connection.dialect.name == "sqlite":
            values = tuple(expanded.positional_parameters)
            return str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {expanded.statement}", values).all())
        # A table of a few rows is read whole however it is indexed, unless that is made to look dear.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        # Or else it goes by what it last saw of the table, which other tests have filled and emptied.
        connection.execute(text("ANALYZE work_units, jobs"))
        return str(connection.exec_driver_sql(f"EXPLAIN {expanded.statement}", dict(expanded.parameters)).all())


@pytest.mark.parametrize("name", SERVED_BY)
def test_a_query_is_served_by_its_index(name: str) -> None:
    for _ in range(3):
        open_job(50)
    statement, index = SERVED_BY[name]
    assert index in plan(statement)
