"""Units: added once, counted, listed, cancelled and retried; and every move between their states."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import transact, writing
from orchestrator.errors import JobNotFound, LeaseLost
from orchestrator.ledger import MOVES, NewUnit, UnitState
from orchestrator.ledger.tables import UnitRow
from orchestrator.queues import QueueName
from tests.support.ledger import (
    AwayWire,
    Wire,
    at_once,
    become_due,
    claimed,
    fall_silent,
    job_row,
    lease_of,
    one_unit,
    open_job,
    published_long_ago,
    put_in,
    row,
    rows,
    settle,
    state,
    unit_ids,
)

pytestmark = pytest.mark.usefixtures("database")


def attempt_to_settle(outcome: ledger.Outcome) -> Callable[[str], None]:
    """Settle as the unit's latest attempt would, whether or not it still may."""

    def act(unit_id: str) -> None:
        with suppress(LeaseLost):
            settle(lease_of(unit_id), outcome)

    return act


def renew(unit_id: str) -> None:
    with suppress(LeaseLost):
        ledger.renew(lease_of(unit_id))


def requeue(unit_id: str) -> None:
    if state(unit_id) is UnitState.PUBLISHED:
        published_long_ago(unit_id)
    ledger.reconcile(Wire())


#: Whatever may happen to a unit, and where it leads from each state; states that are not named stay.
ACTIONS: dict[str, tuple[Callable[[str], object], dict[str, str]]] = {
    "dispatch": (lambda unit_id: ledger.dispatch(Wire()), {"ready": "published"}),
    "dispatch without a broker": (lambda unit_id: ledger.dispatch(AwayWire()), {}),
    "claim": (lambda unit_id: ledger.claim(unit_id, "w"), {"ready": "leased", "published": "leased"}),
    "renew": (renew, {}),
    "done": (attempt_to_settle(ledger.Done()), {"leased": "done"}),
    "again": (attempt_to_settle(ledger.Again()), {"leased": "ready"}),
    "postponed": (attempt_to_settle(ledger.Postponed("away")), {"leased": "ready"}),
    "failed": (attempt_to_settle(ledger.Failed("oops")), {"leased": "ready"}),
    "hopeless": (attempt_to_settle(ledger.Hopeless("never")), {"leased": "dead"}),
    "lost message": (requeue, {"published": "ready"}),
    "cancel": (
        lambda unit_id: transact(ledger.cancel, row(unit_id).job_id),
        {"ready": "cancelled", "published": "cancelled", "leased": "cancelled"},
    ),
    "pause": (lambda unit_id: transact(ledger.pause, row(unit_id).job_id), {"published": "ready"}),
    "retry": (lambda unit_id: transact(ledger.retry, row(unit_id).job_id), {"dead": "ready", "cancelled": "ready"}),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("before", list(UnitState))
def test_whatever_happens_a_unit_moves_as_declared_or_stays(before: UnitState, action: str) -> None:
    unit_id = one_unit()
    put_in(unit_id, before)
    act, leads_to = ACTIONS[action]
    act(unit_id)
    after = state(unit_id)
    assert after == leads_to.get(before, before)
    assert after == before or after in MOVES[before]


def test_every_declared_move_is_made_by_something() -> None:
    made = {(UnitState(before), UnitState(after)) for _, moves in ACTIONS.values() for before, after in moves.items()}
    made |= {(UnitState.LEASED, UnitState.LEASED), (UnitState.DONE, UnitState.READY)}  # renewed; retried, below
    assert made == {(before, after) for before, targets in MOVES.items() for after in targets}


def test_adding_a_key_twice_adds_one_unit() -> None:
    job_id = open_job(3)
    new = [NewUnit("test.work", key, QueueName.INFERENCE) for key in ("unit 1", "unit 2", "unit 3", "unit 3")]
    assert transact(ledger.add, job_id, new) == 1
    assert [unit.key for unit in rows(job_id)] == ["unit 0", "unit 1", "unit 2", "unit 3"]


def test_many_that_add_the_same_units_at_once_add_each_once() -> None:
    job_id = open_job(1)
    new = [NewUnit("test.work", f"key {n}", QueueName.INFERENCE) for n in range(50)]
    added = at_once([lambda: transact(ledger.add, job_id, new)] * 4)
    assert sum(added) == 50
    assert len(rows(job_id)) == 51


def test_a_job_s_progress_is_the_sum_over_its_units() -> None:
    job_id = open_job(3)
    first, second, _ = unit_ids(job_id)
    for unit_id, done, failed in ((first, 5, 0), (second, 2, 1)):
        with writing() as session:
            ledger.hold(session, claimed(unit_id), done=done, failed=failed, in_flight=4)
    with writing() as session:
        found = ledger.progress(session, job_id)
    assert (found.done, found.failed, found.in_flight, found.unfinished) == (7, 1, 8, 3)
    assert found.units == {"ready": 1, "leased": 2}


def test_the_progress_of_an_unknown_job_is_an_error() -> None:
    with writing() as session, pytest.raises(JobNotFound, match="nobody"):
        ledger.progress(session, "nobody")


def test_cancelling_spares_the_unit_that_asks_for_it() -> None:
    job_id = open_job(3)
    first, second, third = unit_ids(job_id)
    lease = claimed(second)
    assert transact(ledger.cancel, job_id, but=second) == 2
    assert [state(unit_id) for unit_id in (first, second, third)] == ["cancelled", "leased", "cancelled"]
    settle(lease, ledger.Done())


def test_cancelling_reaches_units_that_are_being_added_at_that_moment() -> None:
    """The planner has passed its check and holds its unit; the cancel waits for it, and must see what it wrote."""
    job_id = open_job(1)
    planner = claimed(unit_ids(job_id)[0])
    checked, cancelling = threading.Event(), threading.Event()

    def plan(session: Session) -> None:
        ledger.check(session, planner)
        checked.set()
        cancelling.wait(30)
        ledger.add(session, job_id, [NewUnit("test.work", f"new {n}", QueueName.INFERENCE) for n in range(5)])

    def cancel() -> int:
        checked.wait(30)
        threading.Timer(0.3, cancelling.set).start()  # by then the cancel waits for the planner's lock
        return transact(ledger.cancel, job_id)

    _, cancelled = at_once([lambda: transact(plan), cancel])
    assert cancelled == 6
    assert {unit.state for unit in rows(job_id)} == {"cancelled"}


def test_a_retried_unit_gets_fresh_attempts_and_keeps_what_it_stored() -> None:
    unit_id = one_unit(max_attempts=1)
    lease = claimed(unit_id)
    with writing() as session:
        ledger.hold(session, lease, done=9, failed=2)
    settle(lease, ledger.Hopeless("oops"))
    assert state(unit_id) is UnitState.DEAD
    assert transact(ledger.retry, lease.job_id) == 1
    again = row(unit_id)
    assert (again.state, again.attempt, again.max_attempts) == ("ready", 1, 4)
    assert (again.done_count, again.failed_count, again.finished_at) == (9, 0, None)
    assert claimed(unit_id).attempt == 2


def test_a_unit_that_ended_well_but_for_some_items_is_retried_and_a_clean_one_is_not() -> None:
    job_id = open_job(2)
    spotted, clean = map(claimed, unit_ids(job_id))
    with writing() as session:
        ledger.hold(session, spotted, done=3, failed=1)
    settle(spotted, ledger.Done())
    settle(clean, ledger.Done())
    assert transact(ledger.retry, job_id) == 1
    assert [state(unit_id) for unit_id in (spotted.unit_id, clean.unit_id)] == ["ready", "done"]


def test_only_the_named_units_are_retried_and_never_a_finishing_one() -> None:
    job_id = open_job(2)
    for lease in map(claimed, unit_ids(job_id)):
        settle(lease, ledger.Hopeless("broken"))
    transact(ledger.finish_if_drained, job_id)
    finishing = job_row(job_id).finish_unit_id
    assert finishing is not None
    settle(claimed(finishing), ledger.Hopeless("broken too"))
    first, second, _ = unit_ids(job_id)
    assert transact(ledger.retry, job_id, unit_ids=[second, finishing]) == 1
    assert [state(unit_id) for unit_id in (first, second, finishing)] == ["dead", "ready", "dead"]


def test_units_are_listed_by_job_and_state_newest_job_first() -> None:
    older, newer = open_job(2), open_job(1)
    lease = claimed(unit_ids(older)[0])
    settle(lease, ledger.Hopeless("broken"))
    assert [unit.job_id for unit in ledger.list_units()] == [newer, older, older]
    (dead,) = ledger.list_units(older, states=[UnitState.DEAD])
    assert (dead.id, dead.last_error) == (lease.unit_id, "broken")
    assert len(ledger.list_units(limit=2)) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"state": "lost"},
        {"state": "done"},
        {"state": "leased"},
        {"state": "published"},
        {"attempt": -1},
        {"attempt": 4},
        {"failed_count": -1},
        {"lease_owner": "nobody"},
    ],
    ids=str,
)
def test_the_schema_refuses_a_unit_that_cannot_be(values: dict[str, object]) -> None:
    unit_id = one_unit()
    with pytest.raises(IntegrityError), writing() as session:
        session.execute(update(UnitRow).where(UnitRow.id == unit_id).values(**values))


def test_the_moves_leave_no_trace_of_a_lease_behind() -> None:
    unit_id = one_unit()
    claimed(unit_id)
    fall_silent(unit_id)
    ledger.reconcile(Wire())
    found = row(unit_id)
    assert (found.lease_owner, found.lease_expires_at, found.in_flight, found.published_at) == (None, None, 0, None)
    become_due(unit_id)
    assert claimed(unit_id).attempt == 2
