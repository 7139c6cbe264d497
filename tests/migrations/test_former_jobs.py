"""What jobs stored before there was an inference store belongs to it once its tables are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import JSON, Boolean, Connection, DateTime, Engine, Float, Integer, MetaData, insert, select

from orchestrator import clock, schema
from orchestrator.database.engine import open_engine
from orchestrator.inference_store.tables import OriginRow, StoreModelRow

#: Tables of the former version, those that others refer to first, with the values that matter.
FORMER: list[tuple[str, dict[str, Any]]] = [
    ("projects", {"id": "project"}),
    ("datasets", {"id": "dataset", "project_id": "project"}),
    ("snapshots", {"id": "snapshot", "dataset_id": "dataset", "state": "ready", "ready_at": clock.now()}),
    ("models", {"id": "model", "project_id": "project", "task_type": "Image Classification"}),
    ("jobs", {"id": "job", "project_id": "project"}),
    ("bulk_inference_jobs", {"id": "job", "model_id": "model", "snapshot_id": "snapshot", "split": "test"}),
]


@pytest.fixture(params=[pytest.param("sqlite"), pytest.param("postgres", marks=pytest.mark.services)])
def former(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database of the version before the store."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'former.db'}"
        opened = open_engine(url)
        yield _at(opened, "0002")
        opened.dispose()
        return
    with request.getfixturevalue("postgres").database() as server:
        opened = open_engine(server.render_as_string(hide_password=False))
        yield _at(opened, "0002")
        opened.dispose()


def _at(database: Engine, version: str) -> Engine:
    config = schema._config()
    with database.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
        connection.commit()
    return database


def _add(connection: Connection, tables: MetaData, name: str, values: dict[str, Any]) -> None:
    """Insert a row with something in every column."""
    something = {column.name: _something(column.type) for column in tables.tables[name].c if not column.nullable}
    state = {"state": "running"} if name == "bulk_inference_jobs" else {}
    connection.execute(insert(tables.tables[name]).values(something | state | values))


def _something(kind: Any) -> Any:
    match kind:
        case Boolean():
            return False
        case Integer():
            return 1
        case Float():
            return 0.5
        case DateTime():
            return clock.now()
        case JSON():
            return []
        case _:
            return "x"


def test_models_of_former_jobs_are_registered_and_their_inferences_have_an_origin(former: Engine) -> None:
    tables = MetaData()
    tables.reflect(former)
    with former.begin() as connection:
        for name, values in FORMER:
            _add(connection, tables, name, values)
    schema.upgrade(former)
    with former.connect() as connection:
        model = connection.execute(select(StoreModelRow.model_id, StoreModelRow.project_id, StoreModelRow.task_type))
        assert [tuple(row) for row in model] == [("model", "project", "Image Classification")]
        origin = connection.execute(select(OriginRow.bulk_inference_job_id, OriginRow.dataset_snapshot_split))
        assert [tuple(row) for row in origin] == [("job", "test")]
