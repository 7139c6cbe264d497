"""The doors of training runs: create, list, look at, steer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from sqlalchemy import select as sql_select
from sqlalchemy.orm import load_only

from orchestrator.database import reading
from orchestrator.training_v2 import checkpoint, metrics, queries, steering, submit
from orchestrator.training_v2.blueprint import check_pattern
from orchestrator.training_v2.checkpoint import Checkpoint, CheckpointField, CheckpointOrder
from orchestrator.training_v2.exceptions import ValidationError
from orchestrator.training_v2.models import (
    BaseModelWithDatetime,
    Event,
    Gpu,
    Metric,
    Progress,
    Resources,
    RunState,
    RunStatus,
)
from orchestrator.training_v2.paging import bounds, check_choices, check_instants, order
from orchestrator.training_v2.tables import RunRow
from orchestrator.transitions import EventRow

RunField = Literal[
    "*",
    "id",
    "project_id",
    "user_id",
    "created_at",
    "name",
    "version",
    "blueprint_id",
    "task_type",
    "config",
    "resources",
    "progress",
    "progress_updated_at",
    "status",
    "status_updated_at",
]
RunOrder = Literal["id:asc", "id:desc", "created_at:asc", "created_at:desc"]
EventOrder = Literal["sequence:desc", "sequence:asc"]

#: Fields of a run, and the columns that fill them.
COLUMNS = {
    "id": RunRow.id,
    "project_id": RunRow.project_id,
    "user_id": RunRow.user_id,
    "created_at": RunRow.created_at,
    "name": RunRow.name,
    "version": RunRow.version,
    "blueprint_id": RunRow.blueprint_id,
    "task_type": RunRow.task_type,
    "config": RunRow.config,
    "resources": RunRow.resources,
    "progress": RunRow.progress,
    "progress_updated_at": RunRow.progress_updated_at,
    "status": RunRow.state,
    "status_updated_at": RunRow.status_updated_at,
    "notes": RunRow.notes,
}
SELECTABLE = ("*", *(name for name in COLUMNS if name != "notes"))
SORTABLE = {"id": RunRow.id, "created_at": RunRow.created_at}
RELOADABLE = ("status", "status_updated_at", "progress", "progress_updated_at", "notes")
#: How many events are returned unless told otherwise.
EVENTS = 100

__all__ = [
    "Event",
    "Gpu",
    "Metric",
    "Progress",
    "Resources",
    "Run",
    "create_run",
    "get_runs",
    "validate_run_config",
]


class Run(BaseModelWithDatetime):
    """Training run.

    `Run.from_id` gets a run by its id, `get_runs` finds runs. A field is None when a `select` left it out.
    """

    id: str | None = None
    name: str | None = None
    version: str | None = None
    created_at: datetime | None = None
    blueprint_id: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    progress: list[Progress] | None = None
    progress_updated_at: datetime | None = None
    status: str | None = None
    status_updated_at: datetime | None = None
    task_type: str | None = None
    resources: Resources | None = None
    config: dict[str, Any] | None = None
    notes: str | None = None

    @classmethod
    def from_id(cls, id: str) -> Self:  # noqa: A002  the documented name
        """The run with this id.

        Raises:
            RunDoesNotExistError: there is none, or it has been deleted.
        """
        with reading() as session:
            return cls(**_values(steering.find_run(session, id), COLUMNS))

    def reload(self, fields: list[str] | None = None) -> None:
        """Reload the training run.

        Parameters:
            fields: Fields to reload: "status", "status_updated_at", "progress", "progress_updated_at" and "notes".
                If omitted, all fields will be refreshed.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
            ValueError: fields are invalid, or the id is not set on this run.
        """
        check_choices(fields, RELOADABLE, "fields")
        fresh = type(self).from_id(self._id)
        for name in fields if fields is not None else COLUMNS:
            setattr(self, name, getattr(fresh, name))

    def stop(self, grace_period: timedelta | None = None) -> None:
        """Stop the training run; one that has ended stays as it is.

        Parameters:
            grace_period: Time that will be tolerated before the run should be force stopped. Must be greater than
                or equal to 1 second. If not provided, will default to 10 minutes. Of several, the shortest counts.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
            ValidationError: the grace period is too short, or longer than a week.
        """
        steering.stop(self._id, grace_period)

    def restart(self) -> None:
        """Launch a run again that was stopped, failed or was refused; it goes on from its latest checkpoint.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
            TrainingConflict: it is active, or has completed.
        """
        steering.restart(self._id)

    def delete(self) -> None:
        """Delete this run, with its metrics, events, checkpoints and logs.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
            TrainingConflict: it is active, or a model was made of one of its checkpoints.
        """
        steering.delete_run(self._id)

    def get_events(
        self, limit: int | None = None, offset: int | None = None, sort: list[EventOrder] | None = None
    ) -> list[Event]:
        """Get events for this run.

        Parameters:
            limit: How many at most; 100 by default.
            offset: How many to pass over first.
            sort: `sequence:desc` by default.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
            ValidationError: a value is wrong.
        """
        most, skipped = bounds(limit, offset, EVENTS)
        ordered = order(sort, {"sequence": EventRow.sequence}, "sequence:desc")
        statement = sql_select(EventRow).where(EventRow.subject_id == self._known_id).order_by(*ordered)
        with reading() as session:
            return [_as_event(row) for row in session.scalars(statement.limit(most).offset(skipped))]

    def get_metrics(
        self,
        global_steps: list[int] | None = None,
        tags: list[str] | None = None,
        limit: int = 1000,
        created_before: datetime | None = None,
    ) -> list[Metric]:
        """Get metrics for this run, newest first.

        Parameters:
            global_steps: Only of these steps.
            tags: Only of these tags.
            limit: How many at most.
            created_before: Only those created earlier: that of the last metric of a page leads to the next page,
                since no two metrics of a run are of the same instant.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
            ValidationError: a value is wrong.
        """
        check_instants(created_before=created_before)
        most, _ = bounds(limit, None)
        return metrics.find_metrics(
            self._known_id, global_steps=global_steps, tags=tags, limit=most, created_before=created_before
        )

    def get_all_metrics(self) -> list[Metric]:
        """Get all metrics for this run, in no set order.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
        """
        return list(metrics.all_metrics(self._known_id))

    def get_checkpoints(
        self,
        *,
        ids: list[str] | None = None,
        project_ids: list[str] | None = None,
        global_steps: list[int] | None = None,
        statuses: list[Literal["incomplete", "complete"]] | None = None,
        created_before: datetime | None = None,
        created_after: datetime | None = None,
        select: list[CheckpointField] | None = None,
        sort: list[CheckpointOrder] | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[Checkpoint]:
        """Get checkpoints for this run; the parameters are those of `checkpoint.get_checkpoints`.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
            ValidationError: a value is wrong.
        """
        return checkpoint.get_checkpoints(
            ids=ids,
            run_ids=[self._known_id],
            project_ids=project_ids,
            global_steps=global_steps,
            statuses=statuses,
            created_before=created_before,
            created_after=created_after,
            select=select,
            sort=sort,
            limit=limit,
            offset=offset,
        )

    def get_global_steps_with_checkpoints(self) -> list[int]:
        """Get the global steps for which a complete checkpoint exists for this run, in ascending order.

        Raises:
            RunDoesNotExistError: the run does not exist or has been deleted.
        """
        return checkpoint.steps_of(self._known_id)

    @property
    def _id(self) -> str:
        if self.id is None:
            raise ValidationError("id: this run has none; select it when listing runs")
        return self.id

    @property
    def _known_id(self) -> str:
        return steering.check_run(self._id)


def create_run(
    *,
    name: str,
    version: str,
    resources: Resources,
    config: dict[str, Any],
    task_type: str,
    blueprint_id: str,
    project_id: str,
    notes: str | None = None,
) -> str:
    """Create a training run.

    Parameters:
        name: Name of the run.
        version: Version of the run.
        resources: Resources to allocate for scheduling the run.
        config: The run config.
        task_type: Task type of the run.
        blueprint_id: The id of the blueprint to use; `lookup_blueprint_id` finds it by name.
        project_id: The id of the project to create the run in.
        notes: Notes associated with the training run.

    Returns:
        The created run's id.

    Raises:
        ValidationError: the config is invalid according to the blueprint, or a parameter is ill-formed.
        BlueprintDoesNotExistError, ProjectDoesNotExistError, CheckpointDoesNotExistError: what is named is not there.
        TrainingConflict: a checkpoint that the config names is incomplete.
    """
    return submit.submit(submit.NewRun(name, version, resources, config, task_type, blueprint_id, project_id, notes))


def validate_run_config(*, blueprint_id: str, config: dict[str, Any]) -> None:
    """Validate a training run configuration against the provided blueprint id.

    Parameters:
        blueprint_id: The blueprint to validate against.
        config: The run configuration to validate.

    Raises:
        ValidationError: it is invalid; the message names every offending field.
        BlueprintDoesNotExistError: there is no such blueprint.
    """
    submit.validate(blueprint_id, config)


def get_runs(
    *,
    blueprint_ids: list[str] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    ids: list[str] | None = None,
    id_after: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
    name_ilikes: list[str] | None = None,
    project_ids: list[str] | None = None,
    select: list[RunField] | None = None,
    sort: list[RunOrder] | None = None,
    statuses: list[RunStatus] | None = None,
    task_types: list[str] | None = None,
    versions: list[str] | None = None,
    user_ids: list[str] | None = None,
) -> list[Run]:
    r"""Get runs matching the provided criteria; each filter that is a list means any of it.

    Parameters:
        blueprint_ids: Only of these blueprints.
        created_after: Only those created later; for keyset pagination.
        created_before: Only those created earlier; for keyset pagination.
        ids: Only these.
        id_after: Only those whose id sorts after this one; for keyset pagination with `sort=["id:asc"]`.
        limit: How many at most; 10 by default.
        offset: How many to pass over first.
        name_ilikes: Only those whose name matches any of these SQL ILIKE patterns: `%` is anything, `_` one
            character, and a `\` takes the next one literally. Upper and lower case are the same.
        project_ids: Only of these projects.
        select: Fields to fill; the others are None. All by default, or by `*`.
        sort: Fields and directions; `created_at:desc` by default.
        statuses: Only of these statuses.
        task_types: Only of these task types.
        versions: Only of these versions.
        user_ids: Only of these users.

    Raises:
        ValidationError: a value is wrong.
    """
    check_choices(select, SELECTABLE, "select")
    check_choices(statuses, list(RunState), "statuses")
    check_instants(created_before=created_before, created_after=created_after)
    most, skipped = bounds(limit, offset)
    wanted = list(COLUMNS) if not select or "*" in select else list(select)
    equal = {
        RunRow.id: ids,
        RunRow.blueprint_id: blueprint_ids,
        RunRow.project_id: project_ids,
        RunRow.state: statuses,
        RunRow.task_type: task_types,
        RunRow.version: versions,
        RunRow.user_id: user_ids,
    }
    patterns = None if name_ilikes is None else [check_pattern(each, "name_ilikes") for each in name_ilikes]
    statement = (
        queries.runs(equal, patterns, created_after, created_before, id_after)
        .options(load_only(*(COLUMNS[name] for name in wanted)))
        .order_by(*order(sort, SORTABLE, "created_at:desc"), RunRow.id.desc())
    )
    with reading() as session:
        return [Run(**_values(row, wanted)) for row in session.scalars(statement.limit(most).offset(skipped))]


def _values(row: RunRow, fields: Sequence[str] | Mapping[str, object]) -> dict[str, Any]:
    return {name: row.state if name == "status" else getattr(row, name) for name in fields}


def _as_event(row: EventRow) -> Event:
    said = {"from": row.from_state, "reason": row.reason, **(row.details or {})}
    return Event(
        id=f"{row.subject_id}-{row.sequence}",
        sequence=row.sequence,
        run_id=row.subject_id,
        created_at=row.created_at,
        status=row.to_state,
        details={name: value for name, value in said.items() if value not in (None, "")},
    )
