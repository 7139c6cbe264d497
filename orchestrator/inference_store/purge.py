"""Deletion: an inference is invisible at once, and gone as soon as nobody needs it.

An export holds the model whose inferences it reads (`ledger.holds`, under `hold_subject`), and may have pinned some
that are deleted meanwhile. Their rows are marked, and purged once the model is free; blobs wait likewise. What is
free goes in the transaction that deletes it. A blob is doomed with the last inference that is seen and names it, and
removed after that is committed: no inference that is seen ever lacks its blob.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Table, and_, case, delete, func, or_, select, update
from sqlalchemy.orm import Session

from orchestrator.database import db_now, fetch_rows, reading, transact
from orchestrator.inference_store import blobs, receipts
from orchestrator.inference_store.blobs import doom_unreferenced, hold_subject
from orchestrator.inference_store.receipts import Action, Cause
from orchestrator.inference_store.tables import InferenceRow
from orchestrator.ledger import holds

INFERENCES = cast(Table, InferenceRow.__table__)

#: Inferences that one transaction deletes for a caller, or purges.
PAGE = 500
#: Seconds that one call may take.
SLICE = 5.0

#: The blob of an inference, if it is the store's own: that of a bulk inference, which has an ordinal, is its dataset's.
#: In a RETURNING clause of SQLite 3.40, IS NULL is false whatever the column holds.
OWN_BLOB = case((func.coalesce(INFERENCES.c.ordinal, -1) < 0, INFERENCES.c.data_storage_key))
#: An inference that somebody may see.
VISIBLE = INFERENCES.c.deleted_at.is_(None)
#: One that is hidden at most, and may yet be gone.
THERE = or_(VISIBLE, INFERENCES.c.deletion == "soft")


@dataclass(frozen=True, slots=True)
class Removed:
    """The ids of the inferences that a transaction deleted, and how many blobs nobody refers to since."""

    ids: list[str]
    blobs: int


def delete_inferences(model_id: str, inference_ids: Sequence[str], action: Action = Action.HARD) -> list[str]:
    """Delete inferences with their metadata and, if nobody else refers to it, their data; protected ones as well.

    What is hidden already is gone with the action `HARD`.

    Returns the ids of those that were there. Killed midway, it has deleted some.
    """
    found: list[str] = []
    for start in range(0, len(inference_ids), PAGE):
        found += transact(_delete_page, model_id, inference_ids[start : start + PAGE], action)
    return found


def _delete_page(session: Session, model_id: str, inference_ids: Sequence[str], action: Action) -> list[str]:
    return remove(session, model_id, INFERENCES.c.inference_id.in_(inference_ids), action, Cause()).ids


def remove(session: Session, model_id: str, which: ColumnElement[bool], action: Action, cause: Cause) -> Removed:
    """Delete those of the model's inferences that `which` is true of, in the caller's transaction; leaves a receipt.

    `which` is asked of each row in the very statement that deletes it, under the row's lock.
    """
    chosen = and_(INFERENCES.c.model_id == model_id, within_reach(action), which)
    match action:
        case Action.BLOB:
            found = _strip(session, chosen)
        case Action.HARD if not holds.is_held(session, hold_subject(model_id)):
            found = _returned(session, delete(INFERENCES).where(chosen))
        case _:
            mark = (
                update(INFERENCES)
                .where(chosen)
                .values(deleted_at=func.coalesce(INFERENCES.c.deleted_at, db_now()), deletion=action.value)
            )
            found = _returned(session, mark)
    ids = [inference_id for inference_id, _ in found]
    doomed = doom_unreferenced(session, {key for _, key in found if key is not None})
    receipts.leave(session, model_id, cause, action, ids, doomed)
    return Removed(ids, doomed)


def within_reach(action: Action) -> ColumnElement[bool]:
    """Inferences that the action does something to: those that are hidden can only be gone."""
    return THERE if action is Action.HARD else VISIBLE


def _returned(session: Session, statement: Any) -> list[tuple[str, str | None]]:
    """The ids of the inferences that the statement changes, each with the key of its own blob, if it has one."""
    found = fetch_rows(session, statement.returning(INFERENCES.c.inference_id, OWN_BLOB))
    return cast(list[tuple[str, str | None]], found)


def _strip(session: Session, chosen: ColumnElement[bool]) -> list[tuple[str, str | None]]:
    """Take the blobs of inferences away; returns as `_returned`."""
    chosen = and_(chosen, INFERENCES.c.data_storage_key.is_not(None))
    # The lock comes first, because an UPDATE returns what a column has become.
    found = fetch_rows(session, select(INFERENCES.c.inference_id, OWN_BLOB).where(chosen).with_for_update())
    session.connection().execute(update(INFERENCES).where(chosen).values(data_storage_key=None, updated_at=db_now()))
    return cast(list[tuple[str, str | None]], found)


def purge(seconds: float = SLICE) -> int:
    """Remove marked inferences of models that nobody holds any more, for so long at most; returns how many."""
    deadline = time.monotonic() + seconds
    purged = 0
    for model_id in _models_to_purge():
        while time.monotonic() < deadline:
            count = transact(_purge_page, model_id)
            purged += count
            if count < PAGE:
                break
    return purged


def remove_blobs(model_id: str | None = None, seconds: float = SLICE) -> bool:
    """Remove doomed blobs, of one model or of all, for so long at most; say whether none is left that can be removed.

    Raises:
        Unavailable: the blob store fails; nothing is lost, the next call goes on.
    """
    deadline = time.monotonic() + seconds
    while blobs.delete_doomed(model_id=model_id):
        if time.monotonic() > deadline:
            return False
    return True


def _models_to_purge() -> Sequence[str]:
    with reading() as session:
        return session.scalars(select(INFERENCES.c.model_id).where(INFERENCES.c.deletion == "hard").distinct()).all()


def _purge_page(session: Session, model_id: str) -> int:
    if holds.is_held(session, hold_subject(model_id)):
        return 0
    marked = select(INFERENCES.c.inference_id).where(INFERENCES.c.model_id == model_id, INFERENCES.c.deletion == "hard")
    page = marked.order_by(INFERENCES.c.inference_id).limit(PAGE).scalar_subquery()
    chosen = and_(INFERENCES.c.model_id == model_id, INFERENCES.c.inference_id.in_(page))
    return _count(session, delete(INFERENCES).where(chosen, INFERENCES.c.deletion == "hard"))


def _count(session: Session, statement: Any) -> int:
    return cast(CursorResult[Any], session.connection().execute(statement)).rowcount
