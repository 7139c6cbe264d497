"""The doors of checkpoints: list, download, delete, and make a model of one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeVarTuple
from urllib.parse import urlsplit

from sqlalchemy import Select
from sqlalchemy import select as sql_select
from sqlalchemy.orm import Session

from orchestrator.database import reading, storable, transact
from orchestrator.settings import settings
from orchestrator.training_v2 import checkpoint_files, downloads, model_making
from orchestrator.training_v2.exceptions import CheckpointDoesNotExistError, TrainingConflict, ValidationError
from orchestrator.training_v2.models import BaseModelWithDatetime
from orchestrator.training_v2.paging import bounds, check_choices, check_instants, countable, findable, order
from orchestrator.training_v2.tables import CheckpointRow, RunRow

Ts = TypeVarTuple("Ts")

CheckpointField = Literal["id", "created_at", "run_id", "project_id", "global_step", "status", "status_updated_at"]
CheckpointOrder = Literal["id:asc", "id:desc", "created_at:asc", "created_at:desc"]

COLUMNS = {
    "id": CheckpointRow.id,
    "created_at": CheckpointRow.created_at,
    "run_id": CheckpointRow.run_id,
    "project_id": RunRow.project_id,
    "global_step": CheckpointRow.global_step,
    "status": CheckpointRow.status,
    "status_updated_at": CheckpointRow.status_updated_at,
}
SORTABLE = {"id": CheckpointRow.id, "created_at": CheckpointRow.created_at}
STATUSES = ("incomplete", "complete")


class Checkpoint(BaseModelWithDatetime):
    """A checkpoint of a run: `incomplete` while it is written, `complete` once it is whole."""

    id: str | None = None
    run_id: str | None = None
    global_step: int | None = None
    project_id: str | None = None
    created_at: datetime | None = None
    status: str | None = None
    status_updated_at: datetime | None = None
    bucket_name: str | None = None
    key_prefix: str | None = None

    def create_model(self, *, name: str, version: str, summary: str, project_id: str | None = None) -> str:
        """Create a model from this checkpoint; see `create_model_from_checkpoint`."""
        if self.id is None:
            raise ValidationError("id: this checkpoint has none; select it when listing checkpoints")
        return create_model_from_checkpoint(
            checkpoint_id=self.id, name=name, version=version, summary=summary, project_id=project_id
        )


def create_model_from_checkpoint(
    *, checkpoint_id: str, name: str, version: str, summary: str, project_id: str | None = None
) -> str:
    """Create a model from a checkpoint, which is kept from then on.

    Parameters:
        checkpoint_id: The id of the checkpoint to create the model from.
        name: The name to give the model.
        version: The version to give the model. Must be in SemVer format.
        summary: A short summary of the model.
        project_id: The project to create the model in; that of the run by default.

    Returns:
        The id of the created model.

    Raises:
        CheckpointDoesNotExistError: there is no such checkpoint.
        TrainingConflict: it is incomplete, or the project has this version of the model.
        ValidationError: the version is no SemVer, the name is none, or nothing can infer on the run's task type.
        ProjectDoesNotExistError: no project has this id.
    """
    return model_making.create_model(checkpoint_id, name, version, summary, project_id)


def get_checkpoints(
    *,
    ids: list[str] | None = None,
    run_ids: list[str] | None = None,
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
    """Get checkpoints matching the provided filters; each filter that is a list means any of it.

    Parameters:
        ids: Only these.
        run_ids: Only of these runs.
        project_ids: Only of runs of these projects.
        global_steps: Only of these steps.
        statuses: Only of these statuses.
        created_before: Only those created earlier; for keyset pagination.
        created_after: Only those created later; for keyset pagination.
        select: Fields to fill; the others are None. All by default.
        sort: Fields and directions; `created_at:desc` by default.
        limit: How many at most; 10 by default.
        offset: How many to pass over first.

    Raises:
        ValidationError: a value is wrong.
    """
    check_choices(select, COLUMNS, "select")
    check_choices(statuses, STATUSES, "statuses")
    check_instants(created_before=created_before, created_after=created_after)
    most, skipped = bounds(limit, offset)
    statement = sql_select(CheckpointRow, RunRow.project_id).join(RunRow, RunRow.id == CheckpointRow.run_id)
    statement = _visible(statement, ids, run_ids)
    if project_ids is not None:
        statement = statement.where(RunRow.project_id.in_(findable(project_ids)))
    if global_steps is not None:
        statement = statement.where(CheckpointRow.global_step.in_(countable(global_steps)))
    if statuses is not None:
        statement = statement.where(CheckpointRow.status.in_(statuses))
    if created_before is not None:
        statement = statement.where(CheckpointRow.created_at < created_before)
    if created_after is not None:
        statement = statement.where(CheckpointRow.created_at > created_after)
    statement = statement.order_by(*order(sort, SORTABLE, "created_at:desc"), CheckpointRow.id.desc())
    with reading() as session:
        found = session.execute(statement.limit(most).offset(skipped)).all()
    return [_as_checkpoint(row, project_id, select) for row, project_id in found]


def latest_checkpoint(run_id: str) -> Checkpoint | None:
    """The complete checkpoint of the run that was begun last: the one that a restart goes on from."""
    found = get_checkpoints(run_ids=[run_id], statuses=["complete"], limit=1)
    return found[0] if found else None


def steps_of(run_id: str) -> list[int]:
    """The steps of the run's complete checkpoints, in ascending order."""
    statement = sql_select(CheckpointRow.global_step).join(RunRow, RunRow.id == CheckpointRow.run_id).distinct()
    statement = _visible(statement, None, [run_id]).where(CheckpointRow.status == "complete")
    with reading() as session:
        return sorted(session.scalars(statement))


