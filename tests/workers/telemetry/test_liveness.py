"""Whether a real worker says of itself what is true: it can claim and finish, or it cannot, and why."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url

from orchestrator.bulk_inference import ProgressState, get_bulk_inference_details, submit_bulk_inference_job
from orchestrator.database import reading
from orchestrator.ledger.pulses import pulses
from tests.chaos.proxy import Proxy
from tests.conftest import forget_settings
from tests.end_to_end.conftest import BRISK
from tests.support.bulk_inference import set_scene
from tests.support.model_server import ModelServer
from tests.support.processes import ROOT, Running, Workers, free_port, wait_until

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker

#: Seconds without work done after which a worker counts as unhealthy here; 45 in production.
PATIENCE = 8
#: The same where only an end of it is waited for, never that it lasts.
IMPATIENT = "3"
#: What a busy machine may take to notice.
SOON = 60.0


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as serving:
        yield serving


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {**BRISK, "ORCHESTRATOR_LIVENESS_SECONDS": str(PATIENCE)}.items():
        monkeypatch.setenv(name, value)
    # Workers of other tests on this machine leave their verdicts elsewhere.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    forget_settings()


class Watched:
    """A worker with its port."""

    def __init__(self, workers: Workers, *queues: str, concurrency: int = 2, **environment: str) -> None:
        self.port = free_port()
        named = {"ORCHESTRATOR_METRICS_PORT": str(self.port), **environment}
        self.running: Running = workers.start(*queues, concurrency=concurrency, environment=named)

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with closing(error):
                return error.code, error.read().decode()

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        families = text_string_to_metric_families(self.page("/metrics")[1])
        samples = [sample for family in families for sample in family.samples]
        found = [sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()]
        return sum(found)

    def livez(self) -> tuple[bool, dict[str, Any]]:
        status, body = self.page("/livez")
        said = json.loads(body)
        assert said["healthy"] is (status == 200)
        return said["healthy"], said

    def is_healthy(self) -> bool:
        return self.livez()[0]

    def becomes_unhealthy(self, *words: str) -> None:
        """Wait until it says that it is not well, for a reason that has one of these words in it."""

        def says_so() -> bool:
            healthy, said = self.livez()
            return not healthy and any(word in reason for word in words for reason in said["reasons"])

        wait_until(says_so, f"it is unhealthy because of {words}", within=SOON)

    def becomes_healthy(self) -> None:
        wait_until(self.is_healthy, "it is healthy", within=SOON)

    def children(self) -> list[psutil.Process]:
        """The pool's processes."""
        return [
            child for child in psutil.Process(self.running.pid).children() if "spawn_main" in " ".join(child.cmdline())
        ]


def health_command(*names: str) -> subprocess.CompletedProcess[str]:
    """What an exec probe runs."""
    command = [sys.executable, "-m", "workers.health", *names]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def assert_stays_healthy(worker: Watched, seconds: int) -> None:
    """Look once a second, for longer than the worker's patience."""
    for _ in range(seconds):
        healthy, said = worker.livez()
        assert healthy, said
        time.sleep(1)


@pytest.mark.faults
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_worker_is_healthy_idle_and_unhealthy_once_its_pool_is_frozen(
    worker_processes: Workers, database: Database
) -> None:
    worker = Watched(worker_processes)
    wait_until(lambda: worker.total("orchestrator_pool_places", state="alive") == 2, "the pool lives", within=SOON)
    worker.becomes_healthy()
    assert health_command().returncode == 0
    wait_until(lambda: announced(worker), "the database knows", within=SOON)
    assert health_command("worker-0@nowhere").returncode == 1

    children = worker.children()
    assert len(children) == 2
    freeze(children[0], database)
    assert_stays_healthy(worker, PATIENCE + 1)  # the other place can still claim and finish
    freeze(children[1], database)
    worker.becomes_unhealthy("no pool process shows life")
    assert "no pool process shows life" in wait_until(probe_failure, "an exec probe fails", within=SOON)

    for child in children:
        child.resume()
    worker.becomes_healthy()


