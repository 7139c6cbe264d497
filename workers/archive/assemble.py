"""The last step: pieces are copied one behind the other into the archive, and checked as they pass.

The blob store shows the archive when its last byte is there, and not at all if a piece is not what its writer
recorded. The SHA-256 of the whole cannot be computed in steps that outlive a process, so this is one pass: killed
in it, the next attempt starts it again.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple, Self

import orjson

from orchestrator.inference_store.exports.models import Archive, ArchiveFormat, LargeFile, Piece, Stream
from orchestrator.inference_store.exports.sweep import folder_of
from orchestrator.storage import blobs
from workers.archive import gzips, tars
from workers.archive.checked import PieceDamaged, checked
from workers.archive.describe import ANNOTATIONS, FILES, INFERENCES, MANIFEST, METADATA
from workers.archive.records import Order

#: What a manifest says of itself.
FORMAT = "orchestrator-export"
VERSION = 1
MANIFEST_FILE = "manifest.jsonl"

#: Chunks that wait to be hashed while others are read and written.
AHEAD = 4


class Text(NamedTuple):
    """A file of the archive that is put together of what the pieces say."""

    path: str
    streams: Sequence[Stream]


def assemble(order: Order, expected: int, pieces: Sequence[Piece], *, attempt: int) -> Archive:
    """Write the archive of the pieces, which together hold members 0 to `expected`.

    Raises:
        PieceDamaged: a piece is missing, or is not what was recorded.
    """
    check_complete(pieces, expected)
    key = f"{folder_of(order.task_id)}/archive-{attempt}.tar.gz"
    digest = Digest()
    with digest:
        blobs().put_stream(key, digest.of(_archive(order, pieces, attempt)))
    if blobs().size(key) != digest.size:
        raise PieceDamaged(f"the blob store kept {blobs().size(key)} of {digest.size} bytes of {key}")
    return Archive(key, digest.size, digest.hex)


def check_complete(pieces: Sequence[Piece], expected: int) -> None:
    """Make sure that the pieces follow each other without a gap from 0 to `expected`."""
    position = 0
    for piece in pieces:
        if piece.low != position:
            break
        position = piece.high
    if position != expected:
        raise PieceDamaged(f"the pieces of the archive end at member {position} of {expected}")


def _archive(order: Order, pieces: Sequence[Piece], attempt: int) -> Iterator[bytes]:
    for piece in pieces:
        if FILES in piece.streams:
            yield from checked(piece.streams[FILES])
        for file in piece.large_files:
            yield from checked(file) if file.path is None else _framed(file, file.path)
    listed = []
    for text in texts_of(order, pieces, attempt):
        entry: list[dict[str, Any]] = []
        yield from _text(text, entry.append)
        listed += entry
    yield from _manifest(order, pieces, listed)
    yield from gzips.Stored((tars.END,))


def texts_of(order: Order, pieces: Sequence[Piece], attempt: int) -> list[Text]:
    """The files that the task's format has beside those of its members."""
    names = {INFERENCES: "inferences.jsonl", METADATA: "metadata.jsonl"}
    wanted = [INFERENCES] if order.archive_format is not ArchiveFormat.PARQUET else []
    wanted += [METADATA] if order.metadata else []
    if order.archive_format is ArchiveFormat.DATASET and order.annotations:
        wanted = [ANNOTATIONS, *wanted]
        names[ANNOTATIONS] = "annotations.jsonl"
    texts = [Text(names[name], streams_of(pieces, name)) for name in wanted]
    if order.archive_format is ArchiveFormat.COCO:
        from workers.archive.coco import INSTANCES_FILE, merged  # needs the extra `archives`

        texts.insert(0, Text(INSTANCES_FILE, [merged(order, pieces, attempt)]))
    return texts


def streams_of(pieces: Sequence[Piece], name: str) -> list[Stream]:
    """The pieces' blobs of this name, in order."""
    return [piece.streams[name] for piece in pieces if name in piece.streams]


def _text(text: Text, list_: Callable[[dict[str, Any]], None]) -> Iterator[bytes]:
    """A text as a member; once it is through, `list_` is told of it."""
    size = sum(stream.raw_size for stream in text.streams)
    yield from gzips.Stored((tars.header(text.path, size),))
    digest = hashlib.sha256()
    for stream in text.streams:
        yield from _hashed(checked(stream), digest.update)
    yield from _padding(size)
    list_({"path": text.path, "size": size, "sha256": digest.hexdigest()})


def _manifest(order: Order, pieces: Sequence[Piece], listed: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """The manifest: counts in the first line, then a line for each file."""
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts.update(piece.counts)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "model_id": order.model_id,
        "archive_format": order.archive_format.value,
        "counts": {name: counts[name] for name in ("inferences", "files", "bytes", "without_file", "missing")}
        | {name: counts[name] for name in ("annotated", "with_metadata")},
    }
    lines = [orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in (head, *listed)]
    streams = streams_of(pieces, MANIFEST)
    size = sum(map(len, lines)) + sum(stream.raw_size for stream in streams)
    yield from gzips.Stored((tars.header(MANIFEST_FILE, size),))
    yield gzips.packed(lines)
    for stream in streams:
        yield from checked(stream)
    yield from _padding(size)


def _padding(size: int) -> Iterator[bytes]:
    if size % tars.BLOCK:
        yield from gzips.Stored((tars.padding(size),))


def _framed(file: LargeFile, path: str) -> Iterator[bytes]:
    """A large file as a member.

    Raises:
        PieceDamaged: it is not what was listed.
    """
    member = gzips.Stored(chain((tars.header(path, file.size),), blobs().stream(file.key), (tars.padding(file.size),)))
    yield from member
    if member.crc32 != file.crc32:
        raise PieceDamaged(f"the blob {file.key} is not what was written")


def _hashed(chunks: Iterator[bytes], update: Callable[[bytes], object]) -> Iterator[bytes]:
    """Pass a gzip member on, and tell `update` what is in it."""
    unpacker = zlib.decompressobj(31)
    for chunk in chunks:
        update(unpacker.decompress(chunk))
        yield chunk
    update(unpacker.flush())


class Digest:
    """The SHA-256 and the size of what passes, hashed in a thread of its own while the next chunk is on its way."""

    def __init__(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="digest")
        self._waiting: deque[Future[None]] = deque()

    def of(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the chunks on."""
        for chunk in chunks:
            self.size += len(chunk)
            self._waiting.append(self._thread.submit(self._digest.update, chunk))
            if len(self._waiting) > AHEAD:
                self._waiting.popleft().result()
            yield chunk

    @property
    def hex(self) -> str:
        """The digest, once everything has passed and the block has ended."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
