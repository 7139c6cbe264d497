"""What a process keeps from unit to unit: one client a model, until it is old or something broke."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog

from orchestrator.errors import Unavailable
from orchestrator.registry.models import Endpoint, InferenceAction, Model, TaskType
from orchestrator.settings import settings
from tests.support.model_server import ModelServer
from tests.support.services import Broker
from workers.inference import connections
from workers.inference.congestion import Window
from workers.inference.failures import Unreachable

ACTION = InferenceAction.PREDICT


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    connections.run(connections.disconnect_all())
    connections._kept.runner.close()
    connections._kept.__init__()  # type: ignore[misc]  # as a new thread would find it


def model_at(url: str, **endpoint: object) -> Model:
    answer = Endpoint.model_validate(
        {
            "url": url,
            "model_name": "model",
            "input_codec": "image_base64",
            "output_codec": "classification",
            "labels": ["a"],
            **endpoint,
        }
    )
    return Model(
        id="model",
        project_id="project",
        name="model",
        version="1",
        task_type=TaskType.IMAGE_CLASSIFICATION,
        actions=[ACTION],
        endpoint=answer,
        created_at=datetime.now(UTC),
    )


def test_the_next_unit_finds_the_client_and_the_loop_of_the_one_before() -> None:
    with ModelServer() as server:
        first = connections.run(connections.connect(model_at(server.url), ACTION))
        assert connections.run(connections.connect(model_at(server.url), ACTION)) is first
        assert server.seen.paths.count("/v2/models/model") == 1


def test_an_old_client_is_opened_anew_and_keeps_what_was_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer() as server:
        first = connections.run(connections.connect(model_at(server.url), ACTION))
        first.window.control.limit = 17
        monkeypatch.setattr(connections, "LIFETIME", 0)
        second = connections.run(connections.connect(model_at(server.url), ACTION))
    assert second.client is not first.client
    assert second.window.limit == 17


def test_an_endpoint_that_was_changed_gets_a_client_of_its_own() -> None:
    with ModelServer() as server:
        first = connections.run(connections.connect(model_at(server.url), ACTION))
        second = connections.run(connections.connect(model_at(server.url, timeout=3), ACTION))
    assert second.client is not first.client
    assert second.client.endpoint.timeout == 3


def test_a_model_without_limits_needs_no_redis() -> None:
    with ModelServer() as server:
        connection = connections.run(connections.connect(model_at(server.url), ACTION))
    assert connection.member is None
    assert connection.window.is_open(time.monotonic())


@pytest.mark.parametrize("limit", [{"max_concurrency": 3}, {"requests_per_second": 10}])
def test_a_model_with_limits_waits_for_the_redis_that_keeps_them(limit: dict[str, int]) -> None:
    with ModelServer() as server, pytest.raises(Unavailable, match="keeps the model's limits"):
        connections.run(connections.connect(model_at(server.url, **limit), ACTION))


def test_without_any_redis_the_limits_hold_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", "amqp://127.0.0.1:1//")
    settings.cache_clear()
    connections.warn_once.cache_clear()
    with ModelServer() as server, structlog.testing.capture_logs() as logs:
        connection = connections.run(connections.connect(model_at(server.url, max_concurrency=3), ACTION))
        connections.run(connections.connect(model_at(server.url, max_concurrency=5), ACTION))
    assert connection.member is None
    assert connection.window.control.ceiling == 3
    assert [line["event"] for line in logs] == ["limits_hold_per_process"]


def test_a_process_between_two_units_holds_no_share(redis_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_COORDINATION_URL", redis_broker.url)
    settings.cache_clear()

    async def work() -> tuple[connections.Connection, int]:
        connection = await connections.connect(model_at(server.url, max_concurrency=3), ACTION)
        async with asyncio.timeout(10):
            async with connection.window.slot():
                return connection, connection.window.share.places

    with ModelServer() as server:
        connection, places = connections.run(work())
        assert places == 3
        assert not connection.window.is_open(time.monotonic())
        assert connections.run(work()) == (connection, 3)


def test_a_server_that_cannot_be_asked_leaves_nothing_behind() -> None:
    with pytest.raises(Unreachable):
        connections.run(connections.connect(model_at("http://127.0.0.1:9"), ACTION))
    assert connections._kept.connections == {}


def test_work_that_is_interrupted_from_outside_does_not_go_on_beside_the_next() -> None:
    """A time limit raises in the middle of the loop, which leaves its tasks where they are."""
    events: list[str] = []

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_soon(interrupt)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    def interrupt() -> None:
        raise SystemExit("time limit")

    async def next_work() -> str:
        assert len(asyncio.all_tasks()) == 1
        return "done"

    connections._kept.connections["kept"] = connections.Connection(None, Window(), 0.0)  # type: ignore[arg-type]  # never used
    with pytest.raises(SystemExit):
        connections.run(work())
    assert events == ["cancelled"]
    assert connections._kept.connections == {}
    assert connections.run(next_work()) == "done"
