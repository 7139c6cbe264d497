"""Whatever is killed, frozen or wiped in the middle of a job: every datum has one result, and progress says so."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference import (
    JobDetails,
    ProgressState,
    get_bulk_inference_details,
    get_bulk_inference_job,
    submit_bulk_inference_job,
    wait_for_bulk_inference_job,
)
from orchestrator.ledger import UnitState
from tests.conftest import forget_settings
from tests.end_to_end.conftest import BRISK
from tests.support.bulk_inference import content, set_scene, stored
from tests.support.model_server import ModelServer
from tests.support.processes import Running, Workers, wait_until

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker

DATUMS = 5000


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BRISK.items():
        monkeypatch.setenv(name, value)
    forget_settings()


@pytest.fixture
def job_id(database: Database, broker: Broker, brisk: None, tmp_path: Path, server: ModelServer) -> str:
    """A job that takes some seconds, so that there is a middle to interfere in."""
    server.behaviour.delay = 0.01
    scene = set_scene(tmp_path, DATUMS, url=server.url, max_concurrency=8)
    return submit_bulk_inference_job(scene.request())


def wait_for_results(job_id: str, count: int) -> None:
    wait_until(lambda: get_bulk_inference_details(job_id).num_computed >= count, f"{count} results", within=60)


def finished(job_id: str) -> JobDetails:
    return wait_for_bulk_inference_job(job_id, timeout=timedelta(seconds=90), interval=timedelta(milliseconds=100))


def assert_complete(job_id: str) -> None:
    details = finished(job_id)
    assert (details.status, details.reason) == (ProgressState.SUCCEEDED, "")
    assert stored(job_id) == list(range(DATUMS))
    job = get_bulk_inference_job(job_id)
    assert job is not None
    assert (job.num_computed, job.expected_total, details.num_failed) == (DATUMS, DATUMS, 0)


@pytest.mark.parametrize("database", [pytest.param("sqlite", marks=pytest.mark.faults), "postgres"], indirect=True)
def test_a_killed_worker_loses_nothing_and_nothing_stored_is_inferred_again(
    job_id: str, server: ModelServer, worker_processes: Workers
) -> None:
    worker_processes.beat()
    worker = worker_processes.start()
    wait_for_results(job_id, 1000)
    worker.kill()
    wait_until(lambda: server.seen.in_flight == 0, "the server has answered what was in flight")
    asked, kept = server.seen.requests, len(stored(job_id))
    assert 1000 <= kept < DATUMS

    server.behaviour.delay = 0
    worker_processes.start()
    assert_complete(job_id)
    assert server.seen.requests - asked == DATUMS - kept


@pytest.mark.faults
def test_a_wiped_broker_loses_nothing(
    job_id: str, broker: Broker, server: ModelServer, worker_processes: Workers
) -> None:
    worker_processes.beat()
    worker_processes.start()
    for count in (500, 1500):
        wait_for_results(job_id, count)
        broker.wipe()
    server.behaviour.delay = 0
    assert_complete(job_id)
    assert server.seen.answered == {content(number): 1 for number in range(DATUMS)}


@pytest.mark.faults
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_frozen_worker_that_wakes_up_writes_nothing(
    job_id: str, database: Database, server: ModelServer, worker_processes: Workers
) -> None:
    worker_processes.beat()
    frozen = worker_processes.start(concurrency=1)
    wait_for_results(job_id, 200)
    freeze(frozen, database)
    server.behaviour.delay = 0
    worker_processes.start()
    assert_complete(job_id)
    before = finished(job_id)

    os.killpg(frozen.pid, signal.SIGCONT)
    refused = wait_until(
        lambda: [unit for unit in ledger.list_units(job_id, limit=100) if unit.stale_writes], "a write was refused"
    )
    assert [(unit.state, unit.attempt, unit.stale_writes) for unit in refused] == [(UnitState.DONE, 2, 1)]
    assert get_bulk_inference_details(job_id) == before
    assert stored(job_id) == list(range(DATUMS))


def freeze(worker: Running, database: Database) -> None:
    """Stop a worker between two writes: within one, it would hold the database's only write lock for good."""

    def is_frozen() -> bool:
        os.killpg(worker.pid, signal.SIGSTOP)
        if nobody_writes(database) and any(unit.state == UnitState.LEASED for unit in ledger.list_units(limit=100)):
            return True
        os.killpg(worker.pid, signal.SIGCONT)
        return False

    wait_until(is_frozen, "the worker is frozen with a lease and without a lock")


def nobody_writes(database: Database) -> bool:
    """Whether the database's write lock is to be had."""
    with closing(sqlite3.connect(str(database.url.database), timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True
