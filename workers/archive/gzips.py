"""Gzip members that are the same for the same bytes: files are stored as they are, texts are packed.

Gzip members that follow each other are one gzip file, so pieces that different workers wrote need only be copied one
behind the other. What is exported is mostly packed already (JPEG, PNG): level 0, which costs a checksum. The library
spends twenty times as long on level 0, and cuts blocks by how it is fed (`python -m benchmarks.exports` has figures).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

#: No time, no name, no system: nothing that would differ from one run to the next.
HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
#: Bytes of a stored block; the format allows no more.
BLOCK = 0xFFFF
#: Bytes that are put out, or packed, at once.
BATCH = 1 << 20
#: Of texts: a third of the size at six times the speed of the library's default.
LEVEL = 1

_BLOCK_HEAD = struct.Struct("<BHH")
_FULL_BLOCK = _BLOCK_HEAD.pack(0, BLOCK, 0)
_LAST_BLOCK = _BLOCK_HEAD.pack(1, 0, BLOCK)
_TRAILER = struct.Struct("<LL")


class Stored:
    """One gzip member that holds the chunks, one behind the other, unpacked; how they are cut makes no difference."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = chunks
        #: Of what has passed.
        self.size = self.crc32 = 0

    def __iter__(self) -> Iterator[bytes]:
        ready: list[bytes | memoryview] = [HEADER]
        waiting = 0
        for block in self._blocks():
            ready += block
            waiting += BLOCK
            if waiting >= BATCH:
                yield b"".join(ready)
                ready, waiting = [], 0
        yield b"".join((*ready, _LAST_BLOCK, _TRAILER.pack(self.crc32, self.size & 0xFFFF_FFFF)))

    def _blocks(self) -> Iterator[list[bytes | memoryview]]:
        """The blocks, each as its head and parts of the chunks: nothing is copied yet."""
        block: list[bytes | memoryview] = [_FULL_BLOCK]
        room = BLOCK
        for chunk in self.chunks:
            self.crc32 = zlib.crc32(chunk, self.crc32)
            self.size += len(chunk)
            rest: bytes | memoryview = chunk
            while len(rest) >= room:
                block.append(memoryview(rest)[:room])
                yield block
                rest = memoryview(rest)[room:]
                block, room = [_FULL_BLOCK], BLOCK
            if rest:
                block.append(rest)
                room -= len(rest)
        if room < BLOCK:
            block[0] = _BLOCK_HEAD.pack(0, BLOCK - room, room)
            yield block


def packing(texts: Iterable[bytes]) -> Iterator[bytes]:
    """One gzip member that holds the texts, one behind the other, packed."""
    # 31: a gzip header, which the library writes without a time.
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
    waiting: list[bytes] = []
    length = 0
    for text in texts:
        waiting.append(text)
        length += len(text)
        if length >= BATCH:
            yield packer.compress(b"".join(waiting))
            waiting, length = [], 0
    yield packer.compress(b"".join(waiting)) + packer.flush()


def packed(texts: Iterable[bytes]) -> bytes:
    """`packing` at once."""
    return b"".join(packing(texts))


def unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What is in the one gzip member that the chunks make up.

    Raises:
        zlib.error: it is damaged.
    """
    unpacker = zlib.decompressobj(31)
    for chunk in chunks:
        yield unpacker.decompress(chunk)
    yield unpacker.flush()
