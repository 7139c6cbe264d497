"""A worker's sign of life outlasts whatever a look at the worker may run into."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from orchestrator.database import reading
from orchestrator.ledger.pulses import pulses
from tests.support.processes import wait_until
from workers import presence

if TYPE_CHECKING:
    from tests.conftest import Database


@pytest.fixture(autouse=True)
def hurry(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(presence, "INTERVAL", 0.01)
    yield
    presence.stop()
    wait_until(lambda: not announced(), "the farewell")


def announced() -> list[str]:
    with reading() as session:
        return [pulse.name for pulse in pulses(session, "worker:")]


def test_a_worker_whose_figures_cannot_be_read_announces_itself_once_they_can() -> None:
    looks: list[int] = []

    def report() -> dict[str, object]:
        looks.append(1)
        if len(looks) < 3:
            raise struct.error("unpack requires a buffer of 4 bytes")
        return {}

    presence.start("celery@host", ["inference"], report)
    wait_until(lambda: announced() == ["worker:celery@host"], "the announcement")
