"""Gates: units wait together for what is away, one of them tries it, and no more are at work than it bears."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from orchestrator import ledger
from orchestrator.database import db_now, reading, transact, writing
from orchestrator.ledger import NewUnit, UnitState, gates
from orchestrator.ledger.tables import GateRow
from orchestrator.queues import QueueName
from tests.support.ledger import LONG_AGO, Wire, claimed, open_job, rows, settle, state, unit_ids

pytestmark = pytest.mark.usefixtures("database")

GATE = "endpoint"


def gated(count: int) -> list[str]:
    """Units behind the gate, in a job of their own."""
    job_id = open_job(0)
    new = [NewUnit("test.work", f"gated {n}", QueueName.INFERENCE, gate=GATE) for n in range(count)]
    with writing() as session:
        ledger.cancel(session, job_id)
        ledger.add(session, job_id, new)
    return [unit.id for unit in rows(job_id) if unit.gate == GATE]


def reason() -> str:
    """Why the gate is shut."""
    with reading() as session:
        found = gates.find(session, GATE)
    assert found is not None
    return found.reason


def shut_for() -> float:
    """The seconds for which the gate has been shut just now."""
    with reading() as session:
        row = session.get_one(GateRow, GATE)
        now = session.scalar(select(db_now()))
    assert row.shut_until is not None
    assert now is not None
    return float(round((row.shut_until - now).total_seconds()))


def let_time_pass() -> None:
    """The gate has been shut for long enough."""
    with writing() as session:
        session.execute(update(GateRow).where(GateRow.name == GATE).values(shut_until=LONG_AGO))


def published() -> list[str]:
    """What dispatch sends now."""
    wire = Wire()
    ledger.dispatch(wire)
    return wire.sent


def test_units_behind_a_shut_gate_are_neither_published_nor_claimed_and_others_are() -> None:
    unit_id, *_ = gated(3)
    free = unit_ids(open_job(1))
    transact(gates.shut, GATE, "nobody answers")
    assert published() == free
    assert ledger.claim(unit_id, "worker") is None
    assert reason() == "nobody answers"


def test_units_that_were_in_the_broker_when_the_gate_was_shut_go_out_again_when_it_opens() -> None:
    units = gated(3)
    assert published() == units
    transact(gates.shut, GATE, "nobody answers")
    assert {state(unit_id) for unit_id in units} == {UnitState.READY}
    transact(gates.open_up, GATE)
    assert published() == units
    assert reason() == ""


def test_after_its_time_one_unit_goes_through_and_finds_out() -> None:
    first, *others = gated(3)
    transact(gates.shut, GATE, "nobody answers")
    let_time_pass()
    assert published() == [first]
    assert published() == []
    lease = claimed(first)
    assert published() == []
    transact(gates.open_up, GATE)
    settle(lease, ledger.Done())
    assert published() == others


def test_a_gate_stays_shut_longer_each_time_that_nothing_came_of_it() -> None:
    delays = []
    for _ in range(5):
        transact(gates.shut, GATE, "nobody answers")
        delays.append(shut_for())
        let_time_pass()
    assert delays == [1, 2, 4, 8, 8]
    transact(gates.open_up, GATE)
    transact(gates.shut, GATE, "nobody answers")
    assert shut_for() == 1


def test_of_many_units_that_find_the_same_at_once_one_counts() -> None:
    for _ in range(5):
        transact(gates.shut, GATE, "nobody answers")
    let_time_pass()
    transact(gates.shut, GATE, "nobody answers")
    assert shut_for() == 2


def test_no_more_units_are_at_work_or_about_to_be_than_the_limit_says() -> None:
    units = gated(5)
    transact(gates.limit, GATE, 2)
    assert published() == units[:2]
    lease = claimed(units[0])
    assert published() == []
    settle(lease, ledger.Done())
    assert published() == units[2:3]
    transact(gates.limit, GATE, None)
    assert published() == units[3:]


def test_units_behind_a_full_gate_do_not_keep_others_of_their_project_back() -> None:
    gated(40)
    transact(gates.limit, GATE, 1)
    assert len(published()) == 1
    free = unit_ids(open_job(3))
    assert published() == free


def test_overload_leaves_fewer_units_at_work_and_success_dares_one_more() -> None:
    units = gated(20)
    published()
    leases = [claimed(unit_id) for unit_id in units[:10]]
    transact(gates.narrow, GATE)
    for lease in leases[:5]:
        settle(lease, ledger.Again())
    # Ten more were in the broker: with the five at work they are more than the gate bears now.
    assert published() == []
    for unit_id in units[10:]:
        settle(claimed(unit_id), ledger.Done())
    assert len(published()) == 2
    transact(gates.learn, GATE, 100.0)
    assert len(published()) == 1


def test_the_rate_of_a_unit_is_a_moving_average() -> None:
    for rate in (100.0, 200.0):
        transact(gates.learn, GATE, rate)
    with reading() as session:
        found = gates.find(session, GATE)
    assert found is not None
    assert found.rate == 150.0
