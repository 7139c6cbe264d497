"""Metrics: what a job stored, held against the annotations of its datums."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from orchestrator.bulk_inference import metrics
from orchestrator.bulk_inference.job import submit_bulk_inference_job
from orchestrator.bulk_inference.metrics import measure
from orchestrator.bulk_inference.record import StoredResult, Target, record
from orchestrator.bulk_inference.tables import BulkInferenceJobRow
from orchestrator.database import reading
from orchestrator.errors import BlobNotFound, InvalidRequest
from orchestrator.registry import list_datums
from orchestrator.registry.models import OutputCodec, TaskType
from orchestrator.storage import blobs
from tests.orchestrator.bulk_inference.conftest import SceneOf
from tests.support.bulk_inference import Scene, claim, labelled, run_plan


def png(width: int, height: int) -> bytes:
    """A picture of this size."""
    file = BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def inferred(scene: Scene, answers: dict[int, Any], **request: Any) -> BulkInferenceJobRow:
    """A job that has stored `answers`, by ordinal."""
    job_id = submit_bulk_inference_job(scene.request(evaluate_metrics=True, **request))
    run_plan(job_id)
    datums = {datum.ordinal: datum for datum in list_datums(scene.snapshot_id, "default")}
    results = [
        StoredResult(number, datums[number].id, "sha", datums[number].storage_key, json.dumps(answer), "v2")
        for number, answer in answers.items()
    ]
    record(claim(job_id, "infer"), Target(scene.model_id, "predict"), results)
    with reading() as session:
        return session.get_one(BulkInferenceJobRow, job_id)


def classified(label: str) -> list[dict[str, Any]]:
    return [{"label": label, "score": 0.9}]


def test_a_classification_is_measured_over_every_page(scene_of: SceneOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PAGE", 3)
    truth = labelled(range(6), "cat") | labelled(range(6, 10), "dog")
    answers = {number: classified("cat" if number < 8 else "dog") for number in range(10)}
    evaluation = measure(inferred(scene_of(10, annotations=truth), answers))
    assert evaluation["datums"] == 10
    assert evaluation["summary"]["accuracy"] == pytest.approx(0.8)
    assert json.loads(json.dumps(evaluation)) == evaluation


def test_datums_without_an_inference_are_left_out(scene_of: SceneOf) -> None:
    scene = scene_of(10, annotations=labelled(range(10), "cat"))
    assert measure(inferred(scene, {3: classified("cat"), 7: classified("cat")}))["datums"] == 2


def test_a_job_that_stored_nothing_has_an_empty_evaluation(scene_of: SceneOf) -> None:
    assert measure(inferred(scene_of(10, annotations=labelled(range(10))), {}))["metrics"] == []


@pytest.fixture
def oriented(scene_of: SceneOf) -> Any:
    """Builds a scene of oriented boxes, with a model that detects them."""

    def build(image: bytes) -> tuple[Scene, str]:
        box = {"class_label": "ship", "oriented_bbox": {"cx": 0.5, "cy": 0.5, "w": 0.4, "h": 0.2, "r": 0.7}}
        scene = scene_of(2, annotations={0: box, 1: box}, image=image)
        detector = scene.register("ships", TaskType.ORIENTED_OBJECT_DETECTION, output_codec=OutputCodec.OBJECTS)
        return scene, detector

    return build


def ship() -> list[dict[str, Any]]:
    return [{"label": "ship", "score": 0.9, "cx": 0.5, "cy": 0.5, "w": 0.4, "h": 0.2, "r": 0.7}]


def test_oriented_boxes_are_measured_at_the_size_of_their_image(oriented: Any) -> None:
    scene, detector = oriented(png(200, 100))
    job = inferred(scene, {0: ship(), 1: ship()}, model_id=detector, inference_method="detect")
    assert measure(job)["summary"]["mAP"] == pytest.approx(1.0)


@pytest.mark.parametrize("image", [b"no image at all", png(200, 100)[:30]])
def test_an_image_that_cannot_be_read_is_named(oriented: Any, image: bytes) -> None:
    scene, detector = oriented(image)
    job = inferred(scene, {0: ship()}, model_id=detector, inference_method="detect")
    with pytest.raises(InvalidRequest, match=f"datum {list_datums(scene.snapshot_id, 'default')[0].id} is no image"):
        measure(job)


def test_an_image_that_is_gone_is_said_to_be_gone(oriented: Any) -> None:
    scene, detector = oriented(png(20, 10))
    blobs().delete(list_datums(scene.snapshot_id, "default")[0].storage_key)
    job = inferred(scene, {0: ship()}, model_id=detector, inference_method="detect")
    with pytest.raises(BlobNotFound):
        measure(job)
