"""The feed: a unit's datums read ahead of the requests, in batches, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from orchestrator.errors import BlobNotFound
from orchestrator.storage import Blobs
from workers.inference.bisect import Failed, Item
from workers.inference.failures import FailureClass

#: Datums and bytes that are read in one go: enough to hide a disk, too little to fill memory.
GROUP_ITEMS = 256
GROUP_BYTES = 16 << 20


class Reference(NamedTuple):
    """A datum that is still in storage; `size` in bytes."""

    ordinal: int
    datum_id: str
    sha256: str
    storage_key: str
    size: int


class Feed:
    """Batches of `batch_size` items, handed out one at a time to whoever asks next.

    `lost` collects the datums whose blob is gone.
    """

    def __init__(self, blobs: Blobs, references: Sequence[Reference], batch_size: int) -> None:
        self.blobs = blobs
        self.references = references
        self.batch_size = batch_size
        self.lost: list[Failed] = []
        self.is_open = True
        #: Whether somebody closed the feed before all of it was handed out.
        self.was_closed = False
        self.queue: asyncio.Queue[list[Item] | None] = asyncio.Queue(max(2, GROUP_ITEMS // batch_size))

    async def next(self) -> list[Item] | None:
        """The next batch, or None when there is none left or the feed was closed."""
        batch = await self.queue.get()
        if batch is None:
            self.queue.put_nowait(None)  # for the next who asks
            self.is_open = False
        return batch if self.is_open else None

    def close(self) -> None:
        """Hand out nothing more, and let everyone who waits go."""
        if self.is_open:
            self.is_open = False
            self.was_closed = True
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(None)

    async def fill(self) -> None:
        """Read ahead until everything is handed out; runs beside the consumers."""
        waiting: list[Item] = []
        for group in groups(self.references):
            waiting += await self.read(group)
            while len(waiting) >= self.batch_size:
                await self.put(waiting[: self.batch_size])
                waiting = waiting[self.batch_size :]
        if waiting:
            await self.put(waiting)
        await self.put(None)

    async def put(self, batch: list[Item] | None) -> None:
        """Queue a batch, unless the feed was closed."""
        if self.is_open:
            await self.queue.put(batch)

    async def read(self, group: Sequence[Reference]) -> list[Item]:
        """The group's items; one by one only when a blob is missing."""
        try:
            data = await self.blobs.get_many([reference.storage_key for reference in group])
        except BlobNotFound:
            if len(group) == 1:
                message = f"its blob {group[0].storage_key} is gone from storage"
                self.lost.append(Failed(Item(*group[0][:4], b""), FailureClass.ITEM, None, message, 0))
                return []
            return [item for reference in group for item in await self.read([reference])]
        return [Item(*reference[:4], content) for reference, content in zip(group, data, strict=True)]


def groups(references: Sequence[Reference]) -> Iterator[list[Reference]]:
    """The references in runs that are read together."""
    remaining = iter(references)
    while run := list(islice(remaining, GROUP_ITEMS)):
        group: list[Reference] = []
        size = 0
        for reference in run:
            if group and size + reference.size > GROUP_BYTES:
                yield group
                group, size = [], 0
            group.append(reference)
            size += reference.size
        yield group
