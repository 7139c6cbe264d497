"""The inferring unit, in this process: what it waits for, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from orchestrator import ledger
from orchestrator.bulk_inference import (
    ProgressState,
    get_bulk_inference_details,
    get_bulk_inference_failures,
    retry_bulk_inference_job,
    submit_bulk_inference_job,
    suspects,
)
from orchestrator.bulk_inference.record import fail_job
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import reading, transact, writing
from orchestrator.errors import Unavailable
from orchestrator.ledger import UnitState
from orchestrator.ledger.tables import GateRow
from orchestrator.registry import list_datums
from orchestrator.storage import blobs
from orchestrator.storage.local import LocalBlobs
from tests.support.bulk_inference import (
    Scene,
    claim,
    run_finish,
    run_plan,
    set_scene,
    settle,
    skip_delay,
    store,
    stored,
    waiting,
)
from tests.support.model_server import ModelServer, Reply
from workers.inference import connections
from workers.tasks import bulk_inference as tasks
from workers.tasks.bulk_inference import finish, infer
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


def test_a_server_that_answers_rubbish_to_everything_is_waited_for_and_no_datum_fails(
    job_id: str, server: ModelServer
) -> None:
    server.behaviour.script.extend([Reply(200, b"<html>please log in</html>")] * 1000)
    infer(unit_of(job_id).id)
    details = get_bulk_inference_details(job_id)
    assert (details.num_computed, details.num_failed) == (0, 0)
    assert details.reason.startswith(f"waiting for endpoint {server.url}: bad answer: ")
    assert details.reason.endswith("nothing else is served either")
    assert server.seen.requests < 100
    unit = unit_of(job_id)
    assert (unit.state, unit.max_attempts - unit.attempt) == (UnitState.READY, 3)

    server.behaviour.script.clear()
    skip_delay(unit.id)
    open_gates()
    infer(unit.id)
    assert stored(job_id) == list(range(20))
    assert get_bulk_inference_details(job_id).reason == ""


def test_a_server_that_refuses_every_datum_is_waited_for_no_more(
    job_id: str, scene: Scene, server: ModelServer
) -> None:
    server.behaviour.ready = False
    server.behaviour.script.extend([Reply(500)] * 1000)
    infer(unit_of(job_id).id)
    assert get_bulk_inference_details(job_id).reason.startswith(f"waiting for endpoint {server.url}: HTTP 500")

    server.behaviour.ready, server.behaviour.poison = True, b"datum"
    server.behaviour.script.clear()
    skip_delay(unit_of(job_id).id)
    open_gates()
    infer(unit_of(job_id).id)
    details = get_bulk_inference_details(job_id)
    assert (details.num_computed, details.num_failed, details.reason) == (0, 20, "")
    with reading() as session:
        gate = ledger.gates.find(session, scene.model_id)
    assert gate is not None
    assert gate.reason == ""


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Ordinals on which every attempt gets nowhere."""
    ordinals: set[int] = set()
    infer_all = tasks.infer_all

    async def infer_unless_deadly(lease: ledger.Lease, *rest: Any) -> tasks.Ended:
        if ordinals & set(range(lease.payload["low"], lease.payload["high"])):
            raise RuntimeError("it was killed")
        return await infer_all(lease, *rest)

    monkeypatch.setattr(tasks, "infer_all", infer_unless_deadly)
    return ordinals


def infer_everything(job_id: str) -> None:
    """Run the job's inferring units until none is left."""
    while units := waiting(job_id, "infer"):
        skip_delay(units[0].id)
        with suppress(UnitFailed):
            infer(units[0].id)


def test_a_unit_whose_attempt_got_nowhere_is_cut_up_until_the_culprit_is_alone(job_id: str, deadly: set[int]) -> None:
    deadly.add(7)
    infer_everything(job_id)
    units = {unit.key: unit for unit in ledger.list_units(job_id) if unit.kind == "bulk_inference.infer"}
    whole, culprit = units.pop("datums 0-20"), units.pop("suspects 7-8")
    assert (whole.state, whole.attempt, whole.done_count) == (UnitState.DONE, 2, 0)
    assert (culprit.state, culprit.attempt) == (UnitState.DEAD, 3)
    assert {unit.state for unit in units.values()} == {UnitState.DONE}
    assert stored(job_id) == [ordinal for ordinal in range(20) if ordinal != 7]
    finish(waiting(job_id, "finish")[0].id)
    (failure,) = get_bulk_inference_failures(job_id)
    assert (failure.failure_class, failure.ordinal) == ("abandoned", 7)
    assert failure.message == "its unit died after 3 attempts: RuntimeError: it was killed"


def test_pieces_take_along_what_earlier_attempts_left_in_them(job_id: str, deadly: set[int]) -> None:
    lease = claim(job_id, "infer")
    store(lease, [0, 1, 6, 7, 12], failed=[10])
    transact(ledger.settle, lease, ledger.Again())
    deadly.add(19)
    for _ in range(2):
        skip_delay(lease.unit_id)
        with suppress(UnitFailed):
            infer(lease.unit_id)
    units = [unit for unit in ledger.list_units(job_id) if unit.kind == "bulk_inference.infer"]
    assert {unit.key: (unit.done_count, unit.failed_count) for unit in units} == {
        "datums 0-20": (2, 0),
        "suspects 2-8": (2, 0),
        "suspects 8-14": (1, 1),
        "suspects 14-18": (0, 0),
        "suspects 18-20": (0, 0),
    }
    deadly.clear()
    infer_everything(job_id)
    assert stored(job_id) == [ordinal for ordinal in range(20) if ordinal != 10]
    assert sum(unit.done_count for unit in ledger.list_units(job_id)) == 19


