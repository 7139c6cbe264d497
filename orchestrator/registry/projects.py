"""Projects: the tenants that share the workers."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator.database import reading, transact
from orchestrator.errors import Conflict, InvalidRequest, ProjectNotFound
from orchestrator.ids import new_id
from orchestrator.registry.models import Project
from orchestrator.registry.names import check_name
from orchestrator.registry.tables import ProjectRow


def create_project(name: str, weight: int = 1) -> Project:
    """A new project; `weight` is its share of the workers when several projects compete.

    Raises:
        InvalidRequest: the name or the weight is wrong.
        Conflict: the name is taken.
    """
    check_name(name, "project")
    if weight < 1:
        raise InvalidRequest(f"a project's weight must be at least 1, not {weight}")

    def insert(session: Session) -> Project:
        row = ProjectRow(id=new_id(), name=name, weight=weight)
        session.add(row)
        session.flush()
        return _project(row)

    try:
        return transact(insert)
    except IntegrityError as error:
        raise Conflict(f"project {name!r} already exists with id {get_project(name).id}") from error


def get_project(id_or_name: str) -> Project:
    """The project with this id, else the one with this name.

    Raises:
        ProjectNotFound: there is neither.
    """
    with reading() as session:
        row = session.get(ProjectRow, id_or_name) or session.scalar(
            select(ProjectRow).where(ProjectRow.name == id_or_name)
        )
    if row is None:
        raise ProjectNotFound(f"no project has the id or name {id_or_name!r}")
    return _project(row)


def list_projects() -> list[Project]:
    """Every project, by name."""
    with reading() as session:
        return [_project(row) for row in session.scalars(select(ProjectRow).order_by(ProjectRow.name))]


def _project(row: ProjectRow) -> Project:
    return Project(id=row.id, name=row.name, weight=row.weight, created_at=row.created_at)
