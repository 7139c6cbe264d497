"""Holds: what an upper room still needs of a lower one, which spares it as long as the hold is there.

An export holds the model whose inferences it reads; whoever purges inferences asks first. Placing and asking
take the same lock, so that nothing is purged which somebody was about to hold.
"""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from orchestrator.database import exclusive, insert_ignoring
from orchestrator.ledger.tables import HoldRow


def place(session: Session, subject: str, holder: str) -> None:
    """Let `holder`, most often a job's id, hold `subject` until it releases it; done twice, it is held once.

    What must not be lost is to be read in a later transaction: it is safe only once this one is committed.
    """
    exclusive(session, _lock(subject))
    insert_ignoring(session, HoldRow, [{"subject": subject, "holder": holder}])


def release(session: Session, holder: str) -> None:
    """Let go of whatever `holder` holds."""
    session.execute(delete(HoldRow).where(HoldRow.holder == holder))


def is_held(session: Session, subject: str) -> bool:
    """Whether anybody holds `subject`; nobody else can begin to until this transaction ends."""
    exclusive(session, _lock(subject))
    return session.scalar(select(HoldRow.holder).where(HoldRow.subject == subject).limit(1)) is not None


def _lock(subject: str) -> str:
    return f"hold {subject}"
