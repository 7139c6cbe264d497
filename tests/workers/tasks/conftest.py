"""Tasks are tested one after the other: planning, inferring, finishing."""

from __future__ import annotations

import pytest

from orchestrator.bulk_inference import plan as planning


@pytest.fixture(autouse=True)
def planned_in_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small jobs stand for large ones here: each is planned by a unit of its own."""
    monkeypatch.setattr(planning, "AT_ONCE", 0)
