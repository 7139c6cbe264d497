"""Receipts: what was deleted, by whom and when, for those who must be able to show it later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from orchestrator.database import db_now, reading
from orchestrator.ids import new_id
from orchestrator.inference_store.register import models_of
from orchestrator.inference_store.tables import ReceiptRow
from orchestrator.inference_store.texts import checked_limit


class Action(StrEnum):
    """What became of the inferences of a receipt."""

    SOFT = "soft"  #: nobody sees them any more; their rows are kept
    HARD = "hard"  #: they are gone
    BLOB = "blob"  #: they stay, without the data that was inferred upon


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something was deleted: a retention task and its policy, or, by default, a caller."""

    task_id: str | None = None
    policy_id: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one transaction deleted.

    `count` inferences, whose ids run from `first_id` to `last_id` (byte by byte) and have the digest `sha256`;
    `blob_count` blobs left the store with them. `task_id` and `policy_id` are None where a caller deleted.
    """

    id: str
    model_id: str
    task_id: str | None
    policy_id: str | None
    action: str
    count: int
    blob_count: int
    first_id: str
    last_id: str
    sha256: str
    created_at: datetime


def leave(
    session: Session, model_id: str, cause: Cause, action: Action, inference_ids: Iterable[str], blob_count: int
) -> None:
    """Write the receipt of the caller's transaction; none for nothing."""
    ids = sorted(inference_ids)
    if not ids:
        return
    session.add(
        ReceiptRow(
            id=new_id(),
            model_id=model_id,
            task_id=cause.task_id,
            policy_id=cause.policy_id,
            action=action,
            count=len(ids),
            blob_count=blob_count,
            first_id=ids[0],
            last_id=ids[-1],
            sha256=digest(ids),
            created_at=session.scalar(select(db_now())),
        )
    )
    session.flush()


def digest(sorted_ids: Iterable[str]) -> str:
    """SHA-256 of the ids, each with a line feed behind it: what a receipt says of them."""
    return hashlib.sha256("".join(f"{inference_id}\n" for inference_id in sorted_ids).encode()).hexdigest()


def list_receipts(
    *,
    model_id: str | None = None,
    project_id: str | None = None,
    task_id: str | None = None,
    after: str = "",
    limit: int = 50,
) -> list[Receipt]:
    """Receipts in the order in which they were left, from the one behind `after` (an id) on.

    Raises:
        InvalidRequest: `limit` is negative, or larger than any list.
    """
    page = select(ReceiptRow).order_by(ReceiptRow.id).limit(checked_limit(limit))
    chosen: Select[ReceiptRow] = page.where(ReceiptRow.id > after)
    if model_id is not None:
        chosen = chosen.where(ReceiptRow.model_id == model_id)
    if project_id is not None:
        chosen = chosen.where(ReceiptRow.model_id.in_(models_of(project_id)))
    if task_id is not None:
        chosen = chosen.where(ReceiptRow.task_id == task_id)
    with reading() as session:
        rows = session.scalars(chosen).all()
    return [Receipt(**{name: getattr(row, name) for name in Receipt.__slots__}) for row in rows]
