"""Queues: Celery's settings as they reach a worker, and messages that find their way through a broker's accidents."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from celery.exceptions import QueueNotFound
from kombu import Connection, Message
from kombu.exceptions import ContentDisallowed
from pydantic import SecretStr

from orchestrator.errors import Unavailable
from orchestrator.queues import UNIT_QUEUES, CeleryPublisher, QueueName, app, celery_settings
from orchestrator.settings import Settings, settings
from tests.conftest import forget_settings
from tests.support.processes import ROOT, wait_until
from tests.support.reaper import Reaper
from tests.support.services import SERVICES, Broker, RedisServer, own_redis

#: As DESIGN has them, whatever the broker.
EXPECTED: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_ignore_result": True,
    "result_backend": None,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_retry_on_worker_lost": False,
    "task_acks_on_failure": True,
    "task_acks_on_timeout": True,
    "task_create_missing_queues": False,
    "task_default_exchange": "",
    "task_soft_time_limit": 540,
    "task_time_limit": 600,
    "task_send_sent_event": False,
    "task_track_started": True,
    "worker_send_task_events": True,
    "worker_prefetch_multiplier": 1,
    "worker_eta_task_limit": 100,
    "worker_soft_shutdown_timeout": 30,
    "worker_enable_soft_shutdown_on_idle": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_pool_start_method": "spawn",
    "worker_max_tasks_per_child": 200,
    "worker_max_memory_per_child": 1_500_000,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_pool_acquire_timeout": 10,
    "broker_heartbeat": 3,
    "beat_enable_remote_control": True,
    "beat_cron_starting_deadline": 600,
    "timezone": "UTC",
    "enable_utc": True,
}
REDIS_TRANSPORT = {
    "visibility_timeout": 1200,
    "socket_timeout": 3,
    "socket_connect_timeout": 5,
    "health_check_interval": 3,
    "socket_keepalive": True,
    "unacked_restore_throttle": 1,
}
RABBITMQ_TRANSPORT = {"confirm_publish": True, "read_timeout": 6, "write_timeout": 6}


@dataclass(frozen=True)
class Note:
    """A unit as dispatch would publish it."""

    id: str
    kind: str = "bulk_inference.infer"
    queue: str = "inference"
    label: str = "job=1 datums 0-64"


def take(queue: str, connection: Connection, count: int) -> list[str]:
    """The ids of the `count` units whose messages wait in `queue`, in order; they are gone, and no more wait."""
    found = []
    for _ in range(count):
        message = next_message(queue, connection)
        message.ack()
        found.append(message.payload[0][0])
    assert app.amqp.queues[queue](connection.default_channel).get() is None
    return found


def next_message(queue: str, connection: Connection, **options: Any) -> Message:
    """The oldest message of `queue`: RabbitMQ hands out what it has confirmed only a moment later."""
    bound = app.amqp.queues[queue](connection.default_channel)
    found: list[Message] = []

    def arrived() -> bool:
        found.extend(message for message in [bound.get(**options)] if message is not None)
        return bool(found)

    wait_until(arrived, "a message arrives")
    return found[0]


def received(*, count: int, queue: str = "inference") -> list[str]:
    with app.connection_for_read() as connection:
        return take(queue, connection, count)


def of_a_worker(expression: str) -> Any:
    """The value of `expression` in a fresh process with a worker's app; this one's is set up anew for every test."""
    program = f"import json; from workers.celery import app; print(json.dumps({expression}))"
    return json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout)


@pytest.fixture
def server(reaper: Reaper, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A Redis that the test may stop, as the configured broker."""
    with own_redis(reaper) as running:
        monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", running.url)
        forget_settings()
        yield running


