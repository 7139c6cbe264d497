"""Jobs on workers that live through all of these tests: poison, servers that go away or refuse, pause, abort, retry."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference import (
    JobDetails,
    ProgressState,
    abort_bulk_inference_job,
    get_bulk_inference_details,
    get_bulk_inference_failures,
    pause_bulk_inference_job,
    resume_bulk_inference_job,
    retry_bulk_inference_job,
    submit_bulk_inference_job,
    wait_for_bulk_inference_job,
)
from orchestrator.bulk_inference.plan import SMALLEST
from orchestrator.database import reading
from orchestrator.ledger import UnitState, UnitSummary
from orchestrator.ledger.tables import UnitRow
from tests.conftest import forget_settings
from tests.end_to_end.conftest import BRISK
from tests.support.bulk_inference import file_name, set_scene, stored
from tests.support.model_server import ModelServer
from tests.support.processes import Workers, free_port, wait_until
from tests.support.reaper import Reaper

if TYPE_CHECKING:
    from tests.support.services import Broker


@pytest.fixture(scope="module")
def environment(
    sqlite_template: Path, redis_broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What this module's workers and tests have in common."""
    folder = tmp_path_factory.mktemp("shared")
    redis_broker.wipe()
    path = shutil.copyfile(sqlite_template, folder / "orchestrator.db")
    return BRISK | {
        "ORCHESTRATOR_HOME": str(folder),
        "ORCHESTRATOR_DATABASE_URL": f"sqlite:///{path}",
        "ORCHESTRATOR_BROKER_URL": redis_broker.url,
    }


@pytest.fixture(scope="module")
def worker_processes(environment: dict[str, str], reaper: Reaper) -> Iterator[Workers]:
    """One worker of two processes, and beat, for all tests here."""
    processes = Workers(Path(environment["ORCHESTRATOR_HOME"]), reaper)
    processes.beat(environment=environment)
    processes.start(environment=environment)
    yield processes
    processes.close()


