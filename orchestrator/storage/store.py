"""What every blob store can do; folder and bucket differ only below this line."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from orchestrator.errors import BlobNotFound
from orchestrator.storage.keys import content_key

#: How much of a large blob is in memory at a time, in bytes.
CHUNK = 1 << 20


class BlobInfo(NamedTuple):
    """A blob as a listing shows it; `size` in bytes."""

    key: str
    size: int


class Blobs(ABC):
    """Bytes under keys. A blob appears whole or not at all, and a second put replaces the first.

    Every method raises `InvalidRequest` for a malformed key and `Unavailable` when the store fails.
    """

    #: Whether to read a blob costs no more than to read a file.
    is_local = False

    def put_content(self, data: bytes, *, under: str = "") -> str:
        """Store `data` under the name of its SHA-256 and return the key; storing it twice is one blob.

        Whoever deletes blobs needs to know everyone who refers to them: give rooms that delete
        independently of each other a folder each with `under`.
        """
        key = content_key(hashlib.sha256(data).hexdigest(), under)
        self.put_missing({key: data})
        return key

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Store `data` at `key`."""

    @abstractmethod
    def put_stream(self, key: str, chunks: Iterable[bytes]) -> None:
        """Store the chunks, one after another, as one blob; an error in the iterable stores nothing."""

    @abstractmethod
    def put_missing(self, blobs: Mapping[str, bytes]) -> None:
        """Store those that are not there yet in the same size: for content-addressed keys."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The whole blob.

        Raises:
            BlobNotFound: nothing is stored at `key`.
        """

    async def get_async(self, key: str) -> bytes:
        """As `get`, without holding up the event loop."""
        return (await self.get_many([key]))[0]

    @abstractmethod
    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        """The blobs in the order of `keys`: the fast way to read many small ones."""

    def get_together(self, keys: Sequence[str]) -> list[bytes]:
        """`get_many` for whoever has no event loop."""
        return asyncio.run(self.get_many(keys)) if keys else []

    @abstractmethod
    def stream(self, key: str, *, start: int = 0) -> Iterator[bytes]:
        """The blob, from the byte `start` on, in chunks of about `CHUNK` bytes; a missing blob raises before the first.

        `start` lies within the blob.
        """

    @abstractmethod
    def size(self, key: str) -> int:
        """Its size in bytes.

        Raises:
            BlobNotFound: nothing is stored at `key`.
        """

    def exists(self, key: str) -> bool:
        """Whether something is stored at `key`."""
        try:
            self.size(key)
        except BlobNotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove the blob; to remove what is not there is no error."""
        self.delete_many([key])

    @abstractmethod
    def delete_many(self, keys: Sequence[str]) -> None:
        """Remove the blobs; those that are not there are passed over."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """The blobs in the folder `prefix`, in no set order, a page in memory at a time."""

    @abstractmethod
    def sign(self, key: str, method: str = "GET", expires: timedelta = timedelta(hours=1)) -> str:
        """A URL that lets its bearer do `method` (GET, HEAD or PUT) on the blob until it expires.

        It is a secret: never store or log it, mint it when it is asked for.
        """

    @abstractmethod
    def verify(self, url: str, method: str) -> str:
        """The key that a URL of `sign` allows `method` on.

        Raises:
            SignatureInvalid: altered, expired, for another method, or not one of ours to check.
        """

    def was_used(self) -> bool:
        """Whether anything was ever stored here; where that is known to be so, no means that the store is away."""
        return True

    def remove_partial(self, older_than: timedelta = timedelta(days=1)) -> int:  # noqa: ARG002  stores differ
        """Remove what killed writers left half-written; return how many. Buckets do so by lifecycle rule."""
        return 0
