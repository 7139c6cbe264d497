"""Migrations: they make exactly the tables that the code declares, on both databases, once, and back again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from orchestrator import schema
from orchestrator.database import Base
from orchestrator.database.engine import open_engine
from tests.support.processes import ROOT


@pytest.fixture(params=[pytest.param("sqlite"), pytest.param("postgres", marks=pytest.mark.services)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database without any table; of each kind in turn."""
    if request.param == "sqlite":
        opened = open_engine(f"sqlite:///{tmp_path / 'empty.db'}")
        yield opened
        opened.dispose()
        return
    with request.getfixturevalue("postgres").database() as url:
        opened = open_engine(url.render_as_string(hide_password=False))
        yield opened
        opened.dispose()


def differences(database: Engine) -> list[object]:
    """What Alembic would change to make the database match the tables."""
    with database.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, schema.metadata))


def described(database: Engine) -> dict[str, object]:
    """What Alembic does not compare: CHECK constraints, partial indexes, collations, keys."""
    seen = inspect(database)
    tables = sorted(set(seen.get_table_names()) - {"alembic_version"})
    return {
        table: (
            sorted((str(check["name"]), str(check["sqltext"])) for check in seen.get_check_constraints(table)),
            sorted(
                f"{index['name']} {index['column_names']} {index['unique']} "
                f"{[(option, str(value)) for option, value in index.get('dialect_options', {}).items()]}"
                for index in seen.get_indexes(table)
            ),
            sorted(map(repr, seen.get_unique_constraints(table))),
            sorted(map(repr, seen.get_foreign_keys(table))),
            repr(seen.get_pk_constraint(table)),
            sorted(f"{column['name']} {column['type']!r} {column['nullable']}" for column in seen.get_columns(table)),
        )
        for table in tables
    }


def downgrade(database: Engine) -> None:
    config = schema._config()
    with database.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.commit()


def test_upgrading_makes_the_tables_that_the_code_declares(empty: Engine) -> None:
    schema.upgrade(empty)
    assert differences(empty) == []
    assert set(inspect(empty).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_migrated_tables_are_those_that_the_tests_use_to_the_last_constraint(empty: Engine) -> None:
    schema.upgrade(empty)
    migrated = described(empty)
    downgrade(empty)
    Base.metadata.create_all(empty)
    assert migrated == described(empty)


def test_upgrading_twice_changes_nothing(empty: Engine) -> None:
    schema.upgrade(empty)
    with empty.begin() as connection:
        connection.execute(text("INSERT INTO dispatch_shares VALUES ('q', 'p', 1.5)"))
    schema.upgrade(empty)
    with empty.connect() as connection:
        assert connection.execute(text("SELECT deficit FROM dispatch_shares")).scalars().all() == [1.5]


def test_several_that_upgrade_at_once_upgrade_once(empty: Engine) -> None:
    # Processes: Alembic keeps what it works on in a module of its own.
    command_line = [sys.executable, "-c", "from orchestrator import schema; schema.upgrade()"]
    url = empty.url.render_as_string(hide_password=False)
    environment = {**os.environ, "ORCHESTRATOR_DATABASE_URL": url}
    started = [
        subprocess.Popen(command_line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    errors = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], errors
    assert schema.current(empty) == schema.head()
    assert differences(empty) == []


def test_a_database_knows_how_far_it_is(empty: Engine) -> None:
    assert schema.current(empty) is None
    schema.upgrade(empty)
    assert schema.current(empty) == schema.head()


def test_downgrading_leaves_nothing_behind_and_can_be_undone(empty: Engine) -> None:
    schema.upgrade(empty)
    downgrade(empty)
    assert set(inspect(empty).get_table_names()) <= {"alembic_version"}
    assert schema.current(empty) is None
    schema.upgrade(empty)
    assert differences(empty) == []


def test_an_upgrade_that_fails_midway_leaves_the_database_as_it_was(empty: Engine) -> None:
    """A table of the second migration is there already; none of the first may stay."""
    with empty.begin() as connection:
        connection.execute(text("CREATE TABLE gates (id INTEGER)"))
    with pytest.raises(Exception, match=r"gates.* already exists"):
        schema.upgrade(empty)
    assert set(inspect(empty).get_table_names()) <= {"gates", "alembic_version"}
    assert schema.current(empty) is None
