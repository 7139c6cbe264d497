"""A dataset to import into."""

from __future__ import annotations

import pytest

from orchestrator.registry import create_dataset, create_project


@pytest.fixture
def dataset_id(database: object) -> str:
    return create_dataset(create_project("project").id, "dataset").id