@pytest.fixture(autouse=True)
def settled(worker_processes: Workers, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process works on the same database and broker as the workers."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_settings()


def finished(job_id: str) -> JobDetails:
    return wait_for_bulk_inference_job(job_id, timeout=timedelta(seconds=60), interval=timedelta(milliseconds=50))


def infer_units(job_id: str) -> list[UnitSummary]:
    units = ledger.list_units(job_id, limit=1000)
    return [unit for unit in units if unit.kind == "bulk_inference.infer"]


def wait_for_results(job_id: str, count: int = 1) -> None:
    wait_until(lambda: get_bulk_inference_details(job_id).num_computed >= count, f"{count} results")


POISON = [0, 15, 16, 700, 1001, 1002, 1999]


def test_poison_items_fail_alone_and_the_threshold_and_a_retry_decide_the_rest(
    tmp_path: Path, server: ModelServer
) -> None:
    server.behaviour.poison = b"POISON"
    scene = set_scene(tmp_path, 2000, url=server.url, poison=POISON)
    strict = submit_bulk_inference_job(scene.request(batch_size=16))
    lenient = submit_bulk_inference_job(scene.request(batch_size=16), failure_threshold=0.01)
    for job_id, state in ((strict, ProgressState.FAILED), (lenient, ProgressState.SUCCEEDED)):
        details = finished(job_id)
        assert (details.status, details.num_computed, details.num_failed) == (state, 1993, 7)
        assert stored(job_id) == sorted(set(range(2000)) - set(POISON))
        failures = get_bulk_inference_failures(job_id)
        assert [(failure.ordinal, failure.path) for failure in failures] == [(n, file_name(n)) for n in POISON]
        assert {(f.failure_class, f.status, f.message) for f in failures} == {
            ("item", 400, "HTTP 400: an item cannot be read")
        }
    assert finished(strict).reason == "7 of 2000 datums failed (0.35%), more than the threshold of 0.00%"

    server.behaviour.poison = b""
    asked = server.seen.requests
    retry_bulk_inference_job(strict)
    details = finished(strict)
    assert (details.status, details.num_computed, details.num_failed) == (ProgressState.SUCCEEDED, 2000, 0)
    assert stored(strict) == list(range(2000))
    assert server.seen.requests - asked == len({number // SMALLEST for number in POISON})  # a batch for each unit


def test_a_server_that_is_down_at_the_start_is_waited_for(tmp_path: Path) -> None:
    port = free_port()
    job_id = submit_bulk_inference_job(set_scene(tmp_path, 200, url=f"http://127.0.0.1:{port}").request())
    wait_until(lambda: get_bulk_inference_details(job_id).reason.startswith("waiting for endpoint"), "it says why")
    assert get_bulk_inference_details(job_id).status is ProgressState.RUNNING
    with ModelServer(port=port):
        details = finished(job_id)
    assert (details.status, details.num_computed, details.reason) == (ProgressState.SUCCEEDED, 200, "")
    assert {unit.max_attempts - unit.attempt for unit in infer_units(job_id)} == {3}  # none was used up


def test_a_server_that_goes_down_in_the_middle_is_waited_for(tmp_path: Path) -> None:
    with ModelServer(delay=0.02) as server:
        scene = set_scene(tmp_path, 2000, url=server.url, max_concurrency=4)
        job_id = submit_bulk_inference_job(scene.request())
        wait_for_results(job_id, 50)
    wait_until(lambda: get_bulk_inference_details(job_id).reason.startswith("waiting for endpoint"), "it says why")
    before = get_bulk_inference_details(job_id)
    assert (before.status, before.num_failed) == (ProgressState.RUNNING, 0)
    with ModelServer(port=server.port):
        details = finished(job_id)
    assert (details.status, details.num_computed, details.reason) == (ProgressState.SUCCEEDED, 2000, "")
    assert stored(job_id) == list(range(2000))
    assert {unit.max_attempts - unit.attempt for unit in infer_units(job_id)} == {3}


def test_an_endpoint_that_refuses_fails_the_job_at_once_with_its_reason(tmp_path: Path, server: ModelServer) -> None:
    scene = set_scene(tmp_path, 500, url=server.url, model_name="unheard-of")
    details = finished(submit_bulk_inference_job(scene.request(), failure_threshold=1.0))
    assert (details.status, details.num_computed) == (ProgressState.FAILED, 0)
    assert details.reason == f"{server.url} will not serve 'unheard-of': HTTP 404: not found"
    wait_until(lambda: not get_bulk_inference_details(details.job_id).units.keys() & {"ready", "leased"}, "all ended")
    assert server.seen.requests == 0


def test_a_refusal_in_the_middle_keeps_the_results_and_a_retry_infers_the_rest(
    tmp_path: Path, server: ModelServer
) -> None:
    server.behaviour.delay = 0.02
    job_id = submit_bulk_inference_job(set_scene(tmp_path, 1000, url=server.url, max_concurrency=4).request())
    wait_for_results(job_id, 50)
    server.behaviour.model = "another"
    details = finished(job_id)
    assert (details.status, details.num_failed) == (ProgressState.FAILED, 0)
    assert "HTTP 404: unknown model" in details.reason
    assert 50 <= details.num_computed == len(stored(job_id)) < 1000

    server.behaviour.model, server.behaviour.delay = "model", 0
    retry_bulk_inference_job(job_id)
    assert finished(job_id).status is ProgressState.SUCCEEDED
    assert stored(job_id) == list(range(1000))


def test_a_paused_job_stops_and_goes_on_when_it_is_resumed(tmp_path: Path, server: ModelServer) -> None:
    server.behaviour.delay = 0.02
    job_id = submit_bulk_inference_job(set_scene(tmp_path, 2000, url=server.url, max_concurrency=4).request())
    wait_for_results(job_id, 50)
    pause_bulk_inference_job(job_id)
    wait_until(lambda: not get_bulk_inference_details(job_id).units.keys() & {"leased", "published"}, "it has stopped")
    details = get_bulk_inference_details(job_id)
    assert details.paused
    assert details.num_computed == len(server.seen.answered) < 2000  # what was inferred by then is stored
    assert ledger.dispatch() == 0

    server.behaviour.delay = 0
    resume_bulk_inference_job(job_id)
    details = finished(job_id)
    assert (details.status, details.num_computed) == (ProgressState.SUCCEEDED, 2000)
    assert set(server.seen.answered.values()) == {1}
    assert {unit.max_attempts - unit.attempt for unit in infer_units(job_id)} == {3}


def test_an_aborted_job_stops_and_keeps_what_it_has_stored(tmp_path: Path, server: ModelServer) -> None:
    server.behaviour.delay = 0.02
    job_id = submit_bulk_inference_job(set_scene(tmp_path, 2000, url=server.url, max_concurrency=4).request())
    wait_for_results(job_id, 50)
    aborted = abort_bulk_inference_job(job_id, reason="enough")
    assert (aborted.status, aborted.reason) == (ProgressState.ABORTED, "enough")
    wait_until(lambda: any(unit.stale_writes for unit in infer_units(job_id)), "those at work have noticed")
    details = get_bulk_inference_details(job_id)
    assert details.num_computed == aborted.num_computed == len(stored(job_id))
    assert set(details.units) <= {UnitState.DONE, UnitState.CANCELLED}


def test_a_datum_whose_process_is_killed_every_time_is_given_up_and_the_rest_is_done(
    tmp_path: Path, server: ModelServer
) -> None:
    server.behaviour.delay = 0.25
    scene = set_scene(tmp_path, SMALLEST + 1, url=server.url, max_concurrency=4)
    job_id = submit_bulk_inference_job(scene.request())
    wait_until(lambda: len(infer_units(job_id)) == 2, "a unit for the last datum alone")
    victim = max(infer_units(job_id), key=lambda unit: unit.id)
    for attempt in (1, 2, 3):
        os.kill(process_of(victim.id, attempt), signal.SIGKILL)
    server.behaviour.delay = 0
    details = finished(job_id)
    assert (details.status, details.num_computed, details.num_failed) == (ProgressState.FAILED, SMALLEST, 1)
    assert {unit.key: unit.state for unit in infer_units(job_id)}[victim.key] == UnitState.DEAD
    (failure,) = get_bulk_inference_failures(job_id)
    assert (failure.failure_class, failure.ordinal) == ("abandoned", SMALLEST)
    assert failure.message.startswith("its unit died after 3 attempts: the attempt fell silent")
    assert stored(job_id) == list(range(SMALLEST))


def process_of(unit_id: str, attempt: int) -> int:
    """The process that works on this attempt, once there is one: its lease names it."""

    def owner() -> str | None:
        with reading() as session:
            unit = session.get_one(UnitRow, unit_id)
            return unit.lease_owner if unit.attempt == attempt else None

    name = wait_until(owner, f"attempt {attempt}")
    assert name is not None
    return int(name.rpartition(":")[2])
