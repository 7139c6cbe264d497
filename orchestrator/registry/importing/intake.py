"""Stores the files of a source as blobs, a batch at a time, each recorded before it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from tempfile import TemporaryFile

from sqlalchemy.orm import Session

from orchestrator.database import exclusive, insert_ignoring, transact
from orchestrator.errors import BadArchive
from orchestrator.registry.importing.content_types import HEAD, content_type
from orchestrator.registry.importing.discard import RECORDING, delete_unreferenced
from orchestrator.registry.importing.members import Member, read_chunks
from orchestrator.registry.importing.ownership import Ownership, OwnershipLost
from orchestrator.registry.importing.spool import Spool, StoredFile
from orchestrator.registry.keys import datum_key
from orchestrator.registry.tables import ImportBlobRow
from orchestrator.storage import blobs

#: Files and bytes that are gathered before they are stored together.
BATCH_FILES = 500
BATCH_BYTES = 8 << 20
#: A file up to this size is held in memory; a larger one goes through a temporary file.
SMALL = 1 << 20

Stored = Callable[[int], None]


class Intake:
    """Takes members in; `stored` is told the number of files so far after each batch."""

    def __init__(self, ownership: Ownership, spool: Spool, stored: Stored) -> None:
        self.ownership = ownership
        self.spool = spool
        self.stored = stored
        self.count = 0
        self.files: dict[str, StoredFile] = {}
        self.contents: dict[str, bytes] = {}
        self.bytes = 0

    def take(self, member: Member) -> None:
        """Read a member to its end, and store it now or with the next batch.

        Raises:
            BadArchive: an earlier member has the same path.
            OwnershipLost: the import was cleared away meanwhile.
        """
        if member.path in self.files or self.spool.has_file(member.path):
            raise BadArchive(f"{member.path} is there twice", member=member.path)
        if member.size > SMALL:
            self._take_large(member)
        else:
            self._take_small(member)
        if len(self.files) >= BATCH_FILES or self.bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store what was gathered."""
        if not self.files:
            return
        keys = sorted({file.storage_key for file in self.files.values()})
        self._record(keys)
        blobs().put_missing(self.contents)
        self._confirm(keys)
        self.spool.add_files(self.files.values())
        self.count += len(self.files)
        self.files, self.contents, self.bytes = {}, {}, 0
        self.stored(self.count)

    def _take_small(self, member: Member) -> None:
        data = b"".join(member.chunks)
        file = _describe(member.path, hashlib.sha256(data).hexdigest(), len(data), data[:HEAD])
        self.files[member.path] = file
        self.contents[file.storage_key] = data
        self.bytes += len(data)

    def _take_large(self, member: Member) -> None:
        self.flush()  # keeps the order of the source
        digest, size, head = hashlib.sha256(), 0, b""
        # On disk first: the key, and so the record of it, is known only at the end.
        with TemporaryFile() as spill:
            for chunk in member.chunks:
                digest.update(chunk)
                size += len(chunk)
                head = head or chunk[:HEAD]
                spill.write(chunk)
            spill.seek(0)
            file = _describe(member.path, digest.hexdigest(), size, head)
            self._record([file.storage_key])
            store = blobs()
            if not (store.exists(file.storage_key) and store.size(file.storage_key) == size):
                store.put_stream(file.storage_key, read_chunks(spill))
        self.files[member.path] = file
        self.flush()

    def _record(self, keys: list[str]) -> None:
        def record(session: Session) -> None:
            self.ownership.renew(session)
            exclusive(session, RECORDING)
            rows = [{"snapshot_id": self.ownership.snapshot_id, "storage_key": key} for key in keys]
            insert_ignoring(session, ImportBlobRow, rows)

        transact(record)

    def _confirm(self, keys: list[str]) -> None:
        try:
            transact(self.ownership.renew)
        except OwnershipLost:
            # Whoever cleared this import away may have done so before these blobs were written.
            transact(delete_unreferenced, keys)
            raise


def _describe(path: str, sha256: str, size: int, head: bytes) -> StoredFile:
    return StoredFile(path, sha256, size, content_type(path, head), datum_key(sha256))
