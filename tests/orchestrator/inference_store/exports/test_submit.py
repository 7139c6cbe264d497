"""Exports that a message or a schedule asks for."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest, ModelNotFound, RequestIdReused
from orchestrator.inference_store.export_task import get_export_details, list_export_tasks
from orchestrator.inference_store.exports.models import ArchiveFormat
from orchestrator.inference_store.exports.submit import submit_message
from orchestrator.inference_store.receipts import list_receipts
from orchestrator.inference_store.register import list_registered_models
from tests.support.exports import register

pytestmark = pytest.mark.usefixtures("database")


def test_a_message_is_one_export_however_often_it_comes() -> None:
    spec = {
        "model_id": register().model_id,
        "request": {"include_custom_metadata": True, "filters": {"inference_action_filter": "predict"}},
        "archive_format": "coco",
    }
    task_id = submit_message(spec, {"request_id": "again", "priority": 1})
    assert submit_message(spec, {"request_id": "again"}) == task_id
    assert get_export_details(task_id).archive_format is ArchiveFormat.COCO
    with pytest.raises(RequestIdReused, match="another archive_format, filters, include_custom_metadata"):
        submit_message({**spec, "archive_format": "parquet", "request": {}}, {"request_id": "again"})


@pytest.mark.parametrize(
    "spec, says",
    [
        ({}, "model_id: Field required"),
        ({"model_id": "m", "formt": "coco"}, "formt: Extra inputs"),
        ({"model_id": "m", "archive_format": "rar"}, "archive_format"),
        ({"model_id": "m", "request": {"include_inference_ids": 3}}, "request.include_inference_ids"),
        ({"model_id": "m", "request": {"exclude_inference_id": ["a"]}}, "request.exclude_inference_id: Extra inputs"),
        ({"model_id": "m", "request": {"filters": {"inference_action": "x"}}}, "inference_action: Extra inputs"),
    ],
)
def test_a_message_that_cannot_be_understood_is_refused_with_the_field(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        submit_message(spec, {})


def test_a_message_about_a_model_that_is_not_registered_is_refused() -> None:
    with pytest.raises(ModelNotFound):
        submit_message({"model_id": "nobody's"}, {})


@pytest.mark.parametrize(
    "option", [{"request_id": ""}, {"request_id": "\0"}, {"request_id": "x" * 256}, {"priority": 10**10}]
)
def test_an_option_that_no_job_can_have_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(option))):
        submit_message({"model_id": register().model_id}, option)


@pytest.mark.parametrize("limit", [-1, 2**70])
def test_a_list_of_no_such_length_is_refused(limit: int) -> None:
    for door in (list_export_tasks, list_registered_models, list_receipts):
        with pytest.raises(InvalidRequest, match="limit"):
            door(limit=limit)
