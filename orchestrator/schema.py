"""The whole schema in one place: every table, and the migrations that make and change them."""

from __future__ import annotations

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData

# Imported for their tables.
import orchestrator.bulk_inference.tables
import orchestrator.inference_store.exports.tables
import orchestrator.inference_store.retention.tables
import orchestrator.inference_store.tables
import orchestrator.ledger.tables
import orchestrator.registry.tables
import orchestrator.schedules.tables
import orchestrator.training_v2.tables
import orchestrator.transitions  # noqa: F401  as those above
from orchestrator.database import Base, engine, exclusive

metadata: MetaData = Base.metadata


def upgrade(target: Engine | None = None) -> None:
    """Bring the configured database, or `target`, up to the newest migration; done twice, it does nothing."""
    # A transaction that is not begun here Alembic would commit on SQLite after each migration.
    with (target or engine()).begin() as connection:
        # Of several that start at once, one creates the tables and the others find them.
        exclusive(connection, "schema")
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current(target: Engine | None = None) -> str | None:
    """The migration that the database is at; None before the first."""
    with (target or engine()).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The newest migration."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None, "the package ships its migrations"
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("orchestrator.database") / "migrations"))
    config.attributes["metadata"] = metadata
    return config
