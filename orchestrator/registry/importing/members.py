"""What every kind of source yields: files, one after another, each read before the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

#: How much of a file is in memory at a time, in bytes.
CHUNK = 1 << 18


class Member(NamedTuple):
    """A file of the source: a checked path, the size it declares, and its bytes.

    The chunks have to be read to their end before the next member is asked for.
    """

    path: str
    size: int
    chunks: Iterator[bytes]


class Source(Protocol):
    """A folder or an archive."""

    @property
    def total(self) -> int | None:
        """Entries it holds, where that is known beforehand."""
        ...

    @property
    def unordered(self) -> bool:
        """Whether members come in no order, so that datums are ordered by their path."""
        ...

    def members(self) -> Iterator[Member]:
        """The files; raises `BadArchive` at the first that is refused."""
        ...


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of `file`, in chunks."""
    while chunk := file.read(CHUNK):
        yield chunk
