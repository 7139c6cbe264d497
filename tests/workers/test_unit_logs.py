"""Inside a unit every log line has its job, itself and its attempt, whichever thread or loop writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from sqlalchemy.exc import OperationalError

from orchestrator import ledger
from orchestrator.ledger import Lease, Outcome
from orchestrator.queues import app
from orchestrator.settings import settings
from tests.support.ledger import one_unit, row
from tests.support.processes import wait_until
from workers.inference import connections
from workers.unit import unit

pytestmark = pytest.mark.usefixtures("database")

KIND = "test.logs"
Lines = list[dict[str, Any]]

log = structlog.get_logger(__name__)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged, with its context."""
    kept: Lines = []

    def keep(logger: object, method: str, event: Any) -> Any:
        kept.append(dict(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep], cache_logger_on_first_use=False)
    yield kept
    structlog.configure(**before)
    app.tasks.pop(KIND, None)


def run(work: Callable[[Lease], Outcome], unit_id: str) -> None:
    app.tasks.pop(KIND, None)
    unit(KIND)(work)(unit_id)


def named(line: dict[str, Any]) -> tuple[str, str, int]:
    return line["job"], line["unit"], line["attempt"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_loop_that_outlives_units_logs_each_of_them_under_its_own_name(lines: Lines) -> None:
    async def speak() -> None:
        log.info("in the loop")
        await asyncio.to_thread(log.info, "in a thread of the loop")
        async with asyncio.TaskGroup() as group:
            group.create_task(speak_in_a_task())

    async def speak_in_a_task() -> None:
        log.info("in a task of the loop")

    def work(lease: Lease) -> Outcome:
        connections.run(speak())
        return ledger.Done()

    units = [one_unit(), one_unit()]
    for unit_id in units:
        run(work, unit_id)
    spoken = [line for line in lines if line["event"].startswith("in ")]
    assert [named(line) for line in spoken] == [(row(unit_id).job_id, unit_id, 1) for unit_id in units for _ in "abc"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_heartbeat_logs_under_its_unit_s_name(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(lease: Lease) -> bool:
        raise OperationalError("renew", {}, Exception("the database is away"))

    monkeypatch.setattr(ledger, "renew", fail)
    monkeypatch.setattr(settings(), "lease_seconds", 0.3)

    def failures() -> Lines:
        return [line for line in lines if line["event"] == "heartbeat_failed"]

    def wait(lease: Lease) -> Outcome:
        wait_until(failures, "the heartbeat has failed")
        return ledger.Done()

    unit_id = one_unit()
    run(wait, unit_id)
    assert named(failures()[0]) == (row(unit_id).job_id, unit_id, 1)
