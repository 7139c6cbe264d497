"""Files of checkpoints between a trainer's open files and the blob store, a piece in memory at a time."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from orchestrator.errors import ApiException, BlobNotFound
from orchestrator.storage import blobs
from orchestrator.training_v2 import intake
from orchestrator.training_v2.checkpoint import find_checkpoint, latest_checkpoint
from orchestrator.training_v2.checkpoint_files import CheckpointDraft, CheckpointFile
from orchestrator.training_v2.downloads import StoredFile, files_of
from orchestrator.training_v2.exceptions import CheckpointDoesNotExistError, ValidationError
from orchestrator.training_v2.runner import wire
from workers.runtimes.reports.outlasting import Outlasting

#: Bytes of a file that are in memory at a time.
PIECE = 1 << 20


class Draft:
    """A checkpoint that is being written, and the files of it that are stored."""

    def __init__(self, draft: CheckpointDraft) -> None:
        self.draft = draft
        self._lock = threading.Lock()
        self._files: list[CheckpointFile | None] = []

    def reserve(self) -> int:
        """The number of a file that comes next."""
        with self._lock:
            self._files.append(None)
            return len(self._files) - 1

    def stored(self, number: int, file: CheckpointFile) -> None:
        self._files[number] = file

    def files(self) -> list[CheckpointFile]:
        """All files.

        Raises:
            ValidationError: one of them could not be stored, or is still on its way.
        """
        files = [file for file in self._files if file is not None]
        if len(files) < len(self._files):
            raise ValidationError(f"{len(self._files) - len(files)} files of checkpoint {self.draft.id} are not stored")
        return files


class Checkpoints:
    """What a trainer may do with checkpoints; every method waits until it is done."""

    def __init__(self, run_id: str, launch: int, outlasting: Outlasting) -> None:
        self._run_id = run_id
        self._launch = launch
        self._until_done = outlasting.until_done
        self._drafts: dict[str, Draft] = {}
        self._found: dict[str, list[StoredFile]] = {}

    def begin(self, global_step: int) -> wire.Begun:
        draft = self._until_done(intake.begin_checkpoint, self._run_id, self._launch, global_step)
        self._drafts[draft.id] = Draft(draft)
        return wire.Begun(draft.id)

    def keep(self, checkpoint_id: str, path: str, descriptor: int) -> None:
        """Store a file; `descriptor` is read from its start, and stays open."""
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValidationError(f"{path!r:.200} is no file: checkpoints are made of files")
        draft = self._draft(checkpoint_id)
        number = draft.reserve()
        draft.stored(number, self._until_done(store, draft.draft.key(number), path, descriptor))

    def complete(self, checkpoint_id: str) -> None:
        files = self._draft(checkpoint_id).files()
        self._until_done(intake.complete_checkpoint, self._run_id, self._launch, checkpoint_id, files)
        self._drafts.pop(checkpoint_id, None)

    def discard(self, checkpoint_id: str) -> None:
        self._until_done(intake.discard_checkpoint, self._run_id, self._launch, checkpoint_id)
        self._drafts.pop(checkpoint_id, None)

    def find(self, checkpoint_id: str | None) -> wire.Found:
        """What is in a complete checkpoint, or in the run's latest."""
        return self._until_done(self._find, checkpoint_id)

    def fill(self, checkpoint_id: str, number: int, descriptor: int) -> None:
        """Write a file of a checkpoint that was found to `descriptor`, which stays open."""
        files = self._found.get(checkpoint_id, [])
        if not 0 <= number < len(files):
            raise ValidationError(f"checkpoint {checkpoint_id!r:.80} has no file {number}: find it first")
        try:
            self._until_done(load, files[number], descriptor)
        except BlobNotFound as error:
            raise CheckpointDoesNotExistError(checkpoint_id) from error

    def _find(self, checkpoint_id: str | None) -> wire.Found:
        checkpoint = latest_checkpoint(self._run_id) if checkpoint_id is None else find_checkpoint(checkpoint_id)
        if checkpoint is None or checkpoint.id is None or checkpoint.global_step is None:
            raise CheckpointDoesNotExistError(f"latest of run {self._run_id}")
        files = self._found[checkpoint.id] = files_of(checkpoint.id)
        return wire.Found(checkpoint.id, checkpoint.global_step, [file.path for file in files])

    def _draft(self, checkpoint_id: str) -> Draft:
        try:
            return self._drafts[checkpoint_id]
        except KeyError:
            raise CheckpointDoesNotExistError(checkpoint_id) from None


def store(key: str, path: str, descriptor: int) -> CheckpointFile:
    """Put an open file into the blob store."""
    digest, size = hashlib.sha256(), 0

    def pieces(file: BinaryIO) -> Iterator[bytes]:
        nonlocal size
        while piece := file.read(PIECE):
            digest.update(piece)
            size += len(piece)
            yield piece

    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        blobs().put_stream(key, pieces(file))
    return CheckpointFile(path, size, digest.hexdigest())


def load(file: StoredFile, descriptor: int) -> None:
    """Write a file to an open one.

    Raises:
        ApiException: it is not as it was stored, or cannot be written.
    """
    digest = hashlib.sha256()
    with _written_for_the_trainer(file):
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.ftruncate(descriptor, 0)
    for piece in blobs().stream(file.key):
        digest.update(piece)
        rest = memoryview(piece)
        with _written_for_the_trainer(file):
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    if digest.hexdigest() != file.sha256:
        raise ApiException(f"the blob {file.key} is not what was stored as {file.path}: the blob store lost something")


@contextmanager
def _written_for_the_trainer(file: StoredFile) -> Iterator[None]:
    """It is the trainer's disk that is full, and not the blob store that is away: nothing to be waited for."""
    try:
        yield
    except OSError as error:
        raise ApiException(f"{file.path} cannot be written into the trainer's folder: {error.strerror}") from error