def announced(worker: Watched) -> bool:
    """Whether the worker has told the database that it is well, and where its metrics are."""
    with reading() as session:
        told = [pulse.details for pulse in pulses(session, "worker:")]
    return [(details["health"]["healthy"], details["metrics"]) for details in told] == [
        (True, f"127.0.0.1:{worker.port}")
    ]


def freeze(child: psutil.Process, database: Database) -> None:
    """Stop a process between two transactions: within one, it would hold the database's only write lock for good."""

    def is_frozen_without_the_lock() -> bool:
        child.suspend()
        with closing(sqlite3.connect(str(database.url.database), timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                child.resume()
                return False
            connection.execute("ROLLBACK")
        return True

    wait_until(is_frozen_without_the_lock, "it is frozen and others can write")


def probe_failure() -> str:
    """What an exec probe says when it fails; empty as long as it does not."""
    ran = health_command()
    return ran.stdout if ran.returncode else ""


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_worker_whose_broker_swallows_everything_is_unhealthy_until_it_answers_again(
    worker_processes: Workers, broker: Broker, database: Database
) -> None:
    if broker.kind != "redis":
        pytest.skip("once is enough")
    with Proxy(make_url(broker.url).port or 6379) as proxy:
        worker = Watched(
            worker_processes, ORCHESTRATOR_BROKER_URL=proxy.url(broker.url), ORCHESTRATOR_LIVENESS_SECONDS=IMPATIENT
        )
        worker.becomes_healthy()
        proxy.black_hole()
        worker.becomes_unhealthy("broker")
        proxy.heal()
        worker.becomes_healthy()


@pytest.mark.faults
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_worker_without_its_database_is_unhealthy_until_it_is_back(
    worker_processes: Workers, database: Database
) -> None:
    with Proxy(database.url.port or 5432) as proxy:
        behind = database.url.render_as_string(hide_password=False)
        worker = Watched(
            worker_processes, ORCHESTRATOR_DATABASE_URL=proxy.url(behind), ORCHESTRATOR_LIVENESS_SECONDS=IMPATIENT
        )
        worker.becomes_healthy()
        proxy.refuse()
        worker.becomes_unhealthy("OperationalError", "database")
        proxy.heal()
        worker.becomes_healthy()


@pytest.mark.faults
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_worker_that_is_busy_with_a_slow_unit_stays_healthy_and_shows_it(
    worker_processes: Workers, tmp_path: Path, database: Database, server: ModelServer
) -> None:
    server.behaviour.delay = PATIENCE + 1
    scene = set_scene(tmp_path, 2, url=server.url, max_concurrency=8)
    job_id = submit_bulk_inference_job(scene.request())
    worker_processes.beat()
    worker = Watched(worker_processes, concurrency=1)
    wait_until(lambda: worker.total("orchestrator_requests_in_flight") > 0, "the open requests are shown", within=SOON)
    assert worker.total("orchestrator_request_limit") >= worker.total("orchestrator_requests_in_flight")
    assert_stays_healthy(worker, PATIENCE + 1)
    wait_for_success(job_id)
    assert worker.total("orchestrator_datums_total", outcome="stored") == 2

    # What a child has counted outlives it, and so does the worker's health.
    (child,) = worker.children()
    child.kill()
    server.behaviour.delay = 0
    wait_for_success(submit_bulk_inference_job(scene.request()))
    assert worker.total("orchestrator_datums_total", outcome="stored") == 4
    assert worker.total("orchestrator_requests_in_flight") == 0
    assert worker.is_healthy()
    assert worker.total("orchestrator_stale_writes_refused_total") == 0


def wait_for_success(job_id: str) -> None:
    def has_succeeded() -> bool:
        return get_bulk_inference_details(job_id).status is ProgressState.SUCCEEDED

    wait_until(has_succeeded, "the job has succeeded", within=SOON)
