"""Checks of what a process connects to: database, broker, blob store."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import redis
from kombu.exceptions import OperationalError as BrokerError
from kombu.utils.url import maybe_sanitize_url
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from orchestrator import schema
from orchestrator.database import engine
from orchestrator.database.urls import without_secrets
from orchestrator.doctor.finding import Finding, Level, ok, problem, warning
from orchestrator.errors import OrchestratorError
from orchestrator.ids import new_id
from orchestrator.queues import app
from orchestrator.registry.presence import require_store
from orchestrator.settings import settings
from orchestrator.storage import blobs

#: Seconds that a broker may take to answer.
PATIENCE = 5

MAKE_DATABASE = "run `orchestrator up` for an instance on this machine, or `orchestrator db upgrade`"


def check_database() -> Finding:
    """Whether the database answers. A SQLite file that is not there is not made by asking."""
    try:
        url = make_url(settings().sqlalchemy_url)
    except ArgumentError:
        remedy = "set it to sqlite:///file or postgresql://user:password@host/database"
        return problem("database", "ORCHESTRATOR_DATABASE_URL is no database URL", remedy)
    shown = without_secrets(settings().sqlalchemy_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        return problem("database", f"there is no file {url.database}", MAKE_DATABASE)
    try:
        with engine().connect() as connection:
            connection.execute(text("SELECT 1"))
    except ModuleNotFoundError as error:
        return problem("database", f"{shown}: {error}", "pip install 'orchestrator[postgres]'")
    except SQLAlchemyError as error:
        return problem("database", f"{shown} does not answer: {first_line(error)}", "start it, or mend its URL")
    return ok("database", shown)


def check_migrations() -> Finding:
    """Whether the tables are those that this version needs."""
    found, newest = schema.current(), schema.head()
    if found == newest:
        return ok("migrations", f"at {found}, the newest")
    remedy = "run `orchestrator db upgrade`"
    if found is None:
        return problem("migrations", "the database has no tables", remedy)
    return problem("migrations", f"the database is at {found}, this version needs {newest}", remedy)


def check_broker() -> Finding:
    """Whether the broker answers; of a Redis, also whether it keeps what it is given."""
    url = settings().broker_url.get_secret_value()
    try:
        shown = maybe_sanitize_url(url)
        connection = app.connection_for_read()
    except (ValueError, KeyError):  # a port that is no number, a scheme that nobody knows
        remedy = "set it to redis://host:6379/0 or amqp://user:password@host//"
        return problem("broker", "ORCHESTRATOR_BROKER_URL is no broker URL", remedy)
    remedy = "start it (`orchestrator up` brings its own), or mend ORCHESTRATOR_BROKER_URL; jobs wait meanwhile"
    try:
        if urlsplit(url).scheme in ("redis", "rediss"):
            return check_redis(url, shown)
        with connection:
            connection.ensure_connection(max_retries=1, timeout=PATIENCE)
    except (BrokerError, redis.RedisError, OSError, ValueError) as error:
        return problem("broker", f"{shown} does not answer: {first_line(error)}", remedy)
    return ok("broker", shown)


def check_redis(url: str, shown: str) -> Finding:
    """Whether a Redis answers, and refuses messages rather than drop some when it is full."""
    with redis.Redis.from_url(url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE) as client:
        # INFO and not CONFIG, which managed servers forbid.
        policy = client.info("memory").get("maxmemory_policy")
    if policy in ("noeviction", None):
        return ok("broker", shown)
    remedy = "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration file"
    return warning("broker", f"{shown} has maxmemory-policy {policy}: full, it drops messages", remedy)


def check_blobs() -> Finding:
    """Whether a blob can be written, read and deleted."""
    key = f"doctor/{new_id()}"
    try:
        store = blobs()
        if check_database().level is Level.OK:
            with suppress(SQLAlchemyError):  # it has no tables yet, which another check says
                require_store()
        store.put(key, b"doctor")
        store.get(key)
        store.delete(key)
    except (OrchestratorError, OSError) as error:
        remedy = "check ORCHESTRATOR_BLOB_URL, and that this user may write there"
        return problem("blobs", f"{settings().storage_url}: {first_line(error)}", remedy)
    return ok("blobs", f"{settings().storage_url} is writable")


def first_line(error: BaseException) -> str:
    """What an error says, without the rest that libraries add."""
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    return said[0] if said else type(error).__name__
