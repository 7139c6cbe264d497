"""A PostgreSQL that ends sessions and crashes under a job: nothing is lost, nothing is doubled, and no id was a lie."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from orchestrator.bulk_inference import ProgressState, submit_bulk_inference_job
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import dispose, reading
from tests.chaos.harness import Harness
from tests.conftest import Database, create_tables, forget_settings
from tests.support.bulk_inference import Scene, stored
from tests.support.processes import wait_until
from tests.support.reaper import Reaper
from tests.support.services import Postgres, PostgresServer, own_postgres

pytestmark = pytest.mark.faults

#: Of a session at work where there is one, for that is where it hurts.
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
ORDER BY state = 'idle', random() LIMIT 1
"""


@pytest.fixture(scope="module")
def postgres_server(reaper: Reaper) -> Iterator[PostgresServer]:
    """A server that may be crashed: what it has committed is with the kernel, which does not crash."""
    with own_postgres(reaper, synchronous_commit="on") as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An empty database with every table, on a server that may be crashed."""
    with Postgres(postgres_server.url).database() as url:
        create_tables(url)
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", url.render_as_string(hide_password=False))
        forget_settings()
        yield Database("postgres", url, home)
        dispose()


class Submitter:
    """Submits all the while, and keeps the ids that it was given."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.job_ids: list[str] = []
        self.refused = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self.submit_until, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(60)

    def submit_until(self, done: threading.Event) -> None:
        while not done.wait(0.2):
            try:
                self.job_ids.append(submit_bulk_inference_job(self.scene.request()))
            except OperationalError:
                self.refused += 1


def crash(server: PostgresServer, kind: int, harness: Harness) -> None:
    """Crash the server in one of three ways, and have it running again."""
    if kind == 0:
        server.crash()
        server.start()
    elif kind == 1:
        server.stop(signal.SIGQUIT)  # an immediate shutdown: no checkpoint, no farewell
        server.start()
    else:
        children = psutil.Process(server.running.pid).children()
        backends = [child for child in children if "idle" in " ".join(child.cmdline())] or children
        harness.chance.choice(backends).kill()  # the server ends all the others, and recovers by itself


def terminate(database: Database) -> bool:
    """End one session; says whether there was one."""
    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            return connection.execute(TERMINATE).fetchone() is not None
    except psycopg.OperationalError:
        return False  # it recovers


def run_on(
    server: PostgresServer, database: Database, harness: Harness, *, datums: int, sessions: int, crashes: int
) -> None:
    """Run a job of `datums` while so many sessions are ended and the server crashes so often; and small jobs beside."""
    scene, small = harness.scene(datums), harness.scene(3)
    harness.server.behaviour.delay = 0.005
    harness.start(workers=2, concurrency=2)
    job_id = harness.submit(scene)
    harness.until(lambda: harness.job(job_id).num_computed, "the first results", within=60)
    harms = ["session"] * sessions + [f"crash {number % 3}" for number in range(crashes)]
    harness.chance.shuffle(harms)
    submitter = Submitter(small)
    with submitter.at_work():
        for harm in harms:
            harness.pause(harness.chance.uniform(0.05, 0.4))  # the moment is the point: nothing to wait for
            if harm == "session":
                wait_until(lambda: terminate(database), "a session was ended", within=60)
            else:
                crash(server, int(harm[-1]), harness)
                time.sleep(0.2)
    print(f"{len(submitter.job_ids)} submissions, {submitter.refused} refused")
    harness.server.behaviour.delay = 0
    harness.job_ids += submitter.job_ids
    details = harness.wait(within=240)
    assert {(found.status, found.num_failed) for found in details} == {(ProgressState.SUCCEEDED, 0)}
    assert stored(job_id) == list(range(datums))
    with reading() as session:
        known = set(session.scalars(select(BulkInferenceJobRow.id)))
    assert set(submitter.job_ids) <= known


def test_sessions_that_are_ended_and_a_crash_lose_nothing(
    postgres_server: PostgresServer, database: Database, harness: Harness
) -> None:
    run_on(postgres_server, database, harness, datums=1_000, sessions=4, crashes=1)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_fifty_sessions_that_are_ended_and_five_crashes_lose_nothing(
    postgres_server: PostgresServer, database: Database, harness: Harness
) -> None:
    run_on(postgres_server, database, harness, datums=20_000, sessions=50, crashes=5)
