"""Clears away an import that did not finish: its rows, and the blobs that nobody else refers to.

The order is what makes it safe against other imports at work: an import records a blob before it
writes it or relies on it, and here recording is shut out while blobs are looked up and deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select
from sqlalchemy.orm import Session

from orchestrator.database import exclusive, transact
from orchestrator.registry.importing.ownership import Ownership, abandoned, take_over
from orchestrator.registry.tables import DatumRow, ImportBlobRow, SnapshotRow
from orchestrator.storage import blobs

#: Held while blobs are recorded, and while unrecorded ones are looked up and deleted.
RECORDING = "import_blobs"
#: Rows and blobs that one transaction clears away: others wait for it.
BATCH = 500


def sweep_unfinished_imports(*, limit: int = 100) -> int:
    """Clear away up to `limit` imports whose process died; return how many. Live ones are left alone."""
    swept = 0
    for snapshot_id in abandoned(limit):
        ownership = take_over(snapshot_id)
        if ownership:
            discard(ownership)
            swept += 1
    blobs().remove_partial()
    return swept


def discard(ownership: Ownership) -> None:
    """Remove everything that the import wrote; may be run again where it was interrupted.

    Raises:
        OwnershipLost: somebody else is at it.
    """
    while transact(_discard_datums, ownership):
        pass
    while transact(_discard_blobs, ownership):
        pass
    transact(_discard_snapshot, ownership)


def delete_unreferenced(session: Session, keys: Sequence[str]) -> None:
    """Delete those blobs of imports that no snapshot refers to and no import has recorded.

    The transaction shuts out every import from recording blobs until it ends.
    """
    exclusive(session, RECORDING)
    # In this order: an import that finishes in between has its datums before its records go.
    used = set(session.scalars(select(ImportBlobRow.storage_key).where(ImportBlobRow.storage_key.in_(keys))))
    used |= set(session.scalars(select(DatumRow.storage_key).where(DatumRow.storage_key.in_(keys))))
    blobs().delete_many([key for key in keys if key not in used])


def _discard_datums(session: Session, ownership: Ownership) -> bool:
    ownership.renew(session)
    some = select(DatumRow.id).where(DatumRow.snapshot_id == ownership.snapshot_id).limit(BATCH)
    outcome = session.execute(delete(DatumRow).where(DatumRow.id.in_(some)))
    return cast(CursorResult[Any], outcome).rowcount > 0


def _discard_blobs(session: Session, ownership: Ownership) -> bool:
    ownership.renew(session)
    own = ImportBlobRow.snapshot_id == ownership.snapshot_id
    keys = list(session.scalars(select(ImportBlobRow.storage_key).where(own).limit(BATCH)))
    session.execute(delete(ImportBlobRow).where(own, ImportBlobRow.storage_key.in_(keys)))
    if keys:
        delete_unreferenced(session, keys)
    return bool(keys)


def _discard_snapshot(session: Session, ownership: Ownership) -> None:
    ownership.renew(session)
    session.execute(delete(SnapshotRow).where(SnapshotRow.id == ownership.snapshot_id))
