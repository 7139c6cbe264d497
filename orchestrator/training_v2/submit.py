"""Creating runs: a request is checked against its blueprint, then becomes a run, its ledger job and its first unit."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pydantic
import structlog
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import reading, storable, transact
from orchestrator.errors import InvalidRequest
from orchestrator.ids import new_id
from orchestrator.ledger import NewUnit
from orchestrator.queues import QueueName
from orchestrator.registry.names import check_name
from orchestrator.registry.tables import ProjectRow
from orchestrator.settings import settings
from orchestrator.training_v2.blueprint import find_blueprint
from orchestrator.training_v2.checkpoint_files import subject_of
from orchestrator.training_v2.config import as_document, check_config
from orchestrator.training_v2.exceptions import (
    CheckpointDoesNotExistError,
    ProjectDoesNotExistError,
    TrainingConflict,
    ValidationError,
)
from orchestrator.training_v2.lifecycle import LIFECYCLE
from orchestrator.training_v2.models import Resources, RunState
from orchestrator.training_v2.quantities import demand_of
from orchestrator.training_v2.tables import BlueprintRow, CheckpointRow, RunRow

log = structlog.get_logger(__name__)

KIND = "training"
#: What a run that is asked for again must have in common with the first, beside its resources.
SAME = ("name", "version", "project_id", "blueprint_id", "task_type", "config", "notes")
#: Characters of notes.
LONGEST_NOTES = 100_000


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be created."""

    name: str
    version: str
    resources: Resources
    config: Mapping[str, Any]
    task_type: str
    blueprint_id: str
    project_id: str
    notes: str | None = None


class Message(BaseModel):
    """A run that somebody submits who is not in this process."""

    model_config = ConfigDict(extra="forbid")

    name: str
    version: str
    resources: Resources
    config: dict[str, Any]
    task_type: str
    blueprint_id: str
    project_id: str
    notes: str | None = None
    request_id: str | None = Field(None, max_length=255)


def submit(new: NewRun, *, request_id: str | None = None) -> str:
    """Write the run, its ledger job and its first unit in one transaction, then nudge dispatch; returns the run's id.

    A second submission with the same `request_id` returns the first one's run. With the broker away the
    run is accepted all the same.

    Raises:
        ValidationError: a value is wrong, or the config does not fit the blueprint.
        BlueprintDoesNotExistError: there is no such blueprint.
        ProjectDoesNotExistError: there is no such project. In every case nothing was written.
        RequestIdReused: the request id is that of a run that was asked for something else.
    """
    new = replace(new, config=as_document(new.config))
    try:
        run_id, is_new = transact(_write, new, request_id)
    except IntegrityError:
        # Another submission with the same request id committed first: run again, and find its run.
        run_id, is_new = transact(_write, new, request_id)
    if is_new:
        log.info("run_created", run=run_id, blueprint=new.blueprint_id)
        ledger.nudge()
    return run_id


