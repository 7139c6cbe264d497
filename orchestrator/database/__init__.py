"""The one SQL database: engine, column types, and the few places where dialects differ."""

from orchestrator.database.columns import Base, Identifier, JsonText, UtcDateTime, db_now, storable
from orchestrator.database.dialects import exclusive, insert_ignoring, skip_locked
from orchestrator.database.engine import dispose, engine, reading, transact, writing

__all__ = [
    "Base",
    "Identifier",
    "JsonText",
    "UtcDateTime",
    "db_now",
    "dispose",
    "engine",
    "exclusive",
    "insert_ignoring",
    "reading",
    "skip_locked",
    "storable",
    "transact",
    "writing",
]
