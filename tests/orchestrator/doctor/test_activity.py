"""What the doctor says of health, flow and leases, as workers report them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import ledger
from orchestrator.database import writing
from orchestrator.doctor.activity import check_activity
from orchestrator.doctor.finding import Finding, Level
from orchestrator.ledger.pulses import beat
from orchestrator.queues import QueueName
from tests.support.ledger import Wire, become_due, one_unit, open_job, published_long_ago

pytestmark = pytest.mark.usefixtures("database")

ALL = [queue.value for queue in QueueName]


def findings() -> dict[str, Finding]:
    return {finding.check: finding for finding in check_activity()}


def report(name: str, **details: Any) -> None:
    """A worker's sign of life with these details."""
    with writing() as session:
        beat(session, f"worker:{name}", {"queues": ALL, **details})


def test_a_worker_that_cannot_claim_is_a_problem_with_its_reason() -> None:
    report("one@here", health={"healthy": True, "reasons": []})
    assert "workers" not in findings()
    report("two@here", health={"healthy": False, "reasons": ["no pool process shows life (for 50 s)"]})
    found = findings()["workers"]
    assert (found.level, found.message) == (
        Level.PROBLEM,
        "two@here cannot claim and finish: no pool process shows life (for 50 s)",
    )


def test_leases_lost_are_a_warning_unless_their_jobs_were_aborted() -> None:
    report("one@here", last_hour={"leases_lost:cancelled": 7, "stale_writes_refused": 7})
    assert findings()["leases"].level is Level.OK
    report("two@here", last_hour={"leases_lost:taken": 2, "stale_writes_refused": 2})
    found = findings()["leases"]
    assert found.level is Level.WARNING
    assert found.message.startswith("2 lost and 9 stale writes refused")


def test_what_reconcile_did_is_added_up_over_workers() -> None:
    assert findings()["reconcile"].message == "nothing to put right within the last hour"
    report("one@here", last_hour={"reconciled:rescued": 3})
    report("two@here", last_hour={"reconciled:rescued": 1, "reconciled:republished": 2})
    assert findings()["reconcile"].message == "within the last hour: 2 republished, 4 rescued"


def test_units_that_wait_are_shown_against_the_window() -> None:
    open_job(3)
    assert findings()["units inference"].message.startswith("3 ready, 0 of 32 in the broker, 0 at work; the oldest")
    ledger.dispatch(Wire())
    assert findings()["units inference"] == Finding(
        "units inference", Level.OK, "0 ready, 3 of 32 in the broker, 0 at work"
    )


def test_a_unit_that_waits_long_while_nobody_works_is_a_warning() -> None:
    become_due(one_unit())  # since yesterday
    assert findings()["units inference"].level is Level.WARNING
    ledger.dispatch(Wire())
    published_long_ago(one_unit())
    assert findings()["units inference"].level is Level.OK