def submit_message(spec: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """`submit` for a message from a queue or a schedule, whose parts have not been checked yet.

    Raises:
        InvalidRequest: a field is missing, unknown or of the wrong type.
        ValidationError: as `submit`.
        BlueprintDoesNotExistError: as `submit`.
        ProjectDoesNotExistError: as `submit`.
    """
    try:
        message = Message.model_validate({**spec, **options}, extra="forbid")
    except pydantic.ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidRequest(wrong) from error
    values = {name: getattr(message, name) for name in NewRun.__dataclass_fields__}
    return submit(NewRun(**values), request_id=message.request_id)


def validate(blueprint_id: str, config: Mapping[str, Any]) -> None:
    """Hold a config against a blueprint.

    Raises:
        ValidationError: names every offending field.
        BlueprintDoesNotExistError: there is no such blueprint.
    """
    with reading() as session:
        schema = find_blueprint(session, blueprint_id).config_schema
    check_config(config, schema)


def step_unit(launch: int) -> NewUnit:
    """The unit that drives a run to its end, from a launch on; from 0 for one that was just created."""
    return NewUnit(f"{KIND}.step", f"from launch {launch}", QueueName.TRAINING)


def hold_checkpoints(session: Session, run_id: str, config: Mapping[str, Any]) -> None:
    """Keep the checkpoints that the run starts from for as long as it is alive.

    Raises:
        CheckpointDoesNotExistError: one of them is not there.
        TrainingConflict: one of them is incomplete.
    """
    for checkpoint_id in sorted(set(_named_checkpoints(config))):
        ledger.holds.place(session, subject_of(checkpoint_id), run_id)
        status = session.scalar(
            select(CheckpointRow.status).where(CheckpointRow.id == checkpoint_id, CheckpointRow.deleted_at.is_(None))
        )
        if status is None:
            raise CheckpointDoesNotExistError(checkpoint_id)
        if status != "complete":
            raise TrainingConflict(f"checkpoint {checkpoint_id} is incomplete: take one that is complete")


def _write(session: Session, new: NewRun, request_id: str | None) -> tuple[str, bool]:
    if request_id is not None:
        former = ledger.requested(session, KIND, request_id)
        if former is not None:
            row = session.get_one(RunRow, former)
            stored = {field: getattr(row, field) for field in (*SAME, "resources")}
            asked = {field: getattr(new, field) for field in SAME}
            asked["resources"] = new.resources.model_dump(mode="json")
            ledger.check_same(former, request_id, stored, asked)
            return former, False
    blueprint = find_blueprint(session, new.blueprint_id)
    _check(new, blueprint)
    project = session.get(ProjectRow, storable(new.project_id))
    if project is None:
        raise ProjectDoesNotExistError(new.project_id)
    run_id = new_id()
    ledger.open_job(
        session,
        job_id=run_id,
        kind=KIND,
        project_id=project.id,
        weight=project.weight,
        request_id=request_id,
        first=step_unit(0),
    )
    session.add(
        RunRow(
            id=run_id,
            state=RunState.RUN_CREATED,
            name=new.name,
            version=new.version,
            project_id=project.id,
            user_id=_user(),
            blueprint_id=blueprint.id,
            task_type=new.task_type,
            resources=new.resources.model_dump(mode="json"),
            config=dict(new.config),
            notes=new.notes,
            progress=[],
            checkpoint_policy=blueprint.checkpoint_policy,
            runtime=settings().training_runtime,
        )
    )
    session.flush()
    LIFECYCLE.begin(session, run_id)
    hold_checkpoints(session, run_id, new.config)
    return run_id, True


def _check(new: NewRun, blueprint: BlueprintRow) -> None:
    try:
        check_name(new.name, "run")
        check_name(new.version, "run version")
    except InvalidRequest as error:
        raise ValidationError(error.body) from error
    if new.notes is not None and (len(new.notes) > LONGEST_NOTES or storable(new.notes) != new.notes):
        raise ValidationError(f"notes: use up to {LONGEST_NOTES:,} characters, without NUL")
    if not new.task_type or storable(new.task_type) != new.task_type:
        raise ValidationError(f"task_type: {new.task_type!r} is none")
    if blueprint.task_types and new.task_type not in blueprint.task_types:
        choices = ", ".join(blueprint.task_types)
        raise ValidationError(f"task_type: blueprint {blueprint.name!r} has no {new.task_type!r}, only {choices}")
    if settings().training_runtime == "local" and not blueprint.entry_point:
        raise ValidationError(f"blueprint_id: {blueprint.name!r} has no entry point, which a local process needs")
    if settings().training_runtime == "kubernetes" and not blueprint.image:
        raise ValidationError(f"blueprint_id: {blueprint.name!r} has no image, which a Kubernetes job needs")
    demand_of(new.resources)
    check_config(new.config, blueprint.config_schema)


def _named_checkpoints(config: object) -> Iterator[str]:
    """Every `{"checkpoint_id": "…"}` in a config, as the documented idiom has it."""
    match config:
        case Mapping():
            for name, value in config.items():
                if name == "checkpoint_id" and isinstance(value, str):
                    yield value
                else:
                    yield from _named_checkpoints(value)
        case list():
            for value in config:
                yield from _named_checkpoints(value)


def _user() -> str:
    if settings().user:
        return settings().user
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container may run as a number that has no name
