"""The ground that the other tests stand on: servers that are theirs alone, and processes that never stay behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

import kombu
import psutil
import psycopg
import pytest
import redis
from sqlalchemy import inspect, text

from orchestrator.database import Base, engine, reading, writing
from orchestrator.settings import settings
from tests.support.databases import Databases, shape
from tests.support.processes import ROOT, Running, Workers, wait_until
from tests.support.reaper import Reaper
from tests.support.services import SERVICES, Broker, Postgres, own_redis

if TYPE_CHECKING:
    from tests.conftest import Database

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
#: Starts a child of its own, says its number, and sleeps.
PARENT = f"import subprocess, time; print(subprocess.Popen({SLEEP!r}).pid, flush=True); time.sleep(300)"


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def parent(tmp_path: Path, reaper: Reaper) -> Iterator[Running]:
    """A process with a child, which has said the child's number in its log."""
    running = Running([sys.executable, "-c", PARENT], log=tmp_path / "parent.log", reaper=reaper)
    running.wait_ready(lambda: running.log.read_text().endswith("\n"))
    yield running
    running.kill()


def test_the_database_has_every_table_and_this_process_is_set_to_it(database: Database) -> None:
    assert settings().sqlalchemy_url == database.url.render_as_string(hide_password=False)
    assert set(inspect(engine()).get_table_names()) == set(Base.metadata.tables)
    assert engine().dialect.name == {"sqlite": "sqlite", "postgres": "postgresql"}[database.kind]


@pytest.mark.parametrize("round_", [1, 2])
def test_no_test_sees_what_another_wrote(database: Database, round_: int) -> None:
    with writing() as session:
        session.execute(text("CREATE TABLE seen (round INTEGER)"))
        session.execute(text("INSERT INTO seen VALUES (:round)"), {"round": round_})
    with reading() as session:
        assert session.execute(text("SELECT round FROM seen")).scalars().all() == [round_]


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO dispatch_shares (queue, project_id, deficit) VALUES ('a', 'b', 0)",
        "ALTER TABLE gates ADD COLUMN colour TEXT",
        "DROP TABLE gates",
        "CREATE INDEX seen ON gates (name)",
        "ALTER TABLE gates ADD CONSTRAINT seen CHECK (name <> '')",
        "CREATE TRIGGER seen AFTER INSERT ON gates EXECUTE FUNCTION tsvector_update_trigger()",
        "CREATE FUNCTION seen() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA seen",
        "CREATE VIEW seen AS SELECT * FROM gates",
    ],
)
def test_a_database_that_is_handed_on_is_as_a_new_one(
    postgres: Postgres, postgres_databases: Databases, change: LiteralString
) -> None:
    with postgres_databases.database() as url, postgres.connection(url.database) as connection:
        before = shape(connection)
        connection.execute(change)
    with postgres_databases.database() as again, postgres.connection(again.database) as connection:
        assert again.database != url.database
        assert connection.execute("SELECT count(*) FROM dispatch_shares").fetchone() == (0,)
        assert shape(connection) == before


def test_whoever_is_connected_to_a_database_that_is_handed_on_is_cut_off(
    postgres: Postgres, postgres_databases: Databases
) -> None:
    with postgres_databases.database() as url:
        straggler = postgres.connection(url.database)
    with postgres_databases.database(), pytest.raises(psycopg.OperationalError):
        straggler.execute("SELECT 1")
    straggler.close()


@pytest.mark.parametrize("round_", [1, 2])
def test_no_test_finds_a_message_of_another(broker: Broker, round_: int) -> None:
    assert settings().broker_url.get_secret_value() == broker.url
    with kombu.Connection(broker.url) as connection, closing(connection.SimpleQueue("inference")) as queue:
        for _ in range(2):
            queue.put({"round": round_})
        message = queue.get(timeout=10)
        assert message.payload == {"round": round_}
        message.ack()


def test_a_test_without_a_broker_cannot_reach_the_one_of_this_machine() -> None:
    with redis.Redis.from_url(settings().broker_url.get_secret_value()) as client, pytest.raises(redis.ConnectionError):
        client.ping()


@pytest.mark.skipif(bool(SERVICES), reason="uses no server of the machine")
def test_a_redis_that_was_stopped_comes_back_empty_at_the_same_address(reaper: Reaper) -> None:
    with own_redis(reaper) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.stop()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert client.get("key") is None


def test_killing_a_process_kills_its_children_too(parent: Running) -> None:
    child = int(parent.log.read_text())
    parent.kill()
    assert parent.process.returncode == -signal.SIGKILL
    wait_until(lambda: is_gone(child), "the child is gone")


def test_a_process_that_ends_before_it_is_ready_shows_its_log(tmp_path: Path, reaper: Reaper) -> None:
    running = Running([sys.executable, "-c", "print('no such queue')"], log=tmp_path / "log", reaper=reaper)
    with pytest.raises(RuntimeError, match="no such queue"):
        running.wait_ready(lambda: False)
    assert running.stop() == 0


def test_processes_that_a_test_leaves_running_are_killed_at_its_end(tmp_path: Path, reaper: Reaper) -> None:
    workers = Workers(tmp_path, reaper)
    running = workers.run("sleeper", SLEEP)
    workers.close()
    assert not running.is_running
    assert [name for name, _ in workers.logs()] == ["sleeper"]


def test_a_killed_run_leaves_no_process_behind(tmp_path: Path) -> None:
    """The run below starts two processes, forgets one of them, says their numbers, and is killed."""
    program = (
        "import subprocess, sys, time\n"
        "from tests.support.reaper import Reaper\n"
        "with Reaper() as reaper:\n"
        f"    started = [subprocess.Popen({SLEEP!r}, start_new_session=True) for _ in range(2)]\n"
        "    for process in started: reaper.watch(process.pid)\n"
        "    reaper.forget(started[1].pid)\n"
        "    print(*[process.pid for process in started], flush=True)\n"
        "    time.sleep(300)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with run:
        assert run.stdout is not None
        watched, forgotten = map(int, run.stdout.readline().split())
        run.kill()
    try:
        wait_until(lambda: is_gone(watched), "the process is gone")
        assert not is_gone(forgotten)
    finally:
        os.kill(forgotten, signal.SIGKILL)