def download_checkpoint(id: str, file_dir: str) -> None:  # noqa: A002  the documented name
    """Download checkpoint artifacts.

    Parameters:
        id: The id of the checkpoint to download.
        file_dir: The folder for its files, which must exist.

    Raises:
        CheckpointDoesNotExistError: there is no such checkpoint.
        TrainingConflict: it is incomplete.
        ValidationError: the folder does not exist.
    """
    downloads.download(id, file_dir)


def delete_checkpoints(*, ids: list[str] | None = None, run_ids: list[str] | None = None) -> None:
    """Delete checkpoints matching the provided filters: all of them, or none if one is still needed.

    Parameters:
        ids: Only these. Either `ids` or `run_ids` must be given.
        run_ids: Only of these runs.

    Raises:
        ValueError: neither is given.
        TrainingConflict: a model or a live run needs one of them. Nothing was deleted.
    """
    if ids is None and run_ids is None:
        raise ValidationError("ids or run_ids: give one of them, or every checkpoint would be deleted")
    checkpoint_files.purge_soon(transact(_delete, ids, run_ids))


def _delete(session: Session, ids: Sequence[str] | None, run_ids: Sequence[str] | None) -> list[str]:
    chosen = _visible(sql_select(CheckpointRow), ids, run_ids)
    found = session.scalars(chosen.join(RunRow, RunRow.id == CheckpointRow.run_id).order_by(CheckpointRow.id)).all()
    for row in found:
        _refuse_what_a_live_run_needs(session, row)
    doomed = checkpoint_files.doom(session, [row.id for row in found])
    held = sorted({row.id for row in found} - set(doomed))
    if held:
        raise TrainingConflict(f"a model or a live run was made from checkpoint {', '.join(held)}: it is kept")
    return doomed


def _refuse_what_a_live_run_needs(session: Session, row: CheckpointRow) -> None:
    run = session.get_one(RunRow, row.run_id, with_for_update={"read": True})
    if run.finished_at is not None:
        return
    if row.status == "incomplete" and row.launch == run.launch:
        raise TrainingConflict(f"checkpoint {row.id} is being written: wait, or stop run {run.id}")
    newest = sql_select(CheckpointRow.id).where(CheckpointRow.run_id == run.id, CheckpointRow.status == "complete")
    newest = newest.where(CheckpointRow.deleted_at.is_(None))
    newest = newest.order_by(CheckpointRow.created_at.desc(), CheckpointRow.id.desc()).limit(1)
    if row.id == session.scalar(newest):
        raise TrainingConflict(f"run {run.id} would restart from checkpoint {row.id}: stop the run first")


def _visible(statement: Select[*Ts], ids: Sequence[str] | None, run_ids: Sequence[str] | None) -> Select[*Ts]:
    statement = statement.where(CheckpointRow.deleted_at.is_(None), RunRow.deleted_at.is_(None))
    if ids is not None:
        statement = statement.where(CheckpointRow.id.in_(findable(ids)))
    if run_ids is not None:
        statement = statement.where(CheckpointRow.run_id.in_(findable(run_ids)))
    return statement


def _as_checkpoint(row: CheckpointRow, project_id: str, chosen: Sequence[str] | None) -> Checkpoint:
    values = {name: project_id if name == "project_id" else getattr(row, name) for name in chosen or COLUMNS}
    if not chosen:
        values["bucket_name"], values["key_prefix"] = _place(checkpoint_files.draft_of(row.run_id, row.id).prefix)
    return Checkpoint(**values)


def _place(prefix: str) -> tuple[str | None, str]:
    """The bucket of the blob store and where keys with this prefix are in it; no bucket where blobs are in a folder."""
    parts = urlsplit(settings().storage_url)
    if parts.scheme != "s3":
        return None, prefix
    return parts.netloc, f"{parts.path.strip('/')}/{prefix}".lstrip("/")


def find_checkpoint(checkpoint_id: str) -> Checkpoint:
    """The checkpoint with this id.

    Raises:
        CheckpointDoesNotExistError: there is none.
    """
    found = get_checkpoints(ids=[storable(checkpoint_id)], limit=1)
    if not found:
        raise CheckpointDoesNotExistError(checkpoint_id)
    return found[0]
