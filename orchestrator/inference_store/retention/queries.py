"""Named selects of retention: each says in one line which rows it finds."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, literal, select, tuple_

from orchestrator.database import UtcDateTime
from orchestrator.inference_store.purge import INFERENCES, VISIBLE, within_reach
from orchestrator.inference_store.receipts import Action
from orchestrator.inference_store.retention.models import TaskState
from orchestrator.inference_store.retention.tables import RetentionPolicyRow, RetentionTaskRow
from orchestrator.inference_store.tables import ReceiptRow

#: What retention may touch at all.
UNPROTECTED = ~INFERENCES.c.is_protected
#: The order in which inferences are swept.
ORDER = INFERENCES.c.created_at, INFERENCES.c.inference_id


def current_policy(model_id: str) -> Select[RetentionPolicyRow]:
    """The policy that holds for the model."""
    return select(RetentionPolicyRow).where(
        RetentionPolicyRow.model_id == model_id, RetentionPolicyRow.ended_at.is_(None)
    )


def live_tasks(policy_id: str) -> Select[str]:
    """The policy's tasks that have not ended."""
    return select(RetentionTaskRow.id).where(
        RetentionTaskRow.policy_id == policy_id,
        RetentionTaskRow.state.in_((TaskState.PENDING, TaskState.SCHEDULED, TaskState.RUNNING)),
    )


def deleted(task_ids: list[str]) -> Select[str | None, int, int, int]:
    """For each task that has receipts: records, blobs, and inferences that stay without their data."""
    kept: ColumnElement[int] = case((ReceiptRow.action == Action.BLOB, ReceiptRow.count), else_=0)
    return (
        select(
            ReceiptRow.task_id,
            func.sum(ReceiptRow.count - kept),
            func.sum(ReceiptRow.blob_count),
            func.sum(kept),
        )
        .where(ReceiptRow.task_id.in_(task_ids), ReceiptRow.task_id.is_not(None))
        .group_by(ReceiptRow.task_id)
    )


def too_old(model_id: str, limit: datetime, action: Action) -> ColumnElement[bool]:
    """Inferences from before `limit` that are not protected, and that the action does something to."""
    return and_(INFERENCES.c.model_id == model_id, within_reach(action), UNPROTECTED, INFERENCES.c.created_at < limit)


def to_strip(model_id: str, record_limit: datetime, blob_limit: datetime) -> ColumnElement[bool]:
    """Inferences that stay, and whose data is too old."""
    return and_(
        too_old(model_id, blob_limit, Action.BLOB),
        INFERENCES.c.created_at >= record_limit,
        INFERENCES.c.data_storage_key.is_not(None),
    )


def blobs_to_go(model_id: str, blob_limit: datetime) -> Select[str]:
    """The model's own blobs all of whose inferences are to lose them, in the order of their keys."""
    loses = case((and_(UNPROTECTED, INFERENCES.c.created_at < blob_limit), 1), else_=0)
    return (
        select(INFERENCES.c.data_storage_key)
        .where(INFERENCES.c.model_id == model_id, VISIBLE, INFERENCES.c.bulk_inference_job_id.is_(None))
        .where(INFERENCES.c.data_storage_key.is_not(None))
        .group_by(INFERENCES.c.data_storage_key)
        .having(func.min(loses) == 1)
        .order_by(INFERENCES.c.data_storage_key)
    )


def boundary(model_id: str, after: tuple[datetime, str], before: datetime, count: int) -> Select[Any]:
    """Where a page of `count` inferences ends that begins behind `after`; none if fewer come before `before`."""
    return (
        select(*ORDER)
        .where(INFERENCES.c.model_id == model_id, tuple_(*ORDER) > position(after), INFERENCES.c.created_at < before)
        .order_by(*ORDER)
        .offset(count - 1)
        .limit(1)
    )


def within(after: tuple[datetime, str], last: tuple[datetime, str] | None, before: datetime) -> ColumnElement[bool]:
    """Inferences behind `after`, up to `last` or, without it, all that come before `before`; protected ones left out.

    One bound at the upper end and no more: SQLite searches its index by one only, and must not take the wrong one.
    """
    end = INFERENCES.c.created_at < before if last is None else tuple_(*ORDER) <= position(last)
    return and_(tuple_(*ORDER) > position(after), end, UNPROTECTED)


def position(at: tuple[datetime, str]) -> Any:
    """A place in the order of inferences, to be compared with `ORDER`."""
    return tuple_(literal(at[0], UtcDateTime()), literal(at[1], INFERENCES.c.inference_id.type))
