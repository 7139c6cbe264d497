"""Names of blobs: which are allowed, and how content becomes one."""

from __future__ import annotations

import re

from orchestrator.errors import InvalidRequest

#: No segment may start with a dot, so `..` and a store's own hidden folders cannot be named.
_SEGMENT = r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: Bytes; the limit that S3 sets.
LONGEST_KEY = 1024


def check_key(key: str) -> str:
    """Return `key` when every store can hold it under that very name.

    Raises:
        InvalidRequest: it is empty, too long, absolute, climbs, or has unusual characters.
    """
    if len(key) > LONGEST_KEY or not _KEY.fullmatch(key):
        raise InvalidRequest(f"{key[:80]!r} is no blob key: use letters, digits, '.', '_', '=', '-' between slashes")
    return key


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 digest as keys have it: 64 lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None


def content_key(sha256: str, under: str = "") -> str:
    """The key of the content with this hex digest: `sha256/ab/abcdef…`, below `under` if given."""
    if not is_sha256(sha256):
        raise InvalidRequest(f"{sha256[:80]!r} is no SHA-256 digest: give 64 lower-case hex digits")
    key = f"sha256/{sha256[:2]}/{sha256}"
    return check_key(f"{under}/{key}") if under else key
