"""The catalog of models: what each does, and which server answers for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator.database import reading, transact
from orchestrator.errors import Conflict, InvalidRequest, ModelNotFound, ProjectNotFound
from orchestrator.ids import new_id
from orchestrator.registry.addresses import check_address
from orchestrator.registry.models import ACTIONS, Endpoint, InferenceAction, Model, TaskType
from orchestrator.registry.names import check_name
from orchestrator.registry.projects import get_project
from orchestrator.registry.tables import ModelRow, ProjectRow


def register_model(
    project_id: str,
    name: str,
    task_type: TaskType,
    endpoint: Endpoint,
    version: str = "1",
    actions: Sequence[InferenceAction] | None = None,
) -> Model:
    """Enter a model; without `actions` it has every inference method of its task type.

    Raises:
        InvalidRequest: a name, the URL or an action is wrong.
        ForbiddenAddress: the endpoint's address is one that workers must not call.
        ProjectNotFound: no project has this id.
        Conflict: the project has this version of the model.
    """
    endpoint = endpoint.model_copy(update={"url": _check_url(endpoint.url)})
    try:
        return transact(add_model, project_id, name, task_type, endpoint, version, actions)
    except IntegrityError as error:
        taken = get_model(name, project_id=project_id, version=version)
        raise Conflict(
            f"model {name!r} version {version!r} already exists in this project with id {taken.id}: "
            "register another version"
        ) from error


def add_model(
    session: Session,
    project_id: str,
    name: str,
    task_type: TaskType,
    endpoint: Endpoint,
    version: str = "1",
    actions: Sequence[InferenceAction] | None = None,
) -> Model:
    """As `register_model`, in the caller's transaction; `endpoint` may be without a URL until `serve_model` gives one.

    Raises:
        InvalidRequest, ForbiddenAddress, ProjectNotFound: as `register_model`.
        IntegrityError: the project has this version of the model.
    """
    check_name(name, "model")
    check_name(version, "model version")
    chosen = _check_actions(task_type, actions)
    if endpoint.url:
        _check_url(endpoint.url)
    if session.get(ProjectRow, project_id) is None:
        raise ProjectNotFound(f"no project has the id {project_id!r}")
    row = ModelRow(
        id=new_id(),
        project_id=project_id,
        name=name,
        version=version,
        task_type=task_type.value,
        actions=[action.value for action in chosen],
        config=endpoint.model_dump(mode="json"),
    )
    session.add(row)
    session.flush()
    return _model(row)


def serve_model(model_id: str, url: str, **changes: Any) -> Model:
    """Say which server answers for a model from now on; `changes` are other fields of its endpoint.

    Raises:
        ModelNotFound: no model has this id.
        InvalidRequest: the URL is none, or a change is wrong.
        ForbiddenAddress: the address is one that workers must not call.
    """
    checked = _check_url(url)

    def change(session: Session) -> Model:
        row = session.get(ModelRow, model_id, with_for_update=True)
        if row is None:
            raise ModelNotFound(f"no model {model_id!r}")
        try:
            endpoint = Endpoint.model_validate({**row.config, **changes, "url": checked})
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise InvalidRequest(wrong) from error
        row.config = endpoint.model_dump(mode="json")
        session.flush()
        return _model(row)

    return transact(change)


def get_model(id_or_name: str, *, project_id: str | None = None, version: str | None = None) -> Model:
    """The model with this id; with `project_id`, also the one of this name there.

    By name, no `version` means the one registered last.

    Raises:
        ModelNotFound: there is none, or it belongs to another project.
    """
    with reading() as session:
        row = session.get(ModelRow, id_or_name)
        if row is None and project_id is not None:
            named = select(ModelRow).where(ModelRow.project_id == project_id, ModelRow.name == id_or_name)
            if version is not None:
                named = named.where(ModelRow.version == version)
            row = session.scalar(named.order_by(ModelRow.id.desc()).limit(1))
    if row is None or project_id not in (None, row.project_id) or version not in (None, row.version):
        where = "" if project_id is None else f" in project {project_id}"
        which = "" if version is None else f" in version {version!r}"
        raise ModelNotFound(f"no model {id_or_name!r}{which}{where}")
    return _model(row)


def list_models(project_id: str) -> list[Model]:
    """The project's models, by name, the newest version of each first.

    Raises:
        ProjectNotFound: no project has this id.
    """
    project = get_project(project_id)
    chosen = select(ModelRow).where(ModelRow.project_id == project.id).order_by(ModelRow.name, ModelRow.id.desc())
    with reading() as session:
        return [_model(row) for row in session.scalars(chosen)]


def _check_actions(task_type: TaskType, actions: Sequence[InferenceAction] | None) -> list[InferenceAction]:
    allowed = ACTIONS[task_type]
    if actions is None:
        return list(allowed)
    foreign = [action.value for action in actions if action not in allowed]
    if foreign or not actions:
        names = ", ".join(action.value for action in allowed)
        given = ", ".join(foreign) or "none"
        raise InvalidRequest(f"{task_type.value} has the inference methods {names}; given: {given}")
    return list(dict.fromkeys(actions))


def _check_url(url: str) -> str:
    """`url` without a slash at its end, when it is a base URL whose address may be called."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  reading it is what checks it
    except ValueError as error:
        raise InvalidRequest(f"{url!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise InvalidRequest(f"{url!r} is no endpoint: use http://host:port or https://host")
    if parts.username is not None or parts.password is not None:
        # Not repeated in the message, which may be logged.
        raise InvalidRequest("an endpoint's URL must not hold a user name or password: it is shown to everyone")
    if parts.query or parts.fragment or "/v2/" in f"{parts.path}/":
        raise InvalidRequest(f"{url!r} is no base URL: leave out /v2 and all that follows it")
    check_address(url)
    return url.rstrip("/")


def _model(row: ModelRow) -> Model:
    return Model(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        version=row.version,
        task_type=TaskType(row.task_type),
        actions=[InferenceAction(action) for action in row.actions],
        endpoint=Endpoint.model_validate(row.config),
        created_at=row.created_at,
    )
