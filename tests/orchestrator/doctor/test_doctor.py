"""What the doctor finds, on real databases and a real broker."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from sqlalchemy import update

from orchestrator import clock, schema
from orchestrator.database import db_now, engine, writing
from orchestrator.doctor import Finding, Level, examine
from orchestrator.ledger.pulses import beat
from orchestrator.ledger.submissions import reject
from orchestrator.ledger.tables import PulseRow
from orchestrator.queues import QueueName
from tests.conftest import forget_settings

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker

ALL = [queue.value for queue in QueueName]


def findings() -> dict[str, Finding]:
    return {finding.check: finding for finding in examine()}


def pulse(name: str, details: Mapping[str, Any], *, age: timedelta = timedelta()) -> None:
    """Leave a sign of life that is `age` old."""
    with writing() as session:
        beat(session, name, details)
        session.execute(update(PulseRow).where(PulseRow.name == name).values(seen_at=db_now(-age)))


@pytest.fixture
def migrated(database: Database) -> None:
    """The test's database, with its tables made by the migrations."""
    schema.metadata.drop_all(engine())
    schema.upgrade()


def test_where_there_is_nothing_the_first_step_is_named_and_nothing_is_made(home: Path) -> None:
    found = findings()
    assert found["database"].level is Level.PROBLEM
    assert "orchestrator up" in found["database"].remedy
    assert not home.exists()


def test_a_database_behind_this_version_is_a_problem(database: Database) -> None:
    found = findings()
    assert found["migrations"].level is Level.PROBLEM
    assert "orchestrator db upgrade" in found["migrations"].remedy


@pytest.mark.usefixtures("migrated")
def test_an_idle_system_in_order_has_no_problem(broker: Broker) -> None:
    pulse("worker:one@here", {"queues": ALL, "clock": clock.now().isoformat()})
    pulse("tick:dispatch", {})
    found = findings()
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert "one@here" in found["queue inference"].message


@pytest.mark.usefixtures("migrated")
def test_a_queue_that_nobody_serves_is_a_problem_and_a_lost_worker_a_warning(broker: Broker) -> None:
    pulse("worker:one@here", {"queues": ["inference"]})
    pulse("worker:two@here", {"queues": ["ticks"]}, age=timedelta(minutes=5))
    found = findings()
    assert found["queue inference"].level is Level.OK
    assert found["queue ticks"].level is Level.PROBLEM
    assert "-Q ticks" in found["queue ticks"].remedy
    assert found["workers"].level is Level.WARNING
    assert "two@here" in found["workers"].message


@pytest.mark.usefixtures("migrated")
def test_beat_that_stopped_is_a_problem() -> None:
    assert findings()["beat"].level is Level.PROBLEM
    pulse("tick:dispatch", {}, age=timedelta(minutes=3))
    found = findings()["beat"]
    assert (found.level, "3 min" in found.message) == (Level.PROBLEM, True)


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("seconds, level", [(1, Level.OK), (-10, Level.WARNING), (60, Level.PROBLEM)])
def test_a_worker_with_another_time_is_noticed(seconds: int, level: Level) -> None:
    late = clock.now() + timedelta(seconds=seconds)
    pulse("worker:one@there", {"queues": ALL, "clock": late.isoformat()})
    found = findings()["clocks"]
    assert found.level is level
    assert "one@there" in found.message


@pytest.mark.usefixtures("migrated")
def test_a_broker_that_is_away_is_a_problem_and_the_rest_is_still_examined() -> None:
    found = findings()
    assert found["broker"].level is Level.PROBLEM
    assert found["blobs"].level is Level.OK
    assert found["dead units"].level is Level.OK


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("url", ["carrier-pigeon://127.0.0.1", "redis://127.0.0.1:port/0"])
def test_a_broker_url_that_is_none_is_a_problem(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", url)
    forget_settings()
    assert findings()["broker"].level is Level.PROBLEM


def test_a_redis_that_drops_messages_is_a_warning(broker: Broker) -> None:
    if broker.kind != "redis":
        pytest.skip("RabbitMQ drops nothing")
    with redis.Redis.from_url(broker.url) as client:
        before = client.config_get("maxmemory-policy")["maxmemory-policy"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = findings()["broker"]
        finally:
            client.config_set("maxmemory-policy", before)
    assert (found.level, "allkeys-lru" in found.message) == (Level.WARNING, True)


@pytest.mark.usefixtures("migrated")
def test_a_blob_store_that_cannot_be_written_is_a_problem(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORCHESTRATOR_BLOB_URL", (tmp_path / "file" / "blobs").as_uri())
    forget_settings()
    assert findings()["blobs"].level is Level.PROBLEM


@pytest.mark.usefixtures("migrated")
def test_a_refused_submission_is_a_warning() -> None:
    with writing() as session:
        reject(session, message_id="m", request_id=None, reason="no kind", excerpt="{}")
    found = findings()["submissions"]
    assert (found.level, found.message) == (Level.WARNING, "1 refused in the last day")
