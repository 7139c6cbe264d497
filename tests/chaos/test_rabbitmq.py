"""The core of the chaos suite with RabbitMQ: kills, lost and doubled messages, and a connection that is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.chaos.backlog import Backlog
from tests.chaos.harness import Harness
from tests.chaos.proxy import Proxy
from tests.conftest import forget_settings
from tests.support.services import PORTS, Broker, machine_rabbitmq

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.services, pytest.mark.parametrize("database", ["sqlite"], indirect=True)]

#: Seconds within which work goes on after anything.
RECOVERS = 15.0


@pytest.fixture
def way() -> Iterator[Proxy]:
    """The way to this machine's RabbitMQ, which is never stopped itself."""
    with Proxy(PORTS["rabbitmq"]) as between:
        yield between


@pytest.fixture
def broker(way: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    """In the place of the fixture of this name: a virtual host of the machine's RabbitMQ, behind a proxy."""
    with machine_rabbitmq() as chosen:
        behind = Broker("rabbitmq", way.url(chosen.url))
        monkeypatch.setenv("ORCHESTRATOR_BROKER_URL", behind.url)
        forget_settings()
        yield behind
        forget_settings()


def run(harness: Harness, broker: Broker, way: Proxy) -> None:
    """Run jobs on unreliable messages while workers, messages and connections are lost, in turn."""
    harness.app = "tests.chaos.unreliable"
    backlog = Backlog(harness)

    def refuse() -> None:
        way.refuse()
        harness.pause(2)
        way.heal()

    def black_hole() -> None:
        way.black_hole()
        harness.pause(12)
        way.heal()

    faults: dict[str, Callable[[], object]] = {
        "kill": lambda: harness.kill(backlog.worker),
        "kill child": lambda: harness.kill_child(backlog.worker),
        "wipe": broker.wipe,
        "reset": way.reset,
        "refuse": refuse,
        "black hole": black_hole,
        "half open": way.half_open,
    }
    for name, fault in faults.items():
        backlog.fill()
        fault()
        print(f"work goes on {backlog.await_resumption(RECOVERS):.1f} s after {name!r}")
    backlog.finish()


@pytest.mark.chaos
def test_on_rabbitmq_kills_wipes_and_cuts_lose_nothing(harness: Harness, broker: Broker, way: Proxy) -> None:
    run(harness, broker, way)
