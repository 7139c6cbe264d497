"""Blueprints: how each kind of model is trained, in versions."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError as Malformed
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from orchestrator.database import db_now, ilike, reading, storable, transact
from orchestrator.errors import InvalidRequest
from orchestrator.ids import new_id
from orchestrator.registry.models import InputCodec, OutputCodec
from orchestrator.registry.names import check_name
from orchestrator.training_v2.config import check_schema
from orchestrator.training_v2.exceptions import BlueprintDoesNotExistError, TrainingConflict, ValidationError
from orchestrator.training_v2.models import Blueprint, NewBlueprint
from orchestrator.training_v2.paging import bounds
from orchestrator.training_v2.tables import BlueprintRow

#: Fields that a row keeps under the same names.
FIELDS = tuple(NewBlueprint.model_fields)


def lookup_blueprint_id(name: str, version_ilike: str | None = None) -> str:
    """Returns the id of the blueprint specified by the arguments: of several, the one registered last.

    Parameters:
        name: The name of the blueprint.
        version_ilike: A SQL ILIKE pattern that its version matches; any version by default.

    Raises:
        BlueprintDoesNotExistError: there is none, or it has been deleted.
        ValueError: no name is given, or the pattern is none.
    """
    if not name:
        raise ValidationError("name: which blueprint? `orchestrator blueprint list` shows them")
    statement = select(BlueprintRow.id).where(BlueprintRow.name == storable(name), BlueprintRow.deleted_at.is_(None))
    if version_ilike is not None:
        statement = statement.where(ilike(BlueprintRow.version, check_pattern(version_ilike, "version_ilike")))
    with reading() as session:
        found = session.scalar(statement.order_by(BlueprintRow.id.desc()).limit(1))
    if found is None:
        raise BlueprintDoesNotExistError(name=name, version_ilike=version_ilike)
    return found


def create_blueprint(new: NewBlueprint) -> Blueprint:
    """Register a blueprint.

    Raises:
        ValidationError: a value is wrong.
        TrainingConflict: this version of it exists.
    """
    _check(new)

    def insert(session: Session) -> Blueprint:
        row = BlueprintRow(id=new_id(), **new.model_dump(mode="json"))
        session.add(row)
        session.flush()
        return as_blueprint(row)

    try:
        return transact(insert)
    except IntegrityError as error:
        raise TrainingConflict(
            f"blueprint {new.name!r} version {new.version!r} exists already: register another version"
        ) from error


def register_blueprint(path: Path | str) -> Blueprint:
    """Register the blueprint that a file describes: `.toml`, or else JSON, with the fields of `NewBlueprint`.

    Raises:
        ValidationError: the file cannot be read as such, or a value is wrong.
        TrainingConflict: this version of it exists.
    """
    return create_blueprint(read_blueprint(Path(path)))


def read_blueprint(path: Path) -> NewBlueprint:
    """What a file says of a blueprint.

    Raises:
        ValidationError: it cannot be read as such.
    """
    try:
        text = path.read_text(encoding="utf-8")
        said: Any = tomllib.loads(text) if path.suffix == ".toml" else orjson.loads(text)
        return NewBlueprint.model_validate(said)
    except (tomllib.TOMLDecodeError, orjson.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValidationError(f"{path}: {error}") from error
    except Malformed as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValidationError(f"{path}: {wrong}") from error


def get_blueprint(blueprint_id: str) -> Blueprint:
    """The blueprint with this id.

    Raises:
        BlueprintDoesNotExistError: there is none, or it has been deleted.
    """
    with reading() as session:
        return as_blueprint(find_blueprint(session, blueprint_id))


def list_blueprints(*, name: str | None = None, limit: int | None = 100, offset: int | None = None) -> list[Blueprint]:
    """Blueprints, of one name or of all, the one registered last first.

    Raises:
        ValidationError: `limit` or `offset` is negative.
    """
    most, skipped = bounds(limit, offset)
    statement = select(BlueprintRow).where(BlueprintRow.deleted_at.is_(None)).order_by(BlueprintRow.id.desc())
    if name is not None:
        statement = statement.where(BlueprintRow.name == storable(name))
    with reading() as session:
        return [as_blueprint(row) for row in session.scalars(statement.limit(most).offset(skipped))]


def delete_blueprint(blueprint_id: str) -> None:
    """Let no further run begin with the blueprint; its runs stay, and its version may be registered anew.

    Raises:
        BlueprintDoesNotExistError: there is none, or it has been deleted.
    """

    def delete(session: Session) -> None:
        find_blueprint(session, blueprint_id)
        session.execute(update(BlueprintRow).where(BlueprintRow.id == blueprint_id).values(deleted_at=db_now()))

    transact(delete)


def find_blueprint(session: Session, blueprint_id: str) -> BlueprintRow:
    """The row of a blueprint that has not been deleted.

    Raises:
        BlueprintDoesNotExistError: there is none.
    """
    row = session.get(BlueprintRow, storable(blueprint_id))
    if row is None or row.deleted_at is not None:
        raise BlueprintDoesNotExistError(id=blueprint_id)
    return row


def check_pattern(pattern: str, what: str) -> str:
    """Return a SQL ILIKE pattern that both databases understand.

    Raises:
        ValidationError: it ends in the middle of an escape, or holds what no database keeps.
    """
    escapes = len(pattern) - len(pattern.rstrip("\\"))
    if escapes % 2 or storable(pattern) != pattern:
        raise ValidationError(f"{what}: {pattern!r} is no ILIKE pattern: write '\\\\' for a backslash")
    return pattern


def as_blueprint(row: BlueprintRow) -> Blueprint:
    """A row as callers see it."""
    return Blueprint(id=row.id, created_at=row.created_at, **{name: getattr(row, name) for name in FIELDS})


def _check(new: NewBlueprint) -> None:
    try:
        check_name(new.name, "blueprint")
        check_name(new.version, "blueprint version")
        for task_type in new.task_types:
            check_name(task_type, "task type")
    except InvalidRequest as error:
        raise ValidationError(error.body) from error
    if not new.image and not new.entry_point:
        raise ValidationError("image or entry_point: one of them is needed to run anything")
    policy, serving = new.checkpoint_policy, new.serving
    if policy is not None and (policy.keep_best > 0) != (policy.best_by is not None):
        raise ValidationError("checkpoint_policy: keep_best and best_by go together")
    for codec, kind in ((serving and serving.input_codec, InputCodec), (serving and serving.output_codec, OutputCodec)):
        if codec and codec not in list(kind):
            raise ValidationError(f"serving: {codec!r} is none of {', '.join(kind)}")
    check_schema(new.config_schema)
