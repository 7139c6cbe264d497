"""Submissions by a stranger: any Celery producer may send one, and whatever cannot be read is refused once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Connection, Producer

from orchestrator.bulk_inference import (
    ProgressState,
    get_bulk_inference_jobs,
    list_bulk_inference_jobs,
    wait_for_bulk_inference_job,
)
from orchestrator.ids import new_id
from orchestrator.ledger.submissions import Rejection, rejections
from orchestrator.queues import CeleryPublisher, QueueName
from tests.conftest import forget_settings
from tests.end_to_end.conftest import BRISK
from tests.support.bulk_inference import Scene, set_scene, stored
from tests.support.model_server import ModelServer
from tests.support.processes import Workers, wait_until

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def stranger(broker: Broker) -> Iterator[Celery]:
    """Somebody else's Celery app, which knows the broker's address and two names."""
    with closing(Celery("stranger", broker=broker.url, set_as_current=False)) as app:
        yield app


@pytest.fixture
def scene(
    database: Database, broker: Broker, tmp_path: Path, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    for name, value in BRISK.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    return set_scene(tmp_path, 20, url=server.url)


def message(scene: Scene, **more: Any) -> dict[str, Any]:
    return {"kind": "bulk_inference", "spec": scene.request().model_dump(), **more}


def send(app: Celery, *args: Any, task_id: str | None = None, **kwargs: Any) -> None:
    app.send_task("orchestrator.submit", args=args, kwargs=kwargs, queue="submissions", task_id=task_id)


def test_a_stranger_submits_by_one_argument_or_by_keywords_and_a_message_sent_twice_is_one_job(
    scene: Scene, stranger: Celery, worker_processes: Workers
) -> None:
    worker_processes.beat()
    worker_processes.start()
    twice = new_id()
    send(stranger, message(scene, failure_threshold=0.5))
    send(stranger, **message(scene, priority=3))
    for _ in range(2):
        send(stranger, message(scene), task_id=twice)
        send(stranger, message(scene, request_id="mine"))
    wait_until(lambda: len(list_bulk_inference_jobs()) >= 4, "the jobs are there")
    jobs = [
        wait_for_bulk_inference_job(job.job_id, timeout=timedelta(seconds=30)) for job in list_bulk_inference_jobs()
    ]
    wait_until(is_idle, "every message was taken")
    assert len(get_bulk_inference_jobs(scene.model_id)) == 4
    assert [job.status for job in jobs] == [ProgressState.SUCCEEDED] * 4
    assert {(job.failure_threshold, job.priority) for job in jobs} == {(0.5, 0), (0.0, 3), (0.0, 0)}
    assert all(stored(job.job_id) == list(range(20)) for job in jobs)
    assert rejections() == []


def is_idle() -> bool:
    return CeleryPublisher().depth(QueueName.SUBMISSIONS) == 0


#: What a stranger may get wrong with a well-formed task message, and what he is told.
WRONG_ARGUMENTS: list[tuple[list[Any], dict[str, Any], str]] = [
    ([], {}, "kind: None is not one of bulk_inference"),
    ([{}, {}], {}, "The message must be one object"),
    ([{}], {"kind": "bulk_inference"}, "The message must be one object"),
    (["bulk_inference"], {}, "The message must be one object"),
    ([{"kind": "trianing", "spec": {}}], {}, "kind: 'trianing' is not one of bulk_inference"),
    ([{"kind": ["bulk_inference"], "spec": {}}], {}, "kind: ['bulk_inference'] is not one of"),
    ([{"kind": "bulk_inference", "spec": "all of it"}], {}, "spec: an object is needed, not str"),
    ([{"kind": "bulk_inference", "spec": {}, "urgent": True}], {}, "Unknown fields: 'urgent'"),
    ([{"kind": "bulk_inference", "spec": {"model": "m"}}], {}, "spec: unknown fields 'model'"),
    ([{"kind": "bulk_inference", "spec": {}}], {}, "spec: model_project_id: Field required"),
]

JSON = "application/json"
TASK = {"task": "orchestrator.submit", "lang": "py"}
#: Bodies, content types and headers that no task can be made of. `ID` stands for the message's own id.
UNREADABLE: list[tuple[str | bytes, str, dict[str, Any], str]] = [
    ("{not json", JSON, TASK | {"id": "ID"}, "the body cannot be decoded"),
    (b"\x80\x04N.", "application/x-python-serialize", TASK | {"id": "ID"}, "Refusing to deserialize"),
    ("[1, 2]", JSON, TASK | {"id": "ID"}, "the body is not [args, kwargs, embed]"),
    ("5", JSON, TASK | {"id": "ID"}, "the body is not [args, kwargs, embed]"),
    ('["abc", {}, {}]', JSON, TASK | {"id": "ID"}, "the body is not [args, kwargs, embed]"),
    ("[[], {}, {}]", JSON, TASK, "the message has no id"),
    ("[[], {}, {}]", JSON, TASK | {"id": "ID", "eta": "tomorrow"}, "invalid ETA value"),
    ("[[], {}, {}]", JSON, TASK | {"id": "ID", "timelimit": 5}, "a header is malformed"),
    ("[[], {}, {}]", JSON, {"task": "orchestrator.sumbit", "id": "ID"}, "there is no task 'orchestrator.sumbit'"),
    ('{"task": "no.such.task"}', JSON, {}, "the message has no id"),
    ('{"task": "no.such.task", "id": "old", "args": []}', JSON, {}, "there is no task 'no.such.task'"),
    ('{"kind": "bulk_inference", "spec": {}}', JSON, {}, "the message names no task"),
    ("hello", "text/plain", {}, "Refusing to deserialize"),
]


def test_what_cannot_be_understood_is_refused_once_with_its_reason_and_the_worker_goes_on(
    scene: Scene, broker: Broker, stranger: Celery, worker_processes: Workers
) -> None:
    for args, kwargs, _ in WRONG_ARGUMENTS:
        send(stranger, *args, **kwargs)
    for model_id in ("nobody", "nul\0half\ud800"):
        send(stranger, message(scene) | {"spec": scene.request(model_id=model_id).model_dump()})
    with Connection(broker.url) as connection:
        producer = Producer(connection.channel())
        for body, content_type, headers, _ in UNREADABLE:
            own = {name: new_id() if value == "ID" else value for name, value in headers.items()}
            producer.publish(
                body,
                exchange="",
                routing_key="submissions",
                content_type=content_type,
                content_encoding="binary" if isinstance(body, bytes) else "utf-8",
                headers=own,
            )
    send(stranger, message(scene, request_id="good"))
    worker = worker_processes.start()
    [job] = wait_until(list_bulk_inference_jobs, "the good submission behind all the others was accepted")
    wait_for_bulk_inference_job(job.job_id, timeout=timedelta(seconds=30))
    expected = [reason for *_, reason in WRONG_ARGUMENTS] + [reason for *_, reason in UNREADABLE]
    expected += ["No model 'nobody'", "model_id: 'nul\\x00half\\ud800' holds characters"]
    found = wait_until(lambda: enough(len(expected)), "every refusal is recorded")
    missing = [reason for reason in expected if not any(rejection.reason.startswith(reason) for rejection in found)]
    assert missing == []
    assert len(found) == len(expected)
    assert is_idle()
    assert worker.is_running
    assert worker.log.read_text().count(" ready.") == 1
    assert all(len(rejection.excerpt) <= 500 for rejection in found)


def enough(count: int) -> list[Rejection]:
    found = rejections(limit=200)
    return found if len(found) >= count else []
