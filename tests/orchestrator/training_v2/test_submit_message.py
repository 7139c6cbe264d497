"""Runs that are submitted as messages: from a queue, or by a schedule."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import InvalidRequest, RequestIdReused
from orchestrator.training_v2.exceptions import ValidationError
from orchestrator.training_v2.run import Run
from orchestrator.training_v2.submit import submit_message
from tests.support.training import Scene


def spec(scene: Scene, **changes: Any) -> dict[str, Any]:
    return {
        "name": "digits",
        "version": "1",
        "resources": {"cpu": "1", "memory": "1Gi"},
        "config": {"epochs": 3},
        "task_type": "Image Classification",
        "blueprint_id": scene.blueprint_id,
        "project_id": scene.project_id,
        **changes,
    }


def test_a_message_creates_a_run_once_for_each_request_id(scene: Scene) -> None:
    first = submit_message(spec(scene), {"request_id": "monday"})
    assert submit_message(spec(scene), {"request_id": "monday"}) == first
    assert submit_message(spec(scene), {"request_id": "tuesday"}) != first
    more = spec(scene, config={"epochs": 4}, resources={"cpu": "2", "memory": "1Gi"})
    with pytest.raises(RequestIdReused, match="another config, resources"):
        submit_message(more, {"request_id": "monday"})
    assert Run.from_id(first).config == {"epochs": 3}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"nmae": "digits"}, "nmae"),
        ({"resources": {"cpu": 1}}, "resources"),
        ({"config": "epochs=3"}, "config"),
        ({"name": None}, "name"),
    ],
)
def test_a_message_with_wrong_fields_is_refused_by_their_names(
    scene: Scene, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said):
        submit_message(spec(scene, **changes), {})


def test_a_message_whose_config_does_not_fit_the_blueprint_is_refused(scene: Scene) -> None:
    with pytest.raises(ValidationError, match="epochs"):
        submit_message(spec(scene, config={"epochs": 0}), {"request_id": "monday"})
