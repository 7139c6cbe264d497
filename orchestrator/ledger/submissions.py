"""Submissions from a queue that were refused: kept, so that their sender can learn why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.database import db_now, insert_ignoring, reading, storable
from orchestrator.ids import new_id
from orchestrator.ledger.tables import SubmissionRow

#: Characters of a refused message that are kept.
EXCERPT_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refused message and the reason."""

    id: str
    message_id: str | None
    request_id: str | None
    reason: str
    excerpt: str
    created_at: datetime


def reject(session: Session, *, message_id: str | None, request_id: str | None, reason: str, excerpt: str) -> None:
    """Keep a refused message; a second delivery of the same message is kept once."""
    row = {
        "id": new_id(),
        "message_id": message_id,
        "request_id": request_id,
        "reason": storable(reason),
        "excerpt": storable(excerpt)[:EXCERPT_LENGTH],
        "created_at": session.scalar(select(db_now())),
    }
    insert_ignoring(session, SubmissionRow, [row])


def rejections(limit: int = 50) -> list[Rejection]:
    """Refused messages, newest first."""
    with reading() as session:
        rows = session.scalars(select(SubmissionRow).order_by(SubmissionRow.id.desc()).limit(limit))
        return [Rejection(**{name: getattr(row, name) for name in Rejection.__slots__}) for row in rows]
