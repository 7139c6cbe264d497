"""The feed: a unit's datums read ahead of the requests, in batches, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from orchestrator.bulk_inference.record import FailedResult
from orchestrator.errors import BlobNotFound
from orchestrator.storage import Blobs
from workers.inference.bisect import Item
from workers.inference.failures import FailureClass

#: Bytes that are read in one go, and that may wait for a request: enough to hide a disk, too little to fill memory.
GROUP_BYTES = 16 << 20
#: What a datum counts for at least, so that a group of small ones has no more than 256.
LEAST_WEIGHT = GROUP_BYTES // 256


class Reference(NamedTuple):
    """A datum that is still in storage; `size` in bytes."""

    ordinal: int
    datum_id: str
    sha256: str
    storage_key: str
    size: int


class Feed:
    """Batches of `batch_size` items, handed out one at a time to whoever asks next.

    `pages` are read one at a time, off the event loop. `lost` collects the datums whose blob is gone.
    """

    def __init__(self, blobs: Blobs, pages: Iterable[Sequence[Reference]], batch_size: int) -> None:
        self.blobs = blobs
        self.pages = iter(pages)
        self.batch_size = batch_size
        self.lost: list[FailedResult] = []
        self.is_open = True
        #: Whether somebody closed the feed before all of it was handed out.
        self.was_closed = False
        #: Bounded by weight and not by length: a batch may be one small text or many large images.
        self.queue: asyncio.Queue[tuple[list[Item], int] | None] = asyncio.Queue()
        self.ahead = 0
        self.room = asyncio.Event()
        self.room.set()
        #: The ordinal after the last that was handed out: what lies before it has an outcome, or will.
        self.position = 0

    async def next(self) -> list[Item] | None:
        """The next batch, or None when there is none left or the feed was closed."""
        found = await self.queue.get()
        if found is None:
            self.queue.put_nowait(None)  # for the next who asks
            self.is_open = False
            return None
        batch, weight = found
        self.position = batch[-1].ordinal + 1
        self.ahead -= weight
        if self.ahead < GROUP_BYTES:
            self.room.set()
        return batch

    def close(self) -> None:
        """Hand out nothing more, and let everyone who waits go."""
        if self.is_open:
            self.is_open = False
            self.was_closed = True
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(None)
            self.room.set()

    async def fill(self) -> None:
        """Read ahead until everything is queued or the feed is closed; runs beside the consumers."""
        waiting: list[Item] = []
        while (page := await asyncio.to_thread(next, self.pages, None)) is not None:
            for group in groups(page):
                await self.room.wait()
                if not self.is_open:
                    return
                waiting += await self.read(group)
                whole = len(waiting) - len(waiting) % self.batch_size
                for start in range(0, whole, self.batch_size):
                    self.put(waiting[start : start + self.batch_size])
                del waiting[:whole]
        if waiting:
            self.put(waiting)
        if self.is_open:
            self.queue.put_nowait(None)

    def put(self, batch: list[Item]) -> None:
        """Queue a batch, unless the feed was closed."""
        if self.is_open:
            weight = weight_of(batch)
            self.ahead += weight
            if self.ahead >= GROUP_BYTES:
                self.room.clear()
            self.queue.put_nowait((batch, weight))

    async def read(self, group: Sequence[Reference]) -> list[Item]:
        """The group's items; one by one only when a blob is missing."""
        try:
            data = await self.blobs.get_many([reference.storage_key for reference in group])
        except BlobNotFound:
            if len(group) == 1:
                message = f"its blob {group[0].storage_key} is gone from storage"
                self.lost.append(FailedResult(group[0].ordinal, group[0].datum_id, FailureClass.ITEM, None, message, 0))
                return []
            return [item for reference in group for item in await self.read([reference])]
        return [Item(*reference[:4], content) for reference, content in zip(group, data, strict=True)]


def groups(references: Sequence[Reference]) -> Iterator[list[Reference]]:
    """The references in runs that are read together."""
    group: list[Reference] = []
    weight = 0
    for reference in references:
        added = max(reference.size, LEAST_WEIGHT)
        if group and weight + added > GROUP_BYTES:
            yield group
            group, weight = [], 0
        group.append(reference)
        weight += added
    if group:
        yield group


def weight_of(batch: Sequence[Item]) -> int:
    """What a batch in memory counts for, in bytes."""
    return sum(max(len(item.data), LEAST_WEIGHT) for item in batch)
