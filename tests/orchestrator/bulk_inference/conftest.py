"""Every test of bulk inference has a broker that answers: a submission publishes its first unit at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.bulk_inference import plan as planning
from tests.support.bulk_inference import Scene, set_scene

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.support.services import Broker

SceneOf = Callable[..., Scene]


@pytest.fixture
def scene_of(database: Database, broker: Broker, tmp_path: Path) -> SceneOf:
    """Builds a scene in the test's database."""

    def build(datums: int = 10, **options: Any) -> Scene:
        return set_scene(tmp_path, datums, **options)

    return build


@pytest.fixture
def scene(scene_of: SceneOf) -> Scene:
    """A snapshot of ten datums, without annotations."""
    return scene_of()


@pytest.fixture(autouse=True)
def planned_in_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small jobs stand for large ones here: each is planned by a unit of its own."""
    monkeypatch.setattr(planning, "AT_ONCE", 0)
