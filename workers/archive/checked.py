"""Blobs that pieces are made of, read as they were written or not at all."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from orchestrator.errors import OrchestratorError
from orchestrator.inference_store.exports.models import LargeFile, Stream
from orchestrator.storage import blobs


class PieceDamaged(OrchestratorError):
    """A piece is not what its writer recorded: the blob store lost or changed some of it."""


def checked(stream: Stream | LargeFile) -> Iterator[bytes]:
    """A blob as it is.

    Raises:
        PieceDamaged: it is not as it was written; what was read of it by then has passed.
    """
    size = crc = 0
    for chunk in blobs().stream(stream.key):
        size += len(chunk)
        crc = zlib.crc32(chunk, crc)
        yield chunk
    if (size, crc) != (stream.size, stream.crc32):
        raise PieceDamaged(f"the blob {stream.key} is not what was written")
