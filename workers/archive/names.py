"""The names that files have in an archive: made from an inference's id, but never from what somebody hides in it."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

from orchestrator.registry.importing.content_types import HEAD, content_type

FOLDER = "images"

#: Ids that are names as they are; any other gets a `~`, which these do not have, so no two ids have one name.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_EXTENSION = re.compile(r"\.[a-z0-9]{1,8}")
_BY_TYPE = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "application/x-npy": ".npy",
    "application/json": ".json",
    "text/plain": ".txt",
}
_BY_MAGIC = (
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


def file_name(inference_id: str, extension: str) -> str:
    """The path of an inference's data."""
    return f"{FOLDER}/{_stem(inference_id)}{extension}"


def extension(datum_path: str | None, head: bytes) -> str:
    """The datum's own extension where there is a datum, else what the first bytes say."""
    if datum_path is not None:
        suffix = PurePosixPath(datum_path).suffix.lower()
        if _EXTENSION.fullmatch(suffix):
            return suffix
    for magic, found in _BY_MAGIC:
        if head.startswith(magic):
            return found
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    return _BY_TYPE.get(content_type("", head[:HEAD]), ".bin")


def _stem(inference_id: str) -> str:
    if _PLAIN.fullmatch(inference_id):
        return inference_id
    digest = hashlib.sha256(inference_id.encode()).hexdigest()
    return f"{_UNSAFE.sub('_', inference_id)[:40]}~{digest[:32]}"
