"""Jobs: opened with their first unit, paused, finished once by a unit of their own, closed and reopened."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from orchestrator import ledger
from orchestrator.database import reading, transact, writing
from orchestrator.ids import new_id
from orchestrator.ledger import NewUnit, UnitState
from orchestrator.ledger.tables import JobRow
from orchestrator.queues import QueueName
from tests.support.ledger import (
    Wire,
    at_once,
    claimed,
    job_row,
    one_unit,
    open_job,
    row,
    rows,
    settle,
    state,
    unit_ids,
)

pytestmark = pytest.mark.usefixtures("database")

FIRST = NewUnit("test.work", "first", QueueName.PLANNING)


def finishers(job_id: str) -> list[str]:
    return [unit.id for unit in rows(job_id) if unit.kind == "test.finish"]


def drained_job() -> str:
    job_id = open_job(1)
    settle(claimed(unit_ids(job_id)[0]), ledger.Done())
    return job_id


def test_a_job_and_its_first_unit_become_true_together_or_not_at_all() -> None:
    job_id = new_id()
    first = NewUnit("test.work", "first", QueueName.PLANNING, {"ratio": float("nan")})
    with pytest.raises(ValueError, match="payload"), writing() as session:
        ledger.open_job(session, job_id=job_id, kind="test", project_id="p", first=first)
    with reading() as session:
        assert session.get(JobRow, job_id) is None


def test_a_second_job_with_the_same_request_id_is_refused_and_the_first_is_found() -> None:
    job_id = new_id()
    with writing() as session:
        ledger.open_job(session, job_id=job_id, kind="test", project_id="p", first=FIRST, request_id="r")
    with pytest.raises(IntegrityError), writing() as session:
        ledger.open_job(session, job_id=new_id(), kind="test", project_id="p", first=FIRST, request_id="r")
    with writing() as session:  # another kind of job has request ids of its own
        ledger.open_job(session, job_id=new_id(), kind="other", project_id="p", first=FIRST, request_id="r")
    with reading() as session:
        assert ledger.requested(session, "test", "r") == job_id
        assert ledger.requested(session, "test", "unheard of") is None


def test_a_job_without_weight_is_refused_for_it_would_never_get_a_turn() -> None:
    with pytest.raises(IntegrityError):
        open_job(1, weight=0)


def test_pausing_stops_what_has_not_started_and_resuming_lets_it_go_on() -> None:
    job_id = open_job(3)
    at_work = claimed(unit_ids(job_id)[0])
    wire = Wire()
    ledger.dispatch(wire)
    transact(ledger.pause, job_id)
    assert [unit.state for unit in rows(job_id)] == ["leased", "ready", "ready"]
    assert all(ledger.claim(unit_id, "worker") is None for unit_id in wire.sent)
    with reading() as session:
        assert ledger.is_paused(session, at_work)
    settle(at_work, ledger.Again())
    transact(ledger.resume, job_id)
    assert ledger.dispatch(wire) == 3


def test_a_job_is_not_finished_while_anything_is_left_to_do() -> None:
    job_id = open_job(4)
    first, second, third, _ = unit_ids(job_id)
    settle(claimed(first), ledger.Done())
    claimed(second)
    transact(ledger.cancel, job_id, but=third)
    assert transact(ledger.finish_if_drained, job_id) is False
    assert finishers(job_id) == []


@pytest.mark.parametrize("outcome", [ledger.Done(), ledger.Hopeless("broken")], ids=["done", "dead"])
def test_a_job_with_nothing_left_to_do_gets_one_unit_that_finishes_it(outcome: ledger.Outcome) -> None:
    job_id = open_job(1)
    settle(claimed(unit_ids(job_id)[0]), outcome)
    assert transact(ledger.finish_if_drained, job_id) is True
    assert transact(ledger.finish_if_drained, job_id) is False
    (finishing,) = finishers(job_id)
    assert row(finishing).queue == QueueName.PLANNING
    assert job_row(job_id).finish_unit_id == finishing


def test_units_that_complete_at_the_same_moment_finish_their_job_once() -> None:
    for _ in range(5):
        job_id = open_job(8)
        leases = [claimed(unit_id) for unit_id in unit_ids(job_id)]

        def complete(lease: ledger.Lease) -> bool:
            settle(lease, ledger.Done())
            return transact(ledger.finish_if_drained, lease.job_id)

        added = at_once([partial(complete, lease) for lease in leases])
        assert added.count(True) == 1
        assert len(finishers(job_id)) == 1


def test_a_finishing_unit_that_died_is_followed_by_another_which_knows_why() -> None:
    job_id = drained_job()
    transact(ledger.finish_if_drained, job_id)
    (first,) = finishers(job_id)
    settle(claimed(first), ledger.Hopeless("no space left"))
    assert transact(ledger.finish_if_drained, job_id) is True
    _, second = finishers(job_id)
    assert row(second).payload == {"former_error": "no space left"}
    settle(claimed(second), ledger.Done())
    assert transact(ledger.finish_if_drained, job_id) is False


def test_a_finishing_unit_cancelled_under_an_open_job_is_followed_by_another() -> None:
    job_id = drained_job()
    transact(ledger.finish_if_drained, job_id)
    transact(ledger.cancel, job_id)
    assert ledger.reconcile(Wire()).finishing == 1
    assert [state(unit_id) for unit_id in finishers(job_id)] == [UnitState.CANCELLED, UnitState.READY]


def test_a_closed_job_is_finished_no_more_until_it_is_reopened() -> None:
    job_id = drained_job()
    transact(ledger.close, job_id)
    assert transact(ledger.finish_if_drained, job_id) is False
    assert ledger.reconcile(Wire()).finishing == 0
    transact(ledger.reopen, job_id)
    assert ledger.reconcile(Wire()).finishing == 1


def test_a_reopened_job_is_finished_by_a_unit_of_its_own() -> None:
    job_id = drained_job()
    transact(ledger.finish_if_drained, job_id)
    settle(claimed(finishers(job_id)[0]), ledger.Done())
    transact(ledger.close, job_id)
    transact(ledger.reopen, job_id)
    assert transact(ledger.finish_if_drained, job_id) is True
    assert [state(unit_id) for unit_id in finishers(job_id)] == [UnitState.DONE, UnitState.READY]


def test_closing_a_paused_job_ends_the_pause() -> None:
    job_id = row(one_unit()).job_id
    transact(ledger.pause, job_id)
    transact(ledger.close, job_id)
    found = job_row(job_id)
    assert (found.paused, found.closed_at is not None) == (False, True)


def test_finishing_an_unknown_job_does_nothing() -> None:
    assert transact(ledger.finish_if_drained, "nobody") is False
    with reading() as session:
        assert session.scalars(select(JobRow.id)).all() == []
