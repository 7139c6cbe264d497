"""Settings under which crashes are noticed within seconds, and a model server that tests script while it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.model_server import ModelServer

#: Leases, ticks and lost messages, all ten times as brisk as in production.
BRISK = {
    "ORCHESTRATOR_LEASE_SECONDS": "3",
    "ORCHESTRATOR_DISPATCH_INTERVAL": "0.5",
    "ORCHESTRATOR_RECONCILE_INTERVAL": "1",
    "ORCHESTRATOR_REPUBLISH_SECONDS": "5",
    "ORCHESTRATOR_REPUBLISH_EMPTY_SECONDS": "1",
}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model that answers every text, and remembers what it was asked."""
    with ModelServer() as serving:
        yield serving
