"""Dispatch: a shallow window, fair over projects, and no harm from a broker that is away or a process that dies."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from sqlalchemy import text

from orchestrator import ledger
from orchestrator.database import reading, transact, writing
from orchestrator.ledger import UnitState
from orchestrator.queues import QueueName
from orchestrator.settings import settings
from tests.support.ledger import (
    AwayWire,
    DyingWire,
    PowerCut,
    Wire,
    at_once,
    become_due,
    claimed,
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


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(settings(), "dispatch_window", 8)
    return 8


def work_off(wire: Wire, count: int) -> list[str]:
    """Run the next units in the wire to their end; returns their jobs, in order."""
    jobs = []
    for unit_id in wire.sent[:count]:
        lease = claimed(unit_id)
        settle(lease, ledger.Done())
        jobs.append(lease.job_id)
    del wire.sent[:count]
    return jobs


def test_no_more_units_are_published_than_the_window_holds(window: int) -> None:
    open_job(20)
    wire = Wire()
    assert ledger.dispatch(wire) == window
    assert ledger.dispatch(wire) == 0
    work_off(wire, 3)
    assert ledger.dispatch(wire) == 3


def test_each_queue_has_a_window_of_its_own(window: int) -> None:
    open_job(20, queue=QueueName.PLANNING)
    open_job(20, queue=QueueName.INFERENCE)
    assert ledger.dispatch(Wire()) == 2 * window


def test_a_unit_is_published_once_by_many_that_dispatch_at_once(window: int) -> None:
    job_id = open_job(20)
    wires = [Wire() for _ in range(6)]
    counts = at_once([partial(ledger.dispatch, wire) for wire in wires])
    sent = [unit_id for wire in wires for unit_id in wire.sent]
    assert sum(counts) == window
    assert sorted(sent) == unit_ids(job_id)[:window]


def test_units_go_by_priority_and_then_by_age(window: int) -> None:
    older, newer, urgent = open_job(2), open_job(2), open_job(2, priority=5)
    wire = Wire()
    ledger.dispatch(wire)
    assert wire.sent == unit_ids(urgent) + unit_ids(older) + unit_ids(newer)


def test_a_job_of_ten_does_not_wait_behind_a_job_of_thousands(window: int) -> None:
    open_job(3000, project="large")
    wire = Wire()
    ledger.dispatch(wire)
    small = open_job(10, project="small")
    finished: list[str] = []
    while finished.count(small) < 10:
        finished += work_off(wire, 1)
        ledger.dispatch(wire)
    assert len(finished) <= window + 20 + 1


@pytest.mark.parametrize("free_at_a_time", [1, 3, 8])
def test_projects_share_the_workers_by_weight(window: int, free_at_a_time: int) -> None:
    """However few places come free at a time: a worker that ends one unit makes room for one."""
    heavy, light = open_job(150, project="heavy", weight=3), open_job(150, project="light")
    wire = Wire()
    finished: list[str] = []
    while len(finished) < 80:
        ledger.dispatch(wire)
        finished += work_off(wire, free_at_a_time)
    shares = Counter(finished)
    assert abs(shares[heavy] - 3 * shares[light]) <= 8


def test_a_project_that_comes_and_goes_is_not_owed_for_its_absence(window: int) -> None:
    open_job(100, project="steady")
    wire = Wire()
    for _ in range(5):
        ledger.dispatch(wire)
        work_off(wire, window)
    guest = open_job(100, project="guest")
    ledger.dispatch(wire)
    assert Counter(work_off(wire, window))[guest] == window / 2


def test_units_of_a_paused_job_are_not_published(window: int) -> None:
    paused, other = open_job(5), open_job(5)
    transact(ledger.pause, paused)
    wire = Wire()
    ledger.dispatch(wire)
    assert wire.sent == unit_ids(other)
    transact(ledger.resume, paused)
    assert ledger.dispatch(wire) == 3


def test_units_that_are_not_due_are_not_published() -> None:
    unit_id = one_unit()
    settle(claimed(unit_id), ledger.Again(delay=3600))
    assert ledger.dispatch(Wire()) == 0
    become_due(unit_id)
    assert ledger.dispatch(Wire()) == 1


def test_with_the_broker_away_units_stay_ready_and_go_out_when_it_is_back(window: int) -> None:
    job_id = open_job(3)
    assert ledger.dispatch(AwayWire()) == 0
    assert {unit.state for unit in rows(job_id)} == {"ready"}
    wire = Wire()
    assert ledger.dispatch(wire) == 3
    assert wire.sent == unit_ids(job_id)


def test_a_job_can_be_submitted_with_no_broker_at_the_configured_address() -> None:
    """The real publisher, and nobody who listens."""
    job_id = open_job(3)
    assert ledger.dispatch() == 0
    assert {unit.state for unit in rows(job_id)} == {"ready"}


def test_a_unit_claimed_before_the_broker_went_away_is_not_taken_back() -> None:
    class HalfDelivered(AwayWire):
        def publish(self, units: object) -> None:
            claimed(first)
            super().publish(())

    first, second = unit_ids(open_job(2))
    ledger.dispatch(HalfDelivered())
    assert (state(first), state(second)) == (UnitState.LEASED, UnitState.READY)


def test_units_whose_dispatcher_died_before_it_published_them_are_published_later() -> None:
    unit_id = one_unit()
    with pytest.raises(PowerCut):
        ledger.dispatch(DyingWire())
    assert state(unit_id) is UnitState.PUBLISHED
    wire = Wire()
    assert ledger.dispatch(wire) == 0
    published_long_ago(unit_id)
    assert ledger.reconcile(wire).republished == 1
    assert ledger.dispatch(wire) == 1
    assert claimed(unit_id).attempt == 1


def test_units_published_while_their_job_was_being_paused_go_out_again_when_it_is_resumed() -> None:
    """Their messages were dropped, and nobody else would miss them for a minute."""
    unit_id = one_unit()
    job_id = row(unit_id).job_id
    ledger.dispatch(Wire())
    with writing() as session:
        # A dispatch that had read the job before the pause committed leaves this behind.
        session.execute(text("UPDATE jobs SET paused = true"))
    assert ledger.claim(unit_id, "worker") is None
    transact(ledger.resume, job_id)
    wire = Wire()
    ledger.dispatch(wire)
    assert wire.sent == [unit_id]


def test_units_are_published_although_somebody_holds_their_job_s_row() -> None:
    """Whoever ends a unit looks, under that lock, whether the job is drained; dispatch must not pass the job over."""
    unit_id = one_unit()
    job_id = job_row(row(unit_id).job_id).id
    if settings().sqlalchemy_url.startswith("sqlite"):
        pytest.skip("on SQLite whoever writes holds everything")
    with writing() as session:
        session.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id})
        assert ledger.dispatch(Wire()) == 1


def test_with_one_project_nothing_is_remembered_of_shares(window: int) -> None:
    open_job(100)
    ledger.dispatch(Wire())
    with reading() as session:
        assert session.scalar(text("SELECT count(*) FROM dispatch_shares")) == 0
