"""The unit decorator, in this process: claim, heartbeat, fence, settle, and what follows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from orchestrator import ledger
from orchestrator.database import transact
from orchestrator.ledger import Lease, NewUnit, Outcome, UnitState
from orchestrator.queues import QueueName, app
from orchestrator.settings import settings
from tests.support.ledger import (
    become_due,
    claimed,
    fall_silent,
    one_unit,
    open_job,
    row,
    rows,
    settle,
    state,
    unit_ids,
)
from tests.support.processes import wait_until
from workers import unit as units
from workers.unit import UnitFailed, owner, unit

pytestmark = pytest.mark.usefixtures("database")

KIND = "test.work"


@pytest.fixture
def run() -> Iterator[Callable[[Callable[[Lease], Outcome], str], None]]:
    """Runs a body as the task of a unit, as a worker would on the unit's message."""

    def run_unit(work: Callable[[Lease], Outcome], unit_id: str) -> None:
        app.tasks.pop(KIND, None)
        task = unit(KIND)(work)
        task(unit_id)

    yield run_unit
    app.tasks.pop(KIND, None)


Run = Callable[[Callable[[Lease], Outcome], str], None]


def done(lease: Lease) -> Outcome:
    return ledger.Done()


def broken(lease: Lease) -> Outcome:
    raise ValueError(f"attempt {lease.attempt} broke")


def test_the_body_gets_the_lease_and_its_outcome_is_settled(run: Run) -> None:
    job_id = open_job(2)
    seen: list[Lease] = []

    def work(lease: Lease) -> Outcome:
        seen.append(lease)
        assert row(lease.unit_id).lease_owner == owner()
        return ledger.Done()

    run(work, unit_ids(job_id)[1])
    (lease,) = seen
    assert (lease.attempt, lease.payload, lease.job_id) == (1, {"n": 1}, job_id)
    assert [found.state for found in rows(job_id)] == ["ready", "done"]


def test_the_task_bears_the_kind_s_name() -> None:
    try:
        assert unit("test.named")(done).name == "test.named"
    finally:
        app.tasks.pop("test.named", None)


@pytest.mark.parametrize("end", ["done", "dead", "cancelled", "claimed by another", "not due", "unknown"])
def test_a_message_whose_unit_is_not_to_be_had_is_dropped(end: str, run: Run) -> None:
    unit_id = one_unit()
    match end:
        case "done":
            settle(claimed(unit_id), ledger.Done())
        case "dead":
            settle(claimed(unit_id), ledger.Hopeless("broken"))
        case "cancelled":
            transact(ledger.cancel, row(unit_id).job_id)
        case "claimed by another":
            claimed(unit_id)
        case "not due":
            settle(claimed(unit_id), ledger.Again(delay=3600))
    before = row(unit_id)

    def never(lease: Lease) -> Outcome:
        raise AssertionError("the body must not run")

    run(never, "nobody's" if end == "unknown" else unit_id)
    after = row(unit_id)
    assert (after.state, after.attempt, after.last_error) == (before.state, before.attempt, before.last_error)


def test_a_message_delivered_twice_runs_its_unit_once(run: Run) -> None:
    unit_id = one_unit()
    runs: list[int] = []

    def work(lease: Lease) -> Outcome:
        runs.append(lease.attempt)
        return ledger.Done()

    run(work, unit_id)
    run(work, unit_id)
    assert runs == [1]


def test_an_exception_is_tried_again_with_a_delay_until_the_unit_is_dead(run: Run) -> None:
    unit_id = one_unit(max_attempts=3)
    for attempt in (1, 2):
        with pytest.raises(UnitFailed, match=f"ValueError: attempt {attempt} broke"):
            run(broken, unit_id)
        found = row(unit_id)
        assert (found.state, found.last_error) == ("ready", f"ValueError: attempt {attempt} broke")
        run(done, unit_id)  # too early: dropped
        assert state(unit_id) is UnitState.READY
        become_due(unit_id)
    with pytest.raises(UnitFailed):
        run(broken, unit_id)
    assert (state(unit_id), row(unit_id).last_error) == (UnitState.DEAD, "ValueError: attempt 3 broke")


