"""The inferring unit, in this process: what it waits for, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference import (
    ProgressState,
    get_bulk_inference_details,
    get_bulk_inference_failures,
    submit_bulk_inference_job,
)
from orchestrator.bulk_inference.record import fail_job
from orchestrator.database import transact
from orchestrator.errors import Unavailable
from orchestrator.ledger import UnitState
from orchestrator.registry import list_datums
from orchestrator.storage import blobs
from orchestrator.storage.local import LocalBlobs
from tests.support.bulk_inference import Scene, claim, run_finish, run_plan, set_scene, skip_delay, stored, waiting
from tests.support.model_server import ModelServer
from workers.inference import connections
from workers.tasks import bulk_inference as tasks
from workers.tasks.bulk_inference import infer
from workers.unit import UnitFailed

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as serving:
        yield serving
        connections.run(connections.disconnect_all())


@pytest.fixture
def scene(database: Database, broker: Broker, tmp_path: Path, server: ModelServer) -> Scene:
    return set_scene(tmp_path, 20, url=server.url)


@pytest.fixture
def job_id(scene: Scene) -> str:
    """A planned job on twenty datums: one unit has all of them."""
    created = submit_bulk_inference_job(scene.request())
    run_plan(created)
    return created


def unit_of(job_id: str) -> ledger.UnitSummary:
    return next(unit for unit in ledger.list_units(job_id) if unit.kind == "bulk_inference.infer")


def test_a_unit_infers_its_datums_and_stores_the_results(job_id: str, server: ModelServer) -> None:
    infer(unit_of(job_id).id)
    assert stored(job_id) == list(range(20))
    assert unit_of(job_id).state == UnitState.DONE
    assert get_bulk_inference_details(job_id).in_flight == 0
    assert len(waiting(job_id, "finish")) == 1


def test_a_message_that_comes_again_does_nothing(job_id: str, server: ModelServer) -> None:
    for _ in range(3):
        infer(unit_of(job_id).id)
    assert server.seen.requests == 20


def test_a_unit_of_a_job_that_has_ended_asks_nobody(job_id: str, server: ModelServer) -> None:
    """The attempt that ended the job was killed before it settled, and reconcile made its unit ready again."""
    lease = claim(job_id, "infer")
    fail_job(lease, "the model is unknown")
    transact(ledger.settle, lease, ledger.Again())
    with pytest.raises(UnitFailed, match="the job has ended: the model is unknown"):
        infer(lease.unit_id)
    assert server.seen.requests == 0
    assert unit_of(job_id).state == UnitState.DEAD
    assert get_bulk_inference_details(job_id).status is ProgressState.FAILED


class Away(LocalBlobs):
    """A store whose server does not answer."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        raise Unavailable(f"the bucket does not answer, asked for {len(keys)} blobs")


def test_a_blob_store_that_is_away_is_waited_for_without_using_up_attempts(
    job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as outage:
        outage.setattr(tasks, "blobs", lambda: Away(tmp_path))
        infer(unit_of(job_id).id)
    assert get_bulk_inference_details(job_id).reason == (
        "waiting for storage: the bucket does not answer, asked for 20 blobs"
    )
    unit = unit_of(job_id)
    assert (unit.state, unit.max_attempts - unit.attempt) == (UnitState.READY, 3)
    skip_delay(unit.id)
    infer(unit.id)
    assert stored(job_id) == list(range(20))
    assert get_bulk_inference_details(job_id).reason == ""


def test_a_datum_whose_blob_is_gone_fails_and_the_others_do_not(scene: Scene, job_id: str) -> None:
    blobs().delete(list_datums(scene.snapshot_id, "default")[7].storage_key)
    infer(unit_of(job_id).id)
    run_finish(job_id)
    assert stored(job_id) == [number for number in range(20) if number != 7]
    [failure] = get_bulk_inference_failures(job_id)
    assert (failure.ordinal, failure.failure_class, failure.attempts) == (7, "item", 0)
    assert "is gone from storage" in failure.message
