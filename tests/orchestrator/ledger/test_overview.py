"""The ledger at a glance: what is counted, what has waited, and that what is done costs nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from orchestrator import clock, ledger
from orchestrator.database import engine, reading, transact, writing
from orchestrator.ledger import UnitState
from orchestrator.ledger.overview import Overview, overview, state_of, unfinished_units
from orchestrator.queues import UNIT_QUEUES, QueueName
from tests.support.ledger import Wire, become_due, claimed, one_unit, open_job, row, settle, unit_ids

pytestmark = pytest.mark.usefixtures("database")


def seen() -> Overview:
    with reading() as session:
        return overview(session)


def counts(queue: QueueName) -> tuple[int, ...]:
    """Units ready, published and at work."""
    return tuple(seen().queues[queue.value].units.values())


def test_an_empty_ledger_has_every_queue_and_nothing_in_it() -> None:
    found = seen()
    assert {queue: (sum(view.units.values()), view.oldest_ready) for queue, view in found.queues.items()} == {
        queue.value: (0, None) for queue in UNIT_QUEUES
    }
    assert (found.open_jobs, found.paused_jobs) == (0, 0)


def test_units_are_counted_by_queue_and_state_until_they_are_finished() -> None:
    first, second, *_ = unit_ids(open_job(4))
    one_unit(queue=QueueName.PLANNING)
    claimed(first)
    settle(claimed(second), ledger.Done())
    assert (counts(QueueName.INFERENCE), counts(QueueName.PLANNING)) == ((2, 0, 1), (1, 0, 0))
    ledger.dispatch(Wire())
    assert (counts(QueueName.INFERENCE), counts(QueueName.PLANNING)) == ((0, 2, 1), (0, 1, 0))


def test_the_oldest_ready_unit_is_one_that_could_be_dispatched() -> None:
    def oldest() -> timedelta | None:
        return seen().queues["inference"].oldest_ready

    old = one_unit()
    become_due(old)  # since yesterday
    waited = oldest()
    assert waited is not None
    assert waited >= timedelta(days=1)

    job_id = row(old).job_id
    transact(ledger.jobs.pause, job_id)
    assert oldest() is None, "what is paused waits for a person"
    assert (seen().open_jobs, seen().paused_jobs) == (1, 1)
    transact(ledger.jobs.resume, job_id)
    settle(claimed(old), ledger.Again(delay=3600))
    assert oldest() is None, "what is not due waits for its time"


def test_the_state_of_a_unit_is_known_and_that_of_no_unit_is_not() -> None:
    unit_id = one_unit()
    with reading() as session:
        assert (state_of(session, unit_id), state_of(session, "nobody's")) == (UnitState.READY, None)


def test_counting_reads_what_is_unfinished_alone() -> None:
    for _ in range(3):
        open_job(50)
    compiled = unfinished_units(clock.now()).compile(engine(), compile_kwargs={"literal_binds": True})
    with writing() as session:
        if engine().dialect.name == "postgresql":
            # A table of a few rows is read whole however it is indexed, unless that is made to look dear.
            session.execute(text("SET LOCAL enable_seqscan = off"))
            plan = session.connection().exec_driver_sql(f"EXPLAIN {compiled}").all()
        else:
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
    assert "ix_work_units_unfinished" in str(plan)
