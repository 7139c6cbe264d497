"""Who writes a snapshot: one import at a time, which must be seen to be alive.

The owner renews a lease. Whoever finds it expired may take the snapshot over to clear it away, and
every write of the old owner checks first that he still is the owner.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import structlog
from sqlalchemy import ColumnElement, CursorResult, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from orchestrator.database import db_now, reading, transact
from orchestrator.errors import Conflict, DatasetNotFound
from orchestrator.ids import new_id
from orchestrator.registry.tables import DatasetRow, SnapshotRow
from orchestrator.settings import settings

log = structlog.get_logger(__name__)


class OwnershipLost(Conflict):
    """The import was silent for longer than its lease, and what it had written was cleared away."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """The right to write to a snapshot that is being imported."""

    snapshot_id: str
    owner: str

    def renew(self, session: Session) -> None:
        """Prolong the lease; every write of the import does so first, in its own transaction.

        Raises:
            OwnershipLost: somebody else owns the snapshot by now, or cleared it away.
        """
        if not _own(session, self, SnapshotRow.import_owner == self.owner):
            raise OwnershipLost(
                f"the import of snapshot {self.snapshot_id} was silent for too long and was cleared away: import again"
            )

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Renew the lease in the background, at a third of its length."""
        stop = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(stop,), name="import-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _renew_until(self, stop: threading.Event) -> None:
        while not stop.wait(settings().lease_seconds / 3):
            try:
                transact(self.renew)
            except OwnershipLost:
                return  # the next write of the import says so
            except SQLAlchemyError as error:
                log.warning("import.heartbeat_failed", snapshot_id=self.snapshot_id, error=type(error).__name__)


def begin(dataset_id: str, name: str) -> Ownership:
    """Write a snapshot that nobody sees yet, and own it.

    Raises:
        DatasetNotFound: no dataset has this id.
        Conflict: the dataset has a snapshot of this name, or one is being imported.
    """
    ownership = Ownership(new_id(), new_id())

    def insert(session: Session) -> None:
        if session.get(DatasetRow, dataset_id) is None:
            raise DatasetNotFound(f"no dataset has the id {dataset_id!r}")
        row = SnapshotRow(id=ownership.snapshot_id, dataset_id=dataset_id, name=name, state="importing")
        row.import_owner = ownership.owner
        row.import_expires_at = db_now(settings().lease)
        session.add(row)

    try:
        transact(insert)
    except IntegrityError as error:
        raise _name_taken(dataset_id, name) from error
    return ownership


def take_over(snapshot_id: str) -> Ownership | None:
    """Own an import whose lease has expired; None when it is alive, gone, or somebody was quicker."""
    ownership = Ownership(snapshot_id, new_id())
    taken = transact(_own, ownership, SnapshotRow.import_expires_at < db_now())
    return ownership if taken else None


def abandoned(limit: int) -> list[str]:
    """Snapshots whose import fell silent, oldest first."""
    silent = select(SnapshotRow.id).where(SnapshotRow.state == "importing", SnapshotRow.import_expires_at < db_now())
    with reading() as session:
        return list(session.scalars(silent.order_by(SnapshotRow.id).limit(limit)))


def _own(session: Session, ownership: Ownership, condition: ColumnElement[bool]) -> bool:
    owned = session.execute(
        update(SnapshotRow)
        .where(SnapshotRow.id == ownership.snapshot_id, SnapshotRow.state == "importing", condition)
        .values(import_owner=ownership.owner, import_expires_at=db_now(settings().lease))
    )
    return cast(CursorResult[Any], owned).rowcount == 1


def _name_taken(dataset_id: str, name: str) -> Conflict:
    taken = select(SnapshotRow).where(SnapshotRow.dataset_id == dataset_id, SnapshotRow.name == name)
    with reading() as session:
        row = session.scalar(taken)
    if row is not None and row.state == "importing":
        return Conflict(
            f"snapshot {name!r} is being imported into this dataset; if that import has died, "
            f"its name is free after {settings().lease_seconds:g} seconds"
        )
    which = f" with id {row.id}" if row else ""
    return Conflict(f"snapshot {name!r} already exists in this dataset{which}: choose another name")
