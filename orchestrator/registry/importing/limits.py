"""How much an import may take in, and the meter that stops a bomb while it unpacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.errors import BadArchive


@dataclass(frozen=True, slots=True)
class Limits:
    """What a source may hold; sizes in bytes, unpacked."""

    entries: int = 5_000_000  #: files and folders
    total_bytes: int = 1 << 40
    file_bytes: int = 5 << 30
    line_bytes: int = 16 << 20  #: of an annotations file; one line is in memory at a time
    ratio: int = 200  #: unpacked to packed, for the whole archive
    free_bytes: int = 256 << 20  #: below this much unpacked, the ratio is not asked: blank images pack well


class Meter:
    """Counts what a source yields, and refuses it at the first byte too many.

    `packed` is the size of the archive, or None where nothing is unpacked.
    """

    def __init__(self, limits: Limits, packed: int | None = None) -> None:
        self.limits = limits
        self.packed = packed
        self.entries = 0
        self.total = 0

    def admit(self, path: str, size: int) -> None:
        """Count one entry whose header declares `size`.

        Raises:
            BadArchive: it is one too many, or declares more than is allowed.
        """
        self.entries += 1
        if self.entries > self.limits.entries:
            raise BadArchive(f"more than {self.limits.entries} files and folders", member=path)
        if not 0 <= size <= self.limits.file_bytes:
            raise BadArchive(f"{path}: {size} bytes; a file may have {self.limits.file_bytes}", member=path)

    def read(self, path: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks on, counting them: what a header declares may be a lie."""
        taken = 0
        for chunk in chunks:
            taken += len(chunk)
            self.total += len(chunk)
            if taken > self.limits.file_bytes:
                raise BadArchive(f"{path}: more than {self.limits.file_bytes} bytes", member=path)
            self.check_total(path)
            yield chunk

    def check_total(self, path: str) -> None:
        """Refuse the source when all that was read so far is too much."""
        if self.total > self.limits.total_bytes:
            raise BadArchive(f"more than {self.limits.total_bytes} bytes in all, at {path}", member=path)
        if self.packed is None or self.total <= self.limits.free_bytes:
            return
        if self.total > self.packed * self.limits.ratio:
            raise BadArchive(f"unpacks to more than {self.limits.ratio} times its size, at {path}", member=path)
