"""Finds what a person names: a project, dataset, snapshot or model by its id or by its name."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.database import reading
from orchestrator.errors import DatasetNotFound, InvalidRequest, ModelNotFound, ProjectNotFound, SnapshotNotFound
from orchestrator.inference_store.tables import StoreModelRow
from orchestrator.registry import (
    get_dataset,
    get_model,
    get_project,
    get_snapshot,
    list_projects,
    list_snapshots,
)
from orchestrator.registry.models import Dataset, Model, Project, Snapshot


def find_project(name: str | None) -> Project:
    """The project of this name or id; without one, the only project there is.

    Raises:
        ProjectNotFound: there is none.
        InvalidRequest: there are several, and none was named.
    """
    if name is not None:
        return get_project(name)
    projects = list_projects()
    if not projects:
        raise ProjectNotFound("there is no project yet: make one with `orchestrator project create NAME`")
    if len(projects) > 1:
        names = ", ".join(project.name for project in projects[:10])
        raise InvalidRequest(f"there are several projects, choose one with --project: {names}")
    return projects[0]


def find_listed_project(project: str | None, model: str | None) -> str | None:
    """The id of the project that a listing is cut to: none where a model is named, which decides by itself.

    Raises:
        ProjectNotFound: there is no such project.
    """
    return find_project(project).id if project is not None and model is None else None


def find_dataset(name: str, project: str | None) -> Dataset:
    """The dataset of this id; in `project`, also of this name.

    Raises:
        NotFound: no such project or dataset.
        InvalidRequest: a name is given, and there are several projects.
    """
    if project is None:
        with suppress(DatasetNotFound):
            return get_dataset(name)
    return get_dataset(name, project_id=find_project(project).id)


def find_model(name: str, project: str | None, version: str | None = None) -> Model:
    """The model of this id; in `project`, also of this name, the version registered last unless one is given.

    Raises:
        NotFound: no such project or model.
        InvalidRequest: a name is given, and there are several projects.
    """
    if project is None:
        with suppress(ModelNotFound):
            return get_model(name, version=version)
    return get_model(name, project_id=find_project(project).id, version=version)


def find_store_model(name: str, project: str | None) -> str:
    """The id of the model that is registered for inference storage; it may be unknown to the registry.

    Raises:
        NotFound: no such project or model.
        InvalidRequest: a name is given, and there are several projects.
    """
    with reading() as session:
        if project is None and session.get(StoreModelRow, name) is not None:
            return name
    return find_model(name, project).id


def find_snapshot(name: str | None, dataset: Dataset) -> Snapshot:
    """The dataset's snapshot of this id or name; without one, the newest.

    Raises:
        SnapshotNotFound: the dataset has no such snapshot, or none at all.
    """
    snapshots = list_snapshots(dataset.id)
    for snapshot in snapshots:
        if name in (None, snapshot.id, snapshot.name):
            return snapshot
    if not snapshots:
        raise SnapshotNotFound(
            f"dataset {dataset.name!r} has no snapshot yet: `orchestrator snapshot import {dataset.name} PATH`"
        )
    known = ", ".join(snapshot.name for snapshot in snapshots[:10])
    raise SnapshotNotFound(f"dataset {dataset.name!r} has no snapshot {name!r}: it has {known}")


def find_any_snapshot(name: str, dataset: str | None, project: str | None) -> Snapshot:
    """The snapshot of this id; in `dataset`, also of this name.

    Raises:
        NotFound: no such project, dataset or snapshot.
    """
    return get_snapshot(name) if dataset is None else find_snapshot(name, find_dataset(dataset, project))
