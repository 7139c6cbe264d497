"""Units, dead ones and refused submissions from a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator import ledger
from orchestrator.bulk_inference.lifecycle import end
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.database import transact, writing
from orchestrator.ledger import Hopeless, UnitState
from orchestrator.ledger.submissions import reject
from tests.support.bulk_inference import claim, run_plan, store

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.orchestrator.cli.conftest import Catalog, Command
    from tests.support.services import Broker

SUBMIT = ("bulk-inference", "submit", "-m", "reader", "-d", "digits", "-s", "test", "--method", "predict")


@pytest.fixture
def job(orchestrator: Command, catalog: Catalog, broker: Broker) -> str:
    """A job of one unit, its plan."""
    return str(orchestrator.json(*SUBMIT)["job_id"])


def kill_plan(job: str) -> str:
    """Let the job's planning unit die as under a worker; returns its id."""
    unit = ledger.list_units(job)[0]
    lease = ledger.claim(unit.id, "test")
    assert lease is not None
    transact(ledger.settle, lease, Hopeless("the disk is full"))
    return unit.id


def test_units_are_listed_by_job_and_fit_80_columns(orchestrator: Command, job: str) -> None:
    listed = orchestrator("work", "list").out
    assert listed.startswith(f"Job {job}  bulk_inference\n")
    assert "plan" in listed
    assert "0/3" in listed
    assert max(map(len, listed.splitlines())) <= 80
    assert [unit["state"] for unit in orchestrator.json("work", "list", "--job", job)] == ["published"]
    assert orchestrator.json("work", "list", "--state", "done", "--state", "dead") == []


def test_a_dead_unit_of_a_running_job_says_why_and_is_tried_again(orchestrator: Command, job: str) -> None:
    unit = kill_plan(job)
    shown = orchestrator("work", "dead").out
    assert unit in shown
    assert "the disk is full" in shown
    assert orchestrator("work", "retry", job, "--unit", "nobody").code == 1
    assert orchestrator.json("work", "retry", job, "--unit", unit) == {"job_id": job, "retried": 1, "reopened": False}
    assert ledger.list_units(job)[0].state == UnitState.PUBLISHED
    assert orchestrator("work", "retry", job).code == 1
    assert "No unit is dead." in orchestrator("work", "dead").out


def test_failures_that_a_dead_unit_has_stored_stay_counted(orchestrator: Command, job: str) -> None:
    run_plan(job)
    lease = claim(job, "infer")
    store(lease, [0], [1])
    transact(ledger.settle, lease, Hopeless("the disk is full"))
    orchestrator.json("work", "retry", job)
    assert orchestrator.json("bulk-inference", "show", job)["num_failed"] == 1
    assert len(orchestrator.json("bulk-inference", "failures", job)) == 1


def test_a_dead_unit_is_left_to_whoever_ends_its_job(orchestrator: Command, job: str) -> None:
    """He gives up the unit's datums, which an attempt would infer at the same time."""
    run_plan(job)
    lease = claim(job, "infer")
    transact(ledger.conclude, lease, Hopeless("the disk is full"))
    claim(job, "finish")
    refused = orchestrator("work", "retry", job)
    assert (refused.code, "about to end" in refused.err) == (1, True)
    assert [unit.id for unit in ledger.list_units(job, states=[UnitState.DEAD])] == [lease.unit_id]


def test_a_job_that_has_ended_is_opened_again_with_its_dead_units(orchestrator: Command, job: str) -> None:
    kill_plan(job)
    with writing() as session:
        end(session, job, ProgressState.FAILED, reason="could not be planned")
    assert orchestrator.json("work", "retry", job) == {"job_id": job, "retried": 1, "reopened": True}
    assert orchestrator.json("bulk-inference", "show", job)["status"] == "running"


def test_a_refused_submission_is_shown_with_its_reason(orchestrator: Command, database: Database) -> None:
    assert "No submission was refused." in orchestrator("work", "rejected").out
    transact(reject, message_id="m-1", request_id="r-1", reason="kind: 'x' is not known", excerpt="{'kind': 'x'}")
    shown = orchestrator("work", "rejected").out
    assert "kind: 'x' is not known" in shown
    assert "r-1" in shown
    assert orchestrator.json("work", "rejected")[0]["message_id"] == "m-1"


def test_an_unknown_job_is_refused(orchestrator: Command, database: Database) -> None:
    ran = orchestrator("work", "retry", "nobody")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
