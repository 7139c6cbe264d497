"""A piece of an archive: small files together, large ones apart, and a text for each thing there is to say of them."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import chain

import structlog

from orchestrator.errors import BlobNotFound, OrchestratorError
from orchestrator.inference_store.exports.models import LargeFile, Piece, Stream
from orchestrator.inference_store.exports.sweep import folder_of
from orchestrator.registry.importing.content_types import HEAD
from orchestrator.storage import Blobs, blobs
from workers.archive import gzips, tars
from workers.archive.describe import FILES, MANIFEST, Lines, Record
from workers.archive.formats import format_of
from workers.archive.names import extension, file_name
from workers.archive.records import Member, Order, batches, members

log = structlog.get_logger(__name__)

#: A piece ends with the member that makes it so large, in bytes of files and texts: what a kill costs, and what is in
#: memory, at most.
PIECE_BYTES = 32 << 20


class BlobChanged(OrchestratorError):
    """A blob is not what it was a moment ago."""


class PieceWriter:
    """Writes one piece, under names that no other attempt gives."""

    def __init__(self, order: Order, part: int, number: int, attempt: int) -> None:
        self.order = order
        self.part = part
        self.number = number
        self.prefix = f"{folder_of(order.task_id)}/parts/{part:06d}-{number:04d}-{attempt}"
        #: The blobs that this writer has stored.
        self.written: list[str] = []
        self.store: Blobs = blobs()
        self.format = format_of(order)
        self.lines = Lines()
        self.manifest = Lines()
        self.counts: Counter[str] = Counter()
        self.small: list[bytes] = []
        self.large: list[LargeFile] = []
        self.size = 0

    def write(self, low: int, high: int) -> Piece:
        """Write members from `low` on, up to `high` or until the piece is full."""
        position = low + self._take(low, high)
        for table in self.format.tables(self.part, self.number):
            self._add(table.path, table.data)
        streams = {}
        if self.small:
            streams[FILES] = self._put(FILES, gzips.Stored(self.small))
        for name, text in (*self.lines.texts.items(), *self.manifest.texts.items()):
            streams[name] = replace(self._put(name, gzips.packing(text)), raw_size=sum(map(len, text)))
        return Piece(self.part, self.number, low, position, streams, self.large, self.counts)

    def _take(self, low: int, high: int) -> int:
        """Take members in until the piece is full; how many there are."""
        taken = 0
        for batch in batches(members(self.order, low, high)):
            for member, content in zip(batch, self._fetch(batch), strict=True):
                record = self._take_large(member) if member.is_large else self._take_small(member, content)
                self.format.describe(record, self.lines, self.counts)
                taken += 1
                if self.size + self.lines.size >= PIECE_BYTES:
                    self.counts["inferences"] = taken
                    return taken
        self.counts["inferences"] = taken
        return taken

    def _fetch(self, batch: Sequence[Member]) -> Sequence[bytes | None]:
        """What the members' files hold; None for one that has none, or a large one."""
        keys = [None if member.is_large else member.row.storage_key for member in batch]
        try:
            found = iter(self.store.get_together([key for key in keys if key is not None]))
        except BlobNotFound:
            return [key and self._fetch_one(key) for key in keys]
        return [key and next(found) for key in keys]

    def _fetch_one(self, key: str) -> bytes | None:
        """A file of a batch in which one at least is lost."""
        try:
            return self.store.get(key)
        except BlobNotFound:
            return None

    def _take_small(self, member: Member, content: bytes | None) -> Record:
        """A file that is in memory, if there is one."""
        row, metadata, _ = member
        if content is None:
            return self._without_file(member)
        path = file_name(row.inference_id, extension(row.datum_path, content[:HEAD]))
        digest = self._add(path, content)
        self._count(len(content))
        return Record(row, metadata, path, len(content), digest, content)

    def _add(self, path: str, content: bytes) -> str:
        """Add a file, and list it; returns its digest."""
        self.small += (tars.header(path, len(content)), content, tars.padding(len(content)))
        digest = hashlib.sha256(content).hexdigest()
        self._list(path, len(content), digest)
        return digest

    def _take_large(self, member: Member) -> Record:
        """A file that passes through: a gzip member of its own."""
        row, metadata, _ = member
        try:
            size = self.store.size(row.storage_key)
            chunks = self.store.stream(row.storage_key)
        except BlobNotFound:
            return self._without_file(member)
        head = next(chunks, b"")
        path = file_name(row.inference_id, extension(row.datum_path, head[:HEAD]))
        passing = Passing(chain((head,), chunks))
        member_bytes = chain((tars.header(path, size),), passing, (tars.padding(size),))
        if self.store.is_local:
            # Read once more when the archive is put together: that costs less than to write it twice.
            self.large.append(LargeFile(row.storage_key, size, reduce(crc_of, member_bytes, 0), path))
        else:
            stream = self._put(f"file-{len(self.large):04d}", gzips.Stored(member_bytes))
            self.large.append(LargeFile(stream.key, stream.size, stream.crc32, None))
        if passing.size != size:
            raise BlobChanged(f"the blob {row.storage_key} is not as long as it was a moment ago")
        self._list(path, size, passing.digest)
        self._count(size)
        return Record(row, metadata, path, size, passing.digest, head)

    def _without_file(self, member: Member) -> Record:
        self.counts["without_file"] += 1
        if member.row.storage_key is not None:
            log.warning("blob_missing", model=self.order.model_id, inference=member.row.inference_id)
            self.counts["missing"] += 1
        return Record(member.row, member.metadata, None, None, None, b"")

    def _count(self, size: int) -> None:
        self.counts["files"] += 1
        self.counts["bytes"] += size

    def _list(self, path: str, size: int, sha256: str) -> None:
        """Add a file to the manifest, and to what the piece holds."""
        self.size += tars.BLOCK + size
        self.manifest.add(MANIFEST, {"path": path, "size": size, "sha256": sha256})

    def _put(self, name: str, chunks: Iterable[bytes]) -> Stream:
        """Store a blob; what it unpacks to is left for the caller to say."""
        key = f"{self.prefix}.{name}.gz"
        self.written.append(key)
        size = crc = 0

        def counted() -> Iterator[bytes]:
            nonlocal size, crc
            for chunk in chunks:
                size += len(chunk)
                crc = zlib.crc32(chunk, crc)
                yield chunk

        self.store.put_stream(key, counted())
        return Stream(key, size, crc, 0)


class Passing:
    """Chunks that are counted and hashed as they pass."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = chunks
        self.size = 0
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.size += len(chunk)
            self._digest.update(chunk)
            yield chunk

    @property
    def digest(self) -> str:
        """The SHA-256 of what has passed."""
        return self._digest.hexdigest()


def crc_of(crc: int, chunk: bytes) -> int:
    """The checksum that goes on over another chunk."""
    return zlib.crc32(chunk, crc)
