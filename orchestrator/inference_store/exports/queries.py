"""Named statements of export tasks: each says in one line which rows it finds or makes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Insert, Select, and_, func, insert, literal, select

from orchestrator.database import db_now
from orchestrator.inference_store.exports.tables import (
    ExportMemberRow,
    ExportPieceRow,
    ExportTaskRow,
    NamedInferenceRow,
)
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import UnitState
from orchestrator.ledger.tables import UnitRow
from orchestrator.registry.tables import DatumRow


def pin(task_id: str, model_id: str, wanted: Sequence[ColumnElement[bool]], *, names_any: bool) -> Insert:
    """Makes the members of a task: those that are wanted or that the request includes, but none that it excludes.

    `wanted` is what the filters ask. Unless the request `names_any`, it does neither: then the order is that of the
    primary key, and nothing has to be sorted.
    """
    row, named = InferenceRow, NamedInferenceRow
    found = select(row.inference_id, row.data_storage_key).where(row.model_id == model_id, row.deleted_at.is_(None))
    by_filter = found.where(*wanted)
    if names_any:
        of_task = select(named.inference_id).where(named.task_id == task_id)
        excluded = of_task.where(named.inference_id == row.inference_id, named.excluded).exists()
        by_name = found.where(row.inference_id.in_(of_task.where(~named.excluded)))
        chosen = by_filter.where(~excluded).union(by_name).subquery()
    else:
        chosen = by_filter.subquery()
    ordinal = func.row_number().over(order_by=chosen.c.inference_id) - 1
    members = select(literal(task_id), ordinal, chosen.c.inference_id, chosen.c.data_storage_key)
    return insert(ExportMemberRow).from_select(["task_id", "ordinal", "inference_id", "storage_key"], members)


def any_named(task_id: str) -> Select[str]:
    """One of the inferences that a task's request names, if it names any."""
    return select(NamedInferenceRow.inference_id).where(NamedInferenceRow.task_id == task_id).limit(1)


def pinned(task_id: str) -> Select[int]:
    """How many members a task has."""
    return select(func.count()).select_from(ExportMemberRow).where(ExportMemberRow.task_id == task_id)


def volume(task_id: str) -> Select[Any]:
    """What a task's members weigh together, in bytes, as far as it is known."""
    size = func.coalesce(InferenceRow.data_size, DatumRow.size, 0)
    return (
        select(func.sum(size))
        .select_from(ExportMemberRow)
        .join(ExportTaskRow, ExportTaskRow.id == ExportMemberRow.task_id)
        .join(
            InferenceRow,
            and_(
                InferenceRow.model_id == ExportTaskRow.model_id,
                InferenceRow.inference_id == ExportMemberRow.inference_id,
            ),
        )
        .outerjoin(DatumRow, DatumRow.id == InferenceRow.datum_id)
        .where(ExportMemberRow.task_id == task_id, ExportMemberRow.storage_key.is_not(None))
    )


def members(task_id: str, model_id: str, low: int, high: int) -> Select[*tuple[Any, ...]]:
    """Members with `low <= ordinal < high`, in order, each with its inference, deleted or not, and its datum."""
    return (
        select(
            ExportMemberRow.ordinal,
            ExportMemberRow.inference_id,
            ExportMemberRow.storage_key,
            InferenceRow.created_at,
            InferenceRow.inference_action,
            InferenceRow.version,
            InferenceRow.data,
            InferenceRow.data_hash,
            InferenceRow.data_source,
            InferenceRow.latitude,
            InferenceRow.longitude,
            InferenceRow.bulk_inference_job_id,
            InferenceRow.datum_id,
            func.coalesce(DatumRow.size, InferenceRow.data_size).label("size"),
            DatumRow.path.label("datum_path"),
        )
        .join(
            InferenceRow,
            and_(InferenceRow.model_id == model_id, InferenceRow.inference_id == ExportMemberRow.inference_id),
        )
        .outerjoin(DatumRow, DatumRow.id == InferenceRow.datum_id)
        .where(ExportMemberRow.task_id == task_id, ExportMemberRow.ordinal >= low, ExportMemberRow.ordinal < high)
        .order_by(ExportMemberRow.ordinal)
    )


def pieces(task_id: str, part: int | None = None) -> Select[ExportPieceRow]:
    """The pieces of a task, or of one of its parts, in order."""
    statement = (
        select(ExportPieceRow)
        .where(ExportPieceRow.task_id == task_id)
        .order_by(ExportPieceRow.part, ExportPieceRow.piece)
    )
    return statement if part is None else statement.where(ExportPieceRow.part == part)


def recorded(task_id: str) -> Select[int | None]:
    """How many members a task's pieces hold."""
    return select(func.sum(ExportPieceRow.high - ExportPieceRow.low)).where(ExportPieceRow.task_id == task_id)


def written(task_ids: Sequence[str]) -> Select[str, int]:
    """How many bytes the pieces of each of the tasks hold."""
    return (
        select(ExportPieceRow.task_id, func.sum(ExportPieceRow.size))
        .where(ExportPieceRow.task_id.in_(task_ids))
        .group_by(ExportPieceRow.task_id)
    )


def dead_units(task_id: str) -> Select[str, str | None]:
    """Kind and error of the task's units that used up their attempts."""
    return select(UnitRow.kind, UnitRow.last_error).where(UnitRow.job_id == task_id, UnitRow.state == UnitState.DEAD)


def unswept(age: timedelta, limit: int) -> Select[str]:
    """Tasks that ended `age` ago and are not swept yet, oldest first."""
    return (
        select(ExportTaskRow.id)
        .where(ExportTaskRow.swept_at.is_(None), ExportTaskRow.finished_at.is_not(None))
        .where(ExportTaskRow.finished_at <= db_now(-age))
        .order_by(ExportTaskRow.finished_at)
        .limit(limit)
    )
