"""What every test may ask for: a database, a broker, real worker processes; and surroundings that are its own.

`make test` runs every test on servers of the run's own: SQLite, PostgreSQL and Redis. `make services` repeats, on
this machine's servers, what their kind or their version can make a difference to: each statement on its PostgreSQL,
each message through its Redis and its RabbitMQ. Tests of whole processes (`worker_processes`) say nothing new there
but on RabbitMQ; tests that start a server of their own say nothing new at all.
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import hypothesis
import pytest
from sqlalchemy import URL, make_url

import orchestrator
from orchestrator.database import Base, dispose
from orchestrator.database.engine import open_engine
from orchestrator.settings import settings
from tests.support.databases import Databases
from tests.support.engines import Engines
from tests.support.processes import Workers
from tests.support.reaper import Reaper
from tests.support.seed import SEED, SEED_VARIABLE
from tests.support.services import (
    SERVICES,
    Broker,
    Postgres,
    machine_postgres,
    machine_rabbitmq,
    machine_redis,
    own_postgres,
    own_redis,
)

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

#: On this machine's servers, SQLite has been tested already.
DATABASES = ["postgres"] if SERVICES else ["sqlite", "postgres"]
BROKERS = ["redis", "rabbitmq"] if SERVICES else ["redis"]
#: Nobody listens here: a test that forgot to ask for a broker must not find the machine's.
NO_BROKER = "redis://127.0.0.1:1/0"


@dataclass(frozen=True)
class Database:
    """Where the test's tables are; the settings of this process and of its children say the same."""

    kind: Literal["sqlite", "postgres"]
    url: URL
    home: Path


def pytest_configure() -> None:
    """Let what the tests start hear Ctrl-C: in the background a shell has it ignored, which children inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """How to repeat the run's chaos."""
    return f"{SEED_VARIABLE}={SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make services` repeats."""
    for item in items:
        if isinstance(item, pytest.Function) and depends_on_services(item):
            item.add_marker("services")


def depends_on_services(item: pytest.Function) -> bool:
    """Whether the machine's servers can make a difference to this test."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if parameters.get("broker") == "rabbitmq":
        return True
    if "worker_processes" in item.fixturenames:
        return False
    return "broker" in parameters or parameters.get("database") == "postgres" or "postgres" in item.fixturenames


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of a failed test's processes in its report."""
    report = yield
    processes = getattr(item, "funcargs", {}).get("worker_processes")
    if report.failed and processes is not None:
        report.sections.extend((f"log of {name}", tail) for name, tail in processes.logs())
    return report


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder; no setting of the person who runs the tests reaches one of them."""
    for name in [name for name in os.environ if name.startswith("ORCHESTRATOR_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(folder))
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", NO_BROKER)
    # A test that looks at once at what a nudge did must not depend on how busy the machine is.
    monkeypatch.setattr("orchestrator.ledger.nudging.PATIENCE", 10.0)
    monkeypatch.setattr("orchestrator.ledger.nudging._away_until", 0.0)
    forget_settings()
    yield folder
    hang_up()


def forget_settings() -> None:
    """Have this process read its settings, and open its connections, anew."""
    hang_up()
    if "orchestrator.queues" in sys.modules:
        from kombu import pools

        from orchestrator.queues import app, celery_settings

        app.conf.update(celery_settings(settings()))
        # Queues and pools are kept once made, and would lead to the broker of the test before.
        app.__dict__.pop("amqp", None)
        app._after_fork()
        # A connection remembers which queues it has declared; the next test deletes them.
        pools.reset()
        settings.cache_clear()


def hang_up() -> None:
    """Close what this process has opened to its database, once nothing is under way any more."""
    if "orchestrator.ledger" in sys.modules:
        from orchestrator.ledger import settle_nudges

        settle_nudges(10)
    dispose()
    settings.cache_clear()


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Ends what this run started, should the run be killed."""
    with Reaper() as watching:
        yield watching


@pytest.fixture(scope="session")
def postgres(reaper: Reaper) -> Iterator[Postgres]:
    """A PostgreSQL server: this run's own, or the machine's under `make services`."""
    if SERVICES:
        yield machine_postgres()
        return
    with own_postgres(reaper) as server:
        yield Postgres(server.url)


@pytest.fixture(scope="session")
def postgres_databases(postgres: Postgres) -> Iterator[Databases]:
    """Databases that hold every table and no row."""
    with postgres.database() as url:
        create_tables(url)
        assert url.database is not None
        databases = Databases(postgres, url.database, [table.name for table in reversed(Base.metadata.sorted_tables)])
        yield databases
        databases.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that holds every table and no row."""
    path = tmp_path_factory.mktemp("template") / "orchestrator.db"
    create_tables(make_url(f"sqlite:///{path}"))
    return path


def create_tables(url: URL) -> None:
    """Make every table of the project."""
    import_tables()
    engine = open_engine(url.render_as_string(hide_password=False))
    Base.metadata.create_all(engine)
    engine.dispose()


def import_tables() -> None:
    """Import every module of tables: only then does the metadata know them."""
    if importlib.util.find_spec("orchestrator.schema"):
        importlib.import_module("orchestrator.schema")
        return
    for module in pkgutil.walk_packages(orchestrator.__path__, "orchestrator."):
        if module.name.endswith(".tables"):
            importlib.import_module(module.name)


@pytest.fixture(scope="session")
def engines() -> Engines:
    """The engines that tests on a database of their own share, one after the other."""
    return Engines()


@pytest.fixture(params=DATABASES)
def database(
    request: pytest.FixtureRequest, home: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """An empty database with every table, as this process's configured one; on each kind in turn."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            home.mkdir()
            path = shutil.copyfile(request.getfixturevalue("sqlite_template"), home / "orchestrator.db")
            url = make_url(f"sqlite:///{path}")
        else:
            url = stack.enter_context(request.getfixturevalue("postgres_databases").database())
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", url.render_as_string(hide_password=False))
        engines.serve(url)
        # The module, which the package hides behind the function of the same name.
        monkeypatch.setattr(importlib.import_module("orchestrator.database.engine"), "open_engine", engines.open)
        # Celery is told nothing about the database.
        hang_up()
        yield Database(request.param, url, home)
        hang_up()


@pytest.fixture(scope="session")
def redis_broker(reaper: Reaper) -> Iterator[Broker]:
    """A Redis: this run's own, or one database of the machine's under `make services`."""
    if SERVICES:
        with machine_redis() as broker:
            yield broker
        return
    with own_redis(reaper) as server:
        yield Broker("redis", server.url)


@pytest.fixture(scope="session")
def rabbitmq_broker() -> Iterator[Broker]:
    """A virtual host of this machine's RabbitMQ."""
    with machine_rabbitmq() as broker:
        yield broker


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, home: Path) -> Broker:
    """An empty broker, as this process's configured one; under `make services` on each kind in turn."""
    chosen: Broker = request.getfixturevalue(f"{request.param}_broker")
    chosen.clear()
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", chosen.url)
    forget_settings()
    return chosen


@pytest.fixture
def worker_processes(tmp_path: Path, reaper: Reaper, broker: Broker, database: Database) -> Iterator[Workers]:
    """Starts real workers and beat on this test's database and broker; kills what still runs at the end."""
    processes = Workers(tmp_path, reaper)
    yield processes
    processes.close()
