"""Leases: one winner a claim, no write without one, and how an attempt's outcome decides what follows."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import dispose, transact, writing
from orchestrator.errors import LeaseLost
from orchestrator.ledger import Lease, NewUnit, UnitState
from orchestrator.ledger.backoff import LONGEST_DELAY, LONGEST_POSTPONEMENT, backoff
from orchestrator.ledger.leases import ERROR_LENGTH
from orchestrator.queues import QueueName
from orchestrator.settings import settings
from tests.support.ledger import (
    Wire,
    at_once,
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

pytestmark = pytest.mark.usefixtures("database")

Write = Callable[[Session, Lease], object]

#: Every way in which an attempt writes.
WRITES: dict[str, Write] = {
    "check": ledger.check,
    "hold": lambda session, lease: ledger.hold(session, lease, done=7, failed=1),
    "done": lambda session, lease: ledger.settle(session, lease, ledger.Done()),
    "failed": lambda session, lease: ledger.settle(session, lease, ledger.Failed("oops")),
    "hopeless": lambda session, lease: ledger.settle(session, lease, ledger.Hopeless("never")),
    "again": lambda session, lease: ledger.settle(session, lease, ledger.Again()),
    "postponed": lambda session, lease: ledger.settle(session, lease, ledger.Postponed("away")),
}


def stolen(lease: Lease) -> None:
    fall_silent(lease.unit_id)
    claimed(lease.unit_id, "thief")


def rescued(lease: Lease) -> None:
    fall_silent(lease.unit_id)
    ledger.reconcile(Wire())


def cancelled(lease: Lease) -> None:
    transact(ledger.cancel, lease.job_id)


def settled(lease: Lease) -> None:
    settle(lease, ledger.Done())


def delay_of(unit_id: str) -> timedelta:
    """How long the unit has yet to wait, to the second, as it was when it was put back."""
    found = row(unit_id)
    assert found.started_at is not None
    return timedelta(seconds=round((found.not_before - found.started_at).total_seconds()))


def test_of_many_that_claim_a_unit_at_once_one_gets_it() -> None:
    unit_ids_ = unit_ids(open_job(5))
    for unit_id in unit_ids_:
        leases = at_once([partial(ledger.claim, unit_id, f"worker {n}") for n in range(8)])
        (won,) = [lease for lease in leases if lease is not None]
        assert (row(unit_id).lease_owner, row(unit_id).attempt) == (won.owner, 1)


def claim_all(unit_ids_: list[str], owner: str, won: multiprocessing.SimpleQueue[list[str]]) -> None:
    """What a competing process does."""
    won.put([unit_id for unit_id in unit_ids_ if ledger.claim(unit_id, owner) is not None])
    dispose()


def test_of_several_processes_that_claim_the_same_units_each_unit_goes_to_one() -> None:
    unit_ids_ = unit_ids(open_job(30))
    context = multiprocessing.get_context("spawn")
    won = context.SimpleQueue()
    processes = [context.Process(target=claim_all, args=(unit_ids_, f"process {n}", won)) for n in range(3)]
    for process in processes:
        process.start()
    claims = [unit_id for _ in processes for unit_id in won.get()]
    for process in processes:
        process.join(60)
    assert sorted(claims) == sorted(unit_ids_)
    assert {row(unit_id).attempt for unit_id in unit_ids_} == {1}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("lose", [stolen, rescued, cancelled, settled])
def test_an_attempt_that_lost_its_unit_writes_nothing(lose: Callable[[Lease], None], write: str) -> None:
    lease = claimed(one_unit())
    lose(lease)
    before = row(lease.unit_id)

    def zombie(session: Session) -> None:
        ledger.add(session, lease.job_id, [NewUnit("test.work", "a zombie's", QueueName.INFERENCE)])
        WRITES[write](session, lease)

    with pytest.raises(LeaseLost, match=f"attempt 1 .* {lease.unit_id}"):
        transact(zombie)
    after = row(lease.unit_id)
    compared = [column.key for column in type(before).__table__.columns]
    assert [getattr(after, name) for name in compared] == [getattr(before, name) for name in compared]
    assert len(rows(lease.job_id)) == 1


def test_an_attempt_that_lost_its_unit_cannot_renew_the_lease() -> None:
    lease = claimed(one_unit())
    stolen(lease)
    with pytest.raises(LeaseLost):
        ledger.renew(lease)
    assert row(lease.unit_id).lease_owner == "thief"


def test_refused_writes_are_counted_even_when_many_come_at_once() -> None:
    lease = claimed(one_unit())
    stolen(lease)
    at_once([lambda: ledger.count_stale_write(lease)] * 5)
    assert row(lease.unit_id).stale_writes == 5


def test_an_expired_lease_is_stolen_and_a_live_one_is_not() -> None:
    unit_id = one_unit()
    claimed(unit_id, "first")
    assert ledger.claim(unit_id, "second") is None
    fall_silent(unit_id)
    thief = claimed(unit_id, "second")
    assert (thief.attempt, row(unit_id).lease_owner) == (2, "second")


def test_an_expired_lease_that_nobody_stole_can_still_be_renewed() -> None:
    lease = claimed(one_unit())
    fall_silent(lease.unit_id)
    ledger.renew(lease)
    assert ledger.claim(lease.unit_id, "thief") is None


@pytest.mark.parametrize("prolong", ["renew", "hold"])
def test_renewing_and_holding_extend_the_lease_from_the_database_s_clock(prolong: str) -> None:
    lease = claimed(one_unit())
    fall_silent(lease.unit_id)
    if prolong == "renew":
        ledger.renew(lease)
    else:
        with writing() as session:
            ledger.hold(session, lease)
    found = row(lease.unit_id)
    assert found.lease_expires_at is not None
    assert found.started_at is not None
    assert found.lease_expires_at >= found.started_at + settings().lease


def test_renewing_says_whether_the_job_is_paused() -> None:
    lease = claimed(one_unit())
    assert ledger.renew(lease) is False
    transact(ledger.pause, lease.job_id)
    assert ledger.renew(lease) is True


def test_nobody_takes_a_unit_while_a_transaction_has_checked_its_lease() -> None:
    """The thief comes while the owner writes; it waits, and then finds that the owner is done."""
    lease = claimed(one_unit())
    fall_silent(lease.unit_id)

    def write(session: Session) -> None:
        ledger.check(session, lease)
        checked.set()
        thieving.wait(30)
        ledger.settle(session, lease, ledger.Done())

    def steal() -> Lease | None:
        checked.wait(30)
        threading.Timer(0.3, thieving.set).start()  # by then the thief waits for the owner's lock
        return ledger.claim(lease.unit_id, "thief")

    checked, thieving = threading.Event(), threading.Event()
    assert at_once([lambda: transact(write), steal]) == [None, None]
    assert state(lease.unit_id) is UnitState.DONE


def test_a_failing_unit_is_tried_again_with_growing_delays_until_it_is_dead() -> None:
    unit_id = one_unit()
    delays = []
    for attempt in (1, 2):
        settle(claimed(unit_id), ledger.Failed(f"failure {attempt}"))
        assert (state(unit_id), row(unit_id).last_error) == (UnitState.READY, f"failure {attempt}")
        assert ledger.claim(unit_id, "too early") is None
        delays.append(delay_of(unit_id).total_seconds())
        become_due(unit_id)
    settle(claimed(unit_id), ledger.Failed("the last straw"))
    assert delays == [1, 2]
    assert (state(unit_id), row(unit_id).last_error) == (UnitState.DEAD, "the last straw")
    assert ledger.claim(unit_id, "too late") is None


def test_a_hopeless_unit_dies_at_once() -> None:
    lease = claimed(one_unit())
    settle(lease, ledger.Hopeless("the model is gone"))
    assert (state(lease.unit_id), row(lease.unit_id).last_error) == (UnitState.DEAD, "the model is gone")


@pytest.mark.parametrize(
    "outcome", [ledger.Again(), ledger.Postponed("the server is away")], ids=["again", "postponed"]
)
def test_putting_a_unit_back_does_not_use_up_its_attempts(outcome: ledger.Outcome) -> None:
    unit_id = one_unit(max_attempts=2)
    for _ in range(5):
        settle(claimed(unit_id), outcome)
        become_due(unit_id)
    settle(claimed(unit_id), ledger.Failed("the first failure"))
    assert state(unit_id) is UnitState.READY
    become_due(unit_id)
    settle(claimed(unit_id), ledger.Failed("the second"))
    assert state(unit_id) is UnitState.DEAD


def test_a_unit_that_makes_progress_is_not_given_up_for_its_bad_luck() -> None:
    """A long unit may be killed more often than a short one, and is worth more attempts the more it has done."""
    unit_id = one_unit()
    for _ in range(6):
        lease = claimed(unit_id)
        with writing() as session:
            ledger.hold(session, lease, done=1)
        settle(lease, ledger.Failed("killed"))
        assert delay_of(unit_id).total_seconds() == 1
        become_due(unit_id)
    for delay in (1, 2, None):
        settle(claimed(unit_id), ledger.Failed("got nowhere"))
        assert delay is None or delay_of(unit_id).total_seconds() == delay
        become_due(unit_id)
    assert state(unit_id) is UnitState.DEAD


def test_a_unit_that_is_split_is_done_as_far_as_it_came_and_the_rest_is_units_of_their_own() -> None:
    lease = claimed(one_unit())
    rest = [NewUnit("test.work", f"rest {n}", QueueName.INFERENCE) for n in range(3)]
    transact(ledger.conclude, lease, ledger.Split({"n": 0, "high": 7}, rest))
    whole = row(lease.unit_id)
    assert (whole.state, whole.payload) == ("done", {"n": 0, "high": 7})
    assert [unit.state for unit in rows(lease.job_id)] == ["done", "ready", "ready", "ready"]


def test_what_the_rest_of_a_split_unit_has_done_already_is_counted_once() -> None:
    lease = claimed(one_unit())
    with writing() as session:
        ledger.hold(session, lease, done=5, failed=2)
    rest = [NewUnit("test.work", "rest", QueueName.INFERENCE, done=3, failed=1)]
    transact(ledger.conclude, lease, ledger.Split({}, rest))
    assert [(unit.done_count, unit.failed_count) for unit in rows(lease.job_id)] == [(2, 1), (3, 1)]


def test_a_lease_knows_whether_the_attempt_before_it_got_nowhere() -> None:
    unit_id = one_unit()
    told = []
    for progress, outcome in (
        (0, ledger.Again()),
        (0, ledger.Failed("got nowhere")),
        (1, ledger.Failed("got somewhere")),
        (1, ledger.Postponed("got somewhere")),
        (0, ledger.Postponed("got nowhere, for a good reason")),
        (0, ledger.Failed("got nowhere")),
        (0, ledger.Again()),
        (0, ledger.Failed("got nowhere again")),
        (1, ledger.Again()),
        (0, ledger.Again()),
    ):
        lease = claimed(unit_id)
        told.append(lease.follows_failure)
        with writing() as session:
            ledger.hold(session, lease, failed=progress)
        settle(lease, outcome)
        become_due(unit_id)
    assert told == [False, False, True, False, False, False, True, True, True, False]


def test_postponements_wait_longer_and_longer_until_there_is_progress() -> None:
    unit_id = one_unit()
    delays = []
    for progress in (0, 0, 0, 0, 0, 1, 0):
        lease = claimed(unit_id)
        with writing() as session:
            ledger.hold(session, lease, done=progress)
        settle(lease, ledger.Postponed("the server is away"))
        delays.append(delay_of(unit_id).total_seconds())
        become_due(unit_id)
    assert delays == [1, 2, 4, 8, 8, 1, 2]
    assert max(delays) == LONGEST_POSTPONEMENT.total_seconds()


def test_putting_a_unit_back_with_a_delay_makes_it_due_that_much_later() -> None:
    lease = claimed(one_unit())
    settle(lease, ledger.Again(delay=90))
    assert delay_of(lease.unit_id) == timedelta(seconds=90)


def test_a_unit_that_waits_is_due_at_once_when_it_is_woken() -> None:
    unit_id = one_unit()
    settle(claimed(unit_id), ledger.Again(delay=3600))
    assert ledger.claim(unit_id, "too early") is None
    assert transact(ledger.wake, [row(unit_id).job_id]) == 1
    assert claimed(unit_id).attempt == 2


def test_a_unit_that_is_woken_while_it_is_at_work_comes_back_at_once() -> None:
    """The attempt may have looked before whatever it is woken for was there."""
    lease = claimed(one_unit())
    transact(ledger.wake, [lease.job_id])
    settle(lease, ledger.Again(delay=3600))
    settle(claimed(lease.unit_id), ledger.Again(delay=3600))
    assert ledger.claim(lease.unit_id, "woken once") is None


def test_waking_moves_nothing_that_is_done_or_due() -> None:
    done, due = one_unit(), one_unit()
    settle(claimed(done), ledger.Done())
    assert transact(ledger.wake, [row(done).job_id, row(due).job_id]) == 0


def test_the_delay_after_failures_doubles_up_to_a_minute() -> None:
    assert [backoff(n).total_seconds() for n in (0, 1, 2, 3, 6, 7, 8)] == [1, 1, 2, 4, 32, 60, 60]
    assert backoff(1_000_000) == LONGEST_DELAY


def test_a_unit_of_a_paused_job_cannot_be_claimed() -> None:
    unit_id = one_unit()
    job_id = row(unit_id).job_id
    transact(ledger.pause, job_id)
    assert ledger.claim(unit_id, "worker") is None
    transact(ledger.resume, job_id)
    assert ledger.claim(unit_id, "worker") is not None


def test_a_claim_of_an_unknown_unit_gets_nothing() -> None:
    assert ledger.claim("nothing", "worker") is None


def test_counters_add_up_over_attempts() -> None:
    unit_id = one_unit()
    for _ in range(3):
        lease = claimed(unit_id)
        with writing() as session:
            ledger.hold(session, lease, done=10, failed=1, in_flight=5)
        settle(lease, ledger.Again())
    found = row(unit_id)
    assert (found.done_count, found.failed_count, found.in_flight) == (30, 3, 0)


@pytest.mark.parametrize("outcome", [ledger.Failed, ledger.Hopeless, ledger.Postponed])
def test_any_error_can_be_kept_whatever_its_text(outcome: Callable[[str], ledger.Outcome]) -> None:
    lease = claimed(one_unit())
    settle(lease, outcome('it\'s "bad": \0 \ud800 ☃ ' + "x" * 10_000))
    kept = row(lease.unit_id).last_error
    assert kept is not None
    assert kept.startswith('it\'s "bad": \N{REPLACEMENT CHARACTER} ? ☃ xxx')
    assert len(kept) == ERROR_LENGTH
