"""A local runtime with folders and trainers of its own; whatever a test leaves running is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.local_runs import Stage
from tests.support.training import set_scene


@pytest.fixture
def stage(database: object) -> Iterator[Stage]:
    """Where local runs are launched."""
    stage = Stage(set_scene(entry_point=["python", "-c", "pass"]))
    yield stage
    stage.close()
