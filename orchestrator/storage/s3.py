"""Blobs in an S3-like bucket, through obstore."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from orchestrator.errors import BlobNotFound, InvalidRequest, SignatureInvalid, Unavailable
from orchestrator.settings import Settings
from orchestrator.storage.keys import check_key
from orchestrator.storage.signing import METHODS, check_lifetime
from orchestrator.storage.store import CHUNK, BlobInfo, Blobs

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import S3Config  # exist for type checkers only

#: Requests of one call that are in flight at a time.
CONCURRENCY = 32
#: Bytes of a part of a blob that comes as a stream. A blob has 10,000 parts at most, so this makes 312 GiB the largest.
PART = 32 << 20
#: Parts that are on their way, and so in memory, at a time.
PARTS = 4
#: Keys that one delete call of S3 takes.
DELETE_PAGE = 1000


class S3Blobs(Blobs):
    """Blobs below a prefix of a bucket."""

    def __init__(self, config: Settings) -> None:
        self.store = _open(config)

    def put(self, key: str, data: bytes) -> None:
        with _failures(key):
            obstore.put(self.store, check_key(key), data)

    def put_stream(self, key: str, chunks: Iterable[bytes]) -> None:
        with _failures(key):
            # Multipart: the object appears at the final call, and not at all when a chunk fails.
            obstore.put(
                self.store, check_key(key), iter(chunks), use_multipart=True, chunk_size=PART, max_concurrency=PARTS
            )

    def put_missing(self, blobs: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(min(CONCURRENCY, max(1, len(blobs)))) as pool:
            for _ in pool.map(self._put_one_missing, blobs.keys(), blobs.values()):
                pass

    def _put_one_missing(self, key: str, data: bytes) -> None:
        try:
            if self.size(key) == len(data):
                return
        except BlobNotFound:
            pass
        self.put(key, data)

    def get(self, key: str) -> bytes:
        with _failures(key):
            return bytes(obstore.get(self.store, check_key(key)).bytes())

    async def get_many(self, keys: Sequence[str]) -> list[bytes]:
        turn = asyncio.Semaphore(CONCURRENCY)
        try:
            async with asyncio.TaskGroup() as group:
                reads = [group.create_task(self._get_in_turn(key, turn)) for key in keys]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures  # the rest was cancelled, or failed likewise
        return [read.result() for read in reads]

    async def _get_in_turn(self, key: str, turn: asyncio.Semaphore) -> bytes:
        async with turn:
            with _failures(key):
                found = await obstore.get_async(self.store, check_key(key))
                return bytes(await found.bytes_async())

    async def get_async(self, key: str) -> bytes:
        with _failures(key):
            found = await obstore.get_async(self.store, check_key(key))
            return bytes(await found.bytes_async())

    def stream(self, key: str, *, start: int = 0) -> Iterator[bytes]:
        with _failures(key):
            found = obstore.get(self.store, check_key(key), options={"range": {"offset": start}} if start else None)
        return self._chunks(found, key, start)

    def _chunks(self, found: GetResult, key: str, at: int) -> Iterator[bytes]:
        """The blob from the byte `at` on; where an answer breaks off that had brought something, the rest is asked for.

        A request may last no longer than the client's timeout, and so brings only part of a large blob.
        """
        size, version = found.meta["size"], found.meta["e_tag"]
        with _failures(key):
            while at < size:
                asked_at = at
                try:
                    for chunk in found.stream(min_chunk_size=CHUNK):
                        at += len(chunk)
                        yield bytes(chunk)
                    return
                except BaseError:
                    if at == asked_at:
                        raise
                found = obstore.get(self.store, key, options={"range": {"offset": at}, "if_match": version})

    def size(self, key: str) -> int:
        with _failures(key):
            return obstore.head(self.store, check_key(key))["size"]

    def delete_many(self, keys: Sequence[str]) -> None:
        checked = [check_key(key) for key in keys]
        for start in range(0, len(checked), DELETE_PAGE):
            with _failures(checked[start]):
                obstore.delete(self.store, checked[start : start + DELETE_PAGE])

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        with _failures(prefix):
            for page in obstore.list(self.store, check_key(prefix) if prefix else None, chunk_size=1000):
                for meta in page:
                    yield BlobInfo(meta["path"], meta["size"])

    def sign(self, key: str, method: str = "GET", expires: timedelta = timedelta(hours=1)) -> str:
        if method not in METHODS:
            raise InvalidRequest(f"cannot sign {method!r}: use one of {', '.join(METHODS)}")
        verb = cast(Literal["GET", "HEAD", "PUT"], method)
        return obstore.sign(self.store, verb, check_key(key), check_lifetime(expires))

    def verify(self, url: str, method: str) -> str:  # noqa: ARG002  no URL is ours to check
        raise SignatureInvalid("URLs of this store are checked by the bucket's server: send the request there")


def _open(config: Settings) -> S3Store:
    parts = urlsplit(config.storage_url)
    if not parts.netloc or parts.query or parts.fragment:
        raise InvalidRequest(f"{config.storage_url!r} is no bucket: use s3://bucket/prefix")
    s3: S3Config = {"region": config.s3_region}
    if config.s3_endpoint:
        s3["endpoint"] = config.s3_endpoint
    # Without keys obstore asks the usual places: AWS_* variables, web identity, instance metadata.
    if config.s3_access_key_id and config.s3_secret_access_key:
        s3["access_key_id"] = config.s3_access_key_id.get_secret_value()
        s3["secret_access_key"] = config.s3_secret_access_key.get_secret_value()
    plain_http = bool(config.s3_endpoint and config.s3_endpoint.startswith("http://"))
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        config=s3,
        client_options={"allow_http": plain_http, "connect_timeout": "5s", "timeout": "60s"},
        retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
    )


@contextmanager
def _failures(key: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise BlobNotFound(f"no blob at {key}") from error
    except BaseError as error:
        raise Unavailable(f"the blob store failed at {key}: {type(error).__name__}; check its URL and keys") from error
