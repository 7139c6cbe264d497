"""The fixture that a test of chaos starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.harness import SETTINGS, Harness
from tests.conftest import forget_settings
from tests.support.model_server import ModelServer
from tests.support.processes import Workers
from tests.support.seed import SEED

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker


@pytest.fixture
def harness(
    database: Database,
    broker: Broker,
    worker_processes: Workers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Harness]:
    """A harness on this test's database and broker; closed and checked at the end of a test that passed."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    with ModelServer(record=False) as server:
        run = Harness(worker_processes, tmp_path, server, SEED)
        yield run
        run.drain()
        run.close()
        run.check()