def test_a_job_on_which_every_process_dies_is_not_cut_up_without_end(
    job_id: str, deadly: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "ALLOWANCE", 5)
    deadly.update(range(20))
    infer_everything(job_id)
    units = [unit for unit in ledger.list_units(job_id) if unit.kind == "bulk_inference.infer"]
    assert sum(unit.key.startswith(suspects.KEY) for unit in units) == 7
    assert {(unit.state, unit.attempt) for unit in units} == {(UnitState.DONE, 2), (UnitState.DEAD, 3)}


def open_gates() -> None:
    """Let the time pass for which gates are shut."""
    with writing() as session:
        session.execute(update(GateRow).values(shut_until=None))


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
    assert get_bulk_inference_details(job_id).reason == ("waiting: the bucket does not answer, asked for 20 blobs")
    unit = unit_of(job_id)
    assert (unit.state, unit.max_attempts - unit.attempt) == (UnitState.READY, 3)
    skip_delay(unit.id)
    infer(unit.id)
    assert stored(job_id) == list(range(20))
    assert get_bulk_inference_details(job_id).reason == ""


def test_a_blob_folder_that_is_not_mounted_is_waited_for_and_no_datum_fails(job_id: str, home: Path) -> None:
    (home / "blobs").rename(home / "elsewhere")
    (home / "blobs").mkdir()  # the mount point
    infer(unit_of(job_id).id)
    details = get_bulk_inference_details(job_id)
    assert (details.num_computed, details.num_failed) == (0, 0)
    assert "is away, or empty: mount it" in details.reason
    (home / "blobs").rmdir()
    (home / "elsewhere").rename(home / "blobs")
    skip_delay(unit_of(job_id).id)
    infer(unit_of(job_id).id)
    assert stored(job_id) == list(range(20))


def test_a_blob_store_that_is_away_when_a_job_is_evaluated_is_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(job: BulkInferenceJobRow) -> dict[str, float]:
        raise Unavailable("the bucket does not answer")

    job_id = submit_bulk_inference_job(scene.request())
    run_plan(job_id)
    infer(unit_of(job_id).id)
    with writing() as session:
        session.get_one(BulkInferenceJobRow, job_id).evaluate_metrics = True
    (finishing,) = waiting(job_id, "finish")
    with monkeypatch.context() as outage:
        outage.setattr(tasks, "measure", measure)
        finish(finishing.id)
    assert get_bulk_inference_details(job_id).reason == "waiting: the bucket does not answer"
    (unit,) = waiting(job_id, "finish")
    assert unit.max_attempts - unit.attempt == 3
    skip_delay(unit.id)
    monkeypatch.setattr(tasks, "measure", lambda job: {"accuracy": 1.0})
    finish(unit.id)
    details = get_bulk_inference_details(job_id)
    assert (details.status, details.reason) == (ProgressState.SUCCEEDED, "")


def test_a_datum_whose_blob_is_gone_fails_and_the_others_do_not(scene: Scene, job_id: str) -> None:
    blobs().delete(list_datums(scene.snapshot_id, "default")[7].storage_key)
    infer(unit_of(job_id).id)
    run_finish(job_id)
    assert stored(job_id) == [number for number in range(20) if number != 7]
    [failure] = get_bulk_inference_failures(job_id)
    assert (failure.ordinal, failure.failure_class, failure.attempts) == (7, "item", 0)
    assert "is gone from storage" in failure.message


def test_what_a_killed_attempt_left_behind_a_cut_is_retried(scene: Scene, job_id: str) -> None:
    """It had several requests under way, and one that failed lies behind one that it lost."""
    lease = claim(job_id, "infer")
    store(lease, [0, 2, 3], [4])
    transact(ledger.settle, lease, ledger.Again())
    second = claim(job_id, "infer")
    store(second, [1])
    settle(second, tasks.follow_up(second, job_row(job_id), tasks.Ended(2, 10.0), is_wanted=True))
    while waiting(job_id, "infer"):
        infer(waiting(job_id, "infer")[0].id)
    run_finish(job_id)
    assert [failure.ordinal for failure in get_bulk_inference_failures(job_id)] == [4]

    retry_bulk_inference_job(job_id)
    while waiting(job_id, "infer"):
        infer(waiting(job_id, "infer")[0].id)
    assert stored(job_id) == list(range(20))
    assert get_bulk_inference_details(job_id).num_computed == 20


def test_an_attempt_that_only_found_blobs_gone_leaves_the_rest_to_the_next(job_id: str) -> None:
    """Its time was up before anything was read that is there."""
    lease = claim(job_id, "infer")
    store(lease, [], [0])
    settle(lease, tasks.follow_up(lease, job_row(job_id), tasks.Ended(0, 100.0), is_wanted=True))
    infer(lease.unit_id)
    assert stored(job_id) == list(range(1, 20))
    assert len(waiting(job_id, "finish")) == 1


def job_row(job_id: str) -> BulkInferenceJobRow:
    with reading() as session:
        return session.get_one(BulkInferenceJobRow, job_id)
