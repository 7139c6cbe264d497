"""The documented calls of retention: policies, tasks, filters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.errors import Conflict, InvalidRequest, ModelNotFound, NotFound
from orchestrator.inference_store.models import (
    DeleteAction,
    NewGetRetentionTasksRequest,
    NewRetentionPolicyRequest,
    NewRetentionTaskRequest,
    Pagination,
    PaginationEmbeddingSortField,
    PaginationSortDirection,
    RetentionPolicy,
    RetentionTaskState,
    TimeWindowFilter,
)
from orchestrator.inference_store.protection import protect_inference
from orchestrator.inference_store.retention_policy import (
    create_retention_policy,
    delete_retention_policy,
    get_retention_policy,
)
from orchestrator.inference_store.retention_task import (
    create_retention_task,
    filter_retention_tasks,
    get_retention_task,
    run_retention_manifest,
    stop_retention_task,
)
from tests.conftest import Database
from tests.support.retention import register, run_units, store, task, visible


@pytest.fixture
def model(database: Database) -> str:
    return register()


def set_policy(model: str, **values: Any) -> RetentionPolicy:
    request = {"automated_interval": 0, "maximum_record_age": 24, "maximum_blob_age": 12, **values}
    found = create_retention_policy(model, NewRetentionPolicyRequest(**request))
    assert found is not None
    return found


def start(model: str, policy: RetentionPolicy, *, dry_run: bool = False) -> str:
    found = create_retention_task(model, NewRetentionTaskRequest(dry_run=dry_run, retention_policy_id=policy.id))
    assert found is not None
    return found.id


def listed(model: str, **filters: Any) -> list[str]:
    return [one.id for one in filter_retention_tasks(model, NewGetRetentionTasksRequest(**filters))]


def test_a_policy_is_returned_as_it_was_set_and_replaced_by_the_next(model: str) -> None:
    first = set_policy(model)
    assert (first.model_id, first.delete_action, first.automated_interval) == (model, "soft", 0)
    assert (first.maximum_record_age, first.maximum_blob_age, first.last_scheduled_at) == (24, 12, None)
    second = set_policy(model, delete_action=DeleteAction.HARD)
    assert get_retention_policy(model) == second
    assert delete_retention_policy(model, first.id) is None
    assert delete_retention_policy(model, second.id) == second.id
    assert get_retention_policy(model) is None


def test_what_is_not_there_is_none_and_what_cannot_be_is_refused(model: str) -> None:
    assert get_retention_policy("nobody") is None
    assert get_retention_task(model, "nothing") is None
    assert filter_retention_tasks("nobody", NewGetRetentionTasksRequest()) == []
    assert protect_inference(model, "nothing") is None
    with pytest.raises(ModelNotFound):
        set_policy("nobody")
    with pytest.raises(NotFound):
        create_retention_task(model, NewRetentionTaskRequest(dry_run=True, retention_policy_id="nothing"))
    with pytest.raises(NotFound):
        run_retention_manifest(model, "nothing", "0" * 64)
    with pytest.raises(InvalidRequest):
        get_retention_task(model, "\0")


def test_a_task_tells_its_limits_and_counts(model: str) -> None:
    store(model, ["old", "older"], hours=30)
    policy = set_policy(model)
    task_id = start(model, policy)
    run_units(task_id)
    found = get_retention_task(model, task_id)
    assert found is not None
    assert (found.state, found.retention_policy_id) == ("complete", policy.id)
    assert (found.total_record_count, found.deleted_record_count) == (2, 2)
    assert found.maximum_blob_age_limit - found.maximum_record_age_limit == timedelta(hours=12)
    assert get_retention_task(register(), task_id) is None


def test_an_automated_policy_takes_dry_runs_only(model: str) -> None:
    policy = set_policy(model, automated_interval=1)
    start(model, policy, dry_run=True)
    with pytest.raises(Conflict):
        start(model, policy)


def test_a_manifest_is_run_and_a_task_is_stopped(model: str) -> None:
    store(model, ["old"], hours=30)
    policy = set_policy(model)
    dry = start(model, policy, dry_run=True)
    run_units(dry)
    manifest = task(dry).manifest
    assert manifest is not None
    stopped = run_retention_manifest(model, dry, manifest.sha256)
    assert stopped is not None
    ended = stop_retention_task(model, stopped.id)
    assert ended is not None
    assert (ended.state, visible(model)) == ("stopped", ["old"])
    again = run_retention_manifest(model, dry, manifest.sha256)
    assert again is not None
    run_units(again.id)
    assert visible(model) == []


def test_tasks_are_found_by_policy_state_and_time_page_by_page(model: str) -> None:
    policy = set_policy(model)
    dry, stopped, waiting = (start(model, policy, dry_run=flag) for flag in (True, False, False))
    run_units(dry)
    stop_retention_task(model, stopped)
    assert listed(model) == [dry, stopped, waiting]
    assert listed(model, retention_policy_id=policy.id, state_filter=RetentionTaskState.COMPLETE) == [dry]
    assert listed(model, retention_policy_id="other") == []
    assert listed(model, pagination=Pagination(limit=1, offset=1)) == [stopped]
    assert listed(model, pagination=Pagination(direction=PaginationSortDirection.DESCENDING)) == [waiting, stopped, dry]
    middle = task(stopped).created_at.isoformat()
    assert listed(model, time_window_filter=TimeWindowFilter(start=middle)) == [stopped, waiting]
    assert listed(model, time_window_filter=TimeWindowFilter(end=middle)) == [dry, stopped]
    for wrong in (
        {"pagination": Pagination(limit=-1)},
        {"pagination": Pagination(sort=PaginationEmbeddingSortField.EMBEDDING_DISTANCE)},
        {"time_window_filter": TimeWindowFilter(start="yesterday")},
    ):
        with pytest.raises(InvalidRequest):
            listed(model, **wrong)
