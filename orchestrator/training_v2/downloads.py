"""Files of complete checkpoints: read as blobs, and written to a folder."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import select

from orchestrator.database import reading, storable
from orchestrator.errors import BlobNotFound, Unavailable
from orchestrator.storage import blobs
from orchestrator.training_v2.checkpoint_files import draft_of
from orchestrator.training_v2.exceptions import CheckpointDoesNotExistError, TrainingConflict, ValidationError
from orchestrator.training_v2.tables import CheckpointFileRow, CheckpointRow


class StoredFile(NamedTuple):
    """A file of a complete checkpoint, and the key of its blob."""

    path: str
    size: int
    sha256: str
    key: str


def files_of(checkpoint_id: str) -> list[StoredFile]:
    """The files of a complete checkpoint, in the order in which they were written.

    Raises:
        CheckpointDoesNotExistError: there is no such checkpoint.
        TrainingConflict: it is incomplete.
    """
    with reading() as session:
        row = session.get(CheckpointRow, storable(checkpoint_id))
        if row is None or row.deleted_at is not None:
            raise CheckpointDoesNotExistError(checkpoint_id)
        if row.status != "complete":
            raise TrainingConflict(f"checkpoint {checkpoint_id} is incomplete: take one that is complete")
        draft = draft_of(row.run_id, row.id)
        files = select(CheckpointFileRow).where(CheckpointFileRow.checkpoint_id == row.id)
        found = session.scalars(files.order_by(CheckpointFileRow.number)).all()
    return [StoredFile(file.path, file.size, file.sha256, draft.key(file.number)) for file in found]


def download(checkpoint_id: str, file_dir: str) -> None:
    """Write a checkpoint's files below a folder; each appears whole or not at all.

    Raises:
        CheckpointDoesNotExistError: there is no such checkpoint, or it was deleted meanwhile.
        TrainingConflict: it is incomplete.
        ValidationError: the folder does not exist, or has a folder where a file is to be, or the reverse.
        Unavailable: a file is not as it was stored.
    """
    folder = Path(file_dir)
    if not folder.is_dir():
        raise ValidationError(f"file_dir: there is no folder {file_dir}: make it first")
    for file in files_of(checkpoint_id):
        try:
            _write(file, folder / file.path)
        except BlobNotFound as error:
            raise CheckpointDoesNotExistError(checkpoint_id) from error


def _write(file: StoredFile, target: Path) -> None:
    # No file of the checkpoint, and none that is there already, has such a name.
    partial = target.with_name(f".{uuid4().hex}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with partial.open("xb") as sink:
            for chunk in blobs().stream(file.key):
                digest.update(chunk)
                sink.write(chunk)
        if digest.hexdigest() != file.sha256:
            raise Unavailable(
                f"the blob {file.key} is not what was stored as {file.path}: the blob store lost something"
            )
        partial.replace(target)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ValidationError(f"file_dir: {target} cannot be written beside what is there: empty the folder") from error
    finally:
        with suppress(OSError):
            partial.unlink()
