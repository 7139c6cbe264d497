"""The doors of registration: which models the store keeps inferences of."""

from __future__ import annotations

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, insert_ignoring, reading, storable, transact
from orchestrator.errors import Conflict, InvalidRequest, ModelNotFound
from orchestrator.inference_store.models import Model, NewRegisterModelRequest, TaskType
from orchestrator.inference_store.tables import StoreModelRow
from orchestrator.inference_store.texts import checked_id, checked_limit, may_exist

#: More numbers than any embedding has.
LARGEST_EMBEDDING = 1 << 16


def get_registered_model(model_id: str) -> Model | None:
    """Get details about a model registered for inference storage.

    Parameters:
        model_id: The model id.

    Returns:
        The model details; None if no model of this id is registered.
    """
    with reading() as session:
        row = find_registered(session, model_id)
    return None if row is None else _as_model(row)


def list_registered_models(*, limit: int = 50) -> list[Model]:
    """The models that are registered for inference storage, newest first.

    Raises:
        InvalidRequest: `limit` is negative, or larger than any list.
    """
    newest = select(StoreModelRow).order_by(StoreModelRow.created_at.desc(), StoreModelRow.model_id.desc())
    with reading() as session:
        return [_as_model(row) for row in session.scalars(newest.limit(checked_limit(limit)))]


def register_model_for_inference_storage(request_body: NewRegisterModelRequest) -> str | None:
    """Register a model for inference storage; registered twice it is registered once.

    With an `embedding_size` of 0 the first embedding that is stored says what it is.

    Parameters:
        request_body: The model to register for inference storage.

    Returns:
        The model id.

    Raises:
        InvalidRequest: an id cannot be stored, or the embedding size is out of bounds.
        Conflict: the model is registered otherwise.
    """
    checked_id("model_id", request_body.model_id)
    checked_id("project_id", request_body.project_id)
    if not 0 <= request_body.embedding_size <= LARGEST_EMBEDDING:
        raise InvalidRequest(
            f"embedding_size is {request_body.embedding_size}: it must be 0 or more, and {LARGEST_EMBEDDING} at most"
        )
    transact(_register, request_body)
    return request_body.model_id


def add_if_missing(
    session: Session, model_id: str, *, project_id: str, task_type: str, embedding_size: int = 0
) -> bool:
    """Register a model in the caller's transaction, unless it is; says whether it was not."""
    if session.get(StoreModelRow, model_id) is not None:
        return False
    now = session.scalar(select(db_now()))
    row = {
        "model_id": model_id,
        "project_id": project_id,
        "task_type": task_type,
        "embedding_size": embedding_size,
        "created_at": now,
        "updated_at": now,
    }
    return insert_ignoring(session, StoreModelRow, [row]) > 0


def find_registered(session: Session, model_id: str) -> StoreModelRow | None:
    """The model's row, or None if it is not registered for inference storage."""
    return session.get(StoreModelRow, model_id) if may_exist(model_id) else None


def registered(session: Session, model_id: str) -> StoreModelRow:
    """The model's row.

    Raises:
        ModelNotFound: it is not registered for inference storage.
    """
    row = find_registered(session, model_id)
    if row is None:
        raise ModelNotFound(
            f"model {model_id!r} is not registered for inference storage: `orchestrator inference register`"
        )
    return row


def models_of(project_id: str) -> Select[str]:
    """The ids of the models that are registered for inference storage in a project."""
    return select(StoreModelRow.model_id).where(StoreModelRow.project_id == storable(project_id))


def learn_embedding_size(session: Session, model_id: str, size: int) -> None:
    """Let the model's embeddings have `size` numbers from now on, unless it is known how many they have."""
    session.execute(
        update(StoreModelRow)
        .where(StoreModelRow.model_id == model_id, StoreModelRow.embedding_size == 0)
        .values(embedding_size=size, updated_at=db_now()),
        execution_options={"synchronize_session": False},
    )


def _as_model(row: StoreModelRow) -> Model:
    return Model(
        model_id=row.model_id, created_at=row.created_at, updated_at=row.updated_at, embedding_size=row.embedding_size
    )


def _register(session: Session, request: NewRegisterModelRequest) -> None:
    task_type = TaskType(request.task_type).value
    if add_if_missing(
        session,
        request.model_id,
        project_id=request.project_id,
        task_type=task_type,
        embedding_size=request.embedding_size,
    ):
        return
    if request.embedding_size:
        learn_embedding_size(session, request.model_id, request.embedding_size)
    row = session.get_one(StoreModelRow, request.model_id)
    for name, known, given in (
        ("project_id", row.project_id, request.project_id),
        ("task_type", row.task_type, task_type),
        ("embedding_size", row.embedding_size, request.embedding_size or row.embedding_size),
    ):
        if known != given:
            raise Conflict(f"model {request.model_id!r} is registered with the {name} {known!r}, not {given!r}")
