"""Reconcile: what died is put right, by any number of runs at once, and a sound ledger is left alone."""

from __future__ import annotations

import pytest

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.ledger import Reconciled, UnitState
from orchestrator.ledger.reconcile import finish_drained, rescue
from tests.support.ledger import (
    AwayWire,
    Wire,
    at_once,
    become_due,
    claimed,
    fall_silent,
    job_row,
    one_unit,
    open_job,
    published_long_ago,
    row,
    rows,
    settle,
    state,
    unit_ids,
)

pytestmark = pytest.mark.usefixtures("database")


def test_a_sound_ledger_is_left_alone() -> None:
    ready, published, leased = open_job(1), open_job(1), open_job(1)
    transact(ledger.pause, ready)
    ledger.dispatch(Wire())
    claimed(unit_ids(leased)[0])
    assert ledger.reconcile(Wire()) == Reconciled()
    assert [state(unit_ids(job)[0]) for job in (ready, published, leased)] == ["ready", "published", "leased"]


def test_a_unit_whose_owner_fell_silent_is_ready_again_and_says_so() -> None:
    unit_id = one_unit()
    claimed(unit_id)
    fall_silent(unit_id)
    assert ledger.reconcile(Wire()) == Reconciled(rescued=1)
    found = row(unit_id)
    assert (found.state, found.attempt) == ("ready", 1)
    assert "fell silent" in (found.last_error or "")
    assert claimed(unit_id).attempt == 2


def test_a_unit_that_kills_every_worker_is_given_up() -> None:
    unit_id = one_unit(max_attempts=3)
    for _ in range(3):
        claimed(unit_id)
        fall_silent(unit_id)
        ledger.reconcile(Wire())
    assert state(unit_id) is UnitState.DEAD
    assert ledger.claim(unit_id, "next victim") is None


def test_a_unit_out_of_attempts_is_not_stolen_but_given_up() -> None:
    unit_id = one_unit(max_attempts=1)
    claimed(unit_id)
    fall_silent(unit_id)
    assert ledger.claim(unit_id, "thief") is None
    ledger.reconcile(Wire())
    assert state(unit_id) is UnitState.DEAD


def test_many_that_reconcile_at_once_put_each_thing_right_once() -> None:
    job_id = open_job(20)
    for unit_id in unit_ids(job_id):
        claimed(unit_id)
        fall_silent(unit_id)
    drained = open_job(1)
    settle(claimed(unit_ids(drained)[0]), ledger.Done())
    runs = at_once([lambda: ledger.reconcile(Wire())] * 6)
    assert sum(run.rescued for run in runs) == 20
    assert sum(run.finishing for run in runs) == 1
    assert {(unit.state, unit.attempt) for unit in rows(job_id)} == {("ready", 1)}
    assert ledger.reconcile(Wire()) == Reconciled()


def test_one_run_takes_a_bounded_batch() -> None:
    for unit_id in unit_ids(open_job(5)):
        claimed(unit_id)
        fall_silent(unit_id)
    assert [transact(rescue, limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_a_message_lost_in_an_empty_queue_is_missed_after_seconds_in_another_after_a_minute() -> None:
    ids = unit_ids(open_job(2))
    ledger.dispatch(Wire())
    assert ledger.reconcile(Wire()).republished == 0  # they were published just now
    for unit_id in ids:
        published_long_ago(unit_id)
    one_left = Wire()
    one_left.sent.append("one of the two")
    assert ledger.reconcile(one_left).republished == 1
    assert ledger.reconcile(Wire()).republished == 1


def test_what_waits_long_in_a_slow_queue_is_not_published_again() -> None:
    """Or else the queue of a slow worker would fill with copies, and become slower for it, and so on."""
    wire = Wire()
    ids = unit_ids(open_job(3))
    ledger.dispatch(wire)
    for unit_id in ids:
        published_long_ago(unit_id)
    assert ledger.reconcile(wire).republished == 0


def test_while_the_broker_is_away_no_message_is_missed() -> None:
    unit_id = one_unit()
    ledger.dispatch(Wire())
    published_long_ago(unit_id)
    assert ledger.reconcile(AwayWire()) == Reconciled()
    assert state(unit_id) is UnitState.PUBLISHED


def test_a_job_whose_last_unit_ended_in_a_killed_process_is_finished_all_the_same() -> None:
    job_id = open_job(1)
    settle(claimed(unit_ids(job_id)[0]), ledger.Done())  # and killed before it could look whether that was the last
    assert ledger.reconcile(Wire()) == Reconciled(finishing=1)
    assert [unit.kind for unit in rows(job_id)] == ["test.work", "test.finish"]
    assert ledger.reconcile(Wire()) == Reconciled()


def test_jobs_that_are_finished_but_open_do_not_crowd_out_others() -> None:
    for _ in range(3):
        job_id = open_job(1)
        settle(claimed(unit_ids(job_id)[0]), ledger.Done())
        transact(ledger.finish_if_drained, job_id)
        finishing = job_row(job_id).finish_unit_id
        assert finishing is not None
        settle(claimed(finishing), ledger.Done())  # without closing the job
    waiting = open_job(1)
    settle(claimed(unit_ids(waiting)[0]), ledger.Done())
    assert finish_drained(limit=2) == 1
    assert len(rows(waiting)) == 2


def test_rescued_units_go_out_again() -> None:
    unit_id = one_unit()
    wire = Wire()
    ledger.dispatch(wire)
    claimed(unit_id)
    fall_silent(unit_id)
    ledger.reconcile(wire)
    become_due(unit_id)
    ledger.dispatch(wire)
    assert wire.sent == [unit_id, unit_id]