@pytest.mark.parametrize(
    "url, transport",
    [("redis://127.0.0.1:1/0", REDIS_TRANSPORT), ("amqp://127.0.0.1:1//", RABBITMQ_TRANSPORT)],
    ids=["redis", "rabbitmq"],
)
def test_a_worker_s_app_has_exactly_the_declared_settings(
    url: str, transport: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", url)
    found = of_a_worker(f"{{name: app.conf[name] for name in {[*EXPECTED, 'broker_url', 'broker_transport_options']}}}")
    assert found == {**EXPECTED, "broker_url": url, "broker_transport_options": transport}


@pytest.mark.parametrize(
    "url, arguments",
    [
        ("redis://127.0.0.1:1/0", None),
        ("rediss://127.0.0.1:1/0", None),
        ("amqp://127.0.0.1:1//", {"x-queue-type": "quorum", "x-delivery-limit": 20}),
    ],
)
def test_every_queue_is_served_through_the_default_exchange(
    url: str, arguments: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", url)
    forget_settings()
    queues = app.amqp.queues
    assert set(queues) == set(QueueName)
    assert {(queue.exchange.name, queue.exchange.type) for queue in queues.values()} == {("", "direct")}
    assert all(queue.routing_key == name for name, queue in queues.items())
    assert all(queue.queue_arguments == arguments for name, queue in queues.items() if name != QueueName.SUBMISSIONS)
    # As any Celery producer declares it, left to itself.
    assert queues[QueueName.SUBMISSIONS].queue_arguments is None


def test_the_time_limit_lies_well_within_the_visibility_timeout() -> None:
    config = celery_settings(Settings(broker_url=SecretStr("redis://127.0.0.1:1/0")))
    assert config["task_time_limit"] <= config["broker_transport_options"]["visibility_timeout"] / 2


def test_beat_ticks_on_the_queue_of_ticks_or_of_trainers_and_no_tick_outlives_a_minute() -> None:
    options = {"queue": "ticks", "expires": 60}
    assert of_a_worker("{k: [v['task'], v['schedule'], v['options']] for k, v in app.conf.beat_schedule.items()}") == {
        "ticks.dispatch": ["ticks.dispatch", settings().dispatch_interval, options],
        "ticks.reconcile": ["ticks.reconcile", settings().reconcile_interval, options],
        "ticks.schedules": ["ticks.schedules", settings().schedule_interval, options],
        "ticks.purge": ["ticks.purge", settings().purge_interval, options],
        "ticks.exports": ["ticks.exports", settings().purge_interval, options],
        "ticks.checkpoints": ["ticks.checkpoints", settings().purge_interval, {**options, "queue": "training"}],
        "ticks.training": ["ticks.training", settings().training_interval, {**options, "queue": "training"}],
    }


def test_units_travel_on_the_queues_that_have_a_window() -> None:
    windowed = {QueueName.PLANNING, QueueName.INFERENCE, QueueName.EXPORTS, QueueName.RETENTION, QueueName.TRAINING}
    assert set(UNIT_QUEUES) == windowed


def test_a_message_carries_the_unit_s_id_and_a_readable_label(broker: Broker) -> None:
    CeleryPublisher().publish([Note("u1")])
    with app.connection_for_read() as connection:
        message = next_message("inference", connection)
        assert message.payload[:2] == [["u1"], {}]
        assert message.headers["task"] == "bulk_inference.infer"
        assert message.headers["argsrepr"] == "job=1 datums 0-64"
        assert message.content_type == "application/json"
        message.ack()


def test_messages_are_routed_again_after_the_broker_was_wiped_with_nobody_reconnecting(broker: Broker) -> None:
    """One producer and one consumer, connected throughout: what is lost is lost, what follows arrives."""
    publisher = CeleryPublisher()
    with app.connection_for_read() as connection:
        app.amqp.queues["inference"](connection.default_channel).declare()
        publisher.publish([Note("before")])
        assert take("inference", connection, 1) == ["before"]
        publisher.publish([Note("lost")])
        broker.wipe()
        publisher.publish([Note("after 1"), Note("after 2")])
        assert take("inference", connection, 2) == ["after 1", "after 2"]


def test_on_redis_no_queue_depends_on_a_binding_that_a_wipe_could_take(broker: Broker) -> None:
    if broker.kind != "redis":
        pytest.skip("RabbitMQ's default exchange needs no binding by definition")
    CeleryPublisher().publish([Note("u1", queue=queue) for queue in ("planning", "inference")])
    with redis.Redis.from_url(broker.url) as client:
        assert list(client.scan_iter("_kombu.binding.*")) == []


def test_the_depth_of_a_queue_is_the_number_of_messages_that_wait(broker: Broker) -> None:
    publisher = CeleryPublisher()
    assert publisher.depth("inference") == 0  # although nobody has declared it yet
    publisher.publish([Note("u1"), Note("u2")])
    # A quorum queue tells its length a moment after it has confirmed a message.
    wait_until(lambda: publisher.depth("inference") == 2, "both messages are counted")
    assert publisher.depth("planning") == 0
    assert received(count=2) == ["u1", "u2"]


def test_a_queue_that_somebody_deleted_is_declared_again(broker: Broker) -> None:
    """As when an operator deletes a queue, under a publisher that has declared it and stays connected."""
    if broker.kind != "rabbitmq":
        pytest.skip("on Redis a queue is there as soon as something is in it")
    publisher = CeleryPublisher()
    publisher.publish([Note("before")])
    broker.clear()
    publisher.publish([Note("after")])
    assert received(count=1) == ["after"]


def test_a_queue_that_does_not_exist_is_an_error_and_not_a_new_queue(broker: Broker) -> None:
    with pytest.raises(QueueNotFound, match="inferense"):
        app.send_task("bulk_inference.infer", args=["u1"], queue="inferense")
    with pytest.raises(QueueNotFound):
        CeleryPublisher().publish([Note("u1", queue="inferense")])


def test_a_pickled_message_is_refused(broker: Broker) -> None:
    with app.connection_for_write() as connection:
        app.amqp.queues["inference"](connection.default_channel).declare()
        producer = connection.Producer(serializer="pickle")
        producer.publish({"id": "u1"}, exchange="", routing_key="inference")
        message = next_message("inference", connection, accept=app.conf.accept_content)
        with pytest.raises(ContentDisallowed):
            message.decode()
        message.ack()


def test_with_nobody_at_the_broker_s_address_publishing_says_so() -> None:
    with pytest.raises(Unavailable, match="broker"):
        CeleryPublisher().publish([Note("u1")])
    with pytest.raises(Unavailable, match="broker"):
        CeleryPublisher().depth("inference")


@pytest.mark.skipif(bool(SERVICES), reason="stops its server")
def test_a_publisher_notices_that_its_broker_went_away_and_that_it_came_back(server: RedisServer) -> None:
    publisher = CeleryPublisher()
    publisher.publish([Note("before")])
    server.stop()
    for _ in range(2):
        with pytest.raises(Unavailable, match="broker"):
            publisher.publish([Note("meanwhile")])
    with pytest.raises(Unavailable, match="broker"):
        publisher.depth("inference")
    server.start()
    publisher.publish([Note("after")])
    assert received(count=1) == ["after"]


@pytest.mark.skipif(bool(SERVICES), reason="changes its server's settings")
def test_a_broker_that_is_full_counts_as_away(server: RedisServer) -> None:
    publisher = CeleryPublisher()
    publisher.publish([Note("before")])
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1kb")
        with pytest.raises(Unavailable, match="broker"):
            publisher.publish([Note("too much")])
        client.config_set("maxmemory", "0")
    publisher.publish([Note("after")])
    assert received(count=2) == ["before", "after"]
