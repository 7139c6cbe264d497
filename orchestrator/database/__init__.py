"""The one SQL database: engine, column types, and the few places where dialects differ."""

from orchestrator.database.bulk import fetch_rows, insert_rows, instant_text
from orchestrator.database.columns import Base, Identifier, JsonText, UtcDateTime, db_now, ilike, storable
from orchestrator.database.dialects import exclusive, insert_ignoring, of_each, skip_locked
from orchestrator.database.engine import checkpoint, dispose, engine, give_way, reading, transact, writing

__all__ = [
    "Base",
    "Identifier",
    "JsonText",
    "UtcDateTime",
    "checkpoint",
    "db_now",
    "dispose",
    "engine",
    "exclusive",
    "fetch_rows",
    "give_way",
    "ilike",
    "insert_ignoring",
    "insert_rows",
    "instant_text",
    "of_each",
    "reading",
    "skip_locked",
    "storable",
    "transact",
    "writing",
]
