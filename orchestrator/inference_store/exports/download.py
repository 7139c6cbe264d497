"""Downloading an archive: what is there already is kept, and the file takes its name when its digest is right."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import Conflict, Unavailable
from orchestrator.inference_store.exports.models import Archive
from orchestrator.storage import blobs
from orchestrator.storage.store import CHUNK

#: Is told how many bytes are here.
Progress = Callable[[int], None]


def download(archive: Archive, target: Path, progress: Progress | None = None) -> None:
    """Copy the archive to `target`, going on where an earlier download was cut off.

    Until it is whole and verified it is called `<target>.<first digits of its digest>.part`.

    Raises:
        Conflict: there is another file at `target`, or somebody else downloads the archive to it.
        Unavailable: the blob store does not answer, or what came is not the archive; ask again.
    """
    if target.exists():
        if _digest(target) == archive.sha256:
            return
        raise Conflict(f"{target} is there and is another file: name another one, or remove it")
    partial = target.with_name(f"{target.name}.{archive.sha256[:12]}.part")
    with partial.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"{partial} is being written by another download") from error
        if _fetch(archive, file, progress or (lambda _: None)) != archive.sha256:
            partial.unlink()
            raise Unavailable(f"what came is not the archive, whose SHA-256 is {archive.sha256}: download it again")
        os.fsync(file.fileno())
        partial.rename(target)


def _fetch(archive: Archive, file: BinaryIO, progress: Progress) -> str:
    """Write what is missing; returns the digest of all."""
    digest = hashlib.sha256()
    if file.seek(0, os.SEEK_END) > archive.size:
        file.truncate(0)
    file.seek(0)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    here = file.tell()
    progress(here)
    if here < archive.size:
        for chunk in blobs().stream(archive.key, start=here):
            file.write(chunk)
            digest.update(chunk)
            here += len(chunk)
            progress(here)
    file.flush()
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
