"""Policies that run by themselves: their schedules begin and end with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select

from orchestrator import schedules
from orchestrator.database import reading, transact
from orchestrator.errors import Conflict, ScheduleNotFound
from orchestrator.inference_store.retention.models import TaskState
from orchestrator.inference_store.retention.policies import end_policy, find_policy
from orchestrator.inference_store.retention.tasks import list_tasks
from orchestrator.ledger import UnitState, list_units
from orchestrator.ledger.tables import UnitRow
from orchestrator.schedules import OccurrenceState
from tests.conftest import Database
from tests.support.retention import policy, register, run_units, store, visible
from workers.tasks.schedules import fire


@pytest.fixture
def model(database: Database) -> str:
    return register()


def tick() -> int:
    """Do what beat and a worker do about schedules; returns how many jobs were to be submitted."""
    ticked = schedules.tick()
    with reading() as session:
        waiting = session.scalars(select(UnitRow.id).where(UnitRow.kind == fire.name, UnitRow.state == UnitState.READY))
        units = waiting.all()
    for unit_id in units:
        fire(unit_id)
    return ticked.fired


def schedule_of(model: str) -> str:
    found = find_policy(model)
    assert found is not None
    assert found.schedule_id is not None
    return found.schedule_id


def test_a_policy_with_an_interval_runs_at_once_and_then_by_itself(model: str) -> None:
    store(model, ["old"], hours=2)
    policy(model, interval=6)
    assert tick() == 1
    (task,) = list_tasks(model_id=model)
    found = find_policy(model)
    assert found is not None
    assert found.last_scheduled_at == task.created_at
    run_units(task.task_id)
    assert visible(model) == []
    assert tick() == 0
    schedule = schedules.get_schedule(schedule_of(model))
    assert schedule is not None
    assert schedule.next_due_at == (schedule.starts_at or task.created_at) + timedelta(hours=6)


def test_a_policy_without_an_interval_has_no_schedule(model: str) -> None:
    policy(model)
    assert tick() == 0
    assert schedules.list_schedules() == []


def test_another_policy_takes_over_at_once(model: str) -> None:
    policy(model, interval=6)
    tick()
    first = schedule_of(model)
    (task,) = list_tasks(model_id=model)
    policy(model, interval=1)
    former = schedules.get_schedule(first)
    assert former is not None
    assert former.deleted_at is not None
    assert list_tasks(model_id=model, state=TaskState.STOPPED)[0].task_id == task.task_id
    assert tick() == 1
    assert len(list_tasks(model_id=model)) == 2


def test_a_policy_that_is_deleted_runs_no_more(model: str) -> None:
    policy_id = policy(model, interval=6)
    schedule_id = schedule_of(model)
    assert end_policy(model, policy_id)
    assert tick() == 0
    assert list_tasks(model_id=model) == []
    assert {one.state for one in schedules.list_occurrences(schedule_id)} <= {OccurrenceState.SKIPPED}


def test_the_schedule_of_a_policy_is_changed_by_the_policy_alone(model: str) -> None:
    policy_id = policy(model, interval=6)
    schedule_id = schedule_of(model)
    changes: list[Callable[[str], object]] = [
        schedules.delete_schedule,
        schedules.pause_schedule,
        lambda one: schedules.update_schedule(one, every=timedelta(days=1)),
    ]
    for change in changes:
        with pytest.raises(Conflict, match=f"the retention policy of model '{model}': change or delete that"):
            change(schedule_id)
    assert schedules.resume_schedule(schedule_id).every == timedelta(hours=6)
    assert end_policy(model, policy_id)
    with pytest.raises(ScheduleNotFound):
        schedules.delete_schedule(schedule_id)


def test_a_policy_outlives_a_schedule_that_somebody_deleted(model: str) -> None:
    policy_id = policy(model, interval=6)
    transact(schedules.remove, schedule_of(model))
    assert end_policy(model, policy_id)


def test_an_occurrence_of_a_policy_that_was_replaced_is_refused(model: str) -> None:
    policy(model, interval=6)
    schedule_id = schedule_of(model)
    schedules.tick()
    policy(model, interval=6)
    units = [unit for unit in list_units(limit=100) if unit.kind == fire.name and unit.state == UnitState.READY]
    for unit in units:
        fire(unit.id)
    (occurrence,) = schedules.list_occurrences(schedule_id)
    assert occurrence.state is OccurrenceState.SKIPPED
    assert "has no retention policy" in occurrence.reason
