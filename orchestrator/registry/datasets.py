"""Datasets: named lines of snapshots, each in one project."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator.database import reading, transact
from orchestrator.errors import Conflict, DatasetNotFound, ProjectNotFound
from orchestrator.ids import new_id
from orchestrator.registry.models import Dataset
from orchestrator.registry.names import check_name
from orchestrator.registry.projects import get_project
from orchestrator.registry.tables import DatasetRow, ProjectRow


def create_dataset(project_id: str, name: str) -> Dataset:
    """A new dataset without snapshots.

    Raises:
        InvalidRequest: the name is wrong.
        ProjectNotFound: no project has this id.
        Conflict: the project has a dataset of this name.
    """
    check_name(name, "dataset")

    def insert(session: Session) -> Dataset:
        if session.get(ProjectRow, project_id) is None:
            raise ProjectNotFound(f"no project has the id {project_id!r}")
        row = DatasetRow(id=new_id(), project_id=project_id, name=name)
        session.add(row)
        session.flush()
        return _dataset(row)

    try:
        return transact(insert)
    except IntegrityError as error:
        taken = get_dataset(name, project_id=project_id)
        raise Conflict(f"dataset {name!r} already exists in this project with id {taken.id}") from error


def get_dataset(id_or_name: str, *, project_id: str | None = None) -> Dataset:
    """The dataset with this id; with `project_id`, also the one of this name in that project.

    Raises:
        DatasetNotFound: there is none, or it belongs to another project.
    """
    with reading() as session:
        row = session.get(DatasetRow, id_or_name)
        if row is None and project_id is not None:
            named = select(DatasetRow).where(DatasetRow.project_id == project_id, DatasetRow.name == id_or_name)
            row = session.scalar(named)
    if row is None or project_id not in (None, row.project_id):
        where = "" if project_id is None else f" in project {project_id}"
        raise DatasetNotFound(f"no dataset {id_or_name!r}{where}")
    return _dataset(row)


def list_datasets(project_id: str) -> list[Dataset]:
    """The project's datasets, by name.

    Raises:
        ProjectNotFound: no project has this id.
    """
    project = get_project(project_id)
    chosen = select(DatasetRow).where(DatasetRow.project_id == project.id).order_by(DatasetRow.name)
    with reading() as session:
        return [_dataset(row) for row in session.scalars(chosen)]


def _dataset(row: DatasetRow) -> Dataset:
    return Dataset(id=row.id, project_id=row.project_id, name=row.name, created_at=row.created_at)
