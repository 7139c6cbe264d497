"""Recording: one fenced transaction that counts only what is new."""

from __future__ import annotations

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference.job import (
    abort_bulk_inference_job,
    create_bulk_inference_job,
    get_bulk_inference_failures,
    pause_bulk_inference_job,
)
from orchestrator.bulk_inference.job import get_bulk_inference_details as details_of
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.bulk_inference.record import StoredResult, Target, explain, fail_job, inference_id, record
from orchestrator.bulk_inference.tables import FailureRow
from orchestrator.database import reading, transact
from orchestrator.errors import LeaseLost
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import Again, Lease, UnitState
from tests.support.bulk_inference import Scene, claim, row_count, run_plan, store, stored


@pytest.fixture
def job_id(scene: Scene) -> str:
    """A planned job on ten datums: one unit has all of them."""
    created = create_bulk_inference_job(scene.request())
    assert created is not None
    run_plan(created)
    return created


@pytest.fixture
def lease(job_id: str) -> Lease:
    return claim(job_id, "infer")


def successor(lease: Lease) -> Lease:
    """The lease of the next attempt, after this one's unit was put back."""
    transact(ledger.settle, lease, Again())
    return claim(lease.job_id, "infer")


def test_results_and_failures_are_counted_on_the_job(job_id: str, lease: Lease) -> None:
    recorded = store(lease, [0, 1, 2], failed=[3])
    assert (recorded.stored, recorded.failed, recorded.paused) == (3, 1, False)
    details = details_of(job_id)
    assert (details.num_computed, details.num_failed, details.status) == (3, 1, ProgressState.RUNNING_FAILED)
    assert stored(job_id) == [0, 1, 2]
    assert [(failure.ordinal, failure.path) for failure in get_bulk_inference_failures(job_id)] == [(3, "000003.png")]


def test_what_is_recorded_twice_is_stored_and_counted_once(job_id: str, lease: Lease) -> None:
    store(lease, [0, 1, 2], failed=[3])
    again = store(successor(lease), [1, 2, 4], failed=[3, 5])
    assert (again.stored, again.failed) == (1, 1)
    assert stored(job_id) == [0, 1, 2, 4]
    assert (details_of(job_id).num_computed, details_of(job_id).num_failed) == (4, 2)


def test_the_first_result_of_a_datum_stays(job_id: str, lease: Lease) -> None:
    target = Target("model", "predict_proba")
    for text in ('["first"]', '["second"]'):
        record(lease, target, [StoredResult(0, "datum", "sha", "key", text, "v2")])
    with reading() as session:
        row = session.get_one(InferenceRow, ("model", inference_id(job_id, 0)))
    assert row.data == '["first"]'


def test_a_result_keeps_everything_that_says_where_it_comes_from(job_id: str, lease: Lease) -> None:
    hostile = '[{"label": "\\u0000 \'; DROP TABLE inferences; -- \\ud83d"}]'
    record(lease, Target("model", "predict"), [StoredResult(7, "datum-7", "sha", "key", hostile, "v1")])
    with reading() as session:
        row = session.get_one(InferenceRow, ("model", inference_id(job_id, 7)))
    assert (row.data, row.version, row.inference_action) == (hostile, "v1", "predict")
    assert (row.datum_id, row.ordinal, row.data_hash, row.data_storage_key) == ("datum-7", 7, "sha", "key")
    assert row.bulk_inference_job_id == job_id


def test_an_attempt_that_lost_its_unit_writes_nothing(job_id: str, lease: Lease) -> None:
    other = successor(lease)
    with pytest.raises(LeaseLost):
        store(lease, [0], failed=[1])
    with pytest.raises(LeaseLost):
        explain(lease, "waiting")
    with pytest.raises(LeaseLost):
        fail_job(lease, "refused")
    assert (row_count(InferenceRow), row_count(FailureRow)) == (0, 0)
    assert (details_of(job_id).status, details_of(job_id).reason) == (ProgressState.RUNNING, "")
    assert store(other, [0]).stored == 1


def test_nothing_is_recorded_for_a_job_that_was_aborted(job_id: str, lease: Lease) -> None:
    store(lease, [0])
    abort_bulk_inference_job(job_id)
    with pytest.raises(LeaseLost):
        store(lease, [1])
    assert stored(job_id) == [0]


def test_a_flush_tells_the_attempt_that_its_job_is_paused(job_id: str, lease: Lease) -> None:
    assert not store(lease, [0]).paused
    pause_bulk_inference_job(job_id)
    assert store(lease, [1]).paused
    assert stored(job_id) == [0, 1]


def test_a_flush_of_nothing_reports_the_requests_in_flight(job_id: str, lease: Lease) -> None:
    recorded = record(lease, Target("model", "predict"), [], in_flight=5)
    assert (recorded.stored, recorded.failed) == (0, 0)
    assert details_of(job_id).in_flight == 5


def test_a_reason_to_wait_is_shown_and_cleared(job_id: str, lease: Lease) -> None:
    explain(lease, "waiting for endpoint")
    assert details_of(job_id).reason == "waiting for endpoint"
    explain(lease, "")
    assert details_of(job_id).reason == ""


def test_an_endpoint_that_will_never_answer_ends_the_job_and_keeps_its_results(job_id: str, lease: Lease) -> None:
    store(lease, [0, 1])
    fail_job(lease, "the model is unknown")
    details = details_of(job_id)
    assert (details.status, details.reason, details.num_computed) == (
        ProgressState.FAILED,
        "the model is unknown",
        2,
    )
    assert details.finished_at is not None
    assert [unit.state for unit in ledger.list_units(job_id) if unit.id == lease.unit_id] == [UnitState.LEASED]
    explain(lease, "waiting for endpoint")
    assert details_of(job_id).reason == "the model is unknown"