def test_a_database_that_is_away_for_a_moment_uses_up_no_attempt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    unit_id = one_unit(max_attempts=1)
    monkeypatch.setattr(units, "AWAY_PAUSE", 0.0)
    away = OperationalError("COMMIT", None, RuntimeError("the server closed the connection"))
    settling = [away, away]

    def interrupted(lease: Lease) -> Outcome:
        raise away

    def interrupted_transact(work: Callable[..., Any], *values: Any) -> Any:
        if settling:
            raise settling.pop()
        return transact(work, *values)

    with monkeypatch.context() as outage:
        outage.setattr(units, "transact", interrupted_transact)
        run(interrupted, unit_id)
    found = row(unit_id)
    assert (found.state, found.max_attempts - found.attempt, settling) == (UnitState.READY, 1, [])
    assert "waiting for the database: the server closed" in (found.last_error or "")
    become_due(unit_id)
    run(done, unit_id)
    assert state(unit_id) == UnitState.DONE


def test_a_heartbeat_renews_the_lease_while_the_body_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings(), "lease_seconds", 1.5)
    unit_id = one_unit()

    def slow(lease: Lease) -> Outcome:
        claimed_until = row(unit_id).lease_expires_at
        assert claimed_until is not None

        def expires() -> bool:
            found = row(unit_id).lease_expires_at
            return found is not None and found > claimed_until

        wait_until(expires, "the lease is renewed")
        return ledger.Done()

    run(slow, unit_id)
    assert (state(unit_id), row(unit_id).attempt) == (UnitState.DONE, 1)


def test_the_heartbeat_ends_with_the_body(run: Run) -> None:
    unit_id = one_unit()
    run(done, unit_id)
    assert not [thread for thread in threading.enumerate() if thread.name == f"heartbeat-{unit_id}"]


def test_the_outcome_of_an_attempt_that_lost_its_lease_is_refused_and_counted(run: Run) -> None:
    unit_id = one_unit()

    def overtaken(lease: Lease) -> Outcome:
        fall_silent(unit_id)
        claimed(unit_id, "thief")
        return ledger.Done()

    run(overtaken, unit_id)
    found = row(unit_id)
    assert (found.state, found.attempt, found.lease_owner, found.stale_writes) == ("leased", 2, "thief", 1)


def test_a_body_that_is_cancelled_ends_at_its_next_write(run: Run) -> None:
    unit_id = one_unit()

    def cancelled(lease: Lease) -> Outcome:
        transact(ledger.cancel, lease.job_id)
        transact(ledger.check, lease)
        raise AssertionError("the check must refuse")

    run(cancelled, unit_id)
    assert (state(unit_id), row(unit_id).stale_writes) == (UnitState.CANCELLED, 1)


def test_a_frozen_attempt_that_fails_after_it_was_overtaken_harms_nobody(run: Run) -> None:
    unit_id = one_unit(max_attempts=2)

    def overtaken(lease: Lease) -> Outcome:
        fall_silent(unit_id)
        settle(claimed(unit_id, "thief"), ledger.Done())
        raise ConnectionError("the server hung up on the frozen attempt")

    run(overtaken, unit_id)
    assert (state(unit_id), row(unit_id).last_error) == (UnitState.DONE, None)


@pytest.mark.parametrize("outcome", [ledger.Done(), ledger.Hopeless("broken")], ids=["done", "hopeless"])
def test_the_last_unit_of_a_job_adds_the_one_that_finishes_it(outcome: Outcome, run: Run) -> None:
    job_id = open_job(2)
    first, second = unit_ids(job_id)
    run(done, first)
    assert len(rows(job_id)) == 2
    if isinstance(outcome, ledger.Hopeless):
        with pytest.raises(UnitFailed, match="broken"):
            run(lambda lease: outcome, second)
    else:
        run(lambda lease: outcome, second)
    assert [found.kind for found in rows(job_id)] == [KIND, KIND, "test.finish"]


def test_a_unit_that_adds_units_does_not_finish_its_job(run: Run) -> None:
    job_id = open_job(1)

    def plan(lease: Lease) -> Outcome:
        transact(ledger.add, lease.job_id, [NewUnit(KIND, "another", QueueName.INFERENCE)])
        return ledger.Done()

    run(plan, unit_ids(job_id)[0])
    assert [(found.kind, found.state) for found in rows(job_id)] == [(KIND, "done"), (KIND, "ready")]


def test_a_process_that_is_told_to_exit_leaves_its_unit_to_the_next(run: Run) -> None:
    """`SystemExit` is no failure of the unit: its lease runs out, and another attempt takes it."""
    unit_id = one_unit()

    def shut_down(lease: Lease) -> Outcome:
        raise SystemExit

    with pytest.raises(SystemExit):
        run(shut_down, unit_id)
    assert (state(unit_id), row(unit_id).last_error) == (UnitState.LEASED, None)
    fall_silent(unit_id)
    run(done, unit_id)
    assert (state(unit_id), row(unit_id).attempt) == (UnitState.DONE, 2)
