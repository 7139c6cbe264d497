"""Models of checkpoints: entered into the registry, with the checkpoint held for as long as the model is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import reading, storable, transact
from orchestrator.errors import InvalidRequest, ProjectNotFound
from orchestrator.registry.catalog import add_model
from orchestrator.registry.models import USUAL_INPUT, USUAL_OUTPUT, Endpoint, InputCodec, OutputCodec, TaskType
from orchestrator.storage import blobs
from orchestrator.training_v2.checkpoint_files import subject_of
from orchestrator.training_v2.downloads import files_of
from orchestrator.training_v2.exceptions import (
    CheckpointDoesNotExistError,
    ProjectDoesNotExistError,
    TrainingConflict,
    ValidationError,
)
from orchestrator.training_v2.models import Serving
from orchestrator.training_v2.tables import BlueprintRow, CheckpointRow, ModelSourceRow, RunRow

#: The pattern that semver.org gives.
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?"
    r"(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?",
    re.ASCII,
)
#: The file of a checkpoint that says what its model is.
MODEL_CONFIG = "chariot_model_config.json"
#: Bytes; a list of class names is smaller.
LARGEST_CONFIG = 1 << 20


def create_model(checkpoint_id: str, name: str, version: str, summary: str, project_id: str | None) -> str:
    """Enter a model made of the checkpoint into the registry, in one transaction; returns its id.

    Raises:
        CheckpointDoesNotExistError, TrainingConflict, ValidationError, ProjectDoesNotExistError: as
            `create_model_from_checkpoint` says.
    """
    if not _SEMVER.fullmatch(version):
        raise ValidationError(f'version: {version[:80]!r} is no SemVer: use one such as "1.2.0"')
    labels = _labels(checkpoint_id)
    try:
        return transact(_enter, checkpoint_id, name, version, storable(summary), project_id, labels)
    except IntegrityError as error:
        raise TrainingConflict(
            f"model {name!r} version {version!r} exists already in this project: choose another version"
        ) from error
    except InvalidRequest as error:
        raise ValidationError(error.body) from error
    except ProjectNotFound as error:
        raise ProjectDoesNotExistError(project_id or "") from error


def source_of(model_id: str) -> ModelSourceRow | None:
    """Which checkpoint a model came from; None for one that was registered otherwise."""
    with reading() as session:
        return session.get(ModelSourceRow, storable(model_id))


def _enter(
    session: Session,
    checkpoint_id: str,
    name: str,
    version: str,
    summary: str,
    project_id: str | None,
    labels: list[str] | None,
) -> str:
    found = session.execute(
        select(RunRow.id, RunRow.project_id, RunRow.task_type, BlueprintRow.serving)
        .join(CheckpointRow, CheckpointRow.run_id == RunRow.id)
        .join(BlueprintRow, BlueprintRow.id == RunRow.blueprint_id)
        .where(CheckpointRow.id == storable(checkpoint_id))
    ).one_or_none()
    if found is None:
        raise CheckpointDoesNotExistError(checkpoint_id)
    run_id, run_project, task, serving = found
    task_type = _task_type(task)
    model = add_model(
        session,
        project_id or run_project,
        name,
        task_type,
        _endpoint(Serving.model_validate(serving or {}), task_type, name, labels),
        version,
    )
    # The hold comes before the look: whoever deletes checkpoints asks for holds under the same lock.
    ledger.holds.place(session, subject_of(checkpoint_id), model.id)
    if session.scalar(select(CheckpointRow.deleted_at).where(CheckpointRow.id == checkpoint_id)) is not None:
        raise CheckpointDoesNotExistError(checkpoint_id)
    session.add(ModelSourceRow(model_id=model.id, checkpoint_id=checkpoint_id, run_id=run_id, summary=summary))
    return model.id


def _task_type(said: str) -> TaskType:
    if said not in list(TaskType):
        choices = ", ".join(task_type.value for task_type in TaskType)
        raise ValidationError(f"task_type: there is no inference on {said!r}, only on {choices}")
    return TaskType(said)


def _endpoint(serving: Serving, task_type: TaskType, name: str, labels: list[str] | None) -> Endpoint:
    return Endpoint(
        url=serving.url,
        model_name=serving.model_name or name,
        model_version=serving.model_version,
        input_codec=InputCodec(serving.input_codec or USUAL_INPUT[task_type]),
        output_codec=OutputCodec(serving.output_codec or USUAL_OUTPUT[task_type]),
        labels=labels or serving.labels,
    )


def _labels(checkpoint_id: str) -> list[str] | None:
    """The class names that the checkpoint brings with it, in the order of their numbers."""
    described = next((file for file in files_of(checkpoint_id) if file.path == MODEL_CONFIG), None)
    if described is None or described.size > LARGEST_CONFIG:
        return None
    try:
        said: Any = orjson.loads(blobs().get(described.key))
    except orjson.JSONDecodeError as error:
        raise ValidationError(f"{MODEL_CONFIG} of checkpoint {checkpoint_id} is no JSON: {error}") from error
    match said.get("class_labels") if isinstance(said, Mapping) else None:
        case list() as names:
            return [str(each) for each in names]
        case Mapping() as numbers:
            return _in_order(checkpoint_id, numbers)
        case _:
            return None


def _in_order(checkpoint_id: str, numbers: Mapping[str, object]) -> list[str]:
    """The names by their numbers, of which none may be missing: a label's place is what the model calls it by."""
    names = {str(number): name for name, number in numbers.items()}
    try:
        return [names[str(number)] for number in range(len(numbers))]
    except KeyError as missing:
        raise ValidationError(
            f"{MODEL_CONFIG} of checkpoint {checkpoint_id}: class_labels has no name for number {missing.args[0]}: "
            f"number its {len(numbers)} names from 0 to {len(numbers) - 1}, each once"
        ) from None
