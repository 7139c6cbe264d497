"""Submission: what is wrong is refused before anything is written, and the same request id is the same job."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from orchestrator import ledger
from orchestrator.bulk_inference.job import (
    create_bulk_inference_job,
    get_bulk_inference_details,
    submit_bulk_inference_job,
)
from orchestrator.bulk_inference.models import ProgressState
from orchestrator.bulk_inference.submit import LARGEST_BATCH, check, submit_message
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import reading, transact, writing
from orchestrator.errors import (
    ApiException,
    DatasetNotFound,
    InferenceMethodNotSupported,
    InvalidRequest,
    ModelNotFound,
    RequestIdReused,
    SnapshotNotFound,
    SplitNotFound,
)
from orchestrator.ledger.tables import JobRow, UnitRow
from orchestrator.registry.catalog import add_model, serve_model
from orchestrator.registry.models import Endpoint, InputCodec, OutputCodec, TaskType
from orchestrator.registry.tables import SnapshotRow
from orchestrator.transitions import EventRow, events_of
from tests.support.bulk_inference import Scene, row_count, set_scene

if TYPE_CHECKING:
    from tests.conftest import Database

TABLES = (JobRow, UnitRow, BulkInferenceJobRow, EventRow)

REFUSED = [
    ({"model_id": "nobody"}, ModelNotFound, "nobody"),
    ({"model_project_id": "elsewhere"}, ModelNotFound, "elsewhere"),
    ({"dataset_id": "none"}, DatasetNotFound, "none"),
    ({"dataset_project_id": "elsewhere"}, DatasetNotFound, "elsewhere"),
    ({"dataset_snapshot_id": "none"}, SnapshotNotFound, "none"),
    ({"dataset_snapshot_split": "test"}, SplitNotFound, "it has default"),
    ({"inference_method": "detect"}, InferenceMethodNotSupported, "choose from predict, predict_proba"),
    ({"inference_method": ""}, InferenceMethodNotSupported, "name one of predict, predict_proba"),
    ({"batch_size": 0}, InvalidRequest, "batch_size is 0"),
    ({"batch_size": -1}, InvalidRequest, "batch_size is -1"),
    ({"batch_size": LARGEST_BATCH + 1}, InvalidRequest, "4096 at most"),
    ({"batch_size": 2**70}, InvalidRequest, "4096 at most"),
    ({"evaluate_metrics": True}, InvalidRequest, "no datum of split 'default' is annotated"),
    ({"model_id": "nul\0"}, InvalidRequest, "model_id"),
    ({"dataset_snapshot_split": "half\ud800"}, InvalidRequest, "dataset_snapshot_split"),
]


@pytest.mark.parametrize("wrong, error, words", REFUSED)
def test_a_wrong_value_is_refused_by_a_typed_error_and_nothing_is_written(
    scene: Scene, wrong: dict[str, Any], error: type[ApiException], words: str
) -> None:
    with pytest.raises(error, match=words) as refusal:
        create_bulk_inference_job(scene.request(**wrong))
    assert type(refusal.value) is error
    assert [row_count(table) for table in TABLES] == [0, 0, 0, 0]


def test_a_model_that_no_server_answers_for_yet_is_refused(scene: Scene) -> None:
    endpoint = Endpoint(url="", model_name="m", input_codec=InputCodec.TEXT, output_codec=OutputCodec.CLASSIFICATION)
    model = transact(add_model, scene.project_id, "unserved", TaskType.IMAGE_CLASSIFICATION, endpoint)
    with pytest.raises(InvalidRequest, match="no server answers for 'unserved' yet"):
        create_bulk_inference_job(scene.request(model_id=model.id))
    serve_model(model.id, "http://127.0.0.1:9")
    assert create_bulk_inference_job(scene.request(model_id=model.id))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"failure_threshold": 1.1}, "failure_threshold"),
        ({"failure_threshold": float("nan")}, "failure_threshold"),
        ({"priority": 1001}, "priority"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "nul\0"}, "request_id"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_is_written(scene: Scene, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        submit_bulk_inference_job(scene.request(), **options)
    assert row_count(JobRow) == 0


def test_metrics_of_a_task_that_has_none_are_refused(scene: Scene) -> None:
    model_id = scene.register("embedder", TaskType.IMAGE_EMBEDDING, output_codec=OutputCodec.EMBEDDING)
    with pytest.raises(InvalidRequest, match="no metrics for Image Embedding"):
        create_bulk_inference_job(scene.request(model_id=model_id, inference_method="embed", evaluate_metrics=True))


def test_a_snapshot_that_is_still_being_imported_is_not_found(scene: Scene) -> None:
    with writing() as session:
        row = session.get_one(SnapshotRow, scene.snapshot_id)
        row.state, row.ready_at = "importing", None
        row.import_owner, row.import_expires_at = "somebody", row.created_at
    with pytest.raises(SnapshotNotFound):
        create_bulk_inference_job(scene.request())


def test_the_method_may_be_left_out_where_the_task_has_one_only(scene: Scene) -> None:
    model_id = scene.register("embedder", TaskType.IMAGE_EMBEDDING, output_codec=OutputCodec.EMBEDDING)
    job_id = create_bulk_inference_job(scene.request(model_id=model_id, inference_method=""))
    assert job_id is not None
    assert get_bulk_inference_details(job_id).request.inference_method == ""
    with reading() as session:
        assert session.get_one(BulkInferenceJobRow, job_id).action == "embed"


def test_a_job_begins_initialized_with_one_published_unit_that_plans_it(scene: Scene) -> None:
    job_id = submit_bulk_inference_job(scene.request(batch_size=4), failure_threshold=0.25, priority=7)
    details = get_bulk_inference_details(job_id)
    assert details.status is ProgressState.INITIALIZED
    assert (details.failure_threshold, details.priority, details.paused) == (0.25, 7, False)
    assert details.request == scene.request(batch_size=4)
    assert (details.num_computed, details.num_failed, details.expected_total) == (0, 0, None)
    assert [(unit.kind, unit.state) for unit in ledger.list_units(job_id)] == [("bulk_inference.plan", "published")]
    with reading() as session:
        assert [event.to_state for event in events_of(session, job_id)] == ["initialized"]


def test_without_a_broker_the_job_is_accepted_and_its_unit_waits(database: Database, tmp_path: Path) -> None:
    job_id = submit_bulk_inference_job(set_scene(tmp_path).request())
    assert [unit.state for unit in ledger.list_units(job_id)] == ["ready"]


def test_checking_a_request_writes_nothing_and_says_which_method_it_means(scene: Scene) -> None:
    assert check(scene.request()) == "predict_proba"
    with pytest.raises(SplitNotFound):
        check(scene.request(dataset_snapshot_split="test"))
    assert row_count(JobRow) == 0


def test_the_same_request_id_is_the_same_job(scene: Scene) -> None:
    first = submit_bulk_inference_job(scene.request(), request_id="mine")
    assert submit_bulk_inference_job(scene.request(), request_id="mine", priority=5) == first
    assert submit_bulk_inference_job(scene.request(), request_id="other") != first
    assert row_count(BulkInferenceJobRow) == 2


def test_a_request_id_that_comes_with_another_request_is_refused_and_says_what_differs(scene: Scene) -> None:
    first = submit_bulk_inference_job(scene.request(), request_id="mine")
    with pytest.raises(RequestIdReused, match=f"job {first}, .* another batch_size, failure_threshold") as refused:
        submit_bulk_inference_job(scene.request(batch_size=8), request_id="mine", failure_threshold=0.5)
    assert (refused.value.status, refused.value.details) == (409, {"job_id": first})
    with pytest.raises(RequestIdReused):
        submit_bulk_inference_job(scene.request(model_id="another"), request_id="mine")
    assert row_count(BulkInferenceJobRow) == 1


def test_submissions_at_the_same_time_with_one_request_id_make_one_job(scene: Scene) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(submit_bulk_inference_job, scene.request(), request_id=f"request-{number % 4}")
            for number in range(24)
        ]
        ids = [job.result() for job in jobs]
    assert len(set(ids)) == row_count(BulkInferenceJobRow) == 4
    assert all(ids[number] == ids[number + 4] for number in range(20))


def test_submissions_without_a_request_id_are_jobs_of_their_own(scene: Scene) -> None:
    assert create_bulk_inference_job(scene.request()) != create_bulk_inference_job(scene.request())


def test_a_message_is_submitted_like_a_call(scene: Scene) -> None:
    job_id = submit_message(scene.request(batch_size=3).model_dump(), {"request_id": "message", "priority": 2})
    details = get_bulk_inference_details(job_id)
    assert (details.request.batch_size, details.priority) == (3, 2)
    with reading() as session:
        assert session.scalars(select(JobRow.request_id)).all() == ["message"]


@pytest.mark.parametrize(
    "changes, options, words",
    [
        ({"batchsize": 8}, {}, "spec: unknown fields 'batchsize'"),
        ({"batch_size": "many"}, {}, "spec: batch_size"),
        ({"model_id": None}, {}, "spec: model_id"),
        ({}, {"failure_threshold": "half"}, "failure_threshold"),
        ({}, {"request_id": 7}, "request_id"),
    ],
)
def test_a_message_with_a_field_that_is_wrong_or_unknown_is_refused(
    scene: Scene, changes: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        submit_message({**scene.request().model_dump(), **changes}, options)
    assert row_count(JobRow) == 0


def test_a_message_without_a_field_says_which(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="spec: model_project_id: Field required"):
        submit_message({}, {})
