"""A scene of training on each database."""

from __future__ import annotations

import pytest

from tests.support.training import Scene, StageRuntime, set_scene


@pytest.fixture
def scene(database: object) -> Scene:
    """A project with one blueprint."""
    return set_scene()


@pytest.fixture
def runtime() -> StageRuntime:
    """A runtime in which trainers start at once."""
    return StageRuntime()
