"""Datums that end whatever process works on them: each is found and given up, and no other with it.

The short form is in `tests/end_to_end/test_jobs.py`: a unit whose process is killed each time.
"""

from __future__ import annotations

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference import ProgressState, get_bulk_inference_failures
from orchestrator.bulk_inference.models import SubmitOptions
from orchestrator.ledger import UnitState
from orchestrator.ledger.models import ATTEMPTS
from tests.chaos.harness import Harness
from tests.support.bulk_inference import stored


def run_with_poison(harness: Harness, datums: int, poison: set[int]) -> None:
    """Run a job with some poisoned datums among its own, beside one without."""
    scene, sound = harness.scene(datums, poison=poison), harness.scene(50)
    harness.app = "tests.chaos.poisonous"
    workers = harness.start(workers=1, concurrency=2)
    options = SubmitOptions(failure_threshold=1.0).model_dump()
    job_id, other_id = harness.submit(scene, **options), harness.submit(sound)
    _, other = harness.wait([job_id, other_id], within=240)
    assert (other.status, other.num_computed, other.num_failed) == (ProgressState.SUCCEEDED, 50, 0)

    assert stored(job_id) == sorted(set(range(datums)) - poison)
    failures = get_bulk_inference_failures(job_id, limit=datums)
    assert {(failure.failure_class, failure.ordinal) for failure in failures} == {("abandoned", at) for at in poison}
    dead = [unit for unit in ledger.list_units(job_id, limit=10_000) if unit.state == UnitState.DEAD]
    assert [unit.attempt for unit in dead] == [ATTEMPTS] * len(poison)
    assert [worker.restarts for worker in workers] == [0]


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_datums_that_abort_their_processes_are_given_up_and_the_rest_is_done(harness: Harness) -> None:
    poison = set(harness.chance.sample(range(1_000), 2))
    print(f"poisoned: {sorted(poison)}")
    run_with_poison(harness, 1_000, poison)
