"""Doubled, shuffled, lost, or sent by three beats at once: whatever befalls messages changes nothing that is stored."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from orchestrator.bulk_inference.tables import BulkInferenceJobRow, FailureRow
from orchestrator.database import reading
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import UnitState
from orchestrator.ledger.tables import JobRow, UnitRow
from orchestrator.transitions import events_of
from tests.chaos.harness import Harness
from tests.conftest import forget_settings

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

#: Units that may wait in the broker in these tests.
WINDOW = 8


def outcome(job_id: str) -> dict[str, Any]:
    """What the database holds of a job, without ids of its own, times, owners and attempts.

    Where the cuts between units lie depends on how fast they went; what they cover does not.
    """
    result, failure, unit = InferenceRow, FailureRow, UnitRow
    with reading() as session:
        job, row = session.get_one(BulkInferenceJobRow, job_id), session.get_one(JobRow, job_id)
        results = select(
            *(result.ordinal, result.datum_id, result.model_id, result.inference_action),
            *(result.version, result.data, result.data_hash, result.data_storage_key),
        ).where(result.bulk_inference_job_id == job_id)
        failures = select(
            *(failure.ordinal, failure.datum_id, failure.failure_class, failure.status, failure.message)
        ).where(failure.job_id == job_id)
        units = (
            select(unit.kind, unit.state, func.sum(unit.done_count), func.sum(unit.failed_count))
            .where(unit.job_id == job_id)
            .group_by(unit.kind, unit.state)
        )
        return {
            "results": session.execute(results.order_by(result.ordinal)).all(),
            "failures": session.execute(failures.order_by(failure.ordinal)).all(),
            "units": sorted(session.execute(units).all()),
            "job": (job.state, job.reason, job.expected_total, job.evaluation, row.closed_at is None),
            "events": [(event.from_state, event.to_state) for event in events_of(session, job_id)],
        }


def compare_with_reliable_messages(harness: Harness, datums: int) -> None:
    """Run the same job with a broker that keeps its word, and with one that does not."""
    harness.server.behaviour.poison = b"POISON"
    scene = harness.scene(datums, poison=range(7, datums, 100))
    harness.start(workers=1, concurrency=2)
    harness.wait(harness.submit(scene, failure_threshold=0.5), within=60)
    harness.close()

    harness.app = "tests.chaos.unreliable"
    harness.start(workers=1, concurrency=2)
    harness.server.behaviour.delay = 0.005
    harness.wait(harness.submit(scene, failure_threshold=0.5), within=120)
    assert outcome(harness.job_ids[1]) == outcome(harness.job_ids[0])


@pytest.fixture
def narrow(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small window, so that it is full most of the time."""
    monkeypatch.setenv("ORCHESTRATOR_DISPATCH_WINDOW", str(WINDOW))
    forget_settings()


def test_messages_ten_times_in_any_order_or_not_at_all_end_in_the_same_database(harness: Harness) -> None:
    compare_with_reliable_messages(harness, 500)


@pytest.mark.chaos
def test_many_messages_ten_times_in_any_order_or_not_at_all_end_in_the_same_database(harness: Harness) -> None:
    compare_with_reliable_messages(harness, 20_000)


def published() -> int:
    """Units that wait in the broker to be inferred, as far as the database knows."""
    with reading() as session:
        waiting = select(func.count()).where(UnitRow.state == UnitState.PUBLISHED, UnitRow.queue == "inference")
        return session.scalar(waiting) or 0


def run_under_three_beats(harness: Harness, datums: int) -> None:
    harness.server.behaviour.delay = 0.01
    for _ in range(3):
        harness.beat()
    harness.workers(2)
    scene = harness.scene(datums, max_concurrency=8)
    job_ids = [harness.submit(scene) for _ in range(2)]
    peak = 0
    while not all(map(harness.is_over, job_ids)):
        peak = max(peak, published())
        harness.pause(0.05)
    print(f"at most {peak} of {WINDOW} units waited")
    assert peak <= WINDOW
    for job_id in job_ids:
        found = outcome(job_id)
        assert [row[0] for row in found["results"]] == list(range(datums))
        assert [to for _, to in found["events"]] == ["initialized", "in_progress", "running", "succeeded"]
        with reading() as session:
            ends = select(func.count()).where(UnitRow.job_id == job_id, UnitRow.kind == "bulk_inference.finish")
            assert session.scalar(ends) == 1


@pytest.mark.faults
def test_three_beats_do_what_one_does(harness: Harness, narrow: None) -> None:
    run_under_three_beats(harness, 1_500)


@pytest.mark.chaos
def test_three_beats_do_what_one_does_for_long(harness: Harness, narrow: None) -> None:
    run_under_three_beats(harness, 15_000)
