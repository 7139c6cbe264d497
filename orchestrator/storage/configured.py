"""The blob store that the settings name, one a process."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import InvalidRequest
from orchestrator.settings import Settings, settings
from orchestrator.storage.local import LocalBlobs
from orchestrator.storage.s3 import S3Blobs
from orchestrator.storage.store import Blobs

_stores: dict[tuple[int, str], Blobs] = {}


def blobs() -> Blobs:
    """The configured store, opened at the first call.

    Keyed by process id: the connections and threads behind a bucket do not survive a fork.
    """
    config = settings()
    key = (os.getpid(), config.storage_url)
    if key not in _stores:
        _stores[key] = open_blobs(config)
    return _stores[key]


def open_blobs(config: Settings) -> Blobs:
    """A new store for `config`: a folder (`file:///folder`) or a bucket (`s3://bucket/prefix`)."""
    parts = urlsplit(config.storage_url)
    match parts.scheme:
        case "file" if parts.netloc in ("", "localhost") and parts.path.strip("/"):
            return LocalBlobs(Path(unquote(parts.path)))
        case "s3":
            return S3Blobs(config)
        case _:
            raise InvalidRequest(f"{config.storage_url!r} is no blob store: use file:///folder or s3://bucket/prefix")
