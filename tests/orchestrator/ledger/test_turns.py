"""Turns: what the broker's order would get wrong is put right when a unit is claimed, and while one is at work."""

from __future__ import annotations

import pytest

from orchestrator import ledger
from orchestrator.database import reading, transact
from orchestrator.ledger import Lease
from orchestrator.ledger.pulses import beat
from orchestrator.queues import QueueName
from orchestrator.settings import settings
from tests.support.ledger import Wire, claimed, one_unit, open_job, published_long_ago, settle, unit_ids

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(settings(), "dispatch_window", 4)
    return 4


def gives_way(lease: Lease) -> bool:
    with reading() as session:
        return ledger.gives_way(session, lease)


def next_of(wire: Wire) -> str:
    """The unit that a worker takes on the next message."""
    return ledger.whose_turn(wire.sent.pop(0))


def test_with_one_project_a_message_means_the_unit_that_it_names() -> None:
    open_job(4)
    wire = Wire()
    ledger.dispatch(wire)
    expected = list(wire.sent)
    assert [claimed(next_of(wire)).unit_id for _ in expected] == expected


def test_behind_a_full_window_a_newcomer_gets_a_place_and_is_claimed_first() -> None:
    open_job(20, project="large")
    wire = Wire()
    ledger.dispatch(wire)
    at_work = claimed(next_of(wire))
    small = one_unit(project="small")
    ledger.dispatch(wire)
    assert wire.sent[-1] == small
    assert next_of(wire) == small
    assert claimed(small).project_id != at_work.project_id


def test_a_unit_that_was_passed_over_is_claimed_on_the_message_of_the_one_that_went_before() -> None:
    large = open_job(1, project="large")
    claimed(unit_ids(large)[0])
    passed_over = one_unit(project="large")
    wire = Wire()
    ledger.dispatch(wire)
    first = one_unit(project="small")
    ledger.dispatch(wire)
    assert wire.sent == [passed_over, first]
    claimed(next_of(wire))
    assert next_of(wire) == passed_over


def test_units_of_another_kind_do_not_go_before() -> None:
    """The message starts a task, and the task is for one kind."""
    large = open_job(1, project="large")
    claimed(unit_ids(large)[0])
    named = one_unit(project="large")
    other = open_job(0, project="small")
    with_other_kind = unit_ids(other)
    transact(lambda session: ledger.cancel(session, other))
    transact(lambda session: ledger.add(session, other, [ledger.NewUnit("test.other", "other", QueueName.INFERENCE)]))
    wire = Wire()
    ledger.dispatch(wire)
    assert with_other_kind[0] not in wire.sent
    assert ledger.whose_turn(named) == named


def test_a_unit_gives_way_to_a_project_with_less_of_the_workers_that_has_waited() -> None:
    first, second = (claimed(unit_id) for unit_id in unit_ids(open_job(2, project="large")))
    assert not gives_way(first)
    small = one_unit(project="small")
    ledger.dispatch(Wire())
    assert not gives_way(first), "a worker may be about to take it"
    published_long_ago(small)
    assert gives_way(first)
    settle(first, ledger.Again())
    claimed(small)
    assert not gives_way(second)


def test_of_more_projects_than_workers_each_has_its_turn() -> None:
    running = claimed(one_unit(project="first"))
    waiting = one_unit(project="second")
    ledger.dispatch(Wire())
    published_long_ago(waiting)
    assert gives_way(running)


def test_a_heavy_project_keeps_its_share() -> None:
    leases = [claimed(unit_id) for unit_id in unit_ids(open_job(3, project="heavy", weight=3))]
    light = unit_ids(open_job(2, project="light"))
    claimed(light[0])
    ledger.dispatch(Wire())
    published_long_ago(light[1])
    assert not any(gives_way(lease) for lease in leases)


def test_nobody_gives_way_to_its_own_project() -> None:
    running = claimed(one_unit(project="same"))
    waiting = one_unit(project="same")
    ledger.dispatch(Wire())
    published_long_ago(waiting)
    assert not gives_way(running)


def test_a_unit_that_infers_gives_way_to_another_project_s_plan() -> None:
    running = claimed(one_unit(project="large"))
    plan = one_unit(project="small", queue=QueueName.PLANNING)
    ledger.dispatch(Wire())
    published_long_ago(plan)
    assert gives_way(running)


def test_a_unit_gives_way_to_what_its_own_workers_serve_and_to_nothing_else() -> None:
    """Its slot would be of no use to an export whose workers are others, or are not there."""
    transact(beat, "worker:one", {"queues": ["inference", "planning"]})
    running = claimed(one_unit(project="large"))
    export = one_unit(project="small", queue=QueueName.EXPORTS)
    ledger.dispatch(Wire())
    published_long_ago(export)
    assert not gives_way(running)
    transact(beat, "worker:two", {"queues": ["exports", "inference"]})
    assert gives_way(running)
