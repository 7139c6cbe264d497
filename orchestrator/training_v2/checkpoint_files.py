"""Checkpoints as rows and blobs: begun, completed or discarded by a launch; kept by policy; and removed in two steps.

A checkpoint that is to go is first marked, from when nobody sees it; then its blobs are deleted, and its
row last. Killed in between, whoever sweeps next goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from orchestrator import ledger
from orchestrator.database import db_now, insert_ignoring, reading, transact
from orchestrator.errors import BadArchive, BlobNotFound, Unavailable
from orchestrator.ids import new_id
from orchestrator.registry.importing.paths import check_path
from orchestrator.storage import blobs
from orchestrator.training_v2.exceptions import CheckpointDoesNotExistError, ValidationError
from orchestrator.training_v2.fence import hold_launch
from orchestrator.training_v2.keeping import superfluous
from orchestrator.training_v2.measured import check_step
from orchestrator.training_v2.tables import CheckpointFileRow, CheckpointRow

log = structlog.get_logger(__name__)

#: Checkpoints that one sweep removes at most.
BATCH = 100
#: Blobs that are deleted in one go.
BLOBS = 1000


class CheckpointFile(NamedTuple):
    """A file of a checkpoint: its path there, its size in bytes, and the hex digest of its SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CheckpointDraft:
    """An incomplete checkpoint, and where its files go."""

    id: str
    prefix: str

    def key(self, number: int) -> str:
        """The blob key of the file with this number: 0, 1, 2 …, in the order in which they are completed."""
        return f"{self.prefix}/{number:06}"


def draft_of(run_id: str, checkpoint_id: str) -> CheckpointDraft:
    """Where the files of a checkpoint are."""
    return CheckpointDraft(checkpoint_id, f"training/{run_id}/{checkpoint_id}")


def subject_of(checkpoint_id: str) -> str:
    """What a hold on a checkpoint names."""
    return f"checkpoint {checkpoint_id}"


def check_files(run_id: str, checkpoint_id: str, files: Sequence[CheckpointFile]) -> None:
    """Make sure that a checkpoint's files can be written to a folder, and are stored.

    Raises:
        ValidationError: a path is wrong or occurs twice, or a file is not stored in its size.
    """
    seen: set[str] = set()
    draft = draft_of(run_id, checkpoint_id)
    for number, file in enumerate(files):
        try:
            plain = check_path(file.path) == file.path
        except BadArchive as error:
            raise ValidationError(f"checkpoint file: {error}") from error
        if not plain or file.path in seen:
            raise ValidationError(f"checkpoint file {file.path!r} is named twice, or begins with './'")
        seen.add(file.path)
        try:
            size = blobs().size(draft.key(number))
        except BlobNotFound:
            size = -1
        if size != file.size:
            raise ValidationError(
                f"checkpoint file {file.path!r}: {file.size} bytes at {draft.key(number)} were expected"
            )


def begin(session: Session, run_id: str, launch: int, global_step: int) -> CheckpointDraft:
    """Write an incomplete checkpoint."""
    hold_launch(session, run_id, launch)
    check_step(global_step)
    draft = draft_of(run_id, new_id())
    session.add(CheckpointRow(id=draft.id, run_id=run_id, launch=launch, global_step=global_step))
    session.flush()
    return draft


def complete(
    session: Session, run_id: str, launch: int, checkpoint_id: str, files: Sequence[CheckpointFile]
) -> list[str]:
    """Make a checkpoint complete; returns those that the run's policy gives up for it."""
    hold_launch(session, run_id, launch)
    row = _own(session, run_id, launch, checkpoint_id)
    if row.status == "complete":
        return []
    rows = [{"checkpoint_id": row.id, "number": number, **file._asdict()} for number, file in enumerate(files)]
    insert_ignoring(session, CheckpointFileRow, rows)
    session.execute(
        update(CheckpointRow).where(CheckpointRow.id == row.id).values(status="complete", status_updated_at=db_now()),
        execution_options={"synchronize_session": False},
    )
    doomed = superfluous(session, run_id)
    return doom(session, doomed)


def discard(session: Session, run_id: str, launch: int, checkpoint_id: str) -> list[str]:
    """Give up an incomplete checkpoint."""
    hold_launch(session, run_id, launch)
    mine = CheckpointRow.run_id == run_id, CheckpointRow.launch == launch, CheckpointRow.status == "incomplete"
    found = session.scalars(select(CheckpointRow.id).where(CheckpointRow.id == checkpoint_id, *mine)).all()
    return doom(session, found)


def doom(session: Session, checkpoint_ids: Iterable[str]) -> list[str]:
    """Let nobody see the checkpoints any more, except those that somebody holds; returns which are to be removed."""
    free = [each for each in checkpoint_ids if not ledger.holds.is_held(session, subject_of(each))]
    session.execute(
        update(CheckpointRow)
        .where(CheckpointRow.id.in_(free), CheckpointRow.deleted_at.is_(None))
        .values(deleted_at=db_now()),
        execution_options={"synchronize_session": False},
    )
    return free


def purge_soon(checkpoint_ids: Iterable[str]) -> int:
    """Remove doomed checkpoints, and leave those to the next sweep that the blob store keeps; returns how many went."""
    gone = 0
    for checkpoint_id in checkpoint_ids:
        try:
            purge(checkpoint_id)
        except Unavailable as error:
            log.warning("checkpoint_not_purged", checkpoint=checkpoint_id, error=error.body)
        else:
            gone += 1
    return gone


def sweep_doomed(*, limit: int = BATCH) -> int:
    """Remove checkpoints that were given up; returns how many."""
    doomed = select(CheckpointRow.id).where(CheckpointRow.deleted_at.is_not(None)).order_by(CheckpointRow.id)
    with reading() as session:
        found = session.scalars(doomed.limit(limit)).all()
    return purge_soon(found)


def purge(checkpoint_id: str) -> None:
    """Delete a doomed checkpoint's blobs, then its rows; done again, or of one that is not doomed, nothing."""
    with reading() as session:
        row = session.get(CheckpointRow, checkpoint_id)
    if row is None or row.deleted_at is None:
        return
    delete_blobs(draft_of(row.run_id, row.id).prefix)
    transact(_forget, checkpoint_id)


def delete_blobs(prefix: str) -> None:
    """Delete every blob below a prefix."""
    keys = [info.key for info in blobs().list(prefix)]
    for start in range(0, len(keys), BLOBS):
        blobs().delete_many(keys[start : start + BLOBS])


def _forget(session: Session, checkpoint_id: str) -> None:
    session.execute(delete(CheckpointFileRow).where(CheckpointFileRow.checkpoint_id == checkpoint_id))
    session.execute(delete(CheckpointRow).where(CheckpointRow.id == checkpoint_id))


def _own(session: Session, run_id: str, launch: int, checkpoint_id: str) -> CheckpointRow:
    row = session.get(CheckpointRow, checkpoint_id)
    if row is None or row.deleted_at is not None or (row.run_id, row.launch) != (run_id, launch):
        raise CheckpointDoesNotExistError(checkpoint_id)
    return row
