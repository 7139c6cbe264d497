"""Errors of training: caught under the documented name, whatever failed, and told from one process to another."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta

import pytest

from orchestrator.training_v2 import (
    APIException,
    ApiException,
    BlueprintDoesNotExistError,
    CheckpointDoesNotExistError,
    Run,
    RunDoesNotExistError,
    TrainingConflict,
    ValidationError,
)
from orchestrator.training_v2.exceptions import (
    NotInARun,
    ProjectDoesNotExistError,
    RunnerError,
    StaleLaunch,
    SupervisorGone,
)
from tests.support.training import Scene

NOBODY = Run(id="nobody")


@pytest.mark.parametrize(
    "door",
    [
        NOBODY.stop,
        lambda: NOBODY.stop(timedelta(minutes=1)),
        NOBODY.delete,
        NOBODY.restart,
        NOBODY.reload,
        NOBODY.get_events,
        NOBODY.get_metrics,
        NOBODY.get_all_metrics,
        NOBODY.get_checkpoints,
        NOBODY.get_global_steps_with_checkpoints,
    ],
)
def test_a_run_that_is_not_there_is_the_documented_error(scene: Scene, door: Callable[[], object]) -> None:
    with pytest.raises(APIException, match="no training run with the id 'nobody'") as caught:
        door()
    assert isinstance(caught.value, RunDoesNotExistError)


def test_what_others_raise_is_the_documented_error_too(scene: Scene) -> None:
    with pytest.raises(APIException, match="no project"):
        scene.create(project_id="nobody")
    with pytest.raises(APIException, match="no blueprint"):
        scene.create(blueprint_id="nobody")
    assert APIException is ApiException


@pytest.mark.parametrize(
    "error",
    [
        ApiException(503, "away", body="come back later", data=[1]),
        BlueprintDoesNotExistError(name="digits", version_ilike="1.%"),
        CheckpointDoesNotExistError("some id"),
        NotInARun(),
        ProjectDoesNotExistError("some id"),
        RunDoesNotExistError("some id"),
        RunnerError("it did not work"),
        StaleLaunch("run", 3),
        SupervisorGone(),
        SupervisorGone("it left"),
        TrainingConflict("stop it first"),
        ValidationError("name: is wrong"),
    ],
)
def test_an_error_is_the_same_in_another_process(error: Exception) -> None:
    told = pickle.loads(pickle.dumps(error))
    assert (type(told), str(told), vars(told)) == (type(error), str(error), vars(error))
